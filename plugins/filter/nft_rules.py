# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter nft_rules: say to nftables who may ask for which service."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: nft_rules
short_description: Say to nftables who may ask for which service
version_added: 0.1.0
description:
  - Turns services into rules of a chain of nftables that accept.
  - Addresses of one service stand in a set, so that a packet is looked up once, however many there are.
options:
  _input:
    description:
      - Services with C(name), C(port), C(protocol) and C(from), a list of addresses and networks.
      - Without C(protocol) it is C(tcp); C(vrrp) has no port. Without C(from) everybody may ask, with an empty list
        nobody.
    type: list
    elements: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show the rules of a cache
  ansible.builtin.debug:
    msg: "{{ [{'name': 'cache', 'port': 6379, 'from': ['10.0.0.21', '10.0.0.22']}] | wsgi.fleet.nft_rules }}"
"""

RETURN = r"""
_value:
  description: Rules, one in a line.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils import _firewall


def nft_rules(services: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the rules for services.

    :raises AnsibleFilterError: for what is no address, or no service.
    """
    try:
        return _firewall.rules(services)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"cannot make rules of {services!r}: {error}") from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"nft_rules": nft_rules}
