"""The files of a fleet's applications: what stands around each, and which hosts get requests for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.filter import fleet_apps, fleet_backends
from ansible_collections.wsgi.fleet.plugins.module_utils._apps import (
    AROUND,
    AppFileError,
    app_file,
    read_app,
    read_apps,
)

SERVERS = [{"name": "app1", "address": "192.0.2.21"}, {"name": "app2", "address": "192.0.2.22"}]


def names(files: Mapping[str, str], common: Mapping[str, Any]) -> list[str]:
    return [app.name for app in read_apps(files, common)]


def test_without_files_the_common_variables_are_those_of_one_application() -> None:
    (app,) = read_apps({}, {"app_name": "shop", "app_host_names": ["shop.example.com"]})
    assert (app.name, app.around()["host_names"]) == ("shop", ["shop.example.com"])


def test_without_files_and_a_name_there_is_none() -> None:
    assert names({}, {"app_packages": ["x"]}) == []


def test_files_are_applications_by_their_names() -> None:
    files = {"/etc/apps/shop.yml": "app_source: x\n", "/etc/apps/blog.yml": "", "/etc/apps/a.b.yml": "# nothing yet\n"}
    assert names(files, {"app_name": "other"}) == ["a.b", "blog", "shop"]


def test_a_play_reads_the_file_of_the_application_that_is_named(tmp_path: Path) -> None:
    assert app_file(str(tmp_path), "shop") == f"{tmp_path}/shop.yml"


def test_without_a_name_it_reads_the_only_file_there_is(tmp_path: Path) -> None:
    folder = tmp_path / "apps[1]"
    assert app_file(str(folder), "") == "none.yml"
    folder.mkdir()
    (folder / ".hidden.yml").touch()
    (folder / "shop.yaml").touch()
    assert app_file(str(folder), "") == "none.yml"
    (folder / "shop.yml").touch()
    assert app_file(str(folder), "") == f"{folder}/shop.yml"
    (folder / "blog.yml").touch()
    assert app_file(str(folder), "") == "none.yml"


def test_a_file_wins_over_what_holds_for_all() -> None:
    common = {"app_health_path": "/health", "app_packages": ["libpq5"], "app_host_names": ["www.example.com"]}
    blog, shop = (app.around() for app in read_apps({"blog.yml": "app_health_path: /ok", "shop.yml": ""}, common))
    assert (blog["health_path"], shop["health_path"]) == ("/ok", "/health")
    assert blog["packages"] == shop["packages"] == ["libpq5"]


def test_what_stands_around_an_application_by_default() -> None:
    assert read_app("apps/blog.yml", "", {}).around() == {
        "name": "blog",
        "packages": [],
        "uwsgi_package": "pypi",
        "host_names": [],
        "health_path": "/",
        "site": {
            "name": "blog",
            "server_names": [],
            "upstream": "unix:/srv/blog/current/app.sock",
            "static": [],
            "cache": {},
            "limit": {},
            "maintenance": {"page": "/srv/blog/maintenance.html", "retry_after": 300, "allow": [], "pass": []},
        },
        "backend": {
            "name": "blog",
            "host_names": [],
            "health_status": ["200-399"],
            "health_path": "/",
            "cookie": "",
            "health_host": "localhost",
        },
    }


def test_what_stands_around_an_application_that_sets_all_of_it() -> None:
    text = """
app_host_names: [shop.example.com, "*.shop.example.com"]
app_health_path: /health?deep=1
app_health_status: [204]
app_health_host: localhost:8000
app_static: [{url: /static/, path: shop/static}, {url: /, path: public//}]
app_packages: [libpq5]
uwsgi_package: distribution
app_maintenance_retry_after: 60
app_maintenance_allow: [203.0.113.7]
app_micro_cache: 2
app_client_requests: 20
app_client_connections: 10
app_sticky_cookie: seen-by
"""
    found = read_app("shop.yml", text, {}).around()
    assert (found["packages"], found["uwsgi_package"]) == (["libpq5"], "distribution")
    assert found["site"] == {
        "name": "shop",
        "server_names": ["shop.example.com", "*.shop.example.com"],
        "upstream": "unix:/srv/shop/current/app.sock",
        "static": [
            {"url": "/static/", "path": "/srv/shop/current/build/code/shop/static/"},
            {"url": "/", "path": "/srv/shop/current/build/code/public/"},
        ],
        "maintenance": {
            "page": "/srv/shop/maintenance.html",
            "retry_after": 60,
            "allow": ["203.0.113.7"],
            "pass": ["/health"],
        },
        "cache": {"seconds": 2, "path": "/srv/shop/current"},
        "limit": {"requests": 20, "connections": 10},
    }
    assert found["backend"] == {
        "name": "shop",
        "host_names": ["shop.example.com", "*.shop.example.com"],
        "health_status": [204],
        "health_path": "/health?deep=1",
        "cookie": "seen-by",
        "health_host": "localhost:8000",
    }


@pytest.mark.parametrize("text", ["app_health_path:\napp_packages: null\n", "app_static: ~"])
def test_nothing_is_as_if_it_were_not_set(text: str) -> None:
    assert read_app("shop.yml", text, {}).around() == read_app("shop.yml", "", {}).around()


@pytest.mark.parametrize(
    "text",
    [
        "app_source_token: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
        "app_env: {A: !vault x, B: !unsafe '{{'}",
        "app_env: {A: '{{ x }}'}\napp_version: '{% if x %}1{% endif %}'",
        "app_name: shop",
        "app_hooks: !reset {after_stage: [1]}",
    ],
)
def test_tags_and_templates_may_stand_where_ansible_reads_them(text: str) -> None:
    assert read_app("apps/shop.yml", text, {}).around() == read_app("apps/shop.yml", "", {}).around()


@pytest.mark.parametrize("key", AROUND)
@pytest.mark.parametrize("template", ["{{ x }}", "{% if x %}1{% endif %}"])
def test_what_stands_around_an_application_is_no_template(key: str, template: str) -> None:
    for value in (template, [template], [{"url": template}]):
        with pytest.raises(AppFileError) as caught:
            read_app("apps/shop.yml", f"{key}: {value!r}", {})
        assert str(caught.value) == (
            f"apps/shop.yml: {key}: '{template}' is a template, which the hosts around the application cannot "
            "evaluate: write the value itself"
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [b\nc: d", "is not YAML in line 2: expected ',' or ']', but got ':'"),
        ("a: b: c", "is not YAML in line 1: mapping values are not allowed here"),
        ("a: \x01", "is not YAML: unacceptable character"),
        ("- app_source: x", "does not hold variables: write app_source: … and so on"),
        ("shop", "does not hold variables: write app_source: … and so on"),
        ("app_name: blog", "app_name: 'blog' is not the name of the file: take it out"),
        ("app_host_names: !vault x", "app_host_names: the hosts around the application cannot read what has a tag"),
        ("app_host_names: [a, !vault x]", "app_host_names: the hosts around the application cannot read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        fleet_apps.fleet_apps({"apps/shop.yml": text}, {})
    assert f"apps/shop.yml: {said}" in str(caught.value)


def backends(infos: Mapping[str, Any], deployed: str = "") -> dict[str, tuple[list[str], bool]]:
    """Return which servers each of two applications is spread over, and whether one must be healthy."""
    apps = fleet_apps.fleet_apps({"blog.yml": "", "shop.yml": ""}, {})
    found = fleet_backends.fleet_backends(apps, SERVERS, infos, deployed)
    return {entry["name"]: ([server["name"] for server in entry["servers"]], entry["wait"]) for entry in found}


BOTH = ["app1", "app2"]


@pytest.mark.parametrize(
    ("infos", "deployed", "blog", "shop"),
    [
        # Nobody was asked, as with --limit on load balancers: all is taken to be well.
        ({}, "", (BOTH, True), (BOTH, True)),
        ({"app1": {}, "app2": {"msg": "unreachable"}}, "blog", (BOTH, True), (BOTH, True)),
        # Bare hosts, of which the run makes those of the blog.
        ({"app1": {"apps": []}, "app2": {"apps": []}}, "blog", (BOTH, True), (BOTH, False)),
        ({"app1": {"apps": []}, "app2": {"apps": []}}, "", (BOTH, False), (BOTH, False)),
        # A new host, which gets the blog now and the shop later.
        ({"app1": {"apps": ["blog", "shop"]}, "app2": {"apps": []}}, "blog", (BOTH, True), (["app1"], True)),
        ({"app1": {"apps": ["blog", "shop"]}, "app2": {"apps": ["blog"]}}, "shop", (BOTH, True), (BOTH, True)),
        # What was not asked counts as one that serves; that it does is not proved.
        ({"app1": {"apps": []}, "app2": {}}, "blog", (BOTH, True), (["app2"], False)),
        ({"app1": {"apps": ["shop"]}, "app2": {}}, "blog", (BOTH, True), (BOTH, True)),
    ],
)
def test_a_host_gets_requests_for_what_it_has(
    infos: Mapping[str, Any], deployed: str, blog: tuple[list[str], bool], shop: tuple[list[str], bool]
) -> None:
    assert backends(infos, deployed) == {"blog": blog, "shop": shop}


def test_a_backend_has_all_that_load_balancers_ask_for() -> None:
    (found,) = fleet_backends.fleet_backends(fleet_apps.fleet_apps({"blog.yml": ""}, {}), SERVERS, {})
    assert found == {
        "name": "blog",
        "host_names": [],
        "health_status": ["200-399"],
        "health_path": "/",
        "cookie": "",
        "health_host": "localhost",
        "servers": SERVERS,
        "wait": True,
    }


def test_the_filters_have_their_names() -> None:
    assert set(fleet_apps.FilterModule().filters()) == {"fleet_apps"}
    assert set(fleet_backends.FilterModule().filters()) == {"fleet_backends"}
