"""What a build must fulfil for the settings of its app server, against builds with and without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _gunicorn
from ansible_collections.wsgi.fleet.plugins.module_utils import _requires as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

#: As the releases themselves have it.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "23.0.0": ('gevent>=1.4.0; extra == "gevent"', 'eventlet!=0.36.0,>=0.24.1; extra == "eventlet"',
               'tornado>=0.2; extra == "tornado"'),
    "25.3.0": ("packaging", 'gevent>=24.10.1; extra == "gevent"', 'eventlet>=0.40.3; extra == "eventlet"'),
    "27.0.1": ('gevent>=24.10.1; extra == "gevent"', 'packaging; extra == "gevent"',
               'tornado>=6.5.7; extra == "tornado"',
               'uvloop>=0.19.0; platform_python_implementation != "PyPy" and extra == "testing"'),
}  # fmt: skip
CONFIG = 'class Bind(Setting):\n    name = "bind"\n\nclass Line(Setting):\n    name = "limit_request_line"\n'

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def venv(**versions: str) -> Path:
        """Make an environment with these distributions, of Gunicorn also what its releases say of their extras."""
        packages = tmp_path / "lib/python3.13/site-packages"
        for name, version in versions.items():
            directory = packages / f"{name}-{version}.dist-info"
            directory.mkdir(parents=True)
            needs = EXTRAS.get(version, ()) if name == "gunicorn" else ()
            lines = [f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"]
            lines += [f"Requires-Dist: {needed}\n" for needed in needs]
            (directory / "METADATA").write_text("".join(lines) + "\nVersion: 0 is what this text says\n")
        (packages / "gunicorn").mkdir(parents=True)
        (packages / "gunicorn/config.py").write_text(CONFIG)
        return tmp_path

    return venv


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("26.0.0", "<26", False), ("25.3.0", "<26", True), ("26.0.0rc1", "<26", False), ("25.3.0.post1", "<26", True),
        ("27", ">=27.0.0", True), ("27.0.1", ">27", True), ("27.0", ">27", False), ("26.9", "<=26.9.0", True),
        ("24.10.1", ">=24.10.1", True), ("24.10", ">=24.10.1", False), ("24.2.1", ">=24.10.1", False),
        ("0.41.3", "!=0.36.0,>=0.24.1", True), ("0.36", "!=0.36.0,>=0.24.1", False), ("3.1.9", "==3.1.*", True),
        ("3.10", "==3.1.*", False), ("3.1", "!=3.1.*", False), ("6.5.10", "~=6.5.7", True), ("6.6", "~=6.5.7", False),
        ("6.5.3", "~=6.5.7", False), ("2.0+local", "==2", True), ("1", "", True), ("1!2.0", ">=2", True),
    ],
)  # fmt: skip
def test_a_version_fits(version: str, specifiers: str, expected: bool) -> None:
    assert core.fits(version, specifiers) is expected


EVENTLET = (
    "gunicorn_worker_class: 'eventlet' went out of Gunicorn with version 26, and this build has {}: use gevent or "
    "gthread, or have the application bring gunicorn<26."
)
LACKS = (
    "gunicorn_worker_class: '{}' needs {}, as Gunicorn {} says, and this build has {}: have the application bring one "
    "that fits, or none, to get it from the role."
)


@pytest.mark.parametrize(
    ("given", "versions", "messages"),
    [
        ({}, {"gunicorn": "27.0.1"}, []),
        ({"worker_class": "eventlet"}, {"gunicorn": "25.3.0", "eventlet": "0.41.3"}, []),
        ({"worker_class": "eventlet"}, {"gunicorn": "27.0.1", "eventlet": "0.41.3"}, [EVENTLET.format("27.0.1")]),
        ({"worker_class": "eventlet"}, {"gunicorn": "26.0.0", "eventlet": "0.41.3"}, [EVENTLET.format("26.0.0")]),
        ({"worker_class": "eventlet"}, {"gunicorn": "25.3.0", "eventlet": "0.36.1"},
         [LACKS.format("eventlet", "eventlet>=0.40.3", "25.3.0", "eventlet 0.36.1")]),
        ({"worker_class": "eventlet"}, {"gunicorn": "23.0.0", "eventlet": "0.36.1"}, []),
        ({"worker_class": "gevent"}, {"gunicorn": "27.0.1", "gevent": "26.9.0", "packaging": "26.4"}, []),
        ({"worker_class": "gevent"}, {"gunicorn": "27.0.1", "gevent": "23.9.1", "packaging": "26.4"},
         [LACKS.format("gevent", "gevent>=24.10.1", "27.0.1", "gevent 23.9.1")]),
        ({"worker_class": "gevent"}, {"gunicorn": "23.0.0", "gevent": "23.9.1"}, []),
        ({"worker_class": "gevent"}, {"gunicorn": "27.0.1", "gevent": "26.9.0"},
         [LACKS.format("gevent", "packaging", "27.0.1", "no packaging")]),
        ({"worker_class": "gevent"}, {"gunicorn": "27.0.1"},
         [LACKS.format("gevent", "gevent>=24.10.1", "27.0.1", "no gevent")]),
        ({"worker_class": "tornado"}, {"gunicorn": "27.0.1", "tornado": "6.5.10"}, []),
        ({"worker_class": "tornado"}, {"gunicorn": "27.0.1", "Tornado": "6.4.2"},
         [LACKS.format("tornado", "tornado>=6.5.7", "27.0.1", "tornado 6.4.2")]),
        # One whose metadata say nothing of the worker class.
        ({"worker_class": "tornado"}, {"gunicorn": "20.0.0"},
         [LACKS.format("tornado", "tornado", "20.0.0", "no tornado")]),
        ({"worker_class": "tornado"}, {"tornado": "6.5.10"},
         ["gunicorn is not among the packages of this build, and its settings need it."]),
        ({"settings": {"limit_request_line": 10}}, {"gunicorn": "27.0.1"}, []),
        ({"settings": {"limit_request_lines": 10, "sendfile": 1}}, {"gunicorn": "27.0.1"},
         ["gunicorn_settings: 'limit_request_lines' is no setting of Gunicorn 27.0.1, which this build has (did you "
          "mean limit_request_line?): write it as in Gunicorn's configuration file, or take it out.",
          "gunicorn_settings: 'sendfile' is no setting of Gunicorn 27.0.1, which this build has: write it as in "
          "Gunicorn's configuration file, or take it out."]),
    ],
)  # fmt: skip
def test_what_settings_of_gunicorn_need(
    make: Make, given: dict[str, Any], versions: dict[str, str], messages: list[str]
) -> None:
    conditions = _gunicorn.conditions({f"gunicorn_{name}": value for name, value in given.items()})
    assert core.unmet(make(**versions), conditions) == messages


def test_a_server_whose_settings_stand_elsewhere_is_left_to_itself(make: Make) -> None:
    venv = make(gunicorn="28.0.0")
    conditions = _gunicorn.conditions({"gunicorn_settings": {"unheard_of": 1}})
    assert len(core.unmet(venv, conditions)) == 1
    (venv / "lib/python3.13/site-packages/gunicorn/config.py").unlink()
    assert core.unmet(venv, conditions) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"distribution": "granian", "otherwise": "no Granian here"}, "no Granian here"),
        ({"distribution": "gunicorn", "otherwise": "-"}, None),
        ({"distribution": "gunicorn", "at_least": "28", "otherwise": "{version} is too old"}, "27.0.1 is too old"),
        ({"distribution": "gunicorn", "at_least": "27.0.1", "otherwise": "{version} is too old"}, None),
    ],
)
def test_other_entries(make: Make, entry: dict[str, Any], message: str | None) -> None:
    assert core.unmet(make(gunicorn="27.0.1"), [entry]) == ([message] if message else [])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"distribution": "gunicorn"}, "must have distribution and otherwise"),
        ({"otherwise": "x"}, "must have distribution and otherwise"),
        ("gunicorn", "must have distribution and otherwise"),
        ({"distribution": "gunicorn", "below": "1", "extra": "x", "otherwise": "x"}, "has both below and extra"),
        ({"distribution": "gunicorn", "below": "1", "otherwise": "{needed}"}, r"has \{needed\}, which means nothing"),
    ],
)
def test_what_is_no_entry_is_refused(make: Make, entry: Any, message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        core.unmet(make(gunicorn="27.0.1"), [entry])
