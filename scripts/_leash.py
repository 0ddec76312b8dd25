"""Processes that cannot outlive us.

A leash is a small process between us and a command. It leads a session of its own, starts the command in it
and reads from a pipe whose other end only we hold. However we end, by kill -9 too, that pipe closes; then the
leash ends its whole session: the command, its children and theirs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

GRACE = 3.0  # seconds from SIGTERM to SIGKILL


class Leashed:
    """A command on a leash, its output appended to a file."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._leash = subprocess.Popen(
                [sys.executable, __file__, *command],
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """The command's exit status, None while it runs."""
        return self._leash.poll()

    def let_go(self) -> None:
        """Begin to end it; wait() tells when nothing of it is left."""
        if self._leash.stdin:
            self._leash.stdin.close()

    def wait(self) -> None:
        """Return when the command, and all that it started, has ended."""
        self._leash.wait()

    def stop(self) -> None:
        """End it: SIGTERM to all of it, and SIGKILL to what is left some seconds later."""
        self.let_go()
        self.wait()

    def kill(self) -> None:
        """End it as a crash would: at once, unasked, with all that it started."""
        for pid in _session(self._leash.pid):
            _send(pid, signal.SIGKILL)
        self._leash.wait()
        self.let_go()

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _session(leader: int) -> Iterator[int]:
    """Yield the processes of a session. Process groups would not do: Airflow's tasks make their own."""
    for process in psutil.process_iter():
        try:
            # A zombie is only waiting for a parent to notice; in a container that may be never.
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid
        except (OSError, psutil.Error):
            continue


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _hold(command: list[str]) -> int:
    """Run the command until it ends or the pipe closes; leave nothing of it behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while child.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
            pass
        return child.returncode or 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_session(child)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    me = os.getpid()
    began = time.monotonic()
    asked: set[int] = set()
    while others := [pid for pid in _session(me) if pid != me]:
        for pid in others:
            if time.monotonic() - began > GRACE:
                _send(pid, signal.SIGKILL)
            elif pid not in asked:
                _send(pid, signal.SIGTERM)
        asked.update(others)
        time.sleep(0.1)
        child.poll()


if __name__ == "__main__":
    sys.exit(_hold(sys.argv[1:]))
