"""The corpus of wrong input in tests/bad_input: each is refused on the controller, by one message that helps.

What goes through ``ansible-playbook`` has hosts that cannot be reached but by a program of this test, which notes that
it was called.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.wsgi.fleet.plugins.module_utils import _preflight as core

from tests.bad_input.cases import GOOD, HERE, ROOT, SPECS, cases, hosts_of, problems, read, variable_of

CASES = cases()
INJECTIONS = read(HERE / "injections.yml")
TOOLS = Path(sys.executable).parent
#: A message that helps says what to do.
REMEDY = re.compile(r"\b(write|use|take|set|put|give|name|leave|rename|starts|must|needs?|Supported)\b", re.IGNORECASE)
#: Public variables of which no value is wrong, with the reason.
NEVER_WRONG: dict[str, str] = {}
#: Variables of the topology that an inventory may set.
OF_THE_FLEET = core.FLEET


def named(case: dict[str, Any]) -> str:
    return f"{case['file']}: {case['name']}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_wrong_input_is_refused_by_one_message(case: dict[str, Any]) -> None:
    (problem,) = problems(case)
    assert problem.variable == variable_of(case)
    assert case["says"] in problem.text
    assert REMEDY.search(problem.text), "it does not say what to write instead"
    message = core.render([problem], "Nothing was touched.")
    assert message.isprintable(), "the message has a sign that cannot be seen"
    assert len(message) < 600


def test_what_the_cases_change_is_all_that_is_wrong_in_them() -> None:
    assert problems({"set": {}}) == []
    assert problems({"inventory": {"app": {"app1": "10.0.0.1"}, "load_balancer": {"lb1": "10.0.0.2"}}}) == []


def test_there_are_many_cases_and_no_two_alike() -> None:
    assert len(CASES) >= 150
    names = [named(case) for case in CASES]
    assert len(set(names)) == len(names)
    bodies = [repr(case.get("set", case.get("inventory"))) for case in CASES]
    assert len(set(bodies)) == len(bodies)


def uncovered(specs: Iterable[str], variables: Iterable[str]) -> list[str]:
    """Return public variables that no case is about."""
    return sorted(set(specs) - set(variables) - NEVER_WRONG.keys())


def test_each_public_variable_is_covered() -> None:
    assert uncovered([*SPECS, *OF_THE_FLEET], map(variable_of, CASES)) == []


def test_a_variable_without_a_case_is_told() -> None:
    without = [case for case in CASES if variable_of(case) != "nginx_gzip"]
    assert uncovered([*SPECS, "app_new"], map(variable_of, without)) == ["app_new", "nginx_gzip"]


def fill(place: Any, text: str) -> Any:
    """Put a text where TEXT stands."""
    if isinstance(place, dict):
        return {fill(name, text): fill(value, text) for name, value in place.items()}
    if isinstance(place, list):
        return [fill(value, text) for value in place]
    return place.replace("TEXT", text) if isinstance(place, str) else place


@pytest.mark.parametrize("place", INJECTIONS["places"])
def test_what_would_mean_something_to_a_program_gets_nowhere(place: str) -> None:
    for text in INJECTIONS["texts"]:
        found = problems({"set": {place: fill(INJECTIONS["places"][place], text)}})
        assert [problem.variable for problem in found] == [place], f"{text!r} was let through: {found}"
        assert core.render(found, "").isprintable()


def test_the_places_take_what_is_harmless() -> None:
    """What is refused there is the text, and not the place."""
    harmless = {
        "app_health_status": "200", "app_limits": "1G", "app_maintenance_allow": "10.0.0.1",
        "app_uv_requirement": "uv==1",
        "app_profiler_allow": "10.0.0.1", "certificate_addresses": "10.0.0.1",
        "firewall_allow": "10.0.0.1", "firewall_ssh_from": "10.0.0.1",
        "fleet_nginx_port": "8081",
        "fleet_tls": "self_signed", "gunicorn_workers": "2", "host_sysctl": "net.core.somaxconn",
        "load_balancer_trusted_proxies": "10.0.0.1", "load_balancer_floating_addresses": "10.0.0.100",
        "fleet_floating_address": "10.0.0.100", "nginx_body_buffer_size": "1k", "nginx_max_body_size": "1k",
        "nginx_trusted_proxies": "10.0.0.1", "nginx_worker_processes": "2", "nginx_static_cache_control": None,
        "app_python": "python3", "load_balancer_acme_thumbprint": "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ",
    }  # fmt: skip
    for place, value in INJECTIONS["places"].items():
        text = harmless.get(place, "shop")
        if text is not None:
            assert problems({"set": {place: fill(value, text)}}) == [], place


def write_inventory(directory: Path, case: dict[str, Any], reached: Path) -> Path:
    """Write the inventory of a case; its hosts are reached by a program that notes it."""
    hosts, groups = hosts_of(case)
    program = directory / "reach"
    program.write_text(f'#!/bin/sh\necho "$*" >> {reached}\nexit 255\n')
    program.chmod(0o700)
    reach = {"ansible_connection": "ssh", "ansible_ssh_executable": str(program), "ansible_ssh_retries": 0}
    inventory: dict[str, Any] = {"all": {"vars": reach}}
    for group in groups:
        if group != "all":
            inventory[group] = {"hosts": {host.name: None for host in hosts if group in host.groups}}
    for host in hosts:
        for group in host.groups - {"all"}:
            inventory[group]["hosts"][host.name] = {"fleet_address": host.address, **host.variables}
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory))
    return path


def run(directory: Path, inventory: Path, playbook: str) -> str:
    done = subprocess.run(
        [TOOLS / "ansible-playbook", "-i", inventory, ROOT / playbook],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory / ".ansible"),
            "ANSIBLE_NOCOLOR": "1",
        },
    )
    assert done.returncode != 0, f"it was accepted:\n{done.stdout}"
    return done.stdout + done.stderr


#: Cases that go all the way, by file and name: one of each kind of thing that can be wrong.
WHOLE = [
    "app: a name that climbs out", "nginx: processes with a directive", "redis: a user with rules in its name",
    "load_balancer: directives of a section of their own", "inventories: one address in two spellings",
    "inventories: a host with options of HAProxy", "host: a kernel setting with a line of its own",
    "fleet: a port with a directive",
]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_nobody_is_contacted_over_wrong_input(name: str, tmp_path: Path) -> None:
    (case,) = [case for case in CASES if named(case) == name]
    reached = tmp_path / "reached"
    inventory = write_inventory(tmp_path, case, reached)
    before = {path.name for path in tmp_path.iterdir()}
    said = run(tmp_path, inventory, "site.yml")
    assert "Nothing was touched." in said
    assert f"{variable_of(case)}: " in said
    assert re.search(r"^PLAY \[(?!Check the inventory)", said, re.MULTILINE) is None, "a second play has begun"
    assert not reached.exists(), reached.read_text()
    assert {path.name for path in tmp_path.iterdir()} - before <= {".ansible"}, "files were made beside the inventory"


def test_all_at_once_for_a_deploy(tmp_path: Path) -> None:
    """What is wrong in many variables is told in one message, also by deploy.yml, and a template is not run."""
    wrong = {variable_of(case): case["set"] for case in CASES if case["file"] == "nginx"}
    changes = {name: value for body in wrong.values() for name, value in body.items()}
    case = {
        "set": {
            **changes,
            "app_deployer": "{{ lookup('ansible.builtin.pipe', 'touch " + str(tmp_path / "ran") + "') }}",
        }
    }
    reached = tmp_path / "reached"
    inventory = write_inventory(tmp_path, case, reached)
    inventory.write_text(inventory.read_text().replace("app_deployer: ", "app_deployer: !unsafe "))
    said = run(tmp_path, inventory, "deploy.yml")
    told = {problem.variable for problem in problems(case)}
    # Connections and open files, which are wrong together, are one problem.
    assert len(told) >= len(wrong) - 1 > 15
    assert all(f"- {name}: " in said for name in told)
    assert not reached.exists()
    assert not (tmp_path / "ran").exists()


def test_a_good_inventory_does_reach_its_hosts(tmp_path: Path) -> None:
    """So that the tests above would notice."""
    reached = tmp_path / "reached"
    said = run(tmp_path, write_inventory(tmp_path, {"set": {}}, reached), "site.yml")
    assert "UNREACHABLE" in said
    assert reached.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # A group that holds itself, by way of another.
        ("app: {children: {web: {}}}\nweb: {children: {app: {}}}\n", "recursive dependency loop"),
        # Of two addresses for one host the last would count.
        ("app: {hosts: {app1: {fleet_address: 10.0.0.1, fleet_address: 10.0.0.2}}}\n", "fleet_address"),
    ],
)
def test_ansible_refuses_inventories_that_contradict_themselves(text: str, said: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(text)
    done = subprocess.run(
        [TOOLS / "ansible-inventory", "-i", inventory, "--list"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )
    assert said in done.stdout + done.stderr
    assert "app1" not in done.stdout


def test_keywords_of_granian_are_those_of_its_role() -> None:
    from ansible_collections.wsgi.fleet.plugins.module_utils._values import GRANIAN_OWNED  # noqa: PLC0415

    variables = yaml.safe_load((ROOT / "roles/granian/vars/main.yml").read_text())
    assert set(variables["__granian_owned"]) == GRANIAN_OWNED


def test_an_application_needs_nothing_more() -> None:
    assert set(GOOD) == {"app_name", "app_source", "app_module"}
