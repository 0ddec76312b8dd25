"""What looks wrong in a segment's newest counters. Pure: observations in, findings out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from airflow_provider_segstats.history import Observation

Kind = Literal["fell", "vanished", "stale", "missing"]


@dataclass(frozen=True)
class Limits:
    """When counters look wrong.

    ``max_drop`` is the share (0 to 1) that a counter may lose, ``min_count`` what it must have been to be
    compared at all, ``max_age`` how old a segment's newest observation may be.
    """

    max_drop: float
    min_count: float
    max_age: timedelta


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong; ``str()`` says it in a line. What does not apply is None.

    ``fell``: a counter, from ``before`` to ``after``. ``vanished``: a channel, or a channel's counter, last
    seen at ``updated``. ``stale``: a segment, last counted at ``updated``. ``missing``: a segment, or all of
    them, without any observation.
    """

    kind: Kind
    segment_id: int | None = None
    list_id: int | None = None
    resource_id: int | None = None
    channel: str | None = None
    counter: str | None = None
    before: int | None = None
    after: int | None = None
    updated: datetime | None = None

    def __str__(self) -> str:
        if self.segment_id is None:
            return "no segment was counted"
        where = f"segment {self.segment_id}"
        where += f", list {self.list_id}" if self.list_id is not None else ""
        where += f", {self.channel}" if self.channel is not None else ""
        if self.kind == "missing":
            return f"{where} was not counted"
        if self.kind == "stale":
            return f"{where} was last counted at {self.updated:%Y-%m-%d %H:%M} UTC"
        if self.counter is None:
            return f"{where} vanished"
        if self.before is None or self.after is None:
            return f"{where}: {self.counter} vanished (was {self.before})"
        share = 1 - self.after / self.before
        return f"{where}: {self.counter} fell by {share:.0%} ({self.before} to {self.after})"

    def as_row(self) -> dict[str, Any]:
        """Return it as plain JSON, ``updated`` in ISO format."""
        return {**asdict(self), "updated": self.updated.isoformat() if self.updated else None}


def find(
    observations: Iterable[Observation],
    limits: Limits,
    now: datetime,
    expected: Collection[int] | None = None,
) -> list[Finding]:
    """Return what looks wrong at ``now`` in the last observations of each day of one source.

    A segment's newest day is held against the last day before it that has observations of the segment, so
    that a change is found once and is the new normal the day after. A stale segment is only called stale.
    Of the segments that are ``expected``, or of all together, at least one observation is asked for.
    """
    by_segment: dict[int, list[Observation]] = defaultdict(list)
    for observation in observations:
        by_segment[observation.segment_id].append(observation)
    if expected is None and not by_segment:
        return [Finding("missing")]
    found = [Finding("missing", segment_id) for segment_id in expected or () if segment_id not in by_segment]
    for segment_id, of_segment in by_segment.items():
        found += _in_segment(segment_id, of_segment, limits, now)
    return found


def _in_segment(
    segment_id: int, observations: list[Observation], limits: Limits, now: datetime
) -> Iterator[Finding]:
    days: dict[Any, dict[Any, Observation]] = defaultdict(dict)
    for observation in observations:
        key = observation.list_id, observation.resource_id, observation.channel
        days[observation.updated.date()][key] = observation
    updated = max(observation.updated for observation in observations)
    if now - updated > limits.max_age:
        yield Finding("stale", segment_id, updated=updated)
        return
    *earlier, newest = sorted(days)
    if not earlier:
        return
    for key, before in days[earlier[-1]].items():
        yield from _in_channel(before, days[newest].get(key), limits)


def _in_channel(before: Observation, after: Observation | None, limits: Limits) -> Iterator[Finding]:
    channel = before.segment_id, before.list_id, before.resource_id, before.channel
    if after is None:
        yield Finding("vanished", *channel, updated=before.updated)
        return
    for counter, was in before.counters.items():
        if was is None or was < limits.min_count:
            continue
        now = after.counters.get(counter)
        if now is None:
            yield Finding("vanished", *channel, counter, was, updated=before.updated)
        elif was - now > limits.max_drop * was:
            yield Finding("fell", *channel, counter, was, now, after.updated)
