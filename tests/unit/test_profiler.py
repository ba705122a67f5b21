"""What stands around a Flask application while it is profiled, with a stand-in for Flask-Profiler.

The stand-in keeps what the real one hands over and shows; the scenario ``profiling`` has the real one.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import os
import shutil
import sqlite3
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

SOURCE = Path(__file__).resolve().parents[2] / "roles/app/files/profiler.py"
PASSWORD = "correct horse"
SETTINGS = {
    "path": "/flask-profiler",
    "user": "operator",
    "allow": ["203.0.113.0/24", "2001:db8::7"],
    "ignore": ["^/health$"],
}
HOST, STRANGER = "127.0.0.1", "198.51.100.9"
COLUMNS = ("startedAt", "endedAt", "elapsed", "args", "kwargs", "method", "context", "name")


class Sqlite:
    """As flask_profiler.storage.sqlite has it, as far as it is used."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self.sqlite_file, self.table_name = config["FILE"], "measurements"
        self.connection = sqlite3.connect(self.sqlite_file, check_same_thread=False)
        self.connection.execute(
            f"CREATE TABLE IF NOT EXISTS measurements (ID Integer PRIMARY KEY AUTOINCREMENT, {', '.join(COLUMNS)})"
        )
        self.cursor = self.connection.cursor()

    def filter(self, _criteria: object = None) -> list[tuple[Any, ...]]:
        self.cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM measurements ORDER BY ID")  # noqa: S608 -- a fake
        return self.cursor.fetchall()

    get = getSummary = getTimeseries = getMethodDistribution = truncate = delete = filter  # noqa: A003, N815 -- its names


def library() -> Any:
    """Return a module as flask_profiler.flask_profiler is, as far as it is used."""
    module: Any = types.ModuleType("flask_profiler.flask_profiler")
    module.CONF, module.collection = {}, None

    def measure(view: Callable[..., Any], name: str, method: str, context: object) -> Callable[..., Any]:
        if name == "/health" and module.CONF["ignore"] == ["^/health$"]:
            return view

        @functools.wraps(view)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return view(*args, **kwargs)
            finally:
                module.collection.insert(
                    dict(zip(COLUMNS, (1.0, 2.0, 1.0, args, kwargs, method, context, name), strict=True))
                )

        return call

    def routers(app: Flask) -> None:
        root = f"/{module.CONF['endpointRoot']}/"
        app.add_url_rule(root, view_func=lambda: "dashboard", endpoint="index")
        app.add_url_rule(f"{root}rows", view_func=lambda: jsonify(module.collection.filter()), endpoint="rows")

    module.measure, module.registerInternalRouters = measure, routers
    return module


@pytest.fixture
def profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the release, in a release."""
    package: Any = types.ModuleType("flask_profiler")
    package.flask_profiler = library()
    storage: Any = types.ModuleType("flask_profiler.storage")
    sqlite: Any = types.ModuleType("flask_profiler.storage.sqlite")
    sqlite.Sqlite = Sqlite
    for module in (package, package.flask_profiler, storage, sqlite):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("APP_PROFILER_PASSWORD", PASSWORD)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    path = Path(shutil.copy(SOURCE, tmp_path))
    path.with_suffix(".json").write_text(json.dumps(SETTINGS))
    spec = importlib.util.spec_from_file_location("_release_profiler", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The test writes when it wants to.
    monkeypatch.setattr(module, "PAUSE", 3600)
    yield module
    module.library.CONF.clear()


@pytest.fixture
def app() -> Flask:
    """An application with what a profiler could break."""
    app = Flask("shop")

    @app.get("/")
    def index() -> ResponseReturnValue:
        return "hello"

    @app.get("/health")
    def health() -> ResponseReturnValue:
        return "well"

    @app.get("/order/<uuid:number>")
    def order(number: uuid.UUID) -> ResponseReturnValue:
        return str(number)

    @app.post("/raw")
    def raw() -> ResponseReturnValue:
        return Response(request.stream.read(), mimetype="application/octet-stream")

    @app.get("/boom")
    def boom() -> ResponseReturnValue:
        raise ValueError("on purpose")

    @app.before_request
    def login() -> ResponseReturnValue | None:
        return ("log in first", 403) if request.path.startswith("/flask") else None

    return app


def clear(profiler: Any) -> list[dict[str, Any]]:
    """Write what waits; return all that was written."""
    profiler.library.collection.write()
    return [dict(zip(COLUMNS, row, strict=True)) for row in profiler.library.collection.filter()]


def ask(application: Any, path: str, client: str = STRANGER, **more: Any) -> Any:
    """Send a request as an app server hands it over."""
    return Client(application).open(path, environ_base={"REMOTE_ADDR": client}, **more)


def closing_over(application: Any) -> Callable[..., Any]:
    def middleware(environ: Any, start_response: Any) -> Any:
        return application(environ, start_response)

    return middleware


class Holding:
    """Middleware that keeps its application by some name."""

    def __init__(self, name: str, application: Any) -> None:
        setattr(self, name, application)

    def __call__(self, *_arguments: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    "around",
    [
        lambda app: app,
        lambda app: app.wsgi_app,
        ProxyFix,
        lambda app: ProxyFix(app.wsgi_app),
        closing_over,
        lambda app: functools.partial(closing_over(app)),
        lambda app: functools.wraps(app)(lambda *_request: current_app),
        lambda app: Holding("application", Holding("wsgi_app", Holding("_app", ProxyFix(app)))),
        lambda app: DispatcherMiddleware(Flask("other"), {"/shop": ProxyFix(app)}),
        lambda app: Holding("__wrapped__", app.wsgi_app),
    ],
)
def test_the_flask_application_is_found(profiler: Any, app: Flask, around: Callable[[Flask], Any]) -> None:
    assert app in profiler.find_flask(around(app))


def not_flask(environ: Any, start_response: Any) -> Any:
    raise NotImplementedError


def looping() -> Any:
    one = Holding("app", not_flask)
    one.app = Holding("app", one)  # type: ignore[attr-defined]
    return one


@pytest.mark.parametrize("application", [not_flask, ProxyFix(not_flask), looping(), closing_over(current_app)])
def test_what_is_not_made_with_flask_is_refused(profiler: Any, application: Any) -> None:
    with pytest.raises(
        profiler.ProfilerError, match=r"measures applications made with Flask, and .* is none"
    ) as caught:
        profiler.wrap(application)
    assert "Set app_profiler: none" in str(caught.value)


def test_a_password_is_needed(profiler: Any, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_PROFILER_PASSWORD")
    with pytest.raises(KeyError, match="APP_PROFILER_PASSWORD"):
        profiler.wrap(app)


def test_requests_are_answered_as_before_and_measured(profiler: Any, app: Flask) -> None:
    wrapped = profiler.wrap(app)
    number = "12345678-1234-5678-1234-567812345678"
    assert ask(wrapped, "/?a=1").text == "hello"
    assert ask(wrapped, f"/order/{number}").text == number
    assert ask(wrapped, "/raw", method="POST", data=b"\xff\xfe").data == b"\xff\xfe"
    assert ask(wrapped, "/boom").status_code == 500
    assert ask(wrapped, "/health").text == "well"
    assert ask(wrapped, "/nowhere").status_code == 404
    assert ask(wrapped, "/static/x").status_code == 404
    rows = clear(profiler)
    assert [(row["method"], row["name"]) for row in rows] == [
        ("GET", "/"),
        ("GET", "/order/<uuid:number>"),
        ("POST", "/raw"),
        ("GET", "/boom"),
    ]
    assert json.loads(rows[1]["kwargs"]) == {"number": number}
    context = json.loads(rows[0]["context"])
    assert (context["url"], context["args"], context["ip"]) == ("http://localhost/", {"a": "1"}, STRANGER)


def test_no_cookie_header_form_or_body_is_kept(profiler: Any, app: Flask) -> None:
    wrapped = profiler.wrap(app)
    headers = {"Cookie": "session=s3cret", "Authorization": "Bearer s3cret"}
    ask(wrapped, "/raw", method="POST", data={"password": "s3cret"}, headers=headers)
    ask(wrapped, "/raw", method="POST", data="s3cret", headers=headers)
    assert "s3cret" not in json.dumps(clear(profiler))
    assert len(clear(profiler)) == 2


def test_asynchronous_views_are_measured_to_their_end(
    profiler: Any, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Flask does it where the app has asgiref, which an app with such views brings.
    def ensure_sync(view: Callable[..., Any]) -> Callable[..., Any]:
        return (lambda **arguments: asyncio.run(view(**arguments))) if asyncio.iscoroutinefunction(view) else view

    monkeypatch.setattr(app, "ensure_sync", ensure_sync)

    @app.get("/later")
    async def later() -> ResponseReturnValue:
        await asyncio.sleep(0)
        return "later"

    assert ask(profiler.wrap(app), "/later").text == "later"
    assert [row["name"] for row in clear(profiler)] == ["/later"]


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (HOST, 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("203.0.113.200", 200),
        ("2001:db8::7", 200),
        ("2001:db8::8", 404),
        ("::ffff:198.51.100.9", 404),
        (STRANGER, 404),
        ("", 404),
        ("127.0.0.1, 198.51.100.9", 404),
        ("localhost", 404),
    ],
)
def test_only_some_learn_of_the_dashboard(profiler: Any, app: Flask, client: str, status: int) -> None:
    wrapped = profiler.wrap(app)
    headers = {"X-Forwarded-For": HOST, "Forwarded": f"for={HOST}", "X-Real-IP": HOST}
    for path in ("/flask-profiler/", "/flask-profiler/rows"):
        assert ask(wrapped, path, client, auth=("operator", PASSWORD), headers=headers).status_code == status
        # The application asks for a login there; who may not see the dashboard does not see that either.
        assert ask(wrapped, path, client).status_code == {200: 401, 404: 404}[status]
    # What only begins alike is the application's.
    assert ask(wrapped, "/flask-profilers", client).status_code == 403


@pytest.mark.parametrize(
    ("auth", "status"),
    [
        (("operator", PASSWORD), 200),
        (("operator", PASSWORD + "r"), 401),
        (("operator", "käse"), 401),
        (("operator", ""), 401),
        (("root", PASSWORD), 401),
        (("", ""), 401),
        (None, 401),
    ],
)
def test_the_dashboard_asks_for_name_and_password(
    profiler: Any, app: Flask, auth: tuple[str, str] | None, status: int
) -> None:
    answer = ask(profiler.wrap(app), "/flask-profiler/", HOST, auth=auth)
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (status, status == 401)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert ask(profiler.wrap(app), "/flask-profiler/", HOST, headers={"Authorization": "Bearer x"}).status_code == 401


def test_many_threads_at_once_lose_nothing(profiler: Any, app: Flask) -> None:
    wrapped = profiler.wrap(app)
    statuses: list[int] = []

    def visit() -> None:
        statuses.extend(ask(wrapped, "/").status_code for _number in range(25))
        ask(wrapped, "/flask-profiler/rows", HOST, auth=("operator", PASSWORD))
        profiler.library.collection.write()

    threads = [threading.Thread(target=visit) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 200
    assert len(clear(profiler)) == 200


def test_measurements_are_bounded(profiler: Any, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "KEEP", 3)
    monkeypatch.setattr(profiler, "WAITING", 10)
    wrapped = profiler.wrap(app)
    for _turn in range(2):
        for number in range(20):
            ask(wrapped, f"/?n={number}")
        assert len(profiler.library.collection.waiting) == 10
        assert [json.loads(row["context"])["args"]["n"] for row in clear(profiler)] == ["17", "18", "19"]


def test_a_store_that_fails_is_nobodys_error(
    profiler: Any, app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full, say: requests are answered, the journal says what is lost, and writing goes on."""
    wrapped = profiler.wrap(app)
    store = profiler.library.collection
    whole = Path(store.sqlite_file).read_bytes()
    Path(store.sqlite_file).write_text("no database")
    # This thread writes, in the place of the store's own.
    store.writer = os.getpid()
    turns = iter(range(2))

    def sleep(_seconds: float) -> None:
        # It is mended before the second turn, and no third one comes.
        if next(turns):
            Path(store.sqlite_file).write_bytes(whole)
        assert ask(wrapped, "/").text == "hello"

    monkeypatch.setattr(profiler, "time", types.SimpleNamespace(sleep=sleep))
    with pytest.raises(StopIteration):
        store.write_on()
    assert [record.message for record in caplog.records] == ["app_profiler: measurements are lost"]
    assert [row[-1] for row in store.filter()] == ["/"]
