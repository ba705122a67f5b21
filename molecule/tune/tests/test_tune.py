"""A trial of settings measures what is to be seen from outside, and leaves the host as it was."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import Load, apply_role, ask
from testinfra.host import Host

RESULT = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "tune.json")
FEW = {"tune_rounds": 1, "tune_seconds": 0.5, "tune_warmup": 0}


def state(host: Host) -> dict[str, str]:
    """Everything of the application that a trial could touch."""
    commands = {
        # But the times of directories, in which something came and went.
        "files": "find /srv/shop -path /srv/shop/builds -prune -o ! -type d -printf '%p %l %m %u %s %T@\\n' | sort",
        "releases": "ls -A /srv/shop/releases",
        "builds": "ls -A /srv/shop/builds",
        "units": "ls -A /etc/systemd/system /etc/systemd/system/*.wants | grep shop",
        "running": 'systemctl show -p MainPID,NRestarts "shop@$(basename $(readlink /srv/shop/current))"',
        "instances": "systemctl list-units --all --plain --no-legend 'shop@*' 'shop.*'",
        "permits": "ls -A /run/wsgi.fleet/shop",
        "sockets": "ls -A /run/shop",
        "history": "cat /srv/shop/history.jsonl",
    }
    return {name: host.check_output(command) for name, command in commands.items()}


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What Ansible printed, without the breaks in long lines."""
    return " ".join((done.stdout + done.stderr).split())


def result() -> dict[str, Any]:
    """What the last trial wrote."""
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return found


def test_the_trial_has_seen_which_settings_are_better(host: Host) -> None:
    found = result()
    assert found["host"] == "tune-new"
    assert [(entry["label"], entry["chosen"]) for entry in found["candidates"]] == [
        ("threads 16", True), ("as it is", False),
    ]  # fmt: skip
    assert found["chosen"] == {"gunicorn_threads": 16}
    many, few = found["candidates"]
    # One process with 4 threads, and one with 16, on a view of 50 ms: 80 and 320 requests a second at the most.
    assert 40 < few["rate"] <= 84
    assert few["rate"] * 1.5 < many["rate"] <= 330
    assert 45 <= many["p50_ms"] < few["p50_ms"]
    assert [len(part) for part in found["rounds"]] == [2, 2]
    # The first round and the second are in opposite orders.
    first, second = ([run["release"] for run in part] for part in found["rounds"])
    assert first == second[::-1]
    for part in found["rounds"]:
        for run in part:
            assert (run["failed"], run["processes"]) == (0, 2)
            assert 10 < run["memory_mb"] < 500
            assert 0 < run["cpu_ms"] < 50


def test_what_is_live_serves_on_and_nothing_is_left(host: Host, address: str) -> None:
    before = state(host)
    with Load(address, "/whoami", rate=30, methods=("GET",)) as load:
        done = apply_role(host, "wsgi.fleet.tune", FEW)
    assert done.returncode == 0, done.stdout
    assert load.requests > 100
    assert load.failures == []
    # One release answered all along, and it is the one that was live before.
    assert len(load.seen) == 1
    assert state(host) == before
    assert "threads 16 |####" in done.stdout
    assert "gunicorn_threads: 16" in done.stdout


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"gunicorn_settings": {"logger_class": "nobodys.Logger"}}, "did not pass its gate"),
        ({"gunicorn_thread": 16}, "tune_candidates: there is no variable 'gunicorn_thread'"),
        ({"app_server": "uwsgi"}, "tune_candidates: the live build has no uwsgi"),
    ],
)
def test_a_candidate_that_cannot_run_leaves_nothing_either(host: Host, candidate: dict[str, Any], message: str) -> None:
    before = state(host)
    done = apply_role(host, "wsgi.fleet.tune", {**FEW, "tune_candidates": [{"gunicorn_threads": 2}, candidate]})
    assert done.returncode != 0
    assert message in said(done)
    assert state(host) == before


def test_a_deploy_that_is_under_way_is_not_disturbed(host: Host) -> None:
    before = state(host)
    lock = {"deploy": "20261125T101500Z-3f9c", "by": "ada", "origin": "desk", "since": "now", "action": "deploy"}
    host.check_output("echo %s > /srv/shop/deploy.lock", json.dumps(lock))
    try:
        done = apply_role(host, "wsgi.fleet.tune", FEW)
        kept = host.check_output("cat /srv/shop/deploy.lock")
    finally:
        host.check_output("rm /srv/shop/deploy.lock")
    assert done.returncode != 0
    assert "Another deploy is under way: deploy 20261125T101500Z-3f9c, by ada on desk" in said(done)
    assert json.loads(kept) == lock
    assert state(host) == before


def test_a_host_with_clients_is_refused_unless_it_is_drained(host: Host, address: str) -> None:
    done = apply_role(host, "wsgi.fleet.tune", {**FEW, "tune_live": False})
    assert done.returncode != 0
    assert "tune_live: tune-new is not drained" in said(done)
    host.check_output("mkdir -p /etc/wsgi.fleet && touch /etc/wsgi.fleet/drained")
    try:
        done = apply_role(host, "wsgi.fleet.tune", {**FEW, "tune_live": False})
    finally:
        host.check_output("rm /etc/wsgi.fleet/drained")
    assert done.returncode == 0, done.stdout
    assert ask(address, "/whoami").status == 200


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"tune_path": "slow"}, "tune_path: 'slow' is not a request target"),
        ({"tune_connections": 0}, "tune_connections: 0 is not a number of clients"),
        ({"tune_seconds": 0.1}, "tune_seconds: 0.1 is too short"),
        ({"tune_rounds": 0}, "tune_rounds: 0 would measure nothing"),
        ({"tune_noise": 5}, "tune_noise: 5"),
        ({"tune_warmup": -1}, "tune_warmup: -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(host: Host, variables: dict[str, Any], message: str) -> None:
    done = apply_role(host, "wsgi.fleet.tune", variables)
    assert done.returncode != 0
    assert message in said(done)
