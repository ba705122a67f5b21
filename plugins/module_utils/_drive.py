# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that keeps an instance busy over its unix socket, and what the instance takes for it.

**Closed loop.** Each connection has one request under way, and sends the next one once the answer is whole, as the
kept connections of a web server do under load. So the rate is what the instance can do, and the latency what this
many clients at a time would see. (How long requests wait at a given rate is another question, which tests/load asks.)

One thread and one epoll: some 20 microseconds of processor time per request, of which an instance needs hundreds. It
runs beside the instance, so that neither a network nor a package is needed.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Bytes that are read at a time.
CHUNK = 1 << 16
#: Bytes that the head of an answer may have.
LONGEST_HEAD = 1 << 16
#: Seconds after which a connection that could not be made, or broke, is tried again.
PAUSE = 0.05
#: Different failures that are told, of all that occurred.
MOST_REASONS = 5
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")


class DriveError(Exception):
    """An answer that is no HTTP, or a run that cannot be made."""


def request_for(path: str, host: str) -> bytes:
    """Return a request as the web server sends it on behalf of a client.

    :raises DriveError: for what cannot stand in a request.
    """
    if not re.fullmatch(r"/[!-~]*", path):
        raise DriveError(f"'{path}' is not a request target: write one such as /products?page=2")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", host):
        raise DriveError(f"'{host}' is not a value of the Host header: write one such as shop.example.com")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "User-Agent: wsgi.fleet tune",
        "Accept: */*",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class Answer:
    """One answer to a GET, piece by piece: RFC 9112, section 6.3, tells where it ends."""

    def __init__(self) -> None:
        self.status = 0
        self.close = False
        self._buffer = bytearray()
        #: Bytes of the body, or of the current chunk, that have still to come; None until the connection ends.
        self._left: int | None = 0
        self._chunked = False
        self._whole = False

    def feed(self, data: bytes) -> bool:
        """Take what came, and tell whether the answer is whole; no bytes mean that the connection ended.

        :raises DriveError: for what is no answer, or only a part of one.
        """
        if not data:
            if self.status and self._left is None:
                return True
            raise DriveError("the connection ended before the answer was whole" if self.status else "no answer")
        self._buffer += data
        if not self.status and not self._head():
            return False
        if self._chunked:
            return self._chunks()
        if self._left is None:
            self._buffer.clear()
            return False
        self._left -= len(self._buffer)
        self._buffer.clear()
        if self._left < 0:
            raise DriveError("more came than the answer's length")
        return self._left == 0

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise DriveError("the head of the answer has no end")
            return False
        head = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 4]
        first = STATUS_LINE.match(head)
        if not first:
            raise DriveError("what came is no answer of HTTP/1")
        status = int(first[2])
        if status < 200:
            # Another head follows.
            return self._head()
        self.status = status
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _colon, value in (line.partition(b":") for line in head[first.end() :].split(b"\r\n"))
        }
        options = [word.strip() for word in fields.get(b"connection", b"").split(b",")]
        self.close = b"close" in options or (first[1] == b"0" and b"keep-alive" not in options)
        length = fields.get(b"content-length", b"")
        if self.status in (204, 304):
            self._left = 0
        elif fields.get(b"transfer-encoding") == b"chunked":
            self._chunked = True
        elif length.isdigit():
            self._left = int(length)
        else:
            self._left, self.close = None, True
        return True

    def _chunks(self) -> bool:
        """Drop the chunks that are whole, up to the last one; trailers are not expected."""
        while True:
            if self._left:
                taken = min(self._left, len(self._buffer))
                del self._buffer[:taken]
                self._left -= taken
                if self._left:
                    return False
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if self._whole:
                return True
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError as error:
                raise DriveError("the length of a chunk cannot be read") from error
            if size:
                # With the line break behind it.
                self._left = size + 2
            else:
                self._whole = True


@dataclass
class Sample:
    """What became of the requests of one run.

    :param seconds: how long it was.
    :param latencies: of each good answer, in seconds.
    :param failed: answers below 200 or from 400 on, and connections that broke or could not be made.
    :param reasons: how often each of some of these failures occurred.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def fail(self, reason: str) -> None:
        """Note a failure."""
        self.failed += 1
        if reason in self.reasons or len(self.reasons) < MOST_REASONS:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of all does not exceed; None without any value."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class _Client:
    """The connections of one run."""

    def __init__(self, path: Path, request: bytes, timeout: float) -> None:
        self._path, self._request, self._timeout = str(path), request, timeout
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Answer, float]] = {}
        #: When each of the connections that are not there is to be made again.
        self._due: list[float] = []
        self.sample = Sample()

    def connect(self) -> None:
        """Open a connection and send its first request, or try it again a little later."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A full queue of the instance would be an error without a time to wait.
            connection.settimeout(self._timeout)
            connection.connect(self._path)
            connection.setblocking(False)
            self._poll.register(connection.fileno(), select.EPOLLIN)
            self._send(connection)
        except OSError as error:
            connection.close()
            self._later(f"no connection: {error.strerror or type(error).__name__}")

    def _send(self, connection: socket.socket) -> None:
        self._open[connection.fileno()] = (connection, Answer(), time.monotonic())
        try:
            if connection.send(self._request) != len(self._request):
                self._drop(connection, "the instance does not take the request")
        except OSError as error:
            self._drop(connection, f"the request could not be sent: {error.strerror}")

    def _drop(self, connection: socket.socket, reason: str) -> None:
        self._open.pop(connection.fileno(), None)
        connection.close()
        self._later(reason)

    def _later(self, reason: str) -> None:
        self.sample.fail(reason)
        self._due.append(time.monotonic() + PAUSE)

    def _take(self, number: int) -> None:
        connection, answer, sent = self._open[number]
        try:
            if not answer.feed(connection.recv(CHUNK)):
                return
        except BlockingIOError:
            return
        except (OSError, DriveError) as error:
            self._drop(connection, str(error))
            return
        if 200 <= answer.status < 400:
            self.sample.latencies.append(time.monotonic() - sent)
        else:
            self.sample.fail(f"status {answer.status}")
        if answer.close:
            del self._open[number]
            connection.close()
            self.connect()
        else:
            self._send(connection)

    def run(self, seconds: float) -> Sample:
        """Go on for some time, and return what became of the requests that were answered in it."""
        self.sample = Sample()
        began = time.monotonic()
        end = began + seconds
        looked = began
        while (now := time.monotonic()) < end:
            for number, _event in self._poll.poll(min(PAUSE, end - now)):
                if number in self._open:
                    self._take(number)
            now = time.monotonic()
            ready = sum(when <= now for when in self._due)
            if ready:
                self._due = [when for when in self._due if when > now]
                for _connection in range(ready):
                    self.connect()
            if now - looked >= 1:
                looked = now
                for connection, _answer, sent in list(self._open.values()):
                    if now - sent > self._timeout:
                        self._drop(connection, f"no answer within {self._timeout:g} s")
        self.sample.seconds = time.monotonic() - began
        return self.sample

    def close(self) -> None:
        """Let go of everything."""
        for connection, _answer, _sent in self._open.values():
            connection.close()
        self._poll.close()


def drive(
    path: Path,
    request: bytes,
    *,
    connections: int,
    seconds: float,
    warmup: float,
    timeout: float,
    mark: Callable[[], None] = lambda: None,
) -> Sample:
    """Keep an instance busy.

    :param path: its socket.
    :param warmup: seconds before those that count.
    :param timeout: seconds after which a request counts as failed.
    :param mark: called when the time that counts begins, and when it ends.
    :returns: what became of the requests that were answered in the time that counts.
    """
    client = _Client(path, request, timeout)
    try:
        for _number in range(connections):
            client.connect()
        client.run(warmup)
        mark()
        sample = client.run(seconds)
        mark()
    finally:
        client.close()
    return sample


def processes_of(unit: str, proc: Path = Path("/proc")) -> list[int]:
    """List the processes of a unit, by their control groups: whichever version of these the host has."""
    found = []
    for directory in proc.iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                lines = (directory / "cgroup").read_text().splitlines()
                if any(unit in line.split("/") for line in lines):
                    found.append(int(directory.name))
    return sorted(found)


def ticks_of(processes: Iterable[int], proc: Path = Path("/proc")) -> int:
    """Return the processor time of processes and of their children that ended, in clock ticks: proc_pid_stat(5)."""
    total = 0
    for number in processes:
        with contextlib.suppress(OSError):
            # The name in brackets may hold anything; after it comes the third field.
            fields = (proc / str(number) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total


def memory_of(processes: Iterable[int], proc: Path = Path("/proc")) -> float | None:
    """Return the proportional set size of processes in MiB, in which a shared page counts once.

    :returns: None where the kernel tells none.
    """
    total, told = 0, False
    for number in processes:
        with contextlib.suppress(OSError):
            for line in (proc / str(number) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total, told = total + int(line.split()[1]), True
    return round(total / 1024, 1) if told else None
