"""Builds: how dependencies are found and installed, and that a packed build arrives as it was."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _build as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import BUILD_MANIFEST, Layout, ReleaseError
from ansible_collections.wsgi.fleet.plugins.modules import release_build

PROJECT = '[project]\nname = "shop"\n'
HASHED = "flask==3.1.2 \\\n    --hash=sha256:" + "0" * 64 + "\n"
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs an account that may become another")
ZSTD = pytest.mark.skipif(shutil.which("zstd") is None, reason="tar packs builds with zstd")


def write(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "named", "kind", "path"),
    [
        ({"uv.lock": "", "requirements.txt": "", "pyproject.toml": PROJECT}, "auto", "uv.lock", "uv.lock"),
        ({"requirements.txt": "", "pyproject.toml": PROJECT}, "auto", "requirements", "requirements.txt"),
        ({"pyproject.toml": PROJECT}, "auto", "pyproject", "pyproject.toml"),
        ({"pyproject.toml": "[build-system]\n"}, "auto", "pyproject", "pyproject.toml"),
        ({"pyproject.toml": "[tool.ruff]\nline-length = 99\n"}, "auto", "none", ""),
        ({"pyproject.toml": "# [project]\n"}, "auto", "none", ""),
        ({"app.py": ""}, "auto", "none", ""),
        ({"sub/requirements.txt": ""}, "auto", "none", ""),
        ({"uv.lock": "", "requirements.txt": ""}, "none", "none", ""),
        ({"uv.lock": "", "requirements.txt": ""}, "requirements.txt", "requirements", "requirements.txt"),
        (
            {"requirements/production.txt": ""},
            "requirements/production.txt",
            "requirements",
            "requirements/production.txt",
        ),
        ({"requirements.in": ""}, "requirements.in", "requirements", "requirements.in"),
        ({"shop/uv.lock": ""}, "shop/uv.lock", "uv.lock", "shop/uv.lock"),
        ({"shop/pyproject.toml": PROJECT}, "shop/pyproject.toml", "pyproject", "shop/pyproject.toml"),
    ],
)
def test_dependencies_are_found(tmp_path: Path, files: dict[str, str], named: str, kind: str, path: str) -> None:
    assert core.plan_dependencies(write(tmp_path, files), named) == core.Plan(kind, path)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("requirement.txt", "app_dependencies: 'requirement.txt' is not in the source. At its top there is: "
         "app.py, setup.cfg. Name the file as a path from there, or leave the variable out to have one found."),
        ("setup.cfg", "app_dependencies: 'setup.cfg' is of no kind that can be installed: name a uv.lock, a "
         "pyproject.toml or a requirements file that ends in .txt"),
        ("../app.txt", "app_dependencies: '../app.txt' must be a path inside the source, such as "
         "'requirements/production.txt'"),
        ("/etc/app.txt", "app_dependencies: '/etc/app.txt' must be a path inside the source, such as "
         "'requirements/production.txt'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, named: str, message: str) -> None:
    with pytest.raises(ReleaseError) as failure:
        core.plan_dependencies(write(tmp_path / "code", {"app.py": "", "setup.cfg": ""}), named)
    assert str(failure.value) == message


@pytest.mark.parametrize(
    ("requirements", "carries"),
    [
        (HASHED, True),
        ("flask --hash sha256:00\n", True),
        ("flask==3.1.2\n", False),
        ("", False),
        ("flask # no--hash here\n", False),
        ("# made with pip-compile --generate-hashes\nflask\n", False),
        ("# add --hash=sha256:... to each of them\nflask\n", False),
    ],
)
def test_hashes_in_requirements_are_seen(requirements: str, carries: bool) -> None:
    assert core.carries_hashes(requirements) is carries


VENV = "/uv venv --python /usr/bin/python3 --no-python-downloads /b/venv"
INSTALL = "/uv pip install --python /b/venv/bin/python --compile-bytecode"


@pytest.mark.parametrize(
    ("files", "packages", "command"),
    [
        ({"app.py": ""}, [], ""),
        ({"requirements.txt": "flask\n"}, [], INSTALL + " -r {code}/requirements.txt"),
        ({"requirements.txt": HASHED}, [], INSTALL + " --require-hashes -r {code}/requirements.txt"),
        ({"pyproject.toml": PROJECT}, [], INSTALL + " {code}"),
        ({}, ["httpbin==0.10.2"], INSTALL + " httpbin==0.10.2"),
        ({"uv.lock": ""}, [], "/uv sync --frozen --no-dev --no-editable --compile-bytecode --no-python-downloads "
         "--python /usr/bin/python3 --project {code}"),
    ],
)  # fmt: skip
def test_the_commands_of_a_build(tmp_path: Path, files: dict[str, str], packages: list[str], command: str) -> None:
    code = write(tmp_path / "code", files)
    plan = core.plan_dependencies(code, "auto")
    commands = core.install_commands("/uv", "/usr/bin/python3", Path("/b/venv"), code, plan, packages)
    expected = [VENV, command.format(code=code)] if command else [VENV]
    assert [" ".join(words) for words in commands] == expected


@pytest.mark.parametrize(
    ("name", "installed"),
    [("gunicorn", True), ("Flask_Caching", True), ("flask.caching", True), ("flask", False), ("caching", False)],
)
def test_a_distribution_is_found_by_any_spelling(tmp_path: Path, name: str, installed: bool) -> None:
    for directory in ("gunicorn-27.0.1.dist-info", "flask_caching-2.3.1.dist-info"):
        (tmp_path / "lib/python3.11/site-packages" / directory).mkdir(parents=True)
    assert core.distribution_installed(tmp_path, name) is installed


@pytest.mark.parametrize("brought", ["uWSGI-2.0.31", "pyuwsgi-2.0.30.post1"])
@pytest.mark.parametrize("wanted", ["uwsgi", "uWSGI", "pyuwsgi"])
def test_uwsgi_is_found_by_any_of_its_names(tmp_path: Path, brought: str, wanted: str) -> None:
    (tmp_path / f"lib/python3.13/site-packages/{brought}.dist-info").mkdir(parents=True)
    assert core.distribution_installed(tmp_path, wanted)
    assert not core.distribution_installed(tmp_path, "uwsgidecorators")


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("gunicorn==27.0.1", "gunicorn"), ("uvicorn[standard]>=0.3", "uvicorn"), (" a.b-c ; x", "a.b-c"), ("a", "a"),
        ("gunicorn<26,>=25", "gunicorn"), ("gunicorn [gevent, setproctitle] ~= 27.0", "gunicorn"),
        ("tool @ https://example.com/tool-1.whl", "tool"), ("tool (>=1)", "tool"),
    ],
)  # fmt: skip
def test_the_name_in_a_requirement(requirement: str, name: str) -> None:
    assert core.requirement_name(requirement) == name


@pytest.mark.parametrize(
    "requirement",
    ["", "==1", "-r x", "/srv/x", "--index-url=https://example.com", "https://example.com/tool-1.whl", "a b", "a/b",
     "a==1\nb==2", "a[", "a[b]c"],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(requirement: str) -> None:
    with pytest.raises(ReleaseError, match="is not a requirement: write it as 'name==version'"):
        core.requirement_name(requirement)


@pytest.mark.parametrize(
    ("requirements", "lacking"),
    [
        ([], []),
        (["gunicorn==27.0.1"], []),
        (["Gunicorn[gevent]==27.0.1", "gevent==26.9.0"], ["gevent==26.9.0"]),
        (["gevent==26.9.0", "tornado==6.5.10", "gevent==25.9.1"], ["tornado==6.5.10", "gevent==25.9.1"]),
        (["pyuwsgi==2.0.30.post1", "uwsgi==2.0.31"], ["uwsgi==2.0.31"]),
        (["flask-profiler==1.8.1", "Flask_Profiler==1.8.0"], ["Flask_Profiler==1.8.0"]),
    ],
)
def test_what_the_application_lacks(tmp_path: Path, requirements: list[str], lacking: list[str]) -> None:
    (tmp_path / "lib/python3.11/site-packages/gunicorn-25.3.0.dist-info").mkdir(parents=True)
    assert core.lacking(tmp_path, requirements) == lacking


@AS_ROOT
def test_commands_run_as_the_account_with_its_environment_only(tmp_path: Path) -> None:
    program = "import os; print(os.getuid(), os.getgid(), os.getgroups(), sorted(set(os.environ) - {'LC_CTYPE'}))"
    run = core.Runner(65534, 65533, {"A": "1"})
    assert run(["/usr/bin/python3", "-c", program], Path("/")) == "65534 65533 [] ['A']\n"


@AS_ROOT
def test_a_command_that_fails_shows_its_end(tmp_path: Path) -> None:
    run = core.Runner(0, 0, {})
    with pytest.raises(ReleaseError, match="failed with status 3:\n") as failure:
        run([sys.executable, "-c", "for n in range(50): print('line', n)\nraise SystemExit(3)"], tmp_path)
    assert str(failure.value).endswith("line 49")
    assert "line 20\n" in str(failure.value)
    assert "line 19\n" not in str(failure.value)


@AS_ROOT
def test_a_build_belongs_to_its_account_and_only_that_may_write(tmp_path: Path) -> None:
    root = write(tmp_path / "build", {"app.py": "", "bin/tool": ""})
    (root / "bin/tool").chmod(0o6777)
    (root / "app.py").chmod(0o664)
    (tmp_path / "outside").write_text("")
    (root / "link").symlink_to(tmp_path / "outside")
    core.own(root, 1234, 1235)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (root, *root.rglob("*"))} == {(1234, 1235)}
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("bin/tool", "app.py")] == [0o755, 0o644]
    assert (tmp_path / "outside").stat().st_uid == 0


def test_a_source_is_unpacked_with_modes_and_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
        for name, mode, text in (("manage", 0o755, "x"), ("app.py", 0o644, "y")):
            info = tarfile.TarInfo(name)
            info.mode, info.size, info.uid, info.gid = mode, len(text), os.getuid(), os.getgid()
            tar.addfile(info, io.BytesIO(text.encode()))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "app.py"
        tar.addfile(info)
    core.unpack_source(tmp_path / "source.tar.gz", tmp_path / "code")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "code").iterdir()}
    assert modes == {"manage": 0o755, "app.py": 0o644, "link": 0o644}
    assert (tmp_path / "code/link").readlink() == Path("app.py")


def test_modules_at_the_top_are_listed(tmp_path: Path) -> None:
    write(tmp_path, {"wsgi.py": "", "shop/__init__.py": "", "shop/db.py": "", "docs/x.md": ""})
    assert core.modules_at_top(tmp_path) == ["shop", "wsgi"]


def parameters(**more: Any) -> dict[str, Any]:
    return {"build": "b" * 12, "archive": None, "checksum": None, "pack": None} | more


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, str]:
    layout = Layout("shop", tmp_path / "one")
    build = write(layout.build("b" * 12), {BUILD_MANIFEST: "{}", "code/app.py": "app = 1\n", "venv/bin/x": ""})
    (build / "venv/bin/x").chmod(0o755)
    (build / "venv/bin/python").symlink_to("/usr/bin/python3")
    result = release_build.build(layout, parameters(pack=str(tmp_path / "b.tar.zst")), {})
    assert result["changed"]
    assert not result["built"]
    assert result["size"] == (tmp_path / "b.tar.zst").stat().st_size
    assert stat.S_IMODE((tmp_path / "b.tar.zst").stat().st_mode) == 0o600
    return tmp_path / "b.tar.zst", result["checksum"]


@ZSTD
def test_a_packed_build_arrives_as_it_was(tmp_path: Path, packed: tuple[Path, str]) -> None:
    archive, checksum = packed
    layout = Layout("shop", tmp_path / "two")
    write(layout.build("b" * 12), {"half": "made"})
    result = release_build.build(layout, parameters(archive=str(archive), checksum=checksum), {})
    assert result == {"changed": True, "built": True}
    build = layout.build("b" * 12)
    assert sorted(str(path.relative_to(build)) for path in build.rglob("*") if not path.is_dir()) == [
        BUILD_MANIFEST, "code/app.py", "venv/bin/python", "venv/bin/x",
    ]  # fmt: skip
    assert stat.S_IMODE((build / "venv/bin/x").stat().st_mode) == 0o755
    assert (build / "venv/bin/python").readlink() == Path("/usr/bin/python3")
    assert [path.name for path in layout.builds.iterdir()] == ["b" * 12]
    again = release_build.build(layout, parameters(archive=str(archive), checksum=checksum), {})
    assert again == {"changed": False, "built": False}


@ZSTD
@pytest.mark.parametrize("damage", ["another checksum", "another content"])
def test_a_build_that_changed_on_its_way_is_refused(tmp_path: Path, packed: tuple[Path, str], damage: str) -> None:
    archive, checksum = packed
    layout = Layout("shop", tmp_path / "two")
    if damage == "another content":
        archive.write_bytes(archive.read_bytes() + b"\0")
    else:
        checksum = "0" * 64
    with pytest.raises(ReleaseError, match=f"has the digest [0-9a-f]{{64}}, not {checksum}: .* was not unpacked"):
        release_build.build(layout, parameters(archive=str(archive), checksum=checksum), {})
    assert not layout.build("b" * 12).exists()


@ZSTD
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.tar.zst").write_text("no archive")
    with pytest.raises(ReleaseError, match=r"^tar --extract"):
        core.unpack(tmp_path / "b.tar.zst", tmp_path / "builds" / ("b" * 12))
    assert list((tmp_path / "builds").iterdir()) == []


@AS_ROOT
def test_the_module_of_the_callable_must_be_there(tmp_path: Path) -> None:
    code = write(tmp_path, {"shop/__init__.py": "", "wsgi.py": ""})
    run = core.Runner(0, 0, {})
    release_build.check_module("shop.web:app", Path(sys.executable), code, run)
    with pytest.raises(
        ReleaseError, match=r"there is no module 'store' .* top of the source: shop, wsgi\. Write it as"
    ):
        release_build.check_module("store:app", Path(sys.executable), code, run)


# What may be built: hashes, a bill of materials, and somebody who judges it.

REGISTRY = """
[[package]]
name = "flask"
version = "3.1.2"
source = { registry = "https://index.example.com/simple" }
sdist = { url = "https://example.com/flask.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://example.com/flask.whl", hash = "sha256:00", size = 1 },
]
"""
OWN = '[[package]]\nname = "shop"\nversion = "1"\nsource = { virtual = "." }\n'


@pytest.mark.parametrize(
    ("lock", "name"),
    [
        (REGISTRY + OWN, None),
        (OWN.replace("virtual", "editable"), None),
        (REGISTRY.replace(', hash = "sha256:00", size = 1 },', " },"), "flask"),
        (REGISTRY + OWN.replace('virtual = "."', 'git = "https://example.com/x?rev=1#1"'), "shop"),
        (REGISTRY + OWN.replace('virtual = "."', 'directory = "../x"'), "shop"),
        (REGISTRY + OWN.replace('virtual = "."', 'registry = "https://index.example.com/simple"'), "shop"),
    ],
)
def test_what_a_lock_leaves_without_a_hash_is_named(lock: str, name: str | None) -> None:
    assert core.without_hash("version = 1\n" + lock) == name


@pytest.mark.parametrize(
    ("files", "packages", "said"),
    [
        (
            {"pyproject.toml": PROJECT},
            [],
            "the dependencies in 'pyproject.toml' carry no hashes: lock them with uv lock",
        ),
        (
            {"requirements.txt": "flask==3.1.2\n"},
            [],
            "the requirements in 'requirements.txt' carry no hashes: lock them",
        ),
        (
            {"uv.lock": OWN.replace('virtual = "."', 'url = "https://x/y.whl"')},
            [],
            "'shop' carries no hash in 'uv.lock'",
        ),
        ({}, ["httpbin==0.10.2"], "the dependencies of httpbin==0.10.2 carry no hashes"),
    ],
)
def test_dependencies_without_hashes_are_refused(
    tmp_path: Path, files: dict[str, str], packages: list[str], said: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(ReleaseError, match=f"^app_require_hashes: {said}"):
        core.check_hashes(tmp_path, core.plan_dependencies(tmp_path, "auto"), packages)


def test_dependencies_with_hashes_are_installed_by_them_alone(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": HASHED})
    plan = core.plan_dependencies(tmp_path, "auto")
    core.check_hashes(tmp_path, plan, [])
    core.check_hashes(tmp_path, core.Plan("none"), [])
    command = core.install_commands("uv", "python3", tmp_path / "venv", tmp_path, plan, [], True)[1]
    assert {"--require-hashes", "--only-binary"} <= set(command)
    loose = core.install_commands("uv", "python3", tmp_path / "venv", tmp_path, plan, [])[1]
    assert "--only-binary" not in loose


def installed(venv: Path, name: str, metadata: str) -> None:
    write(venv / "lib/python3.11/site-packages" / f"{name}.dist-info", {"METADATA": metadata})


def test_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    installed(tmp_path, "Flask_Caching-2.3.1", "Name: Flask-Caching\nVersion: 2.3.1\nLicense: BSD\n\nName: no\n")
    installed(tmp_path, "gunicorn-27.0.1", "Name: gunicorn\nVersion: 27.0.1+local\nLicense-Expression: MIT\n")
    installed(tmp_path, "long-1", "Name: long\nVersion: 1\nLicense: two\n  lines\n")
    text = core.bill_of_materials("shop", "3f9c", tmp_path, "2026-11-25T10:00:00Z")
    assert text == core.bill_of_materials("shop", "3f9c", tmp_path, "2026-11-25T10:00:00Z")
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    assert bill["metadata"]["component"] == {
        "type": "application", "bom-ref": "shop@3f9c", "name": "shop", "version": "3f9c",
    }  # fmt: skip
    assert [(part["name"], part["version"], part["purl"], part.get("licenses")) for part in bill["components"]] == [
        ("flask-caching", "2.3.1", "pkg:pypi/flask-caching@2.3.1", [{"license": {"name": "BSD"}}]),
        ("gunicorn", "27.0.1+local", "pkg:pypi/gunicorn@27.0.1%2Blocal", [{"expression": "MIT"}]),
        ("long", "1", "pkg:pypi/long@1", None),
    ]
    references = [part["bom-ref"] for part in bill["components"]]
    assert bill["dependencies"] == [{"ref": "shop@3f9c", "dependsOn": references}]
    assert len(set(references)) == 3


def test_audit_is_told_what_to_look_at(tmp_path: Path) -> None:
    installed(tmp_path, "x-1", "Name: x\nVersion: 1\n")
    words = core.audit_command("judge --path {site_packages} '--bill={sbom}' 'a b'", tmp_path, Path("/b.json"))
    assert words == ["judge", "--path", str(tmp_path / "lib/python3.11/site-packages"), "--bill=/b.json", "a b"]
    for text in ("judge 'x", " "):
        with pytest.raises(ReleaseError, match=r"^app_audit_command: .* is not a command"):
            core.audit_command(text, tmp_path, Path("/b.json"))


@AS_ROOT
@pytest.mark.parametrize(("status", "refused"), [(0, False), (1, True)])
def test_a_build_that_is_judged_badly_is_refused(tmp_path: Path, status: int, refused: bool) -> None:
    bill = tmp_path / "sbom.cdx.json"
    bill.write_text("{}")
    command = f"sh -c 'test -f {{sbom}} && echo CVE-2026-0001 in flask && exit {status}'"
    parameters = {"audit": command, "audit_requirement": ""}
    run = core.Runner(0, 0, {"PATH": os.environ["PATH"]})
    if refused:
        with pytest.raises(
            ReleaseError, match=r"(?s)^app_audit_command: .* not kept\. .*CVE-2026-0001 in flask.*Take what"
        ):
            release_build.audit(parameters, tmp_path, bill, run, {})
    else:
        release_build.audit(parameters, tmp_path, bill, run, {})
    with pytest.raises(ReleaseError, match=r"app_audit_command: .*No such file"):
        release_build.audit({**parameters, "audit": "/nowhere/judge"}, tmp_path, bill, run, {})


@pytest.mark.parametrize(
    ("name", "kind", "mode", "target"),
    [
        ("/etc/cron.d/x", tarfile.REGTYPE, 0o644, ""), ("a/../../x", tarfile.REGTYPE, 0o644, ""),
        ("x", tarfile.CHRTYPE, 0o644, ""), ("x", tarfile.FIFOTYPE, 0o644, ""), ("x", tarfile.LNKTYPE, 0o644, "app.py"),
        ("x", tarfile.SYMTYPE, 0o777, "/etc/passwd"), ("a/x", tarfile.SYMTYPE, 0o777, "../../x"),
        ("x", tarfile.REGTYPE, 0o4755, ""), ("x", tarfile.REGTYPE, 0o2755, ""),
    ],
)  # fmt: skip
def test_a_host_unpacks_nothing_of_a_source_that_is_not_safe(
    tmp_path: Path, name: str, kind: bytes, mode: int, target: str
) -> None:
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("app.py"))
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.linkname = kind, mode, target
        tar.addfile(member)
    with pytest.raises(ReleaseError, match=r"^app_source: .*nothing was unpacked: remove"):
        core.unpack_source(tmp_path / "source.tar.gz", tmp_path / "code")
    assert list((tmp_path / "code").iterdir()) == []


def test_an_archive_that_was_changed_on_its_way_is_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    archive.write_bytes(b"x")
    release_build.check_digest(archive, hashlib.sha256(b"x").hexdigest())
    release_build.check_digest(archive, None)
    with pytest.raises(ReleaseError, match=r"has the digest .*, not 0000: it was damaged or changed on its way"):
        release_build.check_digest(archive, "0000")
