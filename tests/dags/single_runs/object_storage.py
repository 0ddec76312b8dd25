"""Rows of many segments as XComs that are too large for a database; see ``test_object_storage``."""

import os
from datetime import datetime, timezone

from airflow.sdk import DAG, task

from airflow_provider_segstats.operators import RefreshSegmentsOperator

SEGMENTS = int(os.environ["SEGMENTS"])
REFUSED = SEGMENTS + 1  # by the server


@task
def choose(first: int, last: int) -> list[dict[str, int]]:
    return [{"segment_id": segment_id, "resource_id": 24} for segment_id in range(first, last + 1)]


@task
def choose_one(segment_id: int) -> dict[str, int]:
    return {"segment_id": segment_id, "resource_id": 24}


@task(trigger_rule="all_done")
def read(rows: list[dict[str, int]]) -> dict[str, object]:
    """Return how many rows came, of which segments, and the last of them."""
    of = [row["segment_id"] for row in rows]
    return {"rows": len(rows), "first": of[0], "last": of[-1], "row": rows[-1]}


with DAG("object_storage", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
    counted = RefreshSegmentsOperator(
        task_id="counted", segments=choose(1, SEGMENTS), deferrable=True, poke_interval=1
    )
    read.override(task_id="read_counted")(counted.output)
    incomplete = RefreshSegmentsOperator(task_id="incomplete", segments=choose(2, REFUSED), poke_interval=1)
    read.override(task_id="read_incomplete")(incomplete.output)
    mapped = choose_one.expand(segment_id=[1, 2, 3])
    one_by_one = RefreshSegmentsOperator(task_id="one_by_one", segments=mapped, poke_interval=1)
    lists = RefreshSegmentsOperator.partial(task_id="lists", poke_interval=1).expand(
        segments=[[{"segment_id": 4, "resource_id": 24}], [{"segment_id": 5, "resource_id": 24}]]
    )
