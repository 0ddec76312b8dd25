"""The databases that the history is tested on; MariaDB, from Debian's package, and a hook to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from local_airflow.leash import Leashed

if TYPE_CHECKING:
    import pymysql


SERVER = Path("/usr/sbin/mariadbd")

DATABASES = {  # and what each needs that not every machine has
    "sqlite": None,
    "postgresql": None,
    "duckdb": None if find_spec("duckdb") else "DuckDB's Airflow provider needs Python 3.11",
    "mariadb": None if SERVER.exists() else "there is no MariaDB: apt-get install mariadb-server",
}


def databases(*names: str) -> list[Any]:
    """Return the parameters of ``warehouse``: these databases, or all; left out where it cannot be."""
    return [
        pytest.param(name, marks=[pytest.mark.left_out(why)] if (why := DATABASES[name]) else [])
        for name in names or DATABASES
    ]


class MySqlHook(DbApiHook):
    """MariaDB or MySQL through a driver in plain Python: that of Airflow's own hook needs a compiler."""

    conn_name_attr = "mysql_conn_id"
    conn_type = "mysql"
    supports_autocommit = True

    def get_conn(self) -> pymysql.Connection[Any]:
        """Return a connection, with the cursors that its extra asks for, as Airflow's own does."""
        import pymysql
        import pymysql.cursors

        connection = self.get_connection(self.get_conn_id())
        cursors = {"dictcursor": pymysql.cursors.DictCursor, None: pymysql.cursors.Cursor}
        return pymysql.connect(
            unix_socket=connection.host,
            user=connection.login,
            database=connection.schema,
            charset="utf8mb4",
            cursorclass=cursors[connection.extra_dejson.get("cursor")],
        )

    def set_autocommit(self, conn: Any, autocommit: bool) -> None:
        """Set it, in the driver's way."""
        conn.autocommit(autocommit)

    def get_autocommit(self, conn: Any) -> bool:
        """Return it, in the driver's way."""
        return bool(conn.get_autocommit())


class MariaDb:
    """A server on a Unix socket in a folder of its own."""

    database = "history"

    def __init__(self, log: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segstats-mariadb-"))
        self.socket = self.folder / "socket"
        data, user = self.folder / "data", "root" if os.geteuid() == 0 else ""
        common = [f"--datadir={data}", *([f"--user={user}"] if user else [])]
        subprocess.run(
            [
                "/usr/bin/mariadb-install-db",
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *common,
            ],
            check=True,
            capture_output=True,
        )
        command = [str(SERVER), "--no-defaults", *common, f"--socket={self.socket}", "--skip-networking"]
        # Its data need not outlive a crash of the machine.
        command += ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"]
        self._server = Leashed(command, env=os.environ, log=log)
        while not self._answers():
            if self._server.status is not None:
                raise RuntimeError(f"mariadbd did not start:\n{self._server.tail()}")
            time.sleep(0.2)

    def empty(self) -> None:
        """Have an empty database, whatever other tests made in it."""
        self._run(f"DROP DATABASE IF EXISTS {self.database}", f"CREATE DATABASE {self.database}")

    def _answers(self) -> bool:
        import pymysql

        try:
            self._run("SELECT 1")
        except pymysql.Error:
            return False
        return True

    def _run(self, *statements: str) -> None:
        import pymysql

        with (
            pymysql.connect(unix_socket=str(self.socket), user="root") as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def stop(self) -> None:
        """Stop the server; its data goes with it."""
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
