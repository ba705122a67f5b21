"""Pytest plugin of the scenarios: what their testinfra tests share.

Tests import what is not a fixture: ``from fleet_testing import ask``.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names are in lower case, the last one wins."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def ask(
    address: str,
    path: str = "/",
    *,
    port: int = 80,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 10,
) -> Answer:
    """Send one request from the controller, follow no redirect, and return the answer.

    Raises OSError when nothing answers.
    """
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def ask_raw(address: str, data: bytes, *, port: int = 80, timeout: float = 5) -> bytes:
    """Send bytes over TCP and return all that comes back until the other side closes or falls silent."""
    received = b""
    with socket.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            pass
    return received


@pytest.fixture
def variables(host: Host) -> dict[str, Any]:
    """What the inventory says of the host."""
    found: dict[str, Any] = host.ansible.get_variables()
    return found


@pytest.fixture
def address(variables: dict[str, Any]) -> str:
    """The host's address, which the controller reaches too."""
    return str(variables["fleet_address"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the host's journal to the report of a failed test."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and isinstance(host, Host):
        journal = host.run("journalctl --no-pager --lines 60 --output short-precise")
        report.sections.append((f"journal of {host.backend.get_hostname()}", journal.stdout + journal.stderr))
    return report


def apply_role(host: Host, role: str, variables: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Apply a role to the host once more, with the variables of its converge.yml but for those given."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    play = yaml.safe_load((scenario / "converge.yml").read_text())[-1]
    (entry,) = (entry for entry in play["roles"] if entry["role"] == role)
    play["hosts"] = host.backend.get_hostname()
    play["roles"] = [{**entry, "vars": {**entry.get("vars", {}), **variables}}]
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder, "playbook.yml")
        playbook.write_text(yaml.safe_dump([play]))
        inventory = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/inventory/hosts.yml")
        return subprocess.run(
            ["ansible-playbook", "-i", inventory, playbook],
            capture_output=True, text=True, check=False, cwd=os.environ["MOLECULE_PROJECT_DIRECTORY"],
        )  # fmt: skip


def refused(host: Host, role: str, variables: Mapping[str, Any]) -> str:
    """Apply a role with variables that it must refuse; return its message as one line."""
    done = apply_role(host, role, variables)
    assert done.returncode == 2, f"the role was applied:\n{done.stdout}{done.stderr}"
    return " ".join((done.stdout + done.stderr).split())
