"""The load client, against small servers with the faults that it must find."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.load import MIX, Kind, Load, LoadError, Request, Result, Row, Spec, dump_rows, load_rows, table
from tests.load.client import address, main
from tests.load.generator import CHUNK, schedule, stream_digest

ROOT = Path(__file__).resolve().parents[2]
HOST = "shop.example.com"
GET = Kind("get", 1, echo=True)
KEPT = Kind("get, kept", 1, echo=True, kept=True)
POST = Kind("post", 1, "/upload", upload=8192)
STREAM = Kind("download", 1, "/stream?bytes=100000", stream=100000)
#: The mix, with what lasts shorter.
SHORT_MIX = [
    replace(kind, path="/slow?seconds=0.1", takes=0.1) if kind.path.startswith("/slow") else kind for kind in MIX[:-1]
] + [replace(STREAM, takes=0.2)]


class Visit:
    """A request as the server sees it, and the means to answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: int) -> None:
        self.reader, self.writer, self.turn = reader, writer, turn
        self.path, self.body, self.headers = "", b"", dict[str, str]()

    async def read(self) -> bool:
        try:
            start, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        self.path = start.split()[1]
        self.headers = {name.lower(): value for name, _colon, value in (line.partition(": ") for line in lines)}
        self.body = await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        return True

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def answer(self, body: bytes | None = None, status: str = "200 OK", *headers: str) -> None:
        body = self.path.encode() if body is None else body
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "X-Served-By: app1/aaa", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def reset(self) -> None:
        """End the connection by RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


#: Answers a request, and tells whether the connection stays.
Behaviour = Callable[[Visit], Awaitable[bool]]


class Server:
    """Serves from a thread of its own while the block runs."""

    def __init__(self, behaviour: Behaviour, context: ssl.SSLContext | None = None) -> None:
        self.behaviour, self.context = behaviour, context
        self.paths: list[str] = []
        self.connections = 0
        self.address = ("127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        turn = 0
        while await (visit := Visit(reader, writer, turn)).read():
            self.paths.append(visit.path)
            if not await self.behaviour(visit):
                break
            turn += 1
        writer.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, *self.address, ssl=self.context))
        self.address = server.sockets[0].getsockname()[:2]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


def run(server: Server, *kinds: Kind, rate: float = 50, seconds: float = 0.3, kept: int = 1, **options: Any) -> Result:
    """Send requests to the server."""
    load = Load([server.address], HOST, rate, kinds=kinds, seconds=seconds, kept=kept, **options)
    load.start()
    return load.wait()


def categories(result: Result) -> Counter[str]:
    return Counter(request.category for request in result.requests)


async def good(visit: Visit) -> bool:
    """Answer as the example application does."""
    path, _mark, query = visit.path.partition("?")
    assert visit.headers["host"] == HOST
    if path == "/upload":
        content = visit.body.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n--cut--\r\n")
        visit.answer(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}).encode(), "201 CREATED")
    elif path == "/stream":
        visit.answer(stream(int(query.removeprefix("bytes="))))
    else:
        if path == "/slow":
            await asyncio.sleep(float(query.removeprefix("seconds=")))
        visit.answer()
    return visit.headers["connection"] == "keep-alive"


def stream(size: int) -> bytes:
    return b"".join(hashlib.sha256(str(n).encode()).digest() * 2048 for n in range(size // CHUNK + 1))[:size]


def test_a_good_server_loses_nothing() -> None:
    with Server(good) as server:
        result = run(server, *SHORT_MIX, rate=100, seconds=1, kept=4)
    assert result.failures == [], result.explain()
    assert len(result.requests) == 100
    assert [request.number for request in result.requests] == list(range(100))
    shares = Counter(request.kind for request in result.requests)
    assert shares == {
        "get": 34,
        "get, kept": 34,
        "post": 12,
        "post, kept": 12,
        "slow": 3,
        "slow, kept": 4,
        "download": 1,
    }
    assert (result.hosts, result.releases) == ({"app1": 100}, {"aaa": 100})
    # 50 requests with a connection of their own each, the others on a few.
    assert 50 < server.connections < 90
    assert {request.kind for request in result.requests if request.reused} == {"get, kept", "post, kept", "slow, kept"}
    # What takes long by design counts as no delay.
    (download,) = (request for request in result.requests if request.kind == "download")
    assert download.latency >= 0.19
    assert download.delay == pytest.approx(max(0, download.latency - 0.2))


def test_requests_go_to_the_targets_in_turn() -> None:
    with Server(good) as one, Server(good) as two:
        with Load([one.address, two.address], HOST, 50, kinds=[GET, KEPT]) as load:
            time.sleep(0.4)
        result = load.result
    assert result.failures == [], result.explain()
    numbers = Counter((request.target, request.kind) for request in result.requests)
    assert len(numbers) == 4
    assert max(numbers.values()) - min(numbers.values()) <= 1


def test_kept_connections_take_turns() -> None:
    with Server(good) as server:
        result = run(server, KEPT, rate=30, seconds=0.5, kept=3)
    assert result.failures == [], result.explain()
    assert 3 <= server.connections < 10
    assert [request.reused for request in result.requests[:3]] == [False] * 3
    assert sum(request.reused for request in result.requests) == 15 - server.connections


async def break_off(visit: Visit) -> bool:
    return False


async def reset(visit: Visit) -> bool:
    visit.reset()
    return False


async def half_a_head(visit: Visit) -> bool:
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    return False


async def half_a_body(visit: Visit) -> bool:
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + visit.path.encode())
    return False


async def half_the_chunks(visit: Visit) -> bool:
    body = visit.path.encode()
    visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body))
    return False


async def garbage(visit: Visit) -> bool:
    visit.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    return True


async def garbage_in_chunks(visit: Visit) -> bool:
    visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    return True


async def bad_gateway(visit: Visit) -> bool:
    visit.answer(b"<h1>502</h1>", "502 Bad Gateway")
    return True


async def someone_elses(visit: Visit) -> bool:
    visit.answer(b"/whoami?n=99999999")
    return True


async def other_bytes(visit: Visit) -> bool:
    visit.answer(bytes(100000))
    return True


async def fewer_bytes(visit: Visit) -> bool:
    visit.answer(stream(99999))
    return True


async def other_digest(visit: Visit) -> bool:
    visit.answer(json.dumps({"sha256": "0" * 64}).encode(), "201 CREATED")
    return True


async def silence(visit: Visit) -> bool:
    await asyncio.sleep(5)
    return False


async def silence_in_the_body(visit: Visit) -> bool:
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
    await asyncio.sleep(5)
    return False


@pytest.mark.parametrize(
    ("behaviour", "kind", "category", "detail"),
    [
        (break_off, GET, "closed", "connection closed before any answer"),
        (break_off, POST, "closed", "connection closed before any answer"),
        (break_off, KEPT, "closed", "connection closed before any answer"),
        (reset, GET, "closed", "connection reset before any answer"),
        (half_a_head, GET, "truncated", "connection closed in the headers"),
        (half_a_body, GET, "truncated", "connection closed in the body of a 200"),
        (half_the_chunks, GET, "truncated", "connection closed in the body of a 200"),
        (garbage, GET, "protocol", "SSH-2.0"),
        (garbage_in_chunks, GET, "protocol", "xyz"),
        (bad_gateway, KEPT, "status", "502: <h1>502</h1>"),
        (someone_elses, KEPT, "answer", "is not in /whoami?n=99999999"),
        (other_bytes, STREAM, "answer", "100000 bytes of 100000, sha256 "),
        (fewer_bytes, STREAM, "answer", "99999 bytes of 100000"),
        (other_digest, POST, "answer", "is not in"),
        (silence, GET, "timeout", "0.3 s before any answer"),
        (silence_in_the_body, GET, "timeout", "0.3 s in the body of a 200"),
    ],
)
def test_a_fault_is_a_failure_and_sent_once(behaviour: Behaviour, kind: Kind, category: str, detail: str) -> None:
    with Server(behaviour) as server:
        result = run(server, kind, rate=20, seconds=0.2, timeout=0.3)
    assert categories(result) == {category: 4}, result.explain()
    for request in result.failures:
        assert detail in request.detail
        assert not request.reused or behaviour in (bad_gateway, someone_elses)
    assert len(server.paths) == 4
    if kind.echo:
        assert sorted(server.paths) == [f"/whoami?n={number:08d}" for number in range(4)]


def test_a_refused_connection_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        load = Load([taken.getsockname()], HOST, 20, kinds=[GET], seconds=0.2)
        load.start()
        result = load.wait()
    assert categories(result) == {"connect": 4}
    assert result.hosts == {}
    assert "4 of 4 requests failed" in result.explain()
    assert f"4 x connect: get by 127.0.0.1:{load.spec.targets[0][1]}" in result.explain()


async def chunked(visit: Visit) -> bool:
    """Answer in chunks of one byte, after an answer that is none."""
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in visit.path.encode())
    visit.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.005)
    visit.send(chunks + b"0\r\nX-Trailer: 1\r\n\r\n")
    return True


async def until_the_end(visit: Visit) -> bool:
    visit.send(b"HTTP/1.0 200 OK\r\n\r\n" + visit.path.encode())
    return False


@pytest.mark.parametrize("behaviour", [chunked, until_the_end])
def test_other_forms_of_an_answer_are_understood(behaviour: Behaviour) -> None:
    with Server(behaviour) as server:
        result = run(server, KEPT)
    assert categories(result) == {"": 15}, result.explain()
    assert (server.connections < 15) is (behaviour is chunked)


async def announces(visit: Visit) -> bool:
    visit.answer(None, "200 OK", "Connection: close")
    return False


async def closes_when_idle(visit: Visit) -> bool:
    visit.answer()
    await visit.writer.drain()
    await asyncio.sleep(0.02)
    return False


async def resets_when_idle(visit: Visit) -> bool:
    visit.answer()
    await asyncio.sleep(0.02)
    visit.reset()
    return False


async def speaks_when_idle(visit: Visit) -> bool:
    visit.answer()
    await asyncio.sleep(0.02)
    visit.answer(b"", "408 Request Time-out")
    return True


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (announces, "announced"),
        (closes_when_idle, "closed"),
        (resets_when_idle, "reset"),
        (speaks_when_idle, "unsolicited"),
    ],
)
def test_the_end_of_an_idle_connection_is_no_failure(behaviour: Behaviour, why: str) -> None:
    with Server(behaviour) as server:
        result = run(server, KEPT, rate=5, seconds=1)
    assert categories(result) == {"": 5}, result.explain()
    assert result.reopened == {why: 5 if why == "announced" else 4}
    assert server.connections == 5


def test_a_kept_connection_that_breaks_under_a_request_is_a_failure_and_sent_once() -> None:
    async def second_breaks(visit: Visit) -> bool:
        if visit.turn:
            return False
        visit.answer()
        return True

    with Server(second_breaks) as server:
        result = run(server, KEPT, rate=20, seconds=0.5)
    lost = [request for request in result.requests if request.reused]
    assert lost
    assert result.failures == lost
    assert {request.category for request in lost} == {"closed"}
    assert len(server.paths) == len(set(server.paths)) == 10


def test_a_stall_is_seen_by_all_who_came_meanwhile() -> None:
    """Open loop: what a stall of a second hides from a client that waits, this one counts."""
    until: list[float] = []

    async def stalls(visit: Visit) -> bool:
        until.append(time.monotonic() + 1)
        await asyncio.sleep(until[0] - time.monotonic())
        visit.answer()
        return True

    with Server(stalls) as server:
        result = run(server, KEPT, GET, rate=60, seconds=1.3)
    assert categories(result) == {"": 78}, result.explain()
    delays = result.delays()
    assert max(delays) >= 0.9
    # 60 came during the second; a client that waits for its answer would have seen one.
    assert sum(delay > 0.5 for delay in delays) >= 25
    assert sum(delay > 0.1 for delay in delays) >= 50
    assert result.row("stall").p99 >= 0.9
    # They were sent meanwhile, and none of them later or in another place.
    assert result.lag < 0.9


def test_a_client_without_free_slots_says_so() -> None:
    async def slow(visit: Visit) -> bool:
        await asyncio.sleep(1)
        visit.answer()
        return True

    with Server(slow) as server:
        result = run(server, GET, in_flight=2)
    assert categories(result) == {"": 2, "saturated": 13}
    assert len(server.paths) == 2
    assert len(result.delays()) == 2
    assert result.row("slow").failed == 13


def test_other_statuses_can_be_expected() -> None:
    async def maintenance(visit: Visit) -> bool:
        visit.answer(b"back soon", "503 Service Unavailable")
        return True

    with Server(maintenance) as server:
        assert categories(run(server, KEPT, POST, STREAM)) == {"status": 15}
        result = run(server, KEPT, POST, STREAM, expect=(200, 201, 503))
    assert categories(result) == {"": 15}
    assert {request.status for request in result.requests} == {503}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for the host name and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain) + signed.public_bytes(encoding)
    )
    return file


@pytest.fixture
def secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls(secure: ssl.SSLContext, certificate: Path) -> None:
    with Server(good, secure) as server:
        result = run(server, *SHORT_MIX, rate=100, seconds=1, kept=4, tls=True, ca=certificate)
        assert result.failures == [], result.explain()
        assert server.connections < 90
        # Not the certificate of an authority that the system trusts.
        unknown = run(server, GET, KEPT, rate=20, seconds=0.2, tls=True)
    assert categories(unknown) == {"connect": 4}
    assert "certificate" in unknown.failures[0].detail.lower()


@pytest.mark.parametrize("behaviour", [announces, closes_when_idle])
def test_the_end_of_an_idle_tls_connection_is_no_failure(
    behaviour: Behaviour, secure: ssl.SSLContext, certificate: Path
) -> None:
    with Server(behaviour, secure) as server:
        result = run(server, KEPT, rate=5, seconds=1, tls=True, ca=certificate)
    assert categories(result) == {"": 5}, result.explain()
    assert sum(result.reopened.values()) >= 4


def test_a_tls_connection_that_breaks_is_a_failure(secure: ssl.SSLContext, certificate: Path) -> None:
    with Server(half_a_body, secure) as server:
        result = run(server, KEPT, rate=20, seconds=0.2, tls=True, ca=certificate)
    assert categories(result) == {"truncated": 4}, result.explain()


def test_the_result_is_there_when_the_block_fails() -> None:
    with Server(good) as server:
        load = Load([server.address], HOST, 50, kinds=[GET])

        def fails() -> None:
            with load:
                time.sleep(0.1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
    assert load.result.requests


def test_there_is_no_result_before_the_end_or_of_a_generator_that_died() -> None:
    with Server(good) as server:
        load = Load([server.address], HOST, 20, kinds=[GET])
        with pytest.raises(LoadError, match="not running"):
            load.stop()
        load.start()
        assert load.began <= time.monotonic()
        with pytest.raises(LoadError, match="not ended"):
            assert load.result
        with pytest.raises(LoadError, match="no end of its own"):
            load.wait()
        load.kill()
        with pytest.raises(LoadError, match="not running"):
            load.stop()
        load.start()
        assert load._process
        load._process.kill()
        with pytest.raises(LoadError, match="status -9"):
            load.stop()


@pytest.mark.parametrize(
    "wrong",
    [{"targets": ()}, {"kinds": ()}, {"rate": 0}, {"rate": float("nan")}, {"kinds": (Kind("none", 0),)}],
)
def test_a_plan_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs"):
        Spec(**{"targets": (("127.0.0.1", 80),), "host": HOST, "rate": 1.0, **wrong})


def test_the_generator_ends_with_its_parent() -> None:
    """Killed, a test run leaves nothing that goes on sending."""
    program = (
        "import sys, time; from tests.load import Load\n"
        "load = Load([(sys.argv[1], int(sys.argv[2]))], 'x', 50)\n"
        "load.start(); print(load._process.pid, flush=True); time.sleep(60)"
    )
    with Server(good) as server:
        command = [sys.executable, "-c", program, *map(str, server.address)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
            assert parent.stdout
            child = Path("/proc", parent.stdout.readline().decode().strip())
            assert child.is_dir()
            os.kill(parent.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        # Whose child it is now may be late to reap it.
        while child.is_dir() and ") Z " not in (child / "stat").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert time.monotonic() < deadline


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    with Server(good) as server:
        target = "{}:{}".format(*server.address)
        common = ["--target", target, "--host", HOST, "--rate", "40", "--kind", "get", "--kind", "post, kept"]
        assert main([*common, "--seconds", "0.5", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| all " in printed
    assert "| post, kept " in printed
    result = Result.from_json(file.read_text())
    assert len(result.requests) == 20
    assert json.loads(file.read_text())["summary"]["all"]["failed"] == 0
    # Nobody is there any more.
    assert main([*common, "--seconds", "0.2"]) == 1
    assert "connect: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 80)),
        ("192.0.2.1:8080", ("192.0.2.1", 8080)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 80)),
        ("2001:db8::1", ("2001:db8::1", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


def test_schedule_spreads_the_kinds() -> None:
    assert schedule([5, 1, 1]) == [0, 0, 1, 0, 2, 0, 0]
    weights = [kind.weight for kind in MIX]
    order = schedule(weights)
    assert [order.count(index) for index in range(len(weights))] == weights
    # No half of a round has more of a kind than its share and one.
    assert all(abs(order[:50].count(index) - weight / 2) <= 1 for index, weight in enumerate(weights))


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 7])
def test_the_stream_is_that_of_the_example(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "shop"))
    import shop  # noqa: PLC0415 - the example is found only from here on

    body = shop.create_app().test_client().get(f"/stream?bytes={size}").data
    assert hashlib.sha256(body).hexdigest() == stream_digest(size)


def answers(*served: tuple[float, float, str]) -> Result:
    """Return a run that began at 1000 s, from starts, ends, and ``host/release``."""
    requests = [
        Request(number, "get", "192.0.2.1:80", start, start, ended, host=host, release=release)
        for number, (start, ended, name) in enumerate(served)
        for host, release in [name.split("/")]
    ]
    return Result(Spec((("192.0.2.1", 80),), HOST, 10.0), 1000.0, "2030-01-02T03:04:05.678+00:00", requests, {})


def test_who_answered_after_a_moment() -> None:
    result = answers((0, 9, "app1/a"), (1, 2, "app2/a"), (2, 3, "app1/b"), (3, 4, "app1/b"), (4, 5, "/"))
    assert result.served_after(1001.0) == {"b": 2}
    assert result.served_after(1000.5) == {"a": 1, "b": 2}
    assert result.hosts_after(1000.5) == {"app2": 1, "app1": 2}
    assert result.served_after(1003.0) == {}
    assert (result.hosts, result.releases) == ({"app1": 3, "app2": 1}, {"a": 2, "b": 2})


def test_a_switch_is_no_mixture() -> None:
    assert answers((0, 1, "app1/a"), (1, 2, "app1/b"), (2, 3, "app1/b")).mixtures() == []
    # Old and new overlap, and another host is later.
    overlapping = ((0, 1, "app1/a"), (1, 8, "app1/a"), (2, 3, "app1/b"), (2.5, 4, "app1/a"), (4, 5, "app2/a"))
    assert answers(*overlapping).mixtures() == []
    # The slow answer of the old release may have been given last.
    assert answers((0, 5, "app1/a"), (1, 2, "app1/b"), (3, 4, "app1/a")).mixtures() == []


def test_a_host_that_goes_back_is_found() -> None:
    result = answers(
        (0, 1, "app1/a"), (1, 2, "app1/b"), (2, 3, "app1/a"), (3, 4, "app1/b"), (4, 5, "app1/a"), (5, 6, "app2/a")
    )
    (mixture,) = result.mixtures()
    assert (mixture.host, mixture.old, mixture.new, mixture.since, mixture.until) == ("app1", "a", "b", 2, 4)
    assert [request.number for request in result.went_back("app1")] == [2, 4]
    assert result.went_back("app2") == []
    # a, b, c and b again: only the last is wrong.
    result = answers((0, 1, "app1/a"), (1, 2, "app1/b"), (2, 3, "app1/c"), (3, 4, "app1/b"))
    assert [request.number for request in result.went_back("app1")] == [3]


def test_percentiles_and_lag() -> None:
    result = answers(*((number / 10, number / 10 + (number + 1) / 1000, "app1/a") for number in range(100)))
    row = result.row("run")
    assert (row.requests, row.failed) == (100, 0)
    assert (row.p50, row.p99, row.worst) == pytest.approx((0.050, 0.099, 0.100))
    late = replace(result, requests=[replace(request, sent=request.start + 0.5) for request in result.requests])
    assert late.lag == pytest.approx(0.5)
    nothing = replace(result, requests=[])
    assert nothing.row("nothing") == Row("nothing", 0, 0, 0.0, 0.0, 0.0, 0.0)


def test_a_result_survives_its_file() -> None:
    with Server(bad_gateway) as server:
        result = run(server, KEPT)
    assert Result.from_json(result.to_json()) == result


def test_table(tmp_path: Path) -> None:
    rows = [
        Row("quiet", 2000, 0, 0.00213, 0.01, 0.02, 0.0049),
        Row("deploy", 12000, 0, 0.0025, 0.0123, 0.05),
        Row("one host of three fails", 100, 3, 0.1, 1.5, 20.0),
    ]
    expected = """\
| scenario                | requests | failed | p50 ms | p99 ms | worst ms | client late ms | worst : quiet |
| ----------------------- | -------: | -----: | -----: | -----: | -------: | -------------: | ------------: |
| quiet                   |     2000 |      0 |    2.1 |   10.0 |     20.0 |            4.9 |           1.0 |
| deploy                  |    12000 |      0 |    2.5 |   12.3 |     50.0 |            0.0 |           2.5 |
| one host of three fails |      100 |      3 |  100.0 | 1500.0 |  20000.0 |            0.0 |        1000.0 |"""
    assert table(rows, "quiet") == expected
    # Without the last column.
    assert table(rows).splitlines() == [line[: line.rindex("|", 0, -1) + 1] for line in expected.splitlines()]
    assert table(rows, "deploy").splitlines()[2].endswith(" 0.4 |")
    with pytest.raises(ValueError, match="no row is called 'none'"):
        table(rows, "none")
    dump_rows(rows, tmp_path / "rows.json")
    assert load_rows(tmp_path / "rows.json") == rows
