"""Every Molecule scenario, on hosts with real systemd, nginx, HAProxy and Redis.

They run two at a time, since each waits for a good part of its time: for hosts to boot, for connections to drain,
for a health check to fail. One of the two lanes begins beside the tests that need no host, which leave a processor
idle (conftest.py). The whole of a scenario's output is shown when it fails; ``make molecule SCENARIO=…`` runs one
alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future
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
#: The longer a scenario takes, the sooner it begins, so that both lanes come to their end at about the same time; what
#: is not named takes the least.
LONGEST = (
    "servers", "releases", "fleet", "floating", "granian", "firewall", "tune", "profiling", "load_balancer", "acme",
    "single", "two_apps", "app", "uwsgi", "sandbox", "gunicorn", "redis_ha", "redis", "nginx", "certificate",
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


def longest_first(scenarios: Iterable[str]) -> list[str]:
    """Put scenarios into the order in which they begin."""
    return sorted(scenarios, key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))


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


def test_every_role_has_its_scenario() -> None:
    """One scenario per role, besides those of whole fleets."""
    roles = {path.name for path in ROOT.glob("roles/*")}
    fleets = {"acme", "fleet", "floating", "profiling", "redis_ha", "releases", "servers", "single", "two_apps"}
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
