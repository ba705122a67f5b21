# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter fleet_apps: what the hosts around the applications need to know of each."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_apps
short_description: What web servers and load balancers need to know of each application
version_added: 0.1.0
description:
  - Reads the files of a fleet's applications, and gives for each what stands around it.
  - Where there are no files, the fleet has one application, that of the common variables.
options:
  _input:
    description: The texts of the files, by path. A file bears the name of its application.
    type: dict
    required: true
  common:
    description: Variables of the role app that hold for all applications which do not set them.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show them
  ansible.builtin.debug:
    msg: "{{ {'apps/shop.yml': 'app_host_names: [shop.example.com]'} | wsgi.fleet.fleet_apps({}) }}"
"""

RETURN = r"""
_value:
  description:
    - For each application C(name), C(packages), C(uwsgi_package), C(health_path); C(site), an entry of C(nginx_sites)
      without its port; and C(backend), one of C(load_balancer_backends) without its servers.
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._apps import AppFileError, read_apps


def fleet_apps(files: Mapping[str, str], common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what stands around each application.

    :raises AnsibleFilterError: for a file that cannot be read.
    """
    try:
        return [app.around() for app in read_apps(files, common)]
    except AppFileError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"fleet_apps": fleet_apps}
