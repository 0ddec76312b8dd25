"""Submitting and waiting as generators: the logic once, for the sync and the async client alike.

A flow yields steps and is sent their outcomes (or has their :class:`SegStatsError` thrown in); what it
returns is the result. Flows touch no socket and do not sleep: ``client`` drives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from airflow_provider_segstats.core import api, policy
from airflow_provider_segstats.core.api import Call
from airflow_provider_segstats.core.defaults import OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import SegStatsError, TaskError
from airflow_provider_segstats.core.model import Segment, TaskStatus
from airflow_provider_segstats.core.policy import RELOAD_AFTER, Trend, WaitPlan
from airflow_provider_segstats.core.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call; the outcome is what its reply means.

    A server that asked to be left alone for a while is, but not beyond ``by`` (seconds since the epoch).
    """

    call: Call[Any]
    by: float = math.inf


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds. ``failures`` is how many requests have failed in a row: 0 where none has."""

    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class Reload:
    """Read the connection again; the outcome is its settings."""


Step = Send | Pause | Reload
Flow = Generator[Step, Any, T]


class LargeAnswer(Exception):  # noqa: N818 - no error: the flow's owner goes on elsewhere
    """An answer is too large to be decoded where the flow is driven."""


class Log(Protocol):
    """The two levels that a flow logs at: changes of state, and failures that are tried again."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log a change of state."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log a failure that is tried again."""


@dataclass(frozen=True, slots=True)
class World:
    """What a flow may ask of the outside: the time (seconds since the epoch), chance (0 to 1), a log."""

    now: Callable[[], float]
    chance: Callable[[], float]
    log: Log


def one_call(call: Call[T]) -> Flow[T]:
    """Send one call, once."""
    return (yield Send(call))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Submitted:
    """A recount that was started: its task's id, and the server that knows it by that.

    ``repeated`` tells that the answer to an earlier request was lost, which may have started another.
    """

    task_id: str
    base_url: str
    repeated: bool = False


def submit(
    settings: Settings, segment: Segment, on_ambiguous: OnAmbiguousSubmit, world: World
) -> Flow[Submitted]:
    """Start a recount; see :func:`policy.after_failed_submit` for what ends it without one."""
    call = api.refresh_counters(settings, segment)
    failures, repeated = 0, False
    while True:
        try:
            task_id: str = yield Send(call)
            return Submitted(task_id, settings.base_url, repeated)
        except SegStatsError as error:
            failures += 1
            pause = policy.after_failed_submit(
                error, failures, on_ambiguous, settings.refused_statuses, world.chance()
            )
            lost = policy.may_have_been_accepted(error)
            repeated |= lost
            again = "again, as asked: it may be counted twice" if lost else "again"
            world.log.warning("Submit %d of segment %d: %s; %s", failures, segment.segment_id, error, again)
        yield Pause(pause, failures)


@dataclass(slots=True)
class Sight:
    """How a task was last seen, for who drives its flow."""

    task_id: str
    last: TaskStatus | None = None

    def hand_over(self, plan: WaitPlan, at: Pause) -> WaitPlan:
        """Return the plan for who goes on with the wait that came to this pause."""
        last = self.last
        return replace(
            plan,
            failures=at.failures,
            last_status=last.status if last else None,
            last_progress=last.progress if last else None,
        )

    def label(self, error: SegStatsError) -> SegStatsError:
        """Return the error with ``task_id`` and the task's last status and progress in it."""
        error.task_id = self.task_id
        if self.last is not None:
            error.status, error.progress = self.last.status, self.last.progress
        if isinstance(error, TaskError):
            error.endpoint = "tasks/status"
        return error


def wait(
    settings: Settings, task_id: str, plan: WaitPlan, world: World, sight: Sight | None = None
) -> Flow[TaskStatus]:
    """Look at a task until it is done and return its status; raise what ends the wait otherwise.

    Every error that leaves here carries ``task_id`` and the task's last status and progress.
    """
    sight = sight or Sight(task_id)
    if plan.last_status:
        sight.last = TaskStatus(plan.last_status, plan.last_progress, ())
    try:
        return (yield from _look_until_done(settings, task_id, plan, world, sight))
    except SegStatsError as error:
        sight.label(error)
        raise


def _look_until_done(
    settings: Settings, task_id: str, plan: WaitPlan, world: World, sight: Sight
) -> Flow[TaskStatus]:
    call = api.task_status(settings, task_id)
    failures = plan.failures
    trend: Trend | None = None
    reloaded = False
    if (early := min(plan.first_look, plan.end) - world.now()) > 0:
        yield Pause(early, failures)
    while True:
        try:
            status: TaskStatus = yield Send(call, plan.end)
        except SegStatsError as error:
            if error.unauthorized and not reloaded:  # the token may have been rotated
                reloaded = True
                settings = yield Reload()
                call = api.task_status(settings, task_id)
                continue
            failures += 1
            pause = policy.after_failed_poll(error, failures, plan, world.chance())
            world.log.warning("Look at task %s failed (%d in a row): %s", task_id, failures, error)
            if failures % RELOAD_AFTER == 0:
                with suppress(SegStatsError):  # a second trouble is no reason to give up on the first
                    settings = yield Reload()
                    call = api.task_status(settings, task_id)
        else:
            if sight.last is None or status.status != sight.last.status:
                world.log.info("Task %s is '%s'", task_id, status.status)
            sight.last, failures, reloaded = status, 0, False
            if policy.is_done(status, settings.success_statuses, settings.failure_statuses):
                return status
            now = world.now()
            trend = policy.observe(trend, status.progress, now)
            pause = policy.next_look(plan, now, world.chance(), trend)
        pause = policy.until_deadline(plan, pause, world.now(), sight.last, task_id)
        yield Pause(pause, failures)
