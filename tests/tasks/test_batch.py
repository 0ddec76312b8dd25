"""The operators against the emulator, try by try, without a scheduler: kills, deadlines, sizes.

``tests/whole_airflow/test_many.py`` has it on real Airflow. With more segments than the usual 1,000 in the
largest task: ``scripts/test tests/tasks/test_batch.py -k come_in_order --largest 5000``.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from support.paths import TESTS
from support.servers import Server as OddServer
from support.tries import Store, Try, fire
from support.versions import TaskDeferred

from airflow_provider_segstats.boundary.versions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
)
from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import HttpStatusError, PartialFailureError, TaskFailedError
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.operators import RefreshSegmentsOperator
from airflow_provider_segstats.tasks.batch import SUBMITS_AT_ONCE
from airflow_provider_segstats.tasks.ledger import HEAD

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from airflow_provider_segstats.emulator.tasks import Submission

SUBMIT, STATUS = "segments/refresh_counters", "tasks/status"
MODES = ("worker", "deferrable")
AWAY = "connection 'segstats_default', segments/refresh_counters: HTTP 503 without an answer of the API"


def segments(number: int, first: int = 1) -> list[dict[str, int]]:
    return [{"segment_id": segment_id, "resource_id": 24} for segment_id in range(first, first + number)]


def ids(rows: list[dict[str, Any]]) -> list[int]:
    """Return the segments of rows, in their order; each has three."""
    counts = Counter(row["segment_id"] for row in rows)
    assert set(counts.values()) <= {3}
    return list(counts)


class Server:
    """The emulator, and what it accepted since the test's beginning."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self._before = len(emulator.tasks())

    @property
    def tasks(self) -> list[Submission]:
        return self.emulator.tasks()[self._before :]

    def task_of(self, segment_id: int) -> str:
        [task_id] = [task.task_id for task in self.tasks if task.segment_id == segment_id]
        return task_id

    @property
    def accepted(self) -> Counter[int]:
        """How often each segment was."""
        return Counter(task.segment_id for task in self.tasks)

    def requests(self, endpoint: str) -> int:
        return sum(entry.endpoint == endpoint for entry in self.emulator.journal())

    def once_accepted(self, number: int, then: Callable[[], object]) -> threading.Thread:
        """Do something as soon as so many recounts were accepted."""
        return self.once(lambda: len(self.tasks) >= number, then)

    def once(self, holds: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
        """Do something as soon as something holds."""

        def wait() -> None:
            while not holds():
                time.sleep(0.001)
            then()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def ring() -> None:
    """Ring Airflow's alarm, which it sets for execution_timeout."""
    os.kill(os.getpid(), signal.SIGALRM)


@pytest.fixture
def server(emulator: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Server:
    """Give a server that ``segstats_default`` points to; no worker needs time to leave here."""
    monkeypatch.setattr(policy, "SHORTEST_DEFERRAL", 0.05)
    connect(emulator.url)
    return Server(emulator)


def ends(
    attempt: Try, kind: type[BaseException], run: Callable[[Try], object] = lambda attempt: attempt.run()
) -> str:
    """Return the line that a try ends in; the summary and the rows are pushed."""
    with pytest.raises(kind) as caught:
        run(attempt)
    assert type(caught.value) is kind
    assert ids(attempt.xcom["return_value"]) == attempt.summary["ok"]
    return str(caught.value)


def failed_after(attempt: Try) -> set[int]:
    """Run a try to whatever end; return the segments that failed."""
    with suppress(AirflowFailException):
        attempt.run()
    return set(map(int, attempt.summary["failed"]))


# --- sizes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [1, None])
def test_all_segments_are_counted_once_and_come_in_order(
    server: Server, number: int | None, mode: str, request: pytest.FixtureRequest
) -> None:
    number = number or request.config.getoption("--largest") or 1000
    server.emulator.configure(seconds=0.2)
    store = Store()
    attempt = Try(store, segments=segments(number), deferrable=mode == "deferrable")
    every = list(range(1, number + 1))
    assert ids(attempt.run()) == every
    assert server.accepted == dict.fromkeys(every, 1)
    assert attempt.summary == {
        "ok": every,
        "failed": {},
        "not_submitted": [],
        "submits": number,
        "resubmitted": 0,
        "names": {},
    }
    assert "return_value" not in attempt.xcom  # Airflow pushes it
    assert store.largest < 64 * 1024
    assert bool(attempt.deferrals) == (mode == "deferrable")


@pytest.mark.parametrize("mode", MODES)
def test_no_more_than_max_in_flight_are_ever_open_at_the_server(server: Server, mode: str) -> None:
    server.emulator.configure(seconds=0.5)
    attempt = Try(Store(), segments=segments(40), max_in_flight=10, deferrable=mode == "deferrable")
    assert len(ids(attempt.run())) == 40
    changes = sorted(
        change for task in server.tasks for change in ((task.at, 1), (task.at + task.seconds, -1))
    )
    open_at_once = list(itertools.accumulate(by for _, by in changes))
    assert max(open_at_once) == 10


@pytest.mark.parametrize("mode", MODES)
def test_a_recount_that_does_not_end_holds_up_no_other(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("task", segment_id=1, outcome="stuck"))
    attempt = Try(Store(), segments=segments(12), max_in_flight=4, deferrable=mode == "deferrable")

    def complete() -> None:
        [stuck] = [task.task_id for task in server.tasks if task.segment_id == 1]
        server.emulator.set_outcome(stuck, "completed")

    server.once_accepted(12, complete)
    assert ids(attempt.run()) == list(range(1, 13))


def test_looks_grow_apart_with_the_time_that_a_recount_has_run_not_the_task(server: Server) -> None:
    server.emulator.configure(seconds=0.5)
    attempt = Try(Store(), segments=segments(3), deferrable=True, poke_interval=None, timeout=36_000)
    attempt.context["ti"].start_date -= timedelta(hours=5)  # by now looks would be a minute apart
    with pytest.raises(TaskDeferred) as caught:
        attempt.start()
    _, kwargs = caught.value.trigger.serialize()
    assert [segment_id for _, segment_id, *_ in kwargs["tasks"]] == [1, 2, 3]
    assert all(
        since >= task.at - 0.1 for (_, _, since, _), task in zip(kwargs["tasks"], server.tasks, strict=True)
    )
    assert fire(caught.value, within=30)["outcomes"]


# --- what is written down when


def test_known_ids_do_not_wait_for_the_slowest_submit_of_their_group(server: Server) -> None:
    for segment_id in range(1, 9):
        seconds = 3.0 if segment_id == 8 else 0.0
        server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, segment_id=segment_id, seconds=seconds))
    store = Store()
    kept: list[set[int]] = []
    store.on_set = lambda: kept.append(store.submitted)
    Try(store, segments=segments(8)).run()
    assert set(range(1, 8)) in kept


@pytest.mark.parametrize("mode", MODES)
def test_intents_are_kept_before_they_are_sent_and_ids_before_the_wait(server: Server, mode: str) -> None:
    store = Store()
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        accepted = server.accepted.keys()
        all_intended = accepted <= store.in_doubt | store.submitted
        waits = server.requests(STATUS) > 0
        seen.append((all_intended, not waits or accepted <= store.submitted))

    store.on_set = look
    Try(store, segments=segments(120), deferrable=mode == "deferrable").run()
    assert len(seen) > 6
    assert set(seen) == {(True, True)}


def test_a_store_that_takes_long_makes_no_answer_late(server: Server, connect: Callable[..., None]) -> None:
    connect(server.emulator.url, timeout=1)
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=0.3, times=None))
    store = Store()

    def take_long() -> None:
        if store.submitted:
            store.on_set = lambda: None
            time.sleep(2.5)

    store.on_set = take_long
    assert ids(Try(store, segments=segments(50)).run()) == list(range(1, 51))


def test_nothing_is_sent_where_the_intent_cannot_be_kept(server: Server) -> None:
    class FullError(Exception):
        pass

    class FullStore(Store):
        def set(self, key: str, value: Any) -> None:
            if key == HEAD and value["in_doubt"]:
                raise FullError
            super().set(key, value)

    with pytest.raises(FullError):
        Try(FullStore(), segments=segments(3)).run()
    assert server.emulator.journal() == []


def be_killed(folder: str) -> None:
    """Refresh segments in a process of its own, until somebody kills it."""
    Try(Store(Path(folder)), segments=segments(200)).run()


@pytest.mark.parametrize("on_ambiguous", ["fail", "resubmit"])
def test_a_worker_killed_amid_its_submits_leaves_those_on_the_wire_in_doubt(
    server: Server, tmp_path: Path, on_ambiguous: str
) -> None:
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=0.05, times=None))
    path = f"{TESTS / 'tasks'}{os.pathsep}{TESTS}"
    code = f"import test_batch; test_batch.be_killed({str(tmp_path)!r})"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) as process:
        server.once_accepted(70, process.kill).join(60)
    assert process.returncode == -signal.SIGKILL
    server.emulator.clear_faults()
    store = Store(tmp_path)
    in_doubt = store.in_doubt
    assert 0 < len(in_doubt) <= SUBMITS_AT_ONCE == 8
    assert store.submitted <= server.accepted.keys() <= store.submitted | in_doubt
    attempt = Try(store, 2, segments=segments(200), on_ambiguous_submit=on_ambiguous)
    if on_ambiguous == "resubmit":
        assert ids(attempt.run()) == list(range(1, 201))
        again = {segment_id for segment_id, times in server.accepted.items() if times > 1}
        assert again <= in_doubt
        assert attempt.summary["resubmitted"] == len(in_doubt)
    else:
        line = ends(attempt, AirflowFailException)
        assert "an earlier try may or may not have submitted the recount" in line
        assert {int(segment_id) for segment_id in attempt.summary["failed"]} == in_doubt
        assert set(attempt.summary["ok"]) == set(range(1, 201)) - in_doubt
        assert set(server.accepted.values()) == {1}


def test_a_worker_told_to_end_submits_no_more_leaves_nothing_in_doubt_and_defers(server: Server) -> None:
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=0.05, times=None))
    store = Store()
    attempt = Try(store, segments=segments(200), deferrable=True)
    told_at: list[int] = []

    def tell(operator: RefreshSegmentsOperator) -> None:
        operator.on_kill()
        told_at.append(len(server.tasks))

    attempt.on_start = lambda operator: server.once_accepted(20, partial(tell, operator))
    with pytest.raises(TaskDeferred) as caught:
        attempt.start()
    assert len(server.tasks) <= told_at[0] + SUBMITS_AT_ONCE
    assert store.submitted == server.accepted.keys()
    server.emulator.clear_faults()
    attempt.on_start = lambda _: None
    assert ids(attempt.resume(caught.value)) == list(range(1, 201))
    assert set(server.accepted.values()) == {1}


def test_a_worker_told_to_end_with_nothing_under_way_leaves_the_rest_to_a_retry(server: Server) -> None:
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=0.05, times=None))
    store = Store()
    attempt = Try(store, segments=segments(100))
    attempt.on_start = lambda operator: server.once_accepted(20, operator.on_kill)
    line = ends(attempt, PartialFailureError)
    assert line.endswith("…): the task was told to end")
    assert attempt.summary["ok"] == sorted(server.accepted)
    assert ids(Try(store, 2, segments=segments(100)).run()) == list(range(1, 101))
    assert set(server.accepted.values()) == {1}


# --- what stops it


@pytest.mark.parametrize("mode", MODES)
def test_after_the_deadline_no_more_is_submitted_and_what_is_done_stays(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=0.5, times=None))
    attempt = Try(Store(), segments=segments(300), timeout=8, deferrable=mode == "deferrable")
    line = ends(attempt, AirflowSensorTimeout)
    submitted = len(server.tasks)
    assert 0 < submitted < 300
    assert f"{300 - submitted} of 300 segments were not counted; {300 - submitted} not submitted (" in line
    assert line.endswith("): not all were submitted within timeout (8 s); the rest was not")
    assert attempt.summary["ok"] == list(range(1, submitted + 1))
    assert attempt.summary["not_submitted"] == list(range(submitted + 1, 301))


@pytest.mark.parametrize("mode", MODES)
def test_a_server_too_busy_until_the_deadline_gets_no_request_after_it(server: Server, mode: str) -> None:
    busy = Fault("http", endpoint=SUBMIT, status=429, retry_after="30", times=None)
    server.emulator.add_fault(busy)
    attempt = Try(Store(), segments=segments(20), timeout=6, deferrable=mode == "deferrable")
    line = ends(attempt, AirflowSensorTimeout)
    assert line.endswith("): not all were submitted within timeout (6 s); the rest was not")
    assert 0 < server.requests(SUBMIT) <= SUBMITS_AT_ONCE
    assert attempt.summary["not_submitted"] == list(range(1, 21))


def test_where_writing_down_takes_until_the_deadline_no_request_leaves(server: Server) -> None:
    store = Store()
    attempt = Try(store, segments=segments(3), timeout=3)

    def take_long() -> None:
        end = attempt.context["ti"].start_date.timestamp() + 3
        time.sleep(max(0.0, end - time.time()))

    store.on_set = take_long
    ends(attempt, AirflowSensorTimeout)
    assert server.emulator.journal() == []
    assert attempt.summary["not_submitted"] == [1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_a_task_is_never_asked_for_at_another_server_than_its_own(
    server: Server, connect: Callable[..., None], mode: str
) -> None:
    server.emulator.add_fault(Fault("http", endpoint=STATUS, times=None))
    store = Store()
    arguments = {"segments": segments(3), "deferrable": mode == "deferrable", "max_poll_failures": 1}
    ends(Try(store, **arguments), PartialFailureError)
    with Emulator("t0ken") as elsewhere:
        connect(elsewhere.url)
        line = ends(Try(store, 2, **arguments), AirflowFailException)
        assert f"the task was started at {server.emulator.url}" in line
        assert elsewhere.journal() == []


@pytest.mark.parametrize("mode", MODES)
def test_execution_timeout_ends_the_wait_as_airflows_own_and_a_retry_goes_on(
    server: Server, mode: str
) -> None:
    server.emulator.add_fault(Fault("task", segment_id=3, outcome="stuck"))
    store = Store()
    arguments = {"segments": segments(6), "deferrable": mode == "deferrable"}
    limit = timedelta(seconds=5)
    line = ends(Try(store, execution_timeout=limit, **arguments), AirflowTaskTimeout)
    assert "segment 3: " in line
    assert "the recount was not done within execution_timeout (5 s)" in line
    server.emulator.set_outcome(server.task_of(3), "completed")
    assert ids(Try(store, 2, execution_timeout=timedelta(hours=1), **arguments).run()) == list(range(1, 7))
    assert set(server.accepted.values()) == {1}


@pytest.mark.parametrize("accepted", [1, 20, 50, 120])
def test_airflows_alarm_ends_the_submits_wherever_it_comes_and_a_retry_goes_on(
    server: Server, accepted: int
) -> None:
    # It raises amid whatever the main thread does: an event loop there would lose it, or hang.
    store = Store()
    attempt = Try(store, segments=segments(3000), execution_timeout=timedelta(hours=1), timeout=7200)
    server.once_accepted(accepted, ring)
    line = ends(attempt, AirflowTaskTimeout)
    assert line.endswith("not all were submitted within execution_timeout (3600 s); the rest was not")
    known = store.submitted
    failed = attempt.summary["failed"].items()
    in_doubt = {int(segment_id) for segment_id, text in failed if "may or may not have submitted" in text}
    assert len(in_doubt) <= SUBMITS_AT_ONCE
    assert known <= server.accepted.keys() <= known | in_doubt
    few = [one for one in segments(3000) if one["segment_id"] in known or one["segment_id"] > 2950]
    assert len(ids(Try(store, 2, segments=few).run())) == len(few)
    assert set(server.accepted.values()) == {1}


@pytest.mark.parametrize("on_ambiguous", ["fail", "resubmit"])
def test_airflows_alarm_while_all_answers_are_awaited_is_no_success(
    server: Server, on_ambiguous: str
) -> None:
    server.emulator.add_fault(Fault("hang", endpoint=SUBMIT, times=None))
    attempt = Try(
        Store(),
        segments=segments(4),
        execution_timeout=timedelta(hours=1),
        timeout=7200,
        on_ambiguous_submit=on_ambiguous,
    )
    server.once(lambda: server.requests(SUBMIT) == 4, ring)
    kind = AirflowFailException if on_ambiguous == "fail" else AirflowTaskTimeout
    assert "4 of 4 segments were not counted" in ends(attempt, kind)


def test_airflows_alarm_amid_the_wait_keeps_the_rows_there_are(server: Server) -> None:
    server.emulator.add_fault(Fault("task", segment_id=3, outcome="stuck"))
    attempt = Try(Store(), segments=segments(6), execution_timeout=timedelta(hours=1), timeout=7200)
    # By then only the stuck one is still looked at.
    server.once(lambda: server.requests(STATUS) > 12, ring)
    line = ends(attempt, AirflowTaskTimeout)
    task_id = server.task_of(3)
    assert line.endswith(f"within execution_timeout (3600 s); it goes on at the server as task {task_id}")
    assert attempt.summary["ok"] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("code", [401, 402])
@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_token_or_the_tariff_limit_stops_the_submits(server: Server, mode: str, code: int) -> None:
    server.emulator.add_fault(Fault("api_error", endpoint=SUBMIT, code=code, skip=10, times=None))
    attempt = Try(Store(), segments=segments(200), deferrable=mode == "deferrable")
    line = ends(attempt, AirflowFailException)
    assert f"API error {code}: Emulated error" in line
    assert len(attempt.summary["ok"]) == 10
    assert len(attempt.summary["not_submitted"]) == 190
    assert attempt.summary["failed"] == {}
    tries = 2 if code == 401 else 1  # the token might have been rotated
    assert server.requests(SUBMIT) <= 10 + SUBMITS_AT_ONCE * tries


def test_a_server_that_dies_stops_the_submits_and_a_retry_doubles_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAX_SUBMIT_FAILURES", 2)  # a second, not ten
    store = Store()
    attempt = Try(store, segments=segments(600), max_poll_failures=1)
    stopping = server.once_accepted(70, server.emulator.stop)
    try:
        ends(attempt, PartialFailureError)
        stopping.join()
    finally:
        server.emulator.start()
    again = Try(store, 2, segments=segments(600))
    lost = failed_after(again)
    assert len(lost) <= SUBMITS_AT_ONCE
    assert set(again.summary["ok"]) == set(range(1, 601)) - lost
    assert set(server.accepted.values()) == {1}


@pytest.mark.parametrize("wire", ["json", "xml"])
@pytest.mark.parametrize(
    "busy", [{"kind": "http", "status": 429}, {"kind": "api_error", "code": 429}], ids=str
)
def test_a_server_that_takes_some_and_is_too_busy_for_others_gets_them_all_in_time(
    server: Server, monkeypatch: pytest.MonkeyPatch, busy: Any, wire: Any
) -> None:
    monkeypatch.setattr(policy, "MAX_SUBMIT_FAILURES", 2)
    for segment_id in (3, 13, 23):
        server.emulator.add_fault(Fault(endpoint=SUBMIT, segment_id=segment_id, times=2, **busy))
    attempt = Try(Store(), segments=segments(60), format=wire)
    assert ids(attempt.run()) == list(range(1, 61))
    assert set(server.accepted.values()) == {1}


def test_a_segment_that_the_server_is_always_too_busy_for_stops_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAX_SUBMIT_FAILURES", 2)
    server.emulator.add_fault(Fault("http", endpoint=SUBMIT, segment_id=3, times=None))
    attempt = Try(Store(), segments=segments(60))
    assert ends(attempt, PartialFailureError).endswith("1 not submitted (3): " + AWAY)
    assert len(attempt.summary["ok"]) == 59


@pytest.mark.parametrize("max_in_flight", [3, 200])
def test_five_lost_answers_in_a_row_stop_the_submits_and_a_retry_goes_on(
    server: Server, max_in_flight: int
) -> None:
    server.emulator.add_fault(Fault("lost_answer", endpoint=SUBMIT, skip=10, times=100))
    store = Store()
    attempt = Try(store, segments=segments(200), max_in_flight=max_in_flight)
    line = ends(attempt, PartialFailureError)
    assert "the answers to 5 submits in a row were lost" in line
    lost = attempt.summary["failed"]
    # Some that were lost may be known before the last that was accepted is.
    assert 5 <= len(lost) <= 5 + 2 * SUBMITS_AT_ONCE
    assert len(attempt.summary["ok"]) == 10
    server.emulator.clear_faults()
    again = Try(store, 2, segments=segments(200))
    assert failed_after(again) == set(map(int, lost))
    assert len(again.summary["ok"]) == 200 - len(lost)
    assert set(server.accepted.values()) == {1}


def test_answers_lost_now_and_then_fail_their_segments_only(server: Server) -> None:
    for segment_id in range(10, 200, 10):
        server.emulator.add_fault(Fault("lost_answer", endpoint=SUBMIT, segment_id=segment_id))
    attempt = Try(Store(), segments=segments(200))
    ends(attempt, AirflowFailException)
    assert [int(segment_id) for segment_id in attempt.summary["failed"]] == list(range(10, 200, 10))
    assert attempt.summary["not_submitted"] == []


def test_a_segment_whose_answers_are_always_lost_stops_no_other_when_resubmitted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAX_SUBMIT_FAILURES", 2)
    server.emulator.add_fault(Fault("reset", endpoint=SUBMIT, segment_id=3, times=None))
    attempt = Try(Store(), segments=segments(100), on_ambiguous_submit="resubmit")
    ends(attempt, PartialFailureError)
    assert list(attempt.summary["failed"]) == ["3"]
    assert len(attempt.summary["ok"]) == 99


@pytest.mark.parametrize("mode", MODES)
def test_segments_submitted_again_though_their_answers_were_lost_are_counted(
    server: Server, mode: str
) -> None:
    for segment_id in (3, 8):
        server.emulator.add_fault(Fault("lost_answer", endpoint=SUBMIT, segment_id=segment_id))
    attempt = Try(
        Store(), segments=segments(12), on_ambiguous_submit="resubmit", deferrable=mode == "deferrable"
    )
    assert ids(attempt.run()) == list(range(1, 13))
    assert server.accepted == {**dict.fromkeys(range(1, 13), 1), 3: 2, 8: 2}
    assert (attempt.summary["submits"], attempt.summary["resubmitted"]) == (12, 2)


@pytest.mark.parametrize("mode", MODES)
def test_segments_that_are_refused_leave_their_room_to_others(server: Server, mode: str) -> None:
    for segment_id in (1, 2, 3, 4):
        fault = Fault("api_error", endpoint=SUBMIT, segment_id=segment_id, code=440, times=None)
        server.emulator.add_fault(fault)
    attempt = Try(Store(), segments=segments(9), max_in_flight=2, deferrable=mode == "deferrable")
    ends(attempt, AirflowFailException)
    assert list(attempt.summary["failed"]) == ["1", "2", "3", "4"]
    assert attempt.summary["ok"] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"segments": iter([*segments(2), *segments(1)])}, "segments that stand in the list twice: 1"),
        ({"segments": iter([{"segment_id": 1}])}, "a segment needs segment_id and resource_id"),
        ({"segstats_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection"),
        (
            {
                "segments": [
                    *segments(2),
                    {"segment_id": 3, "resource_id": 24, "extra_params": {"token": "x"}},
                ]
            },
            "segment 3: extra_params may not set token",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    server: Server, arguments: dict[str, Any], line: str
) -> None:
    attempt = Try(Store(), **{"segments": segments(2), **arguments})
    with pytest.raises(AirflowFailException) as caught:
        attempt.run()
    assert line in str(caught.value)
    assert server.emulator.journal() == []


# --- what else comes of it


def test_without_a_store_the_task_waits_on_the_worker(server: Server) -> None:
    server.emulator.configure(seconds=0.2)
    attempt = Try(None, segments=segments(30), max_in_flight=10, deferrable=True)
    assert len(ids(attempt.run())) == 30
    assert attempt.deferrals == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_retry_repeats_only_what_did_not_finish(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("task", segment_id=2, outcome="failed", text="No such list"))
    server.emulator.add_fault(Fault("http", endpoint=STATUS, segment_id=4))
    store = Store()
    arguments = {"segments": segments(6), "deferrable": mode == "deferrable", "max_poll_failures": 1}
    ends(Try(store, **arguments), PartialFailureError)
    looks = server.requests(STATUS)
    assert ids(Try(store, 2, **arguments).run()) == list(range(1, 7))
    assert server.accepted == {1: 1, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}
    assert (
        server.requests(STATUS) - looks <= 5
    )  # of the two: one each to see what became of them, and the wait


def test_running_answers_too_large_for_an_event_loop_are_looked_at_at_the_same_pace(server: Server) -> None:
    body = '{"error": 0, "data": {"status": "running", "result": "%s"}}' % ("x" * 70_000)
    server.emulator.add_fault(Fault("reply", endpoint=STATUS, body=body, times=None))
    attempt = Try(Store(), segments=segments(1), timeout=4, poke_interval=1)
    ends(attempt, AirflowSensorTimeout)
    assert 2 <= server.requests(STATUS) <= 6


@pytest.mark.parametrize("mode", MODES)
def test_large_pages_that_are_no_answers_are_looks_that_failed(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("html", endpoint=STATUS, body="<html>" + "x" * 70_000, times=None))
    attempt = Try(Store(), segments=segments(1), deferrable=mode == "deferrable", max_poll_failures=2)
    line = ends(attempt, PartialFailureError)
    assert "the answer is not XML" in line
    assert attempt.deferrals <= 1
    assert server.requests(STATUS) <= 3


def test_where_no_triggerer_was_there_at_the_end_the_worker_looks_once_more(server: Server) -> None:
    server.emulator.add_fault(Fault("task", segment_id=3, outcome="stuck"))
    attempt = Try(Store(), segments=segments(6), deferrable=True)
    with pytest.raises(TaskDeferred):
        attempt.start()
    attempt.context["ti"].start_date -= timedelta(hours=1)
    no_triggerer = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    line = ends(attempt, AirflowSensorTimeout, lambda late: late.resume_with(TRIGGER_FAIL_REPR, no_triggerer))
    assert "segment 3: " in line
    assert attempt.summary["ok"] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire_format", ["json", "xml"])
def test_a_server_whose_answers_bend_the_rules_of_http_is_read(
    connect: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    sample: Callable[[str], bytes],
    mode: str,
    wire_format: str,
) -> None:
    monkeypatch.setattr(policy, "SHORTEST_DEFERRAL", 0.05)

    def behave(connection: socket.socket, server: OddServer) -> None:
        while request := server.read(connection):
            endpoint = "refresh_counters" if b"/refresh_counters" in request else "tasks_status"
            body = sample(f"{endpoint}.response.{wire_format}")
            head = b"HTTP/1.1 200 OK\r\nX-Odd : 1\r\nContent-Type: application/%b\r\n" % wire_format.encode()
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with OddServer(behave) as server:
        connect(server.url, format=wire_format)
        attempt = Try(Store(), segments=segments(3), deferrable=mode == "deferrable")
        assert ids(attempt.run()) == [1, 2, 3]
    assert attempt.summary["submits"] == 3


# --- one segment


@pytest.mark.parametrize("mode", MODES)
def test_a_retry_goes_on_with_the_one_recount_which_takes_two_writes(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("http", endpoint=STATUS, segment_id=7))
    store = Store()
    arguments = {"segment_id": 7, "resource_id": 24, "wait_for_completion": True, "max_poll_failures": 1}
    first = Try(store, **arguments, deferrable=mode == "deferrable")
    with pytest.raises(HttpStatusError):
        first.run()
    assert store.sets == 2
    again = Try(store, 2, **arguments, deferrable=mode == "deferrable")
    assert ids(again.run()) == [7]
    assert first.xcom["task_id"] == again.xcom["task_id"] == server.tasks[0].task_id
    assert server.accepted == {7: 1}


@pytest.mark.parametrize("mode", MODES)
def test_a_retry_starts_the_one_recount_afresh_that_failed(server: Server, mode: str) -> None:
    server.emulator.add_fault(Fault("task", segment_id=7, outcome="failed", text="No such list"))
    store = Store()
    arguments = {"segment_id": 7, "resource_id": 24, "wait_for_completion": True}
    with pytest.raises(TaskFailedError):
        Try(store, **arguments, deferrable=mode == "deferrable").run()
    looks = server.requests(STATUS)
    assert ids(Try(store, 2, **arguments, deferrable=mode == "deferrable").run()) == [7]
    assert server.accepted == {7: 2}
    assert server.requests(STATUS) == looks + 1  # none at the one that had failed


def test_one_segment_is_in_doubt_when_its_request_leaves_and_not_where_it_cannot(server: Server) -> None:
    store = Store()
    with pytest.raises(AirflowFailException, match="extra_params may not set token"):
        Try(store, segment_id=7, resource_id=24, extra_params={"token": "x"}).run()
    assert store.sets == 0
    kept: list[set[int]] = []
    server.emulator.add_fault(Fault("delay", endpoint=SUBMIT, seconds=2.0))
    server.once_accepted(1, lambda: kept.append(store.in_doubt))
    Try(store, segment_id=7, resource_id=24).run()
    assert kept == [{7}]
    assert (store.in_doubt, store.submitted) == (set(), {7})


def test_one_segment_is_not_submitted_after_the_deadline(server: Server) -> None:
    busy = Fault("http", endpoint=SUBMIT, status=429, retry_after="30", times=None)
    server.emulator.add_fault(busy)
    store = Store()
    with pytest.raises(AirflowSensorTimeout, match=r"could not be submitted within timeout \(5 s\)"):
        Try(store, segment_id=7, resource_id=24, timeout=5).run()
    assert server.requests(SUBMIT) == 1
    assert store.in_doubt == set()


def test_the_one_recount_is_never_asked_for_at_another_server(
    server: Server, connect: Callable[..., None]
) -> None:
    store = Store()
    Try(store, segment_id=7, resource_id=24).run()
    with Emulator("t0ken") as elsewhere:
        connect(elsewhere.url)
        with pytest.raises(AirflowFailException, match=f"the task was started at {server.emulator.url}"):
            Try(store, 2, segment_id=7, resource_id=24, wait_for_completion=True).run()
        assert elsewhere.journal() == []
