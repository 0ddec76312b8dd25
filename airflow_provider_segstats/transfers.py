"""Transfers: counters out of XCom, into a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_segstats import history
from airflow_provider_segstats.arguments import as_rows
from airflow_provider_segstats.boundary import airflow_error
from airflow_provider_segstats.errors import SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook

if TYPE_CHECKING:
    from airflow.sdk import Context


class SegmentCountersToSqlOperator(BaseOperator):
    """Adds rows of counters to a table in PostgreSQL, SQLite or a database that speaks as they do.

    The table is :mod:`~airflow_provider_segstats.history`'s: one row for each observation, only ever
    added, so that a retry, a clear or a second run at the same time never doubles one, and a rerun whose
    rows have a newer ``updated`` adds to it. The counters, whichever there are, stand in one JSON column.
    All rows are written or, on any error, none.

    A row without ``segment_id`` fails the task without retries before anything is written. A row whose
    ``updated`` is empty was counted at no known instant and is left out, with a warning. Returns
    ``{"inserted": …, "already_there": …, "undated": …}``. Needs apache-airflow-providers-common-sql and
    the provider of the database.

    :param rows: a list of rows (:meth:`~airflow_provider_segstats.model.TaskStatus.rows`), as the sensor
        and the operators return; the output of such a task when it is mapped; or a dict with the rows under
        ``rows``, as the nightly DAG's ``gather`` returns (templated; a template of text ends in ``| tojson``)
    :param sql_conn_id: the Airflow connection of the database (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param create_table: create the table when it is not there
    :param segstats_conn_id: the Airflow connection that the rows came by; its ``account`` becomes their
        ``source`` (templated)
    """

    template_fields: Sequence[str] = ("rows", "sql_conn_id", "table", "segstats_conn_id")
    ui_color = "#dfe9f0"

    def __init__(
        self,
        *,
        rows: Any,
        sql_conn_id: str,
        table: str = history.DEFAULT_TABLE,
        create_table: bool = False,
        segstats_conn_id: str = SegStatsHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        history.check_table(table)
        self.rows = rows
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.create_table = create_table
        self.segstats_conn_id = segstats_conn_id

    def execute(self, context: Context) -> dict[str, int]:  # noqa: ARG002 - Airflow's signature
        """Add the rows that are not there yet and return how many of each."""
        try:
            source = SegStatsHook(self.segstats_conn_id).get_conn().account
            rows = as_rows(self.rows)
            observations = [seen for row in rows if (seen := history.observed(row, source))]
            hook = history.database(self.sql_conn_id)
            if self.create_table:
                history.create(hook, self.table)
            counts = history.write(hook, self.table, observations)
        except SegStatsError as error:
            raise airflow_error(error) from None
        if undated := len(rows) - len(observations):
            self.log.warning("%d rows have no updated, so they are no observations and left out", undated)
        self.log.info("%s: %d inserted, %d already there", self.table, *counts.values())
        return {**counts, "undated": undated}
