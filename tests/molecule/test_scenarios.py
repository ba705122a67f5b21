"""Every Molecule scenario, on hosts with real systemd, nginx, HAProxy and Redis.

They run two at a time, since each waits for a good part of its time: for hosts to boot, for connections to drain,
for a health check to fail. The whole of a scenario's output is shown when it fails; ``make molecule SCENARIO=…`` runs
one alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
#: What a scenario must have done; a sequence cut short in its settings would prove less.
STEPS = ("create", "converge", "idempotence", "verify")
#: Escape sequences of colours, ECMA-48.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: What says why a scenario failed: lines of pytest, inside the frame that Molecule may draw, and of Ansible.
WRONG = re.compile(r"^[ │]*(?:(?:FAILED(?! - RETRYING)|ERROR|CRITICAL) |E  |fatal: |failed: |\[ERROR\])")
#: How many scenarios run at a time.
LANES = 2
#: The longer a scenario takes, the sooner it begins, so that both lanes come to their end at about the same time; what
#: is not named takes the least.
LONGEST = (
    "servers", "releases", "fleet", "granian", "tune", "profiling", "load_balancer", "acme", "single", "two_apps",
    "app", "uwsgi", "sandbox", "gunicorn", "redis_ha", "redis", "firewall", "nginx", "certificate",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What ``molecule test`` has come to.

    :param seconds: how long it took.
    """

    status: int
    output: str
    seconds: float


def told(run: Run) -> str:
    """Return what a scenario printed, with what went wrong in front, since a report may show its beginning only."""
    lines = run.output.splitlines()
    wrong = [line.strip(" │") for line in lines if WRONG.match(line)]
    return "\n".join([*wrong[:50], "", "The whole output:", *lines])


def molecule_test(scenario: str) -> Run:
    """Create, converge, prove idempotence, verify, destroy."""
    molecule = shutil.which("molecule", path=str(Path(sys.executable).parent))
    assert molecule, "molecule is not installed beside the running Python"
    began = time.monotonic()
    done = subprocess.run(
        [molecule, "test", "--scenario-name", scenario],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_FORCE_COLOR": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(done.returncode, COLOURS.sub("", done.stdout), time.monotonic() - began)


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Run]]]:
    """The runs of the scenarios that were asked for, under way."""
    chosen = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_scenario"
    ]
    chosen.sort(key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    with ThreadPoolExecutor(LANES) as pool:
        yield {name: pool.submit(molecule_test, name) for name in chosen}
        # Only what has not begun: a scenario that runs removes its hosts at its end.
        pool.shutdown(wait=True, cancel_futures=True)


def test_every_role_has_its_scenario() -> None:
    """One scenario per role, besides those of whole fleets."""
    roles = {path.name for path in ROOT.glob("roles/*")}
    fleets = {"acme", "fleet", "profiling", "redis_ha", "releases", "servers", "single", "two_apps"}
    assert roles | fleets == set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, runs: dict[str, Future[Run]]) -> None:
    """Every step has run, on hosts, with all of its tests."""
    run = runs[scenario].result()
    print(f"{scenario}: {run.seconds:.0f} s")
    assert run.status == 0, told(run)
    for step in STEPS:
        # The sign between the two depends on the terminal.
        assert re.search(rf"^{scenario} \S+ {step}: Executed: Successful$", run.output, re.MULTILINE), (
            f"{step} did not run\n{told(run)}"
        )
    assert re.search(r"=+ \d+ passed in ", run.output), f"no test of the scenario ran\n{told(run)}"
    assert not re.search(r"\d+ (?:failed|skipped|xfailed|deselected)", run.output), told(run)
