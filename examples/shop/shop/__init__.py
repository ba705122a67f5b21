"""A small shop: the example application of the collection.

Its views make visible what a deployment has to get right: which host and release answered, whether
hosts share the cache, whether the client's address and the public URL survive the proxies, and
whether uploads outlive a release.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, abort, current_app, redirect, render_template, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue
from flask_caching import Cache
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response

HOSTNAME = socket.gethostname()
LONGEST_SLEEP = 10.0
LARGEST_STREAM = 64 * 1024 * 1024
# What file systems allow; secure_filename leaves ASCII only, so that characters are bytes.
LONGEST_NAME = 255
CHUNK = 1 << 16

# Settings that stay text even if their text happens to be valid JSON.
TEXT_SETTINGS = ("SECRET_KEY", "CACHE_KEY_PREFIX", "CACHE_REDIS_HOST", "CACHE_REDIS_PASSWORD")

cache = Cache()
shop = Blueprint("shop", __name__)


@dataclass(frozen=True)
class Product:
    """Something on the shelf."""

    name: str
    text: str
    cents: int

    @property
    def price(self) -> str:
        """The price as the page shows it."""
        return f"{self.cents // 100}.{self.cents % 100:02d}"


PRODUCTS = (
    Product("Enamel mug", "Holds 350 ml and survives a fall.", 1450),
    Product("Notebook", "Dotted paper, 160 pages, lies flat.", 990),
    Product("Desk lamp", "Warm light, one switch, no app.", 4900),
    Product("Wool socks", "For server rooms in August.", 1275),
)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings that win over the environment, for tests.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        CACHE_TYPE="SimpleCache",
        MAX_CONTENT_LENGTH=64 * 1024 * 1024,
        # An empty variable says as little as none.
        APP_NAME=os.environ.get("APP_NAME") or "shop",
        APP_VERSION=os.environ.get("APP_VERSION") or "local",
        APP_RELEASE=os.environ.get("APP_RELEASE") or "local",
        APP_SHARED=os.environ.get("APP_SHARED") or str(Path(app.instance_path, "shared")),
    )
    app.config.from_prefixed_env()
    keep_text(app)
    app.config.from_mapping(config or {})

    cache.init_app(app)
    app.register_blueprint(shop)

    @app.after_request
    def sign(response: Response) -> Response:
        response.headers["X-Served-By"] = f"{HOSTNAME}/{app.config['APP_RELEASE']}"
        return response

    return app


def keep_text(app: Flask) -> None:
    """Give text settings their text back.

    ``from_prefixed_env`` reads values as JSON, which turns a password such as ``0e12`` into a number.
    """
    for name in TEXT_SETTINGS:
        text = os.environ.get(f"FLASK_{name}")
        if text is not None and not isinstance(app.config[name], str):
            app.config[name] = text


def instance() -> dict[str, str]:
    """Tell who answers."""
    return {
        "hostname": HOSTNAME,
        "release": current_app.config["APP_RELEASE"],
        "version": current_app.config["APP_VERSION"],
    }


def uploads() -> Path:
    """Tell where uploads lie: an absolute path, since Flask seeks relative ones below the package."""
    return Path(current_app.config["APP_SHARED"], "uploads").absolute()


@shop.get("/")
def index() -> ResponseReturnValue:
    """Show the shop, and who showed it."""
    return render_template("index.html", products=PRODUCTS, instance=instance())


@shop.get("/cached")
@cache.cached(timeout=10)
def cached() -> ResponseReturnValue:
    """Answer from the cache that all hosts share, for ten seconds."""
    time.sleep(0.2)  # Stands in for a slow query.
    # A dict and not a response, so that the cache holds data and the headers come from who answers.
    return {"computed_at": datetime.now(timezone.utc).isoformat(), "computed_by": HOSTNAME, **instance()}


@shop.get("/slow")
def slow() -> ResponseReturnValue:
    """Answer after a while, as a request that a deployment must not cut off."""
    try:
        seconds = float(request.args.get("seconds", "0.5"))
    except ValueError:
        seconds = -1.0
    # Written so that NaN, which no comparison holds for, is refused too.
    if not 0 <= seconds <= LONGEST_SLEEP:
        return {"error": f"seconds: must be a number from 0 to {LONGEST_SLEEP:g}"}, 400
    time.sleep(seconds)
    return {"slept": seconds, **instance()}


@shop.get("/stream")
def stream() -> ResponseReturnValue:
    """Send a body of a given length, whose bytes a client knows beforehand: a download that must arrive whole.

    Its block ``n`` of 64 KiB repeats the SHA-256 of the decimal number ``n``.
    """
    try:
        size = int(request.args.get("bytes", "1048576"))
    except ValueError:
        size = -1
    if not 0 <= size <= LARGEST_STREAM:
        return {"error": f"bytes: must be a whole number from 0 to {LARGEST_STREAM}"}, 400

    def blocks() -> Iterator[bytes]:
        for start in range(0, size, CHUNK):
            block = hashlib.sha256(str(start // CHUNK).encode()).digest() * (CHUNK // 32)
            yield block[: size - start]

    return Response(blocks(), mimetype="application/octet-stream", headers={"Content-Length": str(size)})


@shop.post("/upload")
def upload() -> ResponseReturnValue:
    """Store a file in the directory that outlives releases."""
    sent = request.files.get("file")
    if sent is None:
        return {"error": "file: send one as multipart/form-data"}, 400
    name = secure_filename(sent.filename or "")
    if not name or len(name) > LONGEST_NAME:
        return {"error": "file: its name cannot be used"}, 400

    directory = uploads()
    directory.mkdir(parents=True, exist_ok=True)
    # Whoever asks for the name meanwhile gets all of the old file or all of the new one. The name of
    # the partial file starts with a dot, which no name of an upload does.
    partial = directory / f".{uuid.uuid4().hex}"
    digest = hashlib.sha256()
    size = 0
    try:
        with partial.open("xb") as file:
            while chunk := sent.stream.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        partial.replace(directory / name)
    finally:
        partial.unlink(missing_ok=True)

    location = url_for("shop.uploaded", name=name)
    return {"name": name, "size": size, "sha256": digest.hexdigest(), **instance()}, 201, {"Location": location}


@shop.get("/uploads/<name>")
def uploaded(name: str) -> ResponseReturnValue:
    """Send a stored file back."""
    if name != secure_filename(name):
        abort(404)
    # As a download: a page that a visitor uploaded must not run as a page of this site.
    response = send_from_directory(uploads(), name, as_attachment=True)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@shop.get("/health")
def health() -> ResponseReturnValue:
    """Tell whether this instance can do its work, and whether it does so with its cache.

    Without its cache the shop is slower, and still open: a check that failed then would take every
    host out of service at once. A deployment, which can wait, asks for ``"cache":"ok"`` in the body.
    """
    # The value is constant: workers of this host that check at the same time do not disturb each other.
    key = f"health/{HOSTNAME}"
    try:
        cache.set(key, "ok", timeout=10)
        if cache.get(key) != "ok":
            raise LookupError(key)
    except Exception as error:  # noqa: BLE001 - each kind of cache has errors of its own
        # Only the class: the text could name addresses and accounts, and everybody may ask.
        return {"status": "degraded", "cache": type(error).__name__, **instance()}
    return {"status": "ok", "cache": "ok", **instance()}


@shop.get("/whoami")
def whoami() -> ResponseReturnValue:
    """Tell what reaches the application of a request that went through proxies."""
    # No ProxyFix: the app server already made these from what the proxies in front said.
    return {
        "client": request.remote_addr,
        "scheme": request.scheme,
        "host": request.host,
        "url": request.url,
        "forwarded_for": request.headers.get("X-Forwarded-For"),
        "pid": os.getpid(),
        **instance(),
    }


@shop.get("/redirect")
def to_index() -> ResponseReturnValue:
    """Redirect to the absolute URL of the page, which must be the public one."""
    return redirect(url_for("shop.index", _external=True))


app = create_app()
