#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module host_info: tell what the roles need to know of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: Tell what the roles need to know of a host
version_added: 0.1.0
description:
  - Reads a handful of files, and so takes the place of gathering facts.
  - Changes nothing. Names of processes of other accounts are only seen by root.
options: {}
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Ask the host what it is
  wsgi.fleet.host_info:
  become: true
  register: fleet_host_info
"""

RETURN = r"""
platform:
  description: What decides whether a build made on one host runs on another.
  type: dict
  returned: success
  contains:
    distribution:
      description: Such as C(debian) or C(ubuntu).
      type: str
    version:
      description: Such as C(12) or C(24.04); empty for a release under development.
      type: str
    codename:
      description: Such as C(bookworm).
      type: str
    architecture:
      description: Such as C(x86_64).
      type: str
    python:
      description: Version of the interpreter that ran the module, such as C(3.11).
      type: str
    python_path:
      description: Path of that interpreter.
      type: str
cpus:
  description: Processors that processes may use; a control group's quota counts, rounded up.
  type: int
  returned: success
memory_mb:
  description: Memory in MiB that processes can have; a control group's limit counts.
  type: int
  returned: success
ipv6:
  description: Whether any interface has an address of IPv6.
  type: bool
  returned: success
time_daemon:
  description: The daemon that sets the clock, or an empty text.
  type: str
  returned: success
apps:
  description: Names of the applications that have a release in service.
  type: list
  elements: str
  returned: success
listening:
  description: TCP sockets that accept connections.
  type: list
  elements: dict
  returned: success
  contains:
    address:
      description: The address that it is bound to.
      type: str
    port:
      description: The port.
      type: int
    process:
      description: Name of the process that holds it; empty when that is not to be seen.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._host_info import host_info


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        answer = host_info()
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the host does not tell what it is: {error}")
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
