# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploys as transactions: the lock of a host, its history, and what a fleet can go back to.

A deploy holds a lock on every host from its begin to its end. The lock also remembers what the deploy
has to undo, so that a host can be put back by anybody who reaches it: by the deploy itself, after a
failure, or by the next one, when the first was cut short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    ACTIVATED,
    Layout,
    ReleaseError,
    State,
    confirm,
    exclusive,
    manifest_of,
    now,
    read_object,
    read_state,
    write_file,
)

LOCK = "deploy.lock"
HISTORY = "history.jsonl"
#: The name of a deploy whose lock cannot be read.
UNKNOWN = "unknown"
#: What a lock is held for that changes nothing of what is live: there is nothing to undo, and nothing to tell.
TRIAL = "tune"
#: Lines of the history that are kept: years of daily deploys in some 200 KiB.
HISTORY_LENGTH = 1000
#: Digits of a commit or signs of another name that must be given at least, so that none is meant by chance.
SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class Lock:
    """Who is deploying, and what there was before.

    :param deploy: the deploy's own name.
    :param action: ``deploy`` or ``rollback``, or ``tune`` for trials.
    :param version: what it deploys, as far as that is known.
    :param by: the person, as the controller knows it.
    :param origin: host name of the controller.
    :param machine: identity of the controller, for itself.
    :param process: the controller's process, for itself.
    :param since: when it began, RFC 3339.
    :param previous: the release to go back to, ``None`` if there was none.
    :param release: what it has staged.
    :param created: whether that release was not on the host before.
    :param confirmed: whether it is live on the whole fleet, so that there is nothing to undo.
    :param label: the deploy that its release is known by from then on: itself, unless it brought back what
        another one had brought, or let a host join.
    :param interrupted: the locks that were taken over since a deploy last came to its end here.
    """

    deploy: str
    action: str = "deploy"
    version: str = ""
    by: str = ""
    origin: str = ""
    machine: str = ""
    process: str = ""
    since: str = ""
    previous: str | None = None
    release: str | None = None
    created: bool = False
    confirmed: bool = False
    label: str = ""
    interrupted: tuple[Mapping[str, Any], ...] = ()

    def describe(self) -> str:
        """Say it in one line."""
        version = f" of {self.version}" if self.version else ""
        return f"{self.action} {self.deploy}{version}, by {self.by} on {self.origin} since {self.since}"


class Locked(ReleaseError):
    """Another deploy holds the lock.

    :param lock: whose it is.
    """

    def __init__(self, lock: Lock) -> None:
        super().__init__(
            f"Another deploy is under way: {lock.describe()}. Wait for it. If it is certain that it has died, "
            f"take its lock over: -e app_break_lock={lock.deploy}"
        )
        self.lock = lock


def read_lock(layout: Layout) -> Lock | None:
    """Return who holds the lock of this host."""
    try:
        data = read_object(layout.root / LOCK)
    except FileNotFoundError:
        return None
    return _lock_from(data)


def _lock_from(data: Mapping[str, Any]) -> Lock:
    names = {item.name for item in dataclasses.fields(Lock)}
    fields = {"deploy": UNKNOWN, **{name: value for name, value in data.items() if name in names}}
    return Lock(**{**fields, "interrupted": tuple(fields.get("interrupted") or ())})


def write_lock(layout: Layout, lock: Lock) -> None:
    """Write the lock, and show that its deploy is alive."""
    path = layout.root / LOCK
    write_file(path, json.dumps(dataclasses.asdict(lock), indent=2, sort_keys=True) + "\n", 0o644)
    os.utime(path)


def acquire(
    layout: Layout, wanted: Lock, *, lease: float, broken: str = "", clock: Callable[[], float] = time.time
) -> Lock | None:
    """Take the lock of this host; whoever has it already keeps it.

    What the deploy would go back to is the current release, unless an earlier deploy was cut short:
    then it is what that one would have gone back to, whether it had flipped this host or not. A deploy
    that was cut short before it staged anything may itself have come after one that had.

    A trial goes back to nothing. One that was cut short leaves no trace in the lock that follows, and none
    begins where a deploy was cut short, since it could not answer for that.

    :param lease: seconds without a step after which a deploy counts as dead.
    :param broken: a deploy that is known to be dead.
    :returns: the deploy whose lock was taken over.
    :raises Locked: when another deploy has it.
    :raises ReleaseError: for a trial, when a deploy was cut short here.
    """
    held = read_lock(layout)
    if held is not None and held.deploy == wanted.deploy:
        return _lock_from(held.interrupted[-1]) if held.interrupted else None
    if held is not None:
        idle = clock() - (layout.root / LOCK).stat().st_mtime
        if held.deploy != broken and idle < lease:
            raise Locked(held)
    if held is not None and held.action == TRIAL:
        held = None
    if held is not None:
        if wanted.action == TRIAL:
            raise ReleaseError(
                f"A deploy was cut short on this host: {held.describe()}. Deploy again first, which puts right "
                "what that one left; then try settings."
            )
        # It may have been cut short between its last line and the end of its lock.
        if held.deploy not in [entry.get("deploy") for entry in history(layout)[-1:]]:
            outcome = ("succeeded", "tidying up was cut short") if held.confirmed else ("interrupted", "")
            record(layout, held, *outcome)
    state = read_state(layout)
    previous = state.current
    interrupted: list[Mapping[str, Any]] = []
    if held is not None:
        if not held.confirmed and held.deploy != UNKNOWN and (held.previous is None or held.previous in state.releases):
            previous = held.previous
        interrupted = [*([] if held.confirmed else held.interrupted), dataclasses.asdict(held) | {"interrupted": ()}]
    write_lock(
        layout,
        dataclasses.replace(wanted, previous=previous, since=wanted.since or now(), interrupted=tuple(interrupted)),
    )
    return held


def settle(layout: Layout, lock: Lock, label: str = "") -> None:
    """Answer for the deploys that were cut short on this host: from here on there is one to undo, this one.

    :param lock: the deploy's, which has the lock of every host by now.
    :param label: when what is current here is live on the whole fleet, the deploy that it is known by, see
        :func:`plan_settlement`.
    """
    held = read_lock(layout) or lock
    state = read_state(layout)
    previous = held.previous
    if label and state.current:
        previous = state.current
        if state.deploys.get(state.current) != label:
            confirm(layout, state.current, label)
    write_lock(layout, dataclasses.replace(held, previous=previous, interrupted=()))


def hand_back(layout: Layout, lock: Lock) -> None:
    """Give a lock back to the deploy that it was taken over from, which is known to be dead.

    For a deploy that ends before it has learnt what became of that one: the next deploy has to.
    """
    *before, last = lock.interrupted
    write_lock(layout, dataclasses.replace(_lock_from(last), interrupted=tuple(before)))
    os.utime(layout.root / LOCK, (0, 0))


def plan_settlement(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Find the hosts that were cut off from the end of a deploy to which others came.

    Such a deploy was live everywhere before any host came to its end, so that it is no longer to be
    undone: the other hosts would not go back with this one.

    :param hosts: for each host what :func:`describe` returned, once a new deploy has its lock.
    :returns: for each such host the deploy that its current release is known by elsewhere.
    """
    ended: dict[str, str] = {}
    for state in hosts.values():
        for entry in [*_taken_over(state), *state["history"]]:
            if entry.get("confirmed") or entry.get("outcome") == "succeeded":
                # A host where there was nothing to do was told no label, and bears the right one.
                label = entry.get("label") or _mark(state, entry.get("current"))
                ended[str(entry.get("deploy"))] = label or ended.get(str(entry.get("deploy")), "")
    found = {}
    for host, state in hosts.items():
        for lock in _taken_over(state):
            label = ended.get(lock["deploy"]) or lock["deploy"]
            knows = lock.get("confirmed") and _mark(state, state["current"]) == label
            if state["current"] and lock["deploy"] in ended and not knows:
                found[host] = label
    return found


def _taken_over(state: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    lock: Mapping[str, Any] = state["lock"] or {}
    return list(lock.get("interrupted", ()))


def _mark(state: Mapping[str, Any], release: Any) -> str:
    return next((str(entry.get("deploy") or "") for entry in state["releases"] if entry["release"] == release), "")


@contextlib.contextmanager
def step(layout: Layout, deploy: str | None) -> Iterator[Lock | None]:
    """Do one step of a deploy: alone on this host, and only while the deploy has the lock.

    :param deploy: ``None`` for a step outside any deploy.
    :raises ReleaseError: when somebody else has taken the lock over meanwhile.
    """
    with exclusive(layout):
        held = None
        if deploy:
            held = read_lock(layout)
            if held is None or held.deploy != deploy:
                whose = f"now it is that of {held.describe()}" if held else "now nobody has it"
                raise ReleaseError(
                    f"deploy {deploy} has lost its lock on this host; {whose}. Nothing more is done here."
                )
            os.utime(layout.root / LOCK)
        yield held


def release_lock(layout: Layout, deploy: str) -> bool:
    """Give the lock back.

    :returns: whether it was this deploy's.
    """
    held = read_lock(layout)
    if held is None or held.deploy != deploy:
        return False
    (layout.root / LOCK).unlink()
    return True


def record(layout: Layout, lock: Lock, outcome: str, reason: str = "") -> None:
    """Write down how a deploy ended, as the last line of the history.

    :param outcome: ``succeeded``, ``failed`` or ``interrupted``.
    """
    entry = {
        **{
            name: getattr(lock, name)
            for name in ("deploy", "action", "version", "by", "origin", "previous", "release", "label")
        },
        "began": lock.since,
        "ended": now(),
        "outcome": outcome,
        "reason": reason,
        "current": read_state(layout).current,
    }
    lines = [json.dumps(line, sort_keys=True) for line in [*history(layout), entry]]
    write_file(layout.root / HISTORY, "\n".join(lines[-HISTORY_LENGTH:]) + "\n", 0o644)


def history(layout: Layout) -> list[dict[str, Any]]:
    """Return what ended on this host, the oldest first; lines that cannot be read are left out."""
    try:
        text = (layout.root / HISTORY).read_text(errors="replace")
    except FileNotFoundError:
        return []
    entries = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def describe(layout: Layout, state: State | None = None) -> dict[str, Any]:
    """Return the state of an application on this host as plain data, but for what runs."""
    found = state or read_state(layout)
    releases = []
    for name in found.releases:
        manifest = manifest_of(layout, name)
        with contextlib.suppress(FileNotFoundError):
            mark = read_object(layout.release(name) / ACTIVATED)
            manifest.update(deploy=mark.get("deploy", ""), activated=mark.get("at", ""))
        releases.append(manifest)
    held = read_lock(layout)
    return {
        "current": found.current,
        "releases": releases,
        "builds": sorted(found.builds),
        "lock": dataclasses.asdict(held) if held else None,
        "history": history(layout),
    }


def _name(release: Mapping[str, Any]) -> str:
    version = f", version {release['version']}" if release.get("version") else ""
    return f"{release['deploy']} (release {release['release']}{version})"


def plan_rollback(hosts: Mapping[str, Mapping[str, Any]], wanted: str = "") -> dict[str, str]:
    """Choose the release that each host goes back to.

    A release has another identifier on each platform, and a host that joined late has fewer of them.
    What they have in common is the deploy that brought them into service, so that one deploy is
    chosen for all hosts. What no deploy brought into service is no candidate.

    :param hosts: for each host what :func:`describe` returned.
    :param wanted: a deploy, a release or a version, or the first signs of one; when empty, of the deploys
        before the one that is live, the one that was live last.
    :returns: the release for each host.
    :raises ReleaseError: when there is none, or not on every host.
    """
    known: dict[str, dict[str, Mapping[str, Any]]] = {}
    live: dict[str, str] = {}
    for host, state in hosts.items():
        for release in state["releases"]:
            # The first is the one that was live last: settings of this host alone may have changed meanwhile.
            if release.get("deploy"):
                known.setdefault(release["deploy"], {}).setdefault(host, release)
            if release["release"] == state["current"]:
                live[host] = release.get("deploy") or ""
    if missing := sorted(set(hosts) - set(live)):
        raise ReleaseError(f"No release is live on {', '.join(missing)}: deploy one first, with deploy.yml.")
    if wanted:
        deploy = _find(known, wanted)
    else:
        if len(set(live.values())) > 1:
            shown = "; ".join(f"{host}: {name or 'one that was cut short'}" for host, name in live.items())
            raise ReleaseError(
                f"The hosts do not serve the same deploy ({shown}), so that there is no one before it. Name the "
                f"one to go back to, -e app_rollback_to=…: {_choices(known)}"
            )
        now_live = next(iter(live.values()))
        # Not the youngest of those before, which may have been rolled back from: the one that was live last.
        older = {name: _last_live(known[name]) for name in known if name < now_live or not now_live}
        if not older:
            raise ReleaseError(
                f"There is nothing to go back to: {now_live or 'what is live'} is the oldest deploy that is kept."
            )
        deploy = max(older, key=lambda name: (older[name], name))
    lacking = [host for host in hosts if host not in known[deploy]]
    if lacking:
        release = next(iter(known[deploy].values()))
        raise ReleaseError(
            f"{', '.join(lacking)} has no release of {_name(release)}: it joined later, or has removed it. Deploy "
            f"that version again instead: deploy.yml -e app_version={release.get('version') or '…'}"
        )
    return {host: str(known[deploy][host]["release"]) for host in hosts}


def _last_live(hosts: Mapping[str, Mapping[str, Any]]) -> str:
    return max(str(release.get("activated") or "") for release in hosts.values())


def _choices(known: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    return ", ".join(_name(next(iter(known[name].values()))) for name in sorted(known, reverse=True)) or "none is kept"


def _find(known: Mapping[str, Mapping[str, Mapping[str, Any]]], wanted: str) -> str:
    """Return the deploy that a name means, the latest one if a version was deployed several times."""
    exact = [
        deploy
        for deploy, hosts in known.items()
        if any(wanted in (deploy, r["release"], r.get("version")) for r in hosts.values())
    ]
    if exact:
        return max(exact)
    begun = {
        (field, str(release.get(field))): deploy
        for deploy, hosts in sorted(known.items())
        for release in hosts.values()
        for field in ("deploy", "release", "version")
        if len(wanted) >= SHORTEST_PREFIX and str(release.get(field) or "").startswith(wanted)
    }
    if len(set(begun.values())) == 1:
        return next(iter(begun.values()))
    what = "could be several of" if begun else "is none of"
    raise ReleaseError(f"app_rollback_to: '{wanted}' {what} what was in service and is kept: {_choices(known)}")


def plan_batches(hosts: Sequence[str], sizes: Sequence[Any]) -> list[list[str]]:
    """Divide hosts into batches, in their order.

    :param sizes: numbers of hosts, or percentages of all hosts such as ``25%``, which are rounded
        down to at least one. The last size is repeated for the hosts that are left.
    :raises ReleaseError: for a size that is neither.
    """
    rest = list(hosts)
    counts = [batch_size(size, len(rest)) for size in sizes] or [len(rest)]
    batches = []
    while rest:
        count = counts.pop(0) if len(counts) > 1 else counts[0]
        batches.append(rest[:count])
        rest = rest[count:]
    return batches


def batch_size(size: Any, total: int) -> int:
    """Return a number of hosts, given as one or as a percentage.

    :raises ReleaseError: for what is neither, or not above 0.
    """
    text = str(size)
    number = text.removesuffix("%")
    if isinstance(size, bool) or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise ReleaseError(
            f"'{size}' is neither a number of hosts nor a percentage: write 1 or 25%, or a list of these"
        )
    if text.endswith("%"):
        if int(number) > 100:
            raise ReleaseError(f"'{size}' is more than all hosts: write 100% at most")
        return max(1, total * int(number) // 100)
    return int(number)


def tell_history(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell what was live when, by whom, and how each deploy ended, as lines of a table.

    :param hosts: for each host what :func:`describe` returned.
    :returns: the latest deploy first.
    """
    entries: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    live: dict[str, list[str]] = {}
    for host, state in hosts.items():
        for entry in state["history"]:
            entries.setdefault(str(entry.get("deploy")), []).append((host, entry))
        if state["lock"]:
            lock = state["lock"]
            entries.setdefault(str(lock["deploy"]), []).append(
                (host, {**lock, "began": lock["since"], "outcome": "under way"})
            )
        for release in state["releases"]:
            if release["release"] == state["current"]:
                live.setdefault(str(release.get("deploy") or "none"), []).append(host)
    rows = [("DEPLOY", "WHAT", "VERSION", "BY", "ENDED", "OUTCOME")]
    for deploy in sorted(entries, reverse=True):
        told = entries[deploy]
        first = told[0][1]
        outcomes: dict[str, list[str]] = {}
        for host, entry in told:
            reason = f": {entry['reason']}" if entry.get("reason") else ""
            outcomes.setdefault(f"{entry.get('outcome')}{reason}", []).append(host)
        rows.append(
            (
                deploy,
                str(first.get("action", "")),
                max((str(entry.get("version") or "") for _host, entry in told), key=len)[:12],
                f"{first.get('by', '')}@{first.get('origin', '')}",
                max(str(entry.get("ended") or "") for _host, entry in told),
                "; ".join(
                    what if len(set(on)) == len(hosts) else f"{what} ({', '.join(dict.fromkeys(on))})"
                    for what, on in sorted(outcomes.items())
                )
                + (" <- live" if len(live.get(deploy, [])) == len(hosts) else "")
                + (f" <- live on {', '.join(live[deploy])}" if 0 < len(live.get(deploy, [])) < len(hosts) else ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]).rstrip()
        for row in rows
    ]
