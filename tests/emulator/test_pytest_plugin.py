"""The fixture that users' tests find, in a pytest of its own with a project that is not ours."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from support.airflow_runs import airflow_environment, new_home
from support.paths import DOCS, code_blocks

if TYPE_CHECKING:
    from pathlib import Path

DAG = """
from airflow.sdk import DAG, task
from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.operators import RefreshSegmentOperator

with DAG("audience", schedule=None):
    refresh = RefreshSegmentOperator(
        task_id="refresh", segment_id=7, resource_id=24, wait_for_completion=True
    )

    @task
    def check(rows):
        if rows[0]["subscribed_sendable"] < {least}:
            raise AirflowFailException("the audience is too small to write to")

    @task
    def mail():
        pass

    check(refresh.output) >> mail()
"""


def run_pytest(folder: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**airflow_environment(home), "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_pytest_finds_the_fixture_by_its_entry_point() -> None:
    [entry] = entry_points(group="pytest11", name="segstats_emulator")
    assert entry.value == "airflow_provider_segstats.pytest_plugin"


def test_pytest_runs_that_do_not_use_the_fixture_load_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "test_else.py").write_text(
        textwrap.dedent("""
            import sys

            def test_what_is_loaded():
                ours = sorted(name for name in sys.modules if name.startswith("airflow"))
                assert ours == ["airflow_provider_segstats", "airflow_provider_segstats.pytest_plugin"]
                assert not {"uvicorn", "starlette", "xmltodict"} & sys.modules.keys()
        """)
    )
    done = run_pytest(tmp_path, tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_of_the_docs_passes_and_fails_with_the_dag(tmp_path: Path) -> None:
    [test] = code_blocks(DOCS / "emulator.md", "python")
    assert len([line for line in test.splitlines() if line.strip()]) <= 10
    home = new_home()
    (tmp_path / "dags").mkdir()
    (tmp_path / "test_audience.py").write_text(test)
    for least, outcome in ((5_000, "1 passed"), (0, "'mail': 'success'")):
        (tmp_path / "dags" / "audience.py").write_text(DAG.replace("{least}", str(least)))
        done = run_pytest(tmp_path, home)
        assert outcome in done.stdout, done.stdout + done.stderr
