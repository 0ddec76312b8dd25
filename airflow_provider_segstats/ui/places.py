"""Where the history and the reports are: what the Variables of ``segment_report`` say, in the API server."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.configuration import AIRFLOW_HOME
from airflow.sdk import Variable

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.nightly import accounts

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

CONN_ID, TABLE, REPORTS = "segstats_history_conn_id", "segstats_history_table", "segstats_report_path"

NOT_SET_UP = (
    "No history is set up: the Airflow Variable segstats_history_conn_id names no connection to a database "
    "that can be used here."
)
NO_TABLE = "The history has no tables yet: the DAG segment_report makes them when it has its first night."
AWAY = "The history's database does not answer."


PATIENCE = 20
"""Seconds that PostgreSQL may take for one query: nobody looks at a page for longer."""

_REPORT = re.compile(r"[\w-]+\.html", re.ASCII)


@dataclass(frozen=True)
class History:
    """The connection and the table of the history."""

    conn_id: str
    table: str

    def hook(self) -> DbApiHook:
        """Return the hook of its database; :class:`ConfigurationError` where there is none."""
        hook = history.database(self.conn_id)
        if hook.conn_type == "postgres":  # the others have no such setting for a connection
            hook.options = f"-c statement_timeout={1000 * PATIENCE}"
        return hook


def of_history() -> History:
    """Return where the history is."""
    return History(
        str(Variable.get(CONN_ID, default="segstats_history")),
        str(Variable.get(TABLE, default=history.DEFAULT_TABLE)),
    )


def problem(of: History, error: Exception) -> str:
    """Return the one sentence for what kept the history from being read: no host, no SQL."""
    if isinstance(error, ConfigurationError):
        return NOT_SET_UP
    try:
        with history.transaction(of.hook()) as cursor:
            cursor.execute("SELECT 1")
    except Exception:  # noqa: BLE001 - each driver has its own; the log has the first one
        return AWAY
    return NO_TABLE


def on_platform(account: str, segment_id: int) -> str | None:
    """Return where the platform shows a segment: as the first connection of its account says, if any does."""
    for one in accounts():
        with suppress(SegStatsError):  # a connection that is none is another page's business
            settings = SegStatsHook(one.conn_id).get_conn()
            if settings.account == account:
                return settings.segment_link(segment_id=segment_id)
    return None


def warm() -> None:
    """Import what the first answer needs."""
    with suppress(Exception):  # the first answer says what is wrong
        of_history().hook()


def report(name: str) -> bytes | None:
    """Return a report's page by its name, from the folder of the reports only; None where there is none."""
    if not _REPORT.fullmatch(name):
        return None
    folder = Variable.get(REPORTS, default=str(Path(AIRFLOW_HOME, "segstats-reports")))
    from airflow.sdk import ObjectStoragePath

    try:
        found: bytes = (ObjectStoragePath(folder) / name).read_bytes()
    except FileNotFoundError:
        return None
    return found
