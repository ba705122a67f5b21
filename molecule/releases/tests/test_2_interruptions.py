"""Whatever interrupts a deploy: hosts serve the old release or the new one, and the next deploy needs no hand work."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fleet_testing import ask
from release_testing import APP_HOSTS, BALANCERS, HOST, Fleet, container, kill, load, on, reboot, whoami

Counting = Callable[[str], Any]
NUMBERS = itertools.count(1)


def change() -> dict[str, Any]:
    """Return settings that no release had before."""
    return {"app_env": {"NOTE": f"interrupted {next(NUMBERS)}"}, "app_migrate_command": "sleep 2"}


def serving(fleet: Fleet) -> set[str]:
    """Return the releases that answer; each host must answer with the one that is current there, and no other.

    nginx may have kept a connection to the instance before, which answers once more over each.
    """
    for balancer in BALANCERS:
        whoami(*balancer)
    current = {name: fleet.state(name).current for name in APP_HOSTS}
    for name, release in current.items():
        answers = [served_by(name) for _number in range(40)]
        assert set(answers[-10:]) == {release}, f"{name} answers with {answers}, and {release} is current"
    return set(current.values())


def served_by(name: str) -> str:
    """Ask an app host itself and return the release that answered."""
    answer = ask(APP_HOSTS[name], "/whoami", headers={"Host": HOST})
    host, _slash, release = answer.headers["x-served-by"].partition("/")
    assert host == name
    return release


def next_deploy(fleet: Fleet) -> None:
    """Deploy again: it must succeed on every host, and leave nothing of the interrupted one."""
    before = serving(fleet)
    fleet.run("deploy.yml", change())
    assert not {state.current for state in fleet.settled().values()} & before
    assert serving(fleet) == {state.current for state in fleet.settled().values()}
    for name in APP_HOSTS:
        assert on(name, "systemctl list-units --failed --plain --no-legend") == ""


@pytest.mark.parametrize(
    "task",
    [
        "Take the lock, and see what the host has",
        "Fetch the source",
        "Stage the release",
        "Migrate",
        "Activate the release",
        "See that the host's addresses answer",
        "Retire what is not current",
        "End, and give the lock back",
    ],
)
def test_the_controller_is_killed(fleet: Fleet, counting: Counting, task: str) -> None:
    """No client notices; the next deploy takes the lock over, since its owner is known to be dead."""
    before = {state.current for state in fleet.settled().values()}
    with counting(f"controller killed at '{task}'"):
        status, _said = fleet.disturb(change(), f": {task}" if task == "Migrate" else task, kill)
        assert status == -9
        # What runs on hosts goes on to its end.
        time.sleep(4)
        for name in APP_HOSTS:
            state = fleet.state(name)
            assert f"@{state.current}.service" in state.running
        if task in ("Fetch the source", "Stage the release", "Migrate"):
            assert serving(fleet) == before
        next_deploy(fleet)
    # One that had told the first host of its success was none to undo.
    ended = "succeeded" if task in ("Retire what is not current", "End, and give the lock back") else "interrupted"
    assert f'"outcome": "{ended}"' in on("app1", "tail -n 2 /srv/shop/history.jsonl | head -n 1")


def test_the_controller_is_killed_between_two_batches(fleet: Fleet, counting: Counting) -> None:
    """Each host serves one release, some the old and some the new one, until the next deploy."""
    with counting("controller killed between batches"):
        variables = {**change(), "app_batch": 1, "app_batch_pause": 30}
        status, _said = fleet.disturb(variables, "Pause before the next batch", kill)
        assert status == -9
        assert len(serving(fleet)) >= 2
        # One that fails then leaves every host with what it had before the one that was cut short.
        fleet.fails("deploy.yml", {"app_env": {"SABOTAGE": "import"}})
        fleet.settled()
        next_deploy(fleet)


@pytest.mark.parametrize(
    "task",
    ["Stage the release", "Activate the release", "See that the host's addresses answer", "Retire what is not current"],
)
def test_a_host_reboots(fleet: Fleet, task: str) -> None:
    """A host that goes away in the middle counts as failed, unless it is back in time."""
    before = fleet.settled()
    status, said = fleet.disturb(change(), task, lambda _process: reboot("app2"))
    states = fleet.states()
    assert all(f"@{state.current}.service" in state.running for state in states.values()), states
    wait_for_all(fleet)
    if status == 2 and "live on every host and stays so" not in said:
        assert {name: state.current for name, state in fleet.settled().items()} == {
            name: state.current for name, state in before.items()
        }, said
    next_deploy(fleet)


def wait_for_all(fleet: Fleet) -> None:
    """Wait until the load balancers have taken a host back."""
    for _attempt in range(40):
        try:
            serving(fleet)
        except (AssertionError, KeyError, OSError):
            time.sleep(0.5)
        else:
            return
    serving(fleet)


@pytest.fixture
def frozen() -> Iterator[Callable[[str, float], None]]:
    """Freeze a host, so that nothing on it answers, for some seconds."""
    threads = []

    def freeze(name: str, seconds: float) -> None:
        subprocess.run(["docker", "pause", container(name)], check=True, capture_output=True)
        thread = threading.Timer(seconds, thaw, [name])
        thread.start()
        threads.append(thread)

    def thaw(name: str) -> None:
        subprocess.run(["docker", "unpause", container(name)], check=False, capture_output=True)

    yield freeze
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("task", ["Activate the release", "See that the host's addresses answer"])
def test_a_host_is_lost_and_comes_back(fleet: Fleet, frozen: Callable[[str, float], None], task: str) -> None:
    """A host that cannot be reached any more fails the deploy, and is put back like the others once it can be."""
    before = fleet.settled()
    status, said = fleet.disturb({**change(), "app_batch": 1}, task, lambda _process: frozen("app2", 20))
    assert status == 2, said
    wait_for_all(fleet)
    assert {name: state.current for name, state in fleet.settled().items()} == {
        name: state.current for name, state in before.items()
    }, said
    next_deploy(fleet)


def test_a_host_loses_its_network(fleet: Fleet) -> None:
    """The others serve; the host that is cut off has one release, and joins with it."""
    address = "172.31.78.152"

    def cut(_process: object) -> None:
        subprocess.run(["docker", "network", "disconnect", "wsgi-fleet-test", container("app2")], check=True)

    try:
        fleet.disturb(change(), "Stage the release", cut)
        with load(20) as clients:
            time.sleep(3)
        assert not clients.result.failures, clients.result.explain()
        assert set(clients.result.hosts) == {"app1", "app3"}
    finally:
        subprocess.run(
            ["docker", "network", "connect", "--ip", address, "wsgi-fleet-test", container("app2")], check=True
        )
    wait_for_all(fleet)
    next_deploy(fleet)


@pytest.mark.parametrize("task", ["Take the lock, and see what the host has", "Stage the release"])
def test_a_disk_is_full(fleet: Fleet, counting: Counting, task: str) -> None:
    """Nothing is written half: the deploy fails with the reason, and every host goes on."""
    before = fleet.settled()
    # A file system of its own that can be filled, with what the host has.
    on(
        "app2",
        "mkdir /mnt/full && mount -t tmpfs -o size=600m tmpfs /mnt/full && cp -a /srv/shop/. /mnt/full/"
        " && mount --bind /mnt/full /srv/shop"
        # Services see the mounts that there were when they started.
        " && systemctl restart nginx",
    )
    wait_for_all(fleet)
    try:
        with counting(f"full disk at '{task}'"):
            if task == "Stage the release":
                # Enough for the lock, not for a release.
                fill = "dd if=/dev/zero of=/mnt/full/fill bs=1M 2>/dev/null; true"
                status, said = fleet.disturb(change(), "Build", lambda _process: on("app2", fill) and None)
            else:
                on("app2", "dd if=/dev/zero of=/mnt/full/fill bs=1M; dd if=/dev/zero of=/mnt/full/rest bs=1k; true")
                said = fleet.fails("deploy.yml", change())
                status = 2
            assert status == 2
            assert "No space left on device" in said
            assert {name: state.current for name, state in fleet.states().items()} == {
                name: state.current for name, state in before.items()
            }
            on("app2", "rm -f /mnt/full/fill /mnt/full/rest")
            next_deploy(fleet)
    finally:
        on("app2", "rm -f /mnt/full/fill /mnt/full/rest")
        # Back to the disk, with what is there now.
        on(
            "app2",
            "umount /srv/shop && cp -a --remove-destination /mnt/full/. /srv/shop/"
            " && umount /mnt/full && rmdir /mnt/full && systemctl restart nginx",
        )
    wait_for_all(fleet)
    next_deploy(fleet)
