"""Tasks that meet errors with secrets in them; ``test_lives`` sets the faults by segment."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

MODES = {"poke": {}, "reschedule": {"mode": "reschedule"}, "deferrable": {"deferrable": True}}
# Segments: what the server answers there holds the token.
REFUSED = 5000
ECHOES = {"echo": 5010, "redirect": 5020, "failed": 5030, "status": 5040}  # one more when deferred
# By connection: the modes that use it. A proxy answers 407 (the last only after a first look) or 502, or
# nobody listens there.
BROKEN = {
    "answers_407": ("poke", "reschedule"),
    "answers_407_later": ("deferrable",),
    "answers_502": ("poke", "deferrable"),
    "refuses": ("poke",),
    "bad_token": ("poke", "reschedule"),
    "no_ca_file": ("poke",),
}


@task
def show(_: str, dag_run: Any = None) -> dict[str, str]:
    """Let values through to where Airflow keeps what tasks are given, log and return."""
    values: dict[str, str] = dag_run.conf["canaries"]
    for value in values.values():
        logging.getLogger("airflow.task").info("%s", value)
    return values


with DAG(
    "secretive",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    default_args={"resource_id": 24, "poke_interval": 0.5},
    max_active_tasks=50,
):
    for mode, wire in (("poke", "json"), ("deferrable", "xml")):
        arguments: dict[str, Any] = {"format": wire, **MODES[mode]}
        RefreshSegmentOperator(
            task_id=f"submit_{mode}", segment_id=REFUSED, wait_for_completion=True, **arguments
        )
        for name, segment in ECHOES.items():
            RefreshSegmentOperator(
                task_id=f"{name}_{mode}",
                segment_id=segment + (mode == "deferrable"),
                wait_for_completion=True,
                timeout=90 if name == "status" else 600,
                **arguments,
            )
    for conn, modes in BROKEN.items():
        for mode in modes:
            TaskStatusSensor(
                task_id=f"{conn}_{mode}",
                refresh_task_id="a-task",
                segstats_conn_id=f"segstats_{conn}",
                format="xml" if mode == "poke" else "json",
                max_poll_failures=1 if mode == "poke" else 2,
                **MODES[mode],
            )
    show("{{ dag_run.conf['canaries'] }}")
