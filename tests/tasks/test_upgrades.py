"""What earlier releases left in Airflow's database, which this one has to revive.

Each folder of ``tests/upgrades`` is a release: its triggers as Airflow serialised them, what its tasks stored
of their submits, the events that its triggers fired, and all three of tasks with many segments. A fixture is
a promise: every published release from then on revives it, so these files are added to with each release and
never edited.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.module_loading import import_string
from support.paths import TESTS
from support.versions import deserialize, serialize

from airflow_provider_segstats import __version__
from airflow_provider_segstats.boundary.versions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
)
from airflow_provider_segstats.core import errors
from airflow_provider_segstats.core.policy import WaitPlan, plan_from
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.tasks.ledger import Ledger
from airflow_provider_segstats.tasks.store import Life

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import Context

FOLDER = TESTS / "upgrades"
RELEASES = sorted(path for path in FOLDER.iterdir() if path.is_dir())
THIS = FOLDER / __version__
STATUS = "tasks/status"
RUNNING = '{"error": 0, "data": {"status": "running"}}'
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
    return [event for event in stored("events") if event.values[0].get(key) is not None]


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


@pytest.mark.parametrize(
    "trigger",
    [
        *json.loads((THIS / "triggers.json").read_text()).values(),
        *(batch["trigger"] for batch in json.loads((THIS / "batches.json").read_text()).values()),
    ],
    ids=lambda trigger: trigger["classpath"].rpartition(".")[2],
)
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


LIFE = Life(max_tries=2, clear_number=1)
CLEARED = [Life(1, 1), Life(3, 1), Life(2, 2)]


class Store(dict[str, Any]):
    """A task_state_store with what an earlier release left in it, of tasks at the emulator."""

    def __init__(self, left: dict[str, Any], url: str = "") -> None:
        super().__init__(json.loads(json.dumps(left).replace("https://segments.example", url)))

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def context_of(store: Store | None = None, life: Life = LIFE) -> Any:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        start_date=datetime.now(timezone.utc),
        max_tries=life.max_tries,
        try_number=2,
        xcom_push=lambda key, value: pushed.update({key: value}),
        pushed=pushed,
    )
    dag_run = SimpleNamespace(clear_number=life.clear_number)
    return {"ti": ti, "dag_run": dag_run, "task_state_store": store}


def execute(task: RefreshSegmentOperator | RefreshSegmentsOperator, context: Any) -> Any:
    token = ExecutorSafeguard.tracker.set(task)
    try:
        return task.execute(context)
    finally:
        ExecutorSafeguard.tracker.reset(token)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("in_doubt", "may or may not have submitted"),
        ("submitted", "task_1"),
        ("forgotten", "task_2"),
        ("failed", "submitted anew"),
    ],
)
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_what_is_stored_of_one_segment_decides_what_a_retry_does(
    release: Path, name: str, outcome: str, emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)
    emulator.add_fault(Fault("reply", endpoint=STATUS, body=RUNNING, times=None))
    left = json.loads((release / "states.json").read_text())[name]
    before = len(emulator.tasks())
    task = RefreshSegmentOperator(task_id="operator", segment_id=7, resource_id=24)
    try:
        found = execute(task, context_of(Store(left, emulator.url)))
    except AirflowFailException as error:
        found = str(error)
    submitted = [remote.task_id for remote in emulator.tasks()[before:]]
    assert len(submitted) == (outcome == "submitted anew")
    assert found == submitted[0] if submitted else outcome in found


def test_of_a_task_that_was_forgotten_twice_the_fixtures_know_the_first_time(
    emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)  # which knows neither
    left = json.loads((THIS / "states.json").read_text())
    task = RefreshSegmentOperator(task_id="operator", segment_id=7, resource_id=24)
    assert execute(task, context_of(Store(left["submitted"], emulator.url))) == emulator.tasks()[-1].task_id
    with pytest.raises(AirflowFailException, match="does not know task task_2, which was started because"):
        execute(task, context_of(Store(left["forgotten"], emulator.url)))


@pytest.mark.parametrize("cleared", CLEARED)
@pytest.mark.parametrize("left", stored("states"))
def test_what_is_stored_of_one_segment_does_not_outlive_a_clear(left: dict[str, Any], cleared: Life) -> None:
    assert Ledger([7], Store(left), cleared).fresh == 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
@pytest.mark.parametrize("event", stored_events("rows"))
def test_a_stored_event_with_rows_is_the_tasks_result(
    event: dict[str, Any], task: RefreshSegmentOperator | TaskStatusSensor, context: Context
) -> None:
    assert task.execute_complete(context, event) == event["rows"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_a_stored_event_of_an_answer_too_large_for_a_triggerer_has_the_worker_look(
    task: RefreshSegmentOperator | TaskStatusSensor, answer: Callable[[str], None]
) -> None:
    answer("tasks_status.response")
    too_large = [event.values[0] for event in stored("events") if event.values[0].get("rows", 0) is None]
    assert too_large
    for event in too_large:
        rows = task.execute_complete(context_of(), event)
        assert {row["segment_id"] for row in rows} == {event["segment_id"]}


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
    # These two are made on the worker, of what triggers fired: no event holds them.
    assert fired == {*errors._KINDS, "SegStatsError"} - {"PartialFailureError", "UnreadableRowError"}


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


# --- tasks with many segments

SEGMENTS = [{"segment_id": segment_id, "resource_id": 24} for segment_id in range(1, 11)]


def end(
    context: Any, run: Callable[[RefreshSegmentsOperator], object]
) -> tuple[BaseException, dict[str, Any]]:
    """Return what a phase of the task raises, and its summary."""
    operator = RefreshSegmentsOperator(task_id="batch", segments=SEGMENTS, poke_interval=0.01)
    token = ExecutorSafeguard.tracker.set(operator)
    try:
        with pytest.raises((errors.SegStatsError, AirflowFailException)) as raised:
            run(operator)
    finally:
        ExecutorSafeguard.tracker.reset(token)
    return raised.value, context["ti"].pushed["summary"]


@pytest.mark.parametrize("batch", stored("batches"))
def test_a_stored_trigger_of_many_tasks_brings_what_became_of_each(
    batch: dict[str, Any], answer: Callable[[str], None]
) -> None:
    answer("tasks_status.response")
    outcomes = run(batch["trigger"])["outcomes"]
    asked = [task[:2] for task in batch["trigger"]["kwargs"]["tasks"]]
    assert sorted([of["task_id"], of["segment_id"]] for of in outcomes) == asked
    assert all({row["segment_id"] for row in of["rows"]} == {of["segment_id"]} for of in outcomes)


@pytest.mark.parametrize("batch", stored("batches"))
def test_a_stored_event_of_many_tasks_completes_what_is_known_of_their_segments(
    batch: dict[str, Any], answer: Callable[[str], None], emulator: Emulator
) -> None:
    answer("tasks_status.response")
    context = context_of(Store(batch["stored"], emulator.url))
    error, summary = end(context, lambda task: task.execute_complete(context, batch["event"]))
    assert type(error) is errors.PartialFailureError  # of one segment, the server was away
    assert (summary["ok"], summary["not_submitted"], summary["submits"]) == ([1, 2, 3, 4, 9], [10], 9)
    assert list(summary["failed"]) == ["5", "6", "7", "8"]
    counts = Counter(row["segment_id"] for row in context["ti"].pushed["return_value"])
    assert counts == {1: 2, 2: 2, 3: 1, 4: 3}
    assert len(emulator.journal()) == 1  # at the answer that was too large for a triggerer


@pytest.mark.parametrize("batch", stored("batches"))
def test_a_retry_goes_on_from_what_is_stored_of_many_segments(
    batch: dict[str, Any], answer: Callable[[str], None], emulator: Emulator
) -> None:
    answer("tasks_status.response")
    before = len(emulator.tasks())
    context = context_of(Store(batch["stored"], emulator.url))
    error, summary = end(context, lambda task: task.execute(context))
    assert type(error) is AirflowFailException
    assert summary["ok"] == [1, 2, 3, 4, 5, 8, 9, 10]
    assert list(summary["failed"]) == ["6", "7"]
    assert [task.segment_id for task in emulator.tasks()[before:]] == [10]


@pytest.mark.parametrize("left", stored("killed"))
def test_after_a_kill_a_retry_submits_nothing_again_that_is_stored_as_being_sent(
    left: dict[str, Any], answer: Callable[[str], None], emulator: Emulator
) -> None:
    answer("tasks_status.response")
    before = len(emulator.tasks())
    context = context_of(Store(left, emulator.url))
    error, summary = end(context, lambda task: task.execute(context))
    assert type(error) is AirflowFailException
    assert summary["ok"] == [1, 2, 3, 4, 5, 9, 10]
    assert list(summary["failed"]) == ["6", "7", "8"]
    assert sorted(task.segment_id for task in emulator.tasks()[before:]) == [9, 10]


@pytest.mark.parametrize("cleared", CLEARED)
@pytest.mark.parametrize("batch", stored("batches"))
def test_what_is_stored_of_many_segments_does_not_outlive_a_clear(
    batch: dict[str, Any], cleared: Life
) -> None:
    segment_ids = range(1, 11)
    assert Ledger(segment_ids, Store(batch["stored"]), cleared).fresh == 10
    assert Ledger(segment_ids, Store(batch["stored"]), LIFE).fresh == 1


@pytest.fixture
def context() -> Context:
    """Give the context of an Airflow without a task_state_store."""
    from airflow.sdk import Context

    return Context(ti=context_of()["ti"])
