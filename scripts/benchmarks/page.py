"""The page in Airflow's UI at full size: what its calls take, and the plans of the queries behind them.

10,000 segments with 3 channels and 365 nights in PostgreSQL, put there in SQL; a real API server; four
clients that ask one call after the other. ``scripts/bench ui`` calls ``main``.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import threading
import time
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2  # type: ignore[import-untyped]
import psycopg2.extensions  # type: ignore[import-untyped]
import requests
from local_airflow.stack import AirflowStack

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

SEGMENTS, NIGHTS, CLIENTS, SECONDS = 10_000, 365, 4, 60.0
LIMIT = 0.1  # seconds for 95 of 100 calls
TONIGHT = date(2026, 3, 31)
COLUMNS = ("total", "name", "id", "source", "updated", "state", "change", "week_change", "channel:email")
PLAN_LINES = 14


def main(segments: int = SEGMENTS, nights: int = NIGHTS, seconds: float = SECONDS) -> None:
    """Print the size, the first call, each call's percentiles and the plans; over the limit, fail."""
    if segments == 1:  # a smoke run
        segments, nights, seconds = 100, 10, 3.0
    with tempfile.TemporaryDirectory(prefix="segstats-bench-") as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        with AirflowStack(home / "airflow", home / "dags", only=["api-server"]) as airflow:
            fill(airflow, segments, nights)
            missed = measure(airflow, segments, seconds)
            explain()
    if missed:
        raise SystemExit(f"over {1000 * LIMIT:.0f} ms: {', '.join(missed)}")


def fill(airflow: AirflowStack, segments: int, nights: int) -> None:
    """Put the history into Airflow's own database, and its connection into Airflow."""
    connection = airflow.postgres.connection
    os.environ["AIRFLOW_CONN_SEGSTATS_HISTORY"] = json.dumps(connection)
    from airflow_provider_segstats import history

    airflow.request("POST", "connections", json={"connection_id": "segstats_history", **connection})
    history.create(history.database("segstats_history"), history.DEFAULT_TABLE)
    began, first = time.monotonic(), TONIGHT - timedelta(days=nights - 1)
    statements = (
        "ALTER TABLE segment_counters SET UNLOGGED",
        "ALTER TABLE segment_counters_nights SET UNLOGGED",
        """
        INSERT INTO segment_counters
            (source, kind, segment_id, list_id, resource_id, channel, updated, night, counters)
        SELECT 'bench', 'segment', s, 1, 24, c, d + time '03:05' AT TIME ZONE 'UTC', d::date,
               json_build_object('subscribed_sendable', s * 10 + d::date - %(first)s::date,
                                 'unconfirmed_sendable', 3)
        FROM generate_series(1, %(segments)s) s, unnest(ARRAY['email', 'push', 'sms']) c,
             generate_series(%(first)s::timestamptz, %(last)s::timestamptz, '1 day') d
        """,
        """
        INSERT INTO segment_counters_nights
            (source, dag_id, run_id, night, run_after, kind, id, outcome, reason)
        SELECT 'bench', 'nightly_segment_refresh', 'scheduled__' || d::date, d::date, d + time '03:00',
               'segment', s, CASE WHEN s %% 100 = 0 THEN 'failed' ELSE 'counted' END,
               CASE WHEN s %% 100 = 0 THEN 'task 4711 failed: no such list' END
        FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, '1 day') d,
             generate_series(1, %(segments)s) s
        """,
        """
        INSERT INTO segment_counters_latest
            (source, kind, id, night, updated, total, night_change, week_change, channels)
        SELECT 'bench', 'segment', s, %(last)s::date, %(last)s::timestamptz, s * 30, 3, 21,
               json_build_object('email', json_build_object('subscribed_sendable', s * 10),
                                 'push', json_build_object('subscribed_sendable', s * 10),
                                 'sms', json_build_object('subscribed_sendable', s * 10))
        FROM generate_series(1, %(segments)s) s
        """,
        """
        INSERT INTO segment_counters_names (source, kind, id, name, first_seen, last_seen)
        SELECT 'bench', 'segment', s, 'Readers of issue ' || s, %(first)s::date, %(last)s::date
        FROM generate_series(1, %(segments)s) s
        """,
    )
    with psycopg2.connect(host=connection["host"], user="postgres", dbname="airflow") as database:
        cursor = database.cursor()
        for statement in statements:
            cursor.execute(statement, {"segments": segments, "first": first, "last": TONIGHT})
    database.autocommit = True
    cursor.execute("VACUUM ANALYZE")
    cursor.execute(
        "SELECT COUNT(*), pg_size_pretty(pg_total_relation_size('segment_counters')) FROM segment_counters"
    )
    rows, size = cursor.fetchone()
    database.close()
    print(f"{rows:,} observations, {size}, in {time.monotonic() - began:.0f} s", flush=True)


def measure(airflow: AirflowStack, segments: int, seconds: float) -> list[str]:
    """Print what calls take, and return those over the limit."""
    token = airflow.token()

    def ask(session: requests.Session, path: str, parameters: dict[str, Any]) -> float:
        began = time.perf_counter()
        reply = session.get(f"{airflow.url}/segstats/api/{path}", params=parameters, timeout=60)
        reply.raise_for_status()
        return time.perf_counter() - began

    def a_session() -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {token}"
        return session

    print(f"the first call after a start: {1000 * ask(a_session(), 'segments', {}):.0f} ms", flush=True)
    found: dict[str, list[float]] = {}

    def client(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - it chooses pages
        session, end = a_session(), time.monotonic() + seconds
        while time.monotonic() < end:
            column = chance.choice(COLUMNS)
            page = {"offset": 50 * chance.randrange(max(1, segments // 50)), "limit": 50}
            order = chance.choice(("asc", "desc"))
            calls: dict[str, tuple[str, dict[str, Any]]] = {
                f"list by {column}": ("segments", {"sort": column, "order": order, **page}),
                "search": ("segments", {"search": str(chance.randrange(1, segments + 1))}),
                "one segment's year": (
                    "segment",
                    {"account": "bench", "id": chance.randrange(1, segments + 1), "days": 365},
                ),
                "what runs now": ("running", {}),
                "last night": ("nights", {}),
            }
            for name, (path, parameters) in calls.items():
                found.setdefault(name, []).append(ask(session, path, parameters))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    print(f"\n| call, {CLIENTS} clients | calls | p50 | p95 | slowest |\n|---|---|---|---|---|")
    missed = []
    for name, times in sorted(found.items()):
        ordered = sorted(times)
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        numbers = [1000 * number for number in (statistics.median(ordered), p95, ordered[-1])]
        print(f"| {name} | {len(times)} | " + " | ".join(f"{number:.0f} ms" for number in numbers) + " |")
        if p95 > LIMIT:
            missed.append(name)
    return missed


class Noting(psycopg2.extensions.cursor):  # type: ignore[misc]  # untyped
    """A cursor that explains each query before it asks it."""

    def execute(self, query: Any, parameters: Any = None) -> None:
        """Print the plan, then execute."""
        if query.lstrip().startswith(("SELECT", "WITH")):
            super().execute(f"EXPLAIN (ANALYZE, BUFFERS) {query}", parameters)
            plan = [line for (line,) in self.fetchall()]
            print("\n" + " ".join(query.split())[:300])
            print("\n".join(f"    {line}" for line in (*plan[:PLAN_LINES], plan[-1])), flush=True)
        super().execute(query, parameters)


def explain() -> None:
    """Print the plans of the queries behind the calls."""
    from airflow_provider_segstats import history
    from airflow_provider_segstats.ui import answers, places, snapshot

    class Noted(places.History):
        """Where the history is, and its queries are explained."""

        def hook(self) -> DbApiHook:
            hook = super().hook()
            connect = hook.get_conn

            def noting() -> Any:
                connection = connect()
                connection.cursor_factory = Noting
                return connection

            hook.get_conn = noting  # type: ignore[method-assign]
            return hook

    place = Noted("segstats_history", history.DEFAULT_TABLE)
    print("\n## The snapshot: latest values, names, last nights")
    seen = snapshot.make(place.hook(), place.table)
    print("\n## The trends of a page")
    answers.Trends().of(seen.lines[:50], place, TONIGHT)
    print("\n## One segment's year")
    answers.one(seen.lines[0], place, TONIGHT - timedelta(days=365), TONIGHT, ())


if __name__ == "__main__":
    main()
