"""Waiting for a remote task inside an Airflow task: what the sensor and the operators share."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.metrics import span
from airflow_provider_segstats.boundary.versions import (
    AirflowRescheduleException,
    AirflowTaskTimeout,
    TaskDeferralTimeout,
)
from airflow_provider_segstats.core.errors import (
    ExecutionTimeoutError,
    SegStatsError,
    WaitTimeoutError,
    error_from_dict,
)
from airflow_provider_segstats.core.progress import Counts, Progress
from airflow_provider_segstats.links import PageLink, SegmentLink
from airflow_provider_segstats.tasks.arguments import ChecksArguments
from airflow_provider_segstats.tasks.store import first_look, keep_first_look

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_segstats.core.defaults import Format
    from airflow_provider_segstats.core.flows import Pause
    from airflow_provider_segstats.core.model import Row
    from airflow_provider_segstats.core.policy import WaitPlan
    from airflow_provider_segstats.hooks import SegStatsHook

# The trigger fires its own timeout event. Should that not come, the scheduler ends the deferral this much
# later; that loses the task's id and last status, so it is a backstop only.
_BACKSTOP = 600.0

_MOST_ROWS = 20  # of counters, in a log


class WaitsForTask(ChecksArguments):
    """Waits for a remote task: on the worker, rescheduled, or deferred to a trigger.

    All three look at once, and differ only in how they pause: sleep, reschedule, or defer to a trigger
    that goes on. They come to the same end: :func:`flows.wait` decides, :func:`boundary.airflow_error`
    tells Airflow. Not for use on its own.
    """

    segstats_conn_id: str
    format: Format | None
    deferrable: bool
    poke_interval: Any  # float | None, which the sensors' base would not have
    timeout: float
    max_poll_failures: int
    soft_fail: bool = False
    # Without a value: one here would hide the property that the sensors' base has.
    reschedule: Any
    failed_task_is_permanent = False
    operator_extra_links = (SegmentLink(), PageLink())

    @property
    def hook(self) -> SegStatsHook:
        """The hook for this task's connection and format."""
        from airflow_provider_segstats.hooks import SegStatsHook

        return SegStatsHook(self.segstats_conn_id, self.format)

    def wait(
        self,
        context: Context,
        task_id: str,
        segment_id: int | None,
        base_url: str | None = None,
        *,
        stay: bool = False,
    ) -> list[Row]:
        """Return the task's rows once it is done, or raise (or defer, or reschedule) for Airflow.

        ``base_url`` is the API's where the task was started, the one of the first look unless known; with
        ``stay`` the wait is made on this worker to its end, since a triggerer does not read the answers.
        """
        from airflow_provider_segstats.core import flows, policy

        plan = self.plan(context)
        sight = flows.Sight(task_id, base_url)
        teller, counts = progress.Teller(context["ti"]), Counts(1, plan.started)
        reschedules = self.reschedule and not (self.deferrable or stay)

        def pause(step: Pause) -> None:
            if self.deferrable and not stay:
                from airflow_provider_segstats.triggers import TaskStatusTrigger

                arguments = {"task_id": task_id, "segment_id": segment_id, "base_url": sight.base_url}
                self.defer_to(TaskStatusTrigger, arguments, sight.hand_over(plan, step), step.seconds)
            teller.tell(Progress(counts, {segment_id: sight.percent}).value(sight.account, time.time()))
            # A failed look is retried on the worker also when rescheduled: the count of failures in a
            # row would not survive the way through the scheduler.
            if reschedules and not step.failures:
                if base_url is None:
                    keep_first_look(context, task_id, sight.base_url)
                wait = timedelta(seconds=max(step.seconds, policy.SHORTEST_RESCHEDULE))
                raise AirflowRescheduleException(datetime.now(tz=timezone.utc) + wait)
            time.sleep(step.seconds)

        try:
            if reschedules:
                base_url = sight.base_url = first_look(context, task_id)
            # Deferred, the wait is the trigger's.
            with nullcontext() if self.deferrable else span("wait", task_id=task_id, segment_id=segment_id):
                status = self.hook.run(
                    lambda settings, world: flows.wait(settings, task_id, plan, world, sight), pause=pause
                )
        except SegStatsError as error:
            self.give_up(context, error)
        except AirflowTaskTimeout:
            # Airflow's own alarm rang amid a look (rescheduled, it is the only one). Its line would not
            # name the remote task, and soft_fail would not know it.
            limit = self.execution_timeout or timedelta()
            overdue = replace(plan, execution_deadline=plan.started + limit.total_seconds())
            late = sight.label(policy.not_done(overdue, sight.last, task_id))
            late.connection = self.segstats_conn_id
            self.give_up(context, late)
        return self._delivered(task_id, status.rows(segment_id), plan)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[Row]:
        """Return the rows the trigger brought, or raise what it met as the other modes do."""
        task_id = str(event.get("task_id"))
        if "rows" not in event:
            self.give_up(context, error_from_dict(event.get("error") or {}))
        if event["rows"] is None:  # too much for a triggerer, or not to be read there
            return self.wait(context, task_id, event.get("segment_id"), event.get("base_url"), stay=True)
        return self._delivered(task_id, event["rows"], self.plan(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral. Past the sensor base's own, whose soft_fail differs by mode."""
        try:
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self.overdue(context)

    def overdue(self, context: Context) -> Any:
        """End a wait that nobody has looked at when its time ended; the remote task's id is lost."""
        limit = self.execution_timeout
        execution = limit is not None and limit.total_seconds() < self.timeout
        kind = ExecutionTimeoutError if execution else WaitTimeoutError
        line = (
            "the time ended, and no triggerer told what became of the task; is one running, and keeping up?"
        )
        self.give_up(context, kind(line, connection=self.segstats_conn_id))

    def give_up(self, context: Context, error: SegStatsError) -> NoReturn:  # noqa: ARG002 - for operators
        """Raise for Airflow what ended the wait."""
        raise airflow_error(
            error, soft_fail=self.soft_fail, failed_task_is_permanent=self.failed_task_is_permanent
        ) from None

    def plan(self, context: Context) -> WaitPlan:
        """Return what bounds this try's waiting, from its first start."""
        from airflow_provider_segstats.core.policy import plan_from

        ti = context["ti"]
        rescheduled = self.reschedule and not self.deferrable
        # Airflow keeps a deferred task's start_date but renews a rescheduled one's.
        started = ti.get_first_reschedule_date(context) if rescheduled else None
        # Rescheduled, execution_timeout is Airflow's to enforce: it counts the running time only.
        limit = None if rescheduled else self.execution_timeout
        return plan_from(
            (started or ti.start_date).timestamp(),
            timeout=self.timeout,
            execution_timeout=limit.total_seconds() if limit else None,
            poke_interval=self.poke_interval,
            max_poll_failures=self.max_poll_failures,
        )

    def defer_to(
        self, trigger: type[BaseTrigger], arguments: dict[str, Any], plan: WaitPlan, pause: float = 0.0
    ) -> NoReturn:
        """Defer to a trigger that makes its first look after the pause, or once the worker has left."""
        from airflow_provider_segstats.core import policy

        first_look = time.time() + max(pause, policy.SHORTEST_DEFERRAL)
        self.defer(
            trigger=trigger(
                segstats_conn_id=self.segstats_conn_id,
                format=self.format,
                plan=asdict(replace(plan, first_look=first_look)),
                **arguments,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, plan.end - time.time()) + _BACKSTOP),
        )

    def labelled(self, rows: list[Row]) -> list[Row]:
        """Return the rows with what is known of them here and not in the API's result."""
        return rows

    def _delivered(self, task_id: str, rows: list[Row], plan: WaitPlan) -> list[Row]:
        from airflow_provider_segstats.core.text import as_table

        seconds = time.time() - plan.started
        rows = self.labelled(rows)
        self.log.info("Task %s is done after %.0f s: %d rows", task_id, seconds, len(rows))
        if rows:
            self.log.info("%s", as_table(rows, _MOST_ROWS))
        return rows
