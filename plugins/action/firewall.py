# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action firewall: load rules, and confirm them over a new connection."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Comes back to the host that has loaded rules, without which the host takes them back."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        result: dict[str, Any] = self._execute_module(task_vars=task_vars)
        digest = result.pop("pending", None)
        if result.get("failed") or not digest:
            return result
        try:
            # What is connected stays connected, whatever the rules say.
            self._connection.reset()
            arguments = {**self._task.args, "confirm": digest}
            confirmed = self._execute_module(module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            confirmed = {"failed": True, "msg": self._locked_out(str(error))}
        if confirmed.get("failed"):
            return {**result, "failed": True, "msg": confirmed.get("msg", "the rules were not confirmed")}
        return result

    def _locked_out(self, reason: str) -> str:
        seconds = self._task.args.get("rollback_after", 60)
        return (
            "firewall_ssh_from: with the new rules this controller gets no connection any more, so that the host takes "
            f"them back after {seconds} seconds, and has then what it had before. Add the address that the host sees "
            "this controller come from, and see that firewall_ssh_ports has the port that it connects to. It was said: "
            f"{reason.strip()}"
        )
