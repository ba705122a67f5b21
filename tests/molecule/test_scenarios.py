"""Every Molecule scenario, on hosts with real systemd, nginx, HAProxy and Redis.

The whole of a scenario's output is shown when it fails; ``make molecule SCENARIO=…`` runs one alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
#: What a scenario must have done; a sequence cut short in its settings would prove less.
STEPS = ("create", "converge", "idempotence", "verify")
#: Escape sequences of colours, ECMA-48.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_every_role_has_its_scenario() -> None:
    """One scenario per role, besides those of whole fleets."""
    roles = {path.name for path in ROOT.glob("roles/*")}
    assert roles | {"fleet", "profiling", "releases", "single", "two_apps"} == set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    """Create, converge, prove idempotence, verify, destroy."""
    molecule = shutil.which("molecule", path=str(Path(sys.executable).parent))
    assert molecule, "molecule is not installed beside the running Python"
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
    output = COLOURS.sub("", done.stdout)
    assert done.returncode == 0, output
    for step in STEPS:
        # The sign between the two depends on the terminal.
        assert re.search(rf"^{scenario} \S+ {step}: Executed: Successful$", output, re.MULTILINE), (
            f"{step} did not run\n{output}"
        )
    assert re.search(r"=+ \d+ passed in ", output), f"no test of the scenario ran\n{output}"
    assert not re.search(r"\d+ (?:failed|skipped|xfailed|deselected)", output), output
