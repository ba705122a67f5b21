# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life cycle of releases on one host: its layout on disk, its names, and its rules.

Nothing here talks to systemd or to the network; the only side effects are on the
files below the directory of one application.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Length of a build or release identifier in hexadecimal digits (48 bits): short enough to
#: read out, and two inputs of one application meet with a chance below 1e-9 in 500 releases.
ID_LENGTH = 12
ID_PATTERN = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")

#: Portable environment variable names, IEEE Std 1003.1-2017, section 8.1.
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

MANIFEST = "release.json"
BUILD_MANIFEST = "build.json"
ACTIVATED = "activated"


class ReleaseError(Exception):
    """A life cycle step that cannot be done; the text is meant for the operator."""


def canonical(value: Any) -> bytes:
    """Return the one JSON text of ``value``: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def build_id(inputs: Mapping[str, Any]) -> str:
    """Name a build by a digest of everything that goes into it.

    :param inputs: source digest, platform, dependency file, server package; JSON values only.
    :returns: ``ID_LENGTH`` hexadecimal digits.
    """
    return hashlib.sha256(canonical(dict(inputs))).hexdigest()[:ID_LENGTH]


def release_id(key: bytes, inputs: Mapping[str, Any]) -> str:
    """Name a release by a keyed digest of its build and its settings.

    The key is random and stands in no release, so that a short secret among the settings
    cannot be found by trying values against the release's name.

    :param key: the key of the fleet, or of this host for this application.
    :param inputs: build identifier, files, unit, environment; JSON values only.
    :returns: ``ID_LENGTH`` hexadecimal digits.
    """
    return hmac.new(key, canonical(dict(inputs)), hashlib.sha256).hexdigest()[:ID_LENGTH]


def environment_file(environment: Mapping[str, str]) -> str:
    """Render a file for systemd's ``EnvironmentFile=``.

    Values stand in double quotes, where systemd.exec(5) gives a meaning to the backslash, the
    double quote, the dollar sign and the back quote only; line breaks stand for themselves.

    :raises ReleaseError: for a name that no shell could use, or a value with a NUL byte.
    """
    lines = []
    for name in sorted(environment):
        value = environment[name]
        if not ENVIRONMENT_NAME.fullmatch(name):
            raise ReleaseError(
                f"{name!r} is not a name for an environment variable: "
                "use letters, digits and underscores, and no digit first"
            )
        if "\0" in value:
            raise ReleaseError(f"the value of environment variable {name} holds a NUL byte: remove it")
        escaped = re.sub(r'([\\"$`])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def parse_environment_file(text: str) -> dict[str, str]:
    """Read back what :func:`environment_file` wrote."""
    return {
        match[1]: re.sub(r'\\([\\"$`])', r"\1", match[2])
        for match in re.finditer(r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
    }


def describe_environment(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, str]:
    """Render two environments for a diff that shows every name and no value."""
    before = [f"{name}=(hidden)\n" for name in sorted(old)]
    after = [
        f"{name}=({'hidden' if old.get(name) in (None, value) else 'hidden, another value'})\n"
        for name, value in sorted(new.items())
    ]
    return "".join(before), "".join(after)


@dataclass(frozen=True)
class Layout:
    """Where everything of one application lies on a host.

    :param name: the application's name, which is also its unit's prefix.
    :param root: its directory, such as ``/srv/shop``.
    """

    name: str
    root: Path
    units: Path = Path("/etc/systemd/system")
    run: Path = Path("/run")

    @property
    def builds(self) -> Path:
        return self.root / "builds"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def current(self) -> Path:
        return self.root / "current"

    def build(self, build: str) -> Path:
        return self.builds / build

    def release(self, release: str) -> Path:
        return self.releases / release

    def unit_name(self, release: str) -> str:
        return f"{self.name}@{release}.service"

    def process_unit(self, release: str, process: str) -> str:
        """Name the unit of a process besides the instance.

        :param process: name and kind, such as ``worker-1.service`` or ``cleanup.timer``. No name of an
            application has a dot, so that it is told from every instance.
        """
        stem, _dot, kind = process.rpartition(".")
        return f"{self.name}.{stem}@{release}.{kind}"

    @property
    def unit_patterns(self) -> tuple[str, ...]:
        """What matches the units of all releases, for systemd."""
        return (f"{self.name}@*.service", f"{self.name}.*@*.service", f"{self.name}.*@*.timer")

    def release_of(self, unit: str) -> str:
        """Return the release that a unit belongs to, the instance or a process besides it."""
        return unit.rpartition("@")[2].rpartition(".")[0]

    def unit(self, release: str) -> Path:
        return self.units / self.unit_name(release)

    def wanted(self, release: str) -> Path:
        """The link that makes systemd consider the instance at boot."""
        return self.wanted_unit(self.unit_name(release))

    def wanted_unit(self, unit: str) -> Path:
        """The link that makes systemd consider a unit at boot."""
        target = "timers" if unit.endswith(".timer") else "multi-user"
        return self.units / f"{target}.target.wants" / unit

    def permit(self, release: str) -> Path:
        """The file that lets an instance run which is not current; gone after a reboot."""
        return self.run / "wsgi.fleet" / self.name / release

    def socket(self, release: str) -> Path:
        return self.run / self.name / release / "app.sock"


@dataclass(frozen=True)
class State:
    """What is on a host for one application.

    :param current: the live release, or ``None`` before the first activation.
    :param releases: identifiers, the most recently activated first, never activated ones last.
    :param activated: those that a deploy brought into service on the whole fleet at some time.
    :param builds: complete builds.
    :param deploys: the deploy that last did so, by release.
    """

    current: str | None = None
    releases: tuple[str, ...] = ()
    activated: frozenset[str] = frozenset()
    builds: frozenset[str] = frozenset()
    build_of: Mapping[str, str] = field(default_factory=dict)
    deploys: Mapping[str, str] = field(default_factory=dict)


def read_state(layout: Layout) -> State:
    """Read the state of one application from the disk."""
    current = None
    with contextlib.suppress(FileNotFoundError):
        current = Path(os.readlink(layout.current)).name
    stamps: dict[str, int] = {}
    build_of: dict[str, str] = {}
    deploys: dict[str, str] = {}
    names: list[str] = []
    for directory in _entries(layout.releases):
        if not (directory / MANIFEST).is_file():
            continue
        names.append(directory.name)
        build_of[directory.name] = Path(os.readlink(directory / "build")).name
        with contextlib.suppress(FileNotFoundError):
            stamps[directory.name] = (directory / ACTIVATED).stat().st_mtime_ns
            deploys[directory.name] = str(read_object(directory / ACTIVATED).get("deploy", ""))
    return State(
        current=current if current in names else None,
        releases=tuple(sorted(names, key=lambda name: (-stamps.get(name, 0), name))),
        activated=frozenset(stamps),
        builds=frozenset(
            directory.name for directory in _entries(layout.builds) if (directory / BUILD_MANIFEST).is_file()
        ),
        build_of=build_of,
        deploys=deploys,
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of ours that holds a JSON object; what cannot be read as one is an empty one.

    :raises OSError: when there is no such file.
    """
    try:
        data = json.loads(path.read_text())
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if ID_PATTERN.fullmatch(path.name))
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class Prune:
    """What can go: release identifiers and build identifiers."""

    releases: tuple[str, ...]
    builds: tuple[str, ...]


def plan_prune(state: State, keep: int) -> Prune:
    """Choose what to remove. The current release and its build are never among it.

    :param keep: how many releases to keep besides the current one.
    """
    others = [name for name in state.releases if name != state.current]
    kept = [name for name in others if name in state.activated][:keep]
    gone = tuple(name for name in others if name not in kept)
    needed = {state.build_of[name] for name in state.releases if name not in gone and name in state.build_of}
    return Prune(gone, tuple(sorted(state.builds - needed)))


@contextlib.contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the application's lock on this host, so that two steps never interleave."""
    layout.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_key(layout: Layout, *, create: bool) -> bytes:
    """Return the key that names releases on this host.

    :param create: make one where there is none yet; else a passing one is returned, which
        yields an identifier that no release bears.
    """
    path = layout.root / ".key"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    key = secrets.token_bytes(32)
    if create:
        write_file(path, key, 0o600)
    return key


def write_file(path: Path, content: str | bytes, mode: int) -> bool:
    """Write a file in one step: it holds the old content or the new one, never a part.

    :returns: whether anything changed.
    """
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data and (path.stat().st_mode & 0o7777) == mode:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)
    return True


def replace_link(path: Path, target: str) -> bool:
    """Point a symbolic link somewhere else by one atomic rename.

    :returns: whether anything changed.
    """
    with contextlib.suppress(FileNotFoundError, OSError):
        if os.readlink(path) == target:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.symlink(target, temporary)
    os.rename(temporary, path)
    _sync_directory(path.parent)
    return True


def _sync_directory(directory: Path) -> None:
    """Make a rename outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> str:
    """Return the time as RFC 3339 text in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def create_release(
    layout: Layout,
    release: str,
    build: str,
    files: Mapping[str, str],
    environment: Mapping[str, str],
    manifest: Mapping[str, Any],
) -> bool:
    """Lay down the directory of a release, whole or not at all.

    :param files: further files by name, world-readable: no secrets in them.
    :param environment: rendered into ``env``, which only root can read.
    :returns: whether anything changed.
    :raises ReleaseError: when the build is not there, or a file name is not plain.
    """
    target = layout.release(release)
    if (target / MANIFEST).is_file():
        return False
    if not (layout.build(build) / BUILD_MANIFEST).is_file():
        raise ReleaseError(f"build {build} is not complete in {layout.builds}: run the build step first")
    for name in files:
        if "/" in name or name.startswith(".") or name in {"build", "env", "app.sock", MANIFEST, ACTIVATED}:
            raise ReleaseError(f"{name!r} cannot be the name of a file in a release")
    layout.releases.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(dir=layout.releases, prefix=".new-"))
    try:
        os.symlink(f"../../builds/{build}", staging / "build")
        os.symlink(layout.socket(release), staging / "app.sock")
        write_file(staging / "env", environment_file(environment), 0o600)
        for name, content in files.items():
            write_file(staging / name, content, 0o644)
        record = {**manifest, "release": release, "build": build, "created": now()}
        write_file(staging / MANIFEST, json.dumps(record, indent=2, sort_keys=True) + "\n", 0o644)
        staging.chmod(0o755)
        os.rename(staging, target)
        _sync_directory(layout.releases)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return True


def activate(layout: Layout, release: str | None) -> bool:
    """Flip ``current`` onto a release; ``None`` takes the application out of service.

    :returns: whether anything changed.
    :raises ReleaseError: when the release is not on this host.
    """
    if release is None:
        try:
            layout.current.unlink()
        except FileNotFoundError:
            return False
        return True
    target = layout.release(release)
    if not (target / MANIFEST).is_file():
        raise ReleaseError(f"release {release} is not on this host: stage it first")
    link = f"releases/{release}"
    with contextlib.suppress(FileNotFoundError):
        if os.readlink(layout.current) == link:
            return False
    return replace_link(layout.current, link)


def confirm(layout: Layout, release: str, deploy: str) -> None:
    """Note that a deploy brought a release into service on the whole fleet.

    Only what bears this mark is kept for a rollback: a release that failed after the flip, or whose
    deploy was cut short, never gets it.
    """
    path = layout.release(release) / ACTIVATED
    write_file(path, json.dumps({"at": now(), "deploy": deploy}, sort_keys=True) + "\n", 0o644)
    os.utime(path)


def manifest_of(layout: Layout, release: str) -> dict[str, Any]:
    """Return what ``release.json`` says."""
    data = json.loads((layout.release(release) / MANIFEST).read_text())
    if not isinstance(data, dict):
        raise ReleaseError(f"{layout.release(release) / MANIFEST} does not hold an object")
    return data


def environment_of(layout: Layout, release: str) -> dict[str, str]:
    """Return the environment of a release, secrets and all."""
    return parse_environment_file((layout.release(release) / "env").read_text())


def trials(layout: Layout, state: State) -> list[str]:
    """List the releases that were only made to be tried, by this trial or by one that was cut short."""
    others = [name for name in state.releases if name != state.current and name not in state.activated]
    return [name for name in others if manifest_of(layout, name).get("trial")]


def leftovers(layout: Layout) -> list[Path]:
    """List what an interrupted step left behind: half-made releases and builds."""
    return [
        path
        for directory, manifest in ((layout.releases, MANIFEST), (layout.builds, BUILD_MANIFEST))
        if directory.is_dir()
        for path in directory.iterdir()
        if not (path / manifest).is_file()
    ]


def remove_tree(path: Path) -> None:
    """Remove a directory so that no reader ever sees half of it, or a stray file in its place."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    doomed = path.with_name(f".old-{path.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, doomed)
        shutil.rmtree(doomed)
