"""A real API server with the page in it, over a history and runs that stand in its database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from local_airflow.stack import AirflowStack
from support.airflow_rows import Rows
from support.airflow_runs import connection as connection_to
from support.page_server import NIGHTLY, SCHEMA, TABLE, USERS, Server, observations, outcomes

from airflow_provider_segstats import history

if TYPE_CHECKING:
    from collections.abc import Iterator


PATTERN = "https://platform.example/s/{segment_id}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give the server; its history is in PostgreSQL, in a schema of Airflow's own database."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "reports").mkdir()
    (folder / "dags").mkdir()
    (folder / "secret.html").write_text("no report")
    (folder / "reports" / "secret.txt").write_text("no page")
    (folder / "reports" / "2026-03-31.html").write_text("<p>a report</p>")
    platform = connection_to("http://hidden.example", "t0ken", account="shop", segment_url=PATTERN)
    env = {
        "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": str(folder / "reports"),
        "AIRFLOW_CONN_SEGSTATS_DEFAULT": platform,
    }
    with AirflowStack(folder / "airflow", folder / "dags", env, only=["api-server"], users=USERS) as airflow:
        away = {"conn_type": "postgres", "host": "hidden.example", "login": "me", "password": "s3cret"}
        airflow.request("POST", "connections", json={"connection_id": "away", **away})
        connection = airflow.postgres.connection
        airflow.request("POST", "connections", json={"connection_id": "segstats_history", **connection})
        for key in ("segstats_history_conn_id", "segstats_history_table"):
            airflow.request("POST", "variables", json={"key": key, "value": ""})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_SEGSTATS_HISTORY", json.dumps(connection))
            hook = history.database("segstats_history")
            with history.transaction(hook) as cursor:
                cursor.execute(f"CREATE SCHEMA {SCHEMA}")
            history.create(hook, TABLE)
            history.write(hook, TABLE, observations(), outcomes())
        rows = Rows(airflow.postgres.url("psycopg2"))
        try:
            rows.add_dag(NIGHTLY)
            server = Server(airflow, rows)
            server.point_at()
            yield server
        finally:
            rows.close()
