"""Writing the tables: a load, which changes all of them or none; and forgetting."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta, timezone
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.model import ID_LABEL, NOTABLE, Kind
from airflow_provider_segstats.history import read
from airflow_provider_segstats.history.connections import records, transaction
from airflow_provider_segstats.history.dialects import Type
from airflow_provider_segstats.history.layout import check
from airflow_provider_segstats.history.observations import (
    Observation,
    Outcome,
    check_counters,
    storable,
)
from airflow_provider_segstats.history.statements import Statements
from airflow_provider_segstats.history.tables import (
    LATEST,
    NAMES,
    NIGHTS,
    OBSERVATIONS,
    TABLES,
    Table,
)

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

WEEK = timedelta(days=7)

# 900 parameters: every build of SQLite takes 999, and psycopg gets slower a row with many more.
_ROWS_A_STATEMENT = 100
# Observations that are brought into the key's order: any night, and no end of memory for an import.
_ROWS_A_WINDOW = 50_000

_LARGEST = 2**63  # what a column of numbers takes

Record = Sequence[Any]
"""A table's values, in the order of its columns."""


def write(
    hook: DbApiHook, table: str, observations: Iterable[Observation], outcomes: Iterable[Outcome] = ()
) -> dict[str, int]:
    """Add the observations that are not there yet, all or none, and return how many of each.

    ``outcomes``, what became of each object in a run, replaces what is known of the same run. The tables
    are looked at first: what is missing or not allowed raises :class:`ConfigurationError` before anything
    is written. Then it is one transaction, in which ``observations`` is read as it goes: memory does not grow
    with it. What was written first stays; the table's key decides, also between two writers at once.
    Returns ``{"inserted": …, "already_there": …}``.
    """
    statements = Statements.of(hook, table)
    with transaction(hook) as cursor:
        check(hook, cursor, statements)
    with transaction(hook) as cursor:  # of its own: SQLite would lock the others out while rows are awaited
        load = _Load(cursor, statements)
        counts = load.observations(observations)
        load.replace(NIGHTS, [_outcome(outcome) for outcome in outcomes])
        load.names()
        load.latest()
    return counts


def forget(hook: DbApiHook, table: str, *, source: str, kind: Kind = "segment", id: int | None = None) -> int:  # noqa: A002 - the column's name
    """Delete an object from the table and those beside it, or, without ``id``, a whole account.

    Returns how many observations there were. What is forgotten comes back when it is counted again.
    """
    statements, mark, deleted = Statements.of(hook, table), hook.placeholder, 0
    with transaction(hook) as cursor:
        for of in TABLES:
            where, parameters = f"source = {mark}", [source]
            if id is not None:
                column = ID_LABEL[kind] if of is OBSERVATIONS else "id"
                where += f" AND kind = {mark} AND {read.chosen(column, [id])}"
                parameters.append(kind)
            if of is OBSERVATIONS:
                cursor.execute(statements.select(of.suffix, ["COUNT(*)"], where), parameters)
                [[deleted]] = records(cursor)
            cursor.execute(statements.delete(of.suffix, where), parameters)
    return deleted


class _Load:
    """One load, in a transaction; what it brought is known once :meth:`observations` has been through it.

    All is written in the order of the keys, or two loads at once could wait for each other.
    """

    def __init__(self, cursor: Any, statements: Statements) -> None:
        self._cursor = cursor
        self._statements = statements
        self._newest: dict[tuple[str, Kind, int], date] = {}  # nights, by object
        self._named: dict[tuple[Any, ...], set[date]] = defaultdict(set)

    def observations(self, observations: Iterable[Observation]) -> dict[str, int]:
        """Add those that are not there, and return how many were and were not."""
        pending = iter(observations)
        total = inserted = 0
        while window := [self._observation(seen) for seen in islice(pending, _ROWS_A_WINDOW)]:
            total += len(window)
            inserted += self._insert(OBSERVATIONS, window)
        return {"inserted": inserted, "already_there": total - inserted}

    def replace(self, of: Table, records_: Iterable[Record], newest: str | None = None) -> None:
        """Put records where their keys are, unless what is there has a newer value in a column."""
        # Of two with one key the last counts.
        for batch in _batches(of, {of.key_of(record): record for record in records_}.values()):
            if self._statements.dialect.conflicts == "none":
                keys = (*of.key, *([newest] if newest else []))
                self._execute(self._statements.removal(of, len(batch), newest), of, batch, keys)
                self._insert(of, batch)
            else:
                self._execute(self._statements.replacement(of, len(batch), newest), of, batch)

    def _insert(self, of: Table, records_: Iterable[Record]) -> int:
        """Add the records whose keys are not there; return how many."""
        inserted = 0
        first = {of.key_of(record): record for record in reversed(list(records_))}
        for batch in _batches(of, first.values()):
            self._execute(self._statements.insertion(of, len(batch)), of, batch)
            if self._statements.dialect.counted_in_result:
                [[number]] = records(self._cursor)
            else:
                number = self._cursor.rowcount
            inserted += number
        return inserted

    def _execute(
        self, statement: str, of: Table, batch: Sequence[Record], columns: Sequence[str] | None = None
    ) -> None:
        """Run a statement with these columns of each record, all of them unless told otherwise."""
        places = [list(of.columns).index(column) for column in columns or of.columns]
        types = list(of.columns.values())
        time = self._statements.dialect.time
        values = [_written(types[place], record[place], time) for record in batch for place in places]
        self._cursor.execute(statement, values)

    def names(self) -> None:
        """Note which names were seen in which nights."""
        for source, kind in sorted({one[:2] for one in self._named}):
            ids = {number for *of, number, _ in self._named if of == [source, kind]}
            for *key, first, last in self._beside(NAMES, source, kind, ids):
                if (one := tuple(key)) in self._named:
                    self._named[one] |= {read.as_date(first), read.as_date(last)}
        self.replace(NAMES, [(*one, min(seen), max(seen)) for one, seen in self._named.items()])

    def latest(self) -> None:
        """Bring the table of the latest up to what is in the table now."""
        for source, kind in sorted({one[:2] for one in self._newest}):
            brought = {number: night for (*of, number), night in self._newest.items() if of == [source, kind]}
            known = {
                number: read.as_date(night)
                for _, _, number, night, *_ in self._beside(LATEST, source, kind, brought)
            }
            # What is older than a week before the latest changes nothing of it.
            newest = {
                number: max(night, known.get(number, night))
                for number, night in brought.items()
                if night + WEEK >= known.get(number, night)
            }
            if not newest:
                continue
            observations = read.observations(
                self._cursor,
                self._statements,
                since=min(newest.values()) - WEEK,
                source=source,
                kind=kind,
                ids=newest,
            )
            rows = [_latest(list(of_one)) for _, of_one in groupby(observations, attrgetter("id"))]
            self.replace(LATEST, rows, newest="updated")

    def _beside(self, table: Table, source: str, kind: Kind, ids: Iterable[int]) -> list[Record]:
        """Return what a table beside the observations has of these objects."""
        mark = self._statements.mark
        where = f"source = {mark} AND kind = {mark} AND {read.chosen('id', ids)}"
        query = self._statements.select(table.suffix, table.columns, where)
        self._cursor.execute(query, [source, kind])
        return list(records(self._cursor))

    def _observation(self, seen: Observation) -> Record:
        storable("source", seen.source)
        storable("channel", seen.channel)
        check_counters(seen.counters)
        one = seen.source, seen.kind, seen.id
        self._newest[one] = max(seen.night, self._newest.get(one, seen.night))
        if seen.name is not None:
            named = (*one, storable("name", seen.name))
            self._named[named].add(seen.night)
        return (
            seen.source,
            seen.kind,
            seen.segment_id,
            seen.list_id or 0,
            seen.resource_id or 0,
            seen.channel,
            seen.updated,
            seen.night,
            seen.counters,
        )


def _batches(of: Table, records_: Iterable[Record]) -> Iterator[Sequence[Record]]:
    ordered = sorted(records_, key=of.key_of)
    for start in range(0, len(ordered), _ROWS_A_STATEMENT):
        yield ordered[start : start + _ROWS_A_STATEMENT]


def _written(type_: Type, value: Any, time: str) -> Any:
    """Return a value as text or number, which all drivers pass on as they are."""
    if type_ == "instant":
        return value.astimezone(timezone.utc).strftime(time)
    if type_ == "date":
        return value.isoformat()
    return json.dumps(value) if type_ == "json" else value


def _outcome(outcome: Outcome) -> Record:
    reason = outcome.reason and " ".join(outcome.reason.replace("\0", " ").split())
    values = {**asdict(outcome), "reason": reason}
    return [values[column] for column in NIGHTS.columns]


def _latest(observations: Sequence[Observation]) -> Record:
    """Return what the table of the latest says of an object, from the last of each of its nights."""
    newest = max(observations, key=attrgetter("updated"))
    night = newest.night
    nights: dict[date, dict[Any, Observation]] = defaultdict(dict)
    for seen in observations:
        nights[seen.night][seen.segment_id, seen.list_id, seen.resource_id, seen.channel] = seen
    channels: dict[str, Counter[str]] = defaultdict(Counter)
    for seen in nights[night].values():
        channels[seen.channel].update(
            {name: value for name, value in seen.counters.items() if value is not None}
        )
    before = max((other for other in nights if other < night), default=None)
    counts = [seen.counters.get(NOTABLE) for seen in nights[night].values()]
    return (
        newest.source,
        newest.kind,
        newest.id,
        night,
        newest.updated,
        _sum(count for count in counts if count is not None),
        _change(nights[night], nights.get(before, {}) if before else {}),
        _change(nights[night], nights.get(night - WEEK, {})),
        channels,
    )


def _change(now: Mapping[Any, Observation], then: Mapping[Any, Observation]) -> int | None:
    """Return the change over what both nights counted, None where they have nothing in common."""
    pairs = [
        (now[key].counters.get(NOTABLE), then[key].counters.get(NOTABLE)) for key in now.keys() & then.keys()
    ]
    return _sum(after - before for after, before in pairs if after is not None and before is not None)


def _sum(counts: Iterable[int]) -> int | None:
    """Return the sum, None of nothing, and of what no column would take."""
    total = None
    for count in counts:
        total = (total or 0) + count
    return total if total is None or abs(total) < _LARGEST else None
