"""The preflight check: what cannot work is named with variable, value and remedy, all of it at once."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.action.preflight import REQUIRED, read_specs
from ansible_collections.wsgi.fleet.plugins.module_utils import _preflight as core
from ansible_collections.wsgi.fleet.plugins.module_utils._certificate import issue, make_authority

SPECS = read_specs(Path(__file__).resolve().parents[2] / "roles")
GOOD = {"app_name": "shop", "app_source": "pypi:httpbin==0.10.2", "app_module": "httpbin:app"}
SECRET = "s3cret-of-nobody"


def host(name: str = "app1", groups: tuple[str, ...] = ("app",), address: str = "10.0.0.1", **more: Any) -> core.Host:
    return core.Host(name, frozenset(("all", *groups)), more.pop("variables", GOOD), address=address, **more)


def check(*hosts: core.Host) -> list[str]:
    return [f"{found.variable}: {found.text}" for found in core.check_inventory(hosts, SPECS, REQUIRED)]


def check_with(variables: Mapping[str, Any]) -> list[str]:
    return check(host(variables={**GOOD, **variables}))


def test_a_good_inventory_has_no_problems() -> None:
    settings = {
        **GOOD,
        "app_server": "gunicorn",
        "app_host_names": ["shop.example.com", "*.shop.example.com"],
        "app_health_path": "/health?deep=1",
        "app_health_status": ["200-399", "401"],
        "app_health_deadline": 30,
        "app_health_host": "shop.example.com:8080",
        "app_env": {"FLASK_SECRET_KEY": SECRET, "NOTE": "two\nlines\tand a tab", "EMPTY": ""},
        "app_source_key": "-----BEGIN KEY-----\nx\n-----END KEY-----\n",
        "app_static": [{"url": "/media/", "path": "public"}, {"url": "/static/", "path": "shop/static"}],
        "app_packages": ["libpq5", "g++", "python3-dev=3.11.2-1+b1"],
        "nginx_http_extra": "limit_rate 1m;\ngzip_vary on;\n",
        "nginx_sites": [{"name": "shop", "upstream": "unix:/run/x", "extra": "allow all;\ndeny none;\n"}],
        "load_balancer_frontend_extra": "http-request deny if x\nhttp-request deny if y\n",
        "gunicorn_workers": 4,
    }
    assert check(
        host("app1", variables=settings),
        host("app2", ("app", "cache"), "app2.example.com", variables=settings),
        host("lb1", ("load_balancer",), "2001:db8::1", variables={}),
        host("bastion", ("other",), "", variables={}),
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("module", "good"),
    [
        ("shop", True), ("shop:app", True), ("shop.web:app", True), ("shop:create_app()", True),
        ("shop:make('a', b=1)", True), ("shop.web:app.wsgi", True), ("", False), ("shop:", False), (":app", False),
        ("shop/web:app", False), ("shop-web:app", False), ("shop:app; id", False), ("shop:f('$(id)')", False),
    ],
)  # fmt: skip
def test_what_a_callable_looks_like(module: str, good: bool) -> None:
    assert (check_with({"app_module": module}) == []) is good


@pytest.mark.parametrize(
    ("variable", "value", "fragment"),
    [
        ("app_name", "Shop", "'Shop' cannot be the name of an account, a directory and a unit: use up to 26"),
        ("app_name", "a" * 27, "use up to 26 lower-case letters, digits and hyphens, a letter first, such as shop"),
        ("app_name", "../x", "'../x' cannot be"),
        ("app_name", None, "None cannot be"),
        ("app_module", "shop app", "'shop app' is not a WSGI callable: write package.module:attribute"),
        ("app_server", "waitress", "must be one of: gunicorn"),
        ("app_server", "waitress", "got: waitress"),
        ("app_host_names", "shop.example.com", "'shop.example.com' is not a list: write one"),
        ("app_host_names", ["Shop.example.com"], "is not a host name: write it in lower case"),
        ("app_host_names", ["a;b"], "'a;b' is not a host name"),
        ("app_health_status", ["700"], "'700' is no status code: write one such as 200, or a range"),
        ("app_health_status", ["399-200"], "'399-200' is no status code"),
        ("app_health_status", [200, "2xx"], "'2xx' is no status code"),
        ("app_health_status", 200, "200 is not a list"),
        ("app_maintenance_allow", ["office"], "'office' is neither an address nor a network"),
        ("app_maintenance_allow", ["203.0.113.0/33"], "'203.0.113.0/33' is neither an address nor a network"),
        ("app_maintenance_retry_after", 0, "0 must be a number above 0"),
        ("app_workload", "web", "must be one of: cpu, mixed, io"),
        ("app_worker_memory", 0, "0 must be a number above 0"),
        ("app_worker_memory", "128M", "'128M' is not of type int: write a whole number"),
        ("app_memory_share", 80, "80 is not a share: write a number above 0 and up to 1, such as 0.5"),
        ("app_cpu_share", 0, "0 is not a share"),
        ("app_limits", {"memory": "1G"}, "Supported parameters include: cpu_quota, memory_high, memory_max"),
        ("app_limits", {"memory_max": "1GiB"}, "memory_max: '1GiB' is not a limit: write a size such as 512M"),
        ("app_limits", {"memory_max": "1G", "memory_high": "2G"}, "memory_high: '2G' is above memory_max, '1G'"),
        ("app_limits", {"cpu_quota": "2"}, "cpu_quota: '2' is not a limit: write a share of one processor"),
        ("gunicorn_threads", "many", "'many' is not a number of threads: write a number from 1 on, or auto"),
        ("uwsgi_threads", 0, "0 is not a number of threads"),
        ("app_health_path", "health", "'health' is not a request target: it starts with a slash"),
        ("app_health_path", "/a b", "'/a b' is not a request target"),
        ("app_health_host", "a b", "'a b' is not a host name"),
        ("app_health_body", "(", "'(' is not a regular expression"),
        ("app_health_deadline", "soon", "'soon' is not of type float: write a number"),
        ("app_health_deadline", 0, "0 must be a number above 0"),
        ("app_keep_releases", "many", "'many' is not of type int: write a whole number"),
        ("app_env", ["A=1"], "is not of type dict: write a dictionary"),
        ("app_env", "A=1", "is not a dictionary: write NAME: value pairs"),
        ("app_env", {"A-B": "x"}, "'A-B' cannot be the name of an environment variable"),
        ("app_env", {"A": 5}, "the value of A is not text but int: environment variables are text, put it in quotes"),
        ("app_env", {"A": "x\0"}, "the value of A holds a NUL byte"),
        ("app_env", {"A": "\ud800"}, "the value of A holds half a character, which cannot be written as UTF-8"),
        ("app_build_environment", {"A": True}, "the value of A is not text but bool"),
        ("app_static", [{"url": "/static/"}], "missing required arguments: path"),
        ("app_static", [{"url": "/static", "path": "x"}], "url '/static' must start and end with a slash"),
        ("app_static", [{"url": "/static/", "path": "../x"}], "path '../x' must lie inside the source"),
        ("app_python", "python2", "'python2' is not an interpreter: write a path such as /usr/bin/python3"),
        ("app_profiler_allow", ["office"], "'office' is neither an address nor a network"),
        ("app_profiler_path", "/", "'/' cannot be where a dashboard is: write a path such as /flask-profiler"),
        ("app_profiler_user", "a:b", "'a:b' cannot be asked for by a browser"),
        ("app_profiler", "pyinstrument", "value of app_profiler must be one of: none, flask_profiler"),
        ("app_requirements", ["-r more.txt"], "'-r more.txt' is not a requirement: write it as name==version"),
        ("app_requirements", "gevent==26.9.0", "'gevent==26.9.0' is not a list"),
        ("app_server_requirement", "gunicorn 27", "'gunicorn 27' is not a requirement: write it as name==version"),
        ("app_packages", ["libpq5; id"], "'libpq5; id' is not a package name"),
        ("app_shared_directories", ["../x"], "'../x' is not a plain directory name"),
        ("app_socket_group", "a b", "'a b' is not a group name"),
        ("app_dependencies", "../x.txt", "'../x.txt' is not a file inside the source: write a relative path"),
        ("app_dependencies", "a/..", "is not a file inside the source"),
        ("app_source", "./nowhere", "'./nowhere' is neither a directory nor a file on the controller"),
        ("app_source", "pypi:httpbin", "'pypi:httpbin' names no version"),
        ("app_source", "https://h/x.tgz", "app_source_checksum is not set: set it to the SHA-256 of the archive"),
        ("app_source", "https://[h", "is not a URL"),
        ("app_source_checksum", "md5:00", "'md5:00' is not a SHA-256 digest: write 64 hexadecimal digits"),
        ("app_version", "-x", "'-x' is not the name of a branch, a tag, a commit"),
        ("app_version", "0.9", "'0.9' contradicts app_source"),
        ("app_name", "shop\n", r"'shop\n' holds a line break or another control character: take it out"),
        ("app_host_names", ["a\r\nb"], r"'a\r\nb' holds a line break or another control character"),
        ("app_health_path", "/\x7f", r"'/\x7f' holds a line break or another control character"),
        ("nginx_sites", [{"name": "a\nb", "upstream": "x"}], r"'a\nb' holds a line break"),
        ("gunicorn_settings", {"bind": "x"}, "bind follows from how an instance is wired and cannot be set: take it"),
        ("gunicorn_workers", 0, "'0' is not a number of processes"),
        ("app_env", {"GUNICORN_CMD_ARGS": "--bind=:80"}, "GUNICORN_CMD_ARGS would stand above the configuration"),
        ("redis_memory_policy", "none", "must be one of: allkeys-lru"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_remedy(variable: str, value: Any, fragment: str) -> None:
    (problem,) = check_with({variable: value})
    assert problem.startswith(f"{variable}: ")
    assert fragment in problem


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"gunicorn_worker_class": "sync", "gunicorn_threads": 4},
         "gunicorn_threads: 4 has no effect with gunicorn_worker_class: 'sync': use gthread, or take gunicorn_threads "
         "out"),
        ({"gunicorn_worker_class": "gevent", "gunicorn_preload": True}, "gunicorn_preload: true loads the application"),
        ({"gunicorn_max_requests_jitter": 5}, "gunicorn_max_requests_jitter: 5 has no effect without"),
        # Another server has no use for any of them.
        ({"app_server": "uwsgi", "gunicorn_worker_class": "sync", "gunicorn_threads": 4}, None),
        ({"app_server": "uwsgi", "app_env": {"GUNICORN_CMD_ARGS": "x"}}, None),
        ({"gunicorn_worker_class": "sync", "gunicorn_threads": 1, "gunicorn_keepalive": 0}, None),
    ],
)  # fmt: skip
def test_settings_of_gunicorn_fit_each_other(variables: Mapping[str, Any], expected: str | None) -> None:
    found = check_with(variables)
    assert len(found) == (expected is not None)
    assert all(problem.startswith(expected or "-") for problem in found)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("app_source_token", SECRET + "\n"),
        ("app_release_key", SECRET + "\n"),
        ("redis_users", [{"name": "shop", "password": SECRET + "\n", "keys": ["*"]}]),
        ("redis_users", [{"name": "shop", "password": SECRET}]),
        ("redis_users", SECRET),
        ("app_env", SECRET),
        ("app_env", [SECRET]),
        ("app_env", {"A": SECRET + "\0"}),
        ("app_env", {"A": [SECRET]}),
        ("app_build_environment", {"UV_INDEX_URL": {"x": SECRET}}),
        ("app_source", f"https://me:{SECRET}@example.com/shop.git"),
        ("app_source", f"git+https://{SECRET}@example.com/shop.git"),
    ],
)
def test_a_secret_is_not_shown(variable: str, value: Any) -> None:
    (problem,) = check_with({variable: value})
    assert problem.startswith(f"{variable}: ")
    assert SECRET not in problem


def test_a_value_of_the_wrong_type_is_not_shown_when_it_is_secret() -> None:
    specs = {**SPECS, "app_pin": {"type": "int", "no_log": True}}
    found = core.check_inventory([host(variables={**GOOD, "app_pin": SECRET})], specs, REQUIRED)
    assert found == [core.Problem("app_pin", "is not of type int: write a whole number")]


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([host("lb1", ("load_balancer",))], "groups: no host is in the group 'app': put those that run the "
         "application there."),
        ([host("a", ("apps",))], "groups: no host is in the group 'app': put those that run the application there. "
         "Your group 'apps' would have to be called 'app'."),
        ([host("a"), host("b", ("redis",), "10.0.0.2")], "groups: the group 'redis' has no meaning here: did you mean "
         "'cache'? Rename it, or have a group 'cache' too if it serves another purpose."),
        ([host("a"), host("b")], "fleet_address: '10.0.0.1' belongs to both a and b: every host needs an address of "
         "its own"),
        ([host("a"), host("lb1", ("load_balancer",), "lb1.example.com")], "fleet_address: 'lb1.example.com' of lb1 is "
         "a name: write its address, such as 10.0.0.10, since app hosts believe a load balancer by the address that it "
         "comes from"),
        ([host("a", address="10.0.0.1 # x")], "fleet_address: '10.0.0.1 # x' of a is neither an address nor a host "
         "name: set it to the address at which the other hosts reach this one"),
        ([host("a", failures={"app_version": "'x' is undefined"})], "app_version: cannot be evaluated on a: 'x' is "
         "undefined"),
        ([host("a", variables={**GOOD, "app_version": ""}),
          host("b", address="10.0.0.2", variables={**GOOD, "app_version": "0.10.2"})],
         "app_version: differs between app hosts ('' on a, '0.10.2' on b): set it once, for the whole group 'app'"),
        ([host("a"), host("b", address="10.0.0.2", variables={**GOOD, "app_name": "store"})], "app_name: differs "
         "between app hosts ('shop' on a, 'store' on b): set it once, for the whole group 'app'"),
        ([host("a", variables={"app_name": "shop", "app_source": "pypi:a==1"})], "app_module: is not set for a: set it "
         "to the WSGI callable as package.module:attribute, such as shop:app, in the variables of the group 'app'"),
        ([host("a", variables={"app_name": "shop", "app_source": "pypi:a==1", "app_modul": "a:b"})], "app_module: is "
         "not set for a (you have set 'app_modul'): set it to the WSGI callable as package.module:attribute, such as "
         "shop:app, in the variables of the group 'app'"),
        ([host(f"a{n}", address=f"10.0.0.{n}", variables={**GOOD, "app_name": "a b"}) for n in (1, 2)], "app_name: "
         "'a b' cannot be the name of an account, a directory and a unit: use up to 26 lower-case letters, digits and "
         "hyphens, a letter first, such as shop"),
    ],
)  # fmt: skip
def test_an_inventory_that_does_not_fit_together(hosts: list[core.Host], expected: str) -> None:
    assert check(*hosts) == [expected]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("app_source", "pypi:httpbin==0.10.1"),
        ("app_source_checksum", "0" * 64),
        ("app_module", "httpbin.core:app"),
        ("app_dependencies", "none"),
        ("app_host_names", ["a.example.com"]),
        ("app_health_path", "/up"),
        ("app_health_host", "a.example.com"),
        ("app_static", [{"url": "/static/", "path": "static"}]),
    ],
)
def test_app_hosts_agree_about_the_application(variable: str, value: Any) -> None:
    (problem,) = check(host("a"), host("b", address="10.0.0.2", variables={**GOOD, variable: value}))
    assert problem.startswith(f"{variable}: differs between app hosts (")


def test_hosts_outside_the_app_group_need_no_application() -> None:
    assert check(host(), host("cache1", ("cache",), "10.0.0.2", variables={})) == []


CACHE1 = host("cache1", ("cache",), "10.0.0.2", variables={})
CACHE2 = host("cache2", ("cache",), "10.0.0.3", variables={})
CACHE3 = host("cache3", ("cache",), "10.0.0.4", variables={})


def backend(value: str, *more: core.Host, address: str = "10.0.0.1") -> list[core.Host]:
    """Return an app host and others, which all have a backend."""
    hosts = [host(address=address), *more]
    return [replace(one, variables={**one.variables, "cache_backend": value}) for one in hosts]


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (backend("redis", CACHE1), ""),
        (backend("memcached", CACHE1, CACHE2), ""),
        (backend("simple"), ""),
        (backend("filesystem"), ""),
        (backend("none"), ""),
        ([host()], ""),
        ([host(), CACHE1], ""),
        (backend("valkey"), "cache_backend: 'valkey' is unknown: write redis, memcached, simple, filesystem or none"),
        (backend("redis"), "cache_backend: 'redis' needs a host in the group 'cache': put one there"),
        (backend("memcached"), "cache_backend: 'memcached' needs a host in the group 'cache': put one there"),
        (backend("simple", CACHE1), "cache_backend: 'simple' uses no cache host, and cache1 would be left without a"),
        (backend("redis", CACHE1, CACHE2), "cache_backend: 'redis' cannot be on two hosts, cache1, cache2: when they "
         "lose sight of each other, neither can tell which of them is cut off. Put a third one into the group 'cache'"),
        ([host(), CACHE1, CACHE2], "cache_backend: 'redis' cannot be on two hosts"),
        ([host(), CACHE1, CACHE2, CACHE3], ""),
        ([host(), CACHE1, CACHE2, replace(CACHE3, address="cache3.example.com")], "fleet_address: 'cache3.example.com' "
         "of cache3 is a name: write its address, such as 10.0.0.31, since Sentinel knows hosts by it"),
        ([host(), CACHE1, CACHE2, replace(CACHE3, variables={"redis_port": 6380})], "redis_port: differs between cache "
         "hosts (not set on cache1, '6380' on cache3), each of which may become the primary: set it once, in the"),
        ([host(), CACHE1, CACHE2, replace(CACHE3, variables={"redis_sentinel_port": 6379})], "redis_sentinel_port: "
         "6379 is redis_port of cache3 too: write another one"),
        ([host(), replace(CACHE1, variables={"redis_tls": True})], "redis_tls: is true on cache1 and not on app1: app "
         "and cache hosts have to agree, so set it once, in the variables of the group 'all'"),
        ([*backend("memcached"), CACHE1], "cache_backend: differs between hosts ('memcached' on app1, not set on "
         "cache1): app and cache hosts have to agree, so set it once, in the variables of the group 'all'"),
        (backend("memcached", CACHE1, address="app1.example.com"), "fleet_address: 'app1.example.com' of app1 is a "
         "name: write its address, such as 10.0.0.21, since memcached knows who may connect by it"),
    ],
)  # fmt: skip
def test_what_the_app_can_cache_in(hosts: list[core.Host], expected: str) -> None:
    problems = check(*hosts)
    assert len(problems) == bool(expected)
    assert "".join(problems).startswith(expected)


def test_a_queue_throws_nothing_away() -> None:
    queue = {"redis_purpose": "queue"}
    assert check(host(), replace(CACHE1, variables=queue)) == []
    (said,) = check(host(), replace(CACHE1, variables={**queue, "redis_memory_policy": "allkeys-lru"}))
    assert said.startswith("redis_memory_policy: 'allkeys-lru' would throw entries of a queue away when the memory of")


def test_everything_that_is_missing_is_told_at_once_with_the_hosts() -> None:
    problems = check(*(host(f"a{number}", address=f"10.0.0.{number}", variables={}) for number in range(1, 6)))
    assert [problem.split(":")[0] for problem in problems] == ["app_module", "app_name", "app_source"]
    assert "is not set for a1, a2, a3 and 2 more: set it to a short name" in problems[1]


@pytest.mark.parametrize(
    ("named", "found"), [("auto", True), ("none", True), ("requirements.txt", True), ("requirement.txt", False)]
)
def test_a_requirements_file_that_is_missing_is_named(tmp_path: Path, named: str, found: bool) -> None:
    (tmp_path / "shop").mkdir()
    for name in ("app.py", "requirements.txt"):
        (tmp_path / "shop" / name).write_text("")
    problems = check(
        host(variables={**GOOD, "app_source": "./shop", "app_dependencies": named}, base=str(tmp_path))
    )  # fmt: skip
    expected = (
        f"app_dependencies: '{named}' is not in {tmp_path}/shop. At its top there is: app.py, requirements.txt. Name "
        "the file as a path from there, or leave the variable out to have one found"
    )
    assert problems == ([] if found else [expected])


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("app_modul", ["app_modul is not a variable of this collection: did you mean app_module?"]),
        ("gunicorn_worker", ["gunicorn_worker is not a variable of this collection: did you mean gunicorn_workers?"]),
        ("app_module", []),
        ("shop_color", []),
    ],
)
def test_misspelled_variables_are_suggested(name: str, warnings: list[str]) -> None:
    assert core.suggest([host(variables={name: "x"})], SPECS) == warnings


def facts(ports: dict[str, int] | None = None, listening: tuple[Any, ...] = (), **platform: str) -> core.Facts:
    answer = {"distribution": "debian", "version": "12", "python": "3.11", **platform}
    sockets = [{"port": port, "process": process} for port, process in listening]
    return core.Facts("a", frozenset({"app"}), {"platform": answer, "listening": sockets}, ports=ports or {})


@pytest.mark.parametrize(
    ("host_facts", "expected"),
    [
        (facts(), ""),
        (facts(distribution="ubuntu", version="22.04", python="3.10"), ""),
        (facts(distribution="ubuntu", version="26.04", python="3.14"), ""),
        (facts({"nginx": 80}, ((80, "nginx"), (22, "sshd"), (8080, "java"))), ""),
        (facts({"redis": 6379}, ((6379, "valkey-server"),)), ""),
        (facts({"memcached": 11211}, ((11211, "memcached"),)), ""),
        (facts({"memcached": 11211}, ((11211, "java"),)), "port: 11211 of a is in use by 'java', where memcached has"),
        # A run that was cut short between the packages and their configuration can be repeated.
        (facts({"nginx": 8080, "load_balancer": 80}, ((80, "nginx"),)), ""),
        (facts(distribution="ubuntu", version="20.04"), "distribution: a runs ubuntu 20.04: the roles need Ubuntu 22.04"
         " or newer, or Debian 12 or newer"),
        (facts(version="11"), "distribution: a runs debian 11: the roles need"),
        (facts(distribution="fedora", version="42"), "distribution: a runs fedora 42: the roles need"),
        (facts(version=""), "distribution: a runs debian (no version): the roles need"),
        (facts(python="3.9"), "ansible_python_interpreter: a has Python 3.9: 3.10 or newer is needed, install it"),
        (facts({"nginx": 80}, ((80, "apache2"), (80, "apache2"))), "port: 80 of a is in use by 'apache2', where nginx "
         "has to listen: stop and disable that service, or move it to another port"),
        (facts({"load_balancer": 80}, ((80, "nginx"),)), "port: 80 of a is in use by 'nginx', where load_balancer has"),
        (facts({"redis": 6379}, ((6379, ""),)), "port: 6379 of a is in use by 'an unknown process', where redis has"),
        (core.Facts("a", frozenset(), error="Connection timed out\n"), "ansible_host: a cannot be reached: Connection "
         "timed out. See that the address, the account and the key are right (ansible a -m ping), or leave the host"),
        (core.Facts("a", frozenset()), "ansible_host: a cannot be reached: no answer. See that"),
    ],
)  # fmt: skip
def test_what_a_host_answers_is_judged(host_facts: core.Facts, expected: str) -> None:
    problems = [f"{found.variable}: {found.text}" for found in core.check_facts([host_facts])]
    assert len(problems) == bool(expected)
    assert "".join(problems).startswith(expected)


def test_one_host_can_have_several_problems() -> None:
    found = core.check_facts([facts({"nginx": 80}, ((80, "apache2"),), version="10", python="3.7"), facts()])
    assert [problem.variable for problem in found] == ["distribution", "ansible_python_interpreter", "port"]


@pytest.mark.parametrize(
    ("problems", "text"),
    [
        ([("app_name", "is not set: set it")], "app_name: is not set: set it. Nothing was touched."),
        ([("app_name", "is wrong."), ("groups", "is empty")], "2 settings cannot work. Nothing was touched.\n"
         "- app_name: is wrong.\n- groups: is empty."),
    ],
)  # fmt: skip
def test_problems_are_one_message(problems: list[tuple[str, str]], text: str) -> None:
    assert core.render([core.Problem(*problem) for problem in problems], "Nothing was touched.") == text


# TLS

TLS_SETTINGS = {"fleet_tls": "provided", "certificate_file": "shop.crt", "certificate_key_file": "shop.key"}


def check_tls(base: str = "", **settings: Any) -> list[str]:
    variables = {**GOOD, "app_host_names": ["shop.example.com"]}
    balancer = host("lb1", ("load_balancer",), "10.0.0.9", variables=settings, base=base)
    return check(host(variables=variables), balancer)


def test_a_provided_certificate_is_checked_before_anything_is_touched(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    authority = make_authority(100, now)
    pair = issue(authority, ["shop.example.com"], [], 60, now)
    (tmp_path / "shop.crt").write_text(pair.certificate)
    (tmp_path / "shop.key").write_text(pair.key)
    assert check_tls(str(tmp_path), **TLS_SETTINGS) == []
    texts = {"certificate_text": pair.certificate, "certificate_key_text": pair.key}
    assert check_tls(fleet_tls="provided", **texts) == []
    (said,) = check_tls(str(tmp_path), **TLS_SETTINGS, certificate_host_names=["www.example.com"])
    assert f"certificate_file: {tmp_path}/shop.crt is for shop.example.com, and not for www.example.com: name" in said
    (tmp_path / "shop.key").write_text(authority.key)
    (said,) = check_tls(str(tmp_path), **TLS_SETTINGS)
    assert said.startswith(f"certificate_key_file: {tmp_path}/shop.key is not the key of {tmp_path}/shop.crt: name")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fleet_tls": "on"}, "fleet_tls: 'on' is unknown: write none, self_signed, provided or acme"),
        ({"fleet_tls": None}, "fleet_tls: None is unknown: write none, self_signed, provided or acme"),
        ({"fleet_tls": "acme"}, "app_host_names: 'shop.example.com' is no name that a public authority issues for"),
        (
            {"fleet_tls": "acme", "certificate_host_names": ["shop.local"]},
            "certificate_host_names: 'shop.local' is no name that a public authority issues for: write the public one",
        ),
        (
            {"fleet_tls": "acme", "certificate_acme_ca": "ca.crt"},
            "certificate_acme_ca: /nowhere/ca.crt is not a file with a certificate as PEM: write the path",
        ),
        ({"fleet_tls": "provided"}, "certificate_file: is not set: write a path on the controller, or the text itself"),
        ({**TLS_SETTINGS}, "certificate_file: /nowhere/shop.crt cannot be read (No such file or directory): write"),
    ],
)
def test_tls_that_cannot_work_is_named(settings: dict[str, Any], said: str) -> None:
    (found,) = check_tls("/nowhere", **settings)
    assert found.startswith(said)


@pytest.mark.parametrize("tls", ["none", "self_signed"])
def test_tls_that_needs_no_files_passes(tls: str) -> None:
    assert check_tls(fleet_tls=tls) == []


def test_names_and_load_balancers_that_acme_can_serve_pass(tmp_path: Path) -> None:
    assert check_tls(fleet_tls="acme", certificate_host_names=["shop.acme.net", "www.shop.acme.net"]) == []
    # An authority of one's own issues for whatever it likes.
    (tmp_path / "ca.crt").write_text(make_authority(10, datetime.now(timezone.utc)).certificate)
    own = {"certificate_acme_ca": "ca.crt", "certificate_acme_directory": "https://ca.internal/dir"}
    assert check_tls(str(tmp_path), fleet_tls="acme", **own) == []
    # The limit is Let's Encrypt's.
    variables = {"fleet_tls": "acme", "certificate_host_names": ["shop.acme.net"]}
    for number, more, allowed in (
        (4, {}, True),
        (5, {}, False),
        (5, {"certificate_acme_directory": "https://ca.acme.net/"}, True),
    ):
        balancers = [
            host(f"lb{n}", ("load_balancer",), f"10.0.1.{n}", variables={**variables, **more}) for n in range(number)
        ]
        assert (check(host(), *balancers) == []) is allowed


@pytest.mark.parametrize("value", [
    "", [], "10.0.0.100", "10.0.0.100/24", "198.51.100.7/32", ["10.0.0.100"], ["10.0.0.100", "2001:db8::100/64"],
    ["2001:db8::100", "10.0.0.100"],
])  # fmt: skip
@pytest.mark.parametrize("balancers", [1, 2, 3])
def test_floating_addresses_that_pass(value: Any, balancers: int) -> None:
    share = {"fleet_floating_address": value}
    names = [f"lb{number}" for number in range(balancers)]
    assert check(
        host("app1", address="10.0.0.21"),
        *(host(name, ("load_balancer",), f"10.0.1.{number}", variables=share) for number, name in enumerate(names)),
    ) == []  # fmt: skip


def test_floating_addresses_of_ipv6_alone() -> None:
    share = {"fleet_floating_address": "2001:db8::100"}
    assert check(host("app1"), host("lb1", ("load_balancer",), "2001:db8::11", variables=share)) == []


@pytest.mark.parametrize(
    "value", ["0.0.0.0/8", "::", "127.0.0.9", "169.254.1.1", "fe80::1", "224.0.0.18", "ff02::12", "10.0.0.255/24"]
)
def test_what_no_host_can_take_over(value: str) -> None:
    (found,) = check(host("app1", ("app", "load_balancer"), variables={**GOOD, "fleet_floating_address": value}))
    assert found.startswith(f"fleet_floating_address: '{value}' ")


def test_tls_needs_a_load_balancer() -> None:
    (said,) = check_with({"fleet_tls": "self_signed"})
    assert said.startswith("fleet_tls: 'self_signed' needs a host in the group 'load_balancer', since TLS ends there")


@pytest.mark.parametrize(
    ("entries", "said"),
    [(["404"], "'404' accepts 404"), (["200-403", "400-499"], "'400-499' accepts 404"), (["200-403", "405"], "")],
)
def test_a_drained_host_can_be_told_from_one_that_is_well(entries: list[str], said: str) -> None:
    app = host(variables={**GOOD, "app_health_status": entries})
    assert check(app) == []
    problems = check(app, host("lb1", ("load_balancer",), "10.0.0.2", variables={}))
    assert [said in problem for problem in problems] == ([True] if said else [])


APP = {"app_source": "pypi:httpbin==0.10.2", "app_module": "httpbin:app"}
COMMON = host("app1", variables={}), host("app2", address="10.0.0.2", variables={})


def app_file(name: str, *, failures: Mapping[str, str] | None = None, **variables: Any) -> core.AppFile:
    """Make a file that sets the same on both app hosts, and what every application needs unless it is None."""
    kept = {key: value for key, value in {**APP, **variables}.items() if value is not None}
    others = variables.pop("others", ())
    kept.pop("others", None)
    return core.AppFile(
        f"apps/{name}.yml",
        {"app1": kept, "app2": kept},
        {"app1": failures or {}, "app2": failures or {}},
        others=others,
    )


BLOG = app_file("blog", app_host_names=["blog.example.com"])
SHOP = app_file("shop", app_host_names=["shop.example.com"])


def check_apps(*files: core.AppFile, hosts: tuple[core.Host, ...] = COMMON, named: str | None = "blog") -> list[str]:
    found = core.check_inventory(hosts, SPECS, REQUIRED, files, named)
    return [f"{problem.variable}: {problem.text}" for problem in found]


def test_good_applications_have_no_problems() -> None:
    plain = app_file("wiki", app_server="uwsgi", uwsgi_threads=4, app_env={"A": "b"})
    fast = app_file(
        "forum", app_host_names=["forum.example.com"], app_server="granian", granian_settings={"loop": "asyncio"}
    )
    assert check_apps(BLOG, SHOP, plain, fast) == []
    assert check_apps(BLOG, named=None) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (app_file("blog", app_module=None), "apps/blog.yml: app_module: is not set for app1, app2: set it to the WSGI "
         "callable as package.module:attribute, such as shop:app, in apps/blog.yml"),
        (app_file("blog", app_module=None, app_modul="x"), "apps/blog.yml: app_module: is not set for app1, app2 (you "
         "have set 'app_modul')"),
        (app_file("blog", app_module="a b"), "apps/blog.yml: app_module: 'a b' is not a WSGI callable"),
        (app_file("blog", granian_log_level="loud"), "apps/blog.yml: granian_log_level: value of granian_log_level"),
        (app_file("blog", gunicorn_worker_class="sync", gunicorn_threads=4), "apps/blog.yml: gunicorn_threads: 4 has "
         "no effect with gunicorn_worker_class: 'sync'"),
        (app_file("blog", app_server="waitress"), "apps/blog.yml: app_server: value of app_server must be one of"),
        (app_file("blog", app_source="./nowhere"), "apps/blog.yml: app_source: './nowhere' is neither a directory"),
        (app_file("blog", app_env={"A": 5}), "apps/blog.yml: app_env: the value of A is not text but int"),
        (app_file("blog", app_host_names=["a\nb"]), r"apps/blog.yml: app_host_names: 'a\nb' holds a line break"),
        (app_file("blog", failures={"app_env": "'x' is undefined"}), "apps/blog.yml: app_env: cannot be evaluated on "
         "app1: 'x' is undefined"),
        (app_file("blog", others=["nginx_gzip"]), "apps/blog.yml: nginx_gzip: concerns whole hosts and not one "
         "application: set it in the variables of a group"),
        (app_file("Blog"), "apps/Blog.yml: 'Blog' cannot be the name of an account, a directory and a unit: use up to "
         "26 lower-case letters, digits and hyphens, a letter first, such as shop.yml"),
        (core.AppFile("apps/blog.yml", error="is not YAML in line 2"), "apps/blog.yml: is not YAML in line 2"),
    ],
)  # fmt: skip
def test_a_bad_application_is_named_by_its_file(file: core.AppFile, expected: str) -> None:
    (problem,) = check_apps(file, SHOP, named=file.name)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"app_module": None}, False),
        ({"app_source": "./nowhere"}, False),
        ({"app_env": {"A": 5}}, False),
        ({"app_host_names": ["A"]}, True),
        ({"app_static": [{"url": "x", "path": "y"}]}, True),
        ({"app_health_status": "200"}, True),
        ({"others": ["nginx_gzip"]}, True),
    ],
)
def test_of_another_application_counts_what_stands_around_it(variables: dict[str, Any], told: bool) -> None:
    file = app_file("shop", **{"app_host_names": ["shop.example.com"], **variables})
    assert bool(check_apps(BLOG, file)) is told
    assert check_apps(BLOG, file, named="shop") != []


def test_what_holds_for_all_applications_is_told_once_and_without_a_file() -> None:
    hosts = tuple(host(f"app{n}", address=f"10.0.0.{n}", variables={"app_health_path": "x"}) for n in (1, 2))
    assert check_apps(BLOG, SHOP, hosts=hosts) == [
        "app_health_path: 'x' is not a request target: it starts with a slash, such as /health"
    ]


def test_a_file_can_set_what_the_group_has_wrong_or_lacks() -> None:
    hosts = tuple(
        host(f"app{n}", address=f"10.0.0.{n}", variables={**APP, "app_host_names": ["www.example.com"]}) for n in (1, 2)
    )
    assert check_apps(app_file("blog", app_source=None, app_module=None), SHOP, hosts=hosts) == []


def test_applications_and_load_balancers_fit_together() -> None:
    hosts = (*COMMON, host("lb1", ("load_balancer",), "10.0.0.9", variables={}))
    blog = app_file("blog", app_host_names=["blog.example.com"], app_health_status=["200-499"])
    (problem,) = check_apps(blog, SHOP, hosts=hosts)
    assert problem.startswith("apps/blog.yml: app_health_status: '200-499' accepts 404")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((BLOG, app_file("shop", app_host_names=["x.example.com", "blog.example.com"])), "apps/shop.yml: "
         "app_host_names: 'blog.example.com' is one of apps/blog.yml too: a request cannot be for both"),
        ((app_file("blog"), app_file("shop", app_host_names=[])), "apps/shop.yml: app_host_names: is not set, and "
         "neither is that of apps/blog.yml: only one application can answer for every other name"),
        ((BLOG, app_file("blog-build", app_host_names=["shop.example.com"])), "apps/blog-build.yml: 'blog-build' is "
         "the account that builds the application of apps/blog.yml: give one of them another name"),
    ],
)  # fmt: skip
def test_applications_that_do_not_fit_together(files: tuple[core.AppFile, ...], expected: str) -> None:
    assert check_apps(*files) == [expected]


def test_one_name_for_all_applications_is_seen_as_that_of_each() -> None:
    hosts = tuple(
        host(f"app{n}", address=f"10.0.0.{n}", variables={"app_host_names": ["www.example.com"]}) for n in (1, 2)
    )
    assert check_apps(app_file("blog"), app_file("shop"), hosts=hosts) == [
        "apps/shop.yml: app_host_names: 'www.example.com' is one of apps/blog.yml too: a request cannot be for both"
    ]


WIKI = app_file("wiki", app_host_names=["wiki.example.com"])


@pytest.mark.parametrize(
    ("files", "named", "expected"),
    [
        ((BLOG, SHOP), None, "app_name: this fleet has the applications blog and shop: say which one, -e "
         "app_name=blog"),
        ((BLOG, SHOP, WIKI), None, "app_name: this fleet has the applications blog, shop and wiki: say which one, -e "
         "app_name=blog"),
        ((BLOG, SHOP), "x\n", "app_name: 'x\\n' is none of the applications of this fleet, blog and shop: write -e "
         "app_name=blog, or give it a file"),
        ((BLOG,), "shop", "app_name: 'shop' is none of the applications of this fleet, blog: write -e app_name=blog, "
         "or give it a file"),
    ],
)  # fmt: skip
def test_it_is_clear_which_application_is_meant(
    files: tuple[core.AppFile, ...], named: str | None, expected: str
) -> None:
    assert check_apps(*files, named=named) == [expected]
    (problem,) = core.check_named([file.name for file in files], named)
    assert f"{problem.variable}: {problem.text}" == expected


def test_a_file_of_an_application_that_became_groups_is_told() -> None:
    groups = ["all", "app", "app_hooks", "app_env", "ungrouped"]
    (problem,) = core.check_inventory(COMMON, SPECS, REQUIRED, (BLOG,), None, groups)
    assert problem.variable == "groups"
    assert problem.text.startswith("'app_env' is the name of a variable: Ansible has read a file of an application")


@pytest.mark.parametrize(("names", "named"), [([], None), ([], "shop"), (["shop"], None), (["blog", "shop"], "shop")])
def test_an_application_that_is_clear_needs_no_name(names: list[str], named: str | None) -> None:
    assert list(core.check_named(names, named)) == []


def test_a_provided_certificate_must_be_for_all_applications() -> None:
    now = datetime.now(timezone.utc).replace(microsecond=0)
    pair = issue(make_authority(100, now), ["blog.example.com"], [], 60, now)
    settings = {"fleet_tls": "provided", "certificate_text": pair.certificate, "certificate_key_text": pair.key}
    balancer = host("lb1", ("load_balancer",), "10.0.0.9", variables=settings)
    assert check_apps(BLOG, hosts=(*COMMON, balancer)) == []
    (problem,) = check_apps(BLOG, SHOP, hosts=(*COMMON, balancer))
    assert "is for blog.example.com, and not for shop.example.com" in problem


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (
            "app_processes",
            [
                {"name": "worker", "command": "celery -A shop worker"},
                {"name": "a", "command": "b", "schedule": "daily"},
            ],
        ),
        ("app_batch", 1),
        ("app_batch", "25%"),
        ("app_batch", [1, "50%", "100%"]),
        ("app_batch_pause", "ask"),
        ("app_batch_pause", 90),
        ("app_migrate_command", ""),
        ("app_migrate_command", "flask db upgrade"),
        ("app_warmup_paths", ["/", "/shop?page=1"]),
        ("app_hooks", {"after_stage": [{"command": "true"}, {"tasks": "hooks/purge.yml", "hosts": "one"}]}),
    ],
)
def test_how_a_deploy_goes_can_be_set(variable: str, value: object) -> None:
    assert check_with({variable: value}) == []


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "app_processes",
            [{"name": "worker", "command": "a 'b"}],
            "worker: 'a 'b' is not a command: No closing quotation",
        ),
        (
            "app_processes",
            [{"name": "a", "command": "b"}, {"name": "a", "command": "b"}],
            "there are two of the name 'a'",
        ),
        ("app_batch", 0, "'0' is neither a number of hosts nor a percentage: write 1 or 25%, or a list of these"),
        ("app_batch", [1, "half"], "'half' is neither a number of hosts nor a percentage"),
        ("app_batch", [], "[] has no sizes: write 1, 25% or a list of these"),
        ("app_batch_pause", "5m", "'5m' is neither a number of seconds nor ask"),
        ("app_batch_pause", -1, "-1 is neither a number of seconds nor ask"),
        ("app_migrate_command", "a 'b", "'a 'b' is not a command: No closing quotation"),
        ("app_migrate_timeout", 0, "0 "),
        ("app_health_interval", 0, "0 "),
        ("app_warmup_paths", ["shop"], "'shop' is not a request target: it starts with a slash, such as /"),
        ("app_hooks", {"after_stage": [{"hosts": "one"}]}, "an entry of after_stage must have either command or tasks"),
        ("app_hooks", {"after_stage": [{"command": "a", "tasks": "b"}]}, "an entry of after_stage must have either"),
        ("app_hooks", {"after_stage": [{"command": "a 'b"}]}, "after_stage: 'a 'b' is not a command"),
    ],
)
def test_how_a_deploy_cannot_go_is_said(variable: str, value: object, message: str) -> None:
    (problem,) = check_with({variable: value})
    assert problem.startswith(f"{variable}: ")
    assert message in problem


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"uwsgi_processes": 2, "uwsgi_threads": 1, "uwsgi_cheaper": 2},
            "uwsgi_cheaper: 2 is not below uwsgi_processes, which is 2: it is the fewest processes, write less than "
            "that",
        ),
        (
            {"uwsgi_settings": {"master": False}},
            "uwsgi_settings: master follows from how an instance is wired and cannot be set: take it out",
        ),
        (
            {"uwsgi_package": "distribution", "app_python": "/opt/python/bin/python3"},
            "uwsgi_package: distribution runs /usr/bin/python3 and no other, but app_python is "
            "'/opt/python/bin/python3': leave app_python at its default, or write pypi",
        ),
    ],
)
def test_settings_of_uwsgi_count_where_it_is_the_app_server(variables: dict[str, Any], expected: str) -> None:
    assert check_with(variables) == []
    assert check_with({**variables, "app_server": "uwsgi"}) == [expected]
    assert check_apps(app_file("blog", app_server="uwsgi", **variables)) == [f"apps/blog.yml: {expected}"]
    balancer = host("lb1", ("load_balancer",), "10.0.0.9", variables={"app_server": "uwsgi", **variables})
    assert check(host(), balancer) == []
