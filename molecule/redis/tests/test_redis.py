"""Redis as a cache: who gets in, what it may do, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fleet_testing import refused, refused_by_checker, refused_each
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from testinfra.host import Host


@pytest.fixture
def shop(address: str) -> Redis:
    """Connect as the user shop from another machine."""
    return Redis(address, username="shop", password="correct horse", socket_timeout=5, decode_responses=True)


def test_serves_its_user_over_the_network(shop: Redis) -> None:
    """A user reads and writes its own keys, and clears them like Flask-Caching does."""
    assert shop.set("shop:greeting", "hello", ex=60)
    assert shop.get("shop:greeting") == "hello"
    assert "shop:greeting" in shop.keys("shop:*")
    assert shop.delete("shop:greeting") == 1


def test_nobody_gets_in_without_a_password(address: str) -> None:
    """The default user is off, for reading as for anything else."""
    with pytest.raises(AuthenticationError):
        Redis(address).ping()
    with pytest.raises(AuthenticationError):
        Redis(address, password="correct horse").ping()
    with pytest.raises(AuthenticationError):
        Redis(address, username="shop", password="wrong").ping()


def test_keys_of_others_are_out_of_reach(shop: Redis) -> None:
    """The key patterns of a user are its limits."""
    with pytest.raises((NoPermissionError, ResponseError), match="permission"):
        shop.get("news:today")


@pytest.mark.parametrize("command", [("CONFIG", "GET", "*"), ("FLUSHALL",), ("SHUTDOWN",), ("ACL", "LIST")])
def test_dangerous_commands_are_refused(shop: Redis, command: tuple[str, ...]) -> None:
    """A stolen password of the app is no key to the server."""
    with pytest.raises((NoPermissionError, ResponseError), match="permission"):
        shop.execute_command(*command)


def test_further_rules_apply(address: str) -> None:
    """A rule of a user narrows what it may do; its password holds signs that shells would mind."""
    reader = Redis(address, username="reader", password='quote" and $dollar')
    assert reader.get("news:today") is None
    with pytest.raises((NoPermissionError, ResponseError), match="permission"):
        reader.set("news:today", "x")


def test_memory_is_bounded_and_old_keys_go(shop: Redis) -> None:
    """Writing twice the limit works, since old keys make room; which ones is a matter of samples."""
    for number in range(64):
        shop.set(f"shop:block:{number}", "x" * 2**20)
    memory = shop.info("memory")
    assert memory["maxmemory"] == 32 * 2**20
    assert memory["maxmemory_policy"] == "allkeys-lru"
    assert memory["used_memory"] < 40 * 2**20
    assert shop.get("shop:block:63") is not None
    assert 8 < len(shop.keys("shop:block:*")) < 32


def test_nothing_is_written_to_disk(host: Host, shop: Redis) -> None:
    """A cache starts empty, and leaves no data behind."""
    shop.set("shop:kept", "x")
    host.run_test("touch /tmp/before && sleep 0.1 && systemctl restart redis-server")
    assert host.run("find /var/lib/redis -type f -newer /tmp/before").stdout == ""
    assert shop.get("shop:kept") is None


def test_secrets_stay_secret(host: Host) -> None:
    """Neither the files nor the processes show a password, and only Redis may read the hashes."""
    users = host.file("/etc/redis/wsgi-fleet-users.conf")
    assert (users.user, users.group, users.mode) == ("root", "redis", 0o640)
    for text in (users.content_string, host.file("/etc/redis/redis.conf").content_string):
        assert "correct horse" not in text
    assert "correct horse" not in host.run("journalctl --no-pager; ps axeww").stdout
    assert host.run("runuser -u nobody -- cat /etc/redis/wsgi-fleet-users.conf").rc != 0


def test_listens_where_it_was_told(host: Host, address: str) -> None:
    """The address of the fleet and the loopback address, no others."""
    assert host.socket(f"tcp://{address}:6379").is_listening
    assert host.socket("tcp://127.0.0.1:6379").is_listening
    assert not host.socket("tcp://0.0.0.0:6379").is_listening


def test_starts_at_boot(host: Host) -> None:
    """The service is enabled."""
    assert host.service("redis-server").is_enabled


def test_bad_configuration_leaves_the_old_one(host: Host, shop: Redis) -> None:
    """A directive that Redis does not know is told by Redis, and nothing has changed."""
    before = host.file("/etc/redis/redis.conf").content
    message = refused(host, "wsgi.fleet.redis", {"redis_settings": {"no-such-directive": "1"}})
    assert "no-such-directive" in message
    assert host.file("/etc/redis/redis.conf").content == before
    assert shop.ping()


@refused_each(
    "redis",
    "wsgi.fleet.redis",
    [
        ({"redis_users": []}, "redis_users: nobody may connect"),
        ({"redis_settings": {"requirepass": "x"}}, "redis_settings: requirepass is decided by a variable"),
        ({"redis_memory_mb": 3}, "redis_memory_mb: 3 is too little"),
        (
            {"redis_users": [{"name": "a b", "password": "x", "keys": ["*"]}]},
            "redis_users, redis_bind or redis_settings",
        ),
        ({"redis_settings": {"loglevel": "notice\nuser x on nopass ~* +@all"}}, "a line break"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()


def test_whatever_passes_validation_is_accepted(host: Host) -> None:
    """Many odd settings, each of which becomes a configuration that the service itself can read."""
    assert refused_by_checker(host, "redis") == ""
