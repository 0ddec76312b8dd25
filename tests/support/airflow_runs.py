"""Runs the DAGs of ``tests/dags/single_runs`` on real Airflow, in a process of their own with a deadline."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from support.paths import DAGS as DAG_FOLDERS
from support.paths import TESTS
from support.run_dags import MARK

DAGS = DAG_FOLDERS / "single_runs"


_migrating = threading.Lock()  # tests that run two at once would migrate twice


@cache
def _migrated_home() -> Path:
    home = _folder()
    _airflow_python(home, ["-m", "airflow", "db", "migrate"], {}, 120)
    return home


def _folder() -> Path:
    """Return a new folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="segstats-airflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def new_home() -> Path:
    """Return a home with a migrated database of its own; migrating takes seconds, copying does not."""
    home = _folder()
    with _migrating:
        shutil.copy(_migrated_home() / "airflow.db", home)
    return home


def connection(url: str, token: str, **extra: Any) -> str:
    """Return a connection as the JSON that an ``AIRFLOW_CONN_…`` variable holds."""
    return json.dumps({"conn_type": "segstats", "host": url, "password": token, "extra": extra})


def run_dags(
    file: Path, env: dict[str, str], patience: float, *dag_ids: str, home: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Return what became of the tasks of the file's DAGs: ``{dag_id: {task_id: …}}``; see ``run_dags``.

    Hanging, which shows in so many seconds of silence in the log, it is ended.
    """
    home = home or new_home()
    # Alone in its folder: dag.test() reads and stores all that is in it, each time anew.
    alone = home / "dags" / file.name
    alone.parent.mkdir(exist_ok=True)
    shutil.copy(file, alone)
    env = {"AIRFLOW__CORE__DAGS_FOLDER": str(alone.parent), **env}
    script = [str(TESTS / "support" / "run_dags.py"), str(alone), *dag_ids]
    output = _airflow_python(home, script, env, patience)
    results: dict[str, dict[str, Any]] = json.loads(output.rsplit(MARK, 1)[1])
    return results


def airflow_environment(home: Path) -> dict[str, str]:
    """Return the environment of a process whose Airflow has this home, and nothing of this process's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {
        **own,
        "PYTHONPATH": str(TESTS),  # DAGs and tests share their lists of cases
        "PYTHONUNBUFFERED": "1",  # so that only what hangs is silent
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


def _airflow_python(home: Path, arguments: list[str], env: dict[str, str], patience: float) -> str:
    log = home / "last_run.log"
    env = {**airflow_environment(home), **env}
    command = [sys.executable, *arguments]
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            written, since = 0, time.monotonic()
            while process.poll() is None:
                if (now := log.stat().st_size) != written:
                    written, since = now, time.monotonic()
                assert time.monotonic() < since + patience, f"silent for {patience} s:\n{_tail(log)}"
                time.sleep(0.1)
        finally:
            process.kill()  # nothing less: a hanging dag.test() ignores SIGTERM
    assert process.returncode == 0, _tail(log)
    return log.read_text()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])
