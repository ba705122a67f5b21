"""memcached as a cache: who gets in, what it keeps, and an application over two servers that loses one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from fleet_testing import Cached, app_environment, ask_raw, hosts_of_scenario, refused, refused_each
from testinfra.host import Host

OLD, NEW = "172.31.78.35", "172.31.78.36"


def say(host: Host, *lines: str, to: str) -> str:
    """Send lines to a memcached from a host, and return what comes back."""
    program = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 11211), 5);"
        "s.sendall(sys.argv[2].encode() + b'quit\\r\\n');"
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
    )
    return host.check_output("python3 -c %s %s %s", program, to, "".join(f"{line}\r\n" for line in lines))


def test_serves_those_who_may_connect(host: Host, address: str) -> None:
    """The other host of the fleet, and the host itself."""
    for client in hosts_of_scenario().values():
        said = say(client, "set shop:greeting 0 60 5", "hello", "get shop:greeting", to=address)
        assert said.split() == ["STORED", "VALUE", "shop:greeting", "0", "5", "hello", "END"]


def test_a_stranger_gets_no_connection(address: str) -> None:
    """The controller is none of those who may connect."""
    with pytest.raises(TimeoutError):
        ask_raw(address, b"version\r\n", port=11211, timeout=1)


def test_listens_where_it_was_told(host: Host, address: str) -> None:
    """The address of the fleet by TCP, no others."""
    assert host.check_output("ss -Hltn 'sport = :11211' | awk '{print $4}'") == f"{address}:11211"
    assert host.check_output("ss -Hlun 'sport = :11211'") == ""


def test_memory_and_connections_are_bounded(host: Host, address: str) -> None:
    """Half of a host of 1024 MiB as nobody has asked it, and what the scenario sets."""
    said = say(host, "stats settings", to=address)
    for line in ("STAT maxbytes 67108864", "STAT maxconns 64", "STAT item_size_max 2097152", "STAT udpport 0"):
        assert line in said.splitlines()
    # Twice the limit of memory is written, and what was written last is there.
    program = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 11211), 5); f = s.makefile('rb')\n"
        "for n in range(128):\n"
        "    s.sendall(b'set block:%d 0 60 1000000\\r\\n%b\\r\\n' % (n, b'x' * 1000000))\n"
        "    print(f.readline().decode())\n"
        "s.sendall(b'get block:127\\r\\nstats\\r\\n'); print(f.readline().decode())"
    )
    said = host.check_output("python3 -c %s %s", program, address)
    assert said.count("STORED") == 128
    assert "VALUE block:127 0 1000000" in said
    stats = dict(line.split()[1:3] for line in say(host, "stats", to=address).splitlines() if line.startswith("STAT"))
    assert 32 * 2**20 < int(stats["bytes"]) <= 64 * 2**20
    assert int(stats["evictions"]) > 50


def test_too_many_connections_are_turned_away(host: Host, address: str) -> None:
    """Those who are in go on, and one who leaves makes room."""
    program = (
        "import socket, sys\n"
        "def go():\n"
        "    s = socket.create_connection((sys.argv[1], 11211), 5); s.sendall(b'version\\r\\n'); return s, s.recv(99)\n"
        "found = [go() for n in range(80)]\n"
        "print(sum(said.startswith(b'VERSION') for s, said in found))\n"
        "found[0][0].sendall(b'version\\r\\n'); print(found[0][0].recv(99).startswith(b'VERSION'))\n"
    )
    inside, first = host.check_output("python3 -c %s %s", program, address).split()
    # Files of its own, some twenty, count as well.
    assert 32 <= int(inside) <= 64
    assert first == "True"
    assert "VERSION" in say(host, "version", to=address)


def test_is_confined_and_starts_at_boot(host: Host) -> None:
    """By the profile of the sandbox role; it runs as its account."""
    assert host.service("memcached").is_enabled
    assert host.check_output("ps -o user= -C memcached") == "memcache"
    score = host.check_output("systemd-analyze security --no-pager memcached.service | tail -n 1")
    assert float(score.split(": ")[1].split()[0]) <= 2.1


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cached]:
    """An application on one host that caches on both, with the settings that the topology gives it."""
    shop = Cached(hosts_of_scenario()["memcached-new"], NEW)
    shop.start(
        app_environment(
            tmp_path_factory.mktemp("fleet"),
            {
                "app": {"memcached-new": {"fleet_address": "172.31.78.1"}},
                "cache": {"cache1": {"fleet_address": OLD}, "cache2": {"fleet_address": NEW}},
            },
            app_name="shop",
            cache_backend="memcached",
            fleet_secret_key="battery staple",
        )
    )
    yield shop
    shop.host.run_test("systemctl stop cached")


FRESH = itertools.count(step=40)


def keys_on_both(app: Cached) -> range:
    """Keep values under forty new keys, when both servers take some of them; wait until they do."""
    end = time.monotonic() + 15
    while True:
        start = next(FRESH)
        keys = range(start, start + 40)
        app.kept(keys)
        names = " ".join(f"shop:{number}" for number in keys)
        there = [say(app.host, f"get {names}", to=name).count("VALUE shop:") for name in (OLD, NEW)]
        if min(there) >= 8 and sum(there) == len(keys):
            return keys
        assert time.monotonic() < end, there
        time.sleep(0.2)


def test_an_application_caches_on_both(app: Cached) -> None:
    """Keys have the prefix of the application, and each server has some of them."""
    keys = keys_on_both(app)
    assert app.kept(keys) == app.kept(keys)
    assert app.caches()


@pytest.mark.parametrize(
    ("dies", "returns"),
    [
        pytest.param("systemctl stop memcached", "systemctl start memcached", id="refused"),
        pytest.param(f"ip route add blackhole {NEW}", f"ip route del blackhole {NEW}", id="vanished"),
        pytest.param("kill -STOP $(pidof memcached)", "kill -CONT $(pidof memcached)", id="stopped"),
    ],
)
def test_a_dead_host_is_noticed_by_nobody(app: Cached, dies: str, returns: str) -> None:
    """One request waits for 0.1 s, the others for nothing; what lies on the other host is still cached."""
    keys = keys_on_both(app)
    before = app.kept(keys)
    cache = hosts_of_scenario()["memcached-old"]
    cache.run_expect([0], dies)
    try:
        app.outage([f"/kept/{number}" for number in keys], f"{OLD}:11211 does not answer")
        during = app.kept(keys)
    finally:
        cache.run_expect([0], returns)
    assert 8 <= sum(during[number] == before[number] for number in keys) <= 32
    # It is taken back by itself.
    keys_on_both(app)


def test_without_any_host_nothing_is_cached_and_all_is_served(app: Cached) -> None:
    """Every page is computed, and soon."""
    keys_on_both(app)
    hosts = hosts_of_scenario().values()
    for host in hosts:
        host.run_expect([0], "kill -STOP $(pidof memcached)")
    try:
        app.outage([f"/kept/{number}" for number in range(40)], f"{OLD}:11211 does not answer")
        assert not app.caches()
    finally:
        for host in hosts:
            host.run_expect([0], "kill -CONT $(pidof memcached)")
    keys_on_both(app)


def test_a_bad_option_leaves_the_old_configuration(host: Host, address: str) -> None:
    """An option that memcached does not know is told by memcached, and nothing has changed."""
    before = host.file("/etc/memcached.conf").content
    message = refused(host, "wsgi.fleet.memcached", {"memcached_options": ["--no-such-option"]})
    assert "no-such-option" in message
    assert host.file("/etc/memcached.conf").content == before
    assert "VERSION" in say(host, "version", to=address)


@refused_each(
    "memcached",
    "wsgi.fleet.memcached",
    [
        ({"memcached_bind": []}, "memcached_bind: '' is not a list of addresses"),
        ({"memcached_bind": ["cache1.example.com"]}, "memcached_bind: 'cache1.example.com' is not a list of addresses"),
        ({"memcached_allow": ["app1"]}, "memcached_allow: 'app1' is neither an address nor a network"),
        ({"memcached_memory_mb": 8}, "memcached_memory_mb: 8 is too little"),
        ({"memcached_value_mb": 33}, "memcached_value_mb: 33 does not fit: write 1 or more, and at most half"),
        ({"memcached_connections": 0}, "memcached_connections: 0 lets nobody in"),
        ({"memcached_options": ["-l 0.0.0.0"]}, "memcached_options: -l 0.0.0.0 is decided by a variable of this role"),
        ({"memcached_options": ["-t 4; reboot"]}, "memcached_options: each must be one option with its value"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()
