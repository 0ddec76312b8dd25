"""Processes that cannot outlive us.

A leash is a small process between us and a command. It leads a session of its own, starts the command in it
and reads from a pipe whose other end only we hold. However we end, by kill -9 too, that pipe closes; then the
leash ends its whole session: the command, its children and theirs. On demand it is a service manager, too:
when the command ends, it ends what is left of it and starts it again.
"""

from __future__ import annotations

import contextlib
import json
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
    """A command on a leash, its output appended to a file.

    With ``restart_after`` it is started again that many seconds after it ended, whatever ended it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        restart_after: float | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._leash = subprocess.Popen(
                [sys.executable, __file__, json.dumps(restart_after), *command],
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """The command's exit status, None while it runs or is to be started again."""
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
        """Crash it: kill -9 for the command and all that it started, as when a machine or container dies."""
        # Again and again: one may start another while we look.
        while others := [pid for pid in _session(self._leash.pid) if pid != self._leash.pid]:
            for pid in others:
                _send(pid, signal.SIGKILL)

    def written(self) -> int:
        """Return how much its output is so far: where that grows, it is at work."""
        return self.log.stat().st_size

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


def _hold(command: list[str], restart_after: float | None) -> int:
    """Run the command until it ends for good or the pipe closes; leave nothing of it behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while True:
            while child.poll() is None:
                if _is_let_go(0.2):
                    return 0
            if restart_after is None:
                return child.returncode
            _end_session(child)
            if _is_let_go(restart_after):
                return 0
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_session(child)


def _is_let_go(seconds: float) -> bool:
    """Wait so long for the pipe to close."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


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
    sys.exit(_hold(sys.argv[2:], json.loads(sys.argv[1])))
