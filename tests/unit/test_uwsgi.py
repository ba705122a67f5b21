"""Settings of uWSGI: what cannot work is named with variable, value and remedy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.wsgi.fleet.plugins.filter.uwsgi_problems import uwsgi_problems
from ansible_collections.wsgi.fleet.plugins.module_utils import _uwsgi as core
from jinja2.nativetypes import NativeEnvironment

ROLES = Path(__file__).resolve().parents[2] / "roles"
README = ROLES / "uwsgi/README.md"
#: The fewest of four processes, with room for more.
CHEAPER = {"uwsgi_processes": 4, "uwsgi_cheaper": 2}


def found(variables: dict[str, Any], python: str = "/usr/bin/python3") -> list[str]:
    return uwsgi_problems(variables, python)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"uwsgi_processes": "auto", "uwsgi_threads": 8, "uwsgi_cheaper": 0, "uwsgi_cheaper_initial": 0},
        {"uwsgi_processes": "4", "uwsgi_cheaper": 3},
        {**CHEAPER, "uwsgi_cheaper_initial": 2, "uwsgi_cheaper_step": 2},
        {**CHEAPER, "uwsgi_cheaper_initial": 4},
        {**CHEAPER, "uwsgi_settings": {"cheaper-algo": "spare", "cheaper-overload": 1}},
        {**CHEAPER, "uwsgi_settings": {"cheaper-busyness-min": 49}},
        {
            **CHEAPER,
            "uwsgi_settings": {"cheaper-rss-limit-soft": 100, "cheaper-rss-limit-hard": 200, "memory-report": 1},
        },
        {**CHEAPER, "uwsgi_reload_on_rss": 90, "uwsgi_settings": {"cheaper-rss-limit-soft": 100}},
        {"uwsgi_threads": "1", "uwsgi_settings": {"gevent": 100}},
        {"uwsgi_settings": {"gevent": None, "async": 0, "loop": False}},
        {"uwsgi_settings": {"max-worker-lifetime": 11}},
        {"uwsgi_settings": {"max-worker-lifetime": 5, "min-worker-lifetime": 1}},
        {"uwsgi_settings": {"start_response-nodelay": True, "env": ["A=1", "B=2"], "log-format": "%(uri)"}},
        {"uwsgi_package": "distribution"},
        # What the argument spec or the role says more of.
        {"uwsgi_settings": "a", "uwsgi_cheaper": "few", "uwsgi_threads": "many"},
    ],
)
def test_what_can_work_is_let_through(variables: dict[str, Any]) -> None:
    assert found(variables) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"uwsgi_cheaper": 1},
            "uwsgi_cheaper: 1 needs to know how many processes there are at most: write a number above it as "
            "uwsgi_processes.",
        ),
        (
            {"uwsgi_processes": "1", "uwsgi_cheaper": 1},
            "uwsgi_cheaper: 1 cannot work with one process: write a higher number as uwsgi_processes, or take it out.",
        ),
        (
            {"uwsgi_processes": 2, "uwsgi_cheaper": 2},
            "uwsgi_cheaper: 2 is not below uwsgi_processes, which is 2: it is the fewest processes, write less than "
            "that.",
        ),
        (
            {**CHEAPER, "uwsgi_cheaper_initial": 1},
            "uwsgi_cheaper_initial: 1 is not between uwsgi_cheaper and uwsgi_processes: write a number from 2 to 4.",
        ),
        (
            {**CHEAPER, "uwsgi_cheaper_initial": 5},
            "uwsgi_cheaper_initial: 5 is not between uwsgi_cheaper and uwsgi_processes: write a number from 2 to 4.",
        ),
        (
            {"uwsgi_processes": 4, "uwsgi_cheaper_initial": 2},
            "uwsgi_cheaper_initial: 2 has no effect without uwsgi_cheaper: write the fewest processes there.",
        ),
        (
            {"uwsgi_settings": {"cheaper-overload": 1}},
            "uwsgi_settings: cheaper-overload has no effect without uwsgi_cheaper: write the fewest processes there.",
        ),
        (
            {**CHEAPER, "uwsgi_cheaper_step": 0},
            "uwsgi_cheaper_step: 0 would never start a process: write a number from 1 on.",
        ),
        (
            {**CHEAPER, "uwsgi_settings": {"cheaper-algo": "backlog"}},
            "uwsgi_settings: cheaper-algo: backlog counts who waits, which the kernel tells of TCP sockets only: take "
            "it out for busyness.",
        ),
        (
            {**CHEAPER, "uwsgi_settings": {"cheaper-busyness-max": 25}},
            "uwsgi_settings: cheaper-busyness-min: 25 is not below cheaper-busyness-max, which is 25: processes would "
            "start and end in turns, write less.",
        ),
        (
            {**CHEAPER, "uwsgi_settings": {"cheaper-rss-limit-soft": 100}},
            "uwsgi_settings: cheaper-rss-limit-soft needs the size of processes measured: write memory-report: true "
            "too, or uwsgi_reload_on_rss.",
        ),
        (
            {**CHEAPER, "uwsgi_settings": {"cheaper-rss-limit-hard": 100}},
            "uwsgi_settings: cheaper-rss-limit-hard: 100 needs a cheaper-rss-limit-soft below it: write that too.",
        ),
        (
            {"uwsgi_settings": {"gevent": 100}},
            "uwsgi_settings: gevent and threads exclude each other: write uwsgi_threads: 1 too, or take gevent out.",
        ),
        (
            {"uwsgi_threads": 2, "uwsgi_settings": {"async": "10", "ugreen": True}},
            "uwsgi_settings: async and threads exclude each other: write uwsgi_threads: 1 too, or take async out.",
        ),
        (
            {"uwsgi_threads": "auto", "uwsgi_settings": {"loop": "asyncio"}},
            "uwsgi_settings: loop and threads exclude each other: write uwsgi_threads: 1 too, or take loop out.",
        ),
        (
            {"uwsgi_settings": {"max-worker-lifetime": 10}},
            "uwsgi_settings: max-worker-lifetime: 10 is not above min-worker-lifetime, which is 10: write more "
            "seconds.",
        ),
        (
            {"uwsgi_settings": {"processes": 4}},
            "uwsgi_settings: processes has a variable of its own: write uwsgi_processes instead.",
        ),
        (
            {"uwsgi_settings": {"workers": 4}},
            "uwsgi_settings: workers has a variable of its own: write uwsgi_processes instead.",
        ),
        (
            {"uwsgi_reload_on_rss": 100, "uwsgi_settings": {"master": False, "chdir": "/"}},
            "uwsgi_settings: chdir, master follows from how an instance is wired and cannot be set: take it out.",
        ),
        (
            {"uwsgi_settings": {"max_worker_lifetime": 1}},
            "uwsgi_settings: 'max_worker_lifetime' is not the name of an option: write it as in uWSGI's list of "
            "options, without the two hyphens, such as max-worker-lifetime.",
        ),
        (
            {"uwsgi_settings": {"env": [{"A": 1}]}},
            'uwsgi_settings: {"A": 1} cannot stand in one line: write a text of one line, a number, true, false, or a '
            "list of these for an option that may be repeated.",
        ),
        (
            {"uwsgi_settings": {"env": "A=1\nB=2"}},
            r'uwsgi_settings: "A=1\nB=2" cannot stand in one line: write a text of one line, a number, true, false, or '
            "a list of these for an option that may be repeated.",
        ),
        ({"uwsgi_harakiri": -1}, "uwsgi_harakiri: -1 is below 0: write a number from 0 on."),
        ({"uwsgi_offload_threads": "-2"}, "uwsgi_offload_threads: -2 is below 0: write a number from 0 on."),
    ],
)
def test_what_cannot_work_is_refused(variables: dict[str, Any], said: str) -> None:
    assert found(variables) == [said]


@pytest.mark.parametrize("python", ["/opt/python3.14/bin/python3", "python3", "/usr/bin/python3.11"])
def test_the_uwsgi_of_the_distribution_runs_its_python(python: str) -> None:
    assert found({"uwsgi_package": "pypi"}, python) == []
    assert found({"uwsgi_package": "distribution"}, python) == [
        f"uwsgi_package: distribution runs /usr/bin/python3 and no other, but app_python is '{python}': leave "
        "app_python at its default, or write pypi."
    ]


def test_the_readme_lists_what_the_role_owns() -> None:
    text = README.read_text(encoding="utf-8")
    section = text.partition("## Options that the role owns\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", section)) == core.OWNED


@pytest.mark.parametrize(
    ("variables", "requirement", "packages"),
    [
        ({"app_server": "gunicorn"}, "gunicorn==27.0.1", []),
        ({"app_server": "uwsgi"}, "pyuwsgi==2.0.30.post1", []),
        ({"app_server": "uwsgi", "uwsgi_package": "pypi"}, "pyuwsgi==2.0.30.post1", []),
        ({"app_server": "uwsgi", "uwsgi_package": "distribution"}, "", ["uwsgi-core", "uwsgi-plugin-python3"]),
    ],
)
def test_what_is_installed_of_an_app_server(variables: dict[str, Any], requirement: str, packages: list[str]) -> None:
    """In the virtual environment, and by the app role where it is used alone."""
    role = ROLES / "app"
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
    internal = yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))
    environment = NativeEnvironment()

    def value(expression: str) -> Any:
        return environment.from_string(expression).render({**internal, **variables})

    assert value(defaults["app_server_requirement"]) == requirement
    assert value(internal["__app_server_packages"]) == packages
    install = yaml.safe_load((role / "tasks/install.yml").read_text(encoding="utf-8"))
    assert "__app_server_packages" in install[0]["ansible.builtin.apt"]["name"]
