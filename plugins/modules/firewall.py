#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module firewall: give a host its table of nftables, and take it back unless the controller gets in again."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: firewall
short_description: Give a host its table of nftables, and take it back unless the controller gets in again
version_added: 0.1.0
description:
  - Loads the table C(inet wsgi_fleet) in one transaction, after C(nft) has checked it and loaded it in a network
    namespace of its own. No other table is touched.
  - The host takes the rules back after O(rollback_after) seconds. An action plugin then closes the connection and comes
    back over a new one, to confirm them; only what was confirmed is loaded at boot.
  - The table counts as changed when the kernel has other rules than the file, as after C(nft flush ruleset).
options:
  state:
    description: V(present) has the rules loaded, now and at boot; V(absent) removes the table, its file and its units.
    type: str
    choices: [present, absent]
    default: present
  rules:
    description:
      - Text for C(nft) that replaces the table. The rules that say who may come in stand between a line
        C(# Who may come in:) and a line C(# Nobody else.).
      - Needed for O(state=present).
    type: str
  units:
    description:
      - Texts of files below C(/etc/systemd/system), by their paths from there. C(wsgi-fleet-firewall.service) has to be
        among them, which loads C(/etc/wsgi.fleet/firewall.nft) at boot.
      - For O(state=absent) only the paths count.
    type: dict
    default: {}
  keep:
    description: Whether those who were let in before still are. A later call without it ends that.
    type: bool
    default: false
  rollback_after:
    description: Seconds that the controller has for coming back.
    type: int
    default: 60
  confirm:
    description: For the action plugin, by which it confirms what it has loaded.
    type: str
attributes:
  check_mode:
    support: full
    description: Nothing is loaded or written.
  diff_mode:
    support: full
    description: Shows the file of rules.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Let in ssh alone
  wsgi.fleet.firewall:
    rules: |
      table inet wsgi_fleet
      delete table inet wsgi_fleet
      table inet wsgi_fleet {
          chain input {
              type filter hook input priority filter; policy drop;
              iif lo accept
              ct state established,related accept
              # Who may come in:
              tcp dport 22 accept comment "ssh"
              # Nobody else.
          }
      }
    units:
      wsgi-fleet-firewall.service: |
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/usr/sbin/nft --file /etc/wsgi.fleet/firewall.nft
        ExecReload=/usr/sbin/nft --file /etc/wsgi.fleet/firewall.nft
        [Install]
        WantedBy=sysinit.target
"""

RETURN = r"""
kept:
  description: Rules for those who were let in before and still are, by O(keep).
  type: list
  elements: str
  returned: success
others:
  description:
    - Other firewalls of the host by name, and whether each drops what it does not know of. Names are C(ufw),
      C(firewalld), C(docker), or the family and name of a table.
  type: dict
  returned: O(state=present), and not in a dry run that would change something
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._firewall import Firewall, advice, widen
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError


def present(firewall: Firewall, parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Have the rules loaded, and tell by what they are to be confirmed if they were not.

    :raises ReleaseError: when they cannot be loaded.
    """
    before = firewall.text()
    text, kept = widen(parameters["rules"], before) if parameters["keep"] else (parameters["rules"], [])
    result: dict[str, Any] = {"changed": False, "kept": kept}
    if not firewall.in_place(text):
        path = str(firewall.file)
        result["changed"] = True
        result["diff"] = {"before_header": path, "after_header": path, "before": before, "after": text}
        if check_mode:
            return result
        result["pending"] = firewall.load(text, parameters["rollback_after"])
    result["others"] = firewall.others()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rules": {"type": "str"},
            "units": {"type": "dict", "default": {}},
            "keep": {"type": "bool", "default": False},
            "rollback_after": {"type": "int", "default": 60},
            "confirm": {"type": "str"},
        },
        required_if=[("state", "present", ("rules",))],
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    firewall = Firewall(parameters["units"])
    result: dict[str, Any] = {"changed": False, "kept": []}
    try:
        if parameters["confirm"]:
            firewall.confirm(parameters["confirm"])
            result["changed"] = True
        elif parameters["state"] == "present":
            result = present(firewall, parameters, module.check_mode)
        elif firewall.is_there():
            result["changed"] = True
            if not module.check_mode:
                firewall.remove()
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    for text in advice(result.get("others", {})):
        module.warn(text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
