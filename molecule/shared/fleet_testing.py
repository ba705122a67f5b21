"""Pytest plugin of the scenarios: what their testinfra tests share.

Tests import what is not a fixture: ``from fleet_testing import ask``.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

import pytest
import testinfra
import yaml
from testinfra.host import Host

#: What is told when a role takes what it must refuse.
APPLIED = "the role was applied"


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names are in lower case, the last one wins."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def ask(
    address: str,
    path: str = "/",
    *,
    port: int = 80,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 10,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request from the controller, follow no redirect, and return the answer.

    With a context for TLS, the certificate has to be one for the address. Raises OSError when nothing answers.
    """
    connection = _connection((address, port), timeout, tls)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def _connection(where: tuple[str, int], timeout: float, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Return a connection that is not made yet."""
    if tls:
        return http.client.HTTPSConnection(*where, timeout=timeout, context=tls)
    return http.client.HTTPConnection(*where, timeout=timeout)


class Load:
    """Clients that keep sending requests while the block runs, and what became of these.

    Half of the clients keep their connection, half open a new one per request. No request is ever
    sent twice: every answer but a 2xx, and every error, is a failure.
    """

    def __init__(
        self,
        address: str,
        path: str = "/",
        *,
        port: int = 80,
        headers: Mapping[str, str] | None = None,
        clients: int = 4,
        rate: float = 40,
        methods: Sequence[str] = ("POST", "GET", "GET"),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.clients, self.requests = clients, 0
        self.failures: list[str] = []
        self.seen: Counter[str] = Counter()
        self._where, self._tls = (address, port), tls
        self._path, self._headers = path, dict(headers or {})
        self._methods = methods
        self._pause = clients / rate
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n % 2 == 0,), daemon=True) for n in range(clients)]

    def _run(self, keep: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        turn = 0
        while not self._stop.is_set():
            method = self._methods[turn % len(self._methods)]
            turn += 1
            failure = ""
            try:
                connection = connection or _connection(self._where, 20, self._tls)
                body = b"x" * 64 if method == "POST" else None
                connection.request(method, self._path, body=body, headers=self._headers)
                response = connection.getresponse()
                text = response.read()
                if not 200 <= response.status < 300:
                    failure = f"{method}: status {response.status}: {text[:200]!r}"
                served = response.headers.get("X-Served-By", "")
                if response.will_close or not keep:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                failure, served, connection = f"{method}: {error!r}", "", None
            with self._lock:
                self.requests += 1
                self.seen[served] += 1
                if failure:
                    self.failures.append(failure)
            self._stop.wait(self._pause)
        if connection:
            connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def ask_raw(address: str, data: bytes, *, port: int = 80, timeout: float = 5) -> bytes:
    """Send bytes over TCP and return all that comes back until the other side ends it or falls silent."""
    received = b""
    with socket.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionResetError):
            pass
    return received


@pytest.fixture
def variables(host: Host) -> dict[str, Any]:
    """What the inventory says of the host."""
    found: dict[str, Any] = host.ansible.get_variables()
    return found


@pytest.fixture
def address(variables: dict[str, Any]) -> str:
    """The host's address, which the controller reaches too."""
    return str(variables["fleet_address"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the host's journal to the report of a failed test."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and isinstance(host, Host):
        journal = host.run("journalctl --no-pager --lines 60 --output short-precise")
        report.sections.append((f"journal of {host.backend.get_hostname()}", journal.stdout + journal.stderr))
    return report


def apply_role(
    hosts: Host | str, role: str, variables: Mapping[str, Any], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Apply a role to a host or a group once more, with the variables of its converge.yml but for those given.

    Arguments are for ansible-playbook.
    """
    play = _converge()
    (entry,) = (entry for entry in play["roles"] if entry["role"] == role)
    play["roles"] = [{**entry, "vars": {**entry.get("vars", {}), **variables}}]
    return _play(hosts, play, *arguments)


def apply_tasks(
    hosts: Host | str, role: str, tasks_from: str, variables: Mapping[str, Any] | None = None, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run an entry point of a role other than main, with the variables of its converge.yml but for those given."""
    play = _converge()
    (entry,) = (entry for entry in play.pop("roles") if entry["role"] == role)
    play["tasks"] = [{"ansible.builtin.import_role": {"name": role, "tasks_from": tasks_from}}]
    play["vars"] = {**entry.get("vars", {}), **(variables or {})}
    return _play(hosts, play, *arguments)


def apply_all(hosts: Host | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Apply the last play of the scenario's converge.yml to a host or a group once more."""
    return _play(hosts, _converge(), *arguments)


def _converge() -> dict[str, Any]:
    """Return the last play of the scenario's converge.yml."""
    plays = yaml.safe_load(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml").read_text())
    play: dict[str, Any] = plays[-1]
    return play


def _play(hosts: Host | str, play: Mapping[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a play on a host or a group of the scenario."""
    where = hosts if isinstance(hosts, str) else hosts.backend.get_hostname()
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder, "playbook.yml")
        playbook.write_text(yaml.safe_dump([{**play, "hosts": where}]))
        return _run(project, playbook, "-i", project / "molecule/inventory/hosts.yml", *arguments)


def _run(directory: Path, playbook: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook in a directory, without colours."""
    return subprocess.run(
        ["ansible-playbook", playbook, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )


def app_environment(folder: Path, groups: Mapping[str, Mapping[str, Any]], **variables: object) -> dict[str, str]:
    """Return what the topology tells an application of a fleet, without a host being asked.

    :param folder: an empty one.
    :param groups: hosts of each group, with their variables.
    """
    project = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    (folder / "group_vars").symlink_to(project / "playbooks/group_vars")
    inventory = {group: {"hosts": hosts, "vars": variables} for group, hosts in groups.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    text = "{{ fleet_app_env | to_json }}"
    task = {"ansible.builtin.copy": {"content": text, "dest": str(folder / "env.json"), "mode": "0600"}}
    here = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play = {"hosts": "app", "gather_facts": False, "connection": "local", "vars": here, "tasks": [task]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = _run(project, folder / "play.yml", "-i", folder / "hosts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, str] = json.loads((folder / "env.json").read_text())
    return found


def put(host: Host, path: str, text: str) -> None:
    """Write a file that only root can read, and whose text does not stand in the journal as one of a command."""
    encoded = base64.b64encode(text.encode()).decode()
    host.run_expect([0], "install -m 0600 /dev/null %s && printf %%s %s | base64 -d >%s", path, encoded, path)


@dataclass(frozen=True)
class Cached:
    """An application that caches (files/cached.py), on a host that has the libraries (clients.yml)."""

    host: Host
    address: str
    #: How long requests took while all was well, in s.
    usual: list[float] = field(default_factory=list)

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it with the settings of its environment, in the place of one that runs."""
        lines = "".join(f"{name}={json.dumps(value)}\n" for name, value in environment.items())
        self.host.run_test("systemctl stop cached; systemctl reset-failed cached")
        put(self.host, "/opt/clients/env", lines)
        self.host.run_expect(
            [0],
            "systemd-run --unit=cached --property=EnvironmentFile=/opt/clients/env"
            " /opt/clients/bin/python /opt/clients/cached.py 8000",
        )
        end = time.monotonic() + 20
        while True:
            try:
                self.get("/cached")
                return
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.2)

    def get(self, path: str) -> tuple[float, str]:
        """Ask for a page, which must be one; return how long that took, in s, and what was computed for it."""
        begin = time.perf_counter()
        answer = ask(self.address, path, port=8000, timeout=30)
        took = time.perf_counter() - begin
        assert answer.status == 200, answer.text
        return took, json.loads(answer.body)["computed"]

    def kept(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return what is kept under each of some keys, or is computed then."""
        found = {number: self.get(f"/kept/{number}") for number in numbers}
        self.usual[:] = [took for took, _computed in found.values()]
        return {number: computed for number, (_took, computed) in found.items()}

    def outage(self, paths: Sequence[str], said: str) -> None:
        """Ask for pages while a cache is dead, which one request may notice, and no other.

        It takes 0.1 s on a machine that has nothing else to do. A busy one makes single requests slow, but not a
        quarter of them as slow as all would be if each waited.

        :param paths: what to ask for; what they were like with the cache is told by :attr:`usual`.
        :param said: what the application logs, once, when it gives the cache up.
        """
        since = self.host.check_output("date +%s.%N")
        waited = [self.get(path)[0] for path in paths]
        others = [self.get(("/cached", f"/memoized/{n}", f"/kept/{n}")[n % 3])[0] for n in range(60)]
        slowest, middle = max(self.usual), median(self.usual)
        print(f"longest {max(waited):.3f} s, then {median(others):.4f} s; before {slowest:.3f} s, {middle:.4f} s")
        assert max(waited) <= 0.15 + max(0.35, 5 * slowest)
        assert quantiles(waited, n=4)[0] < 0.1
        assert quantiles(others, n=4)[0] < 0.1
        log = self.host.check_output("journalctl --unit cached --output cat --since @%s", since)
        assert log.count(said) == 1, log

    def caches(self) -> bool:
        """Tell whether pages come from the cache."""
        return all(self.get(path)[1] == self.get(path)[1] for path in ("/cached", "/memoized/1", "/kept/1"))

    def wait(self) -> None:
        """Wait until pages come from the cache again."""
        end = time.monotonic() + 15
        while not self.caches():
            assert time.monotonic() < end
            time.sleep(0.1)


def refused(hosts: Host | str, role: str, variables: Mapping[str, Any]) -> str:
    """Apply a role with variables that it must refuse; return what was printed as one line."""
    done = apply_role(hosts, role, variables)
    assert done.returncode == 2, f"{APPLIED}:\n{done.stdout}{done.stderr}"
    assert "changed=0" in done.stdout, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def refused_each(where: str, role: str, cases: Sequence[tuple[Mapping[str, Any], str]]) -> pytest.MarkDecorator:
    """Parametrize a test by variables that a role must refuse, all of which are tried in one run.

    The test gets ``refusal``, which returns what was printed as one line, and ``said``, what must be in it.
    """

    @functools.cache
    def tell() -> list[str]:
        play = _converge()
        (entry,) = (entry for entry in play.pop("roles") if entry["role"] == role)
        # They work with what the role would have done.
        play.pop("post_tasks", None)
        play["tasks"] = [
            {
                "name": f"Try case {number}",
                "block": [
                    {"ansible.builtin.include_role": {"name": role}, "vars": {**entry.get("vars", {}), **variables}},
                    {"ansible.builtin.fail": {"msg": APPLIED}},
                ],
                "rescue": [{"ansible.builtin.debug": {"msg": f"End of case {number}"}}],
            }
            for number, (variables, _said) in enumerate(cases)
        ]
        done = _play(where, play)
        text = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 0, text
        assert not re.search(r"changed=[1-9]", text), text
        parts = re.split(r"End of case (\d+)", text)
        # Each host tells the end of a case, one after the other: what is before the first of these counts.
        found = {int(number): before for before, number in reversed([*zip(parts[::2], parts[1::2], strict=False)])}
        assert sorted(found) == [*range(len(cases))], text
        return [found[number] for number in range(len(cases))]

    def refusal(number: int) -> str:
        text = tell()[number]
        assert APPLIED not in text, text
        return text

    return pytest.mark.parametrize(
        ("refusal", "said"),
        [(functools.partial(refusal, number), said) for number, (_variables, said) in enumerate(cases)],
    )


def refused_by_checker(host: Host, file: str) -> str:
    """Let a service check files of settings that pass validation; return what it says of those that it refuses.

    :param file: a key of ``CHECKERS`` in tests/properties/configurations.py, where the settings come from.
    """
    sys.path.insert(0, os.environ["MOLECULE_PROJECT_DIRECTORY"])
    from tests.properties import configurations  # noqa: PLC0415 -- few scenarios need it

    return configurations.refused(lambda command: str(host.run(command).stdout), file)


def run_playbook(
    name: str, *arguments: str, inventories: Sequence[str] = ("hosts.yml",)
) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection, such as maintenance.yml, on the hosts of the scenario's own inventory."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    chosen = [part for inventory in inventories for part in ("-i", str(scenario / inventory))]
    return _run(scenario, Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], name), *chosen, *arguments)


def site(*arguments: str, inventories: Sequence[str] = ("hosts.yml",)) -> subprocess.CompletedProcess[str]:
    """Run site.yml on the hosts of the scenario's own inventory."""
    return run_playbook("site.yml", *arguments, inventories=inventories)


def host_named(name: str) -> Host:
    """Return a host of the scenario's own inventory by its name, as root."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    host: Host = testinfra.get_host(f"ansible://{name}?ansible_inventory={scenario / 'hosts.yml'}&sudo=true")
    return host


def hosts_of_scenario() -> dict[str, Host]:
    """Return the hosts of the scenario by their names, for a test that concerns all of them at once."""
    inventory = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/inventory/hosts.yml")
    group = f"ansible://{os.environ['MOLECULE_SCENARIO_NAME']}"
    found: list[Host] = testinfra.get_hosts([group], ansible_inventory=str(inventory))
    return {host.backend.get_hostname(): host for host in found}


def wait_for_clients(host: Host, where: str, count: int) -> None:
    """Wait until so many connections to a unix socket have been accepted, and another moment for the requests.

    :param where: the path that the socket was bound to.
    """
    end = time.monotonic() + 20
    while host.check_output("ss -xH state established").count(f" {where} ") < count:
        assert time.monotonic() < end, f"there are not {count} clients at {where}"
        time.sleep(0.1)
    time.sleep(0.5)


_ASK_FROM = """
import http.client, sys
address, port, path, name = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port), timeout=10)
connection.request("GET", path, headers={"Host": name})
print(connection.getresponse().status)
"""
_KNOCK = """
import socket, sys
for port in sys.argv[2:]:
    try:
        with socket.create_connection((sys.argv[1], int(port)), 1):
            print(port)
    except OSError:
        pass
"""


def status_from(host: Host, address: str, path: str, name: str, *, port: int = 80) -> int:
    """Send one request from a host, and return the status of the answer.

    :param name: the host name that is asked for.
    """
    return int(host.check_output("python3 -c %s %s %s %s %s", _ASK_FROM, address, str(port), path, name))


def open_from(host: Host, address: str, *ports: int) -> list[int]:
    """Return those of some ports of an address to which a host gets a connection within a second."""
    asked = " ".join(map(str, ports))
    return [int(port) for port in host.check_output(f"python3 -c %s %s {asked}", _KNOCK, address).split()]


_ASK_SOCKET = """
import http.client, json, socket, sys
where, path, headers, timeout = json.loads(sys.argv[1])
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(timeout)
connection.sock.connect(where)
connection.request("GET", path, headers=headers)
response = connection.getresponse()
names = {name.lower(): value for name, value in response.getheaders()}
print(json.dumps([response.status, names, response.read().decode("latin-1")]))
"""


def ask_socket(
    host: Host,
    where: str,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    account: str = "www-data",
    timeout: float = 10,
) -> Answer:
    """Send one request to a unix socket, on its host and as an account of it.

    Raises OSError when nothing answers, or when the account may not connect.
    """
    request = json.dumps([where, path, dict(headers or {}), timeout])
    done = host.run("runuser -u %s -- python3 -c %s %s", account, _ASK_SOCKET, request)
    if done.rc != 0:
        raise OSError(done.stderr.strip().rpartition("\n")[2])
    status, names, body = json.loads(done.stdout)
    return Answer(status, names, body.encode("latin-1"))
