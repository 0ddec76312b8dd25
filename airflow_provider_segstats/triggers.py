"""The triggers behind every deferred wait, and the one way in which all of them look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_segstats.core import flows
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.flows import LargeAnswer, Sight
from airflow_provider_segstats.core.policy import WaitPlan
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
        task = Sight(self.refresh_task_id, self.base_url)
        yield TriggerEvent(
            await outcome(self.segstats_conn_id, self.format, task, self.segment_id, self.plan)
        )


class TaskStatusesTrigger(BaseTrigger):
    """Waits for many remote tasks within the bounds of a plan and fires one event.

    ``tasks`` are ``[task_id, segment_id, since, base_url]``: when and where each was started. The event is
    ``{"outcomes": [...]}``, each as :class:`TaskStatusTrigger`'s; it is fired when at most ``leave_open`` of
    the tasks are not done, which are left out of it.
    """

    def __init__(
        self,
        *,
        segstats_conn_id: str,
        format: Format | None,  # noqa: A002 - the API's word
        tasks: list[list[Any]],
        leave_open: int,
        plan: dict[str, Any],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.segstats_conn_id = segstats_conn_id
        self.format = format
        self.tasks = tasks
        self.leave_open = leave_open
        self.plan = WaitPlan(**plan)

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
) -> dict[str, Any]:
    """Wait for a task and return what became of it, as :class:`TaskStatusTrigger`'s event has it."""
    task_id = task.task_id
    event: dict[str, Any] = {"task_id": task_id, "segment_id": segment_id}
    try:
        hook = _hook(conn_id, format)
        poller = await hook.shared_poller()
        status = await poller.run(
            lambda settings: flows.wait(settings, task_id, plan, hook.world(), task), leave_large=leave_large
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


async def outcomes(
    conn_id: str,
    format: Format | None,  # noqa: A002 - the API's word
    tasks: Iterable[list[Any]],
    plan: WaitPlan,
    *,
    found: list[dict[str, Any]],
    leave_open: int,
    leave_large: bool = True,
) -> None:
    """Wait until at most ``leave_open`` of the tasks are not done; ``found`` takes what became of the others.

    It does so as that comes, and keeps it where the wait is cancelled.
    """
    enough = asyncio.Event()

    async def wait(task_id: str, segment_id: int, since: float, base_url: str | None = None) -> None:
        task, own = Sight(task_id, base_url), replace(plan, since=since)
        found.append(await outcome(conn_id, format, task, segment_id, own, leave_large=leave_large))
        if len(waits) - len(found) <= leave_open:
            enough.set()

    waits = [asyncio.create_task(wait(*task)) for task in tasks]
    try:
        if len(waits) > leave_open:
            await enough.wait()
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
