"""Databases and resources recounted, and counters read without a recount, from the emulator to the table."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskDeferred
from support.tries import Store, Try

from airflow_provider_segstats import history
from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import ConfigurationError, TaskFailedError
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.operators import (
    GetSegmentCountersOperator,
    RefreshDatabaseOperator,
    RefreshResourceOperator,
    RefreshSegmentOperator,
    RefreshSegmentsOperator,
)
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.sql.hooks.sql import DbApiHook

MODES = ("worker", "deferrable")
NARROW = "narrow-t0ken"
SEED: dict[str, Any] = {
    "segments": [
        {"id": 7, "name": "Readers", "databases": [7]},
        {"id": 8, "name": "Buyers", "static": True},
        {"id": 9, "name": "Fair", "static": True},
    ],
    "databases": [{"id": 7, "name": "Customers"}],
    "resources": [{"id": 7, "name": "Shop", "channels": ["email"]}],
    "tokens": [{"token": NARROW, "may_list": False, "databases": []}],
}
DATABASE = {"operator": RefreshDatabaseOperator, "database_id": 7, "resource_id": 7}
RESOURCE = {"operator": RefreshResourceOperator, "resource_id": 7, "list_id": 7}
SEGMENT = {"segment_id": 7, "resource_id": 7, "db_id": "auto"}
SISTERS = pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    [(DATABASE, "database", "Customers"), (RESOURCE, "resource", "Shop")],
    ids=["database", "resource"],
)
TARIFF = Fault("api_error", endpoint="segments/refresh_counters", code=402, times=None)
MORE = ("subscribed", "unsubscribed", "complained", "hardbounced", "unconfirmed", "suspended", "invalid")


@pytest.fixture
def emulator(
    make_emulator: Callable[..., Emulator], connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Emulator:
    monkeypatch.setattr(policy, "SHORTEST_DEFERRAL", 0.05)  # no worker needs time to leave here
    emulator = make_emulator(seed=SEED, seconds=0.0)
    connect(emulator.url, account="acme")
    return emulator


def endpoints(emulator: Emulator) -> list[str]:
    return [entry.endpoint for entry in emulator.journal()]


# Databases and resources


@SISTERS
@pytest.mark.parametrize("mode", [(wire, where) for wire in ("json", "xml") for where in MODES])
def test_a_recount_returns_rows_of_its_kind_with_its_name_and_all_its_counters(
    emulator: Emulator, arguments: Any, kind: str, name: str, mode: tuple[str, str]
) -> None:
    wire, where = mode
    attempt = Try(
        Store(), **arguments, format=wire, wait_for_completion=True, deferrable=where == "deferrable"
    )
    if where == "deferrable":
        emulator.configure(seconds=3600)  # more than the first look waits for
        with pytest.raises(TaskDeferred) as deferred:
            attempt.start()
        emulator.set_clock(advance=86400)
        [row] = attempt.resume(deferred.value)
    else:
        [row] = attempt.run()
    labels = {"source": "acme", "kind": kind, "name": name, "list_id": 7, "resource_id": 7}
    assert {label: row[label] for label in labels} == labels
    assert row["all"] == sum(row[counter] for counter in MORE) > row["subscribed_sendable"] > 0
    assert attempt.xcom["task_id"] == emulator.tasks()[0].task_id


@SISTERS
def test_a_retry_goes_on_with_the_recount_of_an_earlier_try(
    emulator: Emulator, arguments: Any, kind: str, name: str
) -> None:
    store = Store()
    emulator.add_fault(Fault("http", endpoint="tasks/status", times=1, status=500))
    with pytest.raises(Exception, match="HTTP 500"):
        Try(store, **arguments, wait_for_completion=True, max_poll_failures=1).run()
    [row] = Try(store, 2, **arguments, wait_for_completion=True).run()
    assert (row["kind"], row["name"], len(emulator.tasks())) == (kind, name, 1)


@SISTERS
def test_a_retry_starts_afresh_what_failed(emulator: Emulator, arguments: Any, kind: str, name: str) -> None:
    store = Store()
    emulator.add_fault(Fault("task", endpoint=f"{kind}s/refresh_counters", outcome="failed"))
    with pytest.raises(TaskFailedError):
        Try(store, **arguments, wait_for_completion=True).run()
    assert [row["name"] for row in Try(store, 2, **arguments, wait_for_completion=True).run()] == [name]
    assert len(emulator.tasks()) == 2


@pytest.mark.parametrize(("arguments", "kind"), [(DATABASE, "database"), (RESOURCE, "resource")])
def test_an_answer_lost_after_the_submit_names_its_endpoint_and_is_not_repeated(
    emulator: Emulator, arguments: Any, kind: str
) -> None:
    emulator.add_fault(Fault("lost_answer", endpoint=f"{kind}s/refresh_counters"))
    store = Store()
    with pytest.raises(AirflowFailException, match=f"{kind}s/refresh_counters: the recount may or may not"):
        Try(store, **arguments).run()
    assert len(emulator.tasks()) == 1


@pytest.mark.parametrize("kind", ["database", "resource"])
def test_the_sensor_waits_for_them_in_reschedule_mode_too(emulator: Emulator, kind: str) -> None:
    task_id = Try(Store(), **{"database": DATABASE, "resource": RESOURCE}[kind]).run()
    emulator.configure(seconds=3600)
    waiting = {"operator": TaskStatusSensor, "refresh_task_id": task_id, "kind": kind, "mode": "reschedule"}
    later = Try(Store(), **{**waiting, "refresh_task_id": Try(Store(), **DATABASE).run()})
    with pytest.raises(AirflowRescheduleException):
        later.run()
    [row] = Try(Store(), **waiting).run()
    assert (row["kind"], row["list_id"], row["resource_id"]) == (kind, 7, 7)


def test_a_token_that_may_not_know_the_name_gets_the_rows_without_it(emulator: Emulator) -> None:
    emulator.add_fault(Fault("api_error", endpoint="databases/get", code=403, times=None))
    [row] = Try(Store(), **DATABASE, wait_for_completion=True).run()
    assert "name" not in row
    assert row["list_id"] == 7


@pytest.mark.parametrize("bad", [0, -1, "seven", None, 7.5])
@pytest.mark.parametrize(
    ("operator", "ids"),
    [
        (RefreshDatabaseOperator, ("database_id", "resource_id")),
        (RefreshResourceOperator, ("resource_id", "list_id")),
    ],
)
def test_ids_that_cannot_be_are_refused_when_the_dag_is_parsed(operator: Any, ids: Any, bad: Any) -> None:
    for name in ids:
        with pytest.raises(ConfigurationError, match=f"{name} must be a whole number above 0"):
            operator(task_id="refresh", **{**dict.fromkeys(ids, 7), name: bad})


@pytest.mark.usefixtures("emulator")
def test_segment_database_and_resource_of_one_id_are_three_in_the_history(warehouse: DbApiHook) -> None:
    rows = [
        row
        for arguments in (SEGMENT, DATABASE, RESOURCE)
        for row in Try(Store(), **arguments, wait_for_completion=True).run()
    ]
    load = {"task_id": "load", "sql_conn_id": "warehouse", "create_table": True}
    assert SegmentCountersToSqlOperator(rows=rows, **load).execute({})["inserted"] == 3
    named = {
        ("acme", "segment", 7): "Readers",
        ("acme", "database", 7): "Customers",
        ("acme", "resource", 7): "Shop",
    }
    assert history.names(warehouse, "segment_counters") == named
    for kind in history.KINDS:
        [seen] = history.last_of_each_night(
            warehouse, "segment_counters", since=date(2000, 1, 1), kind=kind, segment_ids=[7]
        )
        [row] = [row for row in rows if row.get("kind", "segment") == kind]
        assert (seen.kind, seen.id) == (kind, 7)
        assert seen.counters["subscribed_sendable"] == row["subscribed_sendable"]


# Counters as last counted


@pytest.mark.parametrize("format", ["json", "xml"])
def test_counters_are_read_without_a_recount_and_marked(emulator: Emulator, format: str) -> None:
    [row] = Try(Store(), operator=GetSegmentCountersOperator, **SEGMENT, format=format).run()
    assert (row["name"], row["list_id"], row["updated"], row["recounted"]) == ("Readers", 7, None, False)
    assert emulator.tasks() == []


@pytest.mark.usefixtures("emulator")
def test_what_cannot_be_read_fails_in_one_line() -> None:
    with pytest.raises(AirflowFailException, match=r"segments/get_counters: API error 400: .*no segment 10"):
        Try(Store(), operator=GetSegmentCountersOperator, segment_id=10, resource_id=7).run()


@pytest.mark.parametrize("mode", MODES)
def test_past_the_tariff_limit_segments_are_as_last_counted_where_asked(
    emulator: Emulator, mode: str
) -> None:
    wanted = [{"segment_id": number, "resource_id": 7, "db_id": "auto"} for number in (7, 8, 9)]
    [before] = Try(Store(), **{**SEGMENT, "segment_id": 9}, wait_for_completion=True).run()
    emulator.add_fault(Fault("api_error", endpoint="segments/refresh_counters", code=402, times=None, skip=1))
    attempt = Try(
        Store(), segments=wanted, max_in_flight=1, on_tariff_limit="read", deferrable=mode == "deferrable"
    )
    rows = attempt.run()
    assert [(row["segment_id"], row["name"], row.get("recounted", True)) for row in rows] == [
        (7, "Readers", True),
        (8, "Buyers", False),
        (9, "Fair", False),
    ]
    assert rows[2]["subscribed_sendable"] == before["subscribed_sendable"]
    assert (attempt.summary["ok"], attempt.summary["not_submitted"]) == ([7], [8, 9])


def test_one_segment_past_the_tariff_limit_is_as_last_counted_where_asked(emulator: Emulator) -> None:
    emulator.add_fault(TARIFF)
    [row] = Try(Store(), **SEGMENT, wait_for_completion=True, on_tariff_limit="read").run()
    assert (row["name"], row["recounted"]) == ("Readers", False)
    with pytest.raises(AirflowFailException, match="API error 402"):
        Try(Store(), **SEGMENT, wait_for_completion=True).run()


def test_what_cannot_be_read_past_the_tariff_limit_fails_as_not_submitted(emulator: Emulator) -> None:
    emulator.add_fault(TARIFF)
    emulator.add_fault(
        Fault("api_error", endpoint="segments/get_counters", code=403, segment_id=8, times=None)
    )
    attempt = Try(
        Store(), segments=[{"segment_id": n, "resource_id": 7} for n in (8, 9)], on_tariff_limit="read"
    )
    with pytest.raises(
        AirflowFailException, match=r"1 of 2 segments were not counted; 1 not submitted \(8\): .*402"
    ):
        attempt.run()
    assert [row["segment_id"] for row in attempt.xcom["return_value"]] == [9]


def test_rows_as_last_counted_never_get_into_the_history_as_tonights(
    emulator: Emulator, warehouse: DbApiHook
) -> None:
    emulator.add_fault(TARIFF)
    attempt = Try(Store(), segments=[{"segment_id": 8, "resource_id": 7}], on_tariff_limit="read")
    rows = attempt.run()
    night = {"rows": rows, "run_after": "2026-02-03T03:00:00+00:00", "dag_id": "d", "run_id": "r"}
    load = SegmentCountersToSqlOperator(
        task_id="load", rows={**night, **attempt.summary}, sql_conn_id="warehouse", create_table=True
    )
    assert load.execute({})["inserted"] == 0
    [outcome] = history.nights(warehouse, "segment_counters", since=date(2026, 1, 1))
    assert (outcome.id, outcome.outcome) == (8, "not_submitted")


def test_ways_past_the_tariff_limit_that_there_are_not_are_refused() -> None:
    for operator, arguments in (
        (RefreshSegmentOperator, SEGMENT),
        (RefreshSegmentsOperator, {"segments": [SEGMENT]}),
    ):
        with pytest.raises(ConfigurationError, match="on_tariff_limit can be 'fail' or 'read', not 'skip'"):
            operator(task_id="refresh", on_tariff_limit="skip", **arguments)
    with pytest.raises(ConfigurationError, match="takes wait_for_completion=True"):
        RefreshSegmentOperator(task_id="refresh", on_tariff_limit="read", **SEGMENT)
