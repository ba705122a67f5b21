# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter haproxy_servers: read the servers in HAProxy's statistics."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: haproxy_servers
short_description: Read the servers in HAProxy's statistics
version_added: 0.1.0
description:
  - Turns the statistics of HAProxy, as it tells them under C(/;csv), into a list of its servers.
options:
  _input:
    description: The statistics. An empty text has no servers.
    type: str
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Ask HAProxy
  ansible.builtin.uri:
    url: http://127.0.0.1:8404/;csv
    return_content: true
  register: answer

- name: Tell who is up
  ansible.builtin.debug:
    msg: "{{ answer.content | wsgi.fleet.haproxy_servers | selectattr('status', 'equalto', 'UP') }}"
"""

RETURN = r"""
_value:
  description:
    - Of each server its C(backend) and C(name); its C(status), which is V(UP), V(DOWN), V(NOLB) for one that is
      drained, V(MAINT), V(DRAIN) or V(no); and in C(sessions) how many requests it has or is to get.
  type: list
  elements: dict
"""

import csv
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

#: Rows that are no servers.
OTHERS = frozenset({"FRONTEND", "BACKEND"})


def haproxy_servers(statistics: str) -> list[dict[str, Any]]:
    """Return the servers in the order in which HAProxy names them.

    :raises AnsibleFilterError: for a text that is not HAProxy's.
    """
    if not statistics:
        return []
    reader = csv.DictReader(statistics.removeprefix("# ").splitlines())
    try:
        return [
            {
                "backend": row["pxname"],
                "name": row["svname"],
                # "UP 1/3" is up, and about to go down.
                "status": (row["status"].split() or [""])[0],
                "sessions": int(row["scur"] or 0) + int(row["qcur"] or 0),
            }
            for row in reader
            if row["svname"] not in OTHERS
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"haproxy_servers: not the statistics of HAProxy: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"haproxy_servers": haproxy_servers}
