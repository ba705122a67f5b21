"""The fleet whose releases are changed and disturbed, and the clients that count: fixtures of the scenario releases."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.load import MIX, Kind, Load, Result, Row, dump_rows, table

BALANCERS = (("172.31.78.141", 443), ("172.31.78.142", 443))
HOST = "shop.example.com"
APP_HOSTS = {"app1": "172.31.78.151", "app2": "172.31.78.152", "app3": "172.31.78.153"}
NAMES = tuple(APP_HOSTS)
NETWORK = "wsgi-fleet-test"
#: The authority of the fleet, which site.yml has made.
AUTHORITY = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], ".secrets/tls/ca.crt")
#: Requests per second, of all kinds together.
RATE = 60

#: What makes the example fail when its environment says so.
SABOTAGE = """

import os as _os
import time as _time

_sabotage = _os.environ.get("SABOTAGE", "")
if _sabotage == "import":
    raise RuntimeError("sabotaged")
_health = app.view_functions["shop.health"]


def _sabotaged():
    if _sabotage == "error":
        raise RuntimeError("sabotaged")
    if _sabotage == "hang":
        _time.sleep(600)
    return _health()


app.view_functions["shop.health"] = _sabotaged
"""


@dataclass(frozen=True)
class State:
    """What an app host has.

    :param current: the release that is live.
    :param deploy: the deploy that brought it there, empty if none has been confirmed.
    :param running: all units of the application that run, without the name of the application.
    :param locked: whether a deploy holds the lock.
    """

    current: str
    deploy: str
    running: tuple[str, ...]
    locked: bool


@dataclass
class Fleet:
    """Runs playbooks on the hosts of this scenario and looks at what comes of them.

    :param variables: of the application; each run is given them.
    """

    variables: dict[str, Any]
    scratch: Path
    scenario: Path = field(default_factory=lambda: Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]))
    project: Path = field(default_factory=lambda: Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]))

    def command(self, playbook: str, variables: Mapping[str, Any], arguments: Sequence[str], scaled: bool) -> list[str]:
        """Compose a call of ansible-playbook."""
        path = self.scratch / "variables.json"
        path.write_text(json.dumps({**self.variables, **variables}))
        inventories = ["hosts.yml", "scale.yml"] if scaled else ["hosts.yml"]
        chosen = [part for name in inventories for part in ("-i", str(self.scenario / name))]
        return ["ansible-playbook", *chosen, str(self.project / playbook), "-e", f"@{path}", *arguments]

    def start(
        self, playbook: str, variables: Mapping[str, Any] | None = None, *arguments: str, scaled: bool = False
    ) -> subprocess.Popen[str]:
        """Start a playbook, in a session of its own."""
        return subprocess.Popen(
            self.command(playbook, variables or {}, arguments, scaled),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.scenario,
            env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
            start_new_session=True,
        )

    def run(
        self, playbook: str, variables: Mapping[str, Any] | None = None, *arguments: str, scaled: bool = False
    ) -> str:
        """Run a playbook that has to succeed; return what it printed."""
        process = self.start(playbook, variables, *arguments, scaled=scaled)
        said, _nothing = process.communicate()
        assert process.returncode == 0, said
        return said

    def fails(self, playbook: str, variables: Mapping[str, Any] | None = None, *arguments: str) -> str:
        """Run a playbook that has to fail; return what it printed as one line."""
        process = self.start(playbook, variables, *arguments)
        said, _nothing = process.communicate()
        assert process.returncode == 2, said
        return " ".join(said.split())

    def disturb(
        self,
        variables: Mapping[str, Any],
        task: str,
        action: Callable[[subprocess.Popen[str]], None],
        *,
        wait: float = 0.4,
    ) -> tuple[int, str]:
        """Deploy, and do something when a task begins; return the exit status and what was printed.

        :param wait: seconds from the announcement of the task, within which it begins.
        """
        process = self.start("deploy.yml", variables)
        assert process.stdout is not None
        said = ""
        done = False
        for line in process.stdout:
            said += line
            if not done and line.startswith("TASK [") and task in line:
                time.sleep(wait)
                action(process)
                done = True
        status = process.wait()
        assert done, f"there was no task {task!r}:\n{said}"
        return status, said

    def state(self, name: str) -> State:
        """Look at an app host."""
        said = on(
            name,
            "cd /srv/shop && readlink current && (cat current/activated || echo '{}') 2>/dev/null"
            " && test -e deploy.lock; echo $?"
            " && systemctl list-units --plain --no-legend --state active,activating,deactivating"
            " 'shop@*' 'shop.*@*'",
        )
        current, mark, unlocked, *units = said.splitlines()
        return State(
            current=current.removeprefix("releases/"),
            deploy=json.loads(mark).get("deploy", ""),
            running=tuple(sorted(unit.split()[0].removeprefix("shop") for unit in units)),
            locked=unlocked == "0",
        )

    def states(self, names: Iterable[str] = NAMES) -> dict[str, State]:
        """Look at several app hosts."""
        return {name: self.state(name) for name in names}

    def settled(self, names: Iterable[str] = NAMES) -> dict[str, State]:
        """Look at app hosts, which must all be at rest with one and the same deploy."""
        states = self.states(names)
        for name, state in states.items():
            assert not state.locked, f"{name} is locked"
            assert f"@{state.current}.service" in state.running, f"{name} does not run what is current: {state}"
            assert all(f"@{state.current}." in unit for unit in state.running), f"{name} runs more: {state}"
        assert len({state.deploy for state in states.values()}) == 1, states
        # Hosts of one platform have the same release.
        assert states["app1"].current == states["app3"].current, states
        return states


@pytest.fixture(scope="session")
def rows() -> Iterator[list[Row]]:
    """The table of what was counted, printed and written down at the end."""
    found: list[Row] = []
    yield found
    if found:
        quiet = "quiet run" if any(row.name == "quiet run" for row in found) else None
        print("\n" + table(found, quiet))
        path = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], ".cache", "bench-deploy.json")
        path.parent.mkdir(exist_ok=True)
        dump_rows(found, path)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The fleet, with a copy of the example that can be told to fail."""
    scratch = tmp_path_factory.mktemp("fleet")
    source = scratch / "shop"
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    shutil.copytree(project / "examples/shop", source, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    with (source / "shop/__init__.py").open("a") as file:
        file.write(SABOTAGE)
    fleet = Fleet({"app_source": str(source), "app_version": "base", "app_health_deadline": 40}, scratch)
    fleet.run("deploy.yml")
    return fleet


def load(rate: float, kinds: Sequence[Kind] = MIX) -> Load:
    """Return clients of both load balancers."""
    return Load(BALANCERS, HOST, rate=rate, kinds=kinds, tls=True, ca=AUTHORITY)


def whoami(address: str, port: int) -> str:
    """Ask a load balancer once, and return the host and the release that answered."""
    context = ssl.create_default_context(cafile=str(AUTHORITY))
    with (
        socket.create_connection((address, port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=HOST) as stream,
    ):
        stream.sendall(f"GET /whoami HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(stream)
        response.begin()
        response.read()
        return response.headers["X-Served-By"]


@dataclass
class Count:
    """What became of the requests of an operation.

    :param returned: when the operation had returned, by the clock of time.monotonic().
    """

    load: Load
    returned: float = 0.0

    @property
    def result(self) -> Result:
        """The result; after the block only."""
        return self.load.result


@pytest.fixture
def counting(rows: list[Row]) -> Callable[..., Any]:
    """Count requests during a block, which must lose none, and add a row to the table.

    But for so many answers (``cut``) as may have begun when a process died that was about to send the rest: nobody can
    ask for those again.
    """

    class Counting:
        def __init__(self, name: str, kinds: Sequence[Kind] = MIX, rate: float = RATE, cut: int = 0) -> None:
            self.name = name
            self.cut = cut
            self.count = Count(load(rate, kinds))

        def __enter__(self) -> Count:
            self.count.load.__enter__()
            time.sleep(1)
            return self.count

        def __exit__(self, kind: Any, *error: Any) -> None:
            self.count.returned = self.count.returned or time.monotonic()
            # Long enough for answers of a wrong release to be seen.
            time.sleep(3 if kind is None else 0)
            self.count.load.__exit__(kind, *error)
            if kind is None:
                rows.append(self.count.result.row(self.name))
                categories = [request.category for request in self.count.result.failures]
                assert set(categories) <= ({"truncated"} if self.cut else set()), self.count.result.explain()
                assert len(categories) <= self.cut, f"{self.name}: {self.count.result.explain()}"

    return Counting


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the controller with everything that it has started, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)


def container(name: str) -> str:
    """Return the name of a host's container."""
    return f"wsgi-fleet-releases-{name}"


def on(name: str, command: str) -> str:
    """Run a command on a host, which must succeed, and return what it printed.

    Not through Ansible: these tests look at their hosts hundreds of times.
    """
    done = subprocess.run(
        ["docker", "exec", container(name), "sh", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def reboot(name: str) -> None:
    """Restart a host without a word to its services, and wait until it is up."""
    subprocess.run(["docker", "restart", "--time", "0", container(name)], check=True, capture_output=True)
    for _attempt in range(60):
        said = on(name, "systemctl is-system-running || true")
        if said in ("running", "degraded"):
            return
        time.sleep(0.5)
    raise AssertionError(f"{name} does not come up: {said}")


@contextlib.contextmanager
def starts_again(name: str) -> Iterator[None]:
    """Start a host's container once it has ended, as a machine starts again that reboots; it must, in the block."""
    watch = f"docker wait {container(name)} && docker start {container(name)}"
    with subprocess.Popen(["sh", "-c", watch], stdout=subprocess.DEVNULL) as watcher:
        try:
            yield
            assert watcher.wait(10) == 0
        finally:
            watcher.kill()


def leave_network(name: str) -> None:
    """Take a host's network away."""
    subprocess.run(["docker", "network", "disconnect", NETWORK, container(name)], check=True)


def join_again(name: str) -> None:
    """Give a host its network back, with its address."""
    subprocess.run(["docker", "network", "connect", "--ip", APP_HOSTS[name], NETWORK, container(name)], check=True)


@contextlib.contextmanager
def cut_off(name: str, seconds: float) -> Iterator[Callable[[], None]]:
    """Yield what takes a host's network away for some seconds; the block ends when it has it again."""
    timer = threading.Timer(seconds, join_again, [name])

    def cut() -> None:
        leave_network(name)
        timer.start()

    yield cut
    if timer.ident is not None:
        timer.join()
