"""The files of a fleet's applications as Ansible itself reads them: what preflight says of an inventory with them."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.templates.conftest import ROOT, Start

SECRET = "s3cret-of-nobody"
PASSWORD = "open sesame"
APP = "app_source: pypi:httpbin==0.10.2\napp_module: httpbin:app\n"
BLOG = APP + "app_host_names: [blog.example.com]\n"
SHOP = APP + "app_host_names: [shop.example.com]\n"


def encrypted(text: str, password: str = PASSWORD) -> str:
    return str(VaultLib([("default", VaultSecret(password.encode()))]).encrypt(text).decode())


#: For each inventory the files beside it, what preflight is told, and what it says; nothing where all is well.
CASES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str], tuple[str, ...]]] = {
    "several": ({"apps/blog.yml": BLOG, "apps/shop.yml": SHOP}, {"app_name": "shop"}, ()),
    "no name": (
        {"apps/blog.yml": BLOG, "apps/shop.yml": SHOP},
        {},
        ("app_name: this fleet has the applications blog and shop: say which one, -e app_name=blog.",),
    ),
    "no name is asked for alone": (
        {"apps/blog.yml": "a: [", "apps/shop.yml": SHOP},
        {"stage": "app"},
        ("app_name: this fleet has the applications blog and shop: say which one, -e app_name=blog.",),
    ),
    "no name by default": (
        {"apps/blog.yml": BLOG, "apps/shop.yml": SHOP},
        {"stage": "app", "app_name": "{{ undef(hint='app_name: not set') }}"},
        ("app_name: this fleet has the applications blog and shop: say which one, -e app_name=blog.",),
    ),
    "an unknown name": (
        {"apps/blog.yml": BLOG, "apps/shop.yml": SHOP},
        {"app_name": "wiki"},
        ("app_name: 'wiki' is none of the applications of this fleet, blog and shop: write -e app_name=blog",),
    ),
    "one": ({"apps/shop.yml": SHOP}, {}, ()),
    "an empty folder": ({"group_vars/app.yml": SHOP + "app_name: shop\n", "apps/README.md": "none yet"}, {}, ()),
    "elsewhere": (
        {"more/blog.yml": BLOG, "more/shop.yml": SHOP, "apps/a.yml": "["},
        {"fleet_apps_directory": "more", "app_name": "blog"},
        (),
    ),
    "encrypted": ({"apps/blog.yml": encrypted(BLOG), "apps/shop.yml": SHOP}, {"app_name": "blog"}, ()),
    "encrypted otherwise": (
        {"apps/shop.yml": encrypted(BLOG, "another password")},
        {},
        ("apps/shop.yml: cannot be read: ",),
    ),
    "templates": (
        {
            "group_vars/app.yml": f"team: ops\napp_release_key: {SECRET}\n",
            "apps/shop.yml": SHOP
            + "app_env: {A: '{{ app_name }} of {{ team }} on {{ inventory_hostname }} for {{ label }}'}\n"
            + "label: '{{ team }}'\n",
        },
        {},
        (),
    ),
    "wrong": (
        {
            "group_vars/app.yml": "app_health_path: health\n",
            "apps/blog.yml": BLOG
            + "app_env: {A: '{{ nowhere }}'}\nnginx_gzip: true\nfleet_tls: none\napp_servr: uwsgi\n",
            "apps/shop.yml": f"app_modul: x\napp_env: {{A: '{SECRET}', B: 5}}\napp_host_names: [blog.example.com]\n",
            "apps/torn.yml": "a: [b\nc: d\n",
            "apps/wiki.yml": APP + "app_host_names: ['{{ name }}']\n",
            "apps/old.yaml": APP,
        },
        {},
        (
            "12 settings cannot work. Nothing was touched.",
            "- app_name: this fleet has the applications blog, shop, torn, wiki and old: say which one",
            "- app_health_path: 'health' is not a request target",
            "- apps/blog.yml: nginx_gzip: concerns whole hosts and not one application: set it in the",
            "- apps/blog.yml: fleet_tls: concerns whole hosts and not one application",
            "- apps/blog.yml: app_env: cannot be evaluated on app1: 'nowhere' is undefined",
            "- apps/shop.yml: app_module: is not set for app1, app2 (you have set 'app_modul')",
            "- apps/shop.yml: app_source: is not set for app1, app2: set it to a git URL",
            "- apps/shop.yml: app_env: the value of B is not text but int",
            "- apps/shop.yml: app_host_names: 'blog.example.com' is one of apps/blog.yml too",
            "- apps/torn.yml: is not YAML in line 2: expected ',' or ']', but got ':'.",
            "- apps/wiki.yml: app_host_names: '{{ name }}' is a template, which the hosts around",
            "- apps/old.yaml: is not read, since the files of applications end in .yml: call it old.yml.",
            "app_servr is not a variable of this collection: did you mean app_server?",
        ),
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Mapping[str, tuple[int, str]]:
    """Exit status and output of preflight, for each case."""
    started = {}
    for name, (files, told, _expected) in CASES.items():
        directory = tmp_path_factory.mktemp("files")
        (directory / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
        hosts = {f"app{number}": {"fleet_address": f"192.0.2.{number}"} for number in (1, 2)}
        inventory = directory / "inventory"
        for path, text in {"hosts.yml": json.dumps({"app": {"hosts": hosts}}), **files}.items():
            (inventory / path).parent.mkdir(parents=True, exist_ok=True)
            (inventory / path).write_text(text, encoding="utf-8")
        (directory / "password").write_text(PASSWORD, encoding="utf-8")
        variables = {key: value for key, value in told.items() if key != "stage"}
        task = {"wsgi.fleet.preflight": {"stage": told.get("stage", "inventory")}, "run_once": True}
        started[name] = start(
            directory,
            [inventory / "hosts.yml"],
            {"vars": variables, "tasks": [task]},
            ANSIBLE_VAULT_PASSWORD_FILE=str(directory / "password"),
        )
    found = {}
    for name, process in started.items():
        output, _nothing = process.communicate()
        found[name] = (process.returncode, " ".join(output.split()))
    return found


@pytest.mark.parametrize("name", CASES)
def test_preflight_says_what_is_wrong_with_applications(said: Mapping[str, tuple[int, str]], name: str) -> None:
    expected = CASES[name][2]
    status, output = said[name]
    assert (status, [text for text in expected if text not in output]) == (2 if expected else 0, []), output
    assert SECRET not in output
    assert expected or "WARNING" not in output, output
