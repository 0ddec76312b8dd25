"""DAGs of the cases that end well; the segments' fates are set in ``tests/test_delivers.py``."""

from datetime import datetime, timezone

from airflow.sdk import DAG

from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

FORMATS = ("json", "xml")
FATES = {"completed": 10, "empty": 11, "entries": 12, "odd": 13, "in_progress": 14, "unknown_status": 15}
SAMPLE = {"json": 20, "xml": 21}
RESCHEDULED = {"json": 22, "xml": 23}


def submit(name: str, segment_id: int, **kwargs: object) -> RefreshSegmentOperator:
    return RefreshSegmentOperator(
        task_id=f"submit_{name}", segment_id=segment_id, resource_id=24, db_id=1, **kwargs
    )


with DAG("delivers", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None) as dag:
    for fate, segment in FATES.items():
        started = submit(fate, segment)
        for wire in FORMATS:
            for mode, deferrable in (("poke", False), ("deferrable", True)):
                TaskStatusSensor(
                    task_id=f"{fate}_{wire}_{mode}",
                    refresh_task_id=started.output,
                    segment_id=str(segment),
                    format=wire,
                    deferrable=deferrable,
                    poke_interval=0.3,
                )
    mapped = RefreshSegmentOperator.partial(task_id="mapped_submit", resource_id=24).expand(
        segment_id=[30, "31"]
    )
    TaskStatusSensor.partial(task_id="mapped_wait", poke_interval=0.3, deferrable=True).expand(
        refresh_task_id=mapped.output
    )
    RefreshSegmentOperator.partial(task_id="mapped_operator", wait_for_completion=True).expand_kwargs(
        [{"segment_id": 30, "resource_id": 24}, {"segment_id": 31, "resource_id": "24", "db_id": 2}]
    )
    for wire in FORMATS:
        started = submit(f"sample_{wire}", SAMPLE[wire], format=wire)
        for mode, deferrable in (("poke", False), ("deferrable", True)):
            TaskStatusSensor(
                task_id=f"sample_{wire}_{mode}",
                refresh_task_id=started.output,
                segment_id=7,
                format=wire,
                deferrable=deferrable,
            )
            RefreshSegmentOperator(
                task_id=f"operator_{wire}_{mode}",
                segment_id="{{ 20 if task.format == 'json' else 21 }}",
                resource_id="24",
                format=wire,
                wait_for_completion=True,
                deferrable=deferrable,
            )
        started = submit(f"rescheduled_{wire}", RESCHEDULED[wire], format=wire)
        TaskStatusSensor(
            task_id=f"sample_{wire}_reschedule",
            refresh_task_id=started.output,
            segment_id=7,
            format=wire,
            mode="reschedule",
        )
