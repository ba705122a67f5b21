# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter limit_directives: limit what the units of an application take."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: limit_directives
short_description: Limit what the units of an application take
version_added: 0.1.0
description:
  - Turns limits into the lines of a systemd unit.
  - A unit that reaches its limit of memory loses one process to the kernel and goes on, C(OOMPolicy=continue), so that
    the server replaces the worker that has grown. Unless the limits say otherwise it gets no swap, which a leak would
    fill first.
options:
  _input:
    description:
      - Any of C(memory_max), C(memory_high), C(memory_swap_max), C(cpu_quota) and C(tasks_max), as systemd reads
        C(MemoryMax) and so on.
    type: dict
    required: true
  memory_mb:
    description: The most memory in MiB, where the limits have no C(memory_max); 0 for no such limit.
    type: int
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show the directives
  ansible.builtin.debug:
    msg: "{{ {'cpu_quota': '150%'} | wsgi.fleet.limit_directives(1536) }}"
"""

RETURN = r"""
_value:
  description: Lines of the C([Service]) section.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils import _sizing


def limit_directives(limits: Any, memory_mb: int) -> list[str]:
    """Return the directives for limits.

    :raises AnsibleFilterError: for limits that systemd could not read.
    """
    try:
        return _sizing.limit_directives(limits, memory_mb)
    except _sizing.SizingError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"limit_directives": limit_directives}
