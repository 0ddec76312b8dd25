"""Kills on a whole Airflow on PostgreSQL: every segment's counters arrive once, or its task says why not.

Not part of a plain run: ``scripts/test --cluster [--rounds N] [--segments N] [--table FILE]``.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow_runs import connection
from cluster_postgres import Postgres

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from _leash import Leashed  # noqa: E402 - the scripts are no package
from _stack import FINISHED, AirflowStack, StackError, free_port  # noqa: E402

pytestmark = pytest.mark.cluster

TOKEN = "cluster-t0ken"
SECONDS = 15  # that a recount takes
DEADLINE = 480  # of a run; its stuck recounts end after 180 s
DOWN = 5  # seconds that a killed part stays away
POLL, SUBMIT = "tasks/status", "segments/refresh_counters"
FAULTS: list[dict[str, Any]] = [
    {"probability": probability, "times": None, **fault}
    for probability, fault in (
        (0.05, {"kind": "http", "endpoint": POLL, "status": 500}),
        (0.05, {"kind": "http", "endpoint": POLL, "status": 429, "retry_after": "2"}),
        (0.03, {"kind": "reset", "endpoint": POLL}),
        (0.03, {"kind": "truncate", "endpoint": POLL}),
        (0.05, {"kind": "http", "endpoint": SUBMIT, "status": 503}),
        (0.05, {"kind": "http", "endpoint": SUBMIT, "status": 429, "retry_after": "2"}),
        (0.02, {"kind": "lost_answer", "endpoint": SUBMIT}),
        (0.2, {"kind": "delay", "seconds": 0.5}),
        (0.05, {"kind": "task", "outcome": "stuck"}),
    )
]
# Kills are to be noticed in seconds.
CONFIG = {
    "core": {"parallelism": 8},
    "scheduler": {
        "job_heartbeat_sec": 2,
        "scheduler_health_check_threshold": 10,
        "orphaned_tasks_check_interval": 10,
        "task_instance_heartbeat_sec": 2,
        "task_instance_heartbeat_timeout": 20,
        "task_instance_heartbeat_timeout_detection_interval": 5,
    },
    "triggerer": {"job_heartbeat_sec": 2, "triggerer_health_check_threshold": 10},
}


@dataclass
class Row:
    """One kill: what became of its segments. Ambiguous and stuck ones said so; lost and doubled did not."""

    component: str
    segments: int
    delivered: int
    lost: int
    doubled_unannounced: int
    ambiguous: int
    stuck: int
    seconds: int


class Cluster:
    """Airflow, its database and the emulator, and how to kill each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.postgres = Postgres(folder / "postgres.log")
        self.start_emulator()
        database = {
            "sql_alchemy_conn": self.postgres.url("psycopg2"),
            "sql_alchemy_conn_async": self.postgres.url("asyncpg"),
        }
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(self.url, TOKEN)}
        self.airflow = AirflowStack(
            folder / "airflow",
            Path(__file__).parent / "cluster_dags",
            env,
            triggerers=2,
            config={**CONFIG, "database": database},
        )

    def start_emulator(self) -> None:
        command = [sys.executable, "-m", "airflow_provider_segstats.emulator"]
        command += ["--port", self.url.rpartition(":")[2], "--seconds", str(SECONDS)]
        command += ["--state", str(self.folder / "emulator.db")]
        env = {**os.environ, "SEGSTATS_EMULATOR_TOKEN": TOKEN}
        self.emulator = Leashed(command, env=env, log=self.folder / "emulator.log")
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.control("faults", FAULTS)  # which, unlike tasks, end with the emulator
            except requests.ConnectionError:
                assert time.monotonic() < deadline, self.emulator.tail()
                time.sleep(0.3)

    def control(self, route: str, body: Any = None) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            url = f"{self.url}/_emulator/{route}"
            reply = session.request("POST" if body else "GET", url, json=body, timeout=30)
            reply.raise_for_status()
            return reply.json()

    def submits(self, segments: range) -> list[dict[str, Any]]:
        return [task for task in self.control("tasks") if task["segment_id"] in segments]

    def crash(self, component: str) -> None:
        """Kill -9; some seconds later, start again what a service manager would."""
        if component == "database":
            self.postgres.crash()
            time.sleep(DOWN)
            self.postgres.start()
        elif component == "emulator":
            self.emulator.kill()
            time.sleep(DOWN)
            self.start_emulator()
        else:
            self.airflow.kill(component)
            time.sleep(DOWN)
            self.airflow.start(component)


def settled(airflow: AirflowStack, run_id: str) -> bool:
    """Whether a run has ended; restarts whatever could not bear the kill of another part."""
    airflow.revive()
    try:
        return airflow.state("cluster", run_id) in FINISHED
    except (requests.RequestException, StackError):  # the API server, or its database, is away
        return False


def until(holds: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def instances(airflow: AirflowStack, run_id: str) -> list[dict[str, Any]]:
    """Return the mapped task instances, page by page."""
    found: list[dict[str, Any]] = []
    path = ("dags", "cluster", "dagRuns", run_id, "taskInstances")
    while page := airflow.request("GET", *path, params={"limit": 100, "offset": len(found)})[
        "task_instances"
    ]:
        found += page
    return [task for task in found if task["map_index"] >= 0]


def outcome(airflow: AirflowStack, task: dict[str, Any], segment: int) -> str:
    """Return what became of a segment: delivered, ambiguous, stuck, or lost."""
    if task["state"] == "success":
        rows = airflow.xcom("cluster", task["dag_run_id"], task["task_id"], map_index=task["map_index"])
        channels = Counter((row["segment_id"], row["channel"]) for row in rows or ())
        expected = Counter((segment, channel) for channel in ("email", "push", "sms"))
        return "delivered" if channels == expected else "lost"
    log = "\n".join(airflow.log(task))
    if task["state"] == "failed" and "may or may not" in log:
        return "ambiguous"
    if task["state"] == "failed" and "was not done within timeout" in log:
        return "stuck"
    print(f"{task['task_id']}[{task['map_index']}] {task['state']}: {log[-3000:]}")  # noqa: T201
    return "lost"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        with cluster.airflow:
            cluster.airflow.unpause("cluster", seconds=120)
            yield cluster
    finally:
        cluster.emulator.stop()
        cluster.postgres.stop()


def strike(cluster: Cluster, component: str, segments: range) -> Row:
    """Kill a component while segments are in flight and tell what became of them."""
    airflow = cluster.airflow
    began = time.monotonic()
    poked = segments[: min(4, len(segments) // 5)]
    conf = {"poked": list(poked), "deferred": list(segments[len(poked) :])}
    run_id = airflow.trigger("cluster", conf)
    assert until(lambda: len(cluster.submits(segments)) > len(segments) / 3, 120), "nothing in flight"
    cluster.crash(component)
    until(lambda: settled(airflow, run_id), DEADLINE)
    of = {"poked": conf["poked"], "deferred": conf["deferred"]}
    ends: Counter[str] = Counter()
    for task in instances(airflow, run_id):
        ends[outcome(airflow, task, of[task["task_id"]][task["map_index"]])] += 1
    submits = Counter(task["segment_id"] for task in cluster.submits(segments))
    return Row(
        component,
        len(segments),
        ends["delivered"],
        len(segments) - ends["delivered"] - ends["ambiguous"] - ends["stuck"],
        sum(count > 1 for count in submits.values()),
        ends["ambiguous"],
        ends["stuck"],
        round(time.monotonic() - began),
    )


def table(rows: list[Row]) -> str:
    names = [field.name.replace("_", " ") for field in fields(Row)]
    lines = [names, ["---"] * len(names), *([str(cell) for cell in astuple(row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Not yet among them: a worker process, killed while it runs a poked task.
COMPONENTS = ("triggerer", "scheduler", "api-server", "database", "emulator")


def test_every_segment_arrives_once(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    rounds, count = pytestconfig.getoption("--rounds"), pytestconfig.getoption("--segments")
    file = pytestconfig.getoption("--table")
    rows: list[Row] = []
    first = 1000
    for component in COMPONENTS * rounds:
        rows.append(strike(cluster, component, range(first, first + count)))
        first += count
        print(table(rows[-1:]).splitlines()[-1], flush=True)  # noqa: T201
        if file:
            Path(file).write_text(table(rows))
    assert not [row for row in rows if row.lost or row.doubled_unannounced], "\n" + table(rows)
