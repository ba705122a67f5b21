# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter release_history: tell what was live when."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release_history
short_description: Tell what was live when, by whom, and how each deploy ended
version_added: 0.1.0
description:
  - Makes one table of the histories of all hosts, the latest deploy first.
options:
  _input:
    description: For each host, by its name, what M(wsgi.fleet.release_info) returned.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: shop} | wsgi.fleet.release_history }}"
"""

RETURN = r"""
_value:
  description: The lines of the table.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import tell_history


def release_history(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell what was live when."""
    return tell_history(hosts)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"release_history": release_history}
