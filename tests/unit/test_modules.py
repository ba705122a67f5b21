"""The modules and the action as Ansible calls them: what they are told, what they answer, and what they leave alone.

Each runs in this process. What they would do to the machine happens below a directory of the test: units,
sockets and accounts are that directory's, systemd is a record of what it was asked, and no command runs.
"""

import fnmatch
import functools
import hashlib
import http.server
import importlib
import io
import json
import multiprocessing
import os
import pwd
import signal
import socketserver
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsgi.fleet.plugins.action import preflight
from ansible_collections.wsgi.fleet.plugins.action import release_begin as begin_action
from ansible_collections.wsgi.fleet.plugins.module_utils import _build as core_of_builds
from ansible_collections.wsgi.fleet.plugins.module_utils import _instance
from ansible_collections.wsgi.fleet.plugins.module_utils import _release as core
from ansible_collections.wsgi.fleet.plugins.module_utils import _transaction as transaction
from ansible_collections.wsgi.fleet.plugins.module_utils._host_info import host_info as describe
from ansible_collections.wsgi.fleet.plugins.modules import (
    app_source,
    certificate_served,
    firewall,
    host_info,
    release_activate,
    release_begin,
    release_build,
    release_discard,
    release_drive,
    release_end,
    release_info,
    release_profile,
    release_remove,
    release_retire,
    release_run,
    release_stage,
    release_undo,
    unit_dropin,
)

MODULES = (
    app_source,
    certificate_served,
    firewall,
    host_info,
    release_activate,
    release_begin,
    release_build,
    release_discard,
    release_drive,
    release_end,
    release_info,
    release_profile,
    release_remove,
    release_retire,
    release_run,
    release_stage,
    release_undo,
    unit_dropin,
)
DIRECTORY = Path(__file__).resolve().parents[2] / "plugins" / "modules"

BUILD = "b" * 12
#: The release of BUILD and STAGE below, as HMAC-SHA-256 with KEY names it.
RELEASE = "46783effda4b"
OLD, OLDER, OLDEST = "a" * 12, "c" * 12, "d" * 12
KEY = "fleet-key-of-nobody"
PASSWORD = "hunter22"
ENVIRONMENT = json.dumps({"DSN": f"postgres://shop:{PASSWORD}@db/shop"})
UNIT = "[Unit]\nDescription=shop %i\n"
STAGE: Mapping[str, Any] = {
    "name": "shop",
    "build": BUILD,
    "unit": UNIT,
    "files": {"gunicorn.conf.py": "workers = 2\n"},
    "environment": ENVIRONMENT,
    "key": KEY,
    "user": "shop",
    "shared": ["uploads"],
    "manifest": {"version": "v1"},
    "gate": {"path": "/health", "deadline": 0.2, "interval": 0.02},
}
RUNNING = _instance.UnitState("active", "running", "success", 0)
STOPPED = _instance.UnitState("inactive", "dead", "success", 0)
DEAD = _instance.UnitState("failed", "failed", "exit-code", 0)

Arguments = Mapping[str, Any]
Result = dict[str, Any]


def returned(module: ModuleType) -> tuple[set[str], set[str]]:
    """Return the keys that a module documents: all of them, and those of every success."""
    keys = yaml.safe_load(module.RETURN)
    return set(keys), {name for name, key in keys.items() if key["returned"] in {"success", "always"}}


class Caller:
    """Calls modules and reads what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        #: What modules sent to the system's log.
        self.logged: list[str] = []
        #: What the last call printed.
        self.printed = ""

    def __call__(self, module: ModuleType, arguments: Arguments, *, check: bool = False) -> Result:
        """Run a module; a success has to have the keys that it documents and no others."""
        self._capsys.readouterr()
        with (
            patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit) as end,
        ):
            module.main()
        self.printed = self._capsys.readouterr().out
        result: Result = json.loads(self.printed)
        assert "warnings" not in result
        assert end.value.code == (1 if result.get("failed") else 0)
        if not result.get("failed"):
            known, always = returned(module)
            keys = set(result) - {"changed", "diff", "invocation"}
            assert always <= keys <= known
        return result

    def fails(self, module: ModuleType, arguments: Arguments, *, check: bool = False) -> str:
        """Run a module that has to fail and return its message."""
        result = self(module, arguments, check=check)
        assert result.get("failed") is True
        return str(result["msg"])

    @property
    def shown(self) -> str:
        """All that a call has let anybody see."""
        return "\n".join([self.printed, *self.logged])


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    caller = Caller(capsys)

    def log(_module: object, message: str, log_args: object = None) -> None:
        caller.logged.append(message)

    monkeypatch.setattr(AnsibleModule, "log", log)
    umask = os.umask(0o022)
    yield caller
    os.umask(umask)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        systemd: FakeSystemd = self.server.systemd  # type: ignore[attr-defined]
        systemd.asked.append(f"{self.headers['Host']}{self.path}")
        body = systemd.body.encode()
        self.send_response(404 if self.path in systemd.missing else systemd.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    systemd: "FakeSystemd"


class FakeSystemd(_instance.Systemd):
    """Records what it is asked; an instance that it starts answers on its socket."""

    def __init__(self, layout: core.Layout) -> None:
        self.layout = layout
        self.calls: list[str] = []
        self.states: dict[str, _instance.UnitState] = {}
        self.log = "Listening at: unix"
        #: The state of a unit after its start, or what systemctl says against it.
        self.after_start: _instance.UnitState | core.ReleaseError = RUNNING
        #: Further processes that do not stay up.
        self.broken: set[str] = set()
        #: Processes of units.
        self.processes: dict[str, int] = {}
        #: Paths that are not answered well.
        self.missing: set[str] = set()
        #: What instances answer.
        self.status = 200
        self.body = "state: healthy"
        self.asked: list[str] = []
        self._servers: dict[str, Server] = {}

    def reload(self) -> None:
        self.calls.append("reload")

    def main_process(self, unit: str) -> int:
        return self.processes.get(unit, 0)

    def start(self, unit: str) -> None:
        self.calls.append(f"start {unit}")
        if isinstance(self.after_start, core.ReleaseError):
            raise core.ReleaseError(str(self.after_start))
        self.states[unit] = self.after_start
        if self.after_start.active == "active":
            self.serve(unit)

    def serve(self, unit: str) -> None:
        path = self.layout.socket(self.layout.release_of(unit))
        path.parent.mkdir(parents=True, exist_ok=True)
        server = Server(str(path), Handler)
        server.systemd = self
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self._servers[unit] = server

    def stop(self, *units: str) -> None:
        self.calls.append(" ".join(["stop", *units]))
        self.gone(*units)

    def discard(self, *units: str) -> None:
        self.calls.append(" ".join(["discard", *units]))
        self.gone(*units)

    def gone(self, *units: str) -> None:
        """See that units do not run any more."""
        for unit in units:
            self.states.pop(unit, None)
            if unit in self._servers:
                self.end(self._servers.pop(unit))
                self.layout.socket(self.layout.release_of(unit)).unlink()

    def state(self, unit: str) -> _instance.UnitState:
        return self.states.get(unit, STOPPED)

    def start_and_wait(self, *units: str) -> None:
        if units:
            self.calls.append(" ".join(["start", *units]))
        for unit in units:
            self.states[unit] = DEAD if unit in self.broken else RUNNING

    def active(self, *patterns: str) -> list[str]:
        running = [unit for unit, state in self.states.items() if state.active == "active"]
        return [unit for unit in running if any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)]

    def journal(self, unit: str, since: float, lines: int = 40) -> str:
        return self.log

    def end(self, server: Server) -> None:
        server.shutdown()
        server.server_close()

    def close(self) -> None:
        for server in self._servers.values():
            self.end(server)


def no_command(*command: object, **_more: object) -> str:
    raise AssertionError(f"{command} is not for this machine")


def no_account(name: str) -> pwd.struct_passwd:
    """Look an account up: there is none but shop, which is whoever runs the test."""
    if name != "shop":
        raise KeyError(name)
    return pwd.getpwuid(os.getuid())


@pytest.fixture
def layout(tmp_path: Path) -> core.Layout:
    return core.Layout("shop", tmp_path / "srv", units=tmp_path / "units", run=tmp_path / "run")


@pytest.fixture
def systemd(layout: core.Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    fake = FakeSystemd(layout)
    here = functools.partial(core.Layout, units=layout.units, run=layout.run)
    life = (
        release_activate,
        release_begin,
        release_discard,
        release_drive,
        release_end,
        release_info,
        release_profile,
        release_remove,
        release_retire,
        release_run,
        release_stage,
        release_undo,
    )
    for module in life:
        monkeypatch.setattr(module, "Layout", here)
    for module in (*(module for module in life if module is not release_end), unit_dropin):
        monkeypatch.setattr(module, "Systemd", lambda: fake)
    monkeypatch.setattr(_instance, "run", no_command)
    monkeypatch.setattr(release_stage, "pwd", SimpleNamespace(getpwnam=no_account))
    monkeypatch.setattr(release_stage, "diagnose_import", lambda *_arguments: None)
    yield fake
    fake.close()


def make_build(layout: core.Layout, build: str = BUILD) -> None:
    core.write_file(layout.build(build) / core.BUILD_MANIFEST, "{}", 0o644)


def make_release(layout: core.Layout, release: str, build: str = BUILD, **environment: str) -> None:
    make_build(layout, build)
    core.create_release(layout, release, build, {}, environment, {"version": "v0"})
    _instance.install_units(layout, release, UNIT, {})


def put_live(layout: core.Layout, *releases: str) -> None:
    """Let releases be live on the whole fleet one after another, a second apart, by the deploys D0, D1, ..."""
    for number, release in enumerate(releases):
        core.activate(layout, release)
        core.confirm(layout, release, f"D{number}")
        os.utime(layout.release(release) / core.ACTIVATED, (1000 + number, 1000 + number))


def snapshot(root: Path) -> dict[str, tuple[int, int, object]]:
    """Describe everything below a directory: mode, time of the last change, and content."""

    def content(path: Path) -> object:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns, content(path))
        for path in root.rglob("*")
    }


# The documentation and the arguments


class SpecificationError(Exception):
    """Carries what a module gives to AnsibleModule."""


def specification(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Arguments:
    def caught(**arguments: Any) -> None:
        raise SpecificationError(arguments)

    monkeypatch.setattr(module, "AnsibleModule", caught)
    with pytest.raises(SpecificationError) as end:
        module.main()
    found: Arguments = end.value.args[0]
    return found


def simplified(options: Mapping[str, Arguments], nested: str) -> dict[str, object]:
    """Reduce options to what documentation and argument specification both say.

    :param nested: what the options inside a dictionary are called.
    """
    return {
        name: {
            "type": option.get("type", "str"),
            "required": option.get("required", False),
            "default": option.get("default"),
            "choices": option.get("choices"),
            "elements": option.get("elements"),
            "aliases": option.get("aliases"),
            "options": simplified(option.get(nested) or {}, nested),
        }
        for name, option in options.items()
    }


def test_every_module_is_tested_here() -> None:
    tested = {module.__name__.rpartition(".")[2] for module in MODULES}
    # Those of the actions hold their documentation alone.
    assert tested | {"certificate", "preflight"} == {path.stem for path in DIRECTORY.glob("*.py")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_options_are_those_of_the_documentation(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    documentation = yaml.safe_load(module.DOCUMENTATION)
    assert documentation["module"] == module.__name__.rpartition(".")[2]
    found = specification(module, monkeypatch)
    assert simplified(found["argument_spec"], "options") == simplified(documentation["options"], "suboptions")
    assert documentation["attributes"]["check_mode"]["support"] == "full"
    assert found["supports_check_mode"] is True


@pytest.mark.parametrize(
    ("module", "secrets"),
    [
        (app_source, ["key", "token"]),
        (release_build, ["environment"]),
        (release_profile, ["environment"]),
        (release_stage, ["environment", "key"]),
    ],
)
def test_secrets_are_marked_as_such(module: ModuleType, secrets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = specification(module, monkeypatch)["argument_spec"]
    assert sorted(name for name, option in options.items() if option.get("no_log")) == secrets


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (app_source, {}, "missing required arguments: cache, source"),
        (release_activate, {"name": "shop"}, "missing required arguments: directory"),
        (release_build, {"name": "shop"}, "missing required arguments: build, directory"),
        (release_info, {"directory": "/nowhere"}, "missing required arguments: name"),
        (release_retire, {}, "missing required arguments: directory, name"),
        (release_begin, {"name": "shop"}, "missing required arguments: deploy, directory"),
        (release_end, {"name": "shop"}, "missing required arguments: deploy, directory"),
        (release_discard, {"name": "shop"}, "missing required arguments: directory"),
        (release_remove, {"directory": "/srv/shop"}, "missing required arguments: name"),
        (release_drive, {"name": "shop"}, "missing required arguments: directory, releases"),
        (release_profile, {"name": "shop"}, "missing required arguments: destination, directory"),
        (release_run, {"name": "shop", "directory": "/nowhere"}, "missing required arguments: command, task, user"),
        (release_undo, {"name": "shop"}, "missing required arguments: deploy, directory"),
        (release_stage, {"name": "shop", "directory": "/nowhere"}, "one of the following is required: build, release"),
        (
            release_stage,
            {"name": "shop", "directory": "/nowhere", "build": "b"},
            "missing parameter(s) required by 'build': unit, user",
        ),
        (certificate_served, {}, "missing required arguments: path"),
        (unit_dropin, {"name": "60-x"}, "missing required arguments: units"),
    ],
)
def test_missing_arguments_are_named(call: Caller, module: ModuleType, arguments: Arguments, message: str) -> None:
    assert call.fails(module, arguments) == message


def test_arguments_that_are_unknown_are_refused(call: Caller) -> None:
    assert "module: root. Supported parameters include: ." in call.fails(host_info, {"root": "/nowhere"})


# app_source


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/app.py").write_text("app = 1\n")
    return tmp_path / "code"


@pytest.mark.parametrize("check", [False, True])
def test_a_directory_becomes_one_private_archive(call: Caller, tmp_path: Path, code: Path, check: bool) -> None:
    arguments = {"source": "code", "base": str(tmp_path), "cache": str(tmp_path / "cache/shop"), "version": "v1"}
    result = call(app_source, arguments, check=check)
    archive = tmp_path / "cache/shop/source-f0e1657e4cc02533ffb698b26d8f905c.tar.gz"
    assert {name: value for name, value in result.items() if name != "invocation"} == {
        "changed": False,
        "kind": "directory",
        "digest": "f0e1657e4cc02533ffb698b26d8f905c1bd4aa792e1c234cd0d450606bcb1e74",
        "version": "v1",
        "archive": str(archive),
        "requirement": None,
        "checksum": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "commits": [],
    }
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["app.py"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (archive, *archive.parents[:2])] == [0o600, 0o700, 0o700]
    before = snapshot(tmp_path)
    assert call(app_source, arguments, check=check) == result
    assert snapshot(tmp_path) == before


def test_a_pattern_leaves_files_out(call: Caller, tmp_path: Path, code: Path) -> None:
    (code / "notes.txt").write_text("not for the server\n")
    result = call(app_source, {"source": str(code), "exclude": ["*.txt"], "cache": str(tmp_path / "cache")})
    assert result["digest"] == "f0e1657e4cc02533ffb698b26d8f905c1bd4aa792e1c234cd0d450606bcb1e74"


def test_a_package_needs_no_archive(call: Caller, tmp_path: Path) -> None:
    result = call(app_source, {"source": "pypi:httpbin==0.10.2", "cache": str(tmp_path / "cache")})
    assert (result["kind"], result["requirement"], result["archive"]) == ("package", "httpbin==0.10.2", None)
    assert result["changed"] is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "pypi:httpbin"}, "app_source: 'pypi:httpbin' names no version, so two runs could install different "
         "ones: write 'pypi:name==version' or set app_version"),
        ({"source": "ftp://example.com/x"}, "app_source: 'ftp://example.com/x' has a scheme that is not known: use "
         "https, ssh, git or file"),
        ({"source": "pypi:a==1", "checksum": "00"}, "app_source_checksum: '00' is not a SHA-256 digest: write 64 "
         "hexadecimal digits in lower case, as sha256sum prints them"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_used_is_named(
    call: Caller, tmp_path: Path, arguments: Arguments, message: str
) -> None:
    assert call.fails(app_source, {**arguments, "cache": str(tmp_path / "cache")}) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["code", "nowhere"])
def test_credentials_of_a_source_are_not_shown(call: Caller, tmp_path: Path, code: Path, source: str) -> None:
    key = "-----BEGIN KEY-----\nkey-of-nobody\n-----END KEY-----\n"
    arguments = {
        "source": source,
        "base": str(tmp_path),
        "cache": str(tmp_path / "cache"),
        "token": PASSWORD,
        "key": key,
    }
    result = call(app_source, arguments)
    assert result.get("failed", False) is (source == "nowhere")
    assert "Invoked with" in call.shown
    assert PASSWORD not in call.shown
    assert "key-of-nobody" not in call.shown


# host_info


@pytest.mark.parametrize("check", [False, True])
def test_the_host_is_described(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    files = {
        "etc/os-release": "ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n",
        "proc/meminfo": "MemTotal: 2097152 kB\n",
    }
    for name, text in files.items():
        core.write_file(tmp_path / name, text, 0o644)
    monkeypatch.setattr(host_info, "host_info", functools.partial(describe, tmp_path))
    before = snapshot(tmp_path)
    result = call(host_info, {}, check=check)
    assert result["changed"] is False
    assert result["platform"] | {"architecture": "", "python": "", "python_path": ""} == {
        "distribution": "debian", "version": "12", "codename": "bookworm",
        "architecture": "", "python": "", "python_path": "",
    }  # fmt: skip
    documented = yaml.safe_load(host_info.RETURN)["platform"]["contains"]
    assert set(result["platform"]) == set(documented)
    assert (result["memory_mb"], result["ipv6"], result["time_daemon"], result["listening"]) == (2048, False, "", [])
    assert snapshot(tmp_path) == before


def test_a_host_that_cannot_be_described_says_why(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_info, "host_info", functools.partial(describe, tmp_path))
    assert call.fails(host_info, {}) == (
        f"the host does not tell what it is: [Errno 2] No such file or directory: '{tmp_path}/etc/os-release'"
    )
    core.write_file(tmp_path / "etc/os-release", "ID=debian\n", 0o644)
    core.write_file(tmp_path / "proc/meminfo", "MemFree: 1 kB\n", 0o644)
    assert call.fails(host_info, {}) == "the host does not tell what it is: /proc/meminfo has no MemTotal"


# release_info


@pytest.fixture
def place(layout: core.Layout) -> dict[str, str]:
    """The arguments that name the application."""
    return {"name": "shop", "directory": str(layout.root)}


@pytest.mark.parametrize("check", [False, True])
def test_a_host_without_the_application_has_nothing(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, place: Arguments, check: bool
) -> None:
    result = call(release_info, place, check=check)
    # Newer releases of Ansible tell what a module was called with only when they are asked.
    assert result.pop("invocation", {"module_args": place}) == {"module_args": place}
    assert result == {
        "changed": False, "current": None, "releases": [], "running": [], "builds": [], "lock": None, "history": [],
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_releases_builds_and_instances_are_told(
    call: Caller, tmp_path: Path, layout: core.Layout, systemd: FakeSystemd, place: Arguments
) -> None:
    make_release(layout, OLD)
    make_release(layout, OLDER, "e" * 12)
    put_live(layout, OLD, OLDER)
    make_build(layout, "f" * 12)
    (layout.builds / ("9" * 12)).mkdir()
    systemd.states = {f"shop@{OLDER}.service": RUNNING, f"shop@{OLD}.service": STOPPED, "other@x.service": RUNNING}
    before = snapshot(tmp_path)
    result = call(release_info, place)
    assert (result["changed"], result["current"], result["running"]) == (False, OLDER, [OLDER])
    assert [(release["release"], release["build"], release["version"]) for release in result["releases"]] == [
        (OLDER, "e" * 12, "v0"), (OLD, BUILD, "v0"),
    ]  # fmt: skip
    assert result["builds"] == [BUILD, "e" * 12, "f" * 12]
    assert snapshot(tmp_path) == before
    assert systemd.calls == []


def test_what_systemd_says_against_the_question_is_the_message(
    call: Caller, systemd: FakeSystemd, place: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_patterns: str) -> list[str]:
        raise core.ReleaseError("systemctl list-units: Failed to connect to bus")

    monkeypatch.setattr(systemd, "active", refused)
    assert call.fails(release_info, place) == "systemctl list-units: Failed to connect to bus"


# release_build

VENV = "/venv/bin/python"


class Builder:
    """Stands for what a build does to the machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.target = root / "srv/builds" / BUILD
        self.commands: list[str] = []
        self.environments: list[Mapping[str, str]] = []
        self.owners: list[tuple[Path, int, int]] = []
        self.unpacked: list[Path] = []
        #: A command that has this in it fails.
        self.fails_at = ""
        self.complaint = "no such package"

    def runner(self, uid: int, gid: int, environment: Mapping[str, str]) -> Callable[[Sequence[str], Path], str]:
        assert (uid, gid) == (os.getuid(), os.getgid())
        self.environments.append(environment)

        def run(command: Sequence[str], cwd: Path) -> str:
            assert cwd == self.target / "code"
            line = " ".join(command).replace(str(self.target), "").replace(str(self.root), "")
            self.commands.append(line)
            if self.fails_at and self.fails_at in line:
                raise core.ReleaseError(f"uv failed with status 1:\n{self.complaint}")
            return ""

        return run

    def compile(self, command: Sequence[str], **_more: object) -> None:
        self.commands.append(" ".join(command).replace(str(self.target), ""))

    def unpack(self, archive: Path, build: Path) -> None:
        self.unpacked.append(archive)
        core.write_file(build / core.BUILD_MANIFEST, "{}", 0o644)

    def path(self, *parts: str) -> Path:
        """Make a path; what lies in a cache of the machine lies below the test's directory."""
        path = Path(*parts)
        return self.root / path.relative_to("/") if path.is_relative_to("/var/cache") else path

    def pack(self, build: Path, archive: Path) -> None:
        assert build == self.target
        archive.write_bytes(b"packed")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    fake = Builder(tmp_path)
    core.write_file(tmp_path / "tools/uv-0.9/bin/uv", "", 0o755)
    monkeypatch.setattr(core_of_builds, "TOOLS", tmp_path / "tools")
    monkeypatch.setattr(core_of_builds, "TRUST", tmp_path / "no-trust-store")
    monkeypatch.setattr(release_build, "Path", fake.path)
    monkeypatch.setattr(release_build, "Runner", fake.runner)
    monkeypatch.setattr(release_build, "own", lambda *owner: fake.owners.append(owner))
    monkeypatch.setattr(release_build, "pack", fake.pack)
    monkeypatch.setattr(release_build, "unpack", fake.unpack)
    monkeypatch.setattr(release_build, "pwd", SimpleNamespace(getpwnam=no_account))
    monkeypatch.setattr(release_build, "subprocess", SimpleNamespace(run=fake.compile, DEVNULL=subprocess.DEVNULL))
    return fake


@pytest.fixture
def build(tmp_path: Path, builder: Builder) -> dict[str, Any]:
    """The arguments of a build of a source with dependencies."""
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
        for name, text in (("shop.py", "app = 1\n"), ("requirements.txt", "flask==3.1.2\n")):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(text), os.getuid(), os.getgid()
            tar.addfile(info, io.BytesIO(text.encode()))
    return {
        "name": "shop",
        "directory": str(tmp_path / "srv"),
        "build": BUILD,
        "source": str(tmp_path / "source.tar.gz"),
        "requirements": ["gunicorn==27.0.1"],
        "module": "shop:app",
        "uv": "uv==0.9",
        "user": "shop",
        "environment": json.dumps({"UV_INDEX_URL": f"https://shop:{PASSWORD}@pypi.example.com/simple"}),
    }


def test_a_build_is_made_once(call: Caller, tmp_path: Path, builder: Builder, build: Arguments) -> None:
    result = call(release_build, build)
    assert (result["changed"], result["built"], result["dependencies"]) == (True, True, "requirements")
    install = f"/tools/uv-0.9/bin/uv pip install --python {VENV} --compile-bytecode"
    assert builder.commands[:3] == [
        "/tools/uv-0.9/bin/uv venv --python /usr/bin/python3 --no-python-downloads /venv",
        f"{install} -r /code/requirements.txt",
        f"{install} gunicorn==27.0.1",
    ]
    assert builder.commands[3].startswith(f"{VENV} -c ")
    assert builder.commands[3].endswith(" shop")
    assert builder.commands[4:] == [f"{VENV} -m compileall -qq -j 0 /code"]
    (environment,) = builder.environments
    assert environment["UV_INDEX_URL"] == f"https://shop:{PASSWORD}@pypi.example.com/simple"
    assert environment["HOME"] == str(tmp_path / "var/cache/wsgi.fleet" / pwd.getpwuid(os.getuid()).pw_name)
    assert stat.S_IMODE(Path(environment["HOME"]).stat().st_mode) == 0o700
    target = builder.target
    assert builder.owners == [(target, os.getuid(), os.getgid()), (target, 0, 0)]
    manifest = json.loads((target / core.BUILD_MANIFEST).read_text())
    assert (manifest["build"], manifest["dependencies"]) == (BUILD, "requirements")
    assert PASSWORD not in call.shown

    before, count = snapshot(target), len(builder.commands)
    again = call(release_build, build)
    assert (again["changed"], again["built"]) == (False, False)
    assert len(builder.commands) == count
    assert snapshot(target) == before


def test_what_the_application_brings_is_not_installed_again(
    call: Caller, builder: Builder, build: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lacks comes in one installation, so that the versions fit each other."""
    monkeypatch.setattr(core_of_builds, "distribution_installed", lambda _venv, name: name == "gunicorn")
    requirements = ["gunicorn[gevent]==27.0.1", "gevent==26.9.0", "packaging", "gevent==25.9.1"]
    call(release_build, build | {"requirements": requirements})
    assert [line for line in builder.commands if "gevent" in line] == [
        f"/tools/uv-0.9/bin/uv pip install --python {VENV} --compile-bytecode packaging gevent==25.9.1"
    ]


def test_an_application_that_brings_all_gets_nothing_more(
    call: Caller, builder: Builder, build: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_of_builds, "distribution_installed", lambda _venv, _name: True)
    call(release_build, build | {"requirements": ["gunicorn==27.0.1", "gevent==26.9.0"]})
    assert sum("pip install" in line for line in builder.commands) == 1


def test_modules_lie_beside_the_packages(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.13/site-packages").mkdir(parents=True)
    paths = release_build.write_modules(tmp_path, {"shop_cache": "x = 1\n"})
    assert paths == [str(tmp_path / "lib/python3.13/site-packages/shop_cache.py")]
    assert Path(paths[0]).read_text() == "x = 1\n"
    assert stat.S_IMODE(Path(paths[0]).stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["../evil", "a.b", "", "1x"])
def test_a_module_has_a_plain_name(call: Caller, builder: Builder, build: dict[str, Any], name: str) -> None:
    said = call.fails(release_build, build | {"modules": {name: ""}})
    assert said == f"modules: '{name}' cannot be the name of a module: write one such as shop_cache"
    assert not builder.target.exists()


def test_check_mode_builds_nothing(call: Caller, tmp_path: Path, builder: Builder, build: Arguments) -> None:
    before = snapshot(tmp_path)
    result = call(release_build, build, check=True)
    assert (result["changed"], result["built"]) == (True, True)
    assert snapshot(tmp_path) == before
    assert builder.commands == []
    core.write_file(builder.target / core.BUILD_MANIFEST, "{}", 0o644)
    result = call(release_build, build, check=True)
    assert (result["changed"], result["built"]) == (False, False)


def test_a_package_is_installed_into_an_empty_build(call: Caller, builder: Builder, build: dict[str, Any]) -> None:
    del build["source"]
    result = call(release_build, build | {"requirement": "httpbin==0.10.2", "module": "httpbin:app"})
    assert (result["changed"], result["dependencies"]) == (True, "none")
    assert builder.commands[1].endswith(" --compile-bytecode httpbin==0.10.2")
    assert list((builder.target / "code").iterdir()) == []


def test_a_build_that_fails_leaves_nothing_and_no_secret(call: Caller, builder: Builder, build: Arguments) -> None:
    builder.fails_at = "-r /code/requirements.txt"
    builder.complaint = f"https://shop:{PASSWORD}@pypi.example.com/simple: 403, also with {PASSWORD}"
    assert call.fails(release_build, build) == "uv failed with status 1:\n********: 403, also with ********"
    assert PASSWORD not in call.shown
    assert not builder.target.exists()


def test_a_callable_that_is_not_there_is_named(call: Caller, builder: Builder, build: dict[str, Any]) -> None:
    builder.fails_at = "find_spec"
    assert call.fails(release_build, build | {"module": "store:app"}) == (
        "app_module: 'store:app': there is no module 'store' at the top of the source, nor among the dependencies. "
        "Modules at the top of the source: shop. Write it as 'package.module:callable', as seen from there."
    )
    assert not builder.target.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "nobody-here"}, "user: there is no account 'nobody-here' on this host"),
        ({"requirements": ["gunicorn==27.0.1", "==27"]}, "'==27' is not a requirement: write it as 'name==version'"),
        ({"dependencies": "setup.cfg"}, "app_dependencies: 'setup.cfg' is not in the source. At its top there is: "
         "requirements.txt, shop.py. Name the file as a path from there, or leave the variable out to have one found."),
        ({"archive": "/nowhere", "checksum": "0" * 64},
         "parameters are mutually exclusive: source|requirement|archive"),
        ({"requirement": "httpbin==0.10.2"}, "parameters are mutually exclusive: source|requirement|archive"),
        ({"source": None, "archive": "/nowhere"}, "missing parameter(s) required by 'archive': checksum"),
    ],
)  # fmt: skip
def test_a_build_that_cannot_be_made_is_refused(
    call: Caller, builder: Builder, build: dict[str, Any], change: Arguments, message: str
) -> None:
    arguments = {name: value for name, value in (build | dict(change)).items() if value is not None}
    assert call.fails(release_build, arguments) == message
    assert not builder.target.exists()


def test_a_build_is_made_of_something(call: Caller, builder: Builder, build: dict[str, Any]) -> None:
    del build["source"]
    message = call.fails(release_build, build)
    assert message == "one of the following is required: source, requirement, archive"
    assert not builder.target.exists()


@pytest.mark.parametrize("text", ["A=1", "[]"])
def test_a_build_environment_that_is_no_object_is_refused(
    call: Caller, builder: Builder, build: dict[str, Any], text: str
) -> None:
    message = call.fails(release_build, build | {"environment": text})
    assert message == "environment is not the text of a JSON object of strings"


#: Of the six bytes of "packed".
PACKED = "88cb8a087b6e8cebfc9ae5602f5a2159a6bcf923e7f2c56809bcda6cad1727a7"


def test_a_packed_build_is_unpacked_once(call: Caller, tmp_path: Path, builder: Builder, place: Arguments) -> None:
    (tmp_path / "b.tar.zst").write_bytes(b"packed")
    arguments = {**place, "build": BUILD, "archive": str(tmp_path / "b.tar.zst"), "checksum": PACKED}
    assert call(release_build, arguments, check=True)["changed"] is True
    assert builder.unpacked == []
    assert not builder.target.exists()
    assert call(release_build, arguments)["changed"] is True
    assert call(release_build, arguments)["changed"] is False
    assert builder.unpacked == [tmp_path / "b.tar.zst"]
    assert builder.commands == []


@pytest.mark.parametrize("checksum", ["0" * 64, PACKED.upper(), ""])
def test_an_archive_with_another_checksum_is_refused(
    call: Caller, tmp_path: Path, builder: Builder, place: Arguments, checksum: str
) -> None:
    (tmp_path / "b.tar.zst").write_bytes(b"packed")
    arguments = {**place, "build": BUILD, "archive": str(tmp_path / "b.tar.zst"), "checksum": checksum}
    assert call.fails(release_build, arguments) == (
        f"{tmp_path}/b.tar.zst has the digest {PACKED}, not {checksum}: "
        "it was damaged or changed on its way, and was not unpacked"
    )
    assert builder.unpacked == []
    assert not builder.target.exists()


def test_an_archive_that_is_not_there_is_named(
    call: Caller, tmp_path: Path, builder: Builder, place: Arguments
) -> None:
    arguments = {**place, "build": BUILD, "archive": str(tmp_path / "b.tar.zst"), "checksum": PACKED}
    assert str(tmp_path / "b.tar.zst") in call.fails(release_build, arguments)


def test_a_build_is_packed_for_root_only(call: Caller, tmp_path: Path, builder: Builder, build: dict[str, Any]) -> None:
    result = call(release_build, build | {"pack": str(tmp_path / "out.tar.zst")})
    assert (result["checksum"], result["size"], result["built"]) == (PACKED, 6, True)
    assert stat.S_IMODE((tmp_path / "out.tar.zst").stat().st_mode) == 0o600
    result = call(release_build, build | {"pack": str(tmp_path / "out.tar.zst")})
    assert (result["checksum"], result["size"], result["built"]) == (PACKED, 6, False)


def test_check_mode_knows_that_a_build_would_be_packed(
    call: Caller, tmp_path: Path, builder: Builder, build: dict[str, Any]
) -> None:
    call(release_build, build)
    arguments = build | {"pack": str(tmp_path / "out.tar.zst")}
    expected = call(release_build, arguments, check=True)["changed"]
    assert call(release_build, arguments)["changed"] is expected


# release_stage


@pytest.fixture
def staged(layout: core.Layout, systemd: FakeSystemd) -> dict[str, Any]:
    """The arguments of a release whose build is there."""
    make_build(layout)
    return {**STAGE, "directory": str(layout.root)}


def test_a_release_is_made_started_and_asked(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    result = call(release_stage, staged)
    assert {name: result[name] for name in ("changed", "release", "created", "previous", "answer")} == {
        "changed": True, "release": RELEASE, "created": True, "previous": None,
        "answer": "HTTP 200 OK: state: healthy",
    }  # fmt: skip
    assert systemd.calls == ["reload", f"start shop@{RELEASE}.service"]
    assert systemd.asked == ["localhost/health"]
    directory = layout.release(RELEASE)
    assert (directory / "env").read_text() == f'DSN="postgres://shop:{PASSWORD}@db/shop"\n'
    assert stat.S_IMODE((directory / "env").stat().st_mode) == 0o600
    assert (directory / "gunicorn.conf.py").read_text() == "workers = 2\n"
    manifest = core.manifest_of(layout, RELEASE)
    assert (manifest["name"], manifest["version"], manifest["build"]) == ("shop", "v1", BUILD)
    assert layout.unit(RELEASE).read_text() == UNIT
    assert layout.wanted(RELEASE).is_symlink()
    assert layout.permit(RELEASE).is_file()
    assert stat.S_IMODE((layout.root / "shared/uploads").stat().st_mode) == 0o750
    assert not layout.current.is_symlink()


REQUIRES = [
    {"distribution": "gunicorn", "below": "26", "otherwise": "eventlet: Gunicorn {version} has none"},
    {"distribution": "gevent", "otherwise": "gevent is missing"},
]


def test_a_build_that_does_not_fulfil_what_settings_need_is_refused_before_anything_is_written(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    packages = layout.build(BUILD) / "venv/lib/python3.13/site-packages"
    core.write_file(packages / "gunicorn-27.0.1.dist-info/METADATA", "Name: gunicorn\nVersion: 27.0.1\n", 0o644)
    before = snapshot(layout.root)
    for check in (True, False):
        message = call.fails(release_stage, {**staged, "requires": REQUIRES}, check=check)
        assert message == "eventlet: Gunicorn 27.0.1 has none\ngevent is missing"
    assert {name: what for name, what in snapshot(layout.root).items() if name != ".lock"} == before
    assert systemd.calls == []

    core.write_file(packages / "gunicorn-27.0.1.dist-info/METADATA", "Name: gunicorn\nVersion: 25.3.0\n", 0o644)
    core.write_file(packages / "gevent-26.9.0.dist-info/METADATA", "Name: gevent\nVersion: 26.9.0\n", 0o644)
    # What is required of the build is no part of the release.
    assert call(release_stage, {**staged, "requires": REQUIRES})["release"] == RELEASE


def test_a_build_that_is_not_there_yet_is_not_looked_at(
    call: Caller, layout: core.Layout, systemd: FakeSystemd
) -> None:
    result = call(release_stage, {**STAGE, "directory": str(layout.root), "requires": REQUIRES}, check=True)
    assert result["created"] is True


def test_what_is_staged_shows_no_secret(call: Caller, staged: Arguments) -> None:
    result = call(release_stage, staged)
    assert result["diff"] == [
        {"before_header": "unit of release (none)", "after_header": f"unit of release {RELEASE}",
         "before": "", "after": UNIT},
        {"before_header": "environment of release (none)", "after_header": f"environment of release {RELEASE}",
         "before": "", "after": "DSN=(hidden)\n"},
        {"before_header": "gunicorn.conf.py of release (none)",
         "after_header": f"gunicorn.conf.py of release {RELEASE}", "before": "", "after": "workers = 2\n"},
    ]  # fmt: skip
    assert "Invoked with" in call.shown
    assert PASSWORD not in call.shown
    assert KEY not in call.shown


def test_the_diff_is_against_the_current_release(call: Caller, layout: core.Layout, staged: Arguments) -> None:
    make_release(layout, OLD, DSN="old-s3cret", GONE="x1y2")
    put_live(layout, OLD)
    result = call(release_stage, staged)
    assert result["previous"] == OLD
    assert [(diff["before_header"], diff["before"], diff["after"]) for diff in result["diff"]] == [
        (f"environment of release {OLD}", "DSN=(hidden)\nGONE=(hidden)\n", "DSN=(hidden, another value)\n"),
        (f"gunicorn.conf.py of release {OLD}", "", "workers = 2\n"),
    ]
    assert "old-s3cret" not in call.shown
    assert "x1y2" not in call.shown


def test_check_mode_names_the_release_and_writes_nothing(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, staged: Arguments
) -> None:
    before = snapshot(tmp_path)
    result = call(release_stage, staged, check=True)
    assert (result["changed"], result["release"], result["created"]) == (True, RELEASE, True)
    assert [diff["after"] for diff in result["diff"]] == [UNIT, "DSN=(hidden)\n", "workers = 2\n"]
    assert snapshot(tmp_path) == before
    assert systemd.calls == []
    assert PASSWORD not in call.shown


@pytest.mark.parametrize("check", [False, True])
def test_a_current_release_that_runs_is_left_alone(
    call: Caller, tmp_path: Path, layout: core.Layout, systemd: FakeSystemd, staged: Arguments, check: bool
) -> None:
    call(release_stage, staged)
    put_live(layout, RELEASE)
    calls, before = list(systemd.calls), snapshot(tmp_path)
    result = call(release_stage, staged, check=check)
    assert (result["changed"], result["created"], result["previous"]) == (False, False, RELEASE)
    assert result["diff"] == []
    assert systemd.calls == calls
    assert snapshot(tmp_path) == before


def test_a_release_that_was_stopped_is_started_again(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    call(release_stage, staged)
    systemd.states.clear()
    systemd.close()
    layout.socket(RELEASE).unlink()
    layout.socket(RELEASE).parent.rmdir()
    layout.permit(RELEASE).unlink()
    systemd.calls.clear()
    assert call(release_stage, staged, check=True)["changed"] is True
    assert systemd.calls == []
    result = call(release_stage, staged)
    assert (result["changed"], result["created"]) == (True, False)
    assert systemd.calls == [f"start shop@{RELEASE}.service"]
    assert layout.permit(RELEASE).is_file()


def test_without_a_key_the_host_makes_one(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: dict[str, Any]
) -> None:
    del staged["key"]
    assert call(release_stage, staged, check=True)["release"] != RELEASE
    assert not (layout.root / ".key").exists()
    result = call(release_stage, staged)
    assert len((layout.root / ".key").read_bytes()) == 32
    assert stat.S_IMODE((layout.root / ".key").stat().st_mode) == 0o600
    again = call(release_stage, staged)
    assert (again["release"], again["changed"]) == (result["release"], False)


def test_an_instance_that_fails_its_gate_is_removed(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    make_release(layout, OLD)
    put_live(layout, OLD)
    systemd.status, systemd.body = 503, f"no database at postgres://shop:{PASSWORD}@db/shop"
    systemd.log = f"OperationalError: {PASSWORD} is wrong"
    result = call(release_stage, staged)
    assert (result["failed"], result["release"], result["created"], result["previous"]) == (True, RELEASE, False, OLD)
    assert result["msg"] == (
        f"Release {RELEASE} of shop did not pass its gate: GET /health did not answer with status 200-399 within 0.2 "
        "s.\n"
        "If this address is not meant to answer like that, set app_health_path, app_health_host or "
        "app_health_status.\n"
        "Last answer: HTTP 503 Service Unavailable: no database at ********\n"
        "Journal of the instance:\n"
        "OperationalError: ******** is wrong\n"
        "It got no traffic and was removed; the release before it goes on."
    )
    assert PASSWORD not in call.shown
    unit = f"shop@{RELEASE}.service"
    assert systemd.calls == ["reload", f"start {unit}", f"discard {unit}", "reload"]
    state = core.read_state(layout)
    assert (state.current, state.releases) == (OLD, (OLD,))
    assert [path.name for path in layout.releases.iterdir()] == [OLD]
    for path in (layout.unit(RELEASE), layout.wanted(RELEASE), layout.permit(RELEASE)):
        assert not path.is_symlink()
        assert not path.exists()


def test_an_instance_that_dies_is_explained_by_its_import(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def diagnose(*arguments: object) -> str:
        asked.append(arguments)
        return "ModuleNotFoundError: No module named 'flask'"

    monkeypatch.setattr(release_stage, "diagnose_import", diagnose)
    systemd.after_start, systemd.log = DEAD, ""
    message = call.fails(release_stage, staged | {"module": "shop:app"})
    assert message.splitlines() == [
        f"Release {RELEASE} of shop did not pass its gate: the instance died while it started (exit-code).",
        "app_module: 'shop:app' cannot be imported: ModuleNotFoundError: No module named 'flask'. Write it as "
        "'package.module:callable', as seen from the top of the source, and see that everything it imports is among "
        "the dependencies.",
        "Last answer: nothing listens on the instance's socket yet",
        "Journal of the instance:",
        "(empty)",
        "It got no traffic and was removed; the release before it goes on.",
    ]
    ((_layout, release, module, user, _environment),) = asked
    assert (release, module, user) == (RELEASE, "shop:app", "shop")
    assert not layout.release(RELEASE).exists()


def test_a_live_release_that_fails_its_gate_is_not_taken_away(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    call(release_stage, staged)
    put_live(layout, RELEASE)
    systemd.states.clear()
    systemd.calls.clear()
    systemd.after_start = DEAD
    systemd.close()
    message = call.fails(release_stage, staged)
    assert message.startswith(f"Release {RELEASE} of shop did not pass its gate: the instance died")
    assert "was removed" not in message
    assert systemd.calls == [f"start shop@{RELEASE}.service"]
    assert core.read_state(layout).current == RELEASE
    assert layout.unit(RELEASE).is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "A=1"}, "environment is not the text of a JSON object of strings"),
        ({"environment": "[]"}, "environment is not the text of a JSON object of strings"),
        ({"environment": '{"A": 1}'}, "app_env: the value of A is not text but int: environment variables are text, "
         "put it in quotes"),
        ({"environment": '{"A-B": "x"}'}, "'A-B' is not a name for an environment variable: use letters, digits and "
         "underscores, and no digit first"),
        ({"user": "nobody-here"}, "user: there is no account 'nobody-here' on this host"),
        ({"shared": ["../x"]}, "shared: '../x' lies outside {root}/shared: write a plain name"),
        ({"build": "e" * 12}, "build eeeeeeeeeeee is not complete in {root}/builds: run the build step first"),
        ({"files": {"env": "x"}}, "'env' cannot be the name of a file in a release"),
    ],
)  # fmt: skip
def test_a_release_that_cannot_be_made_is_refused(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: dict[str, Any], change: Arguments, message: str
) -> None:
    assert call.fails(release_stage, staged | dict(change)) == message.format(root=layout.root)
    assert core.read_state(layout).releases == ()
    assert not layout.units.exists()
    assert not (layout.root / "x").exists()
    assert systemd.calls == []


def test_an_answer_that_passes_shows_no_secret(call: Caller, systemd: FakeSystemd, staged: Arguments) -> None:
    systemd.body = f"connected to postgres://shop:{PASSWORD}@db/shop"
    assert call(release_stage, staged)["answer"] == "HTTP 200 OK: connected to ********"


def test_an_instance_that_runs_and_never_passed_is_asked(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    """A run that is cut short while it asks leaves an instance that runs."""
    make_release(layout, RELEASE)
    systemd.states[f"shop@{RELEASE}.service"] = RUNNING
    systemd.status = 503
    systemd.serve(f"shop@{RELEASE}.service")
    assert "did not pass its gate" in call.fails(release_stage, staged)


def test_a_unit_that_systemd_refuses_to_start_is_removed(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    systemd.after_start = core.ReleaseError(f"systemctl start shop@{RELEASE}.service: Unit has a bad unit file setting")
    assert "Unit has a bad unit file setting" in call.fails(release_stage, staged)
    assert core.read_state(layout).releases == ()
    assert not layout.unit(RELEASE).exists()
    assert not layout.permit(RELEASE).exists()


@pytest.mark.parametrize("gate", [{"body": "("}, {"status": ["2xx"]}])
def test_a_gate_that_cannot_be_read_is_refused_before_anything_starts(
    call: Caller, systemd: FakeSystemd, staged: dict[str, Any], gate: Arguments
) -> None:
    message = call.fails(release_stage, staged | {"gate": gate})
    assert next(iter(gate)) in message
    assert systemd.calls == []


# release_activate


@pytest.fixture
def two(layout: core.Layout, systemd: FakeSystemd) -> None:
    """Two releases that run, one of them live."""
    for release in (OLD, OLDER):
        make_release(layout, release)
        systemd.states[f"shop@{release}.service"] = RUNNING
    put_live(layout, OLD)


@pytest.mark.usefixtures("two")
def test_traffic_flips_and_flips_back(call: Caller, layout: core.Layout, place: dict[str, str]) -> None:
    for release, previous in ((OLDER, OLD), (OLD, OLDER)):
        result = call(release_activate, place | {"release": release})
        assert (result["changed"], result["release"], result["previous"]) == (True, release, previous)
        assert result["diff"] == {
            "before_header": str(layout.current), "after_header": str(layout.current),
            "before": f"{previous}\n", "after": f"{release}\n",
        }  # fmt: skip
        assert os.readlink(layout.current) == f"releases/{release}"


@pytest.mark.usefixtures("two")
def test_the_current_release_is_left_as_it_is(call: Caller, tmp_path: Path, place: dict[str, str]) -> None:
    call(release_activate, place | {"release": OLDER})
    before = snapshot(tmp_path)
    result = call(release_activate, place | {"release": OLDER})
    assert (result["changed"], result["previous"]) == (False, OLDER)
    assert "diff" not in result
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("release", "changed"), [(OLDER, True), (OLD, False), ("", True)])
def test_check_mode_switches_nothing(
    call: Caller, tmp_path: Path, layout: core.Layout, place: dict[str, str], release: str, changed: bool
) -> None:
    before = snapshot(tmp_path)
    result = call(release_activate, place | {"release": release}, check=True)
    assert (result["changed"], result["previous"]) == (changed, OLD)
    assert snapshot(tmp_path) == before
    assert call(release_activate, place | {"release": release})["changed"] is changed


@pytest.mark.usefixtures("two")
def test_no_release_takes_the_application_out_of_service(
    call: Caller, layout: core.Layout, place: dict[str, str]
) -> None:
    result = call(release_activate, place)
    assert (result["changed"], result["release"], result["previous"]) == (True, None, OLD)
    assert (result["diff"]["before"], result["diff"]["after"]) == (f"{OLD}\n", "(none)\n")
    assert not layout.current.is_symlink()
    assert call(release_activate, place)["changed"] is False


@pytest.mark.usefixtures("two")
def test_a_release_that_does_not_serve_cannot_become_current(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, str]
) -> None:
    systemd.states[f"shop@{OLDER}.service"] = DEAD
    assert call.fails(release_activate, place | {"release": OLDER}) == (
        f"the instance of release {OLDER} does not run: stage it first"
    )
    systemd.states[f"shop@{OLDEST}.service"] = RUNNING
    assert call.fails(release_activate, place | {"release": OLDEST}) == (
        f"release {OLDEST} is not on this host: stage it first"
    )
    assert os.readlink(layout.current) == f"releases/{OLD}"


# release_retire


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long release_retire waited."""
    found: list[float] = []
    monkeypatch.setattr(release_retire, "time", SimpleNamespace(sleep=found.append))
    return found


@pytest.fixture
def several(layout: core.Layout, systemd: FakeSystemd, naps: list[float]) -> None:
    """Four releases with a build each: the live one, two that were, and one that never was; two run."""
    for release, build in ((OLDEST, "1"), (OLDER, "2"), (OLD, "3"), (RELEASE, "4")):
        make_release(layout, release, build * 12)
    put_live(layout, OLDEST, OLDER, OLD)
    for release in (OLDER, OLD):
        systemd.states[f"shop@{release}.service"] = RUNNING
        core.write_file(layout.permit(release), "", 0o644)


@pytest.mark.usefixtures("several")
def test_what_is_not_current_stops_and_what_is_old_goes(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any], naps: list[float]
) -> None:
    systemd.states["shopping@x.service"] = RUNNING
    result = call(release_retire, place | {"drain": 1.5, "keep": 1})
    assert {name: result[name] for name in ("changed", "stopped", "releases", "builds")} == {
        "changed": True,
        "stopped": [f"shop@{OLDER}.service"],
        "releases": [OLDEST, RELEASE],
        "builds": ["1" * 12, "4" * 12],
    }
    assert naps == [1.5]
    assert systemd.calls == [f"stop shop@{OLDER}.service", "reload"]
    assert sorted(path.name for path in layout.releases.iterdir()) == [OLD, OLDER]
    assert sorted(path.name for path in layout.builds.iterdir()) == ["2" * 12, "3" * 12]
    assert sorted(path.name for path in layout.units.glob("*.service")) == [
        f"shop@{OLD}.service",
        f"shop@{OLDER}.service",
    ]
    assert not layout.permit(OLDER).exists()
    assert layout.permit(OLD).exists()
    assert core.read_state(layout).current == OLD
    again = call(release_retire, place | {"keep": 1})
    assert (again["changed"], again["stopped"], again["releases"], again["builds"]) == (False, [], [], [])
    assert naps == [1.5]


@pytest.mark.usefixtures("several")
def test_check_mode_stops_and_removes_nothing(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, place: dict[str, Any], naps: list[float]
) -> None:
    before = snapshot(tmp_path)
    expected = call(release_retire, place | {"keep": 0}, check=True)
    assert expected["releases"] == [OLDER, OLDEST, RELEASE]
    assert snapshot(tmp_path) == before
    assert (systemd.calls, naps) == ([], [])
    assert call(release_retire, place | {"keep": 0}) == expected


@pytest.mark.usefixtures("several")
def test_four_releases_are_kept_when_nothing_is_said(call: Caller, place: dict[str, Any], naps: list[float]) -> None:
    assert call(release_retire, place)["releases"] == [RELEASE]
    assert naps == [2.0]


def test_what_was_left_half_made_goes(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    (layout.builds / BUILD / "venv").mkdir(parents=True)
    assert call(release_retire, place, check=True)["changed"] is True
    assert layout.build(BUILD).is_dir()
    assert call(release_retire, place)["changed"] is True
    assert list(layout.builds.iterdir()) == []
    assert call(release_retire, place)["changed"] is False
    assert systemd.calls == []


@pytest.mark.usefixtures("several")
def test_an_instance_that_does_not_stop_keeps_its_release(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*units: str) -> None:
        raise core.ReleaseError(f"systemctl stop {' '.join(units)}: Job timed out")

    monkeypatch.setattr(systemd, "stop", refused)
    core.write_file(tmp_path / "srv/.lock", "", 0o600)
    before = snapshot(tmp_path)
    assert call.fails(release_retire, place) == f"systemctl stop shop@{OLDER}.service: Job timed out"
    assert snapshot(tmp_path) == before


def test_a_stray_file_beside_the_releases_is_no_obstacle(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    core.write_file(layout.releases / "notes.txt", "", 0o644)
    assert "failed" not in call(release_retire, place)


# release_remove


@pytest.fixture
def settled(layout: core.Layout, systemd: FakeSystemd) -> None:
    """A host with two releases, of which one is live, and with a process of the one before that still runs."""
    make_release(layout, OLDER, "e" * 12)
    make_release(layout, OLD)
    put_live(layout, OLDER, OLD)
    process = layout.process_unit(OLDER, "worker-1.service")
    core.write_file(layout.units / process, UNIT, 0o644)
    _instance.enable(layout, process)
    core.write_file(layout.units / "shopping@x.service", UNIT, 0o644)
    core.write_file(layout.permit(OLD), "", 0o644)
    core.write_file(layout.root / ".key", "k", 0o600)
    for unit in (f"shop@{OLD}.service", process):
        systemd.states[unit] = RUNNING


@pytest.mark.usefixtures("settled")
def test_an_application_leaves_but_for_what_it_has_stored(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    core.write_file(layout.root / "shared/uploads/one.txt", "mine", 0o644)
    before = snapshot(layout.root), snapshot(layout.units)
    expected = {"changed": True, "releases": sorted([OLDER, OLD]), "kept": str(layout.root / "shared")}
    told = call(release_remove, place, check=True)
    assert {key: told[key] for key in expected} == expected
    assert (snapshot(layout.root), snapshot(layout.units)) == before
    result = call(release_remove, place)
    assert {key: result[key] for key in expected} == expected
    assert [call.partition(" ")[0] for call in systemd.calls] == ["stop", "reload"]
    assert set(systemd.calls[0].split()[1:]) == {f"shop@{OLD}.service", f"shop.worker-1@{OLDER}.service"}
    assert [path.name for path in layout.root.iterdir()] == ["shared"]
    assert (layout.root / "shared/uploads/one.txt").read_text() == "mine"
    # Those of another application, whose name begins alike, stay.
    assert [path.name for path in layout.units.rglob("*") if not path.is_dir()] == ["shopping@x.service"]
    assert not layout.permit(OLD).exists()
    again = call(release_remove, place)
    assert (again["changed"], again["releases"], again["kept"]) == (False, [], str(layout.root / "shared"))


@pytest.mark.usefixtures("settled")
def test_an_application_that_has_stored_nothing_leaves_nothing(
    call: Caller, layout: core.Layout, place: dict[str, Any]
) -> None:
    (layout.root / "shared").mkdir()
    assert call(release_remove, place)["kept"] == ""
    assert not layout.root.exists()
    assert call(release_remove, place)["changed"] is False
    assert not layout.root.exists()


@pytest.mark.usefixtures("settled")
def test_no_application_leaves_while_it_is_deployed(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    with core.exclusive(layout):
        transaction.write_lock(layout, transaction.Lock("D9", "deploy", by="ann", origin="desk", since="noon"))
    before = snapshot(layout.root), snapshot(layout.units)
    message = call.fails(release_remove, place)
    assert message.startswith("Another deploy is under way: deploy D9, by ann on desk since noon.")
    assert (snapshot(layout.root), snapshot(layout.units)) == before
    assert systemd.calls == []


# Trials: release_stage with trial, release_drive and release_discard


@pytest.fixture
def trial(layout: core.Layout, systemd: FakeSystemd) -> dict[str, Any]:
    """The arguments of a release to be tried, on a host where another one is live."""
    make_release(layout, OLD)
    put_live(layout, OLD)
    systemd.states[f"shop@{OLD}.service"] = RUNNING
    return {**STAGE, "directory": str(layout.root), "trial": True}


def test_a_release_to_be_tried_passes_its_gate_and_stops(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any]
) -> None:
    result = call(release_stage, trial)
    release = result["release"]
    # Not the name of the same build and settings when they are deployed.
    assert release != RELEASE
    assert core.ID_PATTERN.fullmatch(release)
    assert (result["created"], result["live"], result["answer"]) == (True, False, "HTTP 200 OK: state: healthy")
    assert systemd.calls == ["reload", f"start shop@{release}.service", f"stop shop@{release}.service"]
    assert systemd.asked == ["localhost/health"]
    # It may not run by itself, as after a reboot.
    assert not layout.permit(release).exists()
    assert core.manifest_of(layout, release)["trial"] is True
    assert "trial" not in core.manifest_of(layout, OLD)
    assert core.read_state(layout).current == OLD


def test_a_release_to_be_tried_leaves_nothing_to_undo(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any]
) -> None:
    transaction.write_lock(layout, transaction.Lock("T1", "tune", previous=OLD))
    call(release_stage, trial | {"deploy": "T1"})
    lock = transaction.read_lock(layout)
    assert lock is not None
    assert (lock.release, lock.created, lock.previous) == (None, False, OLD)


def test_one_that_does_not_pass_is_removed(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any]
) -> None:
    systemd.after_start = DEAD
    assert "did not pass its gate" in call.fails(release_stage, trial)
    assert [path.name for path in layout.releases.iterdir()] == [OLD]


def test_instances_are_driven_one_after_another_and_stop(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any]
) -> None:
    first = call(release_stage, trial)["release"]
    second = call(release_stage, trial | {"files": {"gunicorn.conf.py": "workers = 4\n"}})["release"]
    systemd.calls.clear()
    systemd.asked.clear()
    before = snapshot(layout.root)
    result = call(
        release_drive,
        place
        | {"releases": [second, first], "path": "/a?b=1", "host": "shop.example.com"}
        | {"connections": 3, "seconds": 0.2, "warmup": 0.05},
    )
    assert result["changed"] is False
    assert [run["release"] for run in result["runs"]] == [second, first]
    for run in result["runs"]:
        assert run["requests"] > 3
        assert (run["failed"], run["reasons"]) == (0, {})
        assert 0 < run["rate"] <= run["requests"] / 0.2 + 0.1
        assert 0 < run["p50_ms"] <= run["p99_ms"] < 1000
    assert systemd.calls == [
        f"start shop@{second}.service", f"stop shop@{second}.service",
        f"start shop@{first}.service", f"stop shop@{first}.service",
    ]  # fmt: skip
    # The gate first, and nothing but the target after it.
    assert systemd.asked[0] == "localhost/health"
    assert set(systemd.asked) == {"localhost/health", "shop.example.com/a?b=1"}
    assert snapshot(layout.root) == before
    assert not layout.permit(first).exists()


def test_answers_of_an_error_are_failures_and_no_requests(
    call: Caller, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any]
) -> None:
    release = call(release_stage, trial)["release"]
    systemd.missing = {"/gone"}
    arguments = place | {"releases": [release], "path": "/gone", "connections": 1, "seconds": 0.1, "warmup": 0}
    (run,) = call(release_drive, arguments)["runs"]
    assert (run["requests"], run["rate"], run["p50_ms"], run["p99_ms"], run["cpu_ms"]) == (0, 0.0, None, None, None)
    assert run["failed"] > 0
    assert run["reasons"] == {"status 404": run["failed"]}


def test_an_instance_that_does_not_come_up_again_stops_the_trial(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any]
) -> None:
    release = call(release_stage, trial)["release"]
    systemd.after_start = DEAD
    assert "died while it started" in call.fails(release_drive, place | {"releases": [release]})
    assert systemd.calls[-1] == f"stop shop@{release}.service"
    assert not layout.permit(release).exists()


@pytest.mark.parametrize("release", [OLD, "e" * 12])
def test_what_was_not_staged_to_be_tried_is_not_driven(
    call: Caller, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any], release: str
) -> None:
    message = call.fails(release_drive, place | {"releases": [release]})
    assert message == f"release {release} was not staged to be tried, and is not driven"
    assert systemd.calls == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"path": "products"}, "'products' is not a request target: write one such as /products?page=2"),
        ({"path": "/a b"}, "'/a b' is not a request target: write one such as /products?page=2"),
        ({"path": "/a\r\nX: y"}, "'/a\r\nX: y' is not a request target: write one such as /products?page=2"),
        ({"host": "a\nb"}, "'a\nb' is not a value of the Host header: write one such as shop.example.com"),
    ],
)
def test_what_cannot_stand_in_a_request_is_refused(
    call: Caller, systemd: FakeSystemd, place: dict[str, Any], option: dict[str, str], message: str
) -> None:
    assert call.fails(release_drive, place | {"releases": []} | option) == message


def test_a_dry_run_drives_nothing(
    call: Caller, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any]
) -> None:
    assert call(release_drive, place | {"releases": ["e" * 12]}, check=True)["runs"] == []
    assert systemd.calls == []


def test_what_was_tried_goes_and_all_else_stays(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, trial: dict[str, Any], place: dict[str, Any]
) -> None:
    make_release(layout, OLDER, "e" * 12)
    before = snapshot(layout.root / "releases"), snapshot(layout.units), snapshot(layout.builds)
    one = call(release_stage, trial)["release"]
    # As after a trial that was cut short while it measured.
    two = call(release_stage, trial | {"files": {}})["release"]
    systemd.states[f"shop@{two}.service"] = RUNNING
    core.write_file(layout.permit(two), "", 0o644)
    assert call(release_discard, place, check=True)["releases"] == sorted([one, two])
    assert layout.release(one).is_dir()
    systemd.calls.clear()
    result = call(release_discard, place)
    assert (result["changed"], result["releases"]) == (True, sorted([one, two]))
    assert systemd.calls == [f"stop shop@{two}.service", "reload"]
    assert not layout.permit(two).exists()
    after = snapshot(layout.root / "releases"), snapshot(layout.units), snapshot(layout.builds)
    assert [sorted(part) for part in after] == [sorted(part) for part in before]
    assert systemd.states == {f"shop@{OLD}.service": RUNNING}
    again = call(release_discard, place)
    assert (again["changed"], again["releases"]) == (False, [])


@pytest.mark.parametrize("module", [release_discard, release_drive])
def test_a_trial_that_has_lost_its_lock_does_nothing_more(
    call: Caller,
    layout: core.Layout,
    systemd: FakeSystemd,
    trial: dict[str, Any],
    place: dict[str, Any],
    module: ModuleType,
) -> None:
    release = call(release_stage, trial)["release"]
    systemd.calls.clear()
    transaction.write_lock(layout, transaction.Lock("D2"))
    more = {"releases": [release]} if module is release_drive else {}
    assert call.fails(module, place | {"deploy": "T1"} | more).startswith("deploy T1 has lost its lock on this host")
    assert layout.release(release).is_dir()
    assert systemd.calls == []


def test_the_next_deploy_removes_what_a_trial_has_left(
    call: Caller,
    layout: core.Layout,
    systemd: FakeSystemd,
    trial: dict[str, Any],
    place: dict[str, Any],
    naps: list[float],
) -> None:
    release = call(release_stage, trial)["release"]
    assert call(release_retire, place)["releases"] == [release]


# release_begin, release_end and release_undo


@pytest.fixture
def deploy(place: dict[str, str]) -> dict[str, Any]:
    """The arguments of a deploy's steps."""
    return {**place, "deploy": "D8"}


CONTROLLER = {"machine": "desk/1", "process": "12 345", "origin": "desk", "by": "ada"}


def held(layout: core.Layout) -> transaction.Lock:
    lock = transaction.read_lock(layout)
    assert lock is not None
    return lock


def outcomes(layout: core.Layout) -> list[tuple[str, str]]:
    return [(entry["deploy"], entry["outcome"]) for entry in transaction.history(layout)]


def test_a_deploy_begins_with_the_lock_and_what_there_is(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    make_release(layout, OLD)
    put_live(layout, OLD)
    systemd.states = {f"shop@{OLD}.service": RUNNING, "shop.worker-1@x.service": RUNNING}
    result = call(release_begin, {**deploy, "version": "v2", "controller": CONTROLLER})
    assert result["changed"] is False
    assert (result["current"], result["running"], result["builds"]) == (OLD, [OLD, "x"], [BUILD])
    assert [(release["release"], release["deploy"]) for release in result["releases"]] == [(OLD, "D0")]
    assert (result["interrupted"], result["history"]) == (None, [])
    lock = held(layout)
    assert result["lock"] == {**vars(lock), "interrupted": []}
    assert (lock.deploy, lock.action, lock.version, lock.by, lock.origin) == ("D8", "deploy", "v2", "ada", "desk")
    assert (lock.machine, lock.process, lock.previous, lock.release) == ("desk/1", "12 345", OLD, None)
    assert call(release_begin, {**deploy, "controller": {}})["lock"] == result["lock"]


def test_a_name_that_is_given_wins_over_the_account(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    call(release_begin, {**deploy, "by": "eve", "controller": CONTROLLER})
    assert held(layout).by == "eve"
    (layout.root / transaction.LOCK).unlink()
    call(release_begin, deploy)
    assert held(layout).by == "somebody"


def test_check_mode_takes_no_lock(
    call: Caller, tmp_path: Path, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    result = call(release_begin, deploy, check=True)
    assert (result["changed"], result["lock"]) == (False, None)
    assert list(tmp_path.iterdir()) == []
    transaction.write_lock(layout, transaction.Lock("D7"))
    assert call(release_begin, deploy, check=True)["lock"]["deploy"] == "D7"
    for module in (release_end, release_undo):
        assert call(module, {**deploy, "deploy": "D7"}, check=True)["changed"] is False
    assert held(layout).deploy == "D7"


def test_who_has_the_lock_is_told(call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments) -> None:
    call(release_begin, {**deploy, "controller": CONTROLLER})
    result = call(release_begin, {**deploy, "deploy": "D9"})
    assert result["failed"] is True
    assert result["msg"].startswith("Another deploy is under way: deploy D8, by ada on desk since ")
    assert result["msg"].endswith("-e app_break_lock=D8")
    assert (result["locked"]["machine"], result["locked"]["process"]) == ("desk/1", "12 345")
    assert held(layout).deploy == "D8"
    result = call(release_begin, {**deploy, "deploy": "D9", "break_lock": "D8"})
    assert (result["interrupted"]["deploy"], result["interrupted"]["by"]) == ("D8", "ada")
    assert (held(layout).deploy, outcomes(layout)) == ("D9", [("D8", "interrupted")])


def test_a_lease_that_is_over_frees_the_lock(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    call(release_begin, deploy)
    os.utime(layout.root / transaction.LOCK, (1000, 1000))
    assert call(release_begin, {**deploy, "deploy": "D9"})["interrupted"]["deploy"] == "D8"


@pytest.mark.parametrize(("live", "previous", "mark"), [("", OLD, None), ("D8", OLDER, "D8")])
def test_a_deploy_answers_for_one_that_was_cut_short(
    call: Caller,
    layout: core.Layout,
    systemd: FakeSystemd,
    deploy: Arguments,
    live: str,
    previous: str,
    mark: str | None,
) -> None:
    for release in (OLD, OLDER):
        make_release(layout, release)
    put_live(layout, OLD)
    call(release_begin, deploy)
    core.activate(layout, OLDER)
    mine = {**deploy, "deploy": "D9", "break_lock": "D8"}
    assert call(release_begin, mine)["lock"]["interrupted"][0]["deploy"] == "D8"
    result = call(release_begin, {**mine, "settle": True, "live": live})
    assert (result["interrupted"]["deploy"], result["lock"]["interrupted"]) == ("D8", [])
    assert (held(layout).previous, core.read_state(layout).deploys.get(OLDER)) == (previous, mark)


def test_a_deploy_ends_with_a_line_in_the_history(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    assert call(release_end, deploy)["ended"] is False
    call(release_begin, deploy)
    assert call(release_end, {**deploy, "deploy": "D7"})["ended"] is False
    result = call(release_end, deploy)
    assert (result["changed"], result["ended"]) == (False, True)
    assert (transaction.read_lock(layout), outcomes(layout)) == (None, [("D8", "succeeded")])
    call(release_begin, {**deploy, "deploy": "D9"})
    assert call(release_end, {**deploy, "deploy": "D9", "record": False})["ended"] is True
    assert outcomes(layout) == [("D8", "succeeded")]


def no_room(*_arguments: object, **_more: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("module", [release_end, release_undo])
def test_a_full_disk_does_not_keep_the_lock(
    call: Caller,
    layout: core.Layout,
    systemd: FakeSystemd,
    deploy: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
) -> None:
    call(release_begin, deploy)
    monkeypatch.setattr(module, "record", no_room)
    result = call(module, deploy)
    if module is release_end:
        assert result["msg"] == "[Errno 28] No space left on device"
    else:
        assert result["notes"] == ["the history could not be written: [Errno 28] No space left on device"]
    assert transaction.read_lock(layout) is None


def test_a_host_that_took_no_part_has_nothing_to_undo(
    call: Caller, tmp_path: Path, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    result = call(release_undo, deploy)
    assert (result["changed"], result["undone"], result["flipped"], result["current"]) == (False, False, False, None)
    assert list(tmp_path.iterdir()) == []
    call(release_begin, {**deploy, "deploy": "D9"})
    assert call(release_undo, deploy)["undone"] is False
    assert held(layout).deploy == "D9"


@pytest.fixture
def flipped(layout: core.Layout, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A host on which a deploy has made OLDER, and flipped to it; how long release_undo waited."""
    for release in (OLD, OLDER):
        make_release(layout, release)
        systemd.states[f"shop@{release}.service"] = RUNNING
    core.write_file(layout.permit(OLDER), "", 0o644)
    put_live(layout, OLD)
    transaction.write_lock(layout, transaction.Lock("D8", previous=OLD, release=OLDER, created=True))
    core.activate(layout, OLDER)
    naps: list[float] = []
    monkeypatch.setattr(release_undo, "time", SimpleNamespace(sleep=naps.append))
    return naps


def test_a_host_is_put_back_as_it_was(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, flipped: list[float]
) -> None:
    result = call(release_undo, {**deploy, "reason": "at 'Check'", "drain": 1.5})
    assert {name: result[name] for name in ("changed", "current", "undone", "flipped", "notes")} == {
        "changed": True, "current": OLD, "undone": True, "flipped": True, "notes": [],
    }  # fmt: skip
    assert systemd.calls == [f"stop shop@{OLDER}.service", "reload"]
    assert flipped == [1.5]
    assert core.read_state(layout).releases == (OLD,)
    assert not layout.unit(OLDER).exists()
    assert not layout.permit(OLDER).exists()
    assert transaction.read_lock(layout) is None
    assert [(entry["outcome"], entry["reason"]) for entry in transaction.history(layout)] == [("failed", "at 'Check'")]
    assert call(release_undo, deploy)["changed"] is False


def test_a_release_that_was_there_before_stays(
    call: Caller, layout: core.Layout, deploy: Arguments, flipped: list[float]
) -> None:
    transaction.write_lock(layout, transaction.Lock("D8", "rollback", previous=OLD, release=OLDER))
    call(release_undo, deploy)
    assert core.read_state(layout).releases == (OLD, OLDER)
    assert layout.unit(OLDER).is_file()
    assert not layout.permit(OLDER).exists()


def test_an_instance_that_was_stopped_is_started_before_the_flip_back(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, flipped: list[float]
) -> None:
    del systemd.states[f"shop@{OLD}.service"]
    result = call(release_undo, deploy)
    assert (result["current"], result["notes"]) == (OLD, [])
    assert systemd.calls[0] == f"start shop@{OLD}.service"
    assert systemd.asked == ["localhost/"]


def test_an_instance_that_does_not_come_back_is_told(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, flipped: list[float]
) -> None:
    del systemd.states[f"shop@{OLD}.service"]
    systemd.after_start = DEAD
    result = call(release_undo, deploy)
    assert result["notes"] == [f"release {OLD} does not come up again: the instance died while it started (exit-code)"]
    assert (result["current"], core.read_state(layout).current) == (OLD, OLD)
    assert transaction.read_lock(layout) is None


def test_the_first_deploy_leaves_nothing_live(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, flipped: list[float]
) -> None:
    transaction.write_lock(layout, transaction.Lock("D8", previous=None, release=OLDER, created=True))
    result = call(release_undo, deploy)
    assert (result["current"], result["flipped"]) == (None, True)
    assert not layout.current.is_symlink()
    assert core.read_state(layout).releases == (OLD,)


@pytest.mark.parametrize(
    "lock",
    [
        {"previous": OLD, "release": OLDER, "created": True, "confirmed": True},
        # Somebody has removed what it would go back to.
        {"previous": OLDEST, "release": OLDER, "created": True},
    ],
)
def test_what_is_live_for_good_stays_live(
    call: Caller, layout: core.Layout, deploy: Arguments, flipped: list[float], lock: Arguments
) -> None:
    transaction.write_lock(layout, transaction.Lock("D8", **lock))
    result = call(release_undo, deploy)
    assert (result["current"], result["flipped"], result["undone"]) == (OLDER, False, True)
    assert core.read_state(layout).releases == (OLD, OLDER)


def test_before_it_has_answered_for_another_a_deploy_leaves_the_host_as_that_one_did(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, flipped: list[float]
) -> None:
    call(release_begin, {**deploy, "deploy": "D9", "break_lock": "D8"})
    result = call(release_undo, {**deploy, "deploy": "D9"})
    assert (result["changed"], result["undone"], result["flipped"], result["current"]) == (False, True, False, OLDER)
    lock = held(layout)
    assert (lock.deploy, lock.previous, lock.release, lock.created, lock.interrupted) == ("D8", OLD, OLDER, True, ())
    assert outcomes(layout) == [("D8", "interrupted"), ("D9", "failed")]
    # The one that it is given back to is dead: the next deploy need not wait.
    assert call(release_begin, {**deploy, "deploy": "DA"})["lock"]["previous"] == OLD


# The action release_begin

LOCKED: Mapping[str, Any] = {"deploy": "D7", "machine": begin_action.machine(), "process": ""}


@pytest.mark.parametrize(
    ("machine", "process", "died"),
    [
        (None, begin_action.process(os.getpid()), False),
        (None, f"{os.getpid()} 1", True),
        (None, "999999999 1", True),
        ("another", "999999999 1", False),
        (None, "", False),
        (None, "x 1", False),
    ],
)
def test_only_a_process_of_this_machine_is_known_to_be_gone(machine: str | None, process: str, died: bool) -> None:
    lock = {**LOCKED, "process": process, **({"machine": machine} if machine else {})}
    assert begin_action.has_died(lock) is died


def test_where_processes_cannot_be_told_nobody_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(begin_action, "process", lambda _number: "")
    assert not begin_action.has_died({**LOCKED, "process": "999999999 1"})


def test_a_process_without_a_name_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has neither /proc nor ps."""

    def nothing(*_arguments: object, **_more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(begin_action, "Path", nothing)
    monkeypatch.setattr(begin_action, "subprocess", SimpleNamespace(run=nothing))
    assert begin_action.process(os.getpid()) == ""


def test_a_process_keeps_its_name_and_another_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    name = begin_action.process(os.getpid())
    assert name == begin_action.process(os.getpid())
    assert name.startswith(f"{os.getpid()} ")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert begin_action.process(child.pid).partition(" ")[2] != name.partition(" ")[2]
        child.kill()
    assert begin_action.process(child.pid) == ""


@pytest.mark.parametrize(
    ("answers", "breaks"),
    [
        ([{"changed": False}], []),
        ([{"failed": True, "locked": {**LOCKED, "process": "999999999 1"}}, {"changed": False}], ["D7"]),
        ([{"failed": True, "locked": {**LOCKED, "process": begin_action.process(os.getpid())}}], []),
        ([{"failed": True, "msg": "unreachable"}], []),
    ],
)
def test_the_lock_of_a_dead_run_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, answers: list[Result], breaks: list[str]
) -> None:
    asked: list[Result] = []
    left = list(answers)

    def execute(_self: object, module_args: Result, task_vars: object) -> Result:
        asked.append(module_args)
        return left.pop(0)

    monkeypatch.setattr(begin_action.ActionModule, "_execute_module", execute)
    monkeypatch.setenv("SUDO_USER", "ada")
    task = SimpleNamespace(args={"name": "shop", "deploy": "D8"}, async_val=0, check_mode=False, action="x")
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"))
    result = begin_action.ActionModule(task, connection, None, None, None).run(task_vars={})
    assert result == answers[-1]
    assert left == []
    assert [arguments["break_lock"] for arguments in asked if "break_lock" in arguments] == breaks
    for arguments in asked:
        controller = arguments["controller"]
        assert (controller["by"], controller["machine"]) == ("ada", begin_action.machine())
        assert controller["process"] == begin_action.process(os.getppid())


def begin_in_a_worker(outcome: Path) -> None:
    """Do what a worker of ansible-playbook does, once before and once after that has died."""
    outcome.write_text(begin_action.controller_process())
    os.kill(os.getppid(), signal.SIGKILL)
    while os.getppid() == multiprocessing.parent_process().pid:  # type: ignore[union-attr]
        time.sleep(0.01)
    try:
        begin_action.controller_process()
    except AnsibleActionFail as error:
        outcome.with_suffix(".error").write_text(str(error))


def test_a_worker_whose_controller_has_died_begins_nothing(tmp_path: Path) -> None:
    """It would take the lock in the name of whoever looks after orphans, which never dies."""
    context = multiprocessing.get_context("fork")
    outcome = tmp_path / "outcome"

    def control() -> None:
        context.Process(target=begin_in_a_worker, args=(outcome,)).start()
        time.sleep(60)

    controller = context.Process(target=control)
    controller.start()
    controller.join(30)
    assert controller.exitcode == -signal.SIGKILL
    assert outcome.read_text().startswith(f"{controller.pid} ")
    end = time.monotonic() + 10
    error = outcome.with_suffix(".error")
    while not (error.exists() and error.read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    assert error.read_text() == "ansible-playbook has died: nothing more is begun."


# Steps of a deploy


@pytest.mark.parametrize(
    ("module", "more"),
    [
        (release_activate, {"release": OLD}),
        (release_retire, {}),
        (release_run, {"task": "migrate", "command": "true", "user": "shop"}),
        (release_stage, STAGE),
    ],
)
def test_a_step_without_its_lock_does_nothing(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments, module: ModuleType, more: Arguments
) -> None:
    make_release(layout, OLD)
    assert call.fails(module, {**more, **deploy}) == (
        "deploy D8 has lost its lock on this host; now nobody has it. Nothing more is done here."
    )
    assert systemd.calls == []
    assert not layout.current.is_symlink()


def test_the_lock_remembers_what_was_staged(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments, deploy: Arguments
) -> None:
    call(release_begin, {**deploy, "by": "ada"})
    for _turn in range(2):
        call(release_stage, {**staged, "deploy": "D8"})
        lock = held(layout)
        # It was there at the second time, and is still this deploy's to take away.
        assert (lock.release, lock.created, lock.version, lock.previous) == (RELEASE, True, "v1", None)
    assert core.manifest_of(layout, RELEASE)["by"] == "ada"


def test_the_lock_remembers_what_fails(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments, deploy: Arguments
) -> None:
    call(release_begin, deploy)
    systemd.after_start = DEAD
    call.fails(release_stage, {**staged, "deploy": "D8"})
    assert (held(layout).release, held(layout).created) == (RELEASE, True)
    assert call(release_undo, deploy)["undone"] is True


UNITS = {
    "worker-1.service": {"text": "[Service]\n", "hosts": "all"},
    "job.service": {"text": "[Service]\n", "hosts": ""},
    "job.timer": {"text": "[Timer]\n", "hosts": "one"},
}
WORKER, JOB, TIMER = (
    f"shop.{name}" for name in (f"worker-1@{OLDER}.service", f"job@{OLDER}.service", f"job@{OLDER}.timer")
)


def test_units_of_processes_are_laid_down_and_not_started(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments
) -> None:
    result = call(release_stage, {**staged, "units": UNITS})
    release = result["release"]
    assert release != RELEASE
    assert core.manifest_of(layout, release)["processes"] == {
        "worker-1.service": "all", "job.service": "", "job.timer": "one",
    }  # fmt: skip
    assert sorted(path.name for path in layout.units.glob("shop.*")) == [
        f"shop.job@{release}.service", f"shop.job@{release}.timer", f"shop.worker-1@{release}.service",
    ]  # fmt: skip
    assert systemd.calls == ["reload", f"start shop@{release}.service"]
    assert [diff["after_header"].partition(" of")[0] for diff in result["diff"]][-3:] == sorted(UNITS)


@pytest.mark.parametrize("unit", ["text", {}, {"text": 5, "hosts": "all"}, {"text": "[Unit]\n"}])
def test_units_are_those_of_the_filter(call: Caller, systemd: FakeSystemd, staged: Arguments, unit: object) -> None:
    assert call.fails(release_stage, {**staged, "units": {"a.service": unit}}) == (
        "units: a.service is not what the filter process_units makes"
    )
    assert systemd.calls == []


def test_warm_up_and_pace_do_not_name_a_release(call: Caller, systemd: FakeSystemd, staged: dict[str, Any]) -> None:
    gate = staged["gate"] | {"warmup": ["/a", "/b"], "warmup_requests": 2, "interval": 0.01, "deadline": 5}
    assert call(release_stage, staged | {"gate": gate})["release"] == RELEASE
    assert systemd.asked == [f"localhost{path}" for path in ("/health", "/a", "/a", "/b", "/b")]


@pytest.mark.parametrize("passes", [True, False])
def test_a_new_release_answers_what_the_live_one_is_asked(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: dict[str, Any], passes: bool
) -> None:
    call(release_stage, staged | {"gate": {"path": "/old", "deadline": 5}})
    (first,) = core.read_state(layout).releases
    put_live(layout, first)
    systemd.asked.clear()
    if not passes:
        systemd.missing = {"/old"}
    result = call(release_stage, staged | {"gate": {"path": "/new", "deadline": 5, "keep_answering": True}})
    assert systemd.asked == ["localhost/new", "localhost/old"]
    assert result.get("failed", False) is not passes
    if not passes:
        assert "load balancers still ask for GET /old with the Host localhost" in result["msg"]
        assert core.read_state(layout).releases == (first,)


@pytest.fixture
def earlier(call: Caller, layout: core.Layout, systemd: FakeSystemd, staged: Arguments) -> dict[str, Any]:
    """Let RELEASE be one that was live before OLD; return the arguments that stage it again."""
    call(release_stage, staged)
    make_release(layout, OLD)
    put_live(layout, RELEASE, OLD)
    systemd.close()
    layout.socket(RELEASE).unlink()
    layout.socket(RELEASE).parent.rmdir()
    systemd.states = {f"shop@{OLD}.service": RUNNING}
    systemd.calls.clear()
    systemd.asked.clear()
    layout.permit(RELEASE).unlink()
    return {
        "name": "shop",
        "directory": str(layout.root),
        "release": RELEASE,
        "gate": {"deadline": 0.2, "interval": 0.02},
    }


def test_a_release_is_staged_again_as_it_is(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, earlier: dict[str, Any]
) -> None:
    before = snapshot(layout.release(RELEASE))
    assert call(release_stage, earlier, check=True)["changed"] is True
    assert systemd.calls == []
    call(release_begin, {"name": "shop", "directory": str(layout.root), "deploy": "D8", "action": "rollback"})
    result = call(release_stage, {**earlier, "deploy": "D8"})
    assert (result["release"], result["created"], result["previous"], result["live"]) == (RELEASE, False, OLD, False)
    assert result["deploy"] == ""
    assert [diff["after_header"] for diff in result["diff"]] == [f"environment of release {RELEASE}"]
    assert systemd.calls == [f"start shop@{RELEASE}.service"]
    # What it must answer is its own, and not today's.
    assert systemd.asked == ["localhost/health"]
    assert snapshot(layout.release(RELEASE)) == before
    assert layout.permit(RELEASE).is_file()
    lock = held(layout)
    assert (lock.release, lock.created, lock.version, lock.previous) == (RELEASE, False, "v1", OLD)
    assert PASSWORD not in call.shown


def test_a_release_that_fails_when_it_is_staged_again_is_stopped_and_kept(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, earlier: dict[str, Any]
) -> None:
    systemd.status, systemd.log = 503, f"cannot connect with {PASSWORD}"
    message = call.fails(release_stage, earlier)
    assert message.endswith(
        "cannot connect with ********\nIt got no traffic and was stopped; the release before it goes on."
    )
    assert systemd.calls == [f"start shop@{RELEASE}.service", f"discard shop@{RELEASE}.service"]
    assert core.read_state(layout).releases == (OLD, RELEASE)
    assert not layout.permit(RELEASE).exists()
    assert PASSWORD not in call.shown


def test_a_release_that_was_removed_cannot_be_staged_again(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, earlier: dict[str, Any]
) -> None:
    assert call.fails(release_stage, earlier | {"release": OLDEST}) == (
        f"release {OLDEST} is not on this host any more: deploy its version again"
    )
    layout.unit(RELEASE).unlink()
    assert call.fails(release_stage, earlier) == (
        f"release {RELEASE} is not on this host any more: deploy its version again"
    )
    assert systemd.calls == []


# Processes


@pytest.fixture
def working(layout: core.Layout, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """OLD is live, and OLDER, which has processes, runs beside it."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    make_release(layout, OLD)
    texts = {name: unit["text"] for name, unit in UNITS.items()}
    manifest = {"version": "v1", "processes": {name: unit["hosts"] for name, unit in UNITS.items()}}
    core.create_release(layout, OLDER, BUILD, {}, {"DSN": PASSWORD}, manifest)
    _instance.install_units(layout, OLDER, UNIT, texts)
    systemd.states = {f"shop@{release}.service": RUNNING for release in (OLD, OLDER)}
    put_live(layout, OLD)


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(("primary", "units"), [(True, [TIMER, WORKER]), (False, [WORKER])])
def test_processes_start_with_the_flip_where_they_belong(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any], primary: bool, units: list[str]
) -> None:
    arguments = place | {"release": OLDER, "primary": primary}
    assert call(release_activate, arguments)["changed"] is True
    assert systemd.calls == [" ".join(["start", *units])]
    assert [layout.wanted_unit(unit).is_symlink() for unit in (WORKER, TIMER)] == [True, primary]
    assert call(release_activate, arguments)["changed"] is False
    # The host for what runs on one host is another one now.
    assert call(release_activate, place | {"release": OLDER, "primary": not primary})["changed"] is True
    assert layout.wanted_unit(TIMER).is_symlink() is not primary
    assert (TIMER in systemd.states) is not primary


@pytest.mark.usefixtures("working")
def test_a_process_that_does_not_stay_up_fails_with_its_journal_and_without_secrets(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    systemd.broken, systemd.log = {WORKER}, f"login with {PASSWORD} failed"
    result = call(release_activate, place | {"release": OLDER, "settle": 0})
    assert result["failed"] is True
    assert result["msg"] == (
        f"app_processes: what was started did not stay up. Its journal:\n{WORKER}:\nlogin with ******** failed"
    )
    assert result["previous"] == OLD
    assert PASSWORD not in call.shown
    # Undoing it is up to the play, on every host.
    assert core.read_state(layout).current == OLDER


@pytest.mark.usefixtures("working")
def test_a_release_is_settled_when_all_that_belongs_here_runs(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any]
) -> None:
    again = place | {"release": OLDER}
    assert call(release_stage, again, check=True)["settled"] is False
    call(release_activate, place | {"release": OLDER, "primary": True})
    core.confirm(layout, OLDER, "D5")
    result = call(release_stage, again | {"primary": True}, check=True)
    assert (result["live"], result["settled"], result["deploy"], result["changed"]) == (True, True, "D5", False)
    assert call(release_stage, again, check=True)["settled"] is False
    del systemd.states[WORKER]
    assert call(release_stage, again | {"primary": True}, check=True)["settled"] is False


@pytest.mark.usefixtures("working")
def test_processes_of_another_release_end_with_it(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, place: dict[str, Any], naps: list[float]
) -> None:
    call(release_activate, place | {"release": OLDER, "primary": True})
    call(release_activate, place | {"release": OLD})
    systemd.states[JOB] = RUNNING
    systemd.calls.clear()
    result = call(release_retire, place)
    assert set(result["stopped"]) == {f"shop@{OLDER}.service", WORKER, JOB, TIMER}
    assert sorted(path.name for path in layout.units.glob("*.wants/*")) == [f"shop@{OLD}.service"]
    # It was never live on the whole fleet.
    assert list(layout.units.glob("shop.*")) == []


@pytest.mark.usefixtures("working")
def test_undoing_brings_the_processes_back_and_hides_secrets(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, deploy: Arguments
) -> None:
    core.activate(layout, OLD)
    transaction.write_lock(layout, transaction.Lock("D8", previous=OLDER, release=OLD))
    systemd.broken, systemd.log = {WORKER}, f"login with {PASSWORD} failed"
    result = call(release_undo, {**deploy, "primary": True, "drain": 0})
    assert result["current"] == OLDER
    assert f"start {TIMER} {WORKER}" in systemd.calls
    (text,) = result["notes"]
    assert "login with ******** failed" in text
    assert PASSWORD not in call.shown


# Retiring what a deploy has brought


@pytest.mark.usefixtures("several")
def test_a_release_is_confirmed_with_its_deploy(call: Caller, layout: core.Layout, deploy: dict[str, Any]) -> None:
    core.activate(layout, RELEASE)
    lock = transaction.Lock("D8", previous=OLD, release=RELEASE, created=True)
    transaction.write_lock(layout, lock)
    arguments = deploy | {"confirm": "D8", "keep": 2}
    assert call(release_retire, arguments, check=True)["changed"] is True
    assert held(layout) == lock
    result = call(release_retire, arguments)
    assert (result["changed"], result["releases"]) == (True, [OLDEST])
    state = core.read_state(layout)
    assert (state.releases, state.deploys[RELEASE]) == ((RELEASE, OLD, OLDER), "D8")
    assert (held(layout).confirmed, held(layout).label) == (True, "D8")
    assert call(release_retire, arguments)["changed"] is False


@pytest.mark.usefixtures("several")
def test_a_release_that_is_back_is_the_youngest_again(
    call: Caller, layout: core.Layout, deploy: dict[str, Any]
) -> None:
    core.activate(layout, OLDEST)
    transaction.write_lock(layout, transaction.Lock("D8", "rollback", previous=OLD, release=OLDEST))
    result = call(release_retire, deploy | {"confirm": "D0", "keep": 1})
    assert result["releases"] == [OLDER, RELEASE]
    assert core.read_state(layout).releases == (OLDEST, OLD)
    assert (held(layout).confirmed, held(layout).label) == (True, "D0")


@pytest.mark.usefixtures("several")
def test_what_was_live_already_is_not_confirmed_again(
    call: Caller, layout: core.Layout, deploy: dict[str, Any]
) -> None:
    transaction.write_lock(layout, transaction.Lock("D8", previous=OLD))
    call(release_retire, deploy | {"confirm": "D2"})
    assert (layout.release(OLD) / core.ACTIVATED).stat().st_mtime == 1002
    assert held(layout).confirmed is False


# release_run


class Runs:
    """Stands for systemd-run."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.status = 0
        self.output = "done\n"

    def __call__(self, command: list[str], **_more: object) -> SimpleNamespace:
        self.commands.append(command)
        (printed,) = (word for word in command if word.startswith("--property=StandardOutput=truncate:"))
        Path(printed.partition("truncate:")[2]).write_text(self.output)
        return SimpleNamespace(returncode=self.status, stdout="")


@pytest.fixture
def runs(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    names = {"PIPE": subprocess.PIPE, "STDOUT": subprocess.STDOUT, "DEVNULL": subprocess.DEVNULL}
    monkeypatch.setattr(release_run, "subprocess", SimpleNamespace(run=fake, **names))
    return fake


MIGRATE: Mapping[str, Any] = {"task": "migrate", "command": "flask db upgrade '$X' 'a b'", "user": "shop"}


def test_a_command_runs_in_the_release_and_confined(
    call: Caller, layout: core.Layout, runs: Runs, place: dict[str, Any]
) -> None:
    make_release(layout, OLD, DSN=PASSWORD)
    runs.output = f"migrated with {PASSWORD}\n"
    more = {"release": OLD, "sandbox": ["NoNewPrivileges=yes"], "environment": {"APP_NAME": "shop"}, "timeout": 90}
    result = call(release_run, {**place, **MIGRATE, **more})
    assert (result["changed"], result["output"]) == (True, "migrated with ********")
    assert result["diff"] == {"prepared": "migrate: flask db upgrade '$X' 'a b'\n"}
    (command,) = runs.commands
    target = layout.release(OLD)
    # Without a pipe to the module, with which the command would break.
    assert command[:6] == [
        "systemd-run", "--quiet", "--wait", "--collect", "--service-type=exec",
        "--unit=shop.run-migrate.service",
    ]  # fmt: skip
    assert command[command.index("--") :] == ["--", "/usr/bin/env", "flask", "db", "upgrade", "$$X", "a b"]
    properties = [word.removeprefix("--property=") for word in command if word.startswith("--property=")]
    assert set(properties) >= {
        "User=shop", "Group=shop", f"WorkingDirectory={target}/build/code", f"EnvironmentFile={target}/env",
        "RuntimeMaxSec=90", "NoNewPrivileges=yes",
    }  # fmt: skip
    assert f"--setenv=PATH={target}/build/venv/bin:/usr/local/bin:/usr/bin:/bin" in command
    assert {"--setenv=APP_NAME=shop", f"--setenv=APP_RELEASE={OLD}"} <= set(command)
    assert PASSWORD not in call.shown
    assert not any(PASSWORD in word for word in command)


def test_a_command_without_a_release_has_no_settings(
    call: Caller, layout: core.Layout, runs: Runs, place: dict[str, Any]
) -> None:
    call(release_run, {**place, **MIGRATE})
    (command,) = runs.commands
    assert f"--property=WorkingDirectory={layout.root}" in command
    assert not any("EnvironmentFile" in word for word in command)


def test_a_command_that_fails_says_what_it_printed(
    call: Caller, layout: core.Layout, runs: Runs, place: dict[str, Any]
) -> None:
    make_release(layout, OLD, DSN=PASSWORD)
    runs.status, runs.output = 3, f"no table, {PASSWORD}"
    assert call.fails(release_run, {**place, **MIGRATE, "release": OLD, "command": "flask db upgrade"}) == (
        "migrate: 'flask db upgrade' ended with status 3 (it may take 600 s). It printed:\nno table, ********"
    )
    runs.output = ""
    assert call.fails(release_run, {**place, **MIGRATE}).endswith("It printed:\n(nothing)")


def test_check_mode_runs_nothing(call: Caller, layout: core.Layout, runs: Runs, deploy: dict[str, Any]) -> None:
    result = call(release_run, {**deploy, **MIGRATE, "release": OLDEST}, check=True)
    assert (result["changed"], result["output"], runs.commands) == (True, "", [])
    assert not layout.root.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "a 'b"}, "'a 'b' is not a command: No closing quotation: write the end of what it opens, too"),
        ({"command": ""}, "'' is not a command: write a program and its arguments in one line"),
        ({"task": "a b"}, "task: 'a b' is not a plain name"),
        ({"task": "../x"}, "task: '../x' is not a plain name"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_a_command_that_cannot_run_is_refused(
    call: Caller, runs: Runs, place: dict[str, Any], change: Arguments, message: str, check: bool
) -> None:
    assert call.fails(release_run, {**place, **MIGRATE, **change}, check=check) == message
    assert runs.commands == []


def test_a_command_waits_for_the_one_before(
    call: Caller, systemd: FakeSystemd, runs: Runs, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = "shop.run-migrate.service"
    systemd.states[unit] = RUNNING
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            assert runs.commands == []
            del systemd.states[unit]

    clock = iter(range(100))
    monkeypatch.setattr(release_run, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: float(next(clock))))
    call(release_run, {**place, **MIGRATE})
    assert (naps, len(runs.commands)) == ([0.5, 0.5, 0.5], 1)
    systemd.states[unit] = RUNNING
    assert call.fails(release_run, {**place, **MIGRATE, "timeout": 1}) == (
        "shop.run-migrate.service still runs, left by an earlier deploy: see 'systemctl status "
        "shop.run-migrate.service' on the host"
    )


# unit_dropin

NGINX, HAPROXY = "nginx.service", "haproxy.service"
TEXT = "[Service]\nLimitNOFILE=65536\n"


class Commands:
    """Stands for the command systemctl: restarts set the state that the test has chosen."""

    def __init__(self, systemd: FakeSystemd) -> None:
        self.systemd = systemd
        #: States after one restart each, or what systemctl says against it; then a unit runs.
        self.outcomes: list[_instance.UnitState | core.ReleaseError] = []

    def __call__(self, *command: str, check: bool = True) -> str:
        assert command[0] == "systemctl"
        self.systemd.calls.append(" ".join(command[1:]))
        if command[1] == "restart":
            outcome = self.outcomes.pop(0) if self.outcomes else RUNNING
            if isinstance(outcome, core.ReleaseError):
                raise core.ReleaseError(str(outcome))
            self.systemd.states[command[2]] = outcome
        return ""


@pytest.fixture
def naps_of_units(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long unit_dropin waited."""
    found: list[float] = []
    monkeypatch.setattr(unit_dropin, "time", SimpleNamespace(sleep=found.append, time=lambda: 0.0))
    return found


@pytest.fixture
def commands(
    tmp_path: Path, systemd: FakeSystemd, naps_of_units: list[float], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    fake = Commands(systemd)
    monkeypatch.setattr(unit_dropin, "UNITS", tmp_path / "units")
    monkeypatch.setattr(unit_dropin, "run", fake)
    monkeypatch.setattr(unit_dropin, "workers", lambda _unit: 2)
    return fake


def dropin(tmp_path: Path, unit: str) -> Path:
    return tmp_path / "units" / f"{unit}.d" / "60-limits.conf"


def test_dropins_are_written_and_what_runs_is_restarted(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, commands: Commands, naps_of_units: list[float]
) -> None:
    systemd.states[NGINX] = RUNNING
    arguments = {"name": "60-limits", "units": {NGINX: TEXT, HAPROXY: TEXT}, "settle": 0.5}
    result = call(unit_dropin, arguments)
    assert (result["changed"], result["units"], result["restarted"]) == (True, [NGINX, HAPROXY], [NGINX])
    for unit in (NGINX, HAPROXY):
        assert dropin(tmp_path, unit).read_text() == TEXT
        assert stat.S_IMODE(dropin(tmp_path, unit).stat().st_mode) == 0o644
    assert systemd.calls == ["reload", f"restart {NGINX}", "reload"]
    assert naps_of_units == [0.5]

    systemd.calls.clear()
    before = snapshot(tmp_path)
    again = call(unit_dropin, arguments)
    assert (again["changed"], again["units"], again["restarted"], again["diff"]) == (False, [], [], [])
    assert systemd.calls == []
    assert snapshot(tmp_path) == before


def test_only_the_unit_with_another_dropin_is_restarted(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, commands: Commands
) -> None:
    systemd.states = {NGINX: RUNNING, HAPROXY: RUNNING}
    core.write_file(dropin(tmp_path, NGINX), TEXT, 0o644)
    core.write_file(dropin(tmp_path, HAPROXY), "[Service]\n", 0o644)
    result = call(unit_dropin, {"name": "60-limits", "units": {NGINX: TEXT, HAPROXY: TEXT}})
    assert (result["units"], result["restarted"]) == ([HAPROXY], [HAPROXY])
    path = str(dropin(tmp_path, HAPROXY))
    assert result["diff"] == [
        {"before_header": path, "after_header": path, "before": "[Service]\n", "after": TEXT},
    ]  # fmt: skip
    assert systemd.calls == ["reload", f"restart {HAPROXY}"]


def test_check_mode_writes_and_restarts_nothing(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, commands: Commands
) -> None:
    systemd.states[NGINX] = RUNNING
    result = call(unit_dropin, {"name": "60-limits", "units": {NGINX: TEXT}}, check=True)
    assert (result["changed"], result["units"], result["restarted"]) == (True, [NGINX], [])
    assert [(diff["before"], diff["after"]) for diff in result["diff"]] == [("", TEXT)]
    assert list(tmp_path.iterdir()) == []
    assert systemd.calls == []


CRASHED = "nginx.service is failed (exit-code) after its restart\nListening at: unix"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (DEAD, CRASHED),
        (_instance.UnitState("active", "running", "success", 1),
         "nginx.service is active (success) after its restart\nListening at: unix"),
        (core.ReleaseError("systemctl restart nginx.service: Job failed"),
         "systemctl restart nginx.service: Job failed\nListening at: unix"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("old", [None, "[Service]\n"])
def test_a_dropin_that_the_unit_cannot_bear_is_taken_back(
    call: Caller,
    tmp_path: Path,
    systemd: FakeSystemd,
    commands: Commands,
    old: str | None,
    outcome: _instance.UnitState | core.ReleaseError,
    reason: str,
) -> None:
    systemd.states[NGINX] = RUNNING
    commands.outcomes = [outcome]
    path = dropin(tmp_path, NGINX)
    if old:
        core.write_file(path, old, 0o644)
    message = call.fails(unit_dropin, {"name": "60-limits", "units": {NGINX: TEXT}})
    assert message == f"nginx.service does not run with {path}, which was taken back; it runs as before. {reason}"
    assert systemd.calls == ["reload", f"restart {NGINX}", "reload", f"reset-failed {NGINX}", f"restart {NGINX}"]
    assert systemd.states[NGINX] == RUNNING
    if old:
        assert path.read_text() == old
    else:
        assert not path.parent.exists()


@pytest.mark.parametrize(("counts", "failed"), [([2, 0], True), ([0, 0], False), ([2, 1], False)])
def test_a_unit_that_loses_its_workers_does_not_run(
    call: Caller,
    tmp_path: Path,
    systemd: FakeSystemd,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    counts: list[int],
    failed: bool,
) -> None:
    systemd.states[NGINX] = RUNNING
    monkeypatch.setattr(unit_dropin, "workers", lambda _unit: counts.pop(0))
    result = call(unit_dropin, {"name": "60-limits", "units": {NGINX: TEXT}})
    assert result.get("failed", False) is failed
    assert ("nginx.service has lost its workers after its restart" in result.get("msg", "")) is failed
    assert dropin(tmp_path, NGINX).exists() is not failed


def test_workers_are_the_living_children_of_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(*command: str) -> str:
        asked.append(" ".join(command))
        return f"{os.getpid()}\n"

    monkeypatch.setattr(unit_dropin, "run", run)
    before = unit_dropin.workers(NGINX)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert unit_dropin.workers(NGINX) == before + 1
        child.kill()
        # It has ended and nobody has asked how: a zombie.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert unit_dropin.workers(NGINX) == before
    assert set(asked) == {"systemctl show --property=MainPID --value nginx.service"}


def test_a_unit_that_does_not_come_back_either_is_told_with_its_dropin(
    call: Caller, tmp_path: Path, systemd: FakeSystemd, commands: Commands
) -> None:
    systemd.states[NGINX] = RUNNING
    commands.outcomes = [DEAD, core.ReleaseError("systemctl restart nginx.service: Job failed")]
    message = call.fails(unit_dropin, {"name": "60-limits", "units": {NGINX: TEXT}})
    assert str(dropin(tmp_path, NGINX)) in message
    assert "it runs as before" not in message


# The action preflight

GOOD = {"app_name": "shop", "app_source": "pypi:httpbin==0.10.2", "app_module": "httpbin:app"}


class HostVariables(Mapping[str, Any]):
    """Variables of hosts; one whose value is an exception cannot be evaluated."""

    def __init__(self, hosts: Mapping[str, Arguments]) -> None:
        self._hosts = hosts

    def __getitem__(self, name: str) -> "Variables":
        return Variables(self._hosts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def raw_get(self, name: str) -> Arguments:
        return self._hosts[name]


class Variables(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, Exception):
            raise value
        return value


class Action:
    """Runs the action and keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def __call__(
        self, arguments: Arguments, hosts: Mapping[str, Arguments], groups: Mapping[str, list[str]] | None = None
    ) -> Result:
        task = SimpleNamespace(args=dict(arguments), async_val=0, check_mode=True, action="wsgi.fleet.preflight")
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"))
        variables = {
            "groups": groups or {"all": list(hosts), "app": list(hosts)},
            "hostvars": HostVariables(hosts),
            "ansible_play_hosts_all": list(hosts),
        }
        result: Result = preflight.ActionModule(task, connection, None, None, None).run(task_vars=variables)
        return result


@pytest.fixture
def action(monkeypatch: pytest.MonkeyPatch) -> Action:
    found = Action()
    monkeypatch.setattr(preflight, "Display", lambda: found)
    return found


def answered(**more: Any) -> Arguments:
    """Make the variables of an app host that was asked."""
    platform = {"distribution": "debian", "version": "12", "python": "3.11"}
    info = {"platform": platform, "listening": [{"address": "0.0.0.0", "port": 8080, "process": "apache2"}]}  # noqa: S104
    return {"group_names": ["app"], "fleet_host_info": info, **more}


@pytest.mark.parametrize("arguments", [{}, {"stage": "inventory"}])
def test_a_good_inventory_passes(action: Action, arguments: Arguments) -> None:
    result = action(arguments, {"app1": {**GOOD, "__fleet_address": "10.0.0.1"}})
    assert result == {"changed": False, "msg": "Everything fits together."}
    assert action.warnings == []


def test_all_problems_of_an_inventory_are_one_failure(action: Action) -> None:
    hosts = {"app1": {**GOOD, "app_name": "Shop", "app_env": {"A": 5}, "ansible_host": "10.0.0.1", "app_modul": "x"}}
    result = action({}, hosts)
    assert result == {
        "failed": True,
        "msg": (
            "2 settings cannot work. Nothing was touched.\n"
            "- app_env: the value of A is not text but int: environment variables are text, put it in quotes.\n"
            "- app_name: 'Shop' cannot be the name of an account, a directory and a unit: use up to 26 lower-case "
            "letters, digits and hyphens, a letter first, such as shop."
        ),
    }
    assert action.warnings == ["app_modul is not a variable of this collection: did you mean app_module?"]


@pytest.mark.parametrize(
    ("error", "failed"),
    [("'nobody_sets_this' is undefined", True), ("'gunicorn_threads' is undefined", False), ("bad filter", True)],
)
def test_a_template_that_fails_is_named_unless_a_role_gives_its_default(
    action: Action, error: str, failed: bool
) -> None:
    result = action({}, {"app1": {**GOOD, "__fleet_address": "10.0.0.1", "gunicorn_workers": ValueError(error)}})
    assert result.get("failed", False) is failed
    assert (result["msg"].startswith("gunicorn_workers: ") and error in result["msg"]) is failed


def test_the_address_of_a_host_is_its_own_or_that_of_its_connection(action: Action) -> None:
    shared = {"app1": {**GOOD, "ansible_host": "10.0.0.1"}, "app2": {**GOOD, "__fleet_address": "10.0.0.1"}}
    groups = {"all": ["app1", "app2", "lb1"], "app": ["app1", "app2"], "load_balancer": ["lb1"]}
    assert action({}, {**shared, "lb1": {"__fleet_address": "10.0.0.9"}}, groups)["msg"] == (
        "fleet_address: '10.0.0.1' belongs to both app1 and app2: every host needs an address of its own. "
        "Nothing was touched."
    )


def test_hosts_that_answered_well_pass(action: Action) -> None:
    assert action({"stage": "hosts"}, {"app1": answered()}) == {
        "changed": False,
        "msg": "Everything fits together.",
    }


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (answered(__fleet_nginx_port="8080"), "port: 8080 of app1 is in use by 'apache2', where nginx has to listen: "
         "stop and disable that service, or move it to another port. Nothing was touched."),
        (answered(group_names=["load_balancer"], fleet_load_balancer_tls=True, load_balancer_tls_port=8080),
         "port: 8080 of app1 is in use by 'apache2', where load_balancer_tls has to listen: stop and disable that "
         "service, or move it to another port. Nothing was touched."),
        (answered(fleet_host_info={"msg": "timed out", "module_stderr": ""}), "ansible_host: app1 cannot be reached: "
         "timed out. See that the address, the account and the key are right (ansible app1 -m ping), or leave the host "
         "out with --limit. Nothing was touched."),
        (answered(fleet_host_info={"msg": "MODULE FAILURE", "module_stderr": "x\nsudo: a password is required\n"}),
         "ansible_become: on app1 the account cannot become root: sudo: a password is required. Allow it to use sudo, "
         "or give its password with --ask-become-pass. Nothing was touched."),
        ({"group_names": ["app"]}, "ansible_host: app1 cannot be reached: no answer. See that the address, the account "
         "and the key are right (ansible app1 -m ping), or leave the host out with --limit. Nothing was touched."),
    ],
)  # fmt: skip
def test_a_host_that_cannot_be_used_is_named(action: Action, variables: Arguments, message: str) -> None:
    assert action({"stage": "hosts"}, {"app1": variables}) == {"failed": True, "msg": message}


def test_the_stages_are_those_of_the_documentation(action: Action) -> None:
    documentation = yaml.safe_load(
        importlib.import_module("ansible_collections.wsgi.fleet.plugins.modules.preflight").DOCUMENTATION
    )
    (option,) = documentation["options"].values()
    assert (option["choices"], option["default"]) == (["inventory", "app", "role", "hosts"], "inventory")
    with pytest.raises(AnsibleError, match=r"^stage: 'host' is unknown: write inventory, app, role or hosts"):
        action({"stage": "host"}, {})


def test_an_argument_that_is_unknown_is_refused(action: Action) -> None:
    with pytest.raises(AnsibleError, match="stag"):
        action({"stag": "hosts"}, {"app1": {**GOOD, "__fleet_address": "10.0.0.1"}})


# release_profile


class Spy:
    """Stands for py-spy, which takes what the host has installed."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.status = 0
        self.output = ""
        self.late = False

    def __call__(self, command: list[str], **more: Any) -> SimpleNamespace:
        self.commands.append(command)
        if self.late:
            raise subprocess.TimeoutExpired(command, more["timeout"])
        frames = [{"name": "index", "file": "shop.py", "line": 3}]
        document = {"shared": {"frames": frames}, "profiles": [{"samples": [[0], [0]], "weights": [0.5, 1.0]}]}
        Path(command[command.index("--output") + 1]).write_text(json.dumps(document))
        return SimpleNamespace(returncode=self.status, stdout=self.output)


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spy:
    fake = Spy()
    names = {name: getattr(subprocess, name) for name in ("PIPE", "STDOUT", "DEVNULL", "TimeoutExpired")}
    monkeypatch.setattr(release_profile, "subprocess", SimpleNamespace(run=fake, **names))
    core.write_file(tmp_path / "tools/py-spy-0.4.3/bin/py-spy", "", 0o755)
    monkeypatch.setattr(core_of_builds, "TOOLS", tmp_path / "tools")
    return fake


@pytest.fixture
def profile(tmp_path: Path, place: dict[str, Any]) -> dict[str, Any]:
    (tmp_path / "room").mkdir()
    return {**place, "destination": str(tmp_path / "room"), "requirement": "py-spy==0.4.3", "seconds": 7}


def test_what_is_live_is_recorded_and_left_alone(
    call: Caller, tmp_path: Path, layout: core.Layout, systemd: FakeSystemd, spy: Spy, profile: dict[str, Any]
) -> None:
    make_release(layout, OLD)
    core.activate(layout, OLD)
    systemd.processes[f"shop@{OLD}.service"] = 71
    before = snapshot(layout.root)
    result = call(release_profile, profile | {"rate": 20, "idle": True})
    assert (result["changed"], result["release"], result["seconds"]) == (False, OLD, 1.5)
    assert result["hottest"] == [{"function": "index (shop.py)", "own": 100.0, "total": 100.0}]
    assert result["table"][1] == "  100.0    100.0  index (shop.py)"
    (command,) = spy.commands
    assert command[0] == str(tmp_path / "tools/py-spy-0.4.3/bin/py-spy")
    assert command[1:4] == ["record", "--pid", "71"]
    assert command[-5:] == ["--duration", "7", "--rate", "20", "--idle"]
    assert "index (shop.py:3): 100.0 %" in (tmp_path / "room/profile.svg").read_text()
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "room").iterdir()} == {
        "profile.speedscope.json": 0o600,
        "profile.svg": 0o600,
    }
    assert (snapshot(layout.root), systemd.calls) == (before, [])


def test_check_mode_records_nothing(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, spy: Spy, profile: dict[str, Any]
) -> None:
    make_release(layout, OLD)
    core.activate(layout, OLD)
    systemd.processes[f"shop@{OLD}.service"] = 71
    result = call(release_profile, profile | {"destination": "/nowhere"}, check=True)
    assert (result["changed"], result["release"], spy.commands) == (False, OLD, [])


def test_without_an_instance_there_is_nothing_to_record(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, spy: Spy, profile: dict[str, Any]
) -> None:
    assert call.fails(release_profile, profile) == (
        "app_name: no release of shop is live on this host, so that there is nothing to profile; run site.yml first"
    )
    make_release(layout, OLD)
    core.activate(layout, OLD)
    unit = f"shop@{OLD}.service"
    message = f"{unit} does not run, so that there is nothing to profile: see 'systemctl status {unit}'"
    for check in (False, True):
        assert call.fails(release_profile, profile, check=check) == message
    assert spy.commands == []


def test_py_spy_that_fails_says_why(
    call: Caller, layout: core.Layout, systemd: FakeSystemd, spy: Spy, profile: dict[str, Any]
) -> None:
    make_release(layout, OLD)
    core.activate(layout, OLD)
    systemd.processes[f"shop@{OLD}.service"] = 71
    index = {"environment": json.dumps({"PIP_INDEX_URL": f"https://shop:{PASSWORD}@pypi.example.com/simple"})}
    spy.status, spy.output = 1, f"Error: Permission denied, {PASSWORD}\n"
    assert call.fails(release_profile, {**profile, **index}) == (
        "py-spy ended with status 1:\nError: Permission denied, ********"
    )
    assert PASSWORD not in call.shown
    spy.late = True
    assert call.fails(release_profile, profile) == "py-spy did not end within 67 s, and was stopped"
    assert call.fails(release_profile, profile | {"environment": "[]"}) == (
        "environment is not the text of a JSON object of strings"
    )
