# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter rollback_plan: choose the release that each host goes back to."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollback_plan
short_description: Choose the release that each host goes back to
version_added: 0.1.0
description:
  - Chooses one earlier deploy for all hosts, and the release that it brought into service on each.
  - Releases that no deploy brought into service on the whole fleet are no candidates.
options:
  _input:
    description: For each host, by its name, what M(wsgi.fleet.release_info) returned.
    type: dict
    required: true
  wanted:
    description:
      - A deploy, a release or a version, or the first four signs of one or more.
      - When empty, the deploy before the one that is live.
    type: str
    default: ''
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Choose
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: shop} | wsgi.fleet.rollback_plan('v1.4.1') }}"
"""

RETURN = r"""
_value:
  description: The release for each host.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import plan_rollback


def rollback_plan(hosts: Mapping[str, Mapping[str, Any]], wanted: str = "") -> dict[str, str]:
    """Choose the release that each host goes back to.

    :raises AnsibleFilterError: when there is none, or not on every host.
    """
    try:
        return plan_rollback(hosts, str(wanted))
    except ReleaseError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rollback_plan": rollback_plan}
