# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action certificate: have a good certificate on the controller, issued there or provided."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.wsgi.fleet.plugins.module_utils import _certificate as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import write_file

ARGUMENTS: Mapping[str, Any] = {
    "method": {"type": "str", "required": True, "choices": ["self_signed", "provided", "acme"]},
    "host_names": {"type": "list", "elements": "str", "default": []},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "directory": {"type": "path"},
    "name": {"type": "str"},
    "days": {"type": "int", "default": 90},
    "authority_days": {"type": "int", "default": 3650},
    "renew": {"type": "bool", "default": False},
    "public": {"type": "bool", "default": True},
    "file": {"type": "str", "default": ""},
    "key_file": {"type": "str", "default": ""},
    "text": {"type": "str", "default": ""},
    "key_text": {"type": "str", "default": "", "no_log": True},
}
NEEDED = [("method", "self_signed", ["directory", "name"]), ("method", "acme", ["directory", "name"])]


def read(path: Path) -> str | None:
    """Return a file's text, or ``None`` when there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


class ActionModule(ActionBase):  # type: ignore[misc]
    """Issues or checks a certificate on the controller; nothing it returns is secret."""

    _requires_connection = False
    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action.

        :raises AnsibleActionFail: for arguments that it does not know.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        if core.MISSING:
            raise AnsibleActionFail(f"cryptography: is needed on the controller: install it ({core.MISSING})")
        _validation, arguments = self.validate_argument_spec(argument_spec=dict(ARGUMENTS), required_if=NEEDED)
        # Certificates tell times in whole seconds.
        now = datetime.now(timezone.utc).replace(microsecond=0)
        try:
            core.check_names(arguments["host_names"], arguments["addresses"])
            if arguments["method"] == "provided":
                result.update(self._provided(arguments, now))
            elif arguments["method"] == "acme":
                result.update(self._acme(arguments, now))
            else:
                result.update(self._self_signed(arguments, now))
        except core.CertificateError as error:
            result.update(failed=True, msg=str(error))
        return result

    def _provided(self, arguments: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        facts, warnings = core.use_provided(
            file=arguments["file"],
            key_file=arguments["key_file"],
            text=arguments["text"],
            key_text=arguments["key_text"],
            names=arguments["host_names"],
            now=now,
        )
        return {
            "changed": False,
            "msg": "What was provided can be used.",
            "warnings": warnings,
            **published(facts),
        }

    def _acme(self, arguments: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """Have a certificate of the fleet's own, which serves until there is one, and the key of the account."""
        core.check_issuable(arguments["host_names"], arguments["public"])
        result = self._self_signed({**arguments, "renew": False}, now)
        path = Path(arguments["directory"], "account.pem")
        old = read(path)
        account = old or core.make_account()
        try:
            result["thumbprint"] = core.thumbprint(account)
        except core.CertificateError as error:
            raise core.CertificateError(f"certificate_directory: {path}: {error}") from error
        if old is None:
            result["changed"] = True
            if not self._task.check_mode:
                write_file(path, account, 0o600)
        return {**result, "account": str(path)}

    def _self_signed(self, arguments: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        directory = Path(arguments["directory"])
        authority_path, path = directory / "authority.pem", directory / f"{arguments['name']}.pem"
        old_authority, old = read(authority_path), read(path)
        try:
            authority = (
                core.make_authority(arguments["authority_days"], now)
                if old_authority is None
                else core.read_authority(old_authority, now)
            )
        except core.CertificateError as error:
            raise core.CertificateError(f"certificate_directory: {authority_path}: {error}") from error
        names = (arguments["host_names"], arguments["addresses"])
        reason = core.reason_to_renew(old, authority, *names, now)
        if not reason and arguments["renew"]:
            reason = "certificate_renew asked for it"
        new = core.issue(authority, *names, arguments["days"], now).bundle if reason else old or ""
        # What clients need of the authority, as a file that can be handed on.
        published_path = directory / "ca.crt"
        outdated = read(published_path) != authority.certificate
        if not self._task.check_mode:
            if not directory.is_dir():
                directory.mkdir(parents=True, mode=0o700)
            for target, content, mode in (
                (authority_path, authority.bundle if old_authority is None else None, 0o600),
                (published_path, authority.certificate, 0o644),
                (path, new if reason else None, 0o600),
            ):
                if content is not None:
                    write_file(target, content, mode)
        facts = core.describe(new)
        result = {
            "changed": bool(reason) or outdated,
            "msg": f"A new certificate was issued: {reason}." if reason else "The certificate is good.",
            "path": str(path),
            "authority": str(published_path),
            **published(facts),
        }
        if self._task.diff:
            try:
                before = core.describe(old).text if old else ""
            except core.CertificateError:
                before = ""
            header = os.fspath(path)
            result["diff"] = {"before_header": header, "after_header": header, "before": before, "after": facts.text}
        return result


def published(facts: core.Facts) -> dict[str, Any]:
    """Return what everybody may know, as Ansible shows it."""
    return {
        "names": list(facts.names),
        "issuer": facts.issuer,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "sha256": facts.sha256,
    }
