"""An application that no one here wrote, behind the whole chain: httpbin, from its Python package."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import time
from typing import Any

import pytest
from fleet_testing import ask, host_named, site

BALANCER = "172.31.78.101"
CONTROLLER = "172.31.78.1"


@pytest.fixture(scope="module", autouse=True)
def httpbin() -> None:
    """Deploy it in place of the shop."""
    done = site("--extra-vars", "@vars/httpbin.yml")
    assert done.returncode == 0, done.stdout


def tell(path: str, **options: Any) -> dict[str, Any]:
    """Send a request through the load balancer and return the JSON of its answer."""
    answer = ask(BALANCER, path, **options)
    assert answer.status == 200, answer.text
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_it_sees_the_address_of_its_client() -> None:
    assert tell("/ip") == {"origin": CONTROLLER}
    assert tell("/ip", headers={"X-Forwarded-For": "203.0.113.9"}) == {"origin": CONTROLLER}


def test_it_sees_the_headers_that_the_client_sent() -> None:
    headers = tell("/headers", headers={"Host": "bin.example.com:8080", "X-Own": "kept"})["headers"]
    assert (headers["Host"], headers["X-Own"]) == ("bin.example.com:8080", "kept")


def test_it_sees_scheme_host_and_arguments() -> None:
    seen = tell("/get?a=1&b=two%20words", headers={"Host": "bin.example.com"})
    assert seen["url"] == "http://bin.example.com/get?a=1&b=two%20words"
    assert seen["args"] == {"a": "1", "b": "two words"}
    assert seen["origin"] == CONTROLLER


def test_it_streams() -> None:
    """Fifty lines of JSON arrive, without a length known beforehand."""
    answer = ask(BALANCER, "/stream/50")
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == list(range(50))
    assert answer.headers["transfer-encoding"] == "chunked"


def test_slow_bodies_arrive_whole() -> None:
    started = time.monotonic()
    answer = ask(BALANCER, "/drip?duration=3&numbytes=9&code=200&delay=0", timeout=20)
    assert (answer.status, answer.body) == (200, b"*" * 9)
    assert time.monotonic() - started > 2


def test_a_large_upload_is_not_kept_in_memory() -> None:
    """50 MB pass through both proxies; neither grows by more than a part of that."""
    body = hashlib.sha256(b"seed").hexdigest().encode() * (50 * 1024 * 1024 // 64)
    proxies = [(host_named("lb1"), "haproxy"), (host_named("app1"), "nginx"), (host_named("app2"), "nginx")]
    # The most that each process has ever held, in KiB; the workers are new since the reload before.
    peak = "cat $(pgrep -x %s | sed 's#.*#/proc/&/status#') | awk '/VmHWM/ {sum += $2} END {print sum}'"
    before = [int(host.check_output(peak, name)) for host, name in proxies]
    for _number in range(2):
        seen = tell("/post", method="POST", body=body, headers={"Content-Type": "text/plain"}, timeout=60)
        assert len(seen["data"]) == len(body)
        assert hashlib.sha256(seen["data"].encode()).digest() == hashlib.sha256(body).digest()
    after = [int(host.check_output(peak, name)) for host, name in proxies]
    assert [new - old < 16 * 1024 for old, new in zip(before, after, strict=True)] == [True] * 3, (before, after)


def test_a_body_over_the_limit_is_refused() -> None:
    connection = http.client.HTTPConnection(BALANCER, timeout=10)
    connection.putrequest("POST", "/post")
    connection.putheader("Content-Length", str(65 * 1024 * 1024))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_redirects_lead_to_the_host_that_was_asked() -> None:
    headers = {"Host": "bin.example.com:8080"}
    assert ask(BALANCER, "/absolute-redirect/1", headers=headers).headers["location"] == (
        "http://bin.example.com:8080/get"
    )
    assert ask(BALANCER, "/redirect-to?url=%2Fget", headers=headers).headers["location"] == "/get"


def test_head_has_no_body() -> None:
    answer = ask(BALANCER, "/get", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 100


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
def test_methods(method: str) -> None:
    seen = tell(f"/{method.lower()}", method=method, body=b"content", headers={"Content-Type": "text/plain"})
    assert seen["data"] == "content"


@pytest.mark.parametrize("status", [204, 304, 404, 418, 500, 503])
def test_statuses_arrive_as_they_are(status: int) -> None:
    assert ask(BALANCER, f"/status/{status}").status == status


def test_slow_views_in_parallel() -> None:
    """24 requests of five seconds each are answered side by side."""
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _number: ask(BALANCER, "/delay/5", timeout=30), range(24)))
    assert [answer.status for answer in answers] == [200] * 24
    assert time.monotonic() - started < 15
