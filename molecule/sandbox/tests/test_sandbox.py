"""Units that may do what they need and nothing else, and go on working."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable

import pytest
from fleet_testing import apply_role, ask, hosts_of_scenario, refused, refused_each
from testinfra.host import Host

#: What each unit needs, as the role's defaults say it; the tests change it.
NGINX_CAPABILITIES = [
    "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL",
]  # fmt: skip
NGINX = {
    "network": True,
    "capabilities": NGINX_CAPABILITIES,
    "write_paths": ["/run", "/var/log/nginx", "/var/lib/nginx"],
    "umask": "0077",
}
REDIS = {"network": True, "write_paths": ["/run/redis", "/var/lib/redis", "/var/log/redis", "/etc/redis"]}


def main_process(host: Host, unit: str) -> str:
    """Return the number of a unit's main process."""
    return str(host.check_output(f"systemctl show --property=MainPID --value {unit}"))


def test_a_unit_can_do_nothing_that_it_does_not_need(host: Host) -> None:
    """Without its drop-in the unit could do it all; a unit of no needs is left with its files and unix sockets."""
    first, *_others, last = map(json.loads, host.file("/var/lib/probe/reports").content_string.splitlines())
    assert set(first.values()) == {"done"}
    assert last.pop("run code that it wrote") in ("EPERM", "EACCES")
    assert last == {
        "write the configuration of the host": "EROFS",
        "write programs": "EROFS",
        "write data of others": "EROFS",
        "write its own data": "done",
        "look into homes": "EACCES",
        "read temporary files of others": "ENOENT",
        "read about the machine": "ENOENT",
        "reach the network": "EAFNOSUPPORT",
        "watch the network": "EAFNOSUPPORT",
        "use unix sockets": "done",
        "become another account": "EPERM",
        "give files away": "EACCES",
        "make devices": "EPERM",
        "make programs that run as their owner": "EPERM",
        "rename the host": "EPERM",
        "mount": "EPERM",
        "make namespaces": "EPERM",
        "pose as another machine": "EPERM",
    }


@pytest.mark.parametrize(
    ("unit", "capabilities"),
    [
        ("nginx", {"chown", "dac_override", "kill", "net_bind_service", "setgid", "setuid"}),
        ("haproxy", {"dac_override", "kill", "net_bind_service", "setgid", "setuid", "sys_chroot"}),
        ("redis-server", set()),
        # Its package allows CAP_SYS_RESOURCE too.
        ("memcached", {"setgid", "setuid"}),
        ("keepalived", {"net_admin", "net_raw", "setgid", "setuid"}),
    ],
)
def test_privileges_are_gone_for_good(host: Host, unit: str, capabilities: set[str]) -> None:
    """No process of the unit has or can get more; the kernel filters its system calls."""
    main = main_process(host, unit)
    for process in [main, *host.run(f"pgrep --parent {main}").stdout.split()]:
        status = dict(re.findall(r"(\w+):\t(.*)", host.file(f"/proc/{process}/status").content_string))
        names = host.check_output(f"capsh --decode={status['CapBnd']}").partition("=")[2]
        assert {name.removeprefix("cap_") for name in names.split(",") if name} == capabilities
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


@pytest.mark.parametrize(
    ("unit", "own"),
    [
        ("nginx", "/var/lib/nginx"),
        ("haproxy", "/run/haproxy"),
        ("redis-server", "/var/lib/redis"),
        ("memcached", "/run/memcached"),
        ("keepalived", "/run"),
    ],
)
def test_the_files_of_others_are_out_of_reach(host: Host, unit: str, own: str) -> None:
    """As root in the unit's own view of the files: it writes where it has to, and nowhere else."""
    root = f"/proc/{main_process(host, unit)}/root"
    assert host.run(f"touch {root}{own}/probe && rm {root}{own}/probe").rc == 0
    for path in ("/etc", "/usr/bin", "/var/lib/probe", "/srv", "/opt"):
        assert host.run(f"test -d {root}{path}").rc == 0
        assert "Read-only file system" in host.run(f"touch {root}{path}/probe").stderr
    for path in ("/home", "/root", "/tmp"):  # noqa: S108 -- it is only looked at
        assert host.check_output(f"ls -A {root}{path}") == ""


def test_workers_see_no_processes_of_others(host: Host) -> None:
    """In the eyes of a worker of nginx nobody else runs here."""
    worker = host.check_output(f"pgrep --parent {main_process(host, 'nginx')}").split()[0]
    seen = host.run(f"nsenter -t {worker} -m -S 33 -G 33 sh -c 'cat /proc/[0-9]*/comm'").stdout.split()
    assert "nginx" in seen
    assert set(seen) <= {"nginx", "sh", "cat"}


# What is left is being root at the start, the network, and the capabilities of the table above. Unconfined, nginx and
# HAProxy are at 9.6. Redis is never root.
@pytest.mark.parametrize(
    ("unit", "limit"),
    [("nginx", 2.5), ("haproxy", 2.5), ("redis-server", 1.3), ("memcached", 2.1), ("keepalived", 2.5)],
)
def test_exposure(host: Host, unit: str, limit: float) -> None:
    """systemd's own judgement of the unit that serves, also once it has been reloaded."""
    if unit in ("nginx", "haproxy", "keepalived"):
        host.check_output(f"systemctl reload {unit}")
    assert host.service(unit).is_running
    said = host.check_output(f"systemd-analyze security --no-pager {unit}.service")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= limit, said


def test_systemd_understands_every_line(host: Host) -> None:
    """A directive that is not understood is ignored with a warning, and confines nobody."""
    units = ("nginx", "haproxy", "redis-server", "memcached", "keepalived", "probe")
    said = host.run("systemd-analyze verify " + " ".join(f"{unit}.service" for unit in units))
    assert "50-sandbox.conf" not in said.stderr
    for unit in units:
        lines = host.file(f"/etc/systemd/system/{unit}.service.d/50-sandbox.conf").content_string.splitlines()
        assert lines[1:2] == ["# Ansible managed"]
        assert "ProtectSystem=strict" in lines


def test_nginx_works(host: Host, address: str) -> None:
    """It takes a file that outgrows its memory, serves it, and reloads."""
    body = bytes(range(256)) * 8192
    assert ask(address, "/upload", method="PUT", body=body).status in (201, 204)
    host.check_output("systemctl reload nginx")
    answer = ask(address, "/upload")
    assert answer.status == 200
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_nginx_opens_its_logs_anew(host: Host, address: str) -> None:
    """As logrotate has it: the old file is moved away, and the workers write to a new one."""
    log = "/var/log/nginx/access.log"
    host.check_output(f"mv {log} {log}.1 && systemctl kill --signal=USR1 nginx")
    until = time.monotonic() + 10
    while "/after-rotation" not in host.run(f"cat {log}").stdout:
        assert time.monotonic() < until
        ask(address, "/after-rotation")
        time.sleep(0.1)


def test_haproxy_works(host: Host, address: str) -> None:
    """It passes requests on, also when it has been reloaded more than once, and answers its operator."""
    host.check_output("echo web >/var/lib/nginx/files/page")
    for _number in range(2):
        before = host.check_output("pgrep --newest haproxy")
        host.check_output("systemctl reload haproxy")
        until = time.monotonic() + 10
        # The master starts the new worker by itself, a moment after it was told.
        while host.check_output("pgrep --newest haproxy") == before:
            assert time.monotonic() < until
            assert ask(address, "/page", port=8080).text == "web\n"
            time.sleep(0.1)
        assert ask(address, "/page", port=8080).text == "web\n"
    assert host.service("haproxy").is_running
    assert (
        host.run(
            "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock');"
            "s.send(b'show info\\n'); print(s.recv(9999).decode())\""
        ).stdout.find("Name: HAProxy")
        != -1
    )


def test_redis_works(host: Host) -> None:
    """It answers, keeps what it is given, and writes it to its directory."""
    assert host.check_output("redis-cli PING") == "PONG"
    assert host.check_output("redis-cli SET greeting hello") == "OK"
    assert host.check_output("redis-cli SAVE") == "OK"
    host.check_output("systemctl restart redis-server")
    assert host.check_output("redis-cli GET greeting") == "hello"


def test_memcached_works(host: Host) -> None:
    """As an account of its own it keeps what it is given."""
    said = host.check_output(
        "python3 -c \"import socket; s = socket.create_connection(('127.0.0.1', 11211));"
        "s.sendall(b'set greeting 0 0 5\\r\\nhello\\r\\nget greeting\\r\\nquit\\r\\n');"
        "print(b''.join(iter(lambda: s.recv(999), b'')).decode())\""
    )
    assert said.split() == ["STORED", "VALUE", "greeting", "0", "5", "hello", "END"]
    assert host.check_output("ps -o user= -C memcached") == "memcache"


def test_keepalived_moves_its_address() -> None:
    """Exactly one host has it, and when that one does not want to serve any more, the other one."""
    hosts = hosts_of_scenario()

    def holders() -> list[str]:
        return [name for name, host in hosts.items() if " 172.31.78.29/24" in host.check_output("ip -4 address")]

    def wait_for(wanted: list[list[str]]) -> list[str]:
        until = time.monotonic() + 20
        while (found := holders()) not in wanted and time.monotonic() < until:
            time.sleep(0.3)
        assert found in wanted
        return found

    (holder,) = wait_for([["sandbox-old"], ["sandbox-new"]])
    (other,) = {"sandbox-old", "sandbox-new"} - {holder}
    try:
        hosts[holder].check_output("rm /run/serve")
        wait_for([[other]])
    finally:
        hosts[holder].check_output("touch /run/serve")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        # The master stays, but no worker can leave root behind.
        ({"CAP_SETUID", "CAP_SETGID"}, "nginx.service has lost its workers after its restart"),
        # The logs belong to www-data.
        ({"CAP_DAC_OVERRIDE"}, "Permission denied"),
    ],
)
def test_what_a_unit_cannot_bear_is_taken_back(host: Host, address: str, missing: set[str], reason: str) -> None:
    """The run fails with what the unit says, and the service goes on with its old drop-in."""
    before = host.file("/etc/systemd/system/nginx.service.d/50-sandbox.conf").content
    profile = {**NGINX, "capabilities": sorted({*NGINX_CAPABILITIES} - missing)}
    said = refused(host, "wsgi.fleet.sandbox", {"sandbox_units": ["nginx"], "sandbox_profiles": {"nginx": profile}})
    assert "nginx.service does not run with /etc/systemd/system/nginx.service.d/50-sandbox.conf" in said
    assert "was taken back; it runs as before" in said
    assert reason in said
    assert host.file("/etc/systemd/system/nginx.service.d/50-sandbox.conf").content == before
    assert ask(address, "/", timeout=3).status == 403
    assert host.service("nginx").is_running


def test_a_first_drop_in_leaves_nothing_behind(host: Host) -> None:
    """A unit that had none has none again."""
    host.check_output("rm -r /etc/systemd/system/probe.service.d && systemctl daemon-reload && systemctl restart probe")
    needs = {"sandbox_units": ["probe"], "sandbox_profiles": {"probe": {}}}
    said = refused(host, "wsgi.fleet.sandbox", needs)
    assert "Read-only file system: '/var/lib/probe/reports'" in said
    assert not host.file("/etc/systemd/system/probe.service.d").exists
    assert host.service("probe").is_running
    last = json.loads(host.file("/var/lib/probe/reports").content_string.splitlines()[-1])
    assert set(last.values()) == {"done"}


def test_only_running_units_that_changed_are_restarted(host: Host) -> None:
    """Others keep their process, and what is stopped stays stopped; an old crash of a unit is no failure."""
    host.check_output("systemctl stop haproxy && systemctl kill --signal=KILL redis-server")
    until = time.monotonic() + 10
    while host.run("redis-cli PING").stdout != "PONG\n" and time.monotonic() < until:
        time.sleep(0.2)
    nginx, redis = main_process(host, "nginx"), main_process(host, "redis-server")
    profiles = {
        "nginx": NGINX,
        "haproxy": {"network": True},
        "redis-server": {**REDIS, "system_information": True, "umask": "0077"},
    }
    try:
        done = apply_role(host, "wsgi.fleet.sandbox", {"sandbox_units": [*profiles], "sandbox_profiles": profiles})
        assert done.returncode == 0, done.stdout
        assert main_process(host, "nginx") == nginx
        assert main_process(host, "redis-server") not in (redis, "0")
        assert not host.service("haproxy").is_running
        assert host.check_output("redis-cli PING") == "PONG"
    finally:
        back = apply_role(host, "wsgi.fleet.sandbox", {})
        host.check_output("systemctl start haproxy")
    assert back.returncode == 0, back.stdout


@refused_each(
    "sandbox",
    "wsgi.fleet.sandbox",
    [
        (
            {"sandbox_units": ["nginx", "squid"]},
            "sandbox_units: 'squid' has no profile in sandbox_profiles: say there what the unit needs",
        ),
        (
            {"sandbox_units": ["nginx"], "sandbox_profiles": {"nginx": {"netwrok": True}}},
            "''netwrok'' is not something a sandbox can allow: use network, address_families",
        ),
        (
            {
                "sandbox_units": ["nginx"],
                "sandbox_profiles": {"nginx": {"write_paths": ["/run\nExecStartPre=/bin/sh"]}},
            },
            "sandbox_profiles: ''/run\\nExecStartPre=/bin/sh'' holds a line break",
        ),
        (
            {"sandbox_units": ["nginx"], "sandbox_profiles": {"nginx": {"capabilities": ["CAP_KILL\n"]}}},
            "sandbox_profiles: ''CAP_KILL\\n'' holds a line break",
        ),
        (
            {"sandbox_units": ["../x"], "sandbox_profiles": {"../x": {}}},
            "sandbox_units: '../x' is not the name of a service",
        ),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names what is wrong and what to write instead."""
    assert said in refusal()
