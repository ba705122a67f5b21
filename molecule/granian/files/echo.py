"""A WSGI application that tells what reached it, and that answers in every way there is."""

import hashlib
import json
import os
import time


def make_app(name):
    """Return the application."""
    print("made", name)

    def app(environ, start_response):
        """Answer with what the tests look at."""
        path = environ["PATH_INFO"]
        head = [("X-Served-By", os.environ["APP_RELEASE"])]
        if path == "/slow":
            time.sleep(2)
        elif path == "/stuck":
            time.sleep(3600)
        elif path == "/fails":
            raise ValueError("on purpose")
        elif path == "/large":
            start_response("200 OK", [*head, ("Content-Length", str(20 << 20))])
            return (b"x" * (1 << 20) for _turn in range(20))
        elif path == "/nothing":
            start_response("204 No Content", head)
            return []
        elif path == "/written":
            write = start_response("200 OK", head)
            write(b"one ")
            return [b"", b"two"]
        elif path == "/late":
            return late(head, start_response)
        elif path == "/status":
            start_response("2000 Much", head)
            return [b"x"]
        elif path in ("/streamed", "/breaks", "/breaks-short"):
            return streamed(path, head, start_response)
        elif path == "/unread":
            return answer({"read": False}, "403 Forbidden", head, start_response)
        body = environ["wsgi.input"].read()
        seen = {
            "client": environ["REMOTE_ADDR"],
            "scheme": environ["wsgi.url_scheme"],
            "threads": environ["wsgi.multithread"],
            "release": os.environ["APP_RELEASE"],
            "secret": os.environ["SECRET"],
            "greeting": os.environ["GREETING"],
            "made": name,
            "pid": os.getpid(),
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "cookie": len(environ.get("HTTP_COOKIE", "")),
            "query": len(environ["QUERY_STRING"]),
        }
        return answer(seen, "200 OK", head, start_response)

    return app


def answer(seen, status, head, start_response):
    """Answer with a length."""
    body = json.dumps(seen).encode()
    start_response(status, [*head, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def streamed(path, head, start_response):
    """Answer piece by piece, as one only knows how long the answer is when it is over."""
    length = [("Content-Length", "10")] if path == "/breaks-short" else []
    start_response("200 OK", [*head, *length, ("X-Accel-Buffering", "no")])
    for number in range(5):
        if path.startswith("/breaks") and number == 3:
            raise ValueError("halfway")
        yield f"{number}\n".encode()
        time.sleep(0.5)


def late(head, start_response):
    """Answer with headers that come with the first block, behind some that are empty."""
    yield from ()
    start_response("200 OK", [*head, ("X-Late", "yes")])
    yield b""
    yield b"headers with the "
    yield b"first block"
