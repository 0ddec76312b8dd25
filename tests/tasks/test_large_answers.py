"""Answers too large or too odd for a triggerer's event loop: a worker takes the wait over, to its end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import Server

from airflow_provider_segstats.core.errors import ReplyError
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.triggers import TaskStatusTrigger

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from airflow_provider_segstats.emulator import Emulator

STATUS = "tasks/status"
ENTRY = '{"channels": [{"channel": "email", "status": {"all": 1}}]}'
DONE = f'{{"error": 0, "data": {{"status": "completed", "result": [{ENTRY}]}}}}'
RUNNING = '{"error": 0, "data": {"status": "running"}}'
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
def test_a_task_that_still_runs_is_waited_for_on_the_worker(
    task: RefreshSegmentOperator | TaskStatusSensor, connected: Emulator, context: Any
) -> None:
    # The triggerer would leave the next answer to a worker again, each time at the cost of a task's start.
    body = '{"error": 0, "data": {"status": "running", "result": "%s"}}' % ("x" * 70_000)
    connected.add_fault(Fault("reply", endpoint=STATUS, body=body, times=2))
    connected.add_fault(Fault("reply", endpoint=STATUS, body=DONE))
    assert len(task.execute_complete(context, EVENT)) == 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_large_pages_that_are_no_answers_use_up_the_failed_looks_there_may_be(
    task: RefreshSegmentOperator | TaskStatusSensor, connected: Emulator, context: Any
) -> None:
    # In the triggerer the count would begin anew with each of them.
    connected.add_fault(Fault("html", endpoint=STATUS, body="<html>" + "x" * 70_000, times=None))
    with pytest.raises(ReplyError):
        task.execute_complete(context, EVENT)
    assert len(connected.journal()) == 2


@pytest.fixture
def odd_server(connect: Callable[..., None]) -> Iterator[Server]:
    """Give a server whose answers have a line that aiohttp does not take; a task is done at the fourth."""

    def behave(connection: socket.socket, server: Server) -> None:
        while server.read(connection):
            body = RUNNING if len(server.requests) < 4 else DONE
            head = "HTTP/1.1 200 OK\r\nX-Odd : 1\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    with Server(behave) as server:
        connect(server.url)
        yield server


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_id)
def test_an_odd_answer_is_left_to_a_worker_once_a_wait(
    task: RefreshSegmentOperator | TaskStatusSensor, odd_server: Server, context: Any
) -> None:
    plan = asdict(plan_from(time.time(), timeout=60))
    trigger = TaskStatusTrigger(
        segstats_conn_id="segstats_default", format=None, task_id="task_1", segment_id=7, plan=plan
    )

    async def fire() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    [event] = asyncio.run(fire())
    assert event == EVENT | {"base_url": f"{odd_server.url}/api/v1.1"}
    assert len(odd_server.requests) == 1
    assert len(task.execute_complete(context, event)) == 1
    assert len(odd_server.requests) == 4
