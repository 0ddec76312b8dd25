"""The README's code blocks run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from local_airflow.stack import free_port
from support.airflow_runs import connection, run_dags
from support.paths import ROOT

from airflow_provider_segstats.core.fields import EXTRAS
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [code for language, code in BLOCKS if language == "bash"]


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("readme")
    python = [code for language, code in BLOCKS if language == "python"]
    file = folder / "readme.py"
    file.write_text("\n\n".join(python))
    with Emulator("secret", seconds=1.0) as emulator:
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token)}
        yield run_dags(file, env, 120)


@pytest.mark.parametrize("dag_id", ["segment_counters", "all_segments", "a_task_for_each", "own_task"])
def test_every_dag_of_the_readme_succeeds(dags: dict[str, Any], dag_id: str) -> None:
    assert {task["state"] for task in dags[dag_id].values()} == {"success"}


def test_the_first_dag_takes_a_dozen_lines() -> None:
    code = next(code for language, code in BLOCKS if language == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


@pytest.mark.install
def test_the_commands_from_the_clone_to_the_first_dags_run_work_as_they_stand(tmp_path: Path) -> None:
    clone, home = tmp_path / "clone", tmp_path / "home"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    [place] = re.findall(r"`~/(\S+\.py)`", README)
    (home / place).parent.mkdir(parents=True)
    (home / place).write_text(next(code for language, code in BLOCKS if language == "python"))
    [installing] = [code for code in SHELL if "~/segstats" in code]
    [running] = [code for code in SHELL if "airflow db migrate" in code]
    script = f"set -e\n{installing}{running.replace('8080', str(free_port()))}"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    env = {
        **own,
        "HOME": str(home),
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),  # for pip's index
        "PATH": f"{sys.base_prefix}/bin:{os.defpath}",
    }
    command = ["/bin/bash", "-c", script]
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    for channel in ("email", "push", "sms"):
        assert f"'channel': '{channel}'" in done.stdout


def test_the_row_shown_is_what_the_specifications_sample_gives() -> None:
    row = json.loads(next(code for language, code in BLOCKS if language == "json"))
    assert row == {
        "source": "example.com",
        "segment_id": 7,
        "list_id": 1,
        "resource_id": 27,
        "channel": "email",
        "subscribed_sendable": 209,
        "unconfirmed_sendable": 0,
        "updated": "2024-04-20T09:30:01.583Z",
    }


def test_the_connections_shown_are_usable() -> None:
    exports = re.findall(r"export AIRFLOW_CONN_SEGSTATS_DEFAULT='.*?'", "".join(SHELL), re.DOTALL)
    assert len(exports) == 2
    for export in exports:
        script = f'{export}; printf %s "$AIRFLOW_CONN_SEGSTATS_DEFAULT"'
        value = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
        fields = json.loads(value)
        assert fields.pop("conn_type") == "segstats"
        assert Settings.from_fields(**fields).token


def test_the_table_of_extras_has_all_of_them_with_their_defaults() -> None:
    table = (ROOT / "README.md").read_text().partition("| extra | default | |\n|---|---|---|\n")[2]
    rows = [row.split("|") for row in table.partition("\n\n")[0].splitlines()]
    shown = {name.strip().strip("`"): default.strip() for _, name, default, *_ in rows}
    assert list(shown) == list(EXTRAS)
    for name, extra in EXTRAS.items():
        if (default := extra["schema"].get("default")) is not None:
            assert shown[name] == f"`{default}`"


def test_the_control_routes_shown_answer() -> None:
    commands = [shlex.split(line) for line in "".join(SHELL).splitlines() if line.startswith("curl ")]
    assert len(commands) == 5
    with Emulator("secret") as emulator:
        for command in commands:
            url = emulator.url + command[-1].removeprefix("localhost:8080")
            data = command[command.index("-d") + 1] if "-d" in command else None
            reply = requests.request("POST" if data else "GET", url, data=data, timeout=60)
            assert reply.ok, reply.text
