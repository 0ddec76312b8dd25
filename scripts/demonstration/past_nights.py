"""The nights before tonight, for scripts/demo: on the emulator's clock, counted and stored by the provider.

A process of its own, for its Airflow settings: what it talks to comes in AIRFLOW_CONN_… and in arguments.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import requests

from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator

NIGHTS = 31  # of which thirty were counted
MISSED = 12  # so many nights ago nothing ran
NEWEST_SINCE = 5  # so many nights ago the last of the segments was added


def main(control: str, selection: dict[str, Any], *, seconds: float, sql_conn_id: str) -> None:
    """Live through the nights; leave the emulator at the real time, with tasks that take ``seconds``."""
    now = datetime.now(tz=timezone.utc)
    hook = SegStatsHook()
    segments = hook.list_segments(ui_tags=selection["ui_tags"])
    set_up(control, "settings", seconds=0)
    counted = [ago for ago in range(NIGHTS, 0, -1) if ago != MISSED]
    for number, ago in enumerate(counted, 1):
        night = now.replace(hour=3, minute=0, second=0) - timedelta(days=ago)
        set_up(control, "clock", now=night.isoformat())
        rows = []
        for segment in segments if ago <= NEWEST_SINCE else segments[:-1]:
            task_id = hook.refresh_counters(segment.segment_id, selection["resource_id"], selection["db_id"])
            found = hook.wait_for_task(task_id).rows(segment.segment_id)
            rows += [{"name": segment.name, **row} for row in found]
        run = {"dag_id": "nightly_segment_refresh", "run_id": f"past__{night:%Y-%m-%d}"}
        load = {"rows": rows, "run_after": night.isoformat(), **run}
        SegmentCountersToSqlOperator(
            task_id="load", rows=load, sql_conn_id=sql_conn_id, create_table=True
        ).execute({})
        print(f"counted {number} of {len(counted)}", flush=True)  # for who watches
    set_up(control, "clock", now=datetime.now(tz=timezone.utc).isoformat())
    set_up(control, "settings", seconds=seconds)


def set_up(control: str, what: str, **changes: object) -> None:
    """Change the emulator's clock or settings."""
    requests.post(f"{control}/{what}", json=changes, timeout=10).raise_for_status()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    main(**asked)
