"""A DAG whose load is retried and then brought newer rows; see ``test_history_runs``."""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseNotifier

from airflow_provider_segstats.notifications import SegStatsNotifier
from airflow_provider_segstats.operators import RefreshSegmentOperator
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator


class LostAfterWriting(SegmentCountersToSqlOperator):
    """Loads, and then fails the first try, as a worker that is lost does."""

    def execute(self, context: Any) -> dict[str, int]:
        counts = super().execute(context)
        if context["ti"].try_number == 1:
            raise RuntimeError(f"lost after {counts}")
        return counts


class ToFile(BaseNotifier):
    """Appends its text to a file."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, _: Any) -> None:
        with Path(os.environ["NOTES"]).open("a") as file:
            file.write(f"{self.text}\n\n")


with DAG("loads", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None):
    note = SegStatsNotifier(ToFile("{{ ti.task_id }}\n{{ segstats_table }}"), max_rows=2)
    refresh = {"segment_id": 70, "resource_id": 24, "wait_for_completion": True, "on_success_callback": note}
    into = {"sql_conn_id": "warehouse", "table": "loads", "create_table": True}
    first = RefreshSegmentOperator(task_id="first", **refresh)
    second = RefreshSegmentOperator(task_id="second", **refresh)
    (
        LostAfterWriting(
            task_id="retried", rows=first.output, retries=1, retry_delay=timedelta(seconds=0.1), **into
        )
        >> second
        >> SegmentCountersToSqlOperator(task_id="newer", rows="{{ ti.xcom_pull('second') | tojson }}", **into)
    )
