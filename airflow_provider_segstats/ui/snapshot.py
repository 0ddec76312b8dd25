"""The history's latest values as one list in memory, for the page to search, sort and cut.

The history changes once a night, the page is asked many times a minute: so each API server keeps one
snapshot, of at most :data:`FRESH` seconds, made by one request at a time. It reads one row a segment and the
newest nights, never the whole history.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_segstats import history

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from airflow_provider_segstats.ui.places import History

FRESH = 15.0
MAIN_COUNTER = history.NOTABLE
MOST_CHANNELS = 6
"""Channels with a column of their own in the list; what a segment has besides is in its total."""

Key = tuple[str, history.Kind, int]
State = Literal["counted", "failed", "not_submitted", "missing"]


@dataclass(frozen=True, slots=True)
class Line:
    """One segment (or database, or resource) of the list."""

    source: str
    kind: history.Kind
    id: int
    name: str | None
    state: State
    reason: str | None
    night: date | None
    updated: datetime | None
    total: int | None
    change: int | None
    week_change: int | None
    channels: Mapping[str, Mapping[str, int | None]]

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.source, self.kind, self.id

    @property
    def searched(self) -> str:
        """What a search looks into."""
        return f"{self.id} {self.name or ''}".casefold()


@dataclass(frozen=True)
class Night:
    """A run that counted segments of an account: what became of them."""

    source: str
    dag_id: str
    run_id: str
    night: date
    counted: int
    failed: Sequence[history.Outcome]
    not_submitted: Sequence[history.Outcome]


@dataclass(frozen=True)
class Snapshot:
    """The list and the last night of each DAG and account, as of one moment."""

    lines: Sequence[Line]
    nights: Sequence[Night]
    at: float
    _sorted: dict[tuple[str, bool], Sequence[Line]] = field(default_factory=dict)

    @cached_property
    def accounts(self) -> list[str]:
        """The accounts that there are."""
        return sorted({line.source for line in self.lines})

    @cached_property
    def channels(self) -> list[str]:
        """The channels that have columns in the list: those with the most people first."""
        sums: Counter[str] = Counter()
        for line in self.lines:
            for channel, counters in line.channels.items():
                sums[channel] += counters.get(MAIN_COUNTER) or 0
        return sorted(sums, key=lambda channel: (-sums[channel], channel))[:MOST_CHANNELS]

    @cached_property
    def newest(self) -> date | None:
        """The last night in which anything was counted."""
        return max((line.night for line in self.lines if line.night), default=None)

    def find(self, key: Key) -> Line | None:
        """Return a line, None where there is none."""
        return self._by_key.get(key)

    @cached_property
    def _by_key(self) -> dict[Key, Line]:
        return {line.key: line for line in self.lines}

    def by(self, column: str, *, descending: bool) -> Sequence[Line]:
        """Return the lines sorted by a column; those without a value come last, whatever the direction.

        A column is a field of :class:`Line` or ``channel:<name>``, a channel's main counter.
        """
        key = (column, descending)
        if key not in self._sorted:
            if len(self._sorted) > 2 * len(Line.__slots__) + 20:  # channels are an open set
                self._sorted.clear()
            values = [(_value(line, column), line) for line in self.lines]
            there = [pair for pair in values if pair[0] is not None]
            there.sort(key=lambda pair: pair[0], reverse=descending)
            missing = [line for value, line in values if value is None]
            self._sorted[key] = [line for _, line in there] + missing
        return self._sorted[key]


def _value(line: Line, column: str) -> Any:
    if column.startswith("channel:"):
        return line.channels.get(column.removeprefix("channel:"), {}).get(MAIN_COUNTER)
    value = getattr(line, column)
    return value.casefold() if isinstance(value, str) else value


class Cache:
    """Makes a snapshot when one is asked for and the last is too old; others get the last meanwhile."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._last: dict[History, Snapshot] = {}

    def get(self, place: History) -> Snapshot:
        """Return a snapshot of the history; what the database raises comes through."""
        last = self._last.get(place)
        if last and time.monotonic() - last.at < FRESH:
            return last
        if not self._making.acquire(blocking=last is None):
            assert last is not None  # noqa: S101 - blocking otherwise
            return last
        try:
            last = self._last.get(place)  # somebody else's, while we waited
            if last is None or time.monotonic() - last.at >= FRESH:
                last = make(place.hook(), place.table)
                self._last = {place: last}  # there is one at a time
            return last
        finally:
            self._making.release()


def make(hook: DbApiHook, table: str) -> Snapshot:
    """Read a snapshot."""
    names, outcomes = history.names(hook, table), history.last_nights(hook, table)
    last = {(outcome.source, outcome.kind, outcome.id): outcome for outcome in outcomes}  # the newest stays
    lines = []
    for kind in history.KINDS:
        for latest in history.latest(hook, table, kind=kind):
            key = (latest.source, latest.kind, latest.id)
            lines.append(_line(latest, names.get(key), last.pop(key, None)))
    lines += [_never_counted(names.get(key), outcome) for key, outcome in last.items()]
    return Snapshot(lines, _nights(outcomes), time.monotonic())


def _line(latest: history.Latest, name: str | None, outcome: history.Outcome | None) -> Line:
    return Line(
        source=latest.source,
        kind=latest.kind,
        id=latest.id,
        name=name,
        state=outcome.outcome if outcome else "missing",
        reason=outcome.reason if outcome else "not in the last night's list",
        night=latest.night,
        updated=latest.updated,
        total=latest.total,
        change=latest.night_change,
        week_change=latest.week_change,
        channels=latest.channels,
    )


def _never_counted(name: str | None, outcome: history.Outcome) -> Line:
    nothing = dict.fromkeys(("night", "updated", "total", "change", "week_change"))
    return Line(
        source=outcome.source,
        kind=outcome.kind,
        id=outcome.id,
        name=name,
        state=outcome.outcome,
        reason=outcome.reason,
        channels={},
        **nothing,
    )


def _nights(outcomes: Iterable[history.Outcome]) -> list[Night]:
    runs: dict[tuple[str, str, str], list[history.Outcome]] = {}
    for outcome in outcomes:
        runs.setdefault((outcome.source, outcome.dag_id, outcome.run_id), []).append(outcome)
    return [
        Night(
            source=source,
            dag_id=dag_id,
            run_id=run_id,
            night=found[0].night,
            counted=sum(outcome.outcome == "counted" for outcome in found),
            failed=[outcome for outcome in found if outcome.outcome == "failed"],
            not_submitted=[outcome for outcome in found if outcome.outcome == "not_submitted"],
        )
        for (source, dag_id, run_id), found in runs.items()
    ]
