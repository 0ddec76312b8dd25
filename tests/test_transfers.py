"""Rows into the table, and the table into a report: what is taken, what refused, what a refusal leaves."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.sql.hooks.sql import DbApiHook

EMAIL = {
    "segment_id": 7,
    "list_id": 1,
    "resource_id": 27,
    "channel": "email",
    "subscribed_sendable": 209,
    "updated": "2026-02-03T03:00:01.5Z",
}
SMS = {**EMAIL, "channel": "sms"}


@pytest.fixture(autouse=True)
def _account(connect: Callable[..., None]) -> None:
    connect("http://127.0.0.1:9", account="acme")


def load(rows: Any, **kwargs: Any) -> dict[str, int]:
    options = {"task_id": "load", "sql_conn_id": "warehouse", "create_table": True, **kwargs}
    return SegmentCountersToSqlOperator(rows=rows, **options).execute({})


def channels(hook: DbApiHook) -> list[str]:
    read = history.last_of_each_night(hook, "segment_counters", since=date(2026, 1, 1), source="acme")
    return [observation.channel for observation in read]


@pytest.mark.parametrize(
    "rows",
    [
        [EMAIL, SMS],
        [[EMAIL], [SMS]],
        [[EMAIL, SMS], [], None],
        {"ok": [7], "failed": [], "rows": [EMAIL, SMS]},
        json.dumps([EMAIL, SMS]),
        json.dumps({"rows": [EMAIL, SMS]}),
        iter([EMAIL, SMS]),
    ],
    ids=["rows", "mapped", "mapped with none", "night", "json", "json night", "iterator"],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_rows_are_taken_as_tasks_hand_them_on(warehouse: DbApiHook, rows: Any) -> None:
    assert load(rows) == {"inserted": 2, "already_there": 0, "undated": 0}
    assert channels(warehouse) == ["email", "sms"]


def test_no_rows_are_fine(warehouse: DbApiHook) -> None:
    assert load([]) == {"inserted": 0, "already_there": 0, "undated": 0}
    assert channels(warehouse) == []


@pytest.mark.parametrize(
    "rows", [None, {"ok": [7]}, "None", "[{'segment_id': 7}]", 7, [7], ["rows"], [[[EMAIL]]]]
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_what_holds_no_rows_is_refused(warehouse: DbApiHook, rows: Any) -> None:
    with pytest.raises(AirflowFailException, match="row"):
        load(rows)
    assert tables(warehouse) == []


def tables(hook: DbApiHook) -> list[Any]:
    query = {
        "sqlite": "SELECT name FROM sqlite_master",
        "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    }[hook.dialect_name]
    return list(hook.get_records(query))


def test_one_row_without_segment_id_is_refused_before_anything_is_written(warehouse: DbApiHook) -> None:
    with pytest.raises(AirflowFailException, match="a row has no segment_id") as refused:
        load([EMAIL, {**SMS, "segment_id": None}])
    assert "\n" not in str(refused.value)
    assert tables(warehouse) == []


def test_a_row_with_an_empty_updated_is_left_out_and_counted(warehouse: DbApiHook) -> None:
    assert load([EMAIL, {**SMS, "updated": ""}]) == {"inserted": 1, "already_there": 0, "undated": 1}
    assert channels(warehouse) == ["email"]


def test_without_being_asked_no_table_is_created(warehouse: DbApiHook) -> None:
    with pytest.raises(Exception, match="segment_counters"):
        load([EMAIL], create_table=False)
    assert tables(warehouse) == []


def test_a_literal_that_is_no_table_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match="a table is named"):
        load([], table="segment counters")
    SegmentCountersToSqlOperator(task_id="load", rows=[], sql_conn_id="x", table="{{ params.table }}")


@pytest.mark.parametrize(
    ("conn_ids", "message"),
    [
        ({"sql_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection to a database"),
        ({"sql_conn_id": "segstats_default"}, "connection 'segstats_default': .* none to a SQL database"),
        ({"segstats_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection"),
    ],
)
def test_a_connection_that_cannot_be_used_fails_at_once_and_is_named(
    conn_ids: dict[str, str], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        load([EMAIL], **conn_ids)


# The report

RUN_AFTER = datetime(2026, 2, 3, 4, tzinfo=timezone.utc)


def report(folder: Any, **kwargs: Any) -> dict[str, str]:
    task = SegmentReportOperator(task_id="report", sql_conn_id="warehouse", folder=folder, **kwargs)
    places: dict[str, str] = task.execute({"dag_run": SimpleNamespace(run_after=RUN_AFTER)})
    return places


@pytest.fixture
def accounts(warehouse: DbApiHook) -> None:
    """Give a history of two accounts, ``acme`` with segment 7 and ``other`` with segment 8."""
    history.create(warehouse, "segment_counters")
    rows = [(EMAIL, "acme"), ({**EMAIL, "segment_id": 8}, "other")]
    history.write(warehouse, "segment_counters", [history.observed(*row) for row in rows])


def segments(places: dict[str, str]) -> list[str]:
    text = Path(places["csv"].removeprefix("file://")).read_text()
    return [row["segment_id"] for row in csv.DictReader(text.splitlines())]


@pytest.mark.usefixtures("accounts")
def test_a_report_has_all_accounts_or_that_of_a_connection(warehouse: DbApiHook, tmp_path: Path) -> None:
    assert segments(report(str(tmp_path / warehouse.dialect_name))) == ["7", "8"]
    assert segments(report(tmp_path.as_uri(), segstats_conn_id="segstats_default")) == ["7"]


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_report_is_named_by_its_run_and_the_same_again_in_a_retry(tmp_path: Path) -> None:
    folder = tmp_path / "new folder"
    places = report(f"file://{folder}", days=1, failed="[8, 9]")
    kinds = ("csv", "parquet", "html")
    assert places == {kind: f"file://{folder}/segments-20260203T040000Z.{kind}" for kind in kinds}
    files = {path: path.read_bytes() for path in folder.iterdir()}
    assert "Failed, and never counted before: 9." in (folder / "segments-20260203T040000Z.html").read_text()
    report(f"file://{folder}", days=1, failed=[8, 9])
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("failed", [None, [], "[]"])
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_night_without_failures_is_reported(tmp_path: Path, failed: Any) -> None:
    assert segments(report(str(tmp_path), failed=failed)) == ["7", "8"]


@pytest.mark.parametrize("spelled", [str, Path.as_uri], ids=["path", "URI"])
@pytest.mark.parametrize("name", ["my pr\u00fcjects", "100%25 #1?"])
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_report_goes_where_a_path_or_its_uri_points_whatever_it_is_called(
    tmp_path: Path, name: str, spelled: Callable[[Path], str]
) -> None:
    folder = tmp_path / "reports" / name
    places = report(spelled(folder))
    assert [path.name for path in folder.parent.iterdir()] == [name]
    written = {path.suffix[1:]: str(path) for path in folder.iterdir()}
    assert written == {kind: place.removeprefix("file://") for kind, place in places.items()}


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "folder must be an absolute path or a URL, not ''"),
        ("reports", "folder must be an absolute path or a URL, not 'reports'"),
        (None, "folder must be an absolute path or a URL, not None"),
        ("nosuch://bucket/x", "a report cannot be written to nosuch://bucket/x: .*nosuch"),
    ],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_folder_that_cannot_be_written_to_fails_at_once(folder: Any, message: str) -> None:
    task = SegmentReportOperator(task_id="report", sql_conn_id="warehouse", folder="{{ x }}")
    task.folder = folder  # as rendered
    with pytest.raises(AirflowFailException, match=message):
        task.execute({"dag_run": SimpleNamespace(run_after=RUN_AFTER)})


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_an_account_that_was_never_counted_fails_at_once(
    connect: Callable[..., None], tmp_path: Path
) -> None:
    connect("http://127.0.0.1:9", account="nobody")
    with pytest.raises(AirflowFailException, match="there is nothing to report"):
        report(f"{tmp_path}/reports", segstats_conn_id="segstats_default")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "arguments",
    [{"folder": "reports"}, {"failed": [0]}, {"days": 0}, {"table": "segment counters"}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_literals_that_make_no_report_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        report(**{"folder": "/reports", **arguments})
