"""Applications that use Redis: the libraries of docs/caching.md, and what visitors notice of an outage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_testing import Cached, app_environment, hosts_of_scenario, put
from redis import Redis

OLD, NEW = "172.31.78.31", "172.31.78.32"
USERS = "/etc/redis/wsgi-fleet-users.conf"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the topology tells an application on one host of the Redis on the other."""
    return app_environment(
        tmp_path_factory.mktemp("fleet"),
        {"app": {"redis-new": {"fleet_address": NEW}}, "cache": {"redis-old": {"fleet_address": OLD}}},
        app_name="shop",
        fleet_secret_key="battery staple",
        fleet_cache_password="correct horse",
    )


@pytest.fixture(scope="module")
def app(environment: dict[str, str]) -> Iterator[Cached]:
    """An application that caches, with a Redis that nothing is wrong with."""
    shop = Cached(hosts_of_scenario()["redis-new"], NEW)
    shop.start(environment)
    yield shop
    shop.host.run_test("systemctl stop cached")


def test_libraries_work_as_documented(environment: dict[str, str], tmp_path: Path) -> None:
    """redis-py, Flask-Limiter, Flask-Session, Flask-Caching and a worker of Celery, each below the app's prefix."""
    host = hosts_of_scenario()["redis-new"]
    program = Path(__file__).parents[1].joinpath("files/clients.py").read_text()
    host.run_expect([0], "install -d /opt/clients/try")
    put(host, "/opt/clients/try/clients.py", program)
    lines = "".join(f"{name}={json.dumps(value)}\n" for name, value in {**environment, "APP_NAME": "shop"}.items())
    put(host, "/opt/clients/try/env", lines)
    done = host.run(
        "systemd-run --quiet --wait --pipe --property=EnvironmentFile=/opt/clients/try/env"
        " --property=RuntimeMaxSec=150 /opt/clients/bin/python /opt/clients/try/clients.py"
    )
    assert done.rc == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "redis": ["hello", True],
        "limiter": [200, 200, 429],
        "session": ["1", "2", "3", "1"],
        "cache": [1, True, None],
        "celery": 5,
        "celery_again": 9,
        "strays": [],
    }


def test_the_example_of_the_manual_caches(app: Cached) -> None:
    """Views, functions and values, in keys of the application."""
    app.wait()
    assert app.kept(range(20)) == app.kept(range(20))
    redis = Redis(OLD, username="shop", password="correct horse")
    assert redis.exists(*(f"shop:{number}" for number in range(20))) == 20


WRONG_PASSWORD = f"cp -p {USERS} /root/users && sed -i 's/ #[0-9a-f]*/ #{'0' * 64}/' {USERS} && "


@pytest.mark.parametrize(
    ("dies", "returns"),
    [
        pytest.param("systemctl stop redis-server", "systemctl start redis-server", id="refused"),
        pytest.param(f"ip route add blackhole {NEW}", f"ip route del blackhole {NEW}", id="vanished"),
        pytest.param("kill -STOP $(pidof redis-server)", "kill -CONT $(pidof redis-server)", id="stopped"),
        pytest.param(
            f"{WRONG_PASSWORD} systemctl restart redis-server",
            f"cp -p /root/users {USERS} && systemctl restart redis-server",
            id="wrong password",
        ),
    ],
)
def test_a_dead_redis_is_noticed_by_nobody(app: Cached, dies: str, returns: str) -> None:
    """One request waits for a tenth of a second, the others for nothing, and all are answered with the page."""
    app.wait()
    app.kept(range(40))
    cache = hosts_of_scenario()["redis-old"]
    cache.run_expect([0], dies)
    try:
        app.outage([f"/kept/{number}" for number in range(40)], "Redis does not answer")
        assert not app.caches()
    finally:
        cache.run_expect([0], returns)
    app.wait()


OPERATOR = "user operator on >correct-horse +config"


def test_a_full_redis_is_noticed_by_nobody(app: Cached) -> None:
    """What does not fit is computed each time; what is there comes from the cache."""
    cache = hosts_of_scenario()["redis-old"]
    cache.run_expect([0], f"cp -p {USERS} /root/users && echo '{OPERATOR}' >>{USERS} && systemctl restart redis-server")
    try:
        app.wait()
        before = app.kept(range(20))
        operator = Redis(OLD, username="operator", password="correct-horse")
        operator.config_set("maxmemory-policy", "noeviction")
        operator.config_set("maxmemory", "64kb")
        app.outage([f"/kept/{number}" for number in range(100, 140)], "Redis refuses what it is asked for")
        assert app.kept(range(20)) == before
        assert app.get("/kept/200")[1] != app.get("/kept/200")[1]
    finally:
        cache.run_expect([0], f"cp -p /root/users {USERS} && systemctl restart redis-server")
    app.wait()
