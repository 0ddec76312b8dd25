"""The DAG files of ``dags/`` by themselves: what parsing them needs, and their pure parts."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset
from support.paths import ROOT

DAGS = ROOT / "dags"
FILES = sorted(path.name for path in DAGS.glob("*.py"))

# Parses a file with neither sockets nor a database that could be opened.
PARSE = """
import runpy, socket, sys
def refuse(*_): raise AssertionError("parsing opened a socket")
socket.socket.connect = refuse
dag = runpy.run_path(sys.argv[1])["dag"]
assert not dag.catchup
"""


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_parses_without_connection_network_or_database(file: str, tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    env = {
        **own,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/at/all.db",
    }
    command = [sys.executable, "-c", PARSE, str(DAGS / file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def nightly() -> dict[str, Any]:
    return runpy.run_path(str(DAGS / "nightly_segment_refresh.py"))


def test_the_report_is_scheduled_by_what_the_night_publishes(nightly: dict[str, Any]) -> None:
    report = runpy.run_path(str(DAGS / "segment_report.py"))["dag"]
    [asset] = [asset for asset in nightly["dag"].get_task("gather").outlets if isinstance(asset, Asset)]
    assert report.timetable.asset_condition.objects == (asset,)


def test_the_night_limits_what_runs_at_once_and_states_its_time_zone(nightly: dict[str, Any]) -> None:
    dag = nightly["dag"]
    assert dag.get_task("refresh").max_in_flight == nightly["IN_FLIGHT"]
    assert str(dag.timetable.timezone) == nightly["TIME_ZONE"]
