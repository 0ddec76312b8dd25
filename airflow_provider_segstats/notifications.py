"""Notifications: counters and findings as a table, in the text of any of Airflow's notifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseNotifier

from airflow_provider_segstats.checks import XCOM_KEY
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.model import ROW_LABELS
from airflow_provider_segstats.history import NOTABLE
from airflow_provider_segstats.report.findings import titled
from airflow_provider_segstats.tasks.arguments import as_rows, check_count

if TYPE_CHECKING:
    from airflow.sdk import Context


_WIDTH, _LENGTH = 80, 4000  # of what chats show whole: Slack's and Telegram's limits are just above
_CELL = 30


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


def as_table(rows: Sequence[Mapping[str, Any]], max_rows: int) -> str:
    """Return findings, or rows of counters, as aligned text that a chat shows whole.

    At most 80 characters wide and 4,000 long: of more counters the first stand, and of more rows it says how
    many there are.
    """
    if not rows:
        return ""
    of = _of_finding if "what" in rows[0] else _of_row
    lines = [of(row) for row in rows[:max_rows]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    if "counter" in names and {line["counter"] for line in lines} <= {"", NOTABLE}:
        names.remove("counter")
    columns = {name: [name, *(_cell(line.get(name, "")) for line in lines)] for name in names}
    shown, wide = [], -2
    for column in columns.values():
        width = max(map(len, column))
        if any(column[1:]) and wide + 2 + width <= _WIDTH:
            wide += 2 + width
            shown.append([text.ljust(width) for text in column])
    table, length = [], 0
    for line in zip(*shown, strict=True):
        table.append("  ".join(line).rstrip())
        length += len(table[-1]) + 1
        if length > _LENGTH - 30:  # with room for the last line
            table.pop()
            break
    left = len(rows) + 1 - len(table)
    return "\n".join([*table, *([f"… and {left} more"] if left else [])])


def _of_finding(row: Mapping[str, Any]) -> dict[str, str]:
    low, high = row.get("low"), row.get("high")
    expected = "" if low is None else f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    count = row.get("before") if row.get("after") is None else row["after"]
    return {
        "what": row["what"],
        "of": "" if row.get("id") is None else titled(row["kind"], row["id"], row.get("name")),
        "channel": row.get("channel") or "",
        "counter": row.get("counter") or "",
        "count": "" if count is None else f"{count:,}",
        "expected": expected,
        "reason": row.get("reason") or "",
    }


def _of_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's columns, the counter that is checked first."""
    kind = row.get("kind") or "segment"
    id_ = row.get({"segment": "segment_id", "database": "list_id", "resource": "resource_id"}[kind])
    counters = sorted(row.keys() - ROW_LABELS, key=lambda name: (name != NOTABLE, list(row).index(name)))
    return {
        "of": "" if id_ is None else titled(kind, id_, row.get("name")),
        "channel": str(row.get("channel", "")),
        **{name: "" if row[name] is None else f"{row[name]:,}" for name in counters},
        "updated": str(row.get("updated") or "")[:16].replace("T", " "),
    }


def _cell(text: str) -> str:
    # On one line, whatever a server may call a channel.
    line = " ".join(text.split())
    return line if len(line) <= _CELL else f"{line[: _CELL - 1]}…"
