"""Every night: recount the segments' subscription counters and publish them as one asset event.

Which segments: the list ``segments`` of a run's own configuration, else the Airflow Variable
``segstats_segments`` (JSON), else the example below. Each is
``{"segment_id": 7, "resource_id": 24, "db_id": 1}``; ``db_id`` is for dynamic segments only.

One mapped task a segment submits and waits in the triggerer, at most ``AT_ONCE`` at a time. ``gather``
publishes once, at the end of the night, with the segments that succeeded and those that failed;
``verdict`` then turns the run red when one failed, so that neither hides the other. Each segment has an
event of its own besides when the Variable ``segstats_events_for_each`` is ``true``. Airflow maps over
1,024 items at most (``[core] max_map_length``): raise that, or split the list over several DAGs.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats.assets import publish_night, segments_alias, segments_asset
from airflow_provider_segstats.operators import RefreshSegmentOperator

log = logging.getLogger(__name__)

TIME_ZONE = "UTC"
AT_ONCE = 8
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
        return checked(segments)

    @task(
        trigger_rule="all_done",
        outlets=[segments_asset(), segments_alias()],
        inlets=[segments_asset()],  # where the night before is found
        retries=3,
        multiple_outputs=False,
    )
    def gather(segments: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Publish the night: all rows, and which segments succeeded, failed or were skipped."""
        context = get_current_context()
        ti, run = context["ti"], context["dag_run"]
        if not segments:
            raise AirflowFailException("there is no list of segments: see the task list_segments")
        indexes = range(len(segments))
        states = ti.get_task_states(run.dag_id, task_ids=["refresh"], run_ids=[run.run_id])[run.run_id]
        by_outcome: dict[str, list[int]] = {"ok": [], "failed": [], "skipped": []}
        for index in indexes:
            outcome = {"success": "ok", "skipped": "skipped"}.get(states.get(f"refresh_{index}"), "failed")
            by_outcome[outcome].append(segments[index]["segment_id"])
        results = ti.xcom_pull(task_ids="refresh", map_indexes=indexes)
        night = {**by_outcome, "rows": [row for rows in results for row in rows or []]}
        submits = len([id_ for id_ in ti.xcom_pull("refresh", key="task_id", map_indexes=indexes) if id_])
        seconds = (datetime.now(tz=timezone.utc) - run.start_date).total_seconds()
        counts = ", ".join(f"{len(ids)} {outcome}" for outcome, ids in by_outcome.items())
        log.info("%s, %d submits, %.0f seconds", counts, submits, seconds)
        if not by_outcome["ok"]:
            raise AirflowFailException("no segment was counted, so nothing is published")
        for_each = Variable.get("segstats_events_for_each", default=False, deserialize_json=True)
        publish_night(context, night, events_for_each=for_each)
        return night

    @task
    def verdict(night: dict[str, Any]) -> None:
        """Fail the run when a segment failed; what succeeded is published already."""
        if night["failed"]:
            raise AirflowFailException(f"not counted: segments {night['failed']}")

    def checked(segments: Any) -> list[dict[str, Any]]:
        """Return the segments, or say which entry is wrong."""
        if not isinstance(segments, list) or not segments:
            raise AirflowFailException("segments must be a list with at least one entry")
        seen = set()
        for entry in segments:
            if not isinstance(entry, dict) or not {"segment_id", "resource_id"} <= entry.keys():
                raise AirflowFailException(f"a segment needs segment_id and resource_id: {entry!r}")
            if unknown := entry.keys() - {"segment_id", "resource_id", "db_id"}:
                raise AirflowFailException(f"unknown {sorted(unknown)} in {entry!r}")
            if entry["segment_id"] in seen:
                raise AirflowFailException(f"segment {entry['segment_id']} stands in the list twice")
            seen.add(entry["segment_id"])
        return segments

    segments = list_segments()
    refresh = RefreshSegmentOperator.partial(
        task_id="refresh",
        wait_for_completion=True,
        deferrable=True,
        timeout=timedelta(hours=2),
        retries=2,
        retry_delay=timedelta(minutes=5),
        max_active_tis_per_dag=AT_ONCE,
        map_index_template="{{ task.segment_id }}",
    ).expand_kwargs(segments)
    night = gather(segments)
    refresh >> night
    verdict(night)
