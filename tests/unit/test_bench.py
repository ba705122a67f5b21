"""The benchmarks' figures: what wrk prints, ratios within a round, tables, goals."""

import json
from typing import Any

import pytest

from scripts import bench_serve as bench

#: What wrk 4.1.0 printed in a run with errors.
WRK = """\
Running 2s test @ http://172.31.78.181/io
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   100.25ms   15.13ms 310.55ms   99.05%
    Req/Sec   631.05     91.42   636.00     95.00%
  Latency Distribution
     50%   98.74ms
     75%  100.65ms
     90%  101.68ms
     99%    1.25s{blank}
  1264 requests in 2.00s, 218.47KB read
  Socket errors: connect 0, read 3, write 0, timeout 2
  Non-2xx or 3xx responses: 64
Requests/sec:    631.23
Transfer/sec:    109.10KB
""".format(blank=" ")


def test_what_wrk_prints() -> None:
    assert bench.read_wrk(WRK, 3.16) == bench.Measurement(rate=600.0, p50=98.74, p99=1250.0, cpu=2.5, failed=69)
    clean = WRK.replace("  Socket errors: connect 0, read 3, write 0, timeout 2\n", "")
    clean = clean.replace("  Non-2xx or 3xx responses: 64\n", "")
    assert bench.read_wrk(clean, 0.632) == bench.Measurement(rate=632.0, p50=98.74, p99=1250.0, cpu=0.5, failed=0)


@pytest.mark.parametrize("text", ["", WRK.replace("1264 requests", "0 requests"), WRK.replace("99%    1.25s \n", "\n")])
def test_a_run_without_answers_is_an_error(text: str) -> None:
    with pytest.raises(bench.BenchError, match="wrk told nothing"):
        bench.read_wrk(text, 1.0)


@pytest.mark.parametrize(
    ("text", "value"), [("635.00us", 0.635), ("1.20ms", 1.2), ("1.25s", 1250.0), ("2.00m", 120000.0)]
)
def test_times_of_wrk(text: str, value: float) -> None:
    assert bench.milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1.2", "-nan", "1.2 ms"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(bench.BenchError):
        bench.milliseconds(text)


def measured(rate: float, failed: int = 0) -> bench.Measurement:
    return bench.Measurement(rate=rate, p50=10, p99=1000 / rate, cpu=10 / rate, failed=failed)


def rounds(*rates: dict[str, float]) -> list[dict[str, dict[str, bench.Measurement]]]:
    """Rounds in which each variant had the same rate on all views."""
    return [{view: {name: measured(rate) for name, rate in part.items()} for view in bench.VIEWS} for part in rates]


FOUND = rounds(
    {"Granian": 400, "seed-gunicorn": 100, "Gunicorn sync": 150},
    # The machine was busy, and the ratios are nearly the same.
    {"seed-gunicorn": 10, "Gunicorn sync": 16, "Granian": 41},
    {"seed-gunicorn": 100, "Gunicorn sync": 110, "Granian": 500},
)


def test_ratios_are_those_within_a_round() -> None:
    assert bench.ratio(FOUND, "/", "Granian", "rate") == bench.Ratio(4.1, 4.0, 5.0)
    assert bench.ratio(FOUND, "/", "Granian", "cpu") == bench.Ratio(0.244, 0.2, 0.25)
    assert bench.ratio(FOUND, "/", "seed-gunicorn", "rate") == bench.Ratio(1, 1, 1)
    assert bench.ratio(FOUND, "/", "uWSGI", "rate") is None


def test_the_table_has_the_seeds_first() -> None:
    assert bench.variants_of(FOUND) == ["seed-gunicorn", "Granian", "Gunicorn sync"]
    lines = bench.table(FOUND, "rate")
    assert lines[0].split("|")[1:-1] == [
        "               ", " plain         ", " CPU-bound     ", " 50 ms I/O     ", " cached        ",
    ]  # fmt: skip
    assert lines[1].startswith("| ------------- | ------------: |")
    assert lines[3].startswith("| Granian       | 4.1 (4.0–5.0) |")  # noqa: RUF001 -- a range
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(("value", "text"), [(0.333, "0.33"), (1.0, "1.0"), (4.06, "4.1"), (13.4, "13"), (0.0, "0.00")])
def test_ratios_have_the_digits_that_count(value: float, text: str) -> None:
    assert bench.number(value) == text


def test_goals_name_who_reaches_them() -> None:
    assert bench.goals(FOUND) == [
        "plain view, best server: 4.1 times the seed's requests/s (Granian); the goal is 4: reached",
        "plain view, Gunicorn: 1.5 times the seed's requests/s (Gunicorn sync); the goal is 1.5: reached",
        "50 ms view: 4.1 times the seed's requests/s (Granian); the goal is 12: MISSED",
    ]


def test_without_gunicorn_its_goal_cannot_be_told() -> None:
    assert bench.goals(rounds({"seed-gunicorn": 1, "Granian": 5}))[1] == (
        "plain view, Gunicorn: no variant of 'Gunicorn' was measured"
    )


def test_failures_are_told() -> None:
    found = rounds({"seed-gunicorn": 1, "Gunicorn": 5})
    found[0]["/io"]["Gunicorn"] = measured(5, failed=7)
    assert bench.failures(found) == ["round 1, /io, Gunicorn: 7 failed"]
    assert "round 1, /io, Gunicorn: 7 failed" in bench.report(found)


def test_rounds_are_read_back() -> None:
    plain: dict[str, Any] = {
        "began": "then",
        "rounds": [{"/": {"a": {"rate": 1.0, "p50": 2.0, "p99": 3.0, "cpu": 4.0, "failed": 0}}}],
    }
    assert bench.load(json.dumps(plain)) == [{"/": {"a": bench.Measurement(1.0, 2.0, 3.0, 4.0, 0)}}]


@pytest.mark.parametrize(("count", "names"), [(0, "abc"), (1, "bca"), (3, "abc"), (5, "cab")])
def test_each_round_begins_with_another_variant(count: int, names: str) -> None:
    assert list(bench.turn("abc", count)) == list(names)
