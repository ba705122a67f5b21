"""The module that stands between uWSGI and an application, called without uWSGI."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.templates.test_rendered import golden

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
PLAIN = [("Content-Type", "text/plain")]


class Answer:
    """What came of a request.

    :param data: the body as it goes over the connection.
    :param error: what was raised when it did not come to its end.
    :param unread: how much of the request's body was left.
    """

    def __init__(self, status: str, headers: list[tuple[str, str]], data: bytes, error: str, unread: int) -> None:
        self.status, self.headers, self.data, self.error, self.unread = status, dict(headers), data, error, unread


def load(monkeypatch: pytest.MonkeyPatch, text: str, path: Path) -> dict[str, Any]:
    """Run the module from a file of a release, as uWSGI does."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Before there are processes.
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(worker_id=lambda: 0))
    names: dict[str, Any] = {"__file__": str(path)}
    exec(compile(text, str(path), "exec"), names)  # noqa: S102
    return names


def call(
    monkeypatch: pytest.MonkeyPatch, app: App, body: bytes = b"", changes: Mapping[str, str] | None = None
) -> Answer:
    """Call an application through the module, as uWSGI does."""
    monkeypatch.setitem(sys.modules, "shop", types.SimpleNamespace(app=app))
    names = load(monkeypatch, golden("minimal", "uwsgi/wsgi_entry.py").read_text(encoding="utf-8"), Path("entry"))
    sent = io.BytesIO()
    heads: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], object]:
        assert not heads, "the head was sent twice"
        assert isinstance(headers, list)
        heads.append((status, headers))
        return sent.write

    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body) or ""),
        "wsgi.input": io.BytesIO(body),
        **(changes or {}),
    }
    error = ""
    try:
        for block in names["application"](environ, start_response):
            assert heads, "a block comes before the head"
            sent.write(block)
    except Exception as failure:  # noqa: BLE001 -- uWSGI catches everything as well
        error = str(failure)
    ((status, headers),) = heads
    return Answer(status, headers, sent.getvalue(), error, len(environ["wsgi.input"].read()))  # type: ignore[attr-defined]


def answering(*blocks: bytes, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> App:
    """Return an application that gives one answer."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, [*PLAIN, *headers])
        return blocks

    return app


@pytest.mark.parametrize(
    ("app", "changes", "data", "chunked"),
    [
        (answering(b"one", b"two", headers=[("CONTENT-length", "6")]), {}, b"onetwo", False),
        (answering(b"one", b"", b"two"), {}, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n", True),
        (answering(b"x" * 300), {}, b"12c\r\n" + b"x" * 300 + b"\r\n0\r\n\r\n", True),
        (answering(), {}, b"0\r\n\r\n", True),
        (answering(b"one"), {"SERVER_PROTOCOL": "HTTP/1.0"}, b"one", False),
        (answering(), {"REQUEST_METHOD": "HEAD"}, b"", False),
        (answering(status="204 No Content"), {}, b"", False),
        (answering(status="304 Not Modified"), {}, b"", False),
        (
            answering(b"1\r\nx\r\n0\r\n\r\n", headers=[("Transfer-Encoding", "chunked")]),
            {},
            b"1\r\nx\r\n0\r\n\r\n",
            True,
        ),
    ],
)
def test_an_answer_without_a_length_comes_in_chunks(
    monkeypatch: pytest.MonkeyPatch, app: App, changes: dict[str, str], data: bytes, chunked: bool
) -> None:
    answer = call(monkeypatch, app, changes=changes)
    assert (answer.data, answer.error) == (data, "")
    assert (answer.headers.get("Transfer-Encoding") == "chunked") is chunked
    assert answer.headers["Content-Type"] == "text/plain"


def test_what_is_written_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"one")
        return [b"two"]

    assert call(monkeypatch, app).data == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_an_answer_can_be_replaced_until_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        try:
            raise ValueError("first")
        except ValueError:
            start_response("503 Service Unavailable", [("Content-Length", "1")], sys.exc_info())
        yield b"x"
        try:
            raise ValueError("second")
        except ValueError:
            start_response("200 OK", PLAIN, sys.exc_info())

    answer = call(monkeypatch, app)
    assert (answer.status, answer.data, answer.error) == ("503 Service Unavailable", b"x", "second")
    assert answer.headers == {"Content-Length": "1"}


def refusing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise ValueError("on purpose")


def changing_its_mind(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    raise ValueError("on purpose")


def never_starting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return [b"x"]


@pytest.mark.parametrize("app", [refusing, changing_its_mind, never_starting])
def test_a_failure_is_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: App) -> None:
    answer = call(monkeypatch, app, b"unread")
    assert (answer.status, answer.data, answer.error) == ("500 Internal Server Error", b"Internal Server Error", "")
    assert answer.headers["Content-Length"] == "21"
    assert answer.unread == 0
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_halfway_leaves_out_the_last_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the application has opened is closed all the same."""
    closed = []

    class Body:
        def __iter__(self) -> Iterable[bytes]:
            yield b"one"
            raise ValueError("halfway")

        def close(self) -> None:
            closed.append(self)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return Body()  # type: ignore[return-value]

    answer = call(monkeypatch, app, b"unread")
    assert (answer.data, answer.error, answer.unread) == (b"3\r\none\r\n", "halfway", 0)
    assert len(closed) == 1


def test_a_body_that_was_left_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, answering(b"no", status="403 Forbidden"), b"x" * 100_000).unread == 0


@pytest.mark.parametrize(
    ("headers", "client", "scheme"),
    [
        ({}, "", "http"),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PROTO": "https"}, "203.0.113.9", "https"),
        ({"HTTP_X_FORWARDED_FOR": "6.6.6.6, 2001:db8::1", "HTTP_X_FORWARDED_PROTO": "ftp"}, "2001:db8::1", "http"),
        ({"REMOTE_ADDR": "0.0.0.0", "wsgi.url_scheme": "https"}, "", "http"),  # noqa: S104 -- as uWSGI puts it
    ],
)
def test_client_and_scheme(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], client: str, scheme: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "9")])
        return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode()]

    assert call(monkeypatch, app, changes=headers).data.decode() == f"{client} {scheme}"


def test_middleware_is_applied_in_its_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From files of the release, also where the application has modules of the same names."""
    for name in ("measured", "counted"):
        text = f"""
def wrap(application):
    def wrapped(environ, start_response):
        environ["seen"] = environ.get("seen", "") + "{name} "
        return application(environ, start_response)
    return wrapped
"""
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, f"_release_{name}", types.ModuleType(name))
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append((environ["seen"], environ["REMOTE_ADDR"]))
        start_response("200 OK", PLAIN)
        return [b"x"]

    wsgi = types.ModuleType("shop.wsgi")
    monkeypatch.setattr(wsgi, "make_app", lambda: app, raising=False)
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.wsgi", wsgi)
    text = golden("full", "uwsgi/wsgi_entry.py").read_text(encoding="utf-8")
    names = load(monkeypatch, text, tmp_path / "wsgi_entry.py")
    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "HTTP_X_FORWARDED_FOR": "203.0.113.9",
        "wsgi.input": io.BytesIO(),
    }
    assert b"".join(names["application"](environ, lambda _status, _headers: None)) == b"x"
    # The last of the list is the outermost; all of them see the client.
    assert seen == [("counted measured ", "203.0.113.9")]


def test_an_application_that_exits_when_it_is_made_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """uWSGI brings the instance down for the one, and would start the process again and again for the other."""
    wsgi = types.ModuleType("shop.wsgi")
    monkeypatch.setattr(wsgi, "make_app", lambda: sys.exit("no settings"), raising=False)
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.wsgi", wsgi)
    text = golden("full", "uwsgi/wsgi_entry.py").read_text(encoding="utf-8")
    with pytest.raises(ImportError, match=re.escape("the application has called sys.exit('no settings')")):
        load(monkeypatch, text, tmp_path / "wsgi_entry.py")


def test_a_process_that_is_not_needed_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It looks at its own state, and sends itself what lets all threads finish."""
    wsgi = types.ModuleType("shop.wsgi")
    monkeypatch.setattr(wsgi, "make_app", lambda: answering(b"x"), raising=False)
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.wsgi", wsgi)
    for name in ("measured", "counted"):
        (tmp_path / f"{name}.py").write_text("def wrap(application):\n    return application\n", encoding="utf-8")
        monkeypatch.setitem(sys.modules, f"_release_{name}", types.ModuleType(name))
    names = load(monkeypatch, golden("full", "uwsgi/wsgi_entry.py").read_text(encoding="utf-8"), tmp_path / "entry.py")
    states = iter(("busy", "idle", "cheap"))
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(
        names["uwsgi"], "workers", lambda: [{"status": "cheap"}, {"status": next(states)}], raising=False
    )
    monkeypatch.setattr(names["uwsgi"], "worker_id", lambda: 2)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    names["uwsgi"].post_fork_hook()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)
    assert sent == [(os.getpid(), 1)]
