#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_activate: flip ``current`` onto a staged release."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_activate
short_description: Switch traffic to a release that is staged
version_added: 0.1.0
description:
  - Renames the link C(current) onto the release, which switches code, dependencies, settings,
    static files and live traffic in one step.
  - The instance of the release must run; M(wsgi.fleet.release_stage) sees to that.
  - Starts the further processes of the release which are to run on this host. Those of other
    releases go on until M(wsgi.fleet.release_retire), so that a flip back interrupts nothing.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  release:
    description:
      - The release to make current. Left out or empty, no release is current afterwards, as
        before the first deploy.
    type: str
    default: ''
  deploy:
    description:
      - The deploy that this is a step of. It must have the host's lock, see
        M(wsgi.fleet.release_begin).
    type: str
  primary:
    description: Whether processes that run on one host only run on this one.
    type: bool
    default: false
  settle:
    description: Seconds after which a process that was started must still run.
    type: float
    default: 1
attributes:
  check_mode:
    support: full
    description: Nothing is switched.
  diff_mode:
    support: full
    description: Shows where the link points, before and after.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Activate the release
  wsgi.fleet.release_activate:
    name: shop
    directory: /srv/shop
    release: 8a41d0c29be7
    primary: "{{ inventory_hostname == ansible_play_hosts_all | first }}"
"""

RETURN = r"""
release:
  description: The release that is current now, or null.
  type: str
  returned: success
previous:
  description: The release that was current before, or null.
  type: str
  returned: success
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import (
    Systemd,
    mask,
    processes_of,
    run_processes,
    secrets_of,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    activate,
    environment_of,
    manifest_of,
    read_state,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import step


def flip(layout: Layout, release: str | None, systemd: Systemd) -> bool:
    """Make a release current if its instance runs.

    :returns: whether anything changed.
    """
    if release == read_state(layout).current:
        return False
    if release is not None and systemd.state(layout.unit_name(release)).active != "active":
        raise ReleaseError(f"the instance of release {release} does not run: stage it first")
    return activate(layout, release)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "release": {"type": "str", "default": ""},
            "deploy": {"type": "str"},
            "primary": {"type": "bool", "default": False},
            "settle": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    release = module.params["release"] or None
    systemd = Systemd()
    result: dict[str, Any] = {"changed": False, "release": release}
    hidden: set[str] = set()
    try:
        if module.check_mode:
            previous = read_state(layout).current
            # A release that a dry run has only named has no manifest to ask.
            result.update(changed=release != previous, previous=previous)
        else:
            with step(layout, module.params["deploy"]):
                result["previous"] = previous = read_state(layout).current
                result["changed"] = flip(layout, release, systemd)
                if release is not None:
                    processes = processes_of(layout, release, manifest_of(layout, release), module.params["primary"])
                    if processes.here or processes.elsewhere:
                        hidden = secrets_of(environment_of(layout, release), layout.unit(release).read_text())
                    result["changed"] |= run_processes(layout, processes, systemd, module.params["settle"])
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=mask(str(error), hidden), **result)
    if release != previous:
        result["diff"] = {
            "before_header": str(layout.current),
            "after_header": str(layout.current),
            "before": f"{previous or '(none)'}\n",
            "after": f"{release or '(none)'}\n",
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
