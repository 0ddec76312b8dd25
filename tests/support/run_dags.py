"""Run DAGs of a file (all, or those named) through ``dag.test()``; print what became of their tasks, as JSON.

A process of its own for each file: a trigger that never fires would hang ``dag.test()`` for ever, and
only the parent can end it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from airflow.models.taskreschedule import TaskReschedule
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import SegStatsError

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

MARK = "RESULTS "

# dag.test() runs a trigger in this process: there is no worker that needs time to leave.
policy.SHORTEST_DEFERRAL = 0.05


def name(of: Any) -> str:
    """Return a task instance's or an XCom's task id, with the index of a mapped one."""
    return f"{of.task_id}[{of.map_index}]" if of.map_index >= 0 else str(of.task_id)


def run(dag: Any) -> dict[str, Any]:
    """Return ``{name: {"state", "tries", "reschedules", "errors", "details", "xcom"}}``.

    Errors are of all tries, of which Airflow tells but those that it skips; details are the last one's.
    """
    errors: dict[str, list[list[str]]] = {}
    details: dict[str, dict[str, Any]] = {}

    def note(context: Any) -> None:
        error = context["exception"]
        # What the task log shows: the line itself, and whether other exceptions hang on to it.
        chained = error.__cause__ or (error.__context__ if not error.__suppress_context__ else None)
        what = [type(error).__name__, str(error), type(chained).__name__ if chained else ""]
        errors.setdefault(name(context["ti"]), []).append(what)
        details[name(context["ti"])] = error.to_dict() if isinstance(error, SegStatsError) else {}

    for task in dag.tasks:
        task.on_failure_callback = [*task.on_failure_callback, note]
        task.on_retry_callback = [note]
    dag_run = dag.test()
    with create_session() as session:
        xcoms = session.query(XComModel).filter_by(dag_id=dag.dag_id, run_id=dag_run.run_id)
        by_task: dict[str, dict[str, Any]] = {}
        for xcom in xcoms:
            by_task.setdefault(name(xcom), {})[xcom.key] = XComModel.deserialize_value(xcom)
        reschedules = Counter(session.scalars(select(TaskReschedule.ti_id)))
        return {
            name(ti): {
                "state": str(ti.state),
                "tries": ti.try_number,
                "reschedules": reschedules.get(ti.id, 0),
                "errors": errors.get(name(ti), []),
                "details": details.get(name(ti), {}),
                "xcom": by_task.get(name(ti), {}),
            }
            for ti in dag_run.get_task_instances(session=session)
        }


if __name__ == "__main__":
    bag = DagBag(sys.argv[1])
    assert not bag.import_errors, bag.import_errors
    results = {dag_id: run(bag.dags[dag_id]) for dag_id in sys.argv[2:] or bag.dags}
    sys.stdout.write(MARK + json.dumps(results))
