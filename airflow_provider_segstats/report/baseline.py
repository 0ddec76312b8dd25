"""What a night's count should be, judged by the nights before it. Pure: a series in, a verdict out.

A series knows its week: what the same weekday had in each of the last four weeks is carried on by how the
counts of these days stand to those of that week, and the middle of the four is what is expected. How far from
it a count may be the limits say; a series that is noisy of itself may be further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

WEEK = 7
NIGHTS = 8 * WEEK
"""How many nights a verdict goes by."""

_WEEKS = 4  # of which the same weekday is looked at
_OUTVOTE = 3  # so many of these outvote one that was out of line; fewer all count as possible
_FIRST_WEEK = 20  # how many times higher or lower a weekday may be that was never seen
_SMALL = 100  # people: the moves of anything smaller are mostly chance
_SIGMAS = 7  # of its own noise are no wonder in thousands of series, night after night
_STEADY = math.log(1.03)  # a week that stands further above those before it is no level to fall from


@dataclass(frozen=True)
class Limits:
    """How far a count may be from what is expected.

    ``max_drop`` and ``max_rise`` are shares of what is expected, for one night: 0.3 lets it be 30 % less,
    1.0 twice as much. ``max_loss`` is the share that may be lost over weeks. A difference of up to
    ``min_change`` people is never too much.
    """

    max_drop: float = 0.3
    max_rise: float = 1.0
    max_loss: float = 0.1
    min_change: float = 50


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a count: it is outside of ``low`` to ``high`` (None: no limit)."""

    what: Literal["fell", "rose", "declined"]
    expected: int
    low: int
    high: int | None


def judge(counts: Mapping[int, int], limits: Limits) -> Verdict | None:
    """Return what is wrong with the last of these counts, None if nothing is.

    ``counts`` are by night, these numbered by the days. A weekday that was not seen before is judged only by
    whether it is another order of magnitude, and a slow fall is seen from the fourth week on.
    """
    if len(counts) < 2:
        return None
    series = _Series(counts)
    return series.out_of_line(limits) or series.slow_fall(limits)


class _Series:
    def __init__(self, counts: Mapping[int, int]) -> None:
        self.last = max(counts)
        self.counts = {night: count for night, count in counts.items() if night > self.last - NIGHTS}
        self.count = counts[self.last]
        moves = [
            math.log((count + 1) / (self.counts[night - WEEK] + 1))
            for night, count in self.counts.items()
            if night - WEEK in self.counts and night != self.last
        ]
        usual = median(moves) if moves else 0.0
        # A move has the noise of two counts; of normal noise, half is within 0.67 of its deviation.
        self.noise = median([abs(move - usual) for move in moves]) / 0.67 / math.sqrt(2) if moves else 0.0
        self.known = len(moves) >= 2 * WEEK

    def out_of_line(self, limits: Limits) -> Verdict | None:
        """Compare with the same weekday, carried on to these days."""
        weeks = [week for week in range(1, _WEEKS + 1) if self.last - week * WEEK in self.counts]
        alike = [self._carried_on(week) for week in weeks]
        if len(weeks) >= _OUTVOTE:
            expected = median(alike)
            possible = [expected]
        else:
            before = self._between(self.last - WEEK, self.last - 1) or dict(
                sorted(self.counts.items())[-2:-1]
            )
            expected = median(before.values())
            possible = [expected, *alike, *(self.counts[self.last - week * WEEK] for week in weeks)]
        # Until it has shown its own noise, it may be all chance.
        noise = math.exp(
            _SIGMAS * (self.noise if self.known else max(self.noise, 1 / math.sqrt(expected + 1)))
        )
        times_less = max(_times_less(limits.max_drop), noise)
        times_more = max(1 + limits.max_rise, noise)
        if not weeks:
            if expected < _SMALL:
                return None
            times_less, times_more = max(times_less, _FIRST_WEEK), max(times_more, _FIRST_WEEK)
        low = min(min(possible) / times_less, min(possible) - limits.min_change)
        high = max(max(possible) * times_more, max(possible) + limits.min_change)
        if low <= self.count <= high:
            return None
        what: Literal["fell", "rose"] = "fell" if self.count < low else "rose"
        return Verdict(what, round(expected), max(math.ceil(low), 0), math.floor(high))

    def slow_fall(self, limits: Limits) -> Verdict | None:
        """Compare the last nights, without the week's rhythm, with the weeks before them.

        The last three nights see a fast fall, the last seven, with less noise, a slow one.
        """
        season = self._season()
        heights = {
            night: math.log(count + 1) - season[(self.last - night) % WEEK]
            for night, count in self.counts.items()
        }
        for nights, sigmas in ((3, 3.5), (7, 2.8)):
            latest = [height for night, height in heights.items() if night > self.last - nights]
            weeks = [
                median(of_week)
                for end in range(self.last - nights, self.last - NIGHTS + WEEK - 1, -WEEK)
                if len(of_week := [heights[at] for at in range(end - WEEK + 1, end + 1) if at in heights])
                > WEEK // 2
            ]
            if len(weeks) < 3 or len(latest) < 2:
                continue
            # What rose steeply for some weeks and fell again is no level that was lost.
            once = max(
                min(weeks[at], min(weeks[at + 1 : at + 4]) + _STEADY) for at in range(max(len(weeks) - 3, 1))
            )
            now = max(median(latest), heights[self.last])
            step = max(math.log(_times_less(limits.max_loss)), sigmas * self.noise)
            expected = math.exp(once + season[0]) - 1
            chance = 5 * math.sqrt(max(expected, 0))
            # Found when the loss passes a step, and again at each further one, until the week is as low.
            if (once - now) // step > max(once - weeks[0], 0) // step and (
                expected - self.count > max(limits.min_change, chance)
            ):
                low = math.exp(once + season[0] - step) - 1
                return Verdict("declined", round(expected), math.ceil(low), None)
        return None

    def _between(self, first: int, last: int) -> dict[int, int]:
        return {night: self.counts[night] for night in range(first, last + 1) if night in self.counts}

    def _carried_on(self, week: int) -> float:
        """Return what the same weekday so many weeks ago would be by the level of these days."""
        growth = [
            (count + _SMALL) / (self.counts[night - week * WEEK] + _SMALL)
            for night, count in self._between(self.last - WEEK, self.last - 1).items()
            if night - week * WEEK in self.counts
        ]
        return self.counts[self.last - week * WEEK] * (median(growth) if growth else 1)

    def _season(self) -> list[float]:
        """Return by how much each weekday, the last night's first, is above the middle of its week."""
        weeks = [
            self._between(end - WEEK + 1, end)
            for end in range(self.last - 1, self.last - _WEEKS * WEEK, -WEEK)
        ]
        by_weekday: list[list[float]] = [[] for _ in range(WEEK)]
        for of_week in weeks:
            if not of_week or len(of_week) < max(map(len, weeks)):
                continue  # without a night its middle is another one
            middle = math.log(median(of_week.values()) + 1)
            for night, count in of_week.items():
                by_weekday[(self.last - night) % WEEK].append(math.log(count + 1) - middle)
        season = [median(heights) if heights else 0.0 for heights in by_weekday]
        return [height - sum(season) / WEEK for height in season]


def _times_less(share: float) -> float:
    """Return how many times less is left when a share is lost."""
    return 1 / (1 - share) if share < 1 else math.inf


def median(values: Iterable[float]) -> float:
    """Return the middle one, or the mean of the middle two."""
    ordered: Sequence[float] = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
