"""Every night: recount the segments' subscription counters and publish them as one asset event.

Which segments: the list ``segments`` of a run's own configuration, else the Airflow Variable
``segstats_segments`` (JSON), else the example below. Each is
``{"segment_id": 7, "resource_id": 24, "db_id": 1}``; ``db_id`` is for dynamic segments only.

One task refreshes them all, one or thousands, and waits in the triggerer; a retry repeats only what did not
finish (``mapped_segment_refresh`` has a task for each instead). ``gather`` publishes once, at the end of
the night, with the segments that succeeded and those that failed; ``verdict`` then turns the run red when
one failed, so that neither hides the other. Each segment has an event of its own besides when the Variable
``segstats_events_for_each`` is ``true``.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats.assets import publish_night, segments_alias, segments_asset
from airflow_provider_segstats.operators import RefreshSegmentsOperator

log = logging.getLogger(__name__)

TIME_ZONE = "UTC"
IN_FLIGHT = 100  # recounts that the platform has to do at once
EXAMPLE_SEGMENTS = [
    {"segment_id": 7, "resource_id": 24, "db_id": 1},
    {"segment_id": 8, "resource_id": 24},
    {"segment_id": 9, "resource_id": 27},
]

with DAG(
    dag_id="nightly_segment_refresh",
    # Without start_date, and never immediately: enabled at noon, the DAG waits for the night.
    schedule=CronTriggerTimetable("0 3 * * *", timezone=TIME_ZONE, run_immediately=timedelta()),
    catchup=False,  # the API only knows now: a night that was missed cannot be had later
    max_active_runs=1,
    params={
        "segments": Param(
            None,  # the UI's form copies a default into every run, where it would outdo the Variable
            type=["null", "array"],
            description="For this run only; empty: the Variable segstats_segments, else the example's.",
        )
    },
    tags=["segstats"],
    doc_md=__doc__,
) as dag:

    @task(retries=2)
    def list_segments() -> list[dict[str, Any]]:
        """Return the night's segments as arguments for the refresh; refuse a backfill."""
        context = get_current_context()
        run = context["dag_run"]
        if run.run_type == "backfill":
            raise AirflowFailException(
                "a backfill would store today's counters as another day's: the API only knows now"
            )
        segments = context["params"]["segments"]
        if segments is None:
            segments = Variable.get("segstats_segments", default=EXAMPLE_SEGMENTS, deserialize_json=True)
        if not segments:
            raise AirflowFailException("the list of segments is empty")
        return segments

    @task(
        trigger_rule="all_done",
        outlets=[segments_asset(), segments_alias()],
        inlets=[segments_asset()],  # where the night before is found
        retries=3,
        multiple_outputs=False,
    )
    def gather() -> dict[str, Any]:
        """Publish the night: all rows, and which segments succeeded and failed."""
        context = get_current_context()
        ti, run = context["ti"], context["dag_run"]
        summary = ti.xcom_pull(task_ids="refresh", key="summary")
        if not (summary and summary["ok"]):
            raise AirflowFailException("no segment was counted, nothing is published: see the task refresh")
        failed = [*map(int, summary["failed"]), *summary["not_submitted"]]
        night = {"ok": summary["ok"], "failed": failed, "rows": ti.xcom_pull(task_ids="refresh")}
        log.info(
            "%d ok, %d failed, %d of them not submitted, %d submits, %.0f seconds",
            len(night["ok"]),
            len(failed),
            len(summary["not_submitted"]),
            summary["submits"],
            (datetime.now(tz=timezone.utc) - run.start_date).total_seconds(),
        )
        for_each = Variable.get("segstats_events_for_each", default=False, deserialize_json=True)
        publish_night(context, night, events_for_each=for_each)
        return night

    @task
    def verdict(night: dict[str, Any]) -> None:
        """Fail the run when a segment failed; what succeeded is published already."""
        if night["failed"]:
            raise AirflowFailException(f"not counted: segments {night['failed']}")

    refresh = RefreshSegmentsOperator(
        task_id="refresh",
        segments=list_segments(),
        max_in_flight=IN_FLIGHT,
        deferrable=True,
        # A whole night is worth a segment counted twice, where the answer to a submit was lost.
        on_ambiguous_submit="resubmit",
        timeout=timedelta(hours=2),
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
    night = gather()
    refresh >> night
    verdict(night)
