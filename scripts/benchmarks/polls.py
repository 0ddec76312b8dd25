"""The part "poll" of scripts/bench: the client's CPU per poll, saturated, 32 at a time.

Run as a program it is the client that is measured: all kinds in turn, round after round.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.stage import TOKEN, Outcome, Panel, Target, become_client, spread, stage, write_result

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger, TriggerEvent

AT_ONCE = 32
WAITS = 1000
"""Waits of ours at a time, which share 32 connections: so that there is always a poll to be made."""

MORE = 20
"""Times the polls of those who keep their connections, lest what they do once counts for much."""

FLOOR, AIOHTTP, HTTP, DBT, AIRBYTE = (
    "asyncio streams, by hand",
    "aiohttp, one session",
    "HttpSensorTrigger",
    "DbtCloudRunJobTrigger",
    "AirbyteSyncTrigger",
)
OURS_JSON, OURS_XML = "TaskStatusTrigger, JSON", "TaskStatusTrigger, XML"
NOTES = {
    FLOOR: "keep-alive over asyncio streams; the body is read, not decoded",
    AIOHTTP: "one shared ClientSession; json.loads",
    HTTP: "a session and a TLS handshake a poll",
    DBT: "a session and a TLS handshake a poll",
    AIRBYTE: "blocks the event loop: one at a time",
    OURS_JSON: f"{WAITS} waits over shared connections",
    OURS_XML: f"{WAITS} waits over shared connections",
}


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:
    """Measure all kinds side by side."""
    rounds = rounds or (1 if smoke else 5)
    with stage(folder) as on:
        costs: dict[str, list[float]] = on.run(
            "polls", on.url, str(on.certificate), str(rounds), str(64 if smoke else 2000)
        )
    medians = {kind: statistics.median(values) for kind, values in costs.items()}
    rows = [["client", "µs a poll: median (range)", "x floor", "polls per CPU-second", ""]]
    for kind, values in costs.items():
        ratio = f"{medians[kind] / medians[FLOOR]:.1f}"
        rows.append([kind, spread(values), ratio, f"{1e6 / medians[kind]:,.0f}", NOTES[kind]])
    targets = []
    for kind in (OURS_JSON, OURS_XML):
        times = medians[HTTP] / medians[kind]
        targets.append(Target(f"polls per CPU-second: {kind} against {HTTP}", times, 12, "x", at_least=True))
        least = medians[kind] / medians[AIOHTTP]
        targets.append(Target(f"CPU per poll: {kind} against {AIOHTTP}", least, 1.25, "x"))
    return Outcome(
        f"poll: the client's CPU per poll over TLS, saturated, {AT_ONCE} at a time, {rounds} rounds",
        [rows],
        "The CA bundle is one certificate, in favour of those who load it at each poll. What keeps its "
        f"connections makes {MORE} times the polls of the others.",
        targets,
        Panel("The client's CPU per poll over TLS", "µs", (OURS_JSON, OURS_XML), bars=medians),
    )


_serial = itertools.count(1)


def task(looks: int) -> str:
    """Return the id of a new task, done at that look."""
    return f"looks-{looks}-{next(_serial)}"


def number(looks: int) -> int:
    """Return the same as a number, for peers that know no other ids."""
    return next(_serial) * 10_000 + looks


def request(task_id: str) -> str:
    """Return the body of a poll."""
    return json.dumps({"token": TOKEN, "task_id": task_id}, separators=(",", ":"))


async def fired(trigger: BaseTrigger) -> TriggerEvent:
    """Return a trigger's event."""
    events = trigger.run()
    assert isinstance(events, AsyncIterator)  # noqa: S101 - which BaseTrigger's signature does not say
    async for event in events:
        return event
    raise AssertionError("no event")


def of(make: Callable[[int], BaseTrigger], waits: int = AT_ONCE) -> Callable[[int], Awaitable[int]]:
    """Return what runs so many triggers at once and returns how many polls they made."""

    async def run(polls: int) -> int:
        looks = max(2, polls // waits)
        for event in await asyncio.gather(*(fired(make(looks)) for _ in range(waits))):
            payload: Any = event.payload
            if payload is not True and "rows" not in payload and payload.get("status") != "success":
                raise AssertionError(payload)
        return looks * waits

    return run


def ours(wire_format: Any) -> Callable[[int], BaseTrigger]:
    """Return what makes our trigger for a format."""
    from airflow_provider_segstats.triggers import TaskStatusTrigger

    def make(looks: int) -> BaseTrigger:
        plan = {"started": time.time(), "deadline": time.time() + 3600, "poke_interval": 0.0}
        return TaskStatusTrigger(
            segstats_conn_id="segstats_default",
            format=wire_format,
            task_id=task(looks),
            segment_id=7,
            plan=plan,
        )

    return make


def peers() -> dict[str, Callable[[int], BaseTrigger]]:
    """Return what makes each peer's trigger."""
    from airflow.providers.airbyte.triggers.airbyte import AirbyteSyncTrigger
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return {
        HTTP: lambda looks: HttpSensorTrigger(
            endpoint="/http",
            method="POST",
            data=request(task(looks)),
            headers={"Content-Type": "application/json"},
            poke_interval=0.0,
        ),
        DBT: lambda looks: DbtCloudRunJobTrigger(
            conn_id="dbt_cloud_default",
            run_id=number(looks),
            end_time=time.time() + 3600,
            poll_interval=0.0,
            account_id=1,
        ),
        AIRBYTE: lambda looks: AirbyteSyncTrigger(
            conn_id="airbyte_default", job_id=number(looks), end_time=time.time() + 3600, poll_interval=0.0
        ),
    }


def by_hand(url: str, certificate: str) -> Callable[[int], Awaitable[int]]:
    """Return the floor: HTTP written by hand on asyncio's streams, a connection each."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    context = ssl.create_default_context(cafile=certificate)

    async def poll(looks: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        body = request(task(looks))
        head = f"POST /api/v1.1/tasks/status HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        message = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        for _ in range(looks):
            writer.write(message)
            head_read = await reader.readuntil(b"\r\n\r\n")
            length = head_read.lower().rpartition(b"content-length:")[2].split(b"\r", 1)[0]
            await reader.readexactly(int(length))
        writer.close()

    async def run(polls: int) -> int:
        looks = max(2, polls // AT_ONCE)
        await asyncio.gather(*(poll(looks) for _ in range(AT_ONCE)))
        return looks * AT_ONCE

    return run


def over_aiohttp(url: str, certificate: str) -> Callable[[int], Awaitable[int]]:
    """Return the second floor: one session of aiohttp for all."""
    import aiohttp

    context = ssl.create_default_context(cafile=certificate)

    async def run(polls: int) -> int:
        looks = max(2, polls // AT_ONCE)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

            async def poll() -> None:
                headers, body = {"Content-Type": "application/json"}, request(task(looks))
                for _ in range(looks):
                    async with session.post(
                        f"{url}/api/v1.1/tasks/status", data=body, headers=headers
                    ) as reply:
                        json.loads(await reply.read())

            await asyncio.gather(*(poll() for _ in range(AT_ONCE)))
        return looks * AT_ONCE

    return run


async def cost(run: Callable[[int], Awaitable[int]], polls: int) -> float:
    """Return the CPU microseconds a poll."""
    began = time.process_time()
    made = await run(polls)
    return (time.process_time() - began) / made * 1e6


def main(out: str, url: str, certificate: str, rounds: int, polls: int) -> None:
    """Measure every kind in every round; the first round only warms up."""
    become_client()
    apart = peers()
    kinds: dict[str, Callable[[int], Awaitable[int]]] = {
        FLOOR: by_hand(url, certificate),
        AIOHTTP: over_aiohttp(url, certificate),
        OURS_JSON: of(ours("json"), WAITS),
        OURS_XML: of(ours("xml"), WAITS),
        **{kind: of(make) for kind, make in apart.items()},
    }
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round_ in range(rounds + 1):
        for kind, run in kinds.items():
            gc.collect()
            count = polls if kind in apart else polls * MORE
            each = asyncio.run(cost(run, count if round_ else AT_ONCE))
            if round_:
                costs[kind].append(each)
    write_result(out, costs)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
