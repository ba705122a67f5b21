# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of single values: whether each can stand where a role puts it, such as in a configuration file.

A check takes a value as the inventory has it, and returns what is wrong and what to write instead, or ``None``.
Nothing here looks at two variables at a time, or at a host.
"""

from __future__ import annotations

import ast
import ipaddress
import keyword
import math
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._build import REQUIREMENT, requirement_name
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import status_range
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ENVIRONMENT_NAME, ReleaseError
from ansible_collections.wsgi.fleet.plugins.module_utils._sandbox import SandboxError, directives

#: A check of one value: returns what is wrong and what to write instead, or ``None``.
Check = Callable[[Any], "str | None"]

NAME = re.compile(r"[a-z][a-z0-9-]{0,25}")
MODULE = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
    r"(?::[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*(?:\([A-Za-z0-9_=, .'-]*\))?)?"
)
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
REQUEST_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1023}")
#: One that nginx, which compares paths without their query after it has decoded and tidied them, and HAProxy, which
#: has quotes of its own, take as it stands.
HEALTH_PATH = re.compile(
    r"(?=.{1,1024}\Z)/(?!/)(?!(?:[^?]*/)?\.{1,2}(?:/|\?|\Z))(?:[A-Za-z0-9._~!&()*+,;=:@-]|/(?!/))*"
    r"(?:\?[A-Za-z0-9._~!$&()*+,;=:@%/?-]*)?"
)
PLAIN_PATH = re.compile(r"(?!(?:.*/)?\.\.(?:/|\Z))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
#: An absolute path on a host that can stand in a unit, in a shell's word and in nginx.conf.
HOST_PATH = re.compile(r"(?=.{2,1024}\Z)(?!.*/\.\.?(?:/|\Z))/[A-Za-z0-9._/@-]+")
LABEL = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199})?")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:=~-]{0,199}")
ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
SITE = re.compile(r"[a-z][a-z0-9-]{0,62}")
BACKEND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
UPSTREAM = re.compile(r"unix:/[A-Za-z0-9._/@-]{1,90}|(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}")
STATIC_URL = re.compile(r"(?=.{1,255}\Z)/(?:(?!\.{1,2}/)[A-Za-z0-9._~-]+/)*")
CACHE_CONTROL = re.compile(r"[A-Za-z0-9=, -]{1,200}")
SIZE = re.compile(r"[0-9]{1,9}[kmgKMG]?|[0-9]{1,15}")
KERNEL_NAME = re.compile(r"[a-z0-9_]+(?:[./][a-zA-Z0-9_-]+)+")
KERNEL_VALUE = re.compile(r"[A-Za-z0-9 _.,:/-]{1,200}")
REDIS_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
REDIS_KEY = re.compile(r"[!#-&(-~]{1,200}")
REDIS_RULE = re.compile(r"[-+~&%()@A-Za-z0-9_|.:*?]{1,200}")
REDIS_DIRECTIVE = re.compile(r"[a-z][a-z0-9-]{0,63}")
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9@:_.-]{0,100}(?<!\.service)")
#: One that can stand in a unit and in a JSON text, and is asked by TLS.
ACME_DIRECTORY = re.compile(r"https://[A-Za-z0-9.\[\]:-]{1,260}/[A-Za-z0-9._~!&()*+,;=:@/?-]{0,1024}")
EMAIL = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,9}")
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
URL = re.compile(r"https?://[A-Za-z0-9.\[\]:-]{1,260}/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1024}")
PYTHON_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Signs for people alone, which no setting needs: they hide what a text says, or end its line.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: The longest text in one line.
LONGEST = 4096

#: Directives of Redis that the role's own variables or its wiring decide.
REDIS_OWNED = frozenset(
    {
        "aclfile", "bind", "daemonize", "dir", "include", "masterauth", "masteruser", "maxmemory", "maxmemory-policy",
        "pidfile", "port", "replicaof", "requirepass", "slaveof", "supervised", "tls-auth-clients", "tls-ca-cert-file",
        "tls-cert-file", "tls-key-file", "tls-port", "tls-replication", "unixsocket", "user",
    }
)  # fmt: skip
#: Keywords of Granian's server that follow from how an instance is wired, as the role granian has them too.
GRANIAN_OWNED = frozenset(
    {
        "address", "env_files", "factory", "http", "http2_settings", "interface", "pid_file", "port", "reload",
        "reload_filter", "reload_ignore_dirs", "reload_ignore_paths", "reload_ignore_patterns",
        "reload_ignore_worker_failure", "reload_paths", "reload_tick", "respawn_failed_workers", "ssl_ca", "ssl_cert",
        "ssl_client_verify", "ssl_crl", "ssl_key", "ssl_key_password", "ssl_protocol_min", "target", "uds",
        "uds_permissions", "websockets", "working_dir",
    }
)  # fmt: skip
#: Rules of a user that would take back its password, or the user itself.
REDIS_UNDOING = frozenset({"nopass", "off", "on", "reset", "resetpass"})
#: Words that begin a section of haproxy.cfg.
HAPROXY_SECTIONS = frozenset(
    {
        "acme", "backend", "cache", "crt-store", "defaults", "dynamic-update", "fcgi-app", "frontend", "global",
        "http-errors", "listen", "log-forward", "log-profile", "mailers", "peers", "program", "resolvers", "ring",
        "traces", "userlist",
    }
)  # fmt: skip


def show(value: Any) -> str:
    """Quote a value for a message, shortened, control characters spelled out."""
    text = ascii(value) if not isinstance(value, str) or not _is_plain(value) else repr(str(value))
    return text if len(text) <= 80 else f"{text[:77]}…"


def _is_plain(text: str) -> bool:
    """Tell whether a text looks like what it is."""
    return not any(unicodedata.category(sign) in INVISIBLE for sign in text)


def _text_in(value: Any, wrong: Callable[[str], bool]) -> str | None:
    """Return the first text in a value, keys included, that is wrong; none where there is none."""
    if isinstance(value, str):
        return value if wrong(value) else None
    if isinstance(value, Mapping):
        # The directives of a site can take several lines.
        items: list[Any] = [*value.keys(), *(item for key, item in value.items() if key != "extra")]
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        return None
    return next((found for item in items if (found := _text_in(item, wrong)) is not None), None)


def not_plain(value: Any) -> str | None:
    """Return a text in a value that holds a line break, or a sign that is not to be seen; none where there is none."""
    return _text_in(value, lambda text: not _is_plain(text))


def too_long(value: Any) -> str | None:
    """Return a text in a value that no line of a file should hold; none where there is none."""
    return _text_in(value, lambda text: len(text) > LONGEST)


# What checks are made of


def pattern(wanted: re.Pattern[str], remedy: str) -> Check:
    """Make a check for texts of a form."""

    def check(value: Any) -> str | None:
        if isinstance(value, str) and wanted.fullmatch(value):
            return None
        return f"{show(value)} {remedy}"

    return check


def each(check: Check) -> Check:
    """Make a check for lists of what another check is for."""

    def check_all(value: Any) -> str | None:
        if not isinstance(value, (list, tuple)):
            return f"{show(value)} is not a list: write one, such as [a, b]"
        return next((found for item in value if (found := check(item))), None)

    return check_all


def whole(least: int, most: int) -> Check:
    """Make a check for whole numbers, as digits that every program reads alike."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,15}", str(value)):
            return f"{show(value)} is not a whole number: write one from {least} to {most}"
        if not least <= int(value) <= most:
            return f"{show(value)} is out of range: write a whole number from {least} to {most}"
        return None

    return check


def number(least: float, most: float) -> Check:
    """Make a check for numbers with or without a fraction."""

    def check(value: Any) -> str | None:
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?:e-?[0-9]{1,3})?", text):
            return f"{show(value)} is not a number: write one from {least:g} to {most:g}"
        if not least <= float(text) <= most:
            return f"{show(value)} is out of range: write a number from {least:g} to {most:g}"
        return None

    return check


def health_path(value: Any) -> str | None:
    """Check a request target that nginx compares and HAProxy asks for as it stands."""
    if isinstance(value, str) and HEALTH_PATH.fullmatch(value):
        return None
    if isinstance(value, str) and REQUEST_PATH.fullmatch(value):
        return (
            f"{show(value)} would be another path for nginx or HAProxy: write one without quotation marks, $ and % "
            "before the query, and without // and .. in it"
        )
    return f"{show(value)} is not a request target: it starts with a slash, such as /health"


def positive(value: Any) -> str | None:
    """Check a number above 0."""
    try:
        if not isinstance(value, bool) and math.isfinite(float(value)) and float(value) > 0 and str(value).isascii():
            return None
    except (TypeError, ValueError):
        pass
    return f"{show(value)} must be a number above 0"


def switch(value: Any) -> str | None:
    """Check what a template asks for as it is, where each text that is not empty would be true."""
    if isinstance(value, bool):
        return None
    return f"{show(value)} is neither true nor false: write one of them without quotes; by -e as '{{\"name\": false}}'"


def loose_switch(value: Any) -> str | None:
    """Check what is turned into true or false where it is used, and so may be given by ``-e name=true``."""
    if isinstance(value, bool) or str(value).lower() in {"true", "false", "yes", "no", "on", "off", "1", "0"}:
        return None
    return f"{show(value)} is neither true nor false: write one of them"


def chosen(value: Any) -> str | None:
    """Check what is one of several words; which, the argument specification says."""
    return None if isinstance(value, str) and value else f"{show(value)} is not a word: write one of those there are"


def network(value: Any) -> str | None:
    """Check an address, or a network with the length of its prefix."""
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F.:]+(?:/[0-9]{1,3})?", value):
            ipaddress.ip_network(value, strict=False)
            # An address of nobody, by which the resolver says that a text is none: nginx refuses it too.
            if value.partition("/")[0] != "255.255.255.255":
                return None
    except ValueError:
        pass
    return f"{show(value)} is neither an address nor a network: write one such as 203.0.113.7 or 203.0.113.0/24"


def address(value: Any) -> str | None:
    """Check an address."""
    try:
        if isinstance(value, str) and "%" not in value:
            ipaddress.ip_address(value)
            return None
    except ValueError:
        pass
    return f"{show(value)} is not an address: write one such as 203.0.113.7"


def floating(value: Any) -> str | None:
    """Check an address that hosts can have one after the other, with the length of its prefix or without."""
    try:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F.:]+(?:/[0-9]{1,3})?", value):
            raise ValueError
        found = ipaddress.ip_interface(value)
    except ValueError:
        return f"{show(value)} is not an address: write one such as 203.0.113.100 or 203.0.113.100/24"
    if found.ip.is_unspecified or found.ip.is_loopback or found.ip.is_link_local or found.ip.is_multicast:
        return (
            f"{show(value)} is not an address that a host can take over: write one of the network's, such as 10.0.0.100"
        )
    if found.network.num_addresses > 2 and found.ip in (found.network.network_address, found.network.broadcast_address):
        return f"{show(value)} stands for its whole network: write the address of one host, such as 203.0.113.100/24"
    return None


def _all_floating(value: Any) -> str | None:
    if found := each(floating)(value):
        return found
    hosts = [ipaddress.ip_interface(item).ip for item in value]
    twice = next((item for item, host in zip(value, hosts, strict=True) if hosts.count(host) > 1), None)
    return f"{show(twice)} is there twice: take one of them out" if twice is not None else None


def _floating(value: Any) -> str | None:
    if value == "" or value is None:
        return None
    return _all_floating(value if isinstance(value, (list, tuple)) else [value])


def secret(least: int = 1) -> Check:
    """Make a check for secrets, which are not shown."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "is not text: put it in quotes"
        if len(value) < least:
            return f"is shorter than {least} characters, and so can be guessed: write a longer one"
        return None

    return check


def environment(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return "is not a dictionary: write NAME: value pairs"
    for name, content in value.items():
        if not ENVIRONMENT_NAME.fullmatch(str(name)):
            return (
                f"{show(name)} cannot be the name of an environment variable: use letters, "
                "digits and underscores, and no digit first"
            )
        if not isinstance(content, str):
            # Ansible's own types derive from those that people know.
            kind = next(base.__name__ for base in type(content).__mro__ if base.__module__ == "builtins")
            return f"the value of {name} is not text but {kind}: environment variables are text, put it in quotes"
        if "\0" in content:
            return f"the value of {name} holds a NUL byte: take it out"
        if any(unicodedata.category(sign) == "Cs" for sign in content):
            return f"the value of {name} holds half a character, which cannot be written as UTF-8: take it out"
    return None


def own_environment(value: Any) -> str | None:
    if found := environment(value):
        return found
    # What the file of a release says wins over what its unit says.
    taken = sorted(
        {"APP_NAME", "APP_RELEASE", "APP_SHARED", "APP_VERSION", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY"} & set(value)
    )
    return f"{taken[0]} is what an instance is told of itself: use another name" if taken else None


def _requirement_of(name: str) -> Check:
    def check(value: Any) -> str | None:
        try:
            if (
                isinstance(value, str)
                and REQUIREMENT.fullmatch(value)
                and ";" not in value
                and re.sub(r"[-_.]+", "-", requirement_name(value)).lower() == name
            ):
                return None
        except ReleaseError:
            pass
        return f"{show(value)} is not a requirement for {name}: write {name}==version"

    return check


# What single roles take


def _key(value: Any) -> str | None:
    if isinstance(value, str) and (not value or value.lstrip().startswith("-----BEGIN ")):
        return None
    return "is not the text of a private key: write the text itself, as lookup('ansible.builtin.file', …) reads it"


def _pem(value: Any) -> str | None:
    if isinstance(value, str) and (not value or "-----BEGIN " in value):
        return None
    return (
        "is not PEM: write the text itself, with its lines BEGIN and END, as lookup('ansible.builtin.file', …) reads it"
    )


def _sandbox(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write what the service needs, such as {{network: true}}"
    try:
        directives(value)
    except SandboxError as error:
        return f"{error}"
    return None


def _profiles(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write a profile by the name of each unit"
    for unit, needs in value.items():
        if not isinstance(unit, str) or not UNIT.fullmatch(unit):
            return f"{show(unit)} is not the name of a service: write it without .service, such as nginx"
        if found := _sandbox(needs):
            return f"{unit}: {found}"
    return None


def _sysctl(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write settings such as net.core.somaxconn: 4096"
    for name, content in value.items():
        if not isinstance(name, str) or not KERNEL_NAME.fullmatch(name) or len(name) > 128 or ".." in name:
            return f"{show(name)} is not the name of a kernel setting: write one such as net.core.somaxconn"
        if isinstance(content, (bool, float)) or not KERNEL_VALUE.fullmatch(str(content)):
            return f"{name}: {show(content)} cannot be the value of a kernel setting: write a whole number or words"
    return None


def _balancers(value: Any) -> str | None:
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(entry, Mapping) or set(entry) != {"name", "url"} or not URL.fullmatch(str(entry["url"])):
            return f"{show(entry)} must have name and url, such as {{name: lb1, url: http://127.0.0.1/}}"
    return None


def _size_of_host(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write cpus and memory_mb"
    for name in ("cpus", "memory_mb"):
        if name in value and (found := whole(1, 1 << 30)(value[name])):
            return f"{name}: {found}"
    return None


#: What nginx.conf is made of: space, comments, signs, quotations and words.
NGINX_TOKEN = re.compile(
    r"\s+|#[^\n]*|[{};]|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|(?![\"'#])(?:\\.|\$\{\w*\}|[^\s{};\\])+", re.DOTALL
)


def nginx_directives(value: Any) -> str | None:
    """Check that directives for nginx begin and end nothing but themselves."""
    if not isinstance(value, str):
        return f"{show(value)} is not text: write directives as in nginx.conf"
    depth, last, place = 0, ";", 0
    while place < len(value) and (match := NGINX_TOKEN.match(value, place)):
        token, place = match[0], match.end()
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return "closes a block that it has not opened: every } needs its { before it"
        if not token.isspace() and not token.startswith("#"):
            last = token
    if place < len(value) or depth or last not in (";", "}"):
        return "ends within a directive or a block: write the ; or } or the quotation mark that is missing"
    return None


def haproxy_directives(value: Any) -> str | None:
    """Check that directives for a section of haproxy.cfg begin no other one."""
    if not isinstance(value, str):
        return f"{show(value)} is not text: write directives as in haproxy.cfg"
    for line in value.splitlines():
        word = (line.split() or [""])[0].lower()
        if word in HAPROXY_SECTIONS or word.startswith("."):
            return f"{show(word)} begins a section of its own: write directives of a frontend alone"
        if line.rstrip().endswith("\\"):
            return f"{show(line.strip())} takes the next line in: take the backslash at its end out"
        try:
            shlex.split(line, comments=True)
        except ValueError:
            return f"{show(line.strip())} has a quotation mark or a backslash without what ends it: write that too"
    return None


def _entries(value: Any, what: str, example: str) -> Iterator[Mapping[str, Any] | str]:
    """Yield the entries of a list of dictionaries, or a text that says what is wrong with one."""
    if not isinstance(value, (list, tuple)):
        yield f"{show(value)} is not a list: write [{example}]"
        return
    for entry in value:
        yield entry if isinstance(entry, Mapping) else f"{show(entry)} is not {what}: write {example}"


def _first(entry: Mapping[str, Any], checks: Mapping[str, Check]) -> str | None:
    """Return what is wrong with the first field of an entry that is, by its name."""
    return next(
        (f"{name}: {text}" for name, check in checks.items() if name in entry and (text := check(entry[name]))), None
    )


def _twice(names: list[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


def _named(value: Any, what: str, example: str, checks: Mapping[str, Check]) -> str | None:
    """Return what is wrong with a list of dictionaries, of which no two may have one name.

    :param what: what an entry is, with its article.
    """
    names = []
    for entry in _entries(value, what, example):
        if isinstance(entry, str):
            return entry
        if found := _first(entry, checks):
            return found
        names.append(str(entry.get("name")))
    twice = _twice(names)
    return f"name: '{twice}' is that of two {what.partition(' ')[2]}s: give one of them another" if twice else None


_host_name = pattern(HOST_NAME, "is not a host name: write it in lower case, such as shop.example.com")
_host_path = pattern(HOST_PATH, "is not the absolute path of a file on the host: write one such as /srv/shop/page.html")
_port = whole(1, 65535)


def status_code(value: Any) -> str | None:
    """Check a status of HTTP, or a range of them."""
    try:
        status_range(value)
    except ReleaseError as error:
        # The value once more, shortened and with its control characters spelled out.
        return show(value) + str(error).removeprefix(f"'{value}'")
    return None


def _upstream(value: Any) -> str | None:
    if isinstance(value, str) and UPSTREAM.fullmatch(value):
        port = value.rpartition(":")[2]
        if value.startswith("unix:") or not _port(port):
            return None
    return f"{show(value)} is not an upstream: write unix:/path/to/socket or address:port"


def _site_static(value: Any) -> str | None:
    urls = []
    for entry in _entries(value, "a directory", "{url: /static/, path: /srv/shop/static}"):
        if isinstance(entry, str):
            return entry
        url = pattern(STATIC_URL, "must start and end with a slash, such as /static/")
        if found := _first(entry, {"url": url, "path": _host_path}):
            return found
        urls.append(str(entry.get("url")))
    if "/" in urls:
        return "url: '/' would take every request from the application: write one such as /static/"
    twice = _twice(urls)
    return f"url: '{twice}' is there twice: take one of them out" if twice else None


def _maintenance(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write page and so on"
    bare = pattern(
        re.compile(HEALTH_PATH.pattern + r"(?<!\?)"), "is not a path: write one such as /health, without a query"
    )
    return _first(
        value, {"page": _host_path, "retry_after": whole(1, 31536000), "allow": each(network), "pass": each(bare)}
    )


def _response_cache(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write seconds and so on"
    return _first(value, {"seconds": whole(1, 3600), "path": _host_path})


def _client_limit(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write requests, connections or both"
    return _first(value, {"requests": whole(1, 100000), "connections": whole(1, 65535)})


def _sites(value: Any) -> str | None:
    checks: dict[str, Check] = {
        "name": pattern(SITE, "cannot be the name of a site: use lower-case letters, digits and hyphens"),
        "server_names": each(_host_name),
        "listen": _port,
        "upstream": _upstream,
        "static": _site_static,
        "maintenance": _maintenance,
        "buffering": switch,
        "cache": _response_cache,
        "limit": _client_limit,
        "extra": nginx_directives,
    }
    return _named(value, "a site", "{name: shop, upstream: 'unix:/srv/shop/app.sock'}", checks)


def _servers(value: Any) -> str | None:
    checks: dict[str, Check] = {
        "name": pattern(BACKEND, "cannot be the name of a server: use letters, digits, dots, hyphens and underscores"),
        "address": server_address,
        "port": _port,
        "weight": whole(1, 256),
        "backup": switch,
    }
    return _named(value, "a server", "{name: app1, address: 10.0.0.21, port: 80}", checks)


def server_address(value: Any) -> str | None:
    """Check an address or a host name."""
    if not address(value) or (isinstance(value, str) and HOST_NAME.fullmatch(value) and "*" not in value):
        return None
    return f"{show(value)} is neither an address nor a host name: write one such as 10.0.0.21"


sticky_cookie = pattern(
    re.compile(r"[A-Za-z0-9_-]{0,64}"), "cannot be the name of a cookie: use letters, digits, hyphens and underscores"
)


def _backends(value: Any) -> str | None:
    checks: dict[str, Check] = {
        "name": pattern(BACKEND, "cannot be the name of a backend: use letters, digits, dots, hyphens and underscores"),
        "host_names": each(_host_name),
        "servers": _servers,
        "health_path": health_path,
        "health_host": health_host,
        "health_status": each(status_code),
        "cookie": sticky_cookie,
        "wait": switch,
    }
    return _named(value, "a backend", "{name: shop, servers: [{name: app1, address: 10.0.0.21}]}", checks)


#: Who may come in by a rule of the firewall, and how.
_FIREWALL: Mapping[str, Check] = {
    "port": _port,
    "protocol": pattern(re.compile(r"tcp|udp"), "is no protocol with ports: write tcp or udp"),
    "from": each(network),
}


def _firewall_allow(value: Any) -> str | None:
    example = "{port: 9100, from: [10.0.0.0/24]}"
    for entry in _entries(value, "what may come in", example):
        if isinstance(entry, str):
            return entry
        if unknown := sorted(set(map(str, entry)) - set(_FIREWALL)):
            return f"{show(unknown[0])} means nothing there: write entries such as {example}"
        if "port" not in entry:
            return f"{show(entry)} has no port: write one such as {example}"
        if found := _first(entry, _FIREWALL):
            return found
    return None


def _firewall_services(value: Any) -> str | None:
    example = "{name: cache, port: 6379, from: [10.0.0.21]}"
    name = pattern(BACKEND, "cannot stand in a comment: use letters, digits, dots, hyphens and underscores")
    protocol = pattern(re.compile(r"tcp|udp|vrrp"), "is none that can be let in: write tcp, udp or vrrp")
    for entry in _entries(value, "a service", example):
        if isinstance(entry, str):
            return entry
        if "name" not in entry or ("port" in entry) != (entry.get("protocol") != "vrrp"):
            return f"{show(entry)} needs a name, and a port unless it is vrrp: write one such as {example}"
        if found := _first(entry, {**_FIREWALL, "name": name, "protocol": protocol}):
            return found
    return None


health_host = pattern(
    re.compile(r"(?!\*)(?:" + HOST_NAME.pattern.replace(r"\Z", r"(?::|\Z)") + r")(?::[0-9]{1,5})?"),
    "is not a host name: write one such as shop.example.com, with a port behind it if need be",
)


def _redis_bind(value: Any) -> str | None:
    bare = value.removeprefix("-") if isinstance(value, str) else value
    if bare in ("*", "::*") or not server_address(bare):
        return None
    return (
        f"{show(value)} is not an address to listen on: write one such as 10.0.0.30, with - before it if it may be"
        " missing"
    )


#: What the role decides itself, by a variable or in its unit.
MEMCACHED_OWNED = re.compile(
    r"-[lpUumcIsdPhVSY]|--(?:listen|port|udp-port|user|memory-limit|conn-limit|max-item-size|unix-socket|daemon|pidfile"
    r"|enable-sasl|auth-file)(?![A-Za-z0-9-])"
)


def _memcached_option(value: Any) -> str | None:
    if not isinstance(value, str) or not re.fullmatch(r"-[A-Za-z0-9-]+(?:[ =][A-Za-z0-9_.,:=/-]+)?", value):
        return f"{show(value)} is not one option with its value: write one such as '-t 8' or '-o modern'"
    if MEMCACHED_OWNED.match(value):
        return f"{show(value)} is decided by a variable of the role, or by its unit: take it out"
    return None


def _redis_users(value: Any) -> str | None:
    names = []
    for user in _entries(value, "a user", "{name: shop, password: '…', keys: ['shop:*']}"):
        if isinstance(user, str):
            # An entry may be the password itself.
            return "holds what is not a user: write [{name: shop, password: '…', keys: ['shop:*']}]"
        name = str(user.get("name"))
        if name.startswith("fleet."):
            return f"{show(name)} is a name for users of Sentinel and replicas: give it another one"
        if not REDIS_USER.fullmatch(name) or name == "default":
            return (
                f"{show(name)} cannot be the name of a user: use letters, digits and . _ -, and not default, which"
                " is off"
            )
        if found := secret()(user.get("password", "x")):
            return (
                f"the password of '{name}'"
                f" {found.replace('is shorter than 1 characters, and so can be guessed', 'is empty')}"
            )
        key = pattern(REDIS_KEY, "cannot be a pattern of keys: leave spaces and quotation marks out, as in shop:*")
        rule = pattern(REDIS_RULE, "is not a rule of Redis: write one such as +flushdb")
        if found := _first(user, {"keys": each(key), "channels": each(key), "rules": each(rule)}):
            return f"'{name}': {found}"
        if undoing := sorted(REDIS_UNDOING & {str(item).lower() for item in user.get("rules") or []}):
            return f"'{name}': the rule '{undoing[0]}' would undo its name or password: take it out"
        names.append(name)
    twice = _twice(names)
    return f"'{twice}' is the name of two users: give one of them another" if twice else None


def _nodes(example: str) -> Check:
    checks: dict[str, Check] = {
        "name": pattern(BACKEND, "cannot be the name of a host: use letters, digits, dots, hyphens and underscores"),
        "address": address,
    }
    return lambda value: _named(value, "a host", example, checks)


def _redis_settings(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write directives of redis.conf by name"
    for name, values in value.items():
        if not isinstance(name, str) or not REDIS_DIRECTIVE.fullmatch(name):
            return f"{show(name)} is not the name of a directive: write it alone and in lower case, such as maxclients"
        if name in REDIS_OWNED:
            return (
                f"'{name}' is decided by a variable of this role: take it out, and see the role's README for the"
                " variable"
            )
        for item in values if isinstance(values, (list, tuple)) else [values]:
            if not isinstance(item, (str, int, float)):
                return (
                    f"{name}: {show(item)} cannot stand in a line: write a text, a number, true or false, or a list of"
                    " these"
                )
            try:
                shlex.split(str(item))
            except ValueError:
                return f"{name}: {show(item)} has a quotation mark or a backslash without what ends it: write that too"
    return None


def callable_text(value: Any) -> str | None:
    """Check a WSGI callable, or a call with literals that returns one."""
    module, _colon, attribute = str(value).partition(":")
    try:
        call = ast.parse(attribute or "application", mode="eval").body
        if isinstance(call, ast.Call):
            for part in (*call.args, *(item.value for item in call.keywords)):
                ast.literal_eval(part)
            call = call.func
        while isinstance(call, ast.Attribute):
            call = call.value
        names = [*module.split("."), *([call.id] if isinstance(call, ast.Name) else [""])]
        if all(name.isidentifier() and name.isascii() and not keyword.iskeyword(name) for name in names):
            return None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return f"{show(value)} is not a WSGI callable: write package.module:attribute, such as shop:app"


def _instance(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: leave it to the role app"
    account = pattern(ACCOUNT, "is not the name of an account or a group")
    checks: dict[str, Check] = {
        "name": pattern(NAME, "cannot be the name of a unit: use up to 26 lower-case letters, digits and hyphens"),
        "directory": pattern(HOST_PATH, "is not the absolute path of a directory: write one such as /srv/shop"),
        "module": callable_text,
        "user": account,
        "group": account,
        "socket_group": account,
        "environment": environment,
        "sandbox": each(pattern(re.compile(r"[A-Z][A-Za-z]+=[ -~]*"), "is no directive of a unit: write Name=value")),
        "middleware": each(pattern(PYTHON_NAME, "is not the name of a module: write it without .py")),
    }
    return _first(value, checks)


def _candidates(value: Any) -> str | None:
    for entry in _entries(value, "a candidate", "{gunicorn_workers: 2, gunicorn_threads: 8}"):
        if isinstance(entry, str):
            return entry
        for name in entry:
            if name != "app_server" and not re.fullmatch(r"(?:gunicorn|uwsgi|granian)_[a-z_]{1,60}", str(name)):
                return f"{show(name)} is no variable of an app server: write one such as gunicorn_threads"
    return None


def count(what: str) -> Check:
    """Make a check for a number of processes or threads, or ``auto``."""

    def check(value: Any) -> str | None:
        if not isinstance(value, bool) and re.fullmatch(r"auto|[1-9][0-9]{0,3}", str(value)):
            return None
        return f"{show(value)} is not a number of {what}: write a number from 1 on, or auto"

    return check


def _none_or_from(least: int, most: int, why: str) -> Check:
    """Make a check for a number of seconds with a least value, or 0 for never."""

    def check(value: Any) -> str | None:
        if found := whole(0, most)(value):
            return found
        if 0 < int(value) < least:
            return f"{show(value)} {why}: write a number of seconds from {least} on, or 0 for never"
        return None

    return check


def _keywords(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{show(value)} is not a dictionary: write keywords of Granian's server by name"
    if owned := sorted(GRANIAN_OWNED & {str(name) for name in value}):
        return f"{', '.join(owned)} follows from how an instance is wired and cannot be set: take it out"
    wrong = next((name for name in value if not isinstance(name, str) or not PYTHON_NAME.fullmatch(name)), None)
    return (
        f"{show(wrong)} is not the name of a keyword: write one such as runtime_threads" if wrong is not None else None
    )


_path = pattern(re.compile(r"[^\0]{1,1000}"), "is not a path: write one of up to 1000 characters")
_path_or_none = pattern(re.compile(r"[^\0]{0,1000}"), "is not a path: write one of up to 1000 characters")
_package = pattern(PACKAGE, "is not a package name: write one such as libpq5")
_label = pattern(LABEL, "is no name of a deploy, a release or a version: write one that history.yml shows")
_size = pattern(SIZE, "is not a size: write a number of bytes, or one with k, m or g")
_seconds = number(0, 86400)

#: Each whole number, with the least and the most that the service or the role can take.
WHOLE: Mapping[str, tuple[int, int]] = {
    "app_warmup_requests": (1, 10000),
    "app_micro_cache": (0, 3600),
    "app_client_requests": (0, 100000),
    "app_client_connections": (0, 65535),
    "app_keep_releases": (0, 1000),
    "app_lost_timeout": (0, 86400),
    "app_profile_rate": (1, 1000),
    "certificate_days": (3, 398),
    "granian_graceful_timeout": (1, 86400),
    "granian_keepalive": (1, 86400),
    "granian_backlog": (128, 65535),
    "granian_backpressure": (128, 1000000),
    "granian_workers_max_rss": (0, 1048576),
    "gunicorn_worker_connections": (0, 1000000),
    "gunicorn_timeout": (0, 86400),
    "gunicorn_request_timeout": (0, 86400),
    "gunicorn_graceful_timeout": (1, 86400),
    "gunicorn_keepalive": (0, 86400),
    "gunicorn_max_requests": (0, 1000000000),
    "gunicorn_max_requests_jitter": (0, 1000000000),
    "firewall_rollback_after": (5, 3600),
    "host_package_lists_age": (0, 31536000),
    "host_reboot_timeout": (1, 86400),
    "load_balancer_port": (1, 65535),
    "load_balancer_tls_port": (1, 65535),
    "load_balancer_router_id": (1, 255),
    "load_balancer_status_port": (1, 65535),
    "load_balancer_hsts_max_age": (0, 63072000),
    "load_balancer_check_interval": (1, 3600),
    "load_balancer_check_fall": (1, 100),
    "load_balancer_check_rise": (1, 100),
    "load_balancer_request_timeout": (1, 86400),
    "load_balancer_slow_start": (0, 86400),
    "load_balancer_server_requests": (0, 1000000),
    "load_balancer_queue_timeout": (1, 86400),
    "load_balancer_keepalive_timeout": (1, 86400),
    "load_balancer_client_timeout": (1, 86400),
    "load_balancer_server_timeout": (1, 86400),
    "load_balancer_connect_timeout": (1, 3600),
    "load_balancer_drain_timeout": (1, 86400),
    "memcached_port": (1, 65535),
    "memcached_memory_mb": (16, 16777216),
    "memcached_value_mb": (1, 1024),
    "memcached_connections": (1, 1000000),
    "nginx_worker_connections": (64, 1000000),
    "nginx_worker_open_files": (64, 1000000),
    "nginx_client_header_timeout": (1, 86400),
    "nginx_client_body_timeout": (1, 86400),
    "nginx_send_timeout": (1, 86400),
    "nginx_keepalive_timeout": (0, 86400),
    "nginx_upstream_keepalive": (1, 100000),
    "nginx_upstream_keepalive_timeout": (1, 86400),
    "nginx_proxy_read_timeout": (1, 86400),
    "nginx_status_port": (1, 65535),
    "redis_port": (1, 65535),
    "redis_memory_mb": (16, 16777216),
    "redis_connections": (1, 1000000),
    "redis_sentinel_port": (1, 65535),
    "redis_down_after": (200, 60000),
    "tune_connections": (1, 1000),
    "tune_rounds": (1, 100),
    "uwsgi_cheaper": (0, 9999),
    "uwsgi_cheaper_initial": (0, 9999),
    "uwsgi_cheaper_step": (1, 9999),
    "uwsgi_harakiri": (0, 86400),
    "uwsgi_graceful_timeout": (1, 86400),
    "uwsgi_socket_timeout": (1, 86400),
    "uwsgi_listen": (1, 65535),
    "uwsgi_buffer_size": (4096, 65535),
    "uwsgi_max_requests": (0, 1000000000),
    "uwsgi_reload_on_rss": (0, 1048576),
    "uwsgi_offload_threads": (0, 1000),
    "fleet_nginx_port": (1, 65535),
    "fleet_weight": (1, 256),
}

#: What templates and conditions ask for as it is.
SWITCHES = (
    "app_install", "app_primary", "fleet_backup", "certificate_install", "firewall_install", "firewall_keep",
    "granian_access_log", "gunicorn_access_log", "gunicorn_preload", "host_time_sync",
    "load_balancer_access_log", "load_balancer_hsts_include_subdomains", "load_balancer_install",
    "load_balancer_ipv6", "load_balancer_redirect_http", "load_balancer_tls", "memcached_install",
    "nginx_access_log", "nginx_gzip", "nginx_install", "nginx_ipv6", "preflight_contact", "redis_install",
    "redis_persistence", "redis_tls", "uwsgi_access_log", "uwsgi_stats",
)  # fmt: skip
#: What is turned into true or false first.
LOOSE_SWITCHES = (
    "app_profile_idle", "app_profile_nonblocking", "app_require_hashes", "certificate_hide_secrets",
    "certificate_renew", "fleet_firewall", "load_balancer_drain_last", "redis_hide_secrets", "tune_live",
)  # fmt: skip
#: What is one of the words of its argument specification.
CHOICES = (
    "app_cache_module",
    "app_maintenance", "app_profiler", "app_server", "app_source_verify", "app_workload", "certificate_method",
    "firewall_state", "granian_log_level", "host_reboot",
    "gunicorn_log_level", "gunicorn_worker_class", "load_balancer_algorithm", "load_balancer_tls_profile",
    "redis_memory_policy", "redis_purpose", "uwsgi_package",
)  # fmt: skip

#: What a single value must be like, beside its type.
VALUES: Mapping[str, Check] = {
    **{name: whole(*limits) for name, limits in WHOLE.items()},
    **dict.fromkeys(SWITCHES, switch),
    **dict.fromkeys(LOOSE_SWITCHES, loose_switch),
    **dict.fromkeys(CHOICES, chosen),
    **dict.fromkeys(("granian_instance", "gunicorn_instance", "uwsgi_instance"), _instance),
    "app_break_lock": _label,
    "app_cache_directory": _path,
    "app_check_balancers": _balancers,
    "app_check_urls": each(pattern(URL, "is not a URL: write one such as http://127.0.0.1/health")),
    "app_default_env": environment,
    "app_deployer": pattern(re.compile(r"[^\0]{0,200}"), "is not a name: write up to 200 characters"),
    "app_drain_delay": _seconds,
    "app_host": _size_of_host,
    "app_lock_lease": number(1, 31536000),
    "app_maintenance_page": _path_or_none,
    "app_process_settle": _seconds,
    "app_profile_directory": _path,
    "app_profile_requirement": _requirement_of("py-spy"),
    "app_profile_seconds": number(0.1, 3600),
    # Without a profiler there is none.
    "app_profiler_password": lambda value: None if value == "" else secret(12)(value),
    "app_profiler_requirement": _requirement_of("flask-profiler"),
    "app_release_key": secret(0),
    "app_rollback_to": _label,
    "app_sandbox": _sandbox,
    "app_source_exclude": each(
        pattern(re.compile(r"(?!/)(?!(?:.*/)?\.\.(?:/|\Z))[^\0]{1,1000}"),
                "leaves nothing out: write a name or a path from the top of the source, such as docs/*")
    ),
    "app_source_key": _key,
    "app_source_signers": pattern(
        re.compile(r"[ -~\n]*"), "holds more than ASCII: write lines such as alice@example.com ssh-ed25519 AAAA…"
    ),
    "app_audit_requirement": pattern(
        re.compile(rf"(?!.*;)(?:{REQUIREMENT.pattern})?"), "is not a requirement: write it as name==version"
    ),
    "app_source_token": pattern(re.compile(r"[!-~]{0,4096}"), "cannot be a token: use signs of ASCII alone"),
    "app_uv_requirement": _requirement_of("uv"),
    "certificate_acme_ca": _path_or_none,
    "certificate_acme_directory": pattern(
        ACME_DIRECTORY,
        "is not the URL of an authority's directory: write one such as https://acme-v02.api.letsencrypt.org/directory",
    ),
    "certificate_acme_email": pattern(
        re.compile(rf"(?:{EMAIL.pattern})?"), "is not an address of mail: write one such as ops@example.com"
    ),
    "certificate_addresses": each(address),
    "certificate_authority_path": lambda value: None if value == "" else _host_path(value),
    "certificate_directory": _path,
    "certificate_file": _path_or_none,
    "certificate_group": pattern(ACCOUNT, "is not a group name: write one such as haproxy"),
    "certificate_host_names": each(_host_name),
    "certificate_key_file": _path_or_none,
    "certificate_key_text": _pem,
    "certificate_path": pattern(
        re.compile(HOST_PATH.pattern + r"(?<=[A-Za-z0-9_-]\.pem)"),
        "is not the absolute path of a file that ends in .pem: write one such as /etc/ssl/wsgi.fleet/site.pem",
    ),
    "certificate_services": each(
        pattern(UNIT, "is not the name of a service: write it without .service, such as haproxy")
    ),
    "certificate_text": _pem,
    "firewall_allow": _firewall_allow,
    "firewall_services": _firewall_services,
    "firewall_ssh_from": each(network),
    "firewall_ssh_ports": each(_port),
    "granian_hang_timeout": _none_or_from(4, 86400, "is too short to tell a stuck worker from a busy one"),
    "granian_settings": _keywords,
    "granian_threads": count("threads"),
    "granian_workers": count("processes"),
    "granian_workers_lifetime": _none_or_from(60, 31536000, "is less than Granian takes"),
    "host_accounts": each(
        pattern(re.compile(r"[a-z][a-z0-9-]{0,31}"), "cannot be an account: use up to 32 letters, digits and hyphens")
    ),
    "host_packages": each(_package),
    "host_sysctl": _sysctl,
    "host_time_daemon": pattern(
        re.compile(r"[A-Za-z0-9@._-]{0,100}"), "is no name of a service: write one such as chrony"
    ),
    "load_balancer_acme_thumbprint": pattern(
        re.compile(rf"(?:{THUMBPRINT.pattern})?"),
        "is not the thumbprint of a key: write the 43 signs that the role certificate has as "
        "certificate_acme_thumbprint",
    ),
    "load_balancer_backends": _backends,
    "load_balancer_certificate": pattern(
        HOST_PATH, "is not an absolute path: write one such as /etc/ssl/wsgi.fleet/site.pem"
    ),
    "load_balancer_drain": each(pattern(BACKEND, "is not the name of a server: write that of an app host")),
    "load_balancer_floating_addresses": _all_floating,
    "load_balancer_frontend_extra": haproxy_directives,
    "load_balancer_holders": each(pattern(BACKEND, "is not the name of a host: leave it to the role")),
    "load_balancer_interface": pattern(
        re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,14})?"), "is not the name of an interface: write one such as eth1"
    ),
    "load_balancer_nodes": _nodes("{name: lb1, address: 10.0.0.10}"),
    "load_balancer_trusted_proxies": each(network),
    # nginx knows g for sizes of files, and not for those of memory.
    "nginx_body_buffer_size": pattern(
        re.compile(r"[1-9][0-9]{0,8}[kmKM]?"), "is not a size of memory: write a number of bytes, or one with k or m"
    ),
    "nginx_http_extra": nginx_directives,
    "nginx_max_body_size": _size,
    "nginx_sites": _sites,
    "nginx_static_cache_control": pattern(
        CACHE_CONTROL, "is not a value of Cache-Control: write one such as public, max-age=3600"
    ),
    "nginx_trusted_proxies": each(network),
    "nginx_worker_processes": count("processes"),
    "memcached_bind": each(address),
    "memcached_allow": each(network),
    "memcached_options": each(_memcached_option),
    "redis_authority": _host_path,
    "redis_bind": each(_redis_bind),
    "redis_certificate": _host_path,
    "redis_nodes": _nodes("{name: cache1, address: 10.0.0.31}"),
    # Empty where there is one host.
    "redis_replication_password": secret(0),
    "redis_settings": _redis_settings,
    "redis_users": _redis_users,
    "sandbox_profiles": _profiles,
    "sandbox_units": each(pattern(UNIT, "is not the name of a service: write it without .service, such as nginx")),
    "tune_candidates": _candidates,
    "tune_noise": number(0, 0.99),
    "tune_path": pattern(re.compile(r"/[!-~]{0,1023}"), "is not a request target: write one such as /products?page=2"),
    "tune_result": _path_or_none,
    "tune_seconds": number(0.5, 3600),
    "tune_timeout": number(0.001, 3600),
    "tune_warmup": number(0, 3600),
    "uwsgi_processes": count("processes"),
    "fleet_apps_directory": _path,
    "fleet_cache_directory": _path,
    "fleet_floating_address": _floating,
    "fleet_cache_password": secret(),
    "fleet_profiler_password": secret(12),
    "fleet_release_key": secret(),
    "fleet_replication_password": secret(16),
    "fleet_secret_key": secret(),
    "fleet_secrets_directory": _path,
}  # fmt: skip
