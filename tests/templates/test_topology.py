"""What the groups of an inventory become: playbooks/group_vars/all/topology.yml, read by Ansible itself."""

from __future__ import annotations

import json
import string
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.templates.conftest import ROOT, Start

#: Variables of every inventory here; app_status is what a deploy learns of each host.
COMMON = {
    "app_status": "{{ inventory_hostname }} is ready",
    "__app_info": "{{ inventory_hostname }} has begun",
    "__app_stage": "{{ inventory_hostname }} has staged",
    "fleet_secret_key": "battery staple",
    "fleet_cache_password": "p@ss word",
    "fleet_replication_password": "horse battery staple",
}
#: What the hosts of an inventory are asked for.
ASKED = [
    "__fleet_address",
    "__fleet_app_memory_share",
    "__fleet_cache_directory",
    "__fleet_cache_memory_share",
    "__fleet_nginx_port",
    "fleet_accounts",
    "fleet_app_balancers",
    "fleet_app_check_urls",
    "fleet_app_env",
    "fleet_app_hosts",
    "fleet_app_infos",
    "fleet_app_peers",
    "fleet_app_primary",
    "fleet_app_stages",
    "fleet_cache_hosts",
    "fleet_certificate_addresses",
    "fleet_certificate_host_names",
    "fleet_certificate_method",
    "fleet_certificate_path",
    "fleet_load_balancer_backends",
    "fleet_load_balancer_hosts",
    "fleet_load_balancer_tls",
    "fleet_nginx_sites",
    "fleet_packages",
    "fleet_redis_users",
    "fleet_sandbox_units",
]
#: What is made where the inventory does not set it.
SECRETS = [
    "__fleet_secrets_directory",
    "__fleet_secret_key",
    "__fleet_release_key",
    "__fleet_cache_password",
    "__fleet_replication_password",
    "__fleet_app_profiler_password",
]
#: What drain.yml, undrain.yml, retire_host.yml and tune.yml ask.
DRAIN = [
    "fleet_drain_hosts",
    "fleet_drain_last",
    "fleet_drain_problems",
    "fleet_tune_problems",
    "fleet_undrain_problems",
]
#: What maintain.yml asks.
MAINTAIN = ["fleet_maintain_hosts", "fleet_maintain_problems"]
#: What profile.yml asks.
PROFILE = ["fleet_profile_problems", "fleet_profile_seconds"]
#: What the cache is, and what the app is told of it.
CACHE = [
    "__fleet_cache_backend",
    "fleet_app_cache_module",
    "fleet_app_env",
    "fleet_app_shared_directories",
    "fleet_memcached_clients",
    "fleet_packages",
    "fleet_sandbox_units",
]
#: How hosts of Redis talk to each other.
REDIS = [
    "__fleet_redis_tls",
    "fleet_app_env",
    "fleet_packages",
    "fleet_redis_addresses",
    "fleet_redis_authority",
    "fleet_redis_host_names",
    "fleet_redis_nodes",
    "fleet_redis_replication_password",
    "fleet_sandbox_units",
]
#: What load balancers share.
FLOATING = [
    "fleet_certificate_addresses",
    "fleet_load_balancer_floating_addresses",
    "fleet_load_balancer_holders",
    "fleet_packages",
    "fleet_sandbox_units",
]
#: Who may come in to a host.
FIREWALL = ["fleet_firewall_services", "fleet_firewall_ssh_ports", "fleet_firewall_state", "fleet_packages"]
#: What others of these are made of.
PARTS = [
    "__fleet_app_addresses",
    "__fleet_balancer_addresses",
    "__fleet_firewall",
    "__fleet_firewall_app",
    "__fleet_firewall_cache",
    "__fleet_firewall_load_balancer",
    "__fleet_firewall_vrrp",
    "__fleet_redis_clients",
    "__fleet_cache_env_filesystem",
    "__fleet_cache_env_memcached",
    "__fleet_cache_env_none",
    "__fleet_cache_env_redis",
    "__fleet_cache_env_sentinel",
    "__fleet_cache_env_simple",
    "__fleet_cache_servers",
    "__fleet_redis_options",
    "__fleet_redis_patterns",
    "__fleet_app_cache_password",
    "__fleet_app_cache_passwords",
    "__fleet_app_common",
    "__fleet_app_common_names",
    "__fleet_app_file",
    "__fleet_app_files",
    "__fleet_app_host",
    "__fleet_app_hosts_info",
    "__fleet_app_known_names",
    "__fleet_app_names",
    "__fleet_app_secret_key",
    "__fleet_app_suffix",
    "__fleet_apps",
    "__fleet_apps_directory",
    "__fleet_load_balancer_url",
    "__fleet_load_balancer_urls",
    "__fleet_app_health_path",
    "__fleet_app_name",
    "__fleet_cache_url_host",
    "__fleet_drain_checks",
    "__fleet_drain_strangers",
    "__fleet_home",
    "__fleet_share",
    "__fleet_maintain_app_hosts",
    "__fleet_maintain_checks",
    "__fleet_tls",
    "fleet_app_name",
    "fleet_cache_env",
    "fleet_certificate_group",
    "fleet_certificate_services",
    "fleet_load_balancer_acme_thumbprint",
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
    :param apps: texts of the files of applications, by name; of one that is encrypted there is a ``vault``.
    :param named: the application that the play is about, where there are several.
    """

    groups: Mapping[str, Mapping[str, Mapping[str, Any]]]
    variables: Mapping[str, Any]
    everywhere: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    scope: str = "all"
    apps: Mapping[str, str] = field(default_factory=dict)
    named: str = ""

    @property
    def reports(self) -> dict[str, Any]:
        """What each host of a deploy reported, in the order of the inventory."""
        names = dict.fromkeys(name for hosts in self.groups.values() for name in hosts)
        return {
            "fleet_app_peers": {name: f"{name} is ready" for name in names},
            "fleet_app_infos": {name: f"{name} has begun" for name in names},
            "fleet_app_stages": {name: f"{name} has staged" for name in names},
        }


def maintenance(*passes: str, retry_after: int = 300, allow: Sequence[str] = (), app: str = "shop") -> dict[str, Any]:
    """Return what a site says of its maintenance."""
    return {
        "page": f"/srv/{app}/maintenance.html",
        "retry_after": retry_after,
        "allow": list(allow),
        "pass": list(passes),
    }


#: The sites of several applications on an app host.
SITES = [
    {
        "name": "blog",
        "server_names": ["blog.example.com"],
        "listen": 80,
        "upstream": "unix:/srv/blog/current/app.sock",
        "static": [],
        "maintenance": maintenance("/status", app="blog"),
        "cache": {},
        "limit": {},
    },
    {
        "name": "shop",
        "server_names": ["shop.example.com", "*.shop.example.com"],
        "listen": 80,
        "upstream": "unix:/srv/shop/current/app.sock",
        "static": [{"url": "/static/", "path": "/srv/shop/current/build/code/shop/static/"}],
        "maintenance": maintenance("/health"),
        "cache": {},
        "limit": {},
    },
    {
        "name": "wiki",
        "server_names": ["www.example.com"],
        "listen": 80,
        "upstream": "unix:/srv/wiki/current/app.sock",
        "static": [],
        "maintenance": maintenance("/health", app="wiki"),
        "cache": {},
        "limit": {},
    },
]

#: What an app is told of a Redis at 192.0.2.30.
REDIS_ENV = {
    "FLASK_CACHE_TYPE": "wsgi_fleet_redis.RedisCache",
    "FLASK_CACHE_REDIS_HOST": "192.0.2.30",
    "FLASK_CACHE_REDIS_PORT": "6379",
    "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
    "FLASK_CACHE_KEY_PREFIX": "shop:",
    "FLASK_CACHE_OPTIONS": (
        '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
    ),
    "REDIS_URL": "redis://shop:p%40ss%20word@192.0.2.30:6379/0",
}

FLEETS = {
    "one host in all groups": Fleet(
        groups={
            "app": {"box": {"ansible_host": "203.0.113.10"}},
            "cache": {"box": {}},
            "load_balancer": {"box": {}},
        },
        variables={
            "app_host_names": ["shop.example.com", "www.example.com"],
            "app_health_path": "/health?deep=1",
            "app_health_status": ["200"],
            "app_maintenance_allow": ["203.0.113.7"],
            "app_maintenance_retry_after": 60,
            "app_micro_cache": 2,
            "app_client_requests": 20,
            "app_packages": ["libpq5", "zstd"],
            "uwsgi_package": "distribution",
            "app_static": [{"url": "/static/", "path": "shop/static"}, {"url": "/docs/", "path": "docs//"}],
            "fleet_tls": "self_signed",
        },
        everywhere={
            "fleet_certificate_addresses": ["203.0.113.10"],
            "fleet_certificate_host_names": ["shop.example.com", "www.example.com"],
            "fleet_certificate_method": "self_signed",
            "fleet_load_balancer_tls": True,
            "fleet_app_env": {
                "FLASK_SECRET_KEY": "battery staple",
                "FLASK_CACHE_TYPE": "wsgi_fleet_redis.RedisCache",
                "FLASK_CACHE_REDIS_HOST": "203.0.113.10",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                "FLASK_CACHE_KEY_PREFIX": "shop:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": "redis://shop:p%40ss%20word@203.0.113.10:6379/0",
            },
            "fleet_app_balancers": [{"name": "box", "url": "https://127.0.0.1:443/health?deep=1"}],
            "fleet_app_primary": "box",
            "fleet_app_hosts": [{"name": "box", "address": "203.0.113.10", "port": 8080}],
            "fleet_cache_hosts": [{"name": "box", "address": "203.0.113.10"}],
            "fleet_load_balancer_hosts": [{"name": "box", "address": "203.0.113.10"}],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": ["shop.example.com", "www.example.com"],
                    "servers": [{"name": "box", "address": "203.0.113.10", "port": 8080}],
                    "health_status": ["200"],
                    "health_path": "/health?deep=1",
                    "cookie": "",
                    "health_host": "shop.example.com",
                    "wait": True,
                }
            ],
        },
        hosts={
            "box": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "203.0.113.10",
                "fleet_app_check_urls": ["http://127.0.0.1:8080/health?deep=1"],
                "__fleet_cache_memory_share": 0.2,
                "__fleet_app_memory_share": 0.5,
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
                        "maintenance": maintenance("/health", retry_after=60, allow=["203.0.113.7"]),
                        "cache": {"seconds": 2, "path": "/srv/shop/current"},
                        "limit": {"requests": 20},
                    }
                ],
                "fleet_packages": [
                    "nginx",
                    "python3-venv",
                    "zstd",
                    "uwsgi-core",
                    "uwsgi-plugin-python3",
                    "libpq5",
                    "redis-server",
                    "haproxy",
                ],
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
                **REDIS_ENV,
            },
            "fleet_app_balancers": [{"name": "lb1", "url": "http://127.0.0.1:80/health"}],
            # In the order of the inventory.
            "fleet_app_primary": "app2",
            "fleet_app_hosts": [
                {"name": "app2", "address": "192.0.2.22", "port": 80},
                {"name": "app1", "address": "192.0.2.21", "port": 80},
            ],
            "fleet_app_check_urls": ["http://127.0.0.1:80/health"],
            "fleet_cache_hosts": [{"name": "cache1", "address": "192.0.2.30"}],
            "fleet_certificate_addresses": ["203.0.113.10"],
            "fleet_certificate_host_names": ["shop.example.com"],
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
                    "cookie": "",
                    "health_host": "shop.example.com",
                    "wait": True,
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
                    "maintenance": maintenance("/health"),
                    "cache": {},
                    "limit": {},
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
                "__fleet_app_memory_share": 0.3,
                "fleet_packages": ["redis-server"],
                "fleet_sandbox_units": ["redis-server"],
            },
            "lb1": {
                "fleet_accounts": [],
                "__fleet_address": "203.0.113.10",
                "__fleet_cache_memory_share": 0.5,
                "__fleet_app_memory_share": 0.7,
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
                        "maintenance": maintenance("/health"),
                        "cache": {},
                        "limit": {},
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
                "FLASK_CACHE_TYPE": "wsgi_fleet_redis.RedisCache",
                "FLASK_CACHE_REDIS_HOST": "app1.example.com",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                "FLASK_CACHE_KEY_PREFIX": "shop:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": "redis://shop:p%40ss%20word@app1.example.com:6379/0",
            },
            "fleet_app_balancers": [],
            "fleet_app_primary": "app1.example.com",
            "fleet_app_hosts": [{"name": "app1.example.com", "address": "app1.example.com", "port": 80}],
            "fleet_cache_hosts": [{"name": "app1.example.com", "address": "app1.example.com"}],
            "fleet_certificate_addresses": [],
            "fleet_certificate_host_names": ["shop.example.com"],
            "fleet_load_balancer_hosts": [],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": ["shop.example.com"],
                    "servers": [{"name": "app1.example.com", "address": "app1.example.com", "port": 80}],
                    "health_status": ["200-399"],
                    "health_path": "/",
                    "cookie": "",
                    "health_host": "health.example.com",
                    "wait": True,
                }
            ],
        },
        hosts={
            "app1.example.com": {
                "fleet_accounts": ["shop", "shop-build"],
                "__fleet_address": "app1.example.com",
                "fleet_app_check_urls": ["http://127.0.0.1:80/"],
                "__fleet_cache_memory_share": 0.2,
                "__fleet_app_memory_share": 0.6,
                "__fleet_nginx_port": 80,
                "fleet_nginx_sites": [
                    {
                        "name": "shop",
                        "server_names": ["shop.example.com"],
                        "listen": 80,
                        "upstream": "unix:/srv/shop/current/app.sock",
                        "static": [],
                        "maintenance": maintenance(),
                        "cache": {},
                        "limit": {},
                    }
                ],
                "fleet_packages": ["nginx", "python3-venv", "zstd", "redis-server"],
                "fleet_sandbox_units": ["nginx", "redis-server"],
            }
        },
    ),
    "no cache": Fleet(
        groups={
            "app": {
                "app1": {
                    "fleet_address": "192.0.2.21",
                    "fleet_nginx_port": 8000,
                    "fleet_weight": 3,
                    "fleet_backup": True,
                }
            },
            "load_balancer": {
                "lb1": {"fleet_address": "192.0.2.10", "load_balancer_port": 8081},
                "lb2": {"fleet_address": "192.0.2.11", "fleet_tls": "acme"},
            },
        },
        variables={},
        everywhere={
            "fleet_app_env": {"FLASK_SECRET_KEY": "battery staple", "FLASK_CACHE_TYPE": "SimpleCache"},
            "fleet_app_balancers": [
                {"name": "lb1", "url": "http://127.0.0.1:8081/"},
                {"name": "lb2", "url": "https://127.0.0.1:443/"},
            ],
            "fleet_app_primary": "app1",
            "fleet_app_hosts": [{"name": "app1", "address": "192.0.2.21", "port": 8000, "weight": 3, "backup": True}],
            "fleet_app_check_urls": ["http://127.0.0.1:8080/"],
            "fleet_cache_hosts": [],
            "fleet_certificate_addresses": ["192.0.2.10", "192.0.2.11"],
            "fleet_certificate_host_names": [],
            "fleet_load_balancer_hosts": [
                {"name": "lb1", "address": "192.0.2.10"},
                {"name": "lb2", "address": "192.0.2.11"},
            ],
            "fleet_load_balancer_backends": [
                {
                    "name": "shop",
                    "host_names": [],
                    "servers": [{"name": "app1", "address": "192.0.2.21", "port": 8000, "weight": 3, "backup": True}],
                    "health_status": ["200-399"],
                    "health_path": "/",
                    "cookie": "",
                    "health_host": "localhost",
                    "wait": True,
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
                    "maintenance": maintenance(),
                    "cache": {},
                    "limit": {},
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
                        "maintenance": maintenance(),
                        "cache": {},
                        "limit": {},
                    }
                ],
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            "lb1": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.10",
                "__fleet_cache_memory_share": 0.5,
                "__fleet_app_memory_share": 0.7,
                "fleet_packages": ["haproxy"],
                "fleet_sandbox_units": ["haproxy"],
            },
            "lb2": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.11",
                "__fleet_cache_memory_share": 0.5,
                "__fleet_app_memory_share": 0.7,
                "fleet_certificate_method": "acme",
                "fleet_load_balancer_tls": True,
                "fleet_packages": ["haproxy", "uacme", "openssl"],
                "fleet_sandbox_units": ["haproxy"],
            },
        },
    ),
    "several applications": Fleet(
        groups={
            # What the hosts said that they serve: app1 is new.
            "app": {
                "app1": {"fleet_address": "192.0.2.21", "fleet_host_info": {"apps": []}},
                "app2": {"fleet_address": "192.0.2.22", "fleet_host_info": {"apps": ["blog", "shop"]}},
            },
            "cache": {"cache1": {"fleet_address": "192.0.2.30"}},
            "load_balancer": {"lb1": {"fleet_address": "192.0.2.10"}},
        },
        variables={"app_health_path": "/health", "app_packages": ["libpq5"], "app_host_names": ["www.example.com"]},
        apps={
            "blog": """
app_host_names: [blog.example.com]
app_health_path: /status?deep=1
app_health_status: [204]
app_source_token: !vault not-for-here
app_env: {NOTE: "{{ app_name }}"}
""",
            "shop": """
app_host_names: [shop.example.com, "*.shop.example.com"]
app_packages: [libxml2]
uwsgi_package: distribution
app_static: [{url: /static/, path: shop/static}]
app_health_host: localhost
""",
            "wiki": "vault",
        },
        named="blog",
        everywhere={
            "fleet_app_balancers": [{"name": "lb1", "url": "http://127.0.0.1:80/status?deep=1"}],
            "fleet_app_check_urls": ["http://127.0.0.1:80/status?deep=1"],
            "fleet_app_env": {
                "FLASK_SECRET_KEY": "deaac38da140560ae4412308cbd0f7e7d0c9248ee72f8d4a5d596db60bb184fb",
                "FLASK_CACHE_TYPE": "wsgi_fleet_redis.RedisCache",
                "FLASK_CACHE_REDIS_HOST": "192.0.2.30",
                "FLASK_CACHE_REDIS_PORT": "6379",
                "FLASK_CACHE_REDIS_PASSWORD": "57503f4552fd16daafc736c9fd953e1c163d290d6287dba5ce8bad7c2a39d352",
                "FLASK_CACHE_KEY_PREFIX": "blog:",
                "FLASK_CACHE_OPTIONS": (
                    '{"username": "blog", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null}'
                ),
                "REDIS_URL": (
                    "redis://blog:57503f4552fd16daafc736c9fd953e1c163d290d6287dba5ce8bad7c2a39d352@192.0.2.30:6379/0"
                ),
            },
            "fleet_app_primary": "app1",
            "fleet_app_hosts": [
                {"name": "app1", "address": "192.0.2.21", "port": 80},
                {"name": "app2", "address": "192.0.2.22", "port": 80},
            ],
            "fleet_cache_hosts": [{"name": "cache1", "address": "192.0.2.30"}],
            "fleet_certificate_addresses": ["192.0.2.10"],
            "fleet_certificate_host_names": [
                "blog.example.com",
                "shop.example.com",
                "*.shop.example.com",
                "www.example.com",
            ],
            "fleet_load_balancer_hosts": [{"name": "lb1", "address": "192.0.2.10"}],
            "fleet_load_balancer_backends": [
                {
                    "name": "blog",
                    "host_names": ["blog.example.com"],
                    # This run puts it into service on both.
                    "servers": [
                        {"name": "app1", "address": "192.0.2.21", "port": 80},
                        {"name": "app2", "address": "192.0.2.22", "port": 80},
                    ],
                    "health_status": [204],
                    "health_path": "/status?deep=1",
                    "cookie": "",
                    "health_host": "blog.example.com",
                    "wait": True,
                },
                {
                    "name": "shop",
                    "host_names": ["shop.example.com", "*.shop.example.com"],
                    # The new host has none of it yet.
                    "servers": [{"name": "app2", "address": "192.0.2.22", "port": 80}],
                    "health_status": ["200-399"],
                    "health_path": "/health",
                    "cookie": "",
                    "health_host": "localhost",
                    "wait": True,
                },
                {
                    "name": "wiki",
                    "host_names": ["www.example.com"],
                    # Nobody has it yet.
                    "servers": [
                        {"name": "app1", "address": "192.0.2.21", "port": 80},
                        {"name": "app2", "address": "192.0.2.22", "port": 80},
                    ],
                    "health_status": ["200-399"],
                    "health_path": "/health",
                    "cookie": "",
                    "health_host": "www.example.com",
                    "wait": False,
                },
            ],
            "fleet_redis_users": [
                {
                    "name": "blog",
                    "password": "57503f4552fd16daafc736c9fd953e1c163d290d6287dba5ce8bad7c2a39d352",
                    "keys": ["blog:*"],
                    "channels": ["blog:*"],
                },
                {
                    "name": "shop",
                    "password": "069499a1f46c87aa9a04012faf52999c98efccad7699fac3e6643f7720f1e2ce",
                    "keys": ["shop:*"],
                    "channels": ["shop:*"],
                },
                {
                    "name": "wiki",
                    "password": "16c366a29d8fa238016207d0514f9ec8d45c297df53997e5babdb9053eb1bb42",
                    "keys": ["wiki:*"],
                    "channels": ["wiki:*"],
                },
            ],
            "__fleet_nginx_port": 80,
            "fleet_nginx_sites": SITES,
        },
        hosts={
            **{
                name: {
                    "fleet_accounts": ["blog", "blog-build", "shop", "shop-build", "wiki", "wiki-build"],
                    "__fleet_address": address,
                    "__fleet_cache_memory_share": 0.2,
                    "__fleet_app_memory_share": 0.2666,
                    "fleet_packages": [
                        "nginx",
                        "python3-venv",
                        "zstd",
                        "uwsgi-core",
                        "uwsgi-plugin-python3",
                        "libpq5",
                        "libxml2",
                    ],
                    "fleet_sandbox_units": ["nginx"],
                }
                for name, address in (("app1", "192.0.2.21"), ("app2", "192.0.2.22"))
            },
            "cache1": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.30",
                "__fleet_cache_memory_share": 0.5,
                "__fleet_app_memory_share": 0.1,
                "fleet_packages": ["redis-server"],
                "fleet_sandbox_units": ["redis-server"],
            },
            "lb1": {
                "fleet_accounts": [],
                "__fleet_address": "192.0.2.10",
                "__fleet_cache_memory_share": 0.5,
                "__fleet_app_memory_share": 0.2333,
                "fleet_app_check_urls": ["http://127.0.0.1:8080/status?deep=1"],
                "__fleet_nginx_port": 8080,
                "fleet_nginx_sites": [{**site, "listen": 8080} for site in SITES],
                "fleet_packages": ["haproxy"],
                "fleet_sandbox_units": ["haproxy"],
            },
        },
    ),
}
#: The same in every inventory.
ALWAYS = {
    "__fleet_app_memory_share": 0.8,
    "__fleet_cache_directory": "/var/cache/tests/wsgi.fleet",
    "fleet_certificate_method": "none",
    "fleet_certificate_path": "/etc/ssl/wsgi.fleet/fleet.pem",
    "fleet_load_balancer_tls": False,
    "fleet_redis_users": [{"name": "shop", "password": "p@ss word", "keys": ["shop:*"], "channels": ["shop:*"]}],
}

#: Inventories whose hosts are asked what they make of a wish to drain, each of another one; with what they say.
DRAINS = {
    "drain": Fleet(
        groups={
            "app": {
                "app1": {"host": "app1"},
                "app2": {"host": " app2,app1, app2,", "drain_last": "true"},
                "app3": {"host": ["app3"]},
            },
            "load_balancer": {
                "lb1": {"host": "lb1,app1"},
                "lb2": {"host": ["app1", "app2", "app3"]},
                "lb3": {"host": "app1,app2,app3", "drain_last": "yes"},
                "lb4": {},
            },
        },
        variables={},
        everywhere={},
        hosts={
            "app1": {"fleet_drain_hosts": ["app1"], "fleet_drain_last": False},
            "app2": {
                "fleet_drain_hosts": ["app2", "app1"],
                "fleet_drain_last": True,
                "fleet_tune_problems": [
                    "host: 'app2, app1' is not one app host; write -e host=… with one of app1, app2, app3."
                ],
            },
            "app3": {"fleet_drain_hosts": ["app3"], "fleet_drain_last": False},
            "lb1": {
                "fleet_drain_hosts": ["lb1", "app1"],
                "fleet_drain_last": False,
                "fleet_undrain_problems": [
                    "host: 'lb1' is not an app host; write -e host=… with one of app1, app2, app3,"
                    " or several with commas."
                ],
                "fleet_tune_problems": [
                    "host: 'lb1, app1' is not one app host; write -e host=… with one of app1, app2, app3."
                ],
            },
            "lb2": {
                "fleet_drain_hosts": ["app1", "app2", "app3"],
                "fleet_drain_last": False,
                "fleet_drain_problems": [
                    "host: there is no app host but app1, app2, app3, so that nobody would be left to serve;"
                    " add -e drain_last=true to take the service down."
                ],
                "fleet_tune_problems": [
                    "host: 'app1, app2, app3' is not one app host; write -e host=… with one of app1, app2, app3."
                ],
            },
            "lb3": {
                "fleet_drain_hosts": ["app1", "app2", "app3"],
                "fleet_drain_last": True,
                "fleet_tune_problems": [
                    "host: 'app1, app2, app3' is not one app host; write -e host=… with one of app1, app2, app3."
                ],
            },
            "lb4": {
                "fleet_drain_hosts": [],
                "fleet_drain_last": False,
                "fleet_undrain_problems": [
                    "host: not set; write -e host=… with one of app1, app2, app3, or several with commas."
                ],
                "fleet_tune_problems": ["host: not set; write -e host=… with one of app1, app2, app3."],
            },
        },
    ),
    "drain without a load balancer": Fleet(
        groups={"app": {"app1": {"host": "app1"}, "app2": {"host": "app1"}}},
        variables={},
        everywhere={
            "fleet_drain_hosts": ["app1"],
            "fleet_drain_last": False,
            "fleet_undrain_problems": [
                "host: this fleet has no load_balancer to send requests elsewhere, so that no host can be drained."
            ],
        },
        hosts={"app1": {}, "app2": {}},
    ),
}

#: An inventory whose hosts each believe in another cache; what they say, and what the app is told besides.
CACHES = {
    "caches": Fleet(
        groups={
            "app": {
                "app1": {"fleet_address": "192.0.2.21", "cache_backend": "redis"},
                "app2": {"fleet_address": "2001:db8::22", "cache_backend": "memcached"},
                "app3": {"fleet_address": "192.0.2.23", "cache_backend": "simple"},
                "app4": {"fleet_address": "192.0.2.24", "cache_backend": "filesystem"},
                "app5": {"fleet_address": "192.0.2.25", "cache_backend": "none"},
                "app6": {"fleet_address": "192.0.2.26"},
            },
            "cache": {
                "cache1": {"fleet_address": "192.0.2.30", "cache_backend": "memcached"},
                "cache2": {"fleet_address": "2001:db8::31", "cache_backend": "redis"},
            },
        },
        variables={},
        everywhere={},
        hosts={
            "app1": {
                "__fleet_cache_backend": "redis",
                "fleet_app_cache_module": "wsgi_fleet_redis",
                "fleet_app_env": REDIS_ENV,
            },
            "app2": {
                "__fleet_cache_backend": "memcached",
                "fleet_app_cache_module": "wsgi_fleet_memcached",
                "fleet_app_env": {
                    "FLASK_CACHE_TYPE": "wsgi_fleet_memcached.MemcachedCache",
                    "FLASK_CACHE_MEMCACHED_SERVERS": '["192.0.2.30:11211", "[2001:db8::31]:11211"]',
                    "FLASK_CACHE_KEY_PREFIX": "shop:",
                    "FLASK_CACHE_OPTIONS": '{"connect_timeout": 0.1, "timeout": 0.1}',
                    "MEMCACHED_SERVERS": "192.0.2.30:11211,[2001:db8::31]:11211",
                },
            },
            "app3": {"__fleet_cache_backend": "simple", "fleet_app_env": {"FLASK_CACHE_TYPE": "SimpleCache"}},
            "app4": {
                "__fleet_cache_backend": "filesystem",
                "fleet_app_env": {
                    "FLASK_CACHE_TYPE": "FileSystemCache",
                    "FLASK_CACHE_DIR": "/srv/shop/shared/cache",
                },
                "fleet_app_shared_directories": ["cache"],
            },
            "app5": {
                "__fleet_cache_backend": "none",
                "fleet_app_env": {"FLASK_CACHE_TYPE": "NullCache", "FLASK_CACHE_NO_NULL_WARNING": "true"},
            },
            # Where there are hosts for it.
            "app6": {"__fleet_cache_backend": "redis", "fleet_app_cache_module": "wsgi_fleet_redis"},
            "cache1": {
                "__fleet_cache_backend": "memcached",
                "fleet_app_cache_module": "wsgi_fleet_memcached",
                "fleet_packages": ["memcached"],
                "fleet_sandbox_units": ["memcached"],
            },
            "cache2": {
                "__fleet_cache_backend": "redis",
                "fleet_app_cache_module": "wsgi_fleet_redis",
                "fleet_packages": ["redis-server"],
                "fleet_sandbox_units": ["redis-server"],
            },
        },
    ),
}

#: Load balancers that share addresses, some of which have said that they have them.
BALANCERS = {
    "two load balancers with an address": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "load_balancer": {
                "lb1": {"fleet_address": "192.0.2.11", "__load_balancer_here": {"stdout": ""}},
                "lb2": {"fleet_address": "192.0.2.12", "__load_balancer_here": {"stdout": "2: eth0"}},
                "lb3": {"fleet_address": "192.0.2.13", "__load_balancer_here": {"skipped": True}},
                "lb4": {"fleet_address": "192.0.2.14"},
            },
        },
        variables={"fleet_floating_address": "192.0.2.100/24"},
        everywhere={
            "fleet_certificate_addresses": [
                "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14", "192.0.2.100",
            ],
            "fleet_load_balancer_floating_addresses": ["192.0.2.100/24"],
            "fleet_load_balancer_holders": ["lb2"],
        },
        hosts={
            "app1": {"fleet_packages": ["nginx", "python3-venv", "zstd"], "fleet_sandbox_units": ["nginx"]},
            **{
                f"lb{number}": {
                    "fleet_packages": ["haproxy", "keepalived"],
                    "fleet_sandbox_units": ["haproxy", "keepalived"],
                }
                for number in (1, 2, 3, 4)
            },
        },
    ),
    "a load balancer with addresses of both families": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "load_balancer": {"lb1": {"fleet_address": "192.0.2.11"}},
        },
        variables={"fleet_floating_address": ["192.0.2.100", "2001:db8::100/64"], "fleet_tls": "acme"},
        everywhere={
            "fleet_certificate_addresses": ["192.0.2.11", "192.0.2.100", "2001:db8::100"],
            "fleet_load_balancer_floating_addresses": ["192.0.2.100", "2001:db8::100/64"],
            "fleet_load_balancer_holders": [],
        },
        hosts={
            "app1": {"fleet_packages": ["nginx", "python3-venv", "zstd"], "fleet_sandbox_units": ["nginx"]},
            "lb1": {
                "fleet_packages": ["haproxy", "keepalived", "uacme", "openssl"],
                "fleet_sandbox_units": ["haproxy", "keepalived"],
            },
        },
    ),
    "an address that was given up": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "load_balancer": {"lb1": {"fleet_address": "192.0.2.11"}},
        },
        variables={"fleet_floating_address": ""},
        everywhere={
            "fleet_certificate_addresses": ["192.0.2.11"],
            "fleet_load_balancer_floating_addresses": [],
            "fleet_load_balancer_holders": [],
        },
        hosts={
            "app1": {"fleet_packages": ["nginx", "python3-venv", "zstd"], "fleet_sandbox_units": ["nginx"]},
            "lb1": {"fleet_packages": ["haproxy"], "fleet_sandbox_units": ["haproxy"]},
        },
    ),
}  # fmt: skip

#: Fleets whose Redis is on several hosts, or talks by TLS.
REDISES = {
    "three of Redis": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "cache": {
                "cache1": {"fleet_address": "192.0.2.31"},
                "cache2": {"fleet_address": "192.0.2.32"},
                "cache3": {"fleet_address": "2001:db8::33"},
            },
        },
        variables={},
        everywhere={
            "__fleet_redis_tls": False,
            "fleet_redis_addresses": ["192.0.2.31", "192.0.2.32", "2001:db8::33"],
            "fleet_redis_authority": "/etc/ssl/wsgi.fleet/ca.crt",
            "fleet_redis_host_names": [],
            "fleet_redis_nodes": [
                {"name": "cache1", "address": "192.0.2.31"},
                {"name": "cache2", "address": "192.0.2.32"},
                {"name": "cache3", "address": "2001:db8::33"},
            ],
            "fleet_redis_replication_password": "horse battery staple",
        },
        hosts={
            "app1": {
                "fleet_app_env": {
                    "FLASK_CACHE_TYPE": "wsgi_fleet_redis.RedisSentinelCache",
                    "FLASK_CACHE_REDIS_SENTINELS": (
                        '[["192.0.2.31", 26379], ["192.0.2.32", 26379], ["2001:db8::33", 26379]]'
                    ),
                    "FLASK_CACHE_REDIS_SENTINEL_MASTER": "fleet",
                    "FLASK_CACHE_REDIS_PASSWORD": "p@ss word",
                    "FLASK_CACHE_REDIS_SENTINEL_PASSWORD": "p@ss word",
                    "FLASK_CACHE_KEY_PREFIX": "shop:",
                    "FLASK_CACHE_OPTIONS": (
                        '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null, '
                        '"sentinel_username": "shop", "sentinel_socket_connect_timeout": 0.1, '
                        '"sentinel_socket_timeout": 0.1, "sentinel_retry": null}'
                    ),
                    "REDIS_SENTINELS": "192.0.2.31:26379,192.0.2.32:26379,[2001:db8::33]:26379",
                    "REDIS_SENTINEL_MASTER": "fleet",
                    "REDIS_USERNAME": "shop",
                    "REDIS_PASSWORD": "p@ss word",
                },
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            **{
                name: {
                    "fleet_packages": ["redis-server", "redis-sentinel"],
                    "fleet_sandbox_units": ["redis-server", "redis-sentinel"],
                }
                for name in ("cache1", "cache2", "cache3")
            },
        },
    ),
    "one Redis with TLS": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "cache": {"cache1": {"fleet_address": "cache1.example.com"}},
        },
        variables={"redis_tls": True},
        everywhere={
            "__fleet_redis_tls": True,
            "fleet_redis_addresses": [],
            "fleet_redis_authority": "/etc/ssl/wsgi.fleet/ca.crt",
            "fleet_redis_host_names": ["cache1.example.com"],
            "fleet_redis_nodes": [],
            "fleet_redis_replication_password": "",
        },
        hosts={
            "app1": {
                "fleet_app_env": {
                    **REDIS_ENV,
                    "FLASK_CACHE_REDIS_HOST": "cache1.example.com",
                    "FLASK_CACHE_OPTIONS": (
                        '{"username": "shop", "socket_connect_timeout": 0.1, "socket_timeout": 0.1, "retry": null, '
                        '"ssl": true, "ssl_ca_certs": "/etc/ssl/wsgi.fleet/ca.crt"}'
                    ),
                    "REDIS_URL": (
                        "rediss://shop:p%40ss%20word@cache1.example.com:6379/0"
                        "?ssl_cert_reqs=required&ssl_ca_certs=/etc/ssl/wsgi.fleet/ca.crt"
                    ),
                },
                "fleet_packages": ["nginx", "python3-venv", "zstd"],
                "fleet_sandbox_units": ["nginx"],
            },
            "cache1": {"fleet_packages": ["redis-server"], "fleet_sandbox_units": ["redis-server"]},
        },
    ),
}

#: Inventories whose hosts are asked who may come in.
FIREWALLS = {
    "firewall": Fleet(
        groups={
            "app": {
                "app1": {
                    "fleet_address": "192.0.2.21",
                    "ansible_port": "2022",
                    "fleet_host_info": {
                        "listening": [
                            {"address": "192.0.2.21", "port": 22, "process": "sshd"},
                            {"address": "::", "port": 22, "process": "sshd"},
                            {"address": "127.0.0.1", "port": 6010, "process": "sshd"},
                            {"address": "192.0.2.21", "port": 9090, "process": "systemd"},
                        ]
                    },
                },
                "box": {"fleet_address": "2001:db8::22", "fleet_nginx_port": 8081},
            },
            "cache": {
                "box": {},
                "cache2": {"fleet_address": "192.0.2.32", "redis_port": 6380, "fleet_firewall": "yes"},
                "cache3": {"fleet_address": "192.0.2.33", "fleet_firewall": False},
            },
            "load_balancer": {"lb1": {"fleet_address": "192.0.2.11"}, "box": {}},
        },
        variables={"fleet_firewall": True, "fleet_tls": "self_signed"},
        everywhere={"fleet_firewall_state": "present", "fleet_firewall_ssh_ports": [22]},
        hosts={
            "app1": {
                "fleet_firewall_services": [{"name": "app", "port": 80, "from": ["192.0.2.11", "2001:db8::22"]}],
                "fleet_firewall_ssh_ports": [22, 2022],
                "fleet_packages": ["nginx", "python3-venv", "zstd", "nftables"],
            },
            "box": {
                "fleet_firewall_services": [
                    {"name": "app", "port": 8081, "from": ["192.0.2.11", "2001:db8::22"]},
                    {
                        "name": "redis",
                        "port": 6379,
                        "from": ["192.0.2.21", "2001:db8::22", "2001:db8::22", "192.0.2.32", "192.0.2.33"],
                    },
                    {
                        "name": "sentinel",
                        "port": 26379,
                        "from": ["192.0.2.21", "2001:db8::22", "2001:db8::22", "192.0.2.32", "192.0.2.33"],
                    },
                    {"name": "http", "port": 80},
                    {"name": "https", "port": 443},
                    {"name": "vrrp", "protocol": "vrrp", "from": ["192.0.2.11", "2001:db8::22"]},
                ],
                "fleet_packages": [
                    "nginx", "python3-venv", "zstd", "nftables", "redis-server", "redis-sentinel", "haproxy",
                ],
            },
            **{
                name: {
                    "fleet_firewall_services": [
                        {
                            "name": service,
                            "port": port,
                            "from": ["192.0.2.21", "2001:db8::22", "2001:db8::22", "192.0.2.32", "192.0.2.33"],
                        }
                        for service, port in (("redis", redis), ("sentinel", 26379))
                    ],
                    "fleet_firewall_state": state,
                    "fleet_packages": ["redis-server", "redis-sentinel", *packages],
                }
                for name, redis, state, packages in (
                    ("cache2", 6380, "present", ["nftables"]),
                    ("cache3", 6379, "absent", []),
                )
            },
            "lb1": {
                "fleet_firewall_services": [
                    {"name": "http", "port": 80},
                    {"name": "https", "port": 443},
                    {"name": "vrrp", "protocol": "vrrp", "from": ["192.0.2.11", "2001:db8::22"]},
                ],
                "fleet_packages": ["haproxy", "nftables"],
            },
        },
    ),
    "firewall at the edge": Fleet(
        groups={
            "app": {"app1": {"fleet_address": "192.0.2.21"}},
            "cache": {"cache1": {"fleet_address": "cache1.example.com"}},
        },
        variables={"fleet_firewall": True, "cache_backend": "memcached"},
        everywhere={"fleet_firewall_state": "present", "fleet_firewall_ssh_ports": [22]},
        hosts={
            "app1": {
                "fleet_firewall_services": [{"name": "app", "port": 80}],
                "fleet_packages": ["nginx", "python3-venv", "zstd", "nftables"],
            },
            "cache1": {
                "fleet_firewall_services": [{"name": "memcached", "port": 11211, "from": ["192.0.2.21"]}],
                "fleet_packages": ["memcached", "nftables"],
            },
        },
    ),
}  # fmt: skip

#: What the plays that are about one application read its variables from.
VARS_FILES = [["{{ __fleet_app_file | default('none.yml') }}", "none.yml"]]

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
    encrypted = VaultLib([("default", VaultSecret(b"open sesame"))]).encrypt("app_source_token: secret\n").decode()
    for name, fleet in {
        **FLEETS,
        **DRAINS,
        **CACHES,
        **REDISES,
        **BALANCERS,
        **FIREWALLS,
        MADE: Fleet({"app": {"app1": {}, "app2": {}}}, {}, {}, {}),
    }.items():
        directory = tmp_path_factory.mktemp("topology")
        (directory / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
        inventory = directory / "inventory"
        (directory / "vars").symlink_to(ROOT / "playbooks" / "vars")
        groups = {group: {"hosts": hosts} for group, hosts in fleet.groups.items()}
        common = fleet.variables if fleet.apps else {"app_name": "shop", **fleet.variables}
        files = {
            "hosts.yml": json.dumps(groups),
            "group_vars/all/common.yml": json.dumps({} if name == MADE else COMMON),
            f"group_vars/{fleet.scope}/app.yml": json.dumps(common),
            ".secrets/cache_password": "made long ago\n",
            **{f"apps/{app}.yml": encrypted if text == "vault" else text for app, text in fleet.apps.items()},
        }
        for path, text in files.items():
            (inventory / path).parent.mkdir(parents=True, exist_ok=True)
            (inventory / path).write_text(text, encoding="utf-8")
        (directory / "password").write_text("open sesame\n", encoding="utf-8")
        asked = {
            MADE: SECRETS,
            **{key: [*DRAIN, *MAINTAIN, *PROFILE] for key in DRAINS},
            **dict.fromkeys(CACHES, CACHE),
            **dict.fromkeys(REDISES, REDIS),
            **dict.fromkeys(BALANCERS, FLOATING),
            **dict.fromkeys(FIREWALLS, FIREWALL),
        }.get(name, ASKED)
        play = {
            "vars": {"asked": asked, **({"app_name": fleet.named} if fleet.named else {})},
            # As the plays that are about one application have it.
            "vars_files": VARS_FILES,
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
            start(
                directory,
                [inventory / "hosts.yml"],
                play,
                XDG_CACHE_HOME="/var/cache/tests",
                ANSIBLE_VAULT_PASSWORD_FILE=str(directory / "password"),
            ),
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
    assert answers[name].hosts == {
        host: {**ALWAYS, **fleet.reports, **fleet.everywhere, **own} for host, own in fleet.hosts.items()
    }


@pytest.mark.parametrize("name", DRAINS)
def test_what_speaks_against_a_drain(answers: Mapping[str, Answers], name: str) -> None:
    for host, own in DRAINS[name].hosts.items():
        said = {"fleet_undrain_problems": [], "fleet_tune_problems": [], **DRAINS[name].everywhere, **own}
        # What speaks against bringing a host back speaks against taking it out.
        answer = {key: value for key, value in answers[name].hosts[host].items() if key in DRAIN}
        assert answer == {"fleet_drain_problems": said["fleet_undrain_problems"], **said}


def test_what_speaks_against_maintenance(answers: Mapping[str, Answers]) -> None:
    """Any host of the inventory may be named, and all app hosts are meant by default."""
    found = answers["drain"].hosts
    assert {host: said["fleet_maintain_hosts"] for host, said in found.items()} == {
        "app1": ["app1"],
        "app2": ["app2", "app1"],
        "app3": ["app3"],
        "lb1": ["lb1", "app1"],
        "lb2": ["app1", "app2", "app3"],
        "lb3": ["app1", "app2", "app3"],
        "lb4": ["app1", "app2", "app3"],
    }
    assert not any(said["fleet_maintain_problems"] for said in found.values())
    alone = answers["drain without a load balancer"].hosts["app1"]
    assert alone["fleet_maintain_problems"] == [
        "host: nobody would serve while app1 is maintained, since there is no load_balancer in the inventory;"
        " add -e drain_last=true to bear that."
    ]


def test_what_speaks_against_a_profile(answers: Mapping[str, Answers]) -> None:
    found = {host: answer["fleet_profile_problems"] for host, answer in answers["drain"].hosts.items()}
    write = "write -e host=… with one of app1, app2, app3, or several with commas."
    assert {host: problems for host, problems in found.items() if problems} == {
        "lb1": [f"host: 'lb1' is not an app host; {write}"],
        "lb4": [f"host: not set; {write}"],
    }
    # Nobody has to take its requests over.
    alone = answers["drain without a load balancer"].hosts["app1"]
    assert (alone["fleet_profile_problems"], alone["fleet_profile_seconds"]) == ([], 30)


def test_what_the_app_caches_in(answers: Mapping[str, Answers]) -> None:
    clients = ["192.0.2.21", "2001:db8::22", "192.0.2.23", "192.0.2.24", "192.0.2.25", "192.0.2.26"]
    for host, own in CACHES["caches"].hosts.items():
        said = answers["caches"].hosts[host]
        found = said["fleet_app_env"]
        assert found.pop("FLASK_SECRET_KEY") == "battery staple"
        on_app_host = {"fleet_packages": ["nginx", "python3-venv", "zstd"], "fleet_sandbox_units": ["nginx"]}
        assert said == {
            "fleet_app_cache_module": "none",
            "fleet_app_shared_directories": [],
            "fleet_memcached_clients": clients,
            "fleet_app_env": found,
            **on_app_host,
            **own,
        }


@pytest.mark.parametrize("name", REDISES)
def test_how_redis_is_reached(answers: Mapping[str, Answers], name: str) -> None:
    for host, own in REDISES[name].hosts.items():
        said = answers[name].hosts[host]
        env = {key: value for key, value in said["fleet_app_env"].items() if key != "FLASK_SECRET_KEY"}
        found = {**said, "fleet_app_env": env}
        assert found == {**REDISES[name].everywhere, "fleet_app_env": env, **own}


@pytest.mark.parametrize("name", BALANCERS)
def test_what_load_balancers_share(answers: Mapping[str, Answers], name: str) -> None:
    for host, own in BALANCERS[name].hosts.items():
        assert answers[name].hosts[host] == {**BALANCERS[name].everywhere, **own}


@pytest.mark.parametrize("name", FIREWALLS)
def test_who_may_come_in(answers: Mapping[str, Answers], name: str) -> None:
    fleet = FIREWALLS[name]
    assert answers[name].hosts == {host: {**fleet.everywhere, **own} for host, own in fleet.hosts.items()}


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
    assert (directory / "profiler_password").read_text(encoding="utf-8").strip() == first[
        "__fleet_app_profiler_password"
    ]
    assert len(first["__fleet_app_profiler_password"]) == 32


def test_secrets_that_are_there_are_kept(answers: Mapping[str, Answers]) -> None:
    assert answers[MADE].hosts["app1"]["__fleet_cache_password"] == "made long ago"


@pytest.mark.parametrize("name", FLEETS)
def test_no_secret_is_made_that_an_inventory_sets(answers: Mapping[str, Answers], name: str) -> None:
    assert [path.name for path in (answers[name].directory / ".secrets").iterdir()] == ["cache_password"]


@pytest.mark.parametrize("name", ["deploy", "history", "maintenance", "profile", "rollback", "site"])
def test_plays_about_one_application_read_its_file(name: str) -> None:
    plays = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text(encoding="utf-8"))
    about = [play for play in plays if "wsgi.fleet.app" in json.dumps(play)]
    assert about
    assert [play["vars_files"] for play in about] == [VARS_FILES] * len(about)


def test_nothing_of_the_topology_is_left_out() -> None:
    topology = yaml.safe_load((ROOT / "playbooks/group_vars/all/topology.yml").read_text(encoding="utf-8"))
    assert sorted(topology) == sorted(
        {*ASKED, *SECRETS, *DRAIN, *MAINTAIN, *PROFILE, *CACHE, *REDIS, *FLOATING, *FIREWALL, *PARTS}
    )
