"""The libraries of docs/caching.md, set up as it says there: what each of them does, as JSON.

usage: python clients.py, with the environment of a release and APP_NAME
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from celery import Celery
from flask import Flask, session
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_session import Session
from redis import Redis
from redis.exceptions import NoPermissionError

PREFIX = os.environ["APP_NAME"] + ":"
URL = os.environ["REDIS_URL"]
QUICK = {"socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": None}

redis = Redis.from_url(URL, **QUICK)

app = Flask(__name__)
app.config.from_prefixed_env()
cache = Cache(app)
app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis, SESSION_KEY_PREFIX=PREFIX + "session:")
Session(app)
limiter = Limiter(
    get_remote_address,
    app=app,
    storage_uri=URL,
    storage_options={"key_prefix": PREFIX + "limits", **QUICK},
    in_memory_fallback_enabled=True,
)

celery = Celery("clients", broker=URL, backend=URL)
celery.conf.broker_transport_options = {"global_keyprefix": PREFIX}
celery.conf.result_backend_transport_options = {"global_keyprefix": PREFIX}
celery.conf.worker_enable_remote_control = False


@app.get("/limited")
@limiter.limit("2 per minute")
def limited():
    """Answer twice a minute."""
    return "ok"


@app.get("/count")
def count():
    """Count the visits of a client."""
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@celery.task(name="add")
def add(one, other):
    """Work."""
    return one + other


def refused(key):
    """Tell whether a key is out of reach."""
    try:
        redis.get(key)
    except NoPermissionError:
        return True
    return False


def main():
    """Try them all."""
    found = {}
    redis.set(PREFIX + "greeting", "hello", ex=60)
    found["redis"] = [redis.get(PREFIX + "greeting").decode(), refused("news:today")]
    client = app.test_client()
    found["limiter"] = [client.get("/limited").status_code for _number in range(3)]
    found["session"] = [client.get("/count").text for _number in range(3)] + [app.test_client().get("/count").text]
    with app.app_context():
        cache.set("kept", 1)
        found["cache"] = [cache.get("kept"), cache.clear(), cache.get("kept")]
    options = ["--pool", "solo", "--without-gossip", "--without-mingle"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "clients:celery", "worker", *options],
        cwd=Path(__file__).resolve().parent,
    )
    try:
        found["celery"] = add.delay(2, 3).get(timeout=40)
        # Longer than the timeouts of the others: the worker still waits for work.
        time.sleep(1)
        found["celery_again"] = add.delay(4, 5).get(timeout=30)
    finally:
        worker.terminate()
        worker.wait(30)
    found["strays"] = [key.decode() for key in redis.scan_iter() if not key.startswith(PREFIX.encode())]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
