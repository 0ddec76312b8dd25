"""Segments in flight while components are killed; each run's conf names them (``tests/test_cluster.py``)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_segstats.operators import RefreshSegmentOperator

TIMEOUT = 180  # of a stuck recount; a sound one takes seconds, and as long as an outage on top


@task
def segments(mode: str, dag_run: Any = None) -> list[int]:
    return list(dag_run.conf[mode])


with DAG(
    "cluster",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    max_active_tasks=1000,
    default_args={"retries": 5, "retry_delay": timedelta(seconds=5)},
):
    for mode in ("deferred", "poked"):
        RefreshSegmentOperator.partial(
            task_id=mode,
            resource_id=24,
            wait_for_completion=True,
            deferrable=mode == "deferred",
            timeout=TIMEOUT,
        ).expand(segment_id=segments.override(task_id=f"{mode}_segments")(mode))
