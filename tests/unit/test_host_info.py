"""The host's description, read from files as hosts have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils._host_info import (
    Listener,
    host_info,
    parse_listeners,
    parse_memory,
    parse_os_release,
    time_daemon,
)

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   106        0 3141 1 0 100 0 0 10 0
   1: 0100007F:A2C4 0100007F:18EB 01 00000000:00000000 00:00000000 00000000     0        0 2718 1 0 20 4 30 10 -1
"""
TABLE_6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue ... inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 42 1 0
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root directory with what the description is read from."""
    files = {
        "etc/os-release": 'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n',
        "proc/meminfo": "MemTotal:        2097152 kB\nMemFree:  1 kB\n",
        "proc/net/tcp": TABLE,
        "proc/77/comm": "redis-server\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "proc/77/fd").mkdir()
    (tmp_path / "proc/77/fd/6").symlink_to("socket:[3141]")
    return tmp_path


def test_whole_description(root: Path) -> None:
    """Every part comes from the files below the root."""
    found = host_info(root)
    platform = found["platform"]
    assert isinstance(platform, dict)
    assert (platform["distribution"], platform["version"], platform["codename"]) == ("ubuntu", "24.04", "noble")
    assert platform["architecture"] == os.uname().machine
    assert found["memory_mb"] == 2048
    assert found["listening"] == [{"address": "127.0.0.1", "port": 6379, "process": "redis-server"}]
    assert found["time_daemon"] == ""
    assert found["ipv6"] is False


def test_ipv6(root: Path) -> None:
    """One address of IPv6 will do, and the loopback address is one."""
    (root / "proc/net/if_inet6").write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert host_info(root)["ipv6"] is True


def test_applications_are_those_with_a_release_in_service(root: Path) -> None:
    """A folder without the link is none yet, and one whose link leads nowhere is none any more."""
    assert host_info(root)["apps"] == []
    for name in ("shop", "blog", "bare", "gone"):
        (root / "srv" / name / "releases" / "a1").mkdir(parents=True)
    for name, release in (("shop", "a1"), ("blog", "a1"), ("gone", "b2")):
        (root / "srv" / name / "current").symlink_to(f"releases/{release}")
    (root / "srv" / "other" / "current").mkdir(parents=True)
    assert host_info(root)["apps"] == ["blog", "shop"]


@pytest.mark.parametrize(("limit", "expected"), [("max\n", 2048), ("536870912\n", 512), ("8589934592\n", 2048)])
def test_memory_limit_counts(root: Path, limit: str, expected: int) -> None:
    """A limit below the machine's memory is what there is."""
    path = root / "sys/fs/cgroup/memory.max"
    path.parent.mkdir(parents=True)
    path.write_text(limit)
    assert host_info(root)["memory_mb"] == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 16),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("25000 50000\n", 1),
        ("1000 100000\n", 1),
        ("6400000 100000\n", 16),
        ("\n", 16),
    ],
)
def test_processor_quota_counts(root: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    """A quota below the processors is what there is, and a part of one is one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))
    assert host_info(root)["cpus"] == 16
    path = root / "sys/fs/cgroup/cpu.max"
    path.parent.mkdir(parents=True)
    path.write_text(quota)
    assert host_info(root)["cpus"] == expected


def test_ipv6_listener() -> None:
    """Addresses of IPv6 are four words."""
    assert list(parse_listeners(TABLE_6)) == [Listener("::1", 8080, 42)]


def test_established_connections_do_not_listen() -> None:
    """Only the state LISTEN holds a port against a new service."""
    assert [listener.port for listener in parse_listeners(TABLE)] == [6379]


def test_time_daemon(root: Path) -> None:
    """A daemon is known by its program, wherever it is started from."""
    program = root / "usr/sbin/chronyd"
    program.parent.mkdir(parents=True)
    program.touch()
    assert time_daemon(root) == "chrony"


def test_os_release() -> None:
    """Quotes and comments are not part of values."""
    assert parse_os_release("# x=1\nID='debian'\n\nVERSION_ID=\"12\"\n") == {"ID": "debian", "VERSION_ID": "12"}


def test_no_memory_total() -> None:
    """A file without the total is an error, not zero memory."""
    with pytest.raises(ValueError, match="MemTotal"):
        parse_memory("MemFree: 1 kB\n")
