"""Reading the tables."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import ID_LABEL, NOTABLE, Kind
from airflow_provider_segstats.history.connections import records, transaction
from airflow_provider_segstats.history.observations import Observation, Outcome
from airflow_provider_segstats.history.statements import Statements
from airflow_provider_segstats.history.tables import COUNTS, LATEST, NAMES, NIGHTS

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


@dataclass(frozen=True, slots=True)
class Latest:
    """An object's latest counters, summed over its lists: ``channels`` by channel and counter.

    They are those of ``night``, the object's last. ``total`` sums ``subscribed_sendable``; ``night_change``
    and ``week_change`` are its changes since the night before and since seven nights earlier, over what both
    nights counted. All three are None where they are not known.
    """

    source: str
    kind: Kind
    id: int
    night: date
    updated: datetime
    total: int | None
    night_change: int | None
    week_change: int | None
    channels: Mapping[str, Mapping[str, int]]


def last_of_each_night(
    hook: DbApiHook,
    table: str,
    *,
    since: date,
    until: date | None = None,
    source: str | None = None,
    kind: Kind = "segment",
    segment_ids: Collection[int] | None = None,
) -> list[Observation]:
    """Return the last observation of each night for each source, segment, list, resource and channel.

    From the night ``since`` to ``until``, both included, of one kind of object; ``segment_ids`` are its ids.
    Ordered by source, segment, list, resource, channel and night.
    """
    with transaction(hook) as cursor:
        return list(
            observations(
                cursor,
                Statements.of(hook, table),
                since=since,
                until=until,
                source=source,
                kind=kind,
                ids=segment_ids,
            )
        )


def observations(
    cursor: Any,
    statements: Statements,
    *,
    since: date,
    until: date | None = None,
    source: str | None = None,
    kind: Kind = "segment",
    ids: Collection[int] | None = None,
) -> Iterator[Observation]:
    """Yield what :func:`last_of_each_night` returns, from a cursor."""
    where, parameters = _conditions(statements.mark, since=since, until=until, source=source, kind=kind)
    if ids is not None:
        where += f" AND {chosen(ID_LABEL[kind], ids)}"
    query = statements.last_of_each_night(where)
    order = f"source, {ID_LABEL[kind]}, list_id, resource_id, channel, night"
    cursor.execute(f"{query} ORDER BY {order}", parameters)
    return map(_observation, records(cursor))


def sums(
    hook: DbApiHook, table: str, *, since: date, kind: Kind, ids: Collection[int]
) -> dict[tuple[str, Kind, int], dict[date, int]]:
    """Return the sum of :data:`NOTABLE` of each object in each night from ``since``, by source, kind and id.

    The database adds up: of a page of segments there are thousands of observations, but few sums.
    """
    statements, column = Statements.of(hook, table), ID_LABEL[kind]
    where, parameters = _conditions(statements.mark, since=since, kind=kind, counter=NOTABLE)
    by = ("source", column, "night")
    query = statements.select(
        COUNTS, (*by, "SUM(count)"), f"{where} AND {chosen(column, ids)}", f"GROUP BY {', '.join(by)}"
    )
    found: dict[tuple[str, Kind, int], dict[date, int]] = {}
    for source, number, night, total in _asked(hook, query, parameters):
        found.setdefault((source, kind, number), {})[as_date(night)] = int(total)
    return found


def chosen(column: str, ids: Iterable[int]) -> str:
    """Return the condition that a column is one of these ids, written out: databases limit parameters."""
    return f"{column} IN ({', '.join(str(required_id('segment_id', one)) for one in ids) or 'NULL'})"


def nights(
    hook: DbApiHook,
    table: str,
    *,
    since: date,
    until: date | None = None,
    source: str | None = None,
    dag_id: str | None = None,
) -> list[Outcome]:
    """Return what became of each object in each run, of the nights from ``since`` to ``until``.

    Ordered by ``run_after``, source, DAG, run, kind and id.
    """
    where, parameters = _conditions(hook.placeholder, since=since, until=until, source=source, dag_id=dag_id)
    order = "ORDER BY run_after, source, dag_id, run_id, kind, id"
    query = Statements.of(hook, table).select(NIGHTS.suffix, NIGHTS.columns, where, order)
    return [_outcome(record) for record in _asked(hook, query, parameters)]


def last_nights(hook: DbApiHook, table: str) -> list[Outcome]:
    """Return what became of each object in the last run of each DAG and account.

    Runs of the eight nights before the newest count, so that a weekly DAG has its last, and one that was
    given up has none. Ordered as :func:`nights`.
    """
    statements = Statements.of(hook, table)
    mark = statements.mark
    with transaction(hook) as cursor:
        cursor.execute(statements.select(NIGHTS.suffix, ["MAX(night)"], "1 = 1"))
        newest = next(records(cursor))[0]
        if newest is None:
            return []
        since = (as_date(newest) - timedelta(days=8)).isoformat()
        found: list[Outcome] = []
        # By the last run of each: what a run left is found by the key, not by its night.
        last = ("source", "dag_id", "MAX(run_after)")
        cursor.execute(
            statements.select(NIGHTS.suffix, last, f"night >= {mark}", "GROUP BY source, dag_id"), [since]
        )
        which = f"source = {mark} AND dag_id = {mark} AND night >= {mark} AND run_after = {mark}"
        query = statements.select(NIGHTS.suffix, NIGHTS.columns, which, "ORDER BY kind, id")
        for source, dag_id, run_after in list(records(cursor)):
            cursor.execute(query, [source, dag_id, since, run_after])
            found += map(_outcome, records(cursor))
    return sorted(found, key=lambda outcome: outcome.run_after)


def outcomes_of(
    hook: DbApiHook, table: str, source: str, kind: Kind, number: int, *, since: date
) -> list[Outcome]:
    """Return what became of one object in each run, from the night ``since``; ordered by ``run_after``."""
    where, parameters = _conditions(hook.placeholder, since=since, source=source, kind=kind)
    where += f" AND {chosen('id', [number])}"
    order = "ORDER BY run_after, dag_id, run_id"
    query = Statements.of(hook, table).select(NIGHTS.suffix, NIGHTS.columns, where, order)
    return [_outcome(record) for record in _asked(hook, query, parameters)]


def runs(hook: DbApiHook, table: str, *, since: date) -> set[tuple[str, str]]:
    """Return the DAG and the id of each run that is known, of the nights from ``since`` on."""
    where, parameters = _conditions(hook.placeholder, since=since)
    query = Statements.of(hook, table).select(NIGHTS.suffix, ["DISTINCT dag_id", "run_id"], where)
    return {(dag_id, run_id) for dag_id, run_id in _asked(hook, query, parameters)}


def latest(hook: DbApiHook, table: str, *, source: str | None = None, kind: Kind = "segment") -> list[Latest]:
    """Return the latest counters of each object that was ever counted, ordered by source and id."""
    where, parameters = _conditions(hook.placeholder, source=source, kind=kind)
    query = Statements.of(hook, table).select(LATEST.suffix, LATEST.columns, where, "ORDER BY source, id")
    return [
        Latest(of, kind, number, as_date(night), as_instant(updated), total, change, week, as_json(channels))
        for of, _, number, night, updated, total, change, week, channels in _asked(hook, query, parameters)
    ]


def names(hook: DbApiHook, table: str, *, source: str | None = None) -> dict[tuple[str, Kind, int], str]:
    """Return the name that each object was last seen with, by source, kind and id."""
    where, parameters = _conditions(hook.placeholder, source=source)
    columns, order = ("source", "kind", "id", "name"), "ORDER BY source, kind, id, last_seen, first_seen"
    query = Statements.of(hook, table).select(NAMES.suffix, columns, where, order)
    return {(of, kind, number): name for of, kind, number, name in _asked(hook, query, parameters)}


def _asked(hook: DbApiHook, query: str, parameters: Sequence[str]) -> list[tuple[Any, ...]]:
    with transaction(hook) as cursor:
        cursor.execute(query, parameters)
        return list(records(cursor))


def _conditions(
    mark: str, *, since: date | None = None, until: date | None = None, **equal: str | None
) -> tuple[str, list[str]]:
    found = {
        "night >=": since,
        "night <=": until,
        **{f"{column} =": value for column, value in equal.items()},
    }
    given = {condition: str(value) for condition, value in found.items() if value is not None}
    return " AND ".join(f"{condition} {mark}" for condition in given) or "1 = 1", list(given.values())


def as_date(value: Any) -> date:
    """Return a night as a database gives it."""
    return value if isinstance(value, date) else date.fromisoformat(value)


def as_instant(value: Any) -> datetime:
    """Return a time as a database gives it, in UTC."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))
    return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)


def as_json(value: Any) -> Any:
    """Return JSON as a database gives it."""
    return json.loads(value) if isinstance(value, str | bytes) else value


def _observation(record: tuple[Any, ...]) -> Observation:
    source, kind, segment_id, list_id, resource_id, channel, updated, night, counters = record
    return Observation(
        source=source,
        segment_id=segment_id,
        list_id=list_id or None,
        resource_id=resource_id or None,
        channel=channel,
        updated=as_instant(updated),
        counters=as_json(counters),
        night=as_date(night),
        kind=kind,
    )


def _outcome(record: tuple[Any, ...]) -> Outcome:
    source, dag_id, run_id, night, run_after, *rest = record
    return Outcome(source, dag_id, run_id, as_date(night), as_instant(run_after), *rest)
