"""The trigger behind every deferred wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_segstats.errors import SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.policy import WaitPlan

if TYPE_CHECKING:
    from airflow_provider_segstats.codec import Format


class TaskStatusTrigger(BaseTrigger):
    """Waits for a remote task within the bounds of a plan and fires one event.

    The event is ``{"task_id", "segment_id", "rows"}`` when the recount is done, and
    ``{"task_id", "segment_id", "error"}`` otherwise, ``error`` being
    :meth:`~airflow_provider_segstats.errors.SegStatsError.to_dict`. ``plan`` holds absolute times, so a
    restarted triggerer neither extends nor shortens the wait. No secret is in the arguments or the event.
    """

    def __init__(
        self,
        *,
        segstats_conn_id: str,
        format: Format | None,  # noqa: A002 - the API's word
        task_id: str,
        segment_id: int | None,
        plan: dict[str, Any],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.segstats_conn_id = segstats_conn_id
        self.format = format
        self.refresh_task_id = task_id  # BaseTrigger has a task_id of its own: the Airflow task's
        self.segment_id = segment_id
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
                "plan": asdict(self.plan),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield the one event."""
        event: dict[str, Any] = {"task_id": self.refresh_task_id, "segment_id": self.segment_id}
        try:
            hook = SegStatsHook(self.segstats_conn_id, self.format)
            status = await hook.wait_for_task_async(self.refresh_task_id, self.plan)
            event["rows"] = status.rows(self.segment_id)
        except SegStatsError as error:
            event["error"] = error.to_dict()
        except Exception as error:
            # Raised out of here it would fail the task with a poor message; the log has the whole story.
            self.log.exception("The wait for task %s broke", self.refresh_task_id)
            what = f"the wait broke with {type(error).__name__}; the triggerer's log has more"
            event["error"] = SegStatsError(what, connection=self.segstats_conn_id).to_dict()
        yield TriggerEvent(event)
