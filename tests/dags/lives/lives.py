"""Tasks that are cleared, killed and retried; ``test_lives`` does it, by DAG and run.

The segment stands in the run's conf, so that each run has its own.
"""

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG

from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

SEGMENT = "{{ dag_run.conf['segment'] }}"
WAITS = {"wait_for_completion": True, "poke_interval": 0.5, "max_poll_failures": 1}


def fail_once(context: Any, _: Any) -> None:
    """Fail the first try after the operator has done its work."""
    if context["ti"].try_number == 1:
        raise RuntimeError("after the submit")


def dag(name: str, retry_delay: float = 1) -> DAG:
    return DAG(
        name,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        default_args={"resource_id": 24, "retries": 1, "retry_delay": timedelta(seconds=retry_delay)},
    )


with dag("submit"):
    RefreshSegmentOperator(task_id="refresh", segment_id=SEGMENT, post_execute=fail_once)
with dag("poke"):
    RefreshSegmentOperator(task_id="refresh", segment_id=SEGMENT, **WAITS)
with dag("patient", retry_delay=3600):
    RefreshSegmentOperator(task_id="refresh", segment_id=SEGMENT, **WAITS)
with dag("deferrable"):
    RefreshSegmentOperator(task_id="refresh", segment_id=SEGMENT, deferrable=True, **WAITS)
with dag("siblings"):
    RefreshSegmentOperator(task_id="refresh", segment_id=SEGMENT, **WAITS)
    RefreshSegmentOperator(task_id="sibling", segment_id="{{ dag_run.conf['sibling'] }}", **WAITS)
with dag("moving"):
    submitted = RefreshSegmentOperator(task_id="submit", segment_id=SEGMENT, segstats_conn_id="moving").output
    TaskStatusSensor(
        task_id="refresh", refresh_task_id=submitted, segstats_conn_id="moving", mode="reschedule"
    )
