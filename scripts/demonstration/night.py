"""What scripts/demo does once its environment stands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from local_airflow.leash import Leashed
from local_airflow.stack import USER, AirflowStack, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".demo"
NIGHTLY, REPORT = "nightly_segment_refresh", "segment_report"
SECONDS_PER_TASK = 8  # long enough to see the waits deferred
DEADLINE = 300.0
SEGMENTS = [{"segment_id": number, "resource_id": 24} for number in range(7, 19)]


def main(*, keep: bool, wire_format: str, port: int | None) -> int:
    """Run the demo; return the exit status."""
    try:
        with only_one():
            demo(keep=keep, wire_format=wire_format, port=port)
    except StackError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        print("\nInterrupted; everything is stopped.", file=sys.stderr)
        raise
    return 0


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Keep others out of the folder."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("another scripts/demo is running in this checkout.") from None
        yield


def demo(*, keep: bool, wire_format: str, port: int | None) -> None:
    """Start the stage, play the night, show its report."""
    if port:
        refuse_taken(port)
    home, warehouse = FOLDER / "airflow", FOLDER / "history.db"
    shutil.rmtree(home, ignore_errors=True)
    warehouse.unlink(missing_ok=True)
    progress = Progress()
    with emulator(FOLDER) as (emulator_url, token):
        progress.say(f"the emulator answers at {emulator_url}")
        host = "{0.scheme}://{0.netloc}".format(urlsplit(emulator_url))
        connection = {
            "conn_type": "segstats",
            "host": host,
            "password": token,
            "extra": {"format": wire_format, "account": "demo"},
        }
        env = {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_SEGSTATS_HISTORY": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
            "AIRFLOW_VAR_SEGSTATS_SEGMENTS": json.dumps(SEGMENTS),
            "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": (FOLDER / "reports").as_uri(),
        }
        progress.say("the last month's nights are counted, on the emulator's clock …")
        past_nights(host, env)
        progress.say("Airflow is starting, for tonight …")
        with AirflowStack(home, ROOT / "dags", env, port=port) as airflow:
            progress.say(f"Airflow answers at {airflow.url}; it looks for DAGs …")
            places = play(airflow, progress)
            print(f"\nReport:  {places['html']}\n         {places['csv']}\n         {places['parquet']}")
            print(f"History: {warehouse}, table segment_counters\n")
            if keep:
                print(f"Airflow: {airflow.url}, user {USER}, password {airflow.password}")
                print("Ctrl-C stops it and the emulator.", flush=True)
                with contextlib.suppress(SystemExit):  # how it is meant to end
                    while True:
                        airflow.check()
                        time.sleep(1)
            progress.say("stopping …")
    progress.say("done")


def past_nights(url: str, env: Mapping[str, str]) -> None:
    """Fill the history with the nights before tonight."""
    asked = {
        "control": f"{url}/_emulator",
        "segments": SEGMENTS,
        "seconds": SECONDS_PER_TASK,
        "sql_conn_id": "segstats_history",
    }
    log = FOLDER / "history.log"
    log.unlink(missing_ok=True)
    home = FOLDER / "history-airflow"
    own = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
    command = [sys.executable, str(Path(__file__).with_name("past_nights.py")), json.dumps(asked)]
    process = Leashed(command, env={**own, "AIRFLOW_HOME": str(home), **env}, log=log)
    try:
        deadline = time.monotonic() + DEADLINE
        while process.status is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.status != 0:
            raise StackError(f"the nights before were not counted:\n{process.tail()}")
    finally:
        process.stop()


def refuse_taken(port: int) -> None:
    """Say so before anything is started."""
    with socket.socket() as probe:
        # As servers do, or the last demo's closed connections would still count as taking it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port} cannot be had ({error.strerror}). Without --port, any free one is."
            ) from None


@contextlib.contextmanager
def emulator(folder: Path) -> Iterator[tuple[str, str]]:
    """Run the emulator; yield the API's URL and a token it takes."""
    state, log, token = folder / "emulator.db", folder / "emulator.log", secrets.token_urlsafe(16)
    for left in (state, log):
        left.unlink(missing_ok=True)
    command = [sys.executable, "-m", "airflow_provider_segstats.emulator", "--port", "0"]
    command += ["--state", str(state), "--seconds", str(SECONDS_PER_TASK)]
    process = Leashed(command, env={**os.environ, "SEGSTATS_EMULATOR_TOKEN": token}, log=log)
    try:
        deadline = time.monotonic() + 30
        while not (url := re.search(r"http://\S+", process.tail())):
            if process.status is not None or time.monotonic() > deadline:
                raise StackError(f"the emulator did not start:\n{process.tail()}")
            time.sleep(0.1)
        yield url[0], token
    finally:
        process.stop()


def play(airflow: AirflowStack, progress: Progress) -> dict[str, str]:
    """See the night through, then the report that its asset event triggers; return its files' paths."""
    deadline = time.monotonic() + DEADLINE
    airflow.unpause(REPORT)  # before the event comes, which would pass a paused DAG by
    follow(airflow, NIGHTLY, airflow.trigger(NIGHTLY), deadline, progress)
    airflow.until(lambda: airflow.runs(REPORT), deadline - time.monotonic(), f"a run of {REPORT}")
    run_id = airflow.runs(REPORT)[0]["dag_run_id"]
    follow(airflow, REPORT, run_id, deadline, progress)
    places = airflow.xcom(REPORT, run_id, "write")
    return {kind: urlsplit(place).path for kind, place in places.items()}


def follow(airflow: AirflowStack, dag_id: str, run_id: str, deadline: float, progress: Progress) -> None:
    """Show a run's tasks until it succeeds; raise with the reason if it fails."""
    tasks: dict[str, Counter[str]] = {}

    def succeeded() -> bool:
        state = airflow.state(dag_id, run_id)  # read before the tasks, so that the last view is complete
        instances = airflow.task_instances(dag_id, run_id)
        count(instances, tasks)
        progress.update(f"{dag_id}: {as_text(tasks) or state}")
        # Nothing here should need a second attempt, and attempts are minutes apart.
        troubled = [ti for ti in instances if ti["state"] in {"failed", "up_for_retry"}]
        if troubled or state == "failed":
            logs = (f"{ti['task_id']} logged:\n" + "\n".join(airflow.log(ti)[-15:]) for ti in troubled)
            raise StackError("\n\n".join([f"{dag_id} went wrong.", *logs]))
        return state == "success"

    airflow.until(succeeded, deadline - time.monotonic(), f"the end of {dag_id}")
    progress.end_line()


def count(instances: list[dict[str, Any]], tasks: dict[str, Counter[str]]) -> None:
    """Count states by task, keeping the order in which tasks first came up."""
    for counts in tasks.values():
        counts.clear()
    for instance in instances:
        if instance["state"]:
            tasks.setdefault(instance["task_id"], Counter())[instance["state"]] += 1


def as_text(tasks: dict[str, Counter[str]]) -> str:
    """Return `list_segments success · refresh 2 deferred, success`."""
    return " · ".join(
        f"{task} " + ", ".join(f"{n} {state}" if n > 1 else state for state, n in sorted(counts.items()))
        for task, counts in tasks.items()
        if counts
    )


class Progress:
    """Lines with the seconds since the start; on a terminal an update rewrites the line before."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._open = self._last = ""

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self.end_line()
        print(f"{time.monotonic() - self._began:4.0f} s  {text}", flush=True)

    def update(self, text: str) -> None:
        """Print what changes."""
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 9
            print(f"\r\x1b[K{time.monotonic() - self._began:4.0f} s  {text[:width]}", end="", flush=True)
            self._open = text
        elif text != self._last:
            self.say(text)
        self._last = text

    def end_line(self) -> None:
        """Keep the last update in view."""
        if self._open:
            print(flush=True)
        self._open = ""
