"""The tasks of the nightly DAGs, for one account of the platform or several.

The examples in ``dags/`` are made of :func:`count_night` and :func:`report_nights`, once for each of
:func:`accounts`. So a second account is one more entry in Airflow's option ``[segstats] accounts``.

Variables are read in the first task of a run. One that is absent, cannot be read or is not what it should be
fails it in one line that says which; while Airflow's own API server is away it is tried again.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from airflow.sdk import Asset, get_current_context, task

from airflow_provider_segstats import history
from airflow_provider_segstats.assets import MOST, publish_night, segments_alias, segments_asset
from airflow_provider_segstats.boundary import lookups
from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.versions import AirflowFailException, conf
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.core.defaults import DEFAULT_CONN_ID, DEFAULT_IN_FLIGHT
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import Segment, titled
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.operators import RefreshSegmentsOperator
from airflow_provider_segstats.tasks.segments import as_segments, listed_in
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Account:
    """An account of the platform, by its Airflow connection."""

    conn_id: str

    @property
    def asset(self) -> Asset:
        """What a night of it is published as."""
        return segments_asset(self.conn_id)

    def named(self, name: str) -> str:
        """Return a DAG's or a Variable's name for this account: that of the default one is the bare name."""
        suffix = "" if self.conn_id == DEFAULT_CONN_ID else f"_{self.conn_id}"
        return name + re.sub(r"[^\w.-]", "_", suffix)


def accounts() -> list[Account]:
    """Return the accounts to count: the connections in Airflow's option ``[segstats] accounts``.

    Their ids are separated by commas, as in ``AIRFLOW__SEGSTATS__ACCOUNTS``; ``segstats_default`` unless set.
    """
    listed = conf.get("segstats", "accounts", fallback="") or DEFAULT_CONN_ID
    return [Account(conn_id) for conn_id in dict.fromkeys(map(str.strip, listed.split(","))) if conn_id]


def count_night(
    account: Account, *, max_in_flight: int = DEFAULT_IN_FLIGHT, timeout: timedelta = timedelta(hours=2)
) -> None:
    """Add to a DAG the tasks that recount an account's segments and publish them as one asset event.

    Which segments: the list, or the selection, ``segments`` of a run's own params, else that of the Variable
    ``segstats_segments`` (:meth:`Account.named`). An entry that is neither a segment nor a selection costs
    itself alone: it is among what failed.
    """
    asset, alias = account.asset, segments_alias(account.conn_id)

    @task(retries=2, multiple_outputs=True)
    @_in_one_line
    def list_segments() -> dict[str, Any]:
        """Return the night's segments as arguments for the refresh; refuse a backfill."""
        context = get_current_context()
        if context["dag_run"].run_type == "backfill":
            raise AirflowFailException(
                "a backfill would store today's counters as another day's: the API only knows now"
            )
        name = account.named("segstats_segments")
        listed, whose = context["params"].get("segments"), "the run's param segments"
        if listed is None:
            listed, whose = _json_of(name), f"the Variable '{name}'"
        segments, refused = _sorted_out(listed, whose)
        segments = _named(segments, SegStatsHook(account.conn_id))
        for_each = _flag("segstats_events_for_each")
        return {"segments": segments, "refused": refused, "events_for_each": for_each}

    @task(
        trigger_rule="all_done",
        outlets=[asset, alias],
        inlets=[asset],  # where the night before is found
        retries=3,
        multiple_outputs=False,
    )
    @_in_one_line
    def gather() -> dict[str, Any]:
        """Publish the night: all rows, and which segments succeeded and failed."""
        context = get_current_context()
        ti, run = context["ti"], context["dag_run"]
        summary = ti.xcom_pull(task_ids=refresh.task_id, key="summary")
        if not (summary and summary["ok"]):
            raise AirflowFailException("no segment was counted, nothing is published: see the task refresh")
        refused, events_for_each = (
            ti.xcom_pull(task_ids=listed.operator.task_id, key=key) for key in ("refused", "events_for_each")
        )
        settings = SegStatsHook(account.conn_id).get_conn()
        night = {
            "source": settings.account,
            "dag_id": run.dag_id,
            "run_id": run.run_id,
            "run_after": run.run_after.isoformat(),
            "night": history.night_of(run.run_after, settings.time_zone).isoformat(),
            "ok": summary["ok"],
            "failed": {**_by_id(refused, besides=summary["ok"]), **summary["failed"]},
            "not_submitted": summary["not_submitted"],
            "names": summary["names"],
            "refused": [why for _, why in refused],
            "rows": ti.xcom_pull(task_ids=refresh.task_id),
        }
        log.info(
            "%d ok, %d failed, %d not submitted, %d entries refused, %d submits, %.0f seconds",
            len(night["ok"]),
            len(night["failed"]),
            len(night["not_submitted"]),
            len(night["refused"]),
            summary["submits"],
            time.time() - (run.start_date or run.run_after).timestamp(),
        )
        publish_night(context, night, segstats_conn_id=account.conn_id, events_for_each=events_for_each)
        return night

    @task
    def verdict(night: dict[str, Any]) -> None:
        """Fail the run when a segment failed; what succeeded is published already."""
        failed = [*map(int, night["failed"]), *night["not_submitted"]]
        titles = [titled("segment", one, night["names"].get(str(one))) for one in failed[:MOST]]
        more = [f"and {len(failed) - MOST} more"] if len(failed) > MOST else []
        lines = [f"not counted: {', '.join([*titles, *more])}"] if failed else []
        if lines := [*lines, *night["refused"]]:
            raise AirflowFailException("; ".join(lines))

    listed: Any = list_segments()
    refresh = RefreshSegmentsOperator(
        task_id="refresh",
        segments=listed["segments"],
        segstats_conn_id=account.conn_id,
        max_in_flight=max_in_flight,
        deferrable=True,
        on_ambiguous_submit="resubmit",  # a night that is whole is worth counting a segment twice
        timeout=timeout,
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
    night: Any = gather()
    refresh >> night
    verdict(night)


def report_nights(account: Account, *, folder: str) -> None:
    """Add to a DAG the tasks that bring an account's nights into the history, check it, and write a report.

    The nights are those whose events triggered the run; a run that is started by hand takes what the
    history has missed. Variables say where things are: ``segstats_history_conn_id`` (``segstats_history``),
    ``segstats_history_table`` (``segment_counters``) and ``segstats_report_path`` (``folder``).
    """

    @task(retries=2, multiple_outputs=True)
    @_in_one_line
    def where() -> dict[str, str]:
        """Return the history's connection and table, and the folder of the reports."""
        conn_id = lookups.variable("segstats_history_conn_id") or "segstats_history"
        table = lookups.variable("segstats_history_table") or history.DEFAULT_TABLE
        try:
            history.database(conn_id)
        except ConfigurationError as error:
            error.message += "; the Variable segstats_history_conn_id names another"
            raise
        try:
            history.check_table(table)
        except ConfigurationError as error:
            raise ConfigurationError(f"the Variable 'segstats_history_table': {error.message}") from None
        path = lookups.variable("segstats_report_path") or folder
        return {"sql_conn_id": conn_id, "table": table, "folder": f"{path.rstrip('/')}{account.named('')}"}

    place: Any = where()
    history_of: dict[str, Any] = {
        "sql_conn_id": place["sql_conn_id"],
        "table": place["table"],
        "segstats_conn_id": account.conn_id,
    }
    load = SegmentCountersToSqlOperator(
        task_id="load", asset=account.asset, create_table=True, retries=2, **history_of
    )
    listed = f"{{{{ (ti.xcom_pull(task_ids='{load.task_id}')['listed'] or none) | tojson }}}}"
    check = SegmentCountersCheckOperator(task_id="check", segment_ids=listed, **history_of)
    write = SegmentReportOperator(
        task_id="write", folder=place["folder"], rules={"segment_ids": listed}, retries=2, **history_of
    )
    load >> [check, write]


def _in_one_line(function: F) -> F:
    """Have our errors end a task as an operator's do."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SegStatsError as error:
            raise airflow_error(error) from None

    return call  # type: ignore[return-value]


def _json_of(name: str) -> Any:
    text = lookups.variable(name)
    if text is None:
        raise ConfigurationError(
            f"there is no Variable '{name}': set it to a list as "
            '[{"segment_id": 7, "resource_id": 24}] or a selection as {"ui_tags": ["weekly"], '
            '"resource_id": 24}, or give the run segments of its own'
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the Variable '{name}' is not JSON: {error}") from None


def _flag(name: str) -> bool:
    text = lookups.variable(name) or "false"
    if (value := _FLAGS.get(text.strip().lower())) is None:
        raise ConfigurationError(f"the Variable '{name}' must be true or false, not {text!r:.60}")
    return value


def _sorted_out(listed: Any, whose: str) -> tuple[list[Any], list[list[Any]]]:
    """Return the segments and selections in the list, and what is neither as ``[id or None, why]``."""
    segments: list[Any] = []
    refused: list[list[Any]] = []
    seen: set[int] = set()
    for entry in listed_in(whose, listed):
        try:
            number = _new_segment(entry, seen)
        except ConfigurationError as error:
            number = entry.get("segment_id") if isinstance(entry, dict) else None
            refused.append([number if type(number) is int and number not in seen else None, error.message])
            log.warning("%s: %s", whose, error.message)
        else:
            seen.update([number] if number else [])
            segments.append(entry)
    if not segments:
        raise ConfigurationError(f"{whose} has no segments{f': {refused[0][1]}' if refused else ''}")
    return segments, refused


def _new_segment(entry: Any, seen: Collection[int]) -> int | None:
    """Return a segment's id, None of a selection; refuse what is neither, and a segment seen before."""
    [one] = as_segments([entry])
    if not isinstance(one, Segment):
        return None
    if one.segment_id in seen:
        raise ConfigurationError(f"segment {one.segment_id} stands in the list twice")
    return one.segment_id


def _named(entries: list[Any], hook: SegStatsHook) -> list[Any]:
    """Return the entries, segments among them with the names that the platform lists where they have none."""
    nameless = {
        place: required_id("segment_id", entry["segment_id"])
        for place, entry in enumerate(entries)
        if "segment_id" in entry and not entry.get("name")
    }
    if not nameless:
        return entries
    try:
        names = {listed.segment_id: listed.name for listed in hook.list_segments()}
    except SegStatsError as error:
        log.warning("Segments go by their ids, for their names cannot be listed: %s", error)
        return entries
    return [
        {**entry, "name": names[nameless[place]]} if nameless.get(place) in names else entry
        for place, entry in enumerate(entries)
    ]


def _by_id(refused: Iterable[list[Any]], *, besides: Collection[int]) -> dict[str, str]:
    """Return why entries were refused by their segments' ids, but for those that a selection chose, too."""
    return {str(number): why for number, why in refused if number is not None and number not in besides}
