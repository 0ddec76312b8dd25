"""What the browser's tests look at: recounts that go on for as long as they look, and some that end."""

import os
from datetime import datetime, timezone

from airflow.sdk import DAG
from support.page_server import NAMES

from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.transfers import SegmentReportOperator

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SEGMENTS = [{"segment_id": number, "resource_id": 24} for number in NAMES]
WAITS = {"deferrable": True, "poke_interval": 1}

with DAG("under_way", schedule=None, start_date=START):
    RefreshSegmentsOperator(task_id="refresh", segments=SEGMENTS, **WAITS)
    RefreshSegmentOperator.partial(
        task_id="mapped", resource_id=24, wait_for_completion=True, **WAITS
    ).expand(segment_id=[7, 8])
    submit = RefreshSegmentOperator(task_id="submit", segment_id=70, resource_id=24)
    TaskStatusSensor(task_id="poke", refresh_task_id=submit.output, segment_id=70, poke_interval=1)

with DAG("over", schedule=None, start_date=START, default_args={"segstats_conn_id": "segstats_quick"}):
    one = RefreshSegmentOperator(
        task_id="one", segment_id=7, resource_id=24, wait_for_completion=True, **WAITS
    )
    report = SegmentReportOperator(
        task_id="report", sql_conn_id="segstats_history", folder=os.environ["REPORTS"]
    )
    one >> report

with DAG("something_else", schedule=None, start_date=START) as other:

    @other.task
    def nothing() -> None:
        """Have nothing to do with segments."""

    nothing()
