"""Runs the generator in a process of its own, as a block of Python or as a command.

In a process of its own, since the clock of a client must not wait for what a test does meanwhile, such as reading
the output of Ansible.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from . import generator
from .generator import MIX, Kind, Spec
from .result import Result, table

#: Statuses that are no failure unless told otherwise.
EXPECT = (200, 201)
#: Seconds that the generator may need to hand over its results after the last answer.
GRACE = 30


class LoadError(Exception):
    """The generator did not start, or did not live to tell: there is no result. It says why on standard error."""


class Load:
    """Sends requests while the block runs; ``result`` is there after it.

    Leaving the block waits for the answers that are still due. The generator ends with this process, however that
    ends.

    :param targets: addresses and ports, such as those of all load balancers; requests go to them in turn.
    :param host: the Host header, and with TLS the name that the certificate must be for.
    :param rate: requests per second, all kinds together.
    :param kinds: the mix; by default what examples/shop has views for.
    :param seconds: when to stop by itself (``wait`` then waits for it); by default the end of the block does.
    :param tls: whether to speak TLS.
    :param ca: file of the authority to trust instead of the system's.
    :param timeout: seconds that a request may take.
    :param in_flight: the most requests at once; what would exceed it fails as ``saturated``.
    :param kept: how many connections per target the kept kinds take turns on; more when all are in use. The more,
        the longer each is idle: by default, at 100 requests/s to two targets, 0.3 s.
    :param expect: statuses that are no failure, in place of 200 and 201.
    :raises ValueError: no target, no kind, or no rate.
    """

    def __init__(
        self,
        targets: Iterable[tuple[str, int]],
        host: str,
        rate: float = 100.0,
        *,
        kinds: Sequence[Kind] = MIX,
        seconds: float | None = None,
        tls: bool = False,
        ca: str | Path | None = None,
        timeout: float = 20.0,
        in_flight: int = 1000,
        kept: int = 8,
        expect: Iterable[int] = EXPECT,
    ) -> None:
        self.spec = Spec(
            targets=tuple(targets),
            host=host,
            rate=rate,
            kinds=tuple(kinds),
            seconds=seconds,
            tls=tls,
            ca=None if ca is None else str(ca),
            timeout=timeout,
            in_flight=in_flight,
            kept=kept,
            expect=tuple(expect),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._began: dict[str, Any] = {}
        self._result: Result | None = None

    @property
    def began(self) -> float:
        """``time.monotonic()`` of the first request's intended start."""
        return float(self._began["began"])

    @property
    def result(self) -> Result:
        """What became of the requests; LoadError before the end."""
        if self._result is None:
            raise LoadError("the run has not ended")
        return self._result

    def start(self) -> None:
        """Start the generator, and return when it begins to send; raise LoadError when it does not."""
        self._process = subprocess.Popen(
            # Isolated: neither the folder nor the environment of this process adds modules of its own.
            [sys.executable, "-I", generator.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._write(self.spec.to_json())
        self._began = self._read()

    def stop(self) -> Result:
        """Start no further request, wait for the answers that are due, and return the result.

        Raises LoadError.
        """
        if self._result is None:
            self._write("stop")
            self._finish(self.spec.timeout + GRACE)
        return self.result

    def wait(self) -> Result:
        """Wait until a run of ``seconds`` ends by itself, and return its result; raise LoadError."""
        if self.spec.seconds is None:
            raise LoadError("the run has no end of its own")
        if self._result is None:
            self._finish(self.spec.seconds + self.spec.timeout + GRACE)
        return self.result

    def kill(self) -> None:
        """End the generator without a result."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
        """Return the generator and its pipes."""
        if not self._process or not self._process.stdin or not self._process.stdout:
            raise LoadError("the generator is not running")
        return self._process, self._process.stdin, self._process.stdout

    def _write(self, line: str) -> None:
        _process, pipe, _out = self._running()
        # When it has ended, what it said is read next.
        with contextlib.suppress(BrokenPipeError):
            pipe.write(line.encode() + b"\n")
            pipe.flush()

    def _read(self) -> dict[str, Any]:
        process, _pipe, out = self._running()
        try:
            found: dict[str, Any] = json.loads(out.readline())
        except ValueError:
            self.kill()
            raise LoadError(f"the generator ended with status {process.returncode}") from None
        return found

    def _finish(self, seconds: float) -> None:
        process, _pipe, _out = self._running()
        watch = threading.Timer(seconds, process.kill)
        watch.start()
        try:
            ended = self._read()
        finally:
            watch.cancel()
        process.communicate()
        self._process = None
        self._result = Result.from_run(self.spec, self._began, ended)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            self.stop()
        except LoadError:
            # What went wrong in the block says more.
            if kind is None:
                raise
        except BaseException:
            self.kill()
            raise


def address(text: str) -> tuple[str, int]:
    """Read ``address:port``, ``[address]:port`` or an address alone, of port 80; raise ValueError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, 80
    host, _colon, port = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "80")
    return host.strip("[]"), int(port)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command: print what was counted, and return 1 when a request failed, 2 without a result."""
    names = ", ".join(f"'{kind.name}'" for kind in MIX)
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--target", type=address, action="append", required=True, help="address:port; can be repeated")
    parser.add_argument("--host", required=True, help="the Host header")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in MIX], metavar="NAME", help=names)
    parser.add_argument("--tls", action="store_true", help="speak TLS")
    parser.add_argument("--ca", help="file of the authority to trust")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds that a request may take")
    parser.add_argument("--in-flight", type=int, default=1000, help="the most requests at once")
    parser.add_argument("--kept", type=int, default=8, help="kept connections per target")
    parser.add_argument("--expect", type=int, action="append", default=[], help="a status that is no failure either")
    parser.add_argument("--json", type=Path, help="file to write the whole result to")
    given = parser.parse_args(arguments)
    load = Load(
        given.target,
        given.host,
        given.rate,
        kinds=[kind for kind in MIX if not given.kind or kind.name in given.kind],
        seconds=given.seconds,
        tls=given.tls,
        ca=given.ca,
        timeout=given.timeout,
        in_flight=given.in_flight,
        kept=given.kept,
        expect=[*EXPECT, *given.expect],
    )
    try:
        load.start()
        result = load.wait()
    except LoadError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # The generator got it too.
        load.kill()
        return 130
    if given.json:
        given.json.write_text(result.to_json() + "\n", encoding="utf-8")
    print(table([result.row("all"), *result.rows()]))
    print(f"\n{dict(result.hosts)} {dict(result.releases)}")
    print(f"kept connections replaced: {dict(result.reopened)}; client late by up to {1000 * result.lag:.1f} ms")
    if result.failures:
        print(result.explain())
    return 1 if result.failures else 0
