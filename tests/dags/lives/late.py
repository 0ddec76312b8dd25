"""A run that is late as soon as it is queued: its deadline alert is mailed from the triggerer."""

from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference

from airflow_provider_segstats.notifications import SegStatsNotifier

with DAG(
    "late",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=-1),
        callback=AsyncCallback(
            SegStatsNotifier,
            {
                "notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
                "arguments": {
                    "from_email": "airflow@example.com",
                    "to": "team@example.com",
                    "subject": "{{ dag_run.dag_id }} is late",
                    "html_content": "<pre>{{ segstats_table }}</pre>",
                },
            },
        ),
    ),
):
    EmptyOperator(task_id="nothing")
