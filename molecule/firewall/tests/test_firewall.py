"""Who gets in and who does not, what leaves the rules as they are, and an operator who locks himself out."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_testing import apply_role, hosts_of_scenario, open_from, put, refused, refused_by_checker
from testinfra.host import Host

ROLE = "wsgi.fleet.firewall"
OLD, NEW = "172.31.78.25", "172.31.78.26"
ADDRESSES = {"firewall-old": OLD, "firewall-new": NEW}
PORTS = (8000, 8080, 9100, 9999)
TABLE = "nft --stateless list table inet wsgi_fleet"
#: The services of converge.yml, and with nobody who may ask for one.
APP, HTTP = {"name": "app", "port": 8000, "from": [OLD, NEW]}, {"name": "http", "port": 8080}
#: As an operator reaches a host, and gives up soon.
SSH = {
    "ansible_connection": "ssh",
    "ansible_host": "{{ fleet_address }}",
    "ansible_ssh_private_key_file": "{{ inventory_dir }}/.ssh-key",
    "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
    "ansible_ssh_timeout": 2,
}
OVER_SSH = ("-e", json.dumps(SSH))

#: Says whatever it is told, at each of its ports.
ECHO = """
import socket, sys, threading
def serve(port):
    server = socket.create_server(("", port))
    while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
def answer(connection):
    while data := connection.recv(99):
        connection.sendall(data)
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"""


@pytest.fixture(scope="module", autouse=True)
def echo() -> None:
    """Services on both hosts, more of them than anybody may ask for."""
    for host in hosts_of_scenario().values():
        put(host, "/opt/echo.py", ECHO)
        start(host)


def start(host: Host) -> None:
    """Start the services of a host."""
    host.run("systemctl stop echo")
    host.run_expect([0], "systemd-run --unit=echo --collect python3 /opt/echo.py " + " ".join(map(str, PORTS)))
    end = time.monotonic() + 10
    while host.check_output("ss -Hltn").count("0.0.0.0:") < len(PORTS):
        assert time.monotonic() < end
        time.sleep(0.1)


def apply(hosts: Host | str, variables: dict[str, object], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Apply the role once more, and install nothing: flushing all tables takes away the resolver that Docker gives."""
    return apply_role(hosts, ROLE, {"firewall_install": False, **variables}, *arguments)


def other(host: Host) -> Host:
    """Return the other host of the scenario."""
    name = host.backend.get_hostname()
    return next(found for own, found in hosts_of_scenario().items() if own != name)


def from_host(host: Host, address: str) -> list[int]:
    """Return the ports of an address that answer a host."""
    return open_from(host, address, *PORTS, 22)


def answers(address: str, port: int) -> bool:
    """Tell whether an address answers the controller."""
    try:
        with socket.create_connection((address, port), 1) as connection:
            # sshd speaks first, the others when they are spoken to.
            connection.sendall(b"x\n")
            return connection.recv(9) != b""
    except OSError:
        return False


def from_controller(address: str) -> list[int]:
    """Return the ports of an address that answer the controller."""
    return [port for port in (*PORTS, 22) if answers(address, port)]


def test_those_get_in_who_may(host: Host, address: str) -> None:
    """The other host, the controller, the host itself; nobody else gets to a port that nobody may ask for."""
    assert from_host(other(host), address) == [8000, 8080]
    assert from_controller(address) == [8080, 9100, 22]
    assert from_host(host, address) == [*PORTS, 22]


def test_the_network_says_what_it_has_to(host: Host, address: str) -> None:
    """An echo request is answered, so that a path that is too narrow is told as well."""
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); s.settimeout(2);"
        "s.sendto(bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), (sys.argv[1], 0)); print(s.recv(99)[20])"
    )
    assert other(host).check_output("python3 -c %s %s", program, address) == "0"


def test_others_rules_stay_and_a_change_is_seen() -> None:
    """Another table outlives a change of rules, and the end of ours; what drops in it drops."""
    host = hosts_of_scenario()["firewall-new"]
    host.run_expect(
        [0], "nft 'table ip other { chain c { type filter hook input priority 5; tcp dport 8080 drop; }; }'"
    )
    before = host.check_output("nft list table ip other")
    try:
        assert from_host(other(host), NEW) == [8000]
        done = apply(host, {"firewall_allow": [{"port": 9999}]}, "--diff")
        assert done.returncode == 0, done.stdout
        assert '+        tcp dport 9999 accept comment "firewall_allow"' in done.stdout
        assert from_controller(NEW) == [9999, 22]
        assert "changed=1" in apply(host, {"firewall_state": "absent"}).stdout
        assert host.run(TABLE).rc == 1
        assert "changed=0" in apply(host, {"firewall_state": "absent"}).stdout
        assert host.check_output("nft list table ip other") == before
        assert not host.file("/etc/systemd/system/wsgi-fleet-firewall.service").exists
    finally:
        host.run_test("nft delete table ip other")
    assert "changed=1" in apply(host, {}).stdout
    assert from_host(other(host), NEW) == [8000, 8080]


@pytest.mark.parametrize(
    "command",
    ["nft flush ruleset", "nft flush chain inet wsgi_fleet input", "nft add rule inet wsgi_fleet input accept"],
)
def test_what_somebody_changes_is_put_right(command: str) -> None:
    """The next run sees it, though the file is as it was."""
    host = hosts_of_scenario()["firewall-new"]
    before = host.check_output(TABLE)
    host.run_expect([0], command)
    assert host.run(TABLE).stdout.strip() != before
    done = apply(host, {})
    assert (done.returncode, "changed=1" in done.stdout) == (0, True), done.stdout
    assert host.check_output(TABLE) == before


def test_the_service_of_the_distribution_does_not_open_it(host: Host, address: str) -> None:
    """It empties all tables whenever it starts, reloads or stops, and ours is there again."""
    before = host.check_output(TABLE)
    for command in ("start", "reload", "restart", "stop"):
        host.run_expect([0], f"systemctl {command} nftables.service")
        assert host.check_output(TABLE) == before, command
    assert from_controller(address) == [8080, 9100, 22]
    assert "changed=0" in apply(host, {}).stdout


def test_the_unit_is_confined(host: Host) -> None:
    """It may change rules, and little else."""
    score = host.check_output("systemd-analyze security --no-pager wsgi-fleet-firewall.service | tail -n 1")
    assert float(score.split(": ")[1].split()[0]) <= 1.9


def test_connections_that_are_older_go_on(host: Host, address: str) -> None:
    """Also those to a port that nobody may ask for any more."""
    host.run_expect([0], "systemctl stop wsgi-fleet-firewall.service")
    with socket.create_connection((address, 9999), 2) as connection:
        host.run_expect([0], "systemctl start wsgi-fleet-firewall.service")
        for _time in range(3):
            connection.sendall(b"still there")
            assert connection.recv(99) == b"still there"
    assert not answers(address, 9999)


def test_who_leaves_is_let_in_to_the_end() -> None:
    """By one address of two, in a first pass; the second one ends it. Who joins is let in by the first."""
    name, address, guest = "firewall-old", OLD, hosts_of_scenario()["firewall-new"]
    services = [{**APP, "from": [address, "172.31.78.1"]}, HTTP]
    first = apply(name, {"firewall_services": services, "firewall_keep": True})
    assert "changed=1" in first.stdout, first.stdout
    assert 8000 in from_host(guest, address)
    assert 8000 in from_controller(address)
    again = apply(name, {"firewall_services": services, "firewall_keep": True})
    assert "changed=0" in again.stdout, again.stdout
    second = apply(name, {"firewall_services": services})
    assert "changed=1" in second.stdout, second.stdout
    assert 8000 not in from_host(guest, address)
    assert 8000 in from_controller(address)
    assert "changed=1" in apply(name, {}).stdout


def test_other_firewalls_are_told_of() -> None:
    """A packet has to pass ufw as well, which stays as it is; whoever runs the role hears of it."""
    hosts = hosts_of_scenario()
    host = hosts["firewall-old"]
    host.run_expect([0], "ufw allow 8080/tcp && ufw allow 9999/tcp && ufw --force enable")
    try:
        before = host.check_output("nft --stateless list table ip filter")
        done = apply(host, {})
        assert "changed=0" in done.stdout, done.stdout
        said = " ".join((done.stdout + done.stderr).split())
        assert "ufw filters what comes in as well, and what it drops stays dropped" in said
        assert from_host(hosts["firewall-new"], OLD) == from_controller(OLD) == [8080]
        assert host.check_output("nft --stateless list table ip filter") == before
    finally:
        host.run_expect([0], "ufw --force disable")
    assert from_host(hosts["firewall-new"], OLD) == [8000, 8080]


# An operator who locks himself out


@pytest.fixture
def confirmed() -> Iterator[dict[str, str]]:
    """What each host had before, which it has to have again; an open connection does not count."""
    hosts = hosts_of_scenario()
    before = {name: host.check_output(TABLE) for name, host in hosts.items()}
    done = apply("firewall", {}, *OVER_SSH)
    assert done.stdout.count("changed=0") == 2, done.stdout
    yield before
    for host in hosts.values():
        host.run("systemctl stop wsgi-fleet-firewall-rollback.timer")


def test_rules_that_lock_the_operator_out_undo_themselves(confirmed: dict[str, str]) -> None:
    """On one host by its timer, on the other by a reset before that; each answers by ssh again, as before."""
    began = time.monotonic()
    done = apply("firewall", {"firewall_ssh_from": ["203.0.113.1"]}, *OVER_SSH)
    assert done.returncode == 2, done.stdout
    said = " ".join((done.stdout + done.stderr).split())
    assert "firewall_ssh_from: with the new rules this controller gets no connection any more" in said
    assert re.findall(r"(firewall-\w+) +: .*? failed=(\d)", said) == [("firewall-new", "1"), ("firewall-old", "1")]
    assert "takes them back after 20 seconds" in said
    # So long the rules are those that nobody has confirmed.
    hosts = hosts_of_scenario()
    assert not any(answers(address, 22) for address in ADDRESSES.values())
    subprocess.run(["docker", "restart", "--time", "0", "wsgi-fleet-firewall-old"], check=True, capture_output=True)
    assert time.monotonic() - began < 20, "the timer may have been first"
    end = began + 40
    while not all(answers(address, 22) for address in ADDRESSES.values()):
        assert time.monotonic() < end, {name: host.run(TABLE).stdout for name, host in hosts.items()}
        time.sleep(0.2)
    start(hosts["firewall-old"])
    for name, host in hosts.items():
        assert host.check_output(TABLE) == confirmed[name]
    assert from_controller(OLD) == from_controller(NEW) == [8080, 9100, 22]
    done = apply("firewall", {"firewall_allow": []}, *OVER_SSH)
    assert done.stdout.count("changed=1") == 2, done.stdout
    # Confirmed, and so there to stay.
    assert (
        hosts["firewall-new"].run("systemctl is-active wsgi-fleet-firewall-rollback.timer").stdout.strip() == "inactive"
    )
    assert apply("firewall", {}, *OVER_SSH).returncode == 0


def test_rules_that_nft_refuses_change_nothing(host: Host) -> None:
    """The table of the kernel and the file are as before, and no timer runs."""
    before = host.check_output(TABLE), host.file("/etc/wsgi.fleet/firewall.nft").content
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    text = "table inet wsgi_fleet { chain input { tcp dport 99999 accept; }; }"
    done = subprocess.run(
        [
            "ansible", host.backend.get_hostname(), "-i", project / "molecule/inventory/hosts.yml",
            "-m", "wsgi.fleet.firewall", "-a", json.dumps({"rules": text, "units": {}}),
        ],
        capture_output=True, text=True, check=False, cwd=project,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    assert "nft refuses the rules: " in done.stdout
    assert "99999" in done.stdout
    assert (host.check_output(TABLE), host.file("/etc/wsgi.fleet/firewall.nft").content) == before
    assert host.run("systemctl is-active wsgi-fleet-firewall-rollback.timer").stdout.strip() == "inactive"


def test_nft_takes_what_passes_validation(host: Host) -> None:
    """The settings of tests/properties."""
    assert refused_by_checker(host, "firewall") == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"firewall_ssh_from": ["ops.example.com"]}, "firewall_ssh_from: 'ops.example.com' is neither an address nor"),
        ({"firewall_services": [{**APP, "name": 'x" drop'}]}, "firewall_services: name: 'x\" drop' cannot stand in"),
    ],
)
def test_bad_input_is_refused(variables: dict[str, object], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refused("firewall", ROLE, variables)
