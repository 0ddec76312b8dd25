"""Load 1,000,000 observations into SQLite and PostgreSQL with the provider's own code, and read them back.

``scripts/bench sql`` calls ``main``. PostgreSQL is the test suite's, from a wheel, on this machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_airflow.postgres import Postgres

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Observation

NIGHTS, SEGMENTS, CHANNELS = 100, 2000, ("email", "push", "sms", "viber", "whatsapp")
FIRST_NIGHT = datetime(2026, 1, 1, 3, tzinfo=timezone.utc)
WEEK = timedelta(days=7)


def main(nights: int = NIGHTS) -> None:
    """Print a line for each database and step: observations, seconds, observations a second, peak memory."""
    with tempfile.TemporaryDirectory(prefix="segstats-bench-") as folder:
        os.environ.update(AIRFLOW_HOME=folder, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        server = Postgres(Path(folder) / "postgres.log")
        try:
            for connection in (
                {"conn_type": "sqlite", "host": f"{folder}/history.db"},
                server.connection,
            ):
                # A process for each, since a process's peak memory never falls.
                process = multiprocessing.get_context("spawn").Process(
                    target=measure, args=(connection, nights)
                )
                process.start()
                process.join()
                if process.exitcode:
                    sys.exit(process.exitcode)
        finally:
            server.stop()


def measure(connection: dict[str, Any], nights: int) -> None:
    """Load into the database of an Airflow connection and read from it, printing as it goes."""
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(connection)
    from airflow_provider_segstats import history

    hook = history.database("bench")
    table = history.DEFAULT_TABLE
    history.create(hook, table)
    print(f"{connection['conn_type']}: {peak():.0f} MB before", flush=True)

    def step(what: str, work: Any) -> None:
        began = time.perf_counter()
        number = work()
        seconds = time.perf_counter() - began
        rate = number / seconds
        print(
            f"  {what:<24} {number:>9,} in {seconds:5.1f} s {rate:>8,.0f}/s, peak {peak():,.0f} MB",
            flush=True,
        )

    def load(expected: str) -> int:
        counts = history.write(hook, table, observations(nights))
        if set(counts.values()) != {0, counts[expected]}:
            raise SystemExit(f"not as expected: {counts}")
        return counts[expected]

    last_night = FIRST_NIGHT.date() + timedelta(days=nights - 1)
    step("load", lambda: load("inserted"))
    step("load again, nothing new", lambda: load("already_there"))
    for what, since in (("read the last week", last_night - WEEK), ("read all", FIRST_NIGHT.date())):
        step(what, lambda since=since: len(history.last_of_each_night(hook, table, since=since)))


def observations(nights: int) -> Iterator[Observation]:
    """Give night after night of every segment's channels."""
    from airflow_provider_segstats.history import Observation

    for night in range(nights):
        for segment in range(1, SEGMENTS + 1):
            updated = FIRST_NIGHT + timedelta(days=night, seconds=segment)
            for number, channel in enumerate(CHANNELS):
                counters = {"subscribed_sendable": 1000 * segment + night, "unconfirmed_sendable": number}
                yield Observation("example.com", segment, 1, 24, channel, updated, counters, updated.date())


def peak() -> float:
    """Return this process's peak memory so far (RSS), in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
