"""Profiling a fleet while it serves: from outside with py-spy, and with Flask-Profiler as part of a release.

The tests of this file build on each other, in their order.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import Answer, ask, host_named, run_playbook
from testinfra.host import Host

from tests.load import Kind, Load

BALANCER = "172.31.78.171"
ADDRESS = {"app1": "172.31.78.172", "app2": "172.31.78.173"}
SHOP = {"Host": "shop.example.com"}
DASHBOARD = "/flask-profiler/"
GROUPED = "/flask-profiler/api/measurements/grouped"
#: A body that is no text, and an answer that takes a while, are what a profiler could break.
KINDS = (
    Kind("get", 8, "/"),
    Kind("get, kept", 8, "/whoami", kept=True),
    Kind("post", 2, "/upload", upload=8192),
    Kind("slow", 3, "/slow?seconds=0.4", takes=0.4),
)
ON_HOST = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request("http://127.0.0.1" + sys.argv[1], headers=json.loads(sys.argv[2]))
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
"""


def password() -> str:
    """Return the password that the first deploy with a profiler has made on the controller."""
    return Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], ".secrets/profiler_password").read_text().strip()


def login(word: str = "") -> dict[str, str]:
    """Return what a browser sends of the operator's name and password."""
    return {"Authorization": "Basic " + base64.b64encode(f"operator:{word or password()}".encode()).decode()}


def as_operator(name: str, path: str, headers: dict[str, str]) -> Answer:
    """Ask the web server of a host from that host itself, as what comes through a tunnel of ssh does."""
    said = host_named(name).check_output("python3 -c %s %s %s", ON_HOST, path, json.dumps({**SHOP, **headers}))
    status, names, body = json.loads(said)
    return Answer(status, {key.lower(): value for key, value in names.items()}, body.encode())


def served_by() -> str:
    """Return the host that the load balancer has chosen."""
    return ask(BALANCER, "/whoami", headers=SHOP).headers["x-served-by"].split("/")[0]


def currents() -> dict[str, str]:
    """Return the release that each app host has in service."""
    return {name: host_named(name).check_output("basename $(readlink /srv/shop/current)") for name in ADDRESS}


def processes(host: Host) -> str:
    """Return the instance's first process, and how often it was restarted."""
    return host.check_output("systemctl show --property=Id,MainPID,NRestarts 'shop@*'")


@contextmanager
def no_request_lost(rate: float = 25) -> Iterator[None]:
    """Ask the fleet all the time; every request must be answered."""
    with Load([(BALANCER, 80)], "shop.example.com", rate, kinds=KINDS) as load:
        yield
        time.sleep(1)
    assert not load.result.failures, load.result.explain()


def play(name: str, *arguments: str, inventories: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the scenario's inventory and others besides."""
    return run_playbook(f"{name}.yml", *arguments, inventories=("hosts.yml", *inventories))


def deploy(*inventories: str) -> str:
    """Deploy, which has to succeed, while clients lose nothing; return what was printed."""
    with no_request_lost():
        done = play("deploy", "--diff", inventories=inventories)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def profiled(directory: Path, **variables: Any) -> tuple[str, dict[str, Path]]:
    """Run profile.yml, which has to succeed; return what was printed, and what it wrote, by its beginning and end."""
    done = play("profile", "--extra-vars", json.dumps({"app_profile_directory": str(directory), **variables}))
    assert done.returncode == 0, done.stdout + done.stderr
    files = {re.sub(r"-\d{8}T\d{6}Z\.", ".", path.name): path for path in (directory / "shop").iterdir()}
    return done.stdout, files


def functions(path: Path) -> set[str]:
    """Return the functions of the application in a file for speedscope that some thread was seen in."""
    document = json.loads(path.read_text())
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    seen = {index for one in document["profiles"] for sample in one["samples"] for index in sample}
    entries = [document["shared"]["frames"][index] for index in seen]
    return {entry["name"] for entry in entries if str(entry["file"]).endswith("/code/shop/__init__.py")}


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    """The releases that are live without any profiler."""
    # An earlier verification may have left one.
    if any(host_named(name).file("/srv/shop/current/profiler.py").exists for name in ADDRESS):
        deploy()
    return currents()


def test_py_spy_shows_what_both_servers_do_and_leaves_them_alone(before: dict[str, str], tmp_path: Path) -> None:
    hosts = {name: host_named(name) for name in ADDRESS}
    then = {name: processes(host) for name, host in hosts.items()}
    with no_request_lost(rate=40):
        said, files = profiled(tmp_path, host="app1,app2", seconds=4)
    assert set(files) == {"app1.speedscope.json", "app1.svg", "app2.speedscope.json", "app2.svg"}
    for name, host in hosts.items():
        seen = functions(files[f"{name}.speedscope.json"])
        assert seen & {"index", "slow", "upload", "whoami"}, seen
        picture = files[f"{name}.svg"].read_text()
        assert [function for function in seen if f"{function} (shop/__init__.py:" in picture]
        assert before[name] in said
        assert processes(host) == then[name]
        assert host.run("pgrep -f '[p]y-spy'").rc == 1
        assert not host.file("/var/lib/wsgi.fleet/transfer/shop-profile").exists
    assert re.search(r"own % +total % +function", said)
    assert "changed=0" in said


def test_py_spy_shows_what_requests_wait_for(before: dict[str, str], tmp_path: Path) -> None:
    with no_request_lost():
        _said, files = profiled(tmp_path, host="app1", seconds=2, app_profile_idle=True, app_profile_nonblocking=True)
    assert "slow" in functions(files["app1.speedscope.json"])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"host": "lb1"}, "host: 'lb1' is not an app host; write -e host=… with one of app1, app2"),
        ({"host": "app1", "seconds": 0}, "app_profile_seconds: '0' is no time to record"),
    ],
)
def test_what_cannot_be_profiled_is_refused(variables: dict[str, Any], message: str) -> None:
    done = play("profile", "--extra-vars", json.dumps(variables))
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, message in said) == (2, True), said


def test_an_instance_that_does_not_run_is_refused(before: dict[str, str]) -> None:
    host = host_named("app2")
    unit = f"shop@{before['app2']}.service"
    host.check_output("systemctl stop %s", unit)
    try:
        done = play("profile", "--extra-vars", '{"host": "app2"}')
    finally:
        host.check_output("systemctl start %s", unit)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2
    assert f"{unit} does not run, so that there is nothing to profile" in said
    deadline = time.monotonic() + 20
    while "app2" not in {served_by() for _number in range(4)}:
        assert time.monotonic() < deadline, "the load balancer does not take the host back"
        time.sleep(0.5)


def check_dashboard(name: str) -> None:
    """Look at the dashboard of a host, as the operator and as others."""
    for _number in range(5):
        ask(ADDRESS[name], "/?token=s3cret", headers=SHOP)
        ask(ADDRESS[name], "/slow?seconds=0.01", headers={**SHOP, "Cookie": "session=s3cret-cookie"})
    time.sleep(1.5)

    assert as_operator(name, DASHBOARD, {}).status == 401
    assert as_operator(name, GROUPED, login("wrong")).status == 401
    page = as_operator(name, DASHBOARD, login())
    assert (page.status, "Flask Profiler" in page.text) == (200, True)
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    # A browser gets there by the name that leads to the near end of a tunnel; from elsewhere it is no name of the site.
    assert as_operator(name, DASHBOARD, {**login(), "Host": "shop.localhost:8080"}).status == 200
    assert ask(ADDRESS[name], "/", headers={"Host": "shop.localhost"}).status == 421
    assert ask(ADDRESS[name], "/", headers={"Host": "shop.localhost", "X-Forwarded-For": "127.0.0.1"}).status == 421
    assert as_operator(name, "/flask-profiler/static/dist/css/main.css", login()).status == 200
    found = json.loads(as_operator(name, GROUPED, login()).body)["measurements"]
    seen = {(entry["method"], entry["name"]): entry for entry in found}
    assert seen["GET", "/"]["count"] >= 5
    assert seen["GET", "/slow"]["maxElapsed"] >= 0.4
    assert seen["POST", "/upload"]["count"] >= 1
    assert not [key for key in seen if "health" in key[1] or "profiler" in key[1]]
    kept = as_operator(name, "/flask-profiler/api/measurements/?name=/slow&sort=endedAt,desc", login()).text
    assert "s3cret-cookie" not in kept

    # Nobody else learns that it is there: with the password neither, nor with headers that claim to be the host.
    claims = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    for path in (DASHBOARD, GROUPED, "/flask-profiler", "/flask-profiler/db/dumpDatabase"):
        for headers in ({}, login(), {**login(), **claims}, {**login(), "X-Forwarded-For": "127.0.0.1, 127.0.0.1"}):
            assert ask(ADDRESS[name], path, headers={**SHOP, **headers}).status == 404
    answers = [ask(BALANCER, DASHBOARD, headers={**SHOP, **login(), **claims}) for _number in range(8)]
    assert {answer.status for answer in answers} == {404}
    # Some of them are those of the host with the profiler, and not the application's own.
    assert [answer for answer in answers if "x-served-by" not in answer.headers]


def test_flask_profiler_on_one_host_under_gunicorn(before: dict[str, str]) -> None:
    said = deploy("app1_profiled.yml")
    now = currents()
    assert (now["app1"] != before["app1"], now["app2"]) == (True, before["app2"])
    check_dashboard("app1")

    # The password is where the environment is, and nowhere else.
    host = host_named("app1")
    assert re.fullmatch("[A-Za-z0-9]{32}", password())
    assert password() not in said
    for place in ("/srv/shop/current/release.json", "/srv/shop/current/profiler.json", "/etc/systemd/system"):
        assert host.run("grep -rqs %s %s", password(), place).rc == 1
    # Not in the whole of it, to which sudo writes the commands of this test.
    assert password() not in host.check_output("journalctl --no-pager --unit 'shop@*' --unit nginx")
    assert password() not in host.check_output("ps -eww -o args")
    assert host.file("/srv/shop/current/env").mode == 0o600
    assert password() in host.file("/srv/shop/current/env").content_string
    store = host.file(f"/run/shop/{now['app1']}/profiler.sqlite")
    assert (store.user, store.mode & 0o007) == ("shop", 0)


def test_flask_profiler_moves_to_a_host_under_uwsgi_and_the_first_is_as_it_was(before: dict[str, str]) -> None:
    deploy("app2_profiled.yml")
    now = currents()
    assert (now["app1"], now["app2"] != before["app2"]) == (before["app1"], True)
    check_dashboard("app2")


def test_switched_off_the_releases_are_those_of_before(before: dict[str, str]) -> None:
    deploy()
    assert currents() == before
    for name in ADDRESS:
        seen = as_operator(name, DASHBOARD, login())
        assert (seen.status, "x-served-by" in seen.headers) == (404, True)
        assert host_named(name).check_output("find /run/shop -name 'profiler*'") == ""


@pytest.mark.parametrize("host", ["app1", "app2", "lb1"])
def test_no_unit_has_failed(host: str) -> None:
    assert host_named(host).check_output("systemctl list-units --failed --plain --no-legend") == ""
