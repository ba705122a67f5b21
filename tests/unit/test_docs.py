"""The generator of the READMEs' tables."""

from pathlib import Path
from typing import Any

import pytest

from scripts import docs

SPEC = """---
argument_specs:
  main:
    short_description: Serve pages
    description:
      - Serves pages from C(/srv).
    options:
      web_name:
        description: Name of the site.
        type: str
        required: true
      web_port:
        description:
          - Port to listen on.
          - V(0) picks one.
        type: int
        default: 80
      web_sites:
        description: Sites a|b.
        type: list
        elements: dict
        options:
          url:
            description: Prefix.
            type: str
            required: true
  stop:
    short_description: Stop serving
    options:
      web_port:
        description:
          - Port to listen on.
          - V(0) picks one.
        type: int
        default: 80
      web_delay:
        description: Seconds to wait.
        type: int
        default: 2
"""
DEFAULTS = """---
web_name: "{{ undef(hint='set it') }}"
web_port: 80
web_sites: "{{ fleet_sites | default([]) }}"
web_delay: 2
"""
VARIABLES = """\
| Variable | Type | Default | Meaning |
| --- | --- | --- | --- |
| `web_name` | str | required | Name of the site. |
| `web_port` | int | `80` | Port to listen on. `0` picks one. |
| `web_sites` | list of dict | computed | Sites a\\|b. |
| `web_sites[].url` | str | required | Prefix. |

### `tasks_from: stop`

Stop serving.

| Variable | Type | Default | Meaning |
| --- | --- | --- | --- |
| `web_delay` | int | `2` | Seconds to wait. |"""
README = f"""\
# wsgi.fleet.web

Serve pages.

Serves pages from `/srv`.

## Example

```yaml
- name: Serve pages
  hosts: all
  become: true
  roles:
    - role: wsgi.fleet.web
      vars:
        web_name: …
```

## Variables

<!-- variables:start -->
{VARIABLES}
<!-- variables:end -->
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    role = tmp_path / "roles" / "web"
    for folder, text in (("meta", SPEC), ("defaults", DEFAULTS)):
        (role / folder).mkdir(parents=True)
        name = "argument_specs.yml" if folder == "meta" else "main.yml"
        (role / folder / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A C(file) and V(1).", "A `file` and `1`."),
        ("O(app_env), O(wsgi.fleet.thing#module:name) and RV(ignore:a.b)", "`app_env`, `module:name` and `ignore:a.b`"),
        ("M(wsgi.fleet.host_info)", "`wsgi.fleet.host_info`"),
        ("the filter P(wsgi.fleet.sandbox_directives#filter).", "the filter `wsgi.fleet.sandbox_directives`."),
        (r"V(call(\))", "`call()`"),
        ("B(bold) I(leaning) U(https://example.com)", "**bold** *leaning* <https://example.com>"),
        ("L(Flask, https://flask.example)", "[Flask](https://flask.example)"),
        ("SHA(1) and a(b) stay", "SHA(1) and a(b) stay"),
    ],
)
def test_markup_becomes_markdown(text: str, expected: str) -> None:
    assert docs.markdown(text) == expected


@pytest.mark.parametrize(
    ("option", "defaults", "expected"),
    [
        ({"required": True}, {"x": "{{ undef() }}"}, "required"),
        ({"default": ""}, {"x": ""}, '`""`'),
        ({"default": False}, {"x": False}, "`false`"),
        ({"default": []}, {"x": []}, "`[]`"),
        ({"default": {"a": "b" * 60}}, {}, "[long](defaults/main.yml)"),
        ({}, {"x": "{{ y }}"}, "computed"),
        ({}, {"x": [{"deep": "{% if y %}{% endif %}"}]}, "computed"),
        ({}, {"x": {"{{ key }}": 1}}, "computed"),
        ({}, {}, "none"),
    ],
)
def test_defaults(option: dict[str, Any], defaults: dict[str, Any], expected: str) -> None:
    assert docs.default_text("x", option, defaults) == expected


def test_choices_follow_the_description() -> None:
    assert docs.meaning({"description": "Model.", "choices": ["sync", True]}) == "Model. One of `sync`, `true`."


def test_text_without_marks_has_no_place() -> None:
    assert docs.replace("text", "variables", "x") is None
    assert docs.replace("<!-- variables:start --> open", "variables", "x") is None


def test_what_stands_around_the_marks_stays() -> None:
    text = "before\n<!-- roles:start -->\nold\n<!-- roles:end -->\nafter\n"
    assert docs.replace(text, "roles", "new") == "before\n<!-- roles:start -->\nnew\n<!-- roles:end -->\nafter\n"


def test_a_role_without_readme_gets_one(root: Path) -> None:
    assert docs.main([], root) == 0
    assert (root / "roles/web/README.md").read_text() == README


def test_an_app_server_is_used_through_the_app() -> None:
    text = docs.new_readme(docs.Role("gunicorn", {"main": {"short_description": "Describe an instance"}}, {}))
    assert "app_server: gunicorn" in text
    assert "hosts:" not in text


def test_writing_twice_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs.main([], root)
    capsys.readouterr()
    assert docs.main(["--write"], root) == 0
    assert capsys.readouterr().out == ""
    assert docs.main(["--check"], root) == 0


def test_check_names_what_differs_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs.main([], root)
    readme = root / "roles/web/README.md"
    old = readme.read_text().replace("`80`", "`8080`")
    readme.write_text(old)
    capsys.readouterr()
    assert docs.main(["--check"], root) == 1
    assert "roles/web/README.md is out of date" in capsys.readouterr().err
    assert readme.read_text() == old


def test_readme_without_marks_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "roles/web/README.md").write_text("# by hand\n")
    assert docs.main([], root) == 1
    assert "roles/web/README.md: no place for the variables" in capsys.readouterr().err


def test_role_without_specification_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "roles/web/meta/argument_specs.yml").unlink()
    assert docs.main([], root) == 1
    assert "roles/web: meta/argument_specs.yml is missing" in capsys.readouterr().err


def test_table_of_roles_in_the_collections_readme(root: Path) -> None:
    (root / "README.md").write_text("# fleet\n<!-- roles:start -->\n<!-- roles:end -->\n")
    docs.main([], root)
    assert (root / "README.md").read_text() == (
        "# fleet\n<!-- roles:start -->\n| Role | What it does |\n| --- | --- |\n"
        "| [web](roles/web/README.md) | Serve pages |\n<!-- roles:end -->\n"
    )


def test_collections_readme_without_marks_is_left_alone(root: Path) -> None:
    (root / "README.md").write_text("# fleet\n")
    docs.main([], root)
    assert (root / "README.md").read_text() == "# fleet\n"
