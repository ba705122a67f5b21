"""Redis on three hosts with TLS: who gets in, and an application whose visitors notice nothing of a lost primary."""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

import pytest
from fleet_testing import Cached, app_environment, apply_role, ask_raw, hosts_of_scenario, refused_each
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.sentinel import Sentinel
from testinfra.host import Host

HOSTS = {"redis-ha-1-new": "172.31.78.37", "redis-ha-2-new": "172.31.78.38", "redis-ha-3-new": "172.31.78.39"}
NAMES = {address: name for name, address in HOSTS.items()}
#: Where the application runs.
APP = "172.31.78.39"
AUTHORITY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets/tls/ca.crt")
TLS: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(AUTHORITY)}
QUICK: dict[str, Any] = {"socket_connect_timeout": 0.2, "socket_timeout": 0.2, "retry": None}
PATIENT: dict[str, Any] = {"socket_connect_timeout": 5, "socket_timeout": 5, "retry": None}
SHOP: dict[str, Any] = {"username": "shop", "password": "correct horse"}
OWN: dict[str, Any] = {"username": "fleet.sentinel", "password": 'quote" and $dollar, long'}
#: Milliseconds, as the role has it by default.
DOWN_AFTER = 1000


def node(address: str, **who: Any) -> Redis:
    """Connect to Redis on a host."""
    return Redis(address, **TLS, **PATIENT, **(who or SHOP))


def sentinel(address: str, **who: Any) -> Redis:
    """Connect to Sentinel on a host."""
    return Redis(address, 26379, **TLS, **PATIENT, **(who or OWN))


def on(address: str) -> Host:
    """Return the host with an address."""
    return hosts_of_scenario()[NAMES[address]]


def wait(what: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds, which may not answer before.

    Sentinel does nothing for half a minute when it finds that it has not run for seconds, as on a busy machine.
    """
    end = time.monotonic() + 80
    while True:
        with contextlib.suppress(RedisError):
            if holds():
                return
        assert time.monotonic() < end, what
        time.sleep(0.1)


def primary_of(address: str) -> str:
    """Return what the Sentinel of a host takes for the primary."""
    found: tuple[bytes, int] = sentinel(address).sentinel_get_master_addr_by_name("fleet")
    return found[0].decode()


def is_whole() -> bool:
    """Tell whether all Sentinels name one primary, and both other hosts have what it has."""
    primary = primary_of(APP)
    return (
        {primary_of(address) for address in HOSTS.values()} == {primary}
        and all(len(sentinel(address).sentinel_slaves("fleet")) == 2 for address in HOSTS.values())
        and node(primary).info("replication")["role"] == "master"
        and all(
            node(other).info("replication").get("master_host") == primary
            and node(other).info("replication").get("master_link_status") == "up"
            for other in HOSTS.values()
            if other != primary
        )
        and "OK 3 usable" in str(sentinel(primary).execute_command("SENTINEL", "CKQUORUM", "fleet"))
    )


def whole() -> str:
    """Wait until nothing is wrong with the three hosts, and return the primary."""
    wait("the three hosts have not come together", is_whole)
    return primary_of(APP)


def hand_over(to: str) -> None:
    """Have a host become the primary, with the other one that could out of the way."""
    primary = whole()
    if primary == to:
        return
    (other,) = set(HOSTS.values()) - {primary, to}
    on(other).run_expect([0], "kill -STOP $(pidof redis-server)")
    try:
        wait("the other one is still there", lambda: any(s["is_sdown"] for s in sentinel(to).sentinel_slaves("fleet")))
        time.sleep(1)
        wait("no failover", lambda: bool(sentinel(to).execute_command("SENTINEL", "FAILOVER", "fleet")))
        wait("another one was chosen", lambda: primary_of(APP) == to)
    finally:
        on(other).run_expect([0], "kill -CONT $(pidof redis-server)")
    assert whole() == to


def wait_for_cache(app: Cached) -> None:
    """Wait until pages come from the cache."""
    wait("pages do not come from the cache", app.caches)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the topology tells an application of three cache hosts with TLS."""
    return app_environment(
        tmp_path_factory.mktemp("fleet"),
        {
            "app": {"app1": {"fleet_address": "172.31.78.1"}},
            "cache": {name: {"fleet_address": address} for name, address in HOSTS.items()},
        },
        app_name="shop",
        redis_tls=True,
        fleet_secret_key="battery staple",
        fleet_cache_password="correct horse",
    )


@pytest.fixture(scope="module")
def app(environment: dict[str, str]) -> Iterator[Cached]:
    """An application that caches, on one of the hosts."""
    shop = Cached(on(APP), APP)
    whole()
    shop.start(environment)
    yield shop
    shop.host.run_test("systemctl stop cached")


class Watch:
    """Visitors of the application and a writer beside it, from before an outage until the block ends."""

    def __init__(self, app: Cached, sentinels: list[str]) -> None:
        self.app, self.pages, self.failures = app, list[float](), list[str]()
        self.gap, self._written = 0.0, time.monotonic()
        who = {**SHOP, **QUICK, **TLS}
        self._writer = Sentinel([(address, 26379) for address in sentinels], sentinel_kwargs=who, **who)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._visit, self._write)]

    def _visit(self) -> None:
        for number in itertools.count():
            try:
                took, _computed = self.app.get(("/cached", f"/memoized/{number}", f"/kept/{number % 50}")[number % 3])
                self.pages.append(took)
            except (OSError, AssertionError, ValueError) as error:
                self.failures.append(repr(error))
            if self._end.wait(0.01):
                return

    def _write(self) -> None:
        while not self._end.wait(0.02):
            client = self._writer.master_for("fleet")
            with contextlib.suppress(RedisError):
                client.set("shop:beat", 1)
                now = time.monotonic()
                self.gap, self._written = max(self.gap, now - self._written), now
            client.connection_pool.disconnect()

    def __enter__(self) -> Self:
        self.app.kept(range(30))
        self._written = time.monotonic()
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def settled(self, what: str) -> None:
        """Look at what visitors noticed.

        One request of the process pays a tenth of a second when an outage begins; a busy machine makes more of it, and
        with redis-py as it is each page would take seconds.
        """
        print(
            f"{what}: {len(self.pages)} pages, {len(self.failures)} failed, longest {max(self.pages):.3f} s, median "
            f"{median(self.pages):.4f} s; {self.gap:.2f} s without writes with {DOWN_AFTER / 1000:g} s until down"
        )
        assert self.failures == []
        assert max(self.pages) < 2
        assert quantiles(self.pages, n=10)[8] < 0.1


def test_one_is_the_primary_and_the_others_follow() -> None:
    """What is written there is on the others, which take no writes."""
    primary = whole()
    node(primary).set("shop:greeting", "hello")
    for other in set(HOSTS.values()) - {primary}:
        wait("it is not there", lambda other=other: node(other).get("shop:greeting") == b"hello")
        with pytest.raises(RedisError, match="read only replica"):
            node(other).set("shop:greeting", "goodbye")


def test_plain_text_is_refused(address: str) -> None:
    """Redis and Sentinel hear TLS alone, and prove who they are."""
    for port in (6379, 26379):
        assert ask_raw(address, b"PING\r\n", port=port, timeout=1) == b""
        with pytest.raises(RedisError):
            Redis(address, port, **SHOP, **PATIENT).ping()
    with pytest.raises(RedisError, match="certificate verify failed"):
        Redis(address, ssl=True, **SHOP, **PATIENT).ping()
    assert ssl.get_server_certificate((address, 6379), ca_certs=str(AUTHORITY))


@pytest.mark.parametrize("connect", [node, sentinel])
def test_nobody_gets_in_without_a_password(address: str, connect: Callable[..., Redis]) -> None:
    """Redis and Sentinel alike."""
    for who in ({"username": "default"}, {"username": "shop", "password": "wrong"}):
        with pytest.raises(AuthenticationError):
            connect(address, **{"password": "", **who}).ping()


def test_an_application_may_ask_sentinel_and_no_more(address: str) -> None:
    """Who the primary is, but not to have another one; nor may the user of replicas read."""
    assert sentinel(address, **SHOP).sentinel_masters()["fleet"]["num-other-sentinels"] == 2
    for command in ("FAILOVER fleet", "REMOVE fleet", "SET fleet quorum 1", "RESET *", "CONFIG GET *"):
        with pytest.raises(NoPermissionError):
            sentinel(address, **SHOP).execute_command("SENTINEL", *command.split())
    for name in ("fleet.sentinel", "fleet.replica"):
        with pytest.raises(NoPermissionError):
            node(address, **{**OWN, "username": name}).get("shop:greeting")


def test_secrets_stay_secret(host: Host) -> None:
    """What hosts talk to each other by is in files that root and Redis can read, and nowhere else."""
    for path in ("wsgi-fleet-node.json", "wsgi-fleet-sentinel.conf"):
        file = host.file(f"/etc/redis/{path}")
        assert (file.user, file.mode) == ("root", 0o600)
    for path in ("/etc/redis/sentinel.conf", "/run/redis/redis.conf"):
        file = host.file(path)
        assert (file.user, file.group, file.mode & 0o007) == ("redis", "redis", 0)
    assert "and $dollar" not in host.run("journalctl --no-pager; ps axeww").stdout


def test_is_confined_and_starts_at_boot(host: Host) -> None:
    """Both services, by the profiles of the sandbox role."""
    for unit in ("redis-server", "redis-sentinel"):
        assert host.service(unit).is_enabled
        score = host.check_output("systemd-analyze security --no-pager %s.service | tail -n 1", unit)
        assert float(score.split(": ")[1].split()[0]) <= 1.3


def test_libraries_reach_the_primary(environment: dict[str, str]) -> None:
    """By what the environment says, as docs/caching.md has it."""
    assert "REDIS_URL" not in environment
    who = {"username": environment["REDIS_USERNAME"], "password": environment["REDIS_PASSWORD"], **PATIENT, **TLS}
    sentinels = [place.rsplit(":", 1) for place in environment["REDIS_SENTINELS"].split(",")]
    redis = Sentinel(sentinels, sentinel_kwargs=who, **who).master_for(environment["REDIS_SENTINEL_MASTER"])
    assert redis.set("shop:plain", 1, ex=60)
    url = f"rediss://shop:correct%20horse@{whole()}:6379/0?ssl_cert_reqs=required&ssl_ca_certs={AUTHORITY}"
    assert Redis.from_url(url).get("shop:plain") == b"1"


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(app: Cached) -> None:
    """What is cached is there afterwards too: the killed one has lost it, and so does not stay the primary."""
    before = whole()
    wait_for_cache(app)
    node(before).set("shop:kept through", 1)
    with Watch(app, list(HOSTS.values())) as watch:
        on(before).run_expect([0], "systemctl kill --signal KILL redis-server")
        wait("no failover", lambda: primary_of(APP) != before)
        after = whole()
        wait_for_cache(app)
    watch.settled("killed")
    assert after != before
    assert node(after).get("shop:kept through") == b"1"
    assert 0.5 < watch.gap < 60


def test_applying_the_role_again_does_not_move_the_primary() -> None:
    """After a failover nothing is changed, on any host."""
    if whole() == "172.31.78.37":
        hand_over("172.31.78.38")
    before = whole()
    done = apply_role("redis_ha", "wsgi.fleet.redis", {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("changed=0") == 3, done.stdout
    assert whole() == before


def test_the_first_host_can_be_the_primary_again(app: Cached) -> None:
    """By an order to Sentinel, and again without a failed page."""
    with Watch(app, list(HOSTS.values())) as watch:
        hand_over("172.31.78.37")
        wait_for_cache(app)
    watch.settled("handed over")


def test_a_frozen_primary_is_replaced_and_follows_when_it_wakes(app: Cached) -> None:
    """It takes connections and never answers."""
    with Watch(app, list(HOSTS.values())) as watch:
        on("172.31.78.37").run_expect([0], "kill -STOP $(pidof redis-server)")
        try:
            wait("no failover", lambda: primary_of(APP) != "172.31.78.37")
            wait_for_cache(app)
        finally:
            on("172.31.78.37").run_expect([0], "kill -CONT $(pidof redis-server)")
        assert whole() != "172.31.78.37"
        wait_for_cache(app)
    watch.settled("frozen")
    assert 0.5 < watch.gap < 60


def test_a_primary_that_is_cut_off_is_replaced_and_gives_up_what_it_took(app: Cached) -> None:
    """It goes on believing that it is the primary, until it sees the others again."""
    hand_over("172.31.78.37")
    wait_for_cache(app)
    others = [address for address in HOSTS.values() if address != "172.31.78.37"]
    with Watch(app, others) as watch:
        on("172.31.78.37").run_expect([0], "".join(f"ip route add blackhole {other};" for other in others))
        try:
            wait("no failover", lambda: primary_of(APP) != "172.31.78.37")
            wait_for_cache(app)
            assert node("172.31.78.37").set("shop:aside", 1)
        finally:
            on("172.31.78.37").run_expect([0], "".join(f"ip route del blackhole {other};" for other in others))
        after = whole()
        wait_for_cache(app)
    watch.settled("cut off")
    assert after != "172.31.78.37"
    assert node(after).get("shop:aside") is None
    assert node("172.31.78.37").get("shop:aside") is None
    assert 0.5 < watch.gap < 60


def test_pages_are_answered_while_two_of_three_are_lost(app: Cached) -> None:
    """Without a majority there is no new primary, and nothing is cached; afterwards all is there again."""
    if whole() == APP:
        hand_over("172.31.78.37")
    wait_for_cache(app)
    lost = [address for address in HOSTS.values() if address != APP]
    with Watch(app, [APP]) as watch:
        for address in lost:
            on(address).run_expect([0], "systemctl stop redis-server redis-sentinel")
        try:
            time.sleep(4)
            assert not app.caches()
            assert node(APP).info("replication")["role"] == "slave"
        finally:
            for address in lost:
                on(address).run_expect([0], "systemctl start --no-block redis-sentinel redis-server")
        whole()
        wait_for_cache(app)
    watch.settled("two of three lost")


@refused_each(
    "redis_ha",
    "wsgi.fleet.redis",
    [
        (
            {"redis_nodes": [{"name": name, "address": HOSTS[name]} for name in list(HOSTS)[:2]]},
            "are too few, since of",
        ),
        ({"redis_replication_password": ""}, "redis_replication_password: is empty: write a long one"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()
