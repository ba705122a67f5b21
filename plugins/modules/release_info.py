#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_info: tell which builds and releases of an application a host has."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_info
short_description: Tell which builds and releases of an application a host has
version_added: 0.1.0
description:
  - Reads the state of one application on a host. It changes nothing.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is ever written.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Look at the releases of the shop
  wsgi.fleet.release_info:
    name: shop
    directory: /srv/shop
  register: shop
"""

RETURN = r"""
current:
  description: The release that is current, or null.
  type: str
  returned: success
releases:
  description:
    - What C(release.json) says of each release, the most recently live first. Those that were live
      on the whole fleet also have C(deploy), by which deploy, and C(activated), since when.
  type: list
  elements: dict
  returned: success
lock:
  description: The deploy that is under way on the host, or null.
  type: dict
  returned: success
history:
  description: How each deploy ended on this host, the oldest first.
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
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd
from ansible_collections.wsgi.fleet.plugins.module_utils._release import Layout, ReleaseError
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import describe


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    try:
        state = describe(layout)
        running = sorted({layout.release_of(unit) for unit in Systemd().active(*layout.unit_patterns)})
    except (ReleaseError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, running=running, **state)


if __name__ == "__main__":
    main()
