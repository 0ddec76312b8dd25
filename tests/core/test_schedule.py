"""The learned schedule of looks: what it costs and how late it is, over thousands of simulated tasks.

Tasks take 60 s in the median and half an hour at the 99th percentile, log-normally. The flow is the one that
waits in earnest; only its clock and its answers are simulated.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.core import flows, policy
from airflow_provider_segstats.core.flows import Send, World
from airflow_provider_segstats.core.model import TaskStatus
from airflow_provider_segstats.core.policy import LONGEST_LOOK, SHORTEST_LOOK, Trend, plan_from
from airflow_provider_segstats.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = 5000
MEDIAN, P99 = 60.0, 1800.0
SETTINGS = Settings.from_fields(host="example.com", password="t0ken")

# What a server may say of the progress of a task when such a share of its time is over.
PROGRESS: dict[str, Callable[[float], int | None]] = {
    "absent": lambda _: None,
    "linear": lambda share: int(100 * share),
    "in quarters": lambda share: 25 * int(4 * share),
    "slow at first": lambda share: int(100 * share**3),
    "fast at first": lambda share: int(100 * math.sqrt(share)),
    "stuck at 100": lambda _: 100,
    "stuck at 50": lambda _: 50,
    "soon at 99": lambda share: min(99, int(1000 * share)),
    "up and down": lambda share: int(1e6 * share) % 101,
}


@dataclass(frozen=True)
class Seen:
    """Looks for each task, and the seconds from a task's end to the look that saw it."""

    looks: float
    late: float
    late_p95: float


@cache
def simulate(progress: str, poke_interval: float | None = None) -> Seen:
    chance = random.Random(1)  # noqa: S311 - nobody is to be kept from guessing
    sigma = math.log(P99 / MEDIAN) / 2.3263
    durations = [chance.lognormvariate(math.log(MEDIAN), sigma) for _ in range(TASKS)]
    seen = [wait(duration, PROGRESS[progress], poke_interval, chance.random) for duration in durations]
    late = sorted(late for _, late in seen)
    return Seen(mean(looks for looks, _ in seen), mean(late), late[int(0.95 * TASKS)])


def wait(
    duration: float,
    progress: Callable[[float], int | None],
    poke_interval: float | None,
    chance: Callable[[], float],
) -> tuple[int, float]:
    now, looks = 0.0, 0
    world = World(now=lambda: now, chance=chance, log=logging.getLogger("test"))
    plan = plan_from(0.0, timeout=1e9, poke_interval=poke_interval)
    flow = flows.wait(SETTINGS, "task", plan, world)
    step: Any = next(flow)
    while True:
        answer = None
        if isinstance(step, Send):
            looks += 1
            answer = TaskStatus("running", progress(now / duration), ())
            if now >= duration:
                answer = TaskStatus("completed", 100, ())
        else:
            now += step.seconds
        try:
            step = flow.send(answer)
        except StopIteration:
            return looks, now - duration


def test_without_progress_the_looks_grow_apart() -> None:
    seen = simulate("absent")
    assert 13 < seen.looks < 15
    assert 7 < seen.late < 8
    assert 21 < seen.late_p95 < 25


def test_progress_that_is_about_linear_is_looked_at_when_it_should_end() -> None:
    seen = simulate("linear")
    assert seen.looks <= simulate("absent").looks * 1.01
    assert seen.late < 2.2
    assert seen.late_p95 < 5.5


@pytest.mark.parametrize("progress", ["in quarters", "slow at first", "fast at first"])
def test_progress_that_tells_less_is_of_some_use_and_costs_little(progress: str) -> None:
    seen, without = simulate(progress), simulate("absent")
    assert seen.looks < without.looks * 1.1
    assert seen.late < without.late * 0.8
    assert seen.late_p95 < without.late_p95


@pytest.mark.parametrize("progress", ["stuck at 100", "stuck at 50"])
def test_progress_that_does_not_rise_counts_for_nothing(progress: str) -> None:
    assert simulate(progress) == simulate("absent")


@pytest.mark.parametrize("progress", ["soon at 99", "up and down"])
def test_progress_that_lies_makes_no_wait_longer_and_costs_little(progress: str) -> None:
    seen, without = simulate(progress), simulate("absent")
    assert seen.looks < without.looks * 1.1
    assert seen.late < without.late * 1.05
    assert seen.late_p95 < without.late_p95 * 1.05


@pytest.mark.parametrize("progress", PROGRESS)
def test_a_fixed_interval_is_kept_whatever_the_progress(progress: str) -> None:
    fixed = simulate(progress, 10.0)
    assert fixed == simulate("absent", 10.0)
    assert 17 < fixed.looks < 20
    assert 4.9 < fixed.late < 5.3
    assert 9 < fixed.late_p95 < 10


SIGHTS = st.lists(st.tuples(st.one_of(st.none(), st.integers(-(10**18), 10**18)), st.floats(0, 1e5)))


@given(SIGHTS, st.floats(0, 1), st.floats(0, 1e6))
def test_no_progress_leads_out_of_the_bounds(
    sights: list[tuple[int | None, float]], jitter: float, last: float
) -> None:
    plan, trend, now = plan_from(0.0), None, 0.0
    for progress, pause in sights:
        now += pause
        trend = policy.observe(trend, progress, now)
    now += last
    without = policy.next_look(plan, now, jitter)
    with_trend = policy.next_look(plan, now, jitter, trend)
    assert SHORTEST_LOOK * 0.9 - 1e-9 <= without <= LONGEST_LOOK * 1.1 + 1e-9
    assert min(without, max(without / 4, SHORTEST_LOOK)) <= with_trend <= without


def trend_of(*sights: tuple[int | None, float]) -> Trend | None:
    trend = None
    for progress, at in sights:
        trend = policy.observe(trend, progress, at)
    return trend


@pytest.mark.parametrize(
    ("sights", "end"),
    [
        ([(0, 0), (10, 10)], None),  # once may be a single step
        ([(0, 0), (10, 10), (20, 20)], 100),
        ([(0, 0), (None, 5), (10, 10), (10, 15), (20, 20), (20, 30)], 100),
        ([(40, 100), (50, 110), (60, 120)], 160),
        ([(0, 0), (10, 10), (20, 20), (5, 30), (15, 40)], None),  # it began anew
        ([(0, 0), (10, 10), (20, 20), (5, 30), (15, 40), (25, 50)], 125),
        ([(0, 5), (10, 5), (20, 5)], None),  # a clock that stands still
        ([(None, 0), (None, 10)], None),
        ([], None),
    ],
)
def test_when_a_task_should_end_is_told_once_its_progress_has_risen_twice(
    sights: list[tuple[int | None, float]], end: float | None
) -> None:
    trend = trend_of(*sights)
    assert (trend.expected_end() if trend else None) == end


def test_past_the_time_a_task_should_have_ended_its_progress_no_longer_counts() -> None:
    plan, trend = plan_from(0.0), trend_of((0, 0), (10, 10), (20, 20))
    assert policy.next_look(plan, 99, 0.5, trend) < policy.next_look(plan, 99, 0.5)
    assert policy.next_look(plan, 101, 0.5, trend) == policy.next_look(plan, 101, 0.5)


def test_a_task_that_began_later_than_the_try_is_looked_at_like_a_new_one() -> None:
    plan = plan_from(0.0)
    assert policy.next_look(replace(plan, since=3600.0), 3700.0, 0.5) == policy.next_look(plan, 100.0, 0.5)
