"""Rows of many segments in object storage, by Airflow's own XCom backend; on real Airflow.

For the size that a night may have: ``scripts/test -k object_storage --largest 5000``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator, Fault

BACKEND = "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
THRESHOLD = 64 * 1024


class Run:
    def __init__(self, tasks: dict[str, Any], segments: int, folder: Path) -> None:
        self.tasks = tasks
        self.segments = segments
        self.folder = folder

    def in_storage(self, task: str, key: str = "return_value") -> Any:
        """Return an XCom that the database knows only the place of."""
        place = self.tasks[task]["xcom"][key]
        assert isinstance(place, str)
        file = Path(place.removeprefix("file://"))
        assert self.folder in file.parents
        assert file.stat().st_size >= THRESHOLD
        return json.loads(file.read_text())


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    segments = request.config.getoption("--largest") or 200
    folder = tmp_path_factory.mktemp("xcoms")
    with Emulator("t0ken", seconds=1.0) as emulator:
        emulator.add_fault(Fault("api_error", segment_id=segments + 1, code=440, text="Odd", times=None))
        env = {
            "SEGMENTS": str(segments),
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, "t0ken"),
            "AIRFLOW__CORE__XCOM_BACKEND": BACKEND,
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": folder.as_uri(),
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": str(THRESHOLD),
        }
        tasks = run_dags(DAGS / "object_storage.py", env, 120 + segments / 10)["object_storage"]
    return Run(tasks, segments, folder)


def test_the_rows_lie_in_object_storage_and_arrive_downstream(run: Run) -> None:
    rows = run.in_storage("counted")
    assert len(rows) == 3 * run.segments
    received = run.tasks["read_counted"]["xcom"]["return_value"]
    assert received == {"rows": 3 * run.segments, "first": 1, "last": run.segments, "row": rows[-1]}


def test_the_rows_of_a_task_that_failed_in_part_lie_there_too(run: Run) -> None:
    assert run.tasks["incomplete"]["state"] == "failed"
    rows = run.in_storage("incomplete")
    assert len(rows) == 3 * (run.segments - 1)
    received = run.tasks["read_incomplete"]["xcom"]["return_value"]
    assert received == {"rows": len(rows), "first": 2, "last": run.segments, "row": rows[-1]}


def test_what_is_small_stays_in_the_database(run: Run) -> None:
    assert [row["segment_id"] for row in run.tasks["lists[1]"]["xcom"]["return_value"]] == [5] * 3
    assert run.tasks["lists[0]"]["xcom"]["summary"] == {
        "ok": [4],
        "failed": {},
        "not_submitted": [],
        "submits": 1,
        "resubmitted": 0,
        "names": {},
    }


def test_segments_may_come_one_by_one_from_a_mapped_task(run: Run) -> None:
    rows = run.tasks["one_by_one"]["xcom"]["return_value"]
    assert [row["segment_id"] for row in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
