# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter fleet_backends: say which hosts load balancers send requests for each application to."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_backends
short_description: Say which hosts load balancers send requests for each application to
version_added: 0.1.0
description:
  - A host gets requests for an application that others serve once it has a release of it itself, so that
    none is lost where a host joins several applications one after the other.
  - An application that no host has yet is spread over all of them, and no healthy server is waited for.
positional: servers, infos, deployed
options:
  _input:
    description: What P(wsgi.fleet.fleet_apps#filter) returned.
    type: list
    elements: dict
    required: true
  servers:
    description: The app hosts, each with C(name), C(address) and C(port).
    type: list
    elements: dict
    required: true
  infos:
    description:
      - For each app host, by its name, what M(wsgi.fleet.host_info) returned. One that was not asked, and so
        has an empty entry or none, counts as one that has a release of every application.
    type: dict
    required: true
  deployed:
    description: The application that is put into service on every host before load balancers know of it.
    type: str
    default: ""
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show them
  vars:
    apps: "{{ {'apps/shop.yml': 'app_host_names: [shop.example.com]'} | wsgi.fleet.fleet_apps({}) }}"
    servers: [{name: app1, address: 192.0.2.21, port: 80}]
  ansible.builtin.debug:
    msg: "{{ apps | wsgi.fleet.fleet_backends(servers, {'app1': fleet_host_info}) }}"
"""

RETURN = r"""
_value:
  description: Entries of C(load_balancer_backends).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._apps import backends


def fleet_backends(
    apps: Sequence[Mapping[str, Any]],
    servers: Sequence[Mapping[str, Any]],
    infos: Mapping[str, Mapping[str, Any]],
    deployed: str = "",
) -> list[dict[str, Any]]:
    """Say which hosts load balancers send requests for each application to."""
    known = {name: info["apps"] for name, info in infos.items() if "apps" in info}
    return backends(apps, servers, known, deployed)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"fleet_backends": fleet_backends}
