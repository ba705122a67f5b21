#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_retire: stop what is not current, and remove what is old."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_retire
short_description: Stop the instances that are not current, and remove old releases
version_added: 0.1.0
description:
  - Waits until requests in flight can have left, stops every instance that is not current, and
    removes releases beyond O(keep), releases that were never live, and builds that no release
    needs any more.
  - The current release and its build are never touched.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  drain:
    description:
      - Seconds to wait before instances are stopped. From the flip on they get no new
        connections; those that wait in their queue are taken up in this time. Requests that
        are being answered then still have the instance's own grace period.
    type: float
    default: 2
  keep:
    description: How many releases to keep besides the current one.
    type: int
    default: 4
  deploy:
    description:
      - The deploy that this is a step of. It must have the host's lock, see
        M(wsgi.fleet.release_begin).
    type: str
  confirm:
    description:
      - The deploy that has brought the current release into service on the whole fleet. Only
        releases that this was said of are kept for a rollback, and found by it under this name.
    type: str
attributes:
  check_mode:
    support: full
    description: Nothing is stopped or removed.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Retire what is not current
  wsgi.fleet.release_retire:
    name: shop
    directory: /srv/shop
    keep: 4
"""

RETURN = r"""
stopped:
  description: Units of the instances that were stopped.
  type: list
  elements: str
  returned: success
releases:
  description: Releases that were removed.
  type: list
  elements: str
  returned: success
builds:
  description: Builds that were removed.
  type: list
  elements: str
  returned: success
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, others, remove_units, stop_others
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    confirm,
    leftovers,
    plan_prune,
    read_state,
    remove_tree,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import Lock, step, write_lock


def retire(
    layout: Layout, parameters: dict[str, Any], systemd: Systemd, check: bool, lock: Lock | None = None
) -> dict[str, Any]:
    """Do the module's work and return its result."""
    state = read_state(layout)
    # After a rollback the release bears the right name already, and is live anew.
    flipped = lock is not None and not lock.confirmed and lock.previous != state.current
    confirming = bool(
        state.current
        and parameters["confirm"] is not None
        and (flipped or parameters["confirm"] != state.deploys.get(state.current))
    )
    if confirming and state.current and not check:
        # The lock first: from here on there is nothing to undo. Should the mark be missing after an
        # interruption, the next deploy makes it.
        if lock:
            write_lock(layout, dataclasses.replace(lock, confirmed=True, label=parameters["confirm"]))
        confirm(layout, state.current, parameters["confirm"])
        state = read_state(layout)
    stopping = others(layout, systemd, state.current)
    plan = plan_prune(state, parameters["keep"])
    orphans = leftovers(layout)
    result = {
        "changed": bool(confirming or stopping or plan.releases or plan.builds or orphans),
        "stopped": stopping,
        "releases": list(plan.releases),
        "builds": list(plan.builds),
    }
    if check or not result["changed"]:
        return result
    if stopping:
        time.sleep(parameters["drain"])
    stop_others(layout, systemd, stopping)
    # A list and not a generator: every unit file must go, not only the first.
    removed = [remove_units(layout, release) for release in plan.releases]
    if any(removed):
        systemd.reload()
    for path in [
        *map(layout.release, plan.releases),
        *map(layout.build, plan.builds),
        *orphans,
    ]:
        remove_tree(path)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "drain": {"type": "float", "default": 2},
            "keep": {"type": "int", "default": 4},
            "deploy": {"type": "str"},
            "confirm": {"type": "str"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    try:
        if module.check_mode:
            result = retire(layout, module.params, Systemd(), check=True)
        else:
            with step(layout, module.params["deploy"]) as lock:
                result = retire(layout, module.params, Systemd(), check=False, lock=lock)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
