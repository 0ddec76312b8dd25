"""Every mode on real Airflow: what the task shows when things go wrong, and what it submitted."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "s3cret<&>\"'\\"
SENSORS = ("poke", "reschedule", "deferrable")
OPERATORS = ("poke", "deferrable")
STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"


def faults() -> Iterator[Fault]:
    for code, text in ((400, "Incorrect request"), (401, "No token"), (402, "Tariff"), (403, "No access")):
        yield Fault("api_error", endpoint=SUBMIT, segment_id=code, code=code, text=text, times=None)
    yield Fault("api_error", endpoint=SUBMIT, segment_id=440, code=440, text="Odd", times=None)
    target = "https://elsewhere.example/api"
    yield Fault("redirect", endpoint=SUBMIT, segment_id=302, location=target, times=None)
    yield Fault("lost_answer", endpoint=SUBMIT, segment_id=600, times=None)
    yield Fault("lost_answer", endpoint=SUBMIT, segment_id=601)
    later = {"endpoint": STATUS, "skip": 1, "times": None}
    for segment in (5030, 5031, 5032):
        yield Fault("task", segment_id=segment, outcome="stuck")
        yield Fault("api_error", segment_id=segment, code=403, text="No access", **later)
    for segment in (3030, 3031, 3032):
        yield Fault("task", segment_id=segment, outcome="stuck")
        yield Fault("redirect", segment_id=segment, location=target, **later)
    yield Fault("task", segment_id=700, outcome="failed", text="No such list", times=None)
    yield Fault("http", endpoint=STATUS, segment_id=701, times=None)
    yield Fault("task", segment_id=702, outcome="stuck", times=None)
    for segment in (800, 801):
        yield Fault("task", segment_id=segment, outcome="failed")
    for segment in (810, 811):
        yield Fault("task", segment_id=segment, outcome="in_progress")
    for segment in (820, 821):
        yield Fault("http", endpoint=STATUS, segment_id=segment)  # ends the first try
        yield Fault("api_error", endpoint=STATUS, segment_id=segment, code=404, text="Not found")


class Outcome:
    """What became of the DAG's tasks, and what the emulator saw."""

    def __init__(self, tasks: dict[str, Any], submits: dict[int, int]) -> None:
        self.tasks = tasks
        self.submits = submits

    def error(self, task: str) -> tuple[str, str]:
        """Return the type and text of the last error of a task, which no other exception hangs on to."""
        kind, text, chained = self.tasks[task]["errors"][-1]
        assert chained == "", f"{task}: {kind} drags {chained} into the log"
        return kind, text

    def end(self, task: str) -> tuple[str, int]:
        return self.tasks[task]["state"], self.tasks[task]["tries"]


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    with Emulator(TOKEN, seconds=2.0) as emulator, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        for fault in faults():
            emulator.add_fault(fault)
        port = closed.getsockname()[1]
        connections = {
            "DEFAULT": connection(emulator.url, TOKEN),
            "WRONG_TOKEN": connection(emulator.url, "wr0ng<&>"),
            "UNKNOWN_EXTRA": connection(emulator.url, TOKEN, formt="json"),
            "WRONG_PATH": connection(emulator.url, TOKEN, base_path="/nowhere"),
            "REFUSED": connection(f"http://127.0.0.1:{port}", TOKEN),
        }
        env = {f"AIRFLOW_CONN_SEGSTATS_{name}": value for name, value in connections.items()}
        tasks = run_dags(DAGS / "fails.py", env, 300)["fails"]
        submits: dict[int, int] = {}
        for task in emulator.tasks():
            submits[task.segment_id] = submits.get(task.segment_id, 0) + 1
        yield Outcome(tasks, submits)


@pytest.mark.parametrize(
    ("connection_id", "line"),
    [
        (
            "missing",
            "connection 'segstats_missing': there is no such connection, or it cannot be read; create it",
        ),
        (
            "wrong_token",
            "connection 'segstats_wrong_token', tasks/status: API error 401: Invalid API token",
        ),
        ("unknown_extra", "connection 'segstats_unknown_extra': unknown extra formt; known are format, "),
        (
            "wrong_path",
            "connection 'segstats_wrong_path', tasks/status: HTTP 404 without an answer of the API",
        ),
    ],
)
def test_a_connection_that_cannot_work_fails_every_mode_at_once_with_one_clear_line(
    outcome: Outcome, connection_id: str, line: str
) -> None:
    for mode in SENSORS:
        kind, text = outcome.error(f"{mode}_{connection_id}")
        assert (kind, text[: len(line)]) == ("AirflowFailException", line)
        assert outcome.end(f"{mode}_{connection_id}") == ("failed", 1)
    kind, text = outcome.error(f"submit_{connection_id}")
    expected = line.replace("tasks/status", "segments/refresh_counters")
    assert (kind, text[: len(line)]) == ("AirflowFailException", expected[: len(line)])
    assert outcome.end(f"submit_{connection_id}") == ("failed", 1)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("submit_400", "API error 400: Incorrect request"),
        ("submit_401", "API error 401: No token"),
        ("submit_402", "API error 402: Tariff"),
        ("submit_403", "API error 403: No access"),
        ("submit_440", "API error 440: Odd"),
        (
            "submit_redirect",
            "HTTP 302 points to https://elsewhere.example/api; set the connection's host to it",
        ),
    ],
)
def test_what_the_server_refuses_is_submitted_once_and_fails_at_once(
    outcome: Outcome, task: str, what: str
) -> None:
    line = f"connection 'segstats_default', segments/refresh_counters: {what}"
    assert outcome.error(task) == ("AirflowFailException", line)
    assert outcome.end(task) == ("failed", 1)


def test_a_refused_connection_is_retried_by_airflow(outcome: Outcome) -> None:
    line = "connection 'segstats_refused', segments/refresh_counters: could not connect: Connection refused"
    assert outcome.error("submit_refused") == ("NotSentError", line)
    assert outcome.end("submit_refused") == ("failed", 2)


def test_a_lost_answer_is_not_submitted_again(outcome: Outcome) -> None:
    kind, text = outcome.error("submit_lost")
    assert kind == "AirflowFailException"
    assert "may or may not have been accepted" in text
    assert outcome.end("submit_lost") == ("failed", 1)
    assert outcome.submits[600] == 1


def test_a_lost_answer_is_submitted_again_when_asked(outcome: Outcome) -> None:
    assert outcome.end("submit_lost_resubmitted") == ("success", 1)
    assert outcome.submits[601] == 2


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("polled_403", "API error 403: No access"),
        (
            "polled_redirect",
            "HTTP 302 points to https://elsewhere.example/api; set the connection's host to it",
        ),
        ("remote_failed", "the recount ended as 'failed' (progress 100): No such list"),
    ],
)
def test_what_polling_cannot_mend_fails_every_mode_alike_and_at_once(
    outcome: Outcome, task: str, line: str
) -> None:
    for mode in SENSORS:
        expected = f"connection 'segstats_default', tasks/status: {line}"
        assert outcome.error(f"{mode}_{task}") == ("AirflowFailException", expected)
        assert outcome.end(f"{mode}_{task}") == ("failed", 1)


def test_a_server_away_for_too_long_fails_every_mode_alike_and_airflow_retries(outcome: Outcome) -> None:
    line = "connection 'segstats_default', tasks/status: HTTP 503 without an answer of the API"
    for mode in SENSORS:
        assert outcome.error(f"{mode}_away_too_long") == ("HttpStatusError", line)
        assert outcome.end(f"{mode}_away_too_long") == ("failed", 2)


@pytest.mark.parametrize("mode", OPERATORS)
def test_timeout_ends_in_a_sensor_timeout_without_retries(outcome: Outcome, mode: str) -> None:
    kind, text = outcome.error(f"{mode}_timeout")
    assert kind == "AirflowSensorTimeout"
    assert "not done within timeout (1 s); it was last status 'running', progress 50" in text
    assert outcome.end(f"{mode}_timeout") == ("failed", 1)


@pytest.mark.parametrize("mode", OPERATORS)
def test_execution_timeout_ends_in_a_task_timeout_and_airflow_retries(outcome: Outcome, mode: str) -> None:
    kind, text = outcome.error(f"{mode}_execution_timeout")
    assert kind == "AirflowTaskTimeout"
    assert "not done within execution_timeout (2 s)" in text
    assert outcome.end(f"{mode}_execution_timeout") == ("failed", 2)


def test_deferrable_wins_over_reschedule_and_keeps_execution_timeout(outcome: Outcome) -> None:
    kind, text = outcome.error("deferrable_over_reschedule")
    assert kind == "AirflowTaskTimeout"
    assert "not done within execution_timeout (2 s)" in text


def test_soft_fail_skips_permanent_errors_and_timeouts_in_every_mode(outcome: Outcome) -> None:
    for mode in OPERATORS:
        assert outcome.end(f"{mode}_soft_timeout") == ("skipped", 1)
    for mode in SENSORS:
        assert outcome.end(f"{mode}_soft_remote_failed") == ("skipped", 1)


def test_soft_fail_does_not_skip_what_is_worth_a_retry(outcome: Outcome) -> None:
    for mode in SENSORS:
        assert outcome.end(f"{mode}_soft_away_too_long") == ("failed", 2)


@pytest.mark.parametrize(("mode", "segment"), [("poke", 800), ("deferrable", 801)])
def test_the_operators_retry_submits_afresh_after_the_remote_task_failed(
    outcome: Outcome, mode: str, segment: int
) -> None:
    assert outcome.end(f"operator_{mode}_remote_failed") == ("success", 2)
    assert outcome.error(f"operator_{mode}_remote_failed")[0] == "TaskFailedError"
    assert outcome.submits[segment] == 2


@pytest.mark.parametrize(("mode", "segment"), [("poke", 810), ("deferrable", 811)])
def test_the_operators_retry_goes_on_with_the_task_it_submitted(
    outcome: Outcome, mode: str, segment: int
) -> None:
    assert outcome.end(f"operator_{mode}_reattaches") == ("success", 2)
    assert outcome.error(f"operator_{mode}_reattaches")[0] == "AirflowTaskTimeout"
    assert outcome.submits[segment] == 1


@pytest.mark.parametrize(("mode", "segment"), [("poke", 820), ("deferrable", 821)])
def test_the_operators_retry_submits_afresh_when_the_server_forgot_the_task(
    outcome: Outcome, mode: str, segment: int
) -> None:
    assert outcome.end(f"operator_{mode}_forgotten") == ("success", 2)
    assert outcome.submits[segment] == 2


def test_no_error_holds_the_token(outcome: Outcome) -> None:
    everything = json.dumps(outcome.tasks)
    assert "s3cret" not in everything
    assert "wr0ng" not in everything
