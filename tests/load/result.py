"""What became of the requests of a run, and the table of several runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .generator import Spec


@dataclass(frozen=True)
class Request:
    """One request; its times are seconds since the run began.

    :param start: when it was meant to start, which its latency counts from.
    :param sent: when the client came to it; later than ``start`` by what the client itself is late.
    :param ended: when its answer was complete, or when it failed.
    :param takes: seconds that its kind lasts by design.
    :param status: 0 when none came.
    :param host: who answered, by the header ``X-Served-By: host/release``; empty without one, as with an error page
        of a proxy. So is ``release``.
    :param reused: whether its connection had served another request before.
    :param category: why it failed, one of those of ``generator.Fault``; empty when it did not.
    """

    number: int
    kind: str
    target: str
    start: float
    sent: float
    ended: float
    takes: float = 0.0
    status: int = 200
    host: str = ""
    release: str = ""
    reused: bool = False
    category: str = ""
    detail: str = ""

    @property
    def latency(self) -> float:
        """Seconds from its intended start to its end."""
        return self.ended - self.start

    @property
    def delay(self) -> float:
        """Seconds of latency beyond what it lasts by design, so that kinds compare."""
        return max(0.0, self.latency - self.takes)

    def __str__(self) -> str:
        connection = "used" if self.reused else "new"
        served = f", {self.host}/{self.release}" if self.host else ""
        return (
            f"{self.start:8.3f} s  {self.kind} by {self.target} on a {connection} connection, "
            f"{self.latency:.3f} s{served}: {self.category}: {self.detail}"
        )


@dataclass(frozen=True)
class Mixture:
    """A host that went back to a release: ``old`` answered, then ``new``, and then ``old`` again.

    :param since: seconds since the run began when ``new`` had answered for the first time.
    :param until: seconds since the run began at which the last request started that ``old`` answered.
    :param requests: those that ``old`` answered although they started after ``since``.
    """

    host: str
    old: str
    new: str
    since: float
    until: float
    requests: Sequence[Request] = field(repr=False)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the nearest-rank percentile: the least value that so many percent do not exceed; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


@dataclass(frozen=True)
class Result:
    """A run.

    :param spec: its plan.
    :param began: ``time.monotonic()`` at its start, of any process of the same machine until that is booted again.
    :param began_at: the same as ISO 8601, UTC, for people.
    :param requests: all that were meant to be sent, by their intended start.
    :param reopened: how often a kept connection was replaced, and why: ``announced`` (by Connection: close),
        ``closed`` or ``reset`` while idle, ``unsolicited`` (an answer that nobody asked for). None of these is a
        failure: no request was on the connection.
    """

    spec: Spec
    began: float
    began_at: str
    requests: Sequence[Request]
    reopened: Mapping[str, int]

    @property
    def failures(self) -> list[Request]:
        """The requests that failed."""
        return [request for request in self.requests if request.category]

    @property
    def lag(self) -> float:
        """The most seconds by which the client itself was late to send a request; latencies contain it.

        A worst latency that is not much more than this says something about the client's machine only.
        """
        return max((request.sent - request.start for request in self.requests), default=0.0)

    def delays(self, kind: str | None = None) -> list[float]:
        """Return the delays in seconds of all requests that were sent, or of one kind of them.

        A failed request counts with the time until it failed.
        """
        return [
            request.delay
            for request in self.requests
            if request.category != "saturated" and kind in (None, request.kind)
        ]

    def offset(self, moment: float) -> float:
        """Return a ``time.monotonic()`` of this machine as seconds since the run began."""
        return moment - self.began

    def answered_after(self, moment: float) -> list[Request]:
        """Return the requests meant to start after a ``time.monotonic()`` that some release answered."""
        return [request for request in self.requests if request.host and request.start > self.offset(moment)]

    def served_after(self, moment: float) -> Counter[str]:
        """Count the answers by release, of the requests meant to start after a ``time.monotonic()``.

        None of them was sent before: a wrong release in it is a wrong answer, and no late one.
        """
        return Counter(request.release for request in self.answered_after(moment))

    def hosts_after(self, moment: float) -> Counter[str]:
        """Count the answers by host, of the requests meant to start after a ``time.monotonic()``."""
        return Counter(request.host for request in self.answered_after(moment))

    @property
    def releases(self) -> Counter[str]:
        """The answers by release."""
        return Counter(request.release for request in self.requests if request.host)

    @property
    def hosts(self) -> Counter[str]:
        """The answers by host."""
        return Counter(request.host for request in self.requests if request.host)

    def mixtures(self) -> list[Mixture]:
        """Return each case of a host that went back to a release it had left.

        Three answers prove it: the old release's ended before the request for the new one's started, and that
        ended before the request for the old one's second started. Requests that overlap prove no order. A rollback
        within the run looks the same.
        """
        found = []
        for host in sorted(self.hosts):
            answers: dict[str, list[Request]] = {}
            for request in sorted(self.requests, key=lambda request: request.ended):
                if request.host == host:
                    answers.setdefault(request.release, []).append(request)
            # In the order of their first answers.
            names = list(answers)
            for index, old in enumerate(names):
                known = answers[old][0].ended
                for new in names[index + 1 :]:
                    since = min((request.ended for request in answers[new] if request.start >= known), default=None)
                    back = [request for request in answers[old] if since is not None and request.start >= since]
                    if since is not None and back:
                        until = max(request.start for request in back)
                        found.append(Mixture(host, old, new, since, until, tuple(back)))
        return found

    def went_back(self, host: str) -> list[Request]:
        """Return the requests that a host answered with a release it had left, by their intended start."""
        back = {
            request.number: request
            for mixture in self.mixtures()
            for request in mixture.requests
            if mixture.host == host
        }
        return [back[number] for number in sorted(back)]

    def row(self, name: str) -> Row:
        """Return this run as a row of the table."""
        delays = self.delays()
        worst = max(delays, default=0.0)
        return Row(
            name,
            len(self.requests),
            len(self.failures),
            percentile(delays, 50),
            percentile(delays, 99),
            worst,
            self.lag,
        )

    def rows(self) -> list[Row]:
        """Return a row for each kind of request, in the order of the plan."""
        found = []
        for kind in self.spec.kinds:
            of_kind = [request for request in self.requests if request.kind == kind.name]
            found.append(Result(self.spec, self.began, self.began_at, of_kind, {}).row(kind.name))
        return found

    def explain(self, most: int = 20) -> str:
        """Return as text what failed, how often, when, and the first ones in full; for the message of an assertion."""
        failed = self.failures
        lines = [
            f"{len(failed)} of {len(self.requests)} requests failed, from {self.began_at} on, "
            f"client late by up to {self.lag:.3f} s"
        ]
        groups: dict[tuple[str, str, str], list[Request]] = {}
        for request in failed:
            groups.setdefault((request.category, request.kind, request.target), []).append(request)
        lines += [
            f"  {len(group)} x {category}: {kind} by {target}, {group[0].start:.3f} to {group[-1].start:.3f} s"
            for (category, kind, target), group in groups.items()
        ]
        lines += [str(request) for request in failed[:most]]
        if len(failed) > most:
            lines.append(f"... and {len(failed) - most} more")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the run, without its single requests but those that failed."""
        return {
            "began_at": self.began_at,
            "rate": self.spec.rate,
            "all": asdict(self.row("all")),
            "kinds": [asdict(row) for row in self.rows()],
            "categories": dict(Counter(request.category for request in self.failures)),
            "failures": [asdict(request) for request in self.failures],
            "reopened": dict(self.reopened),
            "hosts": dict(self.hosts),
            "releases": dict(self.releases),
        }

    def to_json(self) -> str:
        """Return the whole run as text; ``from_json`` reads it."""
        return json.dumps({**asdict(self), "summary": self.summary()})

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what ``to_json`` returned."""
        values = json.loads(text)
        return cls(
            Spec.from_json(json.dumps(values["spec"])),
            values["began"],
            values["began_at"],
            [Request(**request) for request in values["requests"]],
            values["reopened"],
        )

    @classmethod
    def from_run(cls, spec: Spec, began: Mapping[str, Any], ended: Mapping[str, Any]) -> Result:
        """Make it of what the generator said at its start and at its end."""
        requests = []
        for number, sent, finished, kind, target, status, served, reused in ended["requests"]:
            host, _slash, release = served.rpartition("/")
            category, detail = ended["failures"].get(str(number), ("", ""))
            address, port = spec.targets[target]
            requests.append(
                Request(
                    number=number,
                    kind=spec.kinds[kind].name,
                    target=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
                    start=number / spec.rate,
                    sent=sent,
                    ended=finished,
                    takes=spec.kinds[kind].takes,
                    status=status,
                    host=host,
                    release=release,
                    reused=reused,
                    category=category,
                    detail=detail,
                )
            )
        return cls(spec, began["began"], began["began_at"], requests, ended["reopened"])


@dataclass(frozen=True)
class Row:
    """A line of the table: a run's counts, and seconds of delay.

    :param lag: the most seconds by which the client itself was late, which are part of the others.
    """

    name: str
    requests: int
    failed: int
    p50: float
    p99: float
    worst: float
    lag: float = 0.0


def table(rows: Sequence[Row], quiet: str | None = None) -> str:
    """Return the rows as a table in Markdown, its columns aligned; times are milliseconds.

    :param quiet: name of the row whose worst latency the others' are divided by, in a column of its own; the latter is
        left out without it.
    :raises ValueError: no row has that name.
    """
    head = ["scenario", "requests", "failed", "p50 ms", "p99 ms", "worst ms", "client late ms"]
    lines = [head]
    for row in rows:
        times = (f"{1000 * seconds:.1f}" for seconds in (row.p50, row.p99, row.worst, row.lag))
        lines.append([row.name, str(row.requests), str(row.failed), *times])
    if quiet is not None:
        base = next((row.worst for row in rows if row.name == quiet), None)
        if base is None:
            raise ValueError(f"no row is called {quiet!r}")
        ratios = (f"{row.worst / base:.1f}" if base else "-" for row in rows)
        lines = [[*line, cell] for line, cell in zip(lines, ["worst : quiet", *ratios], strict=True)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]

    def text(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def dump_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows to a file, as JSON."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def load_rows(path: Path) -> list[Row]:
    """Read what ``dump_rows`` wrote."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
