"""Submitting segments, one or a few of many at a time, and what became of those that were.

What is known of each segment stands in the :class:`~airflow_provider_segstats.tasks.ledger.Ledger`,
written down before anything depends on it.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.boundary.metrics import span
from airflow_provider_segstats.core import api, flows, policy
from airflow_provider_segstats.core.defaults import OnAmbiguousSubmit, OnTariffLimit
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ConfigurationError,
    SegStatsError,
    WaitTimeoutError,
    error_from_dict,
)
from airflow_provider_segstats.core.flows import Flow, Sight, Submitted, World
from airflow_provider_segstats.core.model import Recountable, Row, Segment, TaskStatus
from airflow_provider_segstats.core.policy import MAX_SUBMIT_FAILURES, MOST_SHOWN, WaitPlan
from airflow_provider_segstats.core.progress import Counts, Progress
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.ledger import Ledger, Recount
from airflow_provider_segstats.triggers import outcomes

T = TypeVar("T")

NAMED = 20
"""Segments that failed and have a line in the log, of one try."""

SUBMITS_AT_ONCE = 8
"""Requests to start a recount under way at once, and so segments that a kill leaves in doubt at most."""

WRITTEN_EVERY = 0.25
"""Seconds after which the ids known by then are written down, and more requests leave in place of theirs.
Sooner only where all have been answered: each write is a request to Airflow's API server."""


@dataclass
class Batch:
    """What one task recounts, by id, and how that is to be done within the plan's bounds."""

    hook: SegStatsHook
    things: Mapping[int, Recountable]
    ledger: Ledger
    on_ambiguous: OnAmbiguousSubmit
    on_tariff_limit: OnTariffLimit
    plan: WaitPlan
    write: progress.Write | None = None
    """Takes how far the whole is, where anybody looks on."""
    ending: bool = False
    """Set from outside: submit no more, the task is to end."""
    _accepted: int = field(default=0, init=False)
    _lost_in_a_row: int = field(default=0, init=False)

    def check(self) -> None:
        """Raise what would keep any of the requests from being made, before the first is."""
        settings = self.hook.get_conn()
        for thing in self.things.values():
            try:
                api.refresh_counters(settings, thing)
            except ConfigurationError as error:
                raise ConfigurationError(f"{thing}: {error.message}") from error

    def take_up(self) -> None:
        """Settle what an earlier try left in doubt, and drop tasks not worth going on with."""
        ledger = self.ledger
        self._fail_in_doubt()
        if in_doubt := [*ledger.in_doubt]:
            self.hook.log.warning("An earlier try may have submitted these, again as asked: %s", in_doubt)
            for segment_id in in_doubt:
                ledger.repeat(segment_id)
        if earlier := dict(ledger.open):
            seen = self._glance_at(earlier.values())
            settings = self.hook.get_conn()
            for (segment_id, recount), status in zip(earlier.items(), seen, strict=True):
                verdict = policy.reattach(status, settings.failure_statuses, settings.unknown_task_codes)
                if verdict != "go on":
                    self._drop(segment_id, recount, verdict)
            going_on = [recount.task_id for recount in ledger.open.values()]
            what = going_on if len(going_on) <= MOST_SHOWN else len(going_on)
            self.hook.log.info("Of %d tasks of an earlier try, going on with %s", len(earlier), what)
        ledger.write()

    def _fail_in_doubt(self) -> None:
        if self.on_ambiguous == "fail":
            for segment_id in [*self.ledger.in_doubt]:
                self._fail(segment_id, self._named(policy.in_doubt(self.things.get(segment_id))))

    def _drop(self, segment_id: int, recount: Recount, verdict: policy.Reattach) -> None:
        forgotten = verdict == "forgotten"
        if forgotten and segment_id in self.ledger.forgotten:
            self._fail(segment_id, self._named(policy.forgotten_again(recount.task_id)))
        else:
            self.hook.log.warning("Task %s of an earlier try: %s; submitting anew", recount.task_id, verdict)
            self.ledger.renew(segment_id, forgotten=forgotten)

    def _glance_at(self, recounts: Collection[Recount]) -> list[TaskStatus | SegStatsError]:
        def one(recount: Recount) -> Callable[[Settings, World], Flow[TaskStatus]]:
            return lambda settings, _: flows.one_call(
                api.task_status(policy.same_server(settings, recount.base_url), recount.task_id)
            )

        return outcomes_of(self.hook, [one(recount) for recount in recounts])

    def start(self) -> Recount:
        """Return the recount of the one thing there is, started now unless an earlier try did."""
        ledger = self.ledger
        [thing] = self.things.values()
        # Before it is in doubt: a kill in the second that the HTTP client takes to load leaves no doubt.
        import_module("airflow_provider_segstats.core.client")
        for segment_id in ledger.take(1):
            ledger.write()
            outcome: Submitted | SegStatsError
            try:
                with span("submit", kind=type(thing).__name__):
                    outcome = self.hook.run(self._flow(thing))
            except SegStatsError as error:
                outcome = error
            if isinstance(outcome, Submitted):
                self.hook.log.info("Started the recount of %s: task %s", thing, outcome.task_id)
            self._settle(segment_id, outcome, time.time(), 0)
            ledger.write()
            if isinstance(outcome, SegStatsError):
                raise outcome
        if thing.id not in ledger.open:
            raise ledger.ended().errors[thing.id]
        return ledger.open[thing.id]

    def submit(self, max_in_flight: int) -> None:
        """Submit until so many recounts are open, none is left to be submitted, or something stops it."""
        _run(self._submit(max_in_flight))
        if self.ledger.stopped:
            self.hook.log.warning("No more segments are submitted: %s", self.ledger.stopped)

    async def _submit(self, max_in_flight: int) -> None:
        ledger = self.ledger
        sent: dict[asyncio.Task[tuple[Submitted | SegStatsError, float]], tuple[int, int]] = {}

        def settle() -> None:
            for task in [task for task in sent if task.done()]:
                segment_id, accepted_before = sent.pop(task)
                if not task.cancelled():  # else it stays in doubt
                    self._settle(segment_id, *task.result(), accepted_before)

        async with await self.hook.shared_poller():
            try:
                while True:
                    leaving = self._next(min(SUBMITS_AT_ONCE, max_in_flight - len(ledger.open)))
                    await self._write()
                    for segment_id in leaving:
                        task = asyncio.create_task(self._send(self.things[segment_id]))
                        sent[task] = segment_id, self._accepted
                    if not sent:
                        return
                    await asyncio.wait(sent, timeout=WRITTEN_EVERY)
                    settle()
            finally:  # also when the task is being ended: what is known by then must not be lost
                in_doubt = {segment_id for segment_id, _ in sent.values()}
                for task in sent:
                    task.cancel()
                await asyncio.gather(*sent, return_exceptions=True)
                try:
                    settle()
                finally:
                    for segment_id in ledger.in_doubt.keys() - in_doubt:  # it had not left
                        ledger.withdraw(segment_id)
                    ledger.write()

    def _next(self, at_once: int) -> list[int]:
        """Return the segments to send now, with which so many at once are on their way."""
        ledger = self.ledger
        if ledger.fresh and time.time() >= self.plan.end:
            ledger.stop(self._not_all_submitted())
        return [] if self.ending else ledger.take(at_once - len(ledger.in_doubt))

    async def _write(self) -> None:
        # Not on the event loop: the store may take long, and answers would be taken for late ones.
        writing = asyncio.ensure_future(asyncio.to_thread(self.ledger.write))
        try:
            await asyncio.wait([writing])
        finally:  # also when cancelled: nothing may change under its hands
            await writing

    async def _send(self, thing: Recountable) -> tuple[Submitted | SegStatsError, float]:
        with span("submit", kind=type(thing).__name__):
            return await _outcome(self.hook, self._flow(thing)), time.time()

    def _flow(self, thing: Recountable) -> Callable[[Settings, World], Flow[Submitted]]:
        return lambda settings, world: flows.submit(settings, thing, self.on_ambiguous, world, self.plan)

    def _settle(
        self, segment_id: int, outcome: Submitted | SegStatsError, at: float, accepted_before: int
    ) -> None:
        """Take the outcome of a submit, before which the server had accepted so many."""
        ledger = self.ledger
        if isinstance(outcome, Submitted):
            self._accepted += 1
            self._lost_in_a_row = 0
            ledger.submitted(segment_id, outcome, round(at, 1))
        elif isinstance(outcome, WaitTimeoutError):  # it did not come to leave before the plan's end
            ledger.withdraw(segment_id)
            ledger.stop(self._not_all_submitted())
        elif policy.concerns_all(outcome):
            ledger.withdraw(segment_id)
            # A server that took others meanwhile is not away, it is busy: this one's turn will come.
            if not (outcome.refused and self._accepted > accepted_before):
                ledger.stop(outcome)
        else:
            lost = policy.was_lost(outcome)
            self._fail(segment_id, outcome, repeated=lost and not isinstance(outcome, AmbiguousSubmitError))
            self._lost_in_a_row += lost
            if self._lost_in_a_row >= MAX_SUBMIT_FAILURES:
                ledger.stop(policy.too_many_lost(outcome))

    def wait(self, leave_open: int) -> None:
        """Wait on this worker until at most so many recounts are open, and write down what became of them."""
        hook, found = self.hook, list[dict[str, Any]]()
        try:
            _run(
                outcomes(
                    hook.segstats_conn_id,
                    hook.format,
                    self.tasks,
                    self.plan,
                    found=found,
                    leave_open=leave_open,
                    counts=self.counts,
                    write=self.write,
                    leave_large=False,
                )
            )
        finally:  # also when the task is being ended, as above
            self._record_known(found)
        self._read_left(found)

    def give_up(self) -> None:
        """Write down that the time is up for all that is not done."""
        ledger = self.ledger
        for segment_id, recount in [*ledger.open.items()]:
            besides = f"it goes on at the server as task {recount.task_id}"
            self._fail(segment_id, policy.time_is_up(self.plan, "the recount was not done", besides))
        self._fail_in_doubt()
        if ledger.fresh or ledger.in_doubt:
            ledger.stop(self._not_all_submitted())
        ledger.write()

    def read_instead(
        self, not_submitted: Iterable[int], stopped: SegStatsError | None
    ) -> dict[int, list[Row]]:
        """Return rows as last counted of segments that were not submitted, where that is what is wanted.

        It is where the tariff limit stopped the submits and ``on_tariff_limit`` says so. What cannot be read
        is left out.
        """
        if self.on_tariff_limit == "fail" or not policy.is_tariff_limit(stopped):
            return {}

        def one(segment: Segment) -> Callable[[Settings, World], Flow[list[Row]]]:
            return lambda settings, world: flows.last_counted(settings, segment, world)

        wanted = (self.things[number] for number in not_submitted)
        segments = [thing for thing in wanted if isinstance(thing, Segment)]
        found: dict[int, list[Row]] = {}
        for segment, read in zip(segments, outcomes_of(self.hook, [*map(one, segments)]), strict=True):
            if isinstance(read, SegStatsError):
                self.hook.log.warning("%s cannot be read either: %s", segment, read)
            else:
                found[segment.id] = read
        self.hook.log.warning("%s; %d segments are as last counted", stopped, len(found))
        return found

    def _not_all_submitted(self) -> SegStatsError:
        return policy.time_is_up(self.plan, "not all were submitted", "the rest was not")

    def _named(self, error: SegStatsError) -> SegStatsError:
        error.connection = self.hook.segstats_conn_id
        return error

    @property
    def counts(self) -> Counts:
        """How many have ended."""
        return self.ledger.counts(self.plan.started)

    def tell(self) -> None:
        """Log how far the whole is."""
        self.hook.log.info("%s", Progress(self.counts, {**dict.fromkeys(self.ledger.open)}).line(time.time()))

    def _fail(self, segment_id: int, error: SegStatsError, *, repeated: bool = False) -> None:
        """Write down that a segment failed, and log the first that do: the error at the end has them, too."""
        if self.ledger.failed < NAMED:
            self.hook.log.warning("Segment %d failed: %s", segment_id, error)
        self.ledger.fail(segment_id, error, repeated=repeated)

    @property
    def tasks(self) -> list[list[Any]]:
        """The recounts under way, as a trigger takes them."""
        return [
            [recount.task_id, segment_id, recount.since, recount.base_url]
            for segment_id, recount in self.ledger.open.items()
        ]

    def record(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Write down what a wait brought; what could not be read on an event loop is waited for here."""
        self._record_known(found)
        self._read_left(found)

    def _record_known(self, found: Iterable[Mapping[str, Any]]) -> None:
        for outcome in found:
            if not _is_left(outcome):
                self._end(outcome)
        self.ledger.write()

    def _read_left(self, found: Iterable[Mapping[str, Any]]) -> None:
        for outcome in filter(_is_left, found):
            self._end(outcome)
            self.ledger.write()

    def _end(self, outcome: Mapping[str, Any]) -> None:
        segment_id = outcome["segment_id"]
        recount = self.ledger.open.get(segment_id)
        if recount is None:  # it left the list meanwhile
            return
        try:
            if "rows" not in outcome:
                raise error_from_dict(outcome.get("error") or {})
            rows = outcome["rows"]
            if rows is None:
                task = Sight(recount.task_id, recount.base_url)
                rows = self.hook.run(
                    lambda settings, world: flows.wait(settings, task.task_id, self.plan, world, task)
                ).rows(segment_id)
        except SegStatsError as error:
            self._fail(segment_id, error)
        else:
            self.ledger.finish(segment_id, rows)


def _is_left(outcome: Mapping[str, Any]) -> bool:
    """Whether an answer was too large or too odd for an event loop."""
    return "rows" in outcome and outcome["rows"] is None


def outcomes_of(
    hook: SegStatsHook, many: Collection[Callable[[Settings, World], Flow[T]]]
) -> list[T | SegStatsError]:
    """Drive flows side by side; return what each of them returns or raises."""

    async def side_by_side() -> list[T | SegStatsError]:
        async with await hook.shared_poller():
            return await asyncio.gather(*(_outcome(hook, flow) for flow in many))

    if len(many) > 1:
        return _run(side_by_side())
    try:  # on this thread: an event loop's HTTP client takes longer to load than to ask
        return [hook.run(flow) for flow in many]
    except SegStatsError as error:
        return [error]


async def _outcome(hook: SegStatsHook, flow: Callable[[Settings, World], Flow[T]]) -> T | SegStatsError:
    try:
        return await hook.run_async(flow)
    except SegStatsError as error:
        return error


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on an event loop in a thread of its own.

    Airflow ends a task at its execution_timeout by raising in the main thread, wherever that is. In an event
    loop that can be amid a callback: the loop would go on without it, and without the exception.
    """
    left: Future[None] = Future()

    async def until_left() -> T:
        work = asyncio.ensure_future(coroutine)
        leaving = asyncio.wrap_future(left)
        leaving.add_done_callback(lambda _: work.cancel())
        try:
            return await work
        finally:
            leaving.cancel()

    with ThreadPoolExecutor(1, thread_name_prefix="segstats") as thread:
        try:
            return thread.submit(contextvars.copy_context().run, asyncio.run, until_left()).result()
        finally:
            left.cancel()
