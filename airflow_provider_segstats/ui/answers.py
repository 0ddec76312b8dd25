"""What the page shows, as plain JSON: cut from a snapshot, or read for the few segments that are shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats import history
from airflow_provider_segstats.ui.snapshot import MAIN_COUNTER, Line, Night, Snapshot

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Observation, Outcome

TREND = timedelta(days=30)
MOST_CHANNELS = 6
"""Channels with a column of their own in the list; what a segment has besides is in its total."""

Key = tuple[str, str, int]


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
    """Return the lines that match, sorted. A search finds what begins with it first."""
    lines = snapshot.by(sort, descending=descending)
    if account:
        lines = [line for line in lines if line.source == account]
    if state == "running":
        lines = [line for line in lines if key_of(line) in running]
    elif state:
        lines = [line for line in lines if line.state == state]
    if search:
        wanted = search.casefold().strip()
        lines = [line for line in lines if wanted in line.searched]
        lines.sort(key=lambda line: _rank(line, wanted))
    return lines


def _rank(line: Line, wanted: str) -> int:
    if wanted in {str(line.id), (line.name or "").casefold()}:
        return 0
    return 1 if line.searched.startswith(wanted) else 2


def key_of(line: Line | Outcome) -> Key:
    """Return what tells a segment, database or resource from all others."""
    return line.source, line.kind, line.id


def channels_of(snapshot: Snapshot) -> list[str]:
    """Return the channels that have columns, those with the most people first."""
    sums: dict[str, int] = {}
    for line in snapshot.lines:
        for channel, counters in line.channels.items():
            sums[channel] = sums.get(channel, 0) + (counters.get(MAIN_COUNTER) or 0)
    return sorted(sums, key=lambda channel: (-sums[channel], channel))[:MOST_CHANNELS]


def row(line: Line, channels: Iterable[str], trend: Sequence[int | None], progress: int | None) -> dict[str, Any]:
    """Return a row of the list."""
    return {
        "source": line.source,
        "kind": line.kind,
        "id": line.id,
        "name": line.name,
        "total": line.total,
        "change": line.change,
        "week_change": line.week_change,
        "updated": line.updated.isoformat() if line.updated else None,
        "state": line.state,
        "reason": line.reason,
        "progress": progress,
        "channels": {name: line.channels.get(name, {}).get(MAIN_COUNTER) for name in channels},
        "trend": trend,
    }


def totals(observations: Iterable[Observation], nights: Sequence[date]) -> dict[Key, list[int | None]]:
    """Return each segment's sum in each of the nights, None in those that it was not counted in."""
    place = {night: at for at, night in enumerate(nights)}
    found: dict[Key, list[int | None]] = {}
    for seen in observations:
        count = seen.counters.get(MAIN_COUNTER)
        if count is None or seen.night not in place:
            continue
        line = found.setdefault((seen.source, seen.kind, history.id_of(seen)), [None] * len(nights))
        at = place[seen.night]
        line[at] = (line[at] or 0) + count
    return found


def by_channel(observations: Iterable[Observation], nights: Sequence[date]) -> dict[str, list[int | None]]:
    """Return one segment's counts in each of the nights, by channel."""
    place = {night: at for at, night in enumerate(nights)}
    found: dict[str, list[int | None]] = {}
    for seen in observations:
        count = seen.counters.get(MAIN_COUNTER)
        if count is not None:
            line = found.setdefault(seen.channel, [None] * len(nights))
            line[place[seen.night]] = (line[place[seen.night]] or 0) + count
    return found


def nights_until(last: date, span: timedelta) -> list[date]:
    """Return every date of the time that ends with ``last``."""
    return [last - timedelta(days=ago) for ago in range(span.days, -1, -1)]


def night(of: Night, times: Mapping[str, Any], submits: int | None, name: Callable[[Key], str | None]) -> dict[str, Any]:
    """Return a night, with when its run began and ended where Airflow still has it."""

    def told(outcome: Outcome) -> dict[str, Any]:
        return {
            "kind": outcome.kind,
            "id": outcome.id,
            "name": name(key_of(outcome)),
            "reason": outcome.reason,
        }

    return {
        "source": of.source,
        "dag_id": of.dag_id,
        "run_id": of.run_id,
        "night": of.night.isoformat(),
        "counted": of.counted,
        "failed": list(map(told, of.failed)),
        "not_submitted": list(map(told, of.not_submitted)),
        "submits": submits,
        **times,
    }
