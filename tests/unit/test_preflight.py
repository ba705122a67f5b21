"""The preflight check: what cannot work is named with variable, value and remedy, all of it at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.action.preflight import REQUIRED, read_specs
from ansible_collections.wsgi.fleet.plugins.module_utils import _preflight as core

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
        "app_static": [{"url": "/", "path": "public"}, {"url": "/static/", "path": "shop/static"}],
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
        ("app_health_path", "health", "'health' is not a request target: it starts with a slash"),
        ("app_health_path", "/a b", "'/a b' is not a request target"),
        ("app_health_host", "a b", "'a b' is not a host name"),
        ("app_health_body", "(", "'(' is not a regular expression"),
        ("app_health_deadline", "soon", "cannot be converted to a float"),
        ("app_health_deadline", 0, "0 must be a number above 0"),
        ("app_keep_releases", "many", "cannot be converted to an int"),
        ("app_env", ["A=1"], "unable to convert to dict"),
        ("app_env", "A=1", "is not a dictionary: write NAME: value pairs"),
        ("app_env", {"A-B": "x"}, "'A-B' cannot be the name of an environment variable"),
        ("app_env", {"A": 5}, "the value of A is not text but int: environment variables are text, put it in quotes"),
        ("app_env", {"A": "x\0"}, "the value of A holds a NUL byte"),
        ("app_build_environment", {"A": True}, "the value of A is not text but bool"),
        ("app_static", [{"url": "/static/"}], "missing required arguments: path"),
        ("app_static", [{"url": "/static", "path": "x"}], "url '/static' must start and end with a slash"),
        ("app_static", [{"url": "/static/", "path": "../x"}], "path '../x' must lie inside the source"),
        ("app_python", "python2", "'python2' is not an interpreter: write a path such as /usr/bin/python3"),
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
        ("redis_memory_policy", "none", "must be one of: allkeys-lru"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_remedy(variable: str, value: Any, fragment: str) -> None:
    (problem,) = check_with({variable: value})
    assert problem.startswith(f"{variable}: ")
    assert fragment in problem


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
    assert found == [core.Problem("app_pin", "is not of type int")]


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
