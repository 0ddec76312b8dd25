"""After each night: add its counters to the history, check them, and write a report of the last thirty days.

Scheduled by the asset that ``nightly_segment_refresh`` publishes. Airflow Variables say where things are:

``segstats_history_conn_id``
    the connection of the database that keeps the history (PostgreSQL or SQLite); ``segstats_history``
``segstats_history_table``
    its table, created when it is not there; ``segment_counters``
``segstats_report_path``
    the folder for the reports, a path or any URL that ObjectStoragePath takes (``s3://…``);
    ``segstats-reports`` in Airflow's home

A report is an HTML page with a CSV and a Parquet file beside it, named by the run's ``run_after``: a run
that an asset triggers has no logical date. A retried or cleared run adds nothing twice to the history and
writes the same files again; one that is triggered by hand reports what the history has. ``check`` turns
the run red when the counters look wrong, beside the report and not before it: that is when one wants to
see it. Needs the extras ``sql`` and ``report``.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats.assets import night_of, segments_asset
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

CONNECTION = "{{ var.value.get('segstats_history_conn_id', 'segstats_history') }}"
TABLE = "{{ var.value.get('segstats_history_table', 'segment_counters') }}"
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = f"{{{{ var.value.get('segstats_report_path', {f'{HOME}/segstats-reports'!r}) }}}}"

with DAG(
    dag_id="segment_report",
    schedule=[segments_asset()],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["segstats"],
    doc_md=__doc__,
) as dag:

    @task(retries=2, multiple_outputs=False)
    def nights() -> dict[str, Any]:
        """Return the rows of all nights that triggered this run, and the segments that failed in the last."""
        context = get_current_context()
        events = context["triggering_asset_events"].get(segments_asset(), [])
        rows, failed = [], []
        for event in sorted(events, key=lambda event: event.timestamp):
            night = night_of(context, event)
            if night is None:
                raise AirflowFailException(f"the counters of {event.source_run_id} are gone: clear that run")
            rows += night["rows"]
            failed = night["failed"]
        return {"rows": rows, "failed": failed}

    night = nights()
    load = SegmentCountersToSqlOperator(
        task_id="load", rows=night, sql_conn_id=CONNECTION, table=TABLE, create_table=True, retries=2
    )
    check = SegmentCountersCheckOperator(task_id="check", sql_conn_id=CONNECTION, table=TABLE)
    write = SegmentReportOperator(
        task_id="write",
        sql_conn_id=CONNECTION,
        table=TABLE,
        folder=FOLDER,
        failed="{{ ti.xcom_pull('nights')['failed'] | tojson }}",
        retries=2,
    )
    load >> [check, write]
