"""Everything on one host, set up by itself with the installed collection."""

from __future__ import annotations

import json
import re

import pytest
from fleet_testing import ask
from testinfra.host import Host


def test_the_application_answers_through_the_whole_chain(address: str) -> None:
    """Client, load balancer, nginx, instance, cache: on one host, with the client's address right."""
    seen = json.loads(ask(address, "/whoami", headers={"Host": "shop.example.com"}).body)
    assert seen["client"] == "172.31.78.1"
    assert seen["url"] == "http://shop.example.com/whoami"
    assert json.loads(ask(address, "/health").body)["cache"] == "ok"


def test_services_stand_where_the_topology_puts_them(host: Host) -> None:
    """The load balancer has port 80, nginx leaves it to that, and Redis is not to be reached from outside."""
    for address in ("0.0.0.0:80", "0.0.0.0:8080", "127.0.0.1:6379"):
        assert host.socket(f"tcp://{address}").is_listening, address
    assert not host.socket("tcp://0.0.0.0:6379").is_listening


def test_nobody_gets_to_nginx_past_the_load_balancer(address: str) -> None:
    """It listens at every address, and the firewall lets in the load balancer, which is this host."""
    with pytest.raises(TimeoutError):
        ask(address, port=8080, timeout=1)


def test_the_controller_is_the_one_that_was_asked_for(host: Host, variables: dict[str, str]) -> None:
    """The oldest supported ansible-core, or the newest on a new Python."""
    said = host.check_output("/home/deploy/venv/bin/ansible --version")
    core = re.match(r"ansible \[core (\d+)\.(\d+)", said)
    assert core
    if variables["controller"] == "ansible-core==2.17.*":
        assert (int(core[1]), int(core[2])) == (2, 17)
    else:
        assert (int(core[1]), int(core[2])) >= (2, 21)


def run_again(host: Host, *arguments: str) -> str:
    """Run the playbook of the collection as the account that owns it, and return what it printed."""
    return host.check_output(
        "cd /home/deploy && ANSIBLE_NOCOLOR=1 runuser -u deploy --"
        f" venv/bin/ansible-playbook -i inventory wsgi.fleet.site {' '.join(arguments)}"
    )


@pytest.mark.parametrize("arguments", [(), ("--check", "--diff")])
def test_another_run_changes_nothing(host: Host, arguments: tuple[str, ...]) -> None:
    said = run_again(host, *arguments)
    assert re.search(r"^web1 +: ok=\d+ +changed=0 +unreachable=0 +failed=0", said, re.MULTILINE), said
