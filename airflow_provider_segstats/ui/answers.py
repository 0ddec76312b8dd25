"""What the page shows, as plain JSON: cut from a snapshot, or read for the few segments that are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats import history
from airflow_provider_segstats.history import Observation
from airflow_provider_segstats.ui.snapshot import MAIN_COUNTER, Key, Line, Night, Snapshot

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Outcome
    from airflow_provider_segstats.ui.places import History

TREND = timedelta(days=30)
MOST_TRENDS = 20_000
"""Segments whose trends are kept: a list of a hundred pages, some 10 MB."""

Counts = list["int | None"]


def listed(
    snapshot: Snapshot,
    *,
    search: str,
    account: str,
    state: str,
    running: Collection[Key],
    sort: str,
    descending: bool,
) -> Sequence[Line]:
    """Return the lines that match, sorted. A search has first what is called just so, then what begins so."""
    lines = snapshot.by(sort, descending=descending)
    if account:
        lines = [line for line in lines if line.source == account]
    if state == "running":
        lines = [line for line in lines if line.key in running]
    elif state:
        lines = [line for line in lines if line.state == state]
    if wanted := search.casefold().strip():
        lines = [line for line in lines if wanted in line.searched]
        lines.sort(key=lambda line: _rank(line, wanted))
    return lines


def _rank(line: Line, wanted: str) -> int:
    names = (str(line.id), (line.name or "").casefold())
    if wanted in names:
        return 0
    return 1 if any(name.startswith(wanted) for name in names) else 2


def row(
    line: Line, channels: Iterable[str], trend: Sequence[int | None], running: Mapping[Key, int | None]
) -> dict[str, Any]:
    """Return a row of the list."""
    runs = line.key in running
    return {
        **_named(line.key, line.name),
        "total": line.total,
        "change": line.change,
        "week_change": line.week_change,
        "updated": line.updated.isoformat() if line.updated else None,
        "state": "running" if runs else line.state,
        "reason": None if runs else line.reason,
        "progress": running.get(line.key),
        "channels": {name: line.channels.get(name, {}).get(MAIN_COUNTER) for name in channels},
        "trend": trend,
    }


def _named(key: Key, name: str | None) -> dict[str, Any]:
    source, kind, number = key
    return {"source": source, "kind": kind, "id": number, "name": name}


class Trends:
    """The totals of the segments that are shown, in the last thirty nights; kept until there is another."""

    def __init__(self) -> None:
        self._kept: dict[Key, Sequence[int | None]] = {}
        self._of: tuple[History, date] | None = None

    def of(self, lines: Sequence[Line], place: History, until: date) -> dict[Key, Sequence[int | None]]:
        """Return the trend of each line up to a night, None in nights in which it was not counted."""
        if self._of != (place, until) or len(self._kept) > MOST_TRENDS:
            self._kept, self._of = {}, (place, until)
        kept = self._kept  # another request may begin anew meanwhile
        if fresh := [line.key for line in lines if line.key not in kept]:
            kept.update(_trends(fresh, place, until))
        return {line.key: kept[line.key] for line in lines}


def _trends(keys: Sequence[Key], place: History, until: date) -> dict[Key, Counts]:
    nights, found = nights_until(until, TREND), dict[Key, dict[date, int]]()
    for kind in {key[1]: None for key in keys}:
        ids = {key[2] for key in keys if key[1] == kind}
        found |= history.sums(place.hook(), place.table, since=nights[0], kind=kind, ids=ids)
    return {key: [found.get(key, {}).get(night) for night in nights] for key in keys}


def nights_until(last: date, span: timedelta) -> list[date]:
    """Return every date of the time that ends with ``last``."""
    return [last - timedelta(days=ago) for ago in range(span.days, -1, -1)]


def by_channel(observations: Iterable[Observation], nights: Sequence[date]) -> dict[str, Counts]:
    """Return one segment's counts in each of the nights, by channel."""
    place = {night: at for at, night in enumerate(nights)}
    found: dict[str, Counts] = {}
    for seen in observations:
        count, at = seen.counters.get(MAIN_COUNTER), place.get(seen.night)
        if count is not None and at is not None:
            line = found.setdefault(seen.channel, [None] * len(nights))
            line[at] = (line[at] or 0) + count
    return found


def one(line: Line, place: History, since: date, until: date, dag_ids: Collection[str]) -> dict[str, Any]:
    """Return one segment with its nights; a run of a DAG that the caller may not read is not named."""
    hook, nights = place.hook(), nights_until(until, until - since)
    seen = history.last_of_each_night(
        hook,
        place.table,
        since=since,
        until=until,
        source=line.source,
        kind=line.kind,
        segment_ids=[line.id],
    )
    outcomes = history.outcomes_of(hook, place.table, line.source, line.kind, line.id, since=since)
    return {
        **row(line, (), (), {}),
        "channels": by_channel(seen, nights),
        "nights": [night.isoformat() for night in nights],
        "outcomes": [_outcome(outcome, dag_ids) for outcome in reversed(outcomes)],
    }


def _outcome(outcome: Outcome, dag_ids: Collection[str]) -> dict[str, Any]:
    may_read = outcome.dag_id in dag_ids
    return {
        "night": outcome.night.isoformat(),
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "dag_id": outcome.dag_id if may_read else None,
        "run_id": outcome.run_id if may_read else None,
    }


def night(of: Night, facts: Mapping[str, Any] | None, snapshot: Snapshot) -> dict[str, Any]:
    """Return a night; ``facts`` are those that Airflow still has of its run."""

    def told(outcome: Outcome) -> dict[str, Any]:
        key = (outcome.source, outcome.kind, outcome.id)
        line = snapshot.find(key)
        return {**_named(key, line.name if line else None), "reason": outcome.reason}

    return {
        "source": of.source,
        "dag_id": of.dag_id,
        "run_id": of.run_id,
        "night": of.night.isoformat(),
        "counted": of.counted,
        "failed": list(map(told, of.failed)),
        "not_submitted": list(map(told, of.not_submitted)),
        **(facts or {"seconds": None, "submits": None}),
    }
