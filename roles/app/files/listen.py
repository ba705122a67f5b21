"""Start an app server on a socket that outlives it: while an instance is restarted, its clients wait.

usage: listen.py BACKLOG PROGRAM [ARGUMENT]…

systemd keeps the socket for as long as the instance is restarted, by request or after a crash, in what it calls the
file descriptor store. Up to BACKLOG clients that connect meanwhile are queued by the kernel. PROGRAM takes over
this process, with the socket as its descriptor 3 and announced as sd_listen_fds(3) says.

An instance that crashes over and over must not make clients wait for ever. After its second crash within PATIENCE
it gets a new socket: those who waited for it are let go, and the web server tells them so.
"""

import array
import os
import socket
import sys
from pathlib import Path

FIRST = 3
#: Seconds.
PATIENCE = 60.0
NAME = "app"


def notify(text, descriptors=()):
    """Tell systemd something; a datagram may carry descriptors."""
    address = os.environ["NOTIFY_SOCKET"]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
        connection.sendmsg([text.encode()], rights)


def is_kept():
    """Tell whether systemd has handed the socket back."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1"


def listen(path, backlog):
    """Return a new socket at a path, after whatever was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    # The directory decides who may connect; the socket itself must not narrow it further.
    before = os.umask(0)
    listener.bind(str(path))
    os.umask(before)
    listener.listen(backlog)
    return listener


def crashes_again(run):
    """Tell whether the instance has crashed twice in a short time; the unit leaves a file after each crash."""
    crashed, before = run / ".crashed", run / ".crashed-before"
    if not crashed.exists():
        return False
    again = before.exists() and crashed.stat().st_mtime - before.stat().st_mtime < PATIENCE
    crashed.replace(before)
    return again


def main(backlog, command):
    """Become the program."""
    run = Path(os.environ["RUNTIME_DIRECTORY"])
    path = run / "app.sock"
    again, kept = crashes_again(run), is_kept()
    if kept and (again or not path.exists()):
        notify(f"FDSTOREREMOVE=1\nFDNAME={NAME}")
        os.close(FIRST)
        kept = False
    if not kept:
        listener = listen(path, backlog)
        os.dup2(listener.fileno(), FIRST)
        os.set_inheritable(FIRST, True)
        notify(f"FDSTORE=1\nFDNAME={NAME}", [FIRST])
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=NAME)
    os.execv(command[0], command)  # noqa: S606 -- no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
