"""What a host of a replicated Redis does before its services start: the primary that it finds, and the files it writes.

Sentinels are stand-ins on a port of this machine; the scenario ``redis_ha`` has real ones.
"""

from __future__ import annotations

import importlib.util
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/redis/files/redis_node.py"
#: What Ansible has written for Sentinel.
SENTINEL = """\
port 26379
sentinel myid 0000
sentinel monitor fleet 127.0.0.1 6379 2
sentinel known-replica fleet 127.0.0.1 6379
sentinel known-replica fleet 127.0.0.2 6379
sentinel known-replica fleet 127.0.0.3 6379
"""


class Stand(socketserver.ThreadingTCPServer):
    """Stands for the Sentinel of another host: takes commands, and answers each with the next of its replies."""

    allow_reuse_address = True

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.replies: Callable[[], bytes] = lambda: b"*-1\r\n"
        super().__init__(("127.0.0.2", 0), Handler)


class Handler(socketserver.StreamRequestHandler):
    """Reads commands of the protocol."""

    server: Stand

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2].decode() for _n in range(int(line[1:]))]
            self.server.asked.append(words)
            self.wfile.write(b"+OK\r\n" if words[0] == "AUTH" else self.server.replies())


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, with its files in a directory of the test."""
    spec = importlib.util.spec_from_file_location("redis_node", PROGRAM)
    assert spec
    assert spec.loader
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("REDIS", "REDIS_COPY", "SENTINEL", "SENTINEL_COPY"):
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "FAILOVER", 0.3)
    monkeypatch.setattr(module.shutil, "chown", lambda *_arguments: None)
    (tmp_path / "REDIS").write_text("port 6379\n")
    (tmp_path / "SENTINEL").write_text(SENTINEL)
    return module


@pytest.fixture
def settings(stand: Stand) -> dict[str, Any]:
    """What Ansible tells the first of three hosts, of which only the second one answers."""
    return {
        "name": "fleet",
        "address": "127.0.0.1",
        "nodes": ["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        "port": 6379,
        "sentinel_port": stand.server_address[1],
        "down_after": 0.1,
        "authority": "",
        "user": "fleet.sentinel",
        "password": 'quote" and ünicode',
        "replicates": True,
    }


def names(address: str) -> bytes:
    """Return how Sentinel tells an address."""
    return f"*2\r\n${len(address)}\r\n{address}\r\n$4\r\n6379\r\n".encode()


def test_redis_follows_whom_the_others_name(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    stand.replies = lambda: names("127.0.0.3")
    program.before_redis(settings)
    assert program.REDIS_COPY.read_text() == "port 6379\nreplicaof 127.0.0.3 6379\n"
    assert program.REDIS_COPY.stat().st_mode & 0o777 == 0o640
    assert stand.asked == [
        ["AUTH", "fleet.sentinel", 'quote" and ünicode'],
        ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "fleet"],
    ]


def test_a_primary_that_stopped_waits_for_another_one(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    answers = iter(["127.0.0.1", "127.0.0.1"])
    stand.replies = lambda: names(next(answers, "127.0.0.2"))
    program.before_redis(settings)
    assert program.REDIS_COPY.read_text() == "port 6379\nreplicaof 127.0.0.2 6379\n"


def test_a_primary_that_nobody_replaces_goes_on(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    stand.replies = lambda: names("127.0.0.1")
    program.before_redis(settings)
    assert program.REDIS_COPY.read_text() == "port 6379\n"
    assert len(stand.asked) > 4


@pytest.mark.parametrize("reply", [b"*-1\r\n", b"-NOAUTH Authentication required.\r\n", b"", b"*x\r\n"])
def test_what_no_sentinel_tells_is_remembered(
    program: Any, settings: dict[str, Any], stand: Stand, reply: bytes
) -> None:
    stand.replies = lambda: reply
    program.before_redis(settings)
    assert program.REDIS_COPY.read_text() == "port 6379\n", "the first of all is the primary to begin with"
    program.SENTINEL_COPY.write_text(SENTINEL.replace("127.0.0.1", "127.0.0.3"))
    program.before_redis(settings)
    assert program.REDIS_COPY.read_text() == "port 6379\nreplicaof 127.0.0.3 6379\n"


def test_one_host_alone_follows_nobody(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    stand.replies = lambda: names("127.0.0.2")
    program.before_redis({**settings, "replicates": False})
    program.after_redis({**settings, "replicates": False})
    assert program.REDIS_COPY.read_text() == "port 6379\n"
    assert stand.asked == []


def test_sentinel_knows_the_primary_and_keeps_its_votes(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    stand.replies = lambda: names("127.0.0.2")
    program.SENTINEL_COPY.write_text(
        "sentinel monitor fleet 127.0.0.1 6379 2\nsentinel known-replica fleet 127.0.0.9 6379\n"
        "sentinel current-epoch 7\nsentinel config-epoch fleet 6\nsentinel leader-epoch fleet 7\n"
        "sentinel leader-epoch other 9\n"
    )
    program.before_sentinel(settings)
    assert program.SENTINEL_COPY.read_text().splitlines() == [
        "port 26379",
        "sentinel myid 0000",
        "sentinel monitor fleet 127.0.0.2 6379 2",
        "sentinel known-replica fleet 127.0.0.1 6379",
        "sentinel known-replica fleet 127.0.0.3 6379",
        "sentinel current-epoch 7",
        "sentinel config-epoch fleet 6",
        "sentinel leader-epoch fleet 7",
    ]


def test_a_replica_waits_for_what_its_primary_has(program: Any, settings: dict[str, Any], stand: Stand) -> None:
    states = iter(["connect", "sync"])

    def role() -> bytes:
        state = next(states, "connected")
        return f"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.3\r\n:6379\r\n${len(state)}\r\n{state}\r\n:1\r\n".encode()

    stand.replies = role
    program.after_redis({**settings, "address": "127.0.0.2", "port": stand.server_address[1]})
    assert [words for words in stand.asked if words == ["ROLE"]] == [["ROLE"]] * 3
