"""What every host gets: packages, accounts, a clock that is set and kernel settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fleet_testing import apply_role, refused
from testinfra.host import Host

SETTINGS = """\
#
# Ansible managed
#
net.ipv4.ip_local_port_range = 10240 65535
net/ipv4/conf/eth0.100/rp_filter = 2
vm.overcommit_memory = 1
"""


def test_packages_come_in_one_transaction(host: Host) -> None:
    """Lists that only look fresh are fetched anew; what is missing is then installed at once."""
    assert host.check_output("tree --noreport /etc/sysctl.d").startswith("/etc/sysctl.d")
    assert host.check_output("echo packed | zstd -q | zstd -dq") == "packed"
    log = host.file("/var/log/apt/history.log").content_string
    (installed,) = [line for line in log.splitlines() if line.startswith("Install:")]
    assert "tree:" in installed
    assert "zstd:" in installed


@pytest.mark.parametrize("name", ["shop", "shop-build"])
def test_accounts_are_for_services_alone(host: Host, name: str) -> None:
    """An account of a service has nothing to log in with, and nothing to log in to."""
    account = host.user(name)
    assert account.shell == "/usr/sbin/nologin"
    assert account.home == "/nonexistent"
    assert not host.file("/nonexistent").exists
    assert host.check_output(f"getent shadow {name}").split(":")[1].startswith("!")
    assert account.groups == [name]
    assert 100 <= account.uid < 1000
    assert "not available" in host.run_expect([1], f"su - {name} -c true").stdout


def test_a_clock_is_set(host: Host) -> None:
    """A host without a time daemon gets one that starts at boot."""
    if host.package("chrony").is_installed:
        assert not host.package("systemd-timesyncd").is_installed
        assert host.service("chrony").is_enabled
    else:
        assert host.package("systemd-timesyncd").is_installed
        assert host.service("systemd-timesyncd").is_enabled


def test_one_of_the_hosts_had_a_time_daemon(host: Host, variables: dict[str, Any]) -> None:
    """Both cases of the test above are there."""
    assert host.package("chrony").is_installed == (variables["inventory_hostname"] == "host-new")


def test_kernel_settings(host: Host) -> None:
    """They stand in a file that systemd-sysctl reads at boot, after those of others, as they were given."""
    settings = host.file("/etc/sysctl.d/60-wsgi-fleet.conf")
    assert (settings.user, settings.group, settings.mode) == ("root", "root", 0o644)
    assert settings.content_string == SETTINGS
    read = host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config")
    assert read.index("/etc/sysctl.d/50-theirs.conf") < read.index("/etc/sysctl.d/60-wsgi-fleet.conf")


def test_settings_of_others_stay(host: Host) -> None:
    """The role owns one file, and writes into no other."""
    assert host.file("/etc/sysctl.d/50-theirs.conf").content_string == "net.core.somaxconn = 128\n"


def test_what_was_altered_or_dropped_goes(host: Host) -> None:
    """The file says what the variables say, no more; and an account that somebody gave a shell loses it."""
    host.check_output("usermod --shell /bin/bash shop")
    done = apply_role(host, "wsgi.fleet.host", {"host_sysctl": {"vm.overcommit_memory": 1}})
    assert done.returncode == 0, done.stdout
    assert host.file("/etc/sysctl.d/60-wsgi-fleet.conf").content_string.splitlines()[3:] == ["vm.overcommit_memory = 1"]
    assert host.user("shop").shell == "/usr/sbin/nologin"
    again = apply_role(host, "wsgi.fleet.host", {})
    assert again.returncode == 0, again.stdout
    assert host.file("/etc/sysctl.d/60-wsgi-fleet.conf").content_string == SETTINGS


def test_security_upgrades_come_by_themselves(host: Host) -> None:
    """Only those whose restart nobody notices, and without booting."""
    dry = host.run("unattended-upgrade --dry-run --debug")
    assert dry.rc == 0, dry.stderr
    said = dry.stdout + dry.stderr
    assert re.search(r"blacklist: .*\^haproxy .*\^nginx ", said)
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.service(timer).is_enabled
        assert host.service(timer).is_running
    settings = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings
    # Where it is off, that is said to apt as well.
    done = apply_role(host, "wsgi.fleet.host", {"host_security_upgrades": "disabled"})
    assert done.returncode == 0, done.stdout
    assert 'APT::Periodic::Unattended-Upgrade "0";' in host.check_output("apt-config dump")
    assert apply_role(host, "wsgi.fleet.host", {}).returncode == 0


def test_accounts_of_others_are_not_taken() -> None:
    """An app that bears the name of somebody's account does not take its shell from that account."""
    said = refused("host", "wsgi.fleet.host", {"host_accounts": ["shop", "deploy", "root", "theirs"]})
    assert "host_accounts: 'deploy, root, theirs' is an account with a home" in said
    assert "choose another name" in said


@pytest.mark.parametrize(
    "variables",
    [
        {"host_sysctl": {"somaxconn": 4096}},
        {"host_sysctl": {"net.core.somaxconn\n": 4096}},
        {"host_sysctl": {"net.core.somaxconn": "4096\n"}},
        {"host_sysctl": {"net.core.somaxconn": "4096\nkernel.sysrq = 1"}},
        {"host_sysctl": {"net.ipv4.ip_forward": True}},
        {"host_accounts": ["shop\n"]},
        {"host_accounts": ["--help"]},
    ],
)
def test_bad_input_is_refused(variables: dict[str, object]) -> None:
    """The message names both variables with what they may hold, and what they hold."""
    said = refused("host", "wsgi.fleet.host", variables)
    assert "host_sysctl or host_accounts holds a name or a value that cannot be one" in said
    assert "kernel settings are like 'net.core.somaxconn: 4096', accounts up to 32 lower-case letters" in said
