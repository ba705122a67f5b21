# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One table of nftables: who may come in, and how a host gets it without locking anybody out.

Rules that nobody has confirmed lie in a file of their own, which is loaded once and by hand; a timer of the host takes
them back. The unit that loads rules when the host boots knows only those that were confirmed.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from ansible_collections.wsgi.fleet.plugins.module_utils._instance import run
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError, write_file

TABLE = ("inet", "wsgi_fleet")
UNIT = "wsgi-fleet-firewall.service"
ROLLBACK = "wsgi-fleet-firewall-rollback"

#: The lines of the file between which the rules stand that say who may come in.
BEGIN, END = "# Who may come in:", "# Nobody else."

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]  # noqa: UP007 -- pylint of ansible-test knows no other

#: Every address of a family.
EVERYBODY: Mapping[int, Network] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
FAMILIES = {4: "ip", 6: "ip6"}

#: A rule as :func:`rules` makes it: from whom, and what.
RULE = re.compile(
    r"(?:(?P<family>ip6?) saddr \{ (?P<sources>[0-9a-f.:/, ]+) \} |meta nfproto ipv(?P<all>[46]) )?"
    r"(?P<rest>(?:(?:tcp|udp) dport [0-9]{1,5}|meta l4proto 112) accept comment \"[A-Za-z0-9_.-]{1,63}\")"
)


def networks(sources: Iterable[str]) -> list[Network]:
    """Return addresses and networks in order, without those that lie in another one."""
    found = sorted({ipaddress.ip_network(source, strict=False) for source in sources}, key=_order)
    wide = [network for network in found if network.prefixlen < network.max_prefixlen]
    return [one for one in found if not any(one != other and _lies_in(one, other) for other in wide)]


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _lies_in(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


def _text(network: Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _lines(rest: str, sources: Sequence[Network]) -> Iterator[str]:
    """Yield the rules that let sources in, one for each family of addresses."""
    if all(network in sources for network in EVERYBODY.values()):
        yield rest
        return
    for version, family in FAMILIES.items():
        own = [network for network in sources if network.version == version]
        if EVERYBODY[version] in own:
            yield f"meta nfproto ipv{version} {rest}"
        elif own:
            yield f"{family} saddr {{ {', '.join(map(_text, own))} }} {rest}"


def rules(services: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the rules that let in who may ask for services.

    :param services: each with ``name``, ``protocol`` (``tcp``, ``udp``, or ``vrrp``, which has no ports), ``port`` and
        ``from``, addresses and networks; without it, everybody. An empty list is nobody.
    """
    found: list[str] = []
    for service in services:
        protocol = service.get("protocol") or "tcp"
        what = "meta l4proto 112" if protocol == "vrrp" else f"{protocol} dport {int(service['port'])}"
        sources = service.get("from")
        given = list(EVERYBODY.values()) if sources is None else networks(map(str, sources))
        found += _lines(f'{what} accept comment "{service["name"]}"', given)
    return list(dict.fromkeys(found))


def _section(text: str) -> tuple[int, int]:
    """Return the first and the last line of the rules in a file, as positions in its lines.

    :raises ReleaseError: when the file has no such section.
    """
    lines = [line.strip() for line in text.splitlines()]
    try:
        return lines.index(BEGIN) + 1, lines.index(END)
    except ValueError as error:
        raise ReleaseError(f"rules: have no lines '{BEGIN}' and '{END}', between which rules are kept") from error


def _read(text: str) -> dict[str, set[Network]]:
    """Return who is let in by a file, by the rest of the rule; what is none of ours is left out."""
    found: dict[str, set[Network]] = {}
    first, end = _section(text)
    for line in text.splitlines()[first:end]:
        match = RULE.fullmatch(line.strip())
        if match is None:
            continue
        if match["family"]:
            with contextlib.suppress(ValueError):
                found.setdefault(match["rest"], set()).update(networks(match["sources"].split(", ")))
        else:
            some = [int(match["all"])] if match["all"] else list(EVERYBODY)
            found.setdefault(match["rest"], set()).update(EVERYBODY[version] for version in some)
    return found


def widen(wanted: str, before: str) -> tuple[str, list[str]]:
    """Add to rules who was let in before, and is not any more.

    :returns: the rules with those that were added, and these alone.
    :raises ReleaseError: when the rules have no section to add to.
    """
    _first, end = _section(wanted)
    try:
        old = _read(before)
    except ReleaseError:
        old = {}
    new = _read(wanted)
    kept: list[str] = []
    for rest, sources in old.items():
        there = new.get(rest, set())
        missing = [
            network
            for network in sorted(sources - there, key=_order)
            if not any(_lies_in(network, other) for other in there)
        ]
        kept += _lines(rest, missing)
    lines = wanted.splitlines(keepends=True)
    indent = " " * (len(lines[end]) - len(lines[end].lstrip()))
    return "".join([*lines[:end], *(f"{indent}{line}\n" for line in kept), *lines[end:]]), kept


def others(chains: str) -> dict[str, bool]:
    """Tell which other firewalls a host has.

    :param chains: what ``nft list chains`` prints.
    :returns: by name (``ufw``, ``firewalld``, ``docker``, or the family and name of a table), whether it drops what
        comes in unless it knows of it.
    """
    found: dict[str, bool] = {}
    table = ""
    for line in chains.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif table == " ".join(TABLE):
            continue
        elif words[:1] == ["chain"] and words[1].startswith(("ufw-", "ufw6-")):
            found["ufw"] = True
        elif words[:1] == ["chain"] and words[1] == "DOCKER":
            found["docker"] = False
        elif words[:1] == ["type"] and "hook input" in line:
            name = "firewalld" if table == "inet firewalld" else table
            found[name] = found.get(name, False) or name == "firewalld" or "policy drop" in line
    return found


def advice(found: Mapping[str, bool]) -> list[str]:
    """Return what an operator should know of other firewalls of a host."""
    told = []
    for name, closed in found.items():
        if name == "docker":
            told.append(
                "Docker is on this host: ports that containers publish are forwarded, and so pass this firewall by. "
                "Publish them at 127.0.0.1, or restrict them in the chain DOCKER-USER."
            )
        elif closed and not (name in ("ip filter", "ip6 filter") and "ufw" in found):
            told.append(
                f"{name} filters what comes in as well, and what it drops stays dropped: let the ports of the fleet in "
                "there too, or switch it off."
            )
    return told


class Firewall:
    """The firewall of a host.

    :param units: texts of files below /etc/systemd/system, by their paths from there; :data:`UNIT` is among them.
    :param root: directory that stands for ``/``.
    :param call: runs a command; see :func:`run`.
    """

    def __init__(self, units: Mapping[str, str], root: Path = Path("/"), call: Callable[..., str] = run) -> None:
        self.file = root / "etc/wsgi.fleet/firewall.nft"
        self.candidate = root / "etc/wsgi.fleet/firewall.unconfirmed.nft"
        self.units = {root / "etc/systemd/system" / name: text for name, text in units.items()}
        self._call = call

    def text(self) -> str:
        """Return the rules that were confirmed, empty when there are none."""
        return _content(self.file)

    def live(self) -> str:
        """Return the table as the kernel has it, empty when it has none."""
        return self._call("nft", "--stateless", "list", "table", *TABLE, check=False)

    def meant(self, path: Path) -> str:
        """Return the table as the kernel has it once a file was loaded, which is tried in a network of its own.

        :raises ReleaseError: when it cannot be loaded.
        """
        script = f'nft --file "$0" && exec nft --stateless list table {" ".join(TABLE)}'
        command = ("unshare", "--net", "sh", "-c", script, str(path))
        try:
            return self._call(*command)
        except ReleaseError as error:
            raise ReleaseError(f"nft refuses the rules: {str(error).removeprefix(' '.join(command) + ': ')}") from error

    def others(self) -> dict[str, bool]:
        """Tell which other firewalls the host has; see :func:`others`."""
        return others(self._call("nft", "list", "chains", check=False))

    def in_place(self, text: str) -> bool:
        """Tell whether the host has the rules, now and after its next boot, and nothing waits to be taken back."""
        if self.text() != text or self.candidate.exists():
            return False
        if any(_content(path) != unit for path, unit in self.units.items()):
            return False
        properties = self._call("systemctl", "show", "--property=ActiveState,UnitFileState", UNIT).split()
        if sorted(properties) != ["ActiveState=active", "UnitFileState=enabled"]:
            return False
        return self.live() == self.meant(self.file)

    def load(self, text: str, seconds: int) -> str:
        """Load rules that have to be confirmed, and have the host take them back after a time.

        :returns: by which they are confirmed.
        :raises ReleaseError: when they cannot be loaded; the old ones are there then.
        """
        write_file(self.candidate, text, 0o644)
        try:
            self.meant(self.candidate)
            self._call("nft", "--check", "--file", str(self.candidate))
            self._disarm()
            # Whatever stands in the way of the old rules, it is better to let all in than to lock all out.
            back = (
                f"{{ test -e {self.file} && nft --file {self.file}; }} || nft delete table {' '.join(TABLE)};"
                f" rm -f {self.candidate}"
            )
            self._call(
                "systemd-run", "--quiet", "--collect", f"--unit={ROLLBACK}", f"--on-active={seconds}s",
                "--timer-property=AccuracySec=100ms", "/bin/sh", "-c", back,
            )  # fmt: skip
            self._call("nft", "--file", str(self.candidate))
        except ReleaseError:
            self.candidate.unlink()
            raise
        return _digest(text)

    def confirm(self, digest: str) -> None:
        """Make the rules that were loaded last those that the host keeps.

        :raises ReleaseError: when they are not there any more.
        """
        self._disarm()
        text = _content(self.candidate)
        if _digest(text) != digest or self.live() != self.meant(self.candidate):
            raise ReleaseError(
                "the rules had been taken back, or changed by somebody else, before they were confirmed: run it again, "
                "and write more of firewall_rollback_after if this host is slow"
            )
        self.candidate.replace(self.file)
        changed = [path for path, unit in self.units.items() if write_file(path, unit, 0o644)]
        if changed:
            self._call("systemctl", "daemon-reload")
        self._call("systemctl", "--quiet", "enable", UNIT)
        # It loads them as it will when the host boots.
        self._call("systemctl", "reload-or-restart", UNIT)

    def remove(self) -> None:
        """Take the table away, for good."""
        self._disarm()
        self._call("systemctl", "--quiet", "disable", "--now", UNIT, check=False)
        self._call("nft", "delete", "table", *TABLE, check=False)
        for path in (self.candidate, self.file, *self.units):
            path.unlink(missing_ok=True)
        self._call("systemctl", "daemon-reload")

    def is_there(self) -> bool:
        """Tell whether anything of it is on the host."""
        return any(path.exists() for path in (self.candidate, self.file, *self.units))

    def _disarm(self) -> None:
        # Without the timer no further service begins. What one that had begun has left is seen by who looks.
        for unit in (f"{ROLLBACK}.timer", f"{ROLLBACK}.service"):
            self._call("systemctl", "--quiet", "stop", unit, check=False)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
