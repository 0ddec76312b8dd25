"""Sensors: wait for a recount that something else started."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

from airflow_provider_segstats import links
from airflow_provider_segstats.boundary.versions import conf
from airflow_provider_segstats.core.defaults import DEFAULT_CONN_ID, DEFAULT_TIMEOUT, MAX_POLL_FAILURES
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.core.ids import as_id
from airflow_provider_segstats.tasks.arguments import check_count, check_format, check_id, check_kind, seconds
from airflow_provider_segstats.tasks.waiting import WaitsForTask

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.core.defaults import Format
    from airflow_provider_segstats.core.model import Kind, Row
    from airflow_provider_segstats.lineage import Lineage


class TaskStatusSensor(WaitsForTask, BaseSensorOperator):
    """Waits for a remote task and returns its counters as rows.

    The same outcome in poke, reschedule and deferrable mode; ``deferrable`` wins over ``mode``. Rows are
    :meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`; a task without entries gives an empty list.
    A remote task that failed fails the sensor without retries: it cannot start another.

    API page: "Checking the task status", ``POST tasks/status``.

    :param refresh_task_id: the remote task's id (templated; ``.expand(refresh_task_id=submit.output)``)
    :param segment_id: labels the rows, since the API's result does not carry it (templated)
    :param kind: labels the rows of a database or a resource: ``database`` or ``resource``
    :param format: ``json`` or ``xml``; the connection's unless given
    :param segstats_conn_id: the Airflow connection (templated)
    :param deferrable: wait in the triggerer, without a worker slot
    :param poke_interval: seconds between looks; by default they grow from 3 to 60 s with the time
        waited. In reschedule mode never less than 30 s
    :param timeout: seconds (or timedelta) since the try's first start, 6 hours by default. Airflow's
        ``[sensors] default_timeout`` does not count: operators wait alike, and are no sensors
    :param max_poll_failures: looks that may fail in a row before the try fails
    :param soft_fail: permanent errors and timeouts skip the task, errors worth a retry do not
    :param mode: ``poke`` or ``reschedule``
    """

    template_fields: Sequence[str] = ("refresh_task_id", "segment_id", "segstats_conn_id")
    failed_task_is_permanent = True

    def __init__(
        self,
        *,
        refresh_task_id: str,
        segment_id: int | str | None = None,
        kind: Kind = "segment",
        format: Format | None = None,  # noqa: A002 - the API's word
        segstats_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        max_poll_failures: int = MAX_POLL_FAILURES,
        soft_fail: bool = False,
        mode: str = "poke",
        **kwargs: Any,
    ) -> None:
        known = mode in self.valid_modes
        super().__init__(soft_fail=soft_fail, mode=mode if known else "poke", **kwargs)
        self.refresh_task_id = refresh_task_id
        self.segment_id = segment_id
        self.kind = kind
        self.format = format
        self.segstats_conn_id = segstats_conn_id
        self.deferrable = deferrable
        with self.checking():
            if not known:
                raise ConfigurationError(f"mode can be 'poke' or 'reschedule', not {mode!r}")
            for name in ("never_fail", "silent_fail", "exponential_backoff", "max_wait"):
                if getattr(self, name):  # also from default_args, which only the base's constructor sees
                    raise ConfigurationError(f"{name} is not supported: Airflow's modes disagree on it")
            check_id("segment_id", segment_id, optional=True)
            check_kind(kind)
            check_format(format)
            if refresh_task_id is None or (isinstance(refresh_task_id, str) and not refresh_task_id.strip()):
                raise ConfigurationError("refresh_task_id is empty")
            self.poke_interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
            self.max_poll_failures = check_count("max_poll_failures", max_poll_failures)

    def execute(self, context: Context) -> list[Row]:
        """Wait for the task and return its rows."""
        links.show(self, context)
        try:
            self.refuse_arguments()
            segment_id = as_id("segment_id", self.segment_id, optional=True)
            task_id = self.refresh_task_id
            if isinstance(task_id, int) and not isinstance(task_id, bool):
                task_id = str(task_id)  # rendered as a native object
            if not isinstance(task_id, str) or task_id in {"", "None"}:
                raise ConfigurationError(f"refresh_task_id must be the remote task's id, not {task_id!r}")
        except SegStatsError as error:
            self.give_up(context, error)
        return self.wait(context, task_id, segment_id)

    def labelled(self, rows: list[Row]) -> list[Row]:
        """Return the rows with their kind, unless that is ``segment``."""
        return rows if self.kind == "segment" else [{"kind": self.kind, **row} for row in rows]

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that the segment was waited for; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_wait

        segment_id = as_id("segment_id", self.segment_id, optional=True)
        return of_wait(self.hook, [] if segment_id is None else [segment_id])
