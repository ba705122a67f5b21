"""Templates, rendered without a host and compared with golden files as a whole.

Each role is taken with its own argument spec, defaults, variables and validation, so that no set
holds what a host would refuse. ``UPDATE_GOLDEN=1`` writes the golden files anew: read the difference
before committing it.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.templates.conftest import ROOT, TOOLS, Start

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
HEADER = "#\n# Ansible managed\n#\n"

ROLES = sorted({path.parts[-3] for path in ROOT.glob("roles/*/templates/*.j2")})
#: Role and name of what each template becomes.
FILES = sorted(f"{path.parts[-3]}/{path.stem}" for path in ROOT.glob("roles/*/templates/*.j2"))
#: What the sandbox role makes of its template, which is a header alone.
DROPINS = {
    "minimal": {"probe"},
    "full": {"nginx", "worker@1"},
    "single": {"haproxy", "nginx", "redis-server"},
}
SETS = sorted(DROPINS)

VALIDATE = [{"ansible.builtin.include_tasks": "validate.yml", "when": "role_name != 'app'"}]
RENDER = [
    {
        "ansible.builtin.set_fact": {
            "rendered": "{{ rendered | default({})"
            " | combine({role_name ~ '/' ~ item: lookup('ansible.builtin.template', item ~ '.j2')}) }}"
        },
        "loop": "{{ files | select('match', role_name ~ '/') | map('basename') }}",
    },
]
#: What an app-server role hands over.
DESCRIBE: list[dict[str, Any]] = [
    {"ansible.builtin.include_tasks": "configure.yml"},
    {
        "ansible.builtin.set_fact": {
            "releases": "{{ releases | default({})"
            " | combine({role_name: app_release_files | combine({'app.service': app_release_unit})}) }}"
        }
    },
]
#: What a role makes of its templates itself.
USE: Mapping[str, list[dict[str, Any]]] = {
    "granian": DESCRIBE,
    "gunicorn": DESCRIBE,
    "uwsgi": DESCRIBE,
    "sandbox": [{"ansible.builtin.set_fact": {"dropins": "{{ __sandbox_dropins }}"}}],
}
#: Once per host, since nothing else here starts a process.
WRITE = {
    "ansible.builtin.copy": {
        "content": "{{ {'files': rendered, 'dropins': dropins, 'releases': releases} | to_json }}",
        "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json",
        "mode": "0600",
    }
}

#: Texts by role and name.
Rendered = Mapping[str, str]


def lay_out(directory: Path, roles: Sequence[str], *parts: str, validate: bool) -> None:
    """Make roles that are the real ones, but for their tasks.

    :param parts: what to take of each role; its argument spec is in ``meta``.
    """
    for role in roles:
        tasks = directory / "roles" / role / "tasks"
        tasks.mkdir(parents=True)
        for path in (ROOT / "roles" / role).iterdir():
            if path.name in parts:
                (tasks.parent / path.name).symlink_to(path)
        for path in (ROOT / "roles" / role / "tasks").glob("*.yml"):
            if path.name != "main.yml":
                (tasks / path.name).symlink_to(path)
        text = json.dumps((VALIDATE if validate else []) + RENDER + USE.get(role, []))
        # JSON is YAML.
        (tasks / "main.yml").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def outputs(
    tmp_path_factory: pytest.TempPathFactory, start: Start, finish: Callable[[subprocess.Popen[str]], None]
) -> Sequence[Mapping[str, Any]]:
    """What came of each set, twice, each time with another order of what has no order."""
    runs = []
    for again in (False, True):
        run = []
        for names, roles in ((["minimal", "full"], ROLES), (["single"], ["app", *ROLES])):
            directory = tmp_path_factory.mktemp("sets")
            parts = ["defaults", "templates", "vars", *([] if again else ["meta"])]
            lay_out(directory, roles, *parts, validate=not again)
            # What app-server roles take of the role app.
            (directory / "roles/app").mkdir(exist_ok=True)
            (directory / "roles/app/files").symlink_to(ROOT / "roles/app/files")
            if "single" in names:
                (directory / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
            inventories = [shutil.copy(HERE / "sets" / f"{name}.yml", directory) for name in names]
            play = {"roles": roles, "tasks": [WRITE], "vars": {"files": FILES}}
            run.append((directory, start(directory, inventories, play, PYTHONHASHSEED=str(int(again)))))
        runs.append(run)
    found = []
    for run in runs:
        texts = {}
        for directory, process in run:
            finish(process)
            texts.update({path.stem: path.read_text(encoding="utf-8") for path in directory.glob("*.json")})
        found.append({name: json.loads(text) for name, text in texts.items()})
    return found


@pytest.fixture(scope="session")
def rendered(outputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Rendered]:
    """All files of each set."""
    sets = {}
    for name, output in outputs[0].items():
        dropins = {f"sandbox/{unit}": text for unit, text in output["dropins"].items()}
        sets[name] = {**output["files"], **dropins}
    if os.environ.get("UPDATE_GOLDEN"):
        update(sets)
    return sets


def golden(name: str, file: str) -> Path:
    """Return where a golden file lies; it is text to all tools, whatever it configures."""
    return GOLDEN / name / f"{file}.txt"


def update(sets: Mapping[str, Rendered]) -> None:
    """Write all golden files anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, texts in sets.items():
        for file, text in texts.items():
            golden(name, file).parent.mkdir(parents=True, exist_ok=True)
            golden(name, file).write_text(text, encoding="utf-8")


def expected() -> list[tuple[str, str]]:
    """Return each set with each of its files."""
    return [
        (name, file)
        for name in SETS
        for file in [*FILES, *(f"sandbox/{unit}.service" for unit in sorted(DROPINS[name]))]
    ]


@pytest.mark.parametrize(("name", "file"), expected())
def test_text_is_the_golden_one(rendered: Mapping[str, Rendered], name: str, file: str) -> None:
    path = golden(name, file)
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    difference = difflib.unified_diff(
        old.splitlines(keepends=True),
        rendered[name][file].splitlines(keepends=True),
        str(path.relative_to(ROOT)),
        "rendered",
    )
    if old != rendered[name][file]:
        pytest.fail("Set UPDATE_GOLDEN=1 if this is meant:\n" + "".join(difference), pytrace=False)


def test_nothing_else_is_golden_and_nothing_else_is_rendered(rendered: Mapping[str, Rendered]) -> None:
    wanted = set(expected())
    assert {(name, file) for name, texts in rendered.items() for file in texts} == wanted
    assert {path for path in GOLDEN.rglob("*") if path.is_file()} == {golden(name, file) for name, file in wanted}


@pytest.mark.parametrize(("name", "file"), expected())
def test_text_is_tidy(rendered: Mapping[str, Rendered], name: str, file: str) -> None:
    text = rendered[name][file]
    assert text.startswith(HEADER), "the first line does not say that Ansible writes the file"
    assert text.endswith("\n")
    assert not text.endswith("\n\n"), "blank lines at the end"
    assert "\t" not in text
    assert "\r" not in text
    assert [line for line in text.splitlines() if line != line.rstrip()] == [], "blanks at the end of a line"
    # Python has two blank lines before a function.
    assert not re.search(r"\n{4}" if file.endswith(".py") else r"\n{3}", text), "several blank lines in a row"
    assert not re.search(r"{{|}}|{%|%}|{#|#}", text), "an expression is left"


@pytest.mark.parametrize("name", SETS)
def test_rendering_again_gives_the_same(outputs: Sequence[Mapping[str, Any]], name: str) -> None:
    first, second = outputs
    assert first[name] == second[name]


@pytest.mark.parametrize("name", SETS)
def test_release_holds_what_the_templates_say(outputs: Sequence[Mapping[str, Any]], name: str) -> None:
    files = outputs[0][name]["files"]
    listen = {"listen.py": (ROOT / "roles/app/files/listen.py").read_text(encoding="utf-8")}
    assert outputs[0][name]["releases"] == {
        "granian": {
            **listen,
            "granian_launch.py": files["granian/granian_launch.py"],
            "app.service": files["granian/app.service"],
        },
        "gunicorn": {
            **listen,
            "gunicorn.conf.py": files["gunicorn/gunicorn.conf.py"],
            "app.service": files["gunicorn/app.service"],
        },
        "uwsgi": {
            **listen,
            "uwsgi.ini": files["uwsgi/uwsgi.ini"],
            "wsgi_entry.py": files["uwsgi/wsgi_entry.py"],
            "app.service": files["uwsgi/app.service"],
        },
    }


@pytest.mark.parametrize("name", SETS)
def test_uwsgi_ini_sets_nothing_twice(rendered: Mapping[str, Rendered], name: str) -> None:
    lines = [line for line in rendered[name]["uwsgi/uwsgi.ini"].splitlines() if line and not line.startswith("#")]
    assert lines[0] == "[uwsgi]"
    assert all(re.fullmatch(r"[a-z0-9-]+ = \S.*", line) for line in lines[1:])
    options = [line.split(" = ")[0] for line in lines[1:] if not line.startswith(("add-header", "env", "plugin"))]
    assert len(options) == len(set(options)), "an option is set twice"


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("file", ["granian/granian_launch.py", "gunicorn/gunicorn.conf.py", "uwsgi/wsgi_entry.py"])
def test_python_is_python(rendered: Mapping[str, Rendered], name: str, file: str) -> None:
    tree = ast.parse(rendered[name][file])
    names = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert len(names) == len(set(names)), "a setting is set twice"


def test_the_wsgi_callable_is_an_attribute_or_what_a_factory_returns(rendered: Mapping[str, Rendered]) -> None:
    assert '_application = import_module("shop").app\n' in rendered["minimal"]["uwsgi/wsgi_entry.py"]
    assert '_application = import_module("shop.wsgi").make_app()\n' in rendered["full"]["uwsgi/wsgi_entry.py"]


@pytest.mark.parametrize("name", SETS)
def test_gixy_finds_nothing_in_nginx_conf(rendered: Mapping[str, Rendered], name: str, tmp_path: Path) -> None:
    """All checks of gixy-ng, from the lowest severity on; what nginx.conf includes is the distribution's."""
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(rendered[name]["nginx/nginx.conf"], encoding="utf-8")
    done = subprocess.run(
        [TOOLS / "gixy", "-l", "--disable-includes", "--format", "json", configuration],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == []
