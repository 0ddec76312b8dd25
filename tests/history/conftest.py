"""The databases that the history is tested on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.databases import MariaDb, MySqlHook, databases
from support.observations import TABLE

from airflow_provider_segstats import history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.providers.common.sql.hooks.sql import DbApiHook


@pytest.fixture(scope="session")
def _mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    server = MariaDb(tmp_path_factory.mktemp("mariadb") / "server.log")
    yield server
    server.stop()


@pytest.fixture(params=databases())
def warehouse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DbApiHook:
    """Give the hook of an empty database of each kind that is supported; its connection is ``warehouse``."""

    def connect(**fields: str) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))

    if request.param == "duckdb":
        connect(conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    elif request.param == "mariadb":
        server: MariaDb = request.getfixturevalue("_mariadb")
        server.empty()
        connect(conn_type="mysql", host=str(server.socket), login="root", schema=server.database)
        return MySqlHook("warehouse")
    elif request.param == "postgresql":
        connect(**request.getfixturevalue("postgres").connection)
    else:
        connect(conn_type="sqlite", host=str(tmp_path / "warehouse.db"))
    return history.database("warehouse")


@pytest.fixture
def hook(warehouse: DbApiHook) -> DbApiHook:
    """Give the database with the tables in it."""
    history.create(warehouse, TABLE)
    return warehouse
