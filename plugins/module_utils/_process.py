# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a release besides its instance: workers of a queue, and scheduled jobs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

PROCESS_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
#: Sizes and shares as systemd.resource-control(5) reads them.
MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?|[1-9][0-9]?%")
SHARE = re.compile(r"[1-9][0-9]*%")
#: What an OnCalendar= expression is made of, systemd.time(7).
CALENDAR = re.compile(r"[A-Za-z0-9*:,./ ~+_-]+")
SIGNAL = re.compile(r"SIG[A-Z0-9]+")
MOST_PROCESSES = 64

#: As Ansible marks what it has written.
HEADER = "#\n# Ansible managed\n#"


@dataclass(frozen=True)
class Process:
    """An entry of ``app_processes``.

    :param command: program and arguments; a program without a slash is sought in the virtual environment first.
    :param count: how many of it run on a host.
    :param schedule: when it runs, as in systemd's ``OnCalendar=``; without one it runs all the time.
    :param hosts: ``all`` or ``one``.
    :param memory: the most memory that one may take, such as ``512M``; above it is killed.
    :param cpu: the most processor time, such as ``50%`` of one processor.
    :param tasks: the most processes and threads.
    :param stop_timeout: seconds that it gets to end, before it is killed.
    :param stop_signal: what asks it to end.
    """

    name: str
    command: tuple[str, ...]
    count: int = 1
    schedule: str = ""
    hosts: str = "all"
    memory: str = ""
    cpu: str = ""
    tasks: int = 0
    stop_timeout: int = 60
    stop_signal: str = "SIGTERM"


def split_command(text: Any) -> tuple[str, ...]:
    """Split a command into words, as a shell would, and do nothing else that a shell does.

    :raises ReleaseError: for what has no words or an open quotation mark.
    """
    if not isinstance(text, str):
        raise ReleaseError(f"'{text}' is not a command: write it as text")
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ReleaseError(f"'{text}' is not a command: {error}: write the end of what it opens, too") from error
    if not words or any(ord(sign) < 32 for word in words for sign in word):
        raise ReleaseError(f"'{text}' is not a command: write a program and its arguments in one line")
    return words


def systemd_word(word: str) -> str:
    """Quote a word for ``ExecStart=``: systemd.service(5), "Command lines"; no specifier, no variable."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _whole(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)) or not least <= int(value) <= most:
        raise ReleaseError(f"{what} '{value}' is not a whole number: write one from {least} to {most}")
    return int(value)


def _text(entry: Mapping[str, Any], name: str, pattern: re.Pattern[str], remedy: str) -> str:
    value = str(entry.get(name) or "")
    if value and not pattern.fullmatch(value):
        raise ReleaseError(f"{name} '{value}' {remedy}")
    return value


def read_process(entry: Any) -> Process:
    """Read an entry of ``app_processes``.

    :raises ReleaseError: for what cannot be run, with the remedy.
    """
    known = {
        "name", "command", "count", "schedule", "hosts", "memory", "cpu", "tasks", "stop_timeout", "stop_signal",
    }  # fmt: skip
    if not isinstance(entry, Mapping) or not {"name", "command"} <= set(entry):
        raise ReleaseError(
            f"'{entry}' must have name and command, such as {{name: worker, command: celery -A shop worker}}"
        )
    name = str(entry["name"])
    if not PROCESS_NAME.fullmatch(name):
        raise ReleaseError(
            f"'{name}' cannot be the name of a process: use up to 31 lower-case letters, digits and hyphens, "
            "a letter first"
        )
    try:
        if strangers := sorted(set(entry) - known):
            raise ReleaseError(f"{strangers[0]} is not a field: there are {', '.join(sorted(known))}")
        schedule = _text(entry, "schedule", CALENDAR, "is not a time: write one such as daily or *-*-* 03:30")
        hosts = str(entry.get("hosts") or ("one" if schedule else "all"))
        if hosts not in ("all", "one"):
            raise ReleaseError(f"hosts '{hosts}' is neither all nor one")
        count = _whole(entry.get("count", 1), "count", 1, MOST_PROCESSES)
        if schedule and count != 1:
            raise ReleaseError("count has no meaning for what has a schedule: take one of them out")
        return Process(
            name=name,
            command=split_command(entry["command"]),
            count=count,
            schedule=schedule,
            hosts=hosts,
            memory=_text(entry, "memory", MEMORY, "is not a size: write one such as 512M"),
            cpu=_text(entry, "cpu", SHARE, "is not a share of a processor: write one such as 50%"),
            tasks=_whole(entry.get("tasks", 0), "tasks", 0, 1 << 20),
            stop_timeout=_whole(entry.get("stop_timeout", 300 if schedule else 60), "stop_timeout", 1, 86400),
            stop_signal=_text(entry, "stop_signal", SIGNAL, "is not a signal: write one such as SIGTERM") or "SIGTERM",
        )
    except ReleaseError as error:
        raise ReleaseError(f"{name}: {error}") from error


def read_processes(entries: Any) -> list[Process]:
    """Read ``app_processes``.

    :raises ReleaseError: for an entry that cannot be run, and for two of one name.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ReleaseError("is not a list: write [{name: worker, command: celery -A shop worker}]")
    processes = [read_process(entry) for entry in entries]
    names = [process.name for process in processes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ReleaseError(f"there are two of the name '{twice[0]}': name one of them otherwise")
    owners: dict[str, str] = {}
    for process in processes:
        for unit in unit_names(process):
            if owners.setdefault(unit, process.name) != process.name:
                raise ReleaseError(
                    f"'{owners[unit]}' and '{process.name}' both have a unit {unit}: name one of them otherwise"
                )
    return processes


def unit_names(process: Process) -> list[str]:
    """Name the units of a process: numbered services, or a service and its timer."""
    if process.schedule:
        return [f"{process.name}.service", f"{process.name}.timer"]
    return [f"{process.name}-{number}.service" for number in range(1, process.count + 1)]


def _service(process: Process, instance: Mapping[str, Any]) -> str:
    directory, name = instance["directory"], instance["name"]
    release = f"{directory}/releases/%i"
    lines = [
        "[Unit]",
        f"Description={name}, release %i, {process.name}",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"Type={'oneshot' if process.schedule else 'exec'}",
        f"User={instance['user']}",
        f"Group={instance['group']}",
        "UMask=0027",
        f"SyslogIdentifier={name}.{process.name}",
        "# Of all releases that are kept, only the current one works.",
        f"ExecCondition=/bin/sh -c 'test {directory}/current -ef {release}'",
        f"WorkingDirectory={release}/build/code",
        f"EnvironmentFile={release}/env",
        f"Environment=PATH={release}/build/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "Environment=APP_RELEASE=%i PYTHONUNBUFFERED=1",
    ]
    for key, value in sorted((instance.get("environment") or {}).items()):
        lines.append(f"Environment={systemd_word(f'{key}={value}').replace('$$', '$')}")
    lines.append("ExecStart=/usr/bin/env " + " ".join(map(systemd_word, process.command)))
    lines.append(f"TimeoutStopSec={process.stop_timeout}")
    if process.schedule:
        lines += [
            "TimeoutStartSec=infinity",
            "# A job that runs when its release retires may end by itself until the time for that is over.",
            "KillSignal=SIGCONT",
        ]
    else:
        lines += ["KillMode=mixed", f"KillSignal={process.stop_signal}", "Restart=always", "RestartSec=1"]
    lines += instance.get("sandbox") or []
    # After the limits of the application, so that its own count.
    lines += [
        f"{directive}={value}"
        for directive, value in (("MemoryMax", process.memory), ("CPUQuota", process.cpu), ("TasksMax", process.tasks))
        if value
    ]
    if not process.schedule:
        lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return "\n".join(lines) + "\n"


def _timer(process: Process, instance: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "[Unit]",
            f"Description={instance['name']}, release %i, when to run {process.name}",
            "",
            "[Timer]",
            f"OnCalendar={process.schedule}",
            "AccuracySec=1s",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


@dataclass(frozen=True)
class Unit:
    """A unit of a process.

    :param hosts: ``all`` or ``one`` for what is started, empty for what a timer starts.
    """

    text: str
    hosts: str = ""


def process_units(processes: Sequence[Process], instance: Mapping[str, Any]) -> dict[str, Unit]:
    """Render the units of processes.

    :param instance: ``app_instance`` of the app role: name, directory, user, group, environment, sandbox.
    :returns: units by name and kind, such as ``worker-1.service``. ``%i`` in them is the release.
    """
    units = {}
    for process in processes:
        text = f"{HEADER}\n{_service(process, instance)}"
        for name in unit_names(process):
            if name.endswith(".timer"):
                units[name] = Unit(f"{HEADER}\n{_timer(process, instance)}", process.hosts)
            else:
                units[name] = Unit(text, "" if process.schedule else process.hosts)
    return units
