"""One server as all who ask it share it: whether it is away, and when the next request may leave.

Pure: times are seconds of any clock that only goes forward, brought by the caller, as is chance.
"""

from __future__ import annotations

import math

from airflow_provider_segstats.core.policy import LONGEST_LOOK, LONGEST_RETRY_AFTER, backoff

LONGEST_GAP = 0.1
"""Seconds between two requests at most, once the gate has opened again."""


class Gate:
    """Open while the server answers.

    A server that fails is away: the gate closes for 1, 2, 4 … 60 s, then lets a single request through; it
    counts the failures in a row, and any answer opens it. A server that asks to be left alone (Retry-After)
    is, by all. What has gathered behind a closed gate leaves one after the other and not at once.
    """

    def __init__(self) -> None:
        self._failures = 0  # ever counted
        self._failures_before = 0  # the latest answer
        self._failed_at = self._answered_at = -math.inf
        self._again_at = -math.inf
        self._trying = False
        self._left_alone_until = -math.inf
        self._closed_at: float | None = None
        self._gap = 0.0
        self._gap_shrinks = 0.0
        self._next_at = -math.inf

    @property
    def failures(self) -> int:
        """How many requests have failed in a row."""
        return self._failures - self._failures_before

    @property
    def mark(self) -> int:
        """A mark to count failures from."""
        return self._failures

    def failures_since(self, mark: int) -> int:
        """Return how many requests in a row have failed since the mark was taken."""
        return self._failures - max(mark, self._failures_before)

    def opens_in(self, now: float, waiting: int) -> float:
        """Return the seconds until the first of so many that wait may leave; 0 for now, inf for not known."""
        if self._trying:
            return math.inf
        opens_at = max(self._left_alone_until, self._again_at if self.failures else -math.inf)
        if now < opens_at:
            return opens_at - now
        if self._closed_at is not None and not self.failures:
            self._spread(now - self._closed_at, waiting)
            self._closed_at = None
        return max(0.0, self._next_at - now)

    def _spread(self, closed: float, waiting: int) -> None:
        """Have those that wait leave over as long a time as it took them to gather.

        At first, that is: the pace quickens, for others come behind them.
        """
        self._gap = min(min(closed, LONGEST_LOOK) / waiting, LONGEST_GAP)
        self._gap_shrinks = 1 - 1 / (waiting + 1)

    def leaves(self, now: float) -> None:
        """Note that a request leaves."""
        self._trying = self.failures > 0
        self._next_at = now + self._gap
        self._gap *= self._gap_shrinks

    def answered(self, now: float, left_alone_for: float | None = None) -> None:
        """Note an answer, and for how long the server asked to be left alone, if it did."""
        self._answered_at = now
        self._failures_before, self._trying = self._failures, False
        if left_alone_for:
            self._leave_alone(now, left_alone_for)

    def failed(self, sent_at: float, now: float, jitter: float, left_alone_for: float | None = None) -> bool:
        """Note that a request which left at ``sent_at`` says that the server is away; return if it counts.

        It does not where an answer came after it had left: then the server is there. Nor where it left
        before the latest that counted: those that are under way together are one failure.
        """
        if left_alone_for:
            self._leave_alone(now, left_alone_for)
        if sent_at <= max(self._answered_at, self._failed_at):
            return False
        self._failures += 1
        self._failed_at, self._trying = now, False
        self._again_at = now + backoff(self.failures, jitter)
        self._close(now)
        return True

    def _leave_alone(self, now: float, seconds: float) -> None:
        # A shorter wish does not end a longer one: they may be answers to requests sent at the same time.
        self._left_alone_until = max(self._left_alone_until, now + min(seconds, LONGEST_RETRY_AFTER))
        self._close(now)

    def _close(self, now: float) -> None:
        if self._closed_at is None:
            self._closed_at = now
