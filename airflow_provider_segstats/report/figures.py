"""What a report says, as numbers: from what is known to trends, changes, shares and ages. Pure.

The rules, each applied in one place:

- What is wrong the check's rules say (``findings``), also who is missing: not everyone is due every night.
- A change compares what both nights counted: the account's newest night with the one before it, and with
  that of a week before, or the last before that. Who was counted in one of them only is no change, and stands
  beside it.
- In sums a night without a count is bridged: the count before it stands, for 7 nights at most.
- A channel whose segment has been counted since without it has vanished: it is not bridged.
- An account that ended before another began with its segments and their counts is the same, under its old
  label.
- Totals are of segments; databases and resources stand for themselves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.model import titled
from airflow_provider_segstats.history import NOTABLE
from airflow_provider_segstats.report.baseline import WEEK
from airflow_provider_segstats.report.findings import Finding, Rules, find

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Observation
    from airflow_provider_segstats.report.past import Past

BRIDGED = 7
"""For so many nights a count stands in sums."""

State = Literal["counted", "waiting", "unlisted", "missing", "vanished", "gone"]
"""What became of a segment or a channel in the last night.

Waiting is what was not due, unlisted what the night's list does not have; gone is what has been absent for
over 7 nights.
"""


@dataclass(frozen=True)
class Change:
    """By how much something changed since an earlier night, and what it was then."""

    by: int
    since: int

    @property
    def growth(self) -> float | None:
        """The change as a share of what was there before it."""
        return ratio(self.by, self.since)


@dataclass(frozen=True)
class Trend:
    """A count by night: ``counted`` has None where there was no count, in ``known`` gaps are bridged.

    The changes are those since the night before and since a week before, None where one of the two nights has
    no count.
    """

    counted: Sequence[int | None]
    known: Sequence[int | None]
    night: Change | None
    week: Change | None

    @property
    def now(self) -> int | None:
        """The last count, None if it is too old to stand."""
        return self.known[-1]


@dataclass(frozen=True)
class Line:
    """One channel of one list of a segment, with its last observation.

    ``updated`` is when the counter was last there, None if it never was. ``added`` and ``left`` are what a
    week's change does not compare: the count of tonight without one a week before, or the other way round.
    """

    last: Observation
    trend: Trend
    updated: datetime | None
    state: State
    new: bool
    added: int | None
    left: int | None

    @property
    def stands(self) -> bool:
        """Whether its last counts are part of sums."""
        return self.state not in {"vanished", "gone"}


@dataclass(frozen=True)
class Segment:
    """A segment, a database or a resource: the sum of its channels, and each of them, the largest first."""

    source: str
    kind: str
    id: int
    name: str | None
    lines: Sequence[Line]
    trend: Trend
    updated: datetime
    state: State
    new: bool

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return titled(self.kind, self.id, self.name)

    @property
    def channels(self) -> list[tuple[str, Trend]]:
        """Each line's channel and trend."""
        return [(line.last.channel, line.trend) for line in self.lines]

    @property
    def several_lists(self) -> bool:
        """Whether a channel's name alone does not tell its lines apart."""
        return len({(line.last.list_id, line.last.resource_id) for line in self.lines}) > 1

    def last(self, counter: str) -> int | None:
        """Return the sum of any counter as last observed in each channel that stands."""
        return _sum(line.last.counters.get(counter) for line in self.lines if line.stands)


@dataclass(frozen=True)
class Figures:
    """All that a report says. Channels stand in the order of their size, segments in that of their ids.

    ``renamed`` are accounts by their old label, with the new one; ``beyond`` is what ``Past`` has so.
    """

    counter: str
    now: datetime
    nights: Sequence[date]
    segments: Sequence[Segment]
    others: Sequence[Segment]
    channels: Mapping[str, Trend]
    total: Trend
    findings: Sequence[Finding]
    renamed: Mapping[str, str]
    beyond: Mapping[date, int]

    @property
    def sources(self) -> list[str]:
        """Every source, by name."""
        return sorted({segment.source for segment in (*self.segments, *self.others)})

    @property
    def never_counted(self) -> int:
        """How many segments were to be counted and never were."""
        return sum(
            finding.what == "missing" and finding.kind == "segment" and finding.id is not None
            for finding in self.findings
        )

    def age(self, updated: datetime) -> timedelta:
        """Return how old a count was at the report's time."""
        return max(self.now - updated, timedelta())

    def of_state(self, state: State) -> list[Segment]:
        """Return the segments that are in a state."""
        return [segment for segment in self.segments if segment.state == state]

    def beside(self) -> dict[str, tuple[int, int]]:
        """Return what the week's change does not compare: of how many segments, and how much.

        By ``added``, or by the state of what was there a week before only.
        """
        found: dict[str, list[tuple[Segment, int]]] = defaultdict(list)
        for segment in self.segments:
            for line in segment.lines:
                if line.added is not None:
                    found["added"].append((segment, line.added))
                if line.left is not None:
                    found[line.state].append((segment, line.left))
        return {
            what: (len({id(segment) for segment, _ in of}), sum(count for _, count in of))
            for what, of in sorted(found.items())
        }

    def movers(self, most: int, *, by_share: bool = False) -> tuple[list[Segment], list[Segment]]:
        """Return the segments that gained and those that lost most in the week, the most first.

        By share, those that had fewer than 100 people are left out: theirs is mostly chance.
        """

        def moved(segment: Segment) -> float:
            week = segment.trend.week
            if week is None or (by_share and week.since < 100):
                return 0
            return (week.growth or 0) if by_share else week.by

        by_change = sorted(filter(moved, self.segments), key=moved)
        up = [segment for segment in reversed(by_change) if moved(segment) > 0]
        down = [segment for segment in by_change if moved(segment) < 0]
        return up[:most], down[:most]


def ratio(part: int | None, whole: int | None) -> float | None:
    """Return which share of the whole a part is, None where that has no meaning."""
    return part / whole if part is not None and whole else None


def figures_of(past: Past, *, rules: Rules | None = None, counter: str = NOTABLE, days: int = 30) -> Figures:
    """Return the figures of the last ``days`` nights that anything was counted in.

    Of several observations of a night the last counts. The counter is checked, too, whichever it is. Raises
    :class:`ConfigurationError` when there is nothing to report, or nothing with the counter.
    """
    if not past.observations:
        raise ConfigurationError("there is nothing to report: the history has no observations yet")
    if not any(counter in seen.counters for seen in past.observations):
        there = ", ".join(sorted({name for seen in past.observations for name in seen.counters}))
        raise ConfigurationError(f"no observation has the counter {counter!r}; there are {there or 'none'}")
    rules = rules or Rules()
    rules = replace(rules, by_counter={counter: {}, **rules.by_counter})
    by_source: dict[str, dict[tuple[str, int], list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for seen in sorted(past.observations, key=_by_night):
        by_source[seen.source][seen.kind, seen.id].append(seen)
    renamed = _unite_renamed(by_source, counter)
    last = max(seen.night for seen in past.observations)
    first = max(min(seen.night for seen in past.observations), last - timedelta(days=days - 1))
    nights = [first + timedelta(days=night) for night in range((last - first).days + 1)]
    findings: list[Finding] = []
    things: list[Segment] = []
    for source in sorted({*by_source, *(outcome.source for outcome in past.outcomes)} - renamed.keys()):
        found = find(past, rules, source)
        findings += rules.open(found)
        # What ended before the first of these nights only a finding tells.
        shown = {thing: seen for thing, seen in by_source[source].items() if seen[-1].night >= first}
        if shown:
            things += _Account(shown, nights, counter, rules, found).things()
    segments = [thing for thing in things if thing.kind == "segment"]
    by_channel: dict[str, list[Trend]] = defaultdict(list)
    for segment in segments:
        for channel, trend in segment.channels:
            by_channel[channel].append(trend)
    channels = {channel: total(trends) for channel, trends in by_channel.items()}
    return Figures(
        counter=counter,
        now=_as_of(past),
        nights=nights,
        segments=segments,
        others=[thing for thing in things if thing.kind != "segment"],
        channels=dict(sorted(channels.items(), key=lambda item: (-(item[1].now or 0), item[0]))),
        total=total([segment.trend for segment in segments], len(nights)),
        findings=findings,
        renamed=renamed,
        beyond=past.beyond,
    )


def total(parts: Sequence[Trend], nights: int = 0) -> Trend:
    """Return the sum, which counts as counted in the nights in which any part was."""
    known = [_sum(values) for values in zip(*(part.known for part in parts), strict=True)]
    any_counted = [_sum(values) is not None for values in zip(*(part.counted for part in parts), strict=True)]
    counted = [value if any_ else None for value, any_ in zip(known, any_counted, strict=True)]
    none = [None] * nights
    return Trend(
        counted or none,
        known or none,
        _changes(part.night for part in parts),
        _changes(part.week for part in parts),
    )


class _Account:
    """One account's nights: which was the last, which the one before it, which that of a week before."""

    def __init__(
        self,
        of_things: Mapping[tuple[str, int], Sequence[Observation]],
        nights: Sequence[date],
        counter: str,
        rules: Rules,
        found: Collection[Finding],
    ) -> None:
        self.of_things, self.nights, self.counter, self.rules = of_things, nights, counter, rules
        counted = sorted({seen.night for of_thing in of_things.values() for seen in of_thing})
        self.first, self.last = counted[0], counted[-1]
        self.before = _at_or_before(counted, self.last - timedelta(days=1))
        week = _at_or_before(counted, self.last - timedelta(days=WEEK))
        self.week = week if week and (self.last - week).days <= WEEK + BRIDGED else None
        self.late = {
            (finding.kind, finding.id)
            for finding in found
            if finding.what == "stale" and finding.id is not None
        }
        self.all_late = any(finding.what == "stale" and finding.id is None for finding in found)

    def things(self) -> list[Segment]:
        return [self._thing(thing, seen) for thing, seen in sorted(self.of_things.items())]

    def _thing(self, thing: tuple[str, int], observations: Sequence[Observation]) -> Segment:
        by_line: dict[tuple[str, int | None, int | None], dict[date, Observation]] = defaultdict(dict)
        for seen in observations:
            by_line[seen.channel, seen.list_id, seen.resource_id][seen.night] = seen
        first, last = observations[0], observations[-1]
        state = self._state(thing, last.night)
        lines = [self._line(of_line, first.night, last.night, state) for of_line in by_line.values()]
        lines.sort(key=lambda line: (-(line.trend.now or 0), line.last.channel, line.last.list_id or 0))
        return Segment(
            last.source,
            *thing,
            name=last.name,
            lines=lines,
            trend=total([line.trend for line in lines]),
            updated=max(seen.updated for seen in observations if seen.night == last.night),
            state=state,
            new=self._is_new(first.night, self.first),
        )

    def _state(self, thing: tuple[str, int], night: date) -> State:
        if (self.nights[-1] - night).days > BRIDGED:
            return "gone"
        if self.all_late or thing in self.late:
            return "missing"
        if night == self.last:
            return "counted"
        return "waiting" if self.rules.looks_at(*thing) else "unlisted"

    def _is_new(self, first: date, since: date) -> bool:
        """Tell whether something came up in the last week, when what it belongs to was there already."""
        return first > since and (self.nights[-1] - first).days < WEEK

    def _line(self, by_night: Mapping[date, Observation], first: date, last: date, of_segment: State) -> Line:
        counts = {
            night: count
            for night, seen in by_night.items()
            if (count := seen.counters.get(self.counter)) is not None
        }
        *_, newest = by_night.values()
        vanished = newest.night < last
        state: State = of_segment
        if vanished:
            state = "vanished" if (self.nights[-1] - newest.night).days <= BRIDGED else "gone"
        elif of_segment == "counted" and last not in counts:
            state = "missing"
        now, then = counts.get(self.last), counts.get(self.week) if self.week else None
        return Line(
            last=newest,
            trend=Trend(
                [counts.get(night) for night in self.nights],
                self._known(counts, newest.night if vanished else None),
                self._change(counts, self.before),
                self._change(counts, self.week),
            ),
            updated=by_night[max(counts)].updated if counts else None,
            state=state,
            new=self._is_new(min(by_night), first),
            added=now if then is None and self.week else None,
            left=then if now is None else None,
        )

    def _known(self, counts: Mapping[date, int], ended: date | None) -> list[int | None]:
        known: list[int | None] = []
        counted = sorted(counts)
        for night in self.nights:
            standing = _at_or_before(counted, night)
            stands = standing and (night - standing).days <= BRIDGED and (ended is None or night <= ended)
            known.append(counts[standing] if standing and stands else None)
        return known

    def _change(self, counts: Mapping[date, int], since: date | None) -> Change | None:
        if since is None or since not in counts or self.last not in counts:
            return None
        return Change(counts[self.last] - counts[since], counts[since])


def _unite_renamed(
    by_source: dict[str, dict[tuple[str, int], list[Observation]]], counter: str
) -> dict[str, str]:
    """Put accounts that go on under another label under that one; return the labels by the old ones."""

    def instants(source: str) -> list[datetime]:
        return [seen.updated for of_thing in by_source[source].values() for seen in of_thing]

    began, ended = ({source: of(instants(source)) for source in by_source} for of in (min, max))
    renamed: dict[str, str] = {}
    for old in sorted(by_source, key=ended.__getitem__):
        later = sorted((new for new in by_source if began[new] > ended[old]), key=began.__getitem__)
        new = next((new for new in later if _goes_on(by_source[old], by_source[new], counter)), None)
        if new is None:
            continue
        renamed[old] = new
        for thing, seen in by_source.pop(old).items():
            as_new = [replace(one, source=new) for one in seen]
            by_source[new][thing] = sorted([*as_new, *by_source[new][thing]], key=_by_night)
    return renamed


def _goes_on(
    old: Mapping[tuple[str, int], Sequence[Observation]],
    new: Mapping[tuple[str, int], Sequence[Observation]],
    counter: str,
) -> bool:
    """Tell whether most of an account's segments began in another with about the counts that they had."""

    def count(seen: Sequence[Observation], night: date) -> int | None:
        return _sum(one.counters.get(counter) for one in seen if one.night == night)

    alike = 0
    for thing in old.keys() & new.keys():
        before, after = count(old[thing], old[thing][-1].night), count(new[thing], new[thing][0].night)
        if before is not None and after is not None:
            alike += 10 * abs(after - before) <= max(before, after)
    return 2 * alike > len(old)


def _by_night(seen: Observation) -> tuple[date, datetime]:
    return seen.night, seen.updated


def _as_of(past: Past) -> datetime:
    """Return the time that ages are taken against: a night that ended late is no older than its end."""
    ended = (seen.updated for seen in past.observations if seen.updated <= past.now + timedelta(days=1))
    return max(past.now, max(ended, default=past.now))


def _at_or_before(nights: Sequence[date], night: date) -> date | None:
    """Return the last of these nights, which are in order, that is not after another."""
    at = bisect_right(nights, night)
    return nights[at - 1] if at else None


def _changes(changes: Iterable[Change | None]) -> Change | None:
    there = [change for change in changes if change is not None]
    if not there:
        return None
    return Change(sum(change.by for change in there), sum(change.since for change in there))


def _sum(values: Iterable[int | None]) -> int | None:
    present = [value for value in values if value is not None]
    return sum(present) if present else None
