"""Transfers: counters out of XCom into a database, and out of that into a report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.arguments import (
    ChecksArguments,
    as_ids,
    as_rows,
    check_count,
    check_ids,
    is_template,
)
from airflow_provider_segstats.tasks.boundary import airflow_error

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_provider_segstats.lineage import Lineage


class SegmentCountersToSqlOperator(ChecksArguments):
    """Adds rows of counters to a table in PostgreSQL, SQLite or a database that speaks as they do.

    The table is :mod:`~airflow_provider_segstats.history`'s: one row for each observation, only ever
    added, so that a retry, a clear or a second run at the same time never doubles one, and a rerun whose
    rows have a newer ``updated`` adds to it. The counters, whichever there are, stand in one JSON column.
    All rows are written or, on any error, none.

    A row without ``segment_id`` fails the task without retries before anything is written. A row whose
    ``updated`` is empty was counted at no known instant and is left out, with a warning. Returns
    ``{"inserted": …, "already_there": …, "undated": …}``. Needs apache-airflow-providers-common-sql and
    the provider of the database.

    :param rows: a list of rows (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`), as the sensor
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
        self.rows = rows
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.create_table = create_table
        self.segstats_conn_id = segstats_conn_id
        self._segment_ids: Collection[int] = ()
        self._inserted: int | None = None  # until it is known
        with self.checking():
            history.check_table(table)

    def execute(self, context: Context) -> dict[str, int]:  # noqa: ARG002 - Airflow's signature
        """Add the rows that are not there yet and return how many of each."""
        try:
            self.refuse_arguments()
            source = SegStatsHook(self.segstats_conn_id).get_conn().account
            rows = as_rows(self.rows)
            observations = [seen for row in rows if (seen := history.observed(row, source))]
            self._segment_ids = dict.fromkeys(seen.segment_id for seen in observations)
            hook = history.database(self.sql_conn_id)
            if self.create_table:
                history.create(hook, self.table)
            counts = history.write(hook, self.table, observations)
            self._inserted = counts["inserted"]
        except SegStatsError as error:
            raise airflow_error(error) from None
        if undated := len(rows) - len(observations):
            self.log.warning("%d rows have no updated, so they are no observations and left out", undated)
        self.log.info("%s: %d inserted, %d already there", self.table, *counts.values())
        return {**counts, "undated": undated}

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that segments went into the table; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_load

        hook = SegStatsHook(self.segstats_conn_id)
        return of_load(hook, self._segment_ids, self.sql_conn_id, self.table, self._inserted)


class SegmentReportOperator(ChecksArguments):
    """Writes a report of the history: an HTML page, with its figures as CSV and Parquet beside it.

    It covers the last days until the run's ``run_after``, which names the files
    (``segments-20260203T030000Z.html``), so a retry or a clear writes the same files again. What is in them
    says :func:`~airflow_provider_segstats.report.write_report`. Returns their places as
    ``{"html": …, "csv": …, "parquet": …}``.

    With nothing to report, or a folder that is none, the task fails without retries. Needs the extras ``sql``
    and ``report``, the provider of the database and that of the folder's storage.

    :param sql_conn_id: the Airflow connection of the database (templated)
    :param folder: where to write, an absolute path or a URL that Airflow's ObjectStoragePath takes, such as
        ``s3://aws_default@bucket/reports``; made unless it is there (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param segstats_conn_id: the Airflow connection whose ``account`` is reported; by default all accounts
        that the table has (templated)
    :param failed: ids of the segments that the last night could not count (templated; a template of text
        ends in ``| tojson``)
    :param counter: the counter to show; the others stand beside it (templated)
    :param days: how far back the trends go
    """

    template_fields: Sequence[str] = (
        "sql_conn_id",
        "folder",
        "table",
        "segstats_conn_id",
        "failed",
        "counter",
    )
    ui_color = "#e6def0"

    def __init__(
        self,
        *,
        sql_conn_id: str,
        folder: str,
        table: str = history.DEFAULT_TABLE,
        segstats_conn_id: str | None = None,
        failed: Collection[int] | str | None = None,
        counter: str = "subscribed_sendable",
        days: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id = sql_conn_id
        self.folder = folder
        self.table = table
        self.segstats_conn_id = segstats_conn_id
        self.failed = failed
        self.counter = counter
        self._places: dict[str, str] = {}
        with self.checking():
            history.check_table(table)
            check_ids("failed", failed, may_be_empty=True)
            if isinstance(folder, str) and not is_template(folder):
                _check_folder(folder)
            self.days = check_count("days", days)

    def execute(self, context: Context) -> dict[str, str]:
        """Write the files and return their places."""
        from airflow_provider_segstats.report import write_report

        now, conn_id = context["dag_run"].run_after, self.segstats_conn_id
        try:
            self.refuse_arguments()
            folder = _folder(self.folder)
            failed = as_ids("failed", self.failed, may_be_empty=True) or ()
            observations = history.last_of_each_night(
                history.database(self.sql_conn_id),
                self.table,
                since=(now - timedelta(days=self.days)).date(),
                source=SegStatsHook(conn_id).get_conn().account if conn_id else None,
            )
            self._places = write_report(
                observations,
                folder,
                f"segments-{now:%Y%m%dT%H%M%SZ}",
                now=now,
                counter=self.counter,
                days=self.days,
                failed=failed,
            )
        except SegStatsError as error:
            raise airflow_error(error) from None
        self.log.info("The report is at %s", self._places["html"])
        return self._places

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that the table went into the files; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_report

        return of_report(self.sql_conn_id, self.table, self._places.values())


def _check_folder(folder: Any) -> None:
    if not isinstance(folder, str) or not (folder.startswith("/") or "://" in folder):
        raise ConfigurationError(f"folder must be an absolute path or a URL, not {folder!r}")


def _folder(value: Any) -> ObjectStoragePath:
    """Return a rendered folder that can be written to as far as its URL goes."""
    from airflow.sdk import ObjectStoragePath

    _check_folder(value)
    if value.startswith("file://"):
        value = unquote(value)  # which fsspec would take as the name of another folder
    try:
        folder = ObjectStoragePath(value)
        _ = folder.fs  # raises where nobody knows the scheme, or its provider lacks a library
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"a report cannot be written to {value}: {error}") from None
    return folder
