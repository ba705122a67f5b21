# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The applications of a fleet: one file each, with the variables of the role app."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

#: What the hosts around an application need to know of it. These are read before any play, so
#: that they stand in a file as they are, without templates.
AROUND = (
    "app_host_names", "app_health_path", "app_health_status", "app_health_host", "app_static", "app_packages",
    "app_maintenance_retry_after", "app_maintenance_allow", "app_micro_cache", "app_client_requests",
    "app_client_connections", "app_sticky_cookie", "uwsgi_package",
)  # fmt: skip


class AppFileError(Exception):
    """A file that cannot be read; the text is meant for the operator."""


@dataclass(frozen=True)
class App:
    """An application of the fleet.

    :param name: its name, which is also that of its file.
    :param variables: the role app's variables, those that it sets and those of all applications.
    """

    name: str
    variables: Mapping[str, Any]

    def around(self) -> dict[str, Any]:
        """Return what web servers and load balancers need to know."""

        def get(name: str, default: Any) -> Any:
            value = self.variables.get(name)
            return default if value is None else value

        host_names = get("app_host_names", [])
        path = get("app_health_path", "/")
        seconds = get("app_micro_cache", 0)
        limit = {"requests": get("app_client_requests", 0), "connections": get("app_client_connections", 0)}
        return {
            "name": self.name,
            "packages": get("app_packages", []),
            # What it needs of the distribution besides, whether or not it runs under uWSGI at this time.
            "uwsgi_package": get("uwsgi_package", "pypi"),
            "host_names": host_names,
            "health_path": path,
            "site": {
                "name": self.name,
                "server_names": host_names,
                "upstream": f"unix:/srv/{self.name}/current/app.sock",
                # Always with the slash at the end that nginx wants for an alias.
                "static": [
                    {
                        "url": entry["url"],
                        "path": f"/srv/{self.name}/current/build/code/{entry['path'].rstrip('/')}".rstrip("/") + "/",
                    }
                    for entry in get("app_static", [])
                ],
                # Kept for what is live: none outlives a flip.
                "cache": {"seconds": seconds, "path": f"/srv/{self.name}/current"} if seconds else {},
                "limit": {what: number for what, number in limit.items() if number},
                # The page that maintenance.yml puts there is the switch. Checks of the fleet always pass;
                # others that ask for health do where that has a path of its own.
                "maintenance": {
                    "page": f"/srv/{self.name}/maintenance.html",
                    "retry_after": get("app_maintenance_retry_after", 300),
                    "allow": get("app_maintenance_allow", []),
                    "pass": [bare for bare in [path.partition("?")[0]] if bare != "/"],
                },
            },
            "backend": {
                "name": self.name,
                "host_names": host_names,
                "health_status": get("app_health_status", ["200-399"]),
                "health_path": path,
                "cookie": get("app_sticky_cookie", ""),
                # A name that the wildcard is for.
                "health_host": get(
                    "app_health_host", str(host_names[0]).replace("*", "health") if host_names else "localhost"
                ),
            },
        }


class _Tagged:
    """Stands for a value with one of Ansible's tags, such as !vault."""


def _read(path: str, text: str) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 -- hosts, for which module_utils are made, have none

    class Loader(yaml.SafeLoader):
        """Reads what has one of Ansible's tags as something that cannot be used here."""

    Loader.add_multi_constructor("!", lambda _loader, _tag, _node: _Tagged())
    try:
        data = yaml.load(text, Loader=Loader)  # noqa: S506 -- derived from the safe one
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise AppFileError(f"{path}: is not YAML{where}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise AppFileError(f"{path}: is not YAML: {error}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise AppFileError(f"{path}: does not hold variables: write app_source: … and so on")
    return data


def _parts(value: Any) -> Iterator[Any]:
    """Yield what a value is made of at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_parts(key), *_parts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    else:
        yield value


def read_app(path: str, text: str, common: Mapping[str, Any]) -> App:
    """Read the file of an application.

    :param common: variables that hold where the file does not set them.
    :raises AppFileError: for a file that cannot be read, or that holds a template where none can be.
    """
    name = PurePath(path).stem
    own = _read(path, text)
    if own.get("app_name", name) != name:
        raise AppFileError(f"{path}: app_name: '{own['app_name']}' is not the name of the file: take it out")
    for key in AROUND:
        for part in _parts(own.get(key)):
            if isinstance(part, _Tagged):
                raise AppFileError(
                    f"{path}: {key}: the hosts around the application cannot read what has a tag such as !vault: "
                    "write the value itself, or encrypt the whole file"
                )
            if isinstance(part, str) and ("{{" in part or "{%" in part):
                raise AppFileError(
                    f"{path}: {key}: '{part}' is a template, which the hosts around the application cannot "
                    "evaluate: write the value itself"
                )
    return App(name, {**common, **own, "app_name": name})


def app_file(directory: str, name: str) -> str:
    """Return the path of the file of an application.

    :param directory: where the files of the fleet's applications are.
    :param name: the application; empty for the only one that has a file.
    :returns: a path that need not exist; ``none.yml`` where no name is given, and not exactly one file is there.
    """
    if name:
        return f"{directory}/{name}.yml"
    files = glob.glob(f"{glob.escape(directory)}/*.yml")  # noqa: PTH207 -- Path.glob would find hidden files too
    return files[0] if len(files) == 1 else "none.yml"


def read_apps(files: Mapping[str, str], common: Mapping[str, Any]) -> list[App]:
    """Read the files of a fleet's applications.

    :param files: texts by path.
    :param common: variables for all of them, or of the only application where there are no files.
    :returns: applications by name; none where there are no files and no common ``app_name``.
    :raises AppFileError: see :func:`read_app`.
    """
    if not files:
        return [App(str(common["app_name"]), common)] if common.get("app_name") else []
    return [read_app(path, text, common) for path, text in sorted(files.items())]


def backends(
    apps: Sequence[Mapping[str, Any]],
    servers: Sequence[Mapping[str, Any]],
    known: Mapping[str, Collection[str]],
    deployed: str,
) -> list[dict[str, Any]]:
    """Say which servers requests for each application are spread over.

    HAProxy takes a server that it did not know for healthy until its first check. So one that is known not to
    have an application gets no requests for it, unless nobody has it, when there is nothing to lose.

    :param apps: what :meth:`App.around` returned of each.
    :param servers: all of them, each with its ``name``.
    :param known: for each server that was asked, the applications that it has in service.
    :param deployed: an application that all of them have by the time that this is used.
    :returns: for each application its backend, with ``servers``, and with ``wait`` for whether one of them must
        be healthy: not where nobody who was asked has the application yet.
    """
    found = []
    for app in apps:
        name = app["name"]
        holders = [s for s in servers if name == deployed or name in known.get(str(s["name"]), [name])]
        wait = name == deployed or not known or any(name in names for names in known.values())
        found.append({**app["backend"], "servers": holders or list(servers), "wait": wait})
    return found
