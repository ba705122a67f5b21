# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gunicorn_worker: say what settings of Gunicorn need, and what of them cannot work."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: gunicorn_worker
short_description: Say what settings of Gunicorn need, and what of them cannot work
version_added: 0.1.0
description:
  - Checks the variables of the role P(wsgi.fleet.gunicorn#role) against each other, and says what a
    build must have for them.
options:
  _input:
    description: Variables of the role by their names.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Refuse settings that cannot work
  ansible.builtin.assert:
    that: worker.problems | length == 0
    fail_msg: "{{ worker.problems | join('\n') }}"
  vars:
    worker: "{{ {'gunicorn_worker_class': 'sync', 'gunicorn_threads': 4} | wsgi.fleet.gunicorn_worker }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems), a list of messages, C(requirements), packages that a build needs besides Gunicorn, and
      C(conditions), what it must fulfil, as the option O(wsgi.fleet.release_stage#module:requires) has it.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils import _gunicorn


def gunicorn_worker(given: object) -> dict[str, list[Any]]:
    """Return what the settings need, and what is wrong with them.

    :raises AnsibleFilterError: when they are no dictionary.
    """
    if not isinstance(given, Mapping):
        raise AnsibleFilterError("gunicorn_worker: the settings must be a dictionary of the role's variables")
    return {
        "problems": [f"{variable}: {text}." for variable, text in _gunicorn.problems(given)],
        "requirements": _gunicorn.requirements(str(given.get("gunicorn_worker_class", "gthread"))),
        "conditions": _gunicorn.conditions(given),
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"gunicorn_worker": gunicorn_worker}
