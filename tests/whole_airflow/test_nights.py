"""The DAGs of ``dags/`` on a whole Airflow: real scheduler, triggerer, dag processor and API server."""

from __future__ import annotations

import csv
import html
import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_runs import connection
from support.paths import ROOT

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

from local_airflow.stack import AirflowStack

pytestmark = pytest.mark.airflow

NIGHT_ASSET = "segstats://segstats_default/segments"
NIGHTLY, REPORT, SEVEN = "nightly_segment_refresh", "segment_report", "segment_seven"
DEAD = 8
TOKEN = 't0ken<of>&the"night'
SEGMENTS = [
    {"segment_id": 7, "resource_id": 24, "db_id": 1},
    {"segment_id": DEAD, "resource_id": 24},
    {"segment_id": 9, "resource_id": 27},
]
# Of somebody who wants to know of one segment only.
SEVENS_DAG = f"""
from airflow.sdk import DAG, task
from airflow_provider_segstats.assets import segments_asset

SEVEN = segments_asset(segment_id=7)

with DAG("{SEVEN}", schedule=[SEVEN]):

    @task
    def extras(triggering_asset_events=None):
        return [event.extra for event in triggering_asset_events[SEVEN]]

    extras()
"""


# The check finds the dead segment, which turns the run red and keeps nothing from being written.
REPORTED = {"where": "success", "load": "success", "check": "failed", "write": "success"}


class Night:
    """One night with a dead segment, the report after it, both cleared, and a backfill that is refused."""

    def __init__(self, airflow: AirflowStack, emulator: Emulator, warehouse: Path, lineage: Path) -> None:
        self.airflow = airflow
        self.logs = airflow.home / "logs"
        airflow.unpause(REPORT)
        airflow.unpause(SEVEN)
        self.run_id = airflow.trigger(NIGHTLY)
        self.state = airflow.wait(NIGHTLY, self.run_id)
        self.tasks = {
            (task["task_id"], task["map_index"]): task
            for task in airflow.task_instances(NIGHTLY, self.run_id)
        }
        airflow.until(lambda: airflow.runs(REPORT), "a run of the report")
        self.report_id = airflow.runs(REPORT)[0]["dag_run_id"]
        airflow.wait(REPORT, self.report_id)
        self.report_states = self._report_states(self.report_id)
        self.submits = Counter(task.segment_id for task in emulator.tasks())
        self.events = airflow.request("GET", "assets", "events")["asset_events"]
        self.reports = [self._report()]
        self.histories = [history(warehouse)]
        self._clear(REPORT, self.report_id)
        self.reports.append(self._report())
        self.histories.append(history(warehouse))
        # Published again, which reports again.
        self._clear(NIGHTLY, self.run_id, task_ids=["gather"], include_downstream=True)
        airflow.until(lambda: len(airflow.runs(REPORT)) > 1, "a second run of the report")
        second_id = airflow.runs(REPORT)[1]["dag_run_id"]
        airflow.wait(REPORT, second_id)
        self.second_states = self._report_states(second_id)
        self.histories.append(history(warehouse))
        self.backfill = self._backfill()
        self.lineage = [json.loads(path.read_text()) for path in lineage.iterdir()]

    def _report_states(self, run_id: str) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.airflow.task_instances(REPORT, run_id)}

    def _report(self) -> dict[str, bytes]:
        """Return the files of the report by kind."""
        places = self.airflow.xcom(REPORT, self.report_id, "write")
        return {kind: Path(place.removeprefix("file://")).read_bytes() for kind, place in places.items()}

    def datasets(self, side: str, job: str) -> set[str]:
        """Return what OpenLineage was told that all runs of a task had as ``inputs`` or ``outputs``."""
        return {
            f"{dataset['namespace']} {dataset['name']}"
            for event in self.lineage
            if event["job"]["name"] == job
            for dataset in event[side]
        }

    def _clear(self, dag_id: str, run_id: str, **which: Any) -> None:
        """Clear tasks of a run, all unless told otherwise, and wait for its end."""
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, **which}
        self.airflow.request("POST", "dags", dag_id, "clearTaskInstances", json=body)
        self.airflow.wait(dag_id, run_id)

    def _backfill(self) -> dict[str, Any]:
        """Ask for a backfill of one past night and return its run when it has ended."""
        day = datetime(2026, 2, 1, 3, tzinfo=timezone.utc).isoformat()
        body = {"dag_id": NIGHTLY, "from_date": day, "to_date": day}
        self.airflow.request("POST", "backfills", json=body)

        def ended() -> list[dict[str, Any]]:
            runs = self.airflow.runs(NIGHTLY)
            return [run for run in runs if run["run_type"] == "backfill" and run["end_date"]]

        self.airflow.until(ended, "the end of the backfill")
        return ended()[0]


def history(warehouse: Path) -> list[tuple[Any, ...]]:
    """Return the table of history."""
    with closing(sqlite3.connect(warehouse)) as database:
        return database.execute("SELECT * FROM segment_counters ORDER BY segment_id, channel").fetchall()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    with Emulator(TOKEN, seconds=2.0) as emulator:
        emulator.add_fault(
            Fault(
                "api_error",
                endpoint="segments/refresh_counters",
                segment_id=DEAD,
                code=403,
                text="No access",
                times=None,
            )
        )
        dags, warehouse = folder / "dags", folder / "history.db"
        shutil.copytree(ROOT / "dags", dags)
        (dags / "seven.py").write_text(SEVENS_DAG)
        env = {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token, format="xml"),
            "AIRFLOW_CONN_SEGSTATS_HISTORY": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
            "AIRFLOW_VAR_SEGSTATS_EVENTS_FOR_EACH": "true",
            "AIRFLOW_VAR_SEGSTATS_SEGMENTS": json.dumps(SEGMENTS),
            "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": (folder / "reports").as_uri(),
        }
        lineage = folder / "lineage"
        lineage.mkdir()
        transport = {"type": "file", "log_file_path": str(lineage / "event")}  # a file for each
        config = {"openlineage": {"transport": json.dumps(transport)}}
        with AirflowStack(folder / "airflow", dags, env, config=config) as airflow:
            yield Night(airflow, emulator, warehouse, lineage)


def test_a_dead_segment_turns_the_night_red_and_fails_alone(night: Night) -> None:
    assert night.state == "failed"
    states = {key: task["state"] for key, task in night.tasks.items()}
    assert states == {
        ("list_segments", -1): "success",
        ("refresh", -1): "failed",
        ("gather", -1): "success",
        ("verdict", -1): "failed",
    }


def test_every_segment_is_submitted_once(night: Night) -> None:
    assert night.submits == {7: 1, 9: 1}


def test_the_night_is_published_once_with_what_succeeded_and_what_failed(night: Night) -> None:
    [extra] = [event["extra"] for event in night.events if event["name"] == NIGHT_ASSET]
    assert extra["segments"] == {"ok": 2, "failed": 1}
    assert (extra["failed"], extra["rows"]) == ([DEAD], 6)
    gathered = night.airflow.xcom(NIGHTLY, night.run_id, "gather")["rows"]
    total = sum(row["subscribed_sendable"] for row in gathered if row["channel"] == "sms")
    assert extra["counters"]["sms"]["subscribed_sendable"] == total


def test_each_segment_that_succeeded_schedules_the_dags_that_wait_for_it(night: Night) -> None:
    names = {event["name"] for event in night.events}
    assert names == {f"{NIGHT_ASSET}{one}" for one in ("", "/7", "/9")}
    [run, *_] = night.airflow.runs(SEVEN)
    [extra] = night.airflow.xcom(SEVEN, run["dag_run_id"], "extras")
    assert set(extra["counters"]) == {"email", "push", "sms"}


def test_the_asset_triggers_the_report_which_writes_the_counters(night: Night) -> None:
    assert night.report_states == REPORTED
    rows = list(csv.DictReader(night.reports[0]["csv"].decode().splitlines()))
    gathered = night.airflow.xcom(NIGHTLY, night.run_id, "gather")["rows"]
    keys = ("segment_id", "channel", "list_id", "subscribed_sendable", "unconfirmed_sendable")
    assert sorted([row[key] for key in keys] for row in rows) == sorted(
        [str(row[key]) for key in keys] for row in gathered
    )


def test_the_report_names_the_segment_that_failed(night: Night) -> None:
    page = html.unescape(night.reports[0]["html"].decode())
    where = "connection 'segstats_default', segments/refresh_counters"
    assert f"Never counted: segment {DEAD}: {where}: API error 403: No access." in page


def test_a_cleared_report_and_a_cleared_night_double_nothing_in_the_history(night: Night) -> None:
    assert night.second_states == REPORTED
    assert len(night.histories[0]) == 6
    assert night.histories == [night.histories[0]] * 3


def test_a_cleared_report_writes_the_same_files_again(night: Night) -> None:
    assert night.reports[0] == night.reports[1]


def test_the_failed_segments_log_names_connection_endpoint_and_code_in_one_line(night: Night) -> None:
    log = next(night.logs.glob("*nightly*/*/task_id=refresh/attempt=1.log")).read_text()
    errors = [entry for entry in map(json.loads, log.splitlines()) if entry["level"] == "error"]
    [chain] = [error["error_detail"] for error in errors]
    [shown] = chain  # no other exception hangs on to it
    what = "connection 'segstats_default', segments/refresh_counters: API error 403: No access"
    line = f"1 of 3 segments were not counted; segment {DEAD}: {what}"
    assert (shown["exc_type"], shown["exc_value"]) == ("AirflowFailException", line)


def test_lineage_leads_from_the_segments_over_the_table_to_the_reports_files(night: Night) -> None:
    segments = {f"segstats://segstats_default segments{one}" for one in ("", "/7", "/9")}
    tried = segments | {f"segstats://segstats_default segments/{DEAD}"}
    assert night.datasets("outputs", f"{NIGHTLY}.refresh") == tried
    assert night.datasets("outputs", f"{NIGHTLY}.gather") == segments  # by the assets
    assert night.datasets("inputs", f"{REPORT}.load") == segments
    tables = [
        night.datasets(side, f"{REPORT}.{task}")
        for side, task in (("outputs", "load"), ("inputs", "check"), ("inputs", "write"))
    ]
    assert tables == [{"sqlite://segstats_history segment_counters"}] * 3
    places = night.airflow.xcom(REPORT, night.report_id, "write").values()
    assert night.datasets("outputs", f"{REPORT}.write") >= {
        f"file {place.removeprefix('file://')}" for place in places
    }


def test_lineage_tells_the_rows_that_were_inserted_once(night: Night) -> None:
    ended = [
        event
        for event in night.lineage
        if (event["job"]["name"], event["eventType"]) == (f"{REPORT}.load", "COMPLETE")
    ]
    inserted = [
        event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"]
        for event in sorted(ended, key=lambda event: event["eventTime"])
    ]
    assert inserted == [6, 0, 0]


def test_neither_a_log_nor_lineage_holds_the_token(night: Night) -> None:
    logs = [path for path in night.logs.parent.rglob("*.log") if path.is_file()]
    assert len(logs) > 10
    assert [path for path in logs if TOKEN in path.read_text(errors="replace")] == []
    assert json.dumps(TOKEN)[1:-1] not in json.dumps(night.lineage)


def test_a_backfill_is_refused_and_submits_nothing(night: Night) -> None:
    assert night.backfill["state"] == "failed"
    states = {
        task["task_id"]: task["state"]
        for task in night.airflow.task_instances(NIGHTLY, night.backfill["dag_run_id"])
    }
    assert states["list_segments"] == "failed"
    assert night.airflow.xcom(NIGHTLY, night.backfill["dag_run_id"], "gather") is None
