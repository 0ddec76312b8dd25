"""What a night's count should be: verdicts on series whose right answer is reckoned by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_segstats.report.baseline import Limits, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

WEEKDAYS = [1000, 1000, 1000, 1000, 1000, 300, 250]
"""A sender of weekdays, night 0 being a Monday."""


def verdict(counts: Sequence[int], limits: Limits = Limits()) -> str | None:  # noqa: B008 - frozen
    found = judge(dict(enumerate(counts)), limits)
    return found and found.what


def first_night(counts: Sequence[int]) -> int | None:
    """Return the first night in which something is found."""
    return next((night for night in range(len(counts)) if verdict(counts[: night + 1])), None)


def test_an_even_series_is_never_found() -> None:
    assert first_night([1000] * 90) is None


@pytest.mark.parametrize(
    ("tonight", "found"),
    [(700, None), (699, "fell"), (500, "fell"), (0, "fell"), (2000, None), (2001, "rose"), (30_000, "rose")],
)
def test_a_night_may_be_30_per_cent_below_and_twice_what_is_expected(tonight: int, found: str | None) -> None:
    assert verdict([1000] * 30 + [tonight]) == found


def test_a_verdict_has_the_range_in_which_the_count_was_expected() -> None:
    assert judge(dict(enumerate([1000] * 30 + [400])), Limits()) == Verdict("fell", 1000, 700, 2000)


def test_limits_are_a_choice() -> None:
    assert verdict([1000] * 30 + [400], Limits(max_drop=0.6)) is None
    assert verdict([1000] * 30 + [1600], Limits(max_rise=0.5)) == "rose"
    assert verdict([1000] * 30 + [850], Limits(max_drop=0.1, min_change=100)) == "fell"
    assert verdict([1000] * 30 + [850], Limits(max_drop=0.1, min_change=200)) is None


def test_a_fall_of_40_per_cent_each_night_is_found_in_its_first() -> None:
    assert first_night([1000] * 30 + [600, 360, 216, 130, 78]) == 30


def test_a_sender_of_weekdays_is_never_found() -> None:
    assert first_night(WEEKDAYS * 12) is None


@pytest.mark.parametrize(
    ("night", "count", "found"),
    [(5, 150, "fell"), (5, 900, "rose"), (0, 300, "fell"), (0, 500, "fell"), (0, 3000, "rose")],
)
def test_a_sender_of_weekdays_is_held_against_the_same_weekday(night: int, count: int, found: str) -> None:
    assert verdict([*(WEEKDAYS * 5), *WEEKDAYS[:night], count]) == found


def test_a_mailing_of_once_is_not_expected_again_a_week_later() -> None:
    assert first_night([*([1000] * 30), 1900, *([1000] * 20)]) is None


def test_what_has_fallen_is_found_until_most_of_a_week_is_so_low() -> None:
    nights = [1000] * 60 + [500] * 10
    assert [verdict(nights[: at + 1]) for at in range(60, 64)] == ["fell"] * 4


def test_a_small_segment_is_not_found() -> None:
    assert first_night([10, 3, 18, 0, 9, 14] * 15) is None


def test_a_difference_of_fifty_people_is_none_however_large_its_share() -> None:
    assert verdict([60] * 30 + [10]) is None
    assert verdict([600] * 30 + [100]) == "fell"


def test_a_noisy_series_may_be_further_from_what_is_expected() -> None:
    noisy = [1000, 1300, 900, 1250, 800, 1100, 1350, 950, 1200, 850, 1300] * 6
    assert first_night(noisy) is None
    assert verdict([*noisy, 50]) == "fell"


@pytest.mark.parametrize("percent", [0.5, 1, 2, 3, 5])
def test_a_slow_fall_is_found_before_15_per_cent_are_lost(percent: float) -> None:
    leaking = [round(100_000 * (1 - percent / 100) ** night) for night in range(1, 40)]
    found = first_night([100_000] * 45 + leaking)
    assert found is not None
    # The first night's count that is below 85,000 must not have come before.
    assert ([*([100_000] * 45), *leaking][found - 1]) > 85_000


def test_a_slow_fall_of_a_sender_of_weekdays_is_found_before_15_per_cent_are_lost() -> None:
    whole = WEEKDAYS * 12
    leaking = [
        round(100 * count * 0.99 ** max(night - 49, 0)) for night, count in enumerate(whole)
    ]  # from night 50 on
    found = first_night(leaking)
    assert found is not None
    assert 0.99 ** (found - 49) > 0.85


def test_a_slow_growth_and_a_level_that_lasts_are_not_found() -> None:
    assert first_night([round(1000 * 1.003**night) for night in range(90)]) is None
    assert first_night([1000] * 40 + [930] * 40) is None


def test_what_a_mailing_raised_for_a_week_is_no_level_to_fall_from() -> None:
    raised = [1400, 1300, 1225, 1170, 1125, 1095, 1070, 1050, 1040]
    assert first_night([1000] * 40 + raised + [1000] * 20) is None


def test_a_night_that_is_missing_is_no_count_of_nothing() -> None:
    counts = dict(enumerate(WEEKDAYS * 6))
    for night in (10, 24, 33, 37):
        del counts[night]
    assert [
        night
        for night in counts
        if judge({before: of for before, of in counts.items() if before <= night}, Limits())
    ] == []


def test_a_weekday_seen_for_the_first_time_is_judged_by_its_magnitude_only() -> None:
    assert verdict([1000, 1000, 300]) is None
    assert verdict([1000, 1000, 49]) == "fell"
    assert verdict([1000, 1000, 30_000]) == "rose"


def test_one_night_alone_is_not_judged() -> None:
    assert verdict([1000]) is None
