"""Kill -9 on a whole Airflow: every segment's counters arrive once, or its task says why not.

Not part of a plain run: ``scripts/test --cluster [--rounds N] [--segments N] [--table FILE]``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cluster import DAG_ID, POLL, SECONDS, SUBMIT, Cluster, patiently, until

pytestmark = pytest.mark.cluster

# A worker comes last: its death takes longest to be noticed, and meanwhile the last stuck recounts end.
PARTS = ("triggerer", "scheduler", "triggerer-2", "api-server", "database", "emulator", "worker")
SHARES = (1 / 3, 2 / 3, 1.0)  # of the segments, submitted when the kill comes; by round
LEEWAY = 90.0  # seconds past its deadline that a wait may end: the triggerer may be dead just then
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


def timeout(segments: int) -> float:
    """Return the timeout of the waits: a stuck recount is to live through the kills that come next."""
    return 150.0 + segments


@dataclass
class Strike:
    """A run of the DAG with segments of its own, and a part that is killed meanwhile."""

    round: int
    part: str
    groups: dict[str, list[int]]
    stuck: list[int]
    run_id: str = ""
    in_flight: int = 0
    seconds: float = 0.0

    @property
    def segments(self) -> list[int]:
        return [segment for group in self.groups.values() for segment in group]

    def segment(self, instance: Mapping[str, Any]) -> int:
        return self.groups[instance["task_id"]][instance["map_index"]]


@dataclass
class Outcome:
    """What became of a segment; ``past_deadline`` in seconds, of one that timed out."""

    kind: str
    tries: int
    accepted: int
    past_deadline: float | None = None
    log: str = field(default="", repr=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), timeout(pytestconfig.getoption("--segments")))
    try:
        with cluster.airflow:
            patiently(lambda: cluster.airflow.unpause(DAG_ID, seconds=120))
            yield cluster
    finally:
        cluster.stop()


# Strikes


def strike(cluster: Cluster, number: int, part: str, segments: Sequence[int]) -> Strike:
    """Start a run, kill a part while its segments are in flight, and see all but the stuck ones through."""
    poked = max(5, len(segments) // 10)
    groups = {"poked": list(segments[:poked]), "deferred": list(segments[poked:])}
    strike = Strike(number, part, groups, groups["deferred"][::15])
    began = time.monotonic()
    strike.run_id = f"{number + 1}-{part}"
    if part == "worker":
        kill_workers(cluster, strike)
    else:
        cluster.arm([_stuck(segment) for segment in strike.stuck])
        cluster.start_run(strike.run_id, strike.groups)
        until(lambda: _is_in_flight(cluster, strike, SHARES[number % len(SHARES)]), 300)
        _count_in_flight(cluster, strike)
        cluster.kill(part)
    until(lambda: _settled(cluster, strike), 300 + 3 * len(segments))
    strike.seconds = time.monotonic() - began
    return strike


def _stuck(segment: int) -> dict[str, Any]:
    return {"kind": "task", "outcome": "stuck", "segment_id": segment, "times": None}


def _is_in_flight(cluster: Cluster, strike: Strike, share: float) -> bool:
    if len(cluster.accepted().keys() & set(strike.segments)) < share * len(strike.segments):
        return False
    if not strike.part.startswith("triggerer"):
        return True
    # Really deferred, to both triggerers: each holds some of them when one dies.
    deferred = [task for task in cluster.instances(strike.run_id) if task["state"] == "deferred"]
    triggerers = {task["triggerer_job"]["id"] for task in deferred if task["triggerer_job"]}
    return len(deferred) >= len(strike.segments) / 10 and len(triggerers) > 1


def _count_in_flight(cluster: Cluster, strike: Strike) -> None:
    """Count the segments that the server has taken and whose task has not ended."""
    tasks = patiently(lambda: cluster.instances(strike.run_id))
    ended = {strike.segment(task) for task in tasks if task["state"] in ENDED}
    strike.in_flight = len((cluster.accepted().keys() & set(strike.segments)) - ended)


def _settled(cluster: Cluster, strike: Strike) -> bool:
    tasks = cluster.instances(strike.run_id)
    going_on = {strike.segment(task) for task in tasks if task["state"] not in ENDED}
    return len(tasks) == len(strike.segments) and going_on <= set(strike.stuck)


def kill_workers(cluster: Cluster, strike: Strike) -> None:
    """Kill tasks in their wait and in their submit, each with and without the worker that runs them."""
    waiting, submitting = strike.groups["poked"][:2], [strike.groups["poked"][2], strike.groups["deferred"][1]]
    prompt = {"kind": "delay", "endpoint": SUBMIT, "seconds": 0.0, "times": None}
    slow = {"kind": "delay", "endpoint": SUBMIT, "seconds": 25.0}
    cluster.arm(
        [
            *(_stuck(segment) for segment in (*strike.stuck, *waiting)),
            *({**prompt, "segment_id": segment} for segment in waiting),
            *({**slow, "segment_id": segment} for segment in submitting),
        ]
    )
    cluster.start_run(strike.run_id, strike.groups)
    kills = dict(zip((*waiting, *submitting), (cluster.kill_task, cluster.kill_worker) * 2, strict=True))

    def all_killed() -> bool:
        on_the_way = {
            entry["segment_id"]
            for entry in cluster.control("journal")
            if entry["endpoint"] == SUBMIT and entry["status"] is None
        }
        there = cluster.accepted().keys() & set(waiting)
        for task in cluster.instances(strike.run_id):
            segment = strike.segment(task)
            if segment in kills and segment in on_the_way | there and task["state"] == "running":
                kills.pop(segment)(task)
        return not kills

    assert until(all_killed, 300), f"never seen in flight: {kills.keys()}"
    _count_in_flight(cluster, strike)
    for segment in waiting:
        (task_id,) = cluster.accepted()[segment]
        cluster.control(f"tasks/{task_id}", {"outcome": "completed"})


# Accounts


def account(cluster: Cluster, strike: Strike) -> dict[int, Outcome]:
    """Tell what became of each segment, when the run has ended or should have."""
    until(
        lambda: cluster.airflow.state(DAG_ID, strike.run_id) in ENDED,
        3 * timeout(len(strike.segments)) + LEEWAY,
    )
    journal, accepted = cluster.journal(), cluster.accepted()
    outcomes: dict[int, Outcome] = {}
    for task in patiently(lambda: cluster.instances(strike.run_id)):
        segment = strike.segment(task)
        requests = [entry for entry in journal if entry["segment_id"] == segment]
        outcomes[segment] = outcome = Outcome("", task["try_number"], len(accepted.get(segment, ())))
        outcome.kind = _kind(cluster, task, segment, requests, outcome)
        if outcome.kind == "timed out":
            last_look = max(_time(entry["at"]) for entry in requests if entry["endpoint"] == POLL)
            started = _time(task["start_date"])
            outcome.past_deadline = last_look - started - timeout(len(strike.segments))
    return outcomes


def _kind(
    cluster: Cluster, task: dict[str, Any], segment: int, requests: list[dict[str, Any]], outcome: Outcome
) -> str:
    if task["state"] not in ENDED:
        return "left hanging"
    if task["state"] == "success":
        rows = patiently(
            lambda: cluster.airflow.xcom(
                DAG_ID, task["dag_run_id"], task["task_id"], map_index=task["map_index"]
            )
        )
        channels = Counter((row["segment_id"], row["channel"]) for row in rows or ())
        expected = Counter((segment, channel) for channel in ("email", "push", "sms"))
        return "delivered" if channels == expected else "lost"
    outcome.log = "\n".join(patiently(lambda: cluster.airflow.log(task)))
    if task["state"] == "failed" and "may or may not have" in outcome.log:
        submits = [entry for entry in requests if entry["endpoint"] == SUBMIT]
        return "answer lost" if any(entry["fault"] == "lost_answer" for entry in submits) else "cut off"
    if task["state"] == "failed" and "was not done within timeout" in outcome.log:
        return "timed out"
    return "lost"


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


COLUMNS = (
    "round",
    "killed",
    "segments",
    "in flight",
    "delivered",
    "answer lost",
    "cut off",
    "timed out",
    "past deadline",
    "retried",
    "lost",
    "doubled",
    "left hanging",
    "seconds",
)


def row(strike: Strike, outcomes: dict[int, Outcome]) -> list[str]:
    kinds = Counter(outcome.kind for outcome in outcomes.values())
    past = [outcome.past_deadline for outcome in outcomes.values() if outcome.past_deadline is not None]
    cells = {
        **kinds,
        "round": strike.round + 1,
        "killed": strike.part,
        "segments": len(strike.segments),
        "in flight": strike.in_flight,
        "past deadline": f"{max(past):.1f} s" if past else "",
        "retried": sum(outcome.tries > 1 for outcome in outcomes.values()),
        "lost": kinds["lost"] + len(strike.segments) - len(outcomes),
        "doubled": sum(outcome.accepted > 1 for outcome in outcomes.values()),
        "seconds": round(strike.seconds),
    }
    return [str(cells.get(column, 0)) for column in COLUMNS]


def table(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [list(COLUMNS), ["---"] * len(COLUMNS), *rows])


def test_every_segment_arrives_once(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    rounds, size = pytestconfig.getoption("--rounds"), pytestconfig.getoption("--segments")
    ids = count(1000, size)
    rows: list[list[str]] = []
    wrong: list[str] = []
    for number in range(rounds):
        strikes = []
        for part in PARTS:
            first = next(ids)
            strikes.append(strike(cluster, number, part, range(first, first + size)))
            print(f"{part}: {strikes[-1].in_flight} in flight, {strikes[-1].seconds:.0f} s", flush=True)
        for struck in strikes:
            outcomes = account(cluster, struck)
            rows.append(row(struck, outcomes))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            for segment, outcome in outcomes.items():
                print(segment, outcome)
                if outcome.kind in ("lost", "left hanging"):
                    print(outcome.log[-4000:])
    print(table(rows))
    assert not wrong
