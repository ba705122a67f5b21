"""Any sequence of deploys, rollbacks and accidents leaves a fleet that serves one release, and can go on.

Files are real, below a directory for each host; systemd is a model of what it does with units. What a play does
is told in :class:`Play`, in the order of the role app's tasks, with the modules' own functions.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _instance
from ansible_collections.wsgi.fleet.plugins.module_utils import _release as core
from ansible_collections.wsgi.fleet.plugins.module_utils import _transaction as transaction
from ansible_collections.wsgi.fleet.plugins.modules import (
    release_activate,
    release_retire,
    release_stage,
    release_undo,
)
from hypothesis import currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

RUNNING = _instance.UnitState("active", "running", "success", 0)
STOPPED = _instance.UnitState("inactive", "dead", "success", 0)
DEAD = _instance.UnitState("failed", "failed", "exit-code", 0)
UNITS = {
    "worker-1.service": {"text": "[Service]\n", "hosts": "all"},
    "cleanup.service": {"text": "[Service]\n", "hosts": ""},
    "cleanup.timer": {"text": "[Timer]\n", "hosts": "one"},
}
VERSIONS = ("v1", "v2", "v3", "v4")


def tell(text: str) -> None:
    """Show what happened if the test fails."""
    if currently_in_test_context():
        note(text)


class Killed(BaseException):
    """A process ends here, and nothing of it is run any more."""


class StepError(Exception):
    """A task failed on a host, or could not be done there."""


class Machine:
    """Counts what the process under test does to the machine, to end it at any point or to refuse room to it."""

    #: What changes a file system, and what makes something new in it.
    calls = ("mkdir", "open", "rename", "rmdir", "symlink", "unlink", "utime")
    makers = ("mkdir", "open")

    def __init__(self) -> None:
        self.left: int | None = None
        self.killed = False
        self.full: Path | None = None

    def touch(self) -> None:
        """Let one more thing happen, or none any more."""
        if self.killed:
            raise Killed
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.killed = True
                raise Killed

    def wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **more: Any) -> Any:
            creates = name == "mkdir" or (name == "open" and arguments and arguments[0] & os.O_CREAT)
            if self.full and creates and not Path(path).exists() and self.full in Path(path).parents:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            if name != "open" or creates:
                self.touch()
            return real(path, *arguments, **more)

        return call

    @contextmanager
    def process(self, full: Path | None, left: int | None) -> Iterator[None]:
        """Run what a module does.

        :param full: where there is no room.
        :param left: how many calls it lives for.
        """
        self.full, self.left, self.killed = full, left, False
        try:
            yield
        finally:
            self.full, self.left, self.killed = None, None, False


MACHINE = Machine()


class FakeSystemd(_instance.Systemd):
    """Runs units whose conditions hold, as the units' texts say."""

    def __init__(self, layout: core.Layout) -> None:
        self.layout = layout
        self.states: dict[str, _instance.UnitState] = {}
        #: Releases whose instances die.
        self.broken: set[str] = set()

    def _condition(self, unit: str) -> bool:
        release = self.layout.release_of(unit)
        current = core.read_state(self.layout).current == release
        if unit.endswith(".timer"):
            return True
        return current or (unit == self.layout.unit_name(release) and self.layout.permit(release).exists())

    def reload(self) -> None:
        MACHINE.touch()

    def start(self, unit: str) -> None:
        MACHINE.touch()
        if not (self.layout.units / unit).is_file():
            raise core.ReleaseError(f"systemctl start {unit}: Unit not found")
        if self._condition(unit):
            self.states[unit] = DEAD if self.layout.release_of(unit) in self.broken else RUNNING

    def start_and_wait(self, *units: str) -> None:
        for unit in units:
            self.start(unit)

    def stop(self, *units: str) -> None:
        for unit in units:
            MACHINE.touch()
            self.states.pop(unit, None)

    def discard(self, *units: str) -> None:
        for unit in units:
            if not (self.layout.units / unit).is_file():
                raise core.ReleaseError(f"systemctl stop {unit}: Unit not loaded")
        self.stop(*units)

    def state(self, unit: str) -> _instance.UnitState:
        return self.states.get(unit, STOPPED)

    def active(self, *patterns: str) -> list[str]:
        return sorted(
            unit
            for unit, state in self.states.items()
            if state == RUNNING and any(Path(unit).match(pattern) for pattern in patterns)
        )

    def journal(self, unit: str, since: float, lines: int = 40) -> str:
        return "journal"

    def boot(self) -> None:
        """Start what is enabled; what was in /run is gone."""
        self.states.clear()
        for path in sorted(self.layout.run.glob("wsgi.fleet/shop/*")):
            path.unlink()
        for link in sorted(self.layout.units.glob("*.wants/*")):
            if link.exists():
                self.start(link.name)


@dataclass
class Host:
    """An app host.

    :param stable: what it goes back to when a deploy fails.
    :param gated: releases that have passed their gate at some time.
    :param confirmed: releases that were live on the whole fleet at some time.
    """

    name: str
    layout: core.Layout
    systemd: FakeSystemd
    stable: str | None = None
    gated: set[str] = field(default_factory=set)
    confirmed: set[str] = field(default_factory=set)

    @property
    def current(self) -> str | None:
        return core.read_state(self.layout).current


@dataclass(frozen=True)
class Accident:
    """What happens at a step of a play.

    :param step: the step's name.
    :param host: which of the hosts it is, from 0.
    :param kind: ``fails``: the step fails there. ``killed``: its process is killed, after so many calls. ``full``: the
        disk is full from then on. ``lost``: the host cannot be reached any more. ``boots``: it is booted anew before
        the step. ``controller``: the controller is killed when the hosts before this one have done the step.
    """

    step: str
    host: int
    kind: str
    calls: int = 0
    returns: bool = True


STEPS = ("begin", "settle", "stage", "activate", "check", "retire", "end")
ACCIDENTS = st.builds(
    Accident,
    step=st.sampled_from(STEPS),
    host=st.integers(0, 2),
    kind=st.sampled_from(("fails", "killed", "full", "lost", "boots", "controller")),
    calls=st.integers(0, 40),
    returns=st.booleans(),
)


class ControllerKilled(Exception):
    """The controller is killed: no host does anything any more."""


class Play:
    """A run of deploy.yml or rollback.yml."""

    def __init__(self, hosts: Sequence[Host], number: int, action: str, accidents: Sequence[Accident]) -> None:
        self.hosts = list(hosts)
        self.reached = list(hosts)
        self.deploy = f"20261125T{number:06}Z-0000"
        self.action = action
        self.accidents = [replace(accident, host=accident.host % len(hosts)) for accident in accidents]
        self.full: set[str] = set()
        self.infos: dict[str, dict[str, Any]] = {}
        self.stages: dict[str, dict[str, Any]] = {}
        self.settled: dict[str, str] = {}
        self.label = ""

    def step(self, name: str, work: Callable[[Host], Any]) -> dict[str, Any]:
        """Do a task on every host that can be reached; if it fails on one, the play goes to its rescue."""
        results = {}
        failed = []
        for host in list(self.reached):
            mine = [a for a in self.accidents if a.step == name and self.hosts.index(host) == a.host]
            kinds = {accident.kind for accident in mine}
            if "controller" in kinds:
                raise ControllerKilled
            if "boots" in kinds:
                host.systemd.boot()
            if "full" in kinds:
                self.full.add(host.name)
            if "lost" in kinds:
                self.reached.remove(host)
                failed.append(f"{host.name} is lost")
                continue
            calls = next((accident.calls for accident in mine if accident.kind == "killed"), None)
            try:
                with MACHINE.process(host.layout.root.parent / "disk" if host.name in self.full else None, calls):
                    results[host.name] = work(host)
                if "fails" in kinds and name != "stage":
                    # What comes after the module's work, such as its answer; a gate fails in the module itself.
                    failed.append(f"{name} fails on {host.name}")
            except (Killed, StepError, core.ReleaseError, OSError) as error:
                failed.append(f"{host.name}: {type(error).__name__} {error}")
        if failed:
            raise StepError(f"{name}: {failed}")
        return results

    # The modules

    def begin(self, host: Host, settle: bool = False) -> dict[str, Any]:
        lock = transaction.Lock(self.deploy, self.action)
        with core.exclusive(host.layout):
            try:
                interrupted = transaction.acquire(host.layout, lock, lease=3600)
            except transaction.Locked as error:
                # Runs of this controller are known to be over.
                interrupted = transaction.acquire(host.layout, lock, lease=3600, broken=error.lock.deploy)
            if settle:
                transaction.settle(host.layout, lock, self.settled.get(host.name, ""))
        return transaction.describe(host.layout) | {
            "interrupted": interrupted,
            "running": [host.layout.release_of(unit) for unit in host.systemd.active(*host.layout.unit_patterns)],
        }

    def stage(self, host: Host, parameters: Mapping[str, Any]) -> dict[str, Any]:
        def fail(**result: Any) -> None:
            raise StepError(result["msg"])

        defaults: dict[str, Any] = {
            "release": None, "build": None, "units": {}, "files": {}, "environment": "{}", "key": "k", "manifest": {},
            "module": None, "user": "shop", "shared": [], "unit": "",
            "primary": host is self.hosts[0],
            "trial": False,
            "gate": {"deadline": 60, "interval": 0.0, "keep_answering": True},
        }  # fmt: skip
        module = SimpleNamespace(params={**defaults, **parameters}, check_mode=False, fail_json=fail)
        with transaction.step(host.layout, self.deploy) as lock:
            result = release_stage.stage(module, host.layout, host.systemd, lock)
        if "answer" in result:
            host.gated.add(result["release"])
        return result

    def activate(self, host: Host) -> None:
        release = self.stages[host.name]["release"]
        if self.stages[host.name]["settled"]:
            return
        with transaction.step(host.layout, self.deploy):
            release_activate.flip(host.layout, release, host.systemd)
            manifest = core.manifest_of(host.layout, release)
            processes = _instance.processes_of(host.layout, release, manifest, host is self.hosts[0])
            _instance.run_processes(host.layout, processes, host.systemd, 0)

    def retire(self, host: Host, keep: int) -> None:
        stage = self.stages[host.name]
        if stage["settled"] and stage["deploy"] and not set(self.infos[host.name]["running"]) - {stage["release"]}:
            return
        label = self.label
        if self.action == "rollback":
            label = next(r["deploy"] for r in self.infos[host.name]["releases"] if r["release"] == stage["release"])
        parameters = {"confirm": label, "drain": 0, "keep": keep}
        with transaction.step(host.layout, self.deploy) as lock:
            try:
                release_retire.retire(host.layout, parameters, host.systemd, check=False, lock=lock)
            finally:
                held = transaction.read_lock(host.layout)
                if held and held.confirmed:
                    # From here on no host goes back any more.
                    for other in self.hosts:
                        other.stable = other.current
                        if other.stable:
                            other.confirmed.add(other.stable)

    def end(self, host: Host) -> None:
        with core.exclusive(host.layout):
            lock = transaction.read_lock(host.layout)
            if lock and lock.deploy == self.deploy:
                try:
                    transaction.record(host.layout, lock, "succeeded")
                finally:
                    transaction.release_lock(host.layout, self.deploy)

    def undo(self, host: Host) -> None:
        parameters = {"drain": 0, "deadline": 60, "primary": host is self.hosts[0]}
        with core.exclusive(host.layout):
            lock = transaction.read_lock(host.layout)
            if lock and lock.deploy == self.deploy:
                if not lock.interrupted:
                    release_undo.undo(host.layout, lock, parameters, host.systemd)
                try:
                    transaction.record(host.layout, lock, "failed")
                except OSError:
                    assert host.name in self.full
                if lock.interrupted:
                    with suppress(OSError):
                        transaction.hand_back(host.layout, lock)
                else:
                    transaction.release_lock(host.layout, self.deploy)

    # The plays

    def __call__(self, wanted: Callable[[], dict[str, dict[str, Any]]], keep: int) -> str:
        """Run the play.

        :param wanted: what each host is to stage.
        :returns: ``succeeded``, ``undone``, ``unfinished``, or ``killed``.
        """
        try:
            try:
                self.infos = self.step("begin", self.begin)
                if any(info["interrupted"] for info in self.infos.values()):
                    self.settled = transaction.plan_settlement(self.infos)
                    self.infos = self.step("settle", lambda host: self.begin(host, settle=True))
                parameters = wanted()
                self.stages = self.step("stage", lambda host: self.stage(host, parameters[host.name]))
                self.step("activate", self.activate)
                self.step("check", lambda _host: None)
            except StepError as error:
                tell(f"undo: {error}")
                return self.rescue()
            labels = [stage["deploy"] for stage in self.stages.values() if stage["deploy"]]
            self.label = [*labels, self.deploy][0]
            try:
                self.step("retire", lambda host: self.retire(host, keep))
                self.step("end", self.end)
            except StepError as error:
                tell(f"unfinished: {error}")
                self.accidents = [a for a in self.accidents if a.kind != "killed"]
                with suppress(StepError):
                    self.step("end", self.end)
                return "unfinished"
        except ControllerKilled:
            return "killed"
        return "succeeded"

    def rescue(self) -> str:
        self.step("undo", self.undo)
        returned = {accident.host for accident in self.accidents if accident.kind == "lost" and accident.returns}
        for host in self.hosts:
            if host not in self.reached and self.hosts.index(host) in returned:
                self.undo(host)
        return "undone"


class Fleet(RuleBasedStateMachine):
    """One to three hosts under deploys, rollbacks and accidents."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.hosts: list[Host] = []
        self.number = 0

    def teardown(self) -> None:
        self.directory.cleanup()

    def join(self) -> None:
        root = Path(self.directory.name) / f"app{len(self.hosts) + 1}"
        layout = core.Layout("shop", root / "disk/srv", units=root / "disk/units", run=root / "run")
        (root / "disk").mkdir(parents=True)
        self.hosts.append(Host(root.name, layout, FakeSystemd(layout)))

    @initialize(count=st.integers(1, 3), versions=st.sampled_from(((), ("v1",), ("v1", "v2"), ("v1", "v2", "v3"))))
    def start(self, count: int, versions: Sequence[str]) -> None:
        for _number in range(count):
            self.join()
        for version in versions:
            self.deploy_at_last(version)

    @rule()
    def scale_out(self) -> None:
        if len(self.hosts) < 3:
            self.join()

    @rule(number=st.integers(0, 2))
    def boot(self, number: int) -> None:
        if number < len(self.hosts):
            self.hosts[number].systemd.boot()

    def play(self, action: str, accidents: Sequence[Accident]) -> Play:
        self.number += 1
        return Play(self.hosts, self.number, action, accidents)

    def wanted(self, version: str) -> dict[str, dict[str, Any]]:
        """Build a version on each host, as if each had a platform of its own."""
        found = {}
        for host in self.hosts:
            build = core.build_id({"version": version, "host": host.name})
            core.write_file(host.layout.build(build) / core.BUILD_MANIFEST, "{}", 0o644)
            found[host.name] = {"build": build, "units": UNITS, "manifest": {"version": version}, "unit": "[Unit]\n"}
        return found

    def run(self, play: Play, wanted: Callable[[], dict[str, dict[str, Any]]], keep: int) -> str:
        outcome = play(wanted, keep)
        tell(f"{play.action} {play.deploy}: {outcome}")
        for host in self.hosts:
            if outcome == "undone" and transaction.read_lock(host.layout) is None:
                assert host.current == host.stable, f"{host.name} did not go back"
                self.tidy(host)
        if outcome == "succeeded":
            for host in self.hosts:
                release = play.stages[host.name]["release"]
                assert host.current == release == host.stable
                assert transaction.read_lock(host.layout) is None
                self.tidy(host)
                self.works(host)
            assert len({self.known_as(host) for host in self.hosts}) == 1, "hosts know the deploy by several names"
        return outcome

    def known_as(self, host: Host) -> str:
        state = core.read_state(host.layout)
        return state.deploys[state.current or ""]

    def tidy(self, host: Host) -> None:
        """See that nothing runs but what is current."""
        units = host.systemd.active(*host.layout.unit_patterns)
        assert {host.layout.release_of(unit) for unit in units} <= {host.current}

    def works(self, host: Host) -> None:
        """See that the current release runs with its processes, and would after a reboot."""
        assert host.current
        wanted = {host.layout.unit_name(host.current), host.layout.process_unit(host.current, "worker-1.service")}
        if host is self.hosts[0]:
            wanted.add(host.layout.process_unit(host.current, "cleanup.timer"))
        assert set(host.systemd.active(*host.layout.unit_patterns)) == wanted
        assert all(host.layout.wanted_unit(unit).is_symlink() for unit in wanted)

    @rule(
        version=st.sampled_from(VERSIONS), accidents=st.lists(ACCIDENTS, min_size=1, max_size=3), keep=st.integers(0, 3)
    )
    def deploy(self, version: str, accidents: list[Accident], keep: int) -> None:
        play = self.play("deploy", accidents)
        wanted = self.wanted(version)
        for accident in accidents:
            if (accident.step, accident.kind) == ("stage", "fails"):
                self.fail_gate(self.hosts[accident.host % len(self.hosts)], wanted)
        self.run(play, lambda: wanted, keep)
        for host in self.hosts:
            host.systemd.broken = set()

    def fail_gate(self, host: Host, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        state = core.read_state(host.layout)
        build = wanted[host.name]["build"]
        host.systemd.broken = {core.release_id(b"k", inputs(build))} - {state.current or ""}

    @rule(accidents=st.lists(ACCIDENTS, max_size=2), keep=st.integers(0, 3), named=st.sampled_from(("", *VERSIONS)))
    def roll_back(self, accidents: list[Accident], keep: int, named: str) -> None:
        play = self.play("rollback", accidents)

        def plan() -> dict[str, dict[str, Any]]:
            try:
                chosen = transaction.plan_rollback(play.infos, named)
            except core.ReleaseError as error:
                raise StepError(str(error)) from error
            for host in self.hosts:
                assert chosen[host.name] in host.confirmed, "a release that failed was chosen"
            return {name: {"release": release} for name, release in chosen.items()}

        self.run(play, plan, keep)

    @rule(version=st.sampled_from(VERSIONS))
    def deploy_at_last(self, version: str) -> None:
        """Whatever has happened, the next deploy succeeds without anybody's hands."""
        assert self.run(self.play("deploy", []), lambda: self.wanted(version), 2) == "succeeded"

    @invariant()
    def holds(self) -> None:
        for host in self.hosts:
            state = core.read_state(host.layout)
            if not host.layout.current.is_symlink():
                continue
            assert state.current is not None, "current points nowhere"
            assert state.current in host.gated
            directory = host.layout.release(state.current)
            assert (directory / core.MANIFEST).is_file()
            assert (directory / "build" / core.BUILD_MANIFEST).is_file()
            assert host.layout.unit(state.current).is_file()
            assert host.layout.wanted(state.current).is_symlink()
            assert state.activated <= host.confirmed, "a release that failed would be kept"


def inputs(build: str) -> dict[str, Any]:
    """Return what names the release of a build here."""
    return {
        "build": build,
        "environment": {},
        "files": {},
        "gate": dict.fromkeys(release_stage.GATE_OF_RELEASE),
        "unit": "[Unit]\n",
        "units": UNITS,
    }


@contextmanager
def models() -> Iterator[None]:
    """Let modules of this process meet the models of a machine."""
    machines: dict[Path, FakeSystemd] = {}

    def ask(path: Path, gate: _instance.Gate, timeout: float) -> _instance.Answer:
        """Answer as an instance that runs."""
        state = machines[path.parents[2]].states.get(f"shop@{path.parent.name}.service", STOPPED)
        return _instance.Answer(200, "OK") if state == RUNNING else _instance.Answer(reason="nothing listens")

    class Registered(FakeSystemd):
        def __init__(self, layout: core.Layout) -> None:
            super().__init__(layout)
            machines[layout.run] = self

    patches: list[Any] = [
        mock.patch.object(os, "fsync", return_value=None),
        mock.patch.object(_instance, "ask", ask),
        mock.patch.object(release_stage, "pwd", SimpleNamespace(getpwnam=lambda _name: None)),
        mock.patch.dict(globals(), FakeSystemd=Registered),
        *(mock.patch.object(os, name, MACHINE.wrap(name)) for name in MACHINE.calls),
    ]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def test_any_sequence_of_deploys_and_accidents_keeps_the_invariants() -> None:
    with models():
        run_state_machine_as_test(
            Fleet, settings=settings(max_examples=50, stateful_step_count=10, deadline=None, database=None)
        )


#: Rare sequences that once left a mixture: the accidents of one deploy after another, of v2, v3, ...
HISTORIES: dict[str, list[list[Accident]]] = {
    "one host was cut off from the end, and the next deploy fails": [
        [Accident("retire", 1, "controller")], [Accident("check", 0, "fails")],
    ],
    "a host is lost while it retires, and the next deploy fails": [
        [Accident("retire", 1, "lost")], [Accident("stage", 0, "fails")],
    ],
    "half of the hosts flipped, then a deploy died before it staged anything, and the next one fails": [
        [Accident("activate", 1, "controller")], [Accident("stage", 0, "controller")], [Accident("check", 1, "fails")],
    ],
    "a host is lost before it learns that the deploy before was live everywhere": [
        [Accident("retire", 1, "controller")], [Accident("settle", 1, "lost")], [Accident("check", 0, "fails")],
    ],
    "a deploy dies while it takes over from one that was live everywhere": [
        [Accident("retire", 1, "controller")], [Accident("begin", 1, "controller")], [Accident("check", 0, "fails")],
    ],
    "a host boots between the flip and the failure": [[Accident("check", 0, "boots"), Accident("check", 1, "fails")]],
    "a disk is full from the flip on": [[Accident("activate", 0, "full"), Accident("check", 1, "fails")]],
}  # fmt: skip


@pytest.mark.parametrize("accidents", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("keep", [0, 2])
def test_a_fleet_bears(accidents: list[list[Accident]], keep: int) -> None:
    with models():
        fleet = Fleet()
        fleet.start(2, ["v1"])
        for number, several in enumerate(accidents, 2):
            fleet.deploy(f"v{number}", several, keep)
            fleet.holds()
        versions = {
            core.manifest_of(host.layout, host.current)["version"] if host.current else None for host in fleet.hosts
        }
        assert len(versions) == 1
        fleet.deploy_at_last("v9")
        fleet.teardown()
