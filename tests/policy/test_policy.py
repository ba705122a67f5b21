"""Policies of this collection, checked over its own YAML and templates.

Each check is a pure function that returns what is wrong as a list of texts. It is run over the
collection, and over a sample that breaks the policy: a check that cannot fail checks nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, TemplateSyntaxError

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = "wsgi.fleet"
HEADER = "{{ ansible_managed | comment }}"

#: Keywords of a task whose value is an expression without delimiters.
CONDITIONS = ("when", "until", "changed_when", "failed_when", "that", "break_when")
#: Lists of tasks within plays and blocks.
TASK_LISTS = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")
#: What tells the inventory's groups and other hosts' variables.
INVENTORY = frozenset({"groups", "group_names", "hostvars"})
#: Public variables that a role sets in vars/main.yml, for other roles.
PUBLIC_VARS = {"app": {"app_instance"}}
#: The role that installs the packages of a host for all others.
INSTALLER = "host"
#: Roles whose play must stop on all hosts when one of them fails.
TOGETHER = frozenset({f"{COLLECTION}.app", f"{COLLECTION}.preflight"})


@dataclass(frozen=True)
class Role:
    """A role's files, parsed or as text.

    :param tasks: text of each file of tasks or handlers, by its path in the role.
    :param templates: text of each template, by its path in the role.
    :param files: paths of all files in the role.
    """

    name: str
    specs: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Task:
    """A task with the text that it stands in.

    :param text: its lines and the comment right above it.
    """

    line: int
    values: Mapping[str, Any]
    text: str

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"line {self.line}, '{self.values.get('name', 'without a name')}'"

    def module(self, *names: str) -> Mapping[str, Any] | None:
        """Return the arguments when the task calls one of the modules of ansible.builtin."""
        for name in names:
            for key in (f"ansible.builtin.{name}", name):
                if isinstance(self.values.get(key), Mapping):
                    arguments: Mapping[str, Any] = self.values[key]
                    return arguments
        return None


class Loader(yaml.SafeLoader):
    """Takes tags such as ``!unsafe`` for nothing."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node))


def load(text: str) -> Any:
    """Parse a YAML text."""
    return yaml.load(text, Loader)  # noqa: S506 -- derived from the safe one


def _last_line(node: yaml.Node) -> int:
    """Return the last line that belongs to a node; the node's own mark lies at the next token."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1])
    end = node.end_mark
    return int(end.line) if end.column else max(int(end.line) - 1, int(node.start_mark.line))


def _entries(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            if isinstance(entry, yaml.MappingNode):
                yield entry
                for key, value in entry.value:
                    if key.value in TASK_LISTS:
                        yield from _entries(value)


def tasks_of(text: str) -> list[Task]:
    """Return all tasks of a file of tasks or plays, those within plays and blocks included."""
    root = yaml.compose(text, Loader)
    if root is None:
        return []
    lines = text.splitlines()
    found = []
    for node in _entries(root):
        first = top = int(node.start_mark.line)
        while top > 0 and lines[top - 1].lstrip().startswith("#"):
            top -= 1
        loader = Loader("")
        values = loader.construct_document(node)
        found.append(Task(first + 1, values, "\n".join(lines[top : _last_line(node) + 1])))
    return found


def has_expression(value: Any) -> bool:
    """Tell whether a value holds a Jinja expression at any depth."""
    if isinstance(value, Mapping):
        return any(map(has_expression, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(has_expression, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a value at any depth."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from strings(key)
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)
    elif isinstance(value, str):
        yield value


def names_used(template: str) -> list[str]:
    """Return the variables, filters and functions in a template's expressions, attributes excluded."""
    found = []
    before = ""
    for _line, kind, value in Environment(autoescape=True).lex(template):
        if kind == "name" and before != ".":
            found.append(value)
        if kind != "whitespace":
            before = value if kind == "operator" else ""
    return found


def conditions(value: Any) -> Iterator[str]:
    """Yield the expressions without delimiters in parsed tasks."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in CONDITIONS:
                yield from strings(entry)
            else:
                yield from conditions(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from conditions(entry)


def options_of(specs: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield entry point, name and option of a role's argument specification."""
    for entry, spec in specs.items():
        for name, option in (spec.get("options") or {}).items():
            yield entry, name, option


# The checks


def check_specs(role: Role) -> list[str]:
    """The argument specification and the defaults say the same."""
    problems = []
    merged: dict[str, Mapping[str, Any]] = {}
    for entry, name, option in options_of(role.specs):
        if merged.setdefault(name, option) != option:
            problems.append(f"{name}: differs between entry points, here in '{entry}'")
    problems += [f"{name}: stands in defaults and not in the specification" for name in role.defaults.keys() - merged]
    problems += [f"{name}: stands in the specification and not in defaults" for name in merged.keys() - role.defaults]
    for name in merged.keys() & role.defaults.keys():
        option, default = merged[name], role.defaults[name]
        undefined = isinstance(default, str) and re.match(r"\{\{ undef\(hint=", default) is not None
        if option.get("required", False) != undefined:
            problems.append(f"{name}: required by the specification if and only if its default is undef(hint=…)")
        elif "default" in option and has_expression(default):
            problems.append(f"{name}: its default is an expression, which a specification cannot hold")
        elif has_expression(option.get("default")):
            problems.append(f"{name}: the specification holds an expression")
        elif not has_expression(default) and "default" not in option:
            problems.append(f"{name}: the specification lacks the default {json.dumps(default)}")
        elif "default" in option and json.dumps(option["default"], sort_keys=True) != json.dumps(
            default, sort_keys=True
        ):
            problems.append(
                f"{name}: {json.dumps(default)} by default, but {json.dumps(option['default'])} as specified"
            )
    return sorted(problems)


def check_markup(role: Role) -> list[str]:
    """Marked-up text ends where it was meant to end."""
    return [
        f"{found[0]}: C() ends at the first bracket: write V() with a backslash before each bracket that closes"
        for text in strings(dict(role.specs))
        for found in re.finditer(r"\b[CMIBU]\([^)]*\([^)]*\)", text)
    ]


def check_names(role: Role) -> list[str]:
    """Names say whose they are: <role>_ is public, __<role>_ is internal."""
    problems = [
        f"defaults/main.yml: {name} does not start with {role.name}_"
        for name in role.defaults
        if not name.startswith(f"{role.name}_")
    ]
    public = PUBLIC_VARS.get(role.name, set())
    problems += [
        f"vars/main.yml: {name} does not start with __{role.name}_"
        for name in role.variables
        if not name.startswith(f"__{role.name}_") and name not in public
    ]
    return problems


def check_topology(role: Role) -> list[str]:
    """Roles see no groups and no other hosts; what they need of them is passed in."""
    problems = []
    for path, text in role.texts.items():
        try:
            found = set(names_used(text)) & INVENTORY
            if path.endswith((".yml", ".yaml")):
                for condition in conditions(load(text)):
                    found |= set(names_used("{{ " + condition + " }}")) & INVENTORY
        except TemplateSyntaxError as error:
            problems.append(f"{path}: cannot be read as a template: {error}")
            continue
        problems += [f"{path}: {name} is for playbooks/group_vars/all/topology.yml" for name in sorted(found)]
    return problems


def check_headers(role: Role) -> list[str]:
    """Every file that a template makes says that it is managed, and no template writes a date."""
    problems = [
        f"{path}: its first line is not {HEADER}"
        for path, text in role.templates.items()
        if text.split("\n", 1)[0] != HEADER
    ]
    dates = {"now", "strftime", "ansible_date_time", "lookup_now"}
    problems += [
        f"{path}: {name}: a file with a date in it changes on every run"
        for path, text in role.templates.items()
        for name in sorted(set(names_used(text)) & dates)
    ]
    return problems


def resolve(text: str, variables: Mapping[str, Any]) -> str:
    """Replace the variables in a text by their literal values as far as these are known."""
    for _depth in range(5):
        text = re.sub(
            r"\{\{ *(\w+) *\}\}",
            lambda found: variables[found[1]] if isinstance(variables.get(found[1]), str) else found[0],
            text,
        )
    return text


def check_checkers(role: Role) -> list[str]:
    """A configuration is checked by its service before it lies on disk.

    A destination counts when it is below /etc or cannot be told. Where a service has no checker, or
    the check comes later, a comment at the task says so: "no checker", with the reason.
    """
    known = {**role.defaults, **role.variables}
    problems = []
    for path, text in role.tasks.items():
        for task in tasks_of(text):
            arguments = task.module("template", "copy")
            if arguments is None or "validate" in arguments:
                continue
            destination = resolve(str(arguments.get("dest", "")), known)
            told = destination.startswith("/") and not destination.startswith("/etc")
            if not told and not re.search(r"#.*\bno checker\b", task.text):
                problems.append(f"{path}: {task.name}: writes {destination} without validate:")
    return problems


def roles_of(play: Mapping[str, Any]) -> set[str]:
    """Return the full names of the roles that a play uses, by ``roles`` or by a task."""
    found = {entry if isinstance(entry, str) else entry.get("role", "") for entry in play.get("roles") or []}

    def walk(tasks: Any) -> None:
        for task in tasks or []:
            for key in ("include_role", "import_role"):
                arguments = task.get(f"ansible.builtin.{key}", task.get(key))
                if isinstance(arguments, Mapping):
                    found.add(arguments.get("name", ""))
            for key in TASK_LISTS:
                walk(task.get(key))

    for key in TASK_LISTS:
        walk(play.get(key))
    return found


def check_plays(plays: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """What is all or nothing stops on every host when it fails on one."""
    return [
        f"play '{play.get('name')}' uses {', '.join(sorted(roles_of(play) & TOGETHER))} without any_errors_fatal: true"
        for play in plays or []
        if roles_of(play) & TOGETHER and play.get("any_errors_fatal") is not True
    ]


def check_files(role: Role) -> list[str]:
    """Each role has the same files in the same places."""
    required = {"README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"}
    if role.name != "preflight":
        required.add("tasks/validate.yml")
    return [f"{path} is missing" for path in sorted(required - role.files)]


def packages_of(role: Role) -> set[str]:
    """Return the packages that a role's tasks install, as far as they are literal."""
    known = {**role.defaults, **role.variables}

    def literals(value: Any, depth: int = 0) -> Iterator[str]:
        if isinstance(value, str) and has_expression(value):
            # Lists inside of the expression, and those that it names.
            yield from re.findall(r"'([a-z0-9][a-z0-9.+-]+)'", value)
            for name in names_used(value) if depth < 5 else []:
                yield from literals(known.get(name), depth + 1)
        elif isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for entry in value.values():
                yield from literals(entry, depth)
        elif isinstance(value, list):
            for entry in value:
                yield from literals(entry, depth)

    found: set[str] = set()
    for text in role.tasks.values():
        for task in tasks_of(text):
            arguments = task.module("apt", "package")
            if arguments is not None and arguments.get("state", "present") != "absent":
                found |= set(literals(arguments.get("name", arguments.get("pkg"))))
    return found


def check_packages(role: Role, plays: Sequence[Mapping[str, Any]], packages_of_group: Mapping[str, Any]) -> list[str]:
    """What a role installs stands in the topology, so that a host is installed in one transaction.

    :param plays: those of site.yml, which tell the group that a role is for. A play where the role has nothing to
        install leaves its variable for that alone.
    """
    problems = []
    installed = [play for play in plays if f"{role.name}_install: false" in yaml.safe_dump(play)]
    for play in installed or plays:
        if role.name == INSTALLER or f"{COLLECTION}.{role.name}" not in roles_of(play):
            continue
        for group in str(play.get("hosts")).split(":"):
            texts = strings(packages_of_group.get(group))
            there = {word for text in texts for word in re.findall(r"[a-z0-9.+-]+", text)}
            problems += [
                f"{package} is not in fleet_packages_of_group.{group}" for package in sorted(packages_of(role) - there)
            ]
    return problems


def collections_used(texts: Mapping[str, str]) -> set[str]:
    """Return the collections whose modules, filters and lookups YAML texts use."""
    found = set()
    name = r"([a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*)\.[a-z_][a-z0-9_]*"
    for text in texts.values():
        text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)  # noqa: PLW2901 -- without comments
        for task in tasks_of(text):
            found |= {match[1] for key in task.values if (match := re.fullmatch(name, str(key)))}
        # Filters and tests follow a bar or "is", lookups and roles stand in quotes or after a key.
        found |= set(re.findall(rf"(?:\||\bis(?: not)?) *{name}\b", text))
        found |= set(re.findall(rf"(?:lookup|query|q)\( *['\"]{name}['\"]", text))
        found |= set(re.findall(rf"\b(?:role|include_role|import_role): *{name}$", text, re.MULTILINE))
    return found - {"ansible.builtin", "ansible.legacy", COLLECTION}


def check_dependencies(dependencies: Mapping[str, str], used: set[str]) -> list[str]:
    """galaxy.yml names what is used, no more and no less, each with a range."""
    problems = [f"{name} is used and not in galaxy.yml" for name in sorted(used - dependencies.keys())]
    problems += [f"{name} is in galaxy.yml and not used" for name in sorted(dependencies.keys() - used)]
    problems += [
        f"{name}: '{version}' is no range: write one such as >=9.0.0,<12.0.0"
        for name, version in sorted(dependencies.items())
        if not re.fullmatch(r">=\d+\.\d+\.\d+,<\d+\.\d+\.\d+", version)
    ]
    return problems


def check_skips(ansible_lint: Mapping[str, Any], sanity: Sequence[str]) -> list[str]:
    """No rule is switched off for the whole collection.

    :param sanity: names of the files in tests/sanity.
    """
    problems = [
        f".ansible-lint: {key} is not empty"
        for key in ("skip_list", "warn_list", "mock_roles")
        if ansible_lint.get(key)
    ]
    return problems + [f"tests/sanity/{name}: fix what it ignores" for name in sanity if name.startswith("ignore")]


# The collection


def read_role(directory: Path) -> Role:
    """Read a role from disk."""
    paths = {
        str(path.relative_to(directory)): path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}

    def parsed(name: str) -> Any:
        return load(texts.get(name, "")) or {}

    return Role(
        name=directory.name,
        specs=parsed("meta/argument_specs.yml").get("argument_specs") or {},
        defaults=parsed("defaults/main.yml"),
        variables=parsed("vars/main.yml"),
        tasks={name: text for name, text in texts.items() if re.match(r"(tasks|handlers)/.*\.ya?ml$", name)},
        templates={name: text for name, text in texts.items() if name.endswith(".j2")},
        texts={name: text for name, text in texts.items() if name.endswith((".yml", ".yaml", ".j2"))},
        files=frozenset(paths),
    )


ROLES = [read_role(path) for path in sorted((ROOT / "roles").iterdir()) if path.is_dir()]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
SITE = load((ROOT / "playbooks/site.yml").read_text(encoding="utf-8"))
TOPOLOGY = load((ROOT / "playbooks/group_vars/all/topology.yml").read_text(encoding="utf-8"))
GALAXY = load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def report(problems: Sequence[str]) -> None:
    """Fail with the problems, one in a line."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@each_role
def test_specification_and_defaults_agree(role: Role) -> None:
    report(check_specs(role))


@each_role
def test_markup_of_the_specification(role: Role) -> None:
    report(check_markup(role))


@each_role
def test_names_of_variables(role: Role) -> None:
    report(check_names(role))


@each_role
def test_role_knows_no_topology(role: Role) -> None:
    report(check_topology(role))


@each_role
def test_templates_begin_with_the_header(role: Role) -> None:
    report(check_headers(role))


@each_role
def test_configuration_is_checked_before_it_is_written(role: Role) -> None:
    report(check_checkers(role))


@each_role
def test_files_of_the_role(role: Role) -> None:
    report(check_files(role))


@each_role
def test_packages_stand_in_the_topology(role: Role) -> None:
    report(check_packages(role, SITE, TOPOLOGY["fleet_packages_of_group"]))


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.name)
def test_plays_that_are_all_or_nothing(playbook: Path) -> None:
    report(check_plays(load(playbook.read_text(encoding="utf-8"))))


def test_dependencies_are_those_that_are_used() -> None:
    texts = {f"{role.name}/{name}": text for role in ROLES for name, text in role.tasks.items()}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "playbooks").rglob("*.yml")}
    report(check_dependencies(GALAXY["dependencies"], collections_used(texts)))


def test_no_rule_is_switched_off() -> None:
    sanity = ROOT / "tests" / "sanity"
    names = [path.name for path in sanity.iterdir()] if sanity.is_dir() else []
    report(check_skips(load((ROOT / ".ansible-lint").read_text(encoding="utf-8")), names))


# The checks can fail


def spec(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"main": {"short_description": "x", "options": options}}


@pytest.mark.parametrize(
    ("options", "defaults", "problem"),
    [
        ({}, {"web_a": 1}, "web_a: stands in defaults and not in the specification"),
        ({"web_a": {"type": "int"}}, {}, "web_a: stands in the specification and not in defaults"),
        ({"web_a": {"default": 2}}, {"web_a": 1}, "web_a: 1 by default, but 2 as specified"),
        ({"web_a": {"default": True}}, {"web_a": 1}, "web_a: 1 by default, but true as specified"),
        ({"web_a": {"default": []}}, {"web_a": {}}, "web_a: {} by default, but [] as specified"),
        ({"web_a": {}}, {"web_a": ""}, 'web_a: the specification lacks the default ""'),
        ({"web_a": {"default": "x"}}, {"web_a": "{{ b }}"}, "web_a: its default is an expression"),
        ({"web_a": {"default": ["x"]}}, {"web_a": [{"y": "{{ b }}"}]}, "web_a: its default is an expression"),
        ({"web_a": {"default": "{{ b }}"}}, {"web_a": "x"}, "web_a: the specification holds an expression"),
        ({"web_a": {"required": True}}, {"web_a": "x"}, "web_a: required by the specification if and only if"),
        ({"web_a": {"required": True}}, {"web_a": "{{ b }}"}, "web_a: required by the specification if and only if"),
        ({"web_a": {}}, {"web_a": "{{ undef(hint='x') }}"}, "web_a: required by the specification if and only if"),
    ],
)
def test_check_specs_can_fail(options: dict[str, Any], defaults: dict[str, Any], problem: str) -> None:
    (found,) = check_specs(Role("web", specs=spec(options), defaults=defaults))
    assert found.startswith(problem)


def test_check_specs_compares_entry_points() -> None:
    specs = {**spec({"web_a": {"default": 1}}), "stop": {"options": {"web_a": {"default": 2}}}}
    assert check_specs(Role("web", specs=specs, defaults={"web_a": 1})) == [
        "web_a: differs between entry points, here in 'stop'"
    ]


def test_check_specs_passes_what_agrees() -> None:
    options = {"web_a": {"default": {"x": 1, "y": []}}, "web_b": {"type": "str"}, "web_c": {"required": True}}
    defaults = {"web_a": {"y": [], "x": 1}, "web_b": "{{ other }}", "web_c": "{{ undef(hint='set it') }}"}
    assert check_specs(Role("web", specs=spec(options), defaults=defaults)) == []


def test_check_markup_can_fail() -> None:
    (found,) = check_markup(Role("web", specs=spec({"web_a": {"description": ["by C(app.start()) at once"]}})))
    assert found.startswith("C(app.start()")
    assert check_markup(Role("web", specs=spec({"web_a": {"description": r"C(x) (y) V(call(\))"}}))) == []


def test_check_names_can_fail() -> None:
    role = Role("web", defaults={"port": 1, "web_port": 1}, variables={"_x": 1, "web_y": 1, "__web_z": 1, "__other": 1})
    assert check_names(role) == [
        "defaults/main.yml: port does not start with web_",
        "vars/main.yml: _x does not start with __web_",
        "vars/main.yml: web_y does not start with __web_",
        "vars/main.yml: __other does not start with __web_",
    ]


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("tasks/main.yml", "- x: \"{{ groups['app'] }}\"", "groups"),
        ("tasks/main.yml", '- x: "{{ groups.app | length }}"', "groups"),
        ("tasks/main.yml", '- x: "{{ groups | dict2items }}"', "groups"),
        ("tasks/main.yml", "- when: \"'app' in group_names\"", "group_names"),
        ("tasks/main.yml", "- block:\n    - when:\n        - true\n        - hostvars['a'].x", "hostvars"),
        ("tasks/main.yml", "- ansible.builtin.assert:\n    that: groups.app is defined", "groups"),
        ("defaults/main.yml", "web_x: \"{{ hosts | map('extract', hostvars, 'a') }}\"", "hostvars"),
        ("templates/a.j2", "{% for host in groups['app'] %}{{ host }}{% endfor %}", "groups"),
    ],
)
def test_check_topology_can_fail(path: str, text: str, name: str) -> None:
    assert check_topology(Role("web", texts={path: text})) == [
        f"{path}: {name} is for playbooks/group_vars/all/topology.yml"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "# groups[0] and hostvars in a comment\n- x: groups of hosts",
        "- x: \"{{ user.groups }} {{ 'groups' }}\"",
        "- ansible.builtin.user:\n    groups: [adm]\n  when: user.groups is defined",
    ],
)
def test_check_topology_passes_other_uses_of_the_words(text: str) -> None:
    assert check_topology(Role("web", texts={"tasks/main.yml": text})) == []


def test_check_headers_can_fail() -> None:
    templates = {
        "templates/a.j2": f"{HEADER}\nlisten 80\n",
        "templates/b.j2": f"# by hand\n{HEADER}\n",
        "templates/c.j2": f"{HEADER}\nmade {{{{ now() }}}}\n",
    }
    assert check_headers(Role("web", templates=templates)) == [
        f"templates/b.j2: its first line is not {HEADER}",
        "templates/c.j2: now: a file with a date in it changes on every run",
    ]


TEMPLATE = """
# {above}
- name: Write it
  ansible.builtin.{module}:
    src: a.j2
    dest: "{dest}"{validate}
  when: true
# {below}
- name: Something else
  ansible.builtin.ping:
"""


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, True),
        ({"module": "copy"}, True),
        ({"dest": "{{ web_file }}"}, True),
        ({"dest": "{{ __web_deep }}/x"}, True),
        ({"dest": "{{ unknown }}/x"}, True),
        ({"below": "no checker, but that belongs to the next task"}, True),
        ({"above": "It has a checker, which is slow."}, True),
        ({"dest": "/srv/web/x"}, False),
        ({"dest": "{{ __web_work }}/{{ unknown }}"}, False),
        ({"validate": "\n    validate: web -t %s"}, False),
        ({"above": "sysctl.d(5) has no checker."}, False),
    ],
)
def test_check_checkers_can_fail(changes: dict[str, str], fails: bool) -> None:
    sample = {"above": "x", "below": "x", "module": "template", "dest": "/etc/web/web.conf", "validate": "", **changes}
    role = Role(
        "web",
        defaults={"web_file": "/etc/web.conf"},
        variables={"__web_deep": "{{ __web_root }}/conf.d", "__web_root": "/etc/web", "__web_work": "/run/web"},
        tasks={"tasks/main.yml": "- name: Within\n  block:" + TEMPLATE.format(**sample).replace("\n", "\n    ")},
    )
    assert bool(check_checkers(role)) is fails


@pytest.mark.parametrize(
    ("play", "fails"),
    [
        ("roles: [wsgi.fleet.preflight]", True),
        ("roles: [{role: wsgi.fleet.app}]", True),
        ("roles: [wsgi.fleet.app]\n  any_errors_fatal: false", True),
        ("tasks: [{block: [{ansible.builtin.include_role: {name: wsgi.fleet.app}}]}]", True),
        ("post_tasks: [{import_role: {name: wsgi.fleet.app}}]", True),
        ("roles: [wsgi.fleet.app]\n  any_errors_fatal: true", False),
        ("roles: [wsgi.fleet.nginx]", False),
    ],
)
def test_check_plays_can_fail(play: str, fails: bool) -> None:
    assert bool(check_plays(load(f"- name: Play\n  hosts: all\n  {play}"))) is fails


def test_check_files_can_fail() -> None:
    files = frozenset({"defaults/main.yml", "meta/main.yml", "tasks/main.yml"})
    missing = ["README.md is missing", "meta/argument_specs.yml is missing"]
    assert check_files(Role("preflight", files=files)) == missing
    assert check_files(Role("web", files=files)) == [*missing, "tasks/validate.yml is missing"]


def test_packages_are_found_through_variables() -> None:
    role = Role(
        "web",
        defaults={"web_engine": "haproxy", "web_extra": []},
        variables={
            "__web_base": ["zstd"],
            "__web_packages": "{{ __web_base + [__web_engines[web_engine]] + ['curl'] }}",
            "__web_engines": {"haproxy": "haproxy", "nginx": "nginx"},
        },
        tasks={
            "tasks/install.yml": '- ansible.builtin.apt:\n    name: "{{ __web_packages }}"\n'
            "- ansible.builtin.apt: {name: [tar, gzip]}\n- ansible.builtin.apt: {name: rm, state: absent}",
        },
    )
    assert packages_of(role) == {"zstd", "haproxy", "nginx", "curl", "tar", "gzip"}


def test_check_packages_can_fail() -> None:
    role = Role("web", tasks={"tasks/install.yml": "- ansible.builtin.apt: {name: [nginx, zstd, curl]}"})
    plays: list[dict[str, Any]] = [
        {"hosts": "app", "roles": [{"role": "wsgi.fleet.web"}]},
        {"hosts": "cache", "roles": []},
    ]
    groups = {"app": "{{ ['nginx'] + app_packages | default([]) }}", "cache": ["zstd", "curl"]}
    assert check_packages(role, plays, groups) == [
        "curl is not in fleet_packages_of_group.app",
        "zstd is not in fleet_packages_of_group.app",
    ]
    plays[0]["hosts"] = "cache:app"
    assert check_packages(role, plays, groups) == [
        "nginx is not in fleet_packages_of_group.cache",
        "curl is not in fleet_packages_of_group.app",
        "zstd is not in fleet_packages_of_group.app",
    ]


def test_collections_are_found_wherever_they_are_used() -> None:
    text = """
- name: Play
  hosts: all
  tasks:
    - community.general.ufw: {state: enabled}
    - ansible.builtin.command: echo www.example.com
      when: x is ansible.utils.ipv4
    - block:
        - wsgi.fleet.host_info:
        - ansible.builtin.set_fact:
            x: "{{ y | ansible.netcommon.ipaddr ~ lookup('community.hashi_vault.read', z) }}"
"""
    assert collections_used({"x": text}) == {
        "ansible.netcommon",
        "ansible.utils",
        "community.general",
        "community.hashi_vault",
    }


def test_check_dependencies_can_fail() -> None:
    dependencies = {"a.unused": ">=1.0.0,<2.0.0", "a.loose": "*"}
    assert check_dependencies(dependencies, {"a.missing", "a.loose"}) == [
        "a.missing is used and not in galaxy.yml",
        "a.unused is in galaxy.yml and not used",
        "a.loose: '*' is no range: write one such as >=9.0.0,<12.0.0",
    ]


def test_check_skips_can_fail() -> None:
    assert check_skips({"skip_list": ["yaml"], "warn_list": []}, ["ignore-2.19.txt"]) == [
        ".ansible-lint: skip_list is not empty",
        "tests/sanity/ignore-2.19.txt: fix what it ignores",
    ]


# What docs/SECURITY.md says of files with secrets


def unheld_modes(text: str, root: Path) -> list[str]:
    """Return rows of the table of secrets whose mode is not in the file that is said to set it."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if re.search(r"\| 06[0-7]0 \|", line)]
    wrong = []
    for row in rows:
        file, mode, where = row[0].strip(), row[3].strip(), row[4]
        if (match := re.search(r"\]\(\.\./([^)]+)\)", where)) is None:
            continue
        source = root / match[1]
        held = [f'mode: "{mode}"', f"0o{mode[1:]}", "os.umask(0o077)" if mode == "0600" else "-"]
        if not source.is_file() or not any(text in source.read_text(encoding="utf-8") for text in held):
            wrong.append(f"{file}: {match[1]} does not set {mode}")
    return wrong if rows else ["no file is named"]


def test_modes_of_secrets_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/SECURITY.md").read_text(encoding="utf-8")
    assert unheld_modes(text, ROOT) == []
    assert len(re.findall(r"\| 06[0-7]0 \|", text)) >= 10


def test_a_mode_of_a_secret_can_fail(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text('mode: "0644"\n')
    assert unheld_modes("| `/x` | a key | root | 0600 | [x.yml](../x.yml) |\n", tmp_path) == [
        "`/x`: x.yml does not set 0600"
    ]
    assert unheld_modes("", tmp_path) == ["no file is named"]


def test_the_page_of_timeouts_tells_the_defaults() -> None:
    """Each variable that it names has the seconds that it says, somewhere in its default."""
    rows = re.findall(
        r"^\|.*\| ((?:`\w+`(?:, )?)+) \| ([\d, ]+) \|.*\|$", (ROOT / "docs/timeouts.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 14
    for names, seconds in rows:
        variables = re.findall(r"\w+", names)
        numbers = re.findall(r"\d+", seconds)
        for variable, number in zip(variables, numbers * (len(variables) if len(numbers) == 1 else 1), strict=True):
            defaults = yaml.safe_load((ROOT / f"roles/{role_of(variable)}/defaults/main.yml").read_text())
            assert re.search(rf"\b{number}\b", str(defaults[variable])), variable


def role_of(variable: str) -> str:
    """Return the role that a variable is one of."""
    return "load_balancer" if variable.startswith("load_balancer_") else variable.partition("_")[0]
