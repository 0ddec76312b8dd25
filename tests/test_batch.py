"""Submitting many segments: what is written down, and when, against the emulator."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.batch import Batch
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.ledger import Ledger
from airflow_provider_segstats.model import Segment
from airflow_provider_segstats.policy import plan_from
from airflow_provider_segstats.submission import Life

if TYPE_CHECKING:
    from collections.abc import Callable

LIFE = Life(max_tries=1, clear_number=0)
SEGMENTS = {segment_id: Segment(segment_id, 24) for segment_id in range(1, 9)}


class Store:
    """A task_state_store that also remembers, as JSON, every value it was given."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value
        self.history.append(json.dumps(value))


def test_known_ids_do_not_wait_for_the_slowest_submit_of_their_group(
    emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)
    for segment_id in SEGMENTS:
        emulator.add_fault(Fault("delay", segment_id=segment_id, seconds=3.0 if segment_id == 8 else 0.0))
    store = Store()
    batch = Batch(
        SegStatsHook(), SEGMENTS, Ledger(SEGMENTS, store, LIFE), "fail", plan_from(time.time(), timeout=60)
    )
    asyncio.run(batch.submit(8))
    ids = {task.segment_id: task.task_id for task in emulator.tasks()}
    before_the_last = store.history[-2]
    assert [segment_id for segment_id in SEGMENTS if ids[segment_id] not in before_the_last] == [8]
