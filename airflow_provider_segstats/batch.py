"""Many segments in one task: submitting them a few at a time, and what became of those that were.

What is known of each segment stands in the :class:`~airflow_provider_segstats.ledger.Ledger`, written down
before anything depends on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_segstats import api, flows, policy
from airflow_provider_segstats.errors import AmbiguousSubmitError, SegStatsError, error_from_dict
from airflow_provider_segstats.flows import Pause
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.ledger import Entry, Ledger, rows_entries
from airflow_provider_segstats.model import Segment, TaskStatus
from airflow_provider_segstats.policy import MAX_SUBMIT_FAILURES, OnAmbiguousSubmit, WaitPlan

SUBMITS_AT_ONCE = 8
"""Requests to start a recount under way at once."""

GROUP = 50
"""Segments whose submits are written down together: more cost less, but a kill leaves as many in doubt."""

WRITTEN_EVERY = 1.0
"""Seconds after which the ids known by then are written down, however long the group still takes."""


@dataclass(frozen=True)
class Batch:
    """The segments of one task, by id, and how they are to be refreshed within the plan's bounds."""

    hook: SegStatsHook
    segments: Mapping[int, Segment]
    ledger: Ledger
    on_ambiguous: OnAmbiguousSubmit
    plan: WaitPlan

    async def take_up(self) -> None:
        """Begin a try: settle what an earlier one left in doubt, and drop tasks not worth going on with."""
        ledger = self.ledger
        ledger.begin_try()
        if in_doubt := ledger.in_doubt:
            if self.on_ambiguous == "resubmit":
                self.hook.log.warning("An earlier try may have submitted these, again as asked: %s", in_doubt)
                ledger.record(["withdraw", segment_id] for segment_id in in_doubt)
            else:
                ledger.record(["fail", segment_id, policy.in_doubt().to_dict()] for segment_id in in_doubt)
        if earlier := ledger.open:
            async with self.hook.poller():
                seen = await asyncio.gather(*map(self._glance, earlier.values()))
            settings = self.hook.get_conn()
            verdicts = {
                segment_id: policy.reattach(status, settings.failure_statuses, settings.unknown_task_codes)
                for segment_id, status in zip(earlier, seen, strict=True)
            }
            ledger.record(self._reattached(verdicts))
            self.hook.log.info("%d tasks of an earlier try: going on with %d", len(earlier), len(ledger.open))

    async def _glance(self, task_id: str) -> TaskStatus | SegStatsError:
        try:
            return await self.hook.run_async(
                lambda settings, _: flows.one_call(api.task_status(settings, task_id))
            )
        except SegStatsError as error:
            return error

    def _reattached(self, verdicts: Mapping[int, policy.Reattach]) -> Iterable[Entry]:
        for segment_id, verdict in verdicts.items():
            recount = self.ledger.recounts[segment_id]
            if verdict == "forgotten" and recount.forgotten:
                yield ["fail", segment_id, policy.forgotten_again(str(recount.task_id)).to_dict()]
            elif verdict != "go on":
                self.hook.log.warning("Task %s: %s; submitting anew", recount.task_id, verdict)
                yield ["again", segment_id, verdict == "forgotten"]

    async def submit(self, room: int) -> None:
        """Submit what is to be submitted, for so many tasks at most, until something stops it."""
        ledger = self.ledger
        async with self.hook.poller():
            while room > 0 and not ledger.stopped and (group := ledger.fresh[: min(room, GROUP)]):
                if time.time() >= self.plan.end:
                    ledger.stop(policy.time_is_up(self.plan, "not all were submitted", "the rest was not"))
                    break
                room -= len(group)
                await self._submit_group([self.segments[segment_id] for segment_id in group])

    async def _submit_group(self, group: list[Segment]) -> None:
        unsent = {segment.segment_id for segment in group}
        known: list[Entry] = []
        stopped: list[SegStatsError] = []
        lost_in_a_row = 0
        turns = asyncio.Semaphore(SUBMITS_AT_ONCE)

        async def submit(segment: Segment) -> None:
            nonlocal lost_in_a_row
            segment_id = segment.segment_id
            async with turns:
                if stopped:
                    return
                unsent.discard(segment_id)
                try:
                    task_id = await self.hook.run_async(
                        lambda settings, world: flows.submit(settings, segment, self.on_ambiguous, world)
                    )
                except SegStatsError as error:
                    if policy.concerns_all(error):
                        stopped.append(error)
                        unsent.add(segment_id)
                        return
                    known.append(["fail", segment_id, error.to_dict()])
                    lost_in_a_row += isinstance(error, AmbiguousSubmitError)
                    if lost_in_a_row >= MAX_SUBMIT_FAILURES:
                        stopped.append(policy.too_many_lost(error))
                else:
                    lost_in_a_row = 0
                    known.append(["submit", segment_id, task_id])

        async def write_down() -> None:
            while True:
                await asyncio.sleep(WRITTEN_EVERY)
                self.ledger.record(known)
                known.clear()

        self.ledger.record(["intend", segment.segment_id] for segment in group)
        writing = asyncio.create_task(write_down())
        try:
            await asyncio.gather(*map(submit, group))
        finally:  # also when the task is being ended: what is known by then must not be lost
            writing.cancel()
            self.ledger.record([*known, *(["withdraw", segment_id] for segment_id in unsent)])
        if stopped:
            self.hook.log.warning("No more segments are submitted: %s", stopped[0])
            self.ledger.stop(stopped[0])

    def record(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Write down what a wait brought; answers too large for an event loop are read here."""
        self.ledger.record(entry for outcome in outcomes for entry in self._ended(outcome))

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
        def leave(_: Pause) -> None:
            raise _NotDoneError

        return self.hook.run(
            lambda settings, world: flows.wait(settings, task_id, self.plan, world), pause=leave
        )


class _NotDoneError(Exception):
    """A look at a task showed no end of it."""
