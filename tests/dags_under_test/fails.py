"""DAGs of the cases that end badly; the segments' faults are set in ``tests/test_fails.py``."""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.sensors import TaskStatusSensor

MODES = {"poke": {}, "reschedule": {"mode": "reschedule"}, "deferrable": {"deferrable": True}}
BAD_CONNECTIONS = ("missing", "wrong_token", "unknown_extra", "wrong_path")
CODES = (400, 401, 402, 403)

with DAG(
    "fails",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=0.1)},
) as dag:

    def submit(name: str, segment: int, **kwargs: object) -> RefreshSegmentOperator:
        return RefreshSegmentOperator(task_id=name, segment_id=segment, resource_id=24, **kwargs)

    for conn in BAD_CONNECTIONS:
        submit(f"submit_{conn}", 5, segstats_conn_id=f"segstats_{conn}")
        for mode, kwargs in MODES.items():
            TaskStatusSensor(
                task_id=f"{mode}_{conn}",
                refresh_task_id="a-task",
                segstats_conn_id=f"segstats_{conn}",
                **kwargs,
            )
    for code in CODES:
        submit(f"submit_{code}", code)
    submit("submit_440", 440)
    submit("submit_refused", 5, segstats_conn_id="segstats_refused")
    submit("submit_redirect", 302)
    submit("submit_lost", 600)
    submit("submit_lost_resubmitted", 601, on_ambiguous_submit="resubmit")

    for name, segment, more in (
        ("remote_failed", 700, {}),
        ("away_too_long", 701, {"max_poll_failures": 2}),
        ("timeout", 702, {"timeout": 1, "poke_interval": 0.4}),
        ("execution_timeout", 702, {"execution_timeout": timedelta(seconds=2), "poke_interval": 0.4}),
        ("soft_timeout", 702, {"timeout": 1, "poke_interval": 0.4, "soft_fail": True}),
        ("soft_remote_failed", 700, {"soft_fail": True}),
        ("soft_away_too_long", 701, {"max_poll_failures": 1, "soft_fail": True}),
    ):
        started = submit(f"start_{name}", segment)
        for mode, kwargs in MODES.items():
            if mode == "reschedule" and "timeout" in name:
                continue  # half a minute each; `test_waiting.py` has the decision
            TaskStatusSensor(
                task_id=f"{mode}_{name}", refresh_task_id=started.output, segment_id=segment, **kwargs, **more
            )

    TaskStatusSensor(
        task_id="deferrable_over_reschedule",
        refresh_task_id=submit("start_deferrable_over_reschedule", 702).output,
        mode="reschedule",
        deferrable=True,
        execution_timeout=timedelta(seconds=2),
        poke_interval=0.4,
    )

    # The first look finds the task running, so that in deferrable mode it is the trigger that meets these.
    for name, segments in (("polled_403", 5030), ("polled_redirect", 3030)):
        for segment, (mode, kwargs) in enumerate(MODES.items(), segments):
            TaskStatusSensor(
                task_id=f"{mode}_{name}",
                refresh_task_id=submit(f"start_{mode}_{name}", segment).output,
                poke_interval=0.3,
                **kwargs,
            )

    for mode in ("poke", "deferrable"):
        waits = {"wait_for_completion": True, "deferrable": mode == "deferrable", "poke_interval": 0.3}
        segment = {"poke": 800, "deferrable": 801}[mode]
        submit(f"operator_{mode}_remote_failed", segment, **waits)
        segment = {"poke": 810, "deferrable": 811}[mode]
        submit(f"operator_{mode}_reattaches", segment, execution_timeout=timedelta(seconds=2.5), **waits)
        segment = {"poke": 820, "deferrable": 821}[mode]
        submit(f"operator_{mode}_forgotten", segment, max_poll_failures=1, **waits)
