"""The decisions of submitting and waiting, as pure functions; every mode goes through them.

Times are seconds. ``jitter`` is a number from 0 to 1, given by the caller, so nothing here is random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from airflow_provider_segstats.core.defaults import DEFAULT_TIMEOUT, MAX_POLL_FAILURES, OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    ConfigurationError,
    ExecutionTimeoutError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    PartialFailureError,
    ReplyError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.model import Page, Recountable, Segment, SegmentDetails, TaskStatus
from airflow_provider_segstats.core.settings import Settings

MAX_SUBMIT_FAILURES = 5
"""Tries to submit that the server cannot have accepted: some 10 seconds, then Airflow's retries apply."""

OVERDUE_LOOK = 60.0
"""Seconds that a wait which begins after its end has for its one look: it may be one of thousands, after a
triggerer was away."""

MAX_READ_FAILURES = 5
"""Tries to read something else than a task's status: some 10 seconds, then Airflow's retries apply."""

MOST_PAGES = 1000
"""Of one list: a million things. A list with more is taken for one that never ends."""

LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 300.0
SHORTEST_LOOK, LONGEST_LOOK = 3.0, 60.0
MOST_SHOWN = 5
"""Segments that an error's line names at most, of each kind; its attributes and the XCom name all."""

RELOAD_AFTER = 5
"""Looks failed in a row after which the connection is read anew: the host may have moved."""

SHORTEST_RESCHEDULE = 30.0
"""Reschedule mode looks no more often than this: each look is a start of the task on a worker."""

SHORTEST_DEFERRAL = 10.0
"""A trigger looks no sooner than this after the task was deferred. A worker may take 5 s to leave, and
Airflow fails a task that is queued again before the executor has reported the worker's end."""


@dataclass(frozen=True, slots=True)
class WaitPlan:
    """What bounds a wait; the times are seconds since the epoch and survive restarts.

    ``started`` is when the attempt began, ``deadline`` and ``execution_deadline`` (or None) when it
    must end, ``first_look`` before which no look is made; ``poke_interval`` fixes the time between looks,
    None means the learned schedule; ``max_poll_failures`` is how many polls may fail in a row. The rest
    is what had happened before the wait was handed over to whoever has this plan: ``failures`` in a row,
    how the task was last seen, and ``since`` when it has run, where that is later than ``started``.
    """

    started: float
    deadline: float
    execution_deadline: float | None = None
    poke_interval: float | None = None
    max_poll_failures: int = MAX_POLL_FAILURES
    first_look: float = 0.0
    failures: int = 0
    last_status: str | None = None
    last_progress: int | None = None
    since: float | None = None

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
    error: SegStatsError,
    failures: int,
    on_ambiguous: OnAmbiguousSubmit,
    refused_statuses: frozenset[int],
    jitter: float,
) -> float:
    """Return the pause before submitting again, or raise what ends the submit.

    Again is only safe where the server cannot have accepted: no connection came about, or it refused.
    Every other error of the API's own is permanent here. What is left (no answer, or none of the API's) is
    ambiguous.
    """
    if _is_refusal(error, refused_statuses):
        error.refused, error.permanent = True, False
    elif isinstance(error, ApiError):
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


def _is_refusal(error: SegStatsError, refused_statuses: frozenset[int]) -> bool:
    """Whether the server said that it does not accept a submit for now, as an HTTP status or as an API error.

    The API's permanent errors stay so, whatever HTTP status they come with: its body outranks that.
    """
    if isinstance(error, ApiError):
        return not (error.permanent or refused_statuses.isdisjoint({error.code, error.http_status}))
    return isinstance(error, HttpStatusError) and error.http_status in refused_statuses


def may_have_been_accepted(error: SegStatsError) -> bool:
    """Whether a failed submit may have started a recount all the same."""
    return not (error.permanent or error.refused)


def is_away(error: SegStatsError) -> bool:
    """Whether a failed request says of the server that it is away: another would find the same."""
    if isinstance(error, HttpStatusError):
        return error.http_status == 503
    return isinstance(error, NotSentError | NoAnswerError) and not is_odd(error)


def is_odd(error: SegStatsError) -> bool:
    """Whether an answer came that only the other HTTP client may read: the wait goes on with that."""
    return isinstance(error, NoAnswerError) and error.odd


def same_server(settings: Settings, base_url: str) -> Settings:
    """Return the settings if they lead to the server that knows a task; its id may be another's elsewhere."""
    if settings.base_url != base_url:
        raise ConfigurationError(
            f"the task was started at {base_url}, and the connection leads to {settings.base_url} now, where "
            "its id would be another task's; set the connection back, or clear the task to count anew"
        )
    return settings


def after_failed_poll(error: SegStatsError, failures: int, plan: WaitPlan, jitter: float) -> float:
    """Return the pause before the next look, or raise the error when it ends the wait."""
    if error.permanent or is_odd(error) or failures >= plan.max_poll_failures:
        raise error
    return backoff(failures, jitter, error.retry_after)


def after_failed_read(error: SegStatsError, failures: int, jitter: float) -> float:
    """Return the pause before reading again, or raise the error when it ends the reading."""
    if error.permanent or failures >= MAX_READ_FAILURES:
        raise error
    return backoff(failures, jitter, error.retry_after)


def is_last_page(page: Page[Any], new: int, seen: int) -> bool:
    """Return whether a list ends with this page, which had so many ``new`` things; ``seen`` are all so far.

    Raises :class:`ReplyError` for a server that gives the same page again where there should be more: where
    its pages begin at the last thing of the one before, that one thing is no more than a repetition.
    """
    if new:
        return False
    if len(page.things) > 1 and seen < (page.total_count or 0):
        raise ReplyError(
            f"the list does not go on after {seen} of {page.total_count}: the server repeats its pages"
        )
    return True


def only_database(segment: SegmentDetails) -> int | None:
    """Return the one database that a segment's rules name: None for a static segment, which has no rules.

    Raises :class:`ConfigurationError` for rules that name several: which one is to be counted?
    """
    if len(segment.list_ids) > 1:
        named = ", ".join(map(str, segment.list_ids))
        raise ConfigurationError(
            f"the rules of segment {segment.segment_id} name several databases: {named}; set db_id to one"
        )
    return segment.list_ids[0] if segment.list_ids else None


def hint_at_database(error: SegStatsError, what: Recountable) -> None:
    """Say of a refused submit, in its error's line, what it may have lacked."""
    lacks = isinstance(what, Segment) and what.db_id is None
    if isinstance(error, ApiError) and error.code == 400 and lacks:
        error.message += "; a dynamic segment needs the id of its database: db_id='auto' looks it up"


def endless_list(seen: int) -> ReplyError:
    """Return the error for a list that goes on and on."""
    return ReplyError(f"the list does not end: after {MOST_PAGES} pages {seen} things were read")


def is_done(status: TaskStatus, success_statuses: frozenset[str], failure_statuses: frozenset[str]) -> bool:
    """Return whether the recount is done, or raise :class:`TaskFailedError`.

    Statuses are compared in lower case. One that is neither success nor failure is still running, progress
    100 or not: the API documents only successes. An entry ``in_progress`` under a success is being recounted
    (inferred): not done either.
    """
    name = status.status.lower()
    if name in failure_statuses:
        raise TaskFailedError(
            f"the recount ended as '{status.status}' (progress {status.progress}): "
            f"{status.text or 'no reason given'}",
            text=status.text,
        )
    return name in success_statuses and not any(entry.in_progress for entry in status.entries)


@dataclass(frozen=True, slots=True)
class Trend:
    """How a task's progress was seen to grow: per cents and times of the first look and the latest rise."""

    first: int
    first_at: float
    latest: int
    latest_at: float
    rises: int = 0

    def expected_end(self) -> float | None:
        """When the task is done if it goes on like this; None until it was seen to rise twice."""
        if self.rises < 2:
            return None
        pace = (self.latest - self.first) / (self.latest_at - self.first_at)
        return self.latest_at + (100 - self.latest) / pace


def observe(trend: Trend | None, progress: int | None, now: float) -> Trend | None:
    """Return the trend with one more look in it. A fall begins a new one."""
    if progress is None:
        return trend
    if trend is None or progress < trend.latest:
        return Trend(progress, now, progress, now)
    if progress == trend.latest or now <= trend.first_at:
        return trend
    return replace(trend, latest=progress, latest_at=now, rises=trend.rises + 1)


def looks_end(plan: WaitPlan, now: float) -> float:
    """Return by when the looks of a wait that begins now must leave: its end, or soon if that is past."""
    return plan.end if now < plan.end else now + OVERDUE_LOOK


def next_look(plan: WaitPlan, now: float, jitter: float, trend: Trend | None = None) -> float:
    """Return the pause until the next look at a task that is not done.

    The learned schedule is 1.5·√(seconds the task has run), from 3 to 60 s, ± 10 %. A task whose progress
    rises is looked at when it should be done, if that is sooner. The API documents no progress but the
    end's 100, so it may lie: it makes a pause a quarter as long at most, and no longer counts once the
    expected end has passed. A fixed interval is kept.
    """
    if plan.poke_interval is not None:
        return plan.poke_interval
    begun = plan.started if plan.since is None else plan.since
    pause = 1.5 * math.sqrt(max(0.0, now - begun))
    pause = min(LONGEST_LOOK, max(SHORTEST_LOOK, pause)) * (0.9 + jitter / 5)
    end = trend.expected_end() if trend else None
    if end is None or end <= now:
        return pause
    # A little later than expected, since too soon costs a whole pause more.
    expected = 1.02 * (end - now) + 0.5
    return min(pause, max(expected, pause / 4, SHORTEST_LOOK))


def until_deadline(plan: WaitPlan, pause: float, now: float, last: TaskStatus | None, task_id: str) -> float:
    """Return the pause, cut short so that one last look falls on the deadline; past it, raise.

    Raises :class:`ExecutionTimeoutError` or :class:`WaitTimeoutError`, whichever deadline is sooner.
    """
    if now < plan.end:
        return min(pause, plan.end - now)
    raise not_done(plan, last, task_id)


def not_done(plan: WaitPlan, last: TaskStatus | None, task_id: str) -> WaitTimeoutError:
    """Return the error for a task that was not done when the sooner of the two deadlines came."""
    seen = f"it was last status '{last.status}', progress {last.progress}" if last else "it was never seen"
    besides = f"{seen}, and goes on at the server as task {task_id}"
    return time_is_up(plan, "the recount was not done", besides)


def time_is_up(plan: WaitPlan, what: str, besides: str) -> WaitTimeoutError:
    """Return the error for what was not done when the sooner of the two deadlines came."""
    execution = plan.end < plan.deadline
    kind = ExecutionTimeoutError if execution else WaitTimeoutError
    name = "execution_timeout" if execution else "timeout"
    return kind(f"{what} within {name} ({plan.end - plan.started:.0f} s); {besides}")


def not_submitted(plan: WaitPlan, endpoint: str, latest: SegStatsError | None) -> WaitTimeoutError:
    """Return the error for a recount that could not be started before the sooner of the two deadlines."""
    besides = f"the latest try: {latest.message}" if latest else "its turn did not come"
    error = time_is_up(plan, "the recount could not be submitted", besides)
    error.endpoint = endpoint
    return error


Reattach = Literal["go on", "failed", "forgotten"]


def reattach(
    outcome: TaskStatus | SegStatsError, failure_statuses: frozenset[str], unknown_task_codes: frozenset[int]
) -> Reattach:
    """Return whether a retry goes on with the task of an earlier try, seen as ``outcome``.

    ``unknown_task_codes`` are the API's errors for a task that it does not know any more. Any other
    error says nothing about the task, so it is worth going on with.
    """
    if isinstance(outcome, TaskStatus):
        return "failed" if outcome.status.lower() in failure_statuses else "go on"
    forgotten = isinstance(outcome, ApiError) and outcome.code in unknown_task_codes
    return "forgotten" if forgotten else "go on"


def forgotten_again(task_id: str) -> ConfigurationError:
    """Return the error for a task that the server does not know, started for another that it did not."""
    return ConfigurationError(
        f"the server does not know task {task_id}, which was started because it did not know an earlier "
        "one; does it keep tasks, and does the connection's unknown_task_codes mean what it says?"
    )


def in_doubt(what: Recountable | None) -> AmbiguousSubmitError:
    """Return the error for a submit that was intended by an earlier try, which did not live to tell."""
    return AmbiguousSubmitError(
        "an earlier try may or may not have submitted the recount; check the platform, then "
        "clear the task, or set on_ambiguous_submit='resubmit'",
        endpoint=what.endpoint if what else "",
    )


def concerns_all(error: SegStatsError) -> bool:
    """Whether a failed submit would be met by the next segment, too, so that there is no use in going on.

    The API's own errors are about the one segment, but for 401 (token), 402 (tariff limit) and refusals; so
    is an answer that was lost.
    """
    if isinstance(error, ApiError):
        return error.refused or error.code in {401, 402}
    return not was_lost(error)


def is_tariff_limit(error: SegStatsError | None) -> bool:
    """Whether the account's tariff allows no more recounts."""
    return isinstance(error, ApiError) and error.code == 402


def concerns_one(error: SegStatsError) -> bool:
    """Whether what kept a segment's database from being found is its own matter, and will not pass."""
    of_the_api = isinstance(error, ApiError) and error.permanent and not concerns_all(error)
    return of_the_api or isinstance(error, ConfigurationError)


def was_lost(error: SegStatsError) -> bool:
    """Whether a submit failed for want of an answer, also where that was repeated as asked."""
    return isinstance(error, AmbiguousSubmitError) or may_have_been_accepted(error)


def too_many_lost(error: SegStatsError) -> NoAnswerError:
    """Return the error for submits whose answers were lost one after another: more would be, too."""
    return NoAnswerError(
        f"the answers to {MAX_SUBMIT_FAILURES} submits in a row were lost; the latest: {error.message}",
        endpoint=error.endpoint,
    )


def unfinished(
    of: Mapping[int, Recountable],
    errors: Mapping[int, SegStatsError],
    not_submitted: Sequence[int],
    stopped: SegStatsError | None,
) -> SegStatsError:
    """Return the one error for a task in which some of the segments were not counted.

    It is worth a retry if anything in it is; otherwise it is a timeout if anything in it is one.
    """
    causes = [*errors.values(), *([stopped] if stopped else [])]
    parts = [f"{len(errors) + len(not_submitted)} of {len(of)} segments were not counted"]
    parts += [f"{of[segment_id]}: {error}" for segment_id, error in list(errors.items())[:MOST_SHOWN]]
    if len(errors) > MOST_SHOWN:
        parts.append(f"and {len(errors) - MOST_SHOWN} more")
    if not_submitted:
        shown = ", ".join(map(str, not_submitted[:MOST_SHOWN]))
        more = ", …" if len(not_submitted) > MOST_SHOWN else ""
        parts.append(f"{len(not_submitted)} not submitted ({shown}{more}): {stopped}")
    message = "; ".join(parts)
    if any(isinstance(cause, ExecutionTimeoutError) for cause in causes):
        return ExecutionTimeoutError(message)
    worth_a_retry = any(not (cause.permanent or isinstance(cause, WaitTimeoutError)) for cause in causes)
    if not worth_a_retry and any(isinstance(cause, WaitTimeoutError) for cause in causes):
        return WaitTimeoutError(message)
    return PartialFailureError(
        message,
        errors=errors,
        not_submitted=not_submitted,
        permanent=not worth_a_retry,
    )
