"""What a deploy does besides switching code: migrations, hooks, processes, the lock, and what can be told of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from release_testing import APP_HOSTS, Fleet, on

SECRET = "hunter2-of-nobody"


def prepared(fleet: Fleet, note: str) -> dict[str, object]:
    """Return settings of a release that was never there."""
    return {"app_env": {"NOTE": note, "TOKEN": SECRET}}


def everywhere(command: str) -> dict[str, str]:
    """Run a command on every app host."""
    return {name: on(name, command) for name in APP_HOSTS}


def test_migrations_run_once_in_the_new_release_before_it_is_live(fleet: Fleet) -> None:
    """On one host, with the new code, dependencies and settings, while the old release serves."""
    everywhere("rm -f /srv/shop/shared/uploads/migrated")
    command = (
        "python -c \"import os, flask; open(os.environ['APP_SHARED'] + '/uploads/migrated', 'a').write("
        "' '.join([os.environ['NOTE'], os.environ['APP_RELEASE'], os.readlink('/srv/shop/current'), os.getcwd()]))\""
    )
    before = fleet.settled()
    fleet.run("deploy.yml", {**prepared(fleet, "migrated"), "app_migrate_command": command})
    after = fleet.settled()
    written = everywhere("cat /srv/shop/shared/uploads/migrated 2>/dev/null || true")
    note, release, current, directory = written.pop("app1").split()
    assert (note, release) == ("migrated", after["app1"].current)
    assert current == f"releases/{before['app1'].current}"
    assert directory.startswith("/srv/shop/builds/")
    assert set(written.values()) == {""}


def test_hooks(fleet: Fleet, tmp_path: Path) -> None:
    """Commands and tasks at each moment, in order, on all hosts or one; one that fails stops the deploy."""
    moments = [f"{when}_{step}" for step in ("build", "stage", "activate", "retire") for when in ("before", "after")]
    tasks = tmp_path / "note.yml"
    tasks.write_text(
        "- name: Note the moment\n"
        "  ansible.builtin.shell: echo {{ inventory_hostname }} {{ __app_moment }} >> " + str(tmp_path / "notes") + "\n"
        "  delegate_to: localhost\n  become: false\n"
    )
    hooks: dict[str, list[dict[str, str]]] = {moment: [{"tasks": str(tasks), "hosts": "one"}] for moment in moments}
    hooks["after_stage"].append({"command": "touch /srv/shop/shared/uploads/staged-by-hook"})
    everywhere("rm -f /srv/shop/shared/uploads/staged-by-hook")
    fleet.run("deploy.yml", {**prepared(fleet, "hooked"), "app_hooks": hooks})
    assert (tmp_path / "notes").read_text().split("\n")[:-1] == [f"app1 {moment}" for moment in moments]
    everywhere("test -e /srv/shop/shared/uploads/staged-by-hook")

    (tmp_path / "notes").unlink()
    moments = ["before_rollback", "after_rollback"]
    fleet.run("rollback.yml", {"app_hooks": {moment: [{"tasks": str(tasks), "hosts": "one"}] for moment in moments}})
    assert (tmp_path / "notes").read_text().split("\n")[:-1] == [f"app1 {moment}" for moment in moments]

    before = fleet.settled()
    said = fleet.fails(
        "deploy.yml",
        {
            **prepared(fleet, "hooked in vain"),
            "app_hooks": {"after_activate": [{"command": "sh -c 'echo no $TOKEN; exit 3'", "hosts": "one"}]},
        },
    )
    assert "after_activate: 'sh -c" in said.replace("''", "'")
    assert "ended with status 3" in said
    assert SECRET not in said
    assert fleet.settled() == before


PROCESSES = [
    {
        "name": "worker",
        "command": "python -c 'import time; time.sleep(3600)'",
        "count": 2,
        "memory": "128M",
        "cpu": "50%",
    },
    {"name": "beat", "command": "sleep 3600", "hosts": "one"},
    {"name": "clock", "command": "touch /srv/shop/shared/uploads/clock", "schedule": "*:*:0/2"},
]


def test_processes_are_part_of_a_release(fleet: Fleet) -> None:
    """They start with it and stop with it, with their limits, and run after a reboot as before it."""
    fleet.run("deploy.yml", {**prepared(fleet, "processes"), "app_processes": PROCESSES})
    first = fleet.settled()
    for name, state in first.items():
        expected = {
            f"@{state.current}.service",
            f".worker-1@{state.current}.service",
            f".worker-2@{state.current}.service",
        }
        if name == "app1":
            expected |= {f".beat-1@{state.current}.service", f".clock@{state.current}.timer"}
        assert set(state.running) - {f".clock@{state.current}.service"} == expected
    unit = f"shop.worker-1@{first['app1'].current}.service"
    said = on("app1", f"systemctl show --property MemoryMax,CPUQuotaPerSecUSec,User {unit}")
    assert set(said.splitlines()) == {"MemoryMax=134217728", "CPUQuotaPerSecUSec=500ms", "User=shop"}
    # Every other second, on one host.
    time.sleep(4)
    assert "clock" in on("app1", "ls /srv/shop/shared/uploads")
    assert "clock" not in on("app2", "ls /srv/shop/shared/uploads")

    fleet.run("deploy.yml", {**prepared(fleet, "more processes"), "app_processes": PROCESSES[:1]})
    second = fleet.settled()
    for state in second.values():
        assert all("worker" in unit or unit.startswith("@") for unit in state.running)
    fleet.run("rollback.yml")
    assert {name: state.current for name, state in fleet.settled().items()} == {
        name: state.current for name, state in first.items()
    }
    assert any("beat" in unit for unit in fleet.state("app1").running)


def test_a_process_that_does_not_stay_up_fails_the_deploy(fleet: Fleet) -> None:
    """Every host goes back, and the processes of the old release were never interrupted."""
    fleet.run("deploy.yml", {**prepared(fleet, "processes"), "app_processes": PROCESSES[:1]})
    before = fleet.settled()
    unit = f"shop.worker-1@{before['app1'].current}.service"
    process = on("app1", f"systemctl show --property MainPID {unit}")
    broken = [{"name": "worker", "command": f"python -c 'raise SystemExit(\"{SECRET}\")'"}]
    said = fleet.fails("deploy.yml", {**prepared(fleet, "broken"), "app_processes": broken})
    assert "app_processes: what was started did not stay up" in said
    assert fleet.settled() == before
    assert process == on("app1", f"systemctl show --property MainPID {unit}")


def test_rollback_to_a_named_release_and_back_again(fleet: Fleet) -> None:
    """By deploy, or by release; twice without a name goes further back; failed ones are never candidates."""
    names = []
    for note in ("first", "second", "third"):
        fleet.run("deploy.yml", prepared(fleet, note))
        names.append(fleet.settled()["app1"])
    fleet.fails("deploy.yml", {"app_env": {"SABOTAGE": "import"}})
    fleet.run("rollback.yml")
    assert fleet.settled()["app1"] == names[1]
    fleet.run("rollback.yml")
    assert fleet.settled()["app1"] == names[0]
    fleet.run("rollback.yml", {"app_rollback_to": names[2].deploy})
    assert fleet.settled()["app1"] == names[2]
    # The identifier on one platform stands for the deploy on all.
    fleet.run("rollback.yml", {"app_rollback_to": names[1].current})
    assert fleet.settled()["app1"] == names[1]
    said = fleet.fails("rollback.yml", {"app_rollback_to": "v99"})
    assert "app_rollback_to: 'v99' is none of what was in service and is kept:" in said
    assert names[2].deploy in said
    assert fleet.settled()["app1"] == names[1]


def test_without_a_terminal_nobody_can_say_go(fleet: Fleet) -> None:
    """The canary flips back, and no other host was touched."""
    before = fleet.settled()
    fleet.fails("deploy.yml", {**prepared(fleet, "asked"), "app_batch": 1, "app_batch_pause": "ask"})
    assert fleet.settled() == before


def test_somebody_says_go(fleet: Fleet) -> None:
    """The canary serves the new release and waits; each go sends the next host after it."""
    before = {name: state.current for name, state in fleet.settled().items()}
    command = fleet.command(
        "deploy.yml", {**prepared(fleet, "gone on"), "app_batch": 1, "app_batch_pause": "ask"}, (), False
    )
    # With a terminal of its own, as a person has.
    process = subprocess.Popen(
        ["script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=fleet.scenario,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said, switched = b"", []
    while chunk := os.read(process.stdout.fileno(), 4096):
        said += chunk
        if said.count(b"Type go to go on") > len(switched):
            now = {name: fleet.state(name).current for name in APP_HOSTS}
            switched.append({name for name in APP_HOSTS if now[name] != before[name]})
            process.stdin.write(b"go\r")
            process.stdin.flush()
    assert process.wait() == 0, said.decode()
    assert switched == [{"app1"}, {"app1", "app2"}]
    assert not set(before.values()) & {state.current for state in fleet.settled().values()}


def test_the_lock_says_who_and_how_to_break_it(fleet: Fleet) -> None:
    """Another controller's deploy is not overtaken, unless somebody says that it is dead."""
    lock = {
        "deploy": "20260101T000000Z-dead",
        "action": "deploy",
        "version": "v7",
        "by": "alice",
        "origin": "laptop",
        "machine": "another",
        "process": "1 then",
        "since": "2026-01-01T00:00:00+00:00",
    }
    on("app3", f"echo {shlex.quote(json.dumps(lock))} > /srv/shop/deploy.lock")
    before = fleet.states()
    said = fleet.fails("deploy.yml", prepared(fleet, "locked out"))
    assert (
        "Another deploy is under way: deploy 20260101T000000Z-dead of v7, by alice on laptop since "
        "2026-01-01T00:00:00+00:00. Wait for it. If it is certain that it has died, take its lock over: "
        "-e app_break_lock=20260101T000000Z-dead"
    ) in said
    assert fleet.states() == before
    fleet.run("deploy.yml", {**prepared(fleet, "lock broken"), "app_break_lock": lock["deploy"], "app_deployer": "bob"})
    fleet.settled()
    history = fleet.run("history.yml")
    assert re.search(r"20260101T000000Z-dead +deploy +v7 +alice@laptop .* interrupted \(app3\)", history), history
    assert re.search(r"deploy .* bob@\S+ .* succeeded <- live", history), history


def test_two_deploys_at_a_time(fleet: Fleet) -> None:
    """One of them goes on, the other one says why it does not; neither disturbs the other."""
    runs = [fleet.start("deploy.yml", prepared(fleet, f"at a time {number}")) for number in (1, 2)]
    said = [run.communicate()[0] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], said
    assert "Another deploy is under way" in said[0] + said[1]
    fleet.settled()


def test_a_dry_run_tells_what_a_deploy_would_do(fleet: Fleet, tmp_path: Path) -> None:
    """Commits, settings by name only, and migrations; and does nothing of it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.com", *arguments],
            cwd=repository,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    repository = tmp_path / "repository"
    subprocess.run(["cp", "-r", str(fleet.variables["app_source"]), str(repository)], check=True)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Sell mugs")
    source = {"app_source": f"git+file://{repository}", "app_version": "HEAD"}
    fleet.run("deploy.yml", {**source, **prepared(fleet, "from git")})
    first = git("rev-parse", "HEAD")
    (repository / "news.txt").write_text("news")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Tell the news")
    before = fleet.states()
    said = fleet.run(
        "deploy.yml",
        {
            **source,
            "app_env": {"NOTE": "from git", "TOKEN": "another", "MORE": "of it"},
            "app_migrate_command": "flask db upgrade",
        },
        "--check",
        "--diff",
    )
    assert "Ann: Tell the news" in said
    assert "Sell mugs" not in said
    assert "+MORE=(hidden)" in said
    assert "+TOKEN=(hidden, another value)" in said
    assert "migrate: flask db upgrade" in said
    assert SECRET not in said
    assert fleet.states() == before
    history = fleet.run("history.yml")
    assert first[:12] in history


@pytest.mark.parametrize("path", ["history.jsonl", "current/release.json", "current/activated"])
def test_no_secret_stands_in_what_everybody_can_read(path: str) -> None:
    for said in everywhere(f"cat /srv/shop/{path}").values():
        assert SECRET not in said
