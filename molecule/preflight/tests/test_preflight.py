"""Faults of an inventory and of its hosts, told in one message before anything is touched."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
INVENTORY = SCENARIO / "inventory/hosts.yml"

Inventory = dict[str, Any]


def run(folder: Path, inventory: Inventory, playbook: Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook with an inventory in a folder of its own."""
    Path(folder, "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    return subprocess.run(
        ["ansible-playbook", "-i", folder / "hosts.yml", playbook],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )


def good() -> Inventory:
    """Return the inventory in which nothing is wrong."""
    inventory: Inventory = yaml.safe_load(INVENTORY.read_text())
    return inventory


def host_named(name: str) -> Host:
    """Return a host of the good inventory, as root."""
    host: Host = testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}&sudo=true")
    return host


def refusal(folder: Path, change: Callable[[Inventory], object], *, asked: bool = False) -> str:
    """Set up the whole fleet with a changed inventory, which must fail in the first play; return the one message.

    :param asked: whether the fault is one that only the hosts can tell.
    """
    inventory = good()
    change(inventory)
    done = run(folder, inventory, PROJECT / "site.yml")
    assert done.returncode == 2, f"the inventory was accepted:\n{done.stdout}{done.stderr}"
    assert re.findall(r"^PLAY \[.*\]", done.stdout, re.MULTILINE) == [
        "PLAY [Check the inventory, and ask every host what it is]"
    ]
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}
    assert ("TASK [wsgi.fleet.preflight : Ask each host what it is]" in done.stdout) == asked
    assert [path.name for path in folder.iterdir()] == ["hosts.yml"], "files were made beside the inventory"
    (result,) = re.findall(r"^fatal: \[[^\]]+\]: FAILED! => \n((?: +.*\n)+)", done.stdout, re.MULTILINE)
    message = str(yaml.safe_load(result)["msg"])
    assert "Nothing was touched." in message
    return message


def change_values(inventory: Inventory) -> None:
    """Write into one inventory what people get wrong in the values of variables."""
    inventory["app"]["vars"] |= {
        "app_name": "Shop Ltd",
        "app_module": "shop/app.py:app",
        "app_host_names": ["Shop.Example.com"],
        "app_health_host": "shop.example.com\n",
        "app_health_path": "health",
        "app_health_status": ["2xx"],
        "app_health_deadline": 0,
        "app_env": {"SHOP_DEBUG": 1},
        "app_build_environment": {"shop-flag": "x"},
        "app_static": [{"url": "/static", "path": "shop/static"}],
        "app_packages": ["libpq5; reboot"],
        "app_python": "python",
        "app_dependencies": "{{ shop_dependencies_file }}",
        "app_source_token": "tell-nobody\n",
        "gunicorn_threads": "many",
        "nginx_gzip": "perhaps",
    }


@pytest.fixture(scope="module")
def told_of_values(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run once over all wrong values."""
    return refusal(tmp_path_factory.mktemp("values"), change_values)


@pytest.mark.parametrize(
    "said",
    [
        "app_name: 'Shop Ltd' cannot be the name of an account, a directory and a unit: use up to 26 lower-case",
        "app_module: 'shop/app.py:app' is not a WSGI callable: write package.module:attribute, such as shop:app.",
        "app_host_names: 'Shop.Example.com' is not a host name: write it in lower case, such as shop.example.com.",
        "app_health_host: 'shop.example.com\\n' holds a line break or another control character: take it out.",
        "app_health_path: 'health' is not a request target: it starts with a slash, such as /health.",
        "app_health_status: '2xx' is no status code: write one such as 200, or a range such as 200-399.",
        "app_health_deadline: 0 must be a number above 0.",
        "app_env: the value of SHOP_DEBUG is not text but int: environment variables are text, put it in quotes.",
        "app_build_environment: 'shop-flag' cannot be the name of an environment variable: use letters, digits",
        "app_static: url '/static' must start and end with a slash, such as /static/.",
        "app_packages: 'libpq5; reboot' is not a package name: write one such as libpq5.",
        "app_python: 'python' is not an interpreter: write a path such as /usr/bin/python3.",
        "app_dependencies: cannot be evaluated on preflight-old: 'shop_dependencies_file' is undefined.",
        "app_source_token: the value holds a line break or another control character: take it out.",
        "gunicorn_threads: 'many' is not a number of threads: write a number from 1 on, or auto.",
        "nginx_gzip: 'perhaps' is not of type bool: write true or false.",
    ],
)
def test_wrong_values_are_all_told_at_once(told_of_values: str, said: str) -> None:
    """Each with its variable, its value and what to write instead."""
    assert said in told_of_values


def test_nothing_else_is_told(told_of_values: str) -> None:
    """One line per fault, and no secret."""
    assert "16 settings cannot work." in told_of_values
    assert told_of_values.count("\n- ") == 16
    assert "tell-nobody" not in told_of_values


def misfit(inventory: Inventory) -> None:
    """Let hosts disagree, leave out what has no default, and use names that mean something elsewhere."""
    app = inventory["app"]
    app["hosts"]["preflight-old"]["app_version"] = "v1"
    app["hosts"]["preflight-new"] |= {"app_version": "v2", "fleet_address": "172.31.78.81"}
    app["vars"]["app_modul"] = app["vars"].pop("app_module")
    inventory["redis"] = inventory.pop("cache")


def have_no_app(inventory: Inventory) -> None:
    """Have nobody run the application."""
    inventory["webservers"] = inventory.pop("app")


def name_no_file(inventory: Inventory) -> None:
    """Take the source from a directory, and a file from it that is not there."""
    inventory["app"]["vars"] |= {
        "app_source": str(PROJECT / "examples/shop"),
        "app_dependencies": "requirements/prod.txt",
    }


def name_no_source(inventory: Inventory) -> None:
    """Take the source from where nothing is."""
    inventory["app"]["vars"]["app_source"] = "../shop"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            misfit,
            [
                "4 settings cannot work.",
                "app_version: differs between app hosts ('v1' on preflight-old, 'v2' on preflight-new): set it once",
                "app_module: is not set for preflight-old, preflight-new (you have set 'app_modul'): set it to the "
                "WSGI callable as package.module:attribute, such as shop:app",
                "fleet_address: '172.31.78.81' belongs to both preflight-old and preflight-new: every host needs an "
                "address of its own",
                "groups: the group 'redis' has no meaning here: did you mean 'cache'? Rename it",
            ],
        ),
        (
            have_no_app,
            [
                "groups: no host is in the group 'app': put those that run the application there. Your group "
                "'webservers' would have to be called 'app'."
            ],
        ),
        (name_no_file, ["app_dependencies: 'requirements/prod.txt' is not in", "README.md, requirements.in"]),
        (name_no_source, ["app_source: '../shop' "]),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, change: Callable[[Inventory], object], said: list[str]) -> None:
    """What is wrong with the whole is told without asking any host."""
    message = refusal(tmp_path, change)
    for text in said:
        assert text in message


def occupy(name: str, *ports: int, program: str = "python3") -> Callable[[], None]:
    """Let a program accept connections on ports of a host; return how to end it."""
    host = host_named(name)
    host.check_output(f"test -e /opt/{program} || cp $(readlink -f /usr/bin/python3) /opt/{program}")
    for port in ports:
        host.check_output(
            f"systemd-run --unit=occupier-{port} /opt/{program} -m http.server --directory /opt {port};"
            f"until ss -Hltn sport = :{port} | grep -q LISTEN; do sleep 0.1; done"
        )
    return lambda: host.check_output(f"systemctl stop {' '.join(f'occupier-{port}' for port in ports)}") and None


@pytest.fixture
def wrong_hosts() -> Iterator[dict[str, Host]]:
    """Take the ports of one host, and make the other one something else."""
    hosts = {name: host_named(name) for name in ("preflight-old", "preflight-new")}
    free = [occupy("preflight-old", 80, 6379), occupy("preflight-new", 8080)]
    for host in hosts.values():
        host.check_output(
            "cp --no-dereference --preserve /etc/os-release /etc/os-release.kept; touch /run/before; sleep 0.1"
        )
    hosts["preflight-new"].check_output(
        "rm /etc/os-release; printf 'ID=debian\\nVERSION_ID=\"11\"\\n' >/etc/os-release; touch /run/before; sleep 0.1"
    )
    yield hosts
    for host in hosts.values():
        host.check_output("mv /etc/os-release.kept /etc/os-release")
    for stop in free:
        stop()


def test_wrong_hosts_are_all_told_at_once(tmp_path: Path, wrong_hosts: dict[str, Host]) -> None:
    """A platform that nothing was made for and ports that others hold; no file of a host changes."""
    message = refusal(tmp_path, lambda inventory: None, asked=True)
    assert "4 settings cannot work." in message
    for said in (
        "port: 80 of preflight-old is in use by 'python3', where nginx has to listen: stop and disable that service",
        "port: 6379 of preflight-old is in use by 'python3', where redis has to listen: stop and disable that service",
        # Port 80 of a host that bears a load balancer too is left to that.
        "port: 8080 of preflight-new is in use by 'python3', where nginx has to listen: stop and disable that service",
        "distribution: preflight-new runs debian 11: the roles need Ubuntu 22.04 or newer, or Debian 12 or newer",
    ):
        assert said in message
    for host in wrong_hosts.values():
        assert host.check_output("find / -xdev -type f -newer /run/before -not -path '/var/log/*'") == ""


def test_own_services_may_hold_their_ports(tmp_path: Path) -> None:
    """What the roles have set up earlier is nobody else's."""
    free = [
        occupy("preflight-old", 80, program="nginx"),
        occupy("preflight-old", 6379, program="redis-server"),
        occupy("preflight-new", 8080, program="nginx"),
        occupy("preflight-new", 80, program="haproxy"),
    ]
    try:
        done = run(tmp_path, good(), SCENARIO / "converge.yml")
    finally:
        for stop in free:
            stop()
    assert done.returncode == 0, done.stdout


def lock_out(inventory: Inventory) -> None:
    """Name a host that does not exist, and an account that cannot become root."""
    inventory["app"]["hosts"]["preflight-old"]["ansible_user"] = "nobody"
    inventory["app"]["hosts"]["preflight-new"]["ansible_host"] = "wsgi-fleet-no-such-host"


def test_hosts_without_a_way_in_are_all_told_at_once(tmp_path: Path) -> None:
    """An unreachable host, and one on which the account has no privileges."""
    message = refusal(tmp_path, lock_out, asked=True)
    assert "2 settings cannot work." in message
    assert "ansible_host: preflight-new cannot be reached: " in message
    assert "No such container: wsgi-fleet-no-such-host. " in message
    assert "See that the address, the account and the key are right (ansible preflight-new -m ping)" in message
    assert (
        "ansible_become: on preflight-old the account cannot become root: sudo: a password is required. Allow it to "
        "use sudo, or give its password with --ask-become-pass."
    ) in message
