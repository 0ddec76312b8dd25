"""An example: one mapped task a segment, each with its own place in the UI, log, retries and clears.

``nightly_segment_refresh`` refreshes all segments in one task, which costs a hundredth. This shape is for
some dozens of segments, where seeing each is worth that. Airflow maps over 1,024 items at most
(``[core] max_map_length``): raise that, split the list over several DAGs, or use the other shape.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_provider_segstats.operators import RefreshSegmentOperator

log = logging.getLogger(__name__)

AT_ONCE = 8  # as a good guest of the platform

with DAG(
    dag_id="mapped_segment_refresh",
    description="Recounts some dozens of segments, each in a mapped task of its own",
    schedule=None,
    catchup=False,
    default_args={"owner": "segstats"},
    params={
        "segments": Param(
            [{"segment_id": 7, "resource_id": 24, "db_id": 1}, {"segment_id": 9, "resource_id": 27}],
            type="array",
            items={"type": "object"},
            title="Segments",
            description="As JSON; db_id is for dynamic segments only.",
        )
    },
    tags=["segstats"],
    doc_md=__doc__,
) as dag:

    @task
    def list_segments(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the arguments for each mapped task."""
        return list((params or {})["segments"])

    @task(trigger_rule="all_done")
    def show(rows: Any) -> None:
        """Log what was counted; a segment that failed has no rows."""
        for row in (row for of_segment in rows for row in of_segment or ()):
            log.info("%s", row)

    refresh = RefreshSegmentOperator.partial(
        task_id="refresh",
        wait_for_completion=True,
        deferrable=True,
        # A whole night is worth a segment counted twice, where the answer to a submit was lost.
        on_ambiguous_submit="resubmit",
        timeout=timedelta(hours=2),
        retries=2,
        retry_delay=timedelta(minutes=5),
        max_active_tis_per_dag=AT_ONCE,
        map_index_template="{{ task.segment_id }}",
    ).expand_kwargs(list_segments())
    show(refresh.output)
