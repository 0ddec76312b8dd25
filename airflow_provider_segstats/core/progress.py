"""How far a wait is, of one recount or many: for the log, and for whoever looks on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

EVERY = 30.0
"""Seconds between two tellings of how far a wait is, at least; a change of state is told at once."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a task's recounts have ended, of so many; ``since`` is when this try began.

    ``before`` is how many of them had ended by then, in an earlier try.
    """

    total: int
    since: float
    done: int = 0
    failed: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts, and the recounts under way: their progress in per cent (None: not known) by segment."""

    counts: Counts
    under_way: Mapping[int | None, int | None] = field(default_factory=dict)

    def value(self, account: str | None, now: float) -> dict[str, Any]:
        """Return it as plain JSON, as of now."""
        counts, under_way = self.counts, self.under_way
        return {
            "account": account,
            "total": counts.total,
            "done": counts.done,
            "failed": counts.failed,
            "under_way": len(under_way),
            "percent": next(iter(under_way.values()), None) if counts.total == 1 else None,
            "since": _iso(counts.since),
            "at": _iso(now),
            "segments": [[number, percent] for number, percent in under_way.items() if number],
        }

    def line(self, now: float) -> str:
        """Return it as a line of a log: how many are done, at what rate, and when the rest may be."""
        counts = self.counts
        ended = counts.done + counts.failed
        parts = [f"{counts.done} of {counts.total} done", f"{len(self.under_way)} under way"]
        if counts.failed:
            parts.append(f"{counts.failed} failed")
        if waiting := counts.total - ended - len(self.under_way):
            parts.append(f"{waiting} to be started")
        line, seconds = ", ".join(parts), now - counts.since
        if (in_this_try := ended - counts.before) > 0 and seconds > 0 and ended < counts.total:
            end = now + (counts.total - ended) * seconds / in_this_try
            line += f"; {60 * in_this_try / seconds:.1f} a minute, so the rest by {_clock(end)}"
        return line


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=timezone.utc).isoformat(timespec="seconds")


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, tz=timezone.utc):%H:%M:%S} UTC"
