"""What an instance may take of its host: limits that are in force, and a leak that ends in a new worker.

The application is one of its own, beside that of converge.yml, which must go on all the time.
"""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from fleet_testing import apply_role, ask_socket, hosts_of_scenario
from testinfra.host import Host

ROLE = "wsgi.fleet.app"
SOCKET = "/srv/hungry/current/app.sock"
HUNGRY = '''"""An application that takes what it can get, and does what it was allowed to."""

import os
import socket
import threading
from pathlib import Path

kept = []


def leak():
    while True:
        kept.append(b"x" * (8 << 20))


def threads():
    for number in range(400):
        try:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        except RuntimeError:
            return number
    return 400


def write(directory):
    try:
        path = Path(directory, "new")
        path.write_text("new")
        path.unlink()
    except OSError as error:
        return error.strerror
    return "written"


def connect(address):
    try:
        socket.create_connection((address, 1), timeout=5)
    except OSError as error:
        return error.strerror


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    called, argument = environ["PATH_INFO"][1:], environ["QUERY_STRING"]
    answers = {
        "leak": leak,
        "threads": threads,
        "write": lambda: write(argument),
        "connect": lambda: connect(argument),
    }
    return [str(answers.get(called, os.getpid)()).encode()]
'''


def make_limits_possible(host: Host) -> None:
    """Let systemd have the groups of the kernel that limits need, as on a host that is no container.

    They are mounted read-only in a container, in the older layout one by one.
    """
    groups = "/sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup/cpu /sys/fs/cgroup"
    host.check_output(
        f"for d in {groups}; do if mountpoint -q $d && test $(stat -f -c %T $d) != tmpfs;"
        " then mount -o remount,bind,rw $d; fi; done; systemctl daemon-reexec"
    )
    until = time.monotonic() + 30
    while host.run("systemctl is-system-running").stdout.strip() not in ("running", "degraded"):
        assert time.monotonic() < until
        time.sleep(0.3)


@pytest.fixture(scope="module", autouse=True)
def _hungry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Deploy the application on both hosts, with limits and with needs."""
    source = tmp_path_factory.mktemp("hungry")
    (source / "hungry.py").write_text(HUNGRY)
    for host in hosts_of_scenario().values():
        make_limits_possible(host)
        host.check_output("mkdir -p /var/lib/extra /var/lib/other && chmod 777 /var/lib/extra /var/lib/other")
    variables = {
        "app_name": "hungry",
        "app_source": str(source),
        "app_module": "hungry:app",
        "app_env": {},
        "app_health_path": "/",
        "app_host": {"cpus": 2, "memory_mb": 4000},
        "app_limits": {"memory_max": "200M", "cpu_quota": "150%", "tasks_max": 60},
        "app_sandbox": {"write_paths": ["/srv/hungry/shared", "/var/lib/extra"]},
    }
    done = apply_role("app", ROLE, variables)
    assert done.returncode == 0, done.stdout + done.stderr


def unit(host: Host, name: str = "hungry") -> str:
    """Return the unit of the instance that is current."""
    return f"{name}@{host.check_output(f'readlink /srv/{name}/current').removeprefix('releases/')}.service"


def show(host: Host, name: str, *properties: str) -> dict[str, str]:
    """Return properties of a unit."""
    said = host.check_output(f"systemctl show {name} --property {','.join(properties)}")
    return dict(line.split("=", 1) for line in said.splitlines())


def test_limits_stand_in_the_unit(host: Host) -> None:
    """Those that are set, and those that follow: no swap, and a worker that is killed leaves the rest."""
    names = ("MemoryMax", "MemorySwapMax", "MemoryHigh", "CPUQuotaPerSecUSec", "TasksMax", "OOMPolicy")
    assert show(host, unit(host), *names) == {
        "MemoryMax": "209715200",
        "MemorySwapMax": "0",
        "MemoryHigh": "infinity",
        "CPUQuotaPerSecUSec": "1.500000s",
        "TasksMax": "60",
        "OOMPolicy": "continue",
    }


def test_without_limits_the_share_of_the_memory_is_one(host: Host) -> None:
    """Four fifths of the host's memory, rounded down to 64 MiB before."""
    total = int(re.findall(r"MemTotal: +(\d+) kB", host.file("/proc/meminfo").content_string)[0]) // 1024
    mebibytes = int(total // 64 * 64 * 0.8)
    found = show(host, unit(host, "shop"), "MemoryMax", "OOMPolicy")
    assert found == {"MemoryMax": str(mebibytes << 20), "OOMPolicy": "continue"}


def test_the_kernel_has_the_limits(host: Host) -> None:
    """Of both kinds: in the layout of one hierarchy, and in that of one for each."""
    main = show(host, unit(host), "MainPID")["MainPID"]
    group = f"system.slice/system-hungry.slice/{unit(host)}"
    old, new = f"/sys/fs/cgroup/memory/{group}", f"/sys/fs/cgroup/{group}"
    if host.file(old).exists:
        assert host.check_output(f"cat {old}/memory.limit_in_bytes") == "209715200"
        assert main in host.check_output(f"cat {old}/cgroup.procs").split()
    else:
        assert host.check_output(f"cat {new}/memory.max {new}/memory.swap.max").split() == ["209715200", "0"]
        assert main in host.check_output(f"cat {new}/cgroup.procs").split()


def workers(host: Host, name: str) -> set[str]:
    """Return the numbers of the processes below the main one."""
    main = show(host, unit(host, name), "MainPID")["MainPID"]
    return set(host.check_output(f"pgrep --parent {main}").split())


def test_a_worker_that_leaks_is_replaced_and_nobody_else_notices(host: Host) -> None:
    """The kernel kills the worker at the limit; the instance is not restarted, and the other one does not notice."""
    before, others = workers(host, "hungry"), workers(host, "shop")
    main = show(host, unit(host), "MainPID", "NRestarts")
    with pytest.raises(OSError, match=r"RemoteDisconnected|Connection reset"):
        ask_socket(host, SOCKET, "/leak", timeout=60)
    assert ask_socket(host, "/srv/shop/current/app.sock", "/health").status == 200
    until = time.monotonic() + 20
    while len(now := workers(host, "hungry")) != 2 or now == before:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert len(now & before) == 1
    assert show(host, unit(host), "MainPID", "NRestarts") == main
    assert workers(host, "shop") == others
    seen = set()
    while seen != now and time.monotonic() < until:
        with contextlib.suppress(OSError):
            seen.add(ask_socket(host, SOCKET, "/").text)
    assert seen <= now
    assert now - before <= seen, "the new worker does not answer"


def test_threads_without_end_are_stopped(host: Host) -> None:
    """The sixtieth is the last of all processes of the instance."""
    started = int(ask_socket(host, SOCKET, "/threads").text)
    assert 10 < started < 60
    host.check_output(f"systemctl restart {unit(host)}")


def test_what_the_application_needs_works_within_its_sandbox(host: Host) -> None:
    """Its shared directory, a path that it was given, and other hosts; systemd's judgement of what that exposes."""
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            if ask_socket(host, SOCKET, "/").status == 200:
                break
        assert time.monotonic() < until
        time.sleep(0.2)
    said = {
        path: ask_socket(host, SOCKET, f"/write?{path}").text
        for path in ("/srv/hungry/shared/uploads", "/var/lib/extra")
    }
    assert set(said.values()) == {"written"}
    for path in ("/var/lib/other", "/srv/shop/shared/uploads", "/etc"):
        assert ask_socket(host, SOCKET, f"/write?{path}").text == "Read-only file system"
    other = "172.31.78.72" if host.backend.get_hostname() == "app-old" else "172.31.78.71"
    # The other host says so: nobody listens there.
    assert ask_socket(host, SOCKET, f"/connect?{other}").text == "Connection refused"
    for name in ("hungry", "shop"):
        answer = host.check_output(f"systemd-analyze security --no-pager {unit(host, name)}")
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer)
        assert found is not None, answer
        assert float(found[1]) <= 1.5, answer


def test_a_process_that_does_not_fit_is_refused_before_anything_is_built() -> None:
    """The message has the sum, and what can be changed."""
    done = apply_role(
        "app", ROLE, {"app_install": False, "app_worker_memory": 4000, "app_host": {"cpus": 2, "memory_mb": 4000}}
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2
    assert "app_worker_memory: a process of 4000 MiB does not fit into the 3174 MiB that are the application's" in said
    assert "Take the lock" not in said


def test_an_instance_has_the_size_that_follows_from_its_host(host: Host) -> None:
    """Two processors and enough memory, and an application that says nothing of itself."""
    text = host.file("/srv/hungry/current/gunicorn.conf.py").content_string
    assert "\nworkers = 2\n" in text
    assert "\nthreads = 8\n" in text
    assert len(workers(host, "hungry")) == 2
