"""The life cycle's core: names, files on disk, and the rules of what may go."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _release as core
from hypothesis import given
from hypothesis import strategies as st

KEY = b"k" * 32


@pytest.fixture
def layout(tmp_path: Path) -> core.Layout:
    return core.Layout("shop", tmp_path / "shop", units=tmp_path / "units", run=tmp_path / "run")


def make_build(layout: core.Layout, name: str) -> None:
    core.write_file(layout.build(name) / core.BUILD_MANIFEST, "{}", 0o644)


def make_release(layout: core.Layout, name: str, build: str = "b" * 12) -> None:
    make_build(layout, build)
    assert core.create_release(layout, name, build, {"gunicorn.conf.py": "x"}, {"A": "1"}, {"version": "v1"})


def test_identifiers_depend_on_content_and_not_on_order() -> None:
    assert core.build_id({"a": 1, "b": [2]}) == core.build_id({"b": [2], "a": 1})
    assert core.build_id({"a": 1}) != core.build_id({"a": 2})
    assert re.fullmatch(r"[0-9a-f]{12}", core.build_id({"a": 1}))


def test_a_release_name_cannot_be_checked_without_the_key() -> None:
    inputs = {"environment": {"PIN": "1234"}}
    assert core.release_id(KEY, inputs) != core.release_id(b"other" * 8, inputs)
    assert core.release_id(KEY, inputs) == core.release_id(KEY, dict(inputs))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("plain", 'A="plain"\n'),
        ("", 'A=""\n'),
        ('a"b', 'A="a\\"b"\n'),
        ("a\\b", 'A="a\\\\b"\n'),
        ("$HOME `id`", 'A="\\$HOME \\`id\\`"\n'),
        ("two\nlines", 'A="two\nlines"\n'),
        ("# no comment", 'A="# no comment"\n'),
    ],
)
def test_environment_values_are_quoted_the_way_systemd_reads_them(value: str, line: str) -> None:
    assert core.environment_file({"A": value}) == line


@pytest.mark.parametrize("name", ["1A", "A-B", "", "A B", "A=B", "Ä"])
def test_names_that_no_shell_could_use_are_refused(name: str) -> None:
    with pytest.raises(core.ReleaseError, match="letters, digits and underscores"):
        core.environment_file({name: "x"})


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(core.ReleaseError, match="variable A holds a NUL"):
        core.environment_file({"A": "x\0y"})


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    )
)
def test_an_environment_survives_writing_and_reading(environment: dict[str, str]) -> None:
    assert core.parse_environment_file(core.environment_file(environment)) == environment


def test_a_diff_of_environments_shows_names_and_no_value() -> None:
    before, after = core.describe_environment({"A": "s3cret", "B": "same"}, {"A": "n3w", "B": "same", "C": "x1"})
    assert "s3cret" not in before + after
    assert "n3w" not in before + after
    assert before == "A=(hidden)\nB=(hidden)\n"
    assert after == "A=(hidden, another value)\nB=(hidden)\nC=(hidden)\n"


def test_a_release_lies_there_whole_with_its_secrets_for_root_only(layout: core.Layout) -> None:
    make_release(layout, "a" * 12)
    directory = layout.release("a" * 12)
    assert stat.S_IMODE((directory / "env").stat().st_mode) == 0o600
    assert os.readlink(directory / "build") == "../../builds/" + "b" * 12
    assert os.readlink(directory / "app.sock") == str(layout.run / "shop" / ("a" * 12) / "app.sock")
    assert core.manifest_of(layout, "a" * 12)["version"] == "v1"


def test_making_a_release_again_changes_nothing(layout: core.Layout) -> None:
    make_release(layout, "a" * 12)
    assert not core.create_release(layout, "a" * 12, "b" * 12, {}, {}, {})


def test_a_release_needs_a_complete_build(layout: core.Layout) -> None:
    with pytest.raises(core.ReleaseError, match="is not complete"):
        core.create_release(layout, "a" * 12, "c" * 12, {}, {}, {})
    assert not layout.release("a" * 12).exists()


@pytest.mark.parametrize("name", ["../x", "env", "build", ".hidden", "release.json"])
def test_files_of_a_release_have_plain_names(layout: core.Layout, name: str) -> None:
    make_build(layout, "b" * 12)
    with pytest.raises(core.ReleaseError, match="cannot be the name"):
        core.create_release(layout, "a" * 12, "b" * 12, {name: ""}, {}, {})
    assert not [path for path in layout.releases.glob("*") if path.name == "a" * 12]


def test_the_flip_is_one_link_and_says_whether_it_changed(layout: core.Layout) -> None:
    make_release(layout, "a" * 12)
    assert core.activate(layout, "a" * 12)
    assert not core.activate(layout, "a" * 12)
    assert os.readlink(layout.current) == "releases/" + "a" * 12
    assert core.read_state(layout).current == "a" * 12
    assert core.activate(layout, None)
    assert not core.activate(layout, None)
    assert core.read_state(layout).current is None


def test_only_what_was_live_on_the_whole_fleet_bears_a_mark(layout: core.Layout) -> None:
    for name in ("a" * 12, "b" * 12, "c" * 12):
        make_release(layout, name)
        core.activate(layout, name)
    core.confirm(layout, "a" * 12, "D2")
    core.confirm(layout, "b" * 12, "D1")
    for name, seconds in (("a" * 12, 1000), ("b" * 12, 2000)):
        os.utime(layout.release(name) / core.ACTIVATED, (seconds, seconds))
    state = core.read_state(layout)
    assert state.current == "c" * 12
    assert state.activated == {"a" * 12, "b" * 12}
    assert state.releases == ("b" * 12, "a" * 12, "c" * 12)
    assert state.deploys == {"a" * 12: "D2", "b" * 12: "D1"}
    # Whatever it was live for before, it is known by the last one.
    core.confirm(layout, "a" * 12, "D3")
    assert core.read_state(layout).deploys["a" * 12] == "D3"
    assert core.read_state(layout).releases[0] == "a" * 12


def test_a_damaged_mark_is_a_mark_without_a_name(layout: core.Layout) -> None:
    make_release(layout, "a" * 12)
    (layout.release("a" * 12) / core.ACTIVATED).write_text("2026-11-25")
    state = core.read_state(layout)
    assert state.activated == {"a" * 12}
    assert state.deploys == {"a" * 12: ""}


@pytest.mark.parametrize(
    ("text", "data"), [('{"a": 1}', {"a": 1}), ("", {}), ("[1]", {}), ("{", {}), ('"a"', {}), ("\x00", {})]
)
def test_what_holds_no_object_is_read_as_an_empty_one(tmp_path: Path, text: str, data: dict[str, int]) -> None:
    (tmp_path / "x").write_text(text)
    assert core.read_object(tmp_path / "x") == data


@pytest.mark.parametrize(
    ("unit", "wanted", "release"),
    [
        ("shop@aaa.service", "multi-user.target.wants", "aaa"),
        ("shop.worker-1@aaa.service", "multi-user.target.wants", "aaa"),
        ("shop.cleanup@aaa.timer", "timers.target.wants", "aaa"),
    ],
)
def test_units_tell_their_release_and_what_starts_them(
    layout: core.Layout, unit: str, wanted: str, release: str
) -> None:
    assert layout.release_of(unit) == release
    assert layout.wanted_unit(unit) == layout.units / wanted / unit


def test_units_of_processes_have_names_that_no_instance_has(layout: core.Layout) -> None:
    assert layout.process_unit("a" * 12, "worker-1.service") == "shop.worker-1@aaaaaaaaaaaa.service"
    assert layout.process_unit("a" * 12, "cleanup.timer") == "shop.cleanup@aaaaaaaaaaaa.timer"
    assert layout.unit_patterns == ("shop@*.service", "shop.*@*.service", "shop.*@*.timer")


def test_a_release_that_is_not_there_cannot_be_activated(layout: core.Layout) -> None:
    with pytest.raises(core.ReleaseError, match="stage it first"):
        core.activate(layout, "a" * 12)
    assert not layout.current.is_symlink()


def test_half_made_things_are_leftovers(layout: core.Layout) -> None:
    make_release(layout, "a" * 12)
    (layout.builds / ("c" * 12) / "venv").mkdir(parents=True)
    (layout.releases / ".new-xyz").mkdir()
    names = {path.name for path in core.leftovers(layout)}
    assert names == {"c" * 12, ".new-xyz"}


def test_the_key_is_made_once_and_private(layout: core.Layout) -> None:
    passing = core.read_key(layout, create=False)
    assert not layout.root.exists()
    key = core.read_key(layout, create=True)
    assert len(key) == 32
    assert passing != key
    assert core.read_key(layout, create=False) == key
    assert stat.S_IMODE((layout.root / ".key").stat().st_mode) == 0o600


def test_a_file_is_replaced_in_one_step_and_left_alone_when_equal(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert core.write_file(path, "one", 0o640)
    inode = path.stat().st_ino
    assert not core.write_file(path, "one", 0o640)
    assert path.stat().st_ino == inode
    assert core.write_file(path, "two", 0o640)
    assert path.stat().st_ino != inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_pruning_spares_what_is_current_and_keeps_what_was_live() -> None:
    state = core.State(
        current="c" * 12,
        releases=("c" * 12, "d" * 12, "e" * 12, "f" * 12),
        activated=frozenset({"c" * 12, "d" * 12, "e" * 12}),
        builds=frozenset({"1" * 12, "2" * 12, "3" * 12}),
        build_of={"c" * 12: "1" * 12, "d" * 12: "1" * 12, "e" * 12: "2" * 12, "f" * 12: "3" * 12},
    )
    plan = core.plan_prune(state, keep=1)
    assert plan.releases == ("e" * 12, "f" * 12)
    assert plan.builds == ("2" * 12, "3" * 12)
    assert core.plan_prune(state, keep=5).releases == ("f" * 12,)


def test_two_steps_never_interleave(layout: core.Layout) -> None:
    with core.exclusive(layout):
        command = ["flock", "--nonblock", str(layout.root / ".lock"), "true"]
        assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0
