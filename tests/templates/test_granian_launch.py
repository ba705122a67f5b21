"""The launcher of an instance under Granian, called without Granian."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.templates.test_rendered import golden

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
PLAIN = [("Content-Type", "text/plain")]
PROBE = "/0123456789abcdef"
#: When a worker last moved, and whether all its threads are busy.
BEAT = struct.Struct("d?")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The names of the launcher of the smallest set, whose release is current."""
    (tmp_path / "current").symlink_to("releases/aaaaaaaaaaaa")
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("APP_RELEASE", "aaaaaaaaaaaa")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("SECRET_KEY", "correct horse")
    text = golden("minimal", "granian/granian_launch.py").read_text(encoding="utf-8")
    text = text.replace("'/srv/shop/current'", repr(str(tmp_path / "current")))
    names: dict[str, Any] = {"__name__": "launcher", "__file__": str(tmp_path / "granian_launch.py")}
    exec(compile(text, "granian_launch.py", "exec"), names)  # noqa: S102
    names["WORKERS"] = 2
    return names


class Answer:
    """What Granian gets of a request.

    :param at_once: whether all of it was there when the application returned.
    :param blocks: the body.
    :param error: what was raised when it did not come to its end.
    :param unread: how much of the request's body was left.
    """

    def __init__(
        self,
        status: str,
        headers: list[tuple[str, str]],
        at_once: bool,
        blocks: list[bytes],
        error: str,
        environ: dict[str, Any],
    ) -> None:
        self.status, self.headers, self.at_once = status, dict(headers), at_once
        self.blocks, self.error, self.environ = blocks, error, environ
        self.unread = len(environ["wsgi.input"].read())


def call(launcher: Mapping[str, Any], app: App, body: bytes = b"", changes: Mapping[str, str] | None = None) -> Answer:
    """Call an application as Granian does; an answer that is held open is given up after three blocks."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        assert not heads, "the head was sent twice"
        heads.append((status, headers))

    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/",
        "HTTP_HOST": "shop.example.com",
        "wsgi.input": io.BytesIO(body),
        **({"CONTENT_LENGTH": str(len(body))} if body else {}),
        "SECRET_KEY": "correct horse",
        **(changes or {}),
    }
    threads = launcher["Threads"]()
    result = launcher["gateway"](app, threads, PROBE)(environ, start_response)
    ((status, headers),) = heads
    blocks: list[bytes] = []
    error = ""
    if not isinstance(result, list):
        try:
            for block in result:
                blocks.append(block)
                if blocks[-3:] == [b"", b"", b""]:
                    error = "held open"
                    break
        except Exception as failure:  # noqa: BLE001 -- Granian catches everything as well
            error = str(failure)
        result.close()
    assert threads.busy == {}
    assert threads.failed == set()
    return Answer(
        status, headers, isinstance(result, list), result if isinstance(result, list) else blocks, error, environ
    )


def answering(
    *blocks: bytes, status: str = "200 OK", headers: Iterable[tuple[str, str]] = (), listed: bool = False
) -> App:
    """Return an application that gives one answer."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, [*PLAIN, *headers])
        return list(blocks) if listed else iter(blocks)

    return app


@pytest.mark.parametrize(
    ("app", "changes", "blocks", "at_once"),
    [
        (answering(b"one", b"two", listed=True), {}, [b"onetwo"], True),
        (answering(b"one", b"", b"two"), {}, [b"one", b"two"], False),
        (answering(b"", b"one", headers=[("content-LENGTH", "3")]), {}, [b"one"], True),
        (answering(b"one", b"two", headers=[("Content-Length", "6")]), {}, [b"one", b"two"], False),
        (answering(b"one", headers=[("Content-Length", "6")], listed=True), {}, [b"one"], False),
        (answering(), {}, [b""], True),
        (answering(b"one", headers=[("Content-Length", "3")]), {"REQUEST_METHOD": "HEAD"}, [b""], True),
        (answering(b"one", status="304 Not Modified"), {}, [b""], True),
        (answering(status="204 No Content", listed=True), {}, [b""], True),
    ],
)
def test_an_answer_that_is_there_goes_at_once_and_any_other_piece_by_piece(
    launcher: Mapping[str, Any], app: App, changes: dict[str, str], blocks: list[bytes], at_once: bool
) -> None:
    answer = call(launcher, app, changes=changes)
    assert (answer.blocks, answer.at_once, answer.error) == (blocks, at_once, "")
    assert answer.headers["Content-Type"] == "text/plain"
    assert "Connection" not in answer.headers


def test_head_and_body_may_come_with_the_first_block(launcher: Mapping[str, Any]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        yield b""
        start_response("201 Created", PLAIN)
        yield b"one"

    answer = call(launcher, app)
    assert (answer.status, answer.blocks, answer.headers) == ("201 Created", [b"one"], {"Content-Type": "text/plain"})


def test_what_is_written_comes_first(launcher: Mapping[str, Any]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)(b"one")
        return [b"two"]

    assert call(launcher, app).blocks == [b"onetwo"]


def test_an_answer_can_be_replaced_until_it_is_sent(launcher: Mapping[str, Any]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        try:
            raise ValueError("first")
        except ValueError:
            start_response("503 Service Unavailable", [("Content-Length", "2")], sys.exc_info())
        yield b"x"
        try:
            raise ValueError("second")
        except ValueError:
            start_response("200 OK", PLAIN, sys.exc_info())

    answer = call(launcher, app)
    assert (answer.status, answer.blocks, answer.error) == ("503 Service Unavailable", [b"x"], "second")


def refusing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise ValueError("on purpose")


def never_starting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return [b"x"]


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (refusing, "on purpose"),
        (never_starting, "without a call of start_response"),
        (answering(b"x", status="2000 Much"), "'2000 Much' is not the status of an answer"),
        (answering(b"x", status="101 Switching Protocols"), "is not the status of an answer"),
        (answering(b"x", status="OK"), "invalid literal"),
    ],
)
def test_a_failure_before_the_answer_is_granians_to_tell(launcher: Mapping[str, Any], app: App, said: str) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/",
        "HTTP_HOST": "",
        "CONTENT_LENGTH": "6",
        "wsgi.input": io.BytesIO(b"unread"),
    }
    with pytest.raises(Exception, match=said):
        launcher["gateway"](app, launcher["Threads"](), PROBE)(environ, pytest.fail)
    assert environ["wsgi.input"].read() == b""  # type: ignore[attr-defined]


class Body:
    """A body that fails behind its first block, and notes that it is closed."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed

    def __iter__(self) -> Iterator[bytes]:
        yield b"one"
        raise ValueError("halfway")

    def close(self) -> None:
        self.closed.append("closed")


@pytest.mark.parametrize(
    ("headers", "blocks", "error"),
    [([], [b"one", b"", b"", b""], "held open"), ([("Content-Length", "6")], [b"one"], "halfway")],
)
def test_a_failure_halfway_does_not_end_the_answer(
    launcher: Mapping[str, Any],
    capsys: pytest.CaptureFixture[str],
    headers: list[tuple[str, str]],
    blocks: list[bytes],
    error: str,
) -> None:
    """It is held open until nobody waits for it; where a length was promised, Granian ends the connection."""
    closed: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN, *headers])
        return Body(closed)

    answer = call(launcher, app, b"unread")
    assert (answer.blocks, answer.error, answer.unread, closed) == (blocks, error, 0, ["closed"])
    assert ("ValueError: halfway" in capsys.readouterr().err) is (error == "held open")


def test_half_of_the_threads_are_never_held(launcher: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Of two, one; a further answer ends like a whole one, since Granian cannot do better."""
    launcher["THREADS"] = 2
    threads = launcher["Threads"]()

    def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return Body([])

    def start() -> Any:
        environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", "HTTP_HOST": "x"}
        return launcher["gateway"](failing, threads, PROBE)(environ, lambda *_head: None)

    first, second = start(), start()
    assert [next(first), next(first), next(first)] == [b"one", b"", b""]
    assert next(second) == b"one"
    with pytest.raises(ValueError, match="halfway"):
        next(second)
    first.close()
    assert threads.failed == set()


def test_a_failure_of_close_takes_no_answer_away(
    launcher: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Closing(list[bytes]):
        def close(self) -> None:
            raise ValueError("too late")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", PLAIN)
        return Closing([b"one"])

    assert call(launcher, app).blocks == [b"one"]
    assert "ValueError: too late" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, {"CONTENT_LENGTH": "0", "HTTP_TRANSFER_ENCODING": "chunked"}])
def test_a_body_that_was_left_is_read(launcher: Mapping[str, Any], changes: dict[str, str]) -> None:
    assert call(launcher, answering(b"no", status="403 Forbidden"), b"x" * 100_000, changes).unread == 0


@pytest.mark.parametrize(
    ("headers", "client", "url"),
    [
        ({}, "", "http://shop.example.com:80"),
        (
            {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PROTO": "https"},
            "203.0.113.9",
            "https://shop.example.com:443",
        ),
        (
            {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 2001:db8::1", "HTTP_X_FORWARDED_PROTO": "ftp"},
            "2001:db8::1",
            "http://shop.example.com:80",
        ),
        ({"REMOTE_ADDR": "/run/shop/app.sock", "wsgi.url_scheme": "https"}, "", "http://shop.example.com:80"),
        ({"HTTP_HOST": "shop.example.com:8080"}, "", "http://shop.example.com:8080"),
        ({"HTTP_HOST": "[2001:db8::1]"}, "", "http://[2001:db8::1]:80"),
        ({"HTTP_HOST": "[2001:db8::1]:8080"}, "", "http://[2001:db8::1]:8080"),
        ({"HTTP_HOST": ""}, "", "http://localhost:80"),
    ],
)
def test_client_scheme_and_host(launcher: Mapping[str, Any], headers: dict[str, str], client: str, url: str) -> None:
    environ = call(launcher, answering(b"x"), changes=headers).environ
    assert environ["REMOTE_ADDR"] == client
    assert f"{environ['wsgi.url_scheme']}://{environ['SERVER_NAME']}:{environ['SERVER_PORT']}" == url


def test_the_environment_of_the_process_is_not_the_requests(launcher: Mapping[str, Any]) -> None:
    environ = call(launcher, answering(b"x"), changes={"SERVER_PROTOCOL": "HTTP/1"}).environ
    assert "SECRET_KEY" not in environ
    assert (environ["SERVER_PROTOCOL"], environ["wsgi.multiprocess"]) == ("HTTP/1.0", True)


@pytest.mark.parametrize("link", ["releases/bbbbbbbbbbbb", None])
def test_a_connection_closes_once_another_release_is_current(
    launcher: Mapping[str, Any], tmp_path: Path, link: str | None
) -> None:
    (tmp_path / "current").unlink()
    if link:
        (tmp_path / "current").symlink_to(link)
    for app in (answering(b"one", listed=True), answering(b"one", b"two")):
        assert call(launcher, app).headers["Connection"] == "close"


def test_the_launchers_own_requests_do_not_reach_the_application(launcher: Mapping[str, Any]) -> None:
    answer = call(launcher, refusing, changes={"PATH_INFO": PROBE})
    assert (answer.status, answer.blocks) == ("204 No Content", [])


def test_the_application_is_imported_with_what_stands_around_it(
    launcher: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In order, the first one innermost; and what the launcher does on SIGTERM is not done in a worker."""
    monkeypatch.setitem(sys.modules, "shop", types.SimpleNamespace(app=answering(b"app", listed=True)))
    minded: list[Any] = []
    signals = types.SimpleNamespace(set_main_signals=minded.append)
    monkeypatch.setitem(sys.modules, "granian", types.SimpleNamespace(_signals=signals))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("inner", "outer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(
            "def wrap(application):\n"
            "    def call(environ, start_response):\n"
            f"        return [*application(environ, start_response), b' {name}']\n"
            "    return call\n"
        )
    launcher["MIDDLEWARE"] = ["inner", "outer"]
    launcher["faulthandler"] = types.SimpleNamespace(enable=lambda: None)
    before = signal.signal(signal.SIGTERM, lambda *_arguments: None)
    try:
        application = launcher["load"](PROBE)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", "HTTP_HOST": "x"}
    assert application(environ, lambda *_head: None) == [b"app inner outer"]
    assert Path(sys.path[0]) == Path.cwd()
    assert str(tmp_path) not in sys.path
    note = tmp_path / "run" / f"worker-{os.getpid()}"
    end = time.monotonic() + 5
    while not note.exists() and time.monotonic() < end:
        time.sleep(0.01)
    moved, full = BEAT.unpack(note.read_bytes())
    assert 0 <= time.monotonic() - moved < 5
    assert full is False
    # What Granian wants to be called at the end is called later.
    signals.set_main_signals("end")
    assert [end.__name__ for end in minded] == ["leave"]


@pytest.mark.parametrize("current", [True, False])
def test_a_worker_that_is_replaced_bids_farewell_first(launcher: dict[str, Any], tmp_path: Path, current: bool) -> None:
    """Connections in use are asked to end; who tells it twice does not hurry it. An old release does not wait."""
    if not current:
        (tmp_path / "current").unlink()
    launcher["FAREWELL"] = 0.2
    threads = launcher["Threads"]()
    minded: list[Callable[..., None]] = []
    ended: list[tuple[Any, ...]] = []
    done = threading.Event()

    def end(*arguments: object) -> None:
        ended.append(arguments)
        done.set()

    launcher["leave_slowly"](threads, minded.append, end)
    minded[0](signal.SIGTERM, None)
    assert (threads.leaving, bool(ended)) == (current, not current)
    if current:
        minded[0](signal.SIGTERM, None)
        app = launcher["gateway"](answering(b"one", listed=True), threads, PROBE)
        heads: list[Any] = []
        environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "PATH_INFO": "/", "HTTP_HOST": "x"}
        app(environ, lambda *head: heads.append(head))
        assert ("Connection", "close") in heads[0][1]
    assert done.wait(5)
    assert ended == [(signal.SIGTERM, None)]


def test_a_worker_moves_unless_all_its_threads_stand_still(launcher: dict[str, Any]) -> None:
    launcher["THREADS"] = 2
    threads = launcher["Threads"]()
    let_go = threading.Event()
    first = threading.Thread(target=threads.call, args=(let_go.wait,))
    first.start()
    time.sleep(0.2)
    moved, full = threads.beat()
    assert not full
    assert time.monotonic() - moved < 0.1
    begun = time.monotonic()
    second = threading.Thread(target=threads.call, args=(let_go.wait,))
    second.start()
    time.sleep(0.2)
    moved, full = threads.beat()
    assert full
    assert abs(moved - begun) < 0.1
    let_go.set()
    first.join()
    second.join()
    assert threads.beat()[1] is False


def test_what_workers_say_is_forgotten_with_them(launcher: Mapping[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run" / f"worker-{os.getpid()}").write_bytes(BEAT.pack(12.5, True))
    (tmp_path / "run" / "worker-4194305").write_bytes(BEAT.pack(1.5, False))
    assert launcher["beats"]() == {os.getpid(): (12.5, True)}
    assert not (tmp_path / "run" / "worker-4194305").exists()


def test_systemd_is_told_by_the_launcher_alone(launcher: Mapping[str, Any], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        launcher["notify"]("READY=1")
        assert manager.recv(100) == b"READY=1"
    assert os.environ.keys().isdisjoint({"NOTIFY_SOCKET", "WATCHDOG_USEC"})


def test_an_abstract_socket_of_systemd(launcher: dict[str, Any]) -> None:
    launcher["NOTIFY"] = f"@wsgi.fleet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0wsgi.fleet-test-{os.getpid()}")
        launcher["notify"]("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"


def test_the_access_log_has_a_line_for_each_request_of_a_client(launcher: Mapping[str, Any]) -> None:
    record = types.SimpleNamespace(args={"path": "/one\ntwo", "status": 200})
    assert launcher["tidy"](PROBE, record) is True
    assert record.args == {"path": "/one\\ntwo", "status": 200}
    for path in (PROBE, f"/shop{PROBE}"):
        assert launcher["tidy"](PROBE, types.SimpleNamespace(args={"path": path})) is False


@pytest.mark.parametrize(
    ("settings", "path", "said", "well"),
    [
        ({}, PROBE, b"HTTP/1.1 204 No Content\r\n\r\n", True),
        ({"url_path_prefix": "/shop"}, f"/shop{PROBE}", b"HTTP/1.1 204 No Content\r\n\r\n", True),
        ({}, PROBE, b"HTTP/1.1 500 Internal Server Error\r\n\r\n", False),
        ({}, PROBE, b"", False),
    ],
)
def test_the_launcher_asks_the_socket(
    launcher: dict[str, Any], tmp_path: Path, settings: dict[str, str], path: str, said: bytes, well: bool
) -> None:
    launcher["SETTINGS"] = settings
    assert launcher["answers"](PROBE, 1) is False
    asked = []

    def serve(server: socket.socket) -> None:
        connection, _peer = server.accept()
        with connection:
            asked.append(connection.recv(1000).split(b"\r\n")[0].decode())
            connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "run" / "app.sock"))
        server.listen()
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        assert launcher["answers"](PROBE, 5) is well
        thread.join()
    assert asked == [f"GET {path} HTTP/1.1"]
