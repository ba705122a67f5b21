"""A web server that tells what reached it, on a socket or on an address.

usage: echo.py SOCKET|ADDRESS:PORT NAME

While the file /run/sick-NAME exists, its health check fails; while /run/drained-NAME does, it answers 404.
"""

import hashlib
import itertools
import json
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

COUNT = itertools.count(1)
#: What answers to some paths say of themselves.
SAYS = {
    "/brief": ("Cache-Control", "max-age=1"),
    "/private": ("Cache-Control", "private"),
    "/cookie": ("Set-Cookie", "seen=1"),
}


class Echo(BaseHTTPRequestHandler):
    """Answers every request with what it was, and with how many there have been, as JSON."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "client"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/slow"):
            time.sleep(2)
        status = 302 if self.path.startswith("/redirect") else 200
        if self.path == "/health" and Path(f"/run/sick-{sys.argv[2]}").exists():
            status = 503
        if self.path == "/health" and Path(f"/run/drained-{sys.argv[2]}").exists():
            status = 404
        answer = {
            "name": sys.argv[2],
            "number": next(COUNT),
            "method": self.command,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        data = json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://{self.headers['Host']}/elsewhere")
        if self.path in SAYS:
            self.send_header(*SAYS[self.path])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = handle_any


class UnixServer(socketserver.ThreadingUnixStreamServer):
    """Serves a socket that everybody may use."""

    request_queue_size = 128

    def server_bind(self) -> None:
        super().server_bind()
        Path(str(self.server_address)).chmod(0o777)


class PortServer(socketserver.ThreadingTCPServer):
    """Serves a port."""

    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    address, separator, port = sys.argv[1].partition(":")
    server: Any = PortServer((address, int(port)), Echo) if separator else UnixServer(address, Echo)
    server.serve_forever()
