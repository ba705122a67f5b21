#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_discard: stop and remove the releases that were only made to be tried."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_discard
short_description: Stop and remove the releases that were only made to be tried
version_added: 0.1.0
description:
  - Removes every release that was staged with O(wsgi.fleet.release_stage#module:trial), also those of a
    trial that was cut short, and nothing else. Other releases and all builds stay.
options:
  name:
    description: Name of the application, which is also the prefix of its units.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  deploy:
    description: The trial, which must have the host's lock, see M(wsgi.fleet.release_begin).
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
- name: Tidy up
  wsgi.fleet.release_discard:
    name: shop
    directory: /srv/shop
"""

RETURN = r"""
releases:
  description: Releases that were removed.
  type: list
  elements: str
  returned: success
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, others, remove_units, stop_others
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    read_state,
    remove_tree,
    trials,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import step


def discard(layout: Layout, systemd: Systemd, check: bool) -> dict[str, Any]:
    """Do the module's work and return its result."""
    state = read_state(layout)
    releases = trials(layout, state)
    result = {"changed": bool(releases), "releases": releases}
    if check or not releases:
        return result
    running = [unit for unit in others(layout, systemd, state.current) if layout.release_of(unit) in releases]
    stop_others(layout, systemd, running)
    # A list and not a generator: every unit file must go, not only the first.
    removed = [remove_units(layout, release) for release in releases]
    if any(removed):
        systemd.reload()
    for release in releases:
        remove_tree(layout.release(release))
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    try:
        if module.check_mode:
            result = discard(layout, Systemd(), check=True)
        else:
            with step(layout, module.params["deploy"]):
                result = discard(layout, Systemd(), check=False)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
