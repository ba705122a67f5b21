# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action preflight: check a whole inventory on the controller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.wsgi.fleet.plugins.module_utils._preflight import (
    Facts,
    Host,
    Problem,
    check_facts,
    check_inventory,
    render,
    suggest,
)

ROLES = Path(__file__).resolve().parents[2] / "roles"
REQUIRED = ("app_name", "app_source", "app_module")


def read_specs(roles: Path) -> dict[str, Mapping[str, Any]]:
    """Collect the options of every role's argument specification, by variable."""
    specs: dict[str, Mapping[str, Any]] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        data = yaml.safe_load(path.read_text())
        for entry in data["argument_specs"].values():
            specs.update(entry.get("options") or {})
    return specs


def _undefined_name(error: Exception) -> str:
    match = re.search(r"'([A-Za-z_][A-Za-z0-9_]*)' is undefined", str(error))
    return match[1] if match else ""


def read_host(name: str, hostvars: Any, groups: Mapping[str, list[str]], specs: Mapping[str, Any]) -> Host:
    """Evaluate what the inventory sets for a host of the roles' variables."""
    prefixes = tuple(sorted({f"{path.parent.parent.name}_" for path in ROLES.glob("*/meta/argument_specs.yml")}))
    own = hostvars[name]
    variables: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for key in sorted(hostvars.raw_get(name)):
        if key not in specs and not key.startswith(prefixes):
            continue
        try:
            variables[key] = own[key]
        except Exception as error:  # noqa: BLE001 -- any failure of a template is the operator's to know
            # Defaults of roles are not visible here; what builds on one is checked by its role.
            if _undefined_name(error) not in specs:
                failures[key] = str(error)
    try:
        address = str(own["__fleet_address"])
    except Exception:  # noqa: BLE001 -- without the collection's topology the name is the address
        address = str(own.get("fleet_address", own.get("ansible_host", name)))
    return Host(
        name=name,
        groups=frozenset(group for group, members in groups.items() if name in members),
        variables=variables,
        failures=failures,
        address=address,
        base=str(own.get("inventory_dir") or ""),
    )


def _reason(answer: Mapping[str, Any]) -> str:
    """Tell why a host did not answer; where nothing came back, its standard error says it."""
    errors = str(answer.get("module_stderr") or "").strip().splitlines()
    return errors[-1] if errors else str(answer.get("msg", ""))


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks the inventory, or what its hosts answered."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action.

        :raises AnsibleError: for an unknown stage.
        """
        super().run(tmp, task_vars)
        variables = task_vars or {}
        unknown = sorted(set(self._task.args) - {"stage"})
        if unknown:
            raise AnsibleError(f"{unknown[0]}: is not an option of preflight: write stage")
        stage = self._task.args.get("stage", "inventory")
        if stage == "inventory":
            problems, warnings = self._inventory(variables)
        elif stage == "hosts":
            problems, warnings = self._hosts(variables), []
        else:
            raise AnsibleError(f"stage: '{stage}' is unknown: write inventory or hosts")
        for warning in warnings:
            Display().warning(warning)
        if problems:
            return {"failed": True, "msg": render(problems, "Nothing was touched.")}
        return {"changed": False, "msg": "Everything fits together."}

    def _inventory(self, variables: Mapping[str, Any]) -> tuple[list[Problem], list[str]]:
        specs = read_specs(ROLES)
        groups, hostvars = variables["groups"], variables["hostvars"]
        hosts = [read_host(name, hostvars, groups, specs) for name in groups["all"]]
        return check_inventory(hosts, specs, REQUIRED), suggest(hosts, specs.keys())

    def _hosts(self, variables: Mapping[str, Any]) -> list[Problem]:
        hostvars = variables["hostvars"]
        facts = []
        for name in variables["ansible_play_hosts_all"]:
            own = hostvars[name]
            groups = frozenset(own["group_names"])
            answer = own.get("fleet_host_info") or {}
            ports = {
                role: int(own.get(variable, default))
                for role, group, variable, default in (
                    ("nginx", "app", "__fleet_nginx_port", 80),
                    ("load_balancer", "load_balancer", "load_balancer_port", 80),
                    ("redis", "cache", "redis_port", 6379),
                )
                if group in groups
            }
            facts.append(
                Facts(
                    name=name,
                    groups=groups,
                    info=answer if "platform" in answer else None,
                    error=_reason(answer),
                    ports=ports,
                )
            )
        return check_facts(facts)
