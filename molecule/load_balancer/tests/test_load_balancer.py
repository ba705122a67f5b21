"""HAProxy across app hosts: who gets requests, what the application is told, and how it changes."""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import smuggling
from fleet_testing import Load, apply_role, apply_tasks, ask, ask_raw, refused, refused_by_checker, refused_each
from testinfra.host import Host

SHOP = {"Host": "shop.example.com"}
WIKI = {"Host": "wiki.example.com"}
CONTROLLER = "172.31.78.1"
BALANCERS = ("172.31.78.51", "172.31.78.52")
SERVERS = [{"name": f"app{n}", "address": f"127.0.0.1{n}", "port": 9000} for n in (1, 2, 3)]
BACKEND = {
    "name": "shop",
    "host_names": ["shop.example.com", "*.shop.example.com"],
    "health_path": "/health",
    "health_host": "shop.example.com",
}


def echo(address: str, path: str = "/", **options: Any) -> dict[str, Any]:
    """Send a request and return what the application saw."""
    answer = ask(address, path, headers={**SHOP, **options.pop("headers", {})}, **options)
    assert answer.status == 200, answer.text
    seen: dict[str, Any] = json.loads(answer.body)
    return seen


def served_by(address: str, count: int = 20) -> collections.Counter[str]:
    """Count which host answers how many of some requests."""
    return collections.Counter(echo(address)["name"] for _number in range(count))


def test_spreads_requests_over_all_hosts(address: str) -> None:
    counts = served_by(address, 40)
    assert set(counts) == {"app1", "app2"}
    assert min(counts.values()) >= 10


def test_tells_the_client_and_nothing_that_it_claims(address: str) -> None:
    """A client's own claims are replaced, each header is there once."""
    lies = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example.com",
        "Forwarded": "for=203.0.113.9",
    }
    headers = echo(address, headers=lies)["headers"]
    assert [value for name, value in headers if name == "x-forwarded-for"] == [CONTROLLER]
    assert [value for name, value in headers if name == "x-forwarded-proto"] == ["http"]
    assert ["host", "shop.example.com"] in headers
    assert not {"forwarded", "x-forwarded-host"} & {name for name, _value in headers}


def test_a_trusted_proxy_in_front_is_believed(host: Host) -> None:
    """What a proxy of ours says of the client and its scheme counts, its last address only."""
    said = host.check_output(
        'python3 -c "import http.client as h;'
        "c = h.HTTPConnection('127.0.0.1', 80, source_address=('127.0.0.99', 0));"
        "c.request('GET', '/', headers={'Host': 'shop.example.com', 'X-Forwarded-For': '6.6.6.6, 203.0.113.9',"
        "'X-Forwarded-Proto': 'https'}); print(c.getresponse().read().decode())\""
    )
    headers = json.loads(said)["headers"]
    assert ["x-forwarded-for", "203.0.113.9"] in headers
    assert ["x-forwarded-proto", "https"] in headers
    assert "6.6.6.6" not in said


def test_unknown_names_reach_no_application(address: str) -> None:
    assert ask(address, headers={"Host": "evil.example.com"}).status == 421
    assert ask(address).status == 421
    assert ask(address, headers={"Host": "red.shop.example.com"}).status == 200
    assert ask(address, headers={"Host": "shop.example.com:8080"}).status == 200


def test_nothing_is_hidden_in_a_request(host: Host, address: str) -> None:
    """What two programs could read differently is refused, or goes on as one that cannot."""
    before = time.time()
    found = smuggling.answers(address)
    passed = {name for name, codes in found.items() if codes not in ([400], [421])}
    # The line is put together, the tab becomes a blank, and an older HAProxy leaves the NUL to nginx.
    assert passed - {"a header with a NUL in its value"} == {"a line that goes on", "a request line with a tab"}
    assert found.pop("a line that goes on") == [200, 400]
    assert {tuple(codes) for name, codes in found.items() if name in passed} == {(200,)}
    assert "/hidden" not in host.check_output("journalctl --no-pager --output=cat --since=@%s", str(int(before)))


def test_a_sick_host_gets_no_requests(host: Host, address: str) -> None:
    """A host whose check fails is out after two checks, and back in when it passes again."""
    host.run_test("touch /run/sick-app1")
    try:
        becomes(host, app1="DOWN", app2="UP")
        assert set(served_by(address)) == {"app2"}
    finally:
        host.run_test("rm -f /run/sick-app1")
    becomes(host, app1="UP", app2="UP")
    assert set(served_by(address)) == {"app1", "app2"}


def statuses(host: Host) -> dict[str, str]:
    """Return what HAProxy says of each of its servers."""
    said = host.check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8404/;csv').read().decode())\""
    )
    rows = csv.DictReader(said.removeprefix("# ").splitlines())
    return {row["svname"]: row["status"] for row in rows if row["svname"].startswith("app")}


def becomes(host: Host, **expected: str) -> None:
    """Wait until that is what HAProxy says, which takes a few checks."""
    end = time.monotonic() + 20
    while (found := statuses(host)) != expected:
        assert time.monotonic() < end, found
        time.sleep(0.2)


@pytest.fixture
def drained(host: Host) -> Iterator[None]:
    """A host answers 404 to the check of the load balancer."""
    host.run_test("touch /run/drained-app1")
    yield
    host.run_test("rm -f /run/drained-app1 /run/sick-app1")
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "undrained", {"load_balancer_drain": ["app1", "app2"]})
    assert done.returncode == 0, done.stdout


def test_a_drained_host_finishes_what_it_has(host: Host, address: str) -> None:
    """Under load: requests that it has are answered, nothing new arrives, also on connections that are kept."""
    try:
        with Load(address, headers=SHOP) as load, concurrent.futures.ThreadPoolExecutor() as pool:
            time.sleep(1)
            slow = [pool.submit(echo, address, "/slow") for _number in range(4)]
            time.sleep(0.2)
            host.run_test("touch /run/drained-app1")
            done = apply_tasks(host, "wsgi.fleet.load_balancer", "drained", {"load_balancer_drain": ["app1"]})
            assert done.returncode == 0, done.stdout
            assert statuses(host) == {"app1": "NOLB", "app2": "UP"}
            log = "journalctl -u echo-1 --no-pager -o cat | grep -c 'GET / \\|POST / '"
            before = host.run(log).stdout
            assert int(before) > 0
            assert set(served_by(address, 40)) == {"app2"}
            time.sleep(2)
            assert host.run(log).stdout == before
            assert {answer.result()["name"] for answer in slow} == {"app1", "app2"}
    finally:
        host.run_test("rm -f /run/drained-app1")
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "undrained", {"load_balancer_drain": ["app1"]})
    assert done.returncode == 0, done.stdout
    assert load.failures == []
    assert set(served_by(address)) == {"app1", "app2"}


@pytest.mark.usefixtures("drained")
def test_a_drained_host_stays_out(host: Host, address: str) -> None:
    """Over a reload of HAProxy, a run of the role, and when it has been gone meanwhile, as in a reboot."""
    host.run_test("systemctl reload haproxy")
    done = apply_role(host, "wsgi.fleet.load_balancer", {})
    assert done.returncode == 0, done.stdout
    becomes(host, app1="NOLB", app2="UP")
    host.run_test("touch /run/sick-app1; rm /run/drained-app1")
    becomes(host, app1="DOWN", app2="UP")
    host.run_test("touch /run/drained-app1; rm /run/sick-app1")
    # What was down and says that it is drained stays down.
    time.sleep(3)
    assert set(served_by(address)) == {"app2"}
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "drained", {"load_balancer_drain": ["app1"]})
    assert done.returncode == 0, done.stdout


def cookies(address: str) -> dict[str, str]:
    """Come as many clients, and return the cookie with its attributes that each host is known by."""
    found: dict[str, str] = {}
    for _client in range(20):
        answer = ask(address, headers=WIKI)
        found[json.loads(answer.body)["name"]] = answer.headers["set-cookie"]
    return found


def test_a_client_stays_on_its_host(address: str) -> None:
    """Whichever load balancer it comes by; and the application sees its own cookies alone."""
    found = cookies(address)
    assert set(found) == {"app1", "app2"}
    for name, cookie in found.items():
        pair, *attributes = cookie.split("; ")
        assert "HttpOnly" in attributes
        assert pair.startswith("seen-by=")
        for balancer in BALANCERS:
            for _again in range(6):
                answer = ask(balancer, headers={**WIKI, "Cookie": f"{pair}; mine=1"})
                seen = json.loads(answer.body)
                assert seen["name"] == name
                assert [value for header, value in seen["headers"] if header == "cookie"] == ["mine=1"]
                assert "set-cookie" not in answer.headers


def test_a_drained_host_keeps_no_client(host: Host, address: str) -> None:
    """Those that would come back to it stay with another one from then on, and lose no request."""
    bound = {**WIKI, "Cookie": cookies(address)["app1"].partition(";")[0]}
    try:
        with Load(address, headers=bound) as load:
            time.sleep(0.5)
            host.run_test("touch /run/drained-app1")
            done = apply_tasks(host, "wsgi.fleet.load_balancer", "drained", {"load_balancer_drain": ["sticky1"]})
            assert done.returncode == 0, done.stdout
            answers = [ask(address, headers=bound) for _again in range(6)]
            assert {json.loads(answer.body)["name"] for answer in answers} == {"app2"}
            assert {answer.headers["set-cookie"].split("=")[0] for answer in answers} == {"seen-by"}
    finally:
        host.run_test("rm -f /run/drained-app1")
    chosen = {"load_balancer_drain": ["app1", "sticky1"]}
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "undrained", chosen)
    assert done.returncode == 0, done.stdout
    assert load.failures == []
    # The old cookie is good again.
    assert json.loads(ask(address, headers=bound).body)["name"] == "app1"


def test_waiting_for_a_host_has_an_end(host: Host) -> None:
    """Each way, what is missing is told."""
    chosen = {"load_balancer_drain": ["app1"], "load_balancer_drain_timeout": 2}
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "drained", chosen)
    assert done.returncode == 2
    assert "app1 of shop is UP with 0 open requests." in " ".join(done.stdout.split())
    assert "run site.yml once" in " ".join(done.stdout.split())
    host.run_test("touch /run/sick-app1")
    becomes(host, app1="DOWN", app2="UP")
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "undrained", chosen)
    host.run_test("rm /run/sick-app1")
    becomes(host, app1="UP", app2="UP")
    assert done.returncode == 2
    assert "app1 of shop is DOWN." in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"load_balancer_drain": ["app1"]}, ""),
        ({"load_balancer_drain": ["app1", "app2"]}, "nobody would be left to serve shop"),
        ({"load_balancer_drain": ["app1", "app2"], "load_balancer_drain_last": True}, ""),
        (
            {"load_balancer_drain": ["app9"]},
            "HAProxy knows no server app9, but app1, app2, sticky1, sticky2; run site.yml first",
        ),
    ],
)
def test_the_last_host_is_not_drained_by_mistake(chosen: dict[str, Any], said: str) -> None:
    for arguments in ((), ("--check",)):
        done = apply_tasks("load_balancer", "wsgi.fleet.load_balancer", "before_drain", chosen, *arguments)
        assert done.returncode == (2 if said else 0), done.stdout
        assert said in " ".join(done.stdout.split())


@pytest.mark.usefixtures("drained")
def test_a_drained_host_does_not_count_as_one_that_is_left(host: Host) -> None:
    becomes(host, app1="NOLB", app2="UP")
    done = apply_tasks(host, "wsgi.fleet.load_balancer", "before_drain", {"load_balancer_drain": ["app2"]})
    assert done.returncode == 2
    assert "nobody would be left to serve shop: app1 is NOLB" in " ".join(done.stdout.split())


def test_a_dead_host_costs_no_request(host: Host, address: str) -> None:
    """When a host refuses connections, requests go to another one, before any check has noticed."""
    with Load(address, headers=SHOP) as load:
        time.sleep(1)
        host.run_test("systemctl kill --signal=SIGSTOP echo-1; systemctl kill --signal=SIGKILL echo-1")
        time.sleep(3)
    host.run_test(
        "systemctl reset-failed echo-1;"
        "systemd-run --unit=echo-1 /usr/bin/python3 /srv/echo/echo.py 127.0.0.11:9000 app1"
    )
    becomes(host, app1="UP", app2="UP")
    # What a killed host was answering is lost with it; it must not be more than those.
    assert len(load.failures) <= load.clients, load.failures
    assert load.requests > 100
    assert set(served_by(address)) == {"app1", "app2"}


def test_many_slow_clients_keep_nobody_out(address: str) -> None:
    """slowhttptest: 400 clients that never finish their headers are let go, while others are served."""
    options = ["-H", "-c", "400", "-r", "200", "-i", "2", "-x", "8", "-l", "15", "-p", "3"]
    with Load(address, headers=SHOP) as load:
        command = ["slowhttptest", *options, "-u", f"http://{address}/"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    print(plain[-1500:])
    assert set(re.findall(r"service available: *(\w+)", plain)) == {"YES"}
    # Long before it would have given up, at fifteen seconds.
    assert "Exit status: No open connections left" in plain
    assert load.failures == []


def test_slow_clients_are_let_go(address: str) -> None:
    started = time.monotonic()
    assert b"408" in ask_raw(address, b"GET / HTTP/1.1\r\nHost: shop", timeout=15)
    assert time.monotonic() - started < 10


def test_state_is_for_the_host_alone(host: Host, address: str) -> None:
    assert "haproxy_backend_status" in host.check_output(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8404/metrics').read().decode())\""
    )
    with pytest.raises(OSError, match="refused"):
        ask(address, port=8404)


def test_listens_on_ipv6(host: Host) -> None:
    assert host.socket("tcp://:::80").is_listening


def test_a_host_joins_and_leaves_without_a_lost_request(host: Host, address: str) -> None:
    """Under load, a changed list of servers takes effect and no request fails."""
    with Load(address, headers=SHOP) as load:
        time.sleep(1)
        done = apply_role(
            host, "wsgi.fleet.load_balancer", {"load_balancer_backends": [{**BACKEND, "servers": SERVERS}]}
        )
        assert done.returncode == 0, done.stdout
        assert set(served_by(address, 30)) == {"app1", "app2", "app3"}
        done = apply_role(host, "wsgi.fleet.load_balancer", {})
        assert done.returncode == 0, done.stdout
        time.sleep(1)
        assert set(served_by(address, 30)) == {"app1", "app2"}
    assert load.failures == []
    assert load.requests > 300


def test_shares_and_bounds_of_hosts(host: Host, address: str) -> None:
    """By weight, a backup only while nobody else is there, and one request at a time with others in a queue."""
    servers = [
        {**server, **share} for server, share in zip(SERVERS, ({"weight": 3}, {}, {"backup": True}), strict=True)
    ]
    settings = {
        "load_balancer_backends": [{**BACKEND, "servers": servers}],
        "load_balancer_algorithm": "roundrobin",
        "load_balancer_server_requests": 1,
        "load_balancer_queue_timeout": 3,
    }
    done = apply_role(host, "wsgi.fleet.load_balancer", settings)
    assert done.returncode == 0, done.stdout
    becomes(host, app1="UP", app2="UP", app3="UP")
    counts = served_by(address, 40)
    assert set(counts) == {"app1", "app2"}
    assert 27 <= counts["app1"] <= 33
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Two hosts, two seconds each: the fifth and the sixth would have to wait for four.
        slow = [pool.submit(ask, address, "/slow", headers=SHOP, timeout=20) for _number in range(6)]
        assert sorted(answer.result().status for answer in slow) == [200, 200, 200, 200, 503, 503]
    host.run_test("touch /run/sick-app1 /run/sick-app2")
    becomes(host, app1="DOWN", app2="DOWN", app3="UP")
    assert set(served_by(address)) == {"app3"}
    host.run_test("rm /run/sick-app1 /run/sick-app2")
    assert apply_role(host, "wsgi.fleet.load_balancer", {}).returncode == 0
    becomes(host, app1="UP", app2="UP")


def test_bad_configuration_leaves_the_old_one(host: Host, address: str) -> None:
    before = host.file("/etc/haproxy/haproxy.cfg").content
    said = refused(host, "wsgi.fleet.load_balancer", {"load_balancer_frontend_extra": "nonsense on"})
    assert "nonsense" in said
    assert host.file("/etc/haproxy/haproxy.cfg").content == before
    assert echo(address)


def test_no_healthy_server_is_an_error(host: Host, address: str) -> None:
    """A run does not end well when nobody could be served."""
    dead = [{**BACKEND, "servers": [{"name": "gone", "address": "127.0.0.99", "port": 9000}]}]
    done = apply_role(host, "wsgi.fleet.load_balancer", {"load_balancer_backends": dead})
    assert done.returncode == 2
    assert "See that every backend has a healthy server" in done.stdout.partition("fatal:")[0].rpartition("TASK")[2]
    assert apply_role(host, "wsgi.fleet.load_balancer", {}).returncode == 0
    assert echo(address)


def backend(**change: Any) -> dict[str, Any]:
    """Return variables with one backend that is in order but for a change."""
    return {"load_balancer_backends": [{**BACKEND, "servers": SERVERS[:1], **change}]}


@refused_each(
    "load_balancer",
    "wsgi.fleet.load_balancer",
    [
        (backend(name="a b"), "'a b' cannot be the name of a backend"),
        (backend(servers=[]), "load_balancer_backends: shop has no servers"),
        (backend(servers=[{"name": "x", "address": "1 check"}]), "a sign that cannot stand in haproxy.cfg"),
        (backend(host_names=["Shop.example.com"]), "'Shop.example.com' is not a host name"),
        (backend(health_path="health"), "health_path starts with a slash"),
        (backend(health_status=["200-499"]), "health_status accepts 404, by which a host says that it is drained"),
        (backend(health_path="/x\n  server evil 6.6.6.6:80"), "health_path starts with a slash"),
        (backend(cookie="a b"), "'a b' cannot be the name of a cookie"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    assert said in refusal()


def test_whatever_passes_validation_is_accepted(host: Host) -> None:
    """Many odd settings, each of which becomes a configuration that the service itself can read."""
    assert refused_by_checker(host, "haproxy") == ""
