"""The example application's views, by Flask's test client."""

import hashlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shop"
sys.path.insert(0, str(EXAMPLE))

import shop  # noqa: E402

HOSTNAME = socket.gethostname()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set what the collection gives to an instance, and nothing of this machine."""
    for name in list(os.environ):
        if name.startswith(("FLASK_", "APP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("APP_NAME", "corner-shop")
    monkeypatch.setenv("APP_VERSION", "v1.2")
    monkeypatch.setenv("APP_RELEASE", "0123456789ab")
    monkeypatch.setenv("APP_SHARED", str(tmp_path / "shared"))


@pytest.fixture
def app() -> Flask:
    return shop.create_app({"TESTING": True})


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port of the loopback that refuses connections: bound, so nobody gets it, not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def send(client: FlaskClient, name: str, content: bytes = b"text") -> TestResponse:
    return client.post("/upload", data={"file": (io.BytesIO(content), name)})


def assert_identified(answer: dict[str, Any]) -> None:
    assert answer["hostname"] == HOSTNAME
    assert answer["release"] == "0123456789ab"
    assert answer["version"] == "v1.2"


@pytest.mark.parametrize(
    "target", ["/", "/cached", "/health", "/whoami", "/redirect", "/slow?seconds=x", "/static/style.css", "/none"]
)
def test_every_answer_names_host_and_release(client: FlaskClient, target: str) -> None:
    assert client.get(target).headers["X-Served-By"] == f"{HOSTNAME}/0123456789ab"


def test_an_error_of_the_application_names_host_and_release_too() -> None:
    def broken() -> str:
        raise RuntimeError

    app = shop.create_app()
    app.add_url_rule("/broken", view_func=broken)
    response = app.test_client().get("/broken")
    assert response.status_code == 500
    assert response.headers["X-Served-By"] == f"{HOSTNAME}/0123456789ab"


def test_the_page_lists_products_and_who_answered(client: FlaskClient) -> None:
    page = client.get("/", environ_base={"REMOTE_ADDR": "192.0.2.7"}).text
    for product in shop.PRODUCTS:
        assert product.name in page
    assert "€ 9.90" in page
    for shown in (HOSTNAME, "0123456789ab", "v1.2", "192.0.2.7", "corner-shop"):
        assert shown in page


def test_the_static_files_that_the_page_names_exist(client: FlaskClient) -> None:
    page = client.get("/").text
    for name, kind in (("style.css", "text/css"), ("logo.svg", "image/svg+xml")):
        assert f'"/static/{name}"' in page
        response = client.get(f"/static/{name}")
        assert response.status_code == 200
        assert response.mimetype == kind


def test_the_page_bears_a_request_without_an_address(client: FlaskClient) -> None:
    assert "unknown" in client.get("/", environ_overrides={"REMOTE_ADDR": ""}).text


def test_the_cached_view_is_computed_once(client: FlaskClient) -> None:
    started = time.monotonic()
    first = client.get("/cached").get_json()
    assert time.monotonic() - started >= 0.2
    assert first["computed_by"] == HOSTNAME
    assert_identified(first)
    started = time.monotonic()
    assert client.get("/cached").get_json() == first
    assert time.monotonic() - started < 0.2


def test_the_cached_view_answers_without_its_cache(dead_cache: FlaskClient) -> None:
    response = dead_cache.get("/cached")
    assert response.status_code == 200
    assert response.get_json()["computed_by"] == HOSTNAME


def test_the_slow_view_takes_its_time(client: FlaskClient) -> None:
    started = time.monotonic()
    response = client.get("/slow?seconds=0.1")
    assert time.monotonic() - started >= 0.1
    assert response.status_code == 200
    assert response.get_json()["slept"] == 0.1


def test_the_slow_view_bounds_its_time(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("shop.time.sleep", slept.append)
    for query in ("", "?seconds=0", "?seconds=10"):
        assert client.get(f"/slow{query}").status_code == 200
    for value in ("", "x", "-0.1", "10.1", "1e9", "inf", "-inf", "nan", "1,5"):
        response = client.get("/slow", query_string={"seconds": value})
        assert response.status_code == 400, value
        assert "seconds" in response.get_json()["error"]
    assert slept == [0.5, 0, 10]


@pytest.mark.parametrize("size", [0, 1, shop.CHUNK, 2 * shop.CHUNK + 5])
def test_a_stream_has_its_length_and_known_bytes(client: FlaskClient, size: int) -> None:
    response = client.get(f"/stream?bytes={size}")
    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(size)
    assert response.headers["X-Served-By"] == f"{HOSTNAME}/0123456789ab"
    blocks = b"".join(hashlib.sha256(number).digest() * 2048 for number in (b"0", b"1", b"2"))
    assert response.data == blocks[:size]


def test_a_stream_is_bounded(client: FlaskClient) -> None:
    assert client.get("/stream").headers["Content-Length"] == "1048576"
    assert client.head("/stream?bytes=67108864").status_code == 200
    for value in ("", "x", "-1", "67108865", "1e3", "1.5"):
        response = client.get("/stream", query_string={"bytes": value})
        assert response.status_code == 400, value
        assert "bytes" in response.get_json()["error"]


@pytest.mark.parametrize("size", [0, 5, 3 * shop.CHUNK + 1, 1 << 20])
def test_an_upload_comes_back(client: FlaskClient, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    response = send(client, "list of things.bin", content)
    assert response.status_code == 201
    answer = response.get_json()
    assert answer["name"] == "list_of_things.bin"
    assert answer["size"] == size
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    assert_identified(answer)
    assert [path.name for path in (tmp_path / "shared" / "uploads").iterdir()] == ["list_of_things.bin"]

    back = client.get(response.headers["Location"])
    assert back.status_code == 200
    assert back.data == content


def test_an_upload_replaces_the_one_of_the_same_name(client: FlaskClient) -> None:
    send(client, "a.txt", b"old and longer")
    assert send(client, "a.txt", b"new").status_code == 201
    assert client.get("/uploads/a.txt").data == b"new"


def test_an_uploaded_page_is_a_download(client: FlaskClient) -> None:
    send(client, "page.html", b"<script>alert(1)</script>")
    response = client.get("/uploads/page.html")
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../../etc/passwd", "etc_passwd"),
        ("/etc/shadow", "etc_shadow"),
        ("..\\..\\boot.ini", "boot.ini"),
        (".bashrc", "bashrc"),
        ("a; rm -rf b.txt", "a_rm_-rf_b.txt"),
    ],
)
def test_a_hostile_name_stays_in_the_directory(client: FlaskClient, tmp_path: Path, name: str, stored: str) -> None:
    response = send(client, name)
    assert response.status_code == 201
    assert response.get_json()["name"] == stored
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("shared", "uploads", stored)]


@pytest.mark.parametrize("name", ["..", "../..", "/", "...", "💥", "a" * 256])
def test_a_name_that_leaves_nothing_usable_is_refused(client: FlaskClient, tmp_path: Path, name: str) -> None:
    response = send(client, name)
    assert response.status_code == 400
    assert "name" in response.get_json()["error"]
    assert list(tmp_path.iterdir()) == []


def test_an_upload_without_a_file_is_refused(client: FlaskClient) -> None:
    assert client.post("/upload").status_code == 400
    assert client.post("/upload", data={"file": "text, no file"}).status_code == 400
    assert client.post("/upload", data={"other": (io.BytesIO(b"x"), "a.txt")}).status_code == 400
    assert client.get("/upload").status_code == 405


def test_an_upload_has_a_limit(tmp_path: Path) -> None:
    assert shop.create_app().config["MAX_CONTENT_LENGTH"] == 64 * 1024 * 1024
    client = shop.create_app({"MAX_CONTENT_LENGTH": 1000}).test_client()
    assert send(client, "a.txt", b"x" * 1001).status_code == 413
    assert not (tmp_path / "shared").exists()


def test_a_failed_upload_leaves_no_partial_file(client: FlaskClient, tmp_path: Path) -> None:
    target = tmp_path / "shared" / "uploads" / "taken"
    target.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        send(client, "taken")
    assert list(target.parent.iterdir()) == [target]


def test_only_uploads_are_sent_back(client: FlaskClient, tmp_path: Path) -> None:
    directory = tmp_path / "shared" / "uploads"
    directory.mkdir(parents=True)
    (directory / ".partial").write_text("x")
    (tmp_path / "shared" / "secret").write_text("x")
    for target in ("none.txt", ".partial", "..", "../secret", "..%2fsecret", "%2e%2e/secret"):
        assert client.get(f"/uploads/{target}").status_code == 404, target


def test_health_is_good_when_the_cache_answers(client: FlaskClient) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert (response.get_json()["status"], response.get_json()["cache"]) == ("ok", "ok")
    assert_identified(response.get_json())


@pytest.fixture
def dead_cache(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> FlaskClient:
    """Configure the cache as the collection does, where nobody listens."""
    options = {"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": None}
    monkeypatch.setenv("FLASK_CACHE_TYPE", "RedisCache")
    monkeypatch.setenv("FLASK_CACHE_REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("FLASK_CACHE_REDIS_PORT", str(closed_port))
    monkeypatch.setenv("FLASK_CACHE_REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("FLASK_CACHE_KEY_PREFIX", "shop:")
    monkeypatch.setenv("FLASK_CACHE_OPTIONS", json.dumps(options))
    return shop.create_app().test_client()


def test_health_soon_tells_when_the_cache_is_dead(dead_cache: FlaskClient, closed_port: int) -> None:
    started = time.monotonic()
    response = dead_cache.get("/health")
    assert time.monotonic() - started < 1
    assert response.status_code == 200
    assert response.get_json()["status"] == "degraded"
    assert response.get_json()["cache"] == "ConnectionError"
    assert_identified(response.get_json())
    for secret in ("hunter2", "127.0.0.1", str(closed_port)):
        assert secret not in response.text


def test_health_soon_tells_when_the_cache_hangs(dead_cache: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("FLASK_CACHE_REDIS_PORT", str(mute.getsockname()[1]))
        started = time.monotonic()
        response = shop.create_app().test_client().get("/health")
    assert time.monotonic() - started < 1
    assert response.status_code == 200
    assert response.get_json()["cache"] == "TimeoutError"


def test_health_tells_when_the_cache_forgets() -> None:
    client = shop.create_app({"CACHE_TYPE": "NullCache", "CACHE_NO_NULL_WARNING": True}).test_client()
    response = client.get("/health")
    assert response.status_code == 200
    assert response.get_json()["cache"] == "LookupError"


def test_whoami_tells_what_the_application_sees(client: FlaskClient) -> None:
    response = client.get(
        "/whoami?a=1",
        base_url="https://shop.example:8443",
        headers={"X-Forwarded-For": "192.0.2.7, 198.51.100.1"},
        environ_base={"REMOTE_ADDR": "198.51.100.1"},
    )
    assert response.get_json() == {
        "client": "198.51.100.1",
        "scheme": "https",
        "host": "shop.example:8443",
        "url": "https://shop.example:8443/whoami?a=1",
        "forwarded_for": "192.0.2.7, 198.51.100.1",
        "pid": os.getpid(),
        "hostname": HOSTNAME,
        "release": "0123456789ab",
        "version": "v1.2",
    }
    assert client.get("/whoami").get_json()["forwarded_for"] is None


def test_a_redirect_keeps_scheme_and_host(client: FlaskClient) -> None:
    response = client.get("/redirect", base_url="https://shop.example")
    assert response.status_code == 302
    assert response.headers["Location"] == "https://shop.example/"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_CACHE_REDIS_PORT", "6379")
    monkeypatch.setenv("FLASK_CACHE_OPTIONS", '{"threshold": 7}')
    monkeypatch.setenv("FLASK_MAX_CONTENT_LENGTH", "1000")
    app = shop.create_app()
    assert app.config["CACHE_REDIS_PORT"] == 6379
    assert app.config["CACHE_OPTIONS"] == {"threshold": 7}
    assert app.config["MAX_CONTENT_LENGTH"] == 1000


@pytest.mark.parametrize("text", ["123", "0e12", "1e400", "1.10", "true", "null", "{}", "plain", "007"])
def test_secrets_that_look_like_json_stay_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in shop.TEXT_SETTINGS:
        monkeypatch.setenv(f"FLASK_{name}", text)
    app = shop.create_app()
    assert [app.config[name] for name in shop.TEXT_SETTINGS] == [text] * len(shop.TEXT_SETTINGS)


def test_defaults_suit_a_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APP_NAME", "APP_RELEASE", "APP_SHARED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("APP_VERSION", "")
    app = shop.create_app()
    assert app.config["CACHE_TYPE"] == "SimpleCache"
    assert (app.config["APP_NAME"], app.config["APP_VERSION"], app.config["APP_RELEASE"]) == ("shop", "local", "local")
    assert Path(app.config["APP_SHARED"]).is_relative_to(app.instance_path)
    assert app.test_client().get("/health").status_code == 200
