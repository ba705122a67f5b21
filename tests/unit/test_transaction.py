"""Locks, histories, and what a fleet can go back to: tables of cases."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _release as release
from ansible_collections.wsgi.fleet.plugins.module_utils import _transaction as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = "a" * 12, "b" * 12
LEASE = 3600.0


@pytest.fixture
def layout(tmp_path: Path) -> release.Layout:
    """A host with two releases, of which the old one is live."""
    found = release.Layout("shop", tmp_path / "srv", units=tmp_path / "units", run=tmp_path / "run")
    release.write_file(found.build("1" * 12) / release.BUILD_MANIFEST, "{}", 0o644)
    for name in (OLD, NEW):
        release.create_release(found, name, "1" * 12, {}, {}, {"version": name[0]})
    release.activate(found, OLD)
    return found


def taken(layout: release.Layout, **lock: Any) -> None:
    core.write_lock(layout, core.Lock(**{"deploy": "D1", "by": "ada", "origin": "desk", "since": "then", **lock}))


def held(layout: release.Layout) -> core.Lock:
    lock = core.read_lock(layout)
    assert lock is not None
    return lock


# The lock


def test_a_free_lock_is_taken_with_what_there_is(layout: release.Layout) -> None:
    wanted = core.Lock("D1", "deploy", "v2", "ada", "desk", "machine", "12 now")
    assert core.acquire(layout, wanted, lease=LEASE) is None
    lock = held(layout)
    assert (lock.deploy, lock.version, lock.by, lock.origin, lock.process) == ("D1", "v2", "ada", "desk", "12 now")
    assert (lock.previous, lock.release, lock.created, lock.confirmed, lock.interrupted) == (
        OLD, None, False, False, (),
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", lock.since)
    assert core.history(layout) == []


def test_a_host_without_the_application_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    layout = release.Layout("shop", tmp_path / "srv")
    with release.exclusive(layout):
        core.acquire(layout, core.Lock("D1"), lease=LEASE)
    assert held(layout).previous is None


@pytest.mark.parametrize("action", ["deploy", "rollback", "tune"])
def test_a_trial_that_was_cut_short_leaves_no_trace(layout: release.Layout, action: str) -> None:
    taken(layout, action="tune", previous=OLD)
    # Nothing of this is what a trial does; it must not count all the same.
    release.activate(layout, NEW)
    assert core.acquire(layout, core.Lock("D2", action), lease=LEASE, broken="D1") is None
    lock = held(layout)
    assert (lock.deploy, lock.action, lock.previous, lock.interrupted) == ("D2", action, NEW, ())
    assert core.history(layout) == []


def test_no_trial_begins_where_a_deploy_was_cut_short(layout: release.Layout) -> None:
    taken(layout, previous=OLD, release=NEW, created=True)
    with pytest.raises(core.Locked):
        core.acquire(layout, core.Lock("T2", "tune"), lease=LEASE)
    with pytest.raises(ReleaseError) as failure:
        core.acquire(layout, core.Lock("T2", "tune"), lease=LEASE, broken="D1")
    assert str(failure.value) == (
        "A deploy was cut short on this host: deploy D1, by ada on desk since then. Deploy again first, which puts "
        "right what that one left; then try settings."
    )
    # The next deploy finds what it has to answer for.
    assert (held(layout).deploy, held(layout).release, core.history(layout)) == ("D1", NEW, [])


def test_who_has_the_lock_keeps_it(layout: release.Layout) -> None:
    taken(layout, previous=OLD, release=NEW, created=True)
    release.activate(layout, NEW)
    assert core.acquire(layout, core.Lock("D1", by="eve"), lease=LEASE) is None
    assert (held(layout).by, held(layout).previous, held(layout).release) == ("ada", OLD, NEW)


@pytest.mark.parametrize(
    ("idle", "broken", "gets"),
    [
        (0, "", False),
        (LEASE - 1, "", False),
        (LEASE, "", True),
        (0, "D1", True),
        (0, "D0", False),
        (0, "D", False),
    ],
)
def test_a_lock_is_taken_over_from_the_dead_only(layout: release.Layout, idle: float, broken: str, gets: bool) -> None:
    taken(layout, version="v9")
    os.utime(layout.root / core.LOCK, (1000, 1000))
    if gets:
        dead = core.acquire(layout, core.Lock("D2"), lease=LEASE, broken=broken, clock=lambda: 1000 + idle)
        assert dead is not None
        assert dead.deploy == "D1"
        assert held(layout).deploy == "D2"
        assert [(entry["deploy"], entry["outcome"]) for entry in core.history(layout)] == [("D1", "interrupted")]
        # A second look tells the same.
        again = core.acquire(layout, core.Lock("D2"), lease=LEASE)
        assert again is not None
        assert again.deploy == "D1"
    else:
        with pytest.raises(core.Locked) as refusal:
            core.acquire(layout, core.Lock("D2"), lease=LEASE, broken=broken, clock=lambda: 1000 + idle)
        assert str(refusal.value) == (
            "Another deploy is under way: deploy D1 of v9, by ada on desk since then. Wait for it. If it is certain "
            "that it has died, take its lock over: -e app_break_lock=D1"
        )
        assert held(layout).deploy == "D1"
        assert core.history(layout) == []


@pytest.mark.parametrize(
    ("lock", "current", "previous"),
    [
        # It had not flipped.
        ({"previous": OLD, "release": NEW}, OLD, OLD),
        # It had.
        ({"previous": OLD, "release": NEW}, NEW, OLD),
        # It had come after one that had flipped, and was cut short before it staged anything.
        ({"previous": OLD, "release": None}, NEW, OLD),
        # It was live everywhere.
        ({"previous": OLD, "release": NEW, "confirmed": True}, NEW, NEW),
        # The very first deploy.
        ({"previous": None, "release": NEW}, NEW, None),
        ({"previous": None, "release": NEW, "confirmed": True}, NEW, NEW),
        # What it would have gone back to is gone.
        ({"previous": "c" * 12, "release": NEW}, NEW, NEW),
        # Nobody can read what it was.
        ({"deploy": "unknown", "previous": None}, OLD, OLD),
    ],
)
def test_what_is_gone_back_to_outlives_interruptions(
    layout: release.Layout, lock: Mapping[str, Any], current: str, previous: str | None
) -> None:
    taken(layout, **lock)
    release.activate(layout, current)
    core.acquire(layout, core.Lock("D2"), lease=0)
    assert held(layout).previous == previous
    core.acquire(layout, core.Lock("D3"), lease=0)
    assert held(layout).previous == previous


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00\x00"])
def test_a_damaged_lock_is_somebodys_and_can_be_broken(layout: release.Layout, text: str) -> None:
    (layout.root / core.LOCK).write_text(text)
    with pytest.raises(core.Locked, match="app_break_lock=unknown"):
        core.acquire(layout, core.Lock("D2"), lease=LEASE)
    core.acquire(layout, core.Lock("D2"), lease=LEASE, broken="unknown")
    assert (held(layout).deploy, held(layout).previous) == ("D2", OLD)


def test_a_lock_of_another_version_of_this_collection_is_read(layout: release.Layout) -> None:
    (layout.root / core.LOCK).write_text('{"deploy": "D1", "colour": "red"}')
    assert held(layout) == core.Lock("D1")


def test_what_a_dead_deploy_has_written_down_is_not_written_again(layout: release.Layout) -> None:
    taken(layout, confirmed=True)
    core.record(layout, held(layout), "succeeded")
    core.acquire(layout, core.Lock("D2"), lease=0)
    assert [(entry["deploy"], entry["outcome"]) for entry in core.history(layout)] == [("D1", "succeeded")]


def test_one_that_was_live_everywhere_has_succeeded(layout: release.Layout) -> None:
    taken(layout, confirmed=True)
    core.acquire(layout, core.Lock("D2"), lease=0)
    (entry,) = core.history(layout)
    assert (entry["deploy"], entry["outcome"], entry["reason"]) == ("D1", "succeeded", "tidying up was cut short")


def test_a_lock_is_given_back_by_its_deploy_only(layout: release.Layout) -> None:
    assert not core.release_lock(layout, "D1")
    taken(layout)
    assert not core.release_lock(layout, "D2")
    assert core.release_lock(layout, "D1")
    assert core.read_lock(layout) is None


def test_a_lock_that_was_taken_over_can_be_handed_back(layout: release.Layout) -> None:
    taken(layout, previous=OLD, release=NEW, created=True)
    core.acquire(layout, core.Lock("D2"), lease=0)
    core.acquire(layout, core.Lock("D3"), lease=0)
    core.hand_back(layout, held(layout))
    assert (held(layout).deploy, [lock["deploy"] for lock in held(layout).interrupted]) == ("D2", ["D1"])
    core.hand_back(layout, held(layout))
    assert held(layout) == core.Lock(
        "D1", by="ada", origin="desk", since="then", previous=OLD, release=NEW, created=True
    )
    # It is known to be dead: nobody has to wait.
    assert core.acquire(layout, core.Lock("D4"), lease=LEASE) is not None


# A step


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (None, "deploy D1 has lost its lock on this host; now nobody has it. Nothing more is done here."),
        (
            {"deploy": "D2"},
            "deploy D1 has lost its lock on this host; now it is that of deploy D2, by ada on desk since then. "
            "Nothing more is done here.",
        ),
    ],
)
def test_a_step_needs_the_lock(layout: release.Layout, lock: Mapping[str, Any] | None, message: str) -> None:
    if lock:
        taken(layout, **lock)
    with pytest.raises(ReleaseError) as refusal, core.step(layout, "D1"):
        pytest.fail("the step was done")
    assert str(refusal.value) == message


def test_a_step_shows_that_its_deploy_is_alive(layout: release.Layout) -> None:
    taken(layout)
    os.utime(layout.root / core.LOCK, (1000, 1000))
    with core.step(layout, "D1") as lock:
        assert lock == held(layout)
    with pytest.raises(core.Locked):
        core.acquire(layout, core.Lock("D2"), lease=60)


def test_a_step_outside_any_deploy_needs_no_lock(layout: release.Layout) -> None:
    taken(layout)
    with core.step(layout, None) as lock:
        assert lock is None


# The history


def test_the_history_tells_how_a_deploy_ended(layout: release.Layout) -> None:
    taken(layout, version="v2", previous=OLD, release=NEW, machine="secret", process="12 x")
    core.record(layout, held(layout), "failed", "at 'Stage the release'")
    (entry,) = core.history(layout)
    assert entry.pop("ended") >= "2026"
    assert entry == {
        "deploy": "D1", "action": "deploy", "version": "v2", "by": "ada", "origin": "desk", "previous": OLD,
        "release": NEW, "label": "", "began": "then", "outcome": "failed", "reason": "at 'Stage the release'",
        "current": OLD,
    }  # fmt: skip


def test_the_history_is_bounded_and_bears_damage(layout: release.Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "HISTORY_LENGTH", 3)
    lines = ["{", "", "[1]", '{"deploy": "D7"}', "\x00", '{"deploy": "D8"}', '{"deploy": "D9"']
    (layout.root / core.HISTORY).write_text("\n".join(lines))
    assert [entry["deploy"] for entry in core.history(layout)] == ["D7", "D8"]
    for number in (1, 2):
        core.record(layout, core.Lock(f"E{number}"), "succeeded")
    assert [entry["deploy"] for entry in core.history(layout)] == ["D8", "E1", "E2"]
    text = (layout.root / core.HISTORY).read_text()
    assert [json.loads(line)["deploy"] for line in text.splitlines()] == ["D8", "E1", "E2"]


def test_a_host_is_described_with_marks_lock_and_history(layout: release.Layout) -> None:
    release.confirm(layout, OLD, "D1")
    taken(layout, deploy="D2")
    core.record(layout, core.Lock("D1"), "succeeded")
    found = core.describe(layout)
    assert (found["current"], found["builds"], found["lock"]["deploy"]) == (OLD, ["1" * 12], "D2")
    assert [(entry["release"], entry["version"], entry.get("deploy")) for entry in found["releases"]] == [
        (OLD, "a", "D1"), (NEW, "b", None),
    ]  # fmt: skip
    assert found["releases"][0]["activated"] >= "2026"
    assert [entry["deploy"] for entry in found["history"]] == ["D1"]
    assert json.loads(json.dumps(found)) == found | {"lock": {**found["lock"], "interrupted": []}}


# Deploys that were cut short at their end


def ending(
    current: str | None,
    marks: Mapping[str, str] | None = None,
    taken_over: Sequence[Mapping[str, Any]] = (),
    succeeded: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Describe a host.

    :param marks: deploys by release.
    :param succeeded: releases by the deploys that came to their end.
    """
    return {
        "current": current,
        "releases": [{"release": name, "deploy": deploy} for name, deploy in (marks or {}).items()],
        "lock": {"deploy": "E", "interrupted": [{"confirmed": False, "label": "", **lock} for lock in taken_over]},
        "history": [
            {"deploy": deploy, "outcome": "succeeded", "current": name} for deploy, name in (succeeded or {}).items()
        ],
    }


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ({"a": ending("r1", {"r1": "D1"})}, {}),
        # Cut short before its end everywhere: it is to be undone.
        ({"a": ending("r2", {}, [{"deploy": "D2"}]), "b": ending("r1", {"r1": "D1"}, [{"deploy": "D2"}])}, {}),
        # One host has given its lock back.
        ({"a": ending("r2", {"r2": "D2"}, [], {"D2": "r2"}), "b": ending("s2", {}, [{"deploy": "D2"}])}, {"b": "D2"}),
        # One host knew, and was cut off afterwards.
        (
            {
                "a": ending("r2", {"r2": "D2"}, [{"deploy": "D2", "confirmed": True, "label": "D2"}]),
                "b": ending("s2", {}, [{"deploy": "D2"}]),
            },
            {"b": "D2"},
        ),
        # It knew, and had not made the mark.
        ({"a": ending("r2", {}, [{"deploy": "D2", "confirmed": True, "label": "D2"}])}, {"a": "D2"}),
        ({"a": ending("r2", {"r2": "D0"}, [{"deploy": "D2", "confirmed": True, "label": "D2"}])}, {"a": "D2"}),
        # A rollback is known by what it brought back.
        (
            {
                "a": ending("r1", {"r1": "D1"}, [{"deploy": "D3", "confirmed": True, "label": "D1"}]),
                "b": ending("s1", {"s1": "D1"}, [{"deploy": "D3"}]),
            },
            {"b": "D1"},
        ),
        # The one that was cut short was itself followed by one that was.
        (
            {
                "a": ending("r2", {"r2": "D2"}, [], {"D2": "r2"}),
                "b": ending("s2", {}, [{"deploy": "D2"}, {"deploy": "D3"}]),
            },
            {"b": "D2"},
        ),
        # Another deploy came to its end.
        ({"a": ending("r1", {"r1": "D1"}, [], {"D1": "r1"}), "b": ending("s2", {}, [{"deploy": "D2"}])}, {}),
        # Nothing is live.
        ({"a": ending("r2", {"r2": "D2"}, [], {"D2": "r2"}), "b": ending(None, {}, [{"deploy": "D2"}])}, {}),
    ],
)  # fmt: skip
def test_hosts_that_were_cut_off_from_the_end_are_found(
    hosts: Mapping[str, Mapping[str, Any]], expected: Mapping[str, str]
) -> None:
    assert core.plan_settlement(hosts) == expected


@pytest.mark.parametrize(("label", "previous", "mark"), [("", OLD, None), ("D1", NEW, "D1"), ("D0", NEW, "D0")])
def test_a_deploy_answers_for_the_one_before(
    layout: release.Layout, label: str, previous: str, mark: str | None
) -> None:
    taken(layout, previous=OLD, release=NEW, created=True)
    release.activate(layout, NEW)
    lock = core.Lock("D2")
    core.acquire(layout, lock, lease=0)
    core.settle(layout, lock, label)
    assert (held(layout).previous, held(layout).interrupted) == (previous, ())
    assert release.read_state(layout).deploys.get(NEW) == mark


# Going back


def serving(current: str, *marks: str, at: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Describe a host.

    :param current: the release that is live.
    :param marks: ``release=deploy=version``, or ``release==version`` for what no deploy brought into service.
    :param at: when each deploy was live last; in the order of their names otherwise.
    """
    releases = []
    for mark in marks:
        name, deploy, version = mark.split("=")
        entry = {"release": name, "version": version}
        releases.append(entry | ({"deploy": deploy, "activated": (at or {}).get(deploy, deploy)} if deploy else {}))
    return {"current": current, "releases": releases}


#: Of two platforms, on which the same deploy has another release.
TWO = {
    "a": serving("aa03", "aa01=D1=v1", "aa02=D2=v2", "aa03=D3=v3"),
    "b": serving("bb03", "bb01=D1=v1", "bb02=D2=v2", "bb03=D3=v3"),
}


@pytest.mark.parametrize(
    ("hosts", "wanted", "expected"),
    [
        (TWO, "", {"a": "aa02", "b": "bb02"}),
        (TWO, "D1", {"a": "aa01", "b": "bb01"}),
        (TWO, "v1", {"a": "aa01", "b": "bb01"}),
        # The release of one platform stands for its deploy.
        (TWO, "bb01", {"a": "aa01", "b": "bb01"}),
        (TWO, "v3", {"a": "aa03", "b": "bb03"}),
        # Again, further back.
        ({"a": TWO["a"] | {"current": "aa02"}}, "", {"a": "aa01"}),
        # After a rollback to D1 and a new deploy, D1 is what was live before, not D3 which was rolled back from.
        ({"a": serving("r4", "r1=D1=v1", "r3=D3=v3", "r4=D4=v4", at={"D1": "D35"})}, "", {"a": "r1"}),
        # Of a host whose own settings changed within a deploy, what was live last; releases come youngest first.
        ({"a": serving("r4", "r4=D4=v4", "r1=D1=v1", "r2=D1=v1")}, "", {"a": "r1"}),
        # What no deploy brought into service is no candidate, however young.
        ({"a": serving("r3", "r1=D1=v1", "r2==v2", "r3=D3=v3")}, "", {"a": "r1"}),
        # A deploy that was cut short after the flip: back to the last one that was not.
        ({"a": serving("r3", "r1=D1=v1", "r2=D2=v2", "r3==v3")}, "", {"a": "r2"}),
        ({"a": serving("r3", "r2=D2=", "r3=="), "b": serving("s3", "s2=D2=", "s3==")}, "", {"a": "r2", "b": "s2"}),
        # A version that was deployed twice.
        ({"a": serving("r3", "r1=D1=v1", "r2=D2=v1", "r3=D3=v3")}, "v1", {"a": "r2"}),
        ({"a": serving("r3", "r1=D1=v1.40", "r2=D2=v1.40", "r3=D3=v3")}, "v1.4", {"a": "r2"}),
        ({"a": serving("r2", "r1=D1=0123456789abcdef", "r2=D2=fedcba9876543210")}, "0123", {"a": "r1"}),
        # Hosts that serve different deploys can still meet at a named one.
        ({"a": TWO["a"], "b": TWO["b"] | {"current": "bb02"}}, "v2", {"a": "aa02", "b": "bb02"}),
    ],
)  # fmt: skip
def test_the_release_to_go_back_to(
    hosts: Mapping[str, Mapping[str, Any]], wanted: str, expected: Mapping[str, str]
) -> None:
    assert core.plan_rollback(hosts, wanted) == expected


@pytest.mark.parametrize(
    ("hosts", "wanted", "message"),
    [
        ({"a": serving("r1", "r1=D1=v1")}, "", "There is nothing to go back to: D1 is the oldest deploy that is kept."),
        ({"a": serving("r1", "r1==v1")}, "",
         "There is nothing to go back to: what is live is the oldest deploy that is kept."),
        ({"a": TWO["a"], "b": {"current": None, "releases": []}}, "",
         "No release is live on b: deploy one first, with deploy.yml."),
        ({"a": TWO["a"], "b": TWO["b"] | {"current": "bb02"}}, "",
         "The hosts do not serve the same deploy (a: D3; b: D2), so that there is no one before it. Name the one to go "
         "back to, -e app_rollback_to=…: D3 (release aa03, version v3), D2 (release aa02, version v2), D1 (release "
         "aa01, version v1)"),
        ({"a": serving("r3", "r2=D2=v2", "r3==v3"), "b": serving("s2", "s2=D2=v2")}, "",
         "The hosts do not serve the same deploy (a: one that was cut short; b: D2), so that there is no one before "
         "it. Name the one to go back to, -e app_rollback_to=…: D2 (release r2, version v2)"),
        ({"a": TWO["a"], "b": serving("bb03", "bb03=D3=v3")}, "",
         "b has no release of D2 (release aa02, version v2): it joined later, or has removed it. Deploy that version "
         "again instead: deploy.yml -e app_version=v2"),
        ({"a": TWO["a"], "b": serving("bb03", "bb03=D3=v3")}, "v1",
         "b has no release of D1 (release aa01, version v1): it joined later, or has removed it. Deploy that version "
         "again instead: deploy.yml -e app_version=v1"),
        ({"a": serving("r2", "r1=D1=", "r2=D2=")}, "v9",
         "app_rollback_to: 'v9' is none of what was in service and is kept: D2 (release r2), D1 (release r1)"),
        ({"a": serving("r3", "r1=D1=v1.41", "r2=D2=v1.42", "r3=D3=v3")}, "v1.4",
         "app_rollback_to: 'v1.4' could be several of what was in service and is kept: D3 (release r3, version v3), "
         "D2 (release r2, version v1.42), D1 (release r1, version v1.41)"),
        # Too short to be meant.
        ({"a": serving("r2", "r1=D1=0123456", "r2=D2=fedcba9")}, "012",
         "app_rollback_to: '012' is none of what was in service and is kept: D2 (release r2, version fedcba9), D1 "
         "(release r1, version 0123456)"),
        # It failed, and is still there.
        ({"a": serving("r3", "r2==v2", "r3=D3=v3")}, "v2",
         "app_rollback_to: 'v2' is none of what was in service and is kept: D3 (release r3, version v3)"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_back_to_is_said(hosts: Mapping[str, Mapping[str, Any]], wanted: str, message: str) -> None:
    with pytest.raises(ReleaseError) as refusal:
        core.plan_rollback(hosts, wanted)
    assert str(refusal.value) == message


# Batches

ABCD = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("hosts", "sizes", "batches"),
    [
        (ABCD, ["100%"], [ABCD]),
        (ABCD, [1], [["a"], ["b"], ["c"], ["d"]]),
        (ABCD, ["1"], [["a"], ["b"], ["c"], ["d"]]),
        (ABCD, ["25%"], [["a"], ["b"], ["c"], ["d"]]),
        (ABCD, ["10%"], [["a"], ["b"], ["c"], ["d"]]),
        (ABCD, ["60%"], [["a", "b"], ["c", "d"]]),
        (ABCD, [1, "50%", "100%"], [["a"], ["b", "c"], ["d"]]),
        (ABCD, [1, 2], [["a"], ["b", "c"], ["d"]]),
        (ABCD, [3], [["a", "b", "c"], ["d"]]),
        (ABCD, [99], [ABCD]),
        (ABCD, [], [ABCD]),
        ([], [1], []),
    ],
)
def test_hosts_in_batches(hosts: list[str], sizes: list[Any], batches: list[list[str]]) -> None:
    assert core.plan_batches(hosts, sizes) == batches


@pytest.mark.parametrize("size", [0, -1, "", "x", "0%", "%", "1.5", "50 %", True, None, "²", "١"])  # noqa: RUF001
def test_what_is_no_size_of_a_batch_is_refused(size: object) -> None:
    with pytest.raises(ReleaseError, match="is neither a number of hosts nor a percentage: write 1 or 25%"):
        core.plan_batches(ABCD, [size])


def test_more_than_all_hosts_is_refused() -> None:
    with pytest.raises(ReleaseError, match="'101%' is more than all hosts: write 100% at most"):
        core.plan_batches(ABCD, ["101%"])


SIZES = st.lists(st.integers(1, 9) | st.integers(1, 100).map(lambda share: f"{share}%"), max_size=4)


@given(st.lists(st.integers(), unique=True, max_size=9), SIZES)
def test_every_host_is_in_one_batch_and_in_its_place(hosts: list[Any], sizes: list[Any]) -> None:
    batches = core.plan_batches(hosts, sizes)
    assert [host for batch in batches for host in batch] == hosts
    assert all(batches)


# The table of the history


def told(deploy: str, outcome: str, **more: str) -> dict[str, str]:
    return {
        "deploy": deploy, "action": "deploy", "version": "v" + deploy[1:], "by": "ada", "origin": "desk",
        "ended": f"2026-11-{deploy[1:]}", "outcome": outcome, **more,
    }  # fmt: skip


def test_the_history_of_a_fleet_is_one_table() -> None:
    lock = {"deploy": "D14", "action": "deploy", "version": "", "by": "eve", "origin": "ci", "since": "now"}
    releases = [{"release": "r", "deploy": "D11"}]
    hosts: dict[str, dict[str, Any]] = {
        "a": {"current": "r", "releases": releases, "lock": lock, "history": [
            told("D11", "succeeded"), told("D12", "failed", reason="at 'Stage'"),
            told("D13", "succeeded", action="rollback", version="v11"),
        ]},
        "b": {"current": "r", "releases": releases, "lock": None, "history": [
            told("D11", "succeeded"), told("D12", "failed", reason="on another host"),
            told("D13", "succeeded", action="rollback", version="v11"),
        ]},
    }  # fmt: skip
    assert core.tell_history(hosts) == [
        "DEPLOY  WHAT      VERSION  BY        ENDED       OUTCOME",
        "D14     deploy             eve@ci                under way (a)",
        "D13     rollback  v11      ada@desk  2026-11-13  succeeded",
        "D12     deploy    v12      ada@desk  2026-11-12  failed: at 'Stage' (a); failed: on another host (b)",
        "D11     deploy    v11      ada@desk  2026-11-11  succeeded <- live",
    ]


def test_a_fleet_that_serves_two_deploys_says_where() -> None:
    histories = [told("D11", "succeeded"), told("D12", "interrupted")]
    hosts: dict[str, dict[str, Any]] = {
        name: {"current": "r", "releases": [{"release": "r", "deploy": deploy}], "lock": None, "history": histories}
        for name, deploy in (("a", "D11"), ("b", "D12"))
    }
    assert [line.partition("2026-11-")[2] for line in core.tell_history(hosts)[1:]] == [
        "12  interrupted <- live on b",
        "11  succeeded <- live on a",
    ]


def test_a_fleet_without_a_history_has_a_heading() -> None:
    hosts: dict[str, dict[str, Any]] = {"a": {"current": None, "releases": [], "lock": None, "history": []}}
    assert core.tell_history(hosts) == ["DEPLOY  WHAT  VERSION  BY  ENDED  OUTCOME"]
