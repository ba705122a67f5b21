# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gunicorn's worker classes: what each needs, which settings have an effect with it, and what cannot work.

All of it was read in the sources of Gunicorn 25.0 to 27.0 (``workers/``, ``config.py`` and ``arbiter.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WorkerClass:
    """What a worker class needs and can do.

    :param requirements: packages besides Gunicorn, each installed if the application brings none. They belong to
        Gunicorn's extra of the same name.
    :param threads: whether ``threads`` has an effect.
    :param shares: whether a worker has several requests at a time. Then it limits its connections, keeps them between
        requests, and says that it lives while one of its requests is stuck.
    :param access_log: whether Gunicorn logs its requests.
    :param preload: whether the application may be loaded before the workers start.
    """

    requirements: tuple[str, ...] = ()
    threads: bool = False
    shares: bool = False
    access_log: bool = True
    preload: bool = True


CLASSES: Mapping[str, WorkerClass] = {
    "sync": WorkerClass(),
    "gthread": WorkerClass(threads=True, shares=True),
    # Its worker imports packaging as well. It patches the standard library when a worker starts.
    "gevent": WorkerClass(("gevent==26.9.0", "packaging==26.4"), shares=True, preload=False),
    # Gunicorn's own extra asks for 6.5.7 at least; 6.6 needs Python 3.11.
    "tornado": WorkerClass(("tornado==6.5.10",), access_log=False),
    "eventlet": WorkerClass(("eventlet==0.41.3",), shares=True),
}
#: Where eventlet was dropped.
WITHOUT_EVENTLET = "26"

#: Settings that follow from how an instance is wired. Those of the second part would change the same by another
#: name, or end Gunicorn at once.
WIRED = frozenset(
    {
        "bind", "control_socket", "control_socket_disable", "control_socket_mode", "daemon", "forwarded_allow_ips",
        "group", "pidfile", "umask", "user", "worker_tmp_dir",
        "certfile", "chdir", "check_config", "config", "initgroups", "keyfile", "paste", "print_config", "protocol",
        "proxy_protocol", "reuse_port", "ssl_context", "wsgi_app",
    }
)  # fmt: skip
#: Functions that the role gives Gunicorn itself.
OWN_HOOKS = frozenset({"post_request", "post_worker_init", "pre_request", "worker_exit"})
HOOKS = OWN_HOOKS | {
    "child_exit", "dirty_post_fork", "dirty_worker_exit", "dirty_worker_init", "nworkers_changed", "on_dirty_starting",
    "on_exit", "on_reload", "on_starting", "post_fork", "pre_exec", "pre_fork", "when_ready", "worker_abort",
    "worker_int",
}  # fmt: skip
#: Settings of a development server.
RELOADING = frozenset({"reload", "reload_engine", "reload_extra_files"})
#: Settings that have variables of their own.
VARIABLES: Mapping[str, str] = {
    "accesslog": "gunicorn_access_log",
    "graceful_timeout": "gunicorn_graceful_timeout",
    "keepalive": "gunicorn_keepalive",
    "loglevel": "gunicorn_log_level",
    "max_requests": "gunicorn_max_requests",
    "max_requests_jitter": "gunicorn_max_requests_jitter",
    "preload_app": "gunicorn_preload",
    "threads": "gunicorn_threads",
    "timeout": "gunicorn_timeout",
    "worker_class": "gunicorn_worker_class",
    "worker_connections": "gunicorn_worker_connections",
    "workers": "gunicorn_workers",
}

#: The least value of each number.
LEAST: Mapping[str, int] = {
    "gunicorn_threads": 1,
    "gunicorn_worker_connections": 0,
    "gunicorn_timeout": 0,
    "gunicorn_request_timeout": 0,
    "gunicorn_graceful_timeout": 1,
    "gunicorn_keepalive": 0,
    "gunicorn_max_requests": 0,
    "gunicorn_max_requests_jitter": 0,
}
COUNT = re.compile(r"auto|[1-9][0-9]{0,3}")
SETTING = re.compile(r"[a-z][a-z0-9_]*")
FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")

#: Where Gunicorn's own source names its settings.
SETTINGS_FILE = "gunicorn/config.py"
SETTINGS_PATTERN = r'^    name = "(\w+)"$'


def _number(given: Mapping[str, Any], name: str) -> int | None:
    """Return a number, or nothing where there is none; its type is checked elsewhere."""
    value = given.get(name)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", str(value)):
        return None
    return int(str(value))


def _true(value: object) -> bool:
    return str(value).lower() in {"true", "yes", "on", "1"}


def problems(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check settings of an instance against each other.

    :param given: variables of the role; those that are left out are as the worker class wants them.
    :returns: variable, and what is wrong and what to write instead.
    """
    name = str(given.get("gunicorn_worker_class", "gthread"))
    worker = CLASSES.get(name)
    workers = given.get("gunicorn_workers", "auto")
    if not COUNT.fullmatch(str(workers)):
        yield (
            "gunicorn_workers",
            f"{str(workers)!r} is not a number of processes: write a number from 1 on, or auto for one per processor",
        )
    threads = given.get("gunicorn_threads", "auto")
    if _number(given, "gunicorn_threads") is None and not COUNT.fullmatch(str(threads)):
        yield (
            "gunicorn_threads",
            f"{str(threads)!r} is not a number of threads: write a number from 1 on, or auto",
        )
    for variable, least in LEAST.items():
        number = _number(given, variable)
        if number is not None and number < least:
            yield variable, f"{number} is too low: write a number from {least} on"
    if worker is not None:
        yield from _without_effect(given, name, worker)
    requests, jitter = _number(given, "gunicorn_max_requests"), _number(given, "gunicorn_max_requests_jitter")
    if jitter and not requests:
        yield (
            "gunicorn_max_requests_jitter",
            f"{jitter} has no effect without gunicorn_max_requests: set that too, or take it out",
        )
    settings = given.get("gunicorn_settings", {})
    if isinstance(settings, Mapping):
        yield from _in_settings(settings)


def _without_effect(given: Mapping[str, Any], name: str, worker: WorkerClass) -> Iterator[tuple[str, str]]:
    """Name what is set and does nothing with a worker class, or cannot work with it."""
    with_class = f"has no effect with gunicorn_worker_class: '{name}'"
    threads, connections = _number(given, "gunicorn_threads"), _number(given, "gunicorn_worker_connections")
    if not worker.threads and (threads or 1) > 1:
        yield "gunicorn_threads", f"{threads} {with_class}: use gthread, or take gunicorn_threads out"
    if not worker.shares:
        sharing = ", ".join(other for other, kind in CLASSES.items() if kind.shares and other != "eventlet")
        if connections:
            yield (
                "gunicorn_worker_connections",
                f"{connections} {with_class}, which has one request at a time: use one of {sharing}, or take it out",
            )
        if keepalive := _number(given, "gunicorn_keepalive"):
            why = "which closes each connection" if name == "sync" else "which leaves that to the web server"
            yield "gunicorn_keepalive", f"{keepalive} {with_class}, {why}: take it out, or use one of {sharing}"
        if limit := _number(given, "gunicorn_request_timeout"):
            yield (
                "gunicorn_request_timeout",
                f"{limit} {with_class}, whose requests gunicorn_timeout limits: set that, or take it out",
            )
    elif connections == 0:
        yield "gunicorn_worker_connections", f"0 lets nobody in with gunicorn_worker_class: '{name}': take it out"
    elif worker.threads and threads is not None and connections is not None and connections <= threads:
        yield (
            "gunicorn_worker_connections",
            f"{connections} leaves no connection to be kept beside gunicorn_threads: {threads}: write a number above "
            "that",
        )
    if not worker.access_log and _true(given.get("gunicorn_access_log", False)):
        yield (
            "gunicorn_access_log",
            f"true {with_class}: take it out, since the web server writes an access log, or use another worker class",
        )
    if not worker.preload and _true(given.get("gunicorn_preload", False)):
        yield (
            "gunicorn_preload",
            f"true loads the application before {name} can patch the standard library for it, which leaves it with "
            "sockets and locks that hold up all requests of a worker: take it out, or use gthread",
        )


def _in_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what ``gunicorn_settings`` must not or cannot hold."""
    variable = "gunicorn_settings"
    names = sorted(str(name) for name in settings)
    for name in names:
        if not SETTING.fullmatch(name):
            yield (
                variable,
                f"{name!r} is not the name of a setting: write it as in Gunicorn's configuration file, such as "
                "limit_request_line",
            )
            return
    if wired := [name for name in names if name in WIRED]:
        yield variable, f"{', '.join(wired)} follows from how an instance is wired and cannot be set: take it out"
    if own := [name for name in names if name in OWN_HOOKS]:
        yield (
            variable,
            f"{', '.join(own)} is a function that the role gives Gunicorn itself: take it out, and wrap the WSGI "
            "callable in the application instead",
        )
    if reloading := [name for name in names if name in RELOADING]:
        yield (
            variable,
            f"{', '.join(reloading)} is for development, as files of a release never change: take it out; changed code "
            "is another release",
        )
    for name in names:
        if name in VARIABLES:
            yield variable, f"{name} has a variable of its own: write {VARIABLES[name]} instead"
        value = settings[name]
        if name in HOOKS - OWN_HOOKS and not (isinstance(value, str) and FUNCTION.fullmatch(value)):
            yield (
                variable,
                f"{name} has to be a function, which this file cannot hold: write where it stands in the application, "
                f"such as shop.hooks.{name}",
            )


def requirements(name: str) -> list[str]:
    """List the packages that a worker class needs besides Gunicorn."""
    return list(CLASSES[name].requirements) if name in CLASSES else []


def conditions(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what a build must fulfil for the settings; see :func:`_requires.unmet` for what each entry means."""
    name = str(given.get("gunicorn_worker_class", "gthread"))
    settings = given.get("gunicorn_settings") or {}
    found: list[dict[str, Any]] = []
    if name == "eventlet":
        found.append(
            {
                "distribution": "gunicorn",
                "below": WITHOUT_EVENTLET,
                "otherwise": "gunicorn_worker_class: 'eventlet' went out of Gunicorn with version "
                f"{WITHOUT_EVENTLET}, and this build has {{version}}: use gevent or gthread, or have the application "
                f"bring gunicorn<{WITHOUT_EVENTLET}, or write that as app_server_requirement.",
            }
        )
    if CLASSES.get(name, WorkerClass()).requirements:
        found.append(
            {
                "distribution": "gunicorn",
                "extra": name,
                "otherwise": f"gunicorn_worker_class: '{name}' needs {{needed}}, as Gunicorn {{version}} says, and "
                "this build has {found}: have the application bring one that fits, or none, to get it from the role.",
            }
        )
    if settings:
        found.append(
            {
                "distribution": "gunicorn",
                "file": SETTINGS_FILE,
                "pattern": SETTINGS_PATTERN,
                "names": sorted(str(setting) for setting in settings),
                "otherwise": "gunicorn_settings: '{name}' is no setting of Gunicorn {version}, which this build has"
                "{alike}: write it as in Gunicorn's configuration file, or take it out.",
            }
        )
    return found
