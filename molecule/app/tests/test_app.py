"""Releases of an application: how they lie on disk, come into service, fail, go, and what they keep secret.

Every test leaves the hosts with the release that converge.yml asks for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import apply_role, ask_socket, hosts_of_scenario, refused
from testinfra.host import Host

ROLE = "wsgi.fleet.app"
SOCKET = "/srv/shop/current/app.sock"
LOAD = (Path(__file__).parent.parent / "files" / "load.py").read_text()
SECRET = "correct horse battery staple"
# What the role installs is there, which saves time.
INSTALLED = {"app_install": False}


@dataclass(frozen=True)
class State:
    """What a host has of an application, and which release answers."""

    release: str
    build: str
    running: list[str]
    releases: list[str]
    builds: list[str]
    answering: str


def state(host: Host, name: str = "shop") -> State:
    """Look at what a host has of an application."""
    said = host.check_output(
        f"cd /srv/{name} && readlink current && readlink current/build"
        " && echo $(ls -A releases) && echo $(ls -A builds)"
        f" && systemctl list-units --plain --no-legend --state active,activating,deactivating '{name}@*'"
    )
    current, build, releases, builds, *units = said.splitlines()
    answer = ask_socket(host, f"/srv/{name}/current/app.sock", "/whoami")
    return State(
        release=current.removeprefix("releases/"),
        build=build.removeprefix("../../builds/"),
        running=[unit.split()[0].removeprefix(f"{name}@").removesuffix(".service") for unit in units],
        releases=releases.split(),
        builds=builds.split(),
        answering=json.loads(answer.body)["release"] if answer.status == 200 else "",
    )


def states() -> dict[str, State]:
    """Look at all hosts."""
    return {name: state(host) for name, host in hosts_of_scenario().items()}


def output(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a playbook printed as one line."""
    return " ".join((done.stdout + done.stderr).split())


@contextlib.contextmanager
def load(results: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Send requests to all hosts while the block runs, then put into ``results`` what became of them."""
    clients = {
        name: subprocess.Popen(
            ["docker", "exec", "-i", "-u", "www-data", f"wsgi-fleet-{name}", "python3", "-c", LOAD, SOCKET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("app-old", "app-new")
    }
    try:
        for client in clients.values():
            assert client.stdout is not None
            assert client.stdout.readline() == "started\n"
        yield
    finally:
        for name, client in clients.items():
            said, _nothing = client.communicate()
            results[name] = json.loads(said)


@dataclass(frozen=True)
class Deploys:
    """The states before and after three deploys, and what became of the requests meanwhile.

    The deploys: a changed setting; another one, with a single release kept besides the current one, and as if the
    hosts had become larger; the settings of before.
    """

    states: list[dict[str, State]]
    requests: dict[str, dict[str, Any]]
    output: str


def test_the_first_deploy_migrated_on_one_host() -> None:
    """In the new build and with its settings; deploys of the tests come after it in the file."""
    hosts = hosts_of_scenario()
    found = {name: host.run("cat /srv/shop/shared/uploads/migrations").stdout for name, host in hosts.items()}
    assert re.match(r"[0-9a-f]{12} in /srv/shop/builds/[0-9a-f]{12}/code\n", found["app-old"])
    assert found["app-new"] == ""


@pytest.fixture(scope="module")
def deploys() -> Deploys:
    """Deploy three times under load."""
    seen, printed = [states()], ""
    requests: dict[str, dict[str, Any]] = {}
    changes: list[dict[str, Any]] = [
        {"app_env": {"FLASK_SECRET_KEY": SECRET, "NOTE": "one"}},
        {
            "app_env": {"FLASK_SECRET_KEY": SECRET, "NOTE": "two"},
            "app_keep_releases": 1,
            "app_host": {"cpus": 6, "memory_mb": 8230},
        },
        {},
    ]
    with load(requests):
        for variables in changes:
            done = apply_role("app", ROLE, {**INSTALLED, **variables}, "--diff")
            assert done.returncode == 0, output(done)
            printed += done.stdout + done.stderr
            seen.append(states())
    return Deploys(seen, requests, printed)


def test_a_changed_setting_is_a_new_release_of_the_same_build(deploys: Deploys) -> None:
    """The new release runs alone, the old one stays on disk for a rollback."""
    before, after = deploys.states[0], deploys.states[1]
    for name in ("app-old", "app-new"):
        assert after[name].release != before[name].release
        assert after[name].build == before[name].build
        assert after[name].running == [after[name].release]
        assert after[name].answering == after[name].release
        assert before[name].release in after[name].releases


def test_old_releases_go(deploys: Deploys) -> None:
    """As many as asked for are kept besides the current one, those that were live last."""
    first, second, third, _last = deploys.states
    for name in ("app-old", "app-new"):
        assert set(second[name].releases) == {first[name].release, second[name].release}
        assert set(third[name].releases) == {second[name].release, third[name].release}
        assert third[name].builds == [first[name].build]


def test_a_larger_host_is_used_by_the_next_run(deploys: Deploys) -> None:
    """One process per processor, and its share of the memory; the difference tells, and the build is the old one."""
    lines = deploys.output.splitlines()
    assert lines.count("+workers = 6") == 2
    assert lines.count("-workers = 6") == 2
    assert lines.count("+MemoryMax=6553M") == 2
    first, _second, third, _last = deploys.states
    for name in ("app-old", "app-new"):
        assert third[name].build == first[name].build


def test_the_same_settings_are_the_same_release(deploys: Deploys) -> None:
    """Whoever takes a change back gets the release of before, even if it was gone meanwhile."""
    first, *_others, last = deploys.states
    for name in ("app-old", "app-new"):
        assert last[name].release == first[name].release
        assert last[name].running == [first[name].release]
        assert last[name].answering == first[name].release


def test_no_request_fails_during_deploys(deploys: Deploys) -> None:
    """All of them are answered, first by one release and then by another, also those in flight."""
    for name, seen in deploys.requests.items():
        assert seen["failures"] == []
        assert seen["requests"] > 200
        assert set(seen["releases"]) == {at[name].release for at in deploys.states}


def test_each_platform_has_a_build_of_its_own() -> None:
    """Two releases of a distribution share no virtual environment."""
    old, new = (at.build for at in states().values())
    assert old != new


def test_layout(host: Host) -> None:
    """A release is one directory, and what it needs lies where the other roles look for it."""
    at = state(host)
    assert re.fullmatch("[0-9a-f]{12}", at.release)
    assert host.check_output("readlink /srv/shop/current") == f"releases/{at.release}"
    release = f"/srv/shop/releases/{at.release}"
    assert host.check_output(f"ls -A {release}").split() == [
        "activated",
        "app.sock",
        "build",
        "env",
        "gunicorn.conf.py",
        "listen.py",
        "release.json",
    ]
    assert host.check_output(f"readlink {release}/app.sock") == f"/run/shop/{at.release}/app.sock"
    assert host.check_output(f"readlink {release}/build") == f"../../builds/{at.build}"
    assert host.check_output(f"ls -A /srv/shop/builds/{at.build}").split() == [
        "build.json",
        "code",
        "sbom.cdx.json",
        "venv",
    ]
    assert host.file("/srv/shop/current/build/code/shop/static/style.css").mode == 0o644


def test_modes_and_owners(host: Host) -> None:
    """The application can change nothing of its releases but what is shared; only root reads its settings."""
    listed = {
        path: host.check_output(f"stat --dereference --format '%U %G %a' /srv/shop/{path}")
        for path in (
            "current",
            "current/env",
            "current/release.json",
            "current/gunicorn.conf.py",
            ".key",
            "shared/uploads",
        )
    }
    assert listed == {
        "current": "root root 755",
        "current/env": "root root 600",
        "current/release.json": "root root 644",
        "current/gunicorn.conf.py": "root root 644",
        ".key": "root root 600",
        "shared/uploads": "shop shop 750",
    }
    assert host.check_output("find /srv/shop/builds /srv/shop/releases ! -user root") == ""
    assert host.check_output("find /srv/shop/builds /srv/shop/releases ! -type l -perm /6022") == ""
    assert host.run("runuser -u shop -- cat /srv/shop/current/env").rc != 0


def test_the_application_owns_nothing_that_runs(host: Host) -> None:
    """As its account: no file and no directory that makes up the instance can be written to, nor replaced."""
    unit = f"/etc/systemd/system/shop@{state(host).release}.service"
    everything = "/srv/shop/. /srv/shop/builds /srv/shop/releases /etc/systemd/system /run/wsgi.fleet /usr/local"
    files = host.check_output(f"find {everything} -path /srv/shop/./shared -prune -o -print").splitlines()
    for path in (unit, *(f"/srv/shop/./{name}" for name in ("current", "releases", "builds"))):
        assert path in files
    for ending in ("/code/shop/__init__.py", "/venv/bin/gunicorn", "/site-packages/flask/app.py", "/gunicorn.conf.py"):
        assert any(path.endswith(ending) for path in files)
    # -writable asks the kernel, as that account; links are what they lead to. Its socket and /dev/null are neither.
    writable = host.run(
        f"runuser -u shop -- find -L {everything} -path /srv/shop/./shared -prune"
        " -o '(' -type f -o -type d ')' -writable -print"
    )
    assert writable.stdout == ""
    tried = {
        f"echo >>{unit}": "Permission denied",
        "echo >>/srv/shop/current/build/code/shop/__init__.py": "Permission denied",
        "echo >>/srv/shop/current/build/venv/bin/gunicorn": "Permission denied",
        "echo >>/srv/shop/current/gunicorn.conf.py": "Permission denied",
        "touch /srv/shop/current/build/code/new.py": "Permission denied",
        "touch /srv/shop/current/build/venv/bin/new": "Permission denied",
        "ln -sfn releases/x /srv/shop/current": "Permission denied",
        "rm -f /srv/shop/current/env": "Permission denied",
        "chmod u+w /srv/shop/current/gunicorn.conf.py": "Operation not permitted",
        "touch /srv/shop/shared/uploads/new && rm /srv/shop/shared/uploads/new": "",
    }
    for command, said in tried.items():
        done = host.run("runuser -u shop -- sh -c %s", command)
        assert said in done.stderr, command
        assert (done.rc == 0) is (said == ""), command
    assert (
        host.check_output("find / -xdev -user shop ! -path '/proc/*' ! -path '/srv/shop/shared*' ! -path '/tmp/*'")
        == ""
    )


def test_release_says_what_it_is(host: Host) -> None:
    """Who looks at a host sees what runs there."""
    at = state(host)
    record = json.loads(host.file("/srv/shop/current/release.json").content_string)
    assert set(record) == {
        "build", "by", "created", "dependencies", "gate", "module", "name", "processes", "release", "server", "source",
        "user", "version",
    }  # fmt: skip
    assert (record["name"], record["release"], record["build"]) == ("shop", at.release, at.build)
    assert record["server"] == "gunicorn"
    assert record["source"].endswith("/examples/shop")
    whoami = json.loads(ask_socket(host, SOCKET, "/whoami").body)
    assert (whoami["release"], whoami["version"]) == (at.release, record["version"])


def test_serves_the_web_server_alone(host: Host) -> None:
    """The instance answers at the path of the contract, and only to the web server's group."""
    answer = ask_socket(host, SOCKET, "/health", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
    with pytest.raises(OSError, match="Permission denied"):
        ask_socket(host, SOCKET, account="nobody")


def environment(host: Host) -> dict[str, str]:
    """Return the variables that the processes of the current release were started with."""
    pid = host.check_output(f"systemctl show --property MainPID --value shop@{state(host).release}")
    listed = host.check_output(f"cat /proc/{pid}/environ").rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in listed)


def test_any_text_arrives_in_the_environment(host: Host) -> None:
    """Signs that shells and systemd would mind, and a line break, reach the application as they are."""
    seen = environment(host)
    assert seen["NOTE"] == 'it\'s "quoted", costs $5 or ${HOME}, `has` a \\ and\n# a second line = here '
    assert seen["FLASK_SECRET_KEY"] == "correct horse battery staple"
    assert seen["APP_SHARED"] == "/srv/shop/shared"


def test_secrets_stay_on_the_host(host: Host) -> None:
    """A value of app_env stands in one file that only root reads, and in no log, process list or other file."""
    journal = host.check_output("journalctl --no-pager --output cat")
    assert "shop@" in journal
    assert SECRET not in journal
    assert SECRET not in host.check_output("ps axww")
    assert SECRET not in host.check_output("runuser -u nobody -- ps axewww")
    open_to_others = host.check_output(
        "find /srv/shop/releases /srv/shop/shared /run/shop /run/wsgi.fleet /etc/systemd/system /var/lib/wsgi.fleet"
        " -type f -perm /077 -exec cat {} +"
    )
    assert "gunicorn.conf.py" in open_to_others
    assert SECRET not in open_to_others


def test_secrets_are_not_printed(deploys: Deploys) -> None:
    """Neither a deploy with its differences nor a rehearsal with every detail shows a value of app_env."""
    assert "NOTE=(hidden, another value)" in deploys.output
    assert SECRET not in deploys.output
    before = states()
    secrets = {"FLASK_SECRET_KEY": "hunter2 is another one", "URL": "redis://:hunter2@cache.example.com/0"}
    done = apply_role("app-new", ROLE, {**INSTALLED, "app_env": secrets}, "--check", "--diff", "-vvv")
    assert done.returncode == 0, output(done)
    assert "FLASK_SECRET_KEY=(hidden, another value)" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert states() == before


def test_a_failed_gate_on_one_host_changes_no_host() -> None:
    """All hosts go on with what they had, nothing of the new release is left, and the message tells why."""
    before = states()
    gate = "{{ '/whatever-404' if inventory_hostname == 'app-new' else '/health' }}"
    changed = {**INSTALLED, "app_env": {"NOTE": "three"}, "app_health_path": gate, "app_health_deadline": 10}
    done = apply_role("app", ROLE, changed)
    assert done.returncode != 0
    said = output(done)
    assert "GET /whatever-404 did not answer with status 200-399 within 10 s" in said
    assert "Last answer: HTTP 404 NOT FOUND" in said
    assert "set app_health_path, app_health_host or app_health_status" in said
    assert "Journal of the instance:" in said
    assert "Listening at: unix:/run/shop/" in said
    for name, ending in (
        ("app-old", "The deploy failed on another host."),
        ("app-new", "The deploy failed on this host;"),
    ):
        assert ending in said
        assert f"This host serves what it served before, release {before[name].release}." in said
    assert states() == before


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"app_module": "nonesuch:app"},
            "app_module: 'nonesuch:app' cannot be imported: ModuleNotFoundError: No module named 'nonesuch'. "
            "Write it as 'package.module:callable'",
        ),
        (
            {"app_dependencies": "nope.txt"},
            "app_dependencies: 'nope.txt' is not in the source. At its top there is: .gitignore, README.md, "
            "requirements.in, requirements.txt, shop. Name the file as a path from there",
        ),
        (
            {"app_env": {"NUMBER": 5}},
            "app_env: the value of NUMBER is not text but int: environment variables are text",
        ),
        ({"app_name": "Shop\n"}, "cannot be the name of an account and a unit"),
    ],
)
def test_what_cannot_run_is_explained(variables: dict[str, Any], said: str) -> None:
    """The message names the variable and the remedy, and the old release goes on."""
    host = hosts_of_scenario()["app-new"]
    before = state(host)
    done = apply_role("app-new", ROLE, {**INSTALLED, **variables})
    assert done.returncode == 2
    assert said in output(done)
    assert state(host) == before


def test_only_the_current_release_comes_back_after_a_reboot(deploys: Deploys) -> None:
    """Every host starts what was live, and nothing else of what it keeps."""
    before = states()
    for at in before.values():
        assert len(at.releases) > 1
    subprocess.run(["docker", "restart", "wsgi-fleet-app-old", "wsgi-fleet-app-new"], check=True, capture_output=True)
    end = time.monotonic() + 60
    for host in hosts_of_scenario().values():
        while host.run("systemctl is-system-running").stdout.strip() != "running":
            assert time.monotonic() < end
            time.sleep(0.3)
    while any(ask_socket(host, SOCKET, "/health").status != 200 for host in hosts_of_scenario().values()):
        assert time.monotonic() < end
        time.sleep(0.3)
    assert states() == before


HELLO = '''"""A small application."""

import gunicorn


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{text} under Gunicorn " + gunicorn.__version__.encode()]
'''


def deploy(host: Host, variables: Mapping[str, Any]) -> tuple[str, subprocess.CompletedProcess[str]]:
    """Deploy another application from any source; return what it answers, and how that went."""
    done = apply_role(
        host, ROLE, {"app_name": "hello", "app_module": "hello:app", "app_env": {}, "app_health_path": "/", **variables}
    )
    assert done.returncode == 0, output(done)
    return ask_socket(host, "/srv/hello/current/app.sock").text, done


def test_from_git(tmp_path: Path) -> None:
    """A branch, a tag and a commit each give what was committed there; the same commit is the same release."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    host = hosts_of_scenario()["app-new"]
    source = tmp_path / "hello.py"
    git("init", "--quiet", "--initial-branch", "main")
    for text in ("one", "two"):
        source.write_text(HELLO.replace("{text}", text))
        git("add", ".")
        git("commit", "--quiet", "--message", text)
    git("tag", "v1", "HEAD~1")
    commit = git("rev-parse", "v1")
    source.write_text("not committed")

    assert deploy(host, {"app_source": str(tmp_path), "app_version": "main"})[0] == "two under Gunicorn 27.0.1"
    tagged = {**INSTALLED, "app_source": str(tmp_path), "app_version": "v1"}
    assert deploy(host, tagged)[0] == "one under Gunicorn 27.0.1"
    text, done = deploy(host, {**INSTALLED, "app_source": str(tmp_path), "app_version": commit})
    assert text == "one under Gunicorn 27.0.1"
    assert "changed=0" in done.stdout
    assert json.loads(host.file("/srv/hello/current/release.json").content_string)["version"] == commit


def test_from_an_archive_that_brings_its_own_gunicorn(tmp_path: Path) -> None:
    """An archive with another digest is refused; the version of Gunicorn that an application names stays."""
    host = hosts_of_scenario()["app-new"]
    top = tmp_path / "hello-1.0"
    top.mkdir()
    (top / "hello.py").write_text(HELLO.replace("{text}", "archive"))
    (top / "requirements.txt").write_text("gunicorn==25.0.3\n")
    archive = tmp_path / "hello-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(top, "hello-1.0")
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()

    wrong = {**INSTALLED, "app_name": "hello", "app_source": str(archive), "app_source_checksum": "0" * 64}
    assert f"is not the SHA-256 of '{archive}', which is '{checksum}'" in refused(host, ROLE, wrong)
    text, _done = deploy(host, {"app_source": str(archive), "app_source_checksum": checksum})
    assert text == "archive under Gunicorn 25.0.3"


def test_from_a_package_index() -> None:
    """A package and its dependencies are all it takes."""
    host = hosts_of_scenario()["app-old"]
    package = {
        "app_name": "httpbin",
        "app_source": "pypi:httpbin==0.10.2",
        "app_module": "httpbin:app",
        "app_env": {},
        "app_health_path": "/status/204",
        "app_health_status": ["204"],
    }
    done = apply_role(host, ROLE, package)
    assert done.returncode == 0, output(done)
    answer = ask_socket(host, "/srv/httpbin/current/app.sock", "/ip", headers={"X-Forwarded-For": "203.0.113.9"})
    assert json.loads(answer.body) == {"origin": "203.0.113.9"}
