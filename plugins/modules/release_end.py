#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_end: end a deploy that succeeded, and give its lock back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_end
short_description: End a deploy that succeeded, and give its lock back
version_added: 0.1.0
description:
  - Writes into the host's history that the deploy succeeded, and gives the lock back that
    M(wsgi.fleet.release_begin) has taken.
  - When the deploy has no lock on the host, nothing happens.
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
  record:
    description: Whether to write it into the history; one that found nothing to do need not stand there.
    type: bool
    default: true
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
- name: End
  wsgi.fleet.release_end:
    name: shop
    directory: /srv/shop
    deploy: 20261125T101500Z-3f9c
"""

RETURN = r"""
ended:
  description: Whether the deploy had the lock until now.
  type: bool
  returned: success
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._release import Layout, ReleaseError, exclusive
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import read_lock, record, release_lock


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str", "required": True},
            "record": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    ended = False
    try:
        if not module.check_mode and layout.root.is_dir():
            with exclusive(layout):
                lock = read_lock(layout)
                if lock and lock.deploy == module.params["deploy"]:
                    try:
                        if module.params["record"]:
                            record(layout, lock, "succeeded")
                    finally:
                        # A full disk must not keep the lock.
                        ended = release_lock(layout, lock.deploy)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    # The lock comes and goes with each run and is no change of the host.
    module.exit_json(changed=False, ended=ended)


if __name__ == "__main__":
    main()
