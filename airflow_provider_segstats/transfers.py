"""Transfers: counters out of XCom into a database, and out of that into a report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_segstats import history, links
from airflow_provider_segstats.assets import nights_of
from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.metrics import METER
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.report import write_report
from airflow_provider_segstats.report.baseline import NIGHTS
from airflow_provider_segstats.report.findings import check_rules, rules_of
from airflow_provider_segstats.report.past import read
from airflow_provider_segstats.tasks.arguments import (
    ChecksArguments,
    as_mapping,
    check_count,
    is_template,
)

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Asset, Context, ObjectStoragePath

    from airflow_provider_segstats.core.settings import Settings
    from airflow_provider_segstats.lineage import Lineage

_NAMED = 100  # unreadable rows, in the log and in XCom
_FORGOTTEN = timedelta(days=400)  # events are older than that nowhere


class SegmentCountersToSqlOperator(ChecksArguments):
    """Adds rows of counters, and what became of each segment, to the tables of history in a SQL database.

    The tables are :mod:`~airflow_provider_segstats.history`'s. An observation is only ever added, so that a
    retry, a clear or a second run at the same time never doubles one, and a rerun whose rows have a newer
    ``updated`` adds to it. All is written or, on any error, nothing. PostgreSQL, SQLite, DuckDB, MariaDB and
    MySQL; Snowflake, BigQuery and Redshift by statements that were checked, not run.

    A row without ``segment_id`` fails the task without retries before anything is written. A row whose
    ``updated`` is empty or a server's zero was never counted and is left out; so is one that cannot be
    read or stored, which is listed with its segment. Rows bring their account as ``source``. Returns
    ``{"inserted": …, "already_there": …, "undated": …, "unreadable": [lines], "failed": [ids],
    "listed": [ids]}``, the last two what the last night did not count and all that it was to. Needs
    apache-airflow-providers-common-sql and the provider of the database.

    :param rows: a list of rows (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`), as the sensor
        and the operators return; the output of such a task when it is mapped; a night, which is a dict with
        the rows under ``rows`` (:mod:`~airflow_provider_segstats.history.intake`); or a list of nights
        (templated; a template of text ends in ``| tojson``)
    :param summary: the XCom ``summary`` of the RefreshSegmentsOperator that the rows come from, which knows
        what failed: ``refresh.output["summary"]`` (templated)
    :param asset: instead of ``rows``, the asset whose nights to load: those whose events triggered the run,
        or, in a run that none triggered, those of the last 60 events that the history does not know
    :param sql_conn_id: the Airflow connection of the database (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param create_table: create what is missing of the tables
    :param segstats_conn_id: the Airflow connection that the rows came by; its ``account`` is the ``source``
        of rows that do not know theirs, its ``time_zone`` tells which date a night has (templated)
    """

    template_fields: Sequence[str] = ("rows", "summary", "sql_conn_id", "table", "segstats_conn_id")
    ui_color = "#dfe9f0"
    operator_extra_links = (links.PageLink(),)

    def __init__(
        self,
        *,
        sql_conn_id: str,
        rows: Any = None,
        summary: Any = None,
        asset: Asset | None = None,
        table: str = history.DEFAULT_TABLE,
        create_table: bool = False,
        segstats_conn_id: str = SegStatsHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if asset is not None:
            self.add_inlets([asset])  # where events are found that did not trigger the run
        self.rows = rows
        self.summary = summary
        self.asset = asset
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.create_table = create_table
        self.segstats_conn_id = segstats_conn_id
        self._segment_ids: Collection[int] = ()
        self._inserted: int | None = None  # until it is known
        with self.checking():
            history.check_table(table)
            if (rows is None) == (asset is None):
                raise ConfigurationError("a load has either rows or an asset")

    def execute(self, context: Context) -> dict[str, Any]:
        """Add what is not there yet and return how much of each there was."""
        links.show(self, context)
        intake, run = history.Intake(), context.get("dag_run")
        try:
            self.refuse_arguments()
            settings = SegStatsHook(self.segstats_conn_id).get_conn()
            hook = history.database(self.sql_conn_id)
            if self.asset is None:  # looked at before anything is created
                self._take(intake, history.as_nights(self.rows, self.summary), settings, run)
            if self.create_table:
                history.create(hook, self.table)
            if self.asset is not None:
                known = history.runs(hook, self.table, since=date.today() - _FORGOTTEN)  # noqa: DTZ011 - about
                self._take(intake, nights_of(context, self.asset, known), settings, run)
            counts = history.write(hook, self.table, intake.observations, intake.outcomes)
            self._inserted = counts["inserted"]
        except SegStatsError as error:
            raise airflow_error(error) from None
        METER.count("rows_loaded", counts["inserted"])
        for line in intake.unreadable[:_NAMED]:
            self.log.warning("Left out: %s", line)
        self.log.info(
            "%s: %d inserted, %d already there; left out: %d unreadable, %d without a time, %d not recounted",
            self.table,
            *counts.values(),
            len(intake.unreadable),
            intake.undated,
            intake.not_recounted,
        )
        if self._inserted:
            self._log_change(hook, settings.account)
        return {
            **counts,
            "undated": intake.undated,
            "unreadable": intake.unreadable[:_NAMED],
            "failed": intake.failed,
            "listed": intake.listed,
        }

    def _log_change(self, hook: DbApiHook, source: str) -> None:
        latest = history.latest(hook, self.table, source=source)
        newest = max((one.night for one in latest), default=None)
        changes = [one.night_change for one in latest if one.night == newest and one.night_change is not None]
        if changes:
            line = "%s: since the night before %s changed by %+d, over the %d segments that both counted"
            self.log.info(line, source, history.NOTABLE, sum(changes), len(changes))

    def _take(
        self, intake: history.Intake, nights: Iterable[Mapping[str, Any]], settings: Settings, run: Any
    ) -> None:
        for night in nights:
            intake.take(night, settings.account, settings.time_zone, run)
        self._segment_ids = dict.fromkeys(seen.segment_id for seen in intake.observations if seen.segment_id)

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that segments went into the table; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_load

        hook = SegStatsHook(self.segstats_conn_id)
        return of_load(hook, self._segment_ids, self.sql_conn_id, self.table, self._inserted)


class SegmentReportOperator(ChecksArguments):
    """Writes a report of the history: an HTML page, with its figures as CSV and Parquet beside it.

    It covers the nights that were due by the run's ``run_after``, or by the newest asset event that triggered
    it, whenever they ended, and says what it leaves out. The run names the files
    (``segments-20260203T030000Z.html``), so a retry or a clear writes the same files again;
    ``latest.html`` beside them is a copy of the newest page. What is in them says
    :func:`~airflow_provider_segstats.report.write_report`. Returns their places as
    ``{"html": …, "csv": …, "parquet": …}``.

    With nothing to report, or a folder that is none, the task fails without retries. Needs the extras ``sql``
    and ``report``, the provider of the database and that of the folder's storage.

    :param sql_conn_id: the Airflow connection of the database (templated)
    :param folder: where to write, an absolute path or a URL that Airflow's ObjectStoragePath takes, such as
        ``s3://aws_default@bucket/reports``; made unless it is there (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param segstats_conn_id: the Airflow connection whose ``account`` is reported; by default all accounts
        that the table has (templated)
    :param rules: what the check is given, by name, so that both find the same: ``{"max_drop": 0.2,
        "segment_ids": [7, 8]}``, the latter with ``segstats_conn_id`` only (templated)
    :param counter: the counter to show, which is checked, too; the others stand beside it (templated)
    :param days: how far back the trends go
    """

    template_fields: Sequence[str] = (
        "sql_conn_id",
        "folder",
        "table",
        "segstats_conn_id",
        "rules",
        "counter",
    )
    ui_color = "#e6def0"
    operator_extra_links = (links.ReportLink(), links.PageLink())

    def __init__(
        self,
        *,
        sql_conn_id: str,
        folder: str,
        table: str = history.DEFAULT_TABLE,
        segstats_conn_id: str | None = None,
        rules: Mapping[str, Any] | str | None = None,
        counter: str = history.NOTABLE,
        days: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id = sql_conn_id
        self.folder = folder
        self.table = table
        self.segstats_conn_id = segstats_conn_id
        self.rules = rules
        self.counter = counter
        self._places: dict[str, str] = {}
        with self.checking():
            history.check_table(table)
            if isinstance(rules, Mapping):
                check_rules(rules)
            if isinstance(folder, str) and not is_template(folder):
                _check_folder(folder)
            self.days = check_count("days", days)

    def execute(self, context: Context) -> dict[str, str]:
        """Write the files and return their places."""
        links.show(self, context)
        run_after, conn_id = context["dag_run"].run_after, self.segstats_conn_id
        try:
            self.refuse_arguments()
            folder, rules = _folder(self.folder), rules_of(as_mapping("rules", self.rules))
            if rules.segment_ids is not None and not conn_id:
                raise ConfigurationError("segment_ids are of one account: name its segstats_conn_id")
            past = read(
                history.database(self.sql_conn_id),
                self.table,
                source=SegStatsHook(conn_id).get_conn().account if conn_id else None,
                now=max([run_after, *_triggered(context)]),
                days=max(self.days, NIGHTS),
            )
            self._places = write_report(
                past,
                folder,
                f"segments-{run_after:%Y%m%dT%H%M%SZ}",
                rules=rules,
                counter=self.counter,
                days=self.days,
            )
        except SegStatsError as error:
            raise airflow_error(error) from None
        self.log.info("The report is at %s", self._places["html"])
        return self._places

    @property
    def report_name(self) -> str | None:
        """The page's file name, as soon as it was written."""
        return self._places["html"].rpartition("/")[2] if self._places else None

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that the table went into the files; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_report

        return of_report(self.sql_conn_id, self.table, self._places.values())


def _triggered(context: Context) -> Iterator[datetime]:
    """Yield when the asset events came that triggered the run."""
    for events in (context.get("triggering_asset_events") or {}).values():
        yield from (event.timestamp for event in events)


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
