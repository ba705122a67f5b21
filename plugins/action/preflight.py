# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action preflight: check a whole inventory on the controller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible_collections.wsgi.fleet.plugins.module_utils._apps import AppFileError, read_app
from ansible_collections.wsgi.fleet.plugins.module_utils._preflight import (
    FLEET,
    AppFile,
    Facts,
    Host,
    Problem,
    check_facts,
    check_inventory,
    check_named,
    check_values,
    render,
    suggest,
)

ROLES = Path(__file__).resolve().parents[2] / "roles"
REQUIRED = ("app_name", "app_source", "app_module")
#: What roles tell each other, and so is there from a deploy earlier in the run.
TOLD = frozenset(
    {
        "app_build_requirements", "app_release_files", "app_release_requires", "app_release_unit", "app_status",
        "app_trial", "app_trial_of", "firewall_status",
    }
)  # fmt: skip
#: Roles whose variables are those of an application.
OF_AN_APP = ("app", "granian", "gunicorn", "uwsgi")


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


def _evaluate(
    names: Iterable[str], evaluate: Callable[[str], Any], specs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Evaluate those variables that are of the roles, or look like it; return values and failures."""
    prefixes = tuple(sorted({f"{path.parent.parent.name}_" for path in ROLES.glob("*/meta/argument_specs.yml")}))
    values: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for key in sorted(names):
        if key in TOLD or (key not in specs and key not in FLEET and not key.startswith(prefixes)):
            continue
        try:
            values[key] = evaluate(key)
        except Exception as error:  # noqa: BLE001 -- any failure of a template is the operator's to know
            # Defaults of roles are not visible here; what builds on one is checked by its role.
            if _undefined_name(error) not in specs:
                failures[key] = str(error)
    return values, failures


def _template_of(templar: Any, data: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return what evaluates a variable of a file."""
    return lambda key: templar.template(data[key])


def read_host(name: str, hostvars: Any, groups: Mapping[str, list[str]], specs: Mapping[str, Any]) -> Host:
    """Evaluate what the inventory sets for a host of the roles' variables."""
    own = hostvars[name]
    variables, failures = _evaluate(hostvars.raw_get(name), own.__getitem__, specs)
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
        elif stage == "app":
            names = [Path(path).stem for path in self._app_paths(variables)]
            problems, warnings = list(check_named(names, self._named(variables))), []
        elif stage == "role":
            problems, warnings = self._role(variables), []
        elif stage == "hosts":
            problems, warnings = self._hosts(variables), []
        else:
            raise AnsibleError(f"stage: '{stage}' is unknown: write inventory, app, role or hosts")
        for warning in warnings:
            Display().warning(warning)
        if problems:
            return {"failed": True, "msg": render(problems, "Nothing was touched.")}
        return {"changed": False, "msg": "Everything fits together."}

    def _inventory(self, variables: Mapping[str, Any]) -> tuple[list[Problem], list[str]]:
        specs = read_specs(ROLES)
        groups, hostvars = variables["groups"], variables["hostvars"]
        hosts = [read_host(name, hostvars, groups, specs) for name in groups["all"]]
        paths = self._app_paths(variables)
        files = [self._app_file(path, variables, specs) for path in paths]
        for path in paths[:1]:
            for other in sorted(Path(path).parent.glob("*.yaml")):
                error = f"is not read, since the files of applications end in .yml: call it {other.stem}.yml"
                files.append(AppFile("/".join(other.parts[-2:]), error=error))
        own = [Host(name=file.path, variables=dict(v)) for file in files for v in list(file.variables.values())[:1]]
        problems = check_inventory(hosts, specs, REQUIRED, files, self._named(variables), list(groups))
        return problems, suggest([*hosts, *own], specs.keys())

    def _role(self, variables: Mapping[str, Any]) -> list[Problem]:
        """Check single values of the role that the task stands in, wherever they come from."""
        if self._task._role is None:
            raise AnsibleError("stage: 'role' is for tasks of a role")
        path = Path(self._task._role._role_path) / "meta" / "argument_specs.yml"
        names: set[str] = set()
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            names.update(entry.get("options") or {})
        # What has no value, such as what only another entry point of the role needs, is not checked.
        values, _failures = _evaluate(
            [name for name in names if name in variables], _template_of(self._templar, variables), {}
        )
        host = Host(name=str(variables["inventory_hostname"]), variables=values)
        return list({problem.variable: problem for problem in check_values([host])}.values())

    def _named(self, variables: Mapping[str, Any]) -> str | None:
        """Return the application that the play is about, if that is said."""
        if "app_name" not in variables:
            return None
        try:
            return str(self._templar.template(variables["app_name"]))
        except AnsibleUndefinedVariable:  # as the role app has it by default, where its play asks
            return None

    def _app_paths(self, variables: Mapping[str, Any]) -> list[str]:
        """Return the files of the applications; only the collection's topology knows of any."""
        if "__fleet_app_files" not in variables:
            return []
        return list(self._templar.template(variables["__fleet_app_files"]))

    def _app_file(self, path: str, variables: Mapping[str, Any], specs: Mapping[str, Any]) -> AppFile:
        """Read the file of an application, and evaluate what it sets on each app host."""
        shown = "/".join(Path(path).parts[-2:])
        try:
            lookup = lookup_loader.get("ansible.builtin.file", loader=self._loader, templar=self._templar)
            read_app(shown, str(lookup.run([path], variables)[0]), {})
            data = self._load(path)
        except AppFileError as error:
            return AppFile(shown, error=str(error).removeprefix(f"{shown}: "))
        except AnsibleError as error:
            return AppFile(shown, error=f"cannot be read: {error.message}")
        values, failures = {}, {}
        for host in variables["groups"].get("app", []):
            around = {**variables["hostvars"].raw_get(host), "hostvars": variables["hostvars"]}
            templar = self._templar.copy_with_new_env(
                available_variables={**around, **data, "app_name": Path(path).stem}
            )
            values[host], failures[host] = _evaluate(data, _template_of(templar, data), specs)
        own = tuple(f"{role}_" for role in OF_AN_APP)
        roles = tuple(f"{path.parent.parent.name}_" for path in ROLES.glob("*/meta/argument_specs.yml"))
        shared = (*FLEET, *(key for key in data if key.startswith((*roles, "fleet_", "__fleet_"))))
        others = [key for key in data if not key.startswith(own) and key in shared]
        return AppFile(shown, values, failures, others)

    def _load(self, path: str) -> dict[str, Any]:
        try:
            data = self._loader.load_from_file(path, trusted_as_template=True)
        except TypeError:  # ansible-core before 2.19 trusts every file
            data = self._loader.load_from_file(path)
        return dict(data or {})

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
                )
                if group in groups
            }
            if "cache" in groups:
                backend = str(own.get("__fleet_cache_backend", "redis"))
                ports[backend] = int(own.get(f"{backend}_port", {"memcached": 11211}.get(backend, 6379)))
            if "load_balancer" in groups and own.get("load_balancer_tls", own.get("fleet_load_balancer_tls")):
                ports["load_balancer_tls"] = int(own.get("load_balancer_tls_port", 443))
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
