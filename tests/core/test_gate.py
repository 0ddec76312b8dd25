"""The gate of a server: when the next request may leave, on a clock that only the tests move."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from airflow_provider_segstats.core.gate import Gate


def fail(gate: Gate, now: float, **options: float) -> bool:
    """Send a request at ``now`` which fails a moment later."""
    gate.leaves(now)
    return gate.failed(now, now + 0.001, jitter=0.0, **options)


def test_an_open_gate_lets_all_pass_at_once() -> None:
    gate = Gate()
    for _ in range(100):
        assert gate.opens_in(50.0, waiting=100) == 0
        gate.leaves(50.0)


class TestFailures:
    def test_each_failure_in_a_row_closes_the_gate_for_longer_and_then_lets_one_request_through(self) -> None:
        gate, now, pauses = Gate(), 100.0, []
        for _ in range(9):
            assert gate.opens_in(now, waiting=5) == 0
            gate.leaves(now)
            if gate.failures:
                assert gate.opens_in(now, waiting=4) == math.inf
            now += 0.5
            assert gate.failed(now - 0.5, now, jitter=0.0)
            pauses.append(gate.opens_in(now, waiting=5))
            now += pauses[-1]
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert gate.failures == 9

    def test_an_answer_opens_the_gate_and_makes_the_count_begin_anew(self) -> None:
        gate = Gate()
        fail(gate, 100)
        fail(gate, 102)
        assert gate.opens_in(102.5, waiting=1) > 0
        gate.answered(103)
        assert gate.opens_in(103, waiting=1) == 0
        assert gate.failures == 0
        fail(gate, 104)
        assert gate.failures == 1

    def test_requests_that_were_under_way_together_fail_as_one(self) -> None:
        gate = Gate()
        for _ in range(32):
            gate.leaves(100)
        assert [gate.failed(100, 130, jitter=0.0) for _ in range(32)] == [True] + [False] * 31
        assert gate.failures == 1

    def test_a_failure_says_nothing_of_a_server_that_has_answered_since_the_request_left(self) -> None:
        gate = Gate()
        gate.answered(110)
        assert not gate.failed(100, 130, jitter=0.0)
        assert gate.opens_in(130, waiting=1) == 0
        assert gate.failed(111, 141, jitter=0.0)

    def test_failures_are_counted_from_a_mark_or_the_latest_answer(self) -> None:
        gate = Gate()
        early = gate.mark
        fail(gate, 100)
        late = gate.mark
        fail(gate, 200)
        assert (gate.failures_since(early), gate.failures_since(late)) == (2, 1)
        gate.answered(300)
        fail(gate, 400)
        assert (gate.failures_since(early), gate.failures_since(late)) == (1, 1)

    def test_a_late_answer_to_an_earlier_request_opens_the_gate_while_another_is_tried(self) -> None:
        gate = Gate()
        fail(gate, 100)
        gate.leaves(102)
        assert gate.opens_in(102, waiting=3) == math.inf
        gate.answered(103)
        assert gate.opens_in(103, waiting=3) == 0


class TestRetryAfter:
    def test_a_server_that_asks_for_it_is_left_alone(self) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=7)
        assert gate.opens_in(101, waiting=1) == 6
        assert gate.opens_in(107, waiting=1) == 0
        assert gate.failures == 0

    def test_for_five_minutes_at_most(self) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=3600)
        assert gate.opens_in(100, waiting=1) == 300

    @pytest.mark.parametrize("wishes", [(5, 1), (1, 5)])
    def test_a_shorter_wish_does_not_end_a_longer_one(self, wishes: tuple[float, float]) -> None:
        gate = Gate()
        for wish in wishes:
            gate.answered(100, left_alone_for=wish)
        assert gate.opens_in(100, waiting=1) == 5

    def test_an_answer_without_the_wish_does_not_end_it(self) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=5)
        gate.answered(100.1)
        assert gate.opens_in(101, waiting=1) == 4

    def test_of_a_failing_server_the_longer_of_its_wish_and_the_pause_counts(self) -> None:
        gate = Gate()
        fail(gate, 100, left_alone_for=30)
        assert gate.opens_in(100, waiting=1) == pytest.approx(30, abs=0.01)
        assert fail(gate, 131, left_alone_for=1)
        assert gate.opens_in(131, waiting=1) == pytest.approx(2, abs=0.01)


class TestReopening:
    def leave_times(self, gate: Gate, now: float, waiting: int) -> list[float]:
        times = []
        while waiting:
            now += gate.opens_in(now, waiting)
            gate.leaves(now)
            times.append(now)
            waiting -= 1
        return times

    @pytest.mark.parametrize(("closed", "spread"), [(10, 10), (300, 60)])
    def test_what_has_gathered_leaves_over_about_the_time_that_took_or_a_longest_look(
        self, closed: float, spread: float
    ) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=closed)
        times = self.leave_times(gate, 100 + closed, waiting=1000)
        assert times[0] == 100 + closed
        assert 0.5 * spread < times[-1] - times[0] < spread
        assert max(later - sooner for sooner, later in pairwise(times)) == pytest.approx(spread / 1000)

    def test_so_it_does_after_a_server_was_away(self) -> None:
        gate = Gate()
        fail(gate, 100)
        fail(gate, 102)
        gate.answered(106)
        times = self.leave_times(gate, 106, waiting=100)
        assert 3 < times[-1] - times[0] < 6

    @pytest.mark.parametrize("waiting", [1, 2, 10])
    def test_few_are_not_kept_waiting(self, waiting: int) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=60)
        times = self.leave_times(gate, 160, waiting)
        assert times[0] == 160
        assert gate.opens_in(times[-1], 1) <= 0.1
        assert times[-1] < 160 + 0.1 * waiting

    def test_the_pace_quickens_until_there_is_none(self) -> None:
        gate = Gate()
        gate.answered(100, left_alone_for=10)
        times = self.leave_times(gate, 110, waiting=10)
        later = times[-1]
        for _ in range(200):
            later += gate.opens_in(later, 50)
            gate.leaves(later)
        assert gate.opens_in(later, 50) < 0.001
