# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter status_codes: spell out ranges of HTTP status codes."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: status_codes
short_description: Spell out ranges of HTTP status codes
version_added: 0.1.0
description:
  - Turns entries such as V(200) and V(200-399) into the list of codes that they stand for.
options:
  _input:
    description: Codes and ranges.
    type: list
    elements: str
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Ask for a page
  ansible.builtin.uri:
    url: http://127.0.0.1/
    status_code: "{{ ['200-204', '301'] | wsgi.fleet.status_codes }}"
"""

RETURN = r"""
_value:
  description: The codes in ascending order.
  type: list
  elements: int
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import status_range
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError


def status_codes(entries: Sequence[object]) -> list[int]:
    """Return the codes that the entries stand for.

    :raises AnsibleFilterError: for an entry that is no code and no range between 100 and 599.
    """
    codes: set[int] = set()
    for entry in entries:
        try:
            first, last = status_range(entry)
        except ReleaseError as error:
            raise AnsibleFilterError(f"status_codes: {error}") from error
        codes.update(range(first, last + 1))
    return sorted(codes)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"status_codes": status_codes}
