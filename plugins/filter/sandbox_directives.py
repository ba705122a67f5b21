# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter sandbox_directives: confine a systemd service to what it needs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: sandbox_directives
short_description: Confine a systemd service to what it needs
version_added: 0.1.0
description:
  - Turns what a service needs into the lines of its unit that close everything else.
options:
  _input:
    description:
      - Any of C(network), C(address_families), C(write_paths), C(capabilities), C(executable_memory), C(devices),
        C(system_information), C(system_calls) and C(umask). What is left out stays closed.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show the directives of a service that talks to the network
  ansible.builtin.debug:
    msg: "{{ {'network': true, 'write_paths': ['/srv/shop/shared']} | wsgi.fleet.sandbox_directives }}"
"""

RETURN = r"""
_value:
  description: Lines of the C([Service]) section.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._sandbox import SandboxError, directives


def sandbox_directives(needs: object) -> list[str]:
    """Return the directives for what a service needs.

    :raises AnsibleFilterError: for needs that cannot be put into directives.
    """
    if not isinstance(needs, Mapping):
        raise AnsibleFilterError("sandbox_directives: the needs must be a dictionary")
    try:
        return directives({str(key): _plain(value) for key, value in needs.items()})
    except SandboxError as error:
        raise AnsibleFilterError(f"sandbox_directives: {error}") from error


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"sandbox_directives": sandbox_directives}
