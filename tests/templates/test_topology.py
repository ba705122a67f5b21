"""What the groups of an inventory become: playbooks/group_vars/all/topology.yml, read by Ansible itself."""

from __future__ import annotations

import json
import string
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.templates.conftest import ROOT, Start

#: Variables of every inventory here; app_status is what a deploy learns of each host.
COMMON = {
    "app_status": "{{ inventory_hostname }} is ready",
    "fleet_secret_key": "battery staple",
    "fleet_cache_password": "p@ss word",
}
#: What the hosts of an inventory are asked for.
ASKED = [
    "__fleet_address",
    "__fleet_cache_directory",
    "__fleet_cache_memory_share",
    "__fleet_nginx_port",
    "fleet_accounts",
    "fleet_app_check_urls",
    "fleet_app_env",
    "fleet_app_hosts",
    "fleet_app_peers",
    "fleet_app_static",
    "fleet_cache_hosts",
    "fleet_load_balancer_backends",
    "fleet_load_balancer_hosts",
    "fleet_nginx_sites",
    "fleet_packages",
    "fleet_redis_users",
    "fleet_sandbox_units",
]
#: What is made where the inventory does not set it.
SECRETS = ["__fleet_secrets_directory", "__fleet_secret_key", "__fleet_release_key", "__fleet_cache_password"]
#: What others of these are made of.
PARTS = [
    "__fleet_app",
    "__fleet_app_health_host",
    "__fleet_app_health_path",
    "__fleet_app_health_status",
    "__fleet_app_host_names",
    "__fleet_app_name",
    "__fleet_cache_url_host",
    "__fleet_home",
    "fleet_cache_env",
    "fleet_packages_of_group",
    "fleet_sandbox_units_of_group",
]


@dataclass(frozen=True)
class Fleet:
    """An inventory, and what comes of it.

    :param groups: variables of each host of each group.
    :param variables: of the application.
    :param scope: the group whose variables these are.
    :param everywhere: values that all hosts agree on.
    :param hosts: the other values, by host.
    """

    groups: Mapping[str, Mapping[str, Mapping[str, Any]]]
    variables: Mapping[str, Any]
    everywhere: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    scope: str = "all"


FLEETS = {
    "one host in all groups": Fleet(
        groups={
            "app": {"box": {"ansible_host": "203.0.113.10"}},
            "cache": {"box": {}},
            "load_balancer": {"box": {}},
        },
        variables={
            "app_host_names": ["shop.example.com", "www.example.com"],
            "app_health_path": "/health",
            "app_health_status": ["200"],
            "app_packages": ["libpq5", "zstd"],
            "app_static": [{"url": "/static/", "path": "shop/static"}, {"url": "/docs/", "path": "docs//"}],
        },
        everywhere={
            "fleet_app_env": {
                "FLASK_SECRET_KEY": "battery staple",
                "FLASK_CACHE_TYPE": "RedisCache",
                "FLASK_CACHE_REDIS_HOST": "203.0.113.10",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                "FLASK_CACHE_KEY_PREFIX": "shop:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": "redis://shop:p%40ss%20word@203.0.113.10:6379/0",
            },
            "fleet_app_hosts": [{"name": "box", "address": "203.0.113.10", "port": 8080}],
            "fleet_app_peers": {"box": "box is ready"},
            "fleet_app_static": [
                {"url": "/static/", "path": "/srv/shop/current/build/code/shop/static/"},
                {"url": "/docs/", "path": "/srv/shop/current/build/code/docs/"},
            ],
            "fleet_cache_hosts": [{"name": "box", "address": "203.0.113.10"}],
            "fleet_load_balancer_hosts": [{"name": "box", "address": "203.0.113.10"}],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": ["shop.example.com", "www.example.com"],
                    "servers": [{"name": "box", "address": "203.0.113.10", "port": 8080}],
                    "health_status": ["200"],
                    "health_path": "/health",
                    "health_host": "shop.example.com",
                }
            ],
        },
        hosts={
            "box": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "203.0.113.10",
                "fleet_app_check_urls": ["http://127.0.0.1:8080/health"],
                "__fleet_cache_memory_share": 0.2,
                "__fleet_nginx_port": 8080,
                "fleet_nginx_sites": [
                    {
                        "name": "shop",
                        "server_names": ["shop.example.com", "www.example.com"],
                        "listen": 8080,
                        "upstream": "unix:/srv/shop/current/app.sock",
                        "static": [
                            {"url": "/static/", "path": "/srv/shop/current/build/code/shop/static/"},
                            {"url": "/docs/", "path": "/srv/shop/current/build/code/docs/"},
                        ],
                    }
                ],
                "fleet_packages": ["nginx", "python3-venv", "zstd", "libpq5", "redis-server", "haproxy"],
                "fleet_sandbox_units": ["nginx", "redis-server", "haproxy"],
            }
        },
    ),
    "two app hosts, a load balancer, a cache": Fleet(
        groups={
            "app": {
                "app2": {"ansible_host": "203.0.113.22", "fleet_address": "192.0.2.22"},
                "app1": {"ansible_host": "203.0.113.21", "fleet_address": "192.0.2.21"},
            },
            "cache": {"cache1": {"ansible_host": "203.0.113.30", "fleet_address": "192.0.2.30"}},
            "load_balancer": {"lb1": {"ansible_host": "203.0.113.10"}},
        },
        variables={"app_host_names": ["shop.example.com"], "app_health_path": "/health"},
        scope="app",
        everywhere={
            "fleet_app_env": {
                "FLASK_SECRET_KEY": "battery staple",
                "FLASK_CACHE_TYPE": "RedisCache",
                "FLASK_CACHE_REDIS_HOST": "192.0.2.30",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                "FLASK_CACHE_KEY_PREFIX": "shop:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": "redis://shop:p%40ss%20word@192.0.2.30:6379/0",
            },
            # In the order of the inventory.
            "fleet_app_hosts": [
                {"name": "app2", "address": "192.0.2.22", "port": 80},
                {"name": "app1", "address": "192.0.2.21", "port": 80},
            ],
            "fleet_app_peers": {
                "app2": "app2 is ready",
                "app1": "app1 is ready",
                "cache1": "cache1 is ready",
                "lb1": "lb1 is ready",
            },
            "fleet_app_static": [],
            "fleet_app_check_urls": ["http://127.0.0.1:80/health"],
            "fleet_cache_hosts": [{"name": "cache1", "address": "192.0.2.30"}],
            "fleet_load_balancer_hosts": [{"name": "lb1", "address": "203.0.113.10"}],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": ["shop.example.com"],
                    "servers": [
                        {"name": "app2", "address": "192.0.2.22", "port": 80},
                        {"name": "app1", "address": "192.0.2.21", "port": 80},
                    ],
                    "health_status": ["200-399"],
                    "health_path": "/health",
                    "health_host": "shop.example.com",
                }
            ],
            "__fleet_nginx_port": 80,
            "fleet_nginx_sites": [
                {
                    "name": "shop",
                    "server_names": ["shop.example.com"],
                    "listen": 80,
                    "upstream": "unix:/srv/shop/current/app.sock",
                    "static": [],
                }
            ],
        },
        hosts={
            "app1": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "192.0.2.21",
                "__fleet_cache_memory_share": 0.2,
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            "app2": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "192.0.2.22",
                "__fleet_cache_memory_share": 0.2,
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            "cache1": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.30",
                "__fleet_cache_memory_share": 0.5,
                "fleet_packages": ["redis-server"],
                "fleet_sandbox_units": ["redis-server"],
            },
            "lb1": {
                "fleet_accounts": [],
                "__fleet_address": "203.0.113.10",
                "__fleet_cache_memory_share": 0.5,
                # Here nginx would listen, if this host ran it.
                "fleet_app_check_urls": ["http://127.0.0.1:8080/health"],
                "__fleet_nginx_port": 8080,
                "fleet_nginx_sites": [
                    {
                        "name": "shop",
                        "server_names": ["shop.example.com"],
                        "listen": 8080,
                        "upstream": "unix:/srv/shop/current/app.sock",
                        "static": [],
                    }
                ],
                "fleet_packages": ["haproxy"],
                "fleet_sandbox_units": ["haproxy"],
            },
        },
    ),
    "no load balancer": Fleet(
        groups={
            "app": {"app1.example.com": {}},
            "cache": {"app1.example.com": {}},
        },
        variables={"app_host_names": ["shop.example.com"], "app_health_host": "health.example.com"},
        everywhere={
            "fleet_app_env": {
                "FLASK_SECRET_KEY": "battery staple",
                "FLASK_CACHE_TYPE": "RedisCache",
                "FLASK_CACHE_REDIS_HOST": "app1.example.com",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                "FLASK_CACHE_KEY_PREFIX": "shop:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": "redis://shop:p%40ss%20word@app1.example.com:6379/0",
            },
            "fleet_app_hosts": [{"name": "app1.example.com", "address": "app1.example.com", "port": 80}],
            "fleet_app_peers": {"app1.example.com": "app1.example.com is ready"},
            "fleet_app_static": [],
            "fleet_cache_hosts": [{"name": "app1.example.com", "address": "app1.example.com"}],
            "fleet_load_balancer_hosts": [],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": ["shop.example.com"],
                    "servers": [{"name": "app1.example.com", "address": "app1.example.com", "port": 80}],
                    "health_status": ["200-399"],
                    "health_path": "/",
                    "health_host": "health.example.com",
                }
            ],
        },
        hosts={
            "app1.example.com": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "app1.example.com",
                "fleet_app_check_urls": ["http://127.0.0.1:80/"],
                "__fleet_cache_memory_share": 0.2,
                "__fleet_nginx_port": 80,
                "fleet_nginx_sites": [
                    {
                        "name": "shop",
                        "server_names": ["shop.example.com"],
                        "listen": 80,
                        "upstream": "unix:/srv/shop/current/app.sock",
                        "static": [],
                    }
                ],
                "fleet_packages": ["nginx", "python3-venv", "zstd", "redis-server"],
                "fleet_sandbox_units": ["nginx", "redis-server"],
            }
        },
    ),
    "no cache": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21", "fleet_nginx_port": 8000}},
            "load_balancer": {"lb1": {"fleet_address": "192.0.2.10"}, "lb2": {"fleet_address": "192.0.2.11"}},
        },
        variables={},
        everywhere={
            "fleet_app_env": {"FLASK_SECRET_KEY": "battery staple", "FLASK_CACHE_TYPE": "SimpleCache"},
            "fleet_app_hosts": [{"name": "app1", "address": "192.0.2.21", "port": 8000}],
            "fleet_app_peers": {"app1": "app1 is ready", "lb1": "lb1 is ready", "lb2": "lb2 is ready"},
            "fleet_app_static": [],
            "fleet_app_check_urls": ["http://127.0.0.1:8080/"],
            "fleet_cache_hosts": [],
            "fleet_load_balancer_hosts": [
                {"name": "lb1", "address": "192.0.2.10"},
                {"name": "lb2", "address": "192.0.2.11"},
            ],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": [],
                    "servers": [{"name": "app1", "address": "192.0.2.21", "port": 8000}],
                    "health_status": ["200-399"],
                    "health_path": "/",
                    "health_host": "localhost",
                }
            ],
            "__fleet_nginx_port": 8080,
            "fleet_nginx_sites": [
                {
                    "name": "shop",
                    "server_names": [],
                    "listen": 8080,
                    "upstream": "unix:/srv/shop/current/app.sock",
                    "static": [],
                }
            ],
        },
        hosts={
            "app1": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "192.0.2.21",
                "__fleet_cache_memory_share": 0.2,
                "fleet_app_check_urls": ["http://127.0.0.1:8000/"],
                "__fleet_nginx_port": 8000,
                "fleet_nginx_sites": [
                    {
                        "name": "shop",
                        "server_names": [],
                        "listen": 8000,
                        "upstream": "unix:/srv/shop/current/app.sock",
                        "static": [],
                    }
                ],
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            "lb1": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.10",
                "__fleet_cache_memory_share": 0.5,
                "fleet_packages": ["haproxy"],
                "fleet_sandbox_units": ["haproxy"],
            },
            "lb2": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.11",
                "__fleet_cache_memory_share": 0.5,
                "fleet_packages": ["haproxy"],
                "fleet_sandbox_units": ["haproxy"],
            },
        },
    ),
}
#: The same in every inventory.
ALWAYS = {
    "__fleet_cache_directory": "/var/cache/tests/wsgi.fleet",
    "fleet_redis_users": [{"name": "shop", "password": "p@ss word", "keys": ["shop:*"]}],
}

#: The name of the inventory whose secrets are made.
MADE = "secrets are made"


@dataclass(frozen=True)
class Answers:
    """What the hosts of an inventory said, and where the inventory lies."""

    directory: Path
    hosts: Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, start: Start, finish: Callable[[subprocess.Popen[str]], None]
) -> Mapping[str, Answers]:
    """What the hosts of each inventory say."""
    started = {}
    for name, fleet in {**FLEETS, MADE: Fleet({"app": {"app1": {}, "app2": {}}}, {}, {}, {})}.items():
        directory = tmp_path_factory.mktemp("topology")
        (directory / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
        inventory = directory / "inventory"
        groups = {group: {"hosts": hosts} for group, hosts in fleet.groups.items()}
        files = {
            "hosts.yml": json.dumps(groups),
            "group_vars/all/common.yml": json.dumps({} if name == MADE else COMMON),
            f"group_vars/{fleet.scope}/app.yml": json.dumps({"app_name": "shop", **fleet.variables}),
            ".secrets/cache_password": "made long ago\n",
        }
        for path, text in files.items():
            (inventory / path).parent.mkdir(parents=True, exist_ok=True)
            (inventory / path).write_text(text, encoding="utf-8")
        play = {
            "vars": {"asked": SECRETS if name == MADE else ASKED},
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "content": "{{ dict(asked | zip(q('ansible.builtin.vars', *asked))) | to_json }}",
                        "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json",
                        "mode": "0600",
                    }
                }
            ],
        }
        started[name] = (
            directory,
            start(directory, [inventory / "hosts.yml"], play, XDG_CACHE_HOME="/var/cache/tests"),
        )
    found = {}
    for name, (directory, process) in started.items():
        finish(process)
        texts = {path.stem: path.read_text(encoding="utf-8") for path in directory.glob("*.json")}
        found[name] = Answers(directory / "inventory", {host: json.loads(text) for host, text in texts.items()})
    return found


@pytest.mark.parametrize("name", FLEETS)
def test_every_host_knows_the_fleet_and_its_part_in_it(answers: Mapping[str, Answers], name: str) -> None:
    fleet = FLEETS[name]
    assert answers[name].hosts == {host: {**ALWAYS, **fleet.everywhere, **own} for host, own in fleet.hosts.items()}


def test_secrets_are_made_once_for_all_hosts(answers: Mapping[str, Answers]) -> None:
    directory = answers[MADE].directory / ".secrets"
    first, second = answers[MADE].hosts["app1"], answers[MADE].hosts["app2"]
    assert first == second
    assert first["__fleet_secrets_directory"] == str(directory)
    for name in ("secret_key", "release_key"):
        path = directory / name
        assert len(first[f"__fleet_{name}"]) == 64
        assert set(first[f"__fleet_{name}"]) <= set(string.ascii_letters + string.digits)
        assert path.read_text(encoding="utf-8").strip() == first[f"__fleet_{name}"]
        assert path.stat().st_mode & 0o777 == 0o600
    assert first["__fleet_secret_key"] != first["__fleet_release_key"]


def test_secrets_that_are_there_are_kept(answers: Mapping[str, Answers]) -> None:
    assert answers[MADE].hosts["app1"]["__fleet_cache_password"] == "made long ago"


@pytest.mark.parametrize("name", FLEETS)
def test_no_secret_is_made_that_an_inventory_sets(answers: Mapping[str, Answers], name: str) -> None:
    assert [path.name for path in (answers[name].directory / ".secrets").iterdir()] == ["cache_password"]


def test_nothing_of_the_topology_is_left_out() -> None:
    topology = yaml.safe_load((ROOT / "playbooks/group_vars/all/topology.yml").read_text(encoding="utf-8"))
    assert sorted(topology) == sorted([*ASKED, *SECRETS, *PARTS])
