"""Drives many flows on one event loop: what thousands of waiting triggers share.

One pooled session, one heap of due times with a tick, a few workers that send what is due, and one gate
that a server's Retry-After closes for all. The connection is read once, and again when a flow asks. A
flow's failure, or its cancellation, touches no other. No Airflow in here.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.flows import Flow, LargeAnswer, Pause, Reload, Send
from airflow_provider_segstats.core.policy import LONGEST_RETRY_AFTER
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import turn
from airflow_provider_segstats.core.transport.aio import AsyncTransport, open_transport

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
_Key = tuple[asyncio.AbstractEventLoop, Hashable]

WORKERS = 32
"""Requests under way at once, and so sockets to one server, at most."""

TICK = 0.1
"""Seconds between two glances at the heap. Waking once for all that is due costs less than once for each."""

LARGE_BODY = 32 * 1024
"""Bytes of an answer that are decoded on the event loop at most: some sixty result entries. Decoding more
would hold up everything else that waits on the loop."""


def shared_poller(key: Hashable, load: Callable[[], Awaitable[Settings]]) -> Poller:
    """Return the running loop's poller for a connection.

    ``load`` reads the connection; all who give the same key read the same one.
    """
    whole = (asyncio.get_running_loop(), key)
    return _pollers.get(whole) or _pollers.setdefault(whole, Poller(whole, load))


@dataclass(eq=False, slots=True)
class _Driven:
    """A flow on its way: its step to do, and the future that its owner awaits."""

    flow: Flow[Any]
    context: contextvars.Context
    settings: Settings
    future: asyncio.Future[Any]
    leave_large: bool
    step: Send | None = None
    sent_at: float = math.inf
    due: float = 0.0

    def __lt__(self, other: _Driven) -> bool:
        """Whether it is due sooner."""
        return self.due < other.due


class Poller:
    """Sends, pauses and reloads for as many flows as there are. For one event loop and one connection.

    It closes when the last flow ends, or the last ``async with`` block that keeps it.
    """

    def __init__(self, key: _Key, load: Callable[[], Awaitable[Settings]]) -> None:
        self.users = 0
        self._key = key
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._loading = asyncio.Lock()
        self._loaded_at = 0.0
        self._settings: Settings | None = None
        self._transport: AsyncTransport | None = None
        # A heap of the flows themselves, and nothing that lives from one look to the next: such objects have
        # Python's collector go through all that a triggerer holds, which takes it half a second.
        self._due: list[_Driven] = []
        self._tick: asyncio.TimerHandle | None = None
        self._ready: deque[_Driven] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._workers: list[asyncio.Task[None]] = []
        self._closed_until = 0.0
        self._closed = False

    async def __aenter__(self) -> Self:
        """Keep it open."""
        self.users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it if nobody else is here."""
        self.users -= 1
        if not self.users:
            del _pollers[self._key]
            await self._close()

    async def run(self, make_flow: Callable[[Settings], Flow[T]], *, leave_large: bool = False) -> T:
        """Drive a flow to its end and return its result, or raise what it raises.

        With ``leave_large`` an answer over :data:`LARGE_BODY` ends in :class:`~flows.LargeAnswer`.
        """
        async with self:
            settings = await self._reload(None, since=self._loop.time())
            driven = _Driven(
                make_flow(settings),
                contextvars.copy_context(),
                settings,
                self._loop.create_future(),
                leave_large,
            )
            try:
                self._advance(driven, None)
                while isinstance(outcome := await driven.future, Reload):
                    # Here, on the owner's task: it may talk to Airflow, whose logs tell tasks apart.
                    driven.future = self._loop.create_future()
                    try:
                        driven.settings = await self._reload(driven.settings, since=driven.sent_at)
                    except SegStatsError as error:
                        self._advance(driven, error)
                    else:
                        self._advance(driven, driven.settings)
                return outcome[0]  # type: ignore[no-any-return]  # a future of any flow
            finally:
                driven.future.cancel()
                driven.flow.close()

    async def _close(self) -> None:
        self._closed = True
        if self._tick:
            self._tick.cancel()
        for worker in self._workers:
            worker.cancel()
        try:
            await asyncio.gather(*self._workers, return_exceptions=True)
        finally:
            if self._transport:
                await self._transport.close()

    async def _reload(self, stale: Settings | None, since: float) -> Settings:
        """Return settings read after ``since``, which many that ask at once share; any, for no stale ones."""
        if stale is None and self._settings is not None:
            return self._settings
        async with self._loading:
            if self._settings is None or (stale is self._settings and self._loaded_at <= since):
                loaded_at = self._loop.time()
                settings = await self._load()
                if settings != self._settings:
                    old, self._transport = self._transport, await open_transport(settings, WORKERS)
                    self._settings = settings
                    if old:  # only now: the workers have not waited
                        await old.retire()
                self._loaded_at = loaded_at
            assert self._settings is not None  # noqa: S101 - just read
            return self._settings

    def _advance(self, driven: _Driven, outcome: Any) -> None:
        """Give a flow the outcome of its step, and see to the step it asks for next."""
        if driven.future.done():  # its owner has left
            return
        resume = driven.flow.throw if isinstance(outcome, SegStatsError) else driven.flow.send
        try:
            step = driven.context.run(resume, outcome)
        except StopIteration as end:
            driven.future.set_result((end.value,))
        except Exception as error:  # noqa: BLE001 - raised again in the owner's task
            driven.future.set_exception(error)
        else:
            driven.step = step if isinstance(step, Send) else None
            if isinstance(step, Send):
                self._enqueue(driven)
            elif isinstance(step, Pause):
                self._sleep(driven, step.seconds)
            else:
                driven.future.set_result(step)

    def _sleep(self, driven: _Driven, seconds: float) -> None:
        driven.due = self._loop.time() + seconds
        heapq.heappush(self._due, driven)
        if self._tick is None:
            self._tick = self._loop.call_later(TICK, self._wake, context=contextvars.Context())

    def _wake(self) -> None:
        now = self._loop.time()
        while self._due and self._due[0].due <= now:
            driven = heapq.heappop(self._due)
            if driven.step:  # it had to wait for the gate
                self._enqueue(driven)
            else:
                self._advance(driven, None)
        self._tick = self._loop.call_later(TICK, self._wake) if self._due else None

    def _enqueue(self, driven: _Driven) -> None:
        self._ready.append(driven)
        if self._idle:
            self._idle.pop().set_result(None)
        elif len(self._workers) < WORKERS:
            # In an empty context: a worker would log as the trigger that happened to need it first.
            self._workers.append(contextvars.Context().run(self._loop.create_task, self._work()))

    async def _work(self) -> None:
        while not self._closed:  # a worker may be cancelled just when its request is late, and go on
            while not self._ready:
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
            driven = self._ready.popleft()
            try:
                await self._send(driven)
            except Exception as error:  # noqa: BLE001 - whatever went wrong is its owner's alone
                if not driven.future.done():
                    driven.future.set_exception(error)

    async def _send(self, driven: _Driven) -> None:
        step = driven.step
        assert step is not None  # noqa: S101 - nothing else is enqueued
        if self._put_off(driven, step):
            return
        if (wait := turn(driven.settings, time.monotonic())) > 0:
            await asyncio.sleep(wait)
            if self._put_off(driven, step):
                return
        assert self._transport is not None  # noqa: S101 - there are settings, so there is a transport
        driven.sent_at = self._loop.time()
        try:
            reply = await self._transport.send(step.call.request)
            if driven.leave_large and len(reply.body) > LARGE_BODY:
                if reply.status == 200:
                    raise LargeAnswer
                reply = replace(reply, body=b"")  # some proxy's page: the API's own errors are short
            outcome = step.call.read(reply)
        except SegStatsError as error:
            error.endpoint = step.call.endpoint
            if error.retry_after:
                pause = min(error.retry_after, LONGEST_RETRY_AFTER)
                self._closed_until = max(self._closed_until, self._loop.time() + pause)
            self._advance(driven, error)
        else:
            self._advance(driven, outcome)

    def _put_off(self, driven: _Driven, step: Send) -> bool:
        """Whether a request is not to be sent now: its owner has left, or the gate is closed."""
        if driven.future.done():
            return True
        closed = self._closed_until - self._loop.time()
        if closed > 0:
            closed = min(closed, step.by - time.time())
        if closed > 0:
            self._sleep(driven, closed)
        return closed > 0


_pollers: dict[_Key, Poller] = {}
