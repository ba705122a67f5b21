"""Flask-Profiler around an application that knows nothing of it.

Part of a release while app_profiler is flask_profiler. The app server calls wrap() right after it has imported
the application; profiler.json beside this file holds the settings, the environment the password.

The dashboard is an application of its own: what the profiled one does with requests (sessions, host names, a login)
does not concern it, and it adds no route there.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path

import flask
import flask_profiler.flask_profiler as library
from flask_profiler.storage.sqlite import Sqlite

#: Measurements that are kept; the directory of the instance lies in memory.
KEEP = 50_000
#: Measurements that wait to be written; what is older goes.
WAITING = 10_000
#: Seconds between two writes.
PAUSE = 0.5
#: Where middleware keeps the application that it is around.
INNER = ("app", "application", "wsgi_app", "wsgi", "_app", "func", "__wrapped__", "__self__")
#: How many layers of middleware are looked through.
DEPTH = 12

#: The dashboard's own files only; its page has a frame of somebody else's site, which would tell that one of it.
POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"

log = logging.getLogger("profiler")


class ProfilerError(Exception):
    """The application cannot be profiled; the text is meant for the operator."""


def wrap(application):
    """Return the application, measured, with the dashboard beside it.

    :raises ProfilerError: when it is no Flask application, and none can be found behind it.
    """
    settings = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    apps = find_flask(application)
    if not apps:
        raise ProfilerError(
            f"app_profiler: flask_profiler measures applications made with Flask, and {application!r} is none, nor "
            "is one found behind it. Set app_profiler: none; profile.yml profiles any application."
        )
    library.CONF = {
        "enabled": True,
        "endpointRoot": settings["path"].strip("/"),
        "basicAuth": {
            "enabled": True,
            "username": settings["user"],
            "password": os.environ["APP_PROFILER_PASSWORD"],
        },
        "ignore": settings["ignore"],
    }
    library.collection = Store({"FILE": str(Path(os.environ["RUNTIME_DIRECTORY"], "profiler.sqlite"))})
    for app in apps:
        measure(app)
    return Guard(application, make_dashboard(), settings["path"], settings["allow"])


def find_flask(application):
    """Return the Flask applications among a WSGI callable and what it is wrapped around.

    Looked at are the attributes that middleware usually has for it, what a function closes over, and
    the ``mounts`` of Werkzeug's dispatcher.
    """
    found, seen, layer = [], set(), [application]
    for _depth in range(DEPTH):
        inner = []
        for item in layer:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, flask.Flask):
                found.append(item)
                continue
            inner += [part(item, name) for name in INNER]
            inner += [part(cell, "cell_contents") for cell in part(item, "__closure__") or ()]
            mounts = part(item, "mounts")
            inner += list(mounts.values()) if isinstance(mounts, dict) else []
        layer = [item for item in inner if callable(item)]
    return found


def part(item, name):
    """Return an attribute, or nothing, also of what has none outside of a request."""
    try:
        return getattr(item, name, None)
    except Exception:  # noqa: BLE001 -- proxies raise errors of their own; an empty cell a ValueError
        return None


def measure(app):
    """Measure each view of a Flask application.

    The library's own wrapper keeps form fields, bodies, headers and cookies of each request, reads
    bodies that a view wants to read itself, and fails with those that are no text.
    """
    for endpoint, view in app.view_functions.items():
        if endpoint != "static" and not endpoint.endswith(".static"):
            app.view_functions[endpoint] = measured(app.ensure_sync(view))


def measured(view):
    """Return a view that is measured, and answers as before."""

    @functools.wraps(view)
    def call(*args, **kwargs):
        request = flask.request
        context = {
            "url": request.base_url,
            # As in the web server's log.
            "args": request.args.to_dict(),
            "form": {},
            "body": "",
            "headers": {},
            "func": request.endpoint,
            "ip": request.remote_addr,
        }
        return library.measure(view, str(request.url_rule), request.method, context)(*args, **kwargs)

    return call


def alone(method):
    """Return a method of the library's storage with a connection for this call."""

    @functools.wraps(method)
    def call(self, *arguments):
        with self.lock:
            self.connection = sqlite3.connect(self.sqlite_file, timeout=30, check_same_thread=False)
            try:
                self.cursor = self.connection.cursor()
                return method(self, *arguments)
            finally:
                self.connection.close()

    return call


class Store(Sqlite):
    """The library's SQLite file, for many threads and processes at once.

    The library shares one connection between all threads and writes while the request waits, so that
    requests fail when two end at the same time. Here a thread of each process writes what the
    requests leave, and nothing that happens there concerns them.
    """

    def __init__(self, config):
        """Make the file, if no other process of the instance has made it yet."""
        self.lock = threading.Lock()
        self.waiting = deque(maxlen=WAITING)
        self.writer = None
        super().__init__(config)
        self.connection.close()

    def insert(self, measurement):
        """Leave a measurement for the thread that writes."""
        self.waiting.append(measurement)
        # Also after a fork, which takes no threads along.
        if self.writer != os.getpid():
            with self.lock:
                if self.writer != os.getpid():
                    self.writer = os.getpid()
                    threading.Thread(target=self.write_on, name="profiler", daemon=True).start()

    def write_on(self):
        """Write what waits, again and again."""
        while True:
            time.sleep(PAUSE)
            try:
                self.write()
            except Exception:
                log.exception("app_profiler: measurements are lost")

    def write(self):
        """Write what waits, and forget the oldest."""
        rows = [self.row(self.waiting.popleft()) for _number in range(len(self.waiting))]
        if not rows:
            return
        connection = sqlite3.connect(self.sqlite_file, timeout=30)
        try:
            with connection:
                connection.executemany(f"INSERT INTO {self.table_name} VALUES (null, ?, ?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608 -- a name of the library
                connection.execute(
                    f"DELETE FROM {self.table_name} WHERE ID <= (SELECT max(ID) FROM {self.table_name}) - ?",  # noqa: S608 -- as above
                    (KEEP,),
                )
        finally:
            connection.close()

    @staticmethod
    def row(measurement):
        """Return the columns of the library's table; what is no JSON is shown as text."""
        return (
            measurement["startedAt"],
            measurement["endedAt"],
            measurement["elapsed"],
            json.dumps(list(measurement["args"]), default=str),
            json.dumps(measurement["kwargs"], default=str),
            measurement["method"],
            json.dumps(measurement["context"], default=str),
            measurement["name"],
        )

    filter = alone(Sqlite.filter)
    get = alone(Sqlite.get)
    getSummary = alone(Sqlite.getSummary)  # noqa: N815 -- the library's name
    getTimeseries = alone(Sqlite.getTimeseries)  # noqa: N815 -- the library's name
    getMethodDistribution = alone(Sqlite.getMethodDistribution)  # noqa: N815 -- the library's name
    truncate = alone(Sqlite.truncate)
    delete = alone(Sqlite.delete)


def make_dashboard():
    """Return the library's dashboard as an application, all of it behind the password."""
    dashboard = flask.Flask("profiler", static_folder=None, root_path=str(Path(__file__).parent))
    wanted = library.CONF["basicAuth"]

    @dashboard.before_request
    def ask():
        given = flask.request.authorization
        if given is not None and given.type == "basic":
            # Both are compared, in a time that tells nothing.
            user = same(given.username, wanted["username"])
            if same(given.password, wanted["password"]) and user:
                return None
        return flask.Response("The password is asked for.\n", 401, {"WWW-Authenticate": 'Basic realm="profiler"'})

    @dashboard.after_request
    def sign(response):
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "no-store"
        return response

    library.registerInternalRouters(dashboard)
    return dashboard


def same(given, wanted):
    """Compare a text that a client gives with a secret one."""
    return hmac.compare_digest((given or "").encode(), wanted.encode())


class Guard:
    """Leads to the dashboard, for those who may see that there is one, and else to the application."""

    def __init__(self, application, dashboard, path, allow):
        """Stand between the two.

        :param path: where the dashboard is, with all that is below.
        :param allow: addresses and networks of those who may see it, besides the host itself.
        """
        self.application = application
        self.dashboard = dashboard
        self.path = path.rstrip("/")
        self.networks = [ipaddress.ip_network(entry, strict=False) for entry in allow]

    def __call__(self, environ, start_response):
        """Answer a request."""
        path = environ.get("PATH_INFO", "")
        if path != self.path and not path.startswith(self.path + "/"):
            return self.application(environ, start_response)
        if self.may_pass(environ.get("REMOTE_ADDR", "")):
            return self.dashboard(environ, start_response)
        body = b"Not Found\n"
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    def may_pass(self, client):
        """Tell whether a client is the host itself, or on the list; the app server says who it is."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or any(address in network for network in self.networks)
