"""Renders templates in a process of its own, where Ansible finds the collection before anybody else has imported it.

Reads one JSON object in a line, with ``role``, ``template``, ``problems`` and ``settings``, and answers in one.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]
init_plugin_loader([str(ROOT / ".collections")])

from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.template import Templar, trust_as_template  # noqa: E402

LOADER = DataLoader()


@cache
def role(name: str) -> dict[str, Any]:
    """Return a role's defaults and variables, and what it takes from the role app."""
    found: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        path = ROOT / "roles" / name / part / "main.yml"
        found.update(LOADER.load_from_file(str(path), trusted_as_template=True))
    return found


def answer(name: str, template: str, problems: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Render a template; settings are not taken for templates."""
    variables = {
        **role(name),
        **settings,
        "ansible_managed": "Ansible managed",
        "ansible_search_path": [str(ROOT / "roles" / name)],
    }
    templar = Templar(loader=LOADER, variables=variables)
    if problems and (wrong := list(templar.template(trust_as_template("{{ " + problems + " }}")))):
        return {"wrong": [str(text) for text in wrong], "text": ""}
    text = templar.template(trust_as_template("{{ lookup('ansible.builtin.template', '" + template + "') }}"))
    return {"wrong": [], "text": str(text)}


def main() -> None:
    """Answer until nobody asks any more."""
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = answer(asked["role"], asked["template"], asked["problems"], asked["settings"])
        except Exception as error:  # noqa: BLE001 -- the test that has asked fails with it
            reasons = []
            cause: BaseException | None = error
            while cause is not None:
                reasons.append(str(cause))
                cause = cause.__cause__
            told = {"failed": "; ".join(reasons)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
