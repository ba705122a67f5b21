# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many processes and threads an application gets on a host, and the most that its units may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Memory is rounded down to this many MiB: the kernel leaves hosts of one kind a few MiB more or less.
STEP = 64
#: Instances that run at a time: while a deploy switches, the old one and the new one.
INSTANCES = 2


@dataclass(frozen=True)
class Pace:
    """How many requests a process serves at a time.

    :param threads: with threads.
    :param connections: with green threads, which cost less.
    """

    threads: int
    connections: int


#: By what the application does most. Measured with Flask behind nginx, on two processors: with 32 threads instead
#: of 4, a view that waits for 50 ms was served 6.5 times as often, and one that waits for nothing at 0.45 to 0.8 of
#: its rate.
WORKLOADS: Mapping[str, Pace] = {
    "cpu": Pace(threads=4, connections=50),
    "mixed": Pace(threads=8, connections=200),
    "io": Pace(threads=32, connections=1000),
}

#: Values as systemd.resource-control(5) reads them.
MEMORY = re.compile(r"infinity|[1-9][0-9]*[KMGT]|(?:[1-9][0-9]?|100)%")
SWAP = re.compile(r"0|" + MEMORY.pattern)
QUOTA = re.compile(r"[1-9][0-9]*%")
TASKS = re.compile(r"infinity|[1-9][0-9]{0,6}")

#: Limits, with the directive of systemd, the form and the remedy.
LIMITS: Mapping[str, tuple[str, re.Pattern[str], str]] = {
    "memory_max": ("MemoryMax", MEMORY, "write a size such as 512M, a share of the host's such as 50%, or infinity"),
    "memory_high": ("MemoryHigh", MEMORY, "write a size such as 400M, a share of the host's such as 40%, or infinity"),
    "memory_swap_max": ("MemorySwapMax", SWAP, "write 0, a size such as 512M, a share such as 10%, or infinity"),
    "cpu_quota": ("CPUQuota", QUOTA, "write a share of one processor such as 150%"),
    "tasks_max": ("TasksMax", TASKS, "write a number of processes and threads such as 500, or infinity"),
}  # fmt: skip


class SizingError(ValueError):
    """What cannot be sized; the text names the variable, the value and the remedy."""


@dataclass(frozen=True)
class Sizing:
    """What an application gets on a host.

    :param processes: worker processes of an instance.
    :param threads: threads of each.
    :param connections: of each, where a worker serves them with green threads instead.
    :param memory_mb: MiB that the application may take.
    """

    processes: int
    threads: int
    connections: int
    memory_mb: int


def read_limits(limits: Any) -> dict[str, str]:
    """Read ``app_limits``.

    :returns: the texts of those that are set, in the order of :data:`LIMITS`.
    :raises SizingError: for an unknown limit, or a value that systemd could not read.
    """
    if not isinstance(limits, Mapping):
        raise SizingError("app_limits: is not a dictionary: write {memory_max: 512M}")
    if unknown := sorted(str(name) for name in set(limits) - set(LIMITS)):
        raise SizingError(f"app_limits: '{unknown[0]}' is not a limit: use {', '.join(LIMITS)}")
    found = {}
    for name, (_directive, pattern, remedy) in LIMITS.items():
        if name not in limits:
            continue
        value = limits[name]
        text = "" if isinstance(value, bool) else str(value)
        if not pattern.fullmatch(text):
            raise SizingError(f"app_limits: {name}: {str(value)!r} is not a limit: {remedy}")
        found[name] = text
    least, most = (_bytes(found.get(name, "infinity")) for name in ("memory_high", "memory_max"))
    if least is not None and most is not None and least > most:
        raise SizingError(
            f"app_limits: memory_high: '{found['memory_high']}' is above memory_max, '{found['memory_max']}', and has "
            "no effect: write less"
        )
    return found


def _bytes(text: str) -> int | None:
    """Return the size that a limit names, or nothing for a share and where there is none."""
    return int(text[:-1]) << 10 * (1 + "KMGT".index(text[-1])) if text[-1] in "KMGT" else None


def _limited(text: str, memory: int) -> int:
    """Return the MiB of a limit for memory, at most those of the host."""
    size = _bytes(text)
    if size is not None:
        return min(size >> 20, memory)
    return memory if text == "infinity" else memory * int(text[:-1]) // 100


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise SizingError(f"{name}: {str(value)!r} is not a share: write a number above 0 and up to 1, such as 0.5")
    return float(value)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SizingError(f"{name}: {str(value)!r} is not a whole number from {least} on")
    return value


def sizing(
    cpus: int,
    memory_mb: int,
    *,
    workload: str = "mixed",
    worker_memory: int = 128,
    memory_share: float = 0.8,
    cpu_share: float = 1.0,
    limits: Mapping[str, Any] | None = None,
) -> Sizing:
    """Say what an application gets on a host.

    One process per processor, as more only compete for them, but no more than fit into the memory twice, since a
    deploy has two instances at a time. Threads follow from what the application does most.

    :param cpus: processors of the host.
    :param memory_mb: its memory in MiB.
    :param workload: one of :data:`WORKLOADS`.
    :param worker_memory: MiB that one process takes, with its threads.
    :param memory_share: part of the memory that is the application's.
    :param cpu_share: part of the processors that it has processes for.
    :param limits: ``app_limits``; what an instance may not take, it is not sized for.
    :raises SizingError: for values that make no sense, and where not even one process fits.
    """
    if workload not in WORKLOADS:
        raise SizingError(f"app_workload: {str(workload)!r} is unknown: write {', '.join(WORKLOADS)}")
    read = read_limits(limits or {})
    worker = _whole("app_worker_memory", worker_memory, 1)
    processors = max(1, int(_whole("cpus", cpus, 1) * _share("app_cpu_share", cpu_share)))
    memory = _whole("memory_mb", memory_mb, 1) // STEP * STEP
    budget = int(memory * _share("app_memory_share", memory_share))
    most = min(_limited(read.get(name, "infinity"), memory) for name in ("memory_max", "memory_high"))
    if worker > min(budget, most):
        raise SizingError(
            f"app_worker_memory: a process of {worker} MiB does not fit into the {min(budget, most)} MiB that are the "
            f"application's on this host: write what one takes, raise app_memory_share ({memory_share:g}) or "
            "app_limits.memory_max, or take a host with more memory"
        )
    if "cpu_quota" in read:
        processors = min(processors, -(-int(read["cpu_quota"][:-1]) // 100))
    processes = max(1, min(processors, budget // (INSTANCES * worker), most // worker))
    pace = WORKLOADS[workload]
    return Sizing(processes, pace.threads, pace.connections, budget)


def limit_directives(limits: Mapping[str, Any], memory_mb: int) -> list[str]:
    """Return the lines of a unit's ``[Service]`` section that limit what it takes.

    :param limits: ``app_limits``.
    :param memory_mb: the most memory in MiB where they do not say it; 0 for no such limit.
    :raises SizingError: see :func:`read_limits`.
    """
    read = {**({"memory_max": f"{memory_mb}M"} if memory_mb else {}), **read_limits(limits)}
    if read.get("memory_max", "infinity") != "infinity":
        # What grows without end would fill the swap first, which slows down the whole host.
        read.setdefault("memory_swap_max", "0")
    lines = [f"{LIMITS[name][0]}={read[name]}" for name in LIMITS if name in read]
    # The kernel kills one process, mostly the worker that has grown, and the server replaces it; by default
    # systemd would stop the whole unit then.
    return [*lines, "OOMPolicy=continue"]
