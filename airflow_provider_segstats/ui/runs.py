"""What of the package's tasks runs now and how runs went, as Airflow's own database has it.

Read from the XComs that the tasks write: ``segstats_progress`` while they run, ``summary`` at their end.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select, tuple_

from airflow_provider_segstats import checks
from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.report.findings import Finding

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from airflow_provider_segstats.ui.snapshot import Key

ACTIVE = ("running", "deferred", "up_for_reschedule")
PROGRESS, SUMMARY, FINDINGS = progress.XCOM_KEY, "summary", checks.XCOM_KEY
MOST = 200
"""Tasks that an answer names at most."""


def running(session: Session, dag_ids: Collection[str]) -> list[dict[str, Any]]:
    """Return the tasks that wait for recounts now, the newest progress first.

    Each is ``{"dag_id", "run_id", "task_id", "map_index", "state", "progress"}``, the latter as it was last
    written.
    """
    query = (
        select(TaskInstance, XComModel.value)
        .join(
            XComModel,
            (XComModel.dag_id == TaskInstance.dag_id)
            & (XComModel.run_id == TaskInstance.run_id)
            & (XComModel.task_id == TaskInstance.task_id)
            & (XComModel.map_index == TaskInstance.map_index),
        )
        .where(TaskInstance.state.in_(ACTIVE), XComModel.key == PROGRESS, TaskInstance.dag_id.in_(dag_ids))
        .order_by(XComModel.timestamp.desc())
        .limit(MOST)
    )
    return [_task(task, value) for task, value in session.execute(query)]


def of_run(session: Session, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """Return the tasks of a run that have to do with segments: as :func:`running`, with a ``summary``."""
    values: dict[tuple[str, int], dict[str, Any]] = {}
    found = select(XComModel).where(
        XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key.in_((PROGRESS, SUMMARY))
    )
    for xcom in session.scalars(found.limit(2 * MOST)):
        values.setdefault((xcom.task_id, xcom.map_index), {})[xcom.key] = _plain(xcom.value)
    tasks = select(TaskInstance).where(
        TaskInstance.dag_id == dag_id,
        TaskInstance.run_id == run_id,
        tuple_(TaskInstance.task_id, TaskInstance.map_index).in_(list(values)),
    )

    def told(task: TaskInstance) -> dict[str, Any]:
        said = values[task.task_id, task.map_index]
        last = said.get(PROGRESS) if task.state in ACTIVE else None  # else it is of earlier
        return {**_task(task, last), "summary": said.get(SUMMARY)}

    return [
        told(task) for task in session.scalars(tasks.order_by(TaskInstance.task_id, TaskInstance.map_index))
    ]


def segments_of(tasks: Iterable[Mapping[str, Any]]) -> dict[Key, int | None]:
    """Return the segments that running tasks name as under way, in per cent where that is known."""
    return {
        (told["account"], told.get("kind", "segment"), number): percent
        for task in tasks
        if (told := task["progress"])
        for number, percent in told.get("segments") or ()
    }


def facts(session: Session, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the seconds and the submits of the runs that Airflow still has, by DAG and run."""
    runs = tuple_(DagRun.dag_id, DagRun.run_id).in_(wanted)
    found = {
        (dag_id, run_id): {"seconds": _seconds(started, ended), "submits": None}
        for dag_id, run_id, started, ended in session.execute(
            select(DagRun.dag_id, DagRun.run_id, DagRun.start_date, DagRun.end_date).where(runs)
        )
    }
    summaries = select(XComModel.dag_id, XComModel.run_id, XComModel.value).where(
        XComModel.key == SUMMARY, tuple_(XComModel.dag_id, XComModel.run_id).in_(wanted)
    )
    for dag_id, run_id, value in session.execute(summaries):
        summary, fact = _plain(value), found.get((dag_id, run_id))
        if fact is not None and isinstance(summary, Mapping) and "submits" in summary:
            fact["submits"] = (fact["submits"] or 0) + summary["submits"]
    return found


def findings(session: Session, dag_ids: Collection[str], key: Key) -> list[str]:
    """Return what the last check of each DAG found about an object, a line each."""
    query = (
        select(XComModel.dag_id, XComModel.value)
        .where(XComModel.key == FINDINGS, XComModel.dag_id.in_(dag_ids))
        .order_by(XComModel.timestamp.desc())
        .limit(MOST)
    )
    newest: dict[str, Any] = {}
    for dag_id, value in session.execute(query):
        newest.setdefault(dag_id, _plain(value))
    rows = [row for found in newest.values() for row in found]
    return [str(Finding.from_row(row)) for row in rows if (row["source"], row["kind"], row["id"]) == key]


def _task(task: TaskInstance, progress: Any) -> dict[str, Any]:
    return {
        "dag_id": task.dag_id,
        "run_id": task.run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "state": str(task.state),
        "progress": _plain(progress),
    }


def _plain(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _seconds(started: datetime | None, ended: datetime | None) -> float | None:
    return (ended - started).total_seconds() if started and ended else None
