"""RefreshSegmentsOperator on the worker and deferred; the segments' faults are set in ``test_many``.

The case that a segment belongs to stands in its thousands, the mode in its ten thousands.
"""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_segstats.operators import RefreshSegmentsOperator

MODES = ("worker", "deferrable")
CASES = (
    "all_counted",
    "one_refused",
    "one_failed_once",
    "one_stuck",
    "one_lost",
    "tariff_limit",
    "one_away",
    "large",
    "forgotten",
)


def segment_ids(case: str, mode: str) -> list[int]:
    first = 10_000 * (1 + MODES.index(mode)) + 1000 * CASES.index(case)
    return list(range(first, first + (60 if case == "all_counted" else 6)))


with DAG(
    "many",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=0.1)},
):
    for mode in MODES:
        for case in CASES:
            RefreshSegmentsOperator(
                task_id=f"{case}_{mode}",
                segments=[
                    {"segment_id": segment_id, "resource_id": 24} for segment_id in segment_ids(case, mode)
                ],
                max_in_flight=20 if case == "all_counted" else 200,
                deferrable=mode == "deferrable",
                poke_interval=0.3,
                timeout=10 if case == "one_stuck" else 100,
                max_poll_failures=1 if case in {"one_away", "forgotten"} else 5,
            )
        RefreshSegmentsOperator(
            task_id=f"templated_{mode}",
            segments='{{ \'[{"segment_id": "7", "resource_id": 24, "db_id": 3}]\' }}',
            deferrable=mode == "deferrable",
        )
        for name, allow_empty in (("none", True), ("none_by_mistake", False)):
            RefreshSegmentsOperator(
                task_id=f"{name}_{mode}",
                segments="{{ [] }}",
                allow_empty=allow_empty,
                deferrable=mode == "deferrable",
            )
