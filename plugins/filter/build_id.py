# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter build_id: name a build by everything that goes into it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: build_id
short_description: Name a build by a digest of its inputs
version_added: 0.1.0
description:
  - Returns the identifier of the build that the given inputs lead to. The same inputs give the
    same identifier.
options:
  _input:
    description: Source digest, platform, dependency file and app server.
    type: dict
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Name the build
  ansible.builtin.set_fact:
    build: "{{ {'source': source.digest, 'platform': platform} | wsgi.fleet.build_id }}"
"""

RETURN = r"""
_value:
  description: Twelve hexadecimal digits.
  type: str
"""

import json
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.parsing.ajson import AnsibleJSONEncoder
from ansible_collections.wsgi.fleet.plugins.module_utils._release import build_id


def name_build(inputs: object) -> str:
    """Return the identifier of a build.

    :raises AnsibleFilterError: when the inputs are not a dictionary of plain data.
    """
    if not isinstance(inputs, dict) or not inputs:
        raise AnsibleFilterError("build_id: the inputs must be a dictionary that is not empty")
    return build_id(json.loads(json.dumps(inputs, cls=AnsibleJSONEncoder)))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"build_id": name_build}
