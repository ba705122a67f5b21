# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What settings to try on a host, and which of them to choose by what was measured."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

#: The variables of each app server for its processes and for the threads of each.
SIZES: Mapping[str, tuple[str, str]] = {
    "gunicorn": ("gunicorn_workers", "gunicorn_threads"),
    "granian": ("granian_workers", "granian_threads"),
    "uwsgi": ("uwsgi_processes", "uwsgi_threads"),
}
THREADS = (1, 4, 8, 16, 32)
#: What the settings that the inventory asks for are called.
PRESENT = "as it is"
#: Candidates that are less than this share apart are not told from each other, however even their rounds were.
NOISE = 0.05
#: The same for memory: nobody changes a setting for less.
WORTH = 0.1
BAR = 40


class TuneError(ValueError):
    """Candidates that cannot be tried, or rounds that nothing can be chosen by."""


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    :param settings: variables of roles; none for what the inventory asks for.
    """

    label: str
    settings: Mapping[str, Any]


def label_of(settings: Mapping[str, Any], server: str) -> str:
    """Name settings in short: ``workers 2, threads 8``, with the app server before them if it is another one."""
    other = str(settings.get("app_server", server))
    words = [f"{name.removeprefix(f'{other}_')} {value}" for name, value in settings.items() if name != "app_server"]
    return " ".join([*([other] if other != server else []), ", ".join(words)]).strip() or PRESENT


def default_candidates(server: str, processors: int) -> list[dict[str, Any]]:
    """Return a grid of processes and threads: half as many processes as processors, as many, and twice as many.

    :raises TuneError: for an app server whose variables are not known here.
    """
    if server not in SIZES:
        raise TuneError(f"tune_candidates: must be set for app_server '{server}': there is no grid for it")
    processes, threads = SIZES[server]
    numbers = sorted({math.ceil(processors / 2), processors, 2 * processors})
    return [{processes: number, threads: count} for number in numbers for count in THREADS]


def plain(value: Any) -> Any:
    """Return a value with dictionaries and lists of Python's own; those of Ansible's templates cannot be copied."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def candidates(
    server: str, processors: int, wanted: Sequence[Any] = (), known: Collection[str] = ()
) -> list[Candidate]:
    """Return what to try: first what the inventory asks for, then what is wanted, or a grid.

    :param server: ``app_server`` of the application.
    :param processors: those of the host.
    :param wanted: ``tune_candidates``, dictionaries of variables.
    :param known: variables that there are; any when empty.
    :raises TuneError: for what cannot be tried.
    """
    given = list(wanted) or default_candidates(server, processors)
    found = {PRESENT: Candidate(PRESENT, {})}
    for settings in given:
        if not isinstance(settings, Mapping) or not settings:
            raise TuneError(
                f"tune_candidates: '{settings}' names no settings: write variables and values such as "
                "{gunicorn_workers: 2, gunicorn_threads: 16}"
            )
        chosen = str(settings.get("app_server", server))
        for name in settings:
            if known and name not in known:
                raise TuneError(f"tune_candidates: there is no variable '{name}'")
            if name != "app_server" and not str(name).startswith(f"{chosen}_"):
                raise TuneError(
                    f"tune_candidates: '{name}' is no setting of {chosen}: write variables of that role, or add "
                    "app_server to the candidate"
                )
        label = label_of(settings, server)
        found.setdefault(label, Candidate(label, plain(settings)))
    return list(found.values())


@dataclass(frozen=True)
class Figures:
    """Medians over the rounds of one candidate.

    :param spread: the half of the range of the rates, as a share of their median.
    :param failed: all requests that failed, in all rounds.
    """

    label: str
    settings: Mapping[str, Any]
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms: float | None
    memory_mb: float | None
    spread: float
    failed: int
    chosen: bool = False


def _median(values: Sequence[Any]) -> float | None:
    told = [float(value) for value in values if value is not None]
    return round(statistics.median(told), 3) if told else None


def figures(candidate: Candidate, runs: Sequence[Mapping[str, Any]]) -> Figures:
    """Sum up the rounds of a candidate.

    :param runs: what release_drive returned for it, one for each round.
    """
    rates = [float(run["rate"]) for run in runs]
    middle = statistics.median(rates) if rates else 0.0
    return Figures(
        label=candidate.label,
        settings=candidate.settings,
        rate=round(middle, 1),
        p50_ms=_median([run["p50_ms"] for run in runs]),
        p99_ms=_median([run["p99_ms"] for run in runs]),
        cpu_ms=_median([run["cpu_ms"] for run in runs]),
        memory_mb=_median([run["memory_mb"] for run in runs]),
        spread=round((max(rates) - min(rates)) / 2 / middle, 3) if middle else 0.0,
        failed=sum(int(run["failed"]) for run in runs),
    )


def noise_of(found: Sequence[Figures], least: float = NOISE) -> float:
    """Return the share of a rate below which two candidates are not told from each other."""
    return max(least, round(statistics.median(entry.spread for entry in found), 3))


def choose(found: Sequence[Figures], least: float = NOISE) -> Figures:
    """Choose the settings that do the most, and of those that do as much the ones that take the least.

    Those with a failed request are out. Of the rest, those count that are not told from the quickest; of these,
    those whose memory is not told from the smallest. If the present settings are among them, they stay; else the
    best is the one that answers 99 of 100 requests the soonest.

    :raises TuneError: when none is left.
    """
    whole = [entry for entry in found if not entry.failed and entry.rate > 0]
    if not whole:
        raise TuneError("with every one of the candidates requests failed: nothing can be chosen")
    noise = noise_of(found, least)
    quickest = max(entry.rate for entry in whole)
    quick = [entry for entry in whole if entry.rate >= quickest * (1 - noise)]
    smallest = min(entry.memory_mb or 0.0 for entry in quick)
    small = [entry for entry in quick if (entry.memory_mb or 0.0) <= smallest * (1 + WORTH)]
    present = [entry for entry in small if entry.label == PRESENT]
    return (present or sorted(small, key=lambda entry: (entry.p99_ms or 0.0, -entry.rate)))[0]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(found: Sequence[Figures]) -> list[str]:
    """Return the figures as lines of a table, in the order given; the chosen one bears an arrow."""
    rows = [("settings", "requests/s", "+-", "p50 ms", "p99 ms", "CPU ms", "MiB", "failed", "")]
    rows += [
        (
            entry.label,
            _number(entry.rate),
            f"{100 * entry.spread:.0f}%",
            _number(entry.p50_ms),
            _number(entry.p99_ms),
            _number(entry.cpu_ms),
            _number(entry.memory_mb),
            str(entry.failed),
            "<-" if entry.chosen else "",
        )
        for entry in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(9)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def bars(found: Sequence[Figures]) -> list[str]:
    """Return the rates as bars."""
    most = max((entry.rate for entry in found), default=0.0) or 1.0
    width = max((len(entry.label) for entry in found), default=0)
    return [
        f"{entry.label.ljust(width)} |{'#' * round(BAR * entry.rate / most)} {_number(entry.rate)}" for entry in found
    ]


def advise(found: Sequence[Figures], chosen: Figures, least: float = NOISE) -> list[str]:
    """Say what to choose, as lines to paste into the inventory."""
    noise = f"{100 * noise_of(found, least):.0f}%"
    if chosen.label == PRESENT:
        return [
            f"# Keep what you have: nothing that takes as little memory is quicker by more than the noise, {noise}."
        ]
    present = next((entry for entry in found if entry.label == PRESENT), None)
    gain = f"{chosen.rate / present.rate:.2f} times the requests/s of what you have" if present and present.rate else ""
    if gain and present and present.memory_mb and chosen.memory_mb:
        gain += f", {chosen.memory_mb / present.memory_mb:.2f} times its memory"
    return [
        f"# {gain or 'The best that was measured'}; differences below {noise} are noise.",
        # JSON is YAML.
        *(
            f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
            for name, value in chosen.settings.items()
        ),
    ]


def report(
    tried: Sequence[Mapping[str, Any]], rounds: Sequence[Sequence[Mapping[str, Any]]], least: float = NOISE
) -> dict[str, Any]:
    """Sum up a trial.

    :param tried: candidates with ``label``, ``settings`` and ``release``.
    :param rounds: what release_drive returned, for each round.
    :returns: ``lines`` for a terminal, ``candidates`` the quickest first, ``chosen`` settings and ``noise``.
    :raises TuneError: when nothing can be chosen.
    """
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for part in rounds:
        for run in part:
            runs.setdefault(str(run["release"]), []).append(run)
    # Two candidates that come to the same are one release, and one line.
    labels: dict[str, list[str]] = {}
    for entry in tried:
        labels.setdefault(str(entry["release"]), []).append(str(entry["label"]))
    found = [
        figures(Candidate(str(entry["label"]), plain(entry["settings"])), runs.get(str(entry["release"]), []))
        for entry in tried
        if entry["label"] == labels[str(entry["release"])][0]
    ]
    best = choose(found, least)
    ranked = sorted(
        (replace(entry, chosen=entry is best) for entry in found), key=lambda entry: (-entry.rate, entry.label)
    )
    same = [f"{' = '.join(names)}: the same instance." for names in labels.values() if len(names) > 1]
    lines = [*table(ranked), "", *bars(ranked), "", *same, *advise(found, best, least)]
    return {
        "lines": lines,
        "candidates": [asdict(entry) for entry in ranked],
        "chosen": dict(best.settings),
        "noise": noise_of(found, least),
    }
