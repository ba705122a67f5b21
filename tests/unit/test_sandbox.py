"""The sandbox: everything is closed but what a service says it needs, and no need breaks out of its line."""

import configparser
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _sandbox as core

CLOSED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
UMask=0027
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
RestrictAddressFamilies=
RestrictAddressFamilies=AF_UNIX
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=@chown
""".splitlines()


def test_without_needs_everything_is_closed() -> None:
    assert core.directives({}) == CLOSED


@pytest.mark.parametrize(
    ("needs", "gone", "new"),
    [
        ({"network": True}, ["RestrictAddressFamilies=AF_UNIX"], ["RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"]),
        ({"write_paths": ["/srv/a", "-/run/b@1"]}, [], ["ReadWritePaths=/srv/a -/run/b@1"]),
        (
            {"capabilities": ["CAP_CHOWN", "CAP_KILL"]},
            ["PrivateUsers=yes"],
            ["CapabilityBoundingSet=CAP_CHOWN CAP_KILL", "PrivateUsers=no"],
        ),
        (
            {"capabilities": ["CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"], "system_calls": ["kcmp"]},
            ["PrivateUsers=yes", "SystemCallFilter=@chown"],
            [
                "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SYS_CHROOT",
                "PrivateUsers=no",
                "SystemCallFilter=@chown @setuid chroot kcmp",
            ],
        ),
        (
            {"network": True, "address_families": ["AF_NETLINK", "AF_INET"]},
            ["RestrictAddressFamilies=AF_UNIX"],
            ["RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"],
        ),
        ({"executable_memory": True}, ["MemoryDenyWriteExecute=yes"], ["MemoryDenyWriteExecute=no"]),
        ({"devices": True}, ["PrivateDevices=yes"], ["PrivateDevices=no"]),
        ({"system_information": True}, ["ProcSubset=pid"], ["ProcSubset=all"]),
        (
            {"system_calls": ["@mount", "kcmp"]},
            ["SystemCallFilter=@chown"],
            ["SystemCallFilter=@chown @mount kcmp"],
        ),
        ({"umask": "0007"}, ["UMask=0027"], ["UMask=0007"]),
        ({"network": False, "capabilities": [], "write_paths": []}, [], []),
    ],
)
def test_a_need_opens_its_directive_and_no_other(needs: dict[str, Any], gone: list[str], new: list[str]) -> None:
    lines = core.directives(needs)
    assert sorted(set(CLOSED) - set(lines)) == sorted(gone)
    assert sorted(set(lines) - set(CLOSED)) == sorted(new)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"netwrok": True}, "'netwrok' is not something a sandbox can allow: use network, address_families,"),
        ({"network\nExecStart": True}, "is not something a sandbox can allow"),
        ({"network": "no"}, "network: 'no' is neither true nor false"),
        ({"devices": 1}, "devices: 1 is neither true nor false"),
        ({"executable_memory": None}, "executable_memory: None is neither"),
        ({"system_information": []}, r"system_information: \[\] is neither"),
        ({"write_paths": "/srv"}, "write_paths: '/srv' is not a list"),
        ({"write_paths": None}, "write_paths: None is not a list"),
        ({"write_paths": ["srv"]}, "write_paths: 'srv' cannot stand in a unit"),
        ({"write_paths": [""]}, "write_paths: '' cannot stand in a unit"),
        ({"write_paths": [5]}, "write_paths: 5 cannot stand in a unit"),
        ({"write_paths": ["/srv /etc"]}, "write_paths: '/srv /etc' cannot stand in a unit"),
        ({"write_paths": ["/srv\nExecStartPre=/bin/id"]}, "write_paths: .* cannot stand in a unit"),
        ({"write_paths": ["/srv\n"]}, "write_paths: .* cannot stand in a unit"),
        ({"write_paths": ['/a" "/b']}, "write_paths: .* cannot stand in a unit"),
        ({"write_paths": ["/srv\\"]}, "write_paths: .* cannot stand in a unit"),
        ({"capabilities": ["cap_chown"]}, "capabilities: 'cap_chown' cannot stand in a unit"),
        ({"capabilities": ["~CAP_CHOWN"]}, "capabilities: .* cannot stand in a unit"),
        ({"capabilities": ["CAP_CHOWN\nUser=root"]}, "capabilities: .* cannot stand in a unit"),
        ({"capabilities": [["CAP_CHOWN"]]}, "capabilities: .* cannot stand in a unit"),
        ({"system_calls": ["~@mount"]}, "system_calls: '~@mount' cannot stand in a unit"),
        ({"system_calls": ["kcmp ptrace"]}, "system_calls: .* cannot stand in a unit"),
        ({"address_families": ["AF_INET ~AF_UNIX"]}, "address_families: .* cannot stand in a unit"),
        ({"address_families": "AF_NETLINK"}, "address_families: 'AF_NETLINK' is not a list"),
        ({"umask": "27"}, "umask: '27' is not a mask: write it like '0027'"),
        ({"umask": "0088"}, "umask: '0088' is not a mask"),
        ({"umask": "0027\n"}, "umask: .* is not a mask"),
        ({"umask": 23}, "umask: 23 is not a mask"),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(needs: dict[str, Any], message: str) -> None:
    with pytest.raises(core.SandboxError, match=message):
        core.directives(needs)


@pytest.mark.parametrize("needs", [{}, {"network": True, "capabilities": ["CAP_KILL"]}])
def test_what_a_package_allows_is_taken_back(needs: dict[str, Any]) -> None:
    """Lists of a unit and of its drop-ins add up, so that the first line of each empties it."""
    lines = core.directives(needs)
    for name in ("CapabilityBoundingSet", "RestrictAddressFamilies", "SystemCallFilter"):
        assert next(line for line in lines if line.startswith(name)) == f"{name}="


def test_every_line_is_one_assignment() -> None:
    needs = {"network": True, "write_paths": ["/a"], "capabilities": ["CAP_KILL"], "system_calls": ["@mount"]}
    parser = configparser.RawConfigParser(strict=False, delimiters="=")
    parser.read_string("\n".join(["[Service]", *core.directives(needs)]))
    assert parser.sections() == ["Service"]
    assert parser["Service"]["ReadWritePaths"] == "/a"
