# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances of releases: their systemd units, and the gate that each must pass."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import socket
import subprocess  # run_command belongs to a module, and cannot take another account
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    replace_link,
    write_file,
)

MASK = "********"
UNIT_PROPERTIES = "ActiveState,SubState,Result,NRestarts"


def status_range(entry: object) -> tuple[int, int]:
    """Read a status code, or a range of them such as ``200-399``.

    :returns: the first and the last code.
    :raises ReleaseError: for what is neither, or a range that ends before it begins.
    """
    match = re.fullmatch(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", str(entry))
    if match and int(match[2] or match[1]) >= int(match[1]):
        return int(match[1]), int(match[2] or match[1])
    raise ReleaseError(f"'{entry}' is no status code: write one such as 200, or a range such as 200-399")


@dataclass(frozen=True)
class Gate:
    """What an instance must answer before it gets traffic.

    :param path: request target of the health check.
    :param host: value of the ``Host`` header.
    :param status: accepted status codes, single ones or ranges such as ``200-399``.
    :param body: regular expression that the body must contain, or ``None``.
    :param deadline: seconds from the start until the instance must have passed.
    :param interval: seconds between two tries.
    :param warmup: request targets to ask for once it has passed, so that the first visitors do not
        wait for what the app loads at its first request.
    :param warmup_requests: how often each of them is asked for.
    """

    path: str = "/"
    host: str = "localhost"
    status: Sequence[str] = ("200-399",)
    body: str | None = None
    deadline: float = 60.0
    interval: float = 0.25
    warmup: Sequence[str] = ()
    warmup_requests: int = 1

    def __post_init__(self) -> None:
        """Refuse what could not be asked for.

        :raises ReleaseError: for a status or a body that cannot be read.
        """
        try:
            for entry in self.status:
                status_range(entry)
        except ReleaseError as error:
            raise ReleaseError(f"status: {error}") from error
        try:
            re.compile(self.body or "")
        except re.error as error:
            raise ReleaseError(f"body: '{self.body}' is not a regular expression: {error}") from error

    def accepts(self, status: int) -> bool:
        """Tell whether a status code is among the accepted ones."""
        return any(first <= status <= last for first, last in map(status_range, self.status))


@dataclass(frozen=True)
class Answer:
    """One answer to the gate's request, or the reason why there was none."""

    status: int | None = None
    reason: str = ""
    body: str = ""

    def __str__(self) -> str:
        if self.status is None:
            return self.reason
        text = " ".join(self.body.split())
        return f"HTTP {self.status} {self.reason}".rstrip() + (f": {text[:300]}" if text else "")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, gate: Gate, timeout: float) -> Answer:
    """Send the gate's request to a unix socket.

    :param timeout: seconds for the connection and for each read.
    :returns: the answer; failures come back as an ``Answer`` without a status.
    """
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(
            "GET",
            gate.path,
            headers={
                "Host": gate.host,
                "User-Agent": "wsgi.fleet gate",
                "X-Forwarded-For": "127.0.0.1",
                "X-Forwarded-Proto": "https",
                "Connection": "close",
            },
        )
        response = connection.getresponse()
        body = response.read(1 << 20).decode("utf-8", "replace")
        return Answer(response.status, response.reason, body)
    except FileNotFoundError:
        return Answer(reason="nothing listens on the instance's socket yet")
    except (OSError, http.client.HTTPException) as error:
        return Answer(reason=f"no answer: {type(error).__name__}: {error}")
    finally:
        connection.close()


def judge(gate: Gate, answer: Answer) -> bool:
    """Tell whether an answer passes the gate."""
    if answer.status is None or not gate.accepts(answer.status):
        return False
    return gate.body is None or re.search(gate.body, answer.body) is not None


@dataclass(frozen=True)
class UnitState:
    """The part of ``systemctl show`` that the gate looks at."""

    active: str
    sub: str
    result: str
    restarts: int

    @property
    def broken(self) -> bool:
        """Whether the instance died after it was started."""
        return self.active == "failed" or self.sub == "auto-restart" or self.restarts > 0


def parse_unit_state(text: str) -> UnitState:
    """Read what ``systemctl show`` prints of the properties in ``UNIT_PROPERTIES``."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return UnitState(
        active=values.get("ActiveState", "unknown"),
        sub=values.get("SubState", "unknown"),
        result=values.get("Result", "unknown"),
        restarts=int(values.get("NRestarts") or 0),
    )


def secrets_of(environment: Mapping[str, str], public: str) -> set[str]:
    """List the values of an environment that no text may show.

    Passwords inside URLs and strings inside JSON count too. Values below four characters, and
    those that stand in ``public`` anyway (the unit, the app server's configuration), do not:
    hiding them would only make a traceback unreadable.
    """
    found: set[str] = set()

    def add(value: object) -> None:
        if isinstance(value, str):
            found.add(value)
            found.update(match[1] for match in re.finditer(r"://[^/@\s]*:([^@\s]+)@", value))
        elif isinstance(value, dict):
            for item in value.values():
                add(item)
        elif isinstance(value, list):
            for item in value:
                add(item)

    for value in environment.values():
        add(value)
        with contextlib.suppress(ValueError):
            add(json.loads(value))
    return {value for value in found if len(value) >= 4 and value not in public}


def mask(text: str, secrets: Iterable[str]) -> str:
    """Hide values in a text, the longest first."""
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def run(*command: str, check: bool = True) -> str:
    """Run a command and return what it wrote to standard output.

    :raises ReleaseError: with the command and its message, when ``check`` and it failed.
    """
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if check and done.returncode != 0:
        raise ReleaseError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Systemd:
    """The few things that the life cycle asks of systemd."""

    def reload(self) -> None:
        """Make systemd read its unit files again."""
        run("systemctl", "daemon-reload")

    def start(self, unit: str) -> None:
        """Start a unit without waiting for it; an earlier failure is forgotten."""
        run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", "start", "--no-block", unit)

    def start_and_wait(self, *units: str) -> None:
        """Start units and wait until systemd calls them started; an earlier failure is forgotten."""
        if units:
            run("systemctl", "reset-failed", *units, check=False)
            run("systemctl", "start", *units)

    def stop(self, *units: str) -> None:
        """Stop units and wait until they are gone."""
        if units:
            run("systemctl", "stop", *units)
            run("systemctl", "reset-failed", *units, check=False)

    def discard(self, *units: str) -> None:
        """End units that got no request, and so have nothing to finish."""
        if units:
            # As a stop, so that systemd does not start them again.
            run("systemctl", "stop", "--no-block", *units)
            run("systemctl", "kill", "--signal=KILL", *units, check=False)
        self.stop(*units)

    def state(self, unit: str) -> UnitState:
        """Return the state of a unit; an unknown one is inactive."""
        return parse_unit_state(run("systemctl", "show", f"--property={UNIT_PROPERTIES}", unit))

    def main_process(self, unit: str) -> int:
        """Return the process that systemd has started for a unit, 0 while it does not run."""
        return int(run("systemctl", "show", "--property=MainPID", "--value", unit).strip() or 0)

    def active(self, *patterns: str) -> list[str]:
        """List the units that match one of the patterns and run, start or stop at the moment."""
        text = run(
            "systemctl", "list-units", "--plain", "--no-legend", "--full",
            "--state=active,activating,reloading,deactivating", *patterns,
        )  # fmt: skip
        return [line.split()[0] for line in text.splitlines() if line.strip()]

    def journal(self, unit: str, since: float, lines: int = 40) -> str:
        """Return the last lines that a unit logged.

        :param since: seconds since the epoch.
        """
        # What a process said last before it died may not have been written yet.
        run("journalctl", "--sync", check=False)
        return run(
            "journalctl", "--no-pager", "--output=cat", f"--unit={unit}",
            f"--since=@{int(since)}", f"--lines={lines}", check=False,
        ).strip()  # fmt: skip


def install_units(layout: Layout, release: str, unit: str, processes: Mapping[str, str]) -> bool:
    """Write a release's unit files, and let systemd consider its instance at boot.

    :param unit: text of the instance's unit.
    :param processes: texts of the units of further processes, by name and kind.
    :returns: whether anything changed, that is, whether systemd must reload.
    """
    changed = write_file(layout.unit(release), unit, 0o644)
    for name, text in processes.items():
        changed |= write_file(layout.units / layout.process_unit(release, name), text, 0o644)
    return enable(layout, layout.unit_name(release)) or changed


def enable(layout: Layout, unit: str) -> bool:
    """Let systemd consider a unit at boot.

    :returns: whether anything changed.
    """
    link = layout.wanted_unit(unit)
    if link.is_symlink():
        return False
    return replace_link(link, str(layout.units / unit))


def disable(layout: Layout, unit: str) -> bool:
    """Let systemd ignore a unit at boot.

    :returns: whether anything changed.
    """
    try:
        layout.wanted_unit(unit).unlink()
    except FileNotFoundError:
        return False
    return True


def others(layout: Layout, systemd: Systemd, current: str | None) -> list[str]:
    """List the units that run, start or stop and do not belong to the current release."""
    return [unit for unit in systemd.active(*layout.unit_patterns) if layout.release_of(unit) != current]


def stop_others(layout: Layout, systemd: Systemd, units: Sequence[str]) -> None:
    """Stop units of releases that are not current, and let none of them run again by itself."""
    if units:
        systemd.stop(*units)
    for unit in units:
        release = layout.release_of(unit)
        if unit != layout.unit_name(release):
            disable(layout, unit)
        layout.permit(release).unlink(missing_ok=True)


def remove_units(layout: Layout, release: str) -> bool:
    """Take a release's units away; they must be stopped.

    :returns: whether anything changed.
    """
    changed = False
    processes = list(layout.units.glob(f"{layout.name}.*@{release}.*"))
    links = [layout.wanted_unit(path.name) for path in processes]
    for path in (layout.wanted(release), layout.unit(release), layout.permit(release), *links, *processes):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            changed = True
    return changed


@dataclass(frozen=True)
class Processes:
    """Which processes of a release, besides its instance, run on this host and which do not."""

    here: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def processes_of(layout: Layout, release: str, manifest: Mapping[str, object], primary: bool) -> Processes:
    """Read from a release's manifest what is to run on this host.

    :param primary: whether this is the host for what runs on one host only.
    """
    where = manifest.get("processes")
    units = (
        {layout.process_unit(release, name): hosts for name, hosts in where.items()} if isinstance(where, dict) else {}
    )
    here = tuple(unit for unit, hosts in units.items() if hosts == "all" or (hosts == "one" and primary))
    return Processes(here, tuple(unit for unit in units if unit not in here))


def run_processes(
    layout: Layout,
    processes: Processes,
    systemd: Systemd,
    settle: float,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Start the processes that are to run here and do not, and stop those that are to run elsewhere.

    :param settle: seconds after which a started one must still run.
    :returns: whether anything changed.
    :raises ReleaseError: with its journal, when one does not stay up.
    """
    changed = False
    for unit in processes.elsewhere:
        # The service of a timer runs here if the timer does.
        if unit.endswith(".service") and unit.removesuffix("service") + "timer" in processes.here:
            continue
        changed |= disable(layout, unit)
        if systemd.state(unit).active != "inactive":
            systemd.stop(unit)
            changed = True
    starting = [unit for unit in processes.here if systemd.state(unit).active != "active"]
    since = time.time()
    try:
        systemd.start_and_wait(*starting)
        if starting:
            sleep(settle)
        broken = [unit for unit in starting if systemd.state(unit).broken]
    except ReleaseError as error:
        texts = [f"{unit}:\n{systemd.journal(unit, since)}" for unit in starting if systemd.state(unit).broken]
        raise ReleaseError("\n".join([str(error), *texts])) from error
    if broken:
        texts = [f"{unit}:\n{systemd.journal(unit, since) or '(empty)'}" for unit in broken]
        raise ReleaseError("\n".join(["app_processes: what was started did not stay up. Its journal:", *texts]))
    for unit in processes.here:
        changed |= enable(layout, unit)
    return changed or bool(starting)


class GateFailure(ReleaseError):
    """An instance that did not pass its gate.

    :param reason: what went wrong.
    :param answer: the last answer to the gate's request.
    """

    def __init__(self, reason: str, answer: Answer) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def pass_gate(
    layout: Layout,
    release: str,
    gate: Gate,
    systemd: Systemd,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Wait until an instance passes its gate.

    It fails at once when the instance dies, and at the deadline otherwise.

    :returns: the answer that passed.
    :raises GateFailure: with the last answer.
    """
    end = clock() + gate.deadline
    unit = layout.unit_name(release)
    answer = Answer(reason="nothing listens on the instance's socket yet")
    while True:
        remaining = end - clock()
        if remaining <= 0:
            break
        answer = ask(layout.socket(release), gate, max(0.1, min(remaining, 10.0)))
        if judge(gate, answer):
            warm_up(layout, release, gate)
            return answer
        state = systemd.state(unit)
        if state.broken:
            raise GateFailure(f"the instance died while it started ({state.result})", answer)
        sleep(min(gate.interval, max(0.0, end - clock())))
    expected = ", ".join(str(entry) for entry in gate.status)
    wanted = f"status {expected}" + (f" and a body that matches {gate.body!r}" if gate.body else "")
    raise GateFailure(f"GET {gate.path} did not answer with {wanted} within {gate.deadline:g} s", answer)


def warm_up(layout: Layout, release: str, gate: Gate) -> None:
    """Send an instance the requests that it is to have seen before the first visitor's.

    :raises GateFailure: when one is not answered, or by an error of the server.
    """
    for path in gate.warmup:
        for _number in range(gate.warmup_requests):
            answer = ask(layout.socket(release), dataclasses.replace(gate, path=path), max(gate.deadline, 10.0))
            if answer.status is None or answer.status >= 500:
                raise GateFailure(f"app_warmup_paths: GET {path} was not answered well", answer)


def keep_answering(layout: Layout, release: str, gate: Gate, live: Gate) -> None:
    """See that an instance also answers what the live release is asked.

    Load balancers go on asking for that until they are told otherwise, after the flip: a release that
    only knows the new address would be taken out of service on every host at once.

    :raises GateFailure: when it does not.
    """
    if (live.path, live.host, list(live.status)) == (gate.path, gate.host, list(gate.status)):
        return
    answer = ask(layout.socket(release), live, 10.0)
    if answer.status is None or not live.accepts(answer.status):
        raise GateFailure(
            f"load balancers still ask for GET {live.path} with the Host {live.host}, which this release does not "
            "answer well. Let it answer the old address as well as the new one; the deploy after this one need not",
            answer,
        )


def diagnose_import(layout: Layout, release: str, module: str, user: str, environment: Mapping[str, str]) -> str | None:
    """Tell why an application module does not import, or ``None`` when it does.

    It runs as the application's user with the release's environment.

    :param module: in Gunicorn's form, ``package.module:attribute``.
    """
    name, _separator, attribute = module.partition(":")
    attribute = re.split(r"\(", attribute or "application")[0]
    program = (
        "import importlib, sys\n"
        "sys.path.insert(0, '')\n"
        "value = importlib.import_module(sys.argv[1])\n"
        "for part in sys.argv[2].split('.'):\n"
        "    value = getattr(value, part)\n"
    )
    directory = layout.release(release) / "build"
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            [str(directory / "venv" / "bin" / "python"), "-c", program, name, attribute],
            check=False,
            cwd=directory / "code",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **environment},
            user=user,
            group=user,
            extra_groups=(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def gate_from(arguments: Mapping[str, object]) -> Gate:
    """Make a gate of a module's ``gate`` option; what is not set keeps its default."""
    names = {item.name for item in dataclasses.fields(Gate)}
    return Gate(**{k: v for k, v in arguments.items() if k in names and v is not None})  # type: ignore[arg-type]
