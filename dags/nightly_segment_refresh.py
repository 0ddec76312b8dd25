"""Every night: recount the segments' subscription counters and publish them as one asset event.

Which segments: ``segments`` of a run's own params, else the Airflow Variable ``segstats_segments`` (JSON).
A list of segments, ``{"segment_id": 7, "resource_id": 24, "db_id": "auto"}`` (``db_id`` is for dynamic
segments only), and of selections, ``{"ui_tags": ["weekly"], "resource_id": 24, "db_id": "auto"}``; or one
selection. Without either the run fails and says so; an entry that is neither costs itself alone.

One task refreshes them all, one or thousands, and waits in the triggerer; a retry repeats only what did not
finish (``mapped_segment_refresh`` has a task for each instead). ``gather`` publishes once, at the end of
the night, with the segments that succeeded and those that failed; ``verdict`` then turns the run red when
one failed, so that neither hides the other. Each segment has an event of its own besides when the Variable
``segstats_events_for_each`` is ``true``.

A second account: name its connection beside the first in Airflow's option ``[segstats] accounts``
(``AIRFLOW__SEGSTATS__ACCOUNTS="segstats_default, segstats_eu"``). Its DAGs and its Variable have
names of their own: ``nightly_segment_refresh_segstats_eu``, ``segstats_segments_segstats_eu``.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_provider_segstats.nightly import accounts, count_night

try:
    from airflow.sdk import CronTriggerTimetable
except ImportError:  # before Airflow 3.2
    from airflow.timetables.trigger import CronTriggerTimetable

TIME_ZONE = "UTC"
IN_FLIGHT = 1_000  # recounts that the platform has to do at once; fewer make more deferrals

for account in accounts():
    with DAG(
        dag_id=account.named("nightly_segment_refresh"),
        description=f"Recounts all segments of {account.conn_id} and publishes the night",
        # Without start_date, and never immediately: enabled at noon, the DAG waits for the night.
        schedule=CronTriggerTimetable("0 3 * * *", timezone=TIME_ZONE, run_immediately=timedelta()),
        catchup=False,  # the API only knows now: a night that was missed cannot be had later
        max_active_runs=1,
        default_args={"owner": "segstats"},
        params={
            "segments": Param(
                None,  # the UI's form copies a default into every run, where it would outdo the Variable
                type=["null", "array", "object"],
                items={"type": "object"},
                title="Segments",
                description="For this run only, as JSON: [{'segment_id': 7, 'resource_id': 24}], or "
                "{'ui_tags': ['weekly'], 'resource_id': 24}. "
                f"Empty: those of the Variable {account.named('segstats_segments')}.",
            )
        },
        tags=["segstats"],
        doc_md=__doc__,
    ) as dag:
        count_night(account, max_in_flight=IN_FLIGHT)
