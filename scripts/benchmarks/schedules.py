"""The part "schedule" of scripts/bench: how often tasks are polled and how late their end is seen, simulated.

20,000 tasks whose durations are log-normal: half done within 60 s, 99 % within 30 min. No clock runs here;
the learned schedule is the one that waits go through.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.stage import Outcome, quantile

from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.policy import Trend, WaitPlan

MEDIAN, P99 = 60.0, 1800.0
SIGMA = math.log(P99 / MEDIAN) / statistics.NormalDist().inv_cdf(0.99)

Progress = Callable[[float], "int | None"]
"""From the share of a task's time that has passed to what the server says of it."""

PROGRESS: dict[str, Progress] = {
    "absent": lambda _: None,
    "linear": lambda share: int(100 * share),
    "in steps of 25 %": lambda share: 25 * int(4 * share),
    "lying: 99 at once": lambda _: 99,
    "lying: fast, then stuck at 90": lambda share: int(min(90, 900 * share)),
    "lying: late, all in the last tenth": lambda share: int(max(0, 1000 * (share - 0.9))),
}


def fixed(seconds: float) -> WaitPlan:
    """Return a plan that looks every so many seconds."""
    return replace(LEARNED, poke_interval=seconds)


LEARNED = WaitPlan(started=0.0, deadline=math.inf)


def looks(plan: WaitPlan, duration: float, progress: Progress, chance: random.Random) -> tuple[int, float]:
    """Return how many polls a task of that duration takes, and how long after its end the last one comes."""
    now, polls = 0.0, 1
    trend: Trend | None = None
    while now < duration:
        trend = policy.observe(trend, progress(now / duration), now)
        now += policy.next_look(plan, now, chance.random(), trend)
        polls += 1
    return polls, now - duration


def square_root(_: WaitPlan, duration: float, __: Progress, chance: random.Random) -> tuple[int, float]:
    """Return the same for 1.5·√(seconds waited), from 3 to 60 s, which learns nothing."""
    now, polls = 0.0, 1
    while now < duration:
        now += min(60.0, max(3.0, 1.5 * math.sqrt(now))) * (0.9 + chance.random() / 5)
        polls += 1
    return polls, now - duration


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:  # noqa: ARG001 - as all parts
    """Simulate every schedule on the same tasks."""
    count = 500 if smoke else 20_000
    chance = random.Random(7)  # noqa: S311 - a simulation, to be repeatable
    durations = [chance.lognormvariate(math.log(MEDIAN), SIGMA) for _ in range(count)]
    schedules = [
        ("every 10 s", looks, fixed(10.0), "absent"),
        ("every 30 s", looks, fixed(30.0), "absent"),
        ("1.5·√elapsed, 3 to 60 s", square_root, LEARNED, "absent"),
        *(("learned", looks, LEARNED, progress) for progress in PROGRESS),
    ]
    rows = [["schedule", "progress", "polls a task", "latency, s: mean", "p95", "p99"]]
    for name, simulate, plan, progress in schedules:
        seen = [simulate(plan, duration, PROGRESS[progress], chance) for duration in durations]
        polls = statistics.fmean(polls for polls, _ in seen)
        late = [late for _, late in seen]
        rows.append(
            [
                name,
                progress,
                f"{polls:.1f}",
                f"{statistics.fmean(late):.1f}",
                *(f"{quantile(late, share):.1f}" for share in (0.95, 0.99)),
            ]
        )
    return Outcome(
        f"schedule: {count:,} simulated tasks, log-normal: median {MEDIAN:g} s, p99 {P99 / 60:g} min",
        [rows],
        "The first look is made at once and counts. Latency: from a task's end until it is seen to be done.",
    )
