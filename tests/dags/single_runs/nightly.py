"""The nightly tasks for accounts whose Variables differ, and a report that nobody triggered."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_segstats.nightly import Account, count_night, report_nights

for conn_id in os.environ["ACCOUNTS"].split(","):
    with DAG(f"count_{conn_id}", schedule=None):
        count_night(Account(conn_id))

for dag_id in ("report", "report_again"):
    with DAG(dag_id, schedule=None):
        report_nights(Account("some_bad"), folder=os.environ["REPORTS"])
