"""Processes besides the instance: how they are told, and the units that they become."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _process as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from hypothesis import given
from hypothesis import strategies as st

INSTANCE: dict[str, Any] = {
    "name": "shop",
    "directory": "/srv/shop",
    "user": "shop",
    "group": "shop",
    "environment": {"APP_VERSION": 'v1 "100%" $HOME \\', "APP_NAME": "shop"},
    "sandbox": ["NoNewPrivileges=yes", "ReadWritePaths=/srv/shop/shared", "MemoryMax=1500M"],
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("celery -A shop worker", ("celery", "-A", "shop", "worker")),
        ("  celery\tworker ", ("celery", "worker")),
        ("sh -c 'echo \"$HOME\"; id'", ("sh", "-c", 'echo "$HOME"; id')),
        ("a b\\ c \"d e\" ''", ("a", "b c", "d e", "")),
        ("a; rm -rf / | b && c > d", ("a;", "rm", "-rf", "/", "|", "b", "&&", "c", ">", "d")),
        ("a # b", ("a", "#", "b")),
        ("grüße %i $X ${Y}", ("grüße", "%i", "$X", "${Y}")),
        ("a\nb", ("a", "b")),
    ],
)
def test_a_command_is_split_as_a_shell_would(text: str, words: tuple[str, ...]) -> None:
    assert core.split_command(text) == words


@pytest.mark.parametrize("text", ["", "  ", "a 'b", 'a "b', "a \\", "a 'b\nc'", "a \x00", "a 'b\tc'", None, 5, ["a"]])
def test_what_is_no_command_is_refused(text: object) -> None:
    with pytest.raises(ReleaseError, match="is not a command"):
        core.split_command(text)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("worker", '"worker"'),
        ("", '""'),
        ("a b", '"a b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("it's", '"it\'s"'),
        ("100%", '"100%%"'),
        ("%i", '"%%i"'),
        ("$HOME ${X}", '"$$HOME $${X}"'),
        ("a\\nb", '"a\\\\nb"'),
        ("; rm", '"; rm"'),
    ],
)
def test_systemd_takes_a_word_as_it_is(word: str, quoted: str) -> None:
    assert core.systemd_word(word) == quoted


@given(st.text(st.characters(codec="utf-8", min_codepoint=32)))
def test_every_word_is_one_word_in_one_line(word: str) -> None:
    quoted = core.systemd_word(word)
    assert (quoted[0], quoted[-1]) == ('"', '"')
    inner = quoted[1:-1]
    for escaped, plain in (("%%", "%"), ("$$", "$")):
        assert inner.replace(escaped, "").count(plain) == 0
    # Every quotation mark inside has an odd number of backslashes before it.
    runs = inner.split('"')[:-1]
    assert all((len(run) - len(run.rstrip("\\"))) % 2 == 1 for run in runs)


@pytest.mark.parametrize(
    ("entry", "process"),
    [
        ({"name": "worker", "command": "work"}, core.Process("worker", ("work",))),
        (
            {
                "name": "worker", "command": "work -q", "count": "3", "hosts": "one", "memory": "512M", "cpu": "150%",
                "tasks": 20, "stop_timeout": 5, "stop_signal": "SIGQUIT",
            },
            core.Process("worker", ("work", "-q"), 3, "", "one", "512M", "150%", 20, 5, "SIGQUIT"),
        ),
        # A job runs on one host, and gets more time to end.
        (
            {"name": "job", "command": "work", "schedule": "*-*-* 03:30"},
            core.Process("job", ("work",), 1, "*-*-* 03:30", "one", stop_timeout=300),
        ),
        (
            {"name": "job", "command": "work", "schedule": "daily", "hosts": "all", "stop_timeout": 10},
            core.Process("job", ("work",), 1, "daily", "all", stop_timeout=10),
        ),
        ({"name": "a", "command": "work", "memory": None, "schedule": ""}, core.Process("a", ("work",))),
    ],
)  # fmt: skip
def test_a_process_is_read_with_its_defaults(entry: dict[str, Any], process: core.Process) -> None:
    assert core.read_process(entry) == process


WORKER = {"name": "worker", "command": "work"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("work", "'work' must have name and command, such as {name: worker, command: celery -A shop worker}"),
        ({"name": "worker"}, "'{'name': 'worker'}' must have name and command, such as {name: worker, command: celery "
         "-A shop worker}"),
        (WORKER | {"name": "Worker"}, "'Worker' cannot be the name of a process: use up to 31 lower-case letters, "
         "digits and hyphens, a letter first"),
        (WORKER | {"name": "a.b"}, "'a.b' cannot be the name of a process: *"),
        (WORKER | {"name": "a@b"}, "'a@b' cannot be the name of a process: *"),
        (WORKER | {"name": "a" * 32}, f"'{'a' * 32}' cannot be the name of a process: *"),
        (WORKER | {"restart": "no"}, "worker: restart is not a field: there are command, count, cpu, hosts, memory, "
         "name, schedule, stop_signal, stop_timeout, tasks"),
        (WORKER | {"command": "a 'b"}, "worker: 'a 'b' is not a command: No closing quotation: write the end of what "
         "it opens, too"),
        (WORKER | {"count": 0}, "worker: count '0' is not a whole number: write one from 1 to 64"),
        (WORKER | {"count": 65}, "worker: count '65' is not a whole number: write one from 1 to 64"),
        (WORKER | {"count": True}, "worker: count 'True' is not a whole number: write one from 1 to 64"),
        (WORKER | {"count": 1.5}, "worker: count '1.5' is not a whole number: write one from 1 to 64"),
        (WORKER | {"schedule": "daily", "count": 2}, "worker: count has no meaning for what has a schedule: take one "
         "of them out"),
        (WORKER | {"schedule": "daily\nUser=root"}, "worker: schedule 'daily\nUser=root' is not a time: write one such "
         "as daily or *-*-* 03:30"),
        (WORKER | {"hosts": "two"}, "worker: hosts 'two' is neither all nor one"),
        (WORKER | {"memory": "512MB"}, "worker: memory '512MB' is not a size: write one such as 512M"),
        (WORKER | {"memory": "100%"}, "worker: memory '100%' is not a size: write one such as 512M"),
        (WORKER | {"cpu": "0.5"}, "worker: cpu '0.5' is not a share of a processor: write one such as 50%"),
        (WORKER | {"tasks": -1}, "worker: tasks '-1' is not a whole number: write one from 0 to 1048576"),
        (WORKER | {"stop_timeout": 0}, "worker: stop_timeout '0' is not a whole number: write one from 1 to 86400"),
        (WORKER | {"stop_signal": "TERM"}, "worker: stop_signal 'TERM' is not a signal: write one such as SIGTERM"),
    ],
)  # fmt: skip
def test_a_process_that_cannot_run_is_refused(entry: object, message: str) -> None:
    with pytest.raises(ReleaseError) as refusal:
        core.read_process(entry)
    text = str(refusal.value)
    assert text.startswith(message[:-1]) if message.endswith("*") else text == message


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "is not a list: write [{name: worker, command: celery -A shop worker}]"),
        ("work", "is not a list: write [{name: worker, command: celery -A shop worker}]"),
        (None, "is not a list: write [{name: worker, command: celery -A shop worker}]"),
        ([WORKER, {"name": "a", "command": "b"}, WORKER], "there are two of the name 'worker': name one of them "
         "otherwise"),
        ([WORKER, {"name": "worker-1", "command": "b", "schedule": "daily"}], "'worker' and 'worker-1' both have a "
         "unit worker-1.service: name one of them otherwise"),
    ],
)  # fmt: skip
def test_processes_that_cannot_be_together_are_refused(entries: object, message: str) -> None:
    with pytest.raises(ReleaseError) as refusal:
        core.read_processes(entries)
    assert str(refusal.value) == message


def test_no_processes_are_no_units() -> None:
    assert core.read_processes([]) == []
    assert core.process_units([], INSTANCE) == {}


SERVICE = """\
#
# Ansible managed
#
[Unit]
Description=shop, release %i, worker
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User=shop
Group=shop
UMask=0027
SyslogIdentifier=shop.worker
# Of all releases that are kept, only the current one works.
ExecCondition=/bin/sh -c 'test /srv/shop/current -ef /srv/shop/releases/%i'
WorkingDirectory=/srv/shop/releases/%i/build/code
EnvironmentFile=/srv/shop/releases/%i/env
Environment=PATH=/srv/shop/releases/%i/build/venv/bin:/usr/local/bin:/usr/bin:/bin
Environment=APP_RELEASE=%i PYTHONUNBUFFERED=1
Environment="APP_NAME=shop"
Environment="APP_VERSION=v1 \\"100%%\\" $HOME \\\\"
ExecStart=/usr/bin/env "celery" "-A" "shop" "worker" "100%%" "$$X"
TimeoutStopSec=90
KillMode=mixed
KillSignal=SIGINT
Restart=always
RestartSec=1
NoNewPrivileges=yes
ReadWritePaths=/srv/shop/shared
MemoryMax=1500M
MemoryMax=512M
CPUQuota=50%
TasksMax=20

[Install]
WantedBy=multi-user.target
"""

JOB = """\
#
# Ansible managed
#
[Unit]
Description=shop, release %i, cleanup
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
User=shop
Group=shop
UMask=0027
SyslogIdentifier=shop.cleanup
# Of all releases that are kept, only the current one works.
ExecCondition=/bin/sh -c 'test /srv/shop/current -ef /srv/shop/releases/%i'
WorkingDirectory=/srv/shop/releases/%i/build/code
EnvironmentFile=/srv/shop/releases/%i/env
Environment=PATH=/srv/shop/releases/%i/build/venv/bin:/usr/local/bin:/usr/bin:/bin
Environment=APP_RELEASE=%i PYTHONUNBUFFERED=1
ExecStart=/usr/bin/env "flask" "cleanup"
TimeoutStopSec=300
TimeoutStartSec=infinity
# A job that runs when its release retires may end by itself until the time for that is over.
KillSignal=SIGCONT
"""

TIMER = """\
#
# Ansible managed
#
[Unit]
Description=shop, release %i, when to run cleanup

[Timer]
OnCalendar=*-*-* 03:30
AccuracySec=1s

[Install]
WantedBy=timers.target
"""

PLAIN = {name: INSTANCE[name] for name in ("name", "directory", "user", "group")}


def test_a_worker_becomes_a_service_for_each_of_it() -> None:
    process = core.Process(
        "worker", ("celery", "-A", "shop", "worker", "100%", "$X"), count=2, memory="512M", cpu="50%", tasks=20,
        stop_timeout=90, stop_signal="SIGINT",
    )  # fmt: skip
    assert core.process_units([process], INSTANCE) == {
        "worker-1.service": core.Unit(SERVICE, "all"),
        "worker-2.service": core.Unit(SERVICE, "all"),
    }


def test_a_job_becomes_a_service_and_its_timer() -> None:
    process = core.read_process({"name": "cleanup", "command": "flask cleanup", "schedule": "*-*-* 03:30"})
    assert core.process_units([process], PLAIN) == {
        "cleanup.service": core.Unit(JOB),
        "cleanup.timer": core.Unit(TIMER, "one"),
    }


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    processes = core.read_processes(
        [
            {
                "name": "worker", "command": "celery -A shop worker '100%' \"it's\" '$X \"y\" \\z'", "memory": "512M",
                "cpu": "150%", "tasks": 20, "stop_signal": "SIGQUIT", "stop_timeout": 90,
            },
            {"name": "cleanup", "command": "flask cleanup", "schedule": "Mon..Fri *-*-* 03:30:00"},
        ]
    )  # fmt: skip
    instance = INSTANCE | {"user": "root", "group": "root"}
    paths = []
    for name, unit in core.process_units(processes, instance).items():
        stem, _dot, kind = name.rpartition(".")
        path = tmp_path / f"shop.{stem}@aaaaaaaaaaaa.{kind}"
        path.write_text(unit.text)
        paths.append(str(path))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], check=False, capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if "shop." in line] == []
