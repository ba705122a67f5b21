# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build must fulfil for the settings of its app server, found in its files without running any of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

#: What an entry may have, besides ``distribution`` and ``otherwise``.
KINDS = ("below", "at_least", "extra", "file")
COMPARISONS = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([^\s,]+)")


class _Message(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise ReleaseError(f"requires: a message has {{{name}}}, which means nothing for this kind of entry")


def release_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as ``(26, 0, 1)``, without what follows them."""
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version.strip(), re.IGNORECASE)
    numbers = [int(number) for number in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def fits(version: str, specifiers: str) -> bool:
    """Tell whether a version fits specifiers such as ``>=24.10.1,<26``.

    Versions are compared by their numbers; a pre-release counts as the release that it leads to.
    """
    found = release_numbers(version)
    for operator, wanted in COMPARISONS.findall(specifiers):
        other = release_numbers(wanted.removesuffix(".*"))
        start = found[: len(wanted.removesuffix(".*").split("."))]
        same = release_numbers(".".join(map(str, start))) == other if wanted.endswith(".*") else found == other
        stem = release_numbers(wanted.rpartition(".")[0])
        holds = {
            "==": same,
            "===": version == wanted,
            "!=": not same,
            "<": found < other,
            "<=": found <= other,
            ">": found > other,
            ">=": found >= other,
            "~=": found >= other and found[: len(stem)] == stem,
        }[operator]
        if not holds:
            return False
    return True


class Packages:
    """The distributions that are installed in a virtual environment."""

    def __init__(self, venv: Path) -> None:
        self._metadata: dict[str, Path] = {}
        for path in sorted(venv.glob("lib/python*/site-packages/*.dist-info/METADATA")):
            self._metadata[_plain(path.parent.name.split("-")[0])] = path

    def _read(self, distribution: str) -> Any:
        path = self._metadata.get(_plain(distribution))
        return HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace")) if path else None

    def version(self, distribution: str) -> str | None:
        """Return the version of a distribution, or nothing when it is not there."""
        metadata = self._read(distribution)
        return str(metadata["Version"]) if metadata else None

    def extra(self, distribution: str, extra: str) -> list[tuple[str, str]]:
        """List what an extra of a distribution needs: names and specifiers."""
        found = []
        for line in self._read(distribution).get_all("Requires-Dist") or []:
            needed, _semicolon, marker = str(line).partition(";")
            # What holds for some interpreters only is left to them.
            named = re.fullmatch(r"""\s*extra\s*==\s*["']([^"']+)["']\s*""", marker)
            match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?\s*\Z", needed)
            if named and match and _plain(named[1]) == _plain(extra):
                found.append((match[1], match[2].strip()))
        return found

    def names(self, distribution: str, file: str, pattern: str) -> list[str]:
        """List what the first group of a pattern matches in the lines of a distribution's file."""
        path = self._metadata[_plain(distribution)].parent.parent / file
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [match[1] for match in re.finditer(pattern, text, re.MULTILINE)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def unmet(venv: Path, requires: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the messages of those entries that a build does not fulfil.

    Each entry names a ``distribution``, a message for ``otherwise``, and at most one of these:

    - ``at_least`` or ``below``: a version; the message may have ``{version}``, that of the build.
    - ``extra``: what the distribution itself asks for with that extra must be there and fit. ``{needed}`` and
      ``{found}`` are the first that is not, and ``{version}`` the distribution's.
    - ``file``, ``pattern`` and ``names``: each name must be one of those that the pattern finds in the file, seen
      from ``site-packages``. ``{name}`` is one that is not, ``{alike}`` the most similar one in a half-sentence.

    Without any of them the distribution must be there; a message of that kind has no fields.

    :raises ReleaseError: for an entry that is none.
    """
    packages = Packages(venv)
    return [text for entry in requires for text in _unmet(packages, entry)]


def _unmet(packages: Packages, entry: Mapping[str, Any]) -> Iterator[str]:
    try:
        name, otherwise = str(entry["distribution"]), str(entry["otherwise"])
    except (KeyError, TypeError) as error:
        raise ReleaseError(f"requires: {entry!r} must have distribution and otherwise") from error
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) > 1:
        raise ReleaseError(f"requires: an entry for {name} has both {kinds[0]} and {kinds[1]}: make two of it")
    version = packages.version(name)
    if version is None:
        yield otherwise if not kinds else f"{name} is not among the packages of this build, and its settings need it."
        return
    fields = _Message(version=version)
    if "below" in entry and not fits(version, f"<{entry['below']}"):
        yield otherwise.format_map(fields)
    if "at_least" in entry and not fits(version, f">={entry['at_least']}"):
        yield otherwise.format_map(fields)
    if "extra" in entry:
        for needed, specifiers in packages.extra(name, str(entry["extra"])) or [(str(entry["extra"]), "")]:
            there = packages.version(needed)
            if there is None or not fits(there, specifiers):
                found = f"{needed} {there}" if there else f"no {needed}"
                yield otherwise.format_map(_Message(fields, needed=f"{needed}{specifiers}", found=found))
                break
    if "file" in entry:
        known = packages.names(name, str(entry["file"]), str(entry["pattern"]))
        for wanted in entry["names"] if known else ():
            if wanted not in known:
                similar = difflib.get_close_matches(wanted, known, 1, 0.6)
                alike = f" (did you mean {similar[0]}?)" if similar else ""
                yield otherwise.format_map(_Message(fields, name=wanted, alike=alike))
