"""Links of a task instance: to its segment on the platform, to the page in Airflow's UI, to the report.

Airflow asks for them whenever a worker is done with a task, a deferral included, in the process that just
ran: they are made of arguments and the connection alone, so that they are the same each time. Before that a
task that stays on its worker pushes them itself (:func:`show`). A link that cannot be made is left out.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from airflow.sdk import BaseOperatorLink

from airflow_provider_segstats.boundary.versions import conf
from airflow_provider_segstats.core.defaults import AUTO
from airflow_provider_segstats.core.ids import as_database_id

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.core.settings import Settings


class SegmentLink(BaseOperatorLink):
    """To the segment on the platform, as the connection's extra ``segment_url`` says."""

    name = "Segment on the platform"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's
        """Return the URL, empty where there is no such extra, or an id in it is not known."""
        with suppress(Exception):  # Airflow would write its traceback into the task's log
            ids = {name: _id(operator, name) for name in ("segment_id", "resource_id", "db_id")}
            return _settings(operator.segstats_conn_id).segment_link(**ids) or ""
        return ""


class PageLink(BaseOperatorLink):
    """To the page "Segments": the task's segment, or what its run did where it has not just one."""

    name = "Segments"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the URL."""
        with suppress(Exception):  # as above
            if (segment_id := _id(operator, "segment_id")) is not None:
                account = _settings(operator.segstats_conn_id).account
                shown = {"view": "segment", "account": account, "kind": "segment", "id": segment_id}
                return f"{_airflow()}/plugin/segments?{urlencode(shown)}"
            dag_id, run_id = quote(ti_key.dag_id, safe=""), quote(ti_key.run_id, safe="")
            return f"{_airflow()}/dags/{dag_id}/runs/{run_id}/plugin/segments_of_run"
        return ""


class ReportLink(BaseOperatorLink):
    """To the report that the task wrote, which Airflow's API server hands out."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's
        """Return the URL, empty where none was written."""
        name = getattr(operator, "report_name", None)
        return f"{_airflow()}/segstats/report/{quote(name)}" if name else ""


def show(operator: Any, context: Context) -> None:
    """Push a task's links while it runs, and log them: Airflow's page has them two clicks away."""
    for link in operator.operator_extra_links:
        with suppress(Exception):  # no task ends for want of a link
            if url := link.get_link(operator, ti_key=context["ti"]):
                operator.log.info("%s: %s", link.name, url)
                if not getattr(operator, "deferrable", False):  # else Airflow does so in a moment
                    context["ti"].xcom_push(key=link.xcom_key, value=url)


@lru_cache(maxsize=8)
def _settings(conn_id: str) -> Settings:
    """Read a connection once a process: each of a task's links would ask Airflow's API server for it."""
    from airflow_provider_segstats.hooks import SegStatsHook

    return SegStatsHook(conn_id).get_conn()


def _id(operator: Any, name: str) -> int | None:
    value = as_database_id(name, getattr(operator, name, None))
    return None if value == AUTO else value  # which is not looked up for a link


def _airflow() -> str:
    """Return where Airflow's UI is, without a slash at its end."""
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")
