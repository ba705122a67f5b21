"""The classes for Flask-Caching: an outage is a miss, is waited for by nobody, and ends by itself.

The servers are stand-ins; the scenarios ``redis`` and ``memcached`` have real ones, and their figures.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_caching import Cache
from redis.exceptions import AuthenticationError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

FILES = Path(__file__).resolve().parents[2] / "roles/app/files"


def load(name: str) -> Any:
    """Import a module that is meant for an application's virtual environment."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAUSE = 0.01
    return module


def wait(holds: Callable[[], bool]) -> None:
    """Wait for a thread."""
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class Redis:
    """Stands for a client: keeps values, or fails as it is told, and counts who asks."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.asked: list[str] = []

    def reached(self, command: str) -> None:
        self.asked.append(command)
        if self.error:
            raise self.error  # pylint: disable=raising-bad-type

    def get(self, name: str) -> bytes | None:
        self.reached("get")
        return self.values.get(name)

    def mget(self, names: list[str]) -> list[bytes | None]:
        self.reached("mget")
        return [self.values.get(name) for name in names]

    def set(self, name: str, value: bytes, **_more: object) -> bool:
        self.reached("set")
        self.values[name] = value
        return True

    def setex(self, name: str, time: object, value: bytes) -> bool:
        return self.set(name, value)

    def delete(self, *names: str) -> int:
        self.reached("delete")
        return sum(self.values.pop(name, None) is not None for name in names)

    def keys(self, _pattern: str) -> list[str]:
        self.reached("keys")
        return list(self.values)


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def cache(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The cache of an application that is set up as Flask-Caching's manual has it."""
    module = load("wsgi_fleet_redis")
    monkeypatch.setitem(sys.modules, "wsgi_fleet_redis", module)
    app = Flask("shop")
    app.config.update(
        CACHE_TYPE="wsgi_fleet_redis.RedisCache", CACHE_REDIS_HOST=redis, CACHE_KEY_PREFIX="shop:", CACHE_OPTIONS={}
    )
    found = Cache(app)
    with app.app_context():
        yield found
    redis.error = None
    wait(lambda: not found_outage(app))


def found_outage(app: Flask) -> bool:
    """Tell whether an outage lasts."""
    return any(backend.outage.lasts for backend in app.extensions["cache"].values())


def test_a_cache_that_answers_is_used(cache: Any, redis: Redis) -> None:
    assert cache.set("a", 1)
    assert cache.get("a") == 1
    assert cache.get_many("a", "b") == [1, None]
    assert list(redis.values) == ["shop:a"]
    assert cache.clear()
    assert redis.values == {}


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("refused"),
        RedisTimeoutError("nothing came"),
        AuthenticationError("wrong password"),
        OSError("unreachable"),
    ],
)
def test_one_request_asks_a_dead_cache(
    cache: Any, redis: Redis, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    cache.set("a", 1)
    redis.error, redis.asked = error, []
    module = sys.modules["wsgi_fleet_redis"]
    module.PAUSE = 60  # type: ignore[attr-defined]
    assert cache.get("a") is None
    assert cache.get_many("a", "b") == [None, None]
    assert cache.get_dict("a", "b") == {"a": None, "b": None}
    assert cache.set("a", 2) is False
    assert cache.add("a", 2) is False
    assert cache.set_many({"a": 2}) == []
    assert cache.has("a") is False
    assert cache.delete("a") is False
    assert cache.delete_many("a") == []
    assert cache.clear() is False
    assert redis.asked == ["get"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert type(error).__name__ in record.getMessage()
    # What the text says could be an address or an account.
    assert str(error) not in record.getMessage()
    (backend,) = cache.app.extensions["cache"].values()
    backend.outage.lasts = False


def test_an_outage_ends_by_itself(cache: Any, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    cache.set("a", 1)
    redis.error = RedisTimeoutError()
    assert cache.get("a") is None
    wait(lambda: len(redis.asked) > 4)
    assert cache.get("a") is None
    redis.error = None
    wait(lambda: cache.get("a") == 1)
    wait(lambda: caplog.records[-1].getMessage() == "Redis answers again")


def test_what_redis_refuses_is_a_miss_and_no_outage(cache: Any, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    cache.set("a", 1)
    redis.error = OutOfMemoryError("command not allowed when used memory > 'maxmemory'")
    assert [cache.set(f"b{number}", 1) for number in range(5)] == [False] * 5
    redis.error = None
    assert cache.get("a") == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Redis refuses what it is asked for (OutOfMemoryError), which is a miss"
    ]


class Sentinels:
    """Stand for redis-py's: know a primary, and count who asks."""

    def __init__(self) -> None:
        self.primary = Redis()
        self.asked = 0

    def discover_master(self, _name: str) -> tuple[str, int]:
        self.asked += 1
        return "192.0.2.31", 6379


def test_requests_ask_no_sentinel_for_a_primary_that_is_known() -> None:
    """Once for all connections; the thread that looks after an outage asks anew, and drops what is connected."""
    module = load("wsgi_fleet_redis")
    cache = module.RedisSentinelCache([["192.0.2.31", 26379]], "fleet", password="x", key_prefix="shop:")
    assert cache._read_client is cache._write_client
    sentinels = Sentinels()
    cache.primary.ask = sentinels.discover_master
    manager = cache._write_client.connection_pool.sentinel_manager
    assert [manager.discover_master("fleet") for _number in range(3)] == [("192.0.2.31", 6379)] * 3
    assert sentinels.asked == 1
    dropped: list[dict[str, bool]] = []
    cache.pool = types.SimpleNamespace(disconnect=lambda **how: dropped.append(how))
    cache._read_client = cache._write_client = sentinels.primary
    cache.look()
    assert dropped == [{"inuse_connections": False}]
    assert manager.discover_master("fleet") == ("192.0.2.31", 6379)
    assert sentinels.asked == 2


def test_an_outage_of_several_hosts_ends_with_another_primary(caplog: pytest.LogCaptureFixture) -> None:
    module = load("wsgi_fleet_redis")
    cache = module.RedisSentinelCache([["192.0.2.31", 26379]], "fleet", password="x", key_prefix="shop:")
    first, second = Redis(), Redis()
    cache.pool = types.SimpleNamespace(disconnect=lambda **_how: None)
    cache._read_client = cache._write_client = first
    assert cache.set("a", 1)
    first.error = RedisConnectionError("The previous master is now a slave")
    assert cache.set("a", 2) is False
    wait(lambda: len(first.asked) > 3)
    assert cache.get("a") is None
    cache._read_client = cache._write_client = second
    wait(lambda: cache.set("a", 3))
    assert cache.get("a") == 3
    wait(lambda: caplog.records[-1].getMessage() == "Redis answers again")


def test_a_mistake_of_the_application_is_told(cache: Any) -> None:
    with pytest.raises(Exception, match="pickle"):
        cache.set("a", lambda: None)
    assert cache.set("b", 1)


class PooledClient:
    """Stands for pymemcache's: a server that keeps values, is silent, or refuses."""

    servers: dict[str, PooledClient]

    def __init__(self, server: str, **options: object) -> None:
        self.options = options
        self.values: dict[str, object] = {}
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.servers[server] = self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.asked.append(name)
            if self.error:
                raise self.error  # pylint: disable=raising-bad-type
            return getattr(self, f"do_{name}")(*args)

        if name.startswith("do_"):
            raise AttributeError(name)
        return call

    def do_get(self, key: str) -> object:
        return self.values.get(key)

    def do_get_many(self, keys: list[str]) -> dict[str, object]:
        return {key: self.values[key] for key in keys if key in self.values}

    def do_set(self, key: str, value: object, _timeout: int) -> bool:
        self.values[key] = value
        return True

    def do_set_many(self, mapping: dict[str, object], _timeout: int) -> list[str]:
        self.values |= mapping
        return []

    def do_add(self, key: str, value: object, _timeout: int) -> bool:
        return key not in self.values and self.do_set(key, value, 0)

    def do_append(self, key: str, _value: str) -> bool:
        return key in self.values

    def do_delete(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    def do_delete_many(self, keys: list[str]) -> bool:
        return all(self.do_delete(key) for key in keys)

    def do_flush_all(self) -> bool:
        self.values.clear()
        return True

    def do_version(self) -> bytes:
        return b"1.6"

    def do_close(self) -> None:
        """Close what is open."""


@pytest.fixture
def memcached(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, PooledClient]]]:
    """The cache of an application over three servers, and these."""
    errors: Any = types.ModuleType("pymemcache.exceptions")
    errors.MemcacheError = type("MemcacheError", (Exception,), {})
    errors.MemcacheUnexpectedCloseError = type("MemcacheUnexpectedCloseError", (errors.MemcacheError,), {})
    base: Any = types.ModuleType("pymemcache.client.base")
    base.PooledClient = type("PooledClient", (PooledClient,), {"servers": {}})
    serde: Any = types.ModuleType("pymemcache.serde")
    serde.pickle_serde = object()
    for module in (errors, base, serde, types.ModuleType("pymemcache"), types.ModuleType("pymemcache.client")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    module = load("wsgi_fleet_memcached")
    monkeypatch.setitem(sys.modules, "wsgi_fleet_memcached", module)
    app = Flask("shop")
    app.config.update(
        CACHE_TYPE="wsgi_fleet_memcached.MemcachedCache",
        CACHE_MEMCACHED_SERVERS=["a:11211", "b:11211", "c:11211"],
        CACHE_KEY_PREFIX="shop:",
        CACHE_OPTIONS={"connect_timeout": 0.1, "timeout": 0.1},
    )
    cache = Cache(app)
    with app.app_context():
        yield cache, base.PooledClient.servers
    for server in base.PooledClient.servers.values():
        server.error = None


KEYS = [f"key{number}" for number in range(300)]


def test_keys_spread_over_servers(memcached: tuple[Any, dict[str, PooledClient]]) -> None:
    cache, servers = memcached
    for key in KEYS:
        assert cache.set(key, key)
    assert all(70 < len(server.values) < 130 for server in servers.values())
    assert cache.get_many(*KEYS) == KEYS
    assert servers["a:11211"].options["connect_timeout"] == 0.1
    assert cache.set_many({"x": 1, "y": 2}) == ["x", "y"]
    assert cache.has("x")
    assert cache.delete("x")
    assert cache.delete_many("y") == ["y"]
    assert cache.clear()
    assert all(server.values == {} for server in servers.values())


def test_a_lost_server_takes_only_its_own_keys(
    memcached: tuple[Any, dict[str, PooledClient]], caplog: pytest.LogCaptureFixture
) -> None:
    cache, servers = memcached
    for key in KEYS:
        cache.set(key, key)
    lost = servers["b:11211"]
    lost.error, lost.asked = TimeoutError(), []
    kept = [key for key in KEYS if cache.get(key) == key]
    assert len(kept) == len(KEYS) - len(lost.values)
    # Requests have asked it once; the thread asks for the version.
    assert lost.asked.count("get") == 1
    moved = next(key for key in KEYS if key not in kept)
    assert cache.set(moved, "elsewhere")
    assert cache.get(moved) == "elsewhere"
    lost.error = None
    wait(lambda: cache.get(moved) == moved)
    wait(lambda: len(caplog.records) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "b:11211 does not answer (TimeoutError), and is left out until it does",
        "b:11211 answers again",
    ]


def test_without_any_server_everything_is_a_miss(memcached: tuple[Any, dict[str, PooledClient]]) -> None:
    cache, servers = memcached
    for server in servers.values():
        server.error = ConnectionRefusedError()
    assert [cache.get(key) for key in KEYS[:20]] == [None] * 20
    assert cache.get_many("a", "b") == [None, None]
    assert cache.set("a", 1) is False
    assert cache.set_many({"a": 1}) == []
    assert cache.has("a") is False


def test_what_a_server_refuses_is_a_miss_and_no_outage(memcached: tuple[Any, dict[str, PooledClient]]) -> None:
    cache, servers = memcached
    cache.set("a", 1)
    for server in servers.values():
        server.error = sys.modules["pymemcache.exceptions"].MemcacheError("object too large for cache")
    assert cache.set("b", 1) is False
    for server in servers.values():
        server.error = None
    assert cache.get("a") == 1
