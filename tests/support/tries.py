"""Tries of the operators' tasks without a scheduler: workers, triggers, and a store that outlives them."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.execution_time.timeout import timeout
from airflow.sdk.module_loading import import_string
from support.versions import TaskDeferred, deserialize, serialize

from airflow_provider_segstats.operators import (
    GetSegmentCountersOperator,
    RefreshSegmentOperator,
    RefreshSegmentsOperator,
)
from airflow_provider_segstats.tasks.ledger import HEAD, OPEN

if TYPE_CHECKING:
    from collections.abc import Callable


class Store:
    """A task_state_store of JSON in memory, or in a folder that outlives the process."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._values: dict[str, str] = {}
        self.sets = 0
        self.largest = 0
        self.on_set: Callable[[], None] = lambda: None

    def get(self, key: str) -> Any:
        if self._folder:
            path = self._folder / key
            return json.loads(path.read_text()) if path.exists() else None
        return json.loads(self._values[key]) if key in self._values else None

    def set(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        self.sets += 1
        self.largest = max(self.largest, len(text))
        if self._folder:
            (self._folder / "new").write_text(text)
            (self._folder / "new").replace(self._folder / key)
        else:
            self._values[key] = text
        self.on_set()

    @property
    def in_doubt(self) -> set[int]:
        """The segments whose submits are kept as on their way."""
        return set((self.get(HEAD) or {"in_doubt": []})["in_doubt"])

    @property
    def submitted(self) -> set[int]:
        """The segments whose ids are kept, or were before the first deferral."""
        head = self.get(HEAD) or {"open": [0, 0], "entries": []}
        pages = [self.get(f"{OPEN}_{page}") for page in range(head["open"][1])]
        return {entry[0] for page in [*pages, head["entries"]] for entry in page}


class Try:
    """One try of a task, on workers and, deferred, in a triggerer: a new operator for each of its phases."""

    def __init__(
        self, store: Store | None, number: int = 1, operator: Any = RefreshSegmentOperator, **arguments: Any
    ) -> None:
        self.xcom: dict[str, Any] = {}
        self.deferrals = 0
        self.on_start: Callable[[Any], object] = lambda _: None
        self._operator = RefreshSegmentsOperator if "segments" in arguments else operator
        waits = {} if operator is GetSegmentCountersOperator else {"poke_interval": 0.05, "timeout": 600}
        self._arguments = {"task_id": "refresh", **waits, **arguments}
        ti = SimpleNamespace(
            start_date=datetime.now(timezone.utc),
            max_tries=1,
            get_first_reschedule_date=lambda _: None,
            try_number=number,
            xcom_push=lambda key, value: self.xcom.update({key: json.loads(json.dumps(value))}),
        )
        self.context: Any = {"ti": ti, "dag_run": SimpleNamespace(clear_number=0), "task_state_store": store}

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = self.xcom["summary"]
        return summary

    def run(self) -> list[dict[str, Any]]:
        """Return the task's result, or raise what Airflow would see."""
        try:
            return self.start()
        except TaskDeferred as deferred:
            return self.resume(deferred)

    def start(self) -> list[dict[str, Any]]:
        return self._on_worker("execute")

    def resume(self, deferred: TaskDeferred) -> list[dict[str, Any]]:
        while True:
            self.deferrals += 1
            event = fire(deferred)
            try:
                return self.resume_with(deferred.method_name, {"event": event})
            except TaskDeferred as again:
                deferred = again

    def resume_with(self, method: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return self._on_worker("resume_execution", next_method=method, next_kwargs=arguments)

    def _on_worker(self, method: str, **arguments: Any) -> list[dict[str, Any]]:
        operator: Any = self._operator(**self._arguments)
        self.on_start(operator)
        limit = operator.execution_timeout
        token = ExecutorSafeguard.tracker.set(operator)
        try:
            with timeout(limit.total_seconds()) if limit else nullcontext():
                rows: list[dict[str, Any]] = getattr(operator, method)(context=self.context, **arguments)
        finally:
            ExecutorSafeguard.tracker.reset(token)
        return rows


def fire(deferred: TaskDeferred, within: float = 120) -> dict[str, Any]:
    """Run the trigger from what Airflow stores of it; return what Airflow stores of its event."""
    path, kwargs = deferred.trigger.serialize()

    async def first() -> Any:
        trigger = import_string(path)(**deserialize(serialize(kwargs)))
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(asyncio.wait_for(first(), within))
    event: dict[str, Any] = json.loads(json.dumps(payload))
    return event
