"""The cells of the fault table, one DAG for each kind of task; ``fault_cases`` has them all.

A sensor's recount is started over the API before: its id is in the Variable ``remote_tasks``, by segment.
"""

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG, Variable, task
from support.fault_cases import CAUGHT, CELLS, FIRST_CAUGHT, RETRIES, Case, segment_of, task_id_of

from airflow_provider_segstats.core import errors
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor


def add(section: str, case: Case, way: str, wire: str) -> None:
    """Add the cell's task to its DAG."""
    who, mode = way.split("_")
    segment = segment_of(section, case, way, wire)
    arguments: dict[str, Any] = {
        "task_id": task_id_of(section, case, wire),
        "dag": dags[way],
        "segment_id": segment,
        "format": wire,
        "segstats_conn_id": case.connection,
        "deferrable": mode == "deferrable",
        "poke_interval": 0.05,
        **({"mode": "reschedule" if mode == "reschedule" else "poke"} if who == "sensor" else {}),
        **case.arguments,
    }
    if "execution_timeout" in arguments:
        arguments["execution_timeout"] = timedelta(seconds=arguments["execution_timeout"])
    if who == "sensor":
        TaskStatusSensor(refresh_task_id=f"{{{{ var.json.remote_tasks['{segment}'] }}}}", **arguments)
    else:
        RefreshSegmentOperator(resource_id=24, wait_for_completion=mode != "submit", **arguments)


@task
def catch(kind: str, call: str, connection: str, segment: int) -> dict[str, Any] | None:
    """Catch an error by its name and return what it tells."""
    hook = SegStatsHook(connection)
    remote = Variable.get("remote_tasks", deserialize_json=True)[str(segment)]
    try:
        if call == "submit":
            hook.refresh_counters(segment, 24)
        elif call == "look":
            hook.task_status(remote)
        else:
            hook.wait_for_task(remote, timeout=0.3, poke_interval=0.1)
    except getattr(errors, kind) as error:
        return error.to_dict()
    return None


dags = {
    way: DAG(
        way,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        default_args={"retries": RETRIES, "retry_delay": timedelta(seconds=0.1)},
    )
    for _, _, way, _ in CELLS
}
for cell in CELLS:
    add(*cell)
with DAG("own_tasks", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as own_tasks:
    for segment, case in enumerate(CAUGHT, FIRST_CAUGHT):
        catch.override(task_id=case.kind)(case.kind, case.call, case.connection, segment)
globals().update(dags)

with DAG("mapped", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as mapped:
    submit = RefreshSegmentOperator.partial(task_id="submit", resource_id=24).expand(segment_id=[30, "31"])
    TaskStatusSensor.partial(task_id="wait", poke_interval=0.2, deferrable=True).expand(
        refresh_task_id=submit.output
    )
    RefreshSegmentOperator.partial(
        task_id="operator", wait_for_completion=True, poke_interval=0.2
    ).expand_kwargs(
        [{"segment_id": 30, "resource_id": 24}, {"segment_id": "31", "resource_id": "24", "db_id": 2}]
    )
