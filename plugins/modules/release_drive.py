#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_drive: keep staged instances busy one after another, and measure what they do and take."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_drive
short_description: Keep the instances of trial releases busy one after another, and measure them
version_added: 0.1.0
description:
  - Starts the instance of each release, waits until it passes its gate, sends it requests over its own
    socket for some seconds, and stops it again. So at most one of them takes memory and processor time.
  - The requests form a closed loop, in which each connection sends the next request once it has the answer.
    The client is part of this module and runs on the host.
  - Only releases that were staged with O(wsgi.fleet.release_stage#module:trial) are driven. What is
    current is not touched.
options:
  name:
    description: Name of the application, which is also the prefix of its units.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  deploy:
    description: The trial, which must have the host's lock, see M(wsgi.fleet.release_begin).
    type: str
  releases:
    description: The releases, in the order in which they are driven.
    type: list
    elements: str
    required: true
  path:
    description: Request target that is asked for.
    type: str
    default: /
  host:
    description: Value of the C(Host) header.
    type: str
    default: localhost
  connections:
    description: How many requests are under way at a time.
    type: int
    default: 64
  seconds:
    description: For how long each instance is measured.
    type: float
    default: 5
  warmup:
    description: For how long each instance is driven before that.
    type: float
    default: 1
  timeout:
    description: Seconds after which a request counts as failed.
    type: float
    default: 30
  deadline:
    description: Seconds that an instance has to come up and pass its gate.
    type: float
    default: 60
attributes:
  check_mode:
    support: full
    description: Nothing is started; there are no runs.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Measure
  wsgi.fleet.release_drive:
    name: shop
    directory: /srv/shop
    releases: [8a41d0c29be7, 46783effda4b]
    path: /products
  register: shop_round
"""

RETURN = r"""
runs:
  description: What was measured of each release, in the order of O(releases).
  type: list
  elements: dict
  returned: success
  contains:
    release:
      description: The release.
      type: str
    requests:
      description: Good answers, with a status from 200 to 399.
      type: int
    failed:
      description: Other answers, and connections that broke or could not be made.
      type: int
    reasons:
      description: How often each of some failures occurred.
      type: dict
    rate:
      description: Good answers per second.
      type: float
    p50_ms:
      description: The median latency in milliseconds; null without a good answer.
      type: float
    p99_ms:
      description: The latency that 99 of 100 do not exceed, in milliseconds; null without a good answer.
      type: float
    cpu_ms:
      description: Processor time of all processes of the instance per good answer, in milliseconds.
      type: float
    memory_mb:
      description: Proportional set size of all these processes at the end, in MiB; null where it is not told.
      type: float
    processes:
      description: How many these are.
      type: int
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._drive import (
    DriveError,
    drive,
    memory_of,
    processes_of,
    quantile,
    request_for,
    ticks_of,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, gate_from, pass_gate, stop_others
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    manifest_of,
    read_state,
    trials,
    write_file,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import step


def milliseconds(seconds: float | None) -> float | None:
    """Convert, to the microsecond."""
    return None if seconds is None else round(1000 * seconds, 3)


def measure(layout: Layout, release: str, parameters: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Drive an instance that runs, and return what was measured."""
    unit = layout.unit_name(release)
    ticks: list[int] = []
    sample = drive(
        layout.socket(release),
        request,
        connections=parameters["connections"],
        seconds=parameters["seconds"],
        warmup=parameters["warmup"],
        timeout=parameters["timeout"],
        mark=lambda: ticks.append(ticks_of(processes_of(unit))),
    )
    processes = processes_of(unit)
    spent = (ticks[1] - ticks[0]) / os.sysconf("SC_CLK_TCK")
    done = len(sample.latencies)
    return {
        "release": release,
        "requests": done,
        "failed": sample.failed,
        "reasons": sample.reasons,
        "rate": round(sample.rate, 1),
        "p50_ms": milliseconds(quantile(sample.latencies, 0.5)),
        "p99_ms": milliseconds(quantile(sample.latencies, 0.99)),
        "cpu_ms": milliseconds(spent / done) if done else None,
        "memory_mb": memory_of(processes),
        "processes": len(processes),
    }


def run(layout: Layout, release: str, systemd: Systemd, parameters: dict[str, Any], request: bytes) -> dict[str, Any]:
    """Start an instance, drive it, and stop it whatever comes."""
    unit = layout.unit_name(release)
    gate = gate_from({**(manifest_of(layout, release).get("gate") or {}), "deadline": parameters["deadline"]})
    try:
        write_file(layout.permit(release), "", 0o644)
        systemd.start(unit)
        pass_gate(layout, release, gate, systemd)
        return measure(layout, release, parameters, request)
    finally:
        stop_others(layout, systemd, [unit])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str"},
            "releases": {"type": "list", "elements": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "host": {"type": "str", "default": "localhost"},
            "connections": {"type": "int", "default": 64},
            "seconds": {"type": "float", "default": 5},
            "warmup": {"type": "float", "default": 1},
            "timeout": {"type": "float", "default": 30},
            "deadline": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    layout = Layout(parameters["name"], Path(parameters["directory"]))
    runs: list[dict[str, Any]] = []
    try:
        request = request_for(parameters["path"], parameters["host"])
        if not module.check_mode:
            with step(layout, parameters["deploy"]):
                known = trials(layout, read_state(layout))
                for release in parameters["releases"]:
                    if release not in known:
                        raise ReleaseError(f"release {release} was not staged to be tried, and is not driven")
            # Without the host's lock, so that who deploys meanwhile is told at once that there is a trial.
            systemd = Systemd()
            runs = [run(layout, release, systemd, parameters, request) for release in parameters["releases"]]
    except (ReleaseError, DriveError, OSError) as error:
        module.fail_json(msg=str(error))
    # Nothing is there afterwards that was not there before.
    module.exit_json(changed=False, runs=runs)


if __name__ == "__main__":
    main()
