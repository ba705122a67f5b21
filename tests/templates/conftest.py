"""Runs playbooks on this machine alone, with nothing of its user's settings and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent

#: One play over all hosts of the inventories: directory, inventories, its keywords, environment.
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def start() -> Start:
    """Start a playbook; several at once take little longer than one."""

    def run(
        directory: Path, inventories: Sequence[Path], play: Mapping[str, Any], **environment: str
    ) -> subprocess.Popen[str]:
        """Start a playbook in a directory, which gets Ansible's own files as well.

        :param directory: where the playbook lies; roles and group variables beside it count.
        :param play: keywords of the only play.
        :returns: a process that says everything on its standard output.
        """
        playbook = directory / "play.yml"
        whole = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True, **play}
        playbook.write_text(yaml.safe_dump([whole]), encoding="utf-8")
        return subprocess.Popen(
            [
                TOOLS / "ansible-playbook",
                "--connection=local",
                "--extra-vars=ansible_python_interpreter={{ ansible_playbook_python }}",
                *(f"--inventory={inventory}" for inventory in inventories),
                playbook,
            ],
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_HOME": str(directory / ".ansible"),
                "ANSIBLE_REMOTE_TEMP": str(directory / ".ansible" / "remote"),
                "ANSIBLE_NOCOLOR": "1",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def finish() -> Callable[[subprocess.Popen[str]], None]:
    """Wait for a playbook, which must succeed and must not use what Ansible is about to drop."""

    def wait(process: subprocess.Popen[str]) -> None:
        said, _nothing = process.communicate()
        if process.returncode or "[DEPRECATION WARNING]" in said:
            pytest.fail(f"exit status {process.returncode}\n\n{said}", pytrace=False)

    return wait
