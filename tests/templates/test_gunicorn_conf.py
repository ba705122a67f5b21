"""What Gunicorn's configuration does around an application, called without Gunicorn."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.templates.test_rendered import golden

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
RELEASE = "aaaaaaaaaaaa"
#: The set of variables whose golden file is for that worker class.
SETS = {"gthread": "minimal", "gevent": "full", "tornado": "single"}


class Gunicorn:
    """The configuration, and a worker that has loaded an application."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, app: App) -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
        monkeypatch.setenv("APP_RELEASE", RELEASE)
        text = golden(SETS[name], "gunicorn/gunicorn.conf.py").read_text(encoding="utf-8")
        self.names: dict[str, Any] = {}
        exec(compile(text.replace("/srv/shop/current", str(tmp_path / "current")), "conf", "exec"), self.names)  # noqa: S102
        # Tests call it themselves.
        self.watch: Callable[[object], None] = self.names.get("_watch", print)
        self.names["_watch"] = lambda _worker: None
        self.logged: list[str] = []
        self.worker = types.SimpleNamespace(
            wsgi=app,
            alive=True,
            booted=True,
            nr=0,
            cfg=types.SimpleNamespace(graceful_timeout=20),
            log=types.SimpleNamespace(critical=self.log, error=self.log, exception=self.log),
        )
        self.signs = self.beats = 0
        self.worker.server_alive = True
        self.worker.heartbeat = lambda: setattr(self, "beats", self.beats + 1)
        self.worker.notify = lambda: setattr(self, "signs", self.signs + 1)
        self.worker.handle_request = lambda: setattr(self.worker, "nr", self.worker.nr + 1)
        self.current = tmp_path / "current"
        self.activate(RELEASE)
        self.names["post_worker_init"](self.worker)

    def log(self, text: str, *arguments: object) -> None:
        self.logged.append(text % arguments)

    def activate(self, release: str) -> None:
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(f"releases/{release}")

    def ask(self, method: str = "GET", **environ: str) -> tuple[dict[str, Any], str, dict[str, str], bytes]:
        """Return what the application was told, and what it answered."""
        told: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": "/x", "REMOTE_ADDR": "", "wsgi.url_scheme": "http",
            "SERVER_PORT": "80", "HTTP_HOST": "shop.example.com", **environ,
        }  # fmt: skip
        heads: list[tuple[str, list[tuple[str, str]]]] = []
        parts: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Callable[..., None]:
            heads[:] = [(status, headers)]
            return parts.append

        parts.extend(self.worker.wsgi(told, start_response))
        ((status, headers),) = heads
        return told, status, dict(headers), b"".join(parts)


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"hello ")
    return [b"wor", b"ld"]


def fails(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"half"
    raise ValueError("on purpose")


def silent(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return []


@pytest.mark.parametrize("name", ["gthread", "tornado"])
@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("", ""),
    ],
)
def test_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, forwarded: str, client: str) -> None:
    gunicorn = Gunicorn(monkeypatch, tmp_path, name, hello)
    # Tornado says that for a unix socket.
    before = "0.0.0.0" if name == "tornado" else ""  # noqa: S104
    told, status, _headers, body = gunicorn.ask(REMOTE_ADDR=before, HTTP_X_FORWARDED_FOR=forwarded)
    assert (told["REMOTE_ADDR"], status, body) == (client, "200 OK", b"hello world")


@pytest.mark.parametrize(
    ("environ", "scheme", "port"),
    [
        ({}, "http", "80"),
        ({"HTTP_X_FORWARDED_PROTO": "http"}, "http", "80"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, "https", "443"),
        ({"HTTP_X_FORWARDED_PROTO": "https", "HTTP_HOST": "shop:8443", "SERVER_PORT": "8443"}, "https", "8443"),
        ({"HTTP_X_FORWARDED_PROTO": "ftp"}, "http", "80"),
    ],
)
def test_scheme_under_tornado(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], scheme: str, port: str
) -> None:
    told, *_answer = Gunicorn(monkeypatch, tmp_path, "tornado", hello).ask(**environ)
    assert (told["wsgi.url_scheme"], told["SERVER_PORT"]) == (scheme, port)


def test_head_under_tornado(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The length is that of the body which is not sent."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "tornado", hello)
    _told, _status, headers, body = gunicorn.ask("HEAD")
    assert (body, headers["Content-Length"]) == (b"", "11")


@pytest.mark.parametrize("app", [fails, silent])
def test_an_error_under_tornado(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, app: App) -> None:
    gunicorn = Gunicorn(monkeypatch, tmp_path, "tornado", app)
    _told, status, _headers, body = gunicorn.ask()
    assert (status, body) == ("500 Internal Server Error", b"Internal Server Error")
    assert gunicorn.logged == ["Error handling request GET /x"]


def test_connections_under_tornado(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are kept until another release is current, or the worker stops; each request counts."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "tornado", hello)
    assert "Connection" not in gunicorn.ask()[2]
    gunicorn.activate("bbbbbbbbbbbb")
    assert gunicorn.ask()[2]["Connection"] == "close"
    gunicorn.activate(RELEASE)
    gunicorn.worker.alive = False
    assert gunicorn.ask()[2]["Connection"] == "close"
    # As for each connection that is closed.
    gunicorn.worker.handle_request()
    assert gunicorn.worker.nr == 3


@pytest.mark.parametrize("name", ["gthread", "tornado"])
def test_a_worker_that_begins_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Gunicorn would else never miss a sign of life of one that blocks before its first."""
    assert Gunicorn(monkeypatch, tmp_path, name, hello).signs == 1


class Request:
    method, path, closed = "GET", "/stuck", False

    def force_close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("release", "closed"), [(RELEASE, False), ("bbbbbbbbbbbb", True), ("", True)])
def test_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, closed: bool) -> None:
    gunicorn = Gunicorn(monkeypatch, tmp_path, "gthread", hello)
    gunicorn.activate(release) if release else gunicorn.current.unlink()
    request = Request()
    gunicorn.names["pre_request"](gunicorn.worker, request)
    assert request.closed is closed


class Exited(BaseException):
    """Takes the place of the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """How the process was to be ended."""
    done: list[object] = []

    def leave(status: int) -> None:
        done.append(status)
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append((pid == os.getpid(), number)))
    return done


@pytest.mark.parametrize(
    ("booted", "status", "expected"),
    [(False, 0, [3]), (False, None, [3]), (False, 7, [3]), (False, 3, []), (False, 4, []), (True, 0, [])],
)
def test_the_end_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: list[object], booted: bool, status: int | None, expected: Any
) -> None:
    """Gunicorn itself ends a worker that cannot load its application by 3 or 4, and stops for these."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "gthread", hello)
    gunicorn.worker.booted = booted
    server = types.SimpleNamespace(WORKER_BOOT_ERROR=3, APP_LOAD_ERROR=4)
    try:
        sys.exit(status)
    except SystemExit:
        with contextlib.suppress(Exited):
            gunicorn.names["worker_exit"](server, gunicorn.worker)
    assert ends == expected
    assert len(gunicorn.logged) == len(expected)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes with each pause."""
    now = [1000.0]

    def pause(seconds: float) -> None:
        now[0] += seconds
        assert now[0] < 2000, "nothing was found to be stuck"

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", pause)


@pytest.mark.usefixtures("clock")
def test_a_stop_under_tornado_waits_for_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its worker ends with the beat after the one in which it stops to listen, which may come at once."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "tornado", hello)
    worker = gunicorn.worker
    worker.heartbeat()
    worker.alive = False
    worker.heartbeat()
    assert gunicorn.beats == 2
    worker.server_alive = False
    time.sleep(0.9)
    worker.heartbeat()
    gunicorn.ask()
    time.sleep(0.9)
    worker.heartbeat()
    assert gunicorn.beats == 2
    time.sleep(0.2)
    worker.heartbeat()
    assert gunicorn.beats == 3


@pytest.mark.usefixtures("clock")
def test_a_stuck_request_ends_its_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: list[object]) -> None:
    """The journal tells which request it is and where it is; it is not until then that the worker stops."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "gthread", hello)
    gunicorn.names["pre_request"](gunicorn.worker, Request())
    began = time.monotonic()
    with pytest.raises(Exited):
        gunicorn.watch(gunicorn.worker)
    assert ends == [(True, signal.SIGTERM), 1]
    # The limit is 60 seconds; the watch looks once a second, and kept connections get 2.5.
    assert 60 < time.monotonic() - began < 65
    (said,) = gunicorn.logged
    assert said.startswith("GET /stuck is without an answer after 61 seconds (gunicorn_request_timeout)")
    assert "in test_a_stuck_request_ends_its_worker" in said


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("other", "seconds"), [({}, 2.5), ({2: None}, 20), ({2: (999.0, "GET /later")}, 20)])
def test_a_worker_that_ends_waits_for_its_other_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: list[object], other: dict[int, Any], seconds: float
) -> None:
    """Also for those that the application has begun to answer, for as long as a worker may take to stop."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "gthread", hello)
    gunicorn.names["_asked"].update({1: (900.0, "GET /stuck"), **other})
    with pytest.raises(Exited):
        gunicorn.watch(gunicorn.worker)
    assert ends == [(True, signal.SIGTERM), 1]
    assert 1001 + seconds <= time.monotonic() < 1001.3 + seconds
    assert gunicorn.logged[0].endswith("It is at\nits end")


def test_an_answer_may_take_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what the application has not begun to answer has a limit."""
    gunicorn = Gunicorn(monkeypatch, tmp_path, "gthread", hello)
    asked, here = gunicorn.names["_asked"], threading.get_ident()
    gunicorn.names["pre_request"](gunicorn.worker, Request())
    assert asked[here][1] == "GET /stuck"
    gunicorn.ask()
    assert asked == {here: None}
    gunicorn.names["post_request"](gunicorn.worker, Request(), {}, None)
    assert asked == {}
