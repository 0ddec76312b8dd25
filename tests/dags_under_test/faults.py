"""Every fault in every mode, one DAG a format; ``tests/test_fault_table.py`` sets the faults.

A fault has its own segment for each format and mode, so that none uses up another's.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

FORMATS = ("json", "xml")
MODES = ("poke", "reschedule", "deferrable")
POLLED = (
    "slow answer",
    "HTTP 503, twice",
    "HTTP 429 with Retry-After, once",
    "connection reset, twice",
    "truncated answer, twice",
    "HTML at HTTP 200, twice",
    "API error 440, twice",
    "API error 401, once",
    "API error 401",
    "API error 403",
    "HTTP 404 without an API body",
    "redirect",
    "server away for too long",
    "remote task failed",
    "remote task stuck",
    "status nobody knows",
    "completed but still in progress",
)
SUBMITTED = (
    "HTTP 503, twice",
    "HTTP 429 with Retry-After, once",
    "connection reset",
    "answer lost after the recount was accepted",
    "truncated answer",
    "HTML at HTTP 200",
    "HTTP 500",
    "API error 440",
    "API error 402",
    "redirect",
)


def segment(kind: str, fault: str, wire: str, mode: str = "poke") -> int:
    faults = {"polled": POLLED, "submitted": SUBMITTED}[kind]
    base = {"polled": 1000, "submitted": 5000}[kind]
    return base + 10 * faults.index(fault) + 3 * FORMATS.index(wire) + MODES.index(mode)


def task_id(kind: str, fault: str, mode: str) -> str:
    name = "".join(char if char.isalnum() else "_" for char in fault)
    return f"{kind}.{name}.{mode}"


for wire in FORMATS:
    with DAG(
        f"faults_{wire}",
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        # One retry shows whether Airflow may have another try; it meets the same fault again.
        default_args={"retries": 1, "retry_delay": timedelta(seconds=0.1), "format": wire, "resource_id": 24},
    ):
        for fault in POLLED:
            for mode in MODES:
                ident = segment("polled", fault, wire, mode)
                submit = RefreshSegmentOperator(
                    task_id="start." + task_id("polled", fault, mode), segment_id=ident
                )
                TaskStatusSensor(
                    task_id=task_id("polled", fault, mode),
                    refresh_task_id=submit.output,
                    segment_id=ident,
                    mode="reschedule" if mode == "reschedule" else "poke",
                    deferrable=mode == "deferrable",
                    poke_interval=0.5,
                    timeout=5 if fault == "remote task stuck" else 600,
                    max_poll_failures=3,
                )
        for fault in SUBMITTED:
            RefreshSegmentOperator(
                task_id=task_id("submitted", fault, "poke"), segment_id=segment("submitted", fault, wire)
            )
