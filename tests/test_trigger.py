"""The triggers: what Airflow stores of them, and the one event each fires."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats.core import poller
from airflow_provider_segstats.core.errors import error_from_dict
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.triggers import TaskStatusesTrigger, TaskStatusTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.emulator import Emulator

STATUS = "tasks/status"
TOKEN = "s3cret<&>t0ken"


def plan(timeout: float = 30, **more: Any) -> dict[str, Any]:
    now = time.time()
    return {"started": now, "deadline": now + timeout, "poke_interval": 0.02, **more}


def trigger(**arguments: Any) -> TaskStatusTrigger:
    standard: dict[str, Any] = {
        "segstats_conn_id": "segstats_default",
        "format": None,
        "task_id": "task_1",
        "segment_id": 7,
        "plan": plan(),
    }
    return TaskStatusTrigger(**{**standard, **arguments})


def events(of: TaskStatusTrigger | TaskStatusesTrigger) -> list[dict[str, Any]]:
    """Run a trigger as the triggerer does and return the payloads; they are JSON and hold no secret."""

    async def run() -> list[dict[str, Any]]:
        return [event.payload async for event in of.run()]

    payloads = asyncio.run(run())
    text = json.dumps(payloads)
    assert json.loads(text) == payloads
    assert "t0ken" not in text
    assert poller._pollers == {}
    return payloads


@pytest.fixture
def connected(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    emulator.configure(token=TOKEN)
    connect(emulator.url, TOKEN)
    return emulator


@pytest.mark.usefixtures("connected")
def test_no_secret_is_in_what_airflow_stores() -> None:
    assert "t0ken" not in json.dumps(trigger().serialize())


@pytest.mark.parametrize("format", [None, "json", "xml"])
def test_a_done_task_fires_its_rows(connected: Emulator, format: Any) -> None:
    connected.configure(seconds=0.1)
    task_id = SegStatsHook().refresh_counters(7, 24)
    [event] = events(trigger(task_id=task_id, format=format))
    assert (event["task_id"], event["segment_id"]) == (task_id, 7)
    assert [(row["segment_id"], row["channel"]) for row in event["rows"]] == [
        (7, "email"),
        (7, "push"),
        (7, "sms"),
    ]
    assert "error" not in event


def test_a_done_task_without_entries_fires_an_empty_list(connected: Emulator) -> None:
    connected.add_fault(Fault("task", outcome="empty"))
    [event] = events(trigger(task_id=SegStatsHook().refresh_counters(7, 24)))
    assert event["rows"] == []


def test_a_failed_task_fires_its_error(connected: Emulator) -> None:
    connected.add_fault(Fault("task", outcome="failed", text=f"No list for {TOKEN}"))
    task_id = SegStatsHook().refresh_counters(7, 24)
    [event] = events(trigger(task_id=task_id))
    assert "rows" not in event
    assert (event["error"]["kind"], event["error"]["task_id"]) == ("TaskFailedError", task_id)
    assert (event["error"]["status"], event["error"]["text"]) == ("failed", "No list for ***")


@pytest.mark.parametrize(
    ("bounds", "kind"),
    [
        ({"timeout": 0.1}, "WaitTimeoutError"),
        ({"execution_deadline": 0.0}, "ExecutionTimeoutError"),
        ({"timeout": -5}, "WaitTimeoutError"),
    ],
)
def test_a_task_that_takes_too_long_fires_its_error(
    connected: Emulator, bounds: dict[str, float], kind: str
) -> None:
    connected.add_fault(Fault("task", outcome="stuck"))
    task_id = SegStatsHook().refresh_counters(7, 24)
    [event] = events(trigger(task_id=task_id, plan=plan(**bounds)))
    assert event["error"]["kind"] == kind
    assert (event["error"]["status"], event["error"]["progress"]) == ("running", 50)


def test_a_permanent_error_is_fired_as_such(connected: Emulator) -> None:
    connected.add_fault(Fault("api_error", endpoint=STATUS, code=403, text=f"No access for {TOKEN}"))
    [event] = events(trigger())
    error = error_from_dict(event["error"])
    assert error.permanent
    assert str(error) == "connection 'segstats_default', tasks/status: API error 403: No access for ***"


def test_failed_looks_beyond_the_budget_are_fired_as_worth_a_retry(connect: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    connect(f"http://127.0.0.1:{port}", TOKEN)
    [event] = events(trigger(plan=plan(max_poll_failures=1)))
    assert (event["error"]["kind"], event["error"]["permanent"]) == ("NotSentError", False)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"segstats_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection"),
        ({"format": "yaml"}, "format can be 'json' or 'xml', not 'yaml'"),
    ],
)
def test_what_cannot_even_begin_is_fired_too(arguments: dict[str, Any], line: str) -> None:
    [event] = events(trigger(**arguments))
    assert error_from_dict(event["error"]).permanent
    assert line in str(error_from_dict(event["error"]))


@pytest.mark.usefixtures("connected")
def test_a_bug_is_fired_as_an_error_worth_a_retry() -> None:
    # A deadline that is no number stands for any bug: nothing checks what only we have written.
    [event] = events(trigger(plan={"started": 0.0, "deadline": "never"}))
    error = error_from_dict(event["error"])
    assert "rows" not in event
    assert not error.permanent
    line = "the wait broke with TypeError; the triggerer's log has more"
    assert str(error) == f"connection 'segstats_default': {line}"


def test_a_trigger_asks_no_other_server_than_the_one_that_started_its_task(connected: Emulator) -> None:
    task_id = SegStatsHook().refresh_counters(7, 24)
    here, elsewhere = f"{connected.url}/api/v1.1", "https://elsewhere.example/api/v1.1"
    [event] = events(trigger(task_id=task_id, base_url=here))
    assert event["rows"]
    connected.clear_journal()
    [event] = events(trigger(task_id=task_id, base_url=elsewhere))
    error = error_from_dict(event["error"])
    assert error.permanent
    assert f"the task was started at {elsewhere}, and the connection leads to {here} now" in str(error)
    assert connected.journal() == []


def test_a_cancelled_run_closes_its_session_and_fires_nothing(connected: Emulator) -> None:
    connected.add_fault(Fault("task", outcome="stuck"))
    task_id = SegStatsHook().refresh_counters(7, 24)
    fired: list[Any] = []

    async def run() -> None:
        fired.extend([event async for event in trigger(task_id=task_id).run()])

    async def cancel() -> poller.Poller:
        task = asyncio.create_task(run())
        while len(connected.journal()) < 3:  # noqa: ASYNC110 - until it has looked
            await asyncio.sleep(0.01)
        [shared] = poller._pollers.values()
        assert shared.users == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return shared

    shared = asyncio.run(cancel())
    assert fired == []
    assert [server.transport._session.closed for server in shared._servers.values()] == [True]
    assert poller._pollers == {}


def test_many_triggers_of_one_loop_share_one_session(connected: Emulator) -> None:
    connected.configure(seconds=0.3)
    task_ids = [SegStatsHook().refresh_counters(segment, 24) for segment in range(1, 21)]
    seen: set[int] = set()

    async def run(task_id: str, segment_id: int) -> list[dict[str, Any]]:
        return [event.payload async for event in trigger(task_id=task_id, segment_id=segment_id).run()]

    async def run_all() -> list[list[dict[str, Any]]]:
        tasks = [asyncio.create_task(run(task_id, n)) for n, task_id in enumerate(task_ids, 1)]
        while not all(task.done() for task in tasks):
            seen.update(map(id, poller._pollers.values()))
            await asyncio.sleep(0.01)
        return [await task for task in tasks]

    fired = asyncio.run(run_all())
    assert len(seen) == 1
    assert [[row["segment_id"] for row in event["rows"]] for [event] in fired] == [
        [n, n, n] for n in range(1, 21)
    ]
    assert poller._pollers == {}


# --- many tasks


def many(outcomes: list[str], emulator: Emulator, leave_open: int = 0, **bounds: Any) -> TaskStatusesTrigger:
    """Return a trigger for tasks of these fates, whose segments are numbered from 1."""
    tasks: list[list[Any]] = []
    for segment_id, outcome in enumerate(outcomes, 1):
        emulator.add_fault(Fault("task", segment_id=segment_id, outcome=outcome))
        tasks.append([SegStatsHook().refresh_counters(segment_id, 24), segment_id, time.time()])
    return TaskStatusesTrigger(
        segstats_conn_id="segstats_default",
        format=None,
        tasks=tasks,
        leave_open=leave_open,
        plan=plan(**bounds),
    )


def test_many_tasks_fire_one_event_with_what_became_of_each(connected: Emulator) -> None:
    of = many(["completed", "failed", "empty", "stuck"], connected, timeout=1)
    [event] = events(of)
    outcomes = {outcome["segment_id"]: outcome for outcome in event["outcomes"]}
    assert {segment_id: outcome["task_id"] for segment_id, outcome in outcomes.items()} == {
        segment_id: task_id for task_id, segment_id, _ in of.tasks
    }
    assert [row["segment_id"] for row in outcomes[1]["rows"]] == [1, 1, 1]
    assert outcomes[2]["error"]["kind"] == "TaskFailedError"
    assert outcomes[3]["rows"] == []
    assert outcomes[4]["error"]["kind"] == "WaitTimeoutError"


def test_many_tasks_are_asked_for_each_at_the_server_that_started_it(connected: Emulator) -> None:
    of = many(["completed", "completed"], connected)
    of.tasks[0].append(f"{connected.url}/api/v1.1")
    of.tasks[1].append("https://elsewhere.example/api/v1.1")
    [event] = events(of)
    outcomes = {outcome["segment_id"]: outcome for outcome in event["outcomes"]}
    assert outcomes[1]["rows"]
    assert "started at https://elsewhere.example" in outcomes[2]["error"]["message"]


def test_many_tasks_fire_when_few_enough_are_open_and_those_are_left_out(connected: Emulator) -> None:
    [event] = events(many(["stuck", "completed", "stuck", "completed"], connected, leave_open=2))
    assert sorted(outcome["segment_id"] for outcome in event["outcomes"]) == [2, 4]


@pytest.mark.parametrize("outcomes", [[], ["stuck"]])
def test_where_few_enough_are_open_from_the_start_the_event_is_fired_at_once(
    connected: Emulator, outcomes: list[str]
) -> None:
    assert events(many(outcomes, connected, leave_open=1)) == [{"outcomes": []}]


def test_many_tasks_are_cancelled_together_and_fire_nothing(connected: Emulator) -> None:
    of = many(["stuck"] * 50, connected)
    fired: list[Any] = []

    async def run() -> None:
        fired.extend([event async for event in of.run()])

    async def cancel() -> None:
        task = asyncio.create_task(run())
        while len(connected.journal()) < 150:  # noqa: ASYNC110 - until it has looked
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cancel())
    assert fired == []
    assert poller._pollers == {}
