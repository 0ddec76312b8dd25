"""The decisions of submitting and waiting, as pure functions; every mode goes through them.

Times are seconds. ``jitter`` is a number from 0 to 1, given by the caller, so nothing here is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from airflow_provider_segstats.errors import (
    AmbiguousSubmitError,
    ApiError,
    ExecutionTimeoutError,
    HttpStatusError,
    NotSentError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.model import TaskStatus

OnAmbiguousSubmit = Literal["fail", "resubmit"]

DEFAULT_TIMEOUT = 6 * 3600.0
"""How long a wait may take unless ``timeout`` says otherwise."""

MAX_POLL_FAILURES = 20
"""Polls that may fail in a row: with the pauses between them a server may be away for 7 to 14 minutes."""

MAX_SUBMIT_FAILURES = 5
"""Tries to submit that the server cannot have accepted: some 10 seconds, then Airflow's retries apply."""

LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 300.0
SHORTEST_LOOK, LONGEST_LOOK = 3.0, 60.0
SHORTEST_RESCHEDULE = 30.0
"""Reschedule mode looks no more often than this: each look is a start of the task on a worker."""

SHORTEST_DEFERRAL = 10.0
"""A trigger looks no sooner than this after the task was deferred. A worker may take 5 s to leave, and
Airflow fails a task that is queued again before the executor has reported the worker's end."""


@dataclass(frozen=True)
class WaitPlan:
    """What bounds a wait; the times are seconds since the epoch and survive restarts.

    ``started`` is when the attempt began, ``deadline`` and ``execution_deadline`` (or None) when it
    must end, ``first_look`` before which no look is made; ``poke_interval`` fixes the time between looks,
    None means the learned schedule; ``max_poll_failures`` is how many polls may fail in a row.
    """

    started: float
    deadline: float
    execution_deadline: float | None = None
    poke_interval: float | None = None
    max_poll_failures: int = MAX_POLL_FAILURES
    first_look: float = 0.0

    @property
    def end(self) -> float:
        """The sooner of the two deadlines."""
        return (
            self.deadline if self.execution_deadline is None else min(self.deadline, self.execution_deadline)
        )


def plan_from(
    started: float,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    execution_timeout: float | None = None,
    poke_interval: float | None = None,
    max_poll_failures: int = MAX_POLL_FAILURES,
) -> WaitPlan:
    """Return the plan of a wait that began at ``started``; the timeouts are seconds from then."""
    return WaitPlan(
        started=started,
        deadline=started + timeout,
        execution_deadline=None if execution_timeout is None else started + execution_timeout,
        poke_interval=poke_interval,
        max_poll_failures=max_poll_failures,
    )


def backoff(failures: int, jitter: float, retry_after: float | None = None) -> float:
    """Return the pause after so many failures in a row: 1, 2, 4 … 60 s, less up to half by jitter.

    A server's Retry-After is obeyed up to 300 s, where it asks for more than that.
    """
    pause = min(LONGEST_BACKOFF, 2.0 ** min(failures - 1, 10)) * (1 - jitter / 2)
    return max(pause, min(retry_after or 0.0, LONGEST_RETRY_AFTER))


def after_failed_submit(
    error: SegStatsError, failures: int, on_ambiguous: OnAmbiguousSubmit, jitter: float
) -> float:
    """Return the pause before submitting again, or raise what ends the submit.

    Again is only safe where the server cannot have accepted: no connection came about, or it said
    HTTP 429 or 503 without an API body. Every error of the API's own is permanent here. What is left
    (no answer, or none of the API's) is ambiguous.
    """
    if isinstance(error, ApiError):
        error.permanent = True
    if error.permanent:
        raise error
    if on_ambiguous == "fail" and may_have_been_accepted(error):
        raise AmbiguousSubmitError(
            f"the recount may or may not have been accepted ({error.message}); check the platform, then "
            "clear the task, or set on_ambiguous_submit='resubmit'",
            endpoint=error.endpoint,
            http_status=error.http_status,
        )
    if failures >= MAX_SUBMIT_FAILURES:
        raise error
    return backoff(failures, jitter, error.retry_after)


def may_have_been_accepted(error: SegStatsError) -> bool:
    """Whether a failed submit may have started a recount all the same."""
    refused = isinstance(error, NotSentError) or (
        isinstance(error, HttpStatusError) and error.http_status in {429, 503}
    )
    return not (error.permanent or refused)


def after_failed_poll(error: SegStatsError, failures: int, plan: WaitPlan, jitter: float) -> float:
    """Return the pause before the next look, or raise the error when it ends the wait."""
    if error.permanent or failures >= plan.max_poll_failures:
        raise error
    return backoff(failures, jitter, error.retry_after)


def is_done(status: TaskStatus, failure_statuses: frozenset[str]) -> bool:
    """Return whether the recount is done, or raise :class:`TaskFailedError`.

    Only ``completed`` is documented as an end (in any case), so every other status but a failure is
    still running, progress 100 or not. An entry ``in_progress`` under ``completed`` is being
    recounted (inferred): not done either.
    """
    name = status.status.lower()
    if name in failure_statuses:
        raise TaskFailedError(
            f"the recount ended as '{status.status}' (progress {status.progress}): "
            f"{status.text or 'no reason given'}",
            text=status.text,
        )
    return name == "completed" and not any(entry.in_progress for entry in status.entries)


def next_look(plan: WaitPlan, now: float, jitter: float) -> float:
    """Return the pause until the next look at a task that is not done.

    The learned schedule is 1.5·√(seconds waited), from 3 to 60 s, ± 10 %. A fixed interval is kept.
    """
    if plan.poke_interval is not None:
        return plan.poke_interval
    pause = 1.5 * math.sqrt(max(0.0, now - plan.started))
    return min(LONGEST_LOOK, max(SHORTEST_LOOK, pause)) * (0.9 + jitter / 5)


def until_deadline(plan: WaitPlan, pause: float, now: float, last: TaskStatus | None, task_id: str) -> float:
    """Return the pause, cut short so that one last look falls on the deadline; past it, raise.

    Raises :class:`ExecutionTimeoutError` or :class:`WaitTimeoutError`, whichever deadline is sooner.
    """
    if now < plan.end:
        return min(pause, plan.end - now)
    execution = plan.end < plan.deadline
    kind = ExecutionTimeoutError if execution else WaitTimeoutError
    seen = f"status '{last.status}', progress {last.progress}" if last else "never seen"
    name = "execution_timeout" if execution else "timeout"
    raise kind(
        f"the recount was not done within {name} ({plan.end - plan.started:.0f} s); it was last {seen}, "
        f"and goes on at the server as task {task_id}"
    )
