"""What looks wrong in counters, and what does not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_segstats.history import Observation
from airflow_provider_segstats.report.findings import Finding, Limits, find

NOW = datetime(2026, 2, 3, 4, tzinfo=timezone.utc)
TONIGHT, LAST_NIGHT = NOW - timedelta(hours=1), NOW - timedelta(hours=25)
LIMITS = Limits(max_drop=0.5, min_count=10, max_age=timedelta(hours=12))


def seen(
    updated: datetime, channel: str = "email", segment_id: int = 7, list_id: int | None = 1, **counters: Any
) -> Observation:
    return Observation(
        "acme", segment_id, list_id, 24, channel, updated, counters or {"subscribed": 100}, updated.date()
    )


def lines(*observations: Observation, expected: Any = None) -> list[str]:
    return [str(finding) for finding in find(observations, LIMITS, NOW, expected)]


def test_counters_that_hold_are_no_finding() -> None:
    assert lines(seen(LAST_NIGHT, a=100, b=None), seen(TONIGHT, a=101, b=5, c=0)) == []


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (100, 51, []),
        (100, 50, []),
        (100, 49, ["segment 7, list 1, email: subscribed fell by 51% (100 to 49)"]),
        (100, 0, ["segment 7, list 1, email: subscribed fell by 100% (100 to 0)"]),
        (10, 4, ["segment 7, list 1, email: subscribed fell by 60% (10 to 4)"]),
        (9, 0, []),
        (0, 0, []),
    ],
)
def test_a_counter_that_fell_by_more_than_its_share_is_found(
    before: int, after: int, found: list[str]
) -> None:
    assert lines(seen(LAST_NIGHT, subscribed=before), seen(TONIGHT, subscribed=after)) == found


def test_it_is_held_against_the_last_earlier_day_however_long_ago() -> None:
    days = [seen(NOW - timedelta(days=5), subscribed=900), seen(NOW - timedelta(days=3), subscribed=100)]
    assert lines(*days, seen(TONIGHT, subscribed=60)) == []
    assert len(lines(*days, seen(TONIGHT, subscribed=40))) == 1


def test_what_stood_earlier_the_same_day_does_not_matter() -> None:
    early = seen(TONIGHT - timedelta(minutes=30), subscribed=900)
    assert lines(early, seen(TONIGHT, subscribed=60)) == []


def test_a_channel_that_vanished_is_found_once() -> None:
    nights = [seen(LAST_NIGHT), seen(LAST_NIGHT, "sms"), seen(TONIGHT)]
    assert lines(*nights) == ["segment 7, list 1, sms vanished"]
    before_last = LAST_NIGHT - timedelta(days=1)
    assert lines(seen(before_last, "sms"), seen(before_last), seen(LAST_NIGHT), seen(TONIGHT)) == []


def test_the_same_channel_of_another_list_is_another_channel() -> None:
    nights = [seen(LAST_NIGHT), seen(LAST_NIGHT, list_id=None), seen(TONIGHT)]
    assert lines(*nights) == ["segment 7, email vanished"]


@pytest.mark.parametrize("now", [{"other": 1}, {"subscribed": None}])
def test_a_counter_that_vanished_is_found(now: dict[str, Any]) -> None:
    assert lines(seen(LAST_NIGHT), seen(TONIGHT, **now)) == [
        "segment 7, list 1, email: subscribed vanished (was 100)"
    ]


def test_a_new_channel_and_a_first_night_are_no_finding() -> None:
    assert lines(seen(LAST_NIGHT), seen(TONIGHT), seen(TONIGHT, "sms"), seen(TONIGHT, segment_id=8)) == []


def test_a_segment_not_counted_for_too_long_is_stale_and_nothing_else() -> None:
    observations = [seen(LAST_NIGHT - timedelta(days=1), subscribed=900), seen(LAST_NIGHT)]
    assert lines(*observations) == ["segment 7 was last counted at 2026-02-02 03:00 UTC"]
    assert lines(seen(NOW - LIMITS.max_age)) == []


def test_each_segment_is_judged_by_itself() -> None:
    observations = [seen(LAST_NIGHT, segment_id=8), seen(LAST_NIGHT), seen(TONIGHT)]
    assert lines(*observations) == ["segment 8 was last counted at 2026-02-02 03:00 UTC"]


def test_an_expected_segment_without_observations_is_missing() -> None:
    assert lines(seen(TONIGHT), expected=[7, 9]) == ["segment 9 was not counted"]


def test_no_observation_at_all_is_a_finding_too() -> None:
    assert lines() == ["no segment was counted"]
    assert lines(expected=[7]) == ["segment 7 was not counted"]


def test_a_finding_is_plain_json() -> None:
    [finding] = find([seen(LAST_NIGHT), seen(TONIGHT, subscribed=1)], LIMITS, NOW)
    assert json.loads(json.dumps(finding.as_row())) == {
        "kind": "fell",
        "segment_id": 7,
        "list_id": 1,
        "resource_id": 24,
        "channel": "email",
        "counter": "subscribed",
        "before": 100,
        "after": 1,
        "updated": "2026-02-03T03:00:00+00:00",
    }
    assert Finding("missing", 9).as_row()["updated"] is None
