"""An instance of a release under Granian: who reaches it, what it sees and says, how it ends and returns."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fleet_testing import (
    Load,
    apply_role,
    ask,
    ask_raw,
    ask_socket,
    hosts_of_scenario,
    refused_each,
    wait_for_clients,
)
from testinfra.host import Host

#: Releases under Granian, of which the first is current, and one under Gunicorn.
CURRENT, OTHER, GUNICORN = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
UNIT = f"echo@{CURRENT}.service"
SOCKET = "/srv/echo/current/app.sock"
JOURNAL = "journalctl --no-pager --output cat --unit"


def echo(host: Host, where: str = SOCKET, path: str = "/", **options: Any) -> dict[str, Any]:
    """Ask an instance and return what the application saw."""
    answer = ask_socket(host, where, path, **options)
    assert answer.status == 200, answer.text
    seen: dict[str, Any] = json.loads(answer.body)
    return seen


def web(address: str, path: str = "/", **options: Any) -> dict[str, Any]:
    """Ask through the web server and return what the application saw."""
    answer = ask(address, path, **options)
    assert answer.status == 200, answer.text
    seen: dict[str, Any] = json.loads(answer.body)
    return seen


def show(host: Host, name: str, unit: str = UNIT) -> str:
    """Return a property of a unit."""
    return str(host.check_output("systemctl show --property %s --value %s", name, unit)).strip()


def workers(host: Host) -> list[int]:
    """Return the processes below Granian's own."""
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


def has_replaced(host: Host, before: list[int]) -> bool:
    """Tell whether there are as many workers as before, without the first of these."""
    now = workers(host)
    return before[0] not in now and len(now) == len(before)


def has_returned(host: Host, master: str) -> bool:
    """Tell whether the instance serves again, with another main process."""
    return show(host, "MainPID") not in ("0", master) and bool(echo(host))


def permit(host: Host, release: str) -> None:
    """Start an instance that is not current."""
    path = f"/run/wsgi.fleet/echo/{release}"
    host.run_test(f"mkdir -p /run/wsgi.fleet/echo && touch {path} && systemctl start echo@{release}")


def retire(host: Host, release: str) -> None:
    """Stop an instance that is not current."""
    host.run_test(f"systemctl stop echo@{release} && rm -f /run/wsgi.fleet/echo/{release}")


def activate(host: Host, release: str) -> None:
    """Make a release current, as the app role does."""
    host.run_test(f"cd /srv/echo && ln -s releases/{release} current.new && mv -T current.new current")


def test_answers_on_its_socket(host: Host) -> None:
    """The instance has told systemd that it is ready, and knows its release, settings and secrets."""
    assert show(host, "Type") == "notify"
    assert show(host, "ActiveState") == "active"
    seen = echo(host)
    assert seen["release"] == CURRENT
    assert seen["greeting"] == "hello world"
    assert seen["secret"] == "correct horse"
    assert seen["made"] == 7


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


def test_client_and_scheme_behind_the_web_server(address: str) -> None:
    """What a proxy says that nginx trusts, and not what its client says of itself by a name that looks alike."""
    seen = web(address, headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
    assert (seen["client"], seen["scheme"]) == ("203.0.113.9", "https")
    seen = web(address, headers={"X_Forwarded_For": "6.6.6.6", "X_Forwarded_Proto": "https"})
    assert (seen["client"], seen["scheme"]) == ("172.31.78.1", "http")


def test_one_process_per_processor_with_threads(host: Host) -> None:
    assert len(workers(host)) == int(host.check_output("nproc"))
    assert echo(host)["threads"] is True


def test_journal_holds_what_the_application_prints_and_no_requests(host: Host) -> None:
    """The web server writes an access log already."""
    echo(host, path="/unlogged")
    journal = host.check_output(f"{JOURNAL} {UNIT}")
    assert "made 7" in journal
    assert "/unlogged" not in journal


def test_uploads_arrive_whole(address: str) -> None:
    """With a length, and in chunks that nginx makes a length of."""
    body = bytes(range(256)) * (5 << 12)
    seen = web(address, method="POST", body=body, timeout=30)
    assert (seen["size"], seen["sha256"]) == (5 << 20, hashlib.sha256(body).hexdigest())
    chunks = b"".join(b"%x\r\n%b\r\n" % (1000, b"y" * 1000) for _turn in range(100))
    said = ask_raw(
        address,
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\n\r\n",
    )
    assert b'"size": 100000,' in said


def test_everything_that_nginx_lets_through_arrives(address: str) -> None:
    """A request of the largest size that nginx takes by default: four buffers of 8 KiB."""
    headers = {"Cookie": "c" * 8000, "X-One": "1" * 8000, "X-Two": "2" * 8000}
    seen = web(address, "/?" + "q" * 8000, headers=headers)
    assert (seen["cookie"], seen["query"]) == (8000, 8000)


def test_answers_arrive_whole(address: str) -> None:
    """Large ones, empty ones, those without a length, and those to HEAD."""
    assert ask(address, "/large", timeout=30).body == b"x" * (20 << 20)
    nothing = ask(address, "/nothing")
    assert (nothing.status, nothing.body) == (204, b"")
    assert ask(address, "/written").body == b"one two"
    assert ask(address, "/written", method="HEAD").status == 200
    assert ask(address, "/late").text == "headers with the first block"
    assert ask(address, "/late").headers["x-late"] == "yes"
    assert ask(address, "/large", method="HEAD").headers["content-length"] == str(20 << 20)


def test_a_streamed_answer_arrives_piece_by_piece(address: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=10)
    before = time.monotonic()
    connection.request("GET", "/streamed")
    response = connection.getresponse()
    assert response.readline() == b"0\n"
    first = time.monotonic() - before
    assert response.read() == b"1\n2\n3\n4\n"
    assert first < (time.monotonic() - before) / 2
    connection.close()


@pytest.mark.parametrize("path", ["/breaks", "/breaks-short"])
def test_an_answer_that_breaks_off_is_not_taken_for_whole(address: str, host: Host, path: str) -> None:
    """The client gets no end of it, or is told that it comes too early; the journal holds the reason."""
    with pytest.raises((http.client.IncompleteRead, TimeoutError)):
        ask(address, path, timeout=4)
    assert "ValueError: halfway" in host.check_output(f"{JOURNAL} {UNIT}")


def test_answers_that_break_off_take_no_thread_for_long(address: str) -> None:
    """More of them than there are threads, from clients that give up; all the others are answered meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        broken = [
            pool.submit(ask_raw, address, b"GET /breaks HTTP/1.1\r\nHost: x\r\n\r\n", timeout=2) for _n in range(40)
        ]
        before = time.monotonic()
        while not all(answer.done() for answer in broken):
            assert ask(address, "/").status == 200
        assert time.monotonic() - before < 20
    assert any(not answer.result().endswith(b"0\r\n\r\n") for answer in broken)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        before = time.monotonic()
        assert {answer.status for answer in pool.map(lambda _turn: ask(address, "/slow"), range(16))} == {200}
        assert time.monotonic() - before < 10


def test_a_status_that_is_none_is_an_error_and_no_more(address: str, host: Host) -> None:
    """Granian by itself would end the process over it, with all requests that it has."""
    before = workers(host)
    assert ask(address, "/status").status == 500
    assert workers(host) == before
    assert "'2000 Much' is not the status of an answer" in host.check_output(f"{JOURNAL} {UNIT}")


def test_an_application_that_fails_has_answered(address: str, host: Host) -> None:
    """With an error of its own, not of the web server, and with the reason in the journal."""
    assert ask(address, "/fails").status == 500
    assert "ValueError: on purpose" in host.check_output(f"{JOURNAL} {UNIT}")


def test_a_body_that_nobody_reads_takes_no_answer_away(address: str) -> None:
    """What is refused before it is read is answered all the same."""
    for _turn in range(5):
        assert ask(address, "/unread", method="POST", body=b"x" * (8 << 20), timeout=30).status == 403


def test_connections_to_the_web_server_stay_open(address: str) -> None:
    """Bodies or not, and however many requests one has carried."""
    connection = http.client.HTTPConnection(address, timeout=10)
    for _turn in range(200):
        connection.request("POST", "/", body=b"x")
        response = connection.getresponse()
        assert (response.status, response.will_close) == (200, False)
        response.read()
    connection.close()


def test_a_request_in_flight_is_answered_when_the_instance_stops(host: Host) -> None:
    """Stopping waits for the answers, of all threads, and then nothing listens any more."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = [pool.submit(echo, host, path="/slow") for _turn in range(4)]
        wait_for_clients(host, f"/run/echo/{CURRENT}/app.sock", 4)
        assert not any(answer.done() for answer in slow)
        host.run_test(f"systemctl stop {UNIT}")
        assert {answer.result()["release"] for answer in slow} == {CURRENT}
    assert show(host, "Result") == "success"
    assert not host.file(f"/run/echo/{CURRENT}").exists
    with pytest.raises(OSError, match="No such file"):
        echo(host)
    host.run_test(f"systemctl start {UNIT}")
    assert echo(host)["release"] == CURRENT


def test_requests_that_wait_for_a_thread_are_answered_when_the_instance_stops(host: Host, address: str) -> None:
    """Three times as many as there are threads; those in the kernel's queue are no fewer than the others."""
    number = 3 * 8 * int(host.check_output("nproc"))
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        slow = [pool.submit(ask, address, "/slow", timeout=30) for _turn in range(number)]
        wait_for_clients(host, f"/run/echo/{CURRENT}/app.sock", number)
        host.run_test(f"systemctl stop {UNIT}")
        assert [answer.result().status for answer in slow] == [200] * number
    assert show(host, "Result") == "success"
    host.run_test(f"systemctl start {UNIT}")
    assert echo(host)["release"] == CURRENT


def test_a_killed_worker_is_replaced(host: Host) -> None:
    """The number of workers stays, without a restart of the instance."""
    before, master = workers(host), show(host, "MainPID")
    host.run_test(f"kill -KILL {before[0]}")
    assert holds_soon(partial(has_replaced, host, before))
    assert show(host, "MainPID") == master
    assert echo(host)["release"] == CURRENT


def test_a_killed_master_comes_back(host: Host) -> None:
    """The instance returns by itself, on the same socket and open to the web server."""
    master = show(host, "MainPID")
    host.run_test(f"kill -KILL {master}")
    assert holds_soon(partial(has_returned, host, master))
    assert echo(host)["release"] == CURRENT


def test_only_a_current_or_permitted_release_starts(host: Host) -> None:
    """Any other instance stays down without counting as failed, as after a reboot."""
    other = f"/srv/echo/releases/{OTHER}/app.sock"
    host.run_test(f"systemctl start echo@{OTHER}")
    assert show(host, "ActiveState", f"echo@{OTHER}") == "inactive"
    assert not host.file(other).exists
    permit(host, OTHER)
    try:
        assert echo(host, other)["release"] == OTHER
        assert echo(host)["release"] == CURRENT
    finally:
        retire(host, OTHER)


def test_an_application_that_cannot_be_imported_brings_its_instance_down(host: Host) -> None:
    """It does not go on without the application, and the journal tells why."""
    entry = f"/srv/echo/releases/{OTHER}/granian_launch.py"
    host.run_test(f"cp {entry} /root/entry && sed -i 's/import_module(.echo.)/import_module(\"nowhere\")/' {entry}")
    try:
        permit(host, OTHER)
        assert holds_soon(lambda: int(show(host, "NRestarts", f"echo@{OTHER}")) > 0)
        journal = host.check_output(f"{JOURNAL} echo@{OTHER}")
        assert "No module named 'nowhere'" in journal
        assert "status=1/FAILURE" in journal
        assert "Respawning" not in journal
        # At a pace that leaves the host in peace, and without ever having said that it is ready.
        before = int(show(host, "NRestarts", f"echo@{OTHER}"))
        time.sleep(3)
        assert int(show(host, "NRestarts", f"echo@{OTHER}")) - before <= 3
        assert "Started echo, release" not in host.check_output(f"{JOURNAL} echo@{OTHER}")
    finally:
        retire(host, OTHER)
        host.run_test(f"cp /root/entry {entry} && systemctl reset-failed")


def test_is_confined(host: Host) -> None:
    """What systemd thinks of the unit's exposure while it serves, from 0 (none) to 10."""
    assert echo(host)["release"] == CURRENT
    said = host.check_output(f"systemd-analyze security --no-pager {UNIT}")
    found = re.search(r"Overall exposure level for .*: (\d+\.\d)", said)
    assert found is not None, said
    print(f"exposure {found[1]}")
    assert float(found[1]) <= 1.3


def test_flips_between_granian_and_gunicorn_lose_nothing(host: Host, address: str) -> None:
    """Each is started, flipped to, and the one before it stopped, under requests short and long."""
    before = CURRENT
    with Load(address, rate=150, clients=12) as load, Load(address, "/slow", rate=3, clients=6) as slow:
        for release in (GUNICORN, OTHER, GUNICORN, CURRENT):
            permit(host, release)
            assert holds_soon(lambda release=release: bool(echo(host, f"/srv/echo/releases/{release}/app.sock")))  # type: ignore[misc]
            activate(host, release)
            time.sleep(1.5)
            retire(host, before)
            before = release
    assert not load.failures + slow.failures
    assert load.seen.keys() == {CURRENT, OTHER, GUNICORN}
    assert min(load.seen.values()) > 50
    host.run_test("rm -rf /run/wsgi.fleet/echo")


def test_replacing_workers_loses_nothing() -> None:
    """Those that have become too large, while clients keep sending."""
    settings = {"granian_workers_max_rss": 1, "granian_settings": {"rss_sample_interval": 1, "respawn_interval": 1}}
    try:
        done = apply_role("granian", "wsgi.fleet.granian", settings)
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: bool(echo(host)))  # type: ignore[misc]
            before = set(workers(host))
            with Load(str(host.ansible.get_variables()["fleet_address"]), rate=150, clients=12) as load:
                time.sleep(8)
            assert not load.failures
            assert not before & set(workers(host))
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


WAITING = """
import socket
connections = [socket.socket(socket.AF_UNIX) for _turn in range(400)]
for connection in connections:
    connection.settimeout(60)
    connection.connect("/srv/echo/current/app.sock")
    connection.sendall(b"GET /slow HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
open("/tmp/all-have-asked", "w").close()
print(sum(connection.makefile("rb").read(12) == b"HTTP/1.1 200" for connection in connections))
"""


def test_connections_that_nobody_has_taken_are_answered_when_the_instance_stops() -> None:
    """More of them than all workers take, so that the rest waits in the kernel."""
    try:
        settings = {"granian_workers": 1, "granian_threads": 100, "granian_backpressure": 128}
        assert apply_role("granian", "wsgi.fleet.granian", settings).returncode == 0
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: bool(echo(host)))  # type: ignore[misc]
            with concurrent.futures.ThreadPoolExecutor() as pool:
                asked = pool.submit(host.run, "runuser -u www-data -- python3 -c %s", WAITING)
                assert holds_soon(lambda host=host: host.file("/tmp/all-have-asked").exists)  # type: ignore[misc]  # noqa: S108
                host.run_test(f"systemctl stop {UNIT}")
                assert asked.result().stdout.split() == ["400"], asked.result().stderr
            assert show(host, "Result") == "success"
            host.run_test(f"systemctl start {UNIT}")
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


def stay_connected(host: Host) -> bool:
    """Tell whether an idle connection still takes a request after as long as the web server keeps it."""
    done = host.run("runuser -u www-data -- python3 -c %s", IDLE)
    return str(done.stdout).split() == ["200", "200"]


IDLE = """
import http.client, socket, time
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/srv/echo/current/app.sock")
for pause in (0, 61):
    time.sleep(pause)
    connection.request("POST", "/", body=b"x")
    response = connection.getresponse()
    response.read()
    print(response.status)
"""


def test_an_idle_connection_stays_longer_than_the_web_server_keeps_it() -> None:
    """60 seconds, so that it is never closed under a request; by itself Granian would close it after 30."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(pool.map(stay_connected, hosts_of_scenario().values())) == [True, True]


KEPT = """
import http.client, os, select, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(10)
connection.sock.connect("/run/echo/aaaaaaaaaaaa/app.sock")
sock = connection.sock
for current in (None, "releases/bbbbbbbbbbbb"):
    if current:
        os.symlink(current, "/srv/echo/.next")
        os.rename("/srv/echo/.next", "/srv/echo/current")
    connection.request("GET", "/")
    response = connection.getresponse()
    if current:
        sock = os.fdopen(os.dup(response.fp.fileno()), "rb", 0)
    response.read()
    print(response.status, "closes" if response.will_close else "keeps")
select.select([sock], [], [], 10)
print(sock.read(1))
"""


def test_a_kept_connection_ends_with_the_release(host: Host) -> None:
    """After a flip it answers what it is asked once more, and closes, so that what comes next is the new release's."""
    try:
        assert host.check_output("python3 -c %s", KEPT).splitlines() == ["200 keeps", "200 closes", "b''"]
    finally:
        host.check_output("ln -sfn releases/aaaaaaaaaaaa /srv/echo/current")


def test_settings_take_effect() -> None:
    """Other numbers, an access log of one line for each request, and what the role does not name."""
    settings = {
        "granian_workers": 1,
        "granian_threads": 3,
        "granian_access_log": True,
        "granian_settings": {"url_path_prefix": "/shop", "http1_settings": {"max_buffer_size": 20000}},
    }
    try:
        done = apply_role("granian", "wsgi.fleet.granian", settings)
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: len(workers(host)) == 1)  # type: ignore[misc]
            headers = {"X-Forwarded-For": "203.0.113.9"}
            assert ask_socket(host, SOCKET, "/shop/one%0Atwo", headers=headers).status == 200
            assert ask_socket(host, SOCKET, "/shop", headers={"X-Large": "x" * 30000}).status == 431
            with concurrent.futures.ThreadPoolExecutor() as pool:
                before = time.monotonic()
                assert len(list(pool.map(lambda _turn: ask_socket(host, SOCKET, "/shop/slow"), range(4)))) == 4  # noqa: B023
                assert time.monotonic() - before > 3.9
            journal = host.check_output(f"{JOURNAL} {UNIT} | grep HTTP/1.1")
            assert '203.0.113.9 "GET /shop/one\\ntwo HTTP/1.1" 200' in journal
            assert " 204 " not in journal
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


def test_a_stuck_worker_is_replaced_and_a_busy_one_is_not() -> None:
    """The journal says where it was stuck. Requests of the other worker go on, and so does a slow answer."""
    settings = {"granian_workers": 2, "granian_threads": 2, "granian_hang_timeout": 6}
    try:
        done = apply_role("granian", "wsgi.fleet.granian", settings)
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: len(workers(host)) == 2)  # type: ignore[misc]
            master, before = show(host, "MainPID"), workers(host)
            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                # More than the threads for long, each of which takes a third of what is allowed.
                slow = [pool.submit(echo, host, path="/slow", timeout=30) for _turn in range(16)]
                assert {answer.result()["pid"] for answer in slow} <= set(before)
                assert workers(host) == before
                # Which worker takes a request is the kernel's to say: one may get a single one, and has a thread left.
                stuck = [pool.submit(ask_socket, host, SOCKET, "/stuck", timeout=20) for _turn in range(4)]
                ends = [str(answer.exception()) for answer in stuck]
                assert sum("closed connection without response" in end or "reset" in end for end in ends) >= 3, ends
                if "timed out" in ends:
                    host.run_test(f"kill -KILL {' '.join(set(before) & set(workers(host)))}")
            assert holds_soon(lambda host=host: len(workers(host)) == 2 and bool(echo(host)))  # type: ignore[misc]
            assert set(before) != set(workers(host))
            assert show(host, "MainPID") == master
            journal = host.check_output(f"{JOURNAL} {UNIT}")
            assert "has not moved for 6 seconds" in journal
            assert 'echo.py", line 20 in app' in journal
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


def test_an_instance_that_takes_no_request_is_restarted() -> None:
    """One whose socket is gone, one whose worker stands still, and one whose launcher does."""
    try:
        done = apply_role("granian", "wsgi.fleet.granian", {"granian_hang_timeout": 4})
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: bool(echo(host)))  # type: ignore[misc]
            master = show(host, "MainPID")
            host.run_test(f"rm /run/echo/{CURRENT}/app.sock")
            assert holds_soon(partial(has_returned, host, master), 20)
            master, before = show(host, "MainPID"), workers(host)
            host.run_test(f"kill -STOP {before[0]}")
            assert holds_soon(partial(has_replaced, host, before), 20)
            assert show(host, "MainPID") == master
            host.run_test(f"kill -STOP {master}")
            assert holds_soon(partial(has_returned, host, master), 30)
            assert "watchdog" in host.check_output(f"journalctl --no-pager --unit {UNIT}").lower()
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


INSTANCE = {
    "name": "echo",
    "directory": "/srv/echo",
    "module": "echo:make_app(7)",
    "user": "echo",
    "group": "echo",
    "socket_group": "www-data",
    "environment": {"GREETING": "hello world"},
}

MIDDLEWARE = """
def wrap(application):
    def call(environ, start_response):
        def start(status, headers, exc_info=None):
            before = dict(headers).get("X-Wrapped", "")
            headers = [pair for pair in headers if pair[0] != "X-Wrapped"]
            return start_response(status, [*headers, ("X-Wrapped", before + __name__)], exc_info)
        return application(environ, start)
    return call
"""


def test_middleware_and_sizing_come_with_the_instance() -> None:
    """Modules beside the launcher, the first one innermost; numbers of the app role where a setting is auto."""
    instance = {**INSTANCE, "middleware": ["one", "two"], "sizing": {"processes": 3, "threads": 1}}
    try:
        for host in hosts_of_scenario().values():
            for name in ("one", "two"):
                host.run_test("printf %%s %s > /srv/echo/releases/aaaaaaaaaaaa/" + name + ".py", MIDDLEWARE)
        done = apply_role("granian", "wsgi.fleet.granian", {"granian_instance": instance})
        assert done.returncode == 0, done.stdout
        for host in hosts_of_scenario().values():
            assert holds_soon(lambda host=host: len(workers(host)) == 3)  # type: ignore[misc]
            assert holds_soon(lambda host=host: ask_socket(host, SOCKET).headers.get("x-wrapped") == "onetwo")  # type: ignore[misc]
            assert "THREADS = 1\n" in host.file("/srv/echo/releases/aaaaaaaaaaaa/granian_launch.py").content_string
    finally:
        assert apply_role("granian", "wsgi.fleet.granian", {}).returncode == 0


@refused_each(
    "granian-new",
    "wsgi.fleet.granian",
    [
        ({"granian_workers": 0}, "granian_workers: '0' is not a number of processes"),
        ({"granian_workers": "4\n"}, "granian_workers: '4 ' is not a number of processes"),
        ({"granian_threads": 0}, "granian_threads: '0' is not a number of threads"),
        ({"granian_graceful_timeout": 0}, "granian_graceful_timeout: 0 leaves requests in flight no time"),
        ({"granian_keepalive": 0}, "granian_keepalive: 0 leaves a request no time to arrive"),
        ({"granian_hang_timeout": 3}, "granian_hang_timeout: 3 is too short to tell a stuck worker from a busy one"),
        ({"granian_workers_lifetime": 59}, "granian_workers_lifetime: 59 is less than Granian takes"),
        ({"granian_backlog": 100}, "granian_backlog: 100 is less than Granian takes"),
        ({"granian_backpressure": 100}, "granian_backpressure: 100 is so few that idle connections"),
        (
            {"granian_threads": 200, "granian_backpressure": 200},
            "granian_backpressure: 200 is so few that idle connections",
        ),
        (
            {"granian_settings": {"uds": "/a", "runtime_threads": 1, "interface": "asgi"}},
            "granian_settings: interface, uds follows from how an instance is wired and cannot be set",
        ),
        (
            {"granian_settings": {"workers": 3}},
            "granian_settings: workers has a variable of its own: set granian_workers instead",
        ),
        ({"granian_log_level": "loud"}, "value of granian_log_level must be one of"),
        (
            {"granian_instance": {**INSTANCE, "module": "shop/wsgi.py"}},
            "app_module: 'shop/wsgi.py' is not a WSGI callable: write package.module:attribute",
        ),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()
