"""Three nights that publish, and what their events say to whoever reads them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task

from airflow_provider_segstats.assets import publish_night, segments_alias, segments_asset

ALL, EACH, SEVEN = segments_asset(), segments_alias(), segments_asset(segment_id=7)


@task(outlets=[ALL, EACH], inlets=[ALL], multiple_outputs=False)
def publish(counts: list[list[int]], failed: list[int], *, events_for_each: bool) -> dict[str, Any]:
    """Publish a night with these segments' counts."""
    labels = {"list_id": 1, "resource_id": 24, "channel": "email", "updated": "2026-02-03T03:00:01Z"}
    rows = [{"segment_id": segment_id, **labels, "subscribed": count} for segment_id, count in counts]
    night = {"ok": [row["segment_id"] for row in rows], "failed": failed, "rows": rows}
    publish_night(get_current_context(), night, events_for_each=events_for_each)
    return night


with DAG("first_night", schedule=None):
    publish([[7, 100], [8, 50]], [], events_for_each=False)

with DAG("second_night", schedule=None):
    publish([[7, 103], [9, 1]], [8], events_for_each=True)

with DAG("third_night", schedule=None):  # publishes twice, as a run does that is cleared in part
    once = publish.override(task_id="once")([[7, 110]], [], events_for_each=False)
    once >> publish.override(task_id="again")([[7, 120]], [], events_for_each=False)

with DAG("reader", schedule=None):

    @task(inlets=[ALL, EACH, SEVEN])
    def read() -> list[list[Any]]:
        """Return the extras of all events of each kind."""
        events = get_current_context()["inlet_events"]
        return [[event.extra for event in events[asset]] for asset in (ALL, EACH, SEVEN)]

    read()
