#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_profile: record what the instance that is live is doing."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_profile
short_description: Record what the instance that is live is doing
version_added: 0.1.0
description:
  - Samples the processes of the current release's instance from outside, with py-spy. The instance is
    neither restarted nor changed, and nothing is left running.
  - Writes C(profile.speedscope.json) and C(profile.svg), a flame graph, into O(destination).
  - py-spy is installed into a virtual environment of its own once.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  destination:
    description: Directory on the host for what is recorded. It must exist; in check mode it need not.
    type: path
    required: true
  seconds:
    description: How long to record.
    type: float
    default: 30
  rate:
    description: Samples per second.
    type: int
    default: 100
  idle:
    description: Whether threads that wait count too, which shows what requests wait for.
    type: bool
    default: false
  nonblocking:
    description: >-
      Whether processes go on running while a sample is taken. It disturbs them less, and some samples
      cannot be read.
    type: bool
    default: false
  requirement:
    description: Requirement of py-spy.
    type: str
    default: py-spy
  environment:
    description:
      - Environment variables for the installation, as the text of a JSON object of strings, such as
        C(PIP_INDEX_URL) with a password. None of the values is shown.
    type: str
    default: '{}'
attributes:
  check_mode:
    support: full
    description: Nothing is installed and nothing is recorded.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Record ten seconds of the shop
  wsgi.fleet.release_profile:
    name: shop
    directory: /srv/shop
    destination: /var/tmp/profile
    seconds: 10
"""

RETURN = r"""
release:
  description: The release that was live.
  type: str
  returned: success
ended:
  description: When it was recorded, in UTC, as part of a file name.
  type: str
  returned: success
  sample: 20261125T101558Z
seconds:
  description: For how many seconds threads were seen, all of them together.
  type: float
  returned: success
hottest:
  description: The functions that were themselves seen running the longest, with C(own) and C(total) percent.
  type: list
  elements: dict
  returned: success
table:
  description: The same as the lines of a table.
  type: list
  elements: str
  returned: success
"""

import json
import os
import subprocess  # run_command belongs to a module, and has no limit of time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._build import base_environment, find_tool
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, mask, secrets_of
from ansible_collections.wsgi.fleet.plugins.module_utils._profile import (
    flame_graph,
    hottest,
    read_stacks,
    record_command,
    render_hottest,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._release import Layout, ReleaseError, write_file

#: Seconds that py-spy may need besides, to find its way into the processes and to write its file.
GRACE = 60
#: Lines of the table.
SHOWN = 15


def live_process(layout: Layout, systemd: Systemd) -> tuple[str, int]:
    """Return the current release, and the process of its instance that the others are children of.

    :raises ReleaseError: when nothing is live, or does not run.
    """
    try:
        release = Path(os.readlink(layout.current)).name
    except OSError as error:
        raise ReleaseError(
            f"app_name: no release of {layout.name} is live on this host, so that there is nothing to profile; "
            "run site.yml first"
        ) from error
    unit = layout.unit_name(release)
    pid = systemd.main_process(unit)
    if not pid:
        raise ReleaseError(f"{unit} does not run, so that there is nothing to profile: see 'systemctl status {unit}'")
    return release, pid


def moment() -> str:
    """Return the time as part of a file name."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def record(command: Sequence[str], seconds: float) -> None:
    """Let py-spy do its work.

    :raises ReleaseError: with what it said, when it fails or does not end.
    """
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + GRACE,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"py-spy did not end within {seconds + GRACE:g} s, and was stopped") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise ReleaseError(f"py-spy ended with status {done.returncode}:\n{tail}")


def profile(layout: Layout, parameters: dict[str, Any], extra: dict[str, str], systemd: Systemd) -> dict[str, Any]:
    """Do the module's work and return its result."""
    release, pid = live_process(layout, systemd)
    program = find_tool(parameters["requirement"], "py-spy", base_environment(Path("/root"), extra))
    destination = Path(parameters["destination"])
    recorded = destination / "profile.speedscope.json"
    options = {name: parameters[name] for name in ("seconds", "rate", "idle", "nonblocking")}
    record(record_command(program, pid, recorded, **options), parameters["seconds"])
    stacks = read_stacks(recorded.read_text())
    recorded.chmod(0o600)
    title = f"{layout.name}, release {release}, {parameters['seconds']:g} s"
    write_file(destination / "profile.svg", flame_graph(stacks, title), 0o600)
    found = hottest(stacks, SHOWN)
    return {
        "release": release,
        "ended": moment(),
        "seconds": round(sum(stacks.values()), 2),
        "hottest": found,
        "table": render_hottest(found),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "destination": {"type": "path", "required": True},
            "seconds": {"type": "float", "default": 30},
            "rate": {"type": "int", "default": 100},
            "idle": {"type": "bool", "default": False},
            "nonblocking": {"type": "bool", "default": False},
            "requirement": {"type": "str", "default": "py-spy"},
            "environment": {"type": "str", "default": "{}", "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    layout = Layout(parameters["name"], Path(parameters["directory"]))
    try:
        extra: dict[str, str] = {str(k): str(v) for k, v in json.loads(parameters["environment"]).items()}
    except (ValueError, AttributeError):
        module.fail_json(msg="environment is not the text of a JSON object of strings")
    try:
        if module.check_mode:
            release, _pid = live_process(layout, Systemd())
            result: dict[str, Any] = {"release": release, "ended": moment(), "seconds": 0.0, "hottest": [], "table": []}
        else:
            result = profile(layout, parameters, extra, Systemd())
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=mask(str(error), secrets_of(extra, "")))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
