"""RefreshSegmentsOperator on real Airflow, on the worker and deferred: what comes out, what is submitted."""

from __future__ import annotations

import runpy
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

DAG_FILE = DAGS / "many.py"
DAG = runpy.run_path(str(DAG_FILE))
MODES, segment_ids = DAG["MODES"], DAG["segment_ids"]
STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"
THIRD = 2  # the segment of a case that its fault meets


def faults(mode: str) -> Iterator[Fault]:
    def third(case: str) -> int:
        return int(segment_ids(case, mode)[THIRD])

    yield Fault("api_error", segment_id=third("one_refused"), code=440, text="Odd", times=None)
    yield Fault("task", segment_id=third("one_failed_once"), outcome="failed", text="No such list")
    yield Fault("task", segment_id=third("one_stuck"), outcome="stuck", times=None)
    yield Fault("lost_answer", segment_id=third("one_lost"), endpoint=SUBMIT)
    for segment_id in segment_ids("tariff_limit", mode)[THIRD:]:
        yield Fault("api_error", endpoint=SUBMIT, segment_id=segment_id, code=402, text="Tariff", times=None)
    yield Fault("http", endpoint=STATUS, segment_id=third("one_away"))
    large = '{"error": 0, "data": {"status": "running", "result": "%s"}}' % ("x" * 70_000)
    yield Fault("reply", endpoint=STATUS, segment_id=third("large"), body=large)
    of = third("forgotten")
    yield Fault("http", endpoint=STATUS, segment_id=of)  # ends the first try
    yield Fault("api_error", endpoint=STATUS, segment_id=of, code=404, text="Not found")


class Outcome:
    """What became of the tasks, and what the emulator accepted."""

    def __init__(self, tasks: dict[str, Any], submits: Counter[int]) -> None:
        self.tasks = tasks
        self._submits = submits

    def end(self, case: str, mode: str) -> tuple[str, int]:
        task = self.tasks[f"{case}_{mode}"]
        return task["state"], task["tries"]

    def error(self, case: str, mode: str) -> tuple[str, str]:
        kind, text, chained = self.tasks[f"{case}_{mode}"]["errors"][-1]
        assert chained == ""
        return kind, text

    def counted(self, case: str, mode: str) -> list[int]:
        """Return the ids of the segments whose rows came out, three rows each."""
        rows = self.tasks[f"{case}_{mode}"]["xcom"]["return_value"]
        counts = Counter(row["segment_id"] for row in rows)
        assert set(counts.values()) <= {3}
        return list(counts)

    def submits(self, case: str, mode: str) -> list[int]:
        """Return how often each segment of a case was submitted, in the order of the list."""
        return [self._submits[segment_id] for segment_id in segment_ids(case, mode)]

    def summary(self, case: str, mode: str) -> dict[str, Any]:
        summary: dict[str, Any] = self.tasks[f"{case}_{mode}"]["xcom"]["summary"]
        return summary


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    with Emulator("t0ken", seconds=1.0) as emulator:
        for mode in MODES:
            for fault in faults(mode):
                emulator.add_fault(fault)
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, "t0ken")}
        tasks = run_dags(DAG_FILE, env, 240)["many"]
        yield Outcome(tasks, Counter(task.segment_id for task in emulator.tasks()))


@pytest.mark.parametrize("mode", MODES)
class TestEach:
    def test_all_segments_are_counted_once_and_come_in_the_order_of_the_list(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("all_counted", mode) == ("success", 1)
        assert outcome.counted("all_counted", mode) == segment_ids("all_counted", mode)
        assert set(outcome.submits("all_counted", mode)) == {1}

    def test_a_segment_that_the_server_refuses_fails_alone_and_for_good(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("one_refused", mode) == ("failed", 1)
        kind, text = outcome.error("one_refused", mode)
        ids = segment_ids("one_refused", mode)
        where = "connection 'segstats_default', segments/refresh_counters"
        refused = ids.pop(THIRD)
        assert kind == "AirflowFailException"
        assert text == f"1 of 6 segments were not counted; segment {refused}: {where}: API error 440: Odd"
        assert outcome.counted("one_refused", mode) == ids
        assert outcome.summary("one_refused", mode) == {
            "ok": ids,
            "failed": {str(refused): f"{where}: API error 440: Odd"},
            "not_submitted": [],
            "submits": 5,
            "resubmitted": 0,
            "names": {},
        }

    def test_a_retry_submits_only_the_segment_whose_recount_failed(self, outcome: Outcome, mode: str) -> None:
        assert outcome.end("one_failed_once", mode) == ("success", 2)
        assert outcome.error("one_failed_once", mode)[0] == "PartialFailureError"
        assert outcome.counted("one_failed_once", mode) == segment_ids("one_failed_once", mode)
        assert outcome.submits("one_failed_once", mode) == [1, 1, 2, 1, 1, 1]

    def test_a_recount_that_takes_too_long_times_out_and_the_others_rows_stay(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("one_stuck", mode) == ("failed", 1)
        kind, text = outcome.error("one_stuck", mode)
        assert kind == "AirflowSensorTimeout"
        assert "the recount was not done within timeout (10 s); it was last status 'running'" in text
        assert len(outcome.counted("one_stuck", mode)) == 5

    def test_a_lost_answer_fails_its_segment_and_is_not_submitted_again(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("one_lost", mode) == ("failed", 1)
        kind, text = outcome.error("one_lost", mode)
        assert kind == "AirflowFailException"
        assert "may or may not have been accepted" in text
        assert outcome.submits("one_lost", mode) == [1] * 6

    def test_at_the_tariff_limit_no_more_is_submitted_and_the_rest_is_listed(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("tariff_limit", mode) == ("failed", 1)
        ids = segment_ids("tariff_limit", mode)
        kind, text = outcome.error("tariff_limit", mode)
        assert kind == "AirflowFailException"
        assert f"4 not submitted ({', '.join(map(str, ids[THIRD:]))})" in text
        assert "API error 402: Tariff" in text
        assert outcome.counted("tariff_limit", mode) == ids[:THIRD]
        assert outcome.summary("tariff_limit", mode)["not_submitted"] == ids[THIRD:]

    def test_a_retry_goes_on_with_the_task_it_could_not_see(self, outcome: Outcome, mode: str) -> None:
        assert outcome.end("one_away", mode) == ("success", 2)
        assert outcome.submits("one_away", mode) == [1] * 6

    def test_an_answer_too_large_for_the_event_loop_is_looked_at_again(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("large", mode) == ("success", 1)
        assert outcome.submits("large", mode) == [1] * 6

    def test_a_task_that_the_server_has_forgotten_is_submitted_afresh(
        self, outcome: Outcome, mode: str
    ) -> None:
        assert outcome.end("forgotten", mode) == ("success", 2)
        assert outcome.submits("forgotten", mode) == [1, 1, 2, 1, 1, 1]

    def test_a_template_may_render_to_json(self, outcome: Outcome, mode: str) -> None:
        rows = outcome.tasks[f"templated_{mode}"]["xcom"]["return_value"]
        assert {(row["segment_id"], row["list_id"]) for row in rows} == {(7, 3)}

    def test_no_segments_fail_the_task_without_retries(self, outcome: Outcome, mode: str) -> None:
        assert outcome.end("none_by_mistake", mode) == ("failed", 1)
        kind, text = outcome.error("none_by_mistake", mode)
        assert (kind, text.partition(",")[0]) == ("AirflowFailException", "segments is empty")

    def test_no_segments_give_no_rows_where_that_is_allowed(self, outcome: Outcome, mode: str) -> None:
        assert outcome.end("none", mode) == ("success", 1)
        assert outcome.tasks[f"none_{mode}"]["xcom"]["return_value"] == []
