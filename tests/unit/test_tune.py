"""What to try and what to choose, and the client that keeps an instance busy: tables of cases."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _drive as client
from ansible_collections.wsgi.fleet.plugins.module_utils import _tune as core
from hypothesis import given
from hypothesis import strategies as st

# What to try


@pytest.mark.parametrize(
    ("server", "processors", "first", "last", "count"),
    [
        (
            "gunicorn",
            1,
            {"gunicorn_workers": 1, "gunicorn_threads": 1},
            {"gunicorn_workers": 2, "gunicorn_threads": 32},
            10,
        ),
        (
            "gunicorn",
            2,
            {"gunicorn_workers": 1, "gunicorn_threads": 1},
            {"gunicorn_workers": 4, "gunicorn_threads": 32},
            15,
        ),
        ("uwsgi", 8, {"uwsgi_processes": 4, "uwsgi_threads": 1}, {"uwsgi_processes": 16, "uwsgi_threads": 32}, 15),
        ("granian", 3, {"granian_workers": 2, "granian_threads": 1}, {"granian_workers": 6, "granian_threads": 32}, 15),
    ],
)
def test_without_a_wish_a_grid_is_tried(
    server: str, processors: int, first: dict[str, int], last: dict[str, int], count: int
) -> None:
    grid = core.default_candidates(server, processors)
    assert (grid[0], grid[-1], len(grid)) == (first, last, count)
    assert [entry.settings for entry in core.candidates(server, processors)] == [{}, *grid]


def test_a_server_without_a_grid_asks_for_candidates() -> None:
    with pytest.raises(core.TuneError, match="must be set for app_server 'waitress'"):
        core.candidates("waitress", 2)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "as it is"),
        ({"gunicorn_workers": 2, "gunicorn_threads": 8}, "workers 2, threads 8"),
        ({"app_server": "uwsgi"}, "uwsgi"),
        ({"app_server": "uwsgi", "uwsgi_processes": 2}, "uwsgi processes 2"),
        ({"app_server": "gunicorn", "gunicorn_threads": 8}, "threads 8"),
    ],
)
def test_settings_have_a_short_name(settings: dict[str, Any], label: str) -> None:
    assert core.label_of(settings, "gunicorn") == label


def test_what_is_wished_for_twice_is_tried_once() -> None:
    found = core.candidates("gunicorn", 2, [{"gunicorn_threads": 4}, {"gunicorn_threads": 4}, {"gunicorn_threads": 8}])
    assert [entry.label for entry in found] == ["as it is", "threads 4", "threads 8"]


@pytest.mark.parametrize("settings", [{}, "gunicorn_threads=4", None, 4])
def test_what_names_no_settings_is_refused(settings: Any) -> None:
    with pytest.raises(core.TuneError, match="names no settings"):
        core.candidates("gunicorn", 2, [settings])


# What to choose


def run(release: str, rate: float, memory: float | None = 60.0, p99: float = 50.0, failed: int = 0) -> dict[str, Any]:
    return {
        "release": release, "rate": rate, "p50_ms": 20.0, "p99_ms": p99, "cpu_ms": 1.0, "memory_mb": memory,
        "failed": failed,
    }  # fmt: skip


def tried(*labels: str) -> list[dict[str, Any]]:
    """Candidates whose settings are their names, each with a release of the same name."""
    return [
        {"label": label, "settings": {} if label == "as it is" else {"x": label}, "release": label} for label in labels
    ]


def test_figures_are_medians_over_the_rounds() -> None:
    found = core.figures(
        core.Candidate("a", {"x": 1}), [run("a", 90, 50, 10), run("a", 130, 70, 40), run("a", 100, 60, 20, 2)]
    )
    assert found == core.Figures("a", {"x": 1}, 100.0, 20.0, 20.0, 1.0, 60.0, 0.2, 2)


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        # The quickest one.
        ({"as it is": (100, 60, 50), "b": (200, 60, 50), "c": (150, 60, 50)}, "b"),
        # Of those that are not told from it, the one with the least memory.
        ({"as it is": (100, 60, 50), "b": (200, 120, 50), "c": (191, 60, 50)}, "c"),
        ({"as it is": (100, 60, 50), "b": (200, 120, 50), "c": (189, 60, 50)}, "b"),
        # Of those that take as much, the one with the shortest waits.
        ({"as it is": (100, 60, 50), "b": (200, 60, 90), "c": (195, 62, 40)}, "c"),
        # Nothing is changed for nothing.
        ({"as it is": (195, 64, 90), "b": (200, 60, 50)}, "as it is"),
        ({"as it is": (195, 67, 90), "b": (200, 60, 50)}, "b"),
        # Where memory is not told, it does not count.
        ({"as it is": (100, None, 50), "b": (200, None, 90), "c": (195, None, 40)}, "c"),
    ],
)
def test_the_choice(runs: dict[str, tuple[float, float | None, float]], chosen: str) -> None:
    found = [core.figures(core.Candidate(label, {}), [run(label, *values)]) for label, values in runs.items()]
    assert core.choose(found).label == chosen


def test_the_quickest_is_not_chosen_if_a_request_failed() -> None:
    found = [
        core.figures(core.Candidate("a", {}), [run("a", 100)]),
        core.figures(core.Candidate("b", {}), [run("b", 900), run("b", 900, failed=1)]),
    ]
    assert core.choose(found).label == "a"


def test_rounds_that_are_far_apart_make_the_noise() -> None:
    quiet = core.Figures("a", {}, 100, 1, 1, 1, 60, 0.01, 0)
    loud = core.Figures("b", {}, 115, 1, 1, 1, 90, 0.2, 0)
    assert core.noise_of([quiet, quiet, loud]) == 0.05
    assert core.noise_of([quiet, loud, loud]) == 0.2
    assert core.choose([quiet, quiet, loud]).label == "b"
    assert core.choose([quiet, loud, loud]).label == "a"


def test_a_report_for_a_terminal() -> None:
    rounds = [
        [run("as it is", 100), run("b", 210, 80), run("c", 50, failed=1)],
        [run("c", 50), run("b", 200, 80), run("as it is", 104)],
        [run("as it is", 102), run("b", 190, 80), run("c", 50)],
    ]
    found = core.report(tried("as it is", "b", "c"), rounds)
    assert found["lines"] == [
        "settings  requests/s  +-  p50 ms  p99 ms  CPU ms   MiB  failed",
        "b                200  5%    20.0    50.0    1.00  80.0       0  <-",
        "as it is         102  2%    20.0    50.0    1.00  60.0       0",
        "c               50.0  0%    20.0    50.0    1.00  60.0       1",
        "",
        "b        |######################################## 200",
        "as it is |#################### 102",
        "c        |########## 50.0",
        "",
        "# 1.96 times the requests/s of what you have, 1.33 times its memory; differences below 5% are noise.",
        "x: b",
    ]
    assert (found["chosen"], found["noise"]) == ({"x": "b"}, 0.05)
    assert [(entry["label"], entry["chosen"]) for entry in found["candidates"]] == [
        ("b", True), ("as it is", False), ("c", False),
    ]  # fmt: skip


def test_the_present_settings_are_kept_with_a_word() -> None:
    found = core.report(tried("as it is", "b"), [[run("as it is", 100), run("b", 104)]])
    assert found["lines"][-1] == (
        "# Keep what you have: nothing that takes as little memory is quicker by more than the noise, 5%."
    )
    assert found["chosen"] == {}


def test_two_names_of_one_instance_are_one_line() -> None:
    names = [*tried("as it is"), {"label": "b", "settings": {"x": 1}, "release": "as it is"}]
    found = core.report(names, [[run("as it is", 100)]])
    assert "as it is = b: the same instance." in found["lines"]
    assert [entry["label"] for entry in found["candidates"]] == ["as it is"]


@pytest.mark.parametrize(
    ("value", "line"),
    [("gevent", "x: gevent"), (8, "x: 8"), (True, "x: true"), ({"backlog": 64}, 'x: {"backlog": 64}')],
)
def test_what_to_paste_is_yaml(value: Any, line: str) -> None:
    chosen = core.Figures("b", {"x": value}, 100, 1, 1, 1, 60, 0, 0)
    assert core.advise([chosen], chosen) == ["# The best that was measured; differences below 5% are noise.", line]


# Answers, piece by piece


def fed(*pieces: bytes) -> tuple[int, bool, list[bool]]:
    answer = client.Answer()
    whole = [answer.feed(piece) for piece in pieces]
    return answer.status, answer.close, whole


@pytest.mark.parametrize(
    ("text", "status", "close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", 200, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, False),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, False),
        (b"HTTP/1.1 302 F\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 302, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, True),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", 200, False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\nx", 500, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA;x=y\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", 200, False),
    ],
)
def test_an_answer_ends_where_it_says(text: bytes, status: int, close: bool) -> None:
    assert fed(text) == (status, close, [True])
    single = [text[at : at + 1] for at in range(len(text))]
    assert fed(*single) == (status, close, [*[False] * (len(text) - 1), True])


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.randoms())
def test_chunks_may_hold_anything_and_be_cut_anywhere(chunks: list[bytes], random: Any) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    cuts = sorted(random.randrange(1, len(text)) for _cut in range(4))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]
    assert fed(*pieces) == (200, False, [*[False] * (len(pieces) - 1), True])


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    assert fed(b"HTTP/1.1 200 OK\r\n\r\nab", b"c", b"") == (200, True, [False, False, True])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b""], "no answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", b""], "the connection ended before the answer was whole"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b""], "the connection ended before"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello"], "more came than the answer's length"),
        ([b"SSH-2.0-x\r\n\r\n"], "no answer of HTTP/1"),
        ([b"x" * 70000], "has no end"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"], "the length of a chunk"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(pieces: list[bytes], message: str) -> None:
    with pytest.raises(client.DriveError, match=message):
        fed(*pieces)


# The client, against a server that does what it is told

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server that answers each request by a function of its number; no bytes close the connection."""
    listening = socket.socket(socket.AF_UNIX)
    lock = threading.Lock()
    count = 0

    def talk(connection: socket.socket, answer: Callable[[int], bytes]) -> None:
        nonlocal count
        # The client leaves while answers are under way.
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                with lock:
                    count += 1
                    number = count
                text = answer(number)
                if not text:
                    return
                connection.sendall(text)
                if b"close" in text:
                    return

    def accept(answer: Callable[[int], bytes]) -> None:
        while True:
            try:
                connection, _peer = listening.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection, answer), daemon=True).start()

    def start(answer: Callable[[int], bytes]) -> Path:
        path = tmp_path / "app.sock"
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=accept, args=(answer,), daemon=True).start()
        return path

    yield start
    # Else accept would go on.
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def driven(path: Path, **arguments: Any) -> client.Sample:
    given_ = {"connections": 4, "seconds": 0.3, "warmup": 0.0, "timeout": 5.0, **arguments}
    return client.drive(path, client.request_for("/", "localhost"), **given_)


def test_a_request_says_who_asks_as_the_web_server_does() -> None:
    assert client.request_for("/a?b", "shop.example.com") == (
        b"GET /a?b HTTP/1.1\r\nHost: shop.example.com\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"User-Agent: wsgi.fleet tune\r\nAccept: */*\r\n\r\n"
    )


def test_latency_is_what_the_instance_takes(serve: Serve) -> None:
    def slow(_number: int) -> bytes:
        time.sleep(0.05)
        return OK

    sample = driven(serve(slow), seconds=0.5)
    # Four connections, 20 answers a second each at the most.
    assert 4 <= len(sample.latencies) <= 44
    assert min(sample.latencies) >= 0.05
    assert (sample.failed, sample.reasons) == (0, {})
    assert sample.seconds >= 0.5
    assert sample.rate == pytest.approx(len(sample.latencies) / sample.seconds)


@pytest.mark.parametrize("answer", [OK, OK.replace(b"Content", b"Connection: close\r\nContent")])
def test_kept_connections_and_ended_ones_lose_nothing(serve: Serve, answer: bytes) -> None:
    sample = driven(serve(lambda _number: answer))
    assert len(sample.latencies) > 20
    assert (sample.failed, sample.reasons) == (0, {})


def test_what_fails_is_counted_and_the_rest_goes_on(serve: Serve) -> None:
    def some(number: int) -> bytes:
        return b"" if number % 10 == 0 else OK.replace(b"200 OK", b"503 No") if number % 10 == 1 else OK

    sample = driven(serve(some))
    assert sample.failed == sum(sample.reasons.values()) > 1
    assert set(sample.reasons) == {"no answer", "status 503"}
    assert len(sample.latencies) > sample.failed


def test_a_socket_that_is_not_there_fails_again_and_again(tmp_path: Path) -> None:
    sample = driven(tmp_path / "app.sock", seconds=0.2)
    assert sample.latencies == []
    # At once, and every 50 ms after that: no busy loop.
    assert 4 <= sample.failed <= 20
    assert list(sample.reasons) == ["no connection: No such file or directory"]


def test_an_instance_that_says_nothing_is_a_failure(serve: Serve) -> None:
    def silent(_number: int) -> bytes:
        time.sleep(3)
        return b""

    sample = driven(serve(silent), seconds=2.5, timeout=0.4)
    assert sample.latencies == []
    assert list(sample.reasons) == ["no answer within 0.4 s"]
    assert 4 <= sample.failed <= 8


def test_the_warm_up_does_not_count(serve: Serve) -> None:
    began = time.monotonic()
    marks: list[float] = []

    def failing_first(_number: int) -> bytes:
        return OK if time.monotonic() - began > 0.25 else OK.replace(b"200 OK", b"500 No")

    sample = driven(serve(failing_first), warmup=0.4, seconds=0.2, mark=lambda: marks.append(time.monotonic() - began))
    assert sample.failed == 0
    assert marks[0] >= 0.4
    assert marks[1] - marks[0] >= 0.2


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([4, 1, 3, 2], 0.5, 2), (list(range(1, 101)), 0.99, 99), ([1, 2], 0.0, 1)],
)
def test_quantiles(values: list[float], share: float, found: float | None) -> None:
    assert client.quantile(values, share) == found


# What an instance takes


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Three processes, two of which are of the unit shop@a, on a host with both versions of control groups."""
    place = "/system.slice/system-shop.slice/shop@a.service"
    ours = f"13:cpu,cpuacct:{place}\n0::{place}\n"
    for number, group, times in (
        (10, ours, "100 50 7 3"),
        (11, ours + "\n", "1 2 3 4"),
        (12, ours.replace("@a", "@ab"), "9 9 9 9"),
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "cgroup").write_text(group)
        (directory / "stat").write_text(f"{number} (a ) b) S 1 2 3 4 5 6 7 8 9 10 {times} 20 0 1 0 99\n")
        (directory / "smaps_rollup").write_text(
            f"0-1 ---p 0 0:0 0 [rollup]\nRss: 9999 kB\nPss: {1024 * number} kB\nPss_Anon: 7 kB\n"
        )
    (tmp_path / "self").mkdir()
    return tmp_path


def test_the_processes_of_a_unit_are_found_by_their_control_group(proc: Path) -> None:
    assert client.processes_of("shop@a.service", proc) == [10, 11]
    assert client.processes_of("shop@ab.service", proc) == [12]
    assert client.processes_of("shop@b.service", proc) == []


def test_processor_time_counts_children_that_ended(proc: Path) -> None:
    # One process is gone since it was listed.
    assert client.ticks_of([10, 11, 99], proc) == 170


def test_memory_counts_what_is_shared_once(proc: Path) -> None:
    assert client.memory_of([10, 11, 99], proc) == 21.0
    assert client.memory_of([99], proc) is None


def test_settings_of_a_candidate_can_be_copied() -> None:
    """Those of a template cannot, which Ansible refuses."""

    class Lazy(dict[str, Any]):
        def __copy__(self) -> Any:
            raise AssertionError("copied")

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            assert settings, "made of another one"
            super().__init__(**settings)

    asked = Lazy(gunicorn_settings=Lazy(raw_env=["A=1"]))
    (_present, found) = core.candidates("gunicorn", 2, [asked])
    assert not isinstance(found.settings["gunicorn_settings"], Lazy)
    assert dataclasses.asdict(found)["settings"] == {"gunicorn_settings": {"raw_env": ["A=1"]}}
