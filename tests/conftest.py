"""What several test files share: emulators, an Airflow connection, and the specification's samples."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from support.paths import SAMPLES

# Airflow makes its home when it is imported: scripts/test gives one, a bare pytest gets one here.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow_provider_segstats.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from local_airflow.postgres import Postgres

# Some thousand cases in all. More than 100,000 are tried by
# scripts/test --hypothesis-profile=nightly tests/core/test_{api,codec,transport}.py
hypothesis.settings.register_profile("default", max_examples=300, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=15_000, deadline=None)
hypothesis.settings.load_profile("default")

TOKEN = "emulated-t0ken"


@pytest.fixture
def make_emulator() -> Iterator[Callable[..., Emulator]]:
    """Give a factory of running emulators; they stop when the test ends."""
    with ExitStack() as running:
        yield lambda token=TOKEN, **options: running.enter_context(Emulator(token, **options))


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(TOKEN, seconds=0.0) as running:
        yield running


@pytest.fixture
def emulator(_emulator: Emulator) -> Emulator:
    """Give an emulator whose tasks are done at once, with no fault and an empty journal."""
    _emulator.clear_faults()
    _emulator.clear_journal()
    _emulator.load_seed(None)
    _emulator.configure(token=TOKEN, seconds=0.0, errors_as_200=False, next_from_id="last")
    return _emulator


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that makes ``segstats_default`` point to a server."""

    def set_connection(url: str, token: str = TOKEN, **extra: Any) -> None:
        fields = {"conn_type": "segstats", "host": url, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SEGSTATS_DEFAULT", json.dumps(fields))

    return set_connection


@pytest.fixture(scope="session")
def _postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    from local_airflow.postgres import Postgres

    server = Postgres(tmp_path_factory.mktemp("postgres") / "server.log")
    yield server
    server.stop()


@pytest.fixture
def postgres(_postgres: Postgres) -> Postgres:
    """Give a PostgreSQL server whose database is empty, whatever other tests made in it."""
    import psycopg2

    address = {"host": str(_postgres.folder), "user": "postgres", "dbname": "airflow"}
    with closing(psycopg2.connect(**address)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        for (schema,) in cursor.fetchall():
            cursor.execute(f'DROP SCHEMA "{schema}" CASCADE')
        cursor.execute("CREATE SCHEMA public")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")  # as in a new database
    return _postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def warehouse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DbApiHook:
    """Give the hook of an empty database, in SQLite and in PostgreSQL; its connection is ``warehouse``."""
    from airflow.sdk import BaseHook

    fields = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    if request.param == "postgresql":
        fields = request.getfixturevalue("postgres").connection
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    hook: DbApiHook = BaseHook.get_hook("warehouse")
    return hook


@pytest.fixture
def sample() -> Callable[[str], bytes]:
    """Give a function that returns the bytes of a file of ``tests/samples``."""
    return lambda name: (SAMPLES / name).read_bytes()


_LACKING: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this Airflow or this machine lacks, and remember to say so."""
    import airflow

    this = tuple(map(int, re.findall(r"\d+", airflow.__version__)[:2]))
    lacking = []
    for item in items:
        if mark := item.get_closest_marker("left_out"):
            lacking.append(item)
            _LACKING[mark.args[0]] += 1
            continue
        for version, what in (mark.args for mark in item.iter_markers("since")):
            if this < tuple(map(int, version.split("."))):
                lacking.append(item)
                _LACKING[f"{what} came with Airflow {version}"] += 1
                break
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in {*lacking}]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand on what a worker of pytest-xdist left out: only the workers collect."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["lacking"] = dict(_LACKING)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what a worker left out, which is the same in each."""
    for why, count in getattr(node, "workeroutput", {}).get("lacking", {}).items():
        _LACKING[why] = count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and why."""
    for why, count in sorted(_LACKING.items()):
        terminalreporter.write_line(f"left out: {count} tests, since {why}")


def at_least(least: int) -> Callable[[str], int]:
    """Return what makes an option's number of its text."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{least} or more, not {text}")
        return int(text)

    return number


def in_a_folder(text: str) -> Path:
    """Return the file's path; refuse one that could not be written, an hour later."""
    path = Path(text)
    if not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder for {path}")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-docs", action="store_true", help="write docs/faults.md from what the tests see"
    )
    parser.addoption(
        "--rounds", type=at_least(1), default=1, help="of the cluster test: how often to kill each part"
    )
    parser.addoption(
        "--segments",
        type=at_least(14),
        default=30,
        help="of the cluster test: how many for each kill, 14 or more",
    )
    parser.addoption(
        "--table",
        type=in_a_folder,
        metavar="FILE",
        help="of the cluster test: where to write what became of them",
    )
    parser.addoption(
        "--largest", type=int, metavar="N", help="of the tests of many segments in one task: how many"
    )
