"""How a long command shows that it lives: one clock, a last line that moves, lines that fit the screen.

As bootstrap, which uses it, this must parse on an old Python and import only the standard library.
"""

import os
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Callable, Tuple, Union

    Done = Union[int, Callable[[], int]]
    Now = Tuple[str, Done, int]

# A command begins once, though bootstrap starts it again inside its environment.
CLOCK = "SEGSTATS_BEGAN"
BEGAN = float(os.environ.setdefault(CLOCK, repr(time.monotonic())))

SIGN_OF_LIFE = 8.0  # seconds between two, where a line stays
BAR = 16  # columns


class Progress:
    """Lines after the seconds since the command began: what has come about stays, what goes on now moves.

    On a terminal that last line is drawn anew each second, as wide as fits. Elsewhere it is printed when it
    tells of something else, and every few seconds besides.
    """

    def __init__(self, sign_of_life: float = SIGN_OF_LIFE) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._sign_of_life = sign_of_life
        self._now: Now = ("", 0, 0)
        self._printed = ("", 0.0)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_moving, daemon=True)

    def __enter__(self) -> "Progress":  # noqa: PYI034 - Self is not in an old Python
        """Begin to move."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave only the lines that stay."""
        self._over.set()
        self._thread.join()
        self._erase()

    def say(self, text: str) -> None:
        """Print a line that stays, in the place of what went on until now."""
        with self._lock:
            self._erase()
            self._now = ("", 0, 0)
            print(_clock() + text, flush=True)

    def show(self, text: str, done: "Done" = 0, of: int = 0) -> None:
        """Tell what goes on now, and how far it is; a function ``done`` is asked each time."""
        with self._lock:
            self._now = (text, done, of)
            self._draw()

    def _keep_moving(self) -> None:
        while not self._over.wait(min(1.0, self._sign_of_life)):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        text, done, of = self._now
        if not text:
            return
        if self._on_terminal:
            # One column less: the last one would wrap the line.
            width = shutil.get_terminal_size().columns - 1
            print("\r\x1b[K" + fitted(_clock() + _measure(done, of) + text, width), end="", flush=True)
        elif self._printed[0] != text or time.monotonic() - self._printed[1] > self._sign_of_life:
            print(_clock() + _measure(done, of) + text, flush=True)
            self._printed = (text, time.monotonic())

    def _erase(self) -> None:
        if self._on_terminal and self._now[0]:
            print("\r\x1b[K", end="", flush=True)


def _clock() -> str:
    return f"{time.monotonic() - BEGAN:4.0f} s  "


def _measure(done: "Done", of: int) -> str:
    """Return `[###-------------] 6 of 30 `."""
    if not of:
        return ""
    done = min(done() if callable(done) else done, of)
    filled = BAR * done // of
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {done} of {of} "


def fitted(line: str, width: int) -> str:
    """Return the line, cut if it is too long."""
    return line if len(line) <= width else line[: width - 1] + "\u2026"
