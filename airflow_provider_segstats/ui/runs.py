"""What of the package's tasks runs now and how runs went, as Airflow's own database has it.

Read from the XComs that the tasks write: ``segstats_progress`` while they run, ``summary`` at their end.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select, tuple_

from airflow_provider_segstats.tasks.progress import XCOM_KEY as PROGRESS

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

ACTIVE = ("running", "deferred", "up_for_reschedule")
SUMMARY = "summary"
MOST = 200
"""Tasks that an answer names at most."""


def running(session: Session, dag_ids: Collection[str]) -> list[dict[str, Any]]:
    """Return the tasks that wait for recounts now, the newest progress first.

    Each is ``{"dag_id", "run_id", "task_id", "map_index", "state", "progress"}``, the latter as it was last
    written (:mod:`~airflow_provider_segstats.tasks.progress`).
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
    return [
        {
            **_task(task, (said := values[task.task_id, task.map_index]).get(PROGRESS)),
            "summary": said.get(SUMMARY),
        }
        for task in session.scalars(tasks.order_by(TaskInstance.task_id, TaskInstance.map_index))
    ]


def times(session: Session, runs: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """Return state, start and end of the runs that Airflow still has, by DAG and run."""
    query = select(DagRun.dag_id, DagRun.run_id, DagRun.state, DagRun.start_date, DagRun.end_date).where(
        tuple_(DagRun.dag_id, DagRun.run_id).in_(list(runs))
    )
    return {
        (dag_id, run_id): {"state": str(state), "started": _iso(started), "ended": _iso(ended)}
        for dag_id, run_id, state, started, ended in session.execute(query)
    }


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


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
