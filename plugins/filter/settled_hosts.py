# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter settled_hosts: find hosts that were cut off from the end of a deploy."""

from __future__ import annotations

DOCUMENTATION = r"""
name: settled_hosts
short_description: Find hosts that were cut off from the end of a deploy
version_added: 0.1.0
description:
  - A deploy that was cut short after it came to its end on one host is live on all of them, and no longer
    to be undone. This finds the hosts that could not learn of that.
options:
  _input:
    description: For each host, by its name, what M(wsgi.fleet.release_begin) returned.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Find them
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: shop} | wsgi.fleet.settled_hosts }}"
"""

RETURN = r"""
_value:
  description:
    - For each of these hosts the deploy that its current release is known by, for
      O(wsgi.fleet.release_begin#module:live).
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import plan_settlement


def settled_hosts(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Find hosts that were cut off from the end of a deploy."""
    return plan_settlement(hosts)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"settled_hosts": settled_hosts}
