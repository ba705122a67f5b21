# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One policy for every unit of ours: nothing but what a service says it needs.

The directives are those of systemd.exec(5); each that a systemd of the oldest supported
distribution (249) does not know is ignored by it with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: What a service may need, with the value that allows the least.
DEFAULTS: Mapping[str, Any] = {
    # Address families besides unix sockets: true for IPv4 and IPv6.
    "network": False,
    # Directories that the service may write to; all others are read-only to it.
    "write_paths": [],
    # Capabilities that remain, such as CAP_NET_BIND_SERVICE.
    "capabilities": [],
    # Memory that is both writable and executable, which just-in-time compilers need.
    "executable_memory": False,
    # Real devices besides /dev/null and its like.
    "devices": False,
    # The whole of /proc, for services that read the machine's load or memory.
    "system_information": False,
    # Groups of system calls on top of @system-service, or single calls.
    "system_calls": [],
    # Mask of the files that it makes.
    "umask": "0027",
}

PATH = re.compile(r"-?/[A-Za-z0-9@%._/+:-]*")
CAPABILITY = re.compile(r"CAP_[A-Z_]+")
SYSTEM_CALL = re.compile(r"@?[a-z0-9_-]+")
UMASK = re.compile(r"0[0-7]{3}")


class SandboxError(ValueError):
    """Needs that cannot be put into directives; the text names what and why."""


def directives(needs: Mapping[str, Any]) -> list[str]:
    """Return the lines of a unit's ``[Service]`` section that confine it to its needs.

    :param needs: any of :data:`DEFAULTS`; what is left out stays closed.
    :raises SandboxError: for an unknown need, or a value that no directive can take.
    """
    unknown = sorted(set(needs) - set(DEFAULTS))
    if unknown:
        raise SandboxError(f"'{unknown[0]}' is not something a sandbox can allow: use {', '.join(DEFAULTS)}")
    need = {**DEFAULTS, **needs}
    _check(need)
    capabilities = " ".join(need["capabilities"])
    families = "AF_UNIX AF_INET AF_INET6" if need["network"] else "AF_UNIX"
    lines = [
        "NoNewPrivileges=yes",
        f"CapabilityBoundingSet={capabilities}",
        f"UMask={need['umask']}",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        f"PrivateDevices={_yes(not need['devices'])}",
        # In a user namespace of its own, a service could not use a capability on the host.
        f"PrivateUsers={_yes(not need['capabilities'])}",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        f"ProcSubset={'all' if need['system_information'] else 'pid'}",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        f"MemoryDenyWriteExecute={_yes(not need['executable_memory'])}",
        "RemoveIPC=yes",
        "KeyringMode=private",
        f"RestrictAddressFamilies={families}",
        "SystemCallArchitectures=native",
        # A call that is not allowed fails like one that the account may not make; it does not kill.
        "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=@system-service",
    ]
    if not need["capabilities"]:
        lines.append("SystemCallFilter=~@privileged @resources")
        # Without the capability an account can only chown what is its own, which servers do with
        # the sockets that they make.
        lines.append("SystemCallFilter=@chown")
    if need["system_calls"]:
        lines.append(f"SystemCallFilter={' '.join(need['system_calls'])}")
    if need["write_paths"]:
        lines.append(f"ReadWritePaths={' '.join(need['write_paths'])}")
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _check(need: Mapping[str, Any]) -> None:
    for name, pattern in (
        ("write_paths", PATH),
        ("capabilities", CAPABILITY),
        ("system_calls", SYSTEM_CALL),
    ):
        value = need[name]
        if not isinstance(value, list):
            raise SandboxError(f"{name}: {value!r} is not a list")
        for item in value:
            if not isinstance(item, str) or not pattern.fullmatch(item):
                raise SandboxError(f"{name}: {item!r} cannot stand in a unit: {pattern.pattern}")
    for name in ("network", "executable_memory", "devices", "system_information"):
        if not isinstance(need[name], bool):
            raise SandboxError(f"{name}: {need[name]!r} is neither true nor false")
    if not isinstance(need["umask"], str) or not UMASK.fullmatch(need["umask"]):
        raise SandboxError(f"umask: {need['umask']!r} is not a mask: write it like '0027'")
