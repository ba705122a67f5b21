# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of uWSGI that cannot work, or not together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: The Python that the distribution's plugin is built for.
DISTRIBUTION_PYTHON = "/usr/bin/python3"

#: Options that follow from how an instance is wired, and what would do the same by another name.
OWNED = frozenset(
    {
        "chmod-socket", "daemonize", "die-on-term", "http-socket", "master", "need-app", "pidfile", "protocol",
        "strict", "vacuum", "virtualenv", "wsgi-file",
        "callable", "chdir", "chmod", "chown-socket", "daemonize2", "die-on-idle", "emperor", "file", "gid", "home",
        "http", "http11-socket", "https", "lazy", "logto", "logto2", "module", "mount", "pidfile2", "pyhome",
        "safe-pidfile", "safe-pidfile2", "socket", "uid", "uwsgi-socket", "venv", "wsgi",
    }
)  # fmt: skip

#: Options that have a variable of their own, by the name of which their value is checked.
VARIABLES = {
    "processes": "uwsgi_processes",
    "workers": "uwsgi_processes",
    "threads": "uwsgi_threads",
    "cheaper": "uwsgi_cheaper",
    "cheaper-initial": "uwsgi_cheaper_initial",
    "cheaper-step": "uwsgi_cheaper_step",
    "harakiri": "uwsgi_harakiri",
    "worker-reload-mercy": "uwsgi_graceful_timeout",
    "socket-timeout": "uwsgi_socket_timeout",
    "listen": "uwsgi_listen",
    "buffer-size": "uwsgi_buffer_size",
    "max-requests": "uwsgi_max_requests",
    "reload-on-rss": "uwsgi_reload_on_rss",
    "offload-threads": "uwsgi_offload_threads",
    "offload-thread": "uwsgi_offload_threads",
    "disable-logging": "uwsgi_access_log",
    "stats": "uwsgi_stats",
    "stats-server": "uwsgi_stats",
}

#: Seconds that a process lives at least, which the role sets: uWSGI's default differs between versions.
MIN_WORKER_LIFETIME = 10
#: Percentages of time, plugins/cheaper_busyness in uWSGI's source.
BUSYNESS_MIN, BUSYNESS_MAX = 25, 50

#: Loops that take requests one after the other, and go on with another one where one waits.
ASYNC = ("async", "asyncio", "gevent", "ugreen")

#: uWSGI has two options with an underscore; one of them has another name with a hyphen.
OPTION = re.compile(r"[a-z0-9][a-z0-9-]*|start_response-nodelay")

#: A variable, and what is wrong with its value and what to write instead.
Found = Iterator[tuple[str, str]]


def _number(value: Any) -> int | None:
    """Return what stands for a whole number."""
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
        return None
    return int(value)


def _is_on(value: Any) -> bool:
    """Tell whether an option with this value is switched on."""
    return value is not None and str(value).lower() not in ("false", "0", "no", "")


def problems(variables: Mapping[str, Any], python: str = DISTRIBUTION_PYTHON) -> Found:
    """Yield what cannot work.

    :param variables: variables of the role; those that are missing, or of a form that the role refuses by
        itself, are taken for well.
    :param python: interpreter of the application's virtual environment.
    """
    settings = variables.get("uwsgi_settings")
    if not isinstance(settings, Mapping):
        settings = {}
    yield from _settings(settings)
    yield from _cheaper(variables, settings)
    yield from _threads(variables, settings)
    yield from _lifetime(settings)
    yield from _package(variables, python)
    for name, value in variables.items():
        if name in VARIABLES.values() and (_number(value) or 0) < 0:
            yield name, f"{value} is below 0: write a number from 0 on"


def _settings(settings: Mapping[str, Any]) -> Found:
    """Options can be written into the file, and are not the role's."""
    name = "uwsgi_settings"
    for option in sorted(settings.keys() & VARIABLES.keys()):
        yield name, f"{option} has a variable of its own: write {VARIABLES[option]} instead"
    if owned := sorted(settings.keys() & OWNED):
        yield name, f"{', '.join(owned)} follows from how an instance is wired and cannot be set: take it out"
    for option, value in settings.items():
        if not OPTION.fullmatch(str(option)):
            yield (
                name,
                f"'{option}' is not the name of an option: write it as in uWSGI's list of options, without the two "
                "hyphens, such as max-worker-lifetime",
            )
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, str) and "@(" in item:
                yield (
                    name,
                    f"{option}: {json.dumps(item)} would be replaced by what a file holds or a command prints: "
                    "write the value itself",
                )
            if isinstance(item, (Mapping, list, tuple)) or (isinstance(item, str) and re.search(r"[\r\n]", item)):
                yield (
                    name,
                    f"{json.dumps(item)} cannot stand in one line: write a text of one line, a number, true, false, or "
                    "a list of these for an option that may be repeated",
                )


def _cheaper(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> Found:
    """There is room between the fewest processes and the most."""
    fewest = _number(variables.get("uwsgi_cheaper", 0)) or 0
    initial = _number(variables.get("uwsgi_cheaper_initial", 0)) or 0
    most = _number(variables.get("uwsgi_processes", "auto"))
    if fewest <= 0:
        more = sorted(option for option in settings if str(option).startswith("cheaper-"))
        if initial > 0:
            yield (
                "uwsgi_cheaper_initial",
                f"{initial} has no effect without uwsgi_cheaper: write the fewest processes there",
            )
        if more:
            yield "uwsgi_settings", f"{more[0]} has no effect without uwsgi_cheaper: write the fewest processes there"
        return
    if most is None:
        yield (
            "uwsgi_cheaper",
            f"{fewest} needs to know how many processes there are at most: write a number above it as uwsgi_processes",
        )
    elif most == 1:
        yield (
            "uwsgi_cheaper",
            f"{fewest} cannot work with one process: write a higher number as uwsgi_processes, or take it out",
        )
    elif fewest >= most:
        yield (
            "uwsgi_cheaper",
            f"{fewest} is not below uwsgi_processes, which is {most}: it is the fewest processes, write less than that",
        )
    elif initial and not fewest <= initial <= most:
        yield (
            "uwsgi_cheaper_initial",
            f"{initial} is not between uwsgi_cheaper and uwsgi_processes: write a number from {fewest} to {most}",
        )
    if _number(variables.get("uwsgi_threads", "several")) != 1:
        yield (
            "uwsgi_cheaper",
            f"{fewest} needs processes with one thread, as one with several can take requests with it when it ends: "
            "write uwsgi_threads: 1",
        )
    if _number(variables.get("uwsgi_cheaper_step", 1)) == 0:
        yield "uwsgi_cheaper_step", "0 would never start a process: write a number from 1 on"
    yield from _cheaper_settings(variables, settings)


def _cheaper_settings(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> Found:
    """What decides when processes start and end can decide it."""
    if (algorithm := str(settings.get("cheaper-algo", "busyness"))).startswith("backlog"):
        yield (
            "uwsgi_settings",
            f"cheaper-algo: {algorithm} counts who waits, which the kernel tells of TCP sockets only: take it out for "
            "busyness",
        )
    low = _number(settings.get("cheaper-busyness-min", BUSYNESS_MIN))
    high = _number(settings.get("cheaper-busyness-max", BUSYNESS_MAX))
    if low is not None and high is not None and low >= high:
        yield (
            "uwsgi_settings",
            f"cheaper-busyness-min: {low} is not below cheaper-busyness-max, which is {high}: processes would start "
            "and end in turns, write less",
        )
    soft, hard = (_number(settings.get(f"cheaper-rss-limit-{kind}")) for kind in ("soft", "hard"))
    measured = _is_on(settings.get("memory-report")) or (_number(variables.get("uwsgi_reload_on_rss", 0)) or 0) > 0
    if soft and not measured:
        yield (
            "uwsgi_settings",
            "cheaper-rss-limit-soft needs the size of processes measured: write memory-report: true too, or "
            "uwsgi_reload_on_rss",
        )
    if hard and not (soft and soft < hard):
        yield (
            "uwsgi_settings",
            f"cheaper-rss-limit-hard: {hard} needs a cheaper-rss-limit-soft below it: write that too",
        )


def _threads(variables: Mapping[str, Any], settings: Mapping[str, Any]) -> Found:
    """A process takes requests by threads or by a loop."""
    threads = variables.get("uwsgi_threads", "several")
    for option in (*ASYNC, "loop"):
        if _is_on(settings.get(option)) and _number(threads) != 1:
            yield (
                "uwsgi_settings",
                f"{option} and threads exclude each other: write uwsgi_threads: 1 too, or take {option} out",
            )
            return


def _lifetime(settings: Mapping[str, Any]) -> Found:
    """A process may live for longer than it has to."""
    least = _number(settings.get("min-worker-lifetime", MIN_WORKER_LIFETIME))
    most = _number(settings.get("max-worker-lifetime"))
    if least is not None and most and least >= most:
        yield (
            "uwsgi_settings",
            f"max-worker-lifetime: {most} is not above min-worker-lifetime, which is {least}: write more seconds",
        )


def _package(variables: Mapping[str, Any], python: str) -> Found:
    """The distribution's uWSGI runs the Python that the environment was made with."""
    if variables.get("uwsgi_package") == "distribution" and python != DISTRIBUTION_PYTHON:
        yield (
            "uwsgi_package",
            f"distribution runs {DISTRIBUTION_PYTHON} and no other, but app_python is '{python}': leave app_python at "
            "its default, or write pypi",
        )
