"""Every mode in both formats on real Airflow: what comes out when the recount is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = Path(__file__).parent / "samples"
FATES = {"completed": 10, "empty": 11, "entries": 12, "odd": 13, "in_progress": 14, "unknown_status": 15}
FORMATS = ("json", "xml")
MIMETYPES = {"json": "application/json", "xml": "application/xml"}
RUNNING = {
    "json": '{"data": {"status": "running", "progress": 10}, "error": 0, "error_text": ""}',
    "xml": "<xml><data><status>running</status><progress>10</progress></data><error>0</error></xml>",
}
SAMPLE_ROWS = [
    {
        "segment_id": 7,
        "list_id": 1,
        "resource_id": 27,
        "channel": channel,
        "subscribed_sendable": subscribed,
        "unconfirmed_sendable": 0,
        "updated": "2024-04-20T09:30:01.583Z",
    }
    for channel, subscribed in (("email", 209), ("push", 0), ("sms", 0))
]


@pytest.fixture(scope="module")
def tasks() -> Iterator[dict[str, Any]]:
    with Emulator("t<&>\"'\\", seconds=1.0) as emulator:
        for fate, segment in FATES.items():
            emulator.add_fault(Fault("task", segment_id=segment, outcome=fate))
        for wire, segment, rescheduled in (("json", 20, 22), ("xml", 21, 23)):
            sample = (SAMPLES / f"tasks_status.response.{wire}").read_bytes()
            reply = {"endpoint": "tasks/status", "content_type": MIMETYPES[wire]}
            emulator.add_fault(Fault("reply", segment_id=segment, times=None, body=sample, **reply))
            emulator.add_fault(Fault("reply", segment_id=rescheduled, body=RUNNING[wire], **reply))
            emulator.add_fault(Fault("reply", segment_id=rescheduled, times=None, body=sample, **reply))
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token)}
        yield run_dags(DAGS / "delivers.py", env, 240)["delivers"]


def test_every_task_succeeds_at_its_first_try(tasks: dict[str, Any]) -> None:
    assert {name: (task["state"], task["tries"]) for name, task in tasks.items()} == dict.fromkeys(
        tasks, ("success", 1)
    )


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("mode", ["poke", "deferrable", "reschedule"])
def test_the_sensor_returns_the_rows_of_the_specifications_sample(
    tasks: dict[str, Any], mode: str, wire: str
) -> None:
    assert tasks[f"sample_{wire}_{mode}"]["xcom"]["return_value"] == SAMPLE_ROWS


def test_only_reschedule_mode_gives_its_worker_back_between_looks(tasks: dict[str, Any]) -> None:
    rescheduled = {name for name, task in tasks.items() if task["reschedules"]}
    assert rescheduled == {"sample_json_reschedule", "sample_xml_reschedule"}


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_the_waiting_operator_pushes_the_task_id_and_returns_rows_of_its_segment(
    tasks: dict[str, Any], mode: str, wire: str
) -> None:
    xcom = tasks[f"operator_{wire}_{mode}"]["xcom"]
    segment = {"json": 20, "xml": 21}[wire]
    assert xcom["return_value"] == [{**row, "segment_id": segment} for row in SAMPLE_ROWS]
    assert len(xcom["task_id"]) == 36


def test_the_submitting_operator_returns_the_task_id_and_pushes_it(tasks: dict[str, Any]) -> None:
    xcom = tasks["submit_completed"]["xcom"]
    assert xcom["return_value"] == xcom["task_id"]


@pytest.mark.parametrize("task", ["mapped_wait", "mapped_operator"])
def test_mapped_tasks_return_the_rows_of_each_segment(tasks: dict[str, Any], task: str) -> None:
    assert [len(tasks[f"{task}[{index}]"]["xcom"]["return_value"]) for index in (0, 1)] == [3, 3]


@pytest.mark.parametrize("fate", FATES)
def test_every_mode_and_format_returns_equal_rows(tasks: dict[str, Any], fate: str) -> None:
    rows = {
        json.dumps(tasks[f"{fate}_{wire}_{mode}"]["xcom"]["return_value"])
        for wire in FORMATS
        for mode in ("poke", "deferrable")
    }
    assert len(rows) == 1


def rows_of(tasks: dict[str, Any], fate: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tasks[f"{fate}_xml_deferrable"]["xcom"]["return_value"]
    return rows


def test_an_empty_result_is_an_empty_list(tasks: dict[str, Any]) -> None:
    assert rows_of(tasks, "empty") == []


def test_several_entries_give_the_rows_of_each(tasks: dict[str, Any]) -> None:
    assert [row["list_id"] for row in rows_of(tasks, "entries")] == [1, 1, 1, 2, 2, 2]


def test_channels_and_counters_nobody_announced_pass_through(tasks: dict[str, Any]) -> None:
    rows = rows_of(tasks, "odd")
    assert [row["channel"] for row in rows] == ["email", "push", "sms", "carrier_pigeon", "007"]
    assert {row["hardbounced"] for row in rows} == {3}


def test_an_entry_still_in_progress_is_waited_for(tasks: dict[str, Any]) -> None:
    assert len(rows_of(tasks, "in_progress")) == 3


def test_a_status_nobody_knows_means_still_running(tasks: dict[str, Any]) -> None:
    assert len(rows_of(tasks, "unknown_status")) == 3
