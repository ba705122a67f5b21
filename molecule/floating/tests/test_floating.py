"""Two load balancers with a floating address: who has it, and what clients lose when that one fails.

The tests of this file build on each other, in their order. What must not take longer than 2 s may take 5 s here, since
the machine does other things as well; the table at the end tells how long it took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from fleet_testing import Answer, ask, host_named, refused_by_checker, run_playbook, site

from tests.load import MIX, Load, Result

ADDRESS = "172.31.78.170"
ADDRESS_6 = "fd00:31:78::170"
BALANCERS = {"lb1": "172.31.78.171", "lb2": "172.31.78.172"}
CONTROLLER = "172.31.78.1"
HOST = "shop.example.com"
#: Seconds within which the address has to answer again, on any machine.
MOST = 5.0
CLIENT = """
import http.client
connection = http.client.HTTPConnection("fd00:31:78::170", 80, timeout=5)
connection.request("GET", "/whoami", headers={"Host": "shop.example.com"})
print(connection.getresponse().read().decode())
"""


def container(name: str) -> str:
    """Return the name of a host's container."""
    return f"wsgi-fleet-floating-{name}"


def docker(*arguments: str) -> str:
    """Call Docker, which must go well, and return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def on(name: str, command: str) -> str:
    """Run a command on a host, which must go well, and return what it printed; quicker than through Ansible."""
    return docker("exec", container(name), "sh", "-c", command)


def mend(name: str) -> None:
    """Give a host back what its network has lost: its address of IPv6, and the way to others."""
    own = f"fd00:31:78::{BALANCERS[name].rpartition('.')[2]}/64"
    on(name, f"ip -6 address replace {own} dev eth0 nodad && ip route replace default via {CONTROLLER}")


def owners(address: str = ADDRESS) -> list[str]:
    """Return the load balancers that have the address."""
    return [name for name in BALANCERS if on(name, f"ip -o address show to {address}")]


def other(name: str) -> str:
    """Return the other load balancer."""
    (found,) = {*BALANCERS} - {name}
    return found


def only(name: str, seconds: float = 8) -> None:
    """Wait until one load balancer has both addresses, and see that this stays so."""
    end = time.monotonic() + seconds
    while (found := (owners(), owners(ADDRESS_6))) != ([name], [name]):
        assert time.monotonic() < end, f"{found} have the addresses, and not {name} alone"
        time.sleep(0.1)
    time.sleep(1.5)
    assert (owners(), owners(ADDRESS_6)) == ([name], [name])


def one() -> str:
    """Return the load balancer that has both addresses, when there is one."""
    end = time.monotonic() + 8
    while len(found := owners()) != 1 or owners(ADDRESS_6) != found:
        assert time.monotonic() < end, f"{found} have the address"
        time.sleep(0.1)
    return found[0]


def shop(path: str) -> Answer:
    """Ask the shop at the floating address."""
    return ask(ADDRESS, path, headers={"Host": HOST})


@dataclass
class Count:
    """What clients of the address notice of an event.

    :param event: when it happened, by the clock of time.monotonic().
    """

    load: Load = field(default_factory=lambda: Load([(ADDRESS, 80)], HOST, rate=60, kinds=MIX[:6], timeout=6))
    event: float = 0.0

    def begins(self) -> None:
        """Note the time."""
        self.event = time.monotonic()

    @property
    def result(self) -> Result:
        """The result; after the block only."""
        return self.load.result

    @property
    def gap(self) -> float:
        """The longest time without an answer on a new connection, in seconds, from the event on."""
        since = self.result.offset(self.event)
        answered = [one.ended for one in self.result.requests if not one.reused and not one.category]
        times = [since, *sorted(ended for ended in answered if ended > since)]
        return max(later - sooner for sooner, later in itertools.pairwise(times))


@pytest.fixture(scope="module")
def rows() -> Iterator[list[tuple[str, Count]]]:
    """What was counted, printed at the end."""
    found: list[tuple[str, Count]] = []
    yield found
    print("\n| what happened | requests | lost | longest time without an answer, s |\n| --- | ---: | ---: | ---: |")
    for name, count in found:
        gap = f"{count.gap:.1f}" if count.event else ""
        print(f"| {name} | {len(count.result.requests)} | {len(count.result.failures)} | {gap} |")


@pytest.fixture
def counting(rows: list[tuple[str, Count]]) -> Callable[[str], contextlib.AbstractContextManager[Count]]:
    """Count requests during a block, and add a row to the table."""

    @contextlib.contextmanager
    def counted(name: str) -> Iterator[Count]:
        count = Count()
        with count.load:
            time.sleep(1)
            yield count
            time.sleep(1)
        rows.append((name, count))

    return counted


def test_one_load_balancer_has_the_addresses() -> None:
    name = one()
    assert shop("/whoami").status == 200
    for balancer, own in BALANCERS.items():
        assert on(balancer, "systemctl is-active keepalived && systemctl is-enabled keepalived") == "active\nenabled"
        assert ask(own, "/whoami", headers={"Host": HOST}).status == 200
    assert owners() == [name]


def test_the_application_sees_its_client_as_it_is() -> None:
    """Of both families: what HAProxy asks for comes from the host's own address, which nginx knows."""
    seen = json.loads(shop("/whoami").body)
    assert (seen["client"], seen["forwarded_for"], seen["scheme"]) == (CONTROLLER, CONTROLLER, "http")
    seen = json.loads(on("app1", f"python3 -c '{CLIENT}'"))
    assert (seen["client"], seen["scheme"]) == ("fd00:31:78::173", "http")


@pytest.mark.parametrize("name", BALANCERS)
def test_the_check_has_no_privileges(name: str) -> None:
    """It runs as an account of its own, and leaves nothing in the log of requests, where that of a client stands."""
    shop("/whoami?mark=1")
    assert on(name, "id -un keepalived_script; getent passwd keepalived_script | cut -d: -f7") == (
        "keepalived_script\n/usr/sbin/nologin"
    )
    ran = "ps -eo user:32=,args= | grep '[h]aproxy_answers' | cut -d' ' -f1"
    end = time.monotonic() + 10
    on(name, "systemctl kill --signal=STOP haproxy")
    try:
        while not (found := on(name, ran)):
            assert time.monotonic() < end
    finally:
        on(name, "systemctl kill --signal=CONT haproxy")
    assert set(found.split()) == {"keepalived_script"}
    log = "journalctl --unit haproxy --output cat"
    assert "GET /whoami" in on("lb1", log) + on("lb2", log)
    assert "200" not in on(name, f"{log} | grep ' / HTTP' || true")
    only(one())


@pytest.mark.parametrize("name", BALANCERS)
def test_settings_that_pass_validation_are_what_keepalived_takes(name: str) -> None:
    assert refused_by_checker(host_named(name), "keepalived") == ""


def test_a_broken_configuration_is_not_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    """keepalived itself is asked, which knows the host's interfaces."""
    before = {name: on(name, "md5sum /etc/keepalived/keepalived.conf") for name in BALANCERS}
    done = site("--limit", "load_balancer", "-e", "load_balancer_interface=eth7")
    assert done.returncode == 2, done.stdout
    assert "interface eth7 for vrrp_instance fleet doesn't exist" in " ".join(done.stdout.split())
    assert {name: on(name, "md5sum /etc/keepalived/keepalived.conf") for name in BALANCERS} == before


def test_changes_of_configurations_move_nothing(
    counting: Callable[[str], contextlib.AbstractContextManager[Count]],
) -> None:
    """Both services are reloaded on both load balancers, as when a third one joins, and nothing is lost."""
    name = one()
    nodes = [{"name": balancer, "address": own} for balancer, own in {**BALANCERS, "lb3": "172.31.78.174"}.items()]
    with counting("site.yml, and reloads of HAProxy and keepalived") as count:
        changes = {"load_balancer_nodes": nodes, "load_balancer_slow_start": 1}
        done = site("--limit", "load_balancer", "-e", json.dumps(changes))
        assert done.returncode == 0, done.stdout
        assert "RUNNING HANDLER [wsgi.fleet.load_balancer : Reload keepalived]" in done.stdout
        assert "RUNNING HANDLER [wsgi.fleet.load_balancer : Reload HAProxy]" in done.stdout
        for balancer in BALANCERS:
            on(balancer, "systemctl reload haproxy keepalived")
            time.sleep(2)
    only(name)
    assert not count.result.failures, count.result.explain()


def test_a_crash_of_haproxy(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """systemd starts it anew, at the latest the other load balancer answers."""
    name = one()
    with counting("SIGKILL of all processes of HAProxy, which systemd starts anew") as count:
        count.begins()
        on(name, "systemctl kill --signal=KILL haproxy")
        time.sleep(3)
    assert count.gap < MOST
    one()


def test_haproxy_dies_for_good(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """The address does not come back with it, since that would cost another gap."""
    name = one()
    with counting("death of HAProxy") as count:
        count.begins()
        on(name, "systemctl kill --signal=KILL haproxy; systemctl stop haproxy")
        time.sleep(4)
    assert count.gap < MOST
    only(other(name))
    with counting("HAProxy is back") as count:
        on(name, "systemctl start haproxy")
        time.sleep(4)
    assert not count.result.failures, count.result.explain()
    only(other(name))


def test_haproxy_hangs(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """It listens and says nothing."""
    name = one()
    with counting("HAProxy hangs (SIGSTOP)") as count:
        count.begins()
        on(name, "systemctl kill --signal=STOP haproxy")
        try:
            only(other(name))
        finally:
            on(name, "systemctl kill --signal=CONT haproxy")
    assert count.gap < MOST
    only(other(name))


def test_keepalived_dies(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """Without a word, and so without giving up its address; systemd starts it anew."""
    name = one()
    with counting("SIGKILL of all processes of keepalived") as count:
        count.begins()
        on(name, "systemctl kill --signal=KILL keepalived")
        time.sleep(3)
    assert count.gap < MOST
    one()
    assert on(name, "systemctl is-active keepalived") == "active"


def test_the_host_dies(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """As by a power cut; when it is back, it waits."""
    name = one()
    with counting("death of the host") as count:
        count.begins()
        docker("kill", container(name))
        time.sleep(5)
    assert count.gap < MOST
    with counting("the host is back") as back:
        docker("start", container(name))
        end = time.monotonic() + 60
        while on(name, "systemctl is-system-running || true") not in ("running", "degraded"):
            assert time.monotonic() < end
            time.sleep(0.3)
        time.sleep(3)
    mend(name)
    assert not back.result.failures, back.result.explain()
    only(other(name))


@contextlib.contextmanager
def partition() -> Iterator[None]:
    """The load balancers cannot reach each other, and everybody else can reach both."""
    for name in BALANCERS:
        # What goes there goes to a machine that there is not.
        on(name, f"ip neigh replace {BALANCERS[other(name)]} lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
    try:
        yield
    finally:
        for name in BALANCERS:
            on(name, f"ip neigh del {BALANCERS[other(name)]} dev eth0")


def test_a_partition_heals(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """Each takes the other for dead, and both serve; a moment after they see each other again, one has the address."""
    with counting("partition between the load balancers, which heals") as count:
        with partition():
            end = time.monotonic() + 8
            while owners() != ["lb1", "lb2"]:
                assert time.monotonic() < end
                time.sleep(0.1)
            done = site("--limit", "load_balancer")
            assert done.returncode == 2
            said = " ".join(done.stdout.split())
            assert "lb1 and lb2 both have 172.31.78.170, fd00:31:78::170, since they do not hear each other" in said
            count.begins()
        name = one()
        only(name)
    assert count.gap < MOST
    answered = [one for one in count.result.answered_after(count.event + 2) if one.category]
    assert not answered, count.result.explain()


def test_the_network_of_the_host_fails(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """It gives the address up where nobody hears it, and waits when it is back."""
    name = one()
    with counting("the network of the host fails, and comes back") as count:
        count.begins()
        on(name, "ip link set eth0 down")
        time.sleep(3)
        on(name, "ip link set eth0 up")
        mend(name)
        time.sleep(3)
    assert count.gap < MOST
    only(other(name))


def test_maintenance(counting: Callable[[str], contextlib.AbstractContextManager[Count]]) -> None:
    """The address goes to the other one first, and stays there."""
    name = one()
    with counting("maintain.yml of the load balancer with the address") as count:
        done = run_playbook("maintain.yml", "-e", f"host={name}")
        assert done.returncode == 0, done.stdout
    only(other(name))
    assert on(name, "systemctl is-active keepalived") == "active"
    print(count.result.explain())
    # What was under way when the address went away is lost, and no more.
    assert len(count.result.failures) <= 30, count.result.explain()


def test_nobody_hands_over_to_nobody() -> None:
    """Where no other load balancer takes the address, it stays, and maintenance does not begin."""
    name = one()
    on(other(name), "systemctl stop keepalived")
    try:
        done = run_playbook("maintain.yml", "-e", f"host={name}")
    finally:
        on(other(name), "systemctl start keepalived")
    assert done.returncode == 2
    assert "no other load balancer has taken 172.31.78.170" in " ".join(done.stdout.split())
    assert "Upgrade the packages" not in done.stdout
    one()
    assert on(name, "systemctl is-active keepalived") == "active"


def test_the_address_is_given_up_and_taken_again() -> None:
    done = site("--limit", "load_balancer", "-e", '{"fleet_floating_address": []}')
    assert done.returncode == 0, done.stdout
    assert owners() == owners(ADDRESS_6) == []
    for name, own in BALANCERS.items():
        said = on(
            name, "systemctl is-active keepalived; systemctl is-enabled keepalived; ls /etc/keepalived/*.conf || :"
        )
        assert said == "inactive\ndisabled"
        assert ask(own, "/whoami", headers={"Host": HOST}).status == 200
    with pytest.raises(OSError, match=r"timed out|No route|unreachable"):
        ask(ADDRESS, "/whoami", timeout=1)
    done = site("--limit", "load_balancer")
    assert done.returncode == 0, done.stdout
    only(one())
    assert shop("/whoami").status == 200


@pytest.mark.parametrize("name", ["lb1", "lb2", "app1"])
def test_no_unit_has_failed(name: str) -> None:
    assert on(name, "systemctl list-units --failed --plain --no-legend") == ""
