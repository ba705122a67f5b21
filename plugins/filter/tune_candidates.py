# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter tune_candidates: list the settings that are tried on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tune_candidates
short_description: List the settings that are tried on a host
version_added: 0.1.0
description:
  - The first candidate is what the inventory asks for. After it come those that are wanted, or a grid of
    processes and threads that fits the host.
  - Variables that no role has are refused.
options:
  _input:
    description: Dictionaries of variables of the app server's role, and C(app_server) where it is another one.
    type: list
    elements: dict
    required: true
  server:
    description: The application's app server.
    type: str
    required: true
  processors:
    description: Processors of the host.
    type: int
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show what would be tried
  ansible.builtin.debug:
    msg: "{{ [{'gunicorn_workers': 2}, {'gunicorn_workers': 4}] | wsgi.fleet.tune_candidates('gunicorn', 2) }}"
"""

RETURN = r"""
_value:
  description: Dictionaries with C(label) and C(settings).
  type: list
  elements: dict
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._tune import SIZES, TuneError, candidates

ROLES = Path(__file__).resolve().parents[2] / "roles"


def known_variables(roles: Path = ROLES) -> set[str]:
    """Collect the variables of the app servers' roles, and the one that chooses among these."""
    found = {"app_server"}
    for server in SIZES:
        path = roles / server / "meta" / "argument_specs.yml"
        if path.is_file():
            for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
                found |= set(entry.get("options") or {})
    return found


def tune_candidates(wanted: Sequence[Any], server: str, processors: int) -> list[dict[str, Any]]:
    """List the settings that are tried on a host.

    :raises AnsibleFilterError: for candidates that cannot be tried.
    """
    try:
        return [asdict(entry) for entry in candidates(str(server), int(processors), wanted, known_variables())]
    except TuneError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"tune_candidates": tune_candidates}
