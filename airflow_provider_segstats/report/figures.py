"""What a report says, as numbers: from observations to trends, changes, shares and ages. Pure.

The rules, each applied in one place:

- A *night* is the 12 hours that end with a source's newest observation. A segment that has none in
  it, or none for 36 hours, is missing.
- A night without a count is bridged: the count before it stands, for 7 nights at most.
- A channel whose segment has been counted since without it has vanished: it is not bridged.
- A week's change compares the last night with what was known 7 nights before it. What is missing has none.
- Days are UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from airflow_provider_segstats.core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Observation

NIGHT = timedelta(hours=12)
STALE = timedelta(hours=36)
BRIDGED = 7
WEEK = 7
_SKEW = timedelta(hours=1)  # a server's clock may be ahead of ours by as much

State = Literal["counted", "missing", "vanished", "gone"]
"""What became of a segment or a channel in the last night; gone is what has been absent for over 7 nights."""


@dataclass(frozen=True)
class Trend:
    """A count by day: ``counted`` has None where there was no count, in ``known`` gaps are bridged.

    ``current`` tells whether the last night's count is among them; only then has the week a change.
    """

    counted: Sequence[int | None]
    known: Sequence[int | None]
    current: bool

    @property
    def now(self) -> int | None:
        """The last count, None if it is too old to stand."""
        return self.known[-1]

    @property
    def week_before(self) -> int | None:
        """What was known a week before the last day."""
        return self.known[-1 - WEEK] if len(self.known) > WEEK else None

    @property
    def change(self) -> int | None:
        """Of the last week."""
        if not self.current or self.now is None or self.week_before is None:
            return None
        return self.now - self.week_before

    @property
    def growth(self) -> float | None:
        """The week's change as a share of what was there before it."""
        return ratio(self.change, self.week_before)


@dataclass(frozen=True)
class Line:
    """One channel of one list of a segment, with its last observation.

    ``updated`` is when the counter was last there, None if it never was.
    """

    last: Observation
    trend: Trend
    updated: datetime | None
    state: State
    new: bool


@dataclass(frozen=True)
class Segment:
    """A segment: the sum of its channels, and each of them, the largest first."""

    source: str
    segment_id: int
    lines: Sequence[Line]
    trend: Trend
    updated: datetime
    state: State
    new: bool

    @property
    def channels(self) -> list[tuple[str, Trend]]:
        """Each line's channel and trend."""
        return [(line.last.channel, line.trend) for line in self.lines]

    @property
    def several_lists(self) -> bool:
        """Whether a channel's name alone does not tell its lines apart."""
        return len({(line.last.list_id, line.last.resource_id) for line in self.lines}) > 1

    def last(self, counter: str) -> int | None:
        """Return the sum of any counter as last observed in each channel that has not vanished."""
        counts = (
            line.last.counters.get(counter) for line in self.lines if line.state in {"counted", "missing"}
        )
        return _sum(counts)


@dataclass(frozen=True)
class Figures:
    """All that a report says. Channels stand in the order of their size, segments in that of their ids."""

    counter: str
    now: datetime
    days: Sequence[date]
    segments: Sequence[Segment]
    channels: Mapping[str, Trend]
    total: Trend
    never_counted: Sequence[int]

    @property
    def sources(self) -> list[str]:
        """Every source, by name."""
        return sorted({segment.source for segment in self.segments})

    def age(self, updated: datetime) -> timedelta:
        """Return how old a count was at the report's time."""
        return max(self.now - updated, timedelta())

    def of_state(self, state: State) -> list[Segment]:
        """Return the segments that are in a state."""
        return [segment for segment in self.segments if segment.state == state]

    def movers(self, most: int) -> tuple[list[Segment], list[Segment]]:
        """Return the segments that gained and those that lost most in the week, the most first."""
        by_change = sorted(
            (segment for segment in self.segments if segment.trend.change),
            key=lambda segment: segment.trend.change or 0,
        )
        up = [segment for segment in reversed(by_change) if (segment.trend.change or 0) > 0]
        down = [segment for segment in by_change if (segment.trend.change or 0) < 0]
        return up[:most], down[:most]


def ratio(part: int | None, whole: int | None) -> float | None:
    """Return which share of the whole a part is, None where that has no meaning."""
    return part / whole if part is not None and whole else None


def figures_of(
    observations: Iterable[Observation],
    *,
    now: datetime,
    counter: str = "subscribed_sendable",
    days: int = 30,
    failed: Collection[int] = (),
) -> Figures:
    """Return the figures of the last ``days`` days that have observations.

    Of several observations of a day the last counts. ``now`` is the time that ages are taken against;
    what is newer by more than an hour is left out. ``failed`` are the ids of segments that the night
    could not count; those that were never counted cannot be known otherwise. Raises
    :class:`ConfigurationError` when there is nothing to report, or nothing with the counter.
    """
    usable = [seen for seen in observations if seen.updated <= now + _SKEW]
    if not usable:
        raise ConfigurationError("there is nothing to report: the history has no observations yet")
    if not any(counter in seen.counters for seen in usable):
        there = ", ".join(sorted({name for seen in usable for name in seen.counters}))
        raise ConfigurationError(f"no observation has the counter {counter!r}; there are {there or 'none'}")
    last_day = max(seen.updated for seen in usable).date()
    first_day = max(min(seen.updated for seen in usable).date(), last_day - timedelta(days=days - 1))
    axis = [first_day + timedelta(days=day) for day in range((last_day - first_day).days + 1)]

    by_segment: dict[tuple[str, int], list[Observation]] = defaultdict(list)
    for seen in sorted(usable, key=lambda seen: seen.updated):
        if seen.updated.date() >= first_day:
            by_segment[seen.source, seen.segment_id].append(seen)
    newest: dict[str, datetime] = {}
    for (source, _), of_segment in by_segment.items():
        newest[source] = max(of_segment[-1].updated, newest.get(source, of_segment[-1].updated))
    oldest = min(of_segment[0].updated for of_segment in by_segment.values())
    segments = [
        _segment(of_segment, counter, axis, since=oldest, tonight=max(newest[source] - NIGHT, now - STALE))
        for (source, _), of_segment in sorted(by_segment.items())
    ]
    current = any(segment.state == "counted" for segment in segments)
    by_channel: dict[str, list[Trend]] = defaultdict(list)
    for segment in segments:
        for line in segment.lines:
            by_channel[line.last.channel].append(line.trend)
    channels = {channel: total(trends, current=current) for channel, trends in by_channel.items()}
    return Figures(
        counter=counter,
        now=now,
        days=axis,
        segments=segments,
        channels=dict(sorted(channels.items(), key=lambda item: (-(item[1].now or 0), item[0]))),
        total=total([segment.trend for segment in segments], current=current),
        never_counted=sorted(set(failed) - {segment_id for _, segment_id in by_segment}),
    )


def total(parts: Sequence[Trend], *, current: bool) -> Trend:
    """Return the sum, which counts as counted on the days on which any part was."""
    known = [_sum(values) for values in zip(*(part.known for part in parts), strict=True)]
    any_counted = [_sum(values) is not None for values in zip(*(part.counted for part in parts), strict=True)]
    counted = [value if any_ else None for value, any_ in zip(known, any_counted, strict=True)]
    return Trend(counted, known, current)


def _segment(
    observations: Sequence[Observation],
    counter: str,
    axis: Sequence[date],
    *,
    since: datetime,
    tonight: datetime,
) -> Segment:
    """Return the segment of these observations, which stand in the order of time."""
    by_line: dict[tuple[str, int | None, int | None], list[Observation]] = defaultdict(list)
    for seen in observations:
        by_line[seen.channel, seen.list_id, seen.resource_id].append(seen)
    first, last = observations[0], observations[-1]
    lines = [
        _line(
            of_line,
            counter,
            axis,
            new=_is_new(of_line[0].updated, first.updated, axis),
            vanished=of_line[-1].updated < last.updated - NIGHT,
            tonight=tonight,
        )
        for of_line in by_line.values()
    ]
    lines.sort(key=lambda line: (-(line.trend.now or 0), line.last.channel, line.last.list_id or 0))
    state = _state(last.updated, axis, tonight)
    return Segment(
        source=last.source,
        segment_id=last.segment_id,
        lines=lines,
        trend=total([line.trend for line in lines], current=state == "counted"),
        updated=last.updated,
        state=state,
        new=_is_new(first.updated, since, axis),
    )


def _line(
    observations: Sequence[Observation],
    counter: str,
    axis: Sequence[date],
    *,
    new: bool,
    vanished: bool,
    tonight: datetime,
) -> Line:
    last = observations[-1]
    by_day = {seen.updated.date(): seen for seen in observations}
    counted = [by_day[day].counters.get(counter) if day in by_day else None for day in axis]
    known: list[int | None] = []
    standing, age = None, 0
    for day, value in zip(axis, counted, strict=True):
        standing, age = (standing, age + 1) if value is None else (value, 0)
        ended = age > BRIDGED or (vanished and day > last.updated.date())
        known.append(None if ended else standing)
    updated = next(
        (seen.updated for seen in reversed(observations) if seen.counters.get(counter) is not None), None
    )
    state = _state(updated or last.updated, axis, tonight)
    if vanished and state != "gone":
        state = "vanished"
    trend = Trend(counted, known, current=state == "counted")
    return Line(last=last, trend=trend, updated=updated, state=state, new=new)


def _state(updated: datetime, axis: Sequence[date], tonight: datetime) -> State:
    if updated >= tonight:
        return "counted"
    return "missing" if (axis[-1] - updated.date()).days <= BRIDGED else "gone"


def _is_new(first: datetime, since: datetime, axis: Sequence[date]) -> bool:
    """Tell whether something came up in the last week, when what it belongs to was there already."""
    return first > since + NIGHT and (axis[-1] - first.date()).days < WEEK


def _sum(values: Iterable[int | None]) -> int | None:
    present = [value for value in values if value is not None]
    return sum(present) if present else None
