#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_remove: take an application off a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_remove
short_description: Take an application off a host, but for what it has stored
version_added: 0.1.0
description:
  - Stops every unit of every release of the application, and removes the units, the releases with their
    settings, the builds and the history.
  - What lies in the directory C(shared) is the application's own, such as uploads, and stays. Where nothing
    lies there, the directory of the application goes as well.
  - Nothing is touched while a deploy holds the host's lock, see M(wsgi.fleet.release_begin).
options:
  name:
    description: Name of the application, which is also the prefix of its units.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
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
- name: Take the application off the host
  wsgi.fleet.release_remove:
    name: shop
    directory: /srv/shop
"""

RETURN = r"""
releases:
  description: Releases that were removed.
  type: list
  elements: str
  returned: success
kept:
  description: Where that lies which was kept, or nothing.
  type: str
  returned: success
  sample: /srv/shop/shared
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, remove_units
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    activate,
    exclusive,
    read_state,
    remove_tree,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import Locked, read_lock

#: What belongs to the application, and outlives its releases.
SHARED = "shared"


def remove(layout: Layout, systemd: Systemd, check: bool) -> dict[str, Any]:
    """Do the module's work and return its result.

    :raises Locked: while a deploy is under way, or after one that has died.
    """
    units = [path for pattern in layout.unit_patterns for path in layout.units.glob(pattern)]
    entries = [path for path in layout.root.iterdir() if path.name != SHARED] if layout.root.is_dir() else []
    shared = layout.root / SHARED
    kept = shared.is_dir() and any(shared.iterdir())
    names = sorted({*read_state(layout).releases, *(layout.release_of(path.name) for path in units)})
    result = {
        "changed": bool(units or entries),
        "releases": names,
        "kept": str(shared) if kept else "",
    }
    if check or not result["changed"]:
        return result
    with exclusive(layout):
        if lock := read_lock(layout):
            raise Locked(lock)
        if running := systemd.active(*layout.unit_patterns):
            systemd.stop(*running)
        activate(layout, None)
        # A list and not a generator: the units of every release must go, not only of the first.
        removed = [remove_units(layout, name) for name in names]
        if any(removed):
            systemd.reload()
        remove_tree(layout.run / "wsgi.fleet" / layout.name)
        for path in sorted(layout.root.iterdir()):
            if path.name != SHARED:
                remove_tree(path)
        if not kept:
            remove_tree(layout.root)
    return result


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
        result = remove(layout, Systemd(), module.check_mode)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
