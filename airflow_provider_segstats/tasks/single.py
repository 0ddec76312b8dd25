"""One segment in one task: submitting it, or going on with what an earlier try of the task submitted."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.defaults import OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import AmbiguousSubmitError, SegStatsError
from airflow_provider_segstats.core.model import Segment, TaskStatus
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.store import PatientStore
from airflow_provider_segstats.tasks.submission import STORE_KEY, Life, Submitted, intent, recall, submitted


@dataclass(frozen=True)
class Single:
    """The segment of a task, and where its submits are kept: nowhere on an Airflow without a store."""

    hook: SegStatsHook
    segment: Segment
    store: PatientStore | None
    life: Life
    on_ambiguous: OnAmbiguousSubmit

    def task_id(self) -> str:
        """Return the id of the recount that an earlier try started, or start one."""
        earlier = recall(self.store.get(STORE_KEY), self.life) if self.store else None
        forgotten = False
        if isinstance(earlier, Submitted):
            verdict = self._look_at(earlier)
            if verdict == "go on":
                return earlier.task_id
            forgotten = verdict == "forgotten"
        elif earlier and self.on_ambiguous == "fail":
            raise self._named(policy.in_doubt())
        elif earlier:
            self.hook.log.warning("An earlier try may have submitted already; submitting as asked")
        return self._submit(resubmitted=forgotten)

    def _look_at(self, earlier: Submitted) -> policy.Reattach:
        settings = self.hook.get_conn()
        seen: TaskStatus | SegStatsError
        try:
            seen = self.hook.task_status(earlier.task_id)
        except SegStatsError as error:
            self.hook.log.warning("Could not look at task %s: %s", earlier.task_id, error)
            seen = error
        verdict = policy.reattach(seen, settings.failure_statuses, settings.unknown_task_codes)
        if verdict == "forgotten" and earlier.resubmitted:
            raise self._named(policy.forgotten_again(earlier.task_id))
        if verdict == "go on":
            self.hook.log.info("Going on with task %s, which an earlier try started", earlier.task_id)
        else:
            self.hook.log.warning("Task %s of an earlier try: %s; submitting anew", earlier.task_id, verdict)
        return verdict

    def _submit(self, *, resubmitted: bool) -> str:
        # An intent is kept for what may go wrong once a request can leave: not for a wrong connection,
        # nor for a kill in the second that the HTTP client takes to load.
        self.hook.get_conn()
        import_module("airflow_provider_segstats.core.client")
        segment = self.segment
        if self.store:
            self.store.set(STORE_KEY, intent(self.life))
        try:
            task_id = self.hook.refresh_counters(
                segment.segment_id,
                segment.resource_id,
                segment.db_id,
                segment.extra_params,
                self.on_ambiguous,
            )
        except SegStatsError as error:
            in_doubt = isinstance(error, AmbiguousSubmitError) or policy.may_have_been_accepted(error)
            if self.store and not in_doubt:
                self.store.delete(STORE_KEY)
            raise
        self.hook.log.info("Started the recount of segment %d: task %s", segment.segment_id, task_id)
        if self.store:
            self.store.set(STORE_KEY, submitted(self.life, task_id, resubmitted=resubmitted))
        return task_id

    def _named(self, error: SegStatsError) -> SegStatsError:
        error.connection = self.hook.segstats_conn_id
        return error
