"""Drives many flows on one event loop: what thousands of waiting triggers share.

A :class:`Poller` belongs to one connection. It holds the flows that pause, in a heap of due times with a
tick, and reads the connection: no older than a minute for each flow that begins, and again when one asks.
A :class:`_Server` belongs to one base URL: a queue, a gate, and a few workers that send over one session.
A flow's failure, its cancellation or its deadline touches no other. No Airflow in here.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import NotSentError, SegStatsError
from airflow_provider_segstats.core.flows import Flow, LargeAnswer, Pause, Reload, Send, TooLateError
from airflow_provider_segstats.core.gate import Gate
from airflow_provider_segstats.core.meter import NO_METER, Meter
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import turn, until_turn
from airflow_provider_segstats.core.transport.aio import AsyncTransport, open_transport

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
_Key = tuple[asyncio.AbstractEventLoop, Hashable]

log = logging.getLogger(__name__)

WORKERS = 32
"""Requests under way to one server at once, and so sockets to it, at most."""

TICK = 0.1
"""Seconds between two glances at the heap. Waking once for all that is due costs less than once for each."""

AT_ONCE = 200
"""Flows that give up on a server in one tick: each of them ends a trigger, and others wait on the loop."""

FRESH = 60.0
"""Seconds for which a connection that was read serves flows that begin."""

LARGE_BODY = 32 * 1024
"""Bytes of an answer that are decoded on the event loop at most: some sixty result entries. Decoding more
would hold up everything else that waits on the loop."""


def shared_poller(key: Hashable, load: Callable[[], Awaitable[Settings]], meter: Meter = NO_METER) -> Poller:
    """Return the running loop's poller for a connection.

    ``load`` reads the connection; all who give the same key read the same one.
    """
    whole = (asyncio.get_running_loop(), key)
    return _pollers.get(whole) or _pollers.setdefault(whole, Poller(whole, load, meter))


@dataclass(eq=False, slots=True)
class _Driven:
    """A flow on its way: its settings' server, its step, and the future that its owner awaits.

    ``mark`` is where the server's failures stood when the flow came to it. ``step`` is what it has to send,
    ``queued`` says that this has not left yet, ``timed`` that its deadline is in the heap.
    """

    flow: Flow[Any]
    context: contextvars.Context
    future: asyncio.Future[Any]
    leave_large: bool
    settings: Settings
    server: _Server
    mark: int
    step: Send | None = None
    queued: bool = False
    timed: bool = False
    sent_at: float = math.inf
    due: float = 0.0

    def __lt__(self, other: _Driven) -> bool:
        """Whether it is due sooner."""
        return self.due < other.due


class Poller:
    """Sends, pauses and reloads for as many flows as there are. For one event loop and one connection.

    It closes when the last flow ends, or the last ``async with`` block that keeps it.
    """

    def __init__(self, key: _Key, load: Callable[[], Awaitable[Settings]], meter: Meter) -> None:
        self.users = 0
        self._flows = 0
        self._meter = meter
        self._key = key
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._settings: Settings | None = None
        self._failed_at = -math.inf
        self._failure: SegStatsError | None = None
        self._servers: dict[str, _Server] = {}
        # A heap of the flows themselves, and nothing that lives from one look to the next: such objects have
        # Python's collector go through all that a triggerer holds, which takes it half a second.
        self._due: list[_Driven] = []
        self._tick: asyncio.TimerHandle | None = None

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
            settings = await self._read(None, since=time.monotonic() - FRESH)
            server = self._servers[settings.base_url]
            driven = _Driven(
                make_flow(settings),
                contextvars.copy_context(),
                self._loop.create_future(),
                leave_large,
                settings,
                server,
                server.gate.mark,
            )
            self._in_flight(+1)
            try:
                self._advance(driven, None)
                while isinstance(outcome := await driven.future, Reload):
                    # Here, on the owner's task: it may talk to Airflow, whose logs tell tasks apart.
                    driven.future = self._loop.create_future()
                    try:
                        settings = await self._read(driven.settings, since=driven.sent_at)
                    except SegStatsError as error:
                        self._advance(driven, error)
                    else:
                        self._assign(driven, settings)
                        self._advance(driven, settings)
                return outcome[0]  # type: ignore[no-any-return]  # a future of any flow
            finally:
                self._in_flight(-1)
                driven.future.cancel()
                driven.flow.close()

    def _in_flight(self, more: int) -> None:
        self._flows += more
        self._meter.gauge("in_flight", self._flows)

    async def _close(self) -> None:
        if self._tick:
            self._tick.cancel()
        workers = [worker for server in self._servers.values() for worker in server.stop()]
        try:
            await asyncio.gather(*workers, return_exceptions=True)
        finally:
            for server in self._servers.values():
                await server.transport.close()

    async def _read(self, stale: Settings | None, since: float) -> Settings:
        """Return the connection as read after ``since``, or as others know it already who have not ``stale``.

        Those who ask while it is being read share the reading, and what it raises.
        """
        asked_at = time.monotonic()
        async with self._reading:
            if self._failure and self._failed_at >= asked_at:
                raise copy(self._failure)
            known = self._settings
            if known is None or (self._read_at <= since and stale in (None, known)):
                read_at = time.monotonic()
                try:
                    known = await self._load()
                except SegStatsError as error:
                    self._failed_at, self._failure = time.monotonic(), error
                    raise
                if known != self._settings:
                    await self._connect(known)
                self._settings, self._read_at = known, read_at
            return known

    async def _connect(self, settings: Settings) -> None:
        """Have requests go by these settings from now on. Another base URL is another server."""
        transport = await open_transport(settings, WORKERS)
        if server := self._servers.get(settings.base_url):
            old, server.transport, server.settings = server.transport, transport, settings
            await old.retire()
        else:
            self._servers[settings.base_url] = _Server(settings, transport, self._advance, self._meter)

    def _assign(self, driven: _Driven, settings: Settings) -> None:
        driven.settings = settings
        if driven.server is not (server := self._servers[settings.base_url]):
            driven.server, driven.mark = server, server.gate.mark

    def _advance(self, driven: _Driven, outcome: Any) -> None:
        """Give a flow the outcome of its step, and see to the step it asks for next."""
        if driven.future.done():  # its owner has left
            return
        resume = driven.flow.throw if isinstance(outcome, Exception) else driven.flow.send
        try:
            step = driven.context.run(resume, outcome)
        except StopIteration as end:
            driven.future.set_result((end.value,))
        except Exception as error:  # noqa: BLE001 - raised again in the owner's task
            driven.future.set_exception(error)
        else:
            if isinstance(step, Send):
                driven.step = step
                driven.server.enqueue(driven)
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
        if self._due and self._due[0].due <= now:
            self._meter.seconds("poller_lag_seconds", now - self._due[0].due)
        while self._due and self._due[0].due <= now:
            self._advance(heapq.heappop(self._due), None)
        self._tick = self._loop.call_later(TICK, self._wake) if self._due else None


class _Server:
    """Sends what flows ask of one base URL, who has waited longest first, as its gate lets them.

    Who waits in the queue needs no worker to end: deadlines have a heap of their own, and those who bear no
    more of the server's failures are told.
    """

    def __init__(
        self,
        settings: Settings,
        transport: AsyncTransport,
        advance: Callable[[_Driven, Any], None],
        meter: Meter,
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.gate = Gate()
        self._advance = advance
        self._meter = meter
        self._closed_until = -math.inf
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Driven] = deque()
        self._deadlines: list[tuple[float, int, _Driven]] = []
        self._number = itertools.count()  # flows of one deadline stay in order
        self._workers: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Future[_Driven]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._latest_failure: SegStatsError | None = None
        self._closed = False

    def stop(self) -> list[asyncio.Task[None]]:
        """Send no more; return the workers, which are ending."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for worker in self._workers:
            worker.cancel()
        return self._workers

    def enqueue(self, driven: _Driven) -> None:
        """Send a flow's step as soon as may be."""
        step = driven.step
        assert step is not None  # noqa: S101 - set by who calls
        driven.queued = True
        if self._is_spent(driven):
            self._give_up(driven)
            return
        if step.is_too_late(time.time(), 0.0):  # it comes after its deadline, of which no heap knows yet
            driven.queued = False
            self._advance(driven, TooLateError())
            return
        self._queue.append(driven)
        self._pump()
        if driven.queued and not driven.timed and step.by < math.inf:
            driven.timed = True  # once: all that a flow sends has one deadline
            heapq.heappush(self._deadlines, (step.by, next(self._number), driven))
            self._pump()

    def _pump(self) -> None:
        """End those whose time is up, send what may be sent, and be back when there is more to do."""
        if self._deadlines:
            self._end_late()
        again_in = math.inf
        while self._queue:
            driven = self._queue[0]
            if not driven.queued or driven.future.done():
                self._queue.popleft()
                continue
            if not self._has_worker:
                break
            now = time.monotonic()
            again_in = self.gate.opens_in(now, len(self._queue)) or until_turn(self.settings, now)
            if again_in:
                break
            self._queue.popleft()
            self._start(driven)
        if self._deadlines and not self._queue:  # nobody waits for them: who has ended is not to be kept
            for _, _, driven in self._deadlines:
                driven.timed = False
            self._deadlines.clear()
        if self._deadlines:
            again_in = min(again_in, max(0.0, self._deadlines[0][0] - time.time()))
        if again_in < math.inf:
            self._pump_again_in(again_in)

    def _pump_again_in(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer and at < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._on_time, context=contextvars.Context())

    def _on_time(self) -> None:
        self._timer = None
        self._pump()

    def _end_late(self) -> None:
        """End those in the queue whose time is up; send what looks there is room for, past a closed gate."""
        while self._deadlines and self._deadlines[0][0] <= time.time():
            _, _, driven = heapq.heappop(self._deadlines)
            driven.timed = False
            step = driven.step
            if step is None or not driven.queued or driven.future.done():
                continue
            there_is_room = self._has_worker and not until_turn(self.settings, time.monotonic())
            if there_is_room and not step.strict:
                self._start(driven)
            else:
                driven.queued = False
                self._advance(driven, TooLateError())

    @property
    def _has_worker(self) -> bool:
        return not self._closed and bool(self._idle or len(self._workers) < WORKERS)

    def _start(self, driven: _Driven) -> None:
        now = time.monotonic()
        self.gate.leaves(now)
        turn(self.settings, now)
        driven.queued, driven.sent_at = False, now
        if self._idle:
            self._idle.pop().set_result(driven)
        else:
            # In an empty context: a worker would log as the trigger that happened to need it first.
            work = contextvars.Context().run(self._loop.create_task, self._work(driven))
            self._workers.append(work)

    async def _work(self, driven: _Driven) -> None:
        while True:
            try:
                await self._send(driven)
            except Exception as error:  # noqa: BLE001 - whatever went wrong is its owner's alone
                self.gate.answered(time.monotonic())
                if not driven.future.done():
                    driven.future.set_exception(error)
            if self._closed:  # where the worker was cancelled just when its request was late, it goes on
                return
            idle = self._loop.create_future()
            self._idle.append(idle)
            self._pump()
            driven = await idle

    async def _send(self, driven: _Driven) -> None:
        step = driven.step
        assert step is not None  # noqa: S101 - nothing else is enqueued
        try:
            reply = await self.transport.send(step.call.request)
            if driven.leave_large and len(reply.body) > LARGE_BODY:
                if reply.status == 200:
                    raise LargeAnswer
                reply = replace(reply, body=b"")  # some proxy's page: the API's own errors are short
            outcome = step.call.read(reply)
        except SegStatsError as error:
            error.endpoint = step.call.endpoint
            self._judge(driven, error)
            self._measure_gate()
            self._advance(driven, error)
        else:
            self.gate.answered(time.monotonic())
            self._advance(driven, outcome)

    def _measure_gate(self) -> None:
        now = time.monotonic()
        until = now + self.gate.opens_in(now, 0)
        if (longer := until - max(now, self._closed_until)) > 0:
            self._meter.seconds("gate_closed_seconds", longer)
            self._closed_until = until

    def _judge(self, driven: _Driven, error: SegStatsError) -> None:
        """Have the gate know what a failed request says of the server, and those who bear no more of it."""
        now = time.monotonic()
        if not policy.is_away(error):
            self.gate.answered(now, error.retry_after)
            return
        if self.gate.failed(driven.sent_at, now, random.random(), error.retry_after):  # noqa: S311 - jitter
            log.warning("%s failed %d times in a row: %s", self.settings.base_url, self.gate.failures, error)
            self._latest_failure = error
            for number, spent in enumerate(filter(self._is_spent, self._queue)):
                in_turn = number // AT_ONCE * TICK
                self._loop.call_later(in_turn, self._give_up, spent, context=contextvars.Context())
        error.in_a_row = max(1, self.gate.failures_since(driven.mark))

    def _is_spent(self, driven: _Driven) -> bool:
        """Whether a flow in the queue bears no more of the server's failures."""
        step = driven.step
        return step is not None and driven.queued and self.gate.failures_since(driven.mark) >= step.bears

    def _give_up(self, driven: _Driven) -> None:
        if not self._is_spent(driven):  # meanwhile it has ended, or the server has answered
            return
        assert driven.step is not None  # noqa: S101 - as it is spent ...
        assert self._latest_failure is not None  # noqa: S101 - ... after a failure
        driven.queued = False
        failures = self.gate.failures_since(driven.mark)
        error = NotSentError(
            f"the server failed {failures} times in a row, so it was not asked again; the latest: "
            f"{self._latest_failure.message}",
            endpoint=driven.step.call.endpoint,
        )
        error.in_a_row = failures
        self._advance(driven, error)


_pollers: dict[_Key, Poller] = {}
