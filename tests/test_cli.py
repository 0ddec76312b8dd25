"""The command line, as people run it, with connections of the environment and of Airflow's database."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_runs import airflow_environment, connection, new_home

from airflow_provider_segstats.cli import COMMANDS, get_cli_commands, main
from airflow_provider_segstats.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED: dict[str, Any] = {
    "segments": [
        {"id": 7, "name": "Readers", "ui_tags": ["weekly"], "groups": [1], "databases": [3]},
        {"id": 8, "name": "G\u00e4ste", "ui_tags": ["weekly", "shop"], "static": True},
        {"id": 9, "name": "Fair", "static": True},
    ],
    "groups": [{"id": 1, "name": "north"}],
    "databases": [{"id": 3, "name": "Customers"}],
    "resources": [{"id": 24, "name": "Shop", "channels": ["email"]}],
}


ONE_SEEN = "The API answered and took the token, which sees 3 segments\n"


@pytest.fixture(scope="module")
def _emulator() -> Iterator[Emulator]:
    with Emulator("t0ken", seconds=0.0, seed=SEED) as running:
        yield running


@pytest.fixture
def emulator(_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    _emulator.configure(seconds=0.0)
    monkeypatch.setenv("AIRFLOW_CONN_SEGSTATS_DEFAULT", connection(_emulator.url, "t0ken"))
    return _emulator


def refused(*arguments: str) -> Any:
    """Run a command that ends the process, and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


@pytest.mark.usefixtures("emulator")
def test_a_connection_that_works_says_what_it_sees(capsys: pytest.CaptureFixture[str]) -> None:
    main(["test"])
    assert capsys.readouterr().out == ONE_SEEN


def test_what_does_not_work_is_said_in_one_line_with_exit_status_1(
    emulator: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused("refresh", "10", "--resource", "24") == 1
    line = "segments/get: API error 400: Incorrect request: there is no segment 10"
    assert capsys.readouterr() == ("", f"connection 'segstats_default', {line}\n")
    monkeypatch.setenv("AIRFLOW_CONN_SEGSTATS_DEFAULT", connection(emulator.url, "wrong"))
    assert refused("test") == 1
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.endswith("is the API token in the connection's password?\n")


@pytest.mark.usefixtures("emulator")
def test_segments_are_listed_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["segments", "--tag", "weekly"])
    printed, said = capsys.readouterr()
    assert printed.splitlines() == [
        "id  name     ui_tags       groups",
        "7   Readers  weekly        north",
        "8   G\u00e4ste    weekly, shop",
    ]
    assert said == "2 segments\n"
    main(["segments", "--group", "north", "--json"])
    [found] = json.loads(capsys.readouterr().out)
    assert found == {"id": 7, "name": "Readers", "ui_tags": ["weekly"], "groups": ["north"]}


def test_a_recount_is_started_in_the_database_that_the_segment_names(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["refresh", "7", "--resource", "24"])
    task = emulator.tasks()[-1]
    assert (capsys.readouterr().out, task.segment_id, task.db_id) == (f"{task.task_id}\n", 7, 3)


def test_a_wait_that_is_interrupted_says_what_goes_on(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.configure(seconds=3600)
    emulator.clear_journal()

    def interrupt() -> None:
        while not any(entry.endpoint == "tasks/status" for entry in emulator.journal()):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert refused("refresh", "8", "--resource", "24", "--wait") == 1
    thread.join()
    task = emulator.tasks()[-1]
    printed, said = capsys.readouterr()
    assert (printed, said.splitlines()[-1]) == (
        "",
        f"the recount goes on at the server, as task {task.task_id}",
    )


# As a process of its own


def environment(home: Path) -> dict[str, str]:
    return {**airflow_environment(home), "PYTHONIOENCODING": "utf-8"}


def test_without_any_airflow_a_wait_shows_progress_and_then_the_counters(tmp_path: Path) -> None:
    with Emulator("t0ken", seconds=2.0, seed=SEED) as slow:
        env = {**environment(tmp_path), "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(slow.url, "t0ken")}
        command = [sys.executable, "-m", "airflow_provider_segstats", "refresh", "8"]
        command += ["--resource", "24", "--wait", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        [task] = slow.tasks()
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert (row["segment_id"], row["channel"]) == (8, "email")
    seen = re.findall(rf"^Task {task.task_id} is '(\w+)'", done.stderr, re.MULTILINE)
    assert len(seen) > 1
    assert seen[-1] == "completed"
    assert not list(tmp_path.glob("**/airflow.db"))


def test_importing_the_commands_imports_nothing_heavy() -> None:
    code = "import sys, airflow_provider_segstats.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & {"airflow", "requests", "aiohttp"} == set()


def test_airflows_command_takes_a_connection_of_airflows_database(emulator: Emulator) -> None:
    home = new_home()
    with closing(sqlite3.connect(home / "airflow.db")) as database, database:
        database.execute(
            "INSERT INTO connection (conn_id, conn_type, host, password, is_encrypted, is_extra_encrypted)"
            " VALUES ('shop', 'segstats', ?, 't0ken', FALSE, FALSE)",
            [emulator.url],
        )
    command = [sys.executable, "-m", "airflow", "segstats", "segments", "--tag", "shop"]
    command += ["--conn-id", "shop", "--json"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    assert found == {"id": 8, "name": "G\u00e4ste", "ui_tags": ["weekly", "shop"], "groups": []}


def test_airflows_parser_takes_the_same_arguments() -> None:
    [group] = get_cli_commands()
    taken = {
        command.name: {flag for arg in command.args for flag in arg.flags} for command in group.subcommands
    }
    assert taken == {
        command.__name__: {flag for option in options for flag in option.flags}
        for command, options in COMMANDS.items()
    }
    assert {"--resource", "--database", "--wait", "--json"} <= taken["refresh"]
