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
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    activate,
    exclusive,
    read_state,
)


def flip(layout: Layout, release: str | None, systemd: Systemd) -> bool:
    """Make a release current if its instance runs.

    :returns: whether anything changed.
    """
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
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    release = module.params["release"] or None
    previous = read_state(layout).current
    result: dict[str, Any] = {
        "changed": release != previous,
        "release": release,
        "previous": previous,
    }
    if result["changed"]:
        result["diff"] = {
            "before_header": str(layout.current),
            "after_header": str(layout.current),
            "before": f"{previous or '(none)'}\n",
            "after": f"{release or '(none)'}\n",
        }
    if not module.check_mode:
        try:
            with exclusive(layout):
                result["changed"] = flip(layout, release, Systemd())
        except ReleaseError as error:
            module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
