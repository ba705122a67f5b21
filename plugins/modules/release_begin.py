#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_begin: take the lock of a host for a deploy, and tell what the host has."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_begin
short_description: Take the lock of a host for a deploy, and tell what the host has
version_added: 0.1.0
description:
  - The lock is held until M(wsgi.fleet.release_end) or M(wsgi.fleet.release_undo), over all steps of
    the deploy. While another deploy has it, this fails and says who that is, since when and from where.
  - A lock is taken over when the deploy that has it ran on this controller and its process is gone, or
    when it has shown no sign of life for O(lease). The history then tells that it was interrupted.
  - The lock remembers the release that M(wsgi.fleet.release_undo) goes back to.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  deploy:
    description: Name of the deploy, the same one on all hosts. Later ones sort after earlier ones.
    type: str
    required: true
  action:
    description:
      - What it does, for people.
      - V(tune) is for trials, see O(wsgi.fleet.release_stage#module:trial). They change nothing of what is live, so
        that there is nothing to undo after them, and the history does not tell of them.
    type: str
    choices: [deploy, rollback, tune]
    default: deploy
  version:
    description: What it deploys, for people.
    type: str
    default: ''
  by:
    description: Who deploys, for people; the account on the controller when empty.
    type: str
    default: ''
  break_lock:
    description: A deploy that is known to have died, and whose lock is taken over.
    type: str
    default: ''
  lease:
    description: Seconds without a step after which a deploy counts as dead.
    type: float
    default: 3600
  settle:
    description:
      - Answer for the deploys that were cut short and whose locks were taken over. O(deploy) must have
        the lock of every host. Until then, M(wsgi.fleet.release_undo) leaves the host as they did.
    type: bool
    default: false
  live:
    description:
      - With O(settle), the deploy by which what is current on this host is live on the whole fleet, so
        that a failure of O(deploy) goes back to it. The filter P(wsgi.fleet.settled_hosts#filter) tells
        where this is so.
    type: str
    default: ''
  controller:
    description: Set by the action of this module. What tells the controller and its process.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: No lock is taken.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Begin
  wsgi.fleet.release_begin:
    name: shop
    directory: /srv/shop
    deploy: 20261125T101500Z-3f9c
    version: v1.4.2
  register: shop
"""

RETURN = r"""
current:
  description: The release that is current, or null.
  type: str
  returned: success
releases:
  description: See M(wsgi.fleet.release_info).
  type: list
  elements: dict
  returned: success
running:
  description: Releases whose instances or further processes run, start or stop.
  type: list
  elements: str
  returned: success
builds:
  description: Identifiers of the complete builds.
  type: list
  elements: str
  returned: success
lock:
  description: The deploy that has the lock of the host now, or null.
  type: dict
  returned: success
history:
  description: How each deploy ended on this host, the oldest first.
  type: list
  elements: dict
  returned: success
interrupted:
  description: The deploy whose lock was taken over, or null.
  type: dict
  returned: success
locked:
  description: The deploy that has the lock.
  type: dict
  returned: when another deploy has it
"""

import dataclasses
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd
from ansible_collections.wsgi.fleet.plugins.module_utils._release import Layout, ReleaseError, exclusive
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import (
    Lock,
    Locked,
    acquire,
    describe,
    settle,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str", "required": True},
            "action": {"type": "str", "choices": ["deploy", "rollback", "tune"], "default": "deploy"},
            "version": {"type": "str", "default": ""},
            "by": {"type": "str", "default": ""},
            "break_lock": {"type": "str", "default": ""},
            "lease": {"type": "float", "default": 3600},
            "settle": {"type": "bool", "default": False},
            "live": {"type": "str", "default": ""},
            "controller": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    layout = Layout(parameters["name"], Path(parameters["directory"]))
    controller = parameters["controller"]
    lock = Lock(
        deploy=parameters["deploy"],
        action=parameters["action"],
        version=parameters["version"],
        by=parameters["by"] or str(controller.get("by") or "somebody"),
        origin=str(controller.get("origin", "")),
        machine=str(controller.get("machine", "")),
        process=str(controller.get("process", "")),
    )
    interrupted = None
    try:
        if not module.check_mode:
            with exclusive(layout):
                interrupted = acquire(layout, lock, lease=parameters["lease"], broken=parameters["break_lock"])
                if parameters["settle"]:
                    settle(layout, lock, parameters["live"])
        state = describe(layout)
        running = sorted({layout.release_of(unit) for unit in Systemd().active(*layout.unit_patterns)})
    except Locked as error:
        module.fail_json(msg=str(error), locked=dataclasses.asdict(error.lock))
    except (ReleaseError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        # The lock comes and goes with each run and is no change of the host.
        changed=False,
        running=running,
        interrupted=dataclasses.asdict(interrupted) if interrupted else None,
        **state,
    )


if __name__ == "__main__":
    main()
