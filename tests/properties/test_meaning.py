"""Whatever passes validation becomes a file that means what was asked for, and nothing else.

The parsers here are our own, and read no more than the form that the program's documentation gives. The program's own
checker is asked by the scenarios of nginx, load_balancer and redis, for the same settings; systemd's is asked here.
"""

from __future__ import annotations

import configparser
import hashlib
import ipaddress
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.properties.configurations import STRATEGIES, Settings, each, render

Block = list[tuple[list[str], "Block"]]


def parse_nginx(text: str) -> Block:
    """Parse nginx.conf into directives, each with its block."""
    # A token begins where the one before it has ended, so that quotation marks within a word are part of it.
    scanner = re.compile(
        r"\s+|#[^\n]*|([{};])|\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|((?:\\.|\$\{\w*\}|[^\s{};\\])+)", re.DOTALL
    )
    stack: list[Block] = [[]]
    words: list[str] = []
    place = 0
    while place < len(text):
        match = scanner.match(text, place)
        assert match, text[place : place + 80]
        place = match.end()
        sign, *quoted = match.groups()
        word = next((part for part in quoted if part is not None), None)
        if word is not None:
            words.append(word)
        elif sign == "}":
            assert not words
            stack.pop()
        elif sign:
            block: Block = []
            stack[-1].append((words, block))
            words = []
            if sign == "{":
                stack.append(block)
    assert len(stack) == 1
    return stack[0]


def all_of(block: Block, name: str) -> list[list[str]]:
    """Return the arguments of each directive of a name in a block, not in those within."""
    return [words[1:] for words, _inner in block if words[0] == name]


def inner(block: Block, *head: str) -> Block:
    """Return the one block that begins with words."""
    (found,) = [within for words, within in block if words[: len(head)] == list(head)]
    return found


def blocks(block: Block, name: str) -> list[Block]:
    return [within for words, within in block if words[0] == name]


NGINX_SECONDS = {
    "client_header_timeout": ("nginx_client_header_timeout", 10),
    "client_body_timeout": ("nginx_client_body_timeout", 20),
    "send_timeout": ("nginx_send_timeout", 20),
    "keepalive_timeout": ("nginx_keepalive_timeout", 65),
    "proxy_read_timeout": ("nginx_proxy_read_timeout", 60),
}


def test_nginx_conf_means_what_was_asked() -> None:
    def look(settings: Settings, text: str) -> None:
        tree = parse_nginx(text)
        assert [words[0] for words, _block in tree if words[0] not in ("events", "http", "include")] == [
            "user", "worker_processes", "worker_rlimit_nofile", "worker_shutdown_timeout", "pid", "error_log",
        ]  # fmt: skip
        http = inner(tree, "http")
        for directive, (variable, default) in NGINX_SECONDS.items():
            assert all_of(http, directive) == [[f"{settings.get(variable, default)}s"]]
        assert all_of(tree, "worker_processes") == [[str(settings.get("nginx_worker_processes", "auto"))]]
        assert all_of(http, "client_max_body_size") == [[settings.get("nginx_max_body_size", "64m")]]
        assert bool(all_of(http, "gzip")) == settings.get("nginx_gzip", True)
        assert all_of(http, "access_log") == [
            ["/var/log/nginx/access.log", "fleet"] if settings.get("nginx_access_log", True) else ["off"]
        ]
        assert all_of(http, "set_real_ip_from") == [[proxy] for proxy in settings.get("nginx_trusted_proxies", [])]
        sites = settings["nginx_sites"]
        servers = blocks(http, "server")
        for site, server in zip(sites, servers, strict=False):
            look_at_site(site, http, server, settings)
        # Besides them only those that turn others away, and the state of nginx.
        rest = servers[len(sites) :]
        assert all(all_of(server, "return") == [["421"]] for server in rest[:-1])
        assert all_of(rest[-1], "listen") == [[f"127.0.0.1:{settings.get('nginx_status_port', 8010)}"]]
        nameless = {int(site.get("listen", 80)) for site in sites if not site["server_names"]}
        assert len(rest) - 1 == len({int(site.get("listen", 80)) for site in sites} - nameless)

    each("nginx")(look)


def look_at_site(site: dict[str, Any], http: Block, server: Block, settings: Settings) -> None:
    (names,) = all_of(server, "server_name")
    local = f"{site['name']}.localhost"
    assert names == (
        [*site["server_names"], *([local] if local not in site["server_names"] else [])]
        if site["server_names"]
        else ["_"]
    )
    assert all_of(server, "listen")[0][0] == str(site.get("listen", 80))
    upstream = inner(http, "upstream", site["name"])
    assert all_of(upstream, "server") == [[site["upstream"], "max_fails=0"]]
    assert all_of(upstream, "keepalive") == [[str(settings.get("nginx_upstream_keepalive", 32))]]
    static = [(words[2], within) for words, within in server if words[:2] == ["location", "^~"]]
    assert [url for url, _within in static] == [entry["url"] for entry in site.get("static", [])]
    for entry, (_url, within) in zip(site.get("static", []), static, strict=True):
        assert all_of(within, "alias") == [[entry["path"].rstrip("/") + "/"]]
    assert bool(all_of(inner(server, "location", "/"), "proxy_buffering")) != site.get("buffering", True)
    limit = site.get("limit", {})
    for where in [inner(server, "location", "/")] + ([inner(server, "location", "@cached")] if "cache" in site else []):
        rates = [words[1] for words in all_of(where, "limit_req")]
        assert rates == ([f"burst={limit['requests']}"] if "requests" in limit else [])
        assert [words[1] for words in all_of(where, "limit_conn")] == (
            [str(limit["connections"])] if "connections" in limit else []
        )
    if cache := site.get("cache"):
        cached = inner(server, "location", "@cached")
        assert all_of(cached, "proxy_cache_valid") == [[f"{cache['seconds']}s"]]
        assert all_of(cached, "root") == ([[cache["path"]]] if "path" in cache else [])
    if maintenance := site.get("maintenance"):
        identifier = site["name"].replace("-", "_")
        allowed = inner(http, "geo", f"$site_{identifier}_may_pass")
        assert [words[0] for words, _block in allowed] == ["default", *maintenance.get("allow", [])]
        passing = inner(http, "map", f"$from_host$from_check$site_{identifier}_may_pass $uri")
        paths = [words[0].removeprefix("000 ") for words, _block in passing[5:]]
        assert paths == list(dict.fromkeys(maintenance.get("pass", [])))


def parse_haproxy(text: str) -> dict[str, list[list[str]]]:
    """Parse haproxy.cfg into the lines of each section."""
    sections: dict[str, list[list[str]]] = {}
    section = ""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words and not line[0].isspace():
            section = " ".join(words)
            assert section not in sections
            sections[section] = []
        elif words:
            sections[section].append(words)
    return sections


def test_haproxy_cfg_means_what_was_asked() -> None:
    def look(settings: Settings, text: str) -> None:
        sections = parse_haproxy(text)
        backends = settings["load_balancer_backends"]
        assert list(sections) == [
            "global",
            "defaults",
            "frontend http",
            *(f"backend {backend['name']}" for backend in backends),
            "frontend status",
        ]
        front, defaults = sections["frontend http"], sections["defaults"]
        for name, variable, default in (
            ("connect", "connect", 3), ("client", "client", 60), ("server", "server", 75),
            ("http-request", "request", 10), ("http-keep-alive", "keepalive", 60), ("queue", "queue", 10),
        ):  # fmt: skip
            value = settings.get(f"load_balancer_{variable}_timeout", default)
            assert ["timeout", name, f"{value}s"] in defaults
        assert ["balance", settings.get("load_balancer_algorithm", "leastconn")] in defaults
        port = settings.get("load_balancer_port", 80)
        assert front[0] == ["bind", f":{port}"]
        assert (["bind", f"[::]:{port}", "v6only"] in front) == settings.get("load_balancer_ipv6", False)
        proxies = settings.get("load_balancer_trusted_proxies", [])
        assert [words[3:] for words in front if words[:2] == ["acl", "from_trusted_proxy"]] == (
            [proxies] if proxies else []
        )
        for backend in backends:
            lines = sections[f"backend {backend['name']}"]
            assert [words[1:] for words in lines if words[0] == "server"] == [
                [
                    server["name"],
                    f"{server['address']}:{server.get('port', 80)}",
                    *(["weight", str(server["weight"])] if "weight" in server else []),
                    *(["backup"] if server.get("backup") else []),
                ]
                for server in backend["servers"]
            ]
            (usual,) = [words for words in lines if words[0] == "default-server"]
            for word, variable in (("slowstart", "slow_start"), ("maxconn", "server_requests")):
                value = int(settings.get(f"load_balancer_{variable}", 0))
                assert (word in usual) == bool(value)
                assert not value or usual[usual.index(word) + 1].rstrip("s") == str(value)
            (check,) = [words for words in lines if words[:2] == ["http-check", "send"]]
            assert check[5] == backend.get("health_path", "/")
            assert check[check.index("Host") + 1] == backend.get("health_host", "localhost")
            (expect,) = [words for words in lines if words[:2] == ["http-check", "expect"]]
            assert expect[3].split(",") == backend.get("health_status", ["200-399"])
            cookies = [words[1] for words in lines if words[0] == "cookie"]
            assert cookies == ([backend["cookie"]] if backend.get("cookie") else [])
            assert (["http-check", "disable-on-404"] in lines) != bool(cookies)
            names = [words[-1] for words in front if words[:2] == ["acl", f"host_{backend['name']}"]]
            assert names == [name.removeprefix("*") for name in backend["host_names"]]
        everyone = [words[1] for words in front if words[0] == "default_backend"]
        assert everyone == [backend["name"] for backend in backends if not backend["host_names"]]

    each("haproxy")(look)


Words = list[tuple[list[str], "Words"]]


def parse_keepalived(text: str) -> Words:
    """Parse keepalived.conf into words, each with what is in its block."""
    root: Words = []
    blocks = [root]
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words == ["}"]:
            blocks.pop()
        elif words:
            within: Words = []
            blocks[-1].append(([word for word in words if word != "{"], within))
            if words[-1] == "{":
                blocks.append(within)
    assert blocks == [root]
    return root


def test_keepalived_conf_means_what_was_asked() -> None:
    def look(settings: Settings, text: str) -> None:
        blocks = parse_keepalived(text)
        assert [words for words, _within in blocks] == [
            ["global_defs"],
            ["vrrp_script", "haproxy"],
            ["vrrp_instance", "fleet"],
        ]
        instance = {words[0]: (words[1:], [inner for inner, _none in within]) for words, within in blocks[2][1]}
        assert len(instance) == len(blocks[2][1])
        port = str(settings.get("load_balancer_port", 80))
        assert blocks[1][1][0][0] == [
            "script",
            f"/usr/bin/timeout 2 /bin/bash /usr/local/lib/wsgi.fleet/haproxy_answers.sh {port}",
        ]
        assert instance["interface"][0] == [settings["load_balancer_interface"]]
        assert instance["priority"][0] == ["200"]
        if "load_balancer_router_id" in settings:
            assert instance["virtual_router_id"][0] == [str(settings["load_balancer_router_id"])]
        assert 1 <= int(instance["virtual_router_id"][0][0]) <= 255
        own, *others = [node["address"] for node in settings["load_balancer_nodes"]]
        if others:
            assert instance["unicast_src_ip"][0] == [own]
            assert [words[0] for words in instance["unicast_peer"][1]] == others
        else:
            assert not {"unicast_src_ip", "unicast_peer", "check_unicast_src"} & set(instance)
        announced = [words[0] for words in instance["virtual_ipaddress"][1]]
        along = [words[0] for words in instance.get("virtual_ipaddress_excluded", ([], []))[1]]
        assert announced
        assert sorted(announced + along) == sorted(settings["load_balancer_floating_addresses"])
        assert {":" in address for address in announced} == {":" in own}
        assert {":" in address for address in along} <= {":" not in own}
        for words in instance["virtual_ipaddress"][1] + instance.get("virtual_ipaddress_excluded", ([], []))[1]:
            # No connection that the host opens comes from there.
            assert words[1:] == (["preferred_lft", "0"] if ":" in words[0] else [])

    each("keepalived")(look)


def split_redis(line: str) -> list[str]:
    """Split a line as sdssplitargs() of Redis does; escapes do not occur."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    return list(lexer)


def test_redis_conf_means_what_was_asked() -> None:
    def look(settings: Settings, text: str) -> None:
        lines = [split_redis(line) for line in text.splitlines() if line and not line.startswith("#")]
        assert lines[0] == ["bind", *settings["redis_bind"]]
        assert ["port", str(settings.get("redis_port", 6379))] in lines
        assert ["maxmemory-policy", settings.get("redis_memory_policy", "allkeys-lru")] in lines
        if "redis_memory_mb" in settings:
            assert ["maxmemory", f"{settings['redis_memory_mb']}mb"] in lines
        asked = []
        for name, values in sorted(settings.get("redis_settings", {}).items()):
            for value in values if isinstance(values, list) else [values]:
                word = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
                asked.append([name, *split_redis(word)])
        assert lines[-len(asked) or len(lines) :] == asked
        assert [line[0] for line in lines].count("include") == 1

    each("redis")(look)


def test_users_of_redis_are_those_that_were_asked_for() -> None:
    def look(settings: Settings, text: str) -> None:
        lines = [split_redis(line) for line in text.splitlines() if line and not line.startswith("#")]
        assert lines[0] == ["user", "default", "off", "resetpass", "resetkeys", "-@all"]
        assert len(lines) == 1 + len(settings["redis_users"])
        for user, words in zip(settings["redis_users"], lines[1:], strict=True):
            digest = hashlib.sha256(user["password"].encode()).hexdigest()
            keys = [f"~{key}" for key in user["keys"]]
            channels = [f"&{channel}" for channel in user.get("channels", [])]
            listing = ["+keys"] if settings.get("redis_purpose", "cache") == "cache" else []
            rules = ["+@all", "-@admin", "-@dangerous", "+info", *listing, *user.get("rules", [])]
            assert words == ["user", user["name"], "on", f"#{digest}", *keys, *channels, *rules]

    each("redis users")(look)


def read_environment(text: str) -> dict[str, str]:
    """Read what Environment= sets: systemd.exec(5), systemd.syntax(7), systemd.unit(5) for specifiers."""
    found = {}
    for value in re.findall(r"^Environment=(.*)$", text, re.MULTILINE):
        for quoted, bare in re.findall(r"\"((?:[^\"\\]|\\.)*)\"|(\S+)", value):
            # %i is the release, and everything else that a specifier could be is written as %%.
            word = re.sub(r"\\(.)", r"\1", quoted or bare).replace("%%", "%")
            name, _equals, content = word.partition("=")
            found[name] = content
    return found


@pytest.mark.parametrize("server", ["gunicorn", "granian", "uwsgi"])
def test_unit_means_what_was_asked(server: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")

    def look(settings: Settings, text: str) -> None:
        instance = settings[f"{server}_instance"]
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert [line for line in lines if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]
        assert all(re.match(r"\[\w+\]\Z|[A-Z][A-Za-z]+=", line) for line in lines)
        assert f"User={instance['user']}" in lines
        assert f"WorkingDirectory={instance['directory']}/releases/%i/build/code" in lines
        assert len([line for line in lines if line.startswith("ExecStart=")]) == 1
        found = read_environment(text)
        # What systemd sets anew stands behind it, and would win.
        asked = {name: value for name, value in instance["environment"].items() if name != "PYTHONUNBUFFERED"}
        assert {name: found[name] for name in asked} == asked
        stop = int(settings.get(f"{server}_graceful_timeout", 30)) + (2 if server == "uwsgi" else 10)
        assert f"TimeoutStopSec={stop}" in lines
        if verify:
            unit = tmp_path / "x@.service"
            unit.write_text(re.sub(r"^(User|Group|ExecStart|ExecStop|ExecCondition)=.*\n", "", text, flags=re.MULTILINE)
                            .replace("[Service]", "[Service]\nExecStart=/bin/true"))  # fmt: skip
            done = subprocess.run([verify, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
            assert str(unit.name) not in done.stderr, done.stderr

    each(f"{server} unit", 15)(look)


def lets_in(text: str, source: str, protocol: str, port: int) -> bool:
    """Tell whether a table lets the first packet of a connection in, by the rules that name who may come."""
    address = ipaddress.ip_address(source)
    rules = text.partition("# Who may come in:\n")[2].partition("# Nobody else.")[0]
    for line in filter(None, map(str.strip, rules.splitlines())):
        rule, comment = line.split(" accept comment ")
        assert re.fullmatch(r'"[A-Za-z0-9_.-]+"', comment)
        if rule.startswith(("ip saddr", "ip6 saddr")):
            family, networks, rule = re.fullmatch(r"(ip6?) saddr \{ (.+) \} (.+)", rule).groups()  # type: ignore[union-attr]
            found = [ipaddress.ip_network(network) for network in networks.split(", ")]
            assert all((network.version == 6) is (family == "ip6") for network in found)
            if not any(network.version == address.version and address in network for network in found):
                continue
        elif rule.startswith("meta nfproto"):
            if not rule.startswith(f"meta nfproto ipv{address.version} "):
                continue
            rule = rule.partition(f"ipv{address.version} ")[2]
        if rule == ("meta l4proto 112" if protocol == "vrrp" else f"{protocol} dport {port}"):
            return True
    return False


def test_the_firewall_lets_in_who_was_asked_for_and_nobody_else() -> None:
    asked_for = 0

    def look(settings: Settings, text: str) -> None:
        nonlocal asked_for
        everybody = ["0.0.0.0/0", "::/0"]
        services = [
            *settings["firewall_services"],
            *settings.get("firewall_allow", []),
            *(
                {"port": port, "from": settings.get("firewall_ssh_from", everybody)}
                for port in settings.get("firewall_ssh_ports", [22])
            ),
        ]
        networks = [
            ipaddress.ip_network(source, strict=False)
            for service in services
            for source in service.get("from", everybody)
        ]
        sources = {
            str(address) for network in networks for address in (network.network_address, network.broadcast_address)
        } | {"203.0.113.77", "2001:db8::77"}
        wanted = {(service.get("protocol", "tcp"), int(service.get("port", 0))) for service in services}
        for protocol, port in {*wanted, ("tcp", 4242), ("vrrp", 0)}:
            for source in sources:
                expected = any(
                    (service.get("protocol", "tcp"), int(service.get("port", 0))) == (protocol, port)
                    and any(
                        network.version == ipaddress.ip_address(source).version
                        and ipaddress.ip_address(source) in network
                        for network in (
                            ipaddress.ip_network(one, strict=False) for one in service.get("from", everybody)
                        )
                    )
                    for service in services
                )
                assert lets_in(text, source, protocol, port) is expected, (source, protocol, port)
                asked_for += expected

    each("firewall")(look)
    assert asked_for > 100


def test_uwsgi_ini_means_what_was_asked() -> None:
    def look(settings: Settings, text: str) -> None:
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(text)
        assert parser.sections() == ["uwsgi"]
        for option, variable in (
            ("listen", "uwsgi_listen"), ("buffer-size", "uwsgi_buffer_size"), ("harakiri", "uwsgi_harakiri"),
            ("max-requests", "uwsgi_max_requests"), ("socket-timeout", "uwsgi_socket_timeout"),
        ):  # fmt: skip
            if variable in settings:
                assert parser["uwsgi"][option] == str(settings[variable])

    each("uwsgi ini", 30)(look)


def test_what_does_not_pass_is_not_rendered() -> None:
    """The properties are of what passes, and something does not."""
    site = {"name": "a;b", "upstream": "unix:/x", "server_names": []}
    wrong, text = render("nginx", {"nginx_sites": [site]})
    assert wrong == [
        "nginx_sites: name: 'a;b' cannot be the name of a site: use lower-case letters, digits and hyphens"
    ]
    assert text == ""
    assert set(STRATEGIES) == {
        "nginx", "haproxy", "keepalived", "redis", "redis users", "gunicorn unit", "granian unit", "uwsgi unit",
        "uwsgi ini", "firewall",
    }  # fmt: skip


def test_a_file_that_means_something_else_would_be_told() -> None:
    _wrong, text = render("nginx", {"nginx_sites": [{"name": "shop", "upstream": "unix:/x"}]})
    with pytest.raises(AssertionError):
        parse_nginx(text.replace("server_name _;", "server_name _; }"))
    assert read_environment('Environment="A=a\\"b\\\\ %%i"\nEnvironment=B=%i') == {"A": 'a"b\\ %i', "B": "%i"}
