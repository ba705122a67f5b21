"""A service that tries what a confined one must not be able to do, and appends to a file what became of it.

One line of JSON per start: for each attempt "done", or the name of the error.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUTS = 0x04000000
PER_LINUX32 = 0x0008


def call(name: str, *arguments: int) -> None:
    """Call a function of the C library that returns -1 on errors."""
    if getattr(LIBC, name)(*map(ctypes.c_ulong, arguments)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path: str) -> None:
    """Make a file and remove it."""
    Path(path).write_text("")
    Path(path).unlink()


def make_device() -> None:
    """Make another /dev/null."""
    os.mknod("/var/lib/probe/device", 0o020600, os.makedev(1, 3))
    Path("/var/lib/probe/device").unlink()


def give_away() -> None:
    """Make a file, and another account its owner."""
    path = Path("/var/lib/probe/given")
    path.write_text("")
    os.chown(path, 65534, 65534)


def set_user_id_bit() -> None:
    """Make a program that would run as its owner."""
    path = Path("/var/lib/probe/program")
    path.write_text("")
    path.chmod(0o4755)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write the configuration of the host": lambda: write("/etc/probe"),
    "write programs": lambda: write("/usr/local/bin/probe"),
    "write data of others": lambda: write("/var/lib/nginx/probe"),
    "write its own data": lambda: write("/var/lib/probe/own"),
    "look into homes": lambda: list(Path("/home/deploy").iterdir()),
    "read temporary files of others": lambda: Path("/tmp/of-others").read_text(),  # noqa: S108
    "read about the machine": lambda: Path("/proc/meminfo").read_text(),
    "reach the network": lambda: socket.socket(socket.AF_INET).close(),
    "watch the network": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "use unix sockets": lambda: socket.socket(socket.AF_UNIX).close(),
    "become another account": lambda: os.setresuid(-1, -1, 65534) or os.setresuid(-1, -1, 0),
    "give files away": give_away,
    "make devices": make_device,
    "make programs that run as their owner": set_user_id_bit,
    "rename the host": lambda: socket.sethostname(socket.gethostname()),
    "mount": lambda: call("unshare", 0x00020000),
    "make namespaces": lambda: call("unshare", CLONE_NEWUTS),
    "run code that it wrote": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ).close(),
    "pose as another machine": lambda: call("personality", PER_LINUX32),
}


def attempt(action: Callable[[], object]) -> str:
    """Try one thing, and tell how it went."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


report = {name: attempt(action) for name, action in ATTEMPTS.items()}
with Path("/var/lib/probe/reports").open("a") as reports:
    reports.write(json.dumps(report) + "\n")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
