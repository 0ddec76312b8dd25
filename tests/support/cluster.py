"""A whole Airflow beside the emulator, each part under a loop that restarts it; and kill -9."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests
from local_airflow.leash import Leashed
from local_airflow.stack import AirflowStack, StackError, free_port
from support.paths import DAGS, TESTS

T = TypeVar("T")

DAG_ID = "cluster"
TOKEN = "cluster-t0ken"
SECONDS = 15  # that a recount takes
DOWN = 5  # seconds before what was killed is started again
AWAY = 60  # seconds in which an API server that stays away is killed again whenever it comes up
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
        (0.01, {"kind": "lost_answer", "endpoint": SUBMIT}),
        (0.2, {"kind": "delay", "seconds": 0.5}),
    )
]
# Deaths are noticed in half a minute and not in five. No sooner: a part that a busy machine kept from
# its heartbeat would be taken for dead, and that is another test than this one.
CONFIG = {
    "api": {"maximum_page_limit": 1000},
    "core": {"parallelism": 10},
    "scheduler": {
        "scheduler_health_check_threshold": 30,
        "orphaned_tasks_check_interval": 10,
        "task_instance_heartbeat_timeout": 180,
        "task_instance_heartbeat_timeout_detection_interval": 5,
        "task_queued_timeout": 120,
        "task_queued_timeout_check_interval": 20,
    },
    # An API server that stays away would end every task that runs: Airflow's default is three.
    "workers": {"max_failed_heartbeats": 30},
    # Few at a time, so that both triggerers get some.
    "triggerer": {"triggerer_health_check_threshold": 20, "max_trigger_to_select_per_loop": 2},
}


class Cluster:
    """Airflow, its database and the emulator; ``timeout`` and ``in_flight`` are the DAG's.

    What its tasks read of Airflow stands in its database: what is in the environment needs no API server.
    """

    def __init__(self, folder: Path, *, timeout: float, in_flight: int) -> None:
        self.signs = folder / "signs"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._faults: list[dict[str, Any]] = []
        self._journal: list[dict[str, Any]] = []  # of emulators that were killed
        command = [sys.executable, "-m", "airflow_provider_segstats.emulator", "--seconds", str(SECONDS)]
        command += ["--port", self.url.rpartition(":")[2], "--state", str(folder / "emulator.db")]
        env = {**os.environ, "SEGSTATS_EMULATOR_TOKEN": TOKEN}
        self.emulator = Leashed(command, env=env, log=folder / "emulator.log", restart_after=DOWN)
        self.airflow = AirflowStack(
            folder / "airflow",
            DAGS / "cluster",
            {
                "CLUSTER_SIGNS": str(self.signs),
                "CLUSTER_TIMEOUT": str(timeout),
                "CLUSTER_IN_FLIGHT": str(in_flight),
                "PYTHONPATH": str(TESTS / "support" / "cluster_settings"),
            },
            triggerers=2,
            restart_after=DOWN,
            config=CONFIG,
        )

    def prepare(self) -> None:
        """Make what the DAGs need; Airflow runs by now."""
        self.signs.mkdir()
        fields = {"conn_type": "segstats", "host": self.url, "password": TOKEN}
        for what, body in (
            ("connections", {"connection_id": "segstats_default", **fields}),
            ("variables", {"key": "colour", "value": "green"}),
        ):
            self.airflow.request("POST", what, json=body)
        for dag_id in (DAG_ID, "away"):
            patiently(partial(self.airflow.unpause, dag_id))

    def stop(self) -> None:
        """Stop everything, whatever of it runs."""
        self.airflow.stop()
        self.emulator.stop()

    # The emulator

    def control(self, route: str, body: Any = None, *, method: str | None = None) -> Any:
        """Return what a control route of the emulator answers."""
        with requests.Session() as session:
            session.trust_env = False
            url = f"{self.url}/_emulator/{route}"
            reply = session.request(method or ("POST" if body else "GET"), url, json=body, timeout=30)
            reply.raise_for_status()
            return reply.json()

    def arm(self, faults: Sequence[dict[str, Any]]) -> None:
        """Let requests suffer these faults, which come first, and :data:`FAULTS`."""
        self._faults = [*faults, *FAULTS]
        patiently(lambda: self.control("faults", method="DELETE"))
        patiently(lambda: self.control("faults", self._faults))

    def recounts(self, segments: Container[int]) -> list[dict[str, Any]]:
        """Return the recounts of these segments that the emulator ever started."""
        return [task for task in patiently(lambda: self.control("tasks")) if task["segment_id"] in segments]

    def journal(self) -> list[dict[str, Any]]:
        """Return the requests that all emulators got, but for the last ones before a kill."""
        return self._journal + patiently(lambda: self.control("journal"))

    # Airflow

    def start_run(self, run_id: str, conf: dict[str, Any]) -> None:
        """Start a run of the DAG that is killed, once."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}

        def start() -> None:
            if not self.airflow.request("GET", "dags", DAG_ID, "dagRuns", run_id):
                self.airflow.request("POST", "dags", DAG_ID, "dagRuns", json=body)

        patiently(start)

    def instances(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances that refresh segments."""
        path = ("dags", DAG_ID, "dagRuns", run_id, "taskInstances")
        found = self.airflow.request("GET", *path, params={"limit": 1000})["task_instances"]
        return [task for task in found if task["operator_name"].startswith("Refresh") and _is_expanded(task)]

    # Kills

    def kill(self, part: str) -> None:
        """Kill -9 one of Airflow's components, the database or the emulator, with all that it started."""
        if part == "database":
            self.airflow.postgres.crash()
        elif part == "emulator":
            self._journal += self.control("journal")
            self.emulator.kill()
            patiently(lambda: self.control("faults", self._faults))  # which, unlike tasks, end with it
        else:
            self.airflow.kill(part)

    def keep_away(self, part: str) -> None:
        """Kill -9 one of Airflow's components, and again whenever it comes up, for :data:`AWAY`."""
        over = time.monotonic() + AWAY
        while time.monotonic() < over:
            self.airflow.kill(part)
            time.sleep(1)

    @staticmethod
    def kill_task(instance: dict[str, Any]) -> None:
        """Kill -9 the process that runs a task; its supervisor lives on."""
        _process(f"airflow worker -- {instance['id']}").kill()

    @staticmethod
    def kill_worker(instance: dict[str, Any]) -> None:
        """Kill -9 a worker that runs a task, with the task's process."""
        # Never an idle one: it would take the lock on the executor's queue with it.
        worker = _process(f"airflow worker -- LocalExecutor: {instance['id']}")
        for process in (worker, *worker.children(recursive=True)):
            process.kill()


def _is_expanded(task: dict[str, Any]) -> bool:
    """Whether it is more than the placeholder of a mapped task."""
    return task["map_index"] >= 0 or task["task_id"] == "batch"


def _process(title: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).strip() == title:
            return process
    raise AssertionError(f"there is no process {title!r}")


def patiently(call: Callable[[], T], seconds: float = 180) -> T:
    """Return what a call to a server returns, which may be restarting just now."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (requests.RequestException, StackError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def until(holds: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; return whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if holds():
                return True
        except (requests.RequestException, StackError):
            pass  # a server is restarting, or its database is
        time.sleep(0.5)
    return False
