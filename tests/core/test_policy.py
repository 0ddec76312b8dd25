"""The decisions of submitting and waiting, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    CertificateError,
    ConfigurationError,
    ExecutionTimeoutError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    PartialFailureError,
    RedirectError,
    ReplyError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.model import Entry, Recountable, Segment, TaskStatus
from airflow_provider_segstats.core.policy import plan_from

SUCCESSES, FAILURES = frozenset({"completed", "success"}), frozenset({"failed", "error"})
REFUSED = frozenset({429, 503})
JITTER = st.floats(0, 1)


@pytest.mark.parametrize(
    ("failures", "jitter", "retry_after", "pause"),
    [
        (1, 0, None, 1),
        (2, 0, None, 2),
        (3, 0, None, 4),
        (6, 0, None, 32),
        (7, 0, None, 60),
        (1000, 0, None, 60),
        (10**9, 0, None, 60),
        (1, 1, None, 0.5),
        (3, 0.5, None, 3),
        (7, 1, None, 30),
        (1, 0, 0, 1),
        (1, 0, 0.5, 1),
        (1, 0, 90, 90),
        (1, 1, 90, 90),
        (7, 0, 7, 60),
        (1, 0, 300, 300),
        (1, 0, 301, 300),
        (1, 0, 10**9, 300),
    ],
)
def test_the_pause_doubles_up_to_a_minute_and_obeys_retry_after_up_to_five(
    failures: int, jitter: float, retry_after: float | None, pause: float
) -> None:
    assert policy.backoff(failures, jitter, retry_after) == pause


PERMANENT = (
    ConfigurationError("x"),
    CertificateError("x"),
    RedirectError("x", http_status=302),
    HttpStatusError("x", http_status=404),
    HttpStatusError("x", http_status=401),
    ApiError("x", code=400),
    ApiError("x", code=401),
    ApiError("x", code=402),
    ApiError("x", code=403),
    ApiError("x", code=401, http_status=503),
)
NOT_ACCEPTED = (
    NotSentError("x"),
    HttpStatusError("x", http_status=429),
    HttpStatusError("x", http_status=503),
    ApiError("x", code=429, http_status=429),
    ApiError("x", code=429, http_status=200),
    ApiError("x", code=503, http_status=503),
    ApiError("x", code=1, http_status=429),
)
AMBIGUOUS = (
    NoAnswerError("x"),
    ReplyError("x", http_status=200),
    HttpStatusError("x", http_status=500),
    HttpStatusError("x", http_status=502),
    HttpStatusError("x", http_status=504),
    SegStatsError("x"),
)
ANY_API_CODE = (ApiError("x", code=440), ApiError("x", code=500, http_status=500), ApiError("x", code=-1))


def copy(error: SegStatsError, **more: Any) -> SegStatsError:
    details = {"http_status": error.http_status, "code": error.code, **more}
    return type(error)(error.message, **details)


@pytest.mark.parametrize("on_ambiguous", ["fail", "resubmit"])
@pytest.mark.parametrize("error", [*PERMANENT, *ANY_API_CODE], ids=repr)
def test_a_submit_that_was_refused_for_good_is_not_repeated(error: SegStatsError, on_ambiguous: Any) -> None:
    with pytest.raises(type(error)) as caught:
        policy.after_failed_submit(copy(error), 1, on_ambiguous, REFUSED, 0)
    assert caught.value.permanent
    assert not policy.may_have_been_accepted(caught.value)


@pytest.mark.parametrize("on_ambiguous", ["fail", "resubmit"])
@pytest.mark.parametrize("error", NOT_ACCEPTED, ids=repr)
def test_a_submit_that_nobody_accepted_is_repeated_five_times_in_all(
    error: SegStatsError, on_ambiguous: Any
) -> None:
    pauses = [policy.after_failed_submit(copy(error), n, on_ambiguous, REFUSED, 0) for n in (1, 2, 3, 4)]
    assert pauses == [1, 2, 4, 8]
    with pytest.raises(type(error)) as caught:
        policy.after_failed_submit(copy(error), 5, on_ambiguous, REFUSED, 0)
    assert not caught.value.permanent
    assert not policy.may_have_been_accepted(caught.value)


@pytest.mark.parametrize("status", [404, 408, 502])
def test_which_http_statuses_are_refusals_is_for_the_connection_to_say(status: int) -> None:
    error = HttpStatusError("x", http_status=status)
    assert policy.after_failed_submit(error, 1, "fail", frozenset({status}), 0) == 1
    assert not error.permanent


@pytest.mark.parametrize("status", [429, 503])
def test_where_no_status_is_a_refusal_one_without_an_api_body_is_ambiguous(status: int) -> None:
    with pytest.raises(AmbiguousSubmitError):
        policy.after_failed_submit(HttpStatusError("x", http_status=status), 1, "fail", frozenset(), 0)
    with pytest.raises(ApiError) as caught:  # the API itself says no
        policy.after_failed_submit(ApiError("x", code=status, http_status=status), 1, "fail", frozenset(), 0)
    assert caught.value.permanent


def test_a_submit_that_was_never_sent_is_repeated_whatever_the_connection_says() -> None:
    assert policy.after_failed_submit(NotSentError("x"), 1, "fail", frozenset(), 0) == 1


@pytest.mark.parametrize("error", NOT_ACCEPTED, ids=repr)
def test_a_submits_pause_obeys_retry_after(error: SegStatsError) -> None:
    assert policy.after_failed_submit(copy(error, retry_after=33), 1, "fail", REFUSED, 0) == 33


@pytest.mark.parametrize("error", AMBIGUOUS, ids=repr)
def test_an_ambiguous_submit_is_permanent_and_says_so(error: SegStatsError) -> None:
    assert policy.may_have_been_accepted(error)
    with pytest.raises(AmbiguousSubmitError) as caught:
        policy.after_failed_submit(copy(error, endpoint="segments/refresh_counters"), 1, "fail", REFUSED, 0)
    assert caught.value.permanent
    assert str(caught.value) == (
        "segments/refresh_counters: the recount may or may not have been accepted (x); check the platform, "
        "then clear the task, or set on_ambiguous_submit='resubmit'"
    )
    assert caught.value.http_status == error.http_status


@pytest.mark.parametrize("error", AMBIGUOUS, ids=repr)
def test_an_ambiguous_submit_is_repeated_when_asked_and_within_the_budget(error: SegStatsError) -> None:
    assert policy.after_failed_submit(copy(error), 4, "resubmit", REFUSED, 0) == 8
    with pytest.raises(type(error)) as caught:
        policy.after_failed_submit(copy(error), 5, "resubmit", REFUSED, 0)
    assert not caught.value.permanent


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_a_permanent_error_ends_the_wait(error: SegStatsError) -> None:
    with pytest.raises(type(error)):
        policy.after_failed_poll(copy(error), 1, plan_from(0), 0)


@pytest.mark.parametrize("error", [*NOT_ACCEPTED, *AMBIGUOUS, *ANY_API_CODE], ids=repr)
def test_any_other_failed_look_is_repeated_until_the_budget_ends(error: SegStatsError) -> None:
    plan = plan_from(0, max_poll_failures=3)
    assert [policy.after_failed_poll(copy(error), n, plan, 0) for n in (1, 2)] == [1, 2]
    assert policy.after_failed_poll(copy(error, retry_after=44), 2, plan, 0) == 44
    with pytest.raises(type(error)) as caught:
        policy.after_failed_poll(copy(error), 3, plan, 0)
    assert not caught.value.permanent


def test_the_default_budget_of_looks_bridges_seven_to_fourteen_minutes() -> None:
    plan = plan_from(0)
    longest, shortest = (
        sum(policy.after_failed_poll(NoAnswerError("x"), n, plan, jitter) for n in range(1, 20))
        for jitter in (0, 1)
    )
    assert 7 * 60 <= shortest < 8 * 60
    assert 14 * 60 <= longest < 15 * 60


def status(name: str, *in_progress: bool, progress: int | None = 50, text: str = "") -> TaskStatus:
    return TaskStatus(name, progress, tuple(Entry((), going, 1, 2, "u") for going in in_progress), text)


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        (status("completed"), True),
        (status("Completed", False), True),
        (status("COMPLETED", False, False), True),
        (status("success"), True),
        (status("Success", False), True),
        (status("success", True), False),
        (status("succeeded", progress=100), False),
        (status("completed", True), False),
        (status("completed", False, True), False),
        (status("running", progress=100), False),
        (status("queued", progress=None), False),
        (status("complete"), False),
        (status("finished", progress=100), False),
        (status("something new"), False),
    ],
    ids=repr,
)
def test_done_is_a_status_of_success_and_nothing_else(seen: TaskStatus, done: bool) -> None:
    assert policy.is_done(seen, SUCCESSES, FAILURES) is done


@pytest.mark.parametrize("name", ["failed", "FAILED", "Error"])
def test_a_failure_status_in_any_case_is_a_failed_task(name: str) -> None:
    with pytest.raises(TaskFailedError) as caught:
        policy.is_done(status(name, text="No such list"), SUCCESSES, FAILURES)
    assert str(caught.value) == f"the recount ended as '{name}' (progress 50): No such list"
    assert caught.value.text == "No such list"


def test_a_failure_without_a_reason_says_so() -> None:
    with pytest.raises(TaskFailedError) as caught:
        policy.is_done(status("failed", progress=None), SUCCESSES, FAILURES)
    assert str(caught.value) == "the recount ended as 'failed' (progress None): no reason given"


def test_which_statuses_are_ends_is_for_the_connection_to_say() -> None:
    ends = frozenset({"counted"}), frozenset({"dead"})
    assert policy.is_done(status("failed"), *ends) is False
    assert policy.is_done(status("completed"), *ends) is False
    assert policy.is_done(status("Counted"), *ends) is True
    with pytest.raises(TaskFailedError):
        policy.is_done(status("dead"), *ends)


@pytest.mark.parametrize(
    ("waited", "jitter", "pause"),
    [
        (0, 0.5, 3),
        (-100, 0.5, 3),
        (4, 0.5, 3),
        (100, 0.5, 15),
        (900, 0.5, 45),
        (1600, 0.5, 60),
        (10**6, 0.5, 60),
        (0, 0, 2.7),
        (0, 1, 3.3),
        (10**6, 0, 54),
        (10**6, 1, 66),
    ],
)
def test_the_learned_schedule_grows_with_the_time_waited(waited: float, jitter: float, pause: float) -> None:
    assert policy.next_look(plan_from(1000), 1000 + waited, jitter) == pytest.approx(pause)


@given(waited=st.floats(-1e6, 1e9), jitter=JITTER)
def test_the_learned_schedule_keeps_its_bounds(waited: float, jitter: float) -> None:
    assert 2.7 - 1e-6 <= policy.next_look(plan_from(0), waited, jitter) <= 66 + 1e-6


@given(waited=st.floats(0, 1e6), jitter=JITTER, interval=st.floats(0.01, 1e5))
def test_a_fixed_interval_is_kept(waited: float, jitter: float, interval: float) -> None:
    assert policy.next_look(plan_from(0, poke_interval=interval), waited, jitter) == interval


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "now", "pause"),
    [
        (100, None, 0, 30),
        (100, None, 70, 30),
        (100, None, 80, 20),  # cut short: a last look falls on the deadline
        (100, None, 99.5, 0.5),
        (100, 50, 30, 20),
        (100, 200, 90, 10),
    ],
)
def test_a_pause_ends_at_the_sooner_deadline(
    timeout: float, execution_timeout: float | None, now: float, pause: float
) -> None:
    plan = plan_from(0, timeout=timeout, execution_timeout=execution_timeout)
    assert policy.until_deadline(plan, 30, now, None, "x") == pause


@pytest.mark.parametrize("now", [100, 100.001, 10**9])
@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "kind", "name"),
    [
        (100, None, WaitTimeoutError, "timeout"),
        (100, 200, WaitTimeoutError, "timeout"),
        (100, 100, WaitTimeoutError, "timeout"),
        (200, 100, ExecutionTimeoutError, "execution_timeout"),
    ],
)
def test_past_the_sooner_deadline_the_wait_ends_in_its_own_error(
    timeout: float, execution_timeout: float | None, kind: type, name: str, now: float
) -> None:
    plan = plan_from(0, timeout=timeout, execution_timeout=execution_timeout)
    with pytest.raises(WaitTimeoutError) as caught:
        policy.until_deadline(plan, 30, now, status("running"), "task_1")
    assert type(caught.value) is kind
    assert not caught.value.permanent
    assert str(caught.value) == (
        f"the recount was not done within {name} (100 s); it was last status 'running', progress 50, "
        "and goes on at the server as task task_1"
    )


def test_a_task_that_was_never_seen_is_said_to_be() -> None:
    with pytest.raises(WaitTimeoutError, match="it was never seen, and goes on"):
        policy.until_deadline(plan_from(0, timeout=1), 30, 1, None, "x")


def test_a_plan_holds_absolute_times() -> None:
    assert plan_from(1000, timeout=60, execution_timeout=30, poke_interval=5, max_poll_failures=2) == (
        policy.WaitPlan(1000, 1060, 1030, 5, 2)
    )
    assert plan_from(1000) == policy.WaitPlan(1000, 1000 + 6 * 3600, None, None, 20)


# --- many segments in one task


@pytest.mark.parametrize(
    "error",
    [
        ApiError("x", code=401),
        ApiError("x", code=402),
        HttpStatusError("x", http_status=401),
        HttpStatusError("x", http_status=404),
        HttpStatusError("x", http_status=429),
        HttpStatusError("x", http_status=503),
        ApiError("x", code=429),
        ApiError("x", code=503, http_status=503),
        NotSentError("x"),
        ConfigurationError("x"),
        CertificateError("x"),
        RedirectError("x", http_status=302),
    ],
    ids=repr,
)
def test_what_the_next_segment_would_meet_too_stops_the_submits(error: SegStatsError) -> None:
    with pytest.raises(type(error)):
        policy.after_failed_submit(error, 5, "fail", REFUSED, 0)
    assert policy.concerns_all(error)
    assert not policy.was_lost(error)


@pytest.mark.parametrize("code", [400, 403, 404, 440, 500])
def test_an_error_of_the_apis_own_is_the_one_segments(code: int) -> None:
    error = ApiError("x", code=code)
    with pytest.raises(ApiError):
        policy.after_failed_submit(error, 1, "fail", REFUSED, 0)
    assert not policy.concerns_all(error)
    assert not policy.was_lost(error)


@pytest.mark.parametrize("error", [AmbiguousSubmitError("x"), *AMBIGUOUS], ids=repr)
def test_a_lost_answer_is_the_one_segments_whether_it_was_asked_again_or_not(error: SegStatsError) -> None:
    assert not policy.concerns_all(error)
    assert policy.was_lost(error)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (status("completed"), "go on"),
        (status("running"), "go on"),
        (status("something new"), "go on"),
        (status("FAILED"), "failed"),
        (ApiError("x", code=404), "forgotten"),
        (ApiError("x", code=440), "go on"),
        (ApiError("x", code=401), "go on"),
        (HttpStatusError("x", http_status=404), "go on"),
        (NoAnswerError("x"), "go on"),
    ],
    ids=repr,
)
def test_a_retry_goes_on_with_all_but_failed_and_forgotten_tasks(seen: Any, verdict: str) -> None:
    assert policy.reattach(seen, FAILURES, frozenset({404})) == verdict


PERMANENT_ONE, RETRYABLE = ApiError("no", code=403), NoAnswerError("away")


def segments(number: int) -> dict[int, Recountable]:
    return {segment_id: Segment(segment_id, 24) for segment_id in range(1, number + 1)}


LATE, OVERDUE = WaitTimeoutError("late"), ExecutionTimeoutError("overdue")


@pytest.mark.parametrize(
    ("errors", "stopped", "kind", "permanent"),
    [
        ([PERMANENT_ONE], None, PartialFailureError, True),
        ([RETRYABLE], None, PartialFailureError, False),
        ([TaskFailedError("failed")], None, PartialFailureError, False),
        ([PERMANENT_ONE, RETRYABLE], None, PartialFailureError, False),
        ([PERMANENT_ONE], RETRYABLE, PartialFailureError, False),
        ([], RETRYABLE, PartialFailureError, False),
        ([], PERMANENT_ONE, PartialFailureError, True),
        ([RETRYABLE], PERMANENT_ONE, PartialFailureError, False),
        # A timeout is not worth a retry by itself, but does not keep from one either.
        ([LATE], None, WaitTimeoutError, False),
        ([LATE, PERMANENT_ONE], None, WaitTimeoutError, False),
        ([PERMANENT_ONE], LATE, WaitTimeoutError, False),
        ([LATE, RETRYABLE], None, PartialFailureError, False),
        ([RETRYABLE], LATE, PartialFailureError, False),
        # Airflow's retries apply to this one.
        ([OVERDUE], None, ExecutionTimeoutError, False),
        ([PERMANENT_ONE], OVERDUE, ExecutionTimeoutError, False),
        ([OVERDUE, RETRYABLE, PERMANENT_ONE], None, ExecutionTimeoutError, False),
    ],
    ids=repr,
)
def test_some_of_many_segments_failed_is_worth_a_retry_if_anything_in_it_is(
    errors: list[SegStatsError], stopped: SegStatsError | None, kind: type, permanent: bool
) -> None:
    error = policy.unfinished(segments(9), dict(enumerate(errors, 1)), [8] if stopped else [], stopped)
    assert type(error) is kind
    assert error.permanent is permanent


def test_what_failed_is_named_and_what_was_not_submitted_and_why() -> None:
    of = {**segments(20), 8: Segment(8, 24, name="Readers")}
    error = policy.unfinished(of, {7: PERMANENT_ONE, 8: RETRYABLE}, [9, 10], ApiError("full", code=402))
    assert str(error) == (
        "4 of 20 segments were not counted; segment 7: no; Readers (8): away; 2 not submitted (9, 10): full"
    )
    assert isinstance(error, PartialFailureError)
    assert error.errors == {7: PERMANENT_ONE, 8: RETRYABLE}
    assert error.not_submitted == [9, 10]


def test_a_line_names_five_of_each_kind_at_most() -> None:
    errors = dict.fromkeys(range(1, 101), RETRYABLE)
    error = policy.unfinished(segments(300), errors, range(101, 201), RETRYABLE)
    assert str(error) == (
        "200 of 300 segments were not counted; segment 1: away; segment 2: away; segment 3: away; "
        "segment 4: away; segment 5: away; and 95 more; 100 not submitted (101, 102, 103, 104, 105, …): away"
    )
