"""nginx in front of an application: what it passes on, what it keeps back, and how it changes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import smuggling
from fleet_testing import Answer, apply_role, apply_tasks, ask, ask_raw, refused, refused_by_checker, refused_each
from testinfra.host import Host

SHOP = {"Host": "shop.example.com"}
CONTROLLER = "172.31.78.1"


def echo(address: str, path: str = "/", *, headers: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Send a request and return what the application saw, headers as a list by name."""
    answer = ask(address, path, headers=headers or SHOP, **options)
    assert answer.status == 200, answer.text
    seen: dict[str, Any] = json.loads(answer.body)
    by_name: dict[str, list[str]] = {}
    for name, value in seen["headers"]:
        by_name.setdefault(name, []).append(value)
    return {**seen, "headers": by_name}


#: Asks nginx for some requests on its own host; prints statuses, headers and bodies.
_ASK = """
import http.client, json, sys
answers = []
for path, headers in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("127.0.0.1", timeout=10)
    connection.request("GET", path, headers={"Host": "shop.example.com", **headers})
    response = connection.getresponse()
    answers.append([response.status, dict(response.getheaders()), response.read().decode()])
print(json.dumps(answers))
"""


def ask_on(host: Host, *requests: tuple[str, Mapping[str, str]]) -> list[Answer]:
    """Ask nginx over the loopback address of its host, for paths with headers."""
    answers = json.loads(host.check_output("python3 -c %s %s", _ASK, json.dumps(requests)))
    return [
        Answer(status, {name.lower(): value for name, value in headers.items()}, body.encode())
        for status, headers, body in answers
    ]


def asked_by_the_host(host: Host) -> dict[str, Any]:
    """Ask the application once on its own host, and return what it saw."""
    (answer,) = ask_on(host, ("/", {}))
    seen: dict[str, Any] = json.loads(answer.body)
    return seen


def test_a_trusted_proxy_tells_the_client(address: str) -> None:
    """The last address that a load balancer adds is the client's, and the only one passed on."""
    forwarded = {**SHOP, "X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https"}
    headers = echo(address, headers=forwarded)["headers"]
    assert headers["x-forwarded-for"] == ["203.0.113.9"]
    assert headers["x-forwarded-proto"] == ["https"]
    assert headers["host"] == ["shop.example.com"]


def test_without_headers_the_connection_counts(address: str) -> None:
    """What reaches nginx directly is described by its connection."""
    headers = echo(address)["headers"]
    assert headers["x-forwarded-for"] == [CONTROLLER]
    assert headers["x-forwarded-proto"] == ["http"]


def test_others_cannot_lie(host: Host) -> None:
    """A client that is no trusted proxy can claim neither an address nor a scheme."""
    said = host.check_output(
        'python3 -c "import urllib.request as u;'
        "print(u.urlopen(u.Request('http://127.0.0.1/', headers={'Host': 'shop.example.com',"
        "'X-Forwarded-For': '203.0.113.9', 'X-Forwarded-Proto': 'https', 'Forwarded': 'for=203.0.113.9',"
        "'X-Forwarded-Host': 'evil.example.com', 'X-Real-IP': '203.0.113.9', 'Proxy': 'http://evil.example.com'"
        '})).read().decode())"'
    )
    headers = json.loads(said)["headers"]
    assert ["x-forwarded-for", "127.0.0.1"] in headers
    assert ["x-forwarded-proto", "http"] in headers
    assert "203.0.113.9" not in said
    assert "evil.example.com" not in said


def test_the_host_keeps_its_port(address: str) -> None:
    """Redirects are made from the host, so that its port must arrive."""
    answer = ask(address, "/redirect", headers={"Host": "shop.example.com:8443"})
    assert answer.status == 302
    assert answer.headers["location"] == "http://shop.example.com:8443/elsewhere"


def test_unknown_names_reach_no_application(address: str) -> None:
    """Another name, an address, and no name at all are turned away."""
    assert ask(address, headers={"Host": "evil.example.com"}).status == 421
    assert ask(address).status == 421
    assert ask_raw(address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


def test_wildcard_names_and_catchall(address: str) -> None:
    """A site may answer for many names, or for every one on its port."""
    assert echo(address, headers={"Host": "red.shop.example.com"})["name"] == "1"
    assert echo(address, headers={"Host": "whatever"}, port=8080)["name"] == "port"


def test_nothing_is_hidden_in_a_request(host: Host, address: str) -> None:
    """What two programs could read differently is refused, with 501 where it is a coding that nobody knows."""
    before = time.time()
    found = smuggling.answers(address)
    refused_with = {name: codes for name, codes in found.items() if codes not in ([400], [501])}
    assert refused_with == {
        # No name of an application.
        "a host with a user": [421],
    }
    assert "/hidden" not in host.check_output("journalctl --no-pager --output=cat --since=@%s", str(int(before)))


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "POST"])
def test_methods(address: str, method: str) -> None:
    """Every method arrives as it was sent."""
    body = None if method in ("HEAD", "DELETE") else b"x" * 100
    answer = ask(address, "/any?a=1", method=method, headers=SHOP, body=body)
    assert answer.status == 200
    if method != "HEAD":
        seen = json.loads(answer.body)
        assert (seen["method"], seen["path"], seen["size"]) == (method, "/any?a=1", len(body or b""))


def test_uploads(address: str) -> None:
    """A large body arrives whole; one over the limit is refused."""
    body = bytes(range(256)) * 4096 * 3
    assert echo(address, method="POST", body=body)["sha256"] == hashlib.sha256(body).hexdigest()
    answer = ask_raw(address, b"POST / HTTP/1.1\r\nHost: shop.example.com\r\nContent-Length: 9000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_the_flip_of_the_link_switches_without_a_reload(host: Host, address: str) -> None:
    """Requests and static files follow the link at once, and no request fails meanwhile."""
    assert echo(address)["name"] == "1"
    assert ask(address, "/files/hello.txt", headers=SHOP).text == "release 1\n"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = [pool.submit(echo, address) for _number in range(40)]
        slow = pool.submit(echo, address, "/slow")
        host.run_test("ln -sfn releases/2 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current")
        assert {answer.result()["name"] for answer in answers} <= {"1", "2"}
        assert slow.result()["path"] == "/slow"
    assert ask(address, "/files/hello.txt", headers=SHOP).text == "release 2\n"
    # What the host itself asks gets a new connection, and so the new instance, whatever is kept.
    assert {asked_by_the_host(host)["name"] for _number in range(20)} == {"2"}
    # Idle connections to the old instance may still serve until it ends and closes them.
    host.run_test("systemctl stop echo-1")
    try:
        assert {echo(address)["name"] for _number in range(20)} == {"2"}
    finally:
        host.run_test(
            "rm -f /run/echo/1.sock; systemd-run --unit=echo-1 /usr/bin/python3 /srv/echo/echo.py /run/echo/1.sock 1;"
            "ln -sfn releases/1 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current; sleep 1"
        )


def test_kept_connections_are_for_clients_alone(host: Host, address: str) -> None:
    """A client's request may still go to the old instance after a flip; the host's own never does."""
    # Connections that an earlier test has left are closed.
    host.run_test("systemctl reload nginx; sleep 1")
    assert {echo(address)["name"] for _number in range(8)} == {"1"}
    host.run_test("ln -sfn releases/2 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current")
    try:
        seen = [(asked_by_the_host(host)["name"], echo(address)["name"]) for _number in range(8)]
    finally:
        host.run_test("ln -sfn releases/1 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current")
    assert {own for own, _client in seen} == {"2"}
    assert "1" in {client for _own, client in seen}, "no connection was kept, so that this test shows nothing"
    host.run_test("systemctl reload nginx; sleep 1")


def test_a_request_of_the_host_passes_on_its_body(host: Host) -> None:
    """The way of the host's own requests is that of all others but for the connection."""
    said = host.check_output(
        'python3 -c "import urllib.request as u;'
        "print(u.urlopen(u.Request('http://127.0.0.1/a?b=1', data=b'x' * 100000, headers={'Host': 'shop.example.com'}))"
        '.read().decode())"'
    )
    seen = json.loads(said)
    assert (seen["method"], seen["path"], seen["size"]) == ("POST", "/a?b=1", 100000)
    assert ["x-forwarded-for", "127.0.0.1"] in seen["headers"]


PAGE = "<!doctype html><title>Back soon</title>"


@pytest.fixture
def maintenance(host: Host) -> Iterator[None]:
    """The page is there."""
    host.run_test("printf %s > /srv/echo/page && mv /srv/echo/page /srv/echo/maintenance.html", PAGE)
    yield
    host.run_test("rm -f /srv/echo/maintenance.html")


@pytest.mark.parametrize("path", ["/", "/files/hello.txt", "/hidden", "/healthy", "/a/../b?c=d"])
@pytest.mark.usefixtures("maintenance")
def test_maintenance_answers_everything_with_its_page(address: str, path: str) -> None:
    """Pages of the application and static files give way to the page, without a reload."""
    answer = ask(address, path, headers=SHOP)
    assert (answer.status, answer.text) == (503, PAGE)
    assert answer.headers["retry-after"] == "120"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.usefixtures("maintenance")
def test_maintenance_answers_every_method(address: str, method: str) -> None:
    answer = ask(address, method=method, headers=SHOP, body=b"x" * 100 if method in ("POST", "PUT") else None)
    assert (answer.status, answer.headers["retry-after"]) == (503, "120")
    assert answer.text == ("" if method == "HEAD" else PAGE)


@pytest.mark.usefixtures("maintenance")
def test_maintenance_keeps_connections(host: Host, address: str) -> None:
    """A client's connection outlives the page, also one on which it sent a large body."""
    connection = http.client.HTTPConnection(address, timeout=10)
    for body in (b"", b"x" * 1024 * 1024, b""):
        connection.request("POST" if body else "GET", "/", body=body or None, headers=SHOP)
        response = connection.getresponse()
        assert (response.status, response.read().decode()) == (503, PAGE)
        assert not response.will_close
    host.run_test("rm /srv/echo/maintenance.html")
    connection.request("GET", "/", headers=SHOP)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.usefixtures("maintenance")
def test_maintenance_lets_through_whom_it_should(host: Host, address: str) -> None:
    """Health checks, the clients that are allowed, and the host itself; and no one who only says so."""

    def status(path: str = "/", **headers: str) -> int:
        return ask(address, path, headers={**SHOP, **{k.replace("_", "-"): v for k, v in headers.items()}}).status

    assert status("/health?deep=1") == 200
    assert status(X_Forwarded_For="203.0.113.9") == 200
    assert status(X_Forwarded_For="2001:db8::7") == 200
    assert status(X_Forwarded_For="203.0.113.9, 198.51.100.1") == 503
    # The check of a load balancer, on any path, comes from a trusted address on nobody's behalf.
    assert status(User_Agent="wsgi.fleet") == 200
    assert status(User_Agent="wsgi.fleet", X_Forwarded_For="198.51.100.1") == 503
    # The host itself, but not those for whom it passes on a request.
    own, passed_on, lied = ask_on(
        host, ("/", {}), ("/", {"X-Forwarded-For": "198.51.100.1"}), ("/", {"X-Forwarded-For": "203.0.113.9"})
    )
    assert (own.status, passed_on.status, lied.status) == (200, 503, 503)
    # Another site goes on.
    assert echo(address, port=8080)["name"] == "port"


def test_the_inside_of_maintenance_is_not_to_be_reached(address: str) -> None:
    assert ask(address, "/.maintenance", headers=SHOP).status == 404
    assert ask(address, "/.maintenance.html", headers=SHOP).status == 404


def test_a_drained_host_tells_the_load_balancers_alone(host: Host, address: str) -> None:
    """Their checks get 404, while clients, also those that a load balancer sends, get what they ask for."""
    check = {**SHOP, "User-Agent": "wsgi.fleet", "X-Forwarded-Proto": "https"}
    assert ask(address, "/health", headers=check).status == 200
    for _again in range(2):
        done = apply_tasks(host, "wsgi.fleet.nginx", "drain")
        assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    try:
        assert ask(address, "/health", headers=check).status == 404
        assert ask(address, "/health", headers={**check, "User-Agent": "curl"}).status == 200
        assert ask(address, "/health", headers={**check, "X-Forwarded-For": "198.51.100.1"}).status == 200
        (own,) = ask_on(host, ("/health", {"User-Agent": "wsgi.fleet"}))
        assert own.status == 200
        # Neither a reload nor a restart changes it.
        host.run_test("systemctl restart nginx")
        assert ask(address, "/health", headers=check).status == 404
    finally:
        done = apply_tasks(host, "wsgi.fleet.nginx", "undrain")
    assert done.returncode == 0, done.stdout
    assert ask(address, "/health", headers=check).status == 200


KEPT = {"Host": "kept.example.com"}
LIMITED = {"Host": "limited.example.com"}


def number(address: str, path: str, **headers: str) -> int:
    """Ask a site that keeps answers, and tell which request of the application's this is the answer to."""
    return int(echo(address, path, headers={**KEPT, **headers})["number"])


def test_many_are_given_what_one_has_got(address: str) -> None:
    """Who asks for the same while an answer is made waits for it, and the application is asked once."""
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        first = pool.map(lambda _each: number(address, "/slow?many"), range(10))
        assert len(set(first)) == 1
    assert ask(address, "/slow?many", headers=KEPT, method="HEAD", timeout=1).status == 200
    # Another path, another name and another scheme are something else.
    proxied = {**KEPT, "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    others = [number(address, "/"), number(address, "/?other"), int(echo(address, headers=proxied)["number"])]
    assert len(set(others)) == 3
    assert number(address, "/") == others[0]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"Cookie": "session=1"}),
        ("/", {"Authorization": "Basic eDp5"}),
        ("/cookie", {}),
        ("/private", {}),
        # As a load balancer checks.
        ("/", {"User-Agent": "wsgi.fleet"}),
    ],
)
def test_what_is_for_one_is_given_to_nobody_else(address: str, path: str, headers: dict[str, str]) -> None:
    kept = number(address, "/")
    assert len({kept, *(number(address, path, **headers) for _again in range(3))}) == 4
    # Nor does it take the place of what is for all.
    assert number(address, "/") == kept


def test_what_changes_something_reaches_the_application(address: str) -> None:
    kept = number(address, "/")
    seen = [echo(address, headers=KEPT, method="POST", body=b"x" * 20000) for _again in range(2)]
    assert [one["size"] for one in seen] == [20000, 20000]
    assert len({kept, *(one["number"] for one in seen)}) == 3


def test_the_host_itself_is_given_no_kept_answer(host: Host, address: str) -> None:
    kept = number(address, "/")
    own = ask_on(host, *[("/", KEPT)] * 3)
    assert len({kept, *(json.loads(answer.body)["number"] for answer in own)}) == 4


def test_no_answer_outlives_a_flip(host: Host, address: str) -> None:
    """From the moment of the flip on the new release answers, and after a flip back the old one does."""
    assert [echo(address, headers=KEPT)["name"] for _again in range(3)] == ["1"] * 3
    try:
        host.run_test("ln -sfn releases/2 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current")
        # Neither from what is kept, nor over a connection that is.
        assert {echo(address, headers=KEPT)["name"] for _again in range(20)} == {"2"}
    finally:
        host.run_test("ln -sfn releases/1 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current")
    assert {echo(address, headers=KEPT)["name"] for _again in range(20)} == {"1"}


def test_an_answer_lasts_as_long_as_it_says_and_longer_than_the_application(host: Host, address: str) -> None:
    """Where the application fails, what it said last is given, and nothing of it where nothing is kept."""
    first = number(address, "/brief")
    deadline = time.monotonic() + 20
    # The first who comes late is still given it, while it is made anew.
    while (last := number(address, "/brief")) == first:
        assert time.monotonic() < deadline, "it is kept for longer than it said"
        time.sleep(0.2)
    host.run_test("systemctl stop echo-1")
    try:
        time.sleep(1.5)
        assert {number(address, "/brief") for _again in range(3)} == {last}
        assert ask(address, "/brief?never-asked", headers=KEPT).status == 502
        assert ask(address, "/brief", headers=SHOP).status == 502
    finally:
        host.run_test(
            "rm -f /run/echo/1.sock; systemd-run --unit=echo-1 /usr/bin/python3 /srv/echo/echo.py /run/echo/1.sock 1"
        )
        deadline = time.monotonic() + 20
        while ask(address, "/", headers=SHOP).status != 200 and time.monotonic() < deadline:
            time.sleep(0.1)


def limited(address: str, client: str, path: str = "/", **headers: str) -> int:
    """Ask the site with limits as a client that a load balancer tells of, and return the status."""
    return ask(address, path, headers={**LIMITED, "X-Forwarded-For": client, **headers}).status


def test_each_client_may_ask_so_often(host: Host, address: str) -> None:
    """What is too much is told so, whether or not its answer is kept; others, and checks, do not notice."""
    for client, headers in (("203.0.113.20", {}), ("203.0.113.21", {"Cookie": "a=b"})):
        began = time.monotonic()
        statuses = [limited(address, client, **headers) for _again in range(40)]
        # Five at once and the one under way, and five for each second that it took.
        allowed = 6 + 5 * (time.monotonic() - began)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= allowed + 1
        assert statuses[:6] == [200] * 6
    assert limited(address, "203.0.113.22") == 200
    check = {**LIMITED, "User-Agent": "wsgi.fleet"}
    assert {ask(address, "/health", headers=check).status for _again in range(30)} == {200}
    assert {answer.status for answer in ask_on(host, *[("/", LIMITED)] * 30)} == {200}


def test_each_client_may_ask_so_much_at_a_time(address: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        one = [pool.submit(limited, address, "203.0.113.30", f"/slow?{number}") for number in range(4)]
        other = pool.submit(limited, address, "203.0.113.31", "/slow?other")
        assert sorted(each.result() for each in one) == [200, 200, 429, 429]
        assert other.result() == 200


def test_static_files(address: str) -> None:
    """Static files come from nginx with a lifetime, and their directory has no way out."""
    answer = ask(address, "/files/hello.txt", headers=SHOP)
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["content-type"].startswith("text/plain")
    assert ask(address, "/files/absent.txt", headers=SHOP).status == 404
    assert ask_raw(address, b"GET /files../echo.py HTTP/1.0\r\nHost: shop.example.com\r\n\r\n").find(b"import") == -1
    assert (
        ask_raw(address, b"GET /files/../../echo.py HTTP/1.0\r\nHost: shop.example.com\r\n\r\n").find(b"import") == -1
    )


def test_extra_directives(address: str) -> None:
    """What the user adds takes effect."""
    assert ask(address, "/hidden", headers=SHOP).status == 404


def test_slow_clients_are_let_go(address: str) -> None:
    """A client that never finishes its header does not hold a connection for long."""
    started = time.monotonic()
    ask_raw(address, b"GET / HTTP/1.1\r\nHost: shop", timeout=15)
    assert time.monotonic() - started < 10


def test_does_not_tell_its_version(address: str) -> None:
    assert ask(address, headers={"Host": "evil.example.com"}).headers["server"] == "nginx"


def test_state_is_for_the_host_alone(host: Host, address: str) -> None:
    """The status port answers on the loopback address only."""
    assert host.socket("tcp://127.0.0.1:8010").is_listening
    with pytest.raises(OSError, match="refused"):
        ask(address, "/status", port=8010)


def test_listens_on_ipv6(host: Host) -> None:
    assert host.socket("tcp://:::80").is_listening


def test_a_reload_loses_no_request_in_flight(host: Host, address: str) -> None:
    """A change of the configuration takes effect while a request is being answered."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(echo, address, "/slow")
        done = apply_role(host, "wsgi.fleet.nginx", {"nginx_static_cache_control": "no-store"})
        assert slow.result()["path"] == "/slow"
    assert done.returncode == 0, done.stdout
    assert ask(address, "/files/hello.txt", headers=SHOP).headers["cache-control"] == "no-store"
    assert apply_role(host, "wsgi.fleet.nginx", {}).returncode == 0


def test_bad_configuration_leaves_the_old_one(host: Host, address: str) -> None:
    """nginx says what it minds, and goes on as before."""
    before = host.file("/etc/nginx/nginx.conf").content
    assert 'unknown directive "nonsense"' in refused(host, "wsgi.fleet.nginx", {"nginx_http_extra": "nonsense on;"})
    assert host.file("/etc/nginx/nginx.conf").content == before
    assert echo(address)["name"] == "1"


def site(**change: Any) -> dict[str, Any]:
    """Return variables with one site that is in order but for a change."""
    good = {"name": "shop", "server_names": [], "listen": 80, "upstream": "127.0.0.1:9000"}
    return {"nginx_sites": [{**good, **change}]}


@refused_each(
    "nginx",
    "wsgi.fleet.nginx",
    [
        (site(name="a b"), "nginx_sites: a b cannot be the name of a site"),
        (site(server_names=["x;}"]), "nginx_sites: 'x;}' is not a host name"),
        (site(server_names=["shop.example.com\n"]), "is not a host name"),
        (site(upstream="unix:/x; y"), "nginx_sites: 'unix:/x; y' is not an upstream"),
        (site(static=[{"url": "/static", "path": "/srv"}]), "both slashes"),
        (site(maintenance={"page": "relative.html"}), "nginx_sites: maintenance has a page"),
        (site(maintenance={"page": "/x.html", "allow": ["office"]}), "allow (addresses or networks)"),
        (site(maintenance={"page": "/x.html", "pass": ["/health\n"]}), "pass (request paths"),
        (site(maintenance={"page": "/x.html", "retry_after": 0}), "retry_after (a number of seconds above 0)"),
        (site(limit={"requests": 0}), "a limit has requests or connections (numbers above 0)"),
        ({"nginx_trusted_proxies": ["lb.example.com"]}, "nginx_trusted_proxies: 'lb.example.com' is not an address"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """What could not stand in a configuration is told before anything is written."""
    assert said in refusal()


def test_whatever_passes_validation_is_accepted(host: Host) -> None:
    """Many odd settings, each of which becomes a configuration that the service itself can read."""
    assert refused_by_checker(host, "nginx") == ""
