"""The nightly DAGs' tasks, as Airflow runs them: which Variables are taken, and what each refusal says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_runs import DAGS, connection, new_home, run_dags

from airflow_provider_segstats import history
from airflow_provider_segstats.emulator import Emulator
from airflow_provider_segstats.nightly import Account, accounts

if TYPE_CHECKING:
    from collections.abc import Iterator

SEVEN = {"segment_id": 7, "resource_id": 24}
MARKS = "any of ui_tags, groups, groups_id"
NEEDS = f"a segment needs segment_id and resource_id, a selection resource_id and {MARKS}"
WEEKLY = {"ui_tags": ["weekly"], "resource_id": 24}
SEED = {
    "segments": [
        {"id": 7, "name": "Readers", "static": True},
        {"id": 10, "name": "Buyers", "static": True},
        {"id": 12, "name": "Fair", "static": True, "ui_tags": ["weekly"]},
        {"id": 13, "name": "Guests", "static": True, "ui_tags": ["weekly"]},
    ],
    "databases": [{"id": 1, "name": "Customers"}],
    "resources": [{"id": 24, "name": "Shop", "channels": ["email"]}],
    "tokens": [{"token": "narrow", "may_list": False}],
}
LISTS = {
    "good": json.dumps([SEVEN]),
    "chosen": json.dumps({**WEEKLY, "exclude": [13]}),
    "narrow": json.dumps([SEVEN, {**SEVEN, "segment_id": 10, "name": "Our buyers"}]),
    "broken": "[{'segment_id': 7}]",
    "no_list": json.dumps(SEVEN),
    "none": "[]",
    "all_bad": json.dumps([7]),
    "some_bad": json.dumps(
        [
            SEVEN,
            {"segment_id": 8},
            9,
            {"segment_id": "x", "resource_id": 1},
            SEVEN,
            {**SEVEN, "segment_id": 10},
            WEEKLY,
        ]
    ),
}


class Runs:
    """What became of the DAGs, and the history that they left."""

    def __init__(self, folder: Any, patch: pytest.MonkeyPatch) -> None:
        warehouse = json.dumps({"conn_type": "sqlite", "host": str(folder / "history.db")})
        dag_ids = [*(f"count_{conn_id}" for conn_id in (*LISTS, "absent")), "report", "report_again"]
        with Emulator("t0ken", seconds=0.0, seed=SEED) as emulator:
            env = {
                "ACCOUNTS": ",".join([*LISTS, "absent"]),
                "REPORTS": str(folder / "reports"),
                "AIRFLOW_CONN_SEGSTATS_HISTORY": warehouse,
                "AIRFLOW_VAR_SEGSTATS_EVENTS_FOR_EACH": "True",
                **{f"AIRFLOW_VAR_SEGSTATS_SEGMENTS_{name.upper()}": text for name, text in LISTS.items()},
            }
            for conn_id in (*LISTS, "absent"):
                token = "narrow" if conn_id == "narrow" else emulator.token
                fields = connection(emulator.url, token, account=conn_id, time_zone="Asia/Tokyo")
                env[f"AIRFLOW_CONN_{conn_id.upper()}"] = fields
            self.tasks = run_dags(DAGS / "nightly.py", env, 300, *dag_ids)
            self.submitted = {task.segment_id for task in emulator.tasks()}
        patch.setenv("AIRFLOW_CONN_SEGSTATS_HISTORY", warehouse)
        self.hook = history.database("segstats_history")

    def line(self, dag_id: str, task_id: str) -> list[str]:
        """Return the kinds and the lines of a task's errors."""
        return [f"{kind}: {line}" for kind, line, _ in self.tasks[dag_id][task_id]["errors"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        yield Runs(tmp_path_factory.mktemp("nightly"), patch)


@pytest.mark.parametrize(
    ("account", "line"),
    [
        (
            "absent",
            (
                "there is no Variable 'segstats_segments_absent': set it to a list as "
                '[{"segment_id": 7, "resource_id": 24}] or a selection as {"ui_tags": ["weekly"], '
                '"resource_id": 24}, or give the run segments of its own'
            ),
        ),
        (
            "broken",
            (
                "the Variable 'segstats_segments_broken' is not JSON: "
                "Expecting property name enclosed in double quotes: line 1 column 3 (char 2)"
            ),
        ),
        (
            "no_list",
            (
                "the Variable 'segstats_segments_no_list' must be a list, not "
                "{'segment_id': 7, 'resource_id': 24}"
            ),
        ),
        ("none", "the Variable 'segstats_segments_none' has no segments"),
        (
            "all_bad",
            (f"the Variable 'segstats_segments_all_bad' has no segments: {NEEDS}: 7"),
        ),
    ],
)
def test_a_variable_that_names_no_segments_fails_the_night_at_once_in_one_line(
    runs: Runs, account: str, line: str
) -> None:
    assert runs.line(f"count_{account}", "list_segments") == [f"AirflowFailException: {line}"]
    assert runs.tasks[f"count_{account}"]["refresh"]["state"] == "upstream_failed"


def test_a_bad_entry_costs_itself_alone_and_turns_the_run_red(runs: Runs) -> None:
    tasks = runs.tasks["count_some_bad"]
    assert [tasks[name]["state"] for name in ("refresh", "gather", "verdict")] == [
        "success",
        "success",
        "failed",
    ]
    night = tasks["gather"]["xcom"]["return_value"]
    assert night["ok"] == [7, 10, 12, 13]
    assert night["failed"] == {"8": f"{NEEDS}: {{'segment_id': 8}}"}
    assert night["refused"] == [
        f"{NEEDS}: {{'segment_id': 8}}",
        f"{NEEDS}: 9",
        "segment_id must be a whole number above 0, not 'x'",
        "segment 7 stands in the list twice",
    ]
    [line] = runs.line("count_some_bad", "verdict")
    assert line.startswith("AirflowFailException: not counted: segment 8; a segment needs segment_id")


def test_a_good_list_makes_a_green_night(runs: Runs) -> None:
    assert {task["state"] for task in runs.tasks["count_good"].values()} == {"success"}
    assert runs.submitted == {7, 10, 12, 13}


def names(runs: Runs, account: str) -> list[tuple[int, str | None]]:
    rows = runs.tasks[f"count_{account}"]["gather"]["xcom"]["return_value"]["rows"]
    return [(row["segment_id"], row.get("name")) for row in rows]


def test_segments_of_a_list_have_the_names_that_the_platform_lists(runs: Runs) -> None:
    assert names(runs, "some_bad") == [(7, "Readers"), (10, "Buyers"), (12, "Fair"), (13, "Guests")]


def test_without_the_right_to_list_the_night_goes_by_ids_and_names_that_are_given(runs: Runs) -> None:
    assert {task["state"] for task in runs.tasks["count_narrow"].values()} == {"success"}
    assert names(runs, "narrow") == [(7, None), (10, "Our buyers")]


def test_the_history_keeps_the_names(runs: Runs) -> None:
    assert history.names(runs.hook, "segment_counters") == {
        ("some_bad", "segment", number): name for number, name in names(runs, "some_bad")
    }


def test_a_variable_may_be_one_selection(runs: Runs) -> None:
    assert names(runs, "chosen") == [(12, "Fair")]
    assert {task["state"] for task in runs.tasks["count_chosen"].values()} == {"success"}


def test_a_report_that_is_started_by_hand_brings_in_what_the_history_missed_once(runs: Runs) -> None:
    first, again = (runs.tasks[name]["load"]["xcom"]["return_value"] for name in ("report", "report_again"))
    assert (first["inserted"], first["already_there"], first["failed"]) == (4, 0, [8])
    assert (again["inserted"], again["already_there"]) == (0, 0)


def test_the_history_tells_what_became_of_each_segment_in_the_run_that_counted(runs: Runs) -> None:
    found = runs.hook.get_records(
        "SELECT source, dag_id, id, outcome, reason FROM segment_counters_nights ORDER BY id"
    )
    assert found == [
        ("some_bad", "count_some_bad", 7, "counted", None),
        (
            *("some_bad", "count_some_bad", 8, "failed"),
            f"{NEEDS}: {{'segment_id': 8}}",
        ),
        *(("some_bad", "count_some_bad", number, "counted", None) for number in (10, 12, 13)),
    ]


def test_a_night_has_its_runs_date_in_the_connections_zone(runs: Runs) -> None:
    night, run_after = runs.hook.get_first("SELECT DISTINCT night, run_after FROM segment_counters_nights")
    expected = runs.hook.get_first("SELECT date(?, '+9 hours')", parameters=[run_after])
    assert (night,) == expected
    assert runs.hook.get_records("SELECT DISTINCT night FROM segment_counters") == [expected]


@pytest.mark.parametrize(
    ("name", "value", "task", "line"),
    [
        (
            *("segstats_events_for_each", "perhaps", "list_segments"),
            "the Variable 'segstats_events_for_each' must be true or false, not 'perhaps'",
        ),
        (
            *("segstats_history_conn_id", "nowhere", "where"),
            (
                "connection 'nowhere': there is no such connection to a database; "
                "the Variable segstats_history_conn_id names another"
            ),
        ),
        (
            *("segstats_history_table", "a b", "where"),
            (
                "the Variable 'segstats_history_table': a table is named in small letters, digits and "
                "underscores, with up to 50 characters, as name or schema.name; not 'a b'"
            ),
        ),
    ],
)
def test_every_other_variable_that_is_wrong_is_named_in_one_line(
    name: str, value: str, task: str, line: str, tmp_path: Any
) -> None:
    dag_id = "count_good" if task == "list_segments" else "report"
    env = {
        "ACCOUNTS": "good",
        "REPORTS": str(tmp_path),
        "AIRFLOW_CONN_SEGSTATS_HISTORY": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "h.db")}),
        "AIRFLOW_VAR_SEGSTATS_SEGMENTS_GOOD": LISTS["good"],
        f"AIRFLOW_VAR_{name.upper()}": value,
    }
    tasks = run_dags(DAGS / "nightly.py", env, 120, dag_id, home=new_home())[dag_id]
    [[kind, said, chained]] = tasks[task]["errors"]
    assert (kind, said, chained) == ("AirflowFailException", line, "")


def test_accounts_are_the_connections_of_airflows_option(monkeypatch: pytest.MonkeyPatch) -> None:
    assert accounts() == [Account("segstats_default")]
    monkeypatch.setenv("AIRFLOW__SEGSTATS__ACCOUNTS", " segstats_default, eu west,segstats_default,")
    assert accounts() == [Account("segstats_default"), Account("eu west")]


def test_the_names_of_the_default_account_are_bare_and_those_of_others_their_own() -> None:
    assert Account("segstats_default").named("segment_report") == "segment_report"
    assert Account("eu west").named("segment_report") == "segment_report_eu_west"
