"""The part "wait" of scripts/bench: thousands of waits in one triggerer, each looking every 30 s.

Here is the supervisor's side of it, which starts a runner for each measurement and answers its requests.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.stage import BenchError, Outcome, Panel, Stage, Target, quantile, say, spread, stage

OURS, HTTP, AIRFLOW = "TaskStatusTrigger", "HttpSensorTrigger", "a trigger that only sleeps"
DELAY = 0.05  # seconds until the server answers
LAG_EVERY = 0.02  # seconds that the sleeper sleeps whose lateness is the loop's lag
GRACE = 2.0  # seconds that a detection may be late and still be waited for


@dataclass(frozen=True)
class Run:
    """One measurement. ``interval`` is the seconds between looks; a share is ``finishing`` meanwhile."""

    design: str
    waits: int
    interval: float
    finishing: float = 0.1

    @property
    def window(self) -> float:
        """Seconds measured: every task that is done in the first interval is found in the second."""
        return 2 * self.interval + GRACE

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Return what ``asdict`` gave, come back from JSON."""
        return cls(**json.loads(text))


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:
    """Measure each design at each size, in turn."""
    rounds = rounds or (1 if smoke else 2)
    sizes = [30] if smoke else [1000, 5000, 10_000]
    interval = 0.5 if smoke else 30.0
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for waits in sizes:
            for design in (OURS, HTTP, AIRFLOW):
                try:
                    seen = _measured(folder, Run(design, waits, interval))
                except BenchError as error:
                    if design == OURS:
                        raise
                    print(f"  {error}", flush=True)  # a peer that does not bear so many: its row is missing
                    continue
                say(f"{design}, {waits:,}", seen)
                found.setdefault((design, waits), []).append(seen)
    names = {
        "cpu": ("CPU, % of a core", ".1f"),
        "lag_median": ("loop lag p50, ms", ".1f"),
        "lag_p99": ("p99", ".1f"),
        "lag_max": ("max", ".0f"),
        "gc_longest": ("longest GC pause, ms", ".0f"),
        "kib": ("RSS a trigger, KiB", ".1f"),
        "sockets": ("sockets", ".0f"),
        "late_p99": ("found late p99, s", ".2f"),
        "missed": ("not found", ".0f"),
    }
    rows = [["trigger", "waits", *(name for name, _ in names.values())]]
    for (design, waits), runs in found.items():
        cells = [spread([run[key] for run in runs], form) for key, (_, form) in names.items()]
        rows.append([design, f"{waits:,}", *cells])
    median = {
        key: {name: statistics.median(run[name] for run in runs) for name in names}
        for key, runs in found.items()
    }
    most, own = median[OURS, sizes[-1]], median[AIRFLOW, sizes[-1]]
    where = f"{sizes[-1]:,} waits at {interval:g} s"
    pause = own["lag_max"] / 1e3
    targets = [
        Target(f"{where}: loop lag p99", most["lag_p99"], 10, "ms"),
        Target(f"{where}: RSS a trigger beyond Airflow's own", most["kib"] - own["kib"], 6, "KiB"),
        Target(f"{where}: sockets to the endpoint", most["sockets"], 64, ""),
        Target(
            f"{where}: found later than due, p99; {pause:.2f} s is the longest pause of Airflow's own",
            most["late_p99"],
            pause + 0.15,
            "s",
        ),
    ]
    # Past what the peer bears its CPU is all there is, and says nothing any more.
    if borne := [
        size for size in sizes if (HTTP, size) in median and median[HTTP, size]["missed"] < size / 20
    ]:
        ours, http, airflow = (median[design, borne[-1]]["cpu"] for design in (OURS, HTTP, AIRFLOW))
        what = f"{borne[-1]:,} waits at {interval:g} s: CPU beyond Airflow's own, against {HTTP}'s"
        targets.append(Target(what, (http - airflow) / (ours - airflow), 8, "x less", at_least=True))
    lines = {
        design: {waits: median[design, waits]["cpu"] for waits in sizes if (design, waits) in median}
        for design in (OURS, HTTP, AIRFLOW)
    }
    return Outcome(
        f"wait: waits in one triggerer, answers in {1000 * DELAY:g} ms, {rounds} rounds",
        [rows],
        "The triggerer is Airflow's TriggerRunner.run() with a supervisor of the bench's; connections come "
        "over its channel, as they do from Airflow's database. The waits are started over one interval; "
        "then, after a collection of garbage, they are measured for two. A tenth of the tasks is done in the "
        "first; late is by how much an event came after the last 'pending', one interval and one answer's "
        "time; not found are those without "
        f"an event at the end. The lag is that of a sleeper of {1000 * LAG_EVERY:g} ms. '{AIRFLOW}' is "
        "DateTimeTrigger: Airflow's own cost.",
        targets,
        Panel(
            f"Waiting in one triggerer, a look every {interval:g} s",
            "CPU, % of a core",
            (OURS,),
            lines=lines,
            across="waits",
        ),
    )


def _measured(folder: Path, run: Run) -> dict[str, float]:
    """Return what one fresh runner measured, and what the server and the kernel saw of it."""
    with stage(folder, delay=DELAY) as on:
        out = folder / "runner.json"
        for left in (out, out.with_suffix(".begun")):
            left.unlink(missing_ok=True)
        with _runner(on, run, out) as runner:
            begun = False
            deadline = time.monotonic() + 60 + 4 * run.interval + run.window
            while runner.poll() is None:
                if time.monotonic() > deadline:
                    raise BenchError(f"{run} did not come to its end; logs: {folder}")
                if not begun and out.with_suffix(".begun").exists():
                    on.ask("wave")
                    begun = True
                time.sleep(0.1)
        if not out.exists():
            log = (folder / "runner.log").read_text(errors="replace")
            raise BenchError(f"{run} failed:\n{log[-3000:]}")
        result = json.loads(out.read_text())
        fired, ended = result.pop("fired"), result.pop("ended")
        stats = on.ask("stats")
    late, missed = [0.0], 0
    for task_id, asked in stats["last_pending"].items():
        if math.isfinite(float(task_id.split("-")[1])):
            missed += task_id not in fired
            late.append(fired.get(task_id, ended) - (asked + run.interval + DELAY))
    seen = {"sockets": stats["most_connected"], "late_p99": quantile(late, 0.99), "missed": missed}
    return {**result, **seen}


@contextlib.contextmanager
def _runner(on: Stage, run: Run, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the runner, with a thread of ours as its supervisor. It ends when that leaves."""
    ours, its = socket.socketpair()
    connections = {
        name.removeprefix("AIRFLOW_CONN_").lower(): json.loads(value)
        for name, value in on.env.items()
        if name.startswith("AIRFLOW_CONN_")
    }
    env = {name: value for name, value in on.env.items() if not name.startswith("AIRFLOW_CONN_")}
    with (on.folder / "runner.log").open("wb") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trigger_runner", str(out), json.dumps(asdict(run))],
            env=env,
            stdin=its.fileno(),
            stdout=log,
            stderr=log,
        )
    its.close()
    supervisor = threading.Thread(target=_supervise, args=(ours, connections), daemon=True)
    supervisor.start()
    try:
        yield runner
    finally:
        if runner.poll() is None:
            runner.kill()
        runner.wait()
        supervisor.join()
        ours.close()


def _supervise(channel: socket.socket, connections: Mapping[str, dict[str, Any]]) -> None:
    """Answer the runner as Airflow's supervisor does: frames of msgpack, [id, body, error]."""

    def send(number: int, body: Mapping[str, Any]) -> None:
        frame = msgspec.msgpack.encode([number, body, None])
        channel.sendall(struct.pack(">I", len(frame)) + frame)

    stream = channel.makefile("rb")
    with contextlib.suppress(OSError):
        send(0, {"type": "StartTriggerer"})
        while head := stream.read(4):
            number, body, *_ = msgspec.msgpack.decode(stream.read(struct.unpack(">I", head)[0]))
            if body["type"] == "GetConnection":
                send(number, _connection(body["conn_id"], connections[body["conn_id"]]))
            elif body["type"] == "TriggerStateChanges":
                send(number, {"type": "TriggerStateSync", "to_create": [], "to_cancel": []})
            else:
                send(number, {"type": "OKResponse", "ok": True})


def _connection(conn_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    empty = dict.fromkeys(("host", "schema", "login", "password", "port"))
    extra = json.dumps(fields["extra"]) if "extra" in fields else None
    return {"type": "ConnectionResult", "conn_id": conn_id, **empty, **fields, "extra": extra}
