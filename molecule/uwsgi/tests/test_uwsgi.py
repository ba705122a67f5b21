"""An instance of a release under uWSGI: who reaches it, what it sees and says, how it ends and returns."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fleet_testing import Load, ask, ask_raw, ask_socket, hosts_of_scenario, refused_each
from testinfra.host import Host

#: Releases under uWSGI, of which the first is current, and one under Gunicorn.
CURRENT, OTHER, GUNICORN = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
#: Further ones, as prepare.yml describes them: of the distribution and with few processes at quiet times; as the
#: README's command line; with all kinds of settings; and with processes that end after 100 requests.
DISTRIBUTION, COMMAND_LINE, SETTINGS, SHORT_LIVED = "dddddddddddd", "eeeeeeeeeeee", "ffffffffffff", "111111111111"
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


def workers(host: Host, release: str = CURRENT) -> list[int]:
    """Return the processes below uWSGI's own; none while it is down."""
    master = show(host, "MainPID", f"echo@{release}")
    return [int(pid) for pid in host.run("pgrep -P %s", master).stdout.split()] if master != "0" else []


def master_of(host: Host) -> str:
    """Return the process of the current instance, which must be there: a signal to 0 would go to others."""
    master = show(host, "MainPID")
    assert int(master) > 1
    return master


def socket_of(release: str) -> str:
    """Return where an instance listens that need not be current."""
    return f"/srv/echo/releases/{release}/app.sock"


_STATS = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sys.stdout.write(s.makefile().read())
"""


def stats(host: Host, release: str = CURRENT) -> dict[str, Any]:
    """Return the state of an instance, as the README tells to ask for it."""
    said = host.check_output("python3 -c %s %s", _STATS, f"/run/echo/{release}/stats/stats.sock")
    found: dict[str, Any] = json.loads(said)
    return found


def in_flight(host: Host, release: str = CURRENT) -> int:
    """Return how many requests an instance is at."""
    return sum(core["in_request"] for worker in stats(host, release)["workers"] for core in worker["cores"])


@pytest.fixture(scope="module")
def further() -> Iterator[dict[str, Host]]:
    """The hosts, with the further instances running side by side."""
    hosts = hosts_of_scenario()
    releases = (DISTRIBUTION, COMMAND_LINE, SETTINGS, SHORT_LIVED)

    def start(host: Host) -> None:
        permits = " ".join(f"/run/wsgi.fleet/echo/{release}" for release in releases)
        units = " ".join(f"echo@{release}" for release in releases)
        host.run_test(f"mkdir -p /run/wsgi.fleet/echo && touch {permits} && systemctl start {units}")

    on_all(hosts, start)
    yield hosts
    for host in hosts.values():
        for release in releases:
            retire(host, release)


def on_all(hosts: Mapping[str, Host], what: Callable[[Host], object]) -> None:
    """Do on all hosts at once what is mostly waiting."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(what, hosts.values()))


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


def test_an_answer_that_breaks_off_is_not_taken_for_whole(address: str, host: Host) -> None:
    """The client learns of it, and the journal holds the reason."""
    with pytest.raises(http.client.IncompleteRead):
        ask(address, "/breaks")
    assert "ValueError: halfway" in host.check_output(f"{JOURNAL} {UNIT}")


def test_an_application_that_fails_has_answered(address: str, host: Host) -> None:
    """With an error of its own, not of the web server, and with the reason in the journal."""
    assert ask(address, "/fails").status == 500
    assert "ValueError: on purpose" in host.check_output(f"{JOURNAL} {UNIT}")


def test_a_body_that_nobody_reads_takes_no_answer_away(address: str) -> None:
    """What is refused before it is read is answered all the same."""
    for _turn in range(5):
        assert ask(address, "/unread", method="POST", body=b"x" * (8 << 20), timeout=30).status == 403


def test_connections_to_the_web_server_stay_open(address: str) -> None:
    """That uWSGI ends each of its own is between it and nginx."""
    connection = http.client.HTTPConnection(address, timeout=10)
    for _turn in range(200):
        connection.request("POST", "/", body=b"x")
        response = connection.getresponse()
        assert (response.status, response.will_close) == (200, False)
        response.read()
    connection.close()


def test_a_request_in_flight_is_answered_when_the_instance_stops(host: Host, address: str) -> None:
    """Stopping waits for the answers, of all threads, and then nothing listens any more."""
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = [pool.submit(ask, address, "/slow") for _turn in range(4)]
            assert holds_soon(lambda: in_flight(host) == 4)
            host.run_test(f"systemctl stop {UNIT}")
            assert [answer.result().status for answer in slow] == [200] * 4
        assert show(host, "Result") == "success"
        assert not host.file(f"/run/echo/{CURRENT}").exists
        with pytest.raises(OSError, match="No such file"):
            echo(host)
    finally:
        host.run_test(f"systemctl start {UNIT}")
    assert echo(host)["release"] == CURRENT


def test_requests_that_wait_for_a_thread_are_answered_when_the_instance_stops(host: Host, address: str) -> None:
    """Three times as many as there are threads; those in the kernel's queue are no fewer than the others."""
    threads = 8 * int(host.check_output("nproc"))
    try:
        with concurrent.futures.ThreadPoolExecutor(3 * threads) as pool:
            slow = [pool.submit(ask, address, "/slow", timeout=30) for _turn in range(3 * threads)]
            assert holds_soon(lambda: in_flight(host) == threads)
            time.sleep(0.5)
            host.run_test(f"systemctl stop {UNIT}")
            assert [answer.result().status for answer in slow] == [200] * 3 * threads
        assert show(host, "Result") == "success"
    finally:
        host.run_test(f"systemctl start {UNIT}")
    assert echo(host)["release"] == CURRENT


def test_a_killed_worker_is_replaced(host: Host) -> None:
    """The number of workers stays, without a restart of the instance."""
    before, master = workers(host), master_of(host)
    host.run_test(f"kill -KILL {before[0]}")
    assert holds_soon(lambda: before[0] not in (now := workers(host)) and len(now) == len(before))
    assert show(host, "MainPID") == master
    assert echo(host)["release"] == CURRENT


def test_a_killed_master_comes_back(host: Host) -> None:
    """The instance returns by itself, open to the web server, and nothing is left of the old one."""
    master, old = master_of(host), workers(host)
    host.run_test(f"kill -KILL {master}")
    killed = time.monotonic()
    assert holds_soon(lambda: show(host, "MainPID") not in ("0", master) and bool(echo(host)))
    # One second is the pause before the start; the rest is the start, on a busy machine.
    assert time.monotonic() - killed < 5
    assert echo(host)["release"] == CURRENT
    assert host.run("ps -o pid= -p %s", ",".join(map(str, old))).stdout == ""
    assert not set(old) & set(workers(host))


def test_all_that_is_left_of_a_dead_master_is_ended(host: Host) -> None:
    """Even if what it left behind would go on serving, on connections that nobody answers for."""
    master, old = master_of(host), workers(host)
    host.run_test(f"kill -STOP {old[0]}; kill -KILL {master}")
    assert holds_soon(lambda: host.run("ps -o pid= -p %s", ",".join(map(str, old))).stdout == "", 5)
    assert holds_soon(lambda: echo(host)["release"] == CURRENT)


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


def test_an_application_that_cannot_be_imported_brings_its_instance_down(further: Mapping[str, Host]) -> None:
    """It does not go on without the application; it is tried once a second, and the journal tells why."""

    def try_it(host: Host) -> None:
        entry, unit = f"/srv/echo/releases/{OTHER}/wsgi_entry.py", f"echo@{OTHER}"
        host.run_test(f"cp {entry} /root/entry")
        try:
            for broken, said in (
                ('import_module("nowhere").app', "No module named 'nowhere'"),
                ("sys.exit(3)", "the application has called sys.exit(3) instead of being imported"),
            ):
                host.run_test(f"""sed 's/import_module("echo").*/{broken}/' /root/entry >{entry}""")
                host.run("mkdir -p /run/wsgi.fleet/echo && touch /run/wsgi.fleet/echo/%s", OTHER)
                host.run(f"systemctl start {unit}")
                time.sleep(4)
                assert 1 <= int(show(host, "NRestarts", unit)) <= 4
                retire(host, OTHER)
                journal = host.check_output(f"{JOURNAL} {unit}")
                assert said in journal
                assert "status=22" in journal
        finally:
            retire(host, OTHER)
            host.run_test(f"cp /root/entry {entry} && systemctl reset-failed")

    on_all(further, try_it)


def test_is_confined(host: Host) -> None:
    """What systemd thinks of the unit's exposure while it serves, from 0 (none) to 10."""
    assert echo(host)["release"] == CURRENT
    said = host.check_output(f"systemd-analyze security --no-pager {UNIT}")
    found = re.search(r"Overall exposure level for .*: (\d+\.\d)", said)
    assert found is not None, said
    print(f"exposure {found[1]}")
    assert float(found[1]) <= 1.3


def test_flips_between_uwsgi_and_gunicorn_lose_nothing(host: Host, address: str) -> None:
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


def test_replacing_processes_loses_nothing(further: Mapping[str, Host]) -> None:
    """Those that have had their number of requests, while clients keep sending."""

    def try_it(host: Host) -> None:
        before = set(workers(host, SHORT_LIVED))
        assert len(before) == int(host.check_output("nproc"))
        activate(host, SHORT_LIVED)
        try:
            with Load(str(host.ansible.get_variables()["fleet_address"]), rate=150, clients=12) as load:
                time.sleep(6)
        finally:
            activate(host, CURRENT)
        assert not load.failures
        assert load.seen[SHORT_LIVED] > 300
        assert holds_soon(lambda: not before & set(workers(host, SHORT_LIVED)))

    on_all(further, try_it)


def test_settings_take_effect(further: Mapping[str, Host]) -> None:
    """Other numbers, an access log, what the role does not name, and the end of a process that is stuck."""

    def try_it(host: Host) -> None:
        where = socket_of(SETTINGS)
        before = workers(host, SETTINGS)
        assert len(before) == 1
        answer = ask_socket(host, where, "/logged", headers={"X-Forwarded-For": "203.0.113.9"})
        assert (answer.headers["x-one"], answer.headers["x-two"]) == ("1", "2")
        # A module of the release has wrapped the application, and sees the client.
        assert answer.headers["x-stamped"] == "203.0.113.9"
        assert '203.0.113.9 "GET /logged HTTP/1.1" 200' in host.check_output(f"{JOURNAL} echo@{SETTINGS}")
        assert not host.file(f"/run/echo/{SETTINGS}/stats").exists
        with concurrent.futures.ThreadPoolExecutor() as pool:
            stuck = [pool.submit(ask_socket, host, where, "/stuck", timeout=30)]
            time.sleep(1)
            # As long as others come and go, the process is not stuck.
            assert echo(host, where, "/slow")["release"] == SETTINGS
            assert workers(host, SETTINGS) == before
            stuck.append(pool.submit(ask_socket, host, where, "/stuck", timeout=30))
            for answer in stuck:
                with pytest.raises(OSError, match="closed connection without response"):
                    answer.result()
        assert holds_soon(lambda: workers(host, SETTINGS) not in ([], before))
        assert echo(host, where)["release"] == SETTINGS

    on_all(further, try_it)


def test_the_command_line_of_the_readme(further: Mapping[str, Host]) -> None:
    """Four processes of two threads; the server of files works besides."""

    def try_it(host: Host) -> None:
        where = socket_of(COMMAND_LINE)
        assert len(workers(host, COMMAND_LINE)) == 4
        seen = echo(host, where)
        assert (seen["release"], seen["threads"], seen["made"]) == (COMMAND_LINE, True, 7)
        assert len(stats(host, COMMAND_LINE)["workers"][0]["cores"]) == 2
        assert "make_app(7)" in ask_socket(host, where, "/code/app.py").text

    on_all(further, try_it)


def test_a_process_that_grows_is_replaced(further: Mapping[str, Host]) -> None:
    """Between two requests: each of those that made it grow was answered."""

    def try_it(host: Host) -> None:
        before = set(workers(host, COMMAND_LINE))
        for _turn in range(12):
            assert echo(host, socket_of(COMMAND_LINE), "/leak")["release"] == COMMAND_LINE
        assert holds_soon(lambda: bool(before - set(workers(host, COMMAND_LINE))))
        assert holds_soon(lambda: len(workers(host, COMMAND_LINE)) == 4)
        assert "killed by signal" not in host.check_output(f"{JOURNAL} echo@{COMMAND_LINE}")

    on_all(further, try_it)


def test_the_uwsgi_of_the_distribution_runs_the_application(further: Mapping[str, Host]) -> None:
    """In the virtual environment of the release, with all that the other one sees to."""

    def try_it(host: Host) -> None:
        where, unit = socket_of(DISTRIBUTION), f"echo@{DISTRIBUTION}"
        assert host.check_output("readlink /proc/%s/exe", show(host, "MainPID", unit)) == "/usr/bin/uwsgi-core"
        seen = echo(host, where, headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
        assert (seen["client"], seen["scheme"], seen["threads"]) == ("203.0.113.9", "https", False)
        assert seen["prefix"] == f"/srv/echo/releases/{DISTRIBUTION}/build/venv"
        assert ask_socket(host, where, "/streamed").text == "0\n1\n2\n3\n4\n"
        with pytest.raises(OSError, match="IncompleteRead"):
            ask_socket(host, where, "/breaks")
        assert ask_socket(host, where, "/fails").status == 500

    on_all(further, try_it)


def test_processes_come_and_go_with_the_requests(further: Mapping[str, Host]) -> None:
    """One at quiet times, as many as may be under load, and none ends over a request."""

    def try_it(host: Host) -> None:
        where = socket_of(DISTRIBUTION)
        assert holds_soon(lambda: len(workers(host, DISTRIBUTION)) == 1, 20)
        activate(host, DISTRIBUTION)
        address = str(host.ansible.get_variables()["fleet_address"])
        try:
            with Load(address, rate=20, clients=4) as load:
                with Load(address, "/slow", rate=8, clients=16) as slow:
                    assert holds_soon(lambda: len(workers(host, DISTRIBUTION)) == 4, 20)
                assert holds_soon(lambda: len(workers(host, DISTRIBUTION)) == 1, 40)
        finally:
            activate(host, CURRENT)
        assert not load.failures + slow.failures
        assert load.seen.keys() == {DISTRIBUTION}
        assert echo(host, where)["release"] == DISTRIBUTION

    on_all(further, try_it)


def test_the_uwsgi_of_the_distribution_ends_gently(further: Mapping[str, Host]) -> None:
    """Also with fewer processes than there may be; last, as the instance is not started again."""

    def try_it(host: Host) -> None:
        unit = f"echo@{DISTRIBUTION}"
        address = str(host.ansible.get_variables()["fleet_address"])
        activate(host, DISTRIBUTION)
        try:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                slow = [pool.submit(ask, address, "/slow", timeout=30) for _turn in range(4)]
                assert holds_soon(lambda: in_flight(host, DISTRIBUTION) >= 1)
                time.sleep(0.5)
                host.run_test(f"systemctl stop {unit}")
                assert [answer.result().status for answer in slow] == [200] * 4
        finally:
            activate(host, CURRENT)
        assert show(host, "Result", unit) == "success"

    on_all(further, try_it)


def test_the_state_of_an_instance_is_for_root(host: Host) -> None:
    """It holds what requests say of their clients, which the web server's account and others need not read again."""
    found = stats(host)
    assert sorted(worker["pid"] for worker in found["workers"]) == sorted(workers(host))
    assert {worker["status"] for worker in found["workers"]} == {"idle"}
    for account in ("www-data", "nobody"):
        done = host.run("runuser -u %s -- python3 -c %s %s", account, _STATS, f"/run/echo/{CURRENT}/stats/stats.sock")
        assert done.rc != 0
        assert "PermissionError" in done.stderr


INSTANCE = {"name": "echo", "directory": "/srv/echo", "user": "echo", "group": "echo", "socket_group": "www-data"}


@refused_each(
    "uwsgi-new",
    "wsgi.fleet.uwsgi",
    [
        ({"uwsgi_processes": 0}, "uwsgi_processes: '0' is not a number of processes"),
        ({"uwsgi_processes": "4\n"}, "uwsgi_processes: '4 ' is not a number of processes"),
        ({"uwsgi_threads": 0}, "uwsgi_threads: 0 is not a number of threads"),
        ({"uwsgi_graceful_timeout": 0}, "uwsgi_graceful_timeout: 0 leaves requests in flight no time"),
        ({"uwsgi_buffer_size": 65536}, "uwsgi_buffer_size: 65536 is not a size that uWSGI can take"),
        (
            {"uwsgi_settings": {"http-socket": ":80", "chdir": "/"}},
            "uwsgi_settings: chdir, http-socket follows from how an instance is wired and cannot be set",
        ),
        ({"uwsgi_settings": {"max_requests": 1}}, "uwsgi_settings: 'max_requests' is not the name of an option"),
        ({"uwsgi_settings": {"env": "A=1\nB=2"}}, r"uwsgi_settings: 'A=1\nB=2' holds a line break"),
        (
            {"uwsgi_processes": 2, "uwsgi_threads": 1, "uwsgi_cheaper": 2},
            "uwsgi_cheaper: 2 is not below uwsgi_processes, which is 2",
        ),
        (
            {"uwsgi_package": "distribution", "app_python": "/opt/bin/python3"},
            "uwsgi_package: distribution runs /usr/bin/python3 and no other, but app_python is '/opt/bin/python3'",
        ),
        (
            {"uwsgi_instance": {**INSTANCE, "module": "echo:app", "middleware": ["a/b"]}},
            "uwsgi_instance.middleware: 'a/b' is not the name of a module",
        ),
        (
            {"uwsgi_instance": {**INSTANCE, "module": "shop/wsgi.py"}},
            "app_module: 'shop/wsgi.py' is not a WSGI callable: write package.module:attribute",
        ),
    ],
)
def test_bad_input_is_refused(refusal: Callable[[], str], said: str) -> None:
    """Each message names the variable and what to write instead."""
    assert said in refusal()
