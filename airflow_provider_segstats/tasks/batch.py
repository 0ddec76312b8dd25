"""Many segments in one task: submitting them a few at a time, and what became of those that were.

What is known of each segment stands in the :class:`~airflow_provider_segstats.tasks.ledger.Ledger`,
written down before anything depends on it.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from airflow_provider_segstats.core import api, flows, policy
from airflow_provider_segstats.core.defaults import OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError, error_from_dict
from airflow_provider_segstats.core.flows import Pause
from airflow_provider_segstats.core.model import Segment, TaskStatus
from airflow_provider_segstats.core.policy import MAX_SUBMIT_FAILURES, WaitPlan
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.ledger import Entry, Ledger, rows_entries
from airflow_provider_segstats.triggers import outcomes

T = TypeVar("T")

SUBMITS_AT_ONCE = 8
"""Requests to start a recount under way at once."""

GROUP = 50
"""Segments whose submits are written down together: more cost less, but a kill leaves as many in doubt."""

WRITTEN_EVERY = 1.0
"""Seconds after which the ids known by then are written down, however long the group still takes."""


@dataclass
class Batch:
    """The segments of one task, by id, and how they are to be refreshed within the plan's bounds."""

    hook: SegStatsHook
    segments: Mapping[int, Segment]
    ledger: Ledger
    on_ambiguous: OnAmbiguousSubmit
    plan: WaitPlan
    ending: bool = False
    """Set from outside: submit no more, the task is to end."""
    _accepted: int = field(default=0, init=False)
    _lost_in_a_row: int = field(default=0, init=False)

    def check(self) -> None:
        """Raise what would keep any of the requests from being made, before the first is."""
        settings = self.hook.get_conn()
        for segment in self.segments.values():
            try:
                api.refresh_counters(settings, segment)
            except ConfigurationError as error:
                raise ConfigurationError(f"segment {segment.segment_id}: {error.message}") from error

    def take_up(self) -> None:
        """Begin a try: settle what an earlier one left in doubt, and drop tasks not worth going on with."""
        ledger = self.ledger
        ledger.begin_try()
        self._fail_in_doubt()
        if in_doubt := ledger.in_doubt:
            self.hook.log.warning("An earlier try may have submitted these, again as asked: %s", in_doubt)
            ledger.record(["withdraw", segment_id] for segment_id in in_doubt)
        if earlier := ledger.open:
            seen = _run(self._glance_at(earlier.values()))
            settings = self.hook.get_conn()
            verdicts = {
                segment_id: policy.reattach(status, settings.failure_statuses, settings.unknown_task_codes)
                for segment_id, status in zip(earlier, seen, strict=True)
            }
            ledger.record(self._reattached(verdicts))
            self.hook.log.info("%d tasks of an earlier try: going on with %d", len(earlier), len(ledger.open))

    def _fail_in_doubt(self) -> None:
        if self.on_ambiguous == "fail":
            error = policy.in_doubt().to_dict()
            self.ledger.record(["fail", segment_id, error] for segment_id in self.ledger.in_doubt)

    async def _glance_at(self, task_ids: Iterable[str]) -> list[TaskStatus | SegStatsError]:
        async def glance(task_id: str) -> TaskStatus | SegStatsError:
            try:
                return await self.hook.run_async(
                    lambda settings, _: flows.one_call(api.task_status(settings, task_id))
                )
            except SegStatsError as error:
                return error

        async with await self.hook.shared_poller():
            return await asyncio.gather(*map(glance, task_ids))

    def _reattached(self, verdicts: Mapping[int, policy.Reattach]) -> Iterable[Entry]:
        for segment_id, verdict in verdicts.items():
            recount = self.ledger.recounts[segment_id]
            if verdict == "forgotten" and recount.forgotten:
                yield ["fail", segment_id, policy.forgotten_again(str(recount.task_id)).to_dict()]
            elif verdict != "go on":
                self.hook.log.warning("Task %s: %s; submitting anew", recount.task_id, verdict)
                yield ["again", segment_id, verdict == "forgotten"]

    def submit(self, max_in_flight: int) -> None:
        """Submit until so many recounts are open, none is left to be submitted, or something stops it."""
        _run(self._submit(max_in_flight))

    async def _submit(self, max_in_flight: int) -> None:
        ledger = self.ledger
        async with await self.hook.shared_poller():
            while not (ledger.stopped or self.ending):
                room = max_in_flight - len(ledger.open)
                if not (group := ledger.fresh[: max(0, min(room, GROUP))]):
                    return
                await self._submit_group([self.segments[segment_id] for segment_id in group])

    async def _submit_group(self, segments: list[Segment]) -> None:
        group = _Group({segment.segment_id for segment in segments})
        turns = asyncio.Semaphore(SUBMITS_AT_ONCE)

        async def submit(segment: Segment) -> None:
            async with turns:
                if time.time() >= self.plan.end:
                    group.stopped.append(self._not_all_submitted())
                if not (group.stopped or self.ending):
                    await self._submit_one(segment, group)

        async def write_down() -> None:
            while not all(task.done() for task in submits):
                await asyncio.wait(submits, timeout=WRITTEN_EVERY)
                known, group.known = group.known, []
                # Not here: the store may take long, and answers would be taken for late ones.
                await asyncio.to_thread(self.ledger.record, known)

        self.ledger.record(["intend", segment.segment_id] for segment in segments)
        submits = [asyncio.create_task(submit(segment)) for segment in segments]
        writing = asyncio.create_task(write_down())
        try:
            await asyncio.gather(*submits)
        finally:  # also when the task is being ended: what is known by then must not be lost
            for task in submits:
                task.cancel()
            await writing
            self.ledger.record([*group.known, *(["withdraw", segment_id] for segment_id in group.unsent)])
        if group.stopped:
            self.hook.log.warning("No more segments are submitted: %s", group.stopped[0])
            self.ledger.stop(group.stopped[0])

    async def _submit_one(self, segment: Segment, group: _Group) -> None:
        segment_id = segment.segment_id
        group.unsent.discard(segment_id)
        accepted_before = self._accepted
        try:
            submitted = await self.hook.run_async(
                lambda settings, world: flows.submit(settings, segment, self.on_ambiguous, world)
            )
        except SegStatsError as error:
            if policy.concerns_all(error):
                group.unsent.add(segment_id)
                # A server that took others meanwhile is not away, it is busy: this one's turn will come.
                if not (error.refused and self._accepted > accepted_before):
                    group.stopped.append(error)
                return
            group.known.append(["fail", segment_id, error.to_dict()])
            self._lost_in_a_row += policy.was_lost(error)
            if self._lost_in_a_row >= MAX_SUBMIT_FAILURES:
                group.stopped.append(policy.too_many_lost(error))
        else:
            self._accepted += 1
            self._lost_in_a_row = 0
            group.known.append(["submit", segment_id, submitted.task_id, round(time.time(), 1)])

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
                    leave_large=False,
                )
            )
        finally:  # also when the task is being ended, as above
            self.record(found)

    def give_up(self) -> None:
        """Write down that the time is up for all that is not done."""
        ledger = self.ledger
        ledger.record(
            ["fail", segment_id, self._not_done(task_id).to_dict()]
            for segment_id, task_id in ledger.open.items()
        )
        self._fail_in_doubt()
        if self.not_submitted:
            ledger.stop(self._not_all_submitted())

    def _not_done(self, task_id: str) -> SegStatsError:
        besides = f"it goes on at the server as task {task_id}"
        return policy.time_is_up(self.plan, "the recount was not done", besides)

    def _not_all_submitted(self) -> SegStatsError:
        return policy.time_is_up(self.plan, "not all were submitted", "the rest was not")

    @property
    def not_submitted(self) -> list[int]:
        """The segments that are still to be submitted, also those that are to be again, as asked."""
        return [*self.ledger.fresh, *self.ledger.in_doubt]

    def unfinished(self) -> SegStatsError | None:
        """Return the error for what was not counted, if anything was not."""
        ledger = self.ledger
        errors, not_submitted = ledger.errors, self.not_submitted
        if not (errors or not_submitted):
            return None
        stopped = ledger.stopped or (SegStatsError("the task was told to end") if self.ending else None)
        return policy.unfinished(errors, not_submitted, stopped, len(ledger.recounts))

    @property
    def tasks(self) -> list[list[Any]]:
        """The recounts under way, as a trigger takes them."""
        recounts = self.ledger.recounts
        return [
            [task_id, segment_id, recounts[segment_id].since]
            for segment_id, task_id in self.ledger.open.items()
        ]

    def record(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Write down what a wait brought; answers too large for an event loop are read here."""
        self.ledger.record(entry for outcome in found for entry in self._ended(outcome))

    def _ended(self, outcome: Mapping[str, Any]) -> Iterable[Entry]:
        segment_id, task_id = outcome["segment_id"], outcome["task_id"]
        try:
            if "rows" not in outcome:
                raise error_from_dict(outcome.get("error") or {})
            rows = outcome["rows"]
            if rows is None:
                rows = self._look(task_id).rows(segment_id)
        except SegStatsError as error:
            yield ["fail", segment_id, error.to_dict()]
        except _NotDoneError:
            self.hook.log.info("Task %s is still not done", task_id)
        else:
            yield from rows_entries(segment_id, rows)

    def _look(self, task_id: str) -> TaskStatus:
        def pause(step: Pause) -> None:
            if not step.failures:
                raise _NotDoneError
            time.sleep(step.seconds)  # here: a trigger would begin to count failures in a row anew

        return self.hook.run(
            lambda settings, world: flows.wait(settings, task_id, self.plan, world), pause=pause
        )


@dataclass
class _Group:
    """Segments that are submitted together: the ids not sent, what is known of others, why to stop."""

    unsent: set[int]
    known: list[Entry] = field(default_factory=list)
    stopped: list[SegStatsError] = field(default_factory=list)


class _NotDoneError(Exception):
    """A look at a task showed no end of it."""


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
