"""Submitting and waiting as generators: the logic once, for the sync and the async client alike.

A flow yields steps and is sent their outcomes (or has their :class:`SegStatsError` thrown in); what it
returns is the result. Flows touch no socket and do not sleep: ``client`` drives them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from airflow_provider_segstats import api, policy
from airflow_provider_segstats.api import Call
from airflow_provider_segstats.errors import SegStatsError, TaskError
from airflow_provider_segstats.model import Segment, TaskStatus
from airflow_provider_segstats.policy import OnAmbiguousSubmit, WaitPlan
from airflow_provider_segstats.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send the call; the outcome is what its reply means."""

    call: Call[Any]


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds. ``pending`` tells a task that is not done from a failure to be retried."""

    seconds: float
    pending: bool = False


@dataclass(frozen=True)
class Reload:
    """Read the connection again; the outcome is its settings."""


Step = Send | Pause | Reload
Flow = Generator[Step, Any, T]


class Log(Protocol):
    """The two levels that a flow logs at: changes of state, and failures that are tried again."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log a change of state."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log a failure that is tried again."""


@dataclass(frozen=True)
class World:
    """What a flow may ask of the outside: the time (seconds since the epoch), chance (0 to 1), a log."""

    now: Callable[[], float]
    chance: Callable[[], float]
    log: Log


def one_call(call: Call[T]) -> Flow[T]:
    """Send one call, once."""
    return (yield Send(call))  # type: ignore[no-any-return]


def submit(settings: Settings, segment: Segment, on_ambiguous: OnAmbiguousSubmit, world: World) -> Flow[str]:
    """Start a recount and return its task id; see :func:`policy.after_failed_submit` for what ends it."""
    call = api.refresh_counters(settings, segment)
    failures = 0
    while True:
        try:
            return (yield Send(call))  # type: ignore[no-any-return]
        except SegStatsError as error:
            failures += 1
            pause = policy.after_failed_submit(error, failures, on_ambiguous, world.chance())
            world.log.warning("Submit %d of segment %d: %s", failures, segment.segment_id, error)
        yield Pause(pause)


def wait(settings: Settings, task_id: str, plan: WaitPlan, world: World) -> Flow[TaskStatus]:
    """Look at a task until it is done and return its status; raise what ends the wait otherwise.

    Every error that leaves here carries ``task_id`` and the task's last status and progress.
    """
    sight = _Sight()
    try:
        return (yield from _look_until_done(settings, task_id, plan, world, sight))
    except SegStatsError as error:
        error.task_id = task_id
        if sight.last is not None:
            error.status, error.progress = sight.last.status, sight.last.progress
        if isinstance(error, TaskError):
            error.endpoint = "tasks/status"
        raise


@dataclass
class _Sight:
    """How the task was last seen."""

    last: TaskStatus | None = None


def _look_until_done(
    settings: Settings, task_id: str, plan: WaitPlan, world: World, sight: _Sight
) -> Flow[TaskStatus]:
    call = api.task_status(settings, task_id)
    failures = 0
    reloaded = False
    if (early := min(plan.first_look, plan.end) - world.now()) > 0:
        yield Pause(early, pending=True)
    while True:
        try:
            status: TaskStatus = yield Send(call)
        except SegStatsError as error:
            if error.unauthorized and not reloaded:  # the token may have been rotated
                reloaded = True
                settings = yield Reload()
                call = api.task_status(settings, task_id)
                continue
            failures += 1
            pause = Pause(policy.after_failed_poll(error, failures, plan, world.chance()))
            world.log.warning("Look at task %s failed (%d in a row): %s", task_id, failures, error)
        else:
            if sight.last is None or status.status != sight.last.status:
                world.log.info("Task %s is '%s'", task_id, status.status)
            sight.last, failures, reloaded = status, 0, False
            if policy.is_done(status, settings.failure_statuses):
                return status
            pause = Pause(policy.next_look(plan, world.now(), world.chance()), pending=True)
        seconds = policy.until_deadline(plan, pause.seconds, world.now(), sight.last, task_id)
        yield Pause(seconds, pause.pending)
