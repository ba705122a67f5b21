# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter app_sizing: how many processes and threads an application gets on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: app_sizing
short_description: Say how many processes and threads an application gets on a host
version_added: 0.1.0
description:
  - Works out the size of an instance from the processors and the memory of its host, and from what the
    application says of itself.
  - C(memory) = C(memory_mb) of the host, rounded down to a multiple of 64 MiB, so that hosts of one kind get the
    same numbers.
  - C(budget) = C(memory) * O(memory_share), rounded down. It is what all of the application may take.
  - C(processors) = C(cpus) * O(cpu_share), rounded down, at least 1; at most C(cpu_quota) of O(limits), rounded up to
    whole processors.
  - C(processes) = the least of C(processors), C(budget) / (2 * O(worker_memory)) and, where O(limits) has it,
    C(memory_max) / O(worker_memory), each rounded down; at least 1. The 2 is there since a deploy has two instances
    at a time, the old one and the new one. There is one process per processor and not a multiple of it, since
    further ones only compete for the processors, with eight on two of them at 0.79 of the rate of two.
  - C(threads) = 4, 8 or 32 for O(workload=cpu), O(workload=mixed) and O(workload=io). A process computes for one
    request at a time; further threads serve those that wait. A view that waits is served in proportion to them, and
    one that only computes is served less often with 32 than with 4.
  - C(connections) = 50, 200 or 1000, likewise, for servers whose workers have green threads instead.
  - C(memory_mb) = C(budget).
options:
  _input:
    description: Has C(cpus) and C(memory_mb) of the host, as M(wsgi.fleet.host_info) returns them.
    type: dict
    required: true
  workload:
    description:
      - What the application does most. V(cpu) is to compute, V(io) is to wait for a database or for other services.
    type: str
    choices: [cpu, mixed, io]
    default: mixed
  worker_memory:
    description: MiB that one worker process takes, with all its threads.
    type: int
    default: 128
  memory_share:
    description: Part of the host's memory that is the application's.
    type: float
    default: 0.8
  cpu_share:
    description: Part of the host's processors that it has processes for.
    type: float
    default: 1.0
  limits:
    description: C(app_limits) of the role app. What an instance may not take, it is not sized for.
    type: dict
    default: {}
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
# Four processors and 7,936 of 7,950 MiB; of these 6,348 are the application's, and 12 processes of 256 MiB would
# fit in twice: four processes with 32 threads each.
- name: Show what an application gets
  ansible.builtin.debug:
    msg: "{{ {'cpus': 4, 'memory_mb': 7950} | wsgi.fleet.app_sizing(workload='io', worker_memory=256) }}"
"""

RETURN = r"""
_value:
  description: The size of an instance.
  type: dict
  contains:
    processes:
      description: Worker processes.
      type: int
    threads:
      description: Threads of each.
      type: int
    connections:
      description: Connections that each serves at a time, where workers have green threads instead.
      type: int
    memory_mb:
      description: MiB that the application may take.
      type: int
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.module_utils._sizing import SizingError, sizing


def app_sizing(host: Any, **options: Any) -> dict[str, int]:
    """Return the size of an instance.

    :raises AnsibleFilterError: for a host that does not tell what it has, and for what does not fit.
    """
    if not isinstance(host, Mapping) or not {"cpus", "memory_mb"} <= set(host):
        raise AnsibleFilterError(
            "app_sizing: the host must have cpus and memory_mb, as wsgi.fleet.host_info tells them"
        )
    try:
        return asdict(sizing(host["cpus"], host["memory_mb"], **options))
    except SizingError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"app_sizing": app_sizing}
