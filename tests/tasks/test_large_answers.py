"""Answers too large for a triggerer's event loop: a worker looks, and knows when to stop."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_provider_segstats.core.errors import ReplyError
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.emulator import Emulator

STATUS = "tasks/status"
EVENT = {"task_id": "task_1", "segment_id": 7, "rows": None}
WAITS = {"deferrable": True, "poke_interval": 0.05, "max_poll_failures": 2}
TASKS = [
    RefreshSegmentOperator(
        task_id="operator", segment_id=7, resource_id=24, wait_for_completion=True, **WAITS
    ),
    TaskStatusSensor(task_id="sensor", refresh_task_id="task_1", segment_id=7, **WAITS),
]


@pytest.fixture
def connected(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    connect(emulator.url)
    return emulator


@pytest.fixture
def context() -> Any:
    return {"ti": SimpleNamespace(start_date=datetime.now(timezone.utc))}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_a_large_answer_of_a_task_that_is_done_is_read_on_the_worker(
    task: RefreshSegmentOperator | TaskStatusSensor, connected: Emulator, context: Any
) -> None:
    entry = '{"channels": [{"channel": "email", "status": {"all": 1}}], "updated": "%s"}' % ("x" * 1000)
    result = ", ".join([entry] * 100)
    body = f'{{"error": 0, "data": {{"status": "completed", "result": [{result}]}}}}'
    connected.add_fault(Fault("reply", endpoint=STATUS, body=body))
    assert len(task.execute_complete(context, EVENT)) == 100


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_a_large_answer_of_a_task_that_runs_is_waited_for_in_the_triggerer(
    task: RefreshSegmentOperator | TaskStatusSensor, connected: Emulator, context: Any
) -> None:
    body = '{"error": 0, "data": {"status": "running", "result": "%s"}}' % ("x" * 70_000)
    connected.add_fault(Fault("reply", endpoint=STATUS, body=body))
    with pytest.raises(TaskDeferred):
        task.execute_complete(context, EVENT)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_large_pages_that_are_no_answers_use_up_the_failed_looks_there_may_be(
    task: RefreshSegmentOperator | TaskStatusSensor, connected: Emulator, context: Any
) -> None:
    # In the triggerer the count would begin anew with each of them.
    connected.add_fault(Fault("html", endpoint=STATUS, body="<html>" + "x" * 70_000, times=None))
    with pytest.raises(ReplyError):
        task.execute_complete(context, EVENT)
    assert len(connected.journal()) == 2
