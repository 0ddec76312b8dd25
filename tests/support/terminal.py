"""Runs a command on a terminal of its own, as wide as one likes, and keeps what it prints."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence


def on_terminal(command: Sequence[str], columns: int) -> tuple[int, str]:
    """Return the command's exit status and all it printed, control sequences included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        finally:
            os.close(ours)
    return process.returncode, printed.decode()
