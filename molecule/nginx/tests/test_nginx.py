"""nginx in front of an application: what it passes on, what it keeps back, and how it changes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from fleet_testing import apply_role, ask, ask_raw, refused
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
    # Idle connections to the old instance may still serve until it ends and closes them.
    host.run_test("systemctl stop echo-1")
    try:
        assert {echo(address)["name"] for _number in range(20)} == {"2"}
    finally:
        host.run_test(
            "rm -f /run/echo/1.sock; systemd-run --unit=echo-1 /usr/bin/python3 /srv/echo/echo.py /run/echo/1.sock 1;"
            "ln -sfn releases/1 /srv/echo/next && mv -T /srv/echo/next /srv/echo/current; sleep 1"
        )


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


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ({"name": "a b"}, "nginx_sites: a b cannot be the name of a site"),
        ({"server_names": ["x;}"]}, "nginx_sites: 'x;}' is not a host name"),
        ({"server_names": ["shop.example.com\n"]}, "is not a host name"),
        ({"upstream": "unix:/x; y"}, "nginx_sites: 'unix:/x; y' is not an upstream"),
        ({"static": [{"url": "/static", "path": "/srv"}]}, "both slashes"),
    ],
)
def test_bad_sites_are_refused(site: dict[str, Any], said: str) -> None:
    """What could not stand in a configuration is told before anything is written."""
    good = {"name": "shop", "server_names": [], "listen": 80, "upstream": "127.0.0.1:9000"}
    assert said in refused("nginx", "wsgi.fleet.nginx", {"nginx_sites": [{**good, **site}]})


def test_a_proxy_must_be_an_address() -> None:
    said = refused("nginx", "wsgi.fleet.nginx", {"nginx_trusted_proxies": ["lb.example.com"]})
    assert "nginx_trusted_proxies: 'lb.example.com' is not an address" in said
