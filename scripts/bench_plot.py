"""Draw what benchmarks have measured, as SVG.

usage: .cache/bench/venv/bin/python -m scripts.bench_plot serve ROUNDS.json DIRECTORY
       .cache/bench/venv/bin/python -m scripts.bench_plot tune RESULT.json FILE.svg

Runs with matplotlib of requirements/bench.txt, which nothing else needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench_serve import FIGURES, SEED, VIEWS, Rounds, load, number, ratio, variants_of

#: Okabe and Ito's colours, which all eyes tell apart.
OURS, SEEDS, CHOSEN = "#0072B2", "#999999", "#D55E00"


def pyplot() -> Any:
    """Return matplotlib, set up so that the same figures make the same file."""
    import matplotlib as mpl  # noqa: PLC0415 -- only who draws has it

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "wsgi.fleet", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt  # noqa: PLC0415

    return plt


def save(figure: Any, path: Path) -> None:
    """Write a figure without a date in it, and without blanks at the ends of its lines."""
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def draw_figure(plt: Any, rounds: Rounds, name: str, path: Path) -> None:
    """Draw one figure of all variants: a panel for each view, a bar for each variant, a line for its range."""
    heading, more = FIGURES[name]
    variants = variants_of(rounds)
    figure, panels = plt.subplots(1, len(VIEWS), figsize=(11, 0.3 * len(variants) + 1.2), sharey=True)
    for panel, (view, title) in zip(panels, VIEWS.items(), strict=True):
        found = [ratio(rounds, view, variant, name) for variant in variants]
        middle = [entry.middle if entry else 0.0 for entry in found]
        least = [entry.middle - entry.least if entry else 0.0 for entry in found]
        most = [entry.most - entry.middle if entry else 0.0 for entry in found]
        colours = [SEEDS if variant.startswith("seed-") else OURS for variant in variants]
        panel.barh(range(len(variants)), middle, xerr=[least, most], color=colours, height=0.7, ecolor="#444444")
        for row, value in enumerate(middle):
            panel.annotate(
                number(value), (value + most[row], row), xytext=(3, 0), textcoords="offset points", va="center"
            )
        panel.axvline(1, color="#444444", linewidth=0.8, linestyle=":")
        panel.set_title(title)
        panel.set_xlim(0, 1.2 * max(value + up for value, up in zip(middle, most, strict=True)))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(variants)), variants)
    panels[0].invert_yaxis()
    figure.suptitle(f"{heading}, as a multiple of {SEED}'s ({'more' if more else 'less'} is better)")
    figure.tight_layout()
    save(figure, path)
    plt.close(figure)


def draw_serve(source: Path, directory: Path) -> None:
    """Draw each figure of a comparison of worker models."""
    rounds = load(source.read_text(encoding="utf-8"))
    plt = pyplot()
    for name in FIGURES:
        draw_figure(plt, rounds, name, directory / f"serving-{name}.svg")


def draw_tune(source: Path, path: Path) -> None:
    """Draw what tune.yml has measured: requests per second, latency and memory of each candidate."""
    result = json.loads(source.read_text(encoding="utf-8"))
    found = result["candidates"]
    labels = [entry["label"] for entry in found]
    colours = [CHOSEN if entry["chosen"] else SEEDS if entry["label"] == "as it is" else OURS for entry in found]
    plt = pyplot()
    figure, panels = plt.subplots(1, 4, figsize=(11, 0.28 * len(found) + 1.2), sharey=True)
    for panel, (name, title) in zip(
        panels,
        {"rate": "requests/s", "p99_ms": "p99 in ms", "cpu_ms": "CPU ms per request", "memory_mb": "MiB"}.items(),
        strict=True,
    ):
        values = [entry[name] or 0.0 for entry in found]
        errors = [entry["spread"] * entry["rate"] for entry in found] if name == "rate" else None
        panel.barh(range(len(found)), values, xerr=errors, color=colours, height=0.7, ecolor="#444444")
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(found)), labels)
    panels[0].invert_yaxis()
    figure.suptitle(
        f"{result['app']} on {result['host']}: {result['path']}, {result['connections']} connections (chosen in red)"
    )
    figure.tight_layout()
    save(figure, path)


def main(arguments: Sequence[str]) -> int:
    """Run the script; return its exit status."""
    match arguments:
        case ["serve", source, directory]:
            draw_serve(Path(source), Path(directory))
        case ["tune", source, path]:
            draw_tune(Path(source), Path(path))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
