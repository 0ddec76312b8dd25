"""After each night: write the counters as a CSV file and as a summary to read.

Scheduled by the asset that ``nightly_segment_refresh`` publishes. The files go to the folder that the
Airflow Variable ``segstats_report_path`` names, any URL that ObjectStoragePath takes (``s3://…``,
``file:///…``); ``segstats-reports`` in Airflow's home unless it is set. They are named by the run's
``run_after``: a run that an asset triggers has no logical date.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, ObjectStoragePath, Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

log = logging.getLogger(__name__)

LABELS = ["segment_id", "list_id", "resource_id", "channel"]

with DAG(
    dag_id="segment_report",
    schedule=[Asset("segment_counters")],
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["segstats"],
    doc_md=__doc__,
) as dag:

    @task(retries=2, multiple_outputs=False)
    def write_report() -> dict[str, str]:
        """Write both files and return their places as ``{"csv", "summary"}``."""
        context = get_current_context()
        night = latest_night(context)
        home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
        folder = ObjectStoragePath(
            Variable.get("segstats_report_path", default=f"file://{home}/segstats-reports")
        )
        folder.mkdir(parents=True, exist_ok=True)
        name = f"segments-{context['dag_run'].run_after:%Y%m%dT%H%M%SZ}"
        table, summary = folder / f"{name}.csv", folder / f"{name}.txt"
        table.write_text(as_csv(night["rows"]))
        summary.write_text(as_summary(night))
        log.info("%s", as_summary(night))
        return {"csv": str(table), "summary": str(summary)}

    def latest_night(context: Any) -> dict[str, Any]:
        """Return what the newest of the events that triggered this run published."""
        events = [event for events in context["triggering_asset_events"].values() for event in events]
        if not events:
            raise AirflowFailException("no night to report on: trigger nightly_segment_refresh instead")
        newest = max(events, key=lambda event: event.timestamp)
        night: dict[str, Any] | None = context["ti"].xcom_pull(
            dag_id=newest.source_dag_id, run_id=newest.source_run_id, task_ids=newest.source_task_id
        )
        if night is None:
            raise AirflowFailException(f"the counters of {newest.source_run_id} are gone")
        return night

    def counters_of(rows: list[dict[str, Any]]) -> list[str]:
        """Return every counter's name that occurs, in the order of its first appearance."""
        names = dict.fromkeys(name for row in rows for name in row)
        return [name for name in names if name not in {*LABELS, "updated"}]

    def as_csv(rows: list[dict[str, Any]]) -> str:
        """Return the rows as CSV text with a header; a counter that a channel lacks stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [*LABELS, *counters_of(rows), "updated"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def as_summary(night: dict[str, Any]) -> str:
        """Return the counters as an aligned table, with what is missing said first."""
        rows = night["rows"]
        heading = [*LABELS, *counters_of(rows), "updated"]
        cells = [heading, *([str(row.get(name, "")) for name in heading] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(heading))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        counted = f"{len(night['ok'])} segments counted"
        missing = [f"{what}: {night[what]}" for what in ("failed", "skipped") if night[what]]
        return "\n".join(["; ".join([counted, *missing]), "", *table, ""])

    write_report()
