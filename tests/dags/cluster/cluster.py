"""Segments in flight while parts are killed; a run's conf names them by group (``test_cluster``)."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator

TIMEOUT = float(os.environ["CLUSTER_TIMEOUT"])


@task
def segments(group: str, dag_run: Any = None) -> list[int]:
    return list(dag_run.conf[group])


with DAG(
    "cluster",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    max_active_tasks=1000,
    # More than any outage here uses up: what fails for want of retries would say nothing of the provider.
    default_args={"retries": 10, "retry_delay": timedelta(seconds=5)},
):
    for group in ("poked", "deferred"):
        RefreshSegmentOperator.partial(
            task_id=group,
            resource_id=24,
            wait_for_completion=True,
            deferrable=group == "deferred",
            timeout=TIMEOUT,
        ).expand(segment_id=segments.override(task_id=f"{group}_segments")(group))
    RefreshSegmentsOperator(
        task_id="batch",
        segments="{{ dag_run.conf['batch'] | tojson }}",
        max_in_flight=int(os.environ["CLUSTER_IN_FLIGHT"]),
        deferrable=True,
        timeout=TIMEOUT,
    )
