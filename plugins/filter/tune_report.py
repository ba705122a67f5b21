# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter tune_report: say which of the settings that were tried to choose."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tune_report
short_description: Say which of the settings that were tried to choose
version_added: 0.1.0
description:
  - Takes the medians over the rounds. The best settings answer the most requests per second; among those that
    cannot be told from the quickest, they take the least memory. Settings with a failed request are never chosen.
  - Two settings are told from each other when they are further apart than the rounds of one, and than O(noise).
options:
  _input:
    description: What was tried, dictionaries with C(label), C(settings) and C(release).
    type: list
    elements: dict
    required: true
  rounds:
    description: For each round, what M(wsgi.fleet.release_drive) returned as RV(wsgi.fleet.release_drive#module:runs).
    type: list
    elements: list
    required: true
  noise:
    description: The share of the requests per second below which a difference is none.
    type: float
    default: 0.05
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ (tried | wsgi.fleet.tune_report([first.runs, second.runs])).lines | join('\n') }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary with C(lines), a table, bars and the choice for a terminal; C(candidates), their figures, the
      quickest first; C(chosen), the settings to choose, none for those that are there; and C(noise).
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._tune import NOISE, TuneError, report


def tune_report(
    tried: Sequence[Mapping[str, Any]], rounds: Sequence[Sequence[Mapping[str, Any]]], noise: float = NOISE
) -> dict[str, Any]:
    """Say which of the settings that were tried to choose.

    :raises AnsibleFilterError: when requests failed with all of them.
    """
    try:
        return report(tried, rounds, float(noise))
    except TuneError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"tune_report": tune_report}
