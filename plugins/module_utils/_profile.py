# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles by sampling: what py-spy has recorded of an instance, as figures and as a picture."""

from __future__ import annotations

import html
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

#: A function with its file and the line that was running, as ``index (shop/__init__.py:138)``.
Frame = str
#: What a thread was doing, from the outermost function to the innermost, with how long that was seen.
Stacks = Mapping[tuple[Frame, ...], float]

#: What stands before the part of a path that tells where a function is from: a release, an environment, Python.
BEFORE = re.compile(r"^/.*(?:/builds/[0-9a-f]+/code|/releases/[0-9a-f]+|/(?:site|dist)-packages|/lib/python3[0-9.]*)/")
#: Pixels of the picture: its width, the height of a row, and what is too narrow to be drawn.
WIDTH, ROW, NARROW = 1200.0, 17, 0.3
#: Pixels that a character takes.
CHARACTER = 6.6


def record_command(
    program: str, pid: int, output: Path, *, seconds: float, rate: int, idle: bool, nonblocking: bool
) -> list[str]:
    """Compose the call of py-spy that records a process and its children.

    :param seconds: how long; py-spy takes whole ones.
    :param rate: samples per second.
    :param idle: whether threads that wait count too.
    :param nonblocking: whether to read the memory of processes that go on running.
    """
    return [
        program, "record", "--pid", str(pid), "--subprocesses", "--format", "speedscope", "--output", str(output),
        "--duration", str(max(1, round(seconds))), "--rate", str(rate),
        *(["--idle"] if idle else []), *(["--nonblocking"] if nonblocking else []),
    ]  # fmt: skip


def read_stacks(text: str) -> dict[tuple[Frame, ...], float]:
    """Read a file of py-spy for speedscope; threads of all processes count together.

    :returns: seconds by stack.
    :raises ReleaseError: for what is no such file.
    """
    stacks: defaultdict[tuple[Frame, ...], float] = defaultdict(float)
    try:
        document = json.loads(text)
        names = [_frame(entry) for entry in document["shared"]["frames"]]
        for profile in document["profiles"]:
            for sample, weight in zip(profile["samples"], profile["weights"], strict=True):
                stacks[tuple(names[index] for index in sample)] += weight
    except (ValueError, LookupError, TypeError) as error:
        raise ReleaseError(f"py-spy has written what cannot be read: {type(error).__name__}: {error}") from error
    return dict(stacks)


def _frame(entry: Mapping[str, Any]) -> Frame:
    file = BEFORE.sub("", entry.get("file") or "?")
    return f"{entry['name']} ({file}:{entry.get('line') or '?'})"


def hottest(stacks: Stacks, count: int) -> list[dict[str, Any]]:
    """List the functions that were themselves seen running the longest, whichever of their lines ran.

    :returns: ``function`` with its file, ``own`` and ``total`` (with what it called) in percent.
    """
    whole = sum(stacks.values())
    own: defaultdict[str, float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    for stack, seconds in stacks.items():
        functions = [frame.rpartition(":")[0] + ")" for frame in stack]
        for function in set(functions):
            total[function] += seconds
        for function in functions[-1:]:
            own[function] += seconds
    ordered = sorted(own, key=lambda function: (-own[function], function))
    return [
        {
            "function": function,
            "own": round(100 * own[function] / whole, 1),
            "total": round(100 * total[function] / whole, 1),
        }
        for function in ordered[:count]
    ]


def render_hottest(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show what :func:`hottest` returned as the lines of a table."""
    return ["  own %  total %  function"] + [
        f"{entry['own']:7.1f}  {entry['total']:7.1f}  {entry['function']}" for entry in found
    ]


@dataclass
class _Node:
    """A function as called from one place, with what it called."""

    seconds: float = 0.0
    called: dict[Frame, _Node] = field(default_factory=dict)


def _tree(stacks: Stacks) -> _Node:
    root = _Node()
    for stack, seconds in sorted(stacks.items()):
        node = root
        node.seconds += seconds
        for frame in stack:
            node = node.called.setdefault(frame, _Node())
            node.seconds += seconds
    return root


def _boxes(root: _Node) -> Iterator[tuple[Frame, float, int, float]]:
    """Yield name, start and depth of each box, and how wide it is; start and width in seconds."""
    pending = [(f"all, {root.seconds:.2f} s", root, 0.0, 0)]
    while pending:
        name, node, start, depth = pending.pop()
        yield name, start, depth, node.seconds
        for frame, below in node.called.items():
            pending.append((frame, below, start, depth + 1))
            start += below.seconds


def flame_graph(stacks: Stacks, title: str) -> str:
    """Draw stacks as an SVG: a box per function, as wide as it was seen, above the one that called it."""
    root = _tree(stacks)
    scale = WIDTH / root.seconds if root.seconds else 0.0
    boxes = [(n, x * scale, depth, w * scale) for n, x, depth, w in _boxes(root) if w * scale >= NARROW]
    height = ROW * (max((depth for _n, _x, depth, _w in boxes), default=0) + 3)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{height}" '
        f'viewBox="0 0 {WIDTH:.0f} {height}" font-family="monospace" font-size="11">',
        f'<text x="4" y="{ROW - 4}" font-size="13">{html.escape(title)}</text>',
    ]
    for name, left, depth, width in boxes:
        top = height - ROW * (depth + 1)
        # The same function has the same colour wherever it is.
        shade = zlib.crc32(name.partition(" (")[0].encode())
        label = html.escape(name[: int(width / CHARACTER)])
        lines.append(
            f"<g><title>{html.escape(name)}: {100 * width / WIDTH:.1f} %</title>"
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 1}" rx="2" '
            f'fill="rgb({205 + shade % 50},{110 + shade // 50 % 90},{60 + shade // 4500 % 40})"/>'
            f'<text x="{left + 3:.1f}" y="{top + ROW - 5}">{label}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])
