"""Compare worker models, and what people set up by hand, by requests per second, processor time and latency.

usage: .venv/bin/python -m scripts.bench_serve --facts .cache/bench/serve-facts.json [--rounds N] [--seconds N]

benchmarks/serve.yml has put everything on one host, a local container. Here the link ``current`` is turned to each
variant, which is then asked through the host's nginx by wrk: 64 connections that are kept, each with one request under
way. Seeds answer on ports of their own. Rounds are interleaved, and only ratios to the first seed within a round
count, since machines are noisy.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Path and heading of each view of benchmarks/app.
VIEWS: Mapping[str, str] = {"/": "plain", "/cpu": "CPU-bound", "/io": "50 ms I/O", "/cached": "cached"}
SEED = "seed-gunicorn"
#: What the figures of a measurement are called, and whether more is better.
FIGURES: Mapping[str, tuple[str, bool]] = {
    "rate": ("Requests per second", True),
    "cpu": ("Processor time per request", False),
    "p99": ("Latency that 99 of 100 requests do not exceed", False),
}
UNITS: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}


class BenchError(Exception):
    """A measurement that cannot be made, or that tells nothing."""


@dataclass(frozen=True)
class Measurement:
    """What one run of wrk told.

    :param rate: good answers per second.
    :param p50: the median latency in milliseconds.
    :param p99: in milliseconds.
    :param cpu: processor time of the whole host per answer, in milliseconds.
    :param failed: answers of an error, and connections that broke.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    failed: int


def milliseconds(text: str) -> float:
    """Read a time of wrk, such as ``1.20ms``."""
    found = re.fullmatch(r"([0-9.]+)(us|ms|s|m|h)", text)
    if not found:
        raise BenchError(f"'{text}' is no time of wrk")
    return float(found[1]) * UNITS[found[2]]


def read_wrk(text: str, cpu_seconds: float) -> Measurement:
    """Read what ``wrk --latency`` prints.

    :param cpu_seconds: processor time of the host meanwhile.
    :raises BenchError: when there is no answer in it.
    """
    latencies = dict(re.findall(r"^ +(50|99)% +(\S+) *$", text, re.MULTILINE))
    whole = re.search(r"^ +(\d+) requests in (\S+),", text, re.MULTILINE)
    if not whole or len(latencies) != 2 or not int(whole[1]):
        raise BenchError(f"wrk told nothing: {text.strip()}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    bad = int(refused[1]) if refused else 0
    requests, seconds = int(whole[1]), milliseconds(whole[2]) / 1000
    return Measurement(
        rate=round((requests - bad) / seconds, 1),
        p50=round(milliseconds(latencies["50"]), 3),
        p99=round(milliseconds(latencies["99"]), 3),
        cpu=round(1000 * cpu_seconds / requests, 4),
        failed=bad + (sum(map(int, errors.groups())) if errors else 0),
    )


#: Measurements by round, view and variant.
Rounds = Sequence[Mapping[str, Mapping[str, Measurement]]]


@dataclass(frozen=True)
class Ratio:
    """Of a figure of a variant to that of the seed in the same round: the median over the rounds, and the range."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        """Return the median with the range behind it."""
        return f"{number(self.middle)} ({number(self.least)}–{number(self.most)})"  # noqa: RUF001 -- a range


def number(value: float) -> str:
    """Return a ratio with two digits that count."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def ratio(rounds: Rounds, view: str, variant: str, figure: str) -> Ratio | None:
    """Compare a variant with the seed; None where it was not measured."""
    values = [
        getattr(part[view][variant], figure) / getattr(part[view][SEED], figure)
        for part in rounds
        if variant in part.get(view, {}) and SEED in part[view]
    ]
    if not values:
        return None
    return Ratio(round(statistics.median(values), 3), round(min(values), 3), round(max(values), 3))


def variants_of(rounds: Rounds) -> list[str]:
    """List what was measured, the seeds first, each in the order in which it was set up."""
    found: dict[str, None] = {}
    for part in rounds:
        for view in part.values():
            found.update(dict.fromkeys(view))
    return sorted(found, key=lambda name: not name.startswith("seed-"))


def table(rounds: Rounds, figure: str) -> list[str]:
    """Return ratios of one figure as a table in Markdown: a line for each variant, a column for each view."""
    lines = [["", *VIEWS.values()]]
    for variant in variants_of(rounds):
        cells = [ratio(rounds, view, variant, figure) for view in VIEWS]
        lines.append([variant, *(str(cell) if cell else "–" for cell in cells)])  # noqa: RUF001 -- nothing there
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |")
    return text


def best(rounds: Rounds, view: str, prefix: str = "") -> tuple[str, float]:
    """Return the variant with the most requests per second, and how many times the seed's these are."""
    found = {
        variant: value.middle
        for variant in variants_of(rounds)
        if not variant.startswith("seed-") and variant.startswith(prefix)
        if (value := ratio(rounds, view, variant, "rate"))
    }
    if not found:
        raise BenchError(f"no variant of '{prefix}' was measured")
    name = max(found, key=lambda variant: found[variant])
    return name, found[name]


def goals(rounds: Rounds) -> list[str]:
    """Say how far the goals are reached."""
    lines = []
    for what, view, prefix, goal in (
        ("plain view, best server", "/", "", 4.0),
        ("plain view, Gunicorn", "/", "Gunicorn", 1.5),
        ("50 ms view", "/io", "", 12.0),
    ):
        try:
            name, value = best(rounds, view, prefix)
        except BenchError as error:
            lines.append(f"{what}: {error}")
            continue
        verdict = "reached" if value >= goal else "MISSED"
        lines.append(f"{what}: {number(value)} times the seed's requests/s ({name}); the goal is {goal:g}: {verdict}")
    return lines


def failures(rounds: Rounds) -> list[str]:
    """Name the measurements in which something failed."""
    return [
        f"round {count}, {view}, {variant}: {found.failed} failed"
        for count, part in enumerate(rounds, 1)
        for view, measured in part.items()
        for variant, found in measured.items()
        if found.failed
    ]


def report(rounds: Rounds) -> str:
    """Return all that is to be told of the rounds, in Markdown."""
    parts = []
    for figure, (heading, more) in FIGURES.items():
        parts += [f"{heading}, as a multiple of the first line's ({'more' if more else 'less'} is better):", ""]
        parts += [*table(rounds, figure), ""]
    return "\n".join([*parts, *goals(rounds), *failures(rounds)])


def load(text: str) -> Rounds:
    """Read rounds back that were written as JSON."""
    return [
        {view: {name: Measurement(**found) for name, found in measured.items()} for view, measured in part.items()}
        for part in json.loads(text)["rounds"]
    ]


# What follows talks to the host


class _Engine(http.client.HTTPConnection):
    """A connection to the container engine."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")


def cpu_of(container: str) -> float:
    """Return the processor time of a container so far, in seconds."""
    connection = _Engine("localhost")
    try:
        connection.request("GET", f"/containers/{container}/stats?stream=false&one-shot=true")
        return float(json.load(connection.getresponse())["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
    finally:
        connection.close()


@dataclass(frozen=True)
class Host:
    """The container.

    :param facts: what benchmarks/serve.yml wrote.
    :param connections: how many clients ask at a time.
    """

    facts: Mapping[str, Any]
    connections: int

    def urls(self) -> dict[str, str]:
        """Return where each variant answers, seeds first."""
        address = self.facts["address"]
        seeds = {name: f"http://{address}:{port}" for name, port in self.facts["seeds"].items()}
        return {**seeds, **dict.fromkeys(self.facts["variants"], f"http://{address}")}

    def flip(self, release: str) -> None:
        """Make a release current, as release_activate does: by one rename.

        nginx keeps connections to the one before. They would bring a few answers of that, then none: for a
        comparison they go at once.
        """
        root = f"/srv/{self.facts['app']}"
        command = f"ln -s releases/{release} {root}/.current.bench && mv -T {root}/.current.bench {root}/current"
        command += " && systemctl reload nginx && sleep 0.5"
        subprocess.run(["docker", "exec", self.facts["container"], "sh", "-c", command], check=True)

    def wrk(self, url: str, seconds: int) -> str:
        """Ask for some time."""
        command = [
            "wrk",
            "-t",
            "1",
            "-c",
            str(self.connections),
            "-d",
            f"{seconds}s",
            "--latency",
            "--timeout",
            "20s",
        ]
        return subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout

    def served_by(self, url: str) -> str:
        """Ask which release answers."""
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:  # noqa: S310 -- ours
            return str(json.load(answer)["release"])

    def measure(self, variant: str, view: str, seconds: int) -> Measurement:
        """Let a variant answer for some time."""
        url = self.urls()[variant]
        release = self.facts["variants"].get(variant)
        if release:
            self.flip(release)
        self.wrk(url + view, 1)
        # Behind what wrk has left without waiting for an answer, of seeds as of releases: it would count against them.
        found = {self.served_by(url) for _request in range(8)}
        if release and found != {release}:
            raise BenchError(f"{variant}: {release} is current, but {', '.join(sorted(found))} answered")
        before = cpu_of(self.facts["container"])
        text = self.wrk(url + view, seconds)
        return read_wrk(text, cpu_of(self.facts["container"]) - before)


def turn(names: Sequence[str], number_: int) -> Iterator[str]:
    """Begin with another name in each round."""
    start = number_ % len(names)
    yield from [*names[start:], *names[:start]]


def run(host: Host, rounds: int, seconds: int, only: Sequence[str], views: Sequence[str]) -> Rounds:
    """Measure all variants on the views, round after round; whoever looks on sees a line for each view."""
    names = [name for name in host.urls() if name == SEED or not only or any(word in name for word in only)]
    found: list[dict[str, dict[str, Measurement]]] = []
    for count in range(rounds):
        part: dict[str, dict[str, Measurement]] = {}
        for view in views:
            measured = {name: host.measure(name, view, seconds) for name in turn(names, count)}
            part[view] = {name: measured[name] for name in names}
            rates = ", ".join(f"{name} {entry.rate:.0f}" for name, entry in part[view].items())
            print(f"round {count + 1} of {rounds}, {VIEWS[view]}: {rates}", flush=True)
        found.append(part)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--facts", type=Path, required=True, help="what benchmarks/serve.yml wrote")
    parser.add_argument("--out", type=Path, required=True, help="file for all rounds, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", action="append", default=[], help="a part of a variant's name; may be repeated")
    parser.add_argument("--view", action="append", choices=VIEWS, help="the path of a view; may be repeated; all")
    given = parser.parse_args(arguments)
    host = Host(json.loads(given.facts.read_text(encoding="utf-8")), given.connections)
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        rounds = run(host, given.rounds, given.seconds, given.only, given.view or [*VIEWS])
    except (BenchError, OSError, subprocess.SubprocessError, http.client.HTTPException, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plain = [
        {view: {name: asdict(entry) for name, entry in measured.items()} for view, measured in part.items()}
        for part in rounds
    ]
    facts = {"began": began, "seconds": given.seconds, "connections": given.connections, "rounds": plain}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("\n" + report(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
