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
    # Further address families, such as AF_NETLINK.
    "address_families": [],
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
    # Groups of system calls, or single calls, besides those that no capability is asked for.
    "system_calls": [],
    # Mask of the files that it makes.
    "umask": "0027",
}

PATH = re.compile(r"-?/[A-Za-z0-9@%._/+:-]*")
CAPABILITY = re.compile(r"CAP_[A-Z_]+")
FAMILY = re.compile(r"AF_[A-Z0-9_]+")
SYSTEM_CALL = re.compile(r"@?[a-z0-9_-]+")
UMASK = re.compile(r"0[0-7]{3}")


#: The system calls that a capability is for, where they are not among those that every service may make.
CALLS_OF_CAPABILITIES: Mapping[str, str] = {
    "CAP_SETUID": "@setuid",
    "CAP_SETGID": "@setuid",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_NICE": "@resources",
}


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
    families = ["AF_UNIX", *(["AF_INET", "AF_INET6"] if need["network"] else []), *need["address_families"]]
    lines = [
        "NoNewPrivileges=yes",
        # Lists add up, also over drop-ins: an empty one takes back what a package's unit allows.
        "CapabilityBoundingSet=",
        *([f"CapabilityBoundingSet={capabilities}"] if capabilities else []),
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
        "RestrictAddressFamilies=",
        f"RestrictAddressFamilies={' '.join(dict.fromkeys(families))}",
        "SystemCallArchitectures=native",
        # A call that is not allowed fails like one that the account may not make; it does not kill.
        "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
    ]
    # Without the capability an account can only chown what is its own, which servers do with the sockets that
    # they make.
    calls = ["@chown", *(CALLS_OF_CAPABILITIES[name] for name in need["capabilities"] if name in CALLS_OF_CAPABILITIES)]
    lines.append(f"SystemCallFilter={' '.join(dict.fromkeys([*calls, *need['system_calls']]))}")
    if need["write_paths"]:
        lines.append(f"ReadWritePaths={' '.join(need['write_paths'])}")
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _check(need: Mapping[str, Any]) -> None:
    for name, pattern in (
        ("write_paths", PATH),
        ("capabilities", CAPABILITY),
        ("address_families", FAMILY),
        ("system_calls", SYSTEM_CALL),
    ):
        value = need[name]
        if not isinstance(value, list):
            raise SandboxError(f"{name}: {value!r} is not a list: write one")
        for item in value:
            if not isinstance(item, str) or not pattern.fullmatch(item):
                raise SandboxError(f"{name}: {item!r} cannot stand in a unit: write what matches {pattern.pattern}")
    for name in ("network", "executable_memory", "devices", "system_information"):
        if not isinstance(need[name], bool):
            raise SandboxError(f"{name}: {need[name]!r} is neither true nor false: write one of them")
    if not isinstance(need["umask"], str) or not UMASK.fullmatch(need["umask"]):
        raise SandboxError(f"umask: {need['umask']!r} is not a mask: write it like '0027'")
