"""Telling others how far a wait is: an XCom of the waiting task, ``segstats_progress``.

It is written when a phase begins and then every 30 s at most, where something has changed; a process, which
may be a triggerer with thousands of waits, writes two a second at most, whoever has waited longest first. A
write that fails is one that is missing. Airflow's option ``[segstats] progress`` turns all of it off.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_segstats.boundary.versions import conf
from airflow_provider_segstats.core.progress import EVERY

log = logging.getLogger(__name__)

XCOM_KEY = "segstats_progress"
APART = 0.5
"""Seconds between two writes of one process."""

Value = dict[str, Any]
Write = Callable[[Value], Awaitable[None]]


def is_wanted() -> bool:
    """Whether Airflow's option ``[segstats] progress`` lets it be written; it does unless set otherwise."""
    wanted: bool = conf.getboolean("segstats", "progress", fallback=True)
    return wanted


@dataclass(eq=False)
class _Shown:
    describe: Callable[[], Value | None]
    write: Write
    last: Value | None = None
    gone: bool = False


@dataclass
class _Board:
    """All that one event loop shows, in a heap by when it is due."""

    due: list[tuple[float, int, _Shown]] = field(default_factory=list)
    number: Iterator[int] = field(default_factory=itertools.count)
    rounds: asyncio.Task[None] | None = None
    complained: bool = False

    def put(self, shown: _Shown, at: float) -> None:
        heapq.heappush(self.due, (at, next(self.number), shown))

    async def go_round(self) -> None:
        while self.due:
            at, _, shown = self.due[0]
            if not shown.gone and (early := at - time.monotonic()) > 0:
                await asyncio.sleep(min(early, 1.0))  # one that is due at once may come meanwhile
                continue
            heapq.heappop(self.due)
            if shown.gone:
                continue
            if (value := shown.describe()) is None:
                self.put(shown, time.monotonic() + 1)
                continue
            self.put(shown, time.monotonic() + EVERY)
            if not _is_same(value, shown.last):
                shown.last = value
                await self._write(shown.write, value)
                await asyncio.sleep(APART)
        self.rounds = None

    async def _write(self, write: Write, value: Value) -> None:
        try:
            await write(value)
        except Exception as error:  # noqa: BLE001 - whatever it is, no wait is to end of it
            if not self.complained:
                self.complained = True
                log.warning("How far waits are could not be told: %s: %s", type(error).__name__, error)


_boards: WeakKeyDictionary[asyncio.AbstractEventLoop, _Board] = WeakKeyDictionary()


def by_trigger(ti: Any) -> Write | None:
    """Return what writes for a task from its trigger; None in ``dag.test()``, which knows no task there."""
    if ti is None:
        return None
    from airflow.sdk.execution_time.xcom import XCom

    of = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}

    async def write(value: Value) -> None:
        await XCom.aset(key=XCOM_KEY, value=value, **of)

    return write


def by_worker(ti: Any) -> Write:
    """Return what writes for the task that this process is, from an event loop."""

    async def write(value: Value) -> None:
        await asyncio.to_thread(ti.xcom_push, key=XCOM_KEY, value=value)

    return write


@contextmanager
def shown(describe: Callable[[], Value | None], write: Write | None) -> Iterator[None]:
    """Have what ``describe`` returns written while the block runs, on the running event loop.

    It may return None where nothing is known yet; ``write`` is None where there is nobody to write for.
    """
    if write is None or not is_wanted():
        yield
        return
    loop = asyncio.get_running_loop()
    board = _boards.setdefault(loop, _Board())
    one = _Shown(describe, write)
    board.put(one, time.monotonic())
    if board.rounds is None:  # in an empty context: it writes for all, and logs as none of them
        board.rounds = contextvars.Context().run(loop.create_task, board.go_round())
    try:
        yield
    finally:
        one.gone = True


class Teller:
    """Writes how far the one wait of a worker's thread is."""

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._last: Value | None = None
        self._at = -math.inf
        self._wanted = is_wanted()

    def tell(self, value: Value) -> None:
        """Write it, if it is time and something has changed."""
        if not self._wanted or time.monotonic() < self._at + EVERY or _is_same(value, self._last):
            return
        self._at, self._last = time.monotonic(), value
        with suppress(Exception):  # as above
            self._ti.xcom_push(key=XCOM_KEY, value=value)


def _is_same(value: Value, last: Value | None) -> bool:
    """Whether nothing but the time has changed."""
    return last is not None and {**value, "at": None} == {**last, "at": None}
