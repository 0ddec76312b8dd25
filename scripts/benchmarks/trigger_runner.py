"""The triggerer that the part "wait" of scripts/bench measures: Airflow's own TriggerRunner and its run().

Its standard input is the socket to its supervisor, which is ``benchmarks.waits``. It measures itself once,
writes the result and ends.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import sys
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import psutil
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.executors.workloads.trigger import RunTrigger
from airflow.jobs.triggerer_job_runner import TriggerEventEntry, TriggerRunner
from airflow.models.trigger import Trigger
from benchmarks.stage import become_client, quantile, write_result
from benchmarks.waits import HTTP, LAG_EVERY, OURS, Run

PACE = 0.01  # seconds between two lots of new triggers
WARM_UP = 3  # triggers that come before anything is counted, so that all is imported


class Events(deque[TriggerEventEntry]):
    """The runner's events, with the time of each."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[int, float] = {}

    def append(self, entry: TriggerEventEntry) -> None:
        """Note when the event came, then keep it as the runner does; none here may tell of an error."""
        payload: Any = entry.event.payload
        if payload is not True and "rows" not in payload:
            print(payload, file=sys.stderr, flush=True)
            os._exit(1)
        self.times[entry.trigger_id] = time.time()
        super().append(entry)


class MeasuredRunner(TriggerRunner):
    """Airflow's, which once it runs is given triggers and is measured."""

    def __init__(self, run: Run, out: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's, as all of these
        self.events: Events = Events()
        self._run = run
        self._out = out
        self._tasks: dict[int, str] = {}
        self._creating = asyncio.Lock()

    async def create_triggers(self) -> None:
        """Start the triggers that wait for it; Airflow's does not expect two callers."""
        async with self._creating:
            await super().create_triggers()  # type: ignore[no-untyped-call]

    async def init_comms(self) -> None:
        """Begin to measure when Airflow is ready."""
        await super().init_comms()  # type: ignore[no-untyped-call]
        self._measuring = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        run = self._run
        await self._create(range(-WARM_UP, 0), [f"looks-1-{index}" for index in range(WARM_UP)])
        await asyncio.sleep(2)
        gc.collect()
        process = psutil.Process()
        before = process.memory_info().rss

        await self._ramp()
        gc.collect()  # of what the ramp left
        Path(self._out).with_suffix(".begun").touch()
        pauses: list[float] = []
        gc.callbacks.append(_stopwatch(pauses))
        began, cpu = time.monotonic(), time.process_time()
        lags = await self._lags(began + run.window)
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
        write_result(
            self._out,
            {
                "cpu": 100 * cpu / wall,
                "lag_median": 1e3 * quantile(lags, 0.5),
                "lag_p99": 1e3 * quantile(lags, 0.99),
                "lag_max": 1e3 * max(lags),
                "gc_longest": 1e3 * max(pauses, default=0.0),
                "kib": (process.memory_info().rss - before) / 1024 / run.waits,
                "ended": time.time(),
                "fired": {
                    self._tasks[trigger]: at for trigger, at in self.events.times.items() if trigger > 0
                },
                "running": len(self.triggers),
            },
        )
        os._exit(0)  # to clean up ten thousand waits is not what is measured

    async def _ramp(self) -> None:
        """Start the waits evenly over one interval, as nobody's tasks are submitted in one instant."""
        run = self._run
        chance = random.Random(7)  # noqa: S311 - the same tasks for every design
        began, made = time.monotonic(), 0
        while made < run.waits:
            passed = (time.monotonic() - began) / run.interval
            due = min(run.waits, int(run.waits * passed) + 1)
            shares = [chance.random() / run.finishing for _ in range(made, due)]
            tasks = [
                f"wave-{share * run.interval if share < 1 else math.inf}-{serial}"
                for serial, share in enumerate(shares, made)
            ]
            await self._create(range(made + 1, due + 1), tasks)
            made = due
            await asyncio.sleep(PACE)

    async def _create(self, ids: range, tasks: list[str]) -> None:
        """Hand over workloads as Airflow's supervisor does."""
        for trigger_id, task_id in zip(ids, tasks, strict=True):
            self._tasks[trigger_id] = task_id
            classpath, kwargs = _trigger(self._run, task_id)
            self.to_create.append(
                RunTrigger(
                    id=trigger_id,
                    classpath=classpath,
                    encrypted_kwargs=Trigger.encrypt_kwargs(kwargs),
                    ti=TaskInstanceDTO(
                        id=uuid.uuid4(),
                        task_id="refresh",
                        dag_id="bench",
                        run_id="scheduled__2026-01-01T00:00:00+00:00",
                        map_index=trigger_id,
                        try_number=1,
                        dag_version_id=uuid.uuid4(),
                        pool_slots=1,
                        priority_weight=1,
                    ),
                )
            )
        await self.create_triggers()

    async def _lags(self, until: float) -> list[float]:
        """Return by how much a sleeper overslept, again and again."""
        lags = []
        while (now := time.monotonic()) < until:
            await asyncio.sleep(LAG_EVERY)
            lags.append(time.monotonic() - now - LAG_EVERY)
        return lags


def _stopwatch(pauses: list[float]) -> Any:
    began = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - began)

    return note


def _trigger(run: Run, task_id: str) -> tuple[str, dict[str, Any]]:
    """Return classpath and arguments of a real trigger."""
    from datetime import datetime, timedelta, timezone

    if run.design == OURS:
        plan = {
            "started": time.time(),
            "deadline": time.time() + 86_400,
            "execution_deadline": None,
            "poke_interval": run.interval,
        }
        return (
            "airflow_provider_segstats.triggers.TaskStatusTrigger",
            {
                "segstats_conn_id": "segstats_default",
                "format": "json",
                "task_id": task_id,
                "segment_id": 7,
                "plan": plan,
            },
        )
    if run.design == HTTP:
        return (
            "airflow.providers.http.triggers.http.HttpSensorTrigger",
            {
                "endpoint": "/http",
                "http_conn_id": "http_default",
                "method": "POST",
                "data": f'{{"token":"benched-t0ken","task_id":"{task_id}"}}',
                "headers": {"Content-Type": "application/json"},
                "extra_options": {},
                "poke_interval": run.interval,
            },
        )
    return (
        "airflow.providers.standard.triggers.temporal.DateTimeTrigger",
        {"moment": datetime.now(tz=timezone.utc) + timedelta(days=3), "end_from_trigger": False},
    )


if __name__ == "__main__":
    become_client()
    MeasuredRunner(Run.from_json(sys.argv[2]), sys.argv[1]).run()  # type: ignore[no-untyped-call]
