"""Notifications: counters and findings as a table, in the text of any of Airflow's notifiers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseNotifier

from airflow_provider_segstats.checks import XCOM_KEY
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.text import as_table
from airflow_provider_segstats.tasks.arguments import as_rows, check_count

if TYPE_CHECKING:
    from airflow.sdk import Context


class SegStatsNotifier(BaseNotifier):
    """Gives another notifier ``{{ segstats_table }}`` for its templates: the task's table, as aligned text.

    The table has the findings of a :class:`~airflow_provider_segstats.checks.SegmentCountersCheckOperator`,
    or the rows that any other task returned: the columns that matter, made for a chat (at most 80 wide and
    4,000 characters long). It is empty where there are none. Should it not be had, the text says why and the
    notification goes out all the same.

    .. code-block:: python

        SegmentCountersCheckOperator(
            task_id="check",
            sql_conn_id="warehouse",
            on_failure_callback=SegStatsNotifier(
                SmtpNotifier(
                    to="team@example.com",
                    subject="{{ dag.dag_id }}: {{ exception }}",
                    html_content="<pre>{{ segstats_table | e }}</pre>",
                )
            ),
        )

    Deadline alerts run in the triggerer or an executor, with arguments that Airflow stores as JSON; there the
    other notifier is named by its path, and its arguments stand beside it:

    .. code-block:: python

        DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(hours=3),
            callback=AsyncCallback(
                SegStatsNotifier,
                {
                    "notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
                    "arguments": {"to": "team@example.com", "subject": "{{ dag_run.dag_id }} is late"},
                },
            ),
        )

    An alert belongs to a run and not to a task, so the table says that there is none; of the context
    Airflow gives it ``dag_run`` and ``deadline``, as dicts.

    :param notifier: any notifier with a ``notify`` method (for a triggerer: ``async_notify``), such as SMTP,
        Slack or Apprise; or the path of its class
    :param max_rows: the table ends after so many rows and says how many there are more
    :param arguments: those of a notifier that is named by its path
    :param context: given by Airflow, to an alert
    """

    def __init__(
        self,
        notifier: BaseNotifier | str,
        max_rows: int = 50,
        *,
        arguments: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        if isinstance(notifier, str):
            module, _, name = notifier.rpartition(".")
            self.notifier: BaseNotifier = getattr(import_module(module), name)(**(arguments or {}))
        else:
            self.notifier = notifier
        self.max_rows = check_count("max_rows", max_rows)

    def notify(self, context: Context) -> None:
        """Have the other notifier notify, with the table."""
        # A copy, since a notifier renders its templates in place: the next task's would be this one's.
        copy(self.notifier)(self._with_table(context))

    async def async_notify(self, context: Context) -> None:
        """Have the other notifier notify in a triggerer, which it must be able to."""
        notifier = copy(self.notifier)
        if type(notifier).async_notify is BaseNotifier.async_notify:
            raise NotImplementedError(
                f"{type(notifier).__name__} has no async_notify, so it cannot notify from a triggerer: take "
                "one that has it, or SyncCallback, which runs in an executor"
            )
        notifier.context = self._with_table(context)
        await notifier

    def _with_table(self, context: Context) -> Context:
        try:
            if "ti" in context:
                table = as_table(_rows_of(context["ti"]), self.max_rows)
            else:
                table = "There is no table: this is about a run, not a task."
        except Exception as error:  # noqa: BLE001 - an alarm without its table is better than none
            table = f"The table cannot be had: {error}"
        return cast("Context", {**context, "segstats_table": table})


def _rows_of(ti: Any) -> list[dict[str, Any]]:
    for key in (XCOM_KEY, "return_value"):
        value = ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
        if value is not None:
            with suppress(ConfigurationError):  # a task may return something else than rows
                return as_rows(value)
    return []
