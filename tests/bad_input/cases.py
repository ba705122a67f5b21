"""Reads the corpus of wrong settings and inventories, and checks them as the first play of site.yml does.

Each entry of a file here has a ``name`` and either ``set``, variables of a single server, or ``inventory``, hosts by
group with their address or their variables. It is refused for one ``variable``, the first that it sets unless it
says which, by the one message ``says``, which holds the value and what to write instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.wsgi.fleet.plugins.action.preflight import REQUIRED, read_specs  # noqa: E402
from ansible_collections.wsgi.fleet.plugins.module_utils import _preflight as core  # noqa: E402

HERE = Path(__file__).resolve().parent
SPECS = read_specs(ROOT / "roles")
#: What an application must have; nothing else is needed.
GOOD = {"app_name": "shop", "app_source": "pypi:httpbin==0.10.2", "app_module": "httpbin:app"}


LONG = re.compile(r"5000 of (.*)")


def _lengthen(value: Any) -> Any:
    """Make long texts: ``5000 of ab`` is an a and 4,999 of b."""
    if isinstance(value, dict):
        return {_lengthen(name): _lengthen(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_lengthen(item) for item in value]
    if isinstance(value, str) and (match := LONG.fullmatch(value)):
        return match[1][:-1] + match[1][-1] * (5001 - len(match[1]))
    return value


def read(path: Path) -> Any:
    """Read a file of the corpus."""
    return _lengthen(yaml.safe_load(path.read_text(encoding="utf-8")))


def cases() -> list[dict[str, Any]]:
    """Return all entries, each with the file that it stands in."""
    return [
        {"file": path.stem, **entry}
        for path in sorted(HERE.glob("*.yml"))
        if path.stem != "injections"
        for entry in read(path)
    ]


def variable_of(case: Mapping[str, Any]) -> str:
    """Return the variable that a case is refused for."""
    return str(case.get("variable") or next(iter(case["set"])))


def hosts_of(case: Mapping[str, Any]) -> tuple[list[core.Host], list[str]]:
    """Return the hosts of a case, and the names of its groups."""
    if "set" in case:
        groups = frozenset({"all", "app", "load_balancer", "cache"})
        return [core.Host("one", groups, {**GOOD, **case["set"]}, address="10.0.0.1")], [*groups]
    groups_of: dict[str, set[str]] = {}
    variables: dict[str, dict[str, Any]] = {}
    for group, members in case["inventory"].items():
        for name, value in members.items():
            own = value if isinstance(value, dict) else {} if value is None else {"fleet_address": value}
            groups_of.setdefault(name, {"all"}).add(group)
            variables.setdefault(name, {}).update(own)
            if group == "app":
                variables[name] = {**GOOD, **variables[name]}
    hosts = [
        core.Host(name, frozenset(groups), variables[name], address=str(variables[name].get("fleet_address", name)))
        for name, groups in groups_of.items()
    ]
    return hosts, ["all", *case["inventory"]]


def problems(case: Mapping[str, Any]) -> list[core.Problem]:
    """Return everything that is told of a case."""
    hosts, groups = hosts_of(case)
    return core.check_inventory(hosts, SPECS, REQUIRED, groups=groups)
