"""What a wait keeps of itself when a worker hands it to a trigger, and takes back."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_segstats.emulator import Emulator


@pytest.fixture
def context() -> Any:
    return {"ti": SimpleNamespace(start_date=datetime.now(tz=timezone.utc))}


@pytest.fixture
def running(emulator: Emulator, connect: Callable[..., None]) -> str:
    """Give the id of a task that never ends."""
    connect(emulator.url)
    emulator.add_fault(Fault("task", outcome="stuck"))
    return SegStatsHook().refresh_counters(7, 24)


def sensor(task_id: str, **arguments: Any) -> TaskStatusSensor:
    return TaskStatusSensor(task_id="wait", refresh_task_id=task_id, segment_id=7, **arguments)


@pytest.fixture(autouse=True)
def _as_a_task_runner() -> Iterator[None]:
    """Call a task's methods as Airflow does."""
    token = ExecutorSafeguard.tracker.set(sensor("task_1"))
    try:
        yield
    finally:
        ExecutorSafeguard.tracker.reset(token)


def test_a_sensor_that_defers_tells_its_trigger_which_server_it_asked(
    running: str, context: Any, emulator: Emulator
) -> None:
    with pytest.raises(TaskDeferred) as caught:
        sensor(running, deferrable=True).execute(context)
    assert caught.value.trigger.serialize()[1]["base_url"] == f"{emulator.url}/api/v1.1"


def test_a_look_that_comes_back_from_a_trigger_goes_to_no_other_server(running: str, context: Any) -> None:
    elsewhere = "https://elsewhere.example/api/v1.1"
    event = {"task_id": running, "segment_id": 7, "rows": None, "base_url": elsewhere}
    with pytest.raises(AirflowFailException, match="the task was started at https://elsewhere"):
        sensor(running).execute_complete(context, event)


def test_six_hours_outdo_airflows_default_timeout_of_sensors_and_default_args_outdo_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__SENSORS__DEFAULT_TIMEOUT", "60")
    for arguments, seconds in (({}, 6 * 3600), ({"timeout": 90}, 90)):
        with DAG("d", schedule=None, default_args=arguments):
            sensor = TaskStatusSensor(task_id="wait", refresh_task_id="t")
            operator = RefreshSegmentOperator(task_id="submit", segment_id=7, resource_id=24)
        assert sensor.timeout == operator.timeout == seconds
