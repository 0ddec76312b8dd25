"""Links of tasks: made of arguments and the connection, the same while a task runs and after it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats import links
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.links import PageLink, ReportLink, SegmentLink
from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = "https://airflow.example/af"
TI: Any = SimpleNamespace(dag_id="nights", run_id="manual__2026-03-31T03:00:00+00:00")
RUN = f"{BASE}/dags/nights/runs/manual__2026-03-31T03%3A00%3A00%2B00%3A00/plugin/segments_of_run"


@pytest.fixture(autouse=True)
def _airflow(monkeypatch: pytest.MonkeyPatch, connect: Callable[..., None]) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", BASE)
    connect("http://127.0.0.1:1", account="shop & co", segment_url="https://example.com/s/{segment_id}")
    links._settings.cache_clear()  # which is a process's, and a process is a task's


def single(**arguments: Any) -> RefreshSegmentOperator:
    return RefreshSegmentOperator(task_id="t", **{"segment_id": 7, "resource_id": 24, **arguments})


def many() -> RefreshSegmentsOperator:
    return RefreshSegmentsOperator(task_id="t", segments=[{"segment_id": 7, "resource_id": 24}])


def test_a_segment_is_linked_to_on_the_platform_as_the_connection_says() -> None:
    assert SegmentLink().get_link(single(), ti_key=TI) == "https://example.com/s/7"
    assert SegmentLink().get_link(single(segment_id="8"), ti_key=TI) == "https://example.com/s/8"
    assert SegmentLink().get_link(single(db_id="auto"), ti_key=TI) == "https://example.com/s/7"
    assert SegmentLink().get_link(
        TaskStatusSensor(task_id="t", refresh_task_id="x", segment_id=9), ti_key=TI
    ) == ("https://example.com/s/9")


def test_all_ids_may_stand_in_the_pattern(connect: Callable[..., None]) -> None:
    connect("http://127.0.0.1:1", segment_url="https://example.com/{db_id}/{resource_id}#{segment_id}")

    assert SegmentLink().get_link(single(db_id=1), ti_key=TI) == "https://example.com/1/24#7"
    assert SegmentLink().get_link(single(), ti_key=TI) == ""  # the database is not known


@pytest.mark.parametrize(
    "operator",
    [
        many(),
        TaskStatusSensor(task_id="t", refresh_task_id="x"),
        single(segment_id="{{ not.rendered }}"),
        single(segstats_conn_id="nowhere"),
    ],
)
def test_what_cannot_be_linked_to_on_the_platform_has_no_link_there(operator: Any) -> None:
    assert SegmentLink().get_link(operator, ti_key=TI) == ""


def test_a_segment_is_linked_to_on_our_page() -> None:
    assert PageLink().get_link(single(), ti_key=TI) == (
        f"{BASE}/plugin/segments?view=segment&account=shop+%26+co&kind=segment&id=7"
    )


@pytest.mark.parametrize(
    "operator",
    [
        many(),
        TaskStatusSensor(task_id="t", refresh_task_id="x"),
        SegmentCountersToSqlOperator(task_id="t", rows=[], sql_conn_id="x"),
        SegmentCountersCheckOperator(task_id="t", sql_conn_id="x"),
        SegmentReportOperator(task_id="t", sql_conn_id="x", folder="/x"),
    ],
)
def test_what_is_of_many_segments_is_linked_to_its_runs_tab(operator: Any) -> None:
    assert PageLink().get_link(operator, ti_key=TI) == RUN


def test_a_report_is_linked_to_once_it_is_written() -> None:
    operator = SegmentReportOperator(task_id="t", sql_conn_id="x", folder="/x")
    assert ReportLink().get_link(operator, ti_key=TI) == ""

    operator._places = {"html": "s3://bucket/reports/segments-20260331T030000Z.html"}
    assert ReportLink().get_link(operator, ti_key=TI) == (
        f"{BASE}/segstats/report/segments-20260331T030000Z.html"
    )


@pytest.mark.parametrize(
    ("operator", "names"),
    [
        (RefreshSegmentOperator, {"Segment on the platform", "Segments"}),
        (RefreshSegmentsOperator, {"Segment on the platform", "Segments"}),
        (TaskStatusSensor, {"Segment on the platform", "Segments"}),
        (SegmentCountersToSqlOperator, {"Segments"}),
        (SegmentCountersCheckOperator, {"Segments"}),
        (SegmentReportOperator, {"Report", "Segments"}),
    ],
)
def test_every_operator_has_links(operator: Any, names: set[str]) -> None:
    assert {link.name for link in operator.operator_extra_links} == names


def context(ti: Any) -> Any:
    return {"ti": ti}


class Pushed(dict[str, Any]):
    """A task instance that keeps what is pushed."""

    dag_id, run_id = TI.dag_id, TI.run_id

    def xcom_push(self, key: str, value: Any) -> None:
        self[key] = value


def test_a_task_that_stays_on_its_worker_pushes_its_links_as_it_begins() -> None:
    ti: Any = Pushed()

    links.show(single(), context(ti))

    assert ti == {
        "_link_SegmentLink": "https://example.com/s/7",
        "_link_PageLink": f"{BASE}/plugin/segments?view=segment&account=shop+%26+co&kind=segment&id=7",
    }


def test_a_task_that_is_deferred_in_a_moment_leaves_them_to_airflow() -> None:
    ti: Any = Pushed()

    links.show(single(deferrable=True), context(ti))

    assert ti == {}


def test_links_that_cannot_be_pushed_end_no_task() -> None:
    links.show(single(), context(SimpleNamespace()))
    links.show(single(segstats_conn_id="nowhere"), context(SimpleNamespace()))
