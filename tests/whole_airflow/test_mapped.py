"""Bad arguments of mapped tasks end them at once, as those of others do; on real Airflow."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from support.airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator

FILE = DAGS / "mapped.py"
BAD: dict[str, list[dict[str, Any]]] = runpy.run_path(str(FILE))["BAD"]
INSTANCES = [(name, index) for name, arguments in BAD.items() for index in range(len(arguments))]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    with Emulator("t", seconds=0.0) as emulator:
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, "t")}
        tasks = run_dags(FILE, env, 300)["mapped"]
        assert [entry.segment_id for entry in emulator.journal()] == [7]
    return tasks


@pytest.mark.parametrize(
    ("name", "index"),
    INSTANCES,
    ids=[f"{name}-{next(iter(BAD[name][index].items()))}" for name, index in INSTANCES],
)
def test_a_bad_argument_ends_a_mapped_task_without_retries(
    tasks: dict[str, Any], name: str, index: int
) -> None:
    task = tasks[f"{name}[{index}]"]
    assert (task["state"], task["tries"]) == ("skipped" if name == "soft_sensor" else "failed", 1)
    if name != "soft_sensor":
        [[kind, line, _]] = task["errors"]
        assert kind == "AirflowFailException"
        bad = next(iter(BAD[name][index]))
        assert {"segments": "segment", "table": "a table is named"}.get(bad, bad) in line


def test_an_id_that_another_task_gives_and_is_none_ends_only_its_own_instance(tasks: dict[str, Any]) -> None:
    assert [
        (tasks[f"from_ids[{index}]"]["state"], tasks[f"from_ids[{index}]"]["tries"]) for index in (0, 1)
    ] == [
        ("success", 1),
        ("failed", 1),
    ]
