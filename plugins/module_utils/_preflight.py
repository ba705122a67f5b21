# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a whole inventory, before any host is touched.

Every check yields :class:`Problem`: which variable, which value, on which hosts, and what to
write instead. Nothing here reads an inventory or talks to a host.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.wsgi.fleet.plugins.module_utils._apps import AROUND
from ansible_collections.wsgi.fleet.plugins.module_utils._build import REQUIREMENT
from ansible_collections.wsgi.fleet.plugins.module_utils._certificate import (
    CertificateError,
    certificate_blocks,
    check_issuable,
    use_provided,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._gunicorn import problems as problems_of_gunicorn
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import status_range
from ansible_collections.wsgi.fleet.plugins.module_utils._process import read_processes, split_command
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from ansible_collections.wsgi.fleet.plugins.module_utils._sizing import SizingError, read_limits
from ansible_collections.wsgi.fleet.plugins.module_utils._source import (
    Request,
    SourceError,
    check_pinned,
    classify,
    package,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import batch_size
from ansible_collections.wsgi.fleet.plugins.module_utils._uwsgi import DISTRIBUTION_PYTHON
from ansible_collections.wsgi.fleet.plugins.module_utils._uwsgi import problems as uwsgi_problems
from ansible_collections.wsgi.fleet.plugins.module_utils._values import (
    ACCOUNT,
    BACKEND,
    HOST_NAME,
    LONGEST,
    MODULE,
    NAME,
    PACKAGE,
    PLAIN_PATH,
    REQUEST_PATH,
    STATIC_URL,
    VALUES,
    Check,
    count,
    each,
    environment,
    floating,
    health_host,
    health_path,
    network,
    not_plain,
    own_environment,
    pattern,
    positive,
    show,
    status_code,
    sticky_cookie,
    too_long,
)

GROUPS = ("app", "cache", "load_balancer")

#: Variables of the whole fleet that are read here, beside those of roles.
FLEET = frozenset(
    {
        "cache_backend",
        "fleet_tls", "fleet_firewall", "fleet_address", "fleet_nginx_port", "fleet_weight", "fleet_backup",
        "fleet_secrets_directory", "fleet_cache_directory",
        "fleet_apps_directory", "fleet_secret_key", "fleet_release_key", "fleet_cache_password",
        "fleet_replication_password", "fleet_profiler_password", "fleet_cache_memory_share", "fleet_app_memory_share",
        "fleet_floating_address",
    }
)  # fmt: skip
#: What an app can cache in, and which of these are services of the cache hosts.
BACKENDS = ("redis", "memcached", "simple", "filesystem", "none")
CACHE_SERVICES = ("redis", "memcached")
#: Where the certificate of the load balancers comes from.
TLS = ("none", "self_signed", "provided", "acme")
#: Let's Encrypt issues five certificates for the same names in a week, and one has to be left to begin anew with.
MOST_BALANCERS = 4

#: Names that people give to the groups, and what they are called here.
OTHER_GROUP_NAMES = {
    "apps": "app", "application": "app", "appservers": "app", "app_servers": "app", "web": "app",
    "webservers": "app", "redis": "cache", "memcached": "cache", "caches": "cache", "lb": "load_balancer",
    "balancer": "load_balancer", "balancers": "load_balancer", "haproxy": "load_balancer",
    "loadbalancer": "load_balancer", "load_balancers": "load_balancer",
    "loadbalancers": "load_balancer",
}  # fmt: skip

#: What must be the same on every app host, since they serve the same application.
FLEET_WIDE = (
    "app_name", "app_source", "app_version", "app_source_checksum", "app_module",
    "app_dependencies", "app_host_names", "app_health_path", "app_health_host", "app_static",
)  # fmt: skip

#: Texts of several lines, by their nature.
MULTILINE = frozenset(
    {
        "app_source_key", "app_source_signers", "app_env", "app_build_environment", "app_default_env",
        "certificate_text", "certificate_key_text", "nginx_http_extra", "load_balancer_frontend_extra",
    }
)  # fmt: skip

#: What to write where a value is of another type.
REMEDIES: Mapping[str, str] = {
    "bool": "true or false",
    "dict": "a dictionary, such as {name: value}",
    "float": "a number",
    "int": "a whole number",
    "list": "a list, such as [a, b]",
    "path": "text",
    "str": "text",
}

#: Words that turn something on, in lower case.
ON = frozenset({"true", "yes", "on", "1"})

#: Names of variables that hold secrets, or may.
SECRET = re.compile(r"token|key|password|secret|users")

#: Ubuntu and Debian releases that the roles are made for: oldest version of each.
SUPPORTED = {"ubuntu": (22, 4), "debian": (12, 0)}
OLDEST_PYTHON = (3, 10)

#: What tells that a host was reached, but not as root.
NO_PRIVILEGES = re.compile(r"\b(?:sudo|doas|become|privilege escalation)\b", re.IGNORECASE)

#: Which processes may hold a port already, since the roles reconfigure them.
OURS = {
    "nginx": {"nginx"},
    "load_balancer": {"haproxy"},
    "load_balancer_tls": {"haproxy"},
    "redis": {"redis-server", "valkey-server"},
    "memcached": {"memcached"},
}


@dataclass(frozen=True)
class Host:
    """A host of the inventory.

    :param variables: what the inventory sets of the roles' variables, templated.
    :param failures: variables that could not be templated, with the reason.
    """

    name: str
    groups: frozenset[str] = frozenset()
    variables: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    base: str = ""


@dataclass(frozen=True)
class AppFile:
    """The file of an application, beside the inventory.

    :param path: what to call it, such as ``apps/shop.yml``.
    :param variables: what it sets of the roles' variables, templated, by the name of the app host.
    :param failures: variables that could not be templated, with the reason, by the name of the app host.
    :param others: what it sets besides.
    :param error: why it cannot be read, or cannot be an application's.
    """

    path: str
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    others: Collection[str] = ()
    error: str = ""

    @property
    def name(self) -> str:
        """The name of the application."""
        return PurePath(self.path).stem

    def on(self, host: Host) -> Host:
        """Return an app host with the variables of the application, which win over its own."""
        variables, failures = self.variables.get(host.name, {}), self.failures.get(host.name, {})
        kept = {name: reason for name, reason in host.failures.items() if name not in variables}
        return replace(
            host,
            variables={
                **{name: value for name, value in host.variables.items() if name not in failures},
                **variables,
                "app_name": self.name,
            },
            failures={**kept, **failures},
        )


@dataclass(frozen=True, order=True)
class Problem:
    """Something that cannot work.

    :param variable: the variable or group that it is about.
    :param text: value and remedy, in one sentence or two.
    """

    variable: str
    text: str


def _static(value: Any) -> str | None:
    if not isinstance(value, (list, tuple)):
        return "is not a list: write [{url: /static/, path: shop/static}]"
    for entry in value:
        if not isinstance(entry, Mapping) or set(entry) != {"url", "path"}:
            return f"{show(entry)} must have url and path, such as {{url: /static/, path: shop/static}}"
        if not STATIC_URL.fullmatch(str(entry["url"])):
            return f"url {show(entry['url'])} must start and end with a slash, such as /static/"
        if not PLAIN_PATH.fullmatch(str(entry["path"])) or {".", ".."} & set(str(entry["path"]).split("/")):
            return f"path {show(entry['path'])} must lie inside the source, such as shop/static"
    urls = [str(entry["url"]) for entry in value]
    if "/" in urls:
        return "url '/' would take every request from the application: write one such as /static/"
    if twice := next((url for url in urls if urls.count(url) > 1), None):
        return f"url '{twice}' is there twice: take one of them out"
    return None


def _health_body(value: Any) -> str | None:
    try:
        re.compile(str(value))
    except (re.error, OverflowError, RecursionError) as error:
        return f"{show(value)} is not a regular expression: {error}; write one such as ok|ready"
    return None


def _processes(value: Any) -> str | None:
    try:
        read_processes(value)
    except ReleaseError as error:
        return str(error)
    return None


def _batch(value: Any) -> str | None:
    try:
        for size in value if isinstance(value, (list, tuple)) else [value]:
            batch_size(size, 1)
    except ReleaseError as error:
        return str(error)
    return None if value else "[] has no sizes: write 1, 25% or a list of these"


def _pause(value: Any) -> str | None:
    if str(value) == "ask" or (not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,6}", str(value))):
        return None
    return f"{show(value)} is neither a number of seconds nor ask: write one of them"


def _command(value: Any) -> str | None:
    try:
        if value != "":
            split_command(value)
    except ReleaseError as error:
        return str(error)
    return None


def _hooks(value: Any) -> str | None:
    for moment, hooks in value.items() if isinstance(value, Mapping) else ():
        for hook in hooks if isinstance(hooks, (list, tuple)) else ():
            if isinstance(hook, Mapping) and ("command" in hook) == ("tasks" in hook):
                return f"an entry of {moment} must have either command or tasks, and not both"
            if isinstance(hook, Mapping) and (text := _command(hook.get("command", ""))):
                return f"{moment}: {text}"
    return None


def _share(value: Any) -> str | None:
    try:
        if not isinstance(value, bool) and 0 < float(value) <= 1:
            return None
    except (TypeError, ValueError):
        pass
    return f"{show(value)} is not a share: write a number above 0 and up to 1, such as 0.5"


def _limits(value: Any) -> str | None:
    try:
        read_limits(value)
    except SizingError as error:
        return str(error).removeprefix("app_limits: ")
    return None


CHECKS: Mapping[str, Check] = {
    **VALUES,
    "app_name": pattern(
        NAME,
        "cannot be the name of an account, a directory and a unit: use up to 26 lower-case "
        "letters, digits and hyphens, a letter first, such as shop",
    ),
    "app_module": pattern(MODULE, "is not a WSGI callable: write package.module:attribute, such as shop:app"),
    "app_dependencies": pattern(PLAIN_PATH, "is not a file inside the source: write a relative path, auto or none"),
    "app_host_names": each(pattern(HOST_NAME, "is not a host name: write it in lower case, such as shop.example.com")),
    "app_health_host": health_host,
    "app_health_path": health_path,
    "app_sticky_cookie": sticky_cookie,
    "app_health_status": each(status_code),
    "app_health_body": _health_body,
    "app_health_deadline": positive,
    "app_worker_memory": positive,
    "app_memory_share": _share,
    "app_cpu_share": _share,
    "fleet_cache_memory_share": _share,
    "fleet_app_memory_share": _share,
    "app_limits": _limits,
    "uwsgi_threads": count("threads"),
    "app_maintenance_allow": each(network),
    "app_profiler_allow": each(network),
    "app_profiler_path": pattern(
        re.compile(r"(?:/[A-Za-z0-9._~-]+)+"), "cannot be where a dashboard is: write a path such as /flask-profiler"
    ),
    "app_profiler_user": pattern(
        re.compile(r"[A-Za-z0-9._@-]{1,64}"), "cannot be asked for by a browser: use letters, digits and . _ @ -"
    ),
    "app_maintenance_retry_after": positive,
    "app_health_interval": positive,
    "app_warmup_paths": each(pattern(REQUEST_PATH, "is not a request target: it starts with a slash, such as /")),
    "app_audit_command": _command,
    "app_migrate_command": _command,
    "app_migrate_timeout": positive,
    "app_hooks": _hooks,
    "app_processes": _processes,
    "app_batch": _batch,
    "app_batch_pause": _pause,
    "app_env": own_environment,
    "app_build_environment": environment,
    "app_static": _static,
    "app_python": pattern(
        re.compile(r"/[A-Za-z0-9._/+-]+|python3(?:\.[0-9]{1,2})?"),
        "is not an interpreter: write a path such as /usr/bin/python3",
    ),
    "app_socket_group": pattern(ACCOUNT, "is not a group name: write one such as www-data"),
    "app_shared_directories": each(
        pattern(
            re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}"), "is not a plain directory name: write one such as uploads"
        )
    ),
    "app_server_requirement": pattern(REQUIREMENT, "is not a requirement: write it as name==version"),
    "app_requirements": each(pattern(REQUIREMENT, "is not a requirement: write it as name==version")),
    "app_packages": each(pattern(PACKAGE, "is not a package name: write one such as libpq5")),
    "app_build_packages": each(pattern(PACKAGE, "is not a package name: write one such as libpq5")),
}


def check_groups(hosts: Sequence[Host]) -> Iterator[Problem]:
    """The inventory has app hosts, and no group that is ours but for its name."""
    names = {group for host in hosts for group in host.groups}
    if "app" not in names:
        alike = sorted(name for name in names if OTHER_GROUP_NAMES.get(name) == "app")
        hint = f" Your group '{alike[0]}' would have to be called 'app'." if alike else ""
        yield Problem("groups", f"no host is in the group 'app': put those that run the application there.{hint}")
    for name in sorted(names):
        meant = OTHER_GROUP_NAMES.get(name)
        if meant and meant not in names and meant != "app":
            yield Problem(
                "groups",
                f"the group '{name}' has no meaning here: did you mean '{meant}'? Rename it, or "
                f"have a group '{meant}' too if it serves another purpose.",
            )


def check_strays(groups: Collection[str], known: Collection[str]) -> Iterator[Problem]:
    """Ansible has taken no file of an application for one of hosts.

    :param groups: all that Ansible knows, also those without hosts.
    """
    for name in sorted(set(groups) & set(known)):
        yield Problem(
            "groups",
            f"'{name}' is the name of a variable: Ansible has read a file of an application as one of hosts. Name the "
            "file of your hosts, such as -i production/hosts.yml, instead of its folder, or have 'ignore_patterns = "
            "^apps$' in the section [inventory] of your ansible.cfg",
        )
        return


def check_addresses(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Every host has an address of its own that can stand in a configuration."""
    owners: dict[str, str] = {}
    members = [host for host in hosts if host.groups & set(GROUPS)]
    for host in members:
        try:
            found = ipaddress.ip_address(host.address)
            if "%" in host.address or found.is_unspecified or found.is_multicast:
                yield Problem(
                    "fleet_address",
                    f"{show(host.address)} of {host.name} is not the address of one host: set it to that at which the "
                    "other hosts reach this one",
                )
                continue
            if found.is_loopback and len(members) > 1:
                yield Problem(
                    "fleet_address",
                    f"{show(host.address)} of {host.name} can be reached by that host alone: set it to the address at "
                    "which the other hosts reach this one",
                )
                continue
        except ValueError:
            if not HOST_NAME.fullmatch(host.address) or "*" in host.address:
                yield Problem(
                    "fleet_address",
                    f"{show(host.address)} of {host.name} is neither an address nor a host "
                    "name: set it to the address at which the other hosts reach this one",
                )
                continue
            if "load_balancer" in host.groups:
                yield Problem(
                    "fleet_address",
                    f"{show(host.address)} of {host.name} is a name: write its address, such as "
                    "10.0.0.10, since app hosts believe a load balancer by the address that it "
                    "comes from",
                )
                continue
        same = host.address.lower()
        with contextlib.suppress(ValueError):
            same = str(ipaddress.ip_address(same))
        if same in owners:
            yield Problem(
                "fleet_address",
                f"{show(host.address)} belongs to both {owners[same]} and {host.name}: "
                "every host needs an address of its own",
            )
        owners[same] = host.name


def check_host_names(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Names of hosts can stand where the load balancer and files on the controller have them."""
    for host in hosts:
        if host.groups & set(GROUPS) and not BACKEND.fullmatch(host.name):
            yield Problem(
                "inventory_hostname",
                f"{show(host.name)} cannot be the name of a host: use up to 63 letters, digits, dots, hyphens and "
                "underscores, and set ansible_host to its address",
            )


def check_ports(hosts: Sequence[Host]) -> Iterator[Problem]:
    """No two services of a host listen on one port."""
    for host in hosts:
        given = host.variables
        listening: list[tuple[str, int]] = []
        if "load_balancer" in host.groups:
            listening += [("load_balancer_port", 80), ("load_balancer_status_port", 8404)]
            if given.get("fleet_tls", "none") != "none" or given.get("load_balancer_tls") is True:
                listening.append(("load_balancer_tls_port", 443))
        if "app" in host.groups:
            listening.append(("fleet_nginx_port", 8080 if "load_balancer" in host.groups else 80))
            listening.append(("nginx_status_port", 8010))
        if "cache" in host.groups:
            listening.append(("redis_port", 6379))
            if sum("cache" in other.groups for other in hosts) > 1:
                listening.append(("redis_sentinel_port", 26379))
        taken: dict[str, str] = {}
        for name, default in listening:
            port = str(given.get(name, default))
            if other := taken.get(port):
                # The one that the inventory sets is the one to change.
                wrong, right = (name, other) if name in given else (other, name)
                yield Problem(wrong, f"{port} is {right} of {host.name} too: write another one")
            taken[port] = name


def check_wiring(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Settings of services that talk to each other, or share a limit, fit each other."""
    for host in hosts:
        given = host.variables
        files, connections = (
            int(str(given.get(name, default)))
            if re.fullmatch(r"[0-9]{1,9}", str(given.get(name, default)))
            else default
            for name, default in (("nginx_worker_open_files", 16384), ("nginx_worker_connections", 4096))
        )
        if "app" in host.groups and files < connections:
            name = "nginx_worker_open_files" if "nginx_worker_open_files" in given else "nginx_worker_connections"
            yield Problem(
                name,
                f"{given[name]} does not fit: {connections} connections of a worker need as many open files at "
                f"least, and it may have {files}: write more of nginx_worker_open_files, or fewer "
                "nginx_worker_connections",
            )
        kept = str(given.get("nginx_upstream_keepalive_timeout", 60))
        server = str(given.get("app_server", "gunicorn"))
        name = f"{server}_keepalive"
        keeping = str(given.get(name, 75))
        if (
            "app" in host.groups
            and server in ("gunicorn", "granian")
            and kept.isascii() and kept.isdigit() and keeping.isascii() and keeping.isdigit()
            and 0 < int(keeping) <= int(kept)
        ):  # fmt: skip
            wrong = name if name in given else "nginx_upstream_keepalive_timeout"
            yield Problem(
                wrong,
                f"{given[wrong]} does not fit: the app server closes idle connections after {keeping} seconds, and "
                f"nginx keeps them for {kept}, so that requests would be lost: write more of {name}, or less of "
                "nginx_upstream_keepalive_timeout",
            )


def check_templates(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Every variable can be evaluated."""
    seen = set()
    for host in hosts:
        for name, reason in host.failures.items():
            if (name, reason) not in seen:
                seen.add((name, reason))
                yield Problem(name, f"cannot be evaluated on {host.name}: {reason}")


def check_fleet_wide(hosts: Sequence[Host]) -> Iterator[Problem]:
    """App hosts agree about the application."""
    members = [host for host in hosts if "app" in host.groups]
    for name in FLEET_WIDE:
        values: dict[str, str] = {}
        for host in members:
            values.setdefault(repr(host.variables.get(name)), host.name)
        if len(values) > 1:
            shown = ", ".join(f"{value[:60]} on {host}" for value, host in values.items())
            yield Problem(name, f"differs between app hosts ({shown}): set it once, for the whole group 'app'")


def check_required(
    hosts: Sequence[Host],
    required: Collection[str],
    known: Collection[str],
    where: str = "in the variables of the group 'app'",
) -> Iterator[Problem]:
    """App hosts have what cannot have a default."""
    examples = {
        "app_name": "a short name for the application, such as shop",
        "app_source": "a git URL, a directory, an archive or 'pypi:name==version'",
        "app_module": "the WSGI callable as package.module:attribute, such as shop:app",
    }
    members = [host for host in hosts if "app" in host.groups]
    for name in sorted(required):
        missing = [h for h in members if name not in h.variables and name not in h.failures]
        if not missing:
            continue
        strangers = {key for key in missing[0].variables if key not in known and key.startswith("app_")}
        alike = difflib.get_close_matches(name, sorted(strangers), 1, 0.8)
        hint = f" (you have set '{alike[0]}')" if alike else ""
        yield Problem(
            name,
            f"is not set for {_names(missing)}{hint}: set it to {examples.get(name, 'a value')}, {where}",
        )


def _names(hosts: Sequence[Host]) -> str:
    names = [host.name for host in hosts]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def check_values(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Single values have the form that they need, and hold no signs that cannot be seen."""
    for host in hosts:
        for name, value in host.variables.items():
            if name not in MULTILINE and (found := not_plain(value)) is not None:
                shown = "the value" if SECRET.search(name) else show(found)
                yield Problem(name, f"{shown} holds a line break or another control character: take it out")
                continue
            if name not in MULTILINE and name != "fleet_address" and (found := too_long(value)) is not None:
                shown = "the value" if SECRET.search(name) else show(found)
                yield Problem(name, f"{shown} has {len(found)} characters: write {LONGEST} at most")
                continue
            check = CHECKS.get(name)
            if check and (text := check(value)):
                yield Problem(name, text)


#: What Ansible says of a value of the wrong type inside of a list or dictionary.
NESTED_TYPE = re.compile(
    r".*'(?P<option>\w+)' is of type .* found in '\w+ -> (?P<where>.*?)'.* unable to convert to (?P<kind>\w+)"
)


def check_specs(hosts: Sequence[Host], specs: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Types and choices are those of the roles' argument specifications."""
    for host in hosts:
        for name, value in host.variables.items():
            spec = specs.get(name)
            if spec is None:
                continue
            only = {k: v for k, v in spec.items() if k not in {"default", "required"}}
            try:
                messages = ArgumentSpecValidator({name: only}).validate({name: value}).error_messages
            except (AttributeError, TypeError):
                # Ansible looks for options in whatever stands in the place of a dictionary, be it a number.
                if not (name in CHECKS and CHECKS[name](value)):
                    yield Problem(name, "holds a single value in the place of a dictionary: write {option: value}")
                continue
            for message in messages:
                text = message.removeprefix(f"argument '{name}' ").rstrip(".")
                if text.startswith("is of type ") and (remedy := REMEDIES.get(str(spec.get("type")))):
                    secret = spec.get("no_log") or name in MULTILINE or SECRET.search(name)
                    text = f"{'is' if secret else show(value) + ' is'} not of type {spec['type']}: write {remedy}"
                elif text.startswith(("dictionary requested", "Elements value for option ")):
                    # The entry itself may be a secret.
                    kind = str(spec.get("elements"))
                    text = (
                        f"holds what is not of type {kind}: write a list of {REMEDIES.get(kind, kind)} for each entry"
                    )
                elif inner := NESTED_TYPE.match(text):
                    kind = inner["kind"]
                    text = (
                        f"{inner['where']}: {inner['option']}: is not of type {kind}: write {REMEDIES.get(kind, kind)}"
                    )
                elif text.startswith("missing required arguments: "):
                    text += ": write it too"
                yield Problem(name, text)


def check_server(hosts: Sequence[Host]) -> Iterator[Problem]:
    """The settings of the app server can work together."""
    for host in hosts:
        if "app" not in host.groups or host.variables.get("app_server", "gunicorn") != "gunicorn":
            continue
        given = {name: value for name, value in host.variables.items() if name.startswith("gunicorn_")}
        for variable, text in problems_of_gunicorn(given):
            yield Problem(variable, text)
        environment = host.variables.get("app_env")
        if isinstance(environment, Mapping) and "GUNICORN_CMD_ARGS" in environment:
            yield Problem(
                "app_env",
                "GUNICORN_CMD_ARGS would stand above the configuration of an instance: write the variables of "
                "the role gunicorn instead",
            )


def check_source(hosts: Sequence[Host]) -> Iterator[Problem]:
    """The source is of a known kind, and what lies on the controller is there."""
    for host in [host for host in hosts if "app" in host.groups][:1]:
        values = host.variables
        if not isinstance(values.get("app_source"), str):
            return
        request = Request(
            values["app_source"],
            str(values.get("app_version", "")),
            str(values.get("app_source_checksum", "")),
            base=host.base,
            verify=str(values.get("app_source_verify", "none")),
            signers=str(values.get("app_source_signers", "")),
        )
        try:
            kind = classify(request)
            check_pinned(request, kind)
            if kind == "package":
                package(request)
            if kind == "package" and values.get("app_require_hashes") in (True, "true", "yes", "on", "1"):
                yield Problem(
                    "app_require_hashes",
                    f"true cannot be kept with app_source {show(request.source)}, since the dependencies of a package "
                    "of an index carry no hashes: take the application from a source that locks them, or write false",
                )
            if kind not in ("file", "url") and request.checksum:
                yield Problem(
                    "app_source_checksum",
                    f"{show(request.checksum)} has no effect, since it is for archives and app_source is none: take "
                    "it out, or name an archive",
                )
        except SourceError as error:
            name, _separator, text = str(error).partition(": ")
            yield Problem(name, text)
            return
        named = values.get("app_dependencies", "auto")
        if (
            kind == "directory"
            and named not in ("auto", "none")
            and PLAIN_PATH.fullmatch(str(named))
            and not Path(request.path, str(named)).is_file()
        ):
            there = ", ".join(sorted(p.name for p in request.path.iterdir())[:12]) or "nothing"
            yield Problem(
                "app_dependencies",
                f"'{named}' is not in {request.path}. At its top there is: {there}. Name the "
                "file as a path from there, or leave the variable out to have one found",
            )


def check_tls(hosts: Sequence[Host], now: datetime, names: Collection[str] | None = None) -> Iterator[Problem]:
    """There is a load balancer where TLS can end, and a certificate that can be used or had.

    :param names: public host names of all applications; by default those of the app hosts' variables.
    """
    for host in hosts:
        tls = host.variables.get("fleet_tls", "none")
        if tls not in TLS:
            yield Problem("fleet_tls", f"{show(tls)} is unknown: write {', '.join(TLS[:-1])} or {TLS[-1]}")
            return
    asking = [host for host in hosts if host.variables.get("fleet_tls", "none") != "none"]
    balancers = [host for host in hosts if "load_balancer" in host.groups]
    if asking and not balancers:
        yield Problem(
            "fleet_tls",
            f"{show(asking[0].variables['fleet_tls'])} needs a host in the group 'load_balancer', since TLS ends "
            "there: put one there, which can be an app host, or write none",
        )
    if names is None:
        names = next((host.variables.get("app_host_names") for host in hosts if "app" in host.groups), None) or []
    for host in balancers:
        tls = host.variables.get("fleet_tls")
        wanted = [str(name) for name in host.variables.get("certificate_host_names") or names]
        problem = None
        if tls == "provided":
            problem = _provided_problem(host, wanted, now)
        elif tls == "acme":
            problem = _acme_problem(host, wanted, len(balancers))
        if problem:
            yield problem
            return


def _provided_problem(host: Host, names: Sequence[str], now: datetime) -> Problem | None:
    file, key_file, text, key_text = (
        str(host.variables.get(f"certificate_{name}") or "") for name in ("file", "key_file", "text", "key_text")
    )
    file, key_file = (_on_controller(host, path) if path else "" for path in (file, key_file))
    try:
        use_provided(file, key_file, text, key_text, names, now)
    except CertificateError as error:
        variable, _separator, reason = str(error).partition(": ")
        return Problem(variable, reason)
    return None


def _acme_problem(host: Host, names: Sequence[str], balancers: int) -> Problem | None:
    """Tell why the load balancers could not get their certificates by ACME.

    :param balancers: how many there are.
    """
    directory, authority = (str(host.variables.get(f"certificate_acme_{name}") or "") for name in ("directory", "ca"))
    try:
        check_issuable(names, public=not authority)
    except CertificateError as error:
        # The one that the inventory sets is the one to change.
        own = host.variables.get("certificate_host_names")
        return Problem("certificate_host_names" if own else "app_host_names", str(error).partition(": ")[2])
    if balancers > MOST_BALANCERS and (not directory or "letsencrypt.org" in directory):
        return Problem(
            "fleet_tls",
            f"'acme' has each of the {balancers} load balancers get a certificate of its own, and Let's Encrypt issues "
            f"five for the same names in a week: have {MOST_BALANCERS} load balancers at most, name another authority "
            "in certificate_acme_directory, or have the certificate made elsewhere and write provided",
        )
    if authority:
        path = _on_controller(host, authority)
        try:
            found = bool(certificate_blocks(Path(path).read_text()))
        except (OSError, UnicodeDecodeError):
            found = False
        if not found:
            return Problem(
                "certificate_acme_ca",
                f"{path} is not a file with a certificate as PEM: write the path on the controller of what the "
                "authority's server is trusted by, or leave it out for a public authority",
            )
    return None


def _on_controller(host: Host, path: str) -> str:
    return str(Path(host.base) / Path(path).expanduser())


def check_cache(hosts: Sequence[Host]) -> Iterator[Problem]:
    """What the app caches in is one thing on all hosts, and has the hosts that it needs."""
    concerned = [host for host in hosts if host.groups & {"app", "cache"}]
    members = [host for host in hosts if "cache" in host.groups]
    chosen: dict[str, str] = {}
    for host in concerned:
        chosen.setdefault(str(host.variables.get("cache_backend", "")), host.name)
    unknown = [value for value in chosen if value not in ("", *BACKENDS)]
    if unknown:
        yield Problem(
            "cache_backend", f"{show(unknown[0])} is unknown: write {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"
        )
        return
    if len(chosen) > 1:
        shown = ", ".join(f"{show(value) if value else 'not set'} on {name}" for value, name in chosen.items())
        yield Problem(
            "cache_backend",
            f"differs between hosts ({shown}): app and cache hosts have to agree, so set it once, in the variables of "
            "the group 'all'",
        )
        return
    backend = next(iter(chosen), "") or ("redis" if members else "simple")
    if backend in CACHE_SERVICES and not members:
        yield Problem(
            "cache_backend",
            f"'{backend}' needs a host in the group 'cache': put one there, which can be an app host, or write simple",
        )
    if backend not in CACHE_SERVICES and members:
        yield Problem(
            "cache_backend",
            f"'{backend}' uses no cache host, and {_names(members)} would be left without a purpose: take the hosts "
            "out of the group 'cache', or write redis or memcached",
        )
    for host in members:
        policy = host.variables.get("redis_memory_policy", "noeviction")
        if host.variables.get("redis_purpose") == "queue" and policy != "noeviction":
            yield Problem(
                "redis_memory_policy",
                f"{show(policy)} would throw entries of a queue away when the memory of {host.name} is full: leave it "
                "out or write noeviction, or give redis_purpose another value",
            )
    named = [host for host in concerned if not re.fullmatch(r"[0-9A-Fa-f.:]+", host.address)]
    if backend == "memcached" and named:
        yield Problem(
            "fleet_address",
            f"{show(named[0].address)} of {named[0].name} is a name: write its address, such as 10.0.0.21, since "
            "memcached knows who may connect by it",
        )
    if backend == "redis":
        yield from check_redis(concerned, members)


def check_redis(concerned: Sequence[Host], members: Sequence[Host]) -> Iterator[Problem]:
    """Hosts of one Redis can choose a primary, and all talk to it in the same way.

    :param concerned: app and cache hosts.
    :param members: cache hosts.
    """
    if len(members) == 2:
        yield Problem(
            "cache_backend",
            f"'redis' cannot be on two hosts, {_names(members)}: when they lose sight of each other, neither can tell "
            "which of them is cut off. Put a third one into the group 'cache', leave one there, or write memcached, "
            "which spreads keys over all",
        )
        return
    tls: dict[bool, str] = {}
    for host in concerned:
        tls.setdefault(host.variables.get("redis_tls", False) is True, host.name)
    if len(tls) > 1:
        yield Problem(
            "redis_tls",
            f"is true on {tls[True]} and not on {tls[False]}: app and cache hosts have to agree, so set it once, in "
            "the variables of the group 'all'",
        )
    if len(members) == 1:
        return
    named = [host for host in members if not re.fullmatch(r"[0-9A-Fa-f.:]+", host.address)]
    if named:
        yield Problem(
            "fleet_address",
            f"{show(named[0].address)} of {named[0].name} is a name: write its address, such as 10.0.0.31, since "
            "Sentinel knows hosts by it",
        )
    for name in ("redis_port", "redis_sentinel_port", "redis_purpose", "redis_persistence", "redis_down_after"):
        values: dict[str, str] = {}
        for host in members:
            values.setdefault(str(host.variables.get(name, "")), host.name)
        if len(values) > 1:
            shown = ", ".join(f"{show(value) if value else 'not set'} on {host}" for value, host in values.items())
            yield Problem(
                name,
                f"differs between cache hosts ({shown}), each of which may become the primary: set it once, in the "
                "variables of the group 'cache'",
            )


def _floating(host: Host) -> list[str]:
    """Return the floating addresses that a host's variables ask for."""
    value = host.variables.get("fleet_floating_address") or []
    return [str(item) for item in (value if isinstance(value, (list, tuple)) else [value]) if item]


def check_floating(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Load balancers agree about addresses that nobody else has, and can tell each other who has them."""
    asking = [host for host in hosts if _floating(host)]
    balancers = [host for host in hosts if "load_balancer" in host.groups]
    name = "fleet_floating_address"
    if not asking or any(floating(item) for host in asking for item in _floating(host)):
        return
    shown = show(", ".join(_floating(asking[0])))
    if not balancers:
        yield Problem(
            name,
            f"{shown} needs a host in the group 'load_balancer' that could have it: put one there, better two, or take "
            "the variable out",
        )
        return
    chosen: dict[str, str] = {}
    for host in balancers:
        chosen.setdefault(", ".join(_floating(host)), host.name)
    if len(chosen) > 1 or "" in chosen:
        told = ", ".join(f"{show(value) if value else 'not set'} on {host}" for value, host in chosen.items())
        yield Problem(
            name,
            f"differs between load balancers ({told}): set it once, in the variables of the group 'load_balancer'",
        )
        return
    wanted = {ipaddress.ip_interface(item).ip: item for item in _floating(balancers[0])}
    owners: dict[int, str] = {}
    for host in hosts:
        with contextlib.suppress(ValueError):
            own = ipaddress.ip_address(host.address)
            if host.groups & set(GROUPS) and own in wanted:
                yield Problem(name, f"{show(wanted[own])} is the address of {host.name}: write one that no host has")
                return
            if "load_balancer" in host.groups:
                owners.setdefault(own.version, host.name)
    if len(owners) > 1:
        yield Problem(
            "fleet_address",
            f"is of IPv4 on {owners[4]} and of IPv6 on {owners[6]}, and load balancers have to tell each other who has "
            f"{shown}: write addresses of one family for all of them",
        )
    elif owners and not any(address.version in owners for address in wanted):
        there = min(owners)
        yield Problem(
            name,
            f"{shown} is not of IPv{there}, by which load balancers reach each other: write an address of IPv{there} "
            "too, in a list, or give the load balancers a fleet_address of the other family",
        )


def check_firewall(hosts: Sequence[Host]) -> Iterator[Problem]:
    """A firewall of the fleet can know its hosts by their addresses.

    That load balancers have addresses, and all hosts of memcached and of several Redis, is checked in any case.
    """
    on = [host for host in hosts if str(host.variables.get("fleet_firewall", "no")).lower() in ON]
    named = [host for host in hosts if "app" in host.groups and not re.fullmatch(r"[0-9A-Fa-f.:]+", host.address)]
    if (
        named
        and any("cache" in host.groups for host in on)
        and not any(host.variables.get("cache_backend") == "memcached" for host in hosts)
    ):
        yield Problem(
            "fleet_address",
            f"{show(named[0].address)} of {named[0].name} is a name: write its address, such as 10.0.0.21, since with "
            "fleet_firewall the cache lets app hosts in by it",
        )


def check_drain(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Load balancers can tell a host that is drained from one that is well."""
    if not any("load_balancer" in host.groups for host in hosts):
        return
    for host in [host for host in hosts if "app" in host.groups][:1]:
        entries = host.variables.get("app_health_status", [])
        if not isinstance(entries, (list, tuple)) or any(map(status_code, entries)):
            return
        accepting = [entry for entry in entries if 404 in range(status_range(entry)[0], status_range(entry)[1] + 1)]
        if accepting:
            yield Problem(
                "app_health_status",
                f"{show(accepting[0])} accepts 404, by which a host that is drained answers its load "
                "balancers: write codes without it, such as 200-403, and an app_health_path that "
                "answers with one of them",
            )


def check_uwsgi(hosts: Sequence[Host]) -> Iterator[Problem]:
    """Settings of uWSGI can work together, where it is the app server."""
    for host in hosts:
        if "app" in host.groups and host.variables.get("app_server") == "uwsgi":
            for variable, text in uwsgi_problems(
                host.variables, str(host.variables.get("app_python", DISTRIBUTION_PYTHON))
            ):
                yield Problem(variable, text)


def check_app_file(
    file: AppFile,
    hosts: Sequence[Host],
    specs: Mapping[str, Mapping[str, Any]],
    required: Collection[str],
    whole: bool = True,
) -> Iterator[Problem]:
    """Check an application as it will be on the app hosts.

    :param hosts: all hosts, without the application's variables.
    :param whole: whether to check more than what the hosts around it need to know.
    """
    if file.error:
        yield Problem(file.path, file.error)
        return
    if not NAME.fullmatch(file.name):
        yield Problem(
            file.path,
            f"'{file.name}' cannot be the name of an account, a directory and a unit: use up to 26 lower-case "
            "letters, digits and hyphens, a letter first, such as shop.yml",
        )
    for name in file.others:
        yield Problem(
            f"{file.path}: {name}",
            "concerns whole hosts and not one application: set it in the variables of a group",
        )
    after = [file.on(host) if "app" in host.groups else host for host in hosts]
    # What is wrong without the file has been told without it.
    before = {
        *check_templates(hosts),
        *check_specs(hosts, specs),
        *check_values(hosts),
        *check_server(hosts),
        *check_source(hosts),
        *check_drain(hosts),
        *check_uwsgi(hosts),
    }
    for problem in (
        *check_templates(after),
        *check_required(after, required, specs.keys(), f"in {file.path}"),
        *check_specs(after, specs),
        *check_values(after),
        *check_server(after),
        *check_source(after),
        *check_drain(after),
        *check_uwsgi(after),
    ):
        if problem not in before and problem.variable != "app_name" and (whole or problem.variable in AROUND):
            yield replace(problem, variable=f"{file.path}: {problem.variable}")


def _host_names(file: AppFile, members: Sequence[Host]) -> list[str]:
    """Return the public host names of an application, as its first app host has them."""
    found = next((file.on(host).variables.get("app_host_names") for host in members), None)
    return [name for name in found if isinstance(name, str)] if isinstance(found, (list, tuple)) else []


def check_together(files: Sequence[AppFile], members: Sequence[Host]) -> Iterator[Problem]:
    """The applications of a fleet can be told from each other by host name, and have names of their own."""
    owners: dict[str, AppFile] = {}
    for file in files:
        for name in _host_names(file, members):
            if owners.setdefault(name, file) is not file:
                yield Problem(
                    f"{file.path}: app_host_names",
                    f"'{name}' is one of {owners[name].path} too: a request cannot be for both",
                )
    nameless = [file for file in files if not _host_names(file, members)]
    if len(nameless) > 1:
        yield Problem(
            f"{nameless[1].path}: app_host_names",
            f"is not set, and neither is that of {nameless[0].path}: only one application can answer for every "
            "other name",
        )
    by_name = {file.name: file for file in files}
    for file in files:
        if other := by_name.get(f"{file.name}-build"):
            yield Problem(
                other.path,
                f"'{other.name}' is the account that builds the application of {file.path}: give one of them another "
                "name",
            )


def check_named(names: Collection[str], named: str | None) -> Iterator[Problem]:
    """It is clear which application a play is about.

    :param names: those of the files; none where the fleet has one application in the variables of its group.
    :param named: ``app_name``, if it is set.
    """
    listed = list(names)
    text = " and ".join([*([", ".join(listed[:-1])] if listed[:-1] else []), *listed[-1:]])
    if not listed:
        return
    if named is None and len(listed) > 1:
        yield Problem("app_name", f"this fleet has the applications {text}: say which one, -e app_name={listed[0]}")
    if named is not None and named not in listed:
        yield Problem(
            "app_name",
            f"{show(named)} is none of the applications of this fleet, {text}: write -e app_name={listed[0]}, or "
            "give it a file",
        )


def check_inventory(
    hosts: Sequence[Host],
    specs: Mapping[str, Mapping[str, Any]],
    required: Collection[str],
    files: Sequence[AppFile] = (),
    named: str | None = None,
    groups: Collection[str] = (),
) -> list[Problem]:
    """Run every check that needs no host.

    :param specs: options of the roles' argument specifications, by variable.
    :param required: variables that app hosts must have, or each application where there are files of them.
    :param files: those of the applications; without any, the fleet has one in the variables of its hosts.
    :param named: the application that a play is about, if that is said.
    :param groups: all that Ansible knows, also those without hosts.
    :returns: problems without repetition, in a stable order.
    """
    members = [host for host in hosts if "app" in host.groups]
    names = [name for file in files for name in _host_names(file, members)] if files else None
    found: list[Problem] = []
    for problem in (
        *check_groups(hosts),
        *check_strays(groups, specs.keys()),
        *check_named([file.name for file in files], named),
        *check_templates(hosts),
        *check_host_names(hosts),
        *check_addresses(hosts),
        *check_required(hosts, () if files else required, specs.keys()),
        *check_specs(hosts, specs),
        *check_values(hosts),
        *check_ports(hosts),
        *check_wiring(hosts),
        *check_server(hosts),
        *check_fleet_wide(hosts),
        *check_source(hosts),
        *check_drain(hosts),
        *check_uwsgi(hosts),
        # What concerns another application alone must not hold up this one.
        *(
            problem
            for file in files
            for problem in check_app_file(file, hosts, specs, required, named in (None, file.name))
        ),
        *check_together([file for file in files if not file.error], members),
        *check_tls(hosts, datetime.now(timezone.utc), names),
        *check_cache(hosts),
        *check_floating(hosts),
        *check_firewall(hosts),
    ):
        if problem not in found and not any(
            problem.variable == other.variable and other.variable not in ("groups", "fleet_address") for other in found
        ):
            found.append(problem)
    return found


def suggest(hosts: Sequence[Host], known: Collection[str]) -> list[str]:
    """List variables that look like a misspelled one of ours, as warnings."""
    names = sorted({name for host in hosts for name in host.variables if name not in known})
    warnings = []
    for name in names:
        alike = difflib.get_close_matches(name, sorted(known), 1, 0.85)
        if alike:
            warnings.append(f"{name} is not a variable of this collection: did you mean {alike[0]}?")
    return warnings


@dataclass(frozen=True)
class Facts:
    """What a host answered.

    :param info: result of the module host_info, or ``None`` when the host was not reached.
    :param error: why not.
    """

    name: str
    groups: frozenset[str]
    info: Mapping[str, Any] | None = None
    error: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)


def check_facts(hosts: Sequence[Facts]) -> list[Problem]:
    """Check what the hosts answered: reachable, supported, ports free.

    ``ports`` of each host names the ports that our services will listen on, by role.
    """
    found = []
    for host in hosts:
        if host.info is None and NO_PRIVILEGES.search(host.error):
            found.append(
                Problem(
                    "ansible_become",
                    f"on {host.name} the account cannot become root: {host.error.strip()}. Allow it to "
                    "use sudo, or give its password with --ask-become-pass",
                )
            )
            continue
        if host.info is None:
            found.append(
                Problem(
                    "ansible_host",
                    f"{host.name} cannot be reached: {host.error.strip() or 'no answer'}. See that "
                    "the address, the account and the key are right (ansible "
                    f"{host.name} -m ping), or leave the host out with --limit",
                )
            )
            continue
        platform = host.info["platform"]
        name, version = str(platform["distribution"]), str(platform["version"])
        oldest = SUPPORTED.get(name)
        if oldest is None or _numbers(version) < oldest:
            found.append(
                Problem(
                    "distribution",
                    f"{host.name} runs {name} {version or '(no version)'}: the roles need Ubuntu "
                    "22.04 or newer, or Debian 12 or newer",
                )
            )
        if _numbers(str(platform["python"])) < OLDEST_PYTHON:
            found.append(
                Problem(
                    "ansible_python_interpreter",
                    f"{host.name} has Python {platform['python']}: 3.10 or newer is needed, "
                    "install it and set this variable to its path",
                )
            )
        # A packaged nginx on the port of the load balancer, as after a first run that was cut short.
        ours = set().union(*(OURS.get(role, set()) for role in host.ports))
        for role, port in host.ports.items():
            for entry in host.info["listening"]:
                if int(entry["port"]) == port and entry["process"] not in ours:
                    found.append(
                        Problem(
                            "port",
                            f"{port} of {host.name} is in use by "
                            f"'{entry['process'] or 'an unknown process'}', where {role} has to "
                            "listen: stop and disable that service, or move it to another port",
                        )
                    )
                    break
    return list(dict.fromkeys(found))


def _numbers(version: str) -> tuple[int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    return (numbers[0] if numbers else 0, numbers[1] if len(numbers) > 1 else 0)


def render(problems: Sequence[Problem], what: str) -> str:
    """Compose one message of all problems."""
    lines = [f"{problem.variable}: {problem.text.rstrip('.')}." for problem in problems]
    if len(lines) == 1:
        return f"{lines[0]} {what}"
    return "\n".join([f"{len(lines)} settings cannot work. {what}", *(f"- {line}" for line in lines)])
