"""A whole Airflow whose API server is away for a minute, longer than Airflow's client has patience for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from local_airflow.stack import AirflowStack
from support.paths import DAGS

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_segstats.emulator import Emulator

pytestmark = pytest.mark.airflow

AWAY = 60.0


def test_tasks_wait_for_an_api_server_that_is_away_and_read_what_they_need(
    tmp_path: Path, emulator: Emulator
) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    airflow = AirflowStack(
        tmp_path / "airflow", DAGS / "away", {"AWAY_FOLDER": str(folder)}, restart_after=AWAY
    )
    with airflow:
        # In Airflow's database: what is in the environment needs no API server.
        connection = {"conn_type": "segstats", "host": emulator.url, "password": emulator.token}
        airflow.request("POST", "connections", json={"connection_id": "in_the_database", **connection})
        airflow.request("POST", "variables", json={"key": "colour", "value": "green"})
        run_id = airflow.trigger("away")
        airflow.until(lambda: len(list(folder.iterdir())) == 2, "the tasks' start")
        airflow.kill("api-server")
        (folder / "away").touch()
        airflow.until(airflow._answers, "the API server's return")
        assert airflow.wait("away", run_id) == "success"
        tries = {task["task_id"]: task["try_number"] for task in airflow.task_instances("away", run_id)}
        assert tries == {"refresh": 1, "read": 1}
        assert airflow.xcom("away", run_id, "read") == "green"
        rows = airflow.xcom("away", run_id, "refresh")
        assert {row["segment_id"] for row in rows} == {7}
    assert [entry.accepted for entry in emulator.journal()][:1] == [True]
    assert sum(entry.accepted for entry in emulator.journal()) == 1
