"""What starts an app server on a socket that outlives it, with a socket of ours in place of systemd's."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LISTEN = Path(__file__).parents[2] / "roles/app/files/listen.py"
#: In place of an app server: tells what it was given, and answers whoever waits.
SERVER = """
import json, os, socket, sys
listener = socket.socket(fileno=3)
listener.settimeout(2)
seen = {name: os.environ.get(name) for name in ("LISTEN_FDS", "LISTEN_FDNAMES")}
seen["pid"] = os.environ.get("LISTEN_PID") == str(os.getpid())
seen["name"] = listener.getsockname()
seen["umask"] = os.umask(0)
for _client in range(int(sys.argv[1])):
    connection, _address = listener.accept()
    connection.sendall(b"answer")
    connection.close()
print(json.dumps(seen))
"""


class Systemd:
    """As much of systemd as the script talks to.

    :param directory: one to work in.
    """

    def __init__(self, directory: Path) -> None:
        self.run = directory / "run"
        self.run.mkdir()
        self.path = str(self.run / "app.sock")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.setblocking(False)
        self.said: list[str] = []
        self.kept: int | None = None

    def listen(self) -> None:
        """Do what it is told: keep a descriptor, or drop it."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text, rights, _flags, _address = self.notify.recvmsg(4096, socket.CMSG_SPACE(4))
                self.said.append(text.decode())
                if "FDSTOREREMOVE=1" in text.decode():
                    self.drop()
                for _level, _type, data in rights:
                    self.kept = array.array("i", data)[0]

    def drop(self) -> None:
        """Close what it keeps."""
        if self.kept is not None:
            os.close(self.kept)
        self.kept = None

    def start(self, clients: int = 0, store: bool = True) -> dict[str, Any]:
        """Start the service, and return what its server has told once it has answered some clients."""
        command = [sys.executable, "-IS", str(LISTEN), "64", sys.executable, "-c", SERVER, str(clients)]
        before = "umask 027; "
        kept = self.kept if store else None
        if kept is not None:
            before += f"export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=app; exec 3<&{kept} {kept}<&-; "
        done = subprocess.Popen(
            ["bash", "-c", before + 'exec "$@"', "sh", *command],
            env={"RUNTIME_DIRECTORY": str(self.run), "NOTIFY_SOCKET": str(self.notify.getsockname())},
            pass_fds=[] if kept is None else [kept],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while done.poll() is None:
            self.listen()
            time.sleep(0.01)
        self.listen()
        out, err = done.communicate()
        assert done.returncode == 0, err
        return dict(json.loads(out))

    def crash(self, ago: float = 0) -> None:
        """Leave what ExecStopPost= of the units leaves."""
        mark = self.run / ".crashed"
        mark.touch()
        os.utime(mark, (time.time() - ago, time.time() - ago))

    def client(self) -> socket.socket:
        """Connect, as nginx does."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(2)
        connection.connect(self.path)
        return connection


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """One that keeps nothing yet."""
    service = Systemd(tmp_path)
    yield service
    service.drop()
    service.notify.close()


def test_the_first_start_makes_a_socket_and_leaves_it_to_systemd(systemd: Systemd) -> None:
    """The server gets it by the protocol of systemd, and its umask as it was."""
    seen = systemd.start()
    assert seen == {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "app", "pid": True, "name": systemd.path, "umask": 0o027}
    assert systemd.said == ["FDSTORE=1\nFDNAME=app"]
    assert Path(systemd.path).stat().st_mode & 0o777 == 0o777
    with systemd.client():
        pass


def test_clients_wait_while_the_server_is_restarted(systemd: Systemd) -> None:
    systemd.start()
    with systemd.client() as first, systemd.client() as second:
        assert systemd.start(clients=2)["name"] == systemd.path
        assert first.recv(16) == second.recv(16) == b"answer"
    assert len(systemd.said) == 1, "it is kept already"


def test_clients_wait_after_one_crash(systemd: Systemd) -> None:
    """Also after one long ago."""
    systemd.start()
    for ago in (100.0, 0.0):
        systemd.crash(ago)
        with systemd.client() as client:
            systemd.start(clients=1)
            assert client.recv(16) == b"answer"


def test_the_second_crash_lets_clients_go(systemd: Systemd) -> None:
    """They learn it at once, and those who come then are answered by the server that starts."""
    systemd.start()
    systemd.crash(30)
    systemd.start()
    systemd.crash()
    client = systemd.client()
    systemd.start()
    assert systemd.said[1:] == ["FDSTOREREMOVE=1\nFDNAME=app", "FDSTORE=1\nFDNAME=app"]
    with client, pytest.raises(ConnectionResetError):
        client.recv(16)
    with systemd.client() as client:
        systemd.start(clients=1)
        assert client.recv(16) == b"answer"


def test_a_socket_that_cannot_be_reached_is_not_kept(systemd: Systemd) -> None:
    systemd.start()
    Path(systemd.path).unlink()
    systemd.start()
    with systemd.client() as client:
        systemd.start(clients=1)
        assert client.recv(16) == b"answer"


def test_what_lies_in_the_way_is_removed(systemd: Systemd) -> None:
    """A crash of the host's engine may leave a socket that nobody keeps."""
    systemd.start()
    systemd.drop()
    assert systemd.start(store=False)["name"] == systemd.path
    with systemd.client():
        pass


def test_descriptors_for_another_process_are_none_of_ours(systemd: Systemd) -> None:
    """As an environment that was passed on by whoever was started so."""
    done = subprocess.run(
        [sys.executable, "-IS", str(LISTEN), "64", sys.executable, "-c", SERVER, "0"],
        env={
            "RUNTIME_DIRECTORY": str(systemd.run),
            "NOTIFY_SOCKET": str(systemd.notify.getsockname()),
            "LISTEN_PID": "1",
            "LISTEN_FDS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    systemd.listen()
    assert json.loads(done.stdout)["pid"] is True
    assert systemd.said == ["FDSTORE=1\nFDNAME=app"]
