"""Mapped tasks with arguments that cannot be meant, each with retries left.

The instances of a task are named by its index; the first argument of each is the one that is bad.
"""

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

WAIT: list[dict[str, Any]] = [
    {"format": "yaml"},
    {"timeout": "1 h"},
    {"timeout": -1},
    {"poke_interval": 0},
    {"max_poll_failures": 0},
]
SUBMIT: list[dict[str, Any]] = [*WAIT, {"on_ambiguous_submit": "hope"}]
DATABASE: list[dict[str, Any]] = [{"table": "a b"}, {"table": "1"}]
BAD: dict[str, list[dict[str, Any]]] = {
    "segment": [
        {"segment_id": "x", "resource_id": 24},
        {"segment_id": 7.5, "resource_id": 24},
        {"resource_id": None, "segment_id": 7},
        {"db_id": -1, "segment_id": 7, "resource_id": 24},
        {"extra_params": "list_id=3", "segment_id": 7, "resource_id": 24},
        *({**bad, "segment_id": 7, "resource_id": 24} for bad in SUBMIT),
    ],
    "segments": [
        {"segments": 7},
        {"segments": [{"segment_id": "x", "resource_id": 24}]},
        *({**bad, "segments": [{"segment_id": 7, "resource_id": 24}]} for bad in SUBMIT),
        {"max_in_flight": 0, "segments": [{"segment_id": 7, "resource_id": 24}]},
    ],
    "sensor": [
        {"refresh_task_id": None},
        {"refresh_task_id": " "},
        *({**bad, "refresh_task_id": "t"} for bad in [{"segment_id": "x"}, *WAIT]),
        {"mode": "loiter", "refresh_task_id": "t"},
        {"never_fail": True, "refresh_task_id": "t"},
        {"exponential_backoff": True, "refresh_task_id": "t"},
    ],
    "load": [{**bad, "rows": []} for bad in DATABASE],
    "report": [*DATABASE, {"folder": "reports"}, {"rules": ["x"]}, {"days": 0}],
    "check": [*DATABASE, {"segment_ids": ["x"]}, {"max_drop": 2}, {"min_change": "few"}, {"max_loss": 2}],
}
BAD["soft_sensor"] = [
    {**arguments, "soft_fail": True}
    for arguments in BAD["sensor"]
    if "never_fail" not in arguments  # Airflow's own constructor refuses the two together
]


@task
def ids() -> list[Any]:
    """Give ids of which one is none."""
    return [7, "x"]


RETRIED = {"retries": 2, "retry_delay": timedelta(seconds=0.1)}
with DAG("mapped", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), default_args=RETRIED):
    RefreshSegmentOperator.partial(task_id="segment").expand_kwargs(BAD["segment"])
    RefreshSegmentsOperator.partial(task_id="segments").expand_kwargs(BAD["segments"])
    for name in ("sensor", "soft_sensor"):
        TaskStatusSensor.partial(task_id=name).expand_kwargs(BAD[name])
    SegmentCountersToSqlOperator.partial(task_id="load", sql_conn_id="none").expand_kwargs(BAD["load"])
    SegmentReportOperator.partial(task_id="report", sql_conn_id="none").expand_kwargs(
        [{"folder": "/tmp", **bad} for bad in BAD["report"]]  # noqa: S108 - nothing is written
    )
    SegmentCountersCheckOperator.partial(task_id="check", sql_conn_id="none").expand_kwargs(BAD["check"])
    RefreshSegmentOperator.partial(task_id="from_ids", resource_id=24).expand(segment_id=ids())
