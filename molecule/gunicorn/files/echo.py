"""A WSGI application that tells what reached it, and takes its time at /slow."""

import json
import os
import time


def app(environ, start_response):
    """Answer with what the tests look at."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(2)
    seen = {
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "threads": environ["wsgi.multithread"],
        "release": os.environ["APP_RELEASE"],
        "secret": os.environ["SECRET"],
        "greeting": os.environ["GREETING"],
        "pid": os.getpid(),
    }
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
