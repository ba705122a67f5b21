"""What operators do to a fleet that serves: maintenance, and hosts that are taken out and brought back.

The tests of this file build on each other, in their order.
"""

from __future__ import annotations

import csv
import http.client
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_testing import Answer, Load, ask, host_named, open_from, run_playbook, site, status_from

BALANCER = "172.31.78.101"
SHOP = {"Host": "shop.example.com"}
APP_HOSTS = ("app1", "app2")


def shop(path: str, **options: object) -> Answer:
    """Ask the shop through the load balancer."""
    return ask(BALANCER, path, headers=SHOP, **options)  # type: ignore[arg-type]


def served_by(count: int = 24) -> set[str]:
    """Send some requests and return the hosts that answered."""
    return {shop("/whoami").headers["x-served-by"].split("/")[0] for _number in range(count)}


def statuses() -> dict[str, str]:
    """Return what HAProxy says of the app hosts."""
    said = host_named("lb1").check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8404/;csv').read().decode())\""
    )
    rows = csv.DictReader(said.removeprefix("# ").splitlines())
    return {row["svname"]: row["status"] for row in rows if row["svname"] in APP_HOSTS}


def changes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return how many changes each host's line of the recap tells; the run must have gone well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE))


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run said that must have failed and changed nothing."""
    assert done.returncode == 2, done.stdout
    assert not re.search(r"changed=[1-9]", done.stdout), done.stdout
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module", autouse=True)
def deployed() -> None:
    """Bring the shop back where an earlier verification left another application."""
    if "x-served-by" not in shop("/whoami").headers:
        done = site()
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("value", ["maybe", ""])
def test_maintenance_is_on_or_off(value: str) -> None:
    said = refused(run_playbook("maintenance.yml", "-e", f"app_maintenance={value}"))
    assert f"value of app_maintenance must be one of: on, off, got: {value}" in said


def test_maintenance_has_to_be_asked_for() -> None:
    assert "app_maintenance: not set: write -e app_maintenance=on" in refused(run_playbook("maintenance.yml"))


def test_a_dry_run_switches_nothing() -> None:
    done = run_playbook("maintenance.yml", "-e", "app_maintenance=on", "--check", "--diff")
    assert changes(done) == {"app1": "1", "app2": "1"}
    assert "Back soon" in done.stdout
    assert shop("/").status == 200


def test_maintenance_and_back_under_load() -> None:
    """Clients see answers of the shop or the page and nothing else, and checks only the shop."""
    with (
        Load(BALANCER, "/whoami", headers=SHOP, methods=("GET",)) as load,
        Load(BALANCER, "/health", headers=SHOP, methods=("GET",), rate=10) as health,
    ):
        time.sleep(1)
        assert changes(run_playbook("maintenance.yml", "-e", "app_maintenance=on")) == {"app1": "1", "app2": "1"}
        for path in ("/", "/whoami", "/static/style.css"):
            answer = shop(path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "300"), path
            assert answer.headers["cache-control"] == "no-store"
            assert "Back soon" in answer.text
        assert shop("/health").status == 200
        assert set(statuses().values()) == {"UP"}
        assert changes(run_playbook("maintenance.yml", "-e", "app_maintenance=on")) == {"app1": "0", "app2": "0"}
        assert changes(run_playbook("maintenance.yml", "-e", "app_maintenance=off")) == {"app1": "1", "app2": "1"}
        assert shop("/").status == 200
        time.sleep(1)
        assert changes(run_playbook("maintenance.yml", "-e", "app_maintenance=off")) == {"app1": "0", "app2": "0"}
    assert {failure.partition(": ")[2].partition(":")[0] for failure in load.failures} == {"status 503"}
    assert load.requests - len(load.failures) > 40
    assert health.failures == []


def test_a_page_of_ones_own(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>Closed on Mondays</title>")
    run_playbook("maintenance.yml", "-e", "app_maintenance=on", "-e", f"app_maintenance_page={page}")
    assert shop("/").text == page.read_text()
    assert run_playbook("maintenance.yml", "-e", "app_maintenance=off").returncode == 0
    assert shop("/").status == 200


def test_maintenance_is_for_all_hosts_or_none() -> None:
    """One host's web server does not know of the page: no host is left with it, and the run says why."""
    app = host_named("app2")
    change = "sed -i 's#%s#%s#' /etc/nginx/nginx.conf && systemctl reload nginx && sleep 1"
    app.check_output(change % ("/srv/shop/maintenance.html", "/srv/shop/other.html"))
    try:
        done = run_playbook("maintenance.yml", "-e", "app_maintenance=on")
    finally:
        app.check_output(change % ("/srv/shop/other.html", "/srv/shop/maintenance.html"))
    assert done.returncode == 2
    assert "run site.yml once" in " ".join(done.stdout.split())
    assert [host_named(name).file("/srv/shop/maintenance.html").exists for name in APP_HOSTS] == [False, False]
    assert {shop("/").status for _number in range(8)} == {200}


@pytest.fixture
def maintenance() -> Iterator[None]:
    """It is on."""
    assert run_playbook("maintenance.yml", "-e", "app_maintenance=on").returncode == 0
    yield
    assert run_playbook("maintenance.yml", "-e", "app_maintenance=off").returncode == 0
    assert shop("/").status == 200


@pytest.mark.usefixtures("maintenance")
def test_a_large_body_gets_its_answer() -> None:
    """The page answers what a client has sent as a whole, on a connection that it may keep."""
    for size in (1024 * 1024, 8 * 1024 * 1024):
        for _again in range(10):
            connection = http.client.HTTPConnection(BALANCER, timeout=10)
            connection.request("POST", "/upload", body=b"x" * size, headers=SHOP)
            response = connection.getresponse()
            assert (response.status, response.headers["retry-after"]) == (503, "300")
            assert b"Back soon" in response.read()
            connection.request("GET", "/", headers=SHOP)
            response = connection.getresponse()
            assert (response.status, b"Back soon" in response.read()) == (503, True)
            connection.close()


@pytest.mark.usefixtures("maintenance")
def test_a_release_can_go_live_meanwhile() -> None:
    """What maintenance is for: the deploy passes its checks, and clients see none of it."""
    before = {name: host_named(name).check_output("readlink /srv/shop/current") for name in APP_HOSTS}
    with Load(BALANCER, "/", headers=SHOP, methods=("GET",)) as load:
        done = site("--extra-vars", '{"app_version": "meanwhile", "app_env": {"FLASK_GREETING": "meanwhile"}}')
    assert done.returncode == 0, done.stdout
    assert Counter(failure.partition(": ")[2].partition(":")[0] for failure in load.failures) == {
        "status 503": load.requests
    }
    after = {name: host_named(name).check_output("readlink /srv/shop/current") for name in APP_HOSTS}
    assert all(before[name] != after[name] for name in APP_HOSTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "host: not set; write -e host=… with one of app1, app2"),
        (("-e", "host=cache1"), "host: 'cache1' is not an app host; write -e host=… with one of app1, app2"),
        (("-e", "host=app1,app2"), "host: there is no app host but app1, app2, so that nobody would be left to serve"),
        (("-e", "host=app1", "--limit", "app1"), "--limit: leave it out"),
    ],
)
def test_what_cannot_be_drained_is_refused(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(run_playbook("drain.yml", *arguments))
    assert set(statuses().values()) == {"UP"}


def test_a_dry_run_drains_nothing() -> None:
    done = run_playbook("drain.yml", "-e", "host=app1", "--check", "--diff")
    assert changes(done)["app1"] != "0"
    assert served_by() == {"app1", "app2"}


def test_a_host_is_drained_without_a_lost_request() -> None:
    """It finishes what it has and gets nothing new, over a reload of HAProxy and a reboot of the host."""
    with Load(BALANCER, "/whoami", headers=SHOP, methods=("GET",)) as load:
        time.sleep(1)
        done = run_playbook("drain.yml", "-e", "host=app1")
        assert changes(done)["app2"] == "0"
        assert "undrain.yml -e host=app1" in done.stdout
        assert statuses() == {"app1": "NOLB", "app2": "UP"}
        # With requests of the load, which are on connections that are kept too.
        load.seen.clear()
        assert served_by() == {"app2"}
        time.sleep(2)
        assert {name.split("/")[0] for name in load.seen} == {"app2"}

        host_named("lb1").run_test("systemctl reload haproxy")
        time.sleep(4)
        load.seen.clear()
        assert statuses() == {"app1": "NOLB", "app2": "UP"}
        assert served_by() == {"app2"}
        assert {name.split("/")[0] for name in load.seen} == {"app2"}

        assert set(changes(run_playbook("drain.yml", "-e", "host=app1")).values()) == {"0"}
        subprocess.run(["docker", "restart", "--time", "5", "wsgi-fleet-test-app1"], check=True, capture_output=True)
        for _attempt in range(60):
            if host_named("app1").run("systemctl is-system-running").stdout.strip() == "running":
                break
            time.sleep(0.5)
        time.sleep(6)
        assert status_from(host_named("lb1"), "172.31.78.111", "/health", SHOP["Host"]) == 200
        assert open_from(host_named("app2"), "172.31.78.111", 80) == []
        assert served_by() == {"app2"}
        # The one that is left cannot go as well.
        said = refused(run_playbook("drain.yml", "-e", "host=app2"))
        assert "nobody would be left to serve shop: app1 is " in said
    assert load.failures == []
    assert load.requests > 300


def test_a_fleet_with_a_drained_host_is_in_order() -> None:
    """site.yml goes well with it, and leaves it drained."""
    done = site()
    assert done.returncode == 0, done.stdout
    assert served_by() == {"app2"}


def test_a_host_that_does_not_answer_is_not_brought_back() -> None:
    app = host_named("app1")
    app.run_test("systemctl stop nginx")
    try:
        assert "app1" in refused(run_playbook("undrain.yml", "-e", "host=app1"))
        assert app.file("/etc/wsgi.fleet/drained").exists
    finally:
        app.run_test("systemctl start nginx")


def test_a_host_comes_back_without_a_lost_request() -> None:
    with Load(BALANCER, "/whoami", headers=SHOP, methods=("GET",)) as load:
        done = run_playbook("undrain.yml", "-e", "host=app1")
        assert changes(done)["app1"] == "1"
        assert served_by() == {"app1", "app2"}
        assert statuses() == {"app1": "UP", "app2": "UP"}
        assert set(changes(run_playbook("undrain.yml", "-e", "host=app1")).values()) == {"0"}
    assert load.failures == []
