#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module unit_dropin: change systemd units by drop-ins, and take back what they cannot bear."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: unit_dropin
short_description: Change systemd units by drop-ins, and take back what they cannot bear
version_added: 0.1.0
description:
  - Writes a drop-in of the same name for each unit. A unit that was running is restarted when
    its drop-in changed.
  - A unit that does not come up with its drop-in gets the old one back, is started again, and
    the module fails with the unit's journal.
options:
  name:
    description: File name of the drop-ins, without C(.conf).
    type: str
    required: true
  units:
    description: Text of the drop-in by unit, such as C(nginx.service).
    type: dict
    required: true
  settle:
    description: Seconds that a restarted unit must stay active.
    type: float
    default: 1
attributes:
  check_mode:
    support: full
    description: Nothing is written or restarted.
  diff_mode:
    support: full
    description: Shows each drop-in that would change.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Give nginx more open files
  wsgi.fleet.unit_dropin:
    name: 60-limits
    units:
      nginx.service: |
        [Service]
        LimitNOFILE=65536
"""

RETURN = r"""
units:
  description: Units whose drop-in changed.
  type: list
  elements: str
  returned: success
restarted:
  description: Units that were restarted.
  type: list
  elements: str
  returned: success
"""

import contextlib
import os
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, run
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError, write_file

UNITS = Path("/etc/systemd/system")


def read(path: Path) -> str | None:
    """Return a file's text, or ``None`` when there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def workers(unit: str) -> int:
    """Count the running processes whose parent is the unit's main process."""
    main_process = run("systemctl", "show", "--property=MainPID", "--value", unit).strip()
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, can hold anything; proc_pid_stat(5).
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found += parent == main_process and state != "Z"
    return found


def restart(unit: str, settle: float, systemd: Systemd, had_workers: bool) -> None:
    """Restart a unit and see that it stays up.

    :param had_workers: whether its main process had others to do the work.
    :raises ReleaseError: with its journal, when it does not.
    """
    started = time.time()
    reason = ""
    try:
        run("systemctl", "restart", unit)
    except ReleaseError as error:
        reason = str(error)
    if not reason:
        time.sleep(settle)
        state = systemd.state(unit)
        if state.active == "active" and state.restarts == 0:
            # nginx goes on without workers when none of them can start, and serves nobody.
            if not had_workers or workers(unit):
                return
            reason = f"{unit} has lost its workers after its restart"
        else:
            reason = f"{unit} is {state.active} ({state.result}) after its restart"
    raise ReleaseError(f"{reason}\n{systemd.journal(unit, started)}")


def apply(path: Path, unit: str, text: str, settle: float, systemd: Systemd) -> bool:
    """Change the drop-in of one unit.

    :returns: whether the unit was restarted.
    :raises ReleaseError: when it does not run with the drop-in; the old state is back then.
    """
    old = read(path)
    running = systemd.state(unit).active == "active"
    had_workers = running and workers(unit) > 0
    write_file(path, text, 0o644)
    systemd.reload()
    if not running:
        return False
    try:
        restart(unit, settle, systemd, had_workers)
    except ReleaseError as error:
        if old is None:
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        else:
            write_file(path, old, 0o644)
        systemd.reload()
        run("systemctl", "reset-failed", unit, check=False)
        try:
            run("systemctl", "restart", unit)
            after = "it runs as before"
        except ReleaseError as second:
            after = f"it does not run without it either ({second})"
        raise ReleaseError(f"{unit} does not run with {path}, which was taken back; {after}. {error}") from error
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "units": {"type": "dict", "required": True},
            "settle": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    paths = {unit: UNITS / f"{unit}.d" / f"{parameters['name']}.conf" for unit in parameters["units"]}
    changed = [unit for unit, path in paths.items() if read(path) != parameters["units"][unit]]
    diff = [
        {
            "before_header": str(paths[unit]),
            "after_header": str(paths[unit]),
            "before": read(paths[unit]) or "",
            "after": parameters["units"][unit],
        }
        for unit in changed
    ]
    restarted = []
    if not module.check_mode:
        systemd = Systemd()
        try:
            for unit in changed:
                text = parameters["units"][unit]
                if apply(paths[unit], unit, text, parameters["settle"], systemd):
                    restarted.append(unit)
        except ReleaseError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed), units=changed, restarted=restarted, diff=diff)


if __name__ == "__main__":
    main()
