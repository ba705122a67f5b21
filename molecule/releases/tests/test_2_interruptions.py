"""Whatever interrupts a deploy: hosts serve the old release or the new one, and the next deploy needs no hand work.

The controller is killed, a host reboots, loses its network, or has a full disk.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import ask
from release_testing import (
    APP_HOSTS,
    BALANCERS,
    HOST,
    Fleet,
    State,
    cut_off,
    join_again,
    kill,
    leave_network,
    load,
    on,
    reboot,
    whoami,
)

from tests.load import MIX

Counting = Callable[..., Any]
NUMBERS = itertools.count(1)
#: Requests per second, fewer than those of the table: there are many of these tests, and they count the same.
RATE = 20

#: A task of each step, by which a deploy is caught in it.
STEPS = {
    "lock": "Take the lock, and see what the host has",
    "build": "Build with its dependencies",
    "stage": "Stage the release",
    "migrate": ": Migrate",
    "activate": "Activate the release",
    "check": "See that the host's addresses answer",
    "retire": "Retire what is not current",
    "unlock": "End, and give the lock back",
}
#: Whether each interruption is to come at each step, which `make interruptions` asks for. Otherwise only the death of
#: the controller does; the others come where they differ most.
EVERYWHERE = bool(os.environ.get("EVERY_STEP"))


def at(*steps: str) -> pytest.MarkDecorator:
    """Run a test at some steps, or at every one."""
    return pytest.mark.parametrize("step", list(STEPS) if EVERYWHERE else steps)


def change(fleet: Fleet, step: str = "", **variables: Any) -> dict[str, Any]:
    """Return what makes a release that was never there, so that a deploy of it takes a moment in the step."""
    number = next(NUMBERS)
    changed: dict[str, Any] = {"app_env": {"NOTE": f"interrupted {number}"}, "app_drain_delay": 1}
    if step == "migrate":
        changed["app_migrate_command"] = "sleep 2"
    if step == "build":
        (Path(fleet.variables["app_source"]) / "number.txt").write_text(str(number))
    return {**changed, **variables}


def live(states: dict[str, State]) -> dict[str, str]:
    """Return what is current on each host."""
    return {name: state.current for name, state in states.items()}


def serving(fleet: Fleet) -> set[str]:
    """Return the releases that answer; each host must answer with the one that is current there, and no other.

    nginx may have kept a connection to the instance before, which answers once more over each.
    """
    for balancer in BALANCERS:
        whoami(*balancer)
    current = live(fleet.states())
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
    fleet.run("deploy.yml", change(fleet))
    now = set(live(fleet.settled()).values())
    assert not now & before
    assert serving(fleet) == now
    for name in APP_HOSTS:
        assert on(name, "systemctl list-units --failed --plain --no-legend") == ""


def put_back_unless_live(fleet: Fleet, before: dict[str, State], status: int, said: str) -> None:
    """See that a deploy that failed before it was live everywhere has left every host with what it had."""
    wait_for_all(fleet)
    if status and "live on every host and stays so" not in said:
        assert live(fleet.settled()) == live(before), said


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


@at(*STEPS)
def test_the_controller_is_killed(fleet: Fleet, counting: Counting, step: str) -> None:
    """No client notices; the next deploy takes the lock over, since its owner is known to be dead."""
    before = set(live(fleet.settled()).values())
    with counting(f"controller killed: {step}", rate=RATE):
        status, _said = fleet.disturb(change(fleet, step), STEPS[step], kill)
        assert status == -9
        # What runs on hosts goes on to its end.
        time.sleep(4)
        for state in fleet.states().values():
            assert f"@{state.current}.service" in state.running
        if step in ("lock", "build", "stage", "migrate"):
            assert serving(fleet) == before
        next_deploy(fleet)
    # One that had told the first host of its success was none to undo.
    ended = "succeeded" if step in ("retire", "unlock") else "interrupted"
    assert f'"outcome": "{ended}"' in on("app1", "tail -n 2 /srv/shop/history.jsonl | head -n 1")


def test_the_controller_is_killed_between_two_batches(fleet: Fleet, counting: Counting) -> None:
    """Each host serves one release, some the old and some the new one, until the next deploy."""
    with counting("controller killed: between batches", rate=RATE):
        variables = change(fleet, app_batch=1, app_batch_pause=30)
        status, _said = fleet.disturb(variables, "Pause before the next batch", kill)
        assert status == -9
        assert len(serving(fleet)) >= 2
        # One that fails then leaves every host with what it had before the one that was cut short.
        fleet.fails("deploy.yml", {"app_env": {"SABOTAGE": "import"}})
        fleet.settled()
        next_deploy(fleet)


@at("stage", "activate", "check", "retire")
def test_a_host_reboots(fleet: Fleet, step: str) -> None:
    """A host that goes away in the middle counts as failed, unless it is back in time."""
    before = fleet.settled()
    # The host that builds for its platform, or one that does not.
    name = "app1" if step == "build" else "app2"
    status, said = fleet.disturb(change(fleet, step), STEPS[step], lambda _process: reboot(name))
    states = fleet.states()
    assert all(f"@{state.current}.service" in state.running for state in states.values()), states
    put_back_unless_live(fleet, before, status, said)
    next_deploy(fleet)


@at("stage", "activate")
def test_a_host_loses_its_network(fleet: Fleet, step: str) -> None:
    """It counts as failed, and the failing deploy itself puts it back once it can be reached again."""
    before = fleet.settled()
    # Longer than the controller waits for a host that has fallen silent.
    with cut_off("app2", 9) as cut:
        status, said = fleet.disturb(change(fleet, step), STEPS[step], lambda _process: cut())
    put_back_unless_live(fleet, before, status, said)
    next_deploy(fleet)


def test_a_host_stays_lost(fleet: Fleet) -> None:
    """The others serve what they had, without a failed request; the lost one joins by the next deploy."""
    before = fleet.settled()
    try:
        status, said = fleet.disturb(
            change(fleet, "activate", app_lost_timeout=5),
            STEPS["activate"],
            lambda _process: leave_network("app2"),
        )
        assert status != 0
        assert "app2" in said[said.rindex("TASK [") :]
        with load(20) as clients:
            time.sleep(3)
        assert not clients.result.failures, clients.result.explain()
        assert set(clients.result.hosts) == {"app1", "app3"}
        assert set(clients.result.releases) == {before["app1"].current}
    finally:
        join_again("app2")
    wait_for_all(fleet)
    next_deploy(fleet)


@pytest.fixture(scope="module")
def small_disk(fleet: Fleet) -> Iterator[Callable[[bool], None]]:
    """Give a host's applications a file system of their own, which can be filled and emptied."""
    on(
        "app2",
        "mkdir /mnt/full && mount -t tmpfs -o size=600m tmpfs /mnt/full && cp -a /srv/shop/. /mnt/full/"
        " && mount --bind /mnt/full /srv/shop"
        # Services see the mounts that there were when they started.
        " && systemctl restart nginx 'shop@*'",
    )
    wait_for_all(fleet)

    def fill(full: bool) -> None:
        on(
            "app2",
            "dd if=/dev/zero of=/mnt/full/fill bs=1M; dd if=/dev/zero of=/mnt/full/rest bs=1k; true"
            if full
            else "rm -f /mnt/full/fill /mnt/full/rest",
        )

    yield fill
    fill(False)
    # Back to the disk, with what is there now.
    on(
        "app2",
        "umount /srv/shop && cp -a --remove-destination /mnt/full/. /srv/shop/"
        " && umount /mnt/full && rmdir /mnt/full && systemctl restart nginx 'shop@*'",
    )
    wait_for_all(fleet)
    next_deploy(fleet)


@at("lock", "stage")
def test_a_disk_is_full(fleet: Fleet, counting: Counting, small_disk: Callable[[bool], None], step: str) -> None:
    """Nothing is written half: the deploy fails with the reason, or succeeds, and every host goes on."""
    before = fleet.settled()
    # What the application itself cannot store any more is not the deploy's.
    with counting(f"full disk: {step}", [kind for kind in MIX if not kind.upload], RATE):
        status, said = fleet.disturb(change(fleet, step), STEPS[step], lambda _process: small_disk(True), wait=0)
        if step in ("lock", "build", "stage"):
            assert status == 2, said
        if status and step != "migrate":
            assert "No space left on device" in said
        small_disk(False)
        put_back_unless_live(fleet, before, status, said)
        next_deploy(fleet)
