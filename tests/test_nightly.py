"""The DAGs of ``dags/`` on a whole Airflow: real scheduler, triggerer, dag processor and API server."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_runs import connection

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from _stack import AirflowStack  # noqa: E402 - the scripts are no package

pytestmark = pytest.mark.airflow

NIGHTLY, REPORT = "nightly_segment_refresh", "segment_report"
DEAD = 8
TOKEN = 't0ken<of>&the"night'
SEGMENTS = [
    {"segment_id": 7, "resource_id": 24, "db_id": 1},
    {"segment_id": DEAD, "resource_id": 24},
    {"segment_id": 9, "resource_id": 27},
]


class Night:
    """One night with a dead segment, the report after it, and a backfill that is refused."""

    def __init__(self, airflow: AirflowStack, emulator: Emulator) -> None:
        self.airflow = airflow
        self.logs = airflow.home / "logs"
        airflow.unpause(REPORT)
        self.run_id = airflow.trigger(NIGHTLY)
        self.state = airflow.wait(NIGHTLY, self.run_id, 120)
        self.tasks = {
            (task["task_id"], task["map_index"]): task
            for task in airflow.task_instances(NIGHTLY, self.run_id)
        }
        airflow.until(lambda: airflow.runs(REPORT), 60, "a run of the report")
        self.report_id = airflow.runs(REPORT)[0]["dag_run_id"]
        self.report_state = airflow.wait(REPORT, self.report_id, 60)
        self.submits = Counter(task.segment_id for task in emulator.tasks())
        self.backfill = self._backfill()

    def _backfill(self) -> dict[str, Any]:
        """Ask for a backfill of one past night and return its run when it has ended."""
        day = datetime(2026, 2, 1, 3, tzinfo=timezone.utc).isoformat()
        body = {"dag_id": NIGHTLY, "from_date": day, "to_date": day}
        self.airflow.request("POST", "backfills", json=body)

        def ended() -> list[dict[str, Any]]:
            runs = self.airflow.runs(NIGHTLY)
            return [run for run in runs if run["run_type"] == "backfill" and run["end_date"]]

        self.airflow.until(ended, 60, "the end of the backfill")
        return ended()[0]

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.airflow.request("GET", "assets", "events")["asset_events"]
        return found


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
        env = {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token, format="xml"),
            "AIRFLOW_VAR_SEGSTATS_SEGMENTS": json.dumps(SEGMENTS),
            "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": (folder / "reports").as_uri(),
        }
        with AirflowStack(folder / "airflow", ROOT / "dags", env) as airflow:
            yield Night(airflow, emulator)


def test_a_dead_segment_turns_the_night_red_and_fails_alone(night: Night) -> None:
    assert night.state == "failed"
    states = {key: task["state"] for key, task in night.tasks.items()}
    assert states == {
        ("list_segments", -1): "success",
        ("refresh", 0): "success",
        ("refresh", 1): "failed",
        ("refresh", 2): "success",
        ("gather", -1): "success",
        ("verdict", -1): "failed",
    }


def test_every_segment_is_submitted_once(night: Night) -> None:
    assert night.submits == {7: 1, 9: 1}


def test_the_night_is_published_once_with_what_succeeded_and_what_failed(night: Night) -> None:
    assert [event["extra"] for event in night.events()] == [
        {"ok": [7, 9], "failed": [DEAD], "skipped": [], "submits": 2}
    ]


def test_the_asset_triggers_the_report_which_writes_the_counters(night: Night) -> None:
    assert night.report_state == "success"
    places = night.airflow.xcom(REPORT, night.report_id, "write_report")
    with Path(places["csv"].removeprefix("file://")).open() as file:
        rows = list(csv.DictReader(file))
    gathered = night.airflow.xcom(NIGHTLY, night.run_id, "gather")["rows"]
    assert rows == [{name: str(value) for name, value in row.items()} for row in gathered]
    assert [row["segment_id"] for row in rows] == ["7"] * 3 + ["9"] * 3


def test_the_summary_says_what_is_missing_first(night: Night) -> None:
    places = night.airflow.xcom(REPORT, night.report_id, "write_report")
    summary = Path(places["summary"].removeprefix("file://")).read_text()
    assert summary.splitlines()[0] == "2 segments counted; failed: [8]"


def test_the_failed_segments_log_names_connection_endpoint_and_code_in_one_line(night: Night) -> None:
    log = next(night.logs.glob("*nightly*/*/task_id=refresh/map_index=1/attempt=1.log")).read_text()
    errors = [entry for entry in map(json.loads, log.splitlines()) if entry["level"] == "error"]
    [chain] = [error["error_detail"] for error in errors]
    [shown] = chain  # no other exception hangs on to it
    line = "connection 'segstats_default', segments/refresh_counters: API error 403: No access"
    assert (shown["exc_type"], shown["exc_value"]) == ("AirflowFailException", line)


def test_no_log_holds_the_token(night: Night) -> None:
    logs = [path for path in night.logs.parent.rglob("*.log") if path.is_file()]
    assert len(logs) > 10
    assert [path for path in logs if TOKEN in path.read_text(errors="replace")] == []


def test_a_backfill_is_refused_and_submits_nothing(night: Night) -> None:
    assert night.backfill["state"] == "failed"
    states = {
        task["task_id"]: task["state"]
        for task in night.airflow.task_instances(NIGHTLY, night.backfill["dag_run_id"])
    }
    assert states["list_segments"] == "failed"
    assert len(night.events()) == 1
