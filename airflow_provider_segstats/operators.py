"""Operators: start recounts, and wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from airflow.sdk.configuration import conf

from airflow_provider_segstats.arguments import (
    as_id,
    as_params,
    check_count,
    check_format,
    check_id,
    check_params,
    required_id,
    seconds,
)
from airflow_provider_segstats.errors import (
    AmbiguousSubmitError,
    ApiError,
    ConfigurationError,
    SegStatsError,
    TaskFailedError,
)
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.model import Row
from airflow_provider_segstats.policy import (
    DEFAULT_TIMEOUT,
    MAX_POLL_FAILURES,
    OnAmbiguousSubmit,
    may_have_been_accepted,
)
from airflow_provider_segstats.submission import STORE_KEY, Life, Submitted, intent, recall, submitted
from airflow_provider_segstats.waiting import WaitsForTask

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.codec import Format


class RefreshSegmentOperator(WaitsForTask):
    """Starts the recount of a segment's subscription counters and, when asked, waits for it.

    Pushes the remote task's id to XCom under the key ``task_id``, before any wait. Returns that id, or,
    with ``wait_for_completion``, the counters as rows
    (:meth:`~airflow_provider_segstats.model.TaskStatus.rows`). A retry goes on with the recount that an
    earlier try started (Airflow 3.3), unless that failed; a cleared task starts a new one. The API has
    no cancel: a killed task's recount goes on at the server.

    API page: "Update statistics on segment", ``POST segments/refresh_counters``.

    :param segment_id: the segment, a whole number (templated)
    :param resource_id: its resource, a whole number (templated)
    :param db_id: its database, needed for dynamic segments only (templated)
    :param extra_params: further body parameters for newer servers, such as ``{"list_id": 3}`` (templated)
    :param format: ``json`` or ``xml``; the connection's unless given
    :param segstats_conn_id: the Airflow connection (templated)
    :param wait_for_completion: wait for the recount and return its counters
    :param deferrable: wait in the triggerer, without a worker slot
    :param on_ambiguous_submit: what to do when the server may have accepted a submit whose answer was
        lost: ``fail`` without retries, or ``resubmit``, which may count the segment twice
    :param poke_interval: seconds between looks; by default they grow from 3 to 60 s with the time waited
    :param timeout: seconds (or timedelta) the wait may take, 6 hours by default; counts anew in a retry
    :param max_poll_failures: looks that may fail in a row before the try fails
    """

    template_fields: Sequence[str] = (
        "segment_id",
        "resource_id",
        "db_id",
        "extra_params",
        "segstats_conn_id",
    )
    ui_color = "#dff0e4"
    reschedule = False

    def __init__(
        self,
        *,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        extra_params: Mapping[str, Any] | None = None,
        format: Format | None = None,  # noqa: A002 - the API's word
        segstats_conn_id: str = SegStatsHook.default_conn_name,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        on_ambiguous_submit: OnAmbiguousSubmit = "fail",
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        max_poll_failures: int = MAX_POLL_FAILURES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_id("segment_id", segment_id)
        check_id("resource_id", resource_id)
        check_id("db_id", db_id, optional=True)
        check_params(extra_params)
        check_format(format)
        if on_ambiguous_submit not in get_args(OnAmbiguousSubmit):
            raise ConfigurationError(
                f"on_ambiguous_submit can be 'fail' or 'resubmit', not {on_ambiguous_submit!r}"
            )
        self.segment_id = segment_id
        self.resource_id = resource_id
        self.db_id = db_id
        self.extra_params = extra_params
        self.format = format
        self.segstats_conn_id = segstats_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.on_ambiguous_submit = on_ambiguous_submit
        self.poke_interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
        self.timeout = seconds("timeout", timeout)
        self.max_poll_failures = check_count("max_poll_failures", max_poll_failures)

    def execute(self, context: Context) -> str | list[Row]:
        """Start the recount (or go on with an earlier try's) and return its id, or wait for its rows."""
        try:
            segment_id = required_id("segment_id", self.segment_id)
            task_id = self._earlier(context) or self._submit(context, segment_id)
        except SegStatsError as error:
            self.give_up(context, error)
        context["ti"].xcom_push(key="task_id", value=task_id)
        return self.wait(context, task_id, segment_id) if self.wait_for_completion else task_id

    def give_up(self, context: Context, error: SegStatsError) -> NoReturn:
        """Raise for Airflow; forget a failed recount first, so that a retry starts a new one."""
        if isinstance(error, TaskFailedError) and (store := context.get("task_state_store")):
            store.delete(STORE_KEY)
        super().give_up(context, error)

    def _submit(self, context: Context, segment_id: int) -> str:
        store = context.get("task_state_store")
        life = _life(context)
        self.hook.get_conn()  # an intent is kept for what may go wrong once a request can leave
        if store:
            store.set(STORE_KEY, intent(life))
        try:
            task_id = self.hook.refresh_counters(
                segment_id,
                required_id("resource_id", self.resource_id),
                as_id("db_id", self.db_id, optional=True),
                as_params(self.extra_params),
                self.on_ambiguous_submit,
            )
        except SegStatsError as error:
            if store and not isinstance(error, AmbiguousSubmitError) and not may_have_been_accepted(error):
                store.delete(STORE_KEY)
            raise
        self.log.info("Started the recount of segment %d: task %s", segment_id, task_id)
        if store:
            store.set(STORE_KEY, submitted(life, task_id))
        return task_id

    def _earlier(self, context: Context) -> str | None:
        """Return the id of the recount that an earlier try started, if it is worth going on with."""
        store = context.get("task_state_store")
        if store is None:
            if context["ti"].try_number > 1:
                self.log.warning(
                    "This Airflow has no task_state_store (it came with 3.3), so this try cannot know "
                    "whether an earlier one submitted: the segment may be counted twice"
                )
            return None
        earlier = recall(store.get(STORE_KEY), _life(context))
        if earlier is None:
            return None
        if not isinstance(earlier, Submitted):
            if self.on_ambiguous_submit == "resubmit":
                self.log.warning("An earlier try may have submitted already; submitting as asked")
                return None
            raise AmbiguousSubmitError(
                "an earlier try may or may not have submitted the recount; check the platform, then "
                "clear the task, or set on_ambiguous_submit='resubmit'",
                connection=self.segstats_conn_id,
                endpoint="segments/refresh_counters",
            )
        return earlier.task_id if self._is_worth_going_on(earlier.task_id) else None

    def _is_worth_going_on(self, task_id: str) -> bool:
        hook = self.hook
        settings = hook.get_conn()
        try:
            status = hook.task_status(task_id)
        except ApiError as error:
            if error.code in settings.unknown_task_codes:
                self.log.warning("The server does not know task %s any more; submitting anew", task_id)
                return False
        except SegStatsError as error:
            self.log.warning("Could not look at task %s: %s", task_id, error)
        else:
            if status.status.lower() in settings.failure_statuses:
                self.log.warning("Task %s ended as '%s'; submitting anew", task_id, status.status)
                return False
        self.log.info("Going on with task %s, which an earlier try started", task_id)
        return True


def _life(context: Context) -> Life:
    return Life(context["ti"].max_tries, getattr(context["dag_run"], "clear_number", None) or 0)
