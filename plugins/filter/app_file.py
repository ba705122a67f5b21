# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter app_file: the file of the application that a play is about."""

from __future__ import annotations

DOCUMENTATION = r"""
name: app_file
short_description: The file of the application that a play is about
version_added: 0.1.0
description:
  - Gives the path of the file with the variables of an application, among those of a fleet.
options:
  _input:
    description: The folder of these files.
    type: path
    required: true
  name:
    description: The application that was named; the only one that has a file when this is empty.
    type: str
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show which one it is
  ansible.builtin.debug:
    msg: "{{ 'inventories/production/apps' | wsgi.fleet.app_file('shop') }}"
"""

RETURN = r"""
_value:
  description: The path, whether or not there is a file; V(none.yml) where no application is meant.
  type: path
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._apps import app_file


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"app_file": app_file}
