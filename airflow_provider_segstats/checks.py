"""Checks: an alarm when the counters in the table of history look wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.report.findings import Finding, Limits, find
from airflow_provider_segstats.tasks.arguments import (
    ChecksArguments,
    as_ids,
    as_number,
    check_count,
    check_ids,
    check_number,
)
from airflow_provider_segstats.tasks.boundary import airflow_error

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.lineage import Lineage

XCOM_KEY = "findings"
_NAMED = 5  # findings in the error's line
_MANY_HOURS = 24 * 366 * 100


class SegmentCountersCheckOperator(ChecksArguments):
    """Fails when counters in the table of history look wrong. Run it after they were loaded.

    Each segment's newest day is held against the last earlier day that has it. A counter that fell by
    more than ``max_drop``, a channel (or one of its counters) that vanished, a segment last counted more
    than ``max_age_hours`` ago and one never counted are findings. A change is found once: the day after,
    it is what the next is held against.

    With findings the task fails without retries, in one line that names the first of them. All stand in
    XCom under ``findings``, also none (an empty list): dicts of ``kind`` (``fell``, ``vanished``,
    ``stale`` or ``missing``), ``segment_id``, ``list_id``, ``resource_id``, ``channel``, ``counter``,
    ``before``, ``after`` and ``updated``, with None for what does not apply.

    :param sql_conn_id: the Airflow connection of the database (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param segstats_conn_id: the Airflow connection whose ``account`` is checked (templated)
    :param segment_ids: the segments to check, each of which must have been counted; by default those
        that were in the last ``days_back`` days (templated)
    :param max_drop: the share that a counter may lose, from 0 to 1 (templated)
    :param min_count: what a counter must have been to be compared at all (templated)
    :param max_age_hours: how long ago a segment may have been counted last (templated)
    :param days_back: how many days back to look
    """

    template_fields: Sequence[str] = (
        "sql_conn_id",
        "table",
        "segstats_conn_id",
        "segment_ids",
        "max_drop",
        "min_count",
        "max_age_hours",
    )
    ui_color = "#f6e3d5"

    def __init__(
        self,
        *,
        sql_conn_id: str,
        table: str = history.DEFAULT_TABLE,
        segstats_conn_id: str = SegStatsHook.default_conn_name,
        segment_ids: Collection[int] | str | None = None,
        max_drop: float | str = 0.5,
        min_count: int | str = 10,
        max_age_hours: float | str = 12,
        days_back: int = 7,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.segstats_conn_id = segstats_conn_id
        self.segment_ids = segment_ids
        self.max_drop = max_drop
        self.min_count = min_count
        self.max_age_hours = max_age_hours
        self._findings: list[Finding] | None = None  # until they are known
        with self.checking():
            history.check_table(table)
            check_ids("segment_ids", segment_ids)
            check_number("max_drop", max_drop, 1)
            check_number("min_count", min_count)
            check_number("max_age_hours", max_age_hours, _MANY_HOURS)
            self.days_back = check_count("days_back", days_back)

    def execute(self, context: Context) -> None:
        """Fail with what looks wrong, if anything does."""
        try:
            self.refuse_arguments()
            findings = self._findings = self._find()
        except SegStatsError as error:
            raise airflow_error(error) from None
        context["ti"].xcom_push(key=XCOM_KEY, value=[finding.as_row() for finding in findings])
        if findings:
            named = "; ".join(str(finding) for finding in findings[:_NAMED])
            more = f"; and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
            what = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
            raise AirflowFailException(f"{what} in {self.table}: {named}{more}")

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return how the table did in the check; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_check

        return of_check(self.sql_conn_id, self.table, self._findings)

    def _find(self) -> list[Finding]:
        segment_ids = as_ids("segment_ids", self.segment_ids)
        limits = Limits(
            max_drop=as_number("max_drop", self.max_drop, 1),
            min_count=as_number("min_count", self.min_count),
            max_age=timedelta(hours=as_number("max_age_hours", self.max_age_hours, _MANY_HOURS)),
        )
        now = datetime.now(tz=timezone.utc)
        observations = history.last_of_each_night(
            history.database(self.sql_conn_id),
            self.table,
            since=(now - timedelta(days=self.days_back)).date(),
            source=SegStatsHook(self.segstats_conn_id).get_conn().account,
            segment_ids=segment_ids,
        )
        findings = find(observations, limits, now, segment_ids)
        self.log.info("%s: %d observations, %d findings", self.table, len(observations), len(findings))
        return findings
