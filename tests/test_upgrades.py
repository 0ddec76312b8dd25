"""What earlier releases left in Airflow's database, which this one has to revive.

Each folder of ``tests/upgrades`` is a release: its triggers as Airflow serialised them, the records of
submits that its tasks stored, and the events that its triggers fired. A fixture is a promise: every
release from then on revives it, so these files are added to with each release and never edited.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout
from airflow.sdk.module_loading import import_string
from airflow.sdk.serde import deserialize, serialize

from airflow_provider_segstats import __version__, errors
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.policy import WaitPlan, plan_from
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.submission import Life, Submitted, Unknown, recall

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

FOLDER = Path(__file__).parent / "upgrades"
RELEASES = sorted(path for path in FOLDER.iterdir() if path.is_dir())
THIS = FOLDER / __version__
TASKS = [
    RefreshSegmentOperator(task_id="operator", segment_id=7, resource_id=24, wait_for_completion=True),
    TaskStatusSensor(task_id="sensor", refresh_task_id="task_1", segment_id=7),
]
# Which of a trigger's errors end the task for good, and how; after any other Airflow's retries apply.
FINAL = {
    "ConfigurationError": AirflowFailException,
    "CertificateError": AirflowFailException,
    "RedirectError": AirflowFailException,
    "ApiError": AirflowFailException,
    "AmbiguousSubmitError": AirflowFailException,
    "WaitTimeoutError": AirflowSensorTimeout,
    "ExecutionTimeoutError": AirflowTaskTimeout,
}


def test_this_release_has_its_fixtures() -> None:
    assert __version__ in {release.name for release in RELEASES}


def stored(kind: str) -> list[Any]:
    """Return everything of a kind that any release stored, as parameters named after it."""
    return [
        pytest.param(value, id=f"{release.name} {name}")
        for release in RELEASES
        for name, value in json.loads((release / f"{kind}.json").read_text()).items()
    ]


def stored_events(key: str) -> list[Any]:
    return [event for event in stored("events") if key in event.values[0]]


def run(trigger: dict[str, Any]) -> dict[str, Any]:
    """Rebuild a trigger as the triggerer does, run it, and return its one event."""

    async def fire() -> list[dict[str, Any]]:
        revived = import_string(trigger["classpath"])(**deserialize(trigger["kwargs"]))
        return [event.payload async for event in revived.run()]

    [event] = asyncio.run(fire())
    return event


@pytest.fixture
def answer(
    emulator: Emulator, connect: Callable[..., None], sample: Callable[[str], bytes]
) -> Callable[[str], None]:
    """Give a function that makes the server answer every look with a sample of the specification."""
    connect(emulator.url)

    def set_answer(name: str) -> None:
        body = sample(f"{name}.json").decode()
        emulator.add_fault(Fault("reply", endpoint="tasks/status", body=body, times=None))

    return set_answer


@pytest.mark.parametrize("trigger", json.loads((THIS / "triggers.json").read_text()).values())
def test_this_release_stores_its_triggers_as_the_fixtures_have_them(trigger: dict[str, Any]) -> None:
    kwargs = trigger["kwargs"]
    kind = import_string(trigger["classpath"])
    for copy in (kwargs, json.loads(json.dumps(kwargs)), deserialize(serialize(kwargs))):
        assert kind(**copy).serialize() == (trigger["classpath"], kwargs)


def test_a_plan_stored_without_a_later_field_still_runs() -> None:
    needed = {"started": 1000.0, "deadline": 22600.0}
    assert WaitPlan(**needed) == plan_from(1000.0)


@pytest.mark.parametrize("trigger", stored("triggers"))
def test_a_stored_trigger_brings_the_rows_of_its_task(
    trigger: dict[str, Any], answer: Callable[[str], None]
) -> None:
    answer("tasks_status.response")
    event = run(trigger)
    assert event["task_id"] == trigger["kwargs"]["task_id"]
    assert event["segment_id"] == trigger["kwargs"]["segment_id"]
    assert event["rows"]
    assert {row["segment_id"] for row in event["rows"]} == {event["segment_id"]}


@pytest.mark.parametrize("trigger", stored("triggers"))
def test_a_stored_trigger_looks_once_and_in_its_own_format(
    trigger: dict[str, Any], answer: Callable[[str], None], emulator: Emulator
) -> None:
    answer("tasks_status.response")
    run(trigger)
    [look] = emulator.journal()
    assert look.content_type == f"application/{trigger['kwargs']['format'] or 'json'}"


@pytest.mark.parametrize("trigger", stored("triggers"))
def test_a_stored_trigger_keeps_its_deadline(trigger: dict[str, Any], answer: Callable[[str], None]) -> None:
    answer("running")
    error = run(trigger)["error"]
    plan = trigger["kwargs"]["plan"]
    end = plan["execution_deadline"] or plan["deadline"]
    assert error["kind"] == ("ExecutionTimeoutError" if plan["execution_deadline"] else "WaitTimeoutError")
    assert f"({end - plan['started']:.0f} s)" in error["message"]


@pytest.mark.parametrize("record", stored("states"))
def test_a_stored_record_of_a_submit_decides_what_a_retry_does(record: dict[str, Any]) -> None:
    life = Life(max_tries=2, clear_number=1)
    submitted = Submitted("task_1", resubmitted=record.get("resubmitted", False))
    assert recall(record, life) == (submitted if record["task_id"] else Unknown())


@pytest.mark.parametrize("cleared", [Life(1, 1), Life(3, 1), Life(2, 2)])
@pytest.mark.parametrize("record", stored("states"))
def test_a_stored_record_of_a_submit_does_not_outlive_a_clear(record: dict[str, Any], cleared: Life) -> None:
    assert recall(record, cleared) is None


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
@pytest.mark.parametrize("event", stored_events("rows"))
def test_a_stored_event_with_rows_is_the_tasks_result(
    event: dict[str, Any], task: RefreshSegmentOperator | TaskStatusSensor, context: Context
) -> None:
    assert task.execute_complete(context, event) == event["rows"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
@pytest.mark.parametrize("event", stored_events("error"))
def test_a_stored_event_with_an_error_ends_the_task_as_it_did(
    event: dict[str, Any], task: RefreshSegmentOperator | TaskStatusSensor, context: Context
) -> None:
    error = event["error"]
    final = FINAL.get(error["kind"])
    if error["kind"] == "TaskFailedError" and isinstance(task, TaskStatusSensor):
        final = AirflowFailException  # only the operator can submit afresh
    if error["kind"] == "ApiError" and not error["permanent"]:
        final = None
    with pytest.raises(final or getattr(errors, error["kind"])) as raised:
        task.execute_complete(context, event)
    where = f"connection '{error['connection']}', {error['endpoint']}"
    assert str(raised.value) == f"{where}: {error['message']}"


def test_this_releases_fixtures_have_every_kind_of_error() -> None:
    events = json.loads((THIS / "events.json").read_text()).values()
    fired = {event["error"]["kind"] for event in events if "error" in event}
    # A PartialFailureError is made on the worker, of what triggers fired.
    assert fired == {*errors._KINDS, "SegStatsError"} - {"PartialFailureError"}


@pytest.mark.parametrize("event", stored_events("error"))
def test_a_stored_error_comes_back_with_all_its_details(event: dict[str, Any]) -> None:
    assert errors.error_from_dict(event["error"]).to_dict() == event["error"]


@pytest.mark.parametrize("event", stored_events("error"))
def test_what_a_later_release_adds_to_an_error_is_left_out(event: dict[str, Any]) -> None:
    later = {**event["error"], "of_tomorrow": {"unknown": True}}
    assert errors.error_from_dict(later).to_dict() == event["error"]


def test_an_error_that_only_a_later_release_knows_keeps_its_line_and_its_permanence() -> None:
    later = {"kind": "QuotaError", "message": "too many", "permanent": True, "endpoint": "tasks/status"}
    revived = errors.error_from_dict(later)
    assert type(revived) is errors.SegStatsError
    assert (str(revived), revived.permanent) == ("tasks/status: too many", True)


@pytest.fixture
def context() -> Context:
    """Give the context of an Airflow without a task_state_store."""
    from airflow.sdk import Context

    return Context()
