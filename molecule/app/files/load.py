"""Send requests to a unix socket until standard input ends, then tell as JSON what became of them.

Every request has a connection of its own and is sent once: whatever is no 2xx is a failure. Some take
half a second, so that they are in flight whatever happens meanwhile; some are POSTs.

usage: load.py SOCKET
"""

import collections
import http.client
import json
import socket
import sys
import threading

UPLOAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="load.txt"\r\n\r\nhello\r\n--x--\r\n'
REQUESTS = (
    ("GET", "/health", None),
    ("POST", "/upload", UPLOAD),
    ("GET", "/slow?seconds=0.5", None),
    ("GET", "/slow?seconds=0.5", None),
)

requests = 0
failures: list[str] = []
releases: collections.Counter[str] = collections.Counter()
stop = threading.Event()


def send(method: str, path: str, body: bytes | None) -> None:
    """Send requests of one kind until told to stop."""
    global requests  # noqa: PLW0603 - the threads take turns
    while not stop.wait(0.1):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        release = ""
        try:
            connection.sock.connect(sys.argv[1])
            connection.request(method, path, body=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
            response = connection.getresponse()
            text = response.read()
            release = response.headers.get("X-Served-By", "").rpartition("/")[2]
            failure = "" if 200 <= response.status < 300 else f"{method} {path}: {response.status} {text[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            failure = f"{method} {path}: {error!r}"
        finally:
            connection.close()
        with lock:
            requests += 1
            releases[release] += 1
            if failure:
                failures.append(failure)


lock = threading.Lock()
threads = [threading.Thread(target=send, args=request) for request in REQUESTS]
for thread in threads:
    thread.start()
print("started", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"requests": requests, "failures": failures, "releases": releases}))
