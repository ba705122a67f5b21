# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles need to know of a host, read from the files in which the kernel and the distribution say it."""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

#: State of a listening TCP socket in /proc/net/tcp, proc_pid_net(5).
LISTEN = "0A"

#: Programs that set the clock, the more capable first.
TIME_DAEMONS = {
    "chrony": "usr/sbin/chronyd",
    "ntpsec": "usr/sbin/ntpd",
    "openntpd": "usr/sbin/openntpd",
    "systemd-timesyncd": "usr/lib/systemd/systemd-timesyncd",
}


@dataclass(frozen=True)
class Listener:
    """A TCP socket that accepts connections.

    :param process: name of the process that holds it, empty when it is not to be seen.
    """

    address: str
    port: int
    inode: int
    process: str = ""


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of an os-release(5) file, without their quotes."""
    values = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            values[name] = value.strip("\"'")
    return values


def parse_listeners(table: str) -> Iterator[Listener]:
    """Yield the listening sockets of a table like /proc/net/tcp or /proc/net/tcp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTEN:
            continue
        address, _colon, port = fields[1].partition(":")
        # Words of 32 bits in the order of the machine's own bytes.
        words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
        packed = struct.pack(f"={len(words)}L", *words)
        yield Listener(str(ipaddress.ip_address(packed)), int(port, 16), int(fields[9]))


def parse_memory(text: str) -> int:
    """Return the memory in MiB that /proc/meminfo tells.

    :raises ValueError: when it tells none.
    """
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise ValueError("/proc/meminfo has no MemTotal")


def memory(root: Path) -> int:
    """Return the memory in MiB that processes can have: the machine's, or less under a limit."""
    found = parse_memory((root / "proc/meminfo").read_text())
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(limit) >> 20) if limit.isdigit() else found


def cpus(root: Path) -> int:
    """Return how many processors processes can use: those of this process, or fewer under a quota.

    A quota that is no whole number is rounded up, as half a processor needs a process as well.
    """
    found = len(os.sched_getaffinity(0))
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return found
    return min(found, max(1, -(-int(quota) // int(period)))) if quota.isdigit() else found


def holders(root: Path, inodes: set[int]) -> dict[int, str]:
    """Return the names of the processes that hold sockets, by inode, as far as they are to be seen."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, str] = {}
    for process in (root / "proc").glob("[0-9]*"):
        try:
            for entry in os.scandir(process / "fd"):
                inode = wanted.get(os.readlink(entry.path))
                if inode is not None:
                    found[inode] = (process / "comm").read_text().strip()
        except OSError:
            continue  # It ended meanwhile, or belongs to somebody else.
    return found


def listeners(root: Path) -> list[Listener]:
    """Return the host's listening TCP sockets with the names of their processes."""
    sockets: list[Listener] = []
    for name in ("tcp", "tcp6"):
        try:
            sockets.extend(parse_listeners((root / "proc/net" / name).read_text()))
        except FileNotFoundError:
            continue
    names = holders(root, {socket.inode for socket in sockets})
    return [Listener(s.address, s.port, s.inode, names.get(s.inode, "")) for s in sockets]


def time_daemon(root: Path) -> str:
    """Return the name of the daemon that sets the clock, or an empty text when none is installed."""
    return next((name for name, path in TIME_DAEMONS.items() if (root / path).exists()), "")


def has_ipv6(root: Path) -> bool:
    """Tell whether any interface has an address of IPv6, so that a service may listen on it."""
    try:
        return bool((root / "proc/net/if_inet6").read_text().strip())
    except OSError:
        return False


def apps(root: Path) -> list[str]:
    """Return the applications that have a release in service."""
    return sorted(link.parent.name for link in (root / "srv").glob("*/current") if link.is_symlink() and link.exists())


def host_info(root: Path = Path("/")) -> dict[str, object]:
    """Describe the host.

    :param root: directory that stands for ``/``.
    :returns: what the module's ``RETURN`` documents.
    :raises OSError: when /proc or os-release cannot be read.
    """
    release = parse_os_release((root / "etc/os-release").read_text())
    return {
        "platform": {
            "distribution": release.get("ID", ""),
            "version": release.get("VERSION_ID", ""),
            "codename": release.get("VERSION_CODENAME", ""),
            "architecture": os.uname().machine,
            "python": "{}.{}".format(*sys.version_info[:2]),
            "python_path": sys.executable,
        },
        "cpus": cpus(root),
        "memory_mb": memory(root),
        "ipv6": has_ipv6(root),
        "time_daemon": time_daemon(root),
        "apps": apps(root),
        "listening": [
            {key: value for key, value in asdict(socket).items() if key != "inode"} for socket in listeners(root)
        ],
    }
