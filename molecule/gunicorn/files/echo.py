"""A WSGI application that tells what reached it, and that answers, waits and fails in every way there is."""

import hashlib
import json
import os
import threading
import time

IMPORTED_BY = os.getpid()


def app(environ, start_response):
    """Answer with what the tests look at."""
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(2)
    elif path == "/short":
        time.sleep(0.5)
    elif path == "/stuck":
        threading.Event().wait()
    elif path == "/fails":
        raise ValueError("on purpose")
    elif path == "/streamed":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return streamed()
    body = environ["wsgi.input"].read()
    seen = {
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "host": environ["HTTP_HOST"],
        "threads": environ["wsgi.multithread"],
        "release": os.environ["APP_RELEASE"],
        "secret": os.environ["SECRET"],
        "greeting": os.environ["GREETING"],
        "pid": os.getpid(),
        "imported_by": IMPORTED_BY,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def streamed():
    """Answer piece by piece, for longer than the application may take to begin."""
    for number in range(5):
        yield f"{number}\n".encode()
        time.sleep(1)
