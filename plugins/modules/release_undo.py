#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_undo: put a host back as it was before a deploy that failed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_undo
short_description: Put a host back as it was before a deploy that failed
version_added: 0.1.0
description:
  - Flips back to the release that was current before the deploy, whose instance is started again if it
    does not run any more; stops and removes what the deploy has staged; writes the failure into the
    host's history, and gives the lock back.
  - A deploy that fails before it has answered for one that was cut short, see
    O(wsgi.fleet.release_begin#module:settle), leaves the host as that one did. The next deploy answers for it.
  - All that it needs to know lies on the host, with the lock. When the deploy has no lock there, as
    when it has not come that far, nothing happens.
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
    description: Name of the deploy.
    type: str
    required: true
  reason:
    description: Why it failed, for the history. No secrets.
    type: str
    default: ''
  drain:
    description: Seconds between the flip back and the end of the instance that had traffic.
    type: float
    default: 2
  deadline:
    description: Seconds that an instance which has to be started again gets to come up.
    type: float
    default: 60
  primary:
    description: Whether processes that run on one host only run on this one.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Nothing is written.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Undo
  wsgi.fleet.release_undo:
    name: shop
    directory: /srv/shop
    deploy: 20261125T101500Z-3f9c
"""

RETURN = r"""
current:
  description: The release that is current now, or null.
  type: str
  returned: success
undone:
  description: Whether the deploy had the lock until now.
  type: bool
  returned: success
flipped:
  description: Whether the host served what the deploy has staged.
  type: bool
  returned: success
notes:
  description: What could not be put back, for people.
  type: list
  elements: str
  returned: success
"""

import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import (
    Systemd,
    gate_from,
    mask,
    others,
    pass_gate,
    processes_of,
    remove_units,
    run_processes,
    secrets_of,
    stop_others,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    activate,
    environment_of,
    exclusive,
    manifest_of,
    read_state,
    remove_tree,
    write_file,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import (
    Lock,
    hand_back,
    read_lock,
    record,
    release_lock,
)


def revive(layout: Layout, release: str, systemd: Systemd, deadline: float) -> str:
    """Let the instance of a release that served before serve again.

    :returns: what people should know, if it does not.
    """
    if systemd.state(layout.unit_name(release)).active == "active":
        return ""
    try:
        gate = gate_from({**(manifest_of(layout, release).get("gate") or {}), "deadline": deadline})
        write_file(layout.permit(release), "", 0o644)
        systemd.start(layout.unit_name(release))
        pass_gate(layout, release, gate, systemd)
    except (ReleaseError, OSError) as error:
        # It is current again all the same: it is what was there, and systemd goes on starting it.
        return f"release {release} does not come up again: {error}"
    return ""


def restart_processes(layout: Layout, release: str, systemd: Systemd, primary: bool) -> str:
    """Let the processes of a release that served before run again.

    :returns: what people should know, if one does not.
    """
    try:
        run_processes(layout, processes_of(layout, release, manifest_of(layout, release), primary), systemd, 0)
    except (ReleaseError, OSError) as error:
        return mask(str(error), secrets_of(environment_of(layout, release), f"{layout.name}\n{release}"))
    return ""


def undo(layout: Layout, lock: Lock, parameters: dict[str, Any], systemd: Systemd) -> dict[str, Any]:
    """Do the module's work and return its result."""
    state = read_state(layout)
    notes = []
    # What it would go back to may have been removed by hand: then what serves goes on.
    previous = lock.previous if lock.previous is None or lock.previous in state.releases else state.current
    flipped = not lock.confirmed and state.current != previous
    if flipped:
        if previous:
            notes.append(revive(layout, previous, systemd, parameters["deadline"]))
        activate(layout, previous)
        if previous:
            notes.append(restart_processes(layout, previous, systemd, parameters["primary"]))
    current = read_state(layout).current
    stopping = others(layout, systemd, current)
    staged = layout.unit_name(lock.release) if lock.release and lock.created and not flipped else ""
    if staged in stopping:
        # It never got a request.
        systemd.discard(staged)
    if stopping and flipped:
        time.sleep(parameters["drain"])
    stop_others(layout, systemd, stopping)
    removed = False
    if lock.release and lock.release != current:
        layout.permit(lock.release).unlink(missing_ok=True)
        if lock.created:
            removed = layout.release(lock.release).exists()
            if remove_units(layout, lock.release):
                systemd.reload()
            remove_tree(layout.release(lock.release))
    changed = flipped or bool(stopping) or removed
    return {"changed": changed, "current": current, "flipped": flipped, "notes": [note for note in notes if note]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str", "required": True},
            "reason": {"type": "str", "default": ""},
            "drain": {"type": "float", "default": 2},
            "deadline": {"type": "float", "default": 60},
            "primary": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    result: dict[str, Any] = {"changed": False, "current": None, "undone": False, "flipped": False, "notes": []}
    try:
        result["current"] = read_state(layout).current
        if not module.check_mode and layout.root.is_dir():
            with exclusive(layout):
                lock = read_lock(layout)
                if lock and lock.deploy == module.params["deploy"]:
                    if not lock.interrupted:
                        result.update(undo(layout, lock, module.params, Systemd()))
                    result["undone"] = True
                    # A full disk must not keep a host from being put back, nor the play from the other hosts.
                    try:
                        record(layout, lock, "failed", module.params["reason"])
                    except OSError as error:
                        result["notes"].append(f"the history could not be written: {error}")
                    if not lock.interrupted:
                        release_lock(layout, lock.deploy)
                    else:
                        try:
                            hand_back(layout, lock)
                        except OSError as error:
                            result["notes"].append(f"the lock could not be given back: {error}")
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
