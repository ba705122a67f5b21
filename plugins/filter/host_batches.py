# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter host_batches: divide hosts into batches."""

from __future__ import annotations

DOCUMENTATION = r"""
name: host_batches
short_description: Divide hosts into batches
version_added: 0.1.0
description:
  - Divides a list of hosts into batches, in its order. The last size is repeated for what is left.
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  sizes:
    description: A number of hosts, a percentage of all of them, or a list of these.
    type: raw
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: One host, then half of them, then the rest
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | wsgi.fleet.host_batches([1, '50%', '100%']) }}"
"""

RETURN = r"""
_value:
  description: A list of lists of hosts.
  type: list
  elements: list
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import plan_batches


def host_batches(hosts: list[str], sizes: Any) -> list[list[str]]:
    """Divide hosts into batches."""
    try:
        return plan_batches(hosts, sizes if isinstance(sizes, list) else [sizes])
    except ReleaseError as error:
        raise AnsibleFilterError(f"app_batch: {error}") from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"host_batches": host_batches}
