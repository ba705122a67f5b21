#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight
short_description: Check a whole inventory before any host is touched
version_added: 0.1.0
description:
  - Runs on the controller and looks at the whole inventory at once, so one call does for all hosts.
  - Every problem is reported in one message, each with its variable, its value and what to write
    instead.
options:
  stage:
    description:
      - V(inventory) checks groups and variables, and the files of applications; no host is contacted.
      - V(app) checks only that it is clear which application of the fleet is meant.
      - V(role) checks the values of the role that the task stands in, one by one, wherever they come from.
      - V(hosts) checks what the hosts answered to M(wsgi.fleet.host_info), registered as
        C(fleet_host_info).
    type: str
    choices: [inventory, app, role, hosts]
    default: inventory
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Check the inventory
  wsgi.fleet.preflight:
  run_once: true
"""

RETURN = r"""
msg:
  description: What cannot work, and what to write instead.
  type: str
  returned: always
"""
