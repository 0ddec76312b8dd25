"""Drives one flow on a thread, over requests; ``poller`` drives many on an event loop. No Airflow in here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.flows import Flow, Pause, Send, Step, TooLateError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import turn
from airflow_provider_segstats.core.transport.sync import SyncTransport

T = TypeVar("T")


def run(
    flow: Flow[T],
    settings: Settings,
    *,
    reload: Callable[[], Settings],
    pause: Callable[[Pause], None],
) -> T:
    """Drive a flow to its end on this thread and return its result, or raise what it raises.

    ``reload`` reads the connection again; ``pause`` sleeps, or raises to put the flow aside.
    """
    transport = SyncTransport(settings)

    def do(step: Step) -> Any:
        nonlocal transport, settings
        if isinstance(step, Send):
            wait = turn(settings, time.monotonic())
            if step.is_too_late(time.time(), wait):
                raise TooLateError
            time.sleep(wait)
            return step.call.read(transport.send(step.call.request))
        if isinstance(step, Pause):
            return pause(step)
        settings = reload()
        transport = SyncTransport(settings)
        return settings

    try:
        step = next(flow)
        while True:
            try:
                outcome = do(step)
            except (SegStatsError, TooLateError) as error:
                step = flow.throw(_of(step, error))
            else:
                step = flow.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _of(step: Step, error: Exception) -> Exception:
    """Return the error of a step, with the endpoint that was asked."""
    if isinstance(error, SegStatsError) and isinstance(step, Send):
        error.endpoint = step.call.endpoint
    return error
