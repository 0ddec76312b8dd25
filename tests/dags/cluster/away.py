"""Tasks that read what Airflow keeps while its API server is away; see ``test_cluster``."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_segstats.boundary.lookups import variable
from airflow_provider_segstats.operators import RefreshSegmentOperator

SIGNS = Path(os.environ["CLUSTER_SIGNS"])


def until_it_is_away(context: Any, _: Any = None) -> None:
    """Say that the task has started, and wait to be told that the API server is away."""
    (SIGNS / f"{context['ti'].task_id} has started").touch()
    while not (SIGNS / "away").exists():
        time.sleep(0.2)


with DAG("away", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
    RefreshSegmentOperator(
        task_id="refresh",
        segment_id=7,
        resource_id=24,
        wait_for_completion=True,
        pre_execute=until_it_is_away,
    )

    @task(pre_execute=until_it_is_away)
    def read() -> str | None:
        """Return what a Variable says."""
        return variable("colour")

    read()
