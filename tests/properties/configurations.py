"""Settings that pass validation, as many and as odd as Hypothesis comes up with, and the files that follow from them.

Templates are rendered in this process, with a role's own defaults and variables. What a file means is read by the
parsers of test_meaning.py; scenarios give a number of the files to the service's own checker (:func:`accepted`).
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.wsgi.fleet.plugins.module_utils._preflight import Host, check_values  # noqa: E402
from ansible_collections.wsgi.fleet.plugins.module_utils._values import WHOLE  # noqa: E402

Settings = dict[str, Any]

#: Always the same examples, so that a run says something about a change and not about luck.
SAME = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(hypothesis.HealthCheck),
)

#: The template of each configuration, and where its role keeps what is wrong with settings that pass one by one.
TEMPLATES = {
    "nginx": ("nginx", "nginx.conf.j2", "__nginx_problems"),
    "haproxy": ("load_balancer", "haproxy.cfg.j2", "__load_balancer_problems"),
    "keepalived": ("load_balancer", "keepalived.conf.j2", "__load_balancer_problems"),
    "redis": ("redis", "redis.conf.j2", None),
    "redis users": ("redis", "users.conf.j2", None),
    "firewall": ("firewall", "firewall.nft.j2", None),
    "gunicorn unit": ("gunicorn", "app.service.j2", None),
    "granian unit": ("granian", "app.service.j2", None),
    "uwsgi unit": ("uwsgi", "app.service.j2", None),
    "uwsgi ini": ("uwsgi", "uwsgi.ini.j2", "__uwsgi_problems"),
}


@cache
def _worker() -> subprocess.Popen[str]:
    """Start the process that renders; it ends with this one."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.properties.worker"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONPATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def render(file: str, settings: Settings) -> tuple[list[str], str]:
    """Render a file.

    :param settings: variables of its role; none of them is taken for a template.
    :returns: what is wrong with the settings, and the text where nothing is.
    """
    role, template, problems = TEMPLATES[file]
    wrong = [f"{found.variable}: {found.text}" for found in check_values([Host("one", variables=settings)])]
    if wrong:
        return wrong, ""
    worker = _worker()
    assert worker.stdin is not None
    assert worker.stdout is not None
    asked = {"role": role, "template": template, "problems": problems, "settings": settings}
    worker.stdin.write(json.dumps(asked) + "\n")
    worker.stdin.flush()
    told = json.loads(worker.stdout.readline())
    assert "failed" not in told, f"{told['failed']}, for {settings}"
    return told["wrong"], told["text"]


# Strategies: most values are of the form that is asked for, up to its edges, and some are anything.

ANYTHING = st.text(max_size=20) | st.text("ab \"'\\$%{};#\n:@/(", max_size=12) | st.integers() | st.none()


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw something else one time in fifty."""
    return st.integers(0, 49).flatmap(lambda number: ANYTHING if number == 13 else strategy)


def matching(expression: str) -> st.SearchStrategy[str]:
    """Draw texts that match an expression as a whole, of ASCII."""
    return st.from_regex(expression, fullmatch=True, alphabet=st.characters(codec="ascii"))


LABEL = matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
HOST_NAMES = st.lists(
    st.builds(str.__add__, st.sampled_from(["", "*."]), st.lists(LABEL, min_size=1, max_size=4).map(".".join)),
    max_size=4,
    unique=True,
)
ADDRESS = st.ip_addresses().map(str)
NETWORK = (
    st.tuples(st.ip_addresses(v=4), st.integers(0, 33)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    | st.tuples(st.ip_addresses(v=6), st.integers(0, 129)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    | ADDRESS
)
SWITCH = st.booleans()
SEGMENT = r"[A-Za-z0-9._@-]{1,30}"
HOST_PATH = matching(rf"(/{SEGMENT}){{1,8}}")
BARE_PATH = matching(r"/([A-Za-z0-9._~!&()*+,;=:@-]{1,40}/?){0,20}")
QUERY = matching(r"(\?[A-Za-z0-9._~!$&()*+,;=:@%/?-]{0,60})?")


def whole(name: str) -> st.SearchStrategy[Any]:
    """Draw a number from the range of a variable, as number or as text."""
    least, most = WHOLE[name]
    numbers = st.integers(least, most) | st.sampled_from([least, most])
    return mostly(numbers | numbers.map(str))


def entry(required: Settings, optional: Settings) -> st.SearchStrategy[Settings]:
    """Draw a dictionary."""
    return st.fixed_dictionaries(
        {name: mostly(value) for name, value in required.items()},
        optional={name: mostly(value) for name, value in optional.items()},
    )


def options(required: Settings, optional: Settings) -> st.SearchStrategy[Settings]:
    """Draw the variables of a role: all of its switches on, all off, or any of the options."""
    switches = [name for name, value in optional.items() if value is SWITCH]
    return SWITCH.flatmap(
        lambda some: (
            st.fixed_dictionaries(required, optional=optional)
            if some
            else SWITCH.flatmap(
                lambda on: st.fixed_dictionaries({**required, **dict.fromkeys(switches, st.just(on))}),
            )
        )
    )


STATIC = entry({"url": matching(r"/([A-Za-z0-9._~-]{1,20}/){1,4}"), "path": HOST_PATH}, {})
MAINTENANCE = entry(
    {"page": HOST_PATH},
    {
        "retry_after": st.integers(1, 31536000),
        "allow": st.lists(NETWORK, max_size=3),
        "pass": st.lists(BARE_PATH, max_size=3),
    },
)
UPSTREAM = matching(r"unix:(/[A-Za-z0-9._@-]{1,20}){1,4}") | st.tuples(
    st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda address: f"[{address}]"), st.integers(1, 65535)
).map(lambda p: f"{p[0]}:{p[1]}")
SITE = entry(
    {"name": matching(r"[a-z][a-z0-9-]{0,62}"), "upstream": UPSTREAM, "server_names": HOST_NAMES},
    {
        "listen": st.integers(1, 65535) | st.just(80),
        "static": st.lists(STATIC, max_size=3),
        "maintenance": MAINTENANCE,
        "buffering": SWITCH,
        "cache": entry({"seconds": st.integers(1, 3600)}, {"path": HOST_PATH}),
        "limit": st.fixed_dictionaries(
            {}, optional={"requests": st.integers(1, 100000), "connections": st.integers(1, 65535)}
        ),
        "extra": st.sampled_from(["", "deny all;", "location /x { return 204; }", 'add_header X "a;b}";', "# {\n"]),
    },
)
NUMBERS_OF_NGINX = [name for name in WHOLE if name.startswith("nginx_")]
NGINX = options(
    {"nginx_sites": st.lists(SITE, min_size=1, max_size=3)},
    {
        **{name: whole(name) for name in NUMBERS_OF_NGINX},
        "nginx_trusted_proxies": mostly(st.lists(NETWORK, max_size=4)),
        "nginx_ipv6": SWITCH,
        "nginx_gzip": SWITCH,
        "nginx_access_log": SWITCH,
        "nginx_worker_processes": mostly(st.just("auto") | st.integers(1, 999)),
        "nginx_max_body_size": mostly(matching(r"[0-9]{1,15}[kmgKMG]?")),
        "nginx_body_buffer_size": mostly(matching(r"[0-9]{1,15}[kmgKMG]?")),
        "nginx_static_cache_control": mostly(matching(r"[A-Za-z0-9=, -]{1,40}")),
        "nginx_http_extra": mostly(st.sampled_from(["", "limit_rate 1m;", "map $uri $m { default 1; }", "# {\n"])),
    },
)

SERVER = entry(
    {"name": matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"), "address": ADDRESS},
    {"port": st.integers(1, 65535), "weight": st.integers(1, 256), "backup": SWITCH},
)
BACKEND = entry(
    {
        "name": matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"),
        "servers": st.lists(SERVER, min_size=1, max_size=3),
        "host_names": HOST_NAMES,
    },
    {
        "health_path": st.tuples(BARE_PATH, QUERY).map("".join),
        "health_host": st.builds(
            str.__add__, st.lists(LABEL, min_size=1, max_size=3).map(".".join), st.sampled_from(["", ":8080"])
        ),
        "health_status": st.lists(matching(r"[1-5][0-9][0-9](-[1-5][0-9][0-9])?"), min_size=1, max_size=3),
        "cookie": matching(r"[A-Za-z0-9_-]{1,64}") | st.just(""),
        "wait": SWITCH,
    },
)  # fmt: skip
NUMBERS_OF_HAPROXY = [
    name
    for name in WHOLE
    if name.startswith("load_balancer_") and not any(part in name for part in ("hsts", "tls", "router"))
]
HAPROXY = options(
    {"load_balancer_backends": st.lists(BACKEND, min_size=1, max_size=3)},
    {
        **{name: whole(name) for name in NUMBERS_OF_HAPROXY},
        "load_balancer_trusted_proxies": mostly(st.lists(NETWORK, max_size=4)),
        "load_balancer_ipv6": SWITCH,
        "load_balancer_access_log": SWITCH,
        "load_balancer_algorithm": st.sampled_from(["leastconn", "roundrobin", "random", "source"]),
        "load_balancer_frontend_extra": mostly(
            st.sampled_from(
                ["", "http-request deny if { path /x }", 'http-response set-header X "a # b"', "# backend x\n"]
            )
        ),
    },
)


#: By the version of IP.
ADDRESSES = {4: st.ip_addresses(v=4).map(str), 6: st.ip_addresses(v=6).map(str)}


def floating(version: int) -> st.SearchStrategy[str]:
    """Draw an address with or without the length of a prefix."""
    address = ADDRESSES[version]
    return address | st.builds("{}/{}".format, address, st.integers(8, {4: 33, 6: 129}[version]))


def balancers(version: int) -> st.SearchStrategy[Settings]:
    """Draw load balancers that reach each other by one family, and what they share, of both."""
    addresses = st.lists(ADDRESSES[version], min_size=1, max_size=4, unique=True)
    return st.fixed_dictionaries(
        {
            "inventory_hostname": st.just("lb1"),
            "load_balancer_floating_addresses": mostly(
                st.builds(
                    list.__add__,
                    st.lists(floating(version), min_size=1, max_size=2),
                    st.lists(floating(10 - version), max_size=1),
                )
            ),
            "load_balancer_nodes": addresses.map(
                lambda found: [{"name": f"lb{number}", "address": one} for number, one in enumerate(found, 1)]
            ),
            # One that each host of the scenario has, since keepalived looks for it.
            "load_balancer_interface": mostly(st.just("eth0")),
            "load_balancer_ipv6": st.just(value=True),
        },
        optional={
            "load_balancer_router_id": whole("load_balancer_router_id"),
            "load_balancer_port": whole("load_balancer_port"),
        },
    )


KEEPALIVED = st.sampled_from([4, 6]).flatmap(balancers)

RULE = st.sampled_from(["+flushdb", "-@dangerous", "+@read", "&chat:*", "%R~read:*", "+config|get"])
USER = entry(
    {
        "name": matching(r"[A-Za-z0-9_.-]{1,64}"),
        "password": st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=30),
        "keys": st.lists(matching(r"[!#-~]{1,30}"), min_size=1, max_size=3),
    },
    {"rules": st.lists(RULE, max_size=3)},
)
REDIS = st.fixed_dictionaries(
    {"redis_users": st.lists(USER, min_size=1, max_size=3), "redis_bind": st.lists(ADDRESS, min_size=1, max_size=3)},
    optional={
        "redis_port": whole("redis_port"),
        "redis_memory_mb": whole("redis_memory_mb"),
        "redis_memory_policy": st.sampled_from(["allkeys-lru", "volatile-ttl", "noeviction"]),
        "redis_settings": st.fixed_dictionaries(
            {},
            optional={
                "maxclients": mostly(st.integers(1, 100000)),
                "timeout": mostly(st.integers(0, 86400).map(str)),
                "lazyfree-lazy-user-del": SWITCH,
                "loglevel": st.sampled_from(["notice", '"verbose"', "'warning'"]),
                "notify-keyspace-events": st.sampled_from(["KEA", '""', "Ex"]),
                "client-output-buffer-limit": st.just(["normal 0 0 0", "pubsub 32mb 8mb 60"]),
                "latency-tracking-info-percentiles": st.just("50 99 99.9"),
            },
        ),
    },
)  # fmt: skip

FROM = {"from": mostly(st.lists(NETWORK, max_size=6))}
SERVICE = entry(
    {"name": matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"), "port": st.integers(1, 65535) | st.just("443")},
    {"protocol": st.sampled_from(["tcp", "udp"]), **FROM},
)
VRRP = entry({"name": st.just("vrrp"), "protocol": st.just("vrrp")}, FROM)
FIREWALL = st.fixed_dictionaries(
    {"firewall_services": st.lists(SERVICE | VRRP, max_size=4)},
    optional={
        "firewall_allow": st.lists(entry({"port": st.integers(1, 65535)}, FROM), max_size=3),
        "firewall_ssh_from": mostly(st.lists(NETWORK, max_size=4)),
        "firewall_ssh_ports": mostly(st.lists(st.integers(1, 65535), max_size=2)),
    },
)

LINE = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30) | matching(r"[ -~]{0,30}")
INSTANCE = st.fixed_dictionaries(
    {
        "name": matching(r"[a-z][a-z0-9-]{0,25}"),
        "directory": HOST_PATH,
        "module": st.sampled_from(["shop:app", "shop.wsgi", 'shop:make("a", b=1)']),
        "user": matching(r"[a-z_][a-z0-9_-]{0,31}"),
        "group": matching(r"[a-z_][a-z0-9_-]{0,31}"),
        "socket_group": st.just("www-data"),
        "environment": st.dictionaries(matching(r"[A-Za-z_][A-Za-z0-9_]{0,20}"), LINE, max_size=4),
    }
)


def _of_instance(server: str, names: list[str]) -> st.SearchStrategy[Settings]:
    return st.fixed_dictionaries({f"{server}_instance": INSTANCE}, optional={name: whole(name) for name in names})


STRATEGIES: Mapping[str, st.SearchStrategy[Settings]] = {
    "nginx": NGINX,
    "haproxy": HAPROXY,
    "keepalived": KEEPALIVED,
    "redis": REDIS,
    "redis users": REDIS,
    "firewall": FIREWALL,
    "gunicorn unit": _of_instance("gunicorn", ["gunicorn_graceful_timeout", "gunicorn_timeout"]),
    "granian unit": _of_instance("granian", ["granian_graceful_timeout"]),
    "uwsgi unit": _of_instance("uwsgi", ["uwsgi_graceful_timeout"]),
    "uwsgi ini": _of_instance("uwsgi", [name for name in WHOLE if name.startswith("uwsgi_") and "cheaper" not in name]),
}


def each(file: str, count: int = SAME.max_examples) -> Callable[[Callable[[Settings, str], None]], None]:
    """Call a function with settings that pass validation, and the file that follows from them.

    :returns: what takes the function; it fails unless enough of the settings have passed.
    """

    def call(function: Callable[[Settings, str], None]) -> None:
        passed = 0

        @hypothesis.settings(SAME, max_examples=count)
        @hypothesis.given(STRATEGIES[file])
        def draw(settings: Settings) -> None:
            nonlocal passed
            wrong, text = render(file, settings)
            if not wrong:
                passed += 1
                function(settings, text)

        draw()
        assert passed >= count // 6, f"only {passed} of {count} settings for {file} have passed validation"

    return call


#: The service's own checker of a file, by the name of its path.
CHECKERS = {
    "nginx": 'nginx -t -q -c "$path"',
    "haproxy": 'haproxy -c -q -f "$path"',
    # As the role load_balancer asks it.
    "keepalived": 'unshare --fork --pid keepalived --config-test --use-file="$path"',
    "firewall": 'nft --check --file "$path"',
    # As the role redis asks it.
    "redis": 'redis-server "$path" --port 0 --unixsocket "" --logfile "" --daemonize no --supervised no --dir /tmp'
    " | tee /dev/stderr | grep -q 'not listen anywhere'",
}


@cache
def accepted(file: str, count: int) -> list[str]:
    """Return files that follow from settings which pass validation."""
    found: list[str] = []

    def keep(settings: Settings, text: str) -> None:
        if file == "redis":
            users = render("redis users", settings)[1]
            text = text.replace("include /etc/redis/wsgi-fleet-users.conf\n", users)
        found.append(text)

    each(file, count)(keep)
    return found


def refused(run: Callable[[str], str], file: str, count: int = SAME.max_examples) -> str:
    """Let a service on a host check files, and return what it says of those that it refuses.

    :param run: runs the text of a shell as root on the host, and returns its standard output.
    """
    packed = io.BytesIO()
    texts = accepted(file, count)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for number, text in enumerate(texts):
            member = tarfile.TarInfo(f"{number}.conf")
            data = text.encode()
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    there = run("mktemp -d").strip()
    packed_text = base64.b64encode(packed.getvalue()).decode()
    for start in range(0, len(packed_text), 30000):
        run(f"echo {packed_text[start : start + 30000]} | base64 -d >> {there}/all.tar.gz")
    said = run(
        f"cd {there} && tar -xzf all.tar.gz && for path in {there}/*.conf; do"
        f' said=$({{ {CHECKERS[file]}; }} 2>&1) || {{ echo "refused: $path"; echo "$said"; }}; done; ls *.conf | wc -l;'
        f" rm -r {there}"
    )
    assert said.split()[-1] == str(len(texts)), said
    return said.rpartition(str(len(texts)))[0].strip()
