"""Instances of every worker class side by side: the same is expected of each, but for what it cannot do."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import hosts_of_scenario
from testinfra.host import Host

CLASSES = ("sync", "gthread", "gevent", "tornado", "eventlet")
#: Those whose workers have several requests at a time.
SHARING = ("gthread", "gevent", "eventlet")

PROBE = Path(__file__).with_name("probe.py")

Found = Mapping[str, Any]


@pytest.fixture(scope="module")
def probed() -> Mapping[str, Mapping[str, Found]]:
    """Ask all instances of all hosts at the same time; return what happened by host and worker class."""

    def probe(host: Host) -> Mapping[str, Found]:
        found: Mapping[str, Found] = json.loads(
            host.check_output(f"python3 -c %s {' '.join(CLASSES)}", PROBE.read_text())
        )
        return found

    hosts = hosts_of_scenario()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(hosts, pool.map(probe, hosts.values()), strict=True))


@pytest.fixture(params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    """A worker class."""
    return str(request.param)


@pytest.fixture
def found(host: Host, name: str, probed: Mapping[str, Mapping[str, Found]]) -> Found:
    """What happened to the instance of a worker class."""
    return probed[host.backend.get_hostname()][name]


def journal(host: Host, name: str) -> str:
    """Return what an instance has logged."""
    return str(host.check_output(f"journalctl --no-pager --output cat --unit {name}@cccccccccccc.service"))


def test_client_scheme_and_host(found: Found) -> None:
    """What the web server says of a request reaches the application, and nothing where it says nothing."""
    seen, plain = found["basics"]["seen"], found["basics"]["plain"]
    assert (seen["client"], seen["scheme"], seen["host"]) == ("203.0.113.9", "https", "shop.example.com")
    assert (plain["client"], plain["scheme"], plain["host"]) == ("", "http", "localhost")


def test_head_has_no_body(found: Found, name: str) -> None:
    """The application sends one, and the next answer over the same connection is whole all the same."""
    if name == "eventlet":
        assert found["basics"]["head"][0][0] == 200, "Gunicorn 25 leaves the body to the application"
        return
    first, *more = found["basics"]["head"]
    assert first == [200, "", name == "sync"]
    assert [(status, body.startswith("{")) for status, body, _closes in more] == [(200, True)] * (name != "sync")


def test_uploads_arrive_whole(found: Found) -> None:
    """With a length and in chunks."""
    assert found["basics"]["upload"] == "4cec085644994810cc54b2cd50a84f111b8be77ae146615867bf022e1e3ff130"
    assert found["basics"]["chunked"] == "4cec085644994810cc54b2cd50a84f111b8be77ae146615867bf022e1e3ff130"


def test_an_application_that_fails_has_answered(found: Found) -> None:
    assert found["basics"]["fails"] == 500


def test_an_answer_is_sent_while_it_is_made(found: Found, name: str) -> None:
    """Not so under Tornado. It may take longer than an application may take to begin it."""
    streaming = found["streaming"]
    assert streaming["text"] == "0\n1\n2\n3\n4\n"
    assert streaming["whole_after"] >= 5
    assert (streaming["first_after"] < 3) is (name != "tornado")


def test_requests_side_by_side(found: Found, name: str) -> None:
    """Two workers that have one request at a time need three seconds for twelve of half a second."""
    assert found["side_by_side"]["statuses"] == [200] * 12
    assert (found["side_by_side"]["seconds"] < 2.9) is (name in SHARING)


def test_a_kept_connection_ends_with_the_release(found: Found, name: str) -> None:
    """It answers once more after a flip, and closes; where none is kept, each is closed."""
    assert found["flip"] == ([[200, True]] if name == "sync" else [[200, False], [200, True]])


def test_the_application_is_loaded_where_it_was_asked_for(found: Found, name: str) -> None:
    loaded = found["preloaded"]
    assert (loaded["imported_by"] == loaded["master"]) is (name == "sync")


def test_workers_are_replaced_after_many_requests(found: Found, name: str) -> None:
    """All of them, and no request is lost, but for eventlet: there a plain Gunicorn loses some as well."""
    many = found["many"]
    assert len(many["wrong"]) <= (10 if name == "eventlet" else 0), many["wrong"]
    assert (many["left"], many["now"]) == (0, 2)
    assert many["sent"] >= 240


def test_a_killed_worker_is_replaced_and_a_killed_master_comes_back(found: Found) -> None:
    killed = found["killed"]
    print(killed)
    assert killed["worker_after"] is not None
    assert killed["same_master"] is True
    assert killed["master_after"] is not None
    # Besides that, only the time to start, in which all instances were killed at once.
    assert killed["pause"] == "1s"


def test_a_worker_that_a_request_blocks_for_ever_is_replaced(host: Host, found: Found, name: str) -> None:
    """Its other requests and those of the other worker are answered, and the journal tells what has happened."""
    stuck = found["stuck"]
    print(stuck)
    assert stuck["failures"] == []
    assert stuck["slow"] == [200] * 3
    assert stuck["status"] in (0, 500)
    assert stuck["replaced_after"] is not None
    if name in SHARING:
        assert 4 <= stuck["replaced_after"] < 15
        said = journal(host, name)
        assert "GET /stuck is without an answer after " in said
        assert "(gunicorn_request_timeout), and its worker is replaced." in said
        assert "threading.Event().wait()" in said
    else:
        assert 7 <= stuck["replaced_after"] < 25
        assert "WORKER TIMEOUT" in journal(host, name)


def test_a_stop_under_load_loses_nothing(found: Found, name: str) -> None:
    """Also not what waits for a worker; connections that are kept hold it up no longer than two seconds."""
    stop = found["stop"]
    print(stop)
    assert stop["wrong"] == []
    assert stop["answers"] == (12 if name == "tornado" else 24)
    assert stop["result"] == "success"
    assert stop["seconds"] < 16


def test_an_application_that_exits_while_it_is_imported(host: Host, probed: Mapping[str, Mapping[str, Found]]) -> None:
    """The instance fails with the reason, and systemd starts it once a second and not as fast as it can."""
    assert 1 <= probed[host.backend.get_hostname()]["exits"]["restarts"] <= 10
    said = journal(host, "exits")
    assert "The application has ended the process while it was imported." in said
    assert "Worker failed to boot." in said
    assert said.count("Booting worker") <= 2 * said.count("Starting gunicorn")
