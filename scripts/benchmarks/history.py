"""Load three years of 1,000 segments into SQLite and PostgreSQL with the provider's own code, and read them.

Read are the last 30 nights, which on PostgreSQL have to come within a second and by an index, and the ten
queries of ``docs/history.md``. ``scripts/bench sql`` calls ``main``. PostgreSQL is the
test suite's, from a wheel, on this machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_airflow.postgres import Postgres

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from airflow_provider_segstats.history import Observation, Outcome

NIGHTS, SEGMENTS = 3 * 365, 1000
LAST_NIGHT = datetime(2026, 3, 2, 3, tzinfo=timezone.utc)  # the thirtieth that the docs' queries ask for
LIMIT = 1.0  # seconds for the last 30 nights
PAGE = Path(__file__).resolve().parents[2] / "docs" / "history.md"


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
    from airflow_provider_segstats.history.statements import Statements

    hook = history.database("bench")
    table = history.DEFAULT_TABLE
    history.create(hook, table)
    print(f"{connection['conn_type']}: {peak():.0f} MB before", flush=True)

    def step(what: str, work: Callable[[], int]) -> float:
        began = time.perf_counter()
        number = work()
        seconds = time.perf_counter() - began
        rate = number / seconds
        print(
            f"  {what:<24} {number:>9,} in {seconds:7.2f} s {rate:>8,.0f}/s, peak {peak():,.0f} MB",
            flush=True,
        )
        return seconds

    def load(expected: str) -> int:
        counts = history.write(hook, table, observations(nights), outcomes(nights))
        if set(counts.values()) != {0, counts[expected]}:
            raise SystemExit(f"not as expected: {counts}")
        return counts[expected]

    step("load", lambda: load("inserted"))
    step("load again, nothing new", lambda: load("already_there"))
    since = LAST_NIGHT.date() - timedelta(days=29)
    if hook.conn_type == "postgres":
        hook.run("ANALYZE")  # as its autovacuum does in time
    seconds = step(
        "read the last 30 nights", lambda: len(history.last_of_each_night(hook, table, since=since))
    )
    for number, query in enumerate(
        re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL), 1
    ):
        step(f"query {number} of the docs", partial(lambda query: len(asked(hook, query)), query))
    if hook.conn_type == "postgres":
        plan = scans(hook, Statements.of(hook, table).last_of_each_night(f"night >= '{since}'"))
        print(f"  the last 30 nights: {plan}")
        # Of a few nights an index would find nearly all.
        if nights >= NIGHTS and (seconds > LIMIT or "Index" not in plan):
            raise SystemExit(f"reading the last 30 nights took {seconds:.1f} s, by {plan}")


def asked(hook: DbApiHook, query: str) -> list[tuple[Any, ...]]:
    """Return what a query gives; the hook's own way would print it."""
    from airflow_provider_segstats import history

    with history.transaction(hook) as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def scans(hook: DbApiHook, query: str) -> str:
    """Return what a query's plan says of how the table is gone through."""
    lines = [line for (line,) in asked(hook, f"EXPLAIN (ANALYZE, COSTS OFF) {query}")]
    return "; ".join(line.strip(" ->") for line in lines if "Scan" in line)


def outcomes(nights: int) -> list[Outcome]:
    """Return what became of the segments in the last nights: all were counted."""
    from airflow_provider_segstats.history import Outcome

    return [
        Outcome("example.com", "nightly", f"run {ago}", run.date(), run, "segment", segment, "counted")
        for ago in range(min(nights, 30))
        for run in [LAST_NIGHT - timedelta(days=ago)]
        for segment in range(1, SEGMENTS + 1)
    ]


def observations(nights: int) -> Iterator[Observation]:
    """Give night after night of every segment's channel."""
    from airflow_provider_segstats.history import Observation

    for ago in range(nights - 1, -1, -1):
        for segment in range(1, SEGMENTS + 1):
            updated = LAST_NIGHT - timedelta(days=ago) + timedelta(seconds=segment)
            counters = {"subscribed_sendable": 1000 * segment - ago, "unconfirmed_sendable": ago % 7}
            yield Observation("example.com", segment, 1, 24, "email", updated, counters, updated.date())


def peak() -> float:
    """Return this process's peak memory so far (RSS), in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
