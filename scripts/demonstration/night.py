"""What scripts/demo does once its environment stands."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from environment.progress import Progress
from local_airflow.leash import Leashed
from local_airflow.stack import FINISHED, PATIENCE, STEPS, USER, AirflowStack, StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
NIGHTLY, REPORT = "nightly_segment_refresh", "segment_report"
SECONDS_PER_TASK = 8  # long enough to see the waits deferred
PLATFORM = Path(__file__).with_name("platform.json")
SELECTION = {"ui_tags": ["nightly"], "resource_id": 24, "db_id": "auto"}
COUNTER = "subscribed_sendable"
FALL = {"kind": "counters", "segment_id": 9, "channel": "sms", "counter": COUNTER, "factor": 0.2}
"""What goes wrong tonight, for the check to find."""


def main(*, keep: bool, wire_format: str, port: int | None, folder: Path) -> int:
    """Run the demo, whose files go into ``folder``; return the exit status."""
    try:
        with only_one(folder), Progress() as progress:
            Demo(folder.resolve(), progress).run(keep=keep, wire_format=wire_format, port=port)
    except StackError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        print("\nInterrupted; everything is stopped.", file=sys.stderr)
        raise
    return 0


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep others out of the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StackError(f"its files cannot go into {folder} ({error.strerror}); see --folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another scripts/demo is running in {folder}.") from None
        yield


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


class Demo:
    """The stage, a month of nights on it, tonight's, and what is shown of that at the end."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._warehouse = folder / "history.db"

    def run(self, *, keep: bool, wire_format: str, port: int | None) -> None:
        """Start the stage, play the nights, show what came of them."""
        if port:
            refuse_taken(port)
        home = self._folder / "airflow"
        shutil.rmtree(home, ignore_errors=True)
        self._warehouse.unlink(missing_ok=True)
        with self._emulator() as (url, token):
            env = self._environment(url, token, wire_format)
            self._past_nights(url, env)
            requests.post(f"{url}/_emulator/faults", json=FALL, timeout=60).raise_for_status()
            with AirflowStack(home, ROOT / "dags", env, port=port, told=self._step()) as airflow:
                self._step(STEPS)("it looks for DAGs")
                airflow.unpause(REPORT)  # before the night's event comes, which would pass a paused DAG by
                run_id = airflow.trigger(NIGHTLY)
                self._progress.say(f"Airflow runs at {airflow.url}")
                self._show(self._tonight(airflow, run_id))
                if keep:
                    print(f"Airflow  {airflow.url}, user {USER}, password {airflow.password}")
                    print(f"segments {airflow.url}/plugin/segments")
                    print("Ctrl-C stops it and the emulator.", flush=True)
                    with contextlib.suppress(SystemExit):  # how it is meant to end
                        while True:
                            airflow.check()
                            time.sleep(1)
                self._progress.show("Airflow and the emulator are stopped …")

    @contextlib.contextmanager
    def _emulator(self) -> Iterator[tuple[str, str]]:
        """Run the emulator; yield its URL and a token it takes."""
        state, log = self._folder / "emulator.db", self._folder / "emulator.log"
        token = secrets.token_urlsafe(16)
        for left in (state, log):
            left.unlink(missing_ok=True)
        self._progress.show("the emulator starts …")
        command = [sys.executable, "-m", "airflow_provider_segstats.emulator", "--port", "0"]
        command += ["--state", str(state), "--seconds", str(SECONDS_PER_TASK), "--seed", str(PLATFORM)]
        process = Leashed(command, env={**os.environ, "SEGSTATS_EMULATOR_TOKEN": token}, log=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while not (found := re.search(r"http://\S+", process.tail())):
                if process.status is not None or time.monotonic() > deadline:
                    raise StackError(f"the emulator did not start:\n{process.tail()}")
                time.sleep(0.1)
            url = "{0.scheme}://{0.netloc}".format(urlsplit(found[0]))
            self._progress.say(f"the emulator answers at {url}")
            yield url, token
        finally:
            process.stop()

    def _environment(self, url: str, token: str, wire_format: str) -> dict[str, str]:
        """Return the connections and variables of the nights."""
        connection = {
            "conn_type": "segstats",
            "host": url,
            "password": token,
            "extra": {"format": wire_format, "account": "demo"},
        }
        return {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_SEGSTATS_HISTORY": json.dumps(
                {"conn_type": "sqlite", "host": str(self._warehouse)}
            ),
            "AIRFLOW_VAR_SEGSTATS_SEGMENTS": json.dumps(SELECTION),
            "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": str(self._folder / "reports"),
        }

    def _past_nights(self, url: str, env: Mapping[str, str]) -> None:
        """Fill the history with the nights before tonight."""
        asked = {
            "control": f"{url}/_emulator",
            "selection": SELECTION,
            "seconds": SECONDS_PER_TASK,
            "sql_conn_id": "segstats_history",
        }
        log, home = self._folder / "history.log", self._folder / "history-airflow"
        log.unlink(missing_ok=True)
        own = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
        command = [sys.executable, str(Path(__file__).with_name("past_nights.py")), json.dumps(asked)]
        process = Leashed(command, env={**own, "AIRFLOW_HOME": str(home), **env}, log=log)

        seen, since = "", time.monotonic()
        self._progress.show("nights of the last month are counted …")
        try:
            while process.status is None and time.monotonic() < since + PATIENCE:
                if (tail := process.tail()) != seen:
                    seen, since = tail, time.monotonic()
                    if numbers := re.findall(r"^counted (\d+) of (\d+)$", tail, re.MULTILINE):
                        done, of = map(int, numbers[-1])
                        self._progress.show("nights of the last month are counted", done, of)
                time.sleep(0.1)
            if process.status != 0:
                raise StackError(f"the nights before were not counted:\n{process.tail()}")
        finally:
            process.stop()
        self._progress.say(f"{done} nights of the last month are in the history")

    def _step(self, done: int = 0) -> Callable[[str], None]:
        """Return what shows the steps of Airflow's start, of which so many are done."""
        steps = itertools.count(done)
        return lambda what: self._progress.show(f"Airflow starts: {what}", next(steps), STEPS + 1)

    def _tonight(self, airflow: AirflowStack, run_id: str) -> Night:
        """See the night through, then the report that its asset event triggers."""
        self._follow(airflow, "tonight", NIGHTLY, run_id)
        self._progress.show("report: it is triggered …")
        airflow.until(lambda: airflow.runs(REPORT), f"a run of {REPORT}")
        run_id = airflow.runs(REPORT)[0]["dag_run_id"]
        tasks = self._follow(airflow, "report", REPORT, run_id, may_fail={"check"})
        findings = airflow.xcom(REPORT, run_id, "check", key="findings")
        # With findings the check fails, to turn the run red, and its error names them.
        named = airflow.logged(tasks["check"], "AirflowFailException: ")[-1:] if findings else []
        places = airflow.xcom(REPORT, run_id, "write")
        return Night(
            len(findings),
            [line.partition(": ")[2] for line in named],
            {kind: Path(places[kind].removeprefix("file://")) for kind in ("html", "csv", "parquet")},
        )

    def _follow(
        self, airflow: AirflowStack, name: str, dag_id: str, run_id: str, may_fail: Collection[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """Show a run's tasks until its end and return them by id; raise with the reason if one failed."""
        instances: list[dict[str, Any]] = []

        def states() -> list[Any]:
            return [(ti["task_id"], ti["state"]) for ti in instances]

        def ended() -> bool:
            state = airflow.state(dag_id, run_id)  # read before the tasks, so that the last view is complete
            instances[:] = airflow.task_instances(dag_id, run_id)
            at_work = [ti for ti in instances if ti["state"] not in {None, *FINISHED}]
            what = ", ".join(f"{ti['task_id']} {ti['state']}" for ti in at_work)
            done = sum(ti["state"] in FINISHED for ti in instances)
            self._progress.show(f"{name}: {what or '…'}", done, len(instances))
            # Nothing here should need a second attempt, and attempts are minutes apart.
            troubled = [
                ti
                for ti in instances
                if ti["state"] in {"failed", "up_for_retry"} and ti["task_id"] not in may_fail
            ]
            if troubled:
                logs = (f"{ti['task_id']} logged:\n" + "\n".join(airflow.log(ti)[-15:]) for ti in troubled)
                raise StackError("\n\n".join([f"{dag_id} went wrong.", *logs]))
            return state in FINISHED

        airflow.until(ended, f"the end of {dag_id}", sign=states)
        self._progress.say(f"{name}: {len(instances)} tasks have ended")
        return {ti["task_id"]: ti for ti in instances}

    def _show(self, night: Night) -> None:
        """Print what tonight counted, and where the rest is to be found."""
        counts = tonights_counts(self._warehouse)
        segments = len({count.segment_id for count in counts})
        findings = f"{night.findings} finding{'' if night.findings == 1 else 's'}"
        self._progress.say(f"{segments} segments counted, {len(counts)} counts, {findings}")
        print("", table(counts), "", *night.named, "", sep="\n")
        for kind, path in night.files.items():
            print(f"{kind:<8} {path.as_uri()}")
        print(f"history  {self._warehouse.as_uri()} (SQLite, table segment_counters)\n", flush=True)


@dataclass(frozen=True)
class Night:
    """What came of tonight: how many findings, the line that names them, and the report's files."""

    findings: int
    named: list[str]
    files: dict[str, Path]


@dataclass(frozen=True)
class Count:
    """What tonight counted for a channel of a segment; ``before`` is the night before's, if it had it."""

    segment_id: int
    name: str
    channel: str
    now: int
    before: int | None


def tonights_counts(warehouse: Path) -> list[Count]:
    """Return the counts of the history's last night beside those of the night before."""
    query = """
        WITH counts AS (SELECT * FROM segment_counters_counts WHERE counter = :counter)
        SELECT tonight.segment_id, names.name, tonight.channel, tonight.count, earlier.count
        FROM (SELECT * FROM counts WHERE night = (SELECT MAX(night) FROM counts)) AS tonight
        JOIN segment_counters_names AS names ON names.kind = 'segment' AND names.id = tonight.segment_id
        LEFT JOIN counts AS earlier
            ON earlier.night = (SELECT MAX(night) FROM counts WHERE night < tonight.night)
            AND (earlier.segment_id, earlier.list_id, earlier.resource_id, earlier.channel)
                = (tonight.segment_id, tonight.list_id, tonight.resource_id, tonight.channel)
        ORDER BY tonight.segment_id, tonight.channel
    """
    with contextlib.closing(sqlite3.connect(warehouse)) as database:
        return [Count(*record) for record in database.execute(query, {"counter": COUNTER})]


def table(counts: Iterable[Count]) -> str:
    """Return a line for each segment: of each channel the count, and its change since the night before."""
    by_segment: dict[str, dict[str, str]] = {}
    for count in counts:
        change = "new" if count.before is None else f"{count.now - count.before:+,}"
        cells = by_segment.setdefault(f"{count.name} ({count.segment_id})", {})
        cells[count.channel] = f"{count.now:>9,} {change:>8}"
    channels = sorted({channel for cells in by_segment.values() for channel in cells})
    wide = max(map(len, ["segment", *by_segment]))
    lines = [f"{'segment':<{wide}}" + "".join(f" {channel:>9} {'change':>8}" for channel in channels)]
    for segment, cells in by_segment.items():
        lines.append(f"{segment:<{wide}}" + "".join(f" {cells.get(channel, ''):>18}" for channel in channels))
    return "\n".join(lines)
