# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of applications: whatever the operator names becomes one archive and one digest.

Everything here runs on the controller.
"""

from __future__ import annotations

import calendar
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess  # run_command belongs to a module, and cannot take another account
import tarfile
import tempfile
import urllib.error
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ansible.module_utils.urls import open_url

ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")

#: Never part of an application: version control, caches, environments of the developer.
EXCLUDED = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", ".tox", ".nox",
    "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store",
)  # fmt: skip

#: A name and exactly one version (PEP 508 with ``==``; extras allowed).
PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[A-Za-z0-9._,\s-]+\])?"
    r"(?:==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*))?"
)
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
GIT_URL = re.compile(
    r"(?:https?|ssh|git)://(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9\[]|file:///|[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9_.-]*:"
)
#: A line of an ALLOWED SIGNERS file.
SIGNERS = re.compile(r"^[^\s#]\S* (?:\S+ )*(?:sk-)?(?:ssh|ecdsa)-\S+ AAAA\S+", re.MULTILINE)
CHECKSUM = re.compile(r"(?:sha256:)?([0-9a-f]{64})")

#: What the readers of archives raise for one that is damaged or encrypted.
UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    RuntimeError,
)  # fmt: skip

#: More than this in one source is a mistake, such as a data set beside the code.
SIZE_LIMIT = 1 << 30


#: Commits that are told of; nobody reads more.
MOST_COMMITS = 100


class SourceError(Exception):
    """A source that cannot be used; the text names variable, value and remedy."""


@dataclass(frozen=True)
class Request:
    """What the operator asked for.

    :param source: value of ``app_source``.
    :param version: value of ``app_version``; empty for none.
    :param checksum: SHA-256 of an archive, with or without ``sha256:`` before it.
    :param exclude: further patterns of names or paths to leave out.
    :param base: directory that relative paths start at; empty for the working directory.
    :param verify: ``commit`` where the version has to be a whole commit, ``signature`` where it has to be signed.
    :param signers: who may sign, as ssh-keygen(1) describes it under ALLOWED SIGNERS.
    """

    source: str
    version: str = ""
    checksum: str = ""
    exclude: tuple[str, ...] = ()
    base: str = ""
    verify: str = "none"
    signers: str = ""

    @property
    def path(self) -> Path:
        """The absolute path that a local source means."""
        return Path(os.path.abspath(Path(self.base) / Path(self.source).expanduser()))


@dataclass(frozen=True)
class Source:
    """What a request came to.

    :param kind: ``git``, ``directory``, ``archive`` or ``package``.
    :param digest: SHA-256 over paths, modes and contents; for a package over its requirement.
    :param version: commit, checksum or version number, for people to read.
    :param archive: path of a gzipped tar file, or ``None`` for a package.
    :param requirement: requirement of a package, or ``None``.
    :param checksum: SHA-256 of the tar file itself, by which hosts know it, or ``None``.
    """

    kind: str
    digest: str
    version: str
    archive: str | None = None
    requirement: str | None = None
    checksum: str | None = None


def classify(request: Request) -> str:
    """Tell which kind of source a value names, and refuse what cannot be one.

    :returns: ``package``, ``git``, ``url``, ``directory`` or ``file``.
    :raises SourceError: naming variable, value and remedy.
    """
    source = request.source
    if not source or source != source.strip() or any(ord(sign) < 32 or ord(sign) == 127 for sign in source):
        raise SourceError(
            f"app_source: {source!r} is empty or holds spaces around it or control characters: "
            "write a directory, an archive, a git URL or 'pypi:name==version'"
        )
    if request.version and (not VERSION.fullmatch(request.version) or ".." in request.version):
        raise SourceError(
            f"app_version: {request.version!r} is not the name of a branch, a tag, a commit or a "
            "release: it starts with a letter or digit and goes on with those or . _ / + @ -"
        )
    if request.checksum and not CHECKSUM.fullmatch(request.checksum):
        raise SourceError(
            f"app_source_checksum: {request.checksum!r} is not a SHA-256 digest: write 64 "
            "hexadecimal digits in lower case, as sha256sum prints them"
        )
    if source.startswith("pypi:"):
        return "package"
    parts = _split(source)
    path = parts.path.lower()
    if parts.scheme in {"http", "https"} and path.endswith(ARCHIVE_ENDINGS):
        if not request.checksum:
            raise SourceError(
                f"app_source: '{source}' is an archive behind a URL and app_source_checksum is "
                "not set: set it to the SHA-256 of the archive, as sha256sum prints it"
            )
        return "url"
    if _is_repository(source, parts.scheme):
        return "git"
    if "://" in source:
        raise SourceError(f"app_source: '{source}' has a scheme that is not known: use https, ssh, git or file")
    local = request.path
    if len(source) > 1000:
        raise SourceError(
            f"app_source: '{source[:77]}…' has {len(source)} characters, which no path has: write a directory, an "
            "archive, a git URL or 'pypi:name==version'"
        )
    if local.is_dir():
        is_repository = (local / ".git").exists() or (local / "HEAD").is_file()
        return "git" if request.version and is_repository else "directory"
    if local.is_file():
        if not local.name.lower().endswith(ARCHIVE_ENDINGS):
            raise SourceError(
                f"app_source: '{source}' is a file but no archive: its name must end in one of "
                f"{', '.join(ARCHIVE_ENDINGS)}"
            )
        return "file"
    raise SourceError(
        f"app_source: '{source}' is neither a directory nor a file on the controller (looked at "
        f"{local}), nor a URL: write a path that exists, a git URL or 'pypi:name==version'"
    )


def check_pinned(request: Request, kind: str) -> None:
    """Refuse a version that is not pinned as it has to be.

    :param kind: what :func:`classify` returned.
    :raises SourceError: naming variable, value and remedy.
    """
    if request.verify == "none":
        return
    if kind != "git":
        raise SourceError(
            f"app_source_verify: '{request.verify}' is for git repositories, and app_source is none: set it to none, "
            "or name a repository"
        )
    if request.verify == "commit" and not COMMIT.fullmatch(request.version):
        raise SourceError(
            f"app_version: '{request.version}' is not a whole commit, as app_source_verify asks for: write all 40 "
            "digits, as git rev-parse prints them"
        )
    if request.verify == "signature" and not SIGNERS.search(request.signers):
        raise SourceError(
            "app_source_signers: names nobody whose signature counts: write lines such as "
            "'alice@example.com ssh-ed25519 AAAA…'"
        )


def _is_repository(source: str, scheme: str) -> bool:
    """Tell whether a source is the URL of a git repository.

    :raises SourceError: for what looks like one and is none. Git knows more ways to reach a repository, and some of
        them run a command.
    """
    bare = source.removeprefix("git+")
    if GIT_URL.match(bare):
        return True
    if bare != source or scheme in {"http", "https", "ssh", "git", "file"}:
        raise SourceError(
            f"app_source: {source[:200]!r} is not the URL of a git repository: write it as https://host/path, "
            "ssh://user@host/path, user@host:path or git+ and one of these"
        )
    return False


def _split(source: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError as error:
        raise SourceError(f"app_source: '{source}' is not a URL: {error}. Write it as https://host/path") from error
    if parts.password or (parts.username and parts.scheme.removeprefix("git+") in {"http", "https"}):
        raise SourceError(
            "app_source: the URL holds a user name or a password, which would end up in logs: "
            "take it out and put the token into app_source_token"
        )
    return parts


def package(request: Request) -> Source:
    """Resolve ``pypi:name==version``.

    :raises SourceError: when it is malformed or names no version.
    """
    text = request.source.removeprefix("pypi:").strip()
    match = PINNED.fullmatch(text)
    if match is None:
        raise SourceError(
            f"app_source: 'pypi:{text}' does not name a package: write 'pypi:name==version', "
            "such as 'pypi:httpbin==0.10.2'"
        )
    version = match["version"] or request.version
    if not version:
        raise SourceError(
            f"app_source: 'pypi:{text}' names no version, so two runs could install different "
            "ones: write 'pypi:name==version' or set app_version"
        )
    if match["version"] and request.version not in ("", match["version"]):
        raise SourceError(
            f"app_version: '{request.version}' contradicts app_source: '{request.source}': "
            "name the version in one of them"
        )
    requirement = f"{match['name']}{match['extras'] or ''}=={version}"
    digest = hashlib.sha256(f"pypi:{requirement}".encode()).hexdigest()
    return Source("package", digest, version, requirement=requirement)


@dataclass(frozen=True)
class Entry:
    """One file, directory or link of a source.

    :param name: path relative to the root, with ``/``.
    :param kind: ``file``, ``directory`` or ``link``.
    :param mtime: whole seconds since the epoch; not part of the digest.
    :param data: content of a file, target of a link.
    """

    name: str
    kind: str
    executable: bool
    mtime: int
    data: bytes


def check_entry(name: str, kind: str, mode: int, target: str = "") -> None:
    """Refuse what has no place in a source.

    :raises SourceError: for absolute paths, ``..``, links out of the root, devices, set-uid bits.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise SourceError(f"app_source: '{name}' lies outside the root of the source: take it out")
    if kind == "other":
        raise SourceError(f"app_source: '{name}' is neither a file, a directory nor a link: take it out")
    if mode & (stat.S_ISUID | stat.S_ISGID) and kind == "file":
        raise SourceError(f"app_source: '{name}' has a set-uid or set-gid bit: take it off")
    if kind == "link":
        joined = os.path.normpath(path.parent / target)
        if target.startswith("/") or joined == ".." or joined.startswith("../"):
            raise SourceError(f"app_source: '{name}' is a link to '{target}', outside the source: take it out")
        # Up from a directory is the way that it looks; up from another link can be anywhere.
        if ".." in PurePosixPath(target.lstrip("./")).parts:
            raise SourceError(f"app_source: '{name}' is a link to '{target}': write it without '..' in its middle")


def walk(root: Path, exclude: Sequence[str], mtime: int | None = None) -> Iterator[Entry]:
    """Go through a directory, without what is excluded.

    :param mtime: time for every entry; else each has its own.
    """
    patterns = (*EXCLUDED, *exclude)
    total = 0
    for directory, names, files in os.walk(root):
        here = Path(directory)
        linked = [name for name in names if (here / name).is_symlink()]
        names[:] = sorted(
            name for name in names if name not in linked and not _excluded((here / name).relative_to(root), patterns)
        )
        for name in sorted([*names, *linked, *files]):
            path = here / name
            relative = path.relative_to(root)
            if _excluded(relative, patterns):
                continue
            status = path.lstat()
            kind = _kind(status.st_mode)
            target = os.readlink(path) if kind == "link" else ""
            check_entry(str(relative), kind, status.st_mode, target)
            data = b""
            if kind == "file":
                total += status.st_size
                if total > SIZE_LIMIT:
                    raise SourceError(_too_large(str(root)))
                data = path.read_bytes()
            yield Entry(
                str(relative),
                kind,
                kind == "file" and bool(status.st_mode & 0o100),
                int(status.st_mtime) if mtime is None else mtime,
                target.encode() if kind == "link" else data,
            )


def _too_large(source: str) -> str:
    return (
        f"app_source: '{source}' holds more than {SIZE_LIMIT >> 20} MiB: leave out what the "
        "application does not need with app_source_exclude"
    )


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def _excluded(path: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(path.name, pattern) or fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def read_archive(path: Path, exclude: Sequence[str]) -> Iterator[Entry]:
    """Go through a tar or zip archive; one directory that holds everything is taken off."""
    try:
        entries = list(_read_zip(path) if path.name.lower().endswith(".zip") else _read_tar(path))
    except UNREADABLE as error:
        raise SourceError(f"app_source: '{path}' cannot be read as an archive: {error}. Make it again.") from error
    tops = {PurePosixPath(entry.name).parts[0] for entry in entries if entry.name != "."}
    inside = all(entry.kind == "directory" or "/" in entry.name for entry in entries)
    strip = tops.pop() + "/" if len(tops) == 1 and inside else ""
    links = {entry.name for entry in entries if entry.kind == "link"}
    for entry in sorted(entries, key=lambda item: item.name):
        if any("/".join(parts) in links for parts in list(_ancestry(entry.name))[:-1]):
            raise SourceError(f"app_source: '{entry.name}' lies behind a link: take it out")
        name = (entry.name + "/").removeprefix(strip).rstrip("/") if strip else entry.name
        if entry.kind == "link":
            check_entry(name, entry.kind, 0, entry.data.decode("utf-8", "replace"))
        if name in ("", ".") or any(_excluded(Path(*parts), (*EXCLUDED, *exclude)) for parts in _ancestry(name)):
            continue
        yield Entry(name, entry.kind, entry.executable, entry.mtime, entry.data)


def _ancestry(name: str) -> Iterator[tuple[str, ...]]:
    parts = PurePosixPath(name).parts
    for length in range(1, len(parts) + 1):
        yield parts[:length]


def _read_tar(path: Path) -> Iterator[Entry]:
    total = 0
    with tarfile.open(path) as tar:
        for member in tar:
            kind = (
                "file" if member.isreg() else "directory" if member.isdir()
                else "link" if member.issym() else "other"
            )  # fmt: skip
            check_entry(member.name, kind, member.mode, member.linkname)
            total += member.size
            if total > SIZE_LIMIT:
                raise SourceError(_too_large(str(path)))
            stream = tar.extractfile(member) if kind == "file" else None
            data = stream.read() if stream else member.linkname.encode()
            yield Entry(
                os.path.normpath(member.name), kind, bool(member.mode & 0o100) and kind == "file",
                int(member.mtime), data if kind != "directory" else b"",
            )  # fmt: skip
        # A damaged header looks like the end; the checksum that tells comes after the last byte.
        while tar.fileobj and tar.fileobj.read(1 << 20):
            pass


def _read_zip(path: Path) -> Iterator[Entry]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            kind = "directory" if info.is_dir() else _kind(mode) if stat.S_IFMT(mode) else "file"
            total += info.file_size
            if total > SIZE_LIMIT:
                raise SourceError(_too_large(str(path)))
            data = archive.read(info) if kind in {"file", "link"} else b""
            check_entry(info.filename, kind, mode, data.decode("utf-8", "replace"))
            # Zip files carry local time without a zone; taken as UTC it is at least the same everywhere.
            mtime = calendar.timegm((*info.date_time, 0, 0, 0))
            yield Entry(
                os.path.normpath(info.filename), kind, kind == "file" and bool(mode & 0o100),
                mtime, data,
            )  # fmt: skip


def digest_of(entries: Iterable[Entry]) -> str:
    """Digest paths, modes and contents; times and owners do not count."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda item: item.name):
        head = f"{entry.kind}\0{entry.name}\0{int(entry.executable)}\0{len(entry.data)}\0"
        digest.update(head.encode("utf-8", "surrogateescape"))
        digest.update(entry.data)
    return digest.hexdigest()


def write_archive(entries: Iterable[Entry], path: Path) -> None:
    """Write entries as a gzipped tar file, owned by root, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with (
            os.fdopen(descriptor, "wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for entry in sorted(entries, key=lambda item: item.name):
                info = tarfile.TarInfo(entry.name)
                info.mtime = entry.mtime
                info.mode = 0o755 if entry.executable or entry.kind == "directory" else 0o644
                if entry.kind == "directory":
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                elif entry.kind == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, entry.data.decode()
                    tar.addfile(info)
                else:
                    info.size = len(entry.data)
                    tar.addfile(info, io.BytesIO(entry.data))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _store(entries: Iterable[Entry], kind: str, version: str, cache: Path, request: Request) -> Source:
    entries = list(entries)
    if not any(entry.kind == "file" for entry in entries):
        raise SourceError(
            f"app_source: '{request.source}' holds no file: name the directory that the application lies in"
        )
    digest = digest_of(entries)
    archive = cache / f"source-{digest[:32]}.tar.gz"
    if not archive.is_file():
        write_archive(entries, archive)
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Source(kind, digest, version or digest[:12], archive=str(archive), checksum=checksum)


def directory(request: Request, cache: Path) -> Source:
    """Resolve a local directory as it is now; in a git work tree, what git ignores is left out."""
    root = request.path
    ignored = _git_ignored(root)
    entries = (
        entry
        for entry in walk(root, request.exclude)
        if not any("/".join(parts) in ignored for parts in _ancestry(entry.name))
    )
    return _store(entries, "directory", request.version, cache, request)


def _git_ignored(root: Path) -> frozenset[str]:
    """List what git ignores below a directory, relative to it; nothing where there is no git."""
    if shutil.which("git") is None:
        return frozenset()
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        ["git", "-C", str(root), "ls-files", "--others", "--ignored", "--exclude-standard",
         "--directory", "-z"],
        check=False, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        return frozenset()
    return frozenset(name.rstrip("/") for name in done.stdout.decode("utf-8", "surrogateescape").split("\0") if name)


def archive_file(request: Request, path: Path, cache: Path) -> Source:
    """Resolve an archive on the controller."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = CHECKSUM.fullmatch(request.checksum)
    if wanted and wanted[1] != digest:
        raise SourceError(
            f"app_source_checksum: '{wanted[1]}' is not the SHA-256 of '{request.source}', which "
            f"is '{digest}': if you trust this archive, set the variable to that"
        )
    return _store(read_archive(path, request.exclude), "archive", request.version or digest[:12], cache, request)


def archive_url(request: Request, token: str, cache: Path) -> Source:
    """Resolve an archive behind a URL; a copy that has the checksum is not fetched again."""
    wanted = CHECKSUM.fullmatch(request.checksum)
    if wanted is None:
        raise SourceError(f"app_source_checksum: '{request.checksum}' is not a SHA-256 in hexadecimal digits")
    name = PurePosixPath(urllib.parse.urlsplit(request.source).path).name
    cached = cache / f"download-{wanted[1][:32]}-{name}"
    if not cached.is_file():
        headers = {"User-Agent": "wsgi.fleet"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        cache.mkdir(parents=True, exist_ok=True)
        partial = cached.with_name(cached.name + ".part")
        try:
            with (
                # The token is for the host that was named, not for the one that this redirects to.
                open_url(
                    request.source, headers=headers, unredirected_headers=["Authorization"], timeout=60
                ) as response,
                partial.open("wb") as stream,
            ):
                shutil.copyfileobj(response, stream)
        except (OSError, urllib.error.URLError) as error:
            raise SourceError(
                f"app_source: '{request.source}' cannot be fetched: {error}. See that the "
                "controller reaches it, and set app_source_token if it is private."
            ) from error
        source = archive_file(request, _renamed(partial, name), cache)
        os.rename(partial.with_name(f"{partial.name}-{name}"), cached)
        return source
    return archive_file(request, cached, cache)


def _renamed(partial: Path, name: str) -> Path:
    """Give a download the ending that tells what kind of archive it is."""
    target = partial.with_name(f"{partial.name}-{name}")
    os.rename(partial, target)
    return target


class Git:
    """Git with the operator's credentials.

    They stand in no argument, and in no file of ours but a private one that is removed.

    :param token: password for https, or empty.
    :param key: text of a private ssh key, or empty.
    """

    def __init__(self, token: str, key: str, scratch: Path) -> None:
        self._secrets = [secret for secret in (token, key) if secret]
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k == "GIT_SSL_CAINFO"},
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
        }
        ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
        if key:
            path = scratch / "key"
            path.touch(0o600)
            path.write_text(key.rstrip("\n") + "\n")
            ssh += f" -o IdentitiesOnly=yes -i '{path}'"
        self._environment["GIT_SSH_COMMAND"] = ssh
        if token:
            helper = scratch / "askpass"
            helper.write_text(
                '#!/bin/sh\ncase "$1" in\nUsername*) echo oauth2 ;;\n*) printf "%s\\n" "$WSGI_FLEET_TOKEN" ;;\nesac\n'
            )
            helper.chmod(0o700)
            self._environment |= {"GIT_ASKPASS": str(helper), "WSGI_FLEET_TOKEN": token}

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git.

        :raises SourceError: with its message, when it fails.
        """
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            ["git", *arguments],
            check=False, cwd=cwd, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        if done.returncode != 0:
            message = done.stderr.strip() or f"exit status {done.returncode}"
            for secret in self._secrets:
                message = message.replace(secret, "********")
            raise SourceError(message)
        return done.stdout.strip()


def git(request: Request, token: str, key: str, cache: Path) -> Source:
    """Resolve a branch, a tag or a commit of a git repository; submodules come along.

    :raises SourceError: when the repository cannot be read or the version is not in it.
    """
    if shutil.which("git") is None:
        raise SourceError(
            f"app_source: '{request.source}' is a git repository and the controller has no git: install it"
        )
    url = request.source.removeprefix("git+")
    if "://" not in url and request.path.is_dir():
        url = str(request.path)
    mirror = cache / f"git-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    version = request.version or "HEAD"
    with tempfile.TemporaryDirectory(prefix="wsgi-fleet-") as name:
        scratch = Path(name)
        run = Git(token, key, scratch)
        if not (mirror / "HEAD").is_file():
            mirror.mkdir(parents=True, exist_ok=True)
            run("init", "--quiet", "--bare", str(mirror))
        commit = _resolve(run, mirror, url, version, request)
        if request.verify == "signature":
            _check_signature(run, mirror, url, version, commit, request, scratch)
        tree = scratch / "tree"
        # No clone: the mirror is shallow, and what it was asked for stands in no branch of it.
        run("init", "--quiet", str(tree))
        run("fetch", "--quiet", "--depth=1", str(mirror), commit, cwd=tree)
        run("remote", "add", "origin", url, cwd=tree)
        run("-c", "advice.detachedHead=false", "checkout", "--quiet", commit, cwd=tree)
        if (tree / ".gitmodules").is_file():
            try:
                run("submodule", "--quiet", "update", "--init", "--recursive", cwd=tree)
            except SourceError as error:
                raise SourceError(
                    f"app_source: a submodule of '{request.source}' cannot be read with git: {error}. "
                    "See that the controller reaches it."
                ) from error
        moment = int(run("show", "--no-patch", "--format=%ct", commit, cwd=tree))
        return _store(walk(tree, request.exclude, moment), "git", commit, cache, request)


def _resolve(run: Git, mirror: Path, url: str, version: str, request: Request) -> str:
    """Fetch a version into the mirror and return its commit."""
    if COMMIT.fullmatch(version):
        try:
            return run("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", cwd=mirror)
        except SourceError:
            pass  # Not fetched yet.
    try:
        try:
            run("fetch", "--quiet", "--force", "--depth=1", "--", url, version, cwd=mirror)
            return run("rev-parse", "--verify", "FETCH_HEAD^{commit}", cwd=mirror)
        except SourceError:
            # A short commit, or a server that hands out only the ends of branches.
            # All of history, also where the mirror holds its end; nothing that is gone by now.
            deepen = ["--unshallow"] if (mirror / "shallow").is_file() else []
            run("fetch", "--quiet", "--force", "--prune", *deepen, "--", url,
                "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", cwd=mirror)  # fmt: skip
    except SourceError as error:
        raise SourceError(
            f"app_source: '{request.source}' cannot be read with git: {error}. See that the "
            "controller reaches it; for a private one set app_source_token (https) or "
            "app_source_key (ssh)."
        ) from error
    try:
        return run("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}", cwd=mirror)
    except SourceError as error:
        raise SourceError(
            f"app_version: '{version}' is no branch, tag or commit of {request.source}: see "
            "'git ls-remote' for what there is"
        ) from error


def _check_signature(
    run: Git, mirror: Path, url: str, version: str, commit: str, request: Request, scratch: Path
) -> None:
    """Refuse what nobody has signed who may: the tag of that name, or else the commit.

    :raises SourceError: naming variable, value and remedy.
    """
    signers = scratch / "signers"
    signers.write_text(request.signers.rstrip("\n") + "\n")
    # Whatever the operator's own settings of git are.
    ours = ["-c", "gpg.format=ssh", "-c", "gpg.ssh.program=ssh-keygen", "-c", f"gpg.ssh.allowedSignersFile={signers}"]
    try:
        run("fetch", "--quiet", "--force", "--depth=1", "--", url, f"+refs/tags/{version}:refs/verify/tag", cwd=mirror)
        tag = run("rev-parse", "--verify", "refs/verify/tag", cwd=mirror)
        tagged = run("rev-parse", "--verify", "refs/verify/tag^{commit}", cwd=mirror)
    except SourceError:
        tag = tagged = ""
    try:
        if tag and tag != commit and tagged == commit:
            run(*ours, "verify-tag", tag, cwd=mirror)
        else:
            run(*ours, "verify-commit", commit, cwd=mirror)
    except SourceError as error:
        raise SourceError(
            f"app_version: '{version}' of {request.source} ({commit[:12]}) has no signature of anybody in "
            f"app_source_signers: {' '.join(str(error).split()) or 'it is not signed'}. Sign it with an ssh key "
            "(git tag -s), or add the key of its signer"
        ) from error


def commits(request: Request, since: str, until: str, cache: Path, token: str = "", key: str = "") -> list[str]:
    """Tell what happened between two commits of a git repository.

    :param since: the commit that is live.
    :param until: the commit that is to be.
    :returns: a line for each commit, the newest first, or nothing where git does not know both. For a
        step back, the commits that are taken back, each with a minus.
    """
    if since == until or not COMMIT.fullmatch(since) or classify(request) != "git":
        return []
    url = request.source.removeprefix("git+")
    if "://" not in url and request.path.is_dir():
        url = str(request.path)
    log = cache / f"git-{hashlib.sha256(url.encode()).hexdigest()[:16]}-log"
    with tempfile.TemporaryDirectory(prefix="wsgi-fleet-") as name:
        run = Git(token, key, Path(name))
        try:
            if not (log / "HEAD").is_file():
                log.mkdir(parents=True, exist_ok=True)
                run("init", "--quiet", "--bare", str(log))
            # Commits without their files, where the server can leave those out.
            run("fetch", "--quiet", "--force", "--filter=tree:0", "--", url, "+refs/heads/*:refs/heads/*",
                "+refs/tags/*:refs/tags/*", cwd=log)  # fmt: skip

            def between(first: str, last: str) -> list[str]:
                text = run("log", f"--max-count={MOST_COMMITS + 1}", "--format=%h %an: %s", f"{first}..{last}", cwd=log)
                lines = text.splitlines()
                return lines if len(lines) <= MOST_COMMITS else [*lines[:MOST_COMMITS], "and more before these"]

            return between(since, until) + [f"- {line}" for line in between(until, since)]
        except SourceError:
            return []


def resolve(request: Request, cache: Path, token: str = "", key: str = "") -> Source:
    """Turn what the operator named into an archive with a digest.

    :param cache: directory on the controller for archives and mirrors; made when missing.
    :param token: for https, never shown.
    :param key: text of a private ssh key, never shown.
    :raises SourceError: naming variable, value and remedy.
    """
    kind = classify(request)
    check_pinned(request, kind)
    if kind == "package":
        return package(request)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if kind == "git":
        return git(request, token, key, cache)
    if kind == "url":
        return archive_url(request, token, cache)
    if kind == "file":
        return archive_file(request, request.path, cache)
    return directory(request, cache)


def summary(source: Source) -> Mapping[str, str | None]:
    """Return a source as a module's result."""
    return dict(vars(source))
