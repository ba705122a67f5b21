"""Write the tables of variables in the roles' READMEs, and the table of roles in README.md.

usage: .venv/bin/python scripts/docs.py [--check]

The tables follow from each role's meta/argument_specs.yml and defaults/main.yml, and stand between
<!-- variables:start --> and <!-- variables:end -->, or <!-- roles:start --> and <!-- roles:end -->.
A role without a README gets one. With --check nothing is written; files that differ are named and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = "wsgi.fleet"

#: A literal default that is longer than this, in characters, is left to defaults/main.yml.
LONGEST_DEFAULT = 50

#: The inventory group whose hosts a role is for; the other roles suit all hosts.
GROUPS = {
    "app": "app",
    "certificate": "load_balancer",
    "load_balancer": "load_balancer",
    "memcached": "cache",
    "nginx": "app",
    "redis": "cache",
    "tune": "app",
}
#: Roles that the role app includes, by the value of app_server that asks for each.
SERVERS = frozenset({"granian", "gunicorn", "uwsgi"})
#: Roles whose plays must stop on all hosts when one fails.
TOGETHER = frozenset({"app", "preflight"})
#: Roles that need no privileges by themselves.
UNPRIVILEGED = frozenset({"preflight"})

#: Ansible's markup, https://docs.ansible.com/ansible/latest/dev_guide/ansible_markup.html:
#: semantic markup, in which a backslash escapes, and the older one, which ends at the first bracket.
MARKUP = re.compile(
    r"\b(?P<semantic>[VOE]|RV|P)\((?P<value>(?:[^\\)]|\\.)+)\)"
    r"|\b(?P<plain>[CMIBU])\((?P<text>[^)]+)\)"
    r"|\b(?P<link>[LR])\((?P<title>[^)]+?), *(?P<target>[^)]+)\)"
)


class DocsError(Exception):
    """A role or a README that no table can be made of; the text names the file and the remedy."""


class IndentedDumper(yaml.SafeDumper):
    """Indents lists below their keys, as ansible-lint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 -- PyYAML's
        """Indent, also where YAML allows not to."""
        super().increase_indent(flow, False)


@dataclass(frozen=True)
class Role:
    """What a role says of itself.

    :param entries: its entry points as in argument_specs.yml, main first.
    :param defaults: its defaults/main.yml.
    """

    name: str
    entries: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any]


def _convert(found: re.Match[str]) -> str:
    if found["semantic"]:
        value = re.sub(r"\\(.)", r"\1", found["value"])
        # A plugin's type, and the plugin that an option belongs to, are for links.
        value = value.partition("#")[0] if found["semantic"] == "P" else value.rpartition("#")[2].removeprefix("main:")
        return f"`{value}`"
    if found["plain"]:
        text = found["text"]
        return {"I": f"*{text}*", "B": f"**{text}**", "U": f"<{text}>"}.get(found["plain"], f"`{text}`")
    return f"[{found['title']}]({found['target']})" if found["link"] == "L" else found["title"]


def markdown(text: str) -> str:
    """Convert Ansible's markup to Markdown."""
    return MARKUP.sub(_convert, text)


def paragraphs(description: str | Sequence[str] | None) -> list[str]:
    """Return a description, which is a text or a list of them, as paragraphs of Markdown."""
    texts = [description] if isinstance(description, str) else description or []
    return [markdown(" ".join(str(text).split())) for text in texts]


def cell(text: str) -> str:
    """Make a text fit for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def has_expression(value: Any) -> bool:
    """Tell whether a value holds a Jinja expression at any depth."""
    if isinstance(value, Mapping):
        return any(map(has_expression, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(has_expression, value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def default_text(name: str, option: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Say what holds when a variable is not set.

    :param name: the variable, or the name of a field of one, which has no default of its own.
    """
    if option.get("required"):
        return "required"
    if "default" in option:
        value = option["default"]
    elif name in defaults:
        value = defaults[name]
    else:
        return "none"
    if has_expression(value):
        return "computed"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "[long](defaults/main.yml)"


def type_text(option: Mapping[str, Any]) -> str:
    """Return the type of an option, with that of its elements."""
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def meaning(option: Mapping[str, Any]) -> str:
    """Return an option's description, and the values that it can take."""
    texts = paragraphs(option.get("description"))
    if "choices" in option:
        choices = [str(c).lower() if isinstance(c, bool) else str(c) for c in option["choices"]]
        texts.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
    return " ".join(texts)


def rows(
    options: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Yield variable, type, default and meaning of each option and of the fields of each.

    :param prefix: what the options are fields of, such as ``app_static[].``.
    """
    for name, option in options.items():
        full = prefix + name
        yield f"`{full}`", type_text(option), default_text(full, option, defaults), meaning(option)
        inner = "[]." if option.get("type") == "list" else "."
        yield from rows(option.get("options") or {}, defaults, full + inner)


def table(heads: Sequence[str], lines: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    head = [" | ".join(heads), " | ".join("---" for _head in heads)]
    return "\n".join(f"| {line} |" for line in [*head, *(" | ".join(map(cell, line)) for line in lines)])


def variables(role: Role) -> str:
    """Return what stands between the marks of a role's README.

    Entry points other than main list the variables that they have to themselves.
    """
    heads = ("Variable", "Type", "Default", "Meaning")
    known: dict[str, Any] = {}
    parts = []
    for entry, spec in role.entries.items():
        options = dict(spec.get("options") or {})
        own = {name: option for name, option in options.items() if known.get(name) != option}
        known.update(options)
        if entry != "main":
            parts.append(f"### `tasks_from: {entry}`")
            parts.append(markdown(str(spec.get("short_description", ""))).rstrip(".") + ".")
        if own:
            parts.append(table(heads, rows(own, role.defaults)))
        elif entry == "main":
            parts.append("This role has no variables.")
    return "\n\n".join(parts)


def replace(text: str, mark: str, content: str) -> str | None:
    """Replace what stands between the marks of a text; ``None`` when there are none.

    :param mark: ``variables`` or ``roles``.
    """
    start, end = f"<!-- {mark}:start -->", f"<!-- {mark}:end -->"
    before, found, rest = text.partition(start)
    _old, closed, after = rest.partition(end)
    if not found or not closed:
        return None
    return f"{before}{start}\n{content}\n{end}{after}"


def example(role: Role) -> str:
    """Return a play that uses a role, with the variables that it requires."""
    if role.name in SERVERS:
        return (
            f"The role [{COLLECTION}.app](../app/README.md) includes this one. Set its variables where those of the\n"
            f"application are:\n\n```yaml\napp_server: {role.name}\n```"
        )
    play: dict[str, Any] = {"name": summary(role).removesuffix("."), "hosts": GROUPS.get(role.name, "all")}
    if role.name not in UNPRIVILEGED:
        play["become"] = True
    if role.name in TOGETHER:
        play["any_errors_fatal"] = True
    main = role.entries.get("main", {}).get("options") or {}
    required = {name: "…" for name, option in main.items() if option.get("required")}
    entry: dict[str, Any] = {"role": f"{COLLECTION}.{role.name}"}
    if required:
        entry["vars"] = required
    play["roles"] = [entry]
    lines = yaml.dump([play], Dumper=IndentedDumper, sort_keys=False, allow_unicode=True, width=100)
    return f"```yaml\n{lines}```"


def summary(role: Role) -> str:
    """Return in one line what a role does."""
    return markdown(str(role.entries.get("main", {}).get("short_description", "")))


def new_readme(role: Role) -> str:
    """Return a README for a role that has none, without its variables yet."""
    parts = [
        f"# {COLLECTION}.{role.name}",
        summary(role) + ".",
        *paragraphs(role.entries.get("main", {}).get("description")),
        "## Example",
        example(role),
        "## Variables",
        "<!-- variables:start -->\n<!-- variables:end -->",
    ]
    return "\n\n".join(parts) + "\n"


def role_readme(role: Role, current: str | None) -> str:
    """Return a role's README as it should be.

    :param current: what it is now, or ``None`` when there is none.
    :raises DocsError: when it has no place for the variables.
    """
    updated = replace(current or new_readme(role), "variables", variables(role))
    if updated is None:
        raise DocsError(
            f"roles/{role.name}/README.md: no place for the variables: write <!-- variables:start --> "
            "and <!-- variables:end --> on lines of their own where they belong"
        )
    return updated


def roles_table(roles: Sequence[Role]) -> str:
    """Return the table of roles for the collection's README."""
    return table(("Role", "What it does"), [(f"[{r.name}](roles/{r.name}/README.md)", summary(r)) for r in roles])


def read_role(directory: Path) -> Role:
    """Read what a role says of itself.

    :raises DocsError: when it says nothing.
    """
    path = directory / "meta" / "argument_specs.yml"
    if not path.is_file():
        raise DocsError(f"roles/{directory.name}: meta/argument_specs.yml is missing: describe the variables there")
    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("argument_specs") or {}
    defaults = directory / "defaults" / "main.yml"
    return Role(
        name=directory.name,
        entries=dict(sorted(entries.items(), key=lambda item: (item[0] != "main", item[0]))),
        defaults=(yaml.safe_load(defaults.read_text(encoding="utf-8")) or {}) if defaults.is_file() else {},
    )


def wanted(root: Path) -> dict[Path, str]:
    """Return every file that this script writes, as it should be.

    :raises DocsError: when one of them cannot be made.
    """
    roles = [read_role(directory) for directory in sorted((root / "roles").iterdir()) if directory.is_dir()]
    files = {}
    for role in roles:
        path = root / "roles" / role.name / "README.md"
        files[path] = role_readme(role, path.read_text(encoding="utf-8") if path.is_file() else None)
    readme = root / "README.md"
    if readme.is_file():
        text = replace(readme.read_text(encoding="utf-8"), "roles", roles_table(roles))
        if text is not None:
            files[readme] = text
    return files


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing; name files that differ and exit with 1")
    mode.add_argument("--write", action="store_true", help="write the files that differ (the default)")
    check = parser.parse_args(arguments).check
    try:
        files = wanted(root)
    except DocsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    differ = [p for p, text in files.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for path in differ:
        if check:
            print(f"{path.relative_to(root)} is out of date: run .venv/bin/python scripts/docs.py", file=sys.stderr)
        else:
            path.write_text(files[path], encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
