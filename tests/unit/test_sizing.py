"""The size of an instance: it grows with its host, never to nothing and never beyond the application's share."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _sizing as core
from hypothesis import given
from hypothesis import strategies as st

WORKLOADS = st.sampled_from(["cpu", "mixed", "io"])
CPUS = st.integers(1, 512)
MEMORY = st.integers(64, 4 << 20)
WORKER = st.integers(1, 16384)
SHARE = st.floats(0.01, 1)


def size(cpus: int, memory_mb: int, **options: Any) -> core.Sizing | None:
    """Return the size, or nothing where not even one process fits."""
    with contextlib.suppress(core.SizingError):
        return core.sizing(cpus, memory_mb, **options)
    return None


@pytest.mark.parametrize(
    ("cpus", "memory_mb", "options", "expected"),
    [
        # processes, threads, connections, MiB; these stand in docs/sizing.md.
        (1, 985, {"workload": "cpu"}, (1, 4, 50, 768)),
        (1, 985, {}, (1, 8, 200, 768)),
        (1, 985, {"workload": "io"}, (1, 32, 1000, 768)),
        (2, 3915, {}, (2, 8, 200, 3123)),
        (4, 7950, {"workload": "io"}, (4, 32, 1000, 6348)),
        (16, 64220, {"workload": "cpu"}, (16, 4, 50, 51353)),
        # Memory is what there is least of: 3,123 MiB hold two instances of three processes of 512 MiB.
        (16, 3915, {"worker_memory": 512}, (3, 8, 200, 3123)),
        # Two do not fit at a time, but one does.
        (4, 1024, {"worker_memory": 500}, (1, 8, 200, 819)),
        (16, 65536, {"cpu_share": 0.25}, (4, 8, 200, 52428)),
        (2, 65536, {"cpu_share": 0.25}, (1, 8, 200, 52428)),
        (4, 8192, {"memory_share": 0.25}, (4, 8, 200, 2048)),
        # Limits count as well.
        (16, 65536, {"limits": {"cpu_quota": "250%"}}, (3, 8, 200, 52428)),
        (16, 65536, {"limits": {"memory_max": "512M"}}, (4, 8, 200, 52428)),
        (16, 65536, {"limits": {"memory_max": "1G", "memory_high": "700M"}}, (5, 8, 200, 52428)),
        (16, 8192, {"limits": {"memory_max": "10%"}}, (6, 8, 200, 6553)),
        (16, 65536, {"limits": {"memory_max": "infinity", "tasks_max": 9}}, (16, 8, 200, 52428)),
        (16, 65536, {"limits": {"memory_max": "512T"}}, (16, 8, 200, 52428)),
    ],
)
def test_sizes(cpus: int, memory_mb: int, options: dict[str, Any], expected: tuple[int, int, int, int]) -> None:
    found = core.sizing(cpus, memory_mb, **options)
    assert (found.processes, found.threads, found.connections, found.memory_mb) == expected


@pytest.mark.parametrize(("one", "other"), [(3904, 3967), (7936, 7999)])
def test_hosts_of_one_kind_get_the_same(one: int, other: int) -> None:
    """A kernel that takes some MiB more does not make another release."""
    assert core.sizing(2, one) == core.sizing(2, other)
    assert core.sizing(2, one) != core.sizing(2, other + 1)


@given(CPUS, MEMORY, WORKLOADS, WORKER, SHARE, SHARE)
def test_it_fits(cpus: int, memory: int, workload: str, worker: int, share: float, cpu_share: float) -> None:
    """Never nothing, never more processes than processors, and both instances of a deploy stay within the share."""
    found = size(cpus, memory, workload=workload, worker_memory=worker, memory_share=share, cpu_share=cpu_share)
    if found is None:
        assert worker > int(memory // 64 * 64 * share)
        return
    assert 1 <= found.processes <= max(1, cpus * cpu_share)
    assert found.threads >= 1
    assert found.connections >= found.threads
    assert found.memory_mb <= memory * share
    assert found.processes * worker <= found.memory_mb
    if found.processes > 1:
        assert 2 * found.processes * worker <= found.memory_mb


@given(CPUS, MEMORY, WORKLOADS, WORKER, st.integers(0, 64), st.integers(0, 1 << 16))
def test_a_larger_host_gets_no_less(
    cpus: int, memory: int, workload: str, worker: int, more_cpus: int, more_memory: int
) -> None:
    before = size(cpus, memory, workload=workload, worker_memory=worker)
    after = size(cpus + more_cpus, memory + more_memory, workload=workload, worker_memory=worker)
    if before is None:
        return
    assert after is not None
    assert after.processes >= before.processes
    assert after.threads >= before.threads
    assert after.connections >= before.connections
    assert after.memory_mb >= before.memory_mb


@given(CPUS, MEMORY, WORKER, st.integers(1, 20))
def test_more_applications_on_a_host_never_take_more_together(cpus: int, memory: int, worker: int, apps: int) -> None:
    alone = size(cpus, memory, worker_memory=worker)
    each = size(cpus, memory, worker_memory=worker, memory_share=0.8 / apps)
    if each is None:
        return
    assert alone is not None
    assert each.memory_mb * apps <= alone.memory_mb + apps
    assert each.processes <= alone.processes


@given(CPUS, st.integers(2048, 1 << 20), st.integers(256, 1 << 20), st.integers(1, 20000))
def test_limits_only_take_away(cpus: int, memory: int, most: int, quota: int) -> None:
    free = core.sizing(cpus, memory)
    limited = core.sizing(cpus, memory, limits={"memory_max": f"{most}M", "cpu_quota": f"{quota}%"})
    assert 1 <= limited.processes <= free.processes
    assert limited.processes * 128 <= most
    assert (limited.processes - 1) * 100 < quota


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "web"}, "app_workload: 'web' is unknown: write cpu, mixed, io"),
        ({"cpus": 0}, "cpus: '0' is not a whole number from 1 on"),
        ({"memory_mb": "8192"}, "memory_mb: '8192' is not a whole number"),
        ({"worker_memory": 0}, "app_worker_memory: '0' is not a whole number from 1 on"),
        ({"worker_memory": 1.5}, r"app_worker_memory: '1\.5' is not a whole number"),
        ({"worker_memory": True}, "app_worker_memory: 'True' is not a whole number"),
        ({"memory_share": 0}, "app_memory_share: '0' is not a share: write a number above 0 and up to 1, such as 0.5"),
        ({"memory_share": 1.1}, r"app_memory_share: '1\.1' is not a share"),
        ({"memory_share": "0.5"}, r"app_memory_share: '0\.5' is not a share"),
        ({"cpu_share": -1}, "app_cpu_share: '-1' is not a share"),
        ({"cpu_share": True}, "app_cpu_share: 'True' is not a share"),
        (
            {"worker_memory": 7000},
            r"app_worker_memory: a process of 7000 MiB does not fit into the 6553 MiB that are the application's on "
            r"this host: write what one takes, raise app_memory_share \(0\.8\) or app_limits\.memory_max, or take a "
            "host with more memory",
        ),
        ({"limits": {"memory_max": "100M"}}, "a process of 128 MiB does not fit into the 100 MiB"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    given_host = {"cpus": 2, "memory_mb": 8192}
    with pytest.raises(core.SizingError, match=message):
        core.sizing(**{**given_host, **options})


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        ({}, ["MemoryMax=1500M", "MemorySwapMax=0"]),
        ({"memory_max": "2G"}, ["MemoryMax=2G", "MemorySwapMax=0"]),
        ({"memory_max": "infinity"}, ["MemoryMax=infinity"]),
        ({"memory_swap_max": "1G"}, ["MemoryMax=1500M", "MemorySwapMax=1G"]),
        (
            {"tasks_max": 300, "cpu_quota": "150%"},
            ["MemoryMax=1500M", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=300"],
        ),
        (
            {"memory_high": "1G", "memory_max": "100%", "memory_swap_max": 0},
            ["MemoryMax=100%", "MemoryHigh=1G", "MemorySwapMax=0"],
        ),
    ],
)
def test_limits_of_a_unit(limits: dict[str, Any], lines: list[str]) -> None:
    assert core.limit_directives(limits, 1500) == [*lines, "OOMPolicy=continue"]


def test_without_a_size_there_is_no_limit_by_default() -> None:
    assert core.limit_directives({}, 0) == ["OOMPolicy=continue"]
    assert core.limit_directives({"tasks_max": 5}, 0) == ["TasksMax=5", "OOMPolicy=continue"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([], "app_limits: is not a dictionary: write {memory_max: 512M}"),
        (
            {"memory": "1G"},
            "app_limits: 'memory' is not a limit: use memory_max, memory_high, memory_swap_max, cpu_quota,",
        ),
        ({5: "1G"}, "app_limits: '5' is not a limit"),
        ({"memory_max": 512}, "app_limits: memory_max: '512' is not a limit: write a size such as 512M"),
        ({"memory_max": "0M"}, "memory_max: '0M' is not a limit"),
        ({"memory_max": "101%"}, "memory_max: '101%' is not a limit"),
        ({"memory_max": "1G\nExecStartPre=/bin/id"}, r"memory_max: '1G\\nExecStartPre=/bin/id' is not a limit"),
        ({"memory_max": "1G\n"}, r"memory_max: '1G\\n' is not a limit"),
        ({"memory_max": None}, "memory_max: 'None' is not a limit"),
        ({"memory_max": True}, "memory_max: 'True' is not a limit"),
        ({"cpu_quota": "1.5"}, r"cpu_quota: '1\.5' is not a limit: write a share of one processor such as 150%"),
        ({"cpu_quota": "0%"}, "cpu_quota: '0%' is not a limit"),
        ({"tasks_max": 0}, "tasks_max: '0' is not a limit: write a number of processes and threads such as 500"),
        ({"tasks_max": "many"}, "tasks_max: 'many' is not a limit"),
        (
            {"memory_high": "2G", "memory_max": "1500M"},
            "app_limits: memory_high: '2G' is above memory_max, '1500M', and has no effect: write less",
        ),
    ],
)
def test_limits_that_systemd_could_not_read_are_refused(limits: Any, message: str) -> None:
    with pytest.raises(core.SizingError, match=message):
        core.limit_directives(limits, 1500)
