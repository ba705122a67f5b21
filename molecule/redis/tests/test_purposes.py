"""Redis for a queue: what no longer fits is refused, and what is there outlives whatever happens to the process."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fleet_testing import apply_role, hosts_of_scenario, refused
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError
from testinfra.host import Host


@pytest.fixture(scope="module")
def broker() -> Iterator[Host]:
    """A host whose Redis is a queue meanwhile."""
    host = hosts_of_scenario()["redis-new"]
    variables = {"redis_purpose": "queue", "redis_memory_mb": 24, "redis_connections": 40, "redis_settings": {}}
    done = apply_role(host, "wsgi.fleet.redis", variables)
    assert done.returncode == 0, done.stdout + done.stderr
    again = apply_role(host, "wsgi.fleet.redis", variables)
    assert "changed=0" in again.stdout
    yield host
    done = apply_role(host, "wsgi.fleet.redis", {})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def queue(broker: Host) -> Redis:
    """Connect as the user shop, which waits for a Redis that starts."""
    found = Redis("172.31.78.32", username="shop", password="correct horse", socket_timeout=5)
    end = time.monotonic() + 20
    while True:
        try:
            found.ping()
            return found
        except RedisConnectionError:
            assert time.monotonic() < end
            time.sleep(0.1)


def push_until_refused(queue: Redis) -> int:
    """Return how many large entries a queue has taken."""
    for number in range(64):
        try:
            queue.lpush("shop:jobs", f"{number}:".ljust(2**20, "x"))
        except OutOfMemoryError:
            return number
    return 64


def test_nothing_is_thrown_away(queue: Redis) -> None:
    """A full queue refuses, and says so; all that it took is there."""
    assert queue.info("memory")["maxmemory_policy"] == "noeviction"
    queue.delete("shop:jobs")
    taken = push_until_refused(queue)
    assert 10 < taken < 24
    assert queue.llen("shop:jobs") == taken
    assert queue.rpop("shop:jobs").startswith(b"0:")
    queue.delete("shop:jobs")


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param("systemctl restart redis-server", id="restart"),
        pytest.param("systemctl kill --signal KILL redis-server", id="kill"),
        pytest.param(
            "apt-get update --quiet=2 && apt-get install --quiet=2 --yes --reinstall redis-server redis-tools"
            " -o Dpkg::Options::=--force-confold",
            id="upgrade",
        ),
    ],
)
def test_a_queue_outlives_its_process(broker: Host, queue: Redis, happens: str) -> None:
    """What was written a second ago or earlier is there after a restart, a crash, and an upgrade of the package."""
    queue.delete("shop:jobs")
    queue.lpush("shop:jobs", "one", "two", "three")
    before = queue.info("server")["process_id"]
    time.sleep(1.5)
    broker.run_expect([0], happens)
    end = time.monotonic() + 20
    while True:
        try:
            if queue.info("server")["process_id"] != before:
                break
        except RedisConnectionError:
            pass
        assert time.monotonic() < end
        time.sleep(0.2)
    assert queue.lrange("shop:jobs", 0, -1) == [b"three", b"two", b"one"]


def test_names_of_keys_are_not_shown(queue: Redis) -> None:
    """KEYS, which holds everybody up, is for caches alone: Flask-Caching empties a cache by it."""
    with pytest.raises(NoPermissionError):
        queue.keys("shop:*")


def test_messages_stay_among_those_of_the_app(queue: Redis) -> None:
    """A user has channels of its own."""
    assert queue.publish("shop:news", "hello") == 0
    with pytest.raises(NoPermissionError):
        queue.publish("news:today", "hello")


def test_connections_are_bounded(queue: Redis) -> None:
    """Who comes when there are forty is told so, and closed."""
    clients, refusals = [], []
    for _number in range(45):
        try:
            who = {"username": "shop", "password": "correct horse"}
            clients.append(Redis("172.31.78.32", **who, single_connection_client=True, retry=None))
        except RedisConnectionError as error:
            refusals.append(str(error))
    assert 20 < len(clients) <= 40
    assert "max number of clients reached" in refusals
    assert queue.ping()
    for client in clients:
        client.close()


def test_a_queue_that_throws_away_is_refused() -> None:
    """The two settings cannot go together."""
    said = refused("redis", "wsgi.fleet.redis", {"redis_purpose": "queue", "redis_memory_policy": "allkeys-lru"})
    assert "redis_memory_policy: 'allkeys-lru' would throw entries of a queue away" in said
