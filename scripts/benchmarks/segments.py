"""The part "airflow" of scripts/bench: many segments on a whole Airflow, in one task instance and in many."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from datetime import datetime
from pathlib import Path

import psutil
from benchmarks.stage import HERE, BenchError, Outcome, Panel, Target, say, spread, stage
from local_airflow.stack import FINISHED, AirflowStack

BATCH, MAPPED, HTTP = "batch", "mapped", "mapped_http"
NAMES = {
    BATCH: "RefreshSegmentsOperator",
    MAPPED: "RefreshSegmentOperator, mapped, deferrable",
    HTTP: "HttpOperator + HttpSensor, mapped, reschedule",
}
SECONDS = 2.0
"""A recount's. A mapped HttpSensor's first poke then finds it done, which is the least that it costs."""

IDLE = 20.0  # seconds over which the idle stack is measured
DEADLINE = 1800.0
_PR_SET_CHILD_SUBREAPER = 36


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:
    """Run the three DAGs in turn on one Airflow."""
    rounds = rounds or (1 if smoke else 2)
    sizes = [(HTTP, 2), (MAPPED, 2), (BATCH, 2)]
    if not smoke:
        sizes = [(HTTP, 40), (MAPPED, 40), *((BATCH, count) for count in (10, 100, 1000, 5000))]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    # What Airflow leaves without a parent becomes a child of ours, for its time to be counted all the same.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with stage(folder, seconds=SECONDS) as on:
        bystanders = _family()
        with AirflowStack(on.folder / "stack", HERE / "dags", on.connections) as airflow:
            for dag in NAMES if not smoke else ():  # what is imported and cached once is no segment's cost
                _run(airflow, dag, 1, bystanders)
            began, cpu = time.monotonic(), _cpu(bystanders)
            time.sleep(1 if smoke else IDLE)
            idle = (_cpu(bystanders) - cpu) / (time.monotonic() - began)
            for _ in range(rounds):
                for dag, count in sizes:
                    run = _run(airflow, dag, count, bystanders)
                    say(label(dag, count), run)
                    found.setdefault((dag, count), []).append(run)
    return _outcome(found, rounds, idle)


def label(dag: str, count: int) -> str:
    """Return what a run is called."""
    return f"{NAMES[dag]}: {count:,}"


def _outcome(found: dict[tuple[str, int], list[dict[str, float]]], rounds: int, idle: float) -> Outcome:
    rows = [
        [
            "DAG",
            "segments",
            "task instances",
            "CPU of the stack, s",
            "a segment, ms",
            "less idle, ms",
            "wall, s",
        ]
    ]
    each: dict[tuple[str, int], float] = {}
    for (dag, count), runs in found.items():
        each[dag, count] = 1e3 * statistics.median(run["cpu"] for run in runs) / count
        less_idle = [1e3 * max(0.0, run["cpu"] - idle * run["watched"]) / count for run in runs]
        rows.append(
            [
                NAMES[dag],
                f"{count:,}",
                f"{max(run['instances'] for run in runs):,.0f}",
                spread([run["cpu"] for run in runs], ",.1f"),
                f"{each[dag, count]:,.1f}",
                spread(less_idle, ",.1f"),
                spread([run["wall"] for run in runs], ",.0f"),
            ]
        )
    mapped = max(count for dag, count in found if dag == HTTP)
    batches = [count for dag, count in found if dag == BATCH]
    compared = min(batches, key=lambda count: abs(count - 1000))
    return Outcome(
        f"airflow: segments on a whole Airflow (PostgreSQL, LocalExecutor), {rounds} rounds",
        [rows],
        "CPU is user and system time of all the stack's processes, the database's among them and those that "
        "ended: /proc at the start and at the end of a run, with the time of children waited for. The API's "
        f"server is not in it. Idle, the stack takes {100 * idle:.0f} % of a core. A recount takes "
        f"{SECONDS:g} s. The mapped DAGs were run with {mapped} segments; for more their cost a segment is "
        "taken to be the same, which favours them: the scheduler's work grows with their number.",
        [
            Target(
                f"{compared:,} segments in one task: CPU a segment against {NAMES[HTTP]} (at {mapped})",
                each[HTTP, mapped] / each[BATCH, compared],
                100,
                "x less",
                at_least=True,
            ),
            *(
                Target(f"{count:,} segments in one task: CPU a segment", each[BATCH, count], 6, "ms")
                for count in batches
                if count >= compared
            ),
        ],
        Panel(
            "A segment on a whole Airflow",
            "CPU ms of the stack",
            [label(dag, count) for dag, count in found if dag != HTTP],
            bars={label(dag, count): each[dag, count] for dag, count in found},
        ),
    )


def _run(airflow: AirflowStack, dag: str, segments: int, bystanders: set[int]) -> dict[str, float]:
    """Return what a run took: ``cpu`` and ``watched`` seconds, its ``wall`` seconds and ``instances``."""
    airflow.unpause(dag)
    began, cpu = time.monotonic(), _cpu(bystanders)
    run_id = airflow.trigger(dag, {"segments": segments})
    while (run := airflow.request("GET", "dags", dag, "dagRuns", run_id))["state"] not in FINISHED:
        airflow.check()
        if time.monotonic() > began + DEADLINE:
            raise BenchError(f"{dag} with {segments} segments did not end within {DEADLINE:.0f} s")
        time.sleep(2)
    cpu = _cpu(bystanders) - cpu
    if run["state"] != "success":
        raise BenchError(f"{dag} with {segments} segments failed; logs: {airflow.home}")
    started, ended = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    path = ("dags", dag, "dagRuns", run_id, "taskInstances")
    return {
        "cpu": cpu,
        "watched": time.monotonic() - began,
        "wall": (ended - started).total_seconds(),
        "instances": airflow.request("GET", *path, params={"limit": 1})["total_entries"],
    }


def _family() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def _cpu(bystanders: set[int]) -> float:
    """Return the CPU seconds of our descendants but the bystanders, ended children included."""
    total = 0.0
    for pid in _family() - bystanders:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
