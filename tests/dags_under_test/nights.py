"""Two nights that publish, and what their events say to whoever reads them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task

from airflow_provider_segstats.assets import publish_night, segments_alias, segments_asset

ALL, EACH, SEVEN = segments_asset(), segments_alias(), segments_asset(segment_id=7)


def night(dag_id: str, counts: dict[int, int], *, failed: list[int], events_for_each: bool) -> None:
    """Make a DAG whose task publishes a night."""
    with DAG(dag_id, schedule=None):

        @task(outlets=[ALL, EACH], inlets=[ALL], multiple_outputs=False)
        def publish() -> dict[str, Any]:
            labels = {"list_id": 1, "resource_id": 24, "channel": "email", "updated": "2026-02-03T03:00:01Z"}
            rows = [{"segment_id": of, **labels, "subscribed": count} for of, count in counts.items()]
            told = {"ok": list(counts), "failed": failed, "skipped": [], "rows": rows}
            publish_night(get_current_context(), told, events_for_each=events_for_each)
            return told

        publish()


night("first_night", {7: 100, 8: 50}, failed=[], events_for_each=False)
night("second_night", {7: 103, 9: 1}, failed=[8], events_for_each=True)

with DAG("reader", schedule=None):

    @task(inlets=[ALL, EACH, SEVEN])
    def read() -> list[list[Any]]:
        """Return the extras of all events of each kind."""
        events = get_current_context()["inlet_events"]
        return [[event.extra for event in events[asset]] for asset in (ALL, EACH, SEVEN)]

    read()
