"""The flows, driven by hand: what they ask for, in which order, with a clock that only we move."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_segstats.core import api, flows
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    ConfigurationError,
    ExecutionTimeoutError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.flows import Pause, Reload, Send, Submitted, World
from airflow_provider_segstats.core.model import Entry, Segment, TaskStatus
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.core.settings import Settings

SEGMENT = Segment(7, 24)
RUNNING, QUEUED = TaskStatus("running", 40, ()), TaskStatus("queued", None, ())
DONE, FAILED = TaskStatus("completed", 100, ()), TaskStatus("failed", 70, (), "No such list")
LOST = NoAnswerError("the connection was closed")
BAD_TOKEN = ApiError("API error 401: no", code=401)


def settings(token: str = "t", **extra: Any) -> Settings:  # noqa: S107
    return Settings.from_fields(host="example.com", password=token, extra=extra)


class Drive:
    """Drives a flow through a script of outcomes; pauses move the clock, the steps are kept."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.steps: list[Any] = []
        self.world = World(now=lambda: self.now, chance=lambda: 0.0, log=logging.getLogger("test"))

    def run(self, flow: flows.Flow[Any], *outcomes: object) -> Any:
        script = iter(outcomes)
        step = next(flow)
        while True:
            self.steps.append(step)
            outcome = None
            if isinstance(step, Pause):
                self.now += step.seconds
            else:
                outcome = next(script)
            try:
                step = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
            except StopIteration as end:
                assert list(script) == [], "the flow ended before its script"
                return end.value

    @property
    def pauses(self) -> list[float]:
        return [step.seconds for step in self.steps if isinstance(step, Pause)]

    @property
    def tokens(self) -> list[str]:
        sent = (step.call.request.body for step in self.steps if isinstance(step, Send))
        return [json.loads(body)["token"] for body in sent]


@pytest.fixture
def drive() -> Drive:
    return Drive()


def error_like(error: SegStatsError) -> SegStatsError:
    """Return a new error of the kind: a flow writes on those it is thrown."""
    return type(error)(error.message, code=error.code, http_status=error.http_status)


class TestOneCall:
    def test_one_call_is_sent_once_and_gives_its_outcome(self, drive: Drive) -> None:
        call = api.list_databases(settings())
        assert drive.run(flows.one_call(call), "outcome") == "outcome"
        assert drive.steps == [Send(call)]

    def test_one_call_that_fails_is_not_repeated(self, drive: Drive) -> None:
        with pytest.raises(NoAnswerError):
            drive.run(flows.one_call(api.list_databases(settings())), error_like(LOST))


class TestSubmit:
    def test_an_accepted_submit_gives_the_task_id_and_the_server_that_knows_it(self, drive: Drive) -> None:
        submitted = drive.run(flows.submit(settings(), SEGMENT, "fail", drive.world), "task_1")
        assert submitted == Submitted("task_1", "https://example.com/api/v1.1", repeated=False)
        [step] = drive.steps
        assert step.call.endpoint == "segments/refresh_counters"

    def test_a_submit_that_nobody_accepted_is_sent_again_after_a_pause(self, drive: Drive) -> None:
        errors = NotSentError("refused"), HttpStatusError("x", http_status=503, retry_after=17)
        flow = flows.submit(settings(), SEGMENT, "fail", drive.world)
        submitted = drive.run(flow, *errors, "task_1")
        assert (submitted.task_id, submitted.repeated) == ("task_1", False)
        assert [type(step) for step in drive.steps] == [Send, Pause, Send, Pause, Send]
        assert drive.pauses == [1, 17]
        assert all(step.failures for step in drive.steps if isinstance(step, Pause))

    def test_the_connection_says_which_http_statuses_are_refusals(self, drive: Drive) -> None:
        mesh = settings(refused_statuses="429")
        busy = HttpStatusError("x", http_status=429), HttpStatusError("x", http_status=503)
        with pytest.raises(AmbiguousSubmitError):
            drive.run(flows.submit(mesh, SEGMENT, "fail", drive.world), *busy)
        assert [type(step) for step in drive.steps] == [Send, Pause, Send]

    def test_an_ambiguous_submit_is_sent_once(self, drive: Drive) -> None:
        with pytest.raises(AmbiguousSubmitError):
            drive.run(flows.submit(settings(), SEGMENT, "fail", drive.world), error_like(LOST))
        assert len(drive.steps) == 1

    def test_an_ambiguous_submit_is_sent_again_when_asked_and_says_so(self, drive: Drive) -> None:
        flow = flows.submit(settings(), SEGMENT, "resubmit", drive.world)
        submitted = drive.run(flow, error_like(LOST), "task_2")
        assert (submitted.task_id, submitted.repeated) == ("task_2", True)

    def test_an_api_error_ends_a_submit_for_good(self, drive: Drive) -> None:
        with pytest.raises(ApiError) as caught:
            drive.run(flows.submit(settings(), SEGMENT, "resubmit", drive.world), ApiError("x", code=440))
        assert caught.value.permanent

    def test_a_submit_gives_up_after_five_refusals(self, drive: Drive) -> None:
        refusals = [NotSentError("refused") for _ in range(5)]
        with pytest.raises(NotSentError):
            drive.run(flows.submit(settings(), SEGMENT, "fail", drive.world), *refusals)
        assert drive.pauses == [1, 2, 4, 8]

    def test_a_401_reads_the_connection_once_and_goes_on_with_the_new_token(self, drive: Drive) -> None:
        flow = flows.submit(settings("old"), SEGMENT, "fail", drive.world)
        submitted = drive.run(flow, error_like(BAD_TOKEN), settings("new"), "task_1")
        assert (submitted.task_id, submitted.repeated) == ("task_1", False)
        assert drive.tokens == ["old", "new"]

    def test_a_second_401_is_permanent(self, drive: Drive) -> None:
        flow = flows.submit(settings(), SEGMENT, "resubmit", drive.world)
        with pytest.raises(ApiError) as caught:
            drive.run(flow, error_like(BAD_TOKEN), settings(), error_like(BAD_TOKEN))
        assert caught.value.permanent

    def test_a_submit_that_a_moved_connection_sends_elsewhere_tells_that_server(self, drive: Drive) -> None:
        moved = replace(settings("new"), base_url="https://elsewhere.example/api/v1.1")
        flow = flows.submit(settings("old"), SEGMENT, "fail", drive.world)
        submitted = drive.run(flow, error_like(BAD_TOKEN), moved, "task_1")
        assert submitted.base_url == "https://elsewhere.example/api/v1.1"

    def test_no_submit_is_asked_for_after_the_deadline_and_the_end_says_why(self, drive: Drive) -> None:
        limited = HttpStatusError("HTTP 429", http_status=429, retry_after=4)
        plan = plan_from(drive.now, timeout=2)
        flow = flows.submit(settings(), SEGMENT, "fail", drive.world, plan)
        late = flows.TooLateError()
        with pytest.raises(WaitTimeoutError) as caught:
            drive.run(flow, limited, late)
        assert drive.pauses == [2]
        assert str(caught.value) == (
            "segments/refresh_counters: the recount could not be submitted within timeout (2 s); "
            "the latest try: HTTP 429"
        )
        assert [step.is_too_late(1002, 0) for step in drive.steps if isinstance(step, Send)] == [True, True]

    def test_a_submit_that_is_on_the_wire_at_the_deadline_is_taken(self, drive: Drive) -> None:
        flow = flows.submit(settings(), SEGMENT, "fail", drive.world, plan_from(drive.now, timeout=2))
        assert drive.run(flow, "task_1").task_id == "task_1"


class TestSend:
    @pytest.mark.parametrize(
        ("now", "turn", "look", "submit"),
        [
            (99, 0, False, False),
            (99, 0.5, False, False),
            (99, 2, True, True),
            (100, 0, False, True),
            (101, 0, False, True),
            (101, 0.5, True, True),
        ],
    )
    def test_a_look_leaves_at_its_deadline_if_it_is_its_turn_and_a_submit_only_before(
        self, now: float, turn: float, look: bool, submit: bool
    ) -> None:
        call = api.list_databases(settings())
        assert Send(call, 100).is_too_late(now, turn) is look
        assert Send(call, 100, strict=True).is_too_late(now, turn) is submit


class TestWait:
    def wait(self, drive: Drive, *outcomes: object, **bounds: Any) -> Any:
        plan = plan_from(drive.now, **{"poke_interval": 10.0, **bounds})
        return drive.run(flows.wait(settings(), "task_1", plan, drive.world), *outcomes)

    def test_a_done_task_is_looked_at_once(self, drive: Drive) -> None:
        assert self.wait(drive, DONE) is DONE
        [step] = drive.steps
        assert json.loads(step.call.request.body) == {"token": "t", "task_id": "task_1"}

    def test_a_running_task_is_looked_at_until_it_is_done(self, drive: Drive) -> None:
        assert self.wait(drive, QUEUED, RUNNING, RUNNING, DONE) is DONE
        assert drive.steps[1::2] == [Pause(10, failures=0)] * 3

    def test_a_completed_task_with_an_entry_in_progress_is_not_done(self, drive: Drive) -> None:
        stale = TaskStatus("completed", 100, (Entry((), True, 1, 2, "u"),))
        assert self.wait(drive, stale, DONE) is DONE

    def test_the_learned_schedule_counts_from_the_start_of_the_wait(self, drive: Drive) -> None:
        plan = plan_from(drive.now - 900)
        drive.run(flows.wait(settings(), "task_1", plan, drive.world), RUNNING, DONE)
        assert drive.pauses == [pytest.approx(45 * 0.9)]

    def test_a_failed_look_is_repeated_after_the_backoff_and_is_no_pending_task(self, drive: Drive) -> None:
        limited = HttpStatusError("x", http_status=429, retry_after=55)
        assert self.wait(drive, error_like(LOST), limited, ApiError("x", code=440), DONE) is DONE
        assert drive.steps[1::2] == [Pause(1, 1), Pause(55, 2), Pause(4, 3)]

    def test_a_success_between_failures_makes_the_count_begin_anew(self, drive: Drive) -> None:
        script = [error_like(LOST), error_like(LOST), RUNNING] * 4
        assert self.wait(drive, *script, DONE, max_poll_failures=3) is DONE
        assert drive.pauses == [1, 2, 10] * 4

    def test_failures_in_a_row_end_the_wait_as_the_last_of_them(self, drive: Drive) -> None:
        with pytest.raises(NoAnswerError) as caught:
            self.wait(drive, RUNNING, NotSentError("x"), error_like(LOST), max_poll_failures=2)
        error = caught.value
        assert (error.task_id, error.status, error.progress) == ("task_1", "running", 40)

    def test_a_permanent_error_ends_the_wait_at_once(self, drive: Drive) -> None:
        with pytest.raises(ApiError) as caught:
            self.wait(drive, ApiError("x", code=403))
        assert (caught.value.task_id, caught.value.status) == ("task_1", None)

    def test_a_failed_task_ends_the_wait_with_all_that_is_known(self, drive: Drive) -> None:
        with pytest.raises(TaskFailedError) as caught:
            self.wait(drive, RUNNING, FAILED)
        error = caught.value
        assert (error.task_id, error.status, error.progress) == ("task_1", "failed", 70)
        assert (error.text, error.endpoint) == ("No such list", "tasks/status")

    def test_which_statuses_are_failures_is_read_from_the_settings(self, drive: Drive) -> None:
        of = settings(failure_statuses=["running"])
        with pytest.raises(TaskFailedError):
            drive.run(flows.wait(of, "task_1", plan_from(drive.now), drive.world), RUNNING)

    def test_a_last_look_falls_on_the_deadline(self, drive: Drive) -> None:
        assert self.wait(drive, *[RUNNING] * 3, DONE, timeout=25) is DONE
        assert drive.pauses == [10, 10, 5]

    def test_past_the_deadline_the_wait_ends_with_the_last_status(self, drive: Drive) -> None:
        with pytest.raises(WaitTimeoutError) as caught:
            self.wait(drive, QUEUED, *[RUNNING] * 3, timeout=25)
        error = caught.value
        assert (error.task_id, error.status, error.progress) == ("task_1", "running", 40)
        assert drive.now == 1025

    def test_a_deadline_that_lies_in_the_past_still_gives_one_look(self, drive: Drive) -> None:
        drive.now = 10_000
        done = flows.wait(settings(), "task_1", plan_from(0, timeout=1), drive.world)
        assert drive.run(done, DONE) is DONE
        late = flows.wait(settings(), "task_1", plan_from(0, timeout=1), drive.world)
        with pytest.raises(WaitTimeoutError):
            drive.run(late, RUNNING)

    def test_an_execution_timeout_that_is_sooner_ends_the_wait(self, drive: Drive) -> None:
        with pytest.raises(ExecutionTimeoutError):
            self.wait(drive, RUNNING, RUNNING, timeout=25, execution_timeout=7)
        assert drive.pauses == [7]

    def test_failed_looks_do_not_outlast_the_deadline(self, drive: Drive) -> None:
        busy = HttpStatusError("x", http_status=503, retry_after=200)
        with pytest.raises(WaitTimeoutError, match="it was never seen"):
            self.wait(drive, busy, error_like(LOST), timeout=30)
        assert drive.pauses == [30]

    def test_failures_of_others_at_the_server_count_where_they_are_more(self, drive: Drive) -> None:
        told = NotSentError("the server failed 5 times in a row")
        told.in_a_row = 5
        with pytest.raises(NotSentError):
            self.wait(drive, RUNNING, error_like(LOST), told, max_poll_failures=5)
        assert drive.pauses == [10, 1]

    def test_failures_before_the_wait_was_handed_over_count_with_those_of_others(self, drive: Drive) -> None:
        plan = replace(plan_from(drive.now, max_poll_failures=5), failures=2)
        flow = flows.wait(settings(), "task_1", plan, drive.world)
        told = NotSentError("the server failed 3 times in a row")
        told.in_a_row = 3
        with pytest.raises(NotSentError):
            drive.run(flow, told)
        assert [step.bears for step in drive.steps] == [3]

    def test_a_look_that_did_not_leave_in_time_ends_the_wait_at_its_deadline(self, drive: Drive) -> None:
        with pytest.raises(WaitTimeoutError) as caught:
            self.wait(drive, RUNNING, flows.TooLateError(), timeout=25)
        assert (caught.value.task_id, caught.value.status) == ("task_1", "running")

    def test_a_wait_that_begins_after_its_end_has_a_minute_for_its_one_look(self, drive: Drive) -> None:
        drive.now = 10_000
        flow = flows.wait(settings(), "task_1", plan_from(0, timeout=1), drive.world)
        assert drive.run(flow, DONE) is DONE
        assert [step.by for step in drive.steps] == [10_060]


class TestServer:
    """A task is known to the server that started it, and to no other."""

    HERE = "https://example.com/api/v1.1"

    def moved(self) -> Settings:
        return replace(settings("new"), base_url="https://elsewhere.example/api/v1.1")

    def test_a_task_of_another_server_is_not_asked_for(self, drive: Drive) -> None:
        sight = flows.Sight("task_1", self.HERE)
        with pytest.raises(
            ConfigurationError, match=f"^the task was started at {self.HERE}, and the"
        ) as caught:
            drive.run(flows.wait(self.moved(), "task_1", plan_from(drive.now), drive.world, sight))
        assert (caught.value.task_id, drive.steps) == ("task_1", [])

    def test_the_server_of_the_first_look_is_the_tasks_where_none_was_told(self, drive: Drive) -> None:
        sight = flows.Sight("task_1")
        drive.run(flows.wait(settings(), "task_1", plan_from(drive.now), drive.world, sight), DONE)
        assert sight.base_url == self.HERE

    def test_a_connection_that_leads_elsewhere_after_a_401_ends_the_wait(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        with pytest.raises(ConfigurationError, match=r"leads to https://elsewhere\.example"):
            drive.run(flow, RUNNING, error_like(BAD_TOKEN), self.moved())

    def test_a_connection_that_leads_elsewhere_after_five_failures_ends_the_wait(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        with pytest.raises(ConfigurationError, match=r"leads to https://elsewhere\.example"):
            drive.run(flow, *[error_like(LOST) for _ in range(5)], self.moved())

    def test_a_connection_that_cannot_be_read_after_five_failures_ends_nothing(self, drive: Drive) -> None:
        flow = flows.wait(settings(), "task_1", plan_from(drive.now), drive.world)
        away = SegStatsError("Airflow's own API server is away")
        assert drive.run(flow, *[error_like(LOST) for _ in range(5)], away, DONE) is DONE

    def test_a_reading_may_change_all_but_the_server(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        new = settings("new", proxy="http://proxy:3128", requests_per_second=5)
        assert drive.run(flow, error_like(BAD_TOKEN), new, DONE) is DONE
        assert drive.tokens == ["old", "new"]


class TestFirstLook:
    @pytest.mark.parametrize(
        ("bounds", "pauses"),
        [
            ({"first_look": 1010.0}, [Pause(10, failures=0)]),
            ({"first_look": 1000.0}, []),
            ({"first_look": 900.0}, []),
            ({"first_look": 1010.0, "deadline": 1004.0}, [Pause(4, failures=0)]),
            ({"first_look": 1010.0, "execution_deadline": 1004.0}, [Pause(4, failures=0)]),
            ({"first_look": 1010.0, "deadline": 999.0}, []),
        ],
    )
    def test_no_look_is_made_before_the_first_is_due_or_a_deadline_ends(
        self, drive: Drive, bounds: dict[str, float], pauses: list[Pause]
    ) -> None:
        plan = replace(plan_from(drive.now), **bounds)
        assert drive.run(flows.wait(settings(), "task_1", plan, drive.world), DONE) is DONE
        assert drive.steps[:-1] == pauses


class TestRotatedToken:
    def test_a_401_reads_the_connection_once_and_goes_on_with_the_new_token(self, drive: Drive) -> None:
        plan = plan_from(drive.now, poke_interval=10.0)
        flow = flows.wait(settings("old"), "task_1", plan, drive.world)
        new = settings("new")
        assert drive.run(flow, RUNNING, error_like(BAD_TOKEN), new, RUNNING, DONE) is DONE
        assert [type(step) for step in drive.steps] == [Send, Pause, Send, Reload, Send, Pause, Send]
        assert drive.tokens == ["old", "old", "new", "new"]

    def test_an_http_401_without_an_api_body_does_the_same(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        assert drive.run(flow, HttpStatusError("x", http_status=401), settings("new"), DONE) is DONE

    def test_a_second_401_in_a_row_is_permanent(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        with pytest.raises(ApiError) as caught:
            drive.run(flow, error_like(BAD_TOKEN), settings("old"), error_like(BAD_TOKEN))
        assert caught.value.permanent
        assert caught.value.task_id == "task_1"

    def test_a_network_error_between_two_401_does_not_allow_another_reading(self, drive: Drive) -> None:
        flow = flows.wait(settings("old"), "task_1", plan_from(drive.now), drive.world)
        script = error_like(BAD_TOKEN), settings("old"), error_like(LOST), error_like(BAD_TOKEN)
        with pytest.raises(ApiError):
            drive.run(flow, *script)

    def test_a_token_may_be_rotated_again_after_a_success(self, drive: Drive) -> None:
        flow = flows.wait(settings("a"), "task_1", plan_from(drive.now), drive.world)
        script = error_like(BAD_TOKEN), settings("b"), RUNNING, error_like(BAD_TOKEN), settings("c"), DONE
        assert drive.run(flow, *script) is DONE
        assert drive.tokens == ["a", "b", "b", "c"]

    def test_the_new_settings_failure_statuses_count(self, drive: Drive) -> None:
        flow = flows.wait(settings("a"), "task_1", plan_from(drive.now), drive.world)
        with pytest.raises(TaskFailedError):
            drive.run(flow, error_like(BAD_TOKEN), settings("b", failure_statuses=["running"]), RUNNING)

    def test_a_connection_that_has_gone_meanwhile_ends_the_wait(self, drive: Drive) -> None:
        flow = flows.wait(settings("a"), "task_1", plan_from(drive.now), drive.world)
        with pytest.raises(SegStatsError, match="gone") as caught:
            drive.run(flow, error_like(BAD_TOKEN), SegStatsError("gone", permanent=True))
        assert caught.value.task_id == "task_1"


class TestLog:
    """What a wait tells its log, the same whoever drives it."""

    def lines(self, *outcomes: object, **before: Any) -> list[str]:
        book: list[str] = []

        class Book:
            def info(self, message: str, *args: Any) -> None:
                book.append(message % args)

            warning = info

        drive = Drive()
        drive.world = replace(drive.world, log=Book())
        plan = replace(plan_from(1000.0, timeout=3600, poke_interval=10), **before)
        drive.run(flows.wait(settings(), "t", plan, drive.world), *outcomes)
        return book

    def test_each_change_of_status_has_a_line_that_says_when_the_next_look_is(self) -> None:
        assert self.lines(QUEUED, QUEUED, RUNNING, DONE) == [
            "Task t is 'queued'; the next look is in 10 s",
            "Task t is 'running', 40 %; the next look is in 10 s",
            "Task t is 'completed', 100 %",
        ]

    def test_each_tenth_of_the_way_has_a_line_half_a_minute_apart_at_least(self) -> None:
        way = [TaskStatus("running", percent, ()) for percent in (5, 12, 20, 25, 26, 27, 28, 31)]

        assert self.lines(*way, DONE) == [
            "Task t is 'running', 5 %; the next look is in 10 s",
            "Task t is 'running', 25 %; the next look is in 10 s",
            "Task t is 'running', 31 %; the next look is in 10 s",
            "Task t is 'completed', 100 %",
        ]

    def test_a_look_that_failed_says_why_and_when_the_next_is(self) -> None:
        [failed, done] = self.lines(error_like(LOST), DONE)

        assert re.fullmatch(
            r"Look at task t failed \(1 in a row\): .*the connection was closed.*; again in 1 s", failed
        )
        assert done == "Task t is 'completed', 100 %"

    def test_who_goes_on_with_a_wait_does_not_say_again_what_was_said(self) -> None:
        said = {"last_status": "running", "last_progress": 40}

        assert self.lines(RUNNING, DONE, **said) == ["Task t is 'completed', 100 %"]
