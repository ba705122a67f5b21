"""An instance of a release under Gunicorn: who reaches it, what it sees, and how it ends and returns."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from fleet_testing import apply_role, ask_socket, hosts_of_scenario, refused_each, wait_for_clients
from testinfra.host import Host

UNIT = "echo@aaaaaaaaaaaa.service"
SOCKET = "/srv/echo/current/app.sock"
OTHER_UNIT = "echo@bbbbbbbbbbbb.service"
OTHER_SOCKET = "/srv/echo/releases/bbbbbbbbbbbb/app.sock"
OTHER_PERMIT = "/run/wsgi.fleet/echo/bbbbbbbbbbbb"


def echo(host: Host, where: str = SOCKET, path: str = "/", **options: Any) -> dict[str, Any]:
    """Ask an instance and return what the application saw."""
    answer = ask_socket(host, where, path, **options)
    assert answer.status == 200, answer.text
    seen: dict[str, Any] = json.loads(answer.body)
    return seen


def show(host: Host, name: str, unit: str = UNIT) -> str:
    """Return a property of a unit."""
    return str(host.check_output("systemctl show --property %s --value %s", name, unit)).strip()


def workers(host: Host) -> list[int]:
    """Return the processes below Gunicorn's own."""
    return [int(pid) for pid in host.run("pgrep -P %s", show(host, "MainPID")).stdout.split()]


def holds_soon(condition: Callable[[], bool], seconds: float = 15) -> bool:
    """Tell whether a condition becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return True
        except OSError:
            pass
        time.sleep(0.2)
    return False


def test_answers_on_its_socket(host: Host) -> None:
    """The instance has told systemd that it is ready, and knows its release, settings and secrets."""
    assert show(host, "Type") == "notify"
    assert show(host, "ActiveState") == "active"
    seen = echo(host)
    assert seen["release"] == "aaaaaaaaaaaa"
    assert seen["greeting"] == "hello world"
    assert seen["secret"] == "correct horse"


def test_only_the_group_of_the_web_server_gets_in(host: Host) -> None:
    """Any other account is turned away, and the socket lies in memory for this instance alone."""
    with pytest.raises(OSError, match="Permission denied"):
        ask_socket(host, SOCKET, account="nobody")
    directory = host.file("/run/echo")
    assert (directory.user, directory.group, directory.mode) == ("echo", "www-data", 0o510)


def test_runs_as_its_account(host: Host) -> None:
    """No process of the instance is root's, and nobody else can read its secrets."""
    pids = [show(host, "MainPID"), *map(str, workers(host))]
    assert set(host.check_output(f"ps -o user= -p {','.join(pids)}").split()) == {"echo"}
    assert host.run(f"runuser -u nobody -- cat /proc/{pids[0]}/environ").rc != 0


def test_the_last_forwarded_address_is_the_clients(host: Host) -> None:
    """Earlier addresses come from the client, which may write what it likes."""
    assert echo(host, headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"})["client"] == "203.0.113.9"
    assert echo(host, headers={"X-Forwarded-For": "2001:db8::1"})["client"] == "2001:db8::1"
    assert echo(host)["client"] == ""


def test_the_scheme_is_the_forwarded_one(host: Host) -> None:
    assert echo(host, headers={"X-Forwarded-Proto": "https"})["scheme"] == "https"
    assert echo(host, headers={"X-Forwarded-Proto": "http"})["scheme"] == "http"
    assert echo(host)["scheme"] == "http"


def test_one_worker_per_processor_with_threads(host: Host) -> None:
    assert len(workers(host)) == int(host.check_output("nproc"))
    assert echo(host)["threads"] is True


def test_no_access_log_unless_asked_for(host: Host) -> None:
    """The web server writes one already."""
    echo(host, path="/unlogged")
    journal = host.check_output(f"journalctl --no-pager --unit {UNIT}")
    assert "Listening at" in journal
    assert "/unlogged" not in journal


def test_a_request_in_flight_is_answered_when_the_instance_stops(host: Host) -> None:
    """Stopping waits for the answer, and then nothing listens any more."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(echo, host, path="/slow")
        wait_for_clients(host, "/run/echo/aaaaaaaaaaaa/app.sock", 1)
        assert not slow.done()
        host.run_test(f"systemctl stop {UNIT}")
        assert slow.result()["release"] == "aaaaaaaaaaaa"
    assert show(host, "Result") == "success"
    assert not host.file("/run/echo/aaaaaaaaaaaa").exists
    with pytest.raises(OSError, match="No such file"):
        echo(host)
    host.run_test(f"systemctl start {UNIT}")
    assert echo(host)["release"] == "aaaaaaaaaaaa"


def test_a_killed_worker_is_replaced(host: Host) -> None:
    """The number of workers stays, without a restart of the instance."""
    before, master = workers(host), show(host, "MainPID")
    host.run_test(f"kill -KILL {before[0]}")
    assert holds_soon(lambda: before[0] not in (now := workers(host)) and len(now) == len(before))
    assert show(host, "MainPID") == master
    assert echo(host)["release"] == "aaaaaaaaaaaa"


def test_a_killed_master_comes_back(host: Host) -> None:
    """The instance returns by itself, on the same socket and open to the web server."""
    master = show(host, "MainPID")
    host.run_test(f"kill -KILL {master}")
    assert holds_soon(lambda: show(host, "MainPID") not in ("0", master) and bool(echo(host)))
    assert echo(host)["release"] == "aaaaaaaaaaaa"


def test_only_a_current_or_permitted_release_starts(host: Host) -> None:
    """Any other instance stays down without counting as failed, as after a reboot."""
    host.run_test(f"systemctl start {OTHER_UNIT}")
    assert show(host, "ActiveState", OTHER_UNIT) == "inactive"
    assert not host.file(OTHER_SOCKET).exists
    host.run_test(f"mkdir -p /run/wsgi.fleet/echo && touch {OTHER_PERMIT} && systemctl start {OTHER_UNIT}")
    try:
        assert echo(host, OTHER_SOCKET)["release"] == "bbbbbbbbbbbb"
        assert echo(host)["release"] == "aaaaaaaaaaaa"
    finally:
        host.run_test(f"systemctl stop {OTHER_UNIT} && rm {OTHER_PERMIT}")
    assert not host.file(OTHER_PERMIT).exists


def test_is_confined(host: Host) -> None:
    """What systemd thinks of the unit's exposure while it serves, from 0 (none) to 10."""
    assert echo(host)["release"] == "aaaaaaaaaaaa"
    said = host.check_output(f"systemd-analyze security --no-pager {UNIT}")
    found = re.search(r"Overall exposure level for .*: (\d+\.\d)", said)
    assert found is not None, said
    print(f"exposure {found[1]}")
    assert float(found[1]) <= 1.3


def test_settings_take_effect() -> None:
    """Another worker model and number, an access log, a hook, and a setting that the role does not name."""
    settings = {
        "gunicorn_workers": 3,
        "gunicorn_worker_class": "sync",
        "gunicorn_access_log": True,
        "gunicorn_settings": {
            "access_log_format": "saw '%(U)s' of %({x-forwarded-for}i)s",
            "limit_request_line": 100,
            "post_fork": "hooks.post_fork",
        },
    }
    try:
        done = apply_role("gunicorn", "wsgi.fleet.gunicorn", settings)
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: len(workers(host)) == 3)  # type: ignore[misc]
            assert echo(host, path="/logged", headers={"X-Forwarded-For": "203.0.113.9"})["threads"] is False
            assert ask_socket(host, SOCKET, f"/{'x' * 100}").status == 414
            journal = host.check_output(f"journalctl --no-pager --output cat --unit {UNIT}")
            assert "saw '/logged' of 203.0.113.9" in journal
            assert f"forked by {show(host, 'MainPID')}" in journal
    finally:
        assert apply_role("gunicorn", "wsgi.fleet.gunicorn", {}).returncode == 0


@refused_each(
    "gunicorn-new",
    "wsgi.fleet.gunicorn",
    [
        (
            {"gunicorn_worker_class": "sync", "gunicorn_threads": 4, "gunicorn_workers": 0},
            "gunicorn_workers: '0' is not a number of processes: write a number from 1 on, or auto for one per "
            "processor. gunicorn_threads: 4 has no effect with gunicorn_worker_class: 'sync': use gthread",
        ),
        (
            {"gunicorn_settings": {"umask": 0, "limit_request_line": 5, "bind": "0.0.0.0:80"}},
            "gunicorn_settings: bind, umask follows from how an instance is wired and cannot be set",
        ),
        ({"gunicorn_worker_class": "asgi"}, "value of gunicorn_worker_class must be one of"),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()


KEPT = """
import http.client, os, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/echo/aaaaaaaaaaaa/app.sock")
for current in (None, "releases/bbbbbbbbbbbb"):
    if current:
        os.symlink(current, "/srv/echo/.next")
        os.rename("/srv/echo/.next", "/srv/echo/current")
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    print(response.status, "closes" if response.will_close else "keeps")
"""


def test_a_kept_connection_ends_with_the_release(host: Host) -> None:
    """After a flip it answers what it is asked once more, and closes, so that what comes next is the new release's."""
    try:
        assert host.check_output("python3 -c %s", KEPT).splitlines() == ["200 keeps", "200 closes"]
    finally:
        host.check_output("ln -sfn releases/aaaaaaaaaaaa /srv/echo/current")
