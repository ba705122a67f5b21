"""What py-spy has recorded, as figures and as a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _profile as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

FRAMES: Sequence[dict[str, Any]] = (
    {"name": "run", "file": "threading.py", "line": 982},
    {"name": "index", "file": "shop/__init__.py", "line": 131},
    {"name": "render", "file": "jinja2/<x>.py", "line": 7},
    {"name": "index", "file": "shop/__init__.py", "line": 132},
    {"name": "idle", "file": None, "line": None},
)


def recorded(*threads: Sequence[tuple[Sequence[int], float]]) -> str:
    """Return a file of py-spy with stacks and seconds of each thread."""
    return json.dumps(
        {
            "shared": {"frames": FRAMES},
            "profiles": [
                {"samples": [stack for stack, _seconds in thread], "weights": [seconds for _stack, seconds in thread]}
                for thread in threads
            ],
        }
    )


#: Half of the time in the template, which two lines of the view have called, and a tenth nowhere.
RECORDED = recorded([([0, 1, 2], 0.25), ([0, 1], 0.3), ([0, 3, 2], 0.25)], [([0, 3], 0.1), ([], 0.1)], [])


def test_threads_of_all_processes_count_together() -> None:
    stacks = core.read_stacks(recorded([([0, 1], 0.5), ([0, 1], 0.25)], [([0, 1], 0.25), ([4], 1.0)]))
    assert stacks == {
        ("run (threading.py:982)", "index (shop/__init__.py:131)"): 1.0,
        ("idle (?:?)",): 1.0,
    }


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/shop/builds/4e30a3f22667/code/shop/__init__.py", "shop/__init__.py"),
        ("/srv/shop/releases/d6464e47fc39/wsgi_entry.py", "wsgi_entry.py"),
        ("/srv/shop/builds/4e30a3f22667/venv/lib/python3.13/site-packages/flask/app.py", "flask/app.py"),
        ("/usr/lib/python3/dist-packages/yaml/reader.py", "yaml/reader.py"),
        ("/usr/lib/python3.13/threading.py", "threading.py"),
        ("shop/__init__.py", "shop/__init__.py"),
        ("/opt/shop.py", "/opt/shop.py"),
    ],
)
def test_files_are_shown_from_where_they_are_known(path: str, shown: str) -> None:
    frames = [{"name": "f", "file": path, "line": 3}]
    text = json.dumps({"shared": {"frames": frames}, "profiles": [{"samples": [[0]], "weights": [1.0]}]})
    assert core.read_stacks(text) == {(f"f ({shown}:3)",): 1.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", recorded([([9], 1.0)]), '{"shared": {"frames": []}, "profiles": 1}'])
def test_what_is_no_recording_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="py-spy has written what cannot be read: "):
        core.read_stacks(text)


def test_the_hottest_functions_come_first_whichever_line_ran() -> None:
    found = core.hottest(core.read_stacks(RECORDED), 2)
    assert found == [
        {"function": "render (jinja2/<x>.py)", "own": 50.0, "total": 50.0},
        {"function": "index (shop/__init__.py)", "own": 40.0, "total": 90.0},
    ]
    assert core.render_hottest(found) == [
        "  own %  total %  function",
        "   50.0     50.0  render (jinja2/<x>.py)",
        "   40.0     90.0  index (shop/__init__.py)",
    ]


def test_a_function_that_calls_itself_counts_once() -> None:
    assert core.hottest({("a (x:1)", "a (x:2)"): 1.0}, 5) == [{"function": "a (x)", "own": 100.0, "total": 100.0}]


@pytest.mark.parametrize("text", [recorded(), recorded([]), recorded([([], 0.0)])])
def test_nothing_seen_is_no_error(text: str) -> None:
    stacks = core.read_stacks(text)
    assert core.hottest(stacks, 5) == []
    assert {title for title, *_place in boxes(core.flame_graph(stacks, "quiet"))} == set()


def boxes(picture: str) -> set[tuple[str, float, float, float]]:
    """Return title, left, width and top of each box; titles without file and line."""
    found = set()
    for group in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g"):  # noqa: S314 -- our own
        title, box, _label = group
        left, width, top = (float(box.attrib[name]) for name in ("x", "width", "y"))
        found.add((re.sub(r" \(.*:", ":", str(title.text)), left, width, top))
    return found


def test_a_flame_graph_has_a_box_for_each_call_above_its_caller() -> None:
    assert boxes(core.flame_graph(core.read_stacks(RECORDED), "shop & <more>")) == {
        ("all, 1.00 s: 100.0 %", 0.0, 1200.0, 85.0),
        ("run: 90.0 %", 0.0, 1080.0, 68.0),
        ("index: 55.0 %", 0.0, 660.0, 51.0),
        ("render: 25.0 %", 0.0, 300.0, 34.0),
        ("index: 35.0 %", 660.0, 420.0, 51.0),
        ("render: 25.0 %", 660.0, 300.0, 34.0),
    }


def test_what_is_too_narrow_is_left_out() -> None:
    seen = boxes(core.flame_graph({("wide (x:1)",): 1.0, ("narrow (x:1)",): 0.0001}, "t"))
    assert {title for title, *_place in seen} == {"all, 1.00 s: 100.0 %", "wide: 100.0 %"}


@pytest.mark.parametrize(
    ("seconds", "idle", "nonblocking", "more"),
    [(2.4, False, False, []), (0.2, True, True, ["--idle", "--nonblocking"])],
)
def test_py_spy_is_told_what_to_do(seconds: float, idle: bool, nonblocking: bool, more: Sequence[str]) -> None:
    command = core.record_command(
        "py-spy", 71, Path("/x/p.json"), seconds=seconds, rate=50, idle=idle, nonblocking=nonblocking
    )
    assert command == [
        "py-spy", "record", "--pid", "71", "--subprocesses", "--format", "speedscope", "--output", "/x/p.json",
        "--duration", "2" if seconds > 1 else "1", "--rate", "50", *more,
    ]  # fmt: skip
