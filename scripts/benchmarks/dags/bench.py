"""Many segments three ways, for ``scripts/bench airflow``. A run's conf is ``{"segments": how many}``."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, task

from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator

TOKEN = "benched-t0ken"  # noqa: S105 - of the bench's own server
SUBMIT, POLL = "/api/v1.1/segments/refresh_counters", "/api/v1.1/tasks/status"
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "max_active_tasks": 1000,
}
HTTP: dict[str, Any] = {"method": "POST", "headers": {"Content-Type": "application/json"}}


@task
def segments(dag_run: Any = None) -> list[dict[str, int]]:
    """Return the run's segments."""
    return [{"segment_id": number, "resource_id": 24} for number in range(1, dag_run.conf["segments"] + 1)]


def as_submit(segment: dict[str, int]) -> str:
    """Return the body that starts a segment's recount."""
    return json.dumps({"token": TOKEN, "id": segment["segment_id"], "resource_id": segment["resource_id"]})


def as_poll(task_id: str) -> str:
    """Return the body that asks how a task is."""
    return json.dumps({"token": TOKEN, "task_id": task_id})


with DAG("batch", schedule=None, **COMMON):
    RefreshSegmentsOperator(
        task_id="refresh",
        segments=segments(),  # type: ignore[arg-type]  # what this gives is known when it has run
        deferrable=True,
    )

with DAG("mapped", schedule=None, **COMMON):
    RefreshSegmentOperator.partial(
        task_id="refresh", wait_for_completion=True, deferrable=True
    ).expand_kwargs(segments())

with DAG("mapped_http", schedule=None, **COMMON):
    submit = HttpOperator.partial(
        task_id="submit",
        endpoint=SUBMIT,
        response_filter=lambda response: response.json()["data"]["task_id"],
        **HTTP,
    ).expand(data=segments().map(as_submit))
    HttpSensor.partial(
        task_id="wait",
        endpoint=POLL,
        response_check=lambda response: response.json()["data"]["status"] == "completed",
        mode="reschedule",
        poke_interval=30,
        **HTTP,
    ).expand(request_params=submit.output.map(as_poll))
