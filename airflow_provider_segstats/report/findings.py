"""What looks wrong in the newest counters of an account. Pure: observations in, findings out.

The check and the report both ask here, so that neither says "fine" where the other does not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import titled
from airflow_provider_segstats.history import NOTABLE
from airflow_provider_segstats.report.baseline import WEEK, Limits, judge
from airflow_provider_segstats.tasks.arguments import as_ids, as_mapping, as_number, is_template

if TYPE_CHECKING:
    from airflow_provider_segstats.history import Observation, Outcome
    from airflow_provider_segstats.report.past import Past

What = Literal["missing", "stale", "vanished", "fell", "declined", "rose"]

_RHYTHM = 4 * WEEK  # nights of which the weekdays say when a thing is counted
_PATIENCE = 2 * WEEK - 1  # nights that a thing may be out for, until it is known when it is counted
_LATE = timedelta(hours=4)  # a night may end so much later than the one before

_Key = tuple[str, int]  # kind and id


@dataclass(frozen=True)
class Rules:
    """What is checked, and how strictly.

    ``segment_ids`` is the night's list: each of these was to be counted, and of segments only these are
    looked at; None stands for all that the history has. ``by_counter`` names further counters to check,
    ``by_segment`` segments; each with those of the ``limits`` that differ for it, and the segment's outdo the
    counter's. That the ``acknowledged`` segments are not counted is known.
    """

    segment_ids: Collection[int] | None = None
    limits: Limits = field(default_factory=Limits)
    by_counter: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    by_segment: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    acknowledged: Collection[int] = ()

    @property
    def counters(self) -> list[str]:
        """Those that are checked."""
        return list(dict.fromkeys((NOTABLE, *self.by_counter)))

    def open(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return those findings that are not acknowledged."""
        return [
            finding
            for finding in findings
            if not (
                finding.what in {"missing", "stale"}
                and finding.kind == "segment"
                and finding.id in self.acknowledged
            )
        ]

    def looks_at(self, kind: str, id_: int) -> bool:
        """Tell whether it is in the night's list, or none that has to be."""
        return self.segment_ids is None or kind != "segment" or id_ in self.segment_ids

    def limits_of(self, thing: _Key, counter: str) -> Limits:
        """Return the limits of a counter of a segment, a database or a resource."""
        kind, id_ = thing
        own = self.by_segment.get(id_, {}) if kind == "segment" else {}
        return replace(self.limits, **{**self.by_counter.get(counter, {}), **own})


RULES = ("segment_ids", *(limit.name for limit in fields(Limits)), "by_counter", "by_segment", "acknowledged")
"""The names by which users give them."""


def check_rules(given: Mapping[str, Any]) -> None:
    """Refuse literals that cannot be meant; templates and tasks' outputs are left for :func:`rules_of`."""
    rules_of({name: value for name, value in given.items() if not is_template(str(value))})


def rules_of(given: Mapping[str, Any]) -> Rules:
    """Return the rules that rendered arguments, by the names of :data:`RULES`, ask for.

    What is not given, or None, is as by default; :class:`ConfigurationError` names what cannot be meant.
    """
    if unknown := given.keys() - set(RULES):
        raise ConfigurationError(f"there is no limit {', '.join(sorted(map(str, unknown)))}")
    limits = {name: value for name, value in given.items() if name in _MOST and value is not None}
    by_counter, by_segment = (as_mapping(name, given.get(name)) for name in ("by_counter", "by_segment"))
    listed = as_ids("segment_ids", given.get("segment_ids"))
    return Rules(
        None if listed is None else frozenset(listed),
        Limits(**_numbers("", limits)),
        {str(counter): _numbers(f" of {counter}", own) for counter, own in by_counter.items()},
        {
            required_id("by_segment", segment_id): _numbers(f" of segment {segment_id}", own)
            for segment_id, own in by_segment.items()
        },
        frozenset(as_ids("acknowledged", given.get("acknowledged"), may_be_empty=True) or ()),
    )


_MOST = {"max_drop": 1.0, "max_loss": 1.0, "max_rise": math.inf, "min_change": math.inf}


def _numbers(where: str, limits: Any) -> dict[str, float]:
    if not isinstance(limits, Mapping) or not limits.keys() <= _MOST.keys():
        raise ConfigurationError(
            f"the limits{where} must be a mapping of {', '.join(_MOST)}, not {limits!r:.100}"
        )
    return {name: as_number(f"{name}{where}", value, _MOST[name]) for name, value in limits.items()}


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong; ``str()`` says it in a line. What does not apply is None.

    ``fell``, ``rose``, ``declined``: a counter is ``after`` where about ``before`` was expected, ``low`` to
    ``high``; declined is what was lost over weeks. ``vanished``: a channel or a counter; it was ``before``.
    ``stale``: a segment, or all of the account, was last counted at ``updated``, and ``reason`` is why not
    since, if that is known. ``missing``: it was never counted.
    """

    what: What
    source: str
    kind: str = "segment"
    id: int | None = None
    name: str | None = None
    channel: str | None = None
    counter: str | None = None
    before: int | None = None
    after: int | None = None
    low: int | None = None
    high: int | None = None
    updated: datetime | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.where}{self.told}"

    @property
    def where(self) -> str:
        """What it is about: ``segment 7, email``."""
        if self.id is None:
            return "every segment" if self.channel is None and self.counter else "the account"
        return titled(self.kind, self.id, self.name) + (
            f", {self.channel}" if self.channel is not None else ""
        )

    @property
    def told(self) -> str:
        """What became of it, to stand behind ``where``."""
        because = f": {self.reason}" if self.reason else ""
        match self.what:
            case "missing":
                return f" was not counted{because}"
            case "stale":
                return f" was last counted at {self.updated:%Y-%m-%d %H:%M} UTC{because}"
            case "vanished":
                return f": {self.counter} vanished (was {self.before:,})" if self.counter else " vanished"
        assert self.before is not None  # noqa: S101 - of these kinds, all numbers are there
        assert self.after is not None  # noqa: S101
        until = "or more" if self.high is None else f"to {self.high:,}"
        share = abs(self.after - self.before) / self.before if self.before else 1.0
        how = {"fell": "fell by", "rose": "rose by", "declined": "has lost"}[self.what]
        return f": {self.counter} {how} {share:.0%} to {self.after:,} (expected {self.low:,} {until})"

    @property
    def size(self) -> int:
        """How many people it is about."""
        return abs((self.after or 0) - (self.before or 0))

    def as_row(self) -> dict[str, Any]:
        """Return it as plain JSON, ``updated`` in ISO format."""
        return {**asdict(self), "updated": self.updated.isoformat() if self.updated else None}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Finding:
        """Return what :meth:`as_row` made plain."""
        updated = row.get("updated")
        return cls(**{**row, "updated": datetime.fromisoformat(updated) if updated else None})


def find(past: Past, rules: Rules, source: str) -> list[Finding]:
    """Return what looks wrong in an account's newest night, the worst first; also what is acknowledged.

    The night is held against the eight weeks before it.
    """
    past = past.of(source)
    of_things: dict[_Key, list[Observation]] = defaultdict(list)
    for seen in past.observations:
        if rules.looks_at(seen.kind, seen.id):
            of_things[seen.kind, seen.id].append(seen)
    ends = _Ends(past.outcomes)
    listed = {("segment", id_) for id_ in rules.segment_ids or ()}
    wanted = {thing for thing in ends.failed if rules.looks_at(*thing)} | listed
    wanted -= of_things.keys()
    found = [Finding("missing", source, *thing, reason=ends.failed.get(thing)) for thing in sorted(wanted)]
    if of_things:
        found += _Account(source, of_things, rules, ends, past.now).findings()
    elif not found:
        found = [Finding("missing", source)]
    return sorted(
        found, key=lambda finding: (finding.what != "missing", finding.id is not None, -finding.size)
    )


class _Ends:
    """What became of each thing in the runs of the DAGs that count it."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.nights: dict[str, set[int]] = defaultdict(set)
        self.dag: dict[_Key, str] = {}
        last: dict[_Key, Outcome] = {}
        newest: dict[str, str] = {}
        for outcome in sorted(outcomes, key=lambda outcome: outcome.run_after):
            thing = outcome.kind, outcome.id
            self.nights[outcome.dag_id].add(outcome.night.toordinal())
            newest[outcome.dag_id] = outcome.run_id
            if outcome.outcome == "counted" or thing not in self.dag:
                self.dag[thing] = outcome.dag_id
            last[thing] = outcome
        self.failed = {
            thing: outcome.reason or outcome.outcome.replace("_", " ")
            for thing, outcome in last.items()
            if outcome.outcome != "counted" and outcome.run_id == newest[outcome.dag_id]
        }


class _Account:
    def __init__(
        self,
        source: str,
        of_things: Mapping[_Key, Sequence[Observation]],
        rules: Rules,
        ends: _Ends,
        now: datetime,
    ) -> None:
        self.source, self.of_things, self.rules, self.ends = source, of_things, rules, ends
        self.now, self.patience = now, 0 if rules.segment_ids is not None else _PATIENCE
        self.nights = sorted({seen.night.toordinal() for of_thing in of_things.values() for seen in of_thing})
        self.tonight = self.nights[-1]

    def findings(self) -> Iterator[Finding]:
        if late := self._late():
            yield late
            return
        lost: dict[str, list[Finding]] = defaultdict(list)
        for thing, observations in self.of_things.items():
            if max(seen.night for seen in observations).toordinal() < self.tonight:
                yield from self._absent(thing, observations)
                continue
            for finding in self._present(thing, observations):
                if finding.what == "vanished" and finding.counter:
                    lost[finding.counter].append(finding)
                else:
                    yield finding
        for counter, vanished in lost.items():
            if len(vanished) > 1 and not self._is_counted(counter):
                yield Finding(
                    "vanished", self.source, counter=counter, before=sum(of.before or 0 for of in vanished)
                )
            else:
                yield from vanished

    def _late(self) -> Finding | None:
        """Return that nothing at all was counted for too long."""
        tonight = date.fromordinal(self.tonight)
        updated = max(
            (
                seen.updated
                for of_thing in self.of_things.values()
                for seen in of_thing
                if seen.night == tonight and seen.updated <= self.now
            ),
            default=self.now,
        )
        days = range(self.nights[0], self.tonight + (self.now - updated - _LATE).days + 1)
        if not _overdue(self.nights, days, 0 if len(self.nights) > 1 else _PATIENCE):
            return None
        return Finding("stale", self.source, updated=updated)

    def _absent(self, thing: _Key, observations: Sequence[Observation]) -> Iterator[Finding]:
        counted = {seen.night.toordinal() for seen in observations}
        dag = self.ends.dag.get(thing)
        nights = sorted(self.ends.nights[dag] | counted) if dag else self.nights
        reason = self.ends.failed.get(thing)
        if reason or _overdue(counted, nights, self.patience):
            last = max(counted)
            yield Finding(
                "stale",
                self.source,
                *thing,
                observations[-1].name,
                before=sum(
                    seen.counters.get(NOTABLE) or 0 for seen in observations if seen.night.toordinal() == last
                ),
                updated=max(seen.updated for seen in observations if seen.night.toordinal() == last),
                reason=reason,
            )

    def _present(self, thing: _Key, observations: Sequence[Observation]) -> Iterator[Finding]:
        """Yield what is wrong with the channels of what was counted.

        Its lists are summed, since one may get another id.
        """
        nights = sorted({seen.night.toordinal() for seen in observations})
        by_channel: dict[str, dict[int, list[Observation]]] = defaultdict(lambda: defaultdict(list))
        for seen in observations:
            by_channel[seen.channel][seen.night.toordinal()].append(seen)
        for channel, by_night in by_channel.items():
            where = self.source, *thing, observations[-1].name, channel
            last = max(by_night)
            if last < self.tonight:
                before = _sum(by_night[last], NOTABLE) or 0
                if self._is_news(by_night, nights, before, thing, NOTABLE):
                    yield Finding("vanished", *where, before=before, updated=_updated(by_night[last]))
                continue
            for counter in self.rules.counters:
                counts = {
                    night: count
                    for night, of_night in by_night.items()
                    if (count := _sum(of_night, counter)) is not None
                }
                if counts and max(counts) < self.tonight:
                    before = counts[max(counts)]
                    if self._is_news(counts, nights, before, thing, counter):
                        yield Finding("vanished", *where, counter, before)
                elif counts and (verdict := judge(counts, self.rules.limits_of(thing, counter))):
                    yield Finding(
                        verdict.what,
                        *where,
                        counter,
                        verdict.expected,
                        counts[self.tonight],
                        verdict.low,
                        verdict.high,
                        _updated(by_night[self.tonight]),
                    )

    def _is_news(
        self, there: Collection[int], nights: Sequence[int], before: int, thing: _Key, counter: str
    ) -> bool:
        """Whether what is no longer there was due tonight, and not for a week already."""
        return (
            before > self.rules.limits_of(thing, counter).min_change
            and self.tonight - max(there) <= WEEK
            and _overdue(there, nights, 0)
        )

    def _is_counted(self, counter: str) -> bool:
        return any(
            seen.night.toordinal() == self.tonight and seen.counters.get(counter) is not None
            for of_thing in self.of_things.values()
            for seen in of_thing
        )


def _overdue(there: Collection[int], nights: Iterable[int], patience: int) -> bool:
    """Whether a thing should have been there since it last was, by its own rhythm.

    That is when it was there on most of the same weekdays before, or when it has been out for more than
    ``patience`` nights, and twice as many as ever before.
    """
    first, last = min(there), max(there)
    longest = missed = 0
    before: list[int] = []
    for night in nights:
        if night < first:
            continue
        missed = 0 if night in there else missed + 1
        if night <= last:
            before.append(night)
            longest = max(longest, missed)
            continue
        alike = [at for at in before if at > last - _RHYTHM and (night - at) % WEEK == 0]
        if 2 * sum(at in there for at in alike) > len(alike) or missed > max(patience, 2 * longest):
            return True
    return False


def _sum(observations: Iterable[Observation], counter: str) -> int | None:
    counts = [count for seen in observations if (count := seen.counters.get(counter)) is not None]
    return sum(counts) if counts else None


def _updated(observations: Iterable[Observation]) -> datetime:
    return max(seen.updated for seen in observations)
