"""Linters and checkers over the whole collection, each with nothing skipped.

The first run of ansible-test installs its tools and takes two minutes; the rest takes one.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
CACHE = ROOT / ".cache"

#: Stands in for the script that ansible-test downloads to put pip into an empty virtual
#: environment. Python brings a pip that does as well, and that needs no network.
PIP_BOOTSTRAP = """\
import ensurepip
import os
import subprocess
import sys

# ensurepip turns pip's configuration off for the process that it runs in.
environment = dict(os.environ)
ensurepip.bootstrap(default_pip=True)
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *arguments], env=environment))
"""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command with the tools beside this Python; fail with what it said."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={
            **os.environ,
            "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "ANSIBLE_NOCOLOR": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: exit status {done.returncode}\n\n{done.stdout}", pytrace=False)
    return done.stdout


def sources() -> list[str]:
    """Return the files of the checkout as they are now, without links and without what git ignores."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sorted({name for name in listed if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()})


def copy_to(directory: Path) -> Path:
    """Copy the collection into a directory that Ansible searches for collections, as it lies on disk.

    Several of the tools resolve links, and the checkout is a collection only by one.

    :returns: the copy.
    """
    target = directory / "ansible_collections" / "wsgi" / "fleet"
    for name in sources():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def test_ansible_lint() -> None:
    run("ansible-lint", "--offline", "--nocolor")


def test_yamllint() -> None:
    run("yamllint", "--strict", ".")


def test_ruff_check() -> None:
    run("ruff", "check", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", "--diff", ".")


def test_mypy() -> None:
    run("mypy", "--strict", *(name for name in ("plugins", "scripts", "tests", "examples") if (ROOT / name).is_dir()))


def test_shellcheck() -> None:
    run("shellcheck", "-x", *sorted((*ROOT.glob("scripts/*.sh"), *ROOT.glob("roles/*/files/*.sh"))))


def test_tables_of_the_readmes() -> None:
    run(sys.executable, "scripts/docs.py", "--check")


def test_documentation_of_the_plugins(tmp_path: Path) -> None:
    run("antsibull-docs", "lint-collection-docs", "--plugin-docs", ".", cwd=copy_to(tmp_path))


def test_changelog() -> None:
    run("antsibull-changelog", "lint")


def test_version_is_in_the_changelog() -> None:
    """A version in galaxy.yml has its fragment or its entry, so that no release goes untold."""
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    changelog = ROOT / "changelogs" / "changelog.yaml"
    released = (yaml.safe_load(changelog.read_text(encoding="utf-8")) if changelog.is_file() else {}).get(
        "releases", {}
    )
    assert version in released or (ROOT / "changelogs" / "fragments" / f"{version}.yml").is_file()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection as it is published."""
    built = tmp_path_factory.mktemp("archive")
    run("ansible-galaxy", "collection", "build", "--output-path", built, cwd=copy_to(tmp_path_factory.mktemp("copy")))
    (found,) = built.glob("wsgi-fleet-*.tar.gz")
    return found


def test_archive_installs_and_its_modules_are_found(archive: Path, tmp_path: Path) -> None:
    # Away from the checkout, whose ansible.cfg would lead back to it.
    (tmp_path / "ansible.cfg").touch()
    there = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    install = ("ansible-galaxy", "collection", "install", "--offline", "--no-deps", "--collections-path", tmp_path)
    run(*install, archive, cwd=tmp_path, **there)
    shown = run("ansible-doc", "--type", "module", "wsgi.fleet.release_stage", cwd=tmp_path, **there)
    assert str(tmp_path) in shown
    assert "release_stage" in shown
    play = tmp_path / "play.yml"
    play.write_text("- hosts: localhost\n  roles:\n    - wsgi.fleet.preflight\n", encoding="utf-8")
    run("ansible-playbook", "--syntax-check", play, cwd=tmp_path, **there)


def test_archive_holds_what_users_run_and_nothing_else(archive: Path) -> None:
    held = {name.split("/")[0] for name in run("tar", "-tzf", archive).split()}
    needed = {"FILES.json", "LICENSE", "MANIFEST.json", "meta", "playbooks", "plugins", "roles"}
    unwanted = {".cache", ".collections", "benchmarks", ".config", ".git", ".venv", "molecule", "requirements"}
    assert needed - held == set()
    assert unwanted & held == set()


def pip_of_ansible_test() -> str:
    """Return the version of pip that ansible-test asks for, as in its own source."""
    package = importlib.util.find_spec("ansible_test")
    assert package is not None
    assert package.submodule_search_locations
    source = Path(package.submodule_search_locations[0], "_internal", "python_requirements.py")
    found = re.search(r"\bpip='([0-9.]+)'", source.read_text(encoding="utf-8"))
    assert found, f"{source} names no version of pip any more"
    return found[1]


def pip_configuration(listed: str) -> str:
    """Return a configuration file for pip with what ``pip config list`` shows.

    ansible-test passes on neither the environment, by which pip may know its index and its
    certificates, nor the home folder.
    """
    parser = configparser.RawConfigParser()
    for line in listed.splitlines():
        key, _equals, value = line.partition("=")
        section, _dot, name = key.rpartition(".")
        section = "global" if section == ":env:" else section
        if not parser.has_section(section):
            parser.add_section(section)
        parser[section][name] = ast.literal_eval(value).replace("\n", "\n ")
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def test_configuration_of_pip_is_handed_on() -> None:
    listed = "global.index-url='https://example.com/simple'\n:env:.cert='/a b.pem'\ninstall.find-links='x\\ny'\n"
    parser = configparser.RawConfigParser()
    parser.read_string(pip_configuration(listed))
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "global": {"index-url": "https://example.com/simple", "cert": "/a b.pem"},
        "install": {"find-links": "x\ny"},
    }


def home_of_ansible_test() -> Mapping[str, str]:
    """Make the home folder that ansible-test keeps its virtual environments in, from run to run.

    A folder of our own, since the script in it must not take the place of the real one elsewhere.
    """
    home = CACHE / "ansible-test"
    script = home / ".ansible" / "test" / "cache" / f"get_pip_{pip_of_ansible_test().replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(PIP_BOOTSTRAP, encoding="utf-8")
    configuration = home / ".config" / "pip" / "pip.conf"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    # Never through a link into the real home folder.
    assert configuration.parent.resolve().is_relative_to(CACHE.resolve())
    configuration.write_text(pip_configuration(run(sys.executable, "-m", "pip", "config", "list")), encoding="utf-8")
    return {"HOME": str(home)}


def ansible_test_sanity() -> None:
    """Run the checks of ansible-test, in a copy of the collection."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as folder:
        run(
            *("ansible-test", "sanity", "--color", "no", "--python", python),
            cwd=copy_to(Path(folder)),
            **home_of_ansible_test(),
        )


def test_ansible_test_sanity(sanity: Future[None]) -> None:
    """It has run beside the tests before this one: see conftest.py."""
    sanity.result()
