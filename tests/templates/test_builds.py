"""What is installed into a build besides the application's dependencies, and what the build is called for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from tests.templates.conftest import ROOT, Start

#: Of each host its settings, what is installed, and the name of its build.
CASES: Mapping[str, tuple[Mapping[str, Any], list[str], str]] = {
    # The name that such a build had before there were further requirements: it must not be made anew for them.
    "plain": ({}, ["gunicorn==27.0.1"], "b1bc01350673"),
    "gevent": (
        {"gunicorn_worker_class": "gevent"},
        ["gunicorn==27.0.1", "gevent==26.9.0", "packaging==26.4"],
        "",
    ),
    "tornado": ({"gunicorn_worker_class": "tornado"}, ["gunicorn==27.0.1", "tornado==6.5.10"], ""),
    "eventlet": (
        {"gunicorn_worker_class": "eventlet", "app_server_requirement": "gunicorn==25.3.0"},
        ["gunicorn==25.3.0", "eventlet==0.41.3"],
        "",
    ),
    "more": (
        {"gunicorn_worker_class": "gevent", "app_requirements": ["gevent==25.9.1", "py-spy==0.4.1"]},
        ["gunicorn==27.0.1", "gevent==26.9.0", "packaging==26.4", "gevent==25.9.1", "py-spy==0.4.1"],
        "",
    ),
    # What Gunicorn's role says of a worker class is not left over for another server.
    "uwsgi": (
        {"app_server": "uwsgi", "gunicorn_worker_class": "gevent"},
        ["pyuwsgi==2.0.30.post1"],
        "7dc1cbdcebf9",
    ),
}

ALL: Mapping[str, Any] = {
    "app_name": "shop",
    "app_source": "../shop",
    "app_module": "shop:app",
    "app_platform": {"distribution": "Debian", "version": "12", "architecture": "x86_64", "python": "3.11", "more": 1},
    "__app_source": {"digest": "0" * 64, "version": "v1"},
    "__app_stage": {},
}

Answers = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def builds(
    tmp_path_factory: pytest.TempPathFactory, start: Start, finish: Callable[[subprocess.Popen[str]], None]
) -> Answers:
    """Describe the instance and name the build of each case, by the role's own tasks."""
    directory = tmp_path_factory.mktemp("builds")
    hosts = directory / "hosts.yml"
    hosts.write_text(yaml.safe_dump({"all": {"vars": {**ALL}, "hosts": {n: {**case[0]} for n, case in CASES.items()}}}))
    begin, build = (yaml.safe_load((ROOT / f"roles/app/tasks/{name}.yml").read_text()) for name in ("begin", "build"))
    (fresh,) = (task["ansible.builtin.set_fact"] for task in begin if "ansible.builtin.set_fact" in task)
    (describe,) = (task for task in build if "ansible.builtin.include_role" in task)
    told = {name: value for name, value in fresh.items() if name.startswith("app_")}
    tasks = directory / "roles" / "app" / "tasks"
    tasks.mkdir(parents=True)
    for part in ("defaults", "vars"):
        (tasks.parent / part).symlink_to(ROOT / "roles" / "app" / part)
    steps = [
        # As an application earlier in the run has left them.
        {"ansible.builtin.set_fact": {name: ["left-over==1"] for name in told}},
        {"ansible.builtin.set_fact": told},
        describe,
        {
            "ansible.builtin.copy": {
                "content": "{{ {'requirements': __app_requirements,"
                " 'build': __app_build_inputs | wsgi.fleet.build_id} | to_json }}",
                "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json",
                "mode": "0600",
            }
        },
    ]
    (tasks / "main.yml").write_text(json.dumps(steps), encoding="utf-8")
    finish(start(directory, [hosts], {"roles": ["app"]}))
    return {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}


@pytest.mark.parametrize("name", CASES)
def test_what_is_installed(builds: Answers, name: str) -> None:
    assert builds[name]["requirements"] == CASES[name][1]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_builds_keep_their_names(builds: Answers, name: str) -> None:
    assert builds[name]["build"] == CASES[name][2]


def test_what_is_installed_belongs_to_the_name(builds: Answers) -> None:
    assert len({build["build"] for build in builds.values()}) == len(CASES)
