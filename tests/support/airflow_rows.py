"""Runs as Airflow's database has them, put there without a scheduler."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

BUNDLE = "rows"


class Rows:
    """Writes into an Airflow's database, whose URL for SQLAlchemy is given."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        with Session(self._engine) as session, session.begin():
            session.add(DagBundleModel(name=BUNDLE))

    def add_dag(self, dag_id: str) -> None:
        """Let there be a DAG."""
        with Session(self._engine) as session, session.begin():
            session.add(
                DagModel(
                    dag_id=dag_id,
                    bundle_name=BUNDLE,
                    is_stale=False,
                    max_active_tasks=16,
                    max_consecutive_failed_dag_runs=0,
                    has_task_concurrency_limits=False,
                )
            )

    def add_run(
        self,
        dag_id: str,
        run_id: str,
        tasks: Mapping[str, tuple[str, Mapping[str, Any]]],
        *,
        seconds: float | None = None,
    ) -> None:
        """Let there be a run, with a state and XComs by task; if it ended, it took so many seconds."""
        started = datetime.now(tz=timezone.utc) - timedelta(hours=1)
        ended = None if seconds is None else started + timedelta(seconds=seconds)
        with Session(self._engine) as session, session.begin():
            run = DagRun(
                dag_id=dag_id, run_id=run_id, run_type="manual", run_after=started, start_date=started
            )
            run.end_date = ended
            run._state = "running" if ended is None else "success"
            session.add(run)
            session.flush()
            for task_id, (state, xcoms) in tasks.items():
                of = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": -1}
                session.execute(
                    insert(TaskInstance.__table__).values(
                        **of,
                        id=uuid4(),
                        state=state,
                        pool="default_pool",
                        pool_slots=1,
                        start_date=started,
                        end_date=ended,
                        try_number=1,
                    )
                )
                for key, value in xcoms.items():
                    session.execute(
                        insert(XComModel.__table__).values(**of, dag_run_id=run.id, key=key, value=value)
                    )

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
