"""What looks wrong in an account's newest night, and what does not."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from benchmarks.alarms import FAULTS, SIZES, missed, ringing

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import Observation, Outcome
from airflow_provider_segstats.report.findings import Finding, Rules, find, rules_of
from airflow_provider_segstats.report.past import Past

TONIGHT = date(2026, 2, 3)  # a Tuesday
NOW = datetime(2026, 2, 3, 4, tzinfo=timezone.utc)


def at(ago: int) -> datetime:
    """Return when the night so many nights before tonight was counted."""
    return datetime.combine(TONIGHT - timedelta(days=ago), time(3), timezone.utc)


def seen(
    ago: int, count: int | None = 1000, channel: str = "email", segment_id: int = 7, **changes: Any
) -> Observation:
    found = Observation(
        "acme", segment_id, 1, 24, channel, at(ago), {"subscribed_sendable": count}, at(ago).date()
    )
    return replace(found, **changes)


def nights(agos: Iterable[int] = range(29, -1, -1), count: int = 1000, **fields: Any) -> list[Observation]:
    return [seen(ago, count, **fields) for ago in agos]


def ended(
    ago: int, segment_id: int = 7, outcome: Any = "counted", dag: str = "nightly", hour: int = 3
) -> Outcome:
    run_after = at(ago).replace(hour=hour)
    reason = None if outcome == "counted" else "the platform is away"
    return Outcome(
        "acme", dag, f"{dag} {ago}", run_after.date(), run_after, "segment", segment_id, outcome, reason
    )


def lines(
    *observations: Observation,
    now: datetime = NOW,
    outcomes: Collection[Outcome] = (),
    **rules: Any,
) -> list[str]:
    given = rules_of(rules)
    found = find(Past(now, observations, outcomes), given, "acme")
    return [str(finding) for finding in given.open(found)]


def test_counters_that_hold_are_no_finding() -> None:
    assert lines(*nights(), *nights(channel="sms"), *nights(segment_id=8)) == []


def test_a_fall_is_told_with_what_was_expected() -> None:
    assert lines(*nights(range(29, 0, -1)), seen(0, 400)) == [
        "segment 7, email: subscribed_sendable fell by 60% to 400 (expected 700 to 2,000)"
    ]


def test_a_segment_with_a_name_is_called_by_it_and_other_kinds_are_told_apart() -> None:
    of = [*nights(range(29, 0, -1)), seen(0, 400)]
    assert lines(*(replace(one, name="Readers") for one in of))[0].startswith("Readers (7), email: ")
    databases = [replace(one, kind="database", segment_id=0, list_id=3) for one in of]
    assert lines(*databases)[0].startswith("database 3, email: ")


def test_a_falling_unconfirmed_counter_is_no_finding_until_it_is_asked_for() -> None:
    of = [
        replace(one, counters={"subscribed_sendable": 1000, "unconfirmed_sendable": 900 if ago else 9})
        for ago, one in zip(range(29, -1, -1), nights(), strict=True)
    ]
    assert lines(*of) == []
    asked = lines(*of, by_counter={"unconfirmed_sendable": {}})
    assert asked == ["segment 7, email: unconfirmed_sendable fell by 99% to 9 (expected 630 to 1,800)"]


def test_limits_differ_by_counter_and_by_segment_and_the_segments_outdo() -> None:
    of = [*nights(range(29, 0, -1)), seen(0, 400)]
    assert lines(*of, by_counter={"subscribed_sendable": {"max_drop": 0.7}}) == []
    assert lines(*of, by_segment={7: {"max_drop": 0.7}}) == []
    assert lines(*of, by_segment={"8": {"max_drop": 0.7}}) != []
    own = {"by_counter": {"subscribed_sendable": {"max_drop": 0.7}}, "by_segment": {7: {"max_drop": 0.3}}}
    assert len(lines(*of, **own)) == 1


def test_a_list_that_gets_another_id_is_no_finding() -> None:
    assert lines(*nights(range(29, 0, -1)), seen(0, list_id=2)) == []


def test_lists_of_a_segment_are_judged_by_their_sum() -> None:
    two = [*nights(range(29, -1, -1)), *nights(range(29, 0, -1), list_id=2)]
    assert lines(*two) == [
        "segment 7, email: subscribed_sendable fell by 50% to 1,000 (expected 1,400 to 4,000)"
    ]


def test_a_channel_that_vanished_is_found_for_a_week() -> None:
    of = nights()
    assert lines(*of, *nights(range(29, 0, -1), channel="sms")) == ["segment 7, sms vanished"]
    assert lines(*of, *nights(range(29, 6, -1), channel="sms")) == ["segment 7, sms vanished"]
    assert lines(*of, *nights(range(29, 7, -1), channel="sms")) == []


def test_a_channel_of_few_people_or_of_some_weekdays_does_not_vanish() -> None:
    assert lines(*nights(), *nights(range(29, 0, -1), 50, channel="sms")) == []
    tuesdays = range(7, 29, 7)
    assert (
        lines(*nights(), *nights([*(ago for ago in range(1, 30) if ago not in tuesdays)], channel="sms"))
        == []
    )
    assert lines(*nights(), *nights(tuesdays, channel="sms")) == ["segment 7, sms vanished"]


@pytest.mark.parametrize("now", [{"sendable": 1000}, {"subscribed_sendable": None}])
def test_a_counter_that_was_renamed_or_emptied_is_found(now: dict[str, Any]) -> None:
    of = [*nights(range(29, 0, -1)), seen(0, counters=now)]
    assert lines(*of) == ["segment 7, email: subscribed_sendable vanished (was 1,000)"]


def test_a_counter_that_was_renamed_everywhere_is_one_finding() -> None:
    of = [
        one
        for segment_id in range(1, 21)
        for one in (
            *nights(range(29, 0, -1), segment_id=segment_id),
            seen(0, segment_id=segment_id, counters={"x": 1}),
        )
    ]
    assert lines(*of) == ["every segment: subscribed_sendable vanished (was 20,000)"]


def test_a_new_channel_a_new_segment_and_a_first_night_are_no_finding() -> None:
    assert lines(*nights(), seen(0, channel="sms"), seen(0, segment_id=8)) == []
    assert lines(seen(0)) == []


# Who was not counted


def test_a_segment_of_every_night_is_found_in_the_first_without_it() -> None:
    assert lines(*nights(), *nights(range(29, 0, -1), segment_id=8)) == [
        "segment 8 was last counted at 2026-02-02 03:00 UTC"
    ]


@pytest.mark.parametrize("gone", [2, 9, 25])
def test_the_dead_are_found_until_they_are_acknowledged_or_no_longer_listed(gone: int) -> None:
    of = [*nights(), *nights(range(50, gone, -1), segment_id=8)]
    assert len(lines(*of)) == 1
    assert lines(*of, acknowledged=[8]) == []
    assert lines(*of, segment_ids=[7]) == []
    assert len(lines(*of, segment_ids=[7, 8])) == 1


def test_the_dead_of_before_all_baselines_are_found() -> None:
    assert lines(*nights(), seen(300, segment_id=8)) == ["segment 8 was last counted at 2025-04-09 03:00 UTC"]


def test_a_segment_counted_weekly_is_found_a_week_after_its_last_night_and_not_before() -> None:
    weekly = nights(range(50, 0, -7), segment_id=8)  # last on Monday, last night
    assert lines(*nights(range(50, -1, -1)), *weekly) == []
    weekly = nights(range(49, 6, -7), segment_id=8)  # last on Tuesday a week ago: tonight it is due
    assert lines(*nights(range(50, -1, -1)), *weekly) == [
        "segment 8 was last counted at 2026-01-27 03:00 UTC"
    ]


def test_a_segment_counted_on_weekdays_is_not_found_at_the_weekend() -> None:
    monday = date(2026, 1, 5)
    all_nights = [monday + timedelta(days=day) for day in range(28)]
    of = [
        seen((TONIGHT - night).days, segment_id=segment_id)
        for night in all_nights
        for segment_id in (7, 8)
        if segment_id == 7 or night.weekday() < 5
    ]
    assert all_nights[-1].weekday() == 6
    assert lines(*of, now=datetime(2026, 2, 1, 4, tzinfo=timezone.utc)) == []


def test_a_segment_of_one_night_is_due_when_it_is_listed() -> None:
    of = [seen(1), seen(0), seen(1, segment_id=8)]
    assert lines(*of) == []
    assert lines(*of, segment_ids=[7, 8]) == ["segment 8 was last counted at 2026-02-02 03:00 UTC"]


def test_of_two_schedules_neither_misses_the_others_segments() -> None:
    evening = [seen(ago, segment_id=8, updated=at(ago).replace(hour=15)) for ago in range(9, 0, -1)]
    of = [*nights(range(9, -1, -1)), *evening]
    outcomes = [ended(ago) for ago in range(9, -1, -1)]
    outcomes += [ended(ago, 8, dag="evening", hour=15) for ago in range(9, 0, -1)]
    assert lines(*of, outcomes=outcomes) == []
    assert len(lines(*of, outcomes=[*outcomes, ended(0, 9, dag="evening")])) == 1


def test_a_segment_that_failed_tonight_is_found_with_the_reason_whatever_its_rhythm() -> None:
    outcomes = [ended(0), ended(0, 8, "failed"), ended(0, 9, "not_submitted")]
    assert lines(*nights(), seen(1, segment_id=8), outcomes=outcomes) == [
        "segment 9 was not counted: the platform is away",
        "segment 8 was last counted at 2026-02-02 03:00 UTC: the platform is away",
    ]


def test_what_failed_and_left_the_list_since_is_no_finding() -> None:
    assert lines(*nights(), outcomes=[ended(1, 9, "failed"), ended(1), ended(0)]) == []


@pytest.mark.parametrize(("hours", "late"), [(13, False), (24, False), (29, True), (60, True)])
def test_an_account_is_late_when_its_next_night_should_have_ended(hours: int, late: bool) -> None:
    now = at(0) + timedelta(hours=hours)
    told = ["the account was last counted at 2026-02-03 03:00 UTC"] if late else []
    assert lines(*nights(), *nights(segment_id=8), now=now) == told


def test_an_expected_segment_without_observations_is_missing() -> None:
    assert lines(*nights(), segment_ids=[7, 9]) == ["segment 9 was not counted"]


def test_no_observation_at_all_is_a_finding_too() -> None:
    assert lines() == ["the account was not counted"]
    assert lines(segment_ids=[7]) == ["segment 7 was not counted"]


def test_one_clock_that_runs_ahead_blinds_nothing() -> None:
    ahead = seen(5, segment_id=8, updated=NOW + timedelta(days=400))
    of = [*nights(range(29, 0, -1)), seen(0, 400), *nights(segment_id=8), ahead]
    assert [line.split(",")[0] for line in lines(*of)] == ["segment 7"]
    dead = [*nights(), *nights(range(29, 0, -1), segment_id=8, updated=NOW + timedelta(days=400))]
    assert len(lines(*dead)) == 1


def test_the_worst_comes_first() -> None:
    of = [
        one
        for segment_id in (1, 2, 3)
        for one in nights(range(29, 0, -1), 1000 * segment_id, segment_id=segment_id)
    ]
    of += [seen(0, 10, segment_id=segment_id) for segment_id in (1, 2, 3)]
    assert [line.split(",")[0] for line in lines(*of, segment_ids=[1, 2, 3, 4])] == [
        "segment 4 was not counted",
        *("segment 3", "segment 2", "segment 1"),
    ]


def test_a_finding_is_plain_json() -> None:
    [finding] = find(Past(NOW, [*nights(range(29, 0, -1)), seen(0, 400)]), Rules(), "acme")
    assert json.loads(json.dumps(finding.as_row())) == {
        "what": "fell",
        "source": "acme",
        "kind": "segment",
        "id": 7,
        "name": None,
        "channel": "email",
        "counter": "subscribed_sendable",
        "before": 1000,
        "after": 400,
        "low": 700,
        "high": 2000,
        "updated": "2026-02-03T03:00:00+00:00",
        "reason": None,
    }
    assert Finding("missing", "acme").as_row()["updated"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_fall": 1}, "there is no limit max_fall"),
        ({"max_drop": 2}, "max_drop must be a number from 0 to 1"),
        ({"by_counter": {"x": {"drop": 1}}}, "the limits of x must be a mapping of max_drop, "),
        ({"by_segment": {7: {"max_loss": -1}}}, "max_loss of segment 7 must be a number from 0 to 1"),
        ({"by_segment": {"seven": {}}}, "by_segment must be a whole number above 0"),
        ({"by_segment": [7]}, "by_segment must be a mapping"),
        ({"acknowledged": [0]}, "acknowledged must be a whole number above 0"),
    ],
)
def test_rules_that_cannot_be_meant_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        rules_of(given)
    assert message in str(refused.value)


# Made-up accounts: scripts/benchmarks/alarms.py. All twenty are measured by scripts/bench alarms.


def test_an_account_of_200_segments_rings_in_one_of_90_nights_at_most() -> None:
    rang = ringing(2000)
    assert len(rang) <= 1, rang


def test_faults_in_segments_of_a_thousand_people_are_found_in_time() -> None:
    faults = missed(2000) + missed(2001)
    large = list(SIZES)[-1]
    for fault in FAULTS:
        in_time, late = faults[fault, large, True], faults[fault, large, False]
        assert in_time > 0, fault
        assert late <= (in_time // 5 if fault.startswith("leak") else 0), fault
