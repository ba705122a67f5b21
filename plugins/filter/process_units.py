# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter process_units: the systemd units of an application's further processes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: process_units
short_description: Render the systemd units of an application's further processes
version_added: 0.1.0
description:
  - Makes a service of each process, C(count) of them where it has one, or a service and a timer
    where it has a C(schedule).
options:
  _input:
    description: Entries of C(app_processes) of the role app.
    type: list
    elements: dict
    required: true
  instance:
    description: C(app_instance) of the role app.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show the units
  ansible.builtin.debug:
    msg: "{{ [{'name': 'worker', 'command': 'celery -A shop worker'}] | wsgi.fleet.process_units(app_instance) }}"
"""

RETURN = r"""
_value:
  description:
    - Units by name and kind, such as C(worker-1.service), each with C(text) and with C(hosts), which is
      empty for what a timer starts.
  type: dict
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils import _process
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError


def process_units(entries: Any, instance: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Render the units of processes.

    :raises AnsibleFilterError: for an entry that cannot be run.
    """
    try:
        units = _process.process_units(_process.read_processes(entries), instance)
    except ReleaseError as error:
        raise AnsibleFilterError(f"app_processes: {error}") from error
    return {name: asdict(unit) for name, unit in units.items()}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"process_units": process_units}
