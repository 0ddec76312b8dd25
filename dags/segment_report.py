"""After each night: add its counters to the history, check them, and write a report of the last thirty days.

Scheduled by the asset that ``nightly_segment_refresh`` publishes. Airflow Variables say where things are:

``segstats_history_conn_id``
    the connection of the database that keeps the history; ``segstats_history``
``segstats_history_table``
    its table, created when it is not there; ``segment_counters``
``segstats_report_path``
    the folder for the reports, a path or any URL that ObjectStoragePath takes (``s3://…``);
    ``segstats-reports`` in Airflow's home

A report is an HTML page with a CSV and a Parquet file beside it, named by the run's ``run_after``: a run
that an asset triggers has no logical date. ``latest.html`` is a copy of the newest page. A retried or cleared
run adds nothing twice to the history and writes the same files again. While the DAG is paused events pass it
by; a run that is started by hand brings in what the history has missed. ``check`` turns the run red when the
counters look wrong, beside the report and not before it: that is when one wants to see it. Needs the extras
``sql`` and ``report``.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_segstats.nightly import accounts, report_nights

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()

for account in accounts():
    with DAG(
        dag_id=account.named("segment_report"),
        description=f"Keeps the nights of {account.conn_id}, checks them and writes a report",
        schedule=[account.asset],
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": "segstats"},
        tags=["segstats"],
        doc_md=__doc__,
    ) as dag:
        report_nights(account, folder=f"{HOME}/segstats-reports")
