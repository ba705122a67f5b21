# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter uwsgi_problems: settings of uWSGI that cannot work."""

from __future__ import annotations

DOCUMENTATION = r"""
name: uwsgi_problems
short_description: Find settings of uWSGI that cannot work
version_added: 0.1.0
description:
  - Says which variables of the role uwsgi cannot work, alone or together, and what to write instead.
options:
  _input:
    description: The variables of the role, by their names.
    type: dict
    required: true
  python:
    description: The interpreter that the virtual environment of the application is made with.
    type: str
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ {'uwsgi_processes': 2, 'uwsgi_cheaper': 2} | wsgi.fleet.uwsgi_problems('/usr/bin/python3') }}"
"""

RETURN = r"""
_value:
  description: A text for each, with the variable, its value and the remedy.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._uwsgi import problems


def uwsgi_problems(variables: Mapping[str, Any], python: str) -> list[str]:
    """Name what cannot work."""
    return [f"{variable}: {text}." for variable, text in problems(variables, python)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"uwsgi_problems": uwsgi_problems}
