# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action release_begin: tell a host who deploys, and take over from runs of this controller that have died."""

from __future__ import annotations

import contextlib
import getpass
import multiprocessing
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def machine() -> str:
    """Name this machine so that no other one has the same name, nor a container beside this one."""
    parts = [socket.gethostname()]
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        with contextlib.suppress(OSError):
            parts.append(Path(path).read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process(number: int) -> str:
    """Name a process so that a later one with the same number has another name; empty when it is gone."""
    with contextlib.suppress(OSError, IndexError):
        # Ticks from boot to its start, the 22nd field of proc_pid_stat(5): setting the clock does not change them.
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{number} {fields[19]}"
    try:
        done = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(number)],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"},
        )
    except OSError:
        return ""
    started = " ".join(done.stdout.split())
    return f"{number} {started}" if started else ""


def controller_process() -> str:
    """Name ansible-playbook itself, a worker of which this process is.

    :raises AnsibleActionFail: when it has died. The worker has another parent then, and a lock in the name of that one
        would be held for as long as it lives.
    """
    parent = multiprocessing.parent_process()
    number = os.getppid() if parent is None or parent.pid is None else parent.pid
    if number != os.getppid():
        raise AnsibleActionFail("ansible-playbook has died: nothing more is begun.")
    return process(number)


def who() -> str:
    """Name the person, as far as this machine knows."""
    for name in ("SUDO_USER", "USER", "LOGNAME"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def has_died(lock: dict[str, Any]) -> bool:
    """Tell whether the deploy that has a lock ran on this machine and does not any more."""
    number = str(lock.get("process", "")).partition(" ")[0]
    if lock.get("machine") != machine() or not number.isdigit() or not process(os.getpid()):
        # Of another machine, or processes cannot be told here.
        return False
    return process(int(number)) != str(lock["process"])


class ActionModule(ActionBase):  # type: ignore[misc]
    """Adds what the module cannot know, and tries once more when the lock's owner is known to be dead."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        controller = {
            "machine": machine(),
            "process": controller_process(),
            "origin": socket.gethostname(),
            "by": who(),
        }
        arguments = {**self._task.args, "controller": controller}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        held = result.get("locked")
        if held and has_died(held):
            again = {**arguments, "break_lock": held["deploy"]}
            result = self._execute_module(module_args=again, task_vars=task_vars)
        return result
