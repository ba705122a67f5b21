"""Two applications on the same hosts: by host name on one load balancer, and each with releases of its own.

The tests of this file build on each other, in their order.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fleet_testing import Answer, ask, host_named, run_playbook

from tests.load import Kind, Load

BALANCER = "172.31.78.131"
APP_HOSTS = ("app1", "app2")
HOST = {"shop": "shop.example.com", "httpbin": "bin.example.com"}
#: What each is asked under load.
KINDS = {
    "shop": (
        Kind("get", 4, echo=True),
        Kind("get, kept", 4, kept=True, echo=True),
        Kind("post", 2, "/upload", upload=8192),
    ),
    "httpbin": (
        Kind("get", 5, "/get"),
        Kind("get, kept", 4, "/get", kept=True),
        Kind("slow", 1, "/delay/1", takes=1.0),
    ),
}
RATE = 20


@dataclass(frozen=True)
class State:
    """What an app host has of an application.

    :param unit: the instance that runs, with its process and when it began.
    :param releases: all that are kept, and what the history says.
    """

    current: str
    unit: str
    releases: str


def asked(app: str, path: str, **options: Any) -> Answer:
    """Ask an application through the load balancer."""
    return ask(BALANCER, path, headers={"Host": HOST[app]}, **options)


def state(app: str, hosts: tuple[str, ...] = APP_HOSTS) -> dict[str, State]:
    """Return what each app host has of an application."""
    found = {}
    for name in hosts:
        host = host_named(name)
        units = host.check_output("systemctl list-units --plain --no-legend '%s@*'", app).splitlines()
        assert len(units) == 1, units
        found[name] = State(
            host.check_output("basename $(readlink /srv/%s/current)", app),
            host.check_output(
                "systemctl show --property=Id,MainPID,ActiveEnterTimestampMonotonic,NRestarts %s", units[0].split()[0]
            ),
            host.check_output("cd /srv/%s && ls -1 releases builds && cat history.jsonl", app),
        )
    return found


def currents(app: str) -> dict[str, str]:
    """Return the release that each app host has in service."""
    return {name: found.current for name, found in state(app).items()}


@contextmanager
def no_request_lost() -> Iterator[None]:
    """Ask both applications all the time; every request must be answered."""
    loads = {app: Load([(BALANCER, 80)], HOST[app], RATE, kinds=KINDS[app]) for app in HOST}
    with loads["shop"], loads["httpbin"]:
        yield
        time.sleep(1)
    for app, load in loads.items():
        assert load.result is not None
        assert not load.result.failures, f"{app}: {load.result.explain()}"


def play(name: str, app: str = "", variables: Mapping[str, Any] | None = None, *, scaled: bool = False) -> str:
    """Run a playbook that has to succeed; return what it printed."""
    done = started(name, app, variables, scaled)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(name: str, app: str = "", variables: Mapping[str, Any] | None = None) -> str:
    """Run a playbook that has to fail; return what it printed as one line."""
    done = started(name, app, variables, False)
    assert done.returncode == 2, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def started(name: str, app: str, variables: Mapping[str, Any] | None, scaled: bool) -> subprocess.CompletedProcess[str]:
    """Run a playbook, and expect nothing of it but that it warns of nothing."""
    chosen = {**({"app_name": app} if app else {}), **(variables or {})}
    inventories = ("hosts.yml", "scale.yml") if scaled else ("hosts.yml",)
    done = run_playbook(f"{name}.yml", "--extra-vars", json.dumps(chosen), inventories=inventories)
    assert "[WARNING]" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def served_by(count: int = 12) -> set[str]:
    """Ask the shop some times; return the hosts that answered."""
    return {asked("shop", "/whoami").headers["x-served-by"].split("/")[0] for _number in range(count)}


def environment(app: str) -> dict[str, str]:
    """Return the environment of an application's current release."""
    text = host_named("app1").check_output("cat /srv/%s/current/env", app)
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value.strip('"') for name, _equals, value in pairs}


def test_both_answer_by_their_host_names() -> None:
    seen = asked("shop", "/whoami")
    assert (seen.status, json.loads(seen.body)["host"]) == (200, "shop.example.com")
    for name in ("bin.example.com", "a.bin.example.com"):
        seen = ask(BALANCER, "/get", headers={"Host": name})
        assert (seen.status, json.loads(seen.body)["url"]) == (200, f"http://{name}/get")
    assert asked("shop", "/get").status == 404
    assert asked("httpbin", "/whoami").status == 404
    assert ask(BALANCER, headers={"Host": "other.example.com"}).status == 421
    assert asked("shop", "/static/style.css").status == 200
    assert asked("httpbin", "/static/style.css").status == 404


@pytest.mark.parametrize("name", APP_HOSTS)
def test_each_has_its_server_its_dependencies_and_its_account(name: str) -> None:
    host = host_named(name)
    for app, program, own, others in (
        ("shop", "gunicorn", "flask_caching", "httpbin"),
        ("httpbin", "uwsgi", "httpbin", "flask_caching"),
    ):
        process = re.findall(r"MainPID=(\d+)", state(app, (name,))[name].unit)[0]
        assert program in host.check_output("cat /proc/%s/cmdline", process)
        assert host.check_output("ps -o user= -p %s", process) == app
        packages = host.check_output("ls /srv/%s/current/build/venv/lib/python*/site-packages", app).split()
        assert own in packages
        assert others not in packages
        assert any(package.startswith((program, f"py{program}")) for package in packages)


def test_sessions_and_caches_are_apart() -> None:
    shop, other = environment("shop"), environment("httpbin")
    for secret in ("FLASK_SECRET_KEY", "FLASK_CACHE_REDIS_PASSWORD"):
        assert re.fullmatch("[0-9a-f]{64}", shop[secret])
        assert shop[secret] != other[secret]
    assert shop["FLASK_GREETING"] == "This is shop"
    assert "FLASK_GREETING" not in other
    app = host_named("app1")
    ask_redis = (
        "import sys, redis; c = redis.Redis.from_url(sys.argv[1]); c.set(sys.argv[2] + ':x', 1);"
        "print(c.get(sys.argv[2] + ':x'))"
    )
    python = "/srv/shop/current/build/venv/bin/python"
    assert app.check_output("%s -c %s %s shop", python, ask_redis, shop["REDIS_URL"]) == "b'1'"
    assert app.check_output("%s -c %s %s httpbin", python, ask_redis, other["REDIS_URL"]) == "b'1'"
    denied = app.run("%s -c %s %s shop", python, ask_redis, other["REDIS_URL"])
    assert denied.rc == 1
    assert "No permissions to access a key" in denied.stderr


@pytest.mark.parametrize(("app", "other"), [("shop", "httpbin"), ("httpbin", "shop")])
def test_a_new_release_of_one_leaves_the_other_alone(app: str, other: str) -> None:
    before, untouched = currents(app), state(other)
    with no_request_lost():
        play("deploy", app, {"app_env": {"FLASK_GREETING": "hello"}})
    assert set(currents(app).values()).isdisjoint(before.values())
    assert state(other) == untouched


@pytest.mark.parametrize(("app", "other"), [("shop", "httpbin"), ("httpbin", "shop")])
def test_one_goes_back_without_the_other(app: str, other: str) -> None:
    before, untouched = currents(app), state(other)
    with no_request_lost():
        play("rollback", app)
    assert set(currents(app).values()).isdisjoint(before.values())
    assert state(other) == untouched
    said = play("history", app)
    assert re.search(r"DEPLOY +WHAT .*\n.*[0-9]Z-[0-9a-f]{4} +rollback ", said)
    others = re.findall(r'"deploy": "([^"]+)"', untouched["app1"].releases)
    assert others
    assert not [deploy for deploy in others if deploy in said]


def test_a_release_that_fails_leaves_both_as_they_are() -> None:
    before, untouched = state("httpbin"), state("shop")
    with no_request_lost():
        said = refused("deploy", "httpbin", {"app_module": "httpbin:nothing"})
    assert "did not pass its gate" in said
    assert {name: (now.current, now.unit) for name, now in state("httpbin").items()} == {
        name: (then.current, then.unit) for name, then in before.items()
    }
    assert state("shop") == untouched


def test_maintenance_of_one_is_not_that_of_the_other() -> None:
    try:
        play("maintenance", "shop", {"app_maintenance": "on"})
        assert asked("shop", "/").status == 503
        assert asked("httpbin", "/get").status == 200
    finally:
        play("maintenance", "shop", {"app_maintenance": "off"})
    assert asked("shop", "/").status == 200


@pytest.mark.parametrize("name", ["site", "deploy", "rollback", "history", "maintenance"])
def test_which_one_has_to_be_said(name: str) -> None:
    said = refused(name)
    assert (
        "app_name: this fleet has the applications httpbin, shop and wiki: say which one, -e app_name=httpbin" in said
    )
    assert not re.search(r"changed=[1-9]", said)


def test_one_that_is_not_there_is_refused() -> None:
    said = refused("rollback", "blog")
    assert "app_name: 'blog' is none of the applications of this fleet, httpbin, shop and wiki: write" in said


def test_one_that_is_yet_to_come_is_in_nobodys_way() -> None:
    """Load balancers know of it already, and hosts can be taken out and brought back all the same."""
    assert ask(BALANCER, headers={"Host": "wiki.example.com"}).status == 503
    with no_request_lost():
        try:
            play("drain", variables={"host": "app1"})
            assert "app1" not in served_by()
        finally:
            play("undrain", variables={"host": "app1"})
        assert "app1" in served_by()


def test_a_host_joins_one_after_the_other_without_a_lost_request() -> None:
    """The new host gets requests for what it has, and none for what it is yet to get."""
    # An earlier verification may have left it there.
    play("site", "shop")
    app3 = host_named("app3")
    app3.check_output("systemctl stop 'httpbin@*' && rm -rf /srv/httpbin")
    with no_request_lost():
        play("site", "shop", scaled=True)
        assert not app3.file("/srv/httpbin/current").exists
        assert "app3" in served_by()
        play("site", "httpbin", scaled=True)
    assert state("httpbin", ("app3",))["app3"].current == currents("httpbin")["app1"]
    rows = host_named("lb1").check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8404/;csv').read().decode())\""
    )
    up = {tuple(row.split(",")[:2]) for row in rows.splitlines() if ",UP," in row and ",app" in row}
    assert up == {(app, name) for app in HOST for name in (*APP_HOSTS, "app3")}


@pytest.mark.parametrize("app", ["shop", "httpbin"])
def test_a_second_run_changes_nothing(app: str) -> None:
    said = play("site", app, scaled=True)
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}


@pytest.mark.parametrize("host", ["app1", "app2", "app3", "cache1", "lb1"])
def test_no_unit_has_failed(host: str) -> None:
    assert host_named(host).check_output("systemctl list-units --failed --plain --no-legend") == ""
