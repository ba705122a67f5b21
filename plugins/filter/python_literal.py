# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter python_literal: write a value the way Python source does."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: python_literal
short_description: Write a value as a Python literal
version_added: 0.1.0
description:
  - Turns plain data into Python source, for configuration files that are Python.
options:
  _input:
    description: Strings, numbers, booleans, null, and lists and dictionaries of them.
    type: raw
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show a setting
  ansible.builtin.debug:
    msg: "accesslog = {{ none | wsgi.fleet.python_literal }}"
"""

RETURN = r"""
_value:
  description: Source text.
  type: str
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def python_literal(value: object) -> str:
    """Return Python source for plain data.

    :raises AnsibleFilterError: for anything that is not plain data.
    """
    if value is None:
        return "None"
    if isinstance(value, bool):
        return str(bool(value))
    if isinstance(value, str):
        return repr(str(value))
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(float(value))
    if isinstance(value, Mapping):
        items = (f"{python_literal(k)}: {python_literal(v)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(python_literal(item) for item in value) + "]"
    raise AnsibleFilterError(f"python_literal: {type(value).__name__} is not plain data")


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"python_literal": python_literal}
