"""What a task remembers of its submit, so that a retry goes on with it. Pure: the operator stores it.

Airflow's ``task_state_store`` (3.3) keeps a record for each task instance, over retries *and* over
clears. A cleared task has to submit afresh, so the record carries what a clear changes: a clear of a
finished task resets ``ti.max_tries``, one of a running task raises ``dag_run.clear_number``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STORE_KEY = "segstats_submission"


@dataclass(frozen=True)
class Life:
    """A task instance's life between two clears: the same over all its retries."""

    max_tries: int
    clear_number: int


@dataclass(frozen=True)
class Submitted:
    """An earlier try submitted and stored the remote task's id.

    ``resubmitted`` tells that it did so in place of a task that the server had forgotten.
    """

    task_id: str
    resubmitted: bool = False


@dataclass(frozen=True)
class Unknown:
    """An earlier try meant to submit; whether it did is not known."""


def intent(life: Life) -> dict[str, Any]:
    """Return the record to store before submitting."""
    return {"max_tries": life.max_tries, "clear_number": life.clear_number, "task_id": None}


def submitted(life: Life, task_id: str, *, resubmitted: bool = False) -> dict[str, Any]:
    """Return the record to store as soon as the server's answer is there."""
    return {**intent(life), "task_id": task_id, "resubmitted": resubmitted}


def recall(record: Any, life: Life) -> Submitted | Unknown | None:
    """Return what an earlier try of the same life did; None when there is nothing to go on with."""
    if not isinstance(record, dict):
        return None
    if (record.get("max_tries"), record.get("clear_number")) != (life.max_tries, life.clear_number):
        return None
    task_id = record.get("task_id")
    if not (isinstance(task_id, str) and task_id):
        return Unknown()
    return Submitted(task_id, resubmitted=record.get("resubmitted") is True)
