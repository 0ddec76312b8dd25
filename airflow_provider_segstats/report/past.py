"""What the check and the report go by: a history up to a time, read at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_segstats import history

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from airflow_provider_segstats.history import Latest, Observation, Outcome


@dataclass(frozen=True)
class Past:
    """What was known at ``now``: the last observations of each night, and what became of each run's segments.

    A thing that was not counted in these nights has its last observations all the same, however old.
    ``beyond`` are later nights, by how many segments were last counted in them: left out here.
    """

    now: datetime
    observations: Sequence[Observation]
    outcomes: Sequence[Outcome] = ()
    beyond: Mapping[date, int] = field(default_factory=dict)

    def of(self, source: str) -> Past:
        """Return what is known of one account."""
        return replace(
            self,
            observations=[seen for seen in self.observations if seen.source == source],
            outcomes=[outcome for outcome in self.outcomes if outcome.source == source],
        )


def read(hook: DbApiHook, table: str, *, source: str | None, now: datetime, days: int) -> Past:
    """Return the past of an account, or of all, with the nights whose runs were due by ``now``.

    A night belongs to its run's date, whenever it was counted: one that ended late is there whole, and so is
    one of long ago that was cleared. Of nights that no run is known of, the date decides.
    """
    since = now.date() - timedelta(days=days)
    outcomes = history.nights(hook, table, since=since, source=source)
    runs = {(outcome.source, outcome.night) for outcome in outcomes}
    begun = [outcome for outcome in outcomes if outcome.run_after <= now]
    due = {(outcome.source, outcome.night) for outcome in begun}
    names = history.names(hook, table, source=source)
    observations: list[Observation] = []
    beyond: Counter[date] = Counter()
    for kind in history.KINDS:
        there = [
            seen
            for seen in history.last_of_each_night(hook, table, since=since, source=source, kind=kind)
            if (
                (seen.source, seen.night) in due
                if (seen.source, seen.night) in runs
                else seen.night <= now.date()
            )
        ]
        known = {(seen.source, seen.id) for seen in there}
        newest: dict[str, date] = {}
        for seen in there:
            newest[seen.source] = max(seen.night, newest.get(seen.source, seen.night))
        for last in history.latest(hook, table, source=source, kind=kind):
            if last.night < since and (last.source, last.id) not in known:
                there += _last_seen(last)
            if kind == "segment" and last.night > newest.get(last.source, since):
                beyond[last.night] += 1
        observations += [replace(seen, name=names.get((seen.source, kind, seen.id))) for seen in there]
    return Past(now, observations, begun, beyond)


def _last_seen(last: Latest) -> Iterator[Observation]:
    ids = {
        of: last.id if last.kind == kind else None
        for kind, of in (("segment", "segment_id"), ("database", "list_id"), ("resource", "resource_id"))
    }
    for channel, counters in last.channels.items():
        yield history.Observation(
            last.source,
            ids["segment_id"] or 0,
            ids["list_id"],
            ids["resource_id"],
            channel,
            last.updated,
            counters,
            last.night,
            last.kind,
        )
