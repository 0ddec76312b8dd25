"""How often the check rings for nothing, and what it misses: accounts made up night by night, then damaged.

An account has 200 segments of 10 to a million people, of five kinds:

stocks
    people who joined; each night some come and go, more of them go after a mailing, and now and then an
    import or a cleaning moves all of it (55 %)
audiences
    what a rule selects anew each night: noise of chance, and 0.5 to 3 % beside it (15 %)
weekday
    audiences of 10 to 60 % at the weekend (15 %)
weekly
    audiences of one or two days' mailings a week, 1.5 to 8 times as large then (10 %)
openers
    audiences that irregular mailings raise by up to 40 %, for a week (5 %)

All grow or shrink by up to 0.15 % a night, and wave by up to 2 %. One in 25 is counted weekly, as many on
weekdays only; one in 20 comes up later; some get another list id. The account misses a night now and then.
The noise of chance is Poisson's. What a seed makes is always the same.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone

from airflow_provider_segstats.history import NOTABLE, Observation
from airflow_provider_segstats.report.baseline import NIGHTS as LOOK_BACK
from airflow_provider_segstats.report.findings import Finding, Rules, find
from airflow_provider_segstats.report.past import Past

NIGHTS, SEGMENTS = 90, 200
FIRST = date(2026, 1, 1)
SOURCE, WITNESS = "made-up", 10**6  # a segment that shows which nights the account was counted in
UNSEEN = range(2000, 2020)
"""Seeds that nothing was tuned on."""
LOST = 0.15
SIZES = {"under 100": 0, "100 to 1,000": 100, "1,000 and more": 1000}


@dataclass(frozen=True)
class Channel:
    """One channel of a segment: its kind, and its counts by night."""

    segment_id: int
    name: str
    kind: str
    counts: Mapping[int, int]

    @property
    def size(self) -> int:
        """What it usually has."""
        return sorted(self.counts.values())[len(self.counts) // 2]


def account(seed: int) -> list[Channel]:
    """Return an account's channels."""
    chance = random.Random(seed)  # noqa: S311 - made-up counts, always the same
    mailings = {night for night in range(NIGHTS) if night % 7 in {1, 3} or chance.random() < 0.04}
    missed = {night for night in range(2, NIGHTS) if chance.random() < 0.015}
    kinds = ["stock"] * 11 + ["audience"] * 3 + ["weekday"] * 3 + ["weekly"] * 2 + ["openers"]
    found = []
    for segment_id in range(1, SEGMENTS + 1):
        kind, size = chance.choice(kinds), 10 ** chance.uniform(1, 6)
        rhythm, weekday = (
            chance.choices(["nightly", "weekly", "weekdays"], [92, 4, 4])[0],
            chance.randrange(7),
        )
        since = 0 if chance.random() < 0.95 else chance.randrange(10, 80)
        nights = [
            night
            for night in range(since, NIGHTS)
            if night not in missed
            and (
                rhythm == "nightly"
                or (rhythm == "weekly" and night % 7 == weekday)
                or (rhythm == "weekdays" and night % 7 < 5)
            )
        ]
        for name, share in (("email", 1.0), ("push", 0.5), ("sms", 0.3))[: chance.choice([1, 2, 3])]:
            series = _series(chance, kind, size * share, mailings)
            found.append(Channel(segment_id, name, kind, {night: series[night] for night in nights}))
    return found


def _series(chance: random.Random, kind: str, size: float, mailings: set[int]) -> list[int]:
    growth = chance.uniform(-0.0007, 0.0015)
    if kind == "stock":
        return _stock(chance, size, growth, mailings)
    noise, wave, period, phase = (
        chance.uniform(0.005, 0.03),
        chance.uniform(0, 0.02),
        chance.uniform(30, 120),
        chance.uniform(0, math.tau),
    )
    weekend, peak, boost = chance.uniform(0.1, 0.6), chance.uniform(1.5, 8), chance.uniform(0.1, 0.4)
    days = set(chance.sample(range(7), chance.choice([1, 1, 2])))
    counts = []
    for night in range(NIGHTS):
        mean = size * (1 + growth) ** night * math.exp(chance.gauss(0, noise))
        mean *= 1 + wave * math.sin(phase + math.tau * night / period)
        if kind == "weekday" and night % 7 >= 5:
            mean *= weekend
        if kind == "weekly":
            mean *= peak if night % 7 in days else 1 + 0.3 * (peak - 1) * ((night - 1) % 7 in days)
        if kind == "openers":
            since = [night - at for at in mailings if at % 7 not in {1, 3} and 0 <= night - at < 8]
            mean *= 1 + boost * sum(0.75**ago for ago in since)
        counts.append(_poisson(chance, mean))
    return counts


def _stock(chance: random.Random, size: float, growth: float, mailings: set[int]) -> list[int]:
    leaving, moves = chance.uniform(0.0002, 0.002), chance.uniform(0, 0.005)
    joining = max(
        leaving * (1 + 3 * len(mailings) / NIGHTS) + growth, 0
    )  # mailings make four times as many go
    now, counts = size, []
    for night in range(NIGHTS):
        going = leaving * (chance.uniform(2, 6) if night in mailings else 1)
        now = max(now + _poisson(chance, now * joining) - _poisson(chance, now * going), 0)
        if chance.random() < moves:
            now *= 1 + (chance.uniform(0.05, 0.5) if chance.random() < 0.67 else -chance.uniform(0.01, 0.05))
        counts.append(round(now))
    return counts


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(round(chance.gauss(mean, math.sqrt(mean))), 0)
    count, left, limit = 0, chance.random(), math.exp(-mean)
    while left > limit:
        count, left = count + 1, left * chance.random()
    return count


def observed(channel: Channel, *, list_id: int = 1) -> Iterator[Observation]:
    """Yield a channel's observations; every 40th segment's list gets another id, and one clock runs ahead."""
    unconfirmed = random.Random(channel.segment_id)  # noqa: S311 - as above
    for night, count in channel.counts.items():
        changed = channel.segment_id % 40 == 0 and night >= 45
        ahead = 400 if (channel.segment_id, night) == (3, 30) else 0
        yield Observation(
            SOURCE,
            channel.segment_id,
            list_id + changed,
            24,
            channel.name,
            at(night) + timedelta(days=ahead),
            {NOTABLE: count, "unconfirmed_sendable": int(count * unconfirmed.choice([0, 0.01, 0.04]))},
            FIRST + timedelta(days=night),
        )


def at(night: int) -> datetime:
    """Return when a night is counted."""
    return datetime.combine(FIRST + timedelta(days=night), time(3), timezone.utc)


def check(observations: list[Observation], night: int) -> list[Finding]:
    """Return what the check finds at the end of a night, by what it reads then."""
    last = FIRST + timedelta(days=night)
    first = last - timedelta(days=LOOK_BACK)
    read = [seen for seen in observations if first < seen.night <= last]
    return find(Past(at(night) + timedelta(minutes=30), read), Rules(), SOURCE)


def ringing(seed: int) -> dict[int, list[str]]:
    """Return the nights in which an account that nothing is wrong with rings, and for what."""
    observations = [seen for channel in account(seed) for seen in observed(channel)]
    by_night: dict[int, list[Observation]] = defaultdict(list)
    for seen in observations:
        by_night[(seen.night - FIRST).days].append(seen)
    rings = {}
    for night in by_night:
        read = [
            seen for before in range(night - LOOK_BACK + 1, night + 1) for seen in by_night.get(before, ())
        ]
        if found := check(read, night):
            rings[night] = [str(finding) for finding in found]
    return rings


Damage = Callable[[Observation, int, int], Observation | None]
"""What becomes of an observation, so many nights (1: the first) after it began; and of a size."""


def _times(factor: float) -> Damage:
    return lambda seen, _, __: replace(
        seen, counters={**seen.counters, NOTABLE: round(_count(seen) * factor)}
    )


def _leak(seen: Observation, nights: int, percent: int) -> Observation:
    left = (1 - percent / 100) ** nights
    return replace(seen, counters={**seen.counters, NOTABLE: round(_count(seen) * left)})


def _renamed(seen: Observation, _: int, __: int) -> Observation:
    return replace(seen, counters={"sendable": _count(seen)})


def _count(seen: Observation) -> int:
    return seen.counters[NOTABLE] or 0


FAULTS: Mapping[str, tuple[Damage, set[str]]] = {
    "halved": (_times(0.5), {"fell"}),
    "tripled": (_times(3), {"rose"}),
    "leak of 1 to 3 % a night": (_leak, {"declined", "fell"}),
    "channel vanished": (lambda *_: None, {"vanished"}),
    "counter renamed": (_renamed, {"vanished"}),
    "segment silent": (lambda *_: None, {"stale"}),
}


def missed(seed: int, each: int = 12) -> Counter[tuple[str, str, bool]]:
    """Return how many faults of each kind were found in time, by the size of the channel."""
    chance = random.Random(-seed)  # noqa: S311 - as above
    channels = [channel for channel in account(seed) if len(channel.counts) > 0.9 * NIGHTS]
    by_segment: dict[int, list[Channel]] = defaultdict(list)
    for channel in channels:
        by_segment[channel.segment_id].append(channel)
    found: Counter[tuple[str, str, bool]] = Counter()
    for fault, (damage, kinds) in FAULTS.items():
        for channel in chance.sample(channels, each):
            began, percent = chance.randrange(40, 65), chance.randint(1, 3)
            nights = [night for night in channel.counts if night >= began]
            began = nights[0]
            if fault.startswith("leak"):
                gone = math.ceil(
                    math.log(1 - LOST) / math.log(1 - percent / 100)
                )  # nights until it has lost so much
                nights = [night for night in nights if night < began + gone]
                if not _steady(channel, began - 28, nights[-1]):
                    continue  # an import hides what leaks, or made the level that is lost
            else:
                nights = nights[:1]
            others = [other for other in by_segment[channel.segment_id] if other is not channel]
            witness = Channel(WITNESS, "email", "stock", dict.fromkeys(channels[0].counts, 1000))
            whole = [seen for other in (witness, *others) for seen in observed(other)]
            if fault == "channel vanished" and not others:
                whole += observed(replace(channel, name="other"))
            if fault == "segment silent":
                whole = list(observed(witness))
            for seen in observed(channel):
                night = (seen.night - FIRST).days
                after = damage(seen, night - began + 1, percent) if night >= began else seen
                whole += [after] if after else []
            seen_in_time = any(
                finding.what in kinds and finding.id == channel.segment_id
                for night in nights
                for finding in check(whole, night)
            )
            size = next(label for label, least in reversed(SIZES.items()) if channel.size >= least)
            found[fault, size, seen_in_time] += 1
    return found


def _steady(channel: Channel, first: int, last: int) -> bool:
    """Whether nothing but the leak moves it: week by week it stays within 5 %."""
    weeks = [
        sum(channel.counts.get(night, 0) for night in range(at, at + 7)) for at in range(first, last - 6, 7)
    ]
    return max(weeks) < 1.05 * min(weeks)


def main(accounts: int = len(UNSEEN)) -> None:
    """Print both tables, as docs/check.md has them."""
    seeds = UNSEEN[:accounts]
    with ProcessPoolExecutor() as pool:
        rings = list(pool.map(ringing, seeds))
        faults: Counter[tuple[str, str, bool]] = sum(pool.map(missed, seeds), Counter())
    by_nights = Counter(len(nights) for nights in rings)
    print(f"{len(rings)} accounts of {SEGMENTS} segments, {NIGHTS} nights each, nothing wrong:")
    for nights, ringers in sorted(by_nights.items()):
        print(f"  {ringers} rang in {nights} nights")
    for seed, rang in zip(seeds, rings, strict=True):
        for night, found in rang.items():
            print(f"    seed {seed}, night {night}: {'; '.join(found)}")
    print(f"\n| fault | {' | '.join(SIZES)} |\n|---|{'---|' * len(SIZES)}")
    for fault in FAULTS:
        cells = [(faults[fault, size, True], faults[fault, size, False]) for size in SIZES]
        print(f"| {fault} | {' | '.join(f'{hit} of {hit + miss}' for hit, miss in cells)} |")
