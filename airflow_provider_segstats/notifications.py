"""Notifications: counters and findings as a table, in the text of any of Airflow's notifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_provider_segstats.checks import XCOM_KEY
from airflow_provider_segstats.tasks.arguments import as_rows, check_count

if TYPE_CHECKING:
    from airflow.sdk import Context


class SegStatsNotifier(BaseNotifier):
    """Gives another notifier ``{{ segstats_table }}`` for its templates: the task's table, as aligned text.

    The table has the findings of a :class:`~airflow_provider_segstats.checks.SegmentCountersCheckOperator`,
    or the rows that any other task returned; it is empty where there are none. Should it not be had, the
    text says why and the notification goes out all the same.

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

    :param notifier: any notifier with a ``notify`` method: SMTP, Slack, Apprise, …
    :param max_rows: the table ends after so many rows and says how many there are more
    """

    def __init__(self, notifier: BaseNotifier, max_rows: int = 50) -> None:
        super().__init__()
        self.notifier = notifier
        self.max_rows = check_count("max_rows", max_rows)

    def notify(self, context: Context) -> None:
        """Have the other notifier notify, with the table."""
        try:
            table = as_table(_rows_of(context["ti"]), self.max_rows)
        except Exception as error:  # noqa: BLE001 - an alarm without its table is better than none
            table = f"The table cannot be had: {error}"
        # A copy, since a notifier renders its templates in place: the next task's would be this one's.
        copy(self.notifier)({**context, "segstats_table": table})


def _rows_of(ti: Any) -> list[dict[str, Any]]:
    for key in (XCOM_KEY, "return_value"):
        value = ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
        if value is not None:
            return as_rows(value)
    return []


def as_table(rows: Sequence[Mapping[str, Any]], max_rows: int) -> str:
    """Return rows as aligned text under the names of their columns; what a row lacks stays empty."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows[:max_rows])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    if len(rows) > max_rows:
        text.append(f"… and {len(rows) - max_rows} more")
    return "\n".join(text)


def _cell(value: Any) -> str:
    # On one line, whatever a server may call a channel.
    return "" if value is None else " ".join(str(value).split())
