"""Submitting and waiting as generators: the logic once, for the sync and the async client alike.

A flow yields steps and is sent their outcomes (or has their :class:`SegStatsError` thrown in); what it
returns is the result. Flows touch no socket and do not sleep: ``client`` drives one, ``poller`` many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from airflow_provider_segstats.core import api, policy
from airflow_provider_segstats.core.api import Call
from airflow_provider_segstats.core.defaults import AUTO, OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import SegStatsError, TaskError
from airflow_provider_segstats.core.meter import NO_METER, Meter
from airflow_provider_segstats.core.model import Page, Recountable, Row, Segment, TaskStatus
from airflow_provider_segstats.core.policy import RELOAD_AFTER, Trend, WaitPlan
from airflow_provider_segstats.core.progress import EVERY
from airflow_provider_segstats.core.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call; the outcome is what its reply means.

    It leaves by ``by`` (seconds since the epoch) or not at all, which is :class:`TooLateError`. A server that
    is away, or asked to be left alone, is not asked meanwhile, but a last time at ``by``; with ``strict``
    nothing leaves from then on. Should it fail for others ``bears`` times in a row while this waits for its
    turn, that is the outcome.
    """

    call: Call[Any]
    by: float = math.inf
    strict: bool = False
    bears: int = 1

    def is_too_late(self, now: float, turn: float) -> bool:
        """Whether it can not leave any more when its turn is so many seconds from now."""
        return now + turn >= self.by and (self.strict or turn > 0)


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


class TooLateError(Exception):
    """A request did not come to leave in time: told to a flow, which says what that means."""


class LargeAnswer(Exception):  # noqa: N818 - no error: the flow's owner goes on elsewhere
    """An answer is too large to be decoded where the flow is driven, or too odd to be read there."""


class Log(Protocol):
    """The two levels that a flow logs at: changes of state, and failures that are tried again."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log a change of state."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log a failure that is tried again."""


@dataclass(frozen=True, slots=True)
class World:
    """What a flow may ask of the outside: the time (seconds since the epoch), chance (0 to 1), log, meter."""

    now: Callable[[], float]
    chance: Callable[[], float]
    log: Log
    meter: Meter = NO_METER


def one_call(call: Call[T]) -> Flow[T]:
    """Send one call, once."""
    return (yield Send(call))  # type: ignore[no-any-return]


def read(settings: Settings, make_call: Callable[[Settings], Call[T]], world: World) -> Flow[T]:
    """Send a call that changes nothing, again where that may help, and return its result.

    See :func:`policy.after_failed_read` for what ends it without one.
    """
    return (yield from _read(settings, make_call, world))[1]


def _read(
    settings: Settings, make_call: Callable[[Settings], Call[T]], world: World
) -> Flow[tuple[Settings, T]]:
    """Read as :func:`read` does; return the settings, too, which may be new ones."""
    failures, reread = 0, False
    while True:
        call = make_call(settings)
        try:
            return settings, (yield Send(call, bears=policy.MAX_READ_FAILURES))
        except SegStatsError as error:
            if error.unauthorized and not reread:  # the token may have been rotated
                reread = True
                settings = yield Reload()
                continue
            failures = max(failures + 1, error.in_a_row)
            pause = policy.after_failed_read(error, failures, world.chance())
            world.log.warning("Read %d of %s: %s; again", failures, call.endpoint, error)
        yield Pause(pause, failures)


def read_list(
    settings: Settings, make_call: Callable[[Settings, int | None], Call[Page[T]]], world: World
) -> Flow[list[T]]:
    """Read a list page by page to its end; each of its things once, in the server's order.

    ``make_call`` gives the call for the page from an id on. Where that id lies, at the last thing of the page
    before or beyond it, differs; so a list ends with a page that brings nothing new.
    """
    found: dict[int, T] = {}
    from_id: int | None = None
    for _ in range(policy.MOST_PAGES):

        def call_for_page(settings: Settings, start: int | None = from_id) -> Call[Page[T]]:
            return make_call(settings, start)

        settings, page = yield from _read(settings, call_for_page, world)
        before = len(found)
        for thing_id, thing in page.things.items():
            found.setdefault(thing_id, thing)
        if policy.is_last_page(page, len(found) - before, len(found)):
            return list(found.values())
        from_id = page.next_from_id or max(page.things)
    raise policy.endless_list(len(found))


def with_database(settings: Settings, segment: Segment, world: World) -> Flow[Segment]:
    """Return the segment with its ``db_id``, looked up where asked; see :func:`policy.only_database`."""
    if segment.db_id != AUTO:
        return segment
    details = yield from read(settings, lambda of: api.get_segment(of, segment.segment_id), world)
    return replace(segment, db_id=policy.only_database(details), name=segment.name or details.name)


def last_counted(settings: Settings, segment: Segment, world: World) -> Flow[list[Row]]:
    """Read a segment's counters as last counted, without a recount; return them as rows."""
    segment = yield from with_database(settings, segment, world)
    counted = yield from read(settings, lambda of: api.get_counters(of, segment), world)
    return segment.label(counted.rows(segment))


@dataclass(frozen=True, slots=True)
class Submitted:
    """A recount that was started: its task's id, and the server that knows it by that.

    ``repeated`` tells that the answer to an earlier request was lost, which may have started another.
    """

    task_id: str
    base_url: str
    repeated: bool = False


def submit(
    settings: Settings,
    what: Recountable,
    on_ambiguous: OnAmbiguousSubmit,
    world: World,
    plan: WaitPlan | None = None,
) -> Flow[Submitted]:
    """Start a recount; see :func:`policy.after_failed_submit` for what ends it without one.

    No request leaves after the plan's end.
    """
    end = plan.end if plan else math.inf
    call = api.refresh_counters(settings, what)
    failures, repeated, reread = 0, False, False
    latest: SegStatsError | None = None
    while True:
        try:
            task_id: str = yield Send(call, end, strict=True, bears=policy.MAX_SUBMIT_FAILURES)
            world.meter.count("submits")
            return Submitted(task_id, settings.base_url, repeated)
        except TooLateError:
            assert plan  # noqa: S101 - without one there is no end
            raise policy.not_submitted(plan, call.endpoint, latest) from latest
        except SegStatsError as error:
            latest = error
            if error.unauthorized and not reread:  # the token may have been rotated
                reread = True
                settings = yield Reload()
                call = api.refresh_counters(settings, what)
                continue
            failures = max(failures + 1, error.in_a_row)
            policy.hint_at_database(error, what)
            pause = policy.after_failed_submit(
                error, failures, on_ambiguous, settings.refused_statuses, world.chance()
            )
            world.meter.count("submit_failures", kind=type(error).__name__)
            lost = policy.may_have_been_accepted(error)
            repeated |= lost
            again = "again, as asked: it may be counted twice" if lost else "again"
            world.log.warning("Submit %d of %s: %s; %s", failures, what, error, again)
        yield Pause(max(0.0, min(pause, end - world.now())), failures)


@dataclass(slots=True)
class Sight:
    """How a task was last seen, for who drives its flow; and whose it is: the first server's, unless told.

    ``account`` is the connection's, as soon as that was read.
    """

    task_id: str
    base_url: str | None = None
    last: TaskStatus | None = None
    account: str | None = None

    @property
    def percent(self) -> int | None:
        """How far the task is, in per cent, as far as is known."""
        return self.last.progress if self.last else None

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

    Only the server that knows the task is asked, whatever the connection says meanwhile. Every error that
    leaves here carries ``task_id`` and the task's last status and progress.
    """
    sight = sight or Sight(task_id)
    sight.base_url, sight.account = sight.base_url or settings.base_url, settings.account
    if plan.last_status:
        sight.last = TaskStatus(plan.last_status, plan.last_progress, ())
    began = plan.since or plan.started
    try:
        policy.same_server(settings, sight.base_url)
        status = yield from _look_until_done(settings, task_id, plan, world, sight)
    except SegStatsError as error:
        if policy.is_odd(error):
            raise LargeAnswer from None
        sight.label(error)
        _measure_end(world, began, type(error).__name__)
        raise
    _measure_end(world, began, "done")
    return status


def _measure_end(world: World, began: float, outcome: str) -> None:
    world.meter.count("waits", outcome=outcome)
    world.meter.seconds("wait_seconds", world.now() - began, outcome=outcome)


def _reread(settings: Settings) -> Flow[Settings]:
    """Read the connection again, for a task that only one server knows."""
    return policy.same_server((yield Reload()), settings.base_url)


def _reread_if_possible(settings: Settings) -> Flow[Settings]:
    """Read it again where a second trouble is no reason to give up on the first."""
    try:
        fresh: Settings = yield Reload()
    except SegStatsError:
        return settings
    return policy.same_server(fresh, settings.base_url)


class _Told:
    """What of a task stands in the log: each change of status, each tenth of the way, 30 s apart at least."""

    def __init__(self, world: World, task_id: str, last: TaskStatus | None) -> None:
        self._world, self._task_id = world, task_id
        self._last, self._at = last, world.now()

    def tell(self, status: TaskStatus, next_in: float | None = None) -> None:
        """Log it, if it is news; ``next_in`` is when the next look is due."""
        if not self._is_news(status):
            return
        self._last, self._at = status, self._world.now()
        percent = "" if status.progress is None else f", {status.progress} %"
        more = "" if next_in is None else f"; the next look is in {next_in:.0f} s"
        self._world.log.info("Task %s is '%s'%s%s", self._task_id, status.status, percent, more)
        self._world.meter.event(status.status, progress=status.progress or 0)

    def _is_news(self, status: TaskStatus) -> bool:
        last = self._last
        if last is None or status.status != last.status:
            return True
        further = (status.progress or 0) // 10 > (last.progress or 0) // 10
        return further and self._world.now() >= self._at + EVERY


def _look_until_done(
    settings: Settings, task_id: str, plan: WaitPlan, world: World, sight: Sight
) -> Flow[TaskStatus]:
    call = api.task_status(settings, task_id)
    failures = inherited = plan.failures
    trend: Trend | None = None
    reread = False
    told = _Told(world, task_id, sight.last)
    by = policy.looks_end(plan, world.now())
    if (early := min(plan.first_look, plan.end) - world.now()) > 0:
        yield Pause(early, failures)
    while True:
        try:
            status: TaskStatus = yield Send(call, by, bears=plan.max_poll_failures - inherited)
        except TooLateError:
            raise policy.not_done(plan, sight.last, task_id) from None
        except SegStatsError as error:
            if error.unauthorized and not reread:  # the token may have been rotated
                reread = True
                settings = yield from _reread(settings)
                call = api.task_status(settings, task_id)
                continue
            before, failures = failures, max(failures + 1, inherited + error.in_a_row)
            pause = policy.after_failed_poll(error, failures, plan, world.chance())
            line = "Look at task %s failed (%d in a row): %s; again in %.0f s"
            world.log.warning(line, task_id, failures, error, pause)
            world.meter.count("look_failures", kind=type(error).__name__)
            if failures // RELOAD_AFTER > before // RELOAD_AFTER:
                settings = yield from _reread_if_possible(settings)
                call = api.task_status(settings, task_id)
        else:
            world.meter.count("looks")
            sight.last, failures, inherited, reread = status, 0, 0, False
            if policy.is_done(status, settings.success_statuses, settings.failure_statuses):
                told.tell(status)
                return status
            now = world.now()
            trend = policy.observe(trend, status.progress, now)
            pause = policy.next_look(plan, now, world.chance(), trend)
            told.tell(status, pause)
        pause = policy.until_deadline(plan, pause, world.now(), sight.last, task_id)
        yield Pause(pause, failures)
