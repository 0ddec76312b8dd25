"""Drives flows: on a thread over requests, on an event loop over aiohttp. No Airflow in here.

Both drivers raise what the flow raises: the package's errors, each naming its endpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from airflow_provider_segstats.errors import SegStatsError
from airflow_provider_segstats.flows import Flow, Pause, Send, Step
from airflow_provider_segstats.settings import Settings
from airflow_provider_segstats.transport import turn
from airflow_provider_segstats.transport.aio import shared_transport
from airflow_provider_segstats.transport.sync import SyncTransport

T = TypeVar("T")


def run(
    flow: Flow[T],
    settings: Settings,
    *,
    reload: Callable[[], Settings],
    pause: Callable[[Pause], None],
) -> T:
    """Drive a flow to its end on this thread and return its result.

    ``reload`` reads the connection again; ``pause`` sleeps, or raises to put the flow aside.
    """
    transport = SyncTransport(settings)

    def do(step: Step) -> Any:
        nonlocal transport, settings
        if isinstance(step, Send):
            time.sleep(turn(settings, time.monotonic()))
            return step.call.read(transport.send(step.call.request))
        if isinstance(step, Pause):
            return pause(step)
        settings = reload()
        transport.close()
        transport = SyncTransport(settings)
        return settings

    try:
        step = next(flow)
        while True:
            try:
                outcome = do(step)
            except SegStatsError as error:
                step = flow.throw(_named(error, step))
            else:
                step = flow.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        transport.close()


async def run_async(flow: Flow[T], settings: Settings, *, reload: Callable[[], Awaitable[Settings]]) -> T:
    """Drive a flow to its end on this event loop and return its result; as :func:`run` otherwise."""
    async with AsyncExitStack() as transports:
        transport = await transports.enter_async_context(shared_transport(settings))

        async def do(step: Step) -> Any:
            nonlocal transport, settings
            if isinstance(step, Send):
                await asyncio.sleep(turn(settings, time.monotonic()))
                return step.call.read(await transport.send(step.call.request))
            if isinstance(step, Pause):
                return await asyncio.sleep(step.seconds)
            settings = await reload()
            transport = await transports.enter_async_context(shared_transport(settings))
            return settings

        try:
            step = next(flow)
            while True:
                try:
                    outcome = await do(step)
                except SegStatsError as error:
                    step = flow.throw(_named(error, step))
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _named(error: SegStatsError, step: Step) -> SegStatsError:
    if isinstance(step, Send):
        error.endpoint = step.call.endpoint
    return error
