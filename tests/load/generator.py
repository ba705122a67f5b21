"""Sends HTTP/1.1 requests at a constant rate and writes down what became of each: a process of its own.

The parent starts this file (see client.py) and talks to it over its pipes, in lines of JSON:

1. in: the plan, a ``Spec``;
2. out: ``{"began": seconds of time.monotonic(), "began_at": ISO 8601, UTC}`` when the first request starts;
3. in: ``stop``, unless the plan has an end of its own;
4. out: ``{"requests": [row, ...], "failures": {number: [category, detail]}, "reopened": {why: count}}``.

When its input ends before ``stop``, the parent is gone, and so is this process, at once.

**Open loop.** Request ``n`` is meant to start at ``began + n / rate``, whatever became of those before, and its
latency counts from then. A client that waits for answers before it sends more asks less of a server that stalls,
and sees one slow request where many users would have seen theirs: Gil Tene's *coordinated omission*. Latency from
the intended start at a constant rate is the remedy of his wrk2 (https://github.com/giltene/wrk2).

**Nothing is sent twice.** A connection that breaks after a request was written is a failed request. A kept
connection whose end was seen *before* anything was written is none: RFC 9112, section 9.3, lets either side end an
idle connection, and the client opens another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import resource
import socket
import ssl
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

#: Bytes read or hashed at a time; the blocks of the example's /stream have this size too.
CHUNK = 1 << 16
#: Bytes of an answer that are looked at: /whoami and /upload send less than a thousand.
LONGEST_TEXT = 1 << 14
#: Bytes that may wait to be read: with more, the socket is left alone, so that the sender has to wait.
HIGH_WATER = 1 << 18
#: Bytes that the kernel may hold of a body that is read slowly.
SMALL_WINDOW = 1 << 16
LONGEST_HEAD = 1 << 16
STATUS_LINE = re.compile(r"HTTP/1\.(?P<minor>[01]) (?P<status>[1-5][0-9]{2})( |$)")


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    :param name: what it is called in results.
    :param weight: its share, relative to the other kinds.
    :param kept: whether it goes over a connection that served others before; otherwise it opens one of its own.
    :param upload: bytes to send as a file; the answer's ``sha256`` must be theirs. 0 sends a GET.
    :param stream: bytes that the answer's body must have, and be those of the example's ``/stream``; 0: anything.
    :param takes: seconds that the request lasts by design. A body of ``stream`` is read over as long.
    :param echo: adds ``?n=<number>``, which the answer must repeat: it is the answer to this very request.
    """

    name: str
    weight: int
    path: str = "/whoami"
    kept: bool = False
    upload: int = 0
    stream: int = 0
    takes: float = 0.0
    echo: bool = False


#: What the example application is asked, a hundred requests a round. At 100 requests/s one download is always in
#: flight, and three to four slow requests are.
MIX = (
    Kind("get", 34, echo=True),
    Kind("get, kept", 34, kept=True, echo=True),
    Kind("post", 12, "/upload", upload=8192),
    Kind("post, kept", 12, "/upload", upload=8192, kept=True),
    Kind("slow", 3, "/slow?seconds=0.5", takes=0.5),
    Kind("slow, kept", 4, "/slow?seconds=0.5", takes=0.5, kept=True),
    Kind("download", 1, "/stream?bytes=4194304", stream=4194304, takes=1.0),
)


@dataclass(frozen=True)
class Spec:
    """The plan of a run.

    :param targets: addresses and ports; each kind of request goes to each in turn.
    :param host: the Host header, and the name that a certificate must be for.
    :param rate: requests per second.
    :param kinds: the mix.
    :param seconds: when to stop by itself; None runs until told to stop.
    :param tls: whether to speak TLS, with HTTP/1.1 as the only protocol offered.
    :param ca: file of the authority to trust instead of the system's.
    :param timeout: seconds that a request may take from when it was sent.
    :param in_flight: the most requests at once; one that would be more is not sent, and is a failure.
    :param kept: how many connections per target the kept kinds take turns on; more when all are in use.
    :param expect: statuses that are no failure.
    """

    targets: Sequence[tuple[str, int]]
    host: str
    rate: float
    kinds: Sequence[Kind] = MIX
    seconds: float | None = None
    tls: bool = False
    ca: str | None = None
    timeout: float = 20.0
    in_flight: int = 1000
    kept: int = 8
    expect: Sequence[int] = (200, 201)

    def __post_init__(self) -> None:
        """Refuse what no run can be made of, with ValueError."""
        if not self.targets or not self.kinds or not math.isfinite(self.rate) or self.rate <= 0:
            raise ValueError("a run needs a target, a kind of request, and a rate above 0")
        if min(kind.weight for kind in self.kinds) < 1:
            raise ValueError("each kind of request needs a weight of 1 or more")

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read what ``to_json`` returned."""
        values = json.loads(text)
        values["kinds"] = tuple(Kind(**kind) for kind in values["kinds"])
        values["targets"] = tuple((address, port) for address, port in values["targets"])
        return cls(**{**values, "expect": tuple(values["expect"])})


class Fault(Exception):
    """A failed request, by category.

    ========= ==========================================================================
    connect   no connection: refused, no route, TLS handshake failed
    closed    the connection ended after the request was written and before any answer
    truncated the connection ended within the answer
    protocol  what came is no HTTP/1.1
    status    a status that was not expected
    answer    the answer to something else: wrong digest, wrong length, wrong number
    timeout   not done in time
    saturated never sent: too many requests were in flight, so the client has nothing to tell about it
    client    the client itself is at fault
    ========= ==========================================================================
    """

    def __init__(self, category: str, detail: str) -> None:
        super().__init__(category, detail)
        self.category, self.detail = category, detail


def schedule(weights: Sequence[int]) -> list[int]:
    """Return a round in which each index occurs as often as its weight says, as evenly spread as can be.

    nginx's smooth weighted round robin (its commit 52327e0, 2012).

    >>> schedule([5, 1, 1])
    [0, 0, 1, 0, 2, 0, 0]
    """
    total = sum(weights)
    current = [0] * len(weights)
    order = []
    for _turn in range(total):
        current = [value + weight for value, weight in zip(current, weights, strict=True)]
        best = max(range(len(weights)), key=current.__getitem__)
        current[best] -= total
        order.append(best)
    return order


def stream_digest(size: int) -> str:
    """Return the SHA-256 of the body of the example's ``/stream?bytes=<size>``: its block n repeats sha256(n)."""
    digest = hashlib.sha256()
    for start in range(0, size, CHUNK):
        block = hashlib.sha256(str(start // CHUNK).encode()).digest() * (CHUNK // 32)
        digest.update(block[: size - start])
    return digest.hexdigest()


class Wire(asyncio.Protocol):
    """One connection. What has arrived waits in ``received``; ``over`` says why no more will, or is empty."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.over = ""
        self.fresh = True
        self.secure = False
        self.socket: socket.socket | None = None
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what came, and no more than is being read."""
        self.received += data
        if len(self.received) > HIGH_WATER and self.transport:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Note that the other side ended it; the transport then closes."""
        self.over = self.over or "closed"
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it broke."""
        self.over = self.over or ("reset" if isinstance(exc, ConnectionResetError) else "closed")
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> None:
        """Wait until more has arrived; raise EOFError when nothing will."""
        if self.over:
            raise EOFError(self.over)
        assert self.transport
        self.transport.resume_reading()
        before = len(self.received)
        while len(self.received) == before and not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def until(self, mark: bytes) -> bytes:
        """Take what comes up to a mark, and the mark; raise EOFError, or ValueError when it is too much."""
        while (found := self.received.find(mark)) < 0:
            if len(self.received) > LONGEST_HEAD:
                raise ValueError(f"no end of a line within {LONGEST_HEAD} bytes")
            await self.more()
        return self.take(found + len(mark))

    def take(self, most: int) -> bytes:
        """Take what has arrived, up to a number of bytes."""
        taken = bytes(self.received[:most])
        del self.received[:most]
        return taken

    async def idle(self) -> str:
        """Tell why an idle connection cannot be used, or return an empty string.

        The kernel is asked, since what it knows may not have come to the event loop yet. There is nothing
        between the answer and the request's bytes but a few lines of code: what ends the connection in these
        microseconds fails the request, as it would for anybody.
        """
        if not self.over and not self.received and self.socket:
            try:
                seen = self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return ""
            except OSError:
                return self.over or "reset"
            if not seen:
                return "closed"
            # Under TLS this is a session ticket or the notice of the end: let the event loop read it.
            for _turn in range(3 if self.secure else 0):
                await asyncio.sleep(0)
            if self.secure and not self.over and not self.received:
                return ""
        # Bytes that nobody asked for, such as a 408, end a connection: RFC 9110, section 15.5.9.
        return self.over or "unsolicited"

    def close(self) -> None:
        """End the connection, and drop what was not read."""
        if self.transport:
            self.transport.abort()


async def connect(spec: Spec, target: tuple[str, int], context: ssl.SSLContext | None, *, slow: bool) -> Wire:
    """Open a connection; raise Fault."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        if slow:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        await loop.sock_connect(raw, target)
        _transport, wire = await loop.create_connection(
            Wire, sock=raw, ssl=context, server_hostname=spec.host.partition(":")[0] if context else None
        )
    except OSError as error:
        raw.close()
        raise Fault("connect", str(error) or type(error).__name__) from error
    except BaseException:
        raw.close()
        raise
    wire.socket, wire.secure = raw, context is not None
    return wire


@dataclass
class Body:
    """What arrived of a body: its length, its beginning, and its digest if that was asked for."""

    size: int
    text: bytes
    digest: str


@dataclass
class Exchange:
    """One request and its answer, and how far it has come.

    :param takes: seconds over which to read the body, if ``hashed``.
    """

    wire: Wire
    hashed: bool
    takes: float
    stage: str = "before any answer"
    status: int = 0
    served: str = ""
    last: bool = False

    async def run(self, request: bytes) -> Body:
        """Send the request and read its answer; raise Fault."""
        assert self.wire.transport
        self.wire.fresh = False
        self.wire.transport.write(request)
        try:
            headers = await self._head()
            self.stage = f"in the body of a {self.status}"
            return await self._body(headers)
        except EOFError as error:
            category = "closed" if self.stage == "before any answer" else "truncated"
            raise Fault(category, f"connection {error} {self.stage}") from error
        except (ValueError, LookupError) as error:
            raise Fault("protocol", f"{error} ({self.stage})") from error

    async def _head(self) -> dict[str, str]:
        while True:
            try:
                start, *lines = (await self.wire.until(b"\r\n\r\n")).decode("latin-1").splitlines()
            except EOFError:
                if self.wire.received:
                    self.stage = "in the headers"
                raise
            if not (found := STATUS_LINE.match(start)):
                raise ValueError(f"not an answer: {start[:80]!r}")
            # What comes before it, such as 100 Continue, is not the answer.
            if (status := int(found["status"])) >= 200:
                break
        self.status = status
        headers = {name.strip().lower(): value.strip() for name, _colon, value in (ln.partition(":") for ln in lines)}
        self.served = headers.get("x-served-by", "")
        self.last = found["minor"] == "0" or "close" in headers.get("connection", "").lower()
        return headers

    async def _body(self, headers: Mapping[str, str]) -> Body:
        body = Body(0, b"", "")
        digest = hashlib.sha256() if self.hashed else None
        if self.status in (204, 304):
            return body
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while size := int((await self.wire.until(b"\r\n")).partition(b";")[0], 16):
                await self._read(body, size, digest, 0)
                await self.wire.until(b"\r\n")
            while await self.wire.until(b"\r\n") != b"\r\n":
                pass
        elif "content-length" in headers:
            await self._read(body, int(headers["content-length"]), digest, self.takes)
        else:
            self.last = True
            try:
                await self._read(body, sys.maxsize, digest, 0)
            except EOFError:
                if self.wire.over != "closed":
                    raise
        body.digest = digest.hexdigest() if digest else ""
        return body

    async def _read(self, body: Body, size: int, digest: Any, takes: float) -> None:
        """Read that many bytes more, over as long as they are to take."""
        loop = asyncio.get_running_loop()
        began, left = loop.time(), size
        while left:
            if not self.wire.received:
                await self.wire.more()
            part = self.wire.take(min(left, CHUNK))
            left -= len(part)
            body.size += len(part)
            if len(body.text) < LONGEST_TEXT:
                body.text += part[: LONGEST_TEXT - len(body.text)]
            if digest:
                digest.update(part)
                pause = began + takes * (size - left) / size - loop.time()
                if takes and pause > 0:
                    await asyncio.sleep(pause)


class Generator:
    """A run: ``began``, and when it has ended ``rows``, ``failures`` and ``reopened``.

    A row is ``[number, seconds sent, seconds ended, kind, target, status, served by, on a used connection]``;
    the seconds count from ``began``, kind and target are indexes, and status 0 means that none came.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.began = 0.0
        self.rows: list[tuple[int, float, float, int, int, int, str, bool]] = []
        self.failures: dict[int, tuple[str, str]] = {}
        self.reopened: Counter[str] = Counter()
        self._idle: list[deque[Wire]] = [deque() for _target in spec.targets]
        #: Kept connections, idle or in use, per target.
        self._open = [0 for _target in spec.targets]
        self._digests = [stream_digest(kind.stream) if kind.stream else "" for kind in spec.kinds]
        self._context: ssl.SSLContext | None = None
        if spec.tls:
            self._context = ssl.create_default_context(cafile=spec.ca)
            self._context.set_alpn_protocols(["http/1.1"])

    async def run(self, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Send requests until told to stop, or until the plan ends, and wait for their answers."""
        loop = asyncio.get_running_loop()
        order = schedule([kind.weight for kind in self.spec.kinds])
        turns: Counter[int] = Counter()
        tasks: set[asyncio.Task[None]] = set()
        stopping = asyncio.ensure_future(stop.wait())
        self.began = loop.time()
        started()
        number = 0
        most = sys.maxsize if self.spec.seconds is None else round(self.spec.seconds * self.spec.rate)
        while number < most:
            pause = self.began + number / self.spec.rate - loop.time()
            # Also when it is late already: what is in flight needs its turn.
            await asyncio.wait([stopping], timeout=max(pause, 0))
            if stop.is_set():
                break
            kind = order[number % len(order)]
            target = turns[kind] % len(self.spec.targets)
            turns[kind] += 1
            if len(tasks) < self.spec.in_flight:
                task = asyncio.create_task(self._one(number, kind, target))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                now = loop.time() - self.began
                self.rows.append((number, now, now, kind, target, 0, "", False))
                self.failures[number] = ("saturated", f"{len(tasks)} requests were in flight")
            number += 1
        stopping.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for wires in self._idle:
            for wire in wires:
                wire.close()

    async def _one(self, number: int, kind_index: int, target: int) -> None:
        """Send one request and note what became of it."""
        loop = asyncio.get_running_loop()
        kind = self.spec.kinds[kind_index]
        sent = loop.time()
        exchange: Exchange | None = None
        wire: Wire | None = None
        reused = False
        try:
            async with asyncio.timeout_at(sent + self.spec.timeout):
                wire = await self._wire(target, kind)
                reused = not wire.fresh
                exchange = Exchange(wire, bool(kind.stream), kind.takes if kind.stream else 0)
                request, expected = self._request(number, kind)
                body = await exchange.run(request)
                self._judge(kind, exchange.status, body, expected or self._digests[kind_index].encode())
        except Fault as fault:
            self.failures[number] = (fault.category, fault.detail)
        except TimeoutError:
            stage = exchange.stage if exchange else "while connecting"
            self.failures[number] = ("timeout", f"{self.spec.timeout:g} s {stage}")
        except Exception as error:  # noqa: BLE001 - a run must not end by one request
            self.failures[number] = ("client", repr(error))
        ended = loop.time()
        if wire:
            self._return(wire, target, kind, exchange, broken=number in self.failures)
        status, served = (exchange.status, exchange.served) if exchange else (0, "")
        self.rows.append((number, sent - self.began, ended - self.began, kind_index, target, status, served, reused))

    async def _wire(self, target: int, kind: Kind) -> Wire:
        """Take the connection that has been idle for longest once there are enough of them, or open one."""
        while kind.kept and self._idle[target] and self._open[target] >= self.spec.kept:
            wire = self._idle[target].popleft()
            if not (why := await wire.idle()):
                return wire
            self.reopened[why] += 1
            self._open[target] -= 1
            wire.close()
        wire = await connect(self.spec, self.spec.targets[target], self._context, slow=bool(kind.stream))
        self._open[target] += kind.kept
        return wire

    def _return(self, wire: Wire, target: int, kind: Kind, exchange: Exchange | None, *, broken: bool) -> None:
        """Keep the connection for a later request, if it can serve one."""
        if kind.kept and exchange and exchange.last:
            self.reopened["announced"] += 1
        if broken or not exchange or exchange.last or not kind.kept or len(self._idle[target]) >= self.spec.kept:
            self._open[target] -= kind.kept
            wire.close()
        else:
            self._idle[target].append(wire)

    def _request(self, number: int, kind: Kind) -> tuple[bytes, bytes]:
        """Return the request's bytes, and those that its answer must contain."""
        path, body, expected = kind.path, b"", b""
        connection = "keep-alive" if kind.kept else "close"
        if kind.echo:
            expected = f"n={number:08d}".encode()
            path += f"{'&' if '?' in path else '?'}{expected.decode()}"
        lines = [f"{'POST' if kind.upload else 'GET'} {path} HTTP/1.1", f"Host: {self.spec.host}"]
        lines += [f"Connection: {connection}", "Accept: */*", "User-Agent: wsgi-fleet-load"]
        if kind.upload:
            seed = hashlib.sha256(str(number).encode()).digest()
            content = (seed * (kind.upload // len(seed) + 1))[: kind.upload]
            expected = hashlib.sha256(content).hexdigest().encode()
            # A few names, so that a long run does not fill a disk.
            disposition = f'form-data; name="file"; filename="load-{number % 64}.bin"'
            body = f"--cut\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n--cut--\r\n"
            lines += ["Content-Type: multipart/form-data; boundary=cut", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body, expected

    def _judge(self, kind: Kind, status: int, body: Body, expected: bytes) -> None:
        """Raise Fault unless the answer is the one that was asked for."""
        if status not in self.spec.expect:
            raise Fault("status", f"{status}: {body.text[:200].decode('utf-8', 'replace')}")
        if not 200 <= status < 300:
            return
        if kind.stream and (body.size != kind.stream or body.digest.encode() != expected):
            raise Fault("answer", f"{body.size} bytes of {kind.stream}, sha256 {body.digest}")
        if not kind.stream and expected not in body.text:
            raise Fault("answer", f"{expected.decode()} is not in {body.text[:200].decode('utf-8', 'replace')}")


def main() -> None:
    """Talk to the parent, as told at the top of this file."""
    spec = Spec.from_json(sys.stdin.readline())
    # A connection is an open file.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    generator = Generator(spec)

    def say(message: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    async def run() -> None:
        stop = asyncio.Event()

        loop = asyncio.get_running_loop()

        def told() -> None:
            if not os.read(0, 1024):
                # Nobody is left to tell.
                os._exit(1)
            stop.set()
            # The parent may close its end now.
            loop.remove_reader(0)

        def started() -> None:
            # The event loop's clock is time.monotonic(), on Linux one clock for all processes of a machine, so that
            # the parent can compare times of its own.
            now = datetime.now(timezone.utc)
            say({"began": generator.began, "began_at": now.isoformat(timespec="milliseconds")})

        loop.add_reader(0, told)
        await generator.run(stop, started)

    asyncio.run(run())
    rows = [[row[0], round(row[1], 6), round(row[2], 6), *row[3:]] for row in sorted(generator.rows)]
    say({"requests": rows, "failures": generator.failures, "reopened": generator.reopened})


if __name__ == "__main__":
    main()
