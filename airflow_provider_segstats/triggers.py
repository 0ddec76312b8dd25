"""The triggers behind every deferred wait, and the one way in which all of them look."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.boundary.metrics import span
from airflow_provider_segstats.core import flows
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.flows import LargeAnswer, Sight
from airflow_provider_segstats.core.policy import WaitPlan
from airflow_provider_segstats.core.progress import EVERY, Counts, Progress
from airflow_provider_segstats.hooks import SegStatsHook

if TYPE_CHECKING:
    from airflow_provider_segstats.core.defaults import Format

log = logging.getLogger(__name__)


class TaskStatusTrigger(BaseTrigger):
    """Waits for a remote task within the bounds of a plan and fires one event.

    The event is ``{"task_id", "segment_id", "rows"}`` when the recount is done, and
    ``{"task_id", "segment_id", "error"}`` otherwise, ``error`` being
    :meth:`~airflow_provider_segstats.core.errors.SegStatsError.to_dict`. ``rows`` are None where answers are
    too large for the event loop, or break the rules of HTTP, so that a worker has to go on. ``base_url`` is
    the API's where the task was started: no other is asked for it; None means that of the first look.
    ``plan`` holds absolute times, so a restarted triggerer neither extends nor shortens the wait. No secret
    is in the arguments or the event.
    """

    def __init__(
        self,
        *,
        segstats_conn_id: str,
        format: Format | None,  # noqa: A002 - the API's word
        task_id: str,
        segment_id: int | None,
        plan: dict[str, Any],
        base_url: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.segstats_conn_id = segstats_conn_id
        self.format = format
        self.refresh_task_id = task_id  # BaseTrigger has a task_id of its own: the Airflow task's
        self.segment_id = segment_id
        self.base_url = base_url
        self.plan = WaitPlan(**plan)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as Airflow stores them."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "segstats_conn_id": self.segstats_conn_id,
                "format": self.format,
                "task_id": self.refresh_task_id,
                "segment_id": self.segment_id,
                "base_url": self.base_url,
                "plan": asdict(self.plan),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield the one event."""
        task, counts = Sight(self.refresh_task_id, self.base_url), Counts(1, self.plan.started)

        def describe() -> dict[str, Any] | None:
            return as_of_now(counts, {self.segment_id: task})

        with progress.shown(describe, progress.by_trigger(self.task_instance)):
            event = await outcome(self.segstats_conn_id, self.format, task, self.segment_id, self.plan)
        yield TriggerEvent(event)


class TaskStatusesTrigger(BaseTrigger):
    """Waits for many remote tasks within the bounds of a plan and fires one event.

    ``tasks`` are ``[task_id, segment_id, since, base_url]``: when and where each was started. The event is
    ``{"outcomes": [...]}``, each as :class:`TaskStatusTrigger`'s; it is fired when at most ``leave_open`` of
    the tasks are not done, which are left out of it. ``counts`` are those of the whole list of segments
    (:class:`~airflow_provider_segstats.core.progress.Counts`), for who looks on.
    """

    def __init__(
        self,
        *,
        segstats_conn_id: str,
        format: Format | None,  # noqa: A002 - the API's word
        tasks: list[list[Any]],
        leave_open: int,
        plan: dict[str, Any],
        counts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.segstats_conn_id = segstats_conn_id
        self.format = format
        self.tasks = tasks
        self.leave_open = leave_open
        self.plan = WaitPlan(**plan)
        self.counts = Counts(**counts) if counts else Counts(len(tasks), self.plan.started)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, as Airflow stores them."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "segstats_conn_id": self.segstats_conn_id,
                "format": self.format,
                "tasks": self.tasks,
                "leave_open": self.leave_open,
                "plan": asdict(self.plan),
                "counts": asdict(self.counts),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield the one event."""
        found: list[dict[str, Any]] = []
        await outcomes(
            self.segstats_conn_id,
            self.format,
            self.tasks,
            self.plan,
            found=found,
            leave_open=self.leave_open,
            counts=self.counts,
            write=progress.by_trigger(self.task_instance),
        )
        yield TriggerEvent({"outcomes": found})


async def outcome(
    conn_id: str,
    format: Format | None,  # noqa: A002 - the API's word
    task: Sight,
    segment_id: int | None,
    plan: WaitPlan,
    *,
    leave_large: bool = True,
    log_to: flows.Log | None = None,
) -> dict[str, Any]:
    """Wait for a task and return what became of it, as :class:`TaskStatusTrigger`'s event has it."""
    task_id = task.task_id
    event: dict[str, Any] = {"task_id": task_id, "segment_id": segment_id}
    try:
        hook = _hook(conn_id, format)
        poller = await hook.shared_poller()
        world = hook.world() if log_to is None else replace(hook.world(), log=log_to)
        with span("wait", task_id=task_id, segment_id=segment_id):
            status = await poller.run(
                lambda settings: flows.wait(settings, task_id, plan, world, task), leave_large=leave_large
            )
        event["rows"] = status.rows(segment_id)
    except LargeAnswer:
        event |= {"rows": None, "base_url": task.base_url}
    except SegStatsError as error:
        error.connection = conn_id
        event["error"] = error.to_dict()
    except Exception as error:
        # Raised out of here it would fail the task with a poor message; the log has the whole story.
        log.exception("The wait for task %s broke", task_id)
        what = f"the wait broke with {type(error).__name__}; the triggerer's log has more"
        event["error"] = SegStatsError(what, connection=conn_id).to_dict()
    return event


@lru_cache(maxsize=64)
def _hook(conn_id: str, format: Format | None) -> SegStatsHook:  # noqa: A002 - the API's word
    """Return the hook that all waits on a connection share: it keeps nothing of any of them."""
    return SegStatsHook(conn_id, format)


class _Sparing:
    """The log of many waits: no line for each change of each, and of failed looks one in 30 s."""

    def __init__(self, to: flows.Log) -> None:
        self._to, self._quiet_until, self._left_out = to, -math.inf, 0

    def info(self, message: str, /, *args: Any) -> None:
        """Leave it out: how far all are is told together."""

    def warning(self, message: str, /, *args: Any) -> None:
        """Log it, and how many were left out since the one before."""
        if (now := time.monotonic()) < self._quiet_until:
            self._left_out += 1
            return
        more = f" (and {self._left_out} more before)" if self._left_out else ""
        self._to.warning(f"{message}{more}", *args)
        self._quiet_until, self._left_out = now + EVERY, 0


def as_of_now(counts: Counts, under_way: Mapping[int | None, Sight]) -> dict[str, Any] | None:
    """Return how far recounts are, as plain JSON; None as long as it is not known whose they are."""
    account = next((sight.account for sight in under_way.values() if sight.account), None)
    percents = {number: sight.percent for number, sight in under_way.items()}
    return Progress(counts, percents).value(account, time.time()) if account else None


async def outcomes(
    conn_id: str,
    format: Format | None,  # noqa: A002 - the API's word
    tasks: Iterable[list[Any]],
    plan: WaitPlan,
    *,
    found: list[dict[str, Any]],
    leave_open: int,
    counts: Counts,
    write: progress.Write | None,
    leave_large: bool = True,
) -> None:
    """Wait until at most ``leave_open`` of the tasks are not done; ``found`` takes what became of the others.

    It does so as that comes, and keeps it where the wait is cancelled. How far the whole is, ``counts``
    before, goes to the log and to ``write``.
    """
    enough = asyncio.Event()
    spare = _Sparing(log)
    under_way: dict[int | None, Sight] = {}
    now = counts

    async def wait(task_id: str, segment_id: int, since: float, base_url: str | None = None) -> None:
        nonlocal now
        task, own = Sight(task_id, base_url), replace(plan, since=since)
        under_way[segment_id] = task
        event = await outcome(conn_id, format, task, segment_id, own, leave_large=leave_large, log_to=spare)
        found.append(event)
        del under_way[segment_id]
        done = "rows" in event
        now = replace(now, done=now.done + done, failed=now.failed + (not done))
        if len(waits) - len(found) <= leave_open:
            enough.set()

    async def tell() -> None:
        while True:
            before = now
            await asyncio.sleep(EVERY)
            if now != before:
                log.info("%s", Progress(now, dict.fromkeys(under_way)).line(time.time()))

    waits = [asyncio.create_task(wait(*task)) for task in tasks]
    telling = asyncio.create_task(tell())
    try:
        if len(waits) > leave_open:
            with progress.shown(lambda: as_of_now(now, under_way), write):
                await enough.wait()
    finally:
        for task in (telling, *waits):
            task.cancel()
        await asyncio.gather(telling, *waits, return_exceptions=True)
