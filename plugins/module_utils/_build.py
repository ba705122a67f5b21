# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds: the source of an application and its installed dependencies."""

from __future__ import annotations

import email.parser
import json
import os
import re
import shlex
import shutil
import subprocess  # run_command belongs to a module, and cannot take another account
import tarfile
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError

#: Looked for in this order at the top of the source.
DEPENDENCY_FILES = ("uv.lock", "requirements.txt", "pyproject.toml")
#: A name, extras in brackets, and versions, an address or markers, as in PEP 508.
REQUIREMENT = re.compile(
    r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"\s*(?:\[[A-Za-z0-9._, -]*\]\s*)?(?:[<>=!~;@(][^\r\n]*)?"
)
#: Distributions that hold the same program; one would overwrite files of the other.
SAME_PROGRAM = (frozenset({"uwsgi", "pyuwsgi"}),)


#: Each program that the collection needs on a host has a virtual environment of its own here.
TOOLS = Path("/usr/local/lib/wsgi.fleet/tools")
#: What the host trusts.
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Plan:
    """How the dependencies of a source get installed.

    :param kind: ``uv.lock``, ``requirements``, ``pyproject`` or ``none``.
    :param path: the file, relative to the source; empty for ``none``.
    """

    kind: str
    path: str = ""


def is_project(pyproject: str) -> bool:
    """Tell whether a ``pyproject.toml`` describes something to install.

    Many hold nothing but the settings of linters.
    """
    return re.search(r"^\s*\[\s*(project|build-system)\s*\]", pyproject, re.MULTILINE) is not None


def plan_dependencies(code: Path, named: str) -> Plan:
    """Find out how the dependencies of a source are declared.

    :param code: the unpacked source.
    :param named: a file relative to it, ``auto`` to look for one, ``none`` for no dependencies.
    :raises ReleaseError: when the named file is not there, or is of no known kind.
    """
    if named == "none":
        return Plan("none")
    if named != "auto":
        path = PurePosixPath(named)
        if path.is_absolute() or ".." in path.parts:
            raise ReleaseError(
                f"app_dependencies: '{named}' must be a path inside the source, such as 'requirements/production.txt'"
            )
        if not (code / path).is_file():
            there = ", ".join(sorted(entry.name for entry in code.iterdir())) or "nothing"
            raise ReleaseError(
                f"app_dependencies: '{named}' is not in the source. At its top there is: {there}. "
                "Name the file as a path from there, or leave the variable out to have one found."
            )
        return Plan(_kind(path.name), str(path))
    for name in DEPENDENCY_FILES:
        if not (code / name).is_file():
            continue
        if name == "pyproject.toml" and not is_project((code / name).read_text(errors="replace")):
            continue
        return Plan(_kind(name), name)
    return Plan("none")


def _kind(name: str) -> str:
    if name == "uv.lock":
        return "uv.lock"
    if name == "pyproject.toml":
        return "pyproject"
    if name.endswith((".txt", ".in")):
        return "requirements"
    raise ReleaseError(
        f"app_dependencies: '{name}' is of no kind that can be installed: name a uv.lock, a "
        "pyproject.toml or a requirements file that ends in .txt"
    )


def carries_hashes(requirements: str) -> bool:
    """Tell whether a requirements file pins archives by digest."""
    without_comments = re.sub(r"(^|\s)#.*", "", requirements, flags=re.MULTILINE)
    return re.search(r"(^|\s)--hash[= ]\S", without_comments, re.MULTILINE) is not None


def check_hashes(code: Path, plan: Plan, packages: Sequence[str]) -> None:
    """Refuse dependencies whose archives are not pinned by digest.

    What a requirements file leaves out, uv finds with ``--require-hashes``.

    :param packages: requirements of the application itself when it is a package, not a source.
    :raises ReleaseError: naming what carries no hashes, and the remedy.
    """
    remedy = "lock them with uv lock, or in a requirements.txt with uv pip compile --generate-hashes"
    if packages:
        raise ReleaseError(
            f"app_require_hashes: the dependencies of {packages[0]} carry no hashes, like those of every package of an "
            "index: take the application from a source that locks them, or set the variable to false"
        )
    if plan.kind == "pyproject":
        raise ReleaseError(f"app_require_hashes: the dependencies in '{plan.path}' carry no hashes: {remedy}")
    if plan.kind == "requirements" and not carries_hashes((code / plan.path).read_text(errors="replace")):
        raise ReleaseError(f"app_require_hashes: the requirements in '{plan.path}' carry no hashes: {remedy}")
    if plan.kind == "uv.lock" and (name := without_hash((code / plan.path).read_text(errors="replace"))):
        raise ReleaseError(
            f"app_require_hashes: '{name}' carries no hash in '{plan.path}', as what comes from a repository or a "
            "directory does not: take it from a package index, or set the variable to false"
        )


def without_hash(lock: str) -> str | None:
    """Return the first package of a ``uv.lock`` that is not pinned by digest, but for the project itself.

    Each package is a table of its own; hosts with Python 3.10 have no parser for TOML.
    """
    for table in re.split(r"^\[\[package\]\]\s*$", lock, flags=re.MULTILINE)[1:]:
        name = re.search(r'^name = "([^"]*)"$', table, re.MULTILINE)
        kind = re.search(r"^source = \{ (\w+) = \"([^\"]*)\"", table, re.MULTILINE)
        if kind and kind[1] in ("virtual", "editable", "directory") and kind[2] == ".":
            continue
        files = re.findall(r"\{ (?:url|path) = [^}]*\}", table)
        if (
            not kind
            or kind[1] not in ("registry", "url")
            or not files
            or any('hash = "sha' not in file for file in files)
        ):
            return name[1] if name else "?"
    return None


def components(venv: Path) -> list[dict[str, object]]:
    """Describe what is installed in a virtual environment, as components of CycloneDX, by name."""
    found = {}
    for path in venv.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        # Headers of an e-mail: https://packaging.python.org/specifications/core-metadata/
        metadata = email.parser.HeaderParser().parsestr(path.read_text(errors="replace"))
        name, version = _plain_name(metadata.get("Name", "")).replace("_", "-"), metadata.get("Version", "")
        if not name:
            continue
        purl = f"pkg:pypi/{name}@{urllib.parse.quote(version, safe='')}"
        component: dict[str, object] = {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        }  # fmt: skip
        if expression := metadata.get("License-Expression"):
            component["licenses"] = [{"expression": expression}]
        elif (license_name := metadata.get("License", "").strip()) and "\n" not in license_name:
            component["licenses"] = [{"license": {"name": license_name}}]
        found[purl] = component
    return [found[purl] for purl in sorted(found)]


def bill_of_materials(name: str, build: str, venv: Path, created: str) -> str:
    """Compose the software bill of materials of a build: CycloneDX 1.5 as JSON, https://cyclonedx.org/docs/1.5/json/.

    :param created: time of the build, as ISO 8601.
    """
    parts = components(venv)
    subject = f"{name}@{build}"
    return json.dumps(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{subject} {created}')}",
            "version": 1,
            "metadata": {
                "timestamp": created,
                "component": {"type": "application", "bom-ref": subject, "name": name, "version": build},
            },
            "components": parts,
            "dependencies": [{"ref": subject, "dependsOn": [part["bom-ref"] for part in parts]}],
        },
        indent=1,
    )


def audit_command(command: str, venv: Path, bill: Path) -> list[str]:
    """Split the command that judges a build into words, with what it is to look at in their places.

    :raises ReleaseError: for what is no command.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ReleaseError(f"app_audit_command: '{command}' is not a command: {error}") from error
    if not words:
        raise ReleaseError(f"app_audit_command: '{command}' is not a command: write a program and its arguments")
    packages = next(iter(sorted(venv.glob("lib/python*/site-packages"))), venv)
    return [word.replace("{site_packages}", str(packages)).replace("{sbom}", str(bill)) for word in words]


def install_commands(
    uv: str, python: str, venv: Path, code: Path, plan: Plan, packages: Sequence[str], strict: bool = False
) -> list[list[str]]:
    """List the commands that make the virtual environment of a build.

    :param uv: path of the uv executable.
    :param python: interpreter of the host for the environment.
    :param packages: requirements of the application itself when it is a package, not a source.
    :param strict: whether nothing may be installed but archives whose digest is known; a source that has to be built
        would bring more.
    """
    target = ["--python", str(venv / "bin" / "python"), "--compile-bytecode"]
    commands = [[uv, "venv", "--python", python, "--no-python-downloads", str(venv)]]
    if plan.kind == "uv.lock":
        commands.append(
            [
                uv, "sync", "--frozen", "--no-dev", "--no-editable", "--compile-bytecode",
                "--no-python-downloads", "--python", python,
                "--project", str((code / plan.path).parent),
            ]
        )  # fmt: skip
    elif plan.kind == "requirements":
        text = (code / plan.path).read_text(errors="replace")
        hashes = ["--require-hashes"] if strict or carries_hashes(text) else []
        if strict:
            hashes += ["--only-binary", ":all:"]
        commands.append([uv, "pip", "install", *target, *hashes, "-r", str(code / plan.path)])
    elif plan.kind == "pyproject":
        commands.append([uv, "pip", "install", *target, str((code / plan.path).parent)])
    if packages:
        commands.append([uv, "pip", "install", *target, *packages])
    return commands


def lacking(venv: Path, requirements: Sequence[str]) -> list[str]:
    """List the requirements whose distribution is not installed in a virtual environment.

    :param requirements: of two for the same distribution, the later one counts.
    :raises ReleaseError: for what is no requirement.
    """
    wanted: dict[frozenset[str], str] = {}
    for requirement in requirements:
        name = requirement_name(requirement)
        wanted.pop(_same_program(name), None)
        wanted[_same_program(name)] = requirement
    return [
        requirement
        for requirement in wanted.values()
        if not distribution_installed(venv, requirement_name(requirement))
    ]


def distribution_installed(venv: Path, name: str) -> bool:
    """Tell whether a distribution, or the same program by another name, is installed in a virtual environment."""
    wanted = _same_program(name)
    return any(
        _plain_name(path.name.split("-")[0]) in wanted for path in venv.glob("lib/python*/site-packages/*.dist-info")
    )


def _same_program(name: str) -> frozenset[str]:
    plain = _plain_name(name)
    return next((names for names in SAME_PROGRAM if plain in names), frozenset({plain}))


def _plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def requirement_name(requirement: str) -> str:
    """Return the distribution that a requirement names, whatever extras, versions and markers follow.

    :raises ReleaseError: for what is no requirement, such as a path or an option of the installer.
    """
    match = REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise ReleaseError(f"'{requirement}' is not a requirement: write it as 'name==version'")
    return match[1]


@dataclass(frozen=True)
class Runner:
    """Runs the commands of a build as the account that builds.

    :param uid: user and group to run as.
    :param environment: the whole environment of the commands.
    """

    uid: int
    gid: int
    environment: Mapping[str, str]

    def __call__(self, command: Sequence[str], cwd: Path) -> str:
        """Run a command.

        :raises ReleaseError: with the end of what it printed, when it fails.
        """
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            command,
            check=False,
            cwd=cwd,
            env=dict(self.environment),
            user=self.uid,
            group=self.gid,
            extra_groups=(),
            umask=0o022,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-30:])
            raise ReleaseError(f"{' '.join(command)} failed with status {done.returncode}:\n{tail}")
        return done.stdout


def base_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Compose the environment of commands that install; the host's trust store is used."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "UV_CACHE_DIR": str(home / "uv"),
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NATIVE_TLS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if TRUST.is_file():
        environment |= {"SSL_CERT_FILE": str(TRUST), "PIP_CERT": str(TRUST)}
    return {**environment, **extra}


def find_tool(requirement: str, program: str, environment: Mapping[str, str]) -> str:
    """Return the path of a program, which is installed into a virtual environment of its own once.

    :param requirement: what brings it, such as ``uv==0.13.8``.
    :param environment: the whole environment of the commands that install.
    :raises ReleaseError: when they fail.
    """
    venv = TOOLS / re.sub(r"[^A-Za-z0-9.]+", "-", requirement)
    path = venv / "bin" / program
    if path.is_file():
        return str(path)
    shutil.rmtree(venv, ignore_errors=True)
    run = Runner(0, 0, environment)
    TOOLS.mkdir(parents=True, exist_ok=True)
    run(["/usr/bin/python3", "-m", "venv", str(venv)], TOOLS)
    run([str(venv / "bin" / "pip"), "install", "--quiet", requirement], TOOLS)
    return str(path)


def unpack_source(archive: Path, code: Path) -> None:
    """Unpack a source that the controller has made and checked.

    :raises ReleaseError: for what the controller would not have let in, before anything of it is written.
    """
    code.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            path = PurePosixPath(member.name)
            if (
                path.is_absolute()
                or ".." in path.parts
                or not (member.isreg() or member.isdir() or member.issym())
                or (member.issym() and (member.linkname.startswith("/") or _leaves(path, member.linkname)))
                or member.mode & 0o6000
            ):
                raise ReleaseError(
                    f"app_source: '{member.name}' of the archive is a device, has a set-uid bit or leads out of the "
                    "source, and nothing was unpacked: remove what is in app_cache_directory, and take it out"
                )
        # All of it is checked. Before 3.10.12, Python has no filters, and leaves this alone.
        tar.extraction_filter = lambda member, _path: member
        for member in members:
            tar.extract(member, code, numeric_owner=True)


def _leaves(path: PurePosixPath, target: str) -> bool:
    """Tell whether a link leads out of the root that it lies in."""
    joined = os.path.normpath(path.parent / target)
    return joined == ".." or joined.startswith("../")


def own(root: Path, uid: int, gid: int) -> None:
    """Give a tree to an account, links included, and take write access from all others."""
    os.chown(root, uid, gid)
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            os.chown(path, uid, gid, follow_symlinks=False)
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o7777
                if mode & 0o6022:
                    path.chmod(mode & ~0o6022)


def modules_at_top(code: Path) -> list[str]:
    """List what could be imported from the top of a source, for an error message."""
    names = {path.stem for path in code.glob("*.py")}
    names |= {path.parent.name for path in code.glob("*/__init__.py")}
    return sorted(names)


def pack(build: Path, archive: Path) -> None:
    """Pack a build into a zstd archive, owners by number."""
    temporary = archive.with_name(archive.name + ".new")
    _tar("--create", "--zstd", "--file", str(temporary), "--numeric-owner",
         "--directory", str(build.parent), build.name)  # fmt: skip
    os.rename(temporary, archive)


def unpack(archive: Path, build: Path) -> None:
    """Unpack an archive of :func:`pack` at the same path, whole or not at all."""
    build.parent.mkdir(parents=True, exist_ok=True)
    staging = build.with_name(f".new-{build.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        _tar("--extract", "--zstd", "--file", str(archive), "--numeric-owner", "--same-owner",
             "--preserve-permissions", "--directory", str(staging))  # fmt: skip
        shutil.rmtree(build, ignore_errors=True)
        os.rename(staging / build.name, build)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tar(*arguments: str) -> None:
    done = subprocess.run(["tar", *arguments], check=False, capture_output=True, text=True, errors="replace")  # pylint: disable=ansible-bad-function
    if done.returncode != 0:
        raise ReleaseError(f"tar {' '.join(arguments)}: {done.stderr.strip()}")
