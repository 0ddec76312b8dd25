"""The operator that loads rows: what it takes, what it refuses, and that a refusal writes nothing."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats import history
from airflow_provider_segstats.errors import ConfigurationError
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator

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
    read = history.last_of_each_day(hook, "segment_counters", since=date(2026, 1, 1), source="acme")
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
