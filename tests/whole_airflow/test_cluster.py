"""Kill -9 on a whole Airflow: every segment's counters arrive once, or its task says why not.

Not part of a plain run: ``scripts/test --cluster [--rounds N] [--segments N] [--table FILE]``.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count, product
from typing import Any

import pytest
from support.cluster import (
    AWAY,
    CONFIG,
    DAG_ID,
    DOWN,
    FAULTS,
    POLL,
    SECONDS,
    SUBMIT,
    Cluster,
    patiently,
    until,
)

from airflow_provider_segstats.tasks.batch import SUBMITS_AT_ONCE

pytestmark = pytest.mark.cluster

# A worker comes last: its death takes longest to be noticed, and meanwhile the last stuck recounts end.
STAYS_AWAY = f"api-server, {AWAY} s"
PARTS = (
    "triggerer",
    "scheduler",
    "triggerer-2",
    "api-server",
    STAYS_AWAY,
    "database",
    "emulator",
    "worker",
)
SHARES = (1 / 3, 2 / 3, 0.9)  # of the segments, submitted when the kill comes; by round
LEEWAY = 120.0  # seconds past its deadline that a wait may end: the triggerer may be dead just then
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}

say = partial(print, flush=True)


def timeout_of_waits(size: int) -> float:
    """Return seconds: more than any wait needs but a stuck one, which is to live through more kills."""
    return 400.0 + 2 * size


def grouped(segments: Sequence[int]) -> dict[str, list[int]]:
    """Deal segments out to the DAG's tasks."""
    poked = max(5, len(segments) // 20)
    batch = poked + len(segments) // 2
    return {
        "poked": list(segments[:poked]),
        "batch": list(segments[poked:batch]),
        "deferred": list(segments[batch:]),
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    size = pytestconfig.getoption("--segments")
    cluster = Cluster(
        tmp_path_factory.mktemp("cluster"),
        timeout=timeout_of_waits(size),
        # Less than the batch has, so that more are submitted when some are done.
        in_flight=len(grouped(range(size))["batch"]) * 2 // 3,
    )
    try:
        with cluster.airflow:
            cluster.prepare()
            yield cluster
    finally:
        cluster.stop()


# Strikes


@dataclass
class Strike:
    """A run of the DAG with segments of its own, and a part that is killed meanwhile."""

    number: int
    part: str
    segments: Sequence[int]
    in_flight: int = 0
    seconds: float = 0.0
    groups: dict[str, list[int]] = field(init=False)
    stuck: list[int] = field(init=False)
    cut_off: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.groups = grouped(self.segments)
        self.stuck = self.groups["deferred"][::16]

    @property
    def run_id(self) -> str:
        return f"{self.number}-{self.part}".replace(", ", "-").replace(" ", "-")

    def of(self, task: Mapping[str, Any]) -> list[int]:
        """Return the segments of a task instance."""
        group = self.groups[task["task_id"]]
        return group if task["map_index"] < 0 else [group[task["map_index"]]]

    def start(self, cluster: Cluster, *faults: dict[str, Any]) -> None:
        cluster.arm([*map(stuck, self.stuck), *faults])
        batch = [{"segment_id": segment, "resource_id": 24} for segment in self.groups["batch"]]
        cluster.start_run(self.run_id, {**self.groups, "batch": batch})

    def is_settled(self, cluster: Cluster) -> bool:
        """Whether nothing goes on but the stuck."""
        tasks = cluster.instances(self.run_id)
        going_on = {segment for task in tasks if task["state"] not in ENDED for segment in self.of(task)}
        # The mapped ones, and the batch.
        return len(tasks) == 1 + sum(len(self.groups[group]) for group in ("poked", "deferred")) and (
            going_on <= set(self.stuck)
        )


def stuck(segment: int) -> dict[str, Any]:
    return {"kind": "task", "outcome": "stuck", "segment_id": segment, "times": None}


def strike(cluster: Cluster, number: int, part: str, segments: Sequence[int]) -> Strike:
    """Start a run, kill a part while its segments are in flight, and see all but the stuck ones through."""
    struck = Strike(number, part, segments)
    began = time.monotonic()
    if part == "worker":
        kill_workers(cluster, struck)
    else:
        struck.start(cluster)
        share = SHARES[(number - 1) % len(SHARES)]
        until(
            lambda: is_in_flight(cluster, struck, share) or struck.is_settled(cluster),
            600 + 3 * len(segments),
        )
        if part.startswith("triggerer"):
            until(lambda: is_shared(cluster, struck), 5)
        struck.in_flight = under_way(cluster, segments)
        if part == STAYS_AWAY:
            cluster.keep_away("api-server")
        else:
            cluster.kill(part)
    until(lambda: struck.is_settled(cluster), 900 + 3 * len(segments))
    struck.seconds = time.monotonic() - began
    return struck


def is_in_flight(cluster: Cluster, struck: Strike, share: float) -> bool:
    if len(cluster.recounts(struck.segments)) < share * len(struck.segments):
        return False
    # A triggerer's kill is for tasks that are really deferred, more than the stuck.
    return not struck.part.startswith("triggerer") or len(deferred(cluster, struck)) > len(struck.stuck)


def deferred(cluster: Cluster, struck: Strike) -> list[dict[str, Any]]:
    return [task for task in cluster.instances(struck.run_id) if task["state"] == "deferred"]


def is_shared(cluster: Cluster, struck: Strike) -> bool:
    """Whether both triggerers hold some of the run's tasks."""
    jobs = [task["triggerer_job"] for task in deferred(cluster, struck)]
    return len({job["id"] for job in jobs if job}) > 1


def under_way(cluster: Cluster, segments: Sequence[int]) -> int:
    return sum(
        task["outcome"] == "stuck" or as_time(task["at"]) + task["seconds"] > time.time()
        for task in cluster.recounts(segments)
    )


def kill_workers(cluster: Cluster, struck: Strike) -> None:
    """Kill tasks in their wait and in their submit, each with and without the worker that runs them."""
    poked = struck.groups["poked"]
    waiting, submitting = poked[:2], [poked[2], struck.groups["deferred"][1]]
    delay = {"kind": "delay", "endpoint": SUBMIT}
    struck.start(
        cluster,
        *map(stuck, waiting),
        *({**delay, "segment_id": segment, "seconds": 0.0, "times": None} for segment in waiting),
        *({**delay, "segment_id": segment, "seconds": 25.0} for segment in submitting),
    )
    kills: dict[int, Callable[[dict[str, Any]], None]] = {
        waiting[0]: cluster.kill_task,
        waiting[1]: cluster.kill_worker,
        submitting[0]: cluster.kill_task,
        submitting[1]: cluster.kill_worker,
    }

    def all_killed() -> bool:
        ready = on_the_way() | {task["segment_id"] for task in cluster.recounts(waiting)}
        for task in cluster.instances(struck.run_id):
            (segment, *_) = struck.of(task)
            if segment in ready & kills.keys() and task["state"] == "running":
                kills.pop(segment)(task)
                if segment in on_the_way():  # the answer, too, comes too late
                    struck.cut_off.append(segment)
        return not kills

    def on_the_way() -> set[int]:
        return {
            entry["segment_id"]
            for entry in cluster.control("journal")
            if entry["segment_id"] in submitting and entry["status"] is None
        }

    assert until(all_killed, 600 + 3 * len(struck.segments)), f"never seen in flight: {[*kills]}"
    struck.in_flight = under_way(cluster, struck.segments)
    for task in cluster.recounts(waiting):
        cluster.control(f"tasks/{task['task_id']}", {"outcome": "completed"})


# Accounts


def has_ended(cluster: Cluster, struck: Strike) -> bool:
    return patiently(lambda: cluster.airflow.state(DAG_ID, struck.run_id)) in ENDED


@dataclass
class Outcome:
    """What became of a segment.

    ``accepted`` is how many recounts of it the server started. Of a wait that timed out, ``past_deadline`` is
    how many seconds after its deadline the server got the last look (before, if it was away at the deadline),
    ``too_soon`` whether the task ended before its deadline.
    """

    kind: str
    tries: int
    accepted: int
    why: str
    past_deadline: float | None = None
    too_soon: bool = False


def account(cluster: Cluster, struck: Strike) -> dict[int, Outcome]:
    """Return what became of each segment of a run that has ended, or should have."""
    timeout = timeout_of_waits(len(struck.segments))
    journal = [entry for entry in cluster.journal() if entry["segment_id"] in struck.segments]
    lost = {entry["segment_id"] for entry in journal if entry["fault"] == "lost_answer"}
    last_looks = {entry["segment_id"]: as_time(entry["at"]) for entry in journal if entry["endpoint"] == POLL}
    accepted = Counter(task["segment_id"] for task in cluster.recounts(struck.segments))
    outcomes: dict[int, Outcome] = {}
    for task in patiently(lambda: cluster.instances(struck.run_id)):
        end = ended(cluster, task)
        for segment in struck.of(task):
            kind, why = end(segment)
            if kind == "cut off" and segment in lost:
                kind = "answer lost"
            if kind == "timed out" and segment not in struck.stuck:
                kind = "lost"
            outcome = outcomes[segment] = Outcome(kind, task["try_number"], accepted[segment], why)
            if kind == "timed out":
                deadline = as_time(task["start_date"]) + timeout
                outcome.past_deadline = last_looks[segment] - deadline
                outcome.too_soon = as_time(task["end_date"]) < deadline
    return outcomes


def ended(cluster: Cluster, task: dict[str, Any]) -> Callable[[int], tuple[str, str]]:
    """Return what tells for each segment of a task how it ended, and the reason given."""
    if task["state"] not in ENDED:
        return lambda _: ("left hanging", task["state"])
    place = (DAG_ID, task["dag_run_id"], task["task_id"])
    get = partial(cluster.airflow.xcom, *place, map_index=task["map_index"])
    rows = patiently(lambda: get(key="return_value")) or []
    failed = (patiently(lambda: get(key="summary")) or {}).get("failed", {})
    log = "" if task["state"] == "success" else log_of(cluster, task)

    def end(segment: int) -> tuple[str, str]:
        channels = sorted(row["channel"] for row in rows if row["segment_id"] == segment)
        if channels == ["email", "push", "sms"]:
            return "delivered", ""
        why = failed.get(str(segment), log)
        if task["state"] == "failed" and "may or may not have" in why:
            return "cut off", why
        if task["state"] == "failed" and "was not done within timeout" in why:
            return "timed out", why
        return "lost", f"{task['state']} with {channels}: {why}"

    return end


def log_of(cluster: Cluster, task: dict[str, Any]) -> str:
    """Return a failed task's log once its error is in it, which lags behind the state."""

    def log() -> str:
        return "\n".join(cluster.airflow.log(task))

    until(lambda: "connection '" in log(), 60)
    return patiently(log)


def as_time(text: str | float) -> float:
    return (
        text if isinstance(text, float) else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    )


def faults_of(struck: Strike, outcomes: Mapping[int, Outcome]) -> Iterator[str]:
    """Yield what must not be."""
    for segment in struck.segments:
        what = f"{struck.run_id}: segment {segment}"
        outcome = outcomes.get(segment)
        if outcome is None:
            yield f"{what} has no task"
            continue
        if outcome.kind in {"lost", "left hanging"}:
            yield f"{what} {outcome.kind}: {outcome.why[-3000:]}"
        if outcome.accepted > 1:
            yield f"{what} was submitted {outcome.accepted} times"
        if outcome.past_deadline is not None and outcome.past_deadline > LEEWAY:
            yield f"{what} timed out {outcome.past_deadline:.0f} s past its deadline"
        if outcome.too_soon:
            yield f"{what} timed out before its deadline"
        if segment in struck.cut_off and outcome.kind != "cut off":
            yield f"{what} {outcome.kind}, though killed in its submit"
    cut = sum(
        outcomes[segment].kind == "cut off" for segment in struck.groups["batch"] if segment in outcomes
    )
    if cut > SUBMITS_AT_ONCE:
        yield f"{struck.run_id}: {cut} of the batch in doubt, more than leave at once"


# The page

COLUMNS = {
    "round": "the kill comes when a third of the segments are submitted in round 1, two thirds in round 2, "
    "nine tenths in round 3",
    "killed": "what got `kill -9`, with all that it had started",
    "segments": "of this run of the DAG",
    "in flight": "recounts under way at the server when the kill came; only the stuck, where it came late",
    "delivered": "segments whose three rows arrived, once",
    "timed out": "stuck recounts, ended by `timeout`",
    "past deadline": "seconds by which the last look at a stuck recount came after its deadline, at most. "
    "Deadlines are absolute; this is how long nobody was there to look",
    "answer lost": "segments whose answer to the submit the emulator lost on purpose. Their task fails at "
    "once and says that the recount may or may not have been accepted",
    "cut off": "segments whose submit the kill fell into, before the id was stored: their task says the "
    "same. Listed below",
    "retried": "segments whose task needed more than one try",
    "lost": "segments without rows whose task does not say why, or timed out without being stuck",
    "doubled": "segments of which the server started more than one recount",
    "left hanging": "segments whose task did not come to an end",
    "seconds": "from the start of the run to the end of all but the stuck",
}

PAGE = """\
# Kill by kill

What becomes of segments in flight when parts of Airflow die, or the platform does, as the test suite saw it:
`{command}` writes this page.

A whole Airflow ran on one machine: PostgreSQL, a scheduler with LocalExecutor, a dag processor, an API
server and two triggerers, each under a loop that starts it again {down} s after it ended. So did the
emulator; its recounts took {seconds} s and outlived its kill. A row is a run of one DAG with segments of its
own: {poked} in mapped tasks that wait on a worker, {deferred} in mapped tasks that wait deferred, and {batch}
in one deferred task of `RefreshSegmentsOperator`. One in sixteen of the mapped deferred ones was stuck at the
server, until its `timeout` of {timeout:.0f} s. Tasks had retries enough, and `on_ambiguous_submit` was
`fail`, the default.

All the time the emulator did badly: {faults}.

In the row *{stays_away}* the API server was killed again whenever it came up, for {away} s; with its start it
was away for longer. Airflow ends a task after three failed heartbeats; here it bore {heartbeats}
(`[workers] max_failed_heartbeats`), or every running task would have been ended and tried again.

A *worker*'s row has four kills, of a task's process and of a whole worker, each once in a poked task's wait
and once in a submit that the server answers slowly. Deaths were noticed by missing heartbeats: a triggerer's
after {triggerer} s, a scheduler's after {scheduler} s, a worker's after {worker} s.

{columns}

{rows}
## Cut off

These tasks had written down that they were about to submit, and died (or were kept from Airflow's API for
too long) before they had written down the id. Whether the server had started the recount nobody on
Airflow's side can know, so the next try ends in `AirflowFailException` and says so. None was submitted a
second time.

{cut_off}"""


def row(struck: Strike, outcomes: Mapping[int, Outcome]) -> list[str]:
    kinds = Counter(outcome.kind for outcome in outcomes.values())
    late = [outcome.past_deadline for outcome in outcomes.values() if outcome.past_deadline is not None]
    cells = {
        **kinds,
        "round": struck.number,
        "killed": struck.part,
        "segments": len(struck.segments),
        "in flight": struck.in_flight,
        "past deadline": f"{max(late):.1f}" if late else "",
        "retried": sum(outcome.tries > 1 for outcome in outcomes.values()),
        "lost": kinds["lost"] + len(struck.segments) - len(outcomes),
        "doubled": sum(outcome.accepted > 1 for outcome in outcomes.values()),
        "seconds": round(struck.seconds),
    }
    return [str(cells.get(column, 0)) for column in COLUMNS]


def cut_off(struck: Strike, outcomes: Mapping[int, Outcome]) -> list[list[str]]:
    """Return lines: round, what was killed, the task, what the server had done, for how many segments."""
    group_of = {segment: group for group, segments in struck.groups.items() for segment in segments}
    lines = Counter(
        (group_of[segment], "started" if outcome.accepted else "not started")
        for segment, outcome in outcomes.items()
        if outcome.kind == "cut off"
    )
    return [[str(struck.number), struck.part, *line, str(number)] for line, number in sorted(lines.items())]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *rows))


def page(rounds: int, size: int, rows: list[list[str]], cut: list[list[str]]) -> str:
    groups = {group: len(segments) for group, segments in grouped(range(size)).items()}
    return PAGE.format(
        command=f"scripts/test --cluster --rounds {rounds} --segments {size} --table docs/kills.md",
        down=DOWN,
        seconds=SECONDS,
        timeout=timeout_of_waits(size),
        faults=", ".join(in_words(fault) for fault in FAULTS),
        stays_away=STAYS_AWAY,
        away=AWAY,
        heartbeats=CONFIG["workers"]["max_failed_heartbeats"],
        triggerer=CONFIG["triggerer"]["triggerer_health_check_threshold"],
        scheduler=CONFIG["scheduler"]["scheduler_health_check_threshold"],
        worker=CONFIG["scheduler"]["task_instance_heartbeat_timeout"],
        columns="".join(f"- *{name}*: {meaning}\n" for name, meaning in COLUMNS.items()).rstrip(),
        rows=table([*COLUMNS], rows),
        cut_off=table(("round", "killed", "task", "the recount", "segments"), cut),
        **groups,
    )


def in_words(fault: Mapping[str, Any]) -> str:
    what = {
        "http": f"HTTP {fault.get('status')}",
        "reset": "a reset connection",
        "truncate": "a truncated answer",
        "lost_answer": "a lost answer",
        "delay": f"{fault.get('seconds')} s more",
    }[fault["kind"]]
    of = {POLL: "looks", SUBMIT: "submits", None: "requests"}[fault.get("endpoint")]
    return f"{what} for {fault['probability']:.0%} of the {of}"


def test_every_segment_arrives_once(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    rounds, size = pytestconfig.getoption("--rounds"), pytestconfig.getoption("--segments")
    file = pytestconfig.getoption("--table")
    rows: list[list[str]] = []
    cut: list[list[str]] = []
    wrong: list[str] = []

    def settle(struck: Strike) -> None:
        outcomes = account(cluster, struck)
        rows.append(row(struck, outcomes))
        cut.extend(cut_off(struck, outcomes))
        wrong.extend(faults_of(struck, outcomes))
        say(table([*COLUMNS], rows[-1:]).splitlines()[-1], *cut_off(struck, outcomes))
        if file:
            file.write_text(page(rounds, size, rows, cut))

    waiting: deque[Strike] = deque()  # for their stuck recounts to end, while the next are under way
    starts = count(1000, size)
    say(f"\n{table([*COLUMNS], [])}", end="")
    for number, part in product(range(1, rounds + 1), PARTS):
        first = next(starts)
        waiting.append(strike(cluster, number, part, range(first, first + size)))
        while waiting and has_ended(cluster, waiting[0]):
            settle(waiting.popleft())
    for struck in waiting:
        until(partial(has_ended, cluster, struck), 3 * timeout_of_waits(size) + LEEWAY)
        settle(struck)
    assert not wrong, "\n".join(wrong)


def test_a_task_waits_for_an_api_server_that_stays_away_and_reads_what_it_needs(cluster: Cluster) -> None:
    cluster.control("faults", method="DELETE")
    run_id = cluster.airflow.trigger("away")
    cluster.airflow.until(lambda: len([*cluster.signs.iterdir()]) == 2, "the tasks' start")
    cluster.airflow.kill("api-server")
    (cluster.signs / "away").touch()
    cluster.keep_away("api-server")
    patiently(lambda: cluster.airflow.wait("away", run_id))
    ends = {
        task["task_id"]: (task["state"], task["try_number"])
        for task in cluster.airflow.task_instances("away", run_id)
    }
    assert ends == {"refresh": ("success", 1), "read": ("success", 1)}
    assert cluster.airflow.xcom("away", run_id, "read") == "green"
    assert {row["segment_id"] for row in cluster.airflow.xcom("away", run_id, "refresh")} == {7}
    assert len(cluster.recounts({7})) == 1
