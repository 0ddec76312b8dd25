"""What a wait keeps of itself when a worker hands it to a trigger, and takes back."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.operator import ExecutorSafeguard
from support.versions import TaskDeferred

from airflow_provider_segstats.boundary.versions import AirflowFailException, AirflowRescheduleException
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.tasks.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_segstats.emulator import Emulator


@pytest.fixture
def context() -> Any:
    ti = SimpleNamespace(
        start_date=datetime.now(tz=timezone.utc), try_number=1, get_first_reschedule_date=lambda _: None
    )
    return {"ti": ti, "task_state_store": MemoryStore()}


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


def rescheduled(task_id: str, context: Any) -> None:
    with pytest.raises(AirflowRescheduleException):
        sensor(task_id, mode="reschedule").execute(context)


def test_a_rescheduled_sensor_goes_to_no_other_server_than_at_its_first_look(
    running: str, context: Any, connect: Callable[..., None]
) -> None:
    rescheduled(running, context)
    rescheduled(running, context)
    connect("https://elsewhere.example")
    with pytest.raises(AirflowFailException, match=r"the connection leads to https://elsewhere\.example"):
        sensor(running, mode="reschedule").execute(context)


def test_a_rescheduled_sensors_next_try_looks_where_the_connection_leads_then(
    running: str, context: Any, connect: Callable[..., None], emulator: Emulator
) -> None:
    rescheduled(running, context)
    connect(emulator.url.replace("127.0.0.1", "localhost"))
    context["ti"].try_number = 2
    rescheduled(running, context)


def test_a_sensor_can_be_rescheduled_where_airflow_keeps_nothing_for_it(running: str, context: Any) -> None:
    del context["task_state_store"]
    rescheduled(running, context)


def test_six_hours_outdo_airflows_default_timeout_of_sensors_and_default_args_outdo_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__SENSORS__DEFAULT_TIMEOUT", "60")
    for arguments, seconds in (({}, 6 * 3600), ({"timeout": 90}, 90)):
        with DAG("d", schedule=None, default_args=arguments):
            sensor = TaskStatusSensor(task_id="wait", refresh_task_id="t")
            operator = RefreshSegmentOperator(task_id="submit", segment_id=7, resource_id=24)
        assert sensor.timeout == operator.timeout == seconds
