"""Who may see the page with the FAB auth manager, in an environment that has it.

Of its own, since that provider does not go with what this project's constraints pin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from support.fab_roles import MARK
from support.page_server import observations, outcomes
from support.paths import ROOT, TESTS

from airflow_provider_segstats import history

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="the FAB provider needs Python 3.11"),
]

ROUTES = ("api/segments", "api/segment", "api/running", "api/nights", "api/run", "report/report.html")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what each role may; see :mod:`support.fab_roles`."""
    home: Path = tmp_path_factory.mktemp("fab")
    (home / "reports").mkdir()
    (home / "reports" / "report.html").write_text("<p>a report</p>")
    warehouse = json.dumps({"conn_type": "sqlite", "host": str(home / "history.db")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_SEGSTATS_HISTORY", warehouse)
        hook = history.database("segstats_history")
        history.create(hook, history.DEFAULT_TABLE)
        history.write(hook, history.DEFAULT_TABLE, observations(), outcomes())
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    env = {
        **own,
        "PYTHONPATH": str(TESTS),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__API_AUTH__JWT_SECRET": "s" * 64,
        "AIRFLOW__API__SECRET_KEY": "k" * 32,
        "AIRFLOW_CONN_SEGSTATS_HISTORY": warehouse,
        "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": str(home / "reports"),
        "_AIRFLOW_PROCESS_CONTEXT": "server",
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    python = str(home / "venv" / "bin" / "python")
    run(sys.executable, "-m", "venv", str(home / "venv"))
    providers = ("apache-airflow-providers-fab", "apache-airflow-providers-sqlite")
    airflow = f"apache-airflow=={version('apache-airflow')}"
    run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[sql]", airflow, *providers)
    run(python, "-m", "airflow", "db", "migrate")
    output = run(python, str(TESTS / "support" / "fab_roles.py"), f"sqlite:///{home}/airflow.db")
    found: dict[str, dict[str, Any]] = json.loads(output.rpartition(MARK)[2])
    return found


@pytest.mark.parametrize("role", ["Viewer", "User", "Op", "Admin"])
def test_every_role_from_viewer_up_may_look(seen: dict[str, Any], role: str) -> None:
    assert seen[role]["status"] == dict.fromkeys(ROUTES, 200)
    assert seen[role]["runs"] == ["mine", "theirs"]


def test_nobody_is_in_without_a_session_nor_with_the_role_public(seen: dict[str, Any]) -> None:
    assert seen["nobody"]["status"] == dict.fromkeys(ROUTES, 401)
    assert seen["Public"]["status"] == dict.fromkeys(ROUTES, 403)


def test_who_may_read_one_dag_sees_its_runs_only(seen: dict[str, Any]) -> None:
    assert seen["OneDag"]["runs"] == ["mine"]
    assert seen["OneDag"]["status"] == {**dict.fromkeys(ROUTES, 200), "api/run": 403}


def test_below_op_the_page_is_in_nobodys_menu_until_plugins_may_be_read(seen: dict[str, Any]) -> None:
    assert {role: seen[role]["plugins"] for role in ("Viewer", "User", "Op", "Admin")} == {
        "Viewer": 403,
        "User": 403,
        "Op": 200,
        "Admin": 200,
    }
