"""The report: its figures, its files, and its page in a real Chromium, for one segment and a thousand."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath
from pyarrow import parquet
from support.chromium import Page

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.emulator.numbers import counters
from airflow_provider_segstats.history import Observation, Outcome
from airflow_provider_segstats.report import write_report
from airflow_provider_segstats.report.figures import Change, Figures, Segment, figures_of
from airflow_provider_segstats.report.files import as_csv, as_parquet, table
from airflow_provider_segstats.report.findings import Rules
from airflow_provider_segstats.report.page import age, messages, page
from airflow_provider_segstats.report.past import Past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TONIGHT = datetime(2026, 11, 24, 3, 0, tzinfo=timezone.utc)  # a Tuesday
NOW = TONIGHT + timedelta(minutes=10)


def seen(
    nights_ago: float, count: int | None, channel: str = "email", segment_id: int = 7, **changes: Any
) -> Observation:
    updated = TONIGHT - timedelta(days=nights_ago)
    fields: dict[str, Any] = {
        "source": "acme",
        "list_id": 1,
        "resource_id": 24,
        "counters": {"subscribed_sendable": count},
        "night": updated.date(),
        **changes,
    }
    return Observation(segment_id=segment_id, channel=channel, updated=updated, **fields)


def history(
    segments: int, nights: int = 30, channels: Iterable[str] = ("email", "push", "sms")
) -> list[Observation]:
    """Return what the emulator counts for so many segments, in so many nights up to tonight."""
    return [
        replace(
            seen(ago, None, channel, segment_id),
            counters=counters(segment_id, 24, channel, TONIGHT.toordinal() - 719_163 - ago),
        )
        for ago in range(nights)
        for segment_id in range(1, segments + 1)
        for channel in channels
    ]


def figured(observations: Iterable[Observation], now: datetime = NOW, **options: Any) -> Figures:
    outcomes = options.pop("outcomes", ())
    return figures_of(Past(now, list(observations), outcomes), **options)


def only(figures: Figures) -> Segment:
    [segment] = figures.segments
    return segment


def told(figures: Figures, kind: str) -> list[str]:
    return [text for of, text in messages(figures) if of == kind]


FINE = "All that was due was counted, and the check finds nothing."


# Figures


def test_a_trend_has_a_count_for_each_night_up_to_the_last_one() -> None:
    figures = figured([seen(2, 10), seen(1, 11), seen(0, 12)])
    assert [day.day for day in figures.nights] == [22, 23, 24]
    assert list(figures.total.counted) == [10, 11, 12]


def test_of_several_counts_of_a_night_the_last_is_taken() -> None:
    figures = figured([seen(0, 12), seen(0.1, 5, night=TONIGHT.date()), seen(1, 11)])
    assert list(figures.total.counted) == [11, 12]


def test_the_nights_are_limited_to_the_newest() -> None:
    figures = figured([seen(ago, ago) for ago in range(50)], days=30)
    assert (len(figures.nights), figures.total.counted[0]) == (30, 29)


def test_changes_are_since_the_last_night_and_since_that_of_a_week_before() -> None:
    figures = figured([seen(8, 1), seen(7, 100), seen(6, 3), seen(1, 120), seen(0, 125)], days=2)
    assert (figures.total.week, figures.total.night) == (Change(25, 100), Change(5, 120))
    assert figures.total.week
    assert figures.total.week.growth == 0.25


def test_when_nothing_was_counted_a_week_before_the_night_before_that_is_compared() -> None:
    assert figured([seen(9, 100), seen(6, 1), seen(0, 125)]).total.week == Change(25, 100)


def test_growth_from_nothing_has_no_per_cent() -> None:
    week = figured([seen(7, 0), seen(0, 5)]).total.week
    assert week == Change(5, 0)
    assert week.growth is None


def test_a_history_of_less_than_eight_nights_has_no_weeks_change_and_says_so() -> None:
    figures = figured([seen(6, 1), seen(0, 2)])
    assert figures.total.week is None
    assert "A week's change needs 8 nights of history; there are 7." in told(figures, "note")


def test_changes_compare_what_both_nights_counted_and_the_rest_stands_beside() -> None:
    # By hand: of 1,000 and 500 the week before, 1,030 and 500 now are +30 of 1,500, or +2.0 %. The segment of
    # 400 is added, that of 300 is missing: with them it would be +130, or +7.2 %.
    of = [seen(7, 1000), seen(0, 1030), seen(7, 500, segment_id=8), seen(0, 500, segment_id=8)]
    figures = figured([*of, seen(0, 400, segment_id=9), seen(7, 300, segment_id=10)])
    assert figures.total.week == Change(30, 1500)
    assert figures.channels["email"].week == Change(30, 1500)
    assert figures.beside() == {"added": (1, 400), "missing": (1, 300)}
    text = page(figures, {})
    assert "+30" in text
    assert "Not in the week&#39;s change: 400 of 1 segment added; 300 of 1 segment missing." in text


def renamed(counts: Iterable[int], since: float) -> list[Observation]:
    """Return segments 7 and 8 of another label, so many nights ago and after."""
    return [
        seen(ago, count, segment_id=of, source="new")
        for of, count in zip((7, 8), counts, strict=True)
        for ago in (2, 1, 0)
        if ago <= since
    ]


@pytest.mark.parametrize("again", [[], [seen(2.1, 70, night=(TONIGHT - timedelta(days=2)).date())]])
def test_an_account_that_goes_on_under_another_label_is_one_and_not_counted_twice(
    again: list[Observation],
) -> None:
    old = [seen(ago, 10 * of, segment_id=of) for ago in range(20, 2, -1) for of in (7, 8)]
    figures = figured([*old, *again, *renamed((72, 81), since=2)])
    assert (figures.total.now, figures.total.week) == (153, Change(3, 150))
    assert {segment.source for segment in figures.segments} == {"new"}
    assert told(figures, "warning") == []
    assert "The account acme goes on as new: they are shown as one." in told(figures, "note")


def test_two_accounts_of_equal_ids_and_other_counts_are_two_also_when_one_ends() -> None:
    old = [seen(ago, 10 * of, segment_id=of) for ago in range(20, 2, -1) for of in (7, 8)]
    figures = figured([*old, *renamed((5000, 400), since=2)])
    assert {segment.source for segment in figures.segments} == {"acme", "new"}
    assert "acme: The account was last counted at 2026-11-21 03:00 UTC." in told(figures, "warning")


def test_an_account_that_never_had_a_count_is_named() -> None:
    failed = Outcome("other", "d", "r", TONIGHT.date(), TONIGHT, "segment", 9, "failed", "no access")
    warnings = told(figured([seen(0, 10)], outcomes=[failed]), "warning")
    assert warnings == ["Never counted: segment 9: no access."]


def test_what_is_not_in_the_nights_list_is_no_warning_and_told_apart() -> None:
    nights = [seen(ago, 10, segment_id=of) for ago in range(15, 0, -1) for of in (7, 8)]
    figures = figured([*nights, seen(0, 11, segment_id=7)], rules=Rules(segment_ids={7}))
    assert [segment.state for segment in figures.segments] == ["counted", "unlisted"]
    assert (told(figures, "warning"), told(figures, "fine")) == ([], [FINE])
    assert figures.beside() == {"unlisted": (1, 10)}


def test_a_counter_that_has_been_gone_for_long_is_not_fine() -> None:
    nights = [seen(ago, 0, counters={"all" if ago > 9 else "everyone": 1000}) for ago in range(29, -1, -1)]
    figures = figured(nights, counter="all")
    assert told(figures, "warning") == ["No segment has had all for over 7 nights."]
    assert told(figures, "fine") == []


def test_a_night_without_a_count_is_a_gap_in_a_trend_and_no_fall_in_a_sum() -> None:
    night = [seen(ago, 10, segment_id=7) for ago in (2, 1, 0)] + [
        seen(ago, 5, segment_id=8) for ago in (2, 0)
    ]
    figures = figured(night)
    assert [list(segment.trend.counted) for segment in figures.segments] == [[10, 10, 10], [5, None, 5]]
    assert list(figures.total.counted) == [15, 15, 15]


def test_a_night_in_which_nothing_was_counted_is_a_gap_in_the_sum_too() -> None:
    assert list(figured([seen(2, 10), seen(0, 12)]).total.counted) == [10, None, 12]


def test_a_gap_of_more_than_seven_nights_is_not_bridged() -> None:
    nights = [seen(ago, 10, segment_id=7) for ago in range(12)] + [
        seen(11, 5, segment_id=8),
        seen(0, 5, segment_id=8),
    ]
    assert list(figured(nights).total.counted) == [*[15] * 8, *[10] * 3, 15]


def test_a_segment_that_was_due_and_not_counted_is_missing_and_has_no_change() -> None:
    nights = [seen(ago, 10, segment_id=of) for ago in range(15, 0, -1) for of in (7, 8)]
    figures = figured([*nights, seen(0, 11, segment_id=7)])
    assert [(segment.state, segment.trend.week) for segment in figures.segments] == [
        ("counted", Change(1, 10)),
        ("missing", None),
    ]
    assert (figures.total.now, figures.total.week) == (21, Change(1, 10))
    assert told(figures, "warning") == ["Not counted when due: segment 8."]
    assert told(figures, "fine") == []


def test_a_segment_that_was_not_due_is_not_missing() -> None:
    nights = [seen(ago, 10) for ago in range(29, -1, -1)]
    figures = figured([*nights, *(seen(ago, 5, segment_id=8) for ago in (24, 17, 10, 3))])
    assert [segment.state for segment in figures.segments] == ["counted", "waiting"]
    assert (figures.total.now, told(figures, "fine")) == (15, [FINE])


def test_a_segment_out_for_nine_nights_is_no_longer_summed_and_still_found() -> None:
    nights = [seen(ago, 10) for ago in range(29, -1, -1)]
    figures = figured([*nights, *(seen(ago, 5, segment_id=8) for ago in range(29, 8, -1))])
    assert [segment.state for segment in figures.segments] == ["counted", "gone"]
    assert figures.total.now == 10
    assert told(figures, "warning") == ["Not counted when due: segment 8."]
    assert "Not counted for over 7 nights, and so not in the totals: segment 8." in told(figures, "note")


def test_a_night_that_passes_midnight_is_one_night() -> None:
    late = seen(-0.5, 5, segment_id=8, night=TONIGHT.date())
    figures = figured([seen(1, 10), seen(1, 5, segment_id=8), seen(0, 11), late])
    assert [segment.state for segment in figures.segments] == ["counted", "counted"]
    assert figures.total.now == 16
    assert figures.age(late.updated) == timedelta()


def test_when_nothing_was_counted_for_36_hours_all_is_missing() -> None:
    nights = [seen(ago, 10) for ago in range(10, 0, -1)]
    figures = figured(nights, now=NOW + timedelta(hours=12))
    assert only(figures).state == "missing"
    assert told(figures, "warning") == ["The account was last counted at 2026-11-23 03:00 UTC."]


def test_a_source_that_is_counted_at_another_hour_is_not_missing() -> None:
    figures = figured([seen(0, 1), seen(0.6, 2, source="other")])
    assert [segment.state for segment in figures.segments] == ["counted", "counted"]


def test_equal_ids_of_two_sources_are_two_segments_and_told_apart() -> None:
    of = [
        seen(ago, 10, segment_id=of, source=source)
        for source, of in (("acme", 7), ("other", 7))
        for ago in range(9)
    ]
    figures = figured([*of, *(seen(ago, 2, segment_id=8, source="other") for ago in range(9, 1, -1))])
    assert [(segment.source, segment.id) for segment in figures.segments] == [
        ("acme", 7),
        ("other", 7),
        ("other", 8),
    ]
    assert told(figures, "warning") == ["other: Not counted when due: segment 8."]


def test_a_channel_that_is_no_longer_there_has_vanished_and_is_not_bridged() -> None:
    nights = [seen(ago, 100) for ago in range(3)] + [seen(2, 90, "sms"), seen(1, 90, "sms")]
    figures = figured(nights)
    assert list(figures.channels["sms"].known) == [90, 90, None]
    assert (figures.total.now, figures.channels["sms"].now) == (100, None)
    assert [(line.last.channel, line.state) for line in only(figures).lines] == [
        ("email", "counted"),
        ("sms", "vanished"),
    ]
    assert told(figures, "warning") == ["The channel sms has vanished from segment 7."]


def test_a_new_channel_and_a_new_segment_are_noted() -> None:
    nights = [seen(ago, 10) for ago in range(9)]
    figures = figured([*nights, seen(0, 4, "sms"), seen(1, 1, segment_id=8), seen(0, 1, segment_id=8)])
    assert messages(figures) == [
        ("fine", FINE),
        ("note", "New in the last week: segment 8."),
        ("note", "The channel sms is new in segment 7."),
    ]


def test_a_channel_without_a_number_keeps_its_last_one_and_is_missing() -> None:
    figures = figured([seen(1, 4, "sms"), seen(0, None, "sms"), seen(1, 10), seen(0, 10)])
    [_, sms] = only(figures).lines
    assert (sms.state, sms.trend.now, list(sms.trend.counted)) == ("missing", 4, [4, None])


def test_a_channel_that_never_had_a_number_counts_as_nothing() -> None:
    figures = figured([seen(0, None, "sms"), seen(0, 10)])
    assert (figures.channels["sms"].now, figures.total.now) == (None, 10)


def test_lists_of_a_segment_are_lines_of_their_own_and_add_up() -> None:
    figures = figured([seen(0, 10, list_id=1), seen(0, 5, list_id=2), seen(0, 1, list_id=None)])
    segment = only(figures)
    assert [(line.last.list_id, line.trend.now) for line in segment.lines] == [(1, 10), (2, 5), (None, 1)]
    assert (segment.several_lists, segment.trend.now) == (True, 16)


def test_segments_that_failed_and_were_never_counted_are_named_by_account() -> None:
    def outcome(source: str, segment_id: int, became: Any) -> Outcome:
        return Outcome(
            source, "d", "r", TONIGHT.date(), TONIGHT, "segment", segment_id, became, "no such segment"
        )

    outcomes = [outcome("acme", 7, "counted"), outcome("acme", 9, "failed"), outcome("other", 9, "counted")]
    figures = figured([seen(0, 10), seen(0, 10, segment_id=9, source="other")], outcomes=outcomes)
    assert told(figures, "warning") == ["acme: Never counted: segment 9: no such segment."]
    assert figures.never_counted == 1


def test_the_checks_findings_are_the_pages_warnings_and_nothing_is_fine_then() -> None:
    nights = [seen(ago, 1000, segment_id=of) for ago in range(29, 0, -1) for of in range(1, 21)]
    tonight = [seen(0, 0 if of > 10 else 1000, segment_id=of) for of in range(1, 21)]
    figures = figured([*nights, *tonight])
    warnings = told(figures, "warning")
    assert len(warnings) == 10
    line = "Segment 11, email: subscribed_sendable fell by 100% to 0 (expected 700 to 2,000)."
    assert warnings[0] == line
    assert told(figures, "fine") == []


def test_what_is_acknowledged_is_no_warning() -> None:
    nights = [seen(ago, 10, segment_id=of) for ago in range(15, 0, -1) for of in (7, 8)]
    figures = figured([*nights, seen(0, 11, segment_id=7)], rules=Rules(acknowledged={8}))
    assert (told(figures, "fine"), only_missing(figures)) == ([FINE], [8])


def only_missing(figures: Figures) -> list[int]:
    return [segment.id for segment in figures.of_state("missing")]


def test_a_reported_counter_that_was_renamed_tonight_is_not_fine() -> None:
    nights = [seen(ago, 0, counters={"all": 1000}, segment_id=of) for ago in range(9, 0, -1) for of in (7, 8)]
    tonight = [seen(0, 0, counters={"everyone": 1000}, segment_id=of) for of in (7, 8)]
    figures = figured([*nights, *tonight], counter="all")
    assert told(figures, "warning") == ["Every segment: all vanished (was 2,000)."]


def test_databases_stand_for_themselves_and_are_in_no_total() -> None:
    database = [seen(ago, 5000, segment_id=0, list_id=3, kind="database", name="People") for ago in (1, 0)]
    figures = figured([seen(1, 10, name="Readers"), seen(0, 10, name="Readers"), *database])
    assert (figures.total.now, [other.title for other in figures.others]) == (10, ["database People (3)"])
    text = page(figures, {})
    assert "Databases and resources" in text
    assert "Readers" in text


def test_a_history_of_databases_alone_is_a_page_too() -> None:
    figures = figured([seen(0, 5000, segment_id=0, list_id=3, kind="database")])
    text = page(figures, {})
    assert told(figures, "fine") == [FINE]
    assert ("Databases and resources" in text, 'id="segments"' in text) == (True, False)


def test_a_night_of_long_ago_is_no_week_before() -> None:
    assert figured([seen(15, 100), seen(0, 125)]).total.week is None


def test_movers_are_those_with_the_largest_changes_first_by_count_and_by_share() -> None:
    before = {1: 1000, 2: 10_000, 3: 600, 4: 1000, 5: 1000, 6: 10}
    counts = {1: 1000, 2: 10_300, 3: 500, 4: 1100, 5: 850, 6: 20}
    nights = [seen(7, count, segment_id=of) for of, count in before.items()]
    figures = figured([*nights, *(seen(0, count, segment_id=of) for of, count in counts.items())])
    by_count, by_share = figures.movers(10), figures.movers(10, by_share=True)
    assert [[segment.id for segment in moved] for moved in by_count] == [[2, 4, 6], [5, 3]]
    assert [[segment.id for segment in moved] for moved in by_share] == [[4, 2], [3, 5]]


def test_many_missing_segments_are_counted_not_all_named() -> None:
    nights = [seen(ago, 1, segment_id=of) for of in range(1, 101) for ago in range(9, 0, -1)]
    [text] = told(figured([*nights, seen(0, 1, segment_id=1)]), "warning")
    assert text.endswith(" 20, 21 and 79 more.")


def test_what_is_later_than_the_report_is_said_to_be_left_out() -> None:
    past = Past(NOW, [seen(0, 10)], beyond={(TONIGHT + timedelta(days=2)).date(): 3})
    assert "Later nights are left out: 3 segments have newer counts, up to 26 November 2026." in told(
        figures_of(past), "note"
    )


@pytest.mark.parametrize(
    ("observations", "counter", "message"),
    [
        ([], "subscribed_sendable", "there is nothing to report: the history has no observations yet"),
        ([seen(0, 1)], "all", "no observation has the counter 'all'; there are subscribed_sendable"),
    ],
)
def test_a_report_of_nothing_is_refused(observations: list[Observation], counter: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        figured(observations, counter=counter)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(seconds=59), "< 1 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=23, minutes=5), "23 h 5 min"),
        (timedelta(days=2, hours=4), "2 d 4 h"),
        (timedelta(days=2), "2 d"),
    ],
)
def test_an_age_has_two_units_at_most(span: timedelta, text: str) -> None:
    assert age(span) == text


# Files

CHANNEL = "=1+1"


@pytest.fixture
def columns() -> Any:
    big = replace(seen(0, 7, "sms"), counters={"subscribed_sendable": 10, "unconfirmed": 10**19 - 1})
    return table(figured([seen(7, 8, CHANNEL), seen(0, 10, CHANNEL), big]))


def test_the_csv_has_each_channels_last_figures(columns: Any) -> None:
    assert list(csv.DictReader(io.StringIO(as_csv(columns).decode()))) == [
        {
            "source": "acme",
            "kind": "segment",
            "segment_id": "7",
            "name": "",
            "list_id": "1",
            "resource_id": "24",
            "channel": "'=1+1",
            "updated": "2026-11-24T03:00:00+00:00",
            "subscribed_sendable": "10",
            "unconfirmed": "",
            "night": "2026-11-24",
            "night_change": "2",
            "week_before": "8",
            "change": "2",
            "growth": "0.25",
            "share": "0.5",
            "age_hours": "0.17",
            "state": "counted",
        },
        {
            "source": "acme",
            "kind": "segment",
            "segment_id": "7",
            "name": "",
            "list_id": "1",
            "resource_id": "24",
            "channel": "sms",
            "updated": "2026-11-24T03:00:00+00:00",
            "subscribed_sendable": "10",
            "unconfirmed": "9999999999999999999",
            "night": "2026-11-24",
            "night_change": "",
            "week_before": "",
            "change": "",
            "growth": "",
            "share": "0.5",
            "age_hours": "0.17",
            "state": "counted",
        },
    ]


def test_the_parquet_file_has_types_and_texts_as_they_are(columns: Any) -> None:
    read = parquet.read_table(io.BytesIO(as_parquet(columns)))
    assert {field.name: str(field.type) for field in read.schema} == {
        "source": "string",
        "kind": "string",
        "segment_id": "int64",
        "name": "string",
        "list_id": "int64",
        "resource_id": "int64",
        "channel": "string",
        "updated": "timestamp[us, tz=UTC]",
        "subscribed_sendable": "int64",
        "unconfirmed": "decimal128(20, 0)",
        "night": "date32[day]",
        "night_change": "int64",
        "week_before": "int64",
        "change": "int64",
        "growth": "double",
        "share": "double",
        "age_hours": "double",
        "state": "string",
    }
    assert read.to_pydict() == columns


def test_a_report_is_three_files_through_object_storage(tmp_path: Path) -> None:
    folder = ObjectStoragePath((tmp_path / "new" / "folder").as_uri())
    places = write_report(Past(NOW, history(1)), folder, "night")
    names = {kind: Path(place.removeprefix("file://")) for kind, place in places.items()}
    assert {kind: path.name for kind, path in names.items()} == {
        "csv": "night.csv",
        "parquet": "night.parquet",
        "html": "night.html",
    }
    assert (
        parquet.read_table(names["parquet"]).num_rows == len(names["csv"].read_text().splitlines()) - 1 == 3
    )
    assert re.findall(r'<a href="([^"]*)">(\w+)</a>', names["html"].read_text()) == [
        ("night.csv", "CSV"),
        ("night.parquet", "Parquet"),
    ]


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(Past(NOW, history(3)), tmp_path / name, "night")
    for kind in ("csv", "html", "parquet"):
        assert (tmp_path / "one" / f"night.{kind}").read_bytes() == (
            tmp_path / "two" / f"night.{kind}"
        ).read_bytes()


def test_neither_library_is_imported_before_a_report_is_written() -> None:
    code = """
import sys, airflow_provider_segstats.report.page, airflow_provider_segstats.report.files
print({"matplotlib", "pyarrow"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The page


class Reader(HTMLParser):
    """Collects elements and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_a_page_of_a_thousand_segments_is_below_three_megabytes() -> None:
    assert len(page(figured(history(1000)), {}).encode()) < 3_000_000


@pytest.mark.parametrize(("segments", "rows"), [(3000, 6000), (3001, 3001), (6001, 6000)])
def test_the_table_is_bounded_and_says_what_it_leaves_to_the_files(segments: int, rows: int) -> None:
    text = page(figured(history(segments, 1, ["email"])), {})
    table = text[text.index('<table id="segments"') :]
    assert table[: table.index("</table>")].count("<tr>") == rows + 1
    assert ("in the files only" in text) == (rows < 2 * segments)


def test_channels_beyond_the_eighth_share_a_colour() -> None:
    figures = figured([seen(0, 100 - at, f"channel{at}") for at in range(30)])
    [bar] = re.findall(r'<p class="bar" aria-hidden="true">(.*?)</p>', page(figures, {}))
    sizes = re.findall(r'<i class="c(\d)" style="flex:(\d+)"></i>', bar)
    assert sizes == [*((str(at), str(101 - at)) for at in range(1, 9)), ("9", str(sum(range(71, 93))))]


def test_the_ids_of_a_page_are_unique() -> None:
    ids = [attrs["id"] for _, attrs in Reader(page(figured(history(12)), {})).elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 12


@pytest.mark.parametrize("segments", [1, 3, 40])
def test_every_chart_has_a_text_in_its_place(segments: int) -> None:
    elements = Reader(page(figured(history(segments)), {})).elements
    charts = [attrs for tag, attrs in elements if tag == "svg" and "viewbox" in attrs]
    sparks = [attrs for tag, attrs in elements if tag == "svg" and "viewbox" not in attrs]
    assert {chart["aria-hidden"] for chart in charts} == {"true"}
    # The first is there twice, once for narrow screens.
    assert len([tag for tag, _ in elements if tag == "figcaption"]) == len(charts) - 1 >= 5
    assert all((spark["aria-label"] or "").startswith("from ") for spark in sparks)


HOSTILE = (
    "<script>alert(1)</script>",
    "</style><img src=http://example.com/x onerror=alert(2)>",
    '" onmouseover="alert(3)',
    "$\\frac{1}$",
    "_hidden",
    "\u202eright to left",
    "x" * 500,
    "",
)


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    def opened(observations: list[Observation], **options: Any) -> Page:
        folder = tmp_path_factory.mktemp("page")
        write_report(Past(NOW, observations), folder, "night", **options)
        return Page(folder / "night.html")

    return opened


COLUMN = """
[...document.querySelectorAll("#segments tbody:not([hidden]) tr:first-child")]
    .map(row => row.cells[{}].innerText)
"""


def test_in_chromium_the_page_of_one_segment_shows_its_figures_and_asks_for_nothing(open_page: Any) -> None:
    nights = [seen(ago, 1000 + ago, "email") for ago in range(30)] + [
        seen(ago, 250, "sms") for ago in range(30)
    ]
    with open_page(nights) as opened:
        assert [url.partition(":")[0] for url in opened.requests] == ["file"]
        assert opened.complaints == []
        text = " ".join(opened.evaluate("document.body.innerText").replace("\N{MINUS SIGN}", "-").split())
        assert "24 November 2026" in text
        assert "1,250 -7 (-0.6%) in 7 days -1 (-0.1%) since the night before" in text
        assert "email 80.0% sms 20.0%" in text
        assert f"Fine {FINE}" in text
        rows = opened.evaluate(
            """[...document.querySelectorAll("#segments tbody tr")].map(
                row => [...row.cells].map(cell => cell.innerText.replace("\N{MINUS SIGN}", "-"))
            )"""
        )
        assert rows == [
            ["7", "all", "", "1,250", "-1", "-7", "-0.6%", "", "10 min"],
            ["", "email", "", "1,000", "-1", "-7", "-0.7%", "80.0%", "10 min"],
            ["", "sms", "", "250", "±0", "±0", "±0.0%", "20.0%", "10 min"],
        ]


def test_in_chromium_names_from_the_server_are_text_and_nothing_else(open_page: Any) -> None:
    nights = [
        replace(
            seen(ago, 100 + at, name, source=HOSTILE[0]),
            counters={"subscribed_sendable": 100 + at, HOSTILE[1]: 3},
        )
        for ago in range(9)
        for at, name in enumerate(HOSTILE)
    ]
    with open_page(nights) as opened:
        assert [url.partition(":")[0] for url in opened.requests] == ["file"]
        assert opened.complaints == []
        assert opened.evaluate("document.scripts.length") == 1
        assert opened.evaluate("document.images.length") == 0
        assert opened.evaluate("document.querySelectorAll('[onmouseover], [onerror]').length") == 0
        names = opened.evaluate(
            "[...document.querySelectorAll('#segments tbody th bdi')].map(name => name.textContent)"
        )
        assert sorted(names) == sorted([*HOSTILE[:-1], "(no name)"])


VISIBLE = "[...document.querySelectorAll('#segments tbody tr')].filter(row => row.offsetHeight).length"


def test_in_chromium_a_thousand_segments_can_be_sorted_found_and_opened(open_page: Any) -> None:
    with open_page(history(1000, 9)) as opened:
        assert opened.complaints == []
        assert opened.evaluate("document.querySelectorAll('#segments tbody').length") == 1000
        assert opened.evaluate(VISIBLE) == 1000
        opened.evaluate("document.querySelector('#segments tbody button').click()")
        assert opened.evaluate(VISIBLE) == 1003
        opened.evaluate("document.querySelector('#open').click()")
        assert opened.evaluate(VISIBLE) == 4000
        opened.evaluate("document.querySelectorAll('#segments thead button')[1].click()")
        counts = [int(text.replace(",", "")) for text in opened.evaluate(COLUMN.format(3))]
        assert counts == sorted(counts, reverse=True)
        opened.evaluate("document.querySelectorAll('#segments thead button')[0].click()")
        assert [int(text) for text in opened.evaluate(COLUMN.format(0))] == list(range(1, 1001))
        opened.evaluate(
            "const field = document.querySelector('#find input'); field.value = '99';"
            "field.dispatchEvent(new Event('input'))"
        )
        found = [int(text) for text in opened.evaluate(COLUMN.format(0))]
        begin = [of for of in range(1, 1001) if str(of).startswith("99") and of != 99]
        rest = [of for of in range(1, 1001) if "99" in str(of) and of not in {99, *begin}]
        assert found == [99, *begin, *rest]
        assert opened.evaluate("document.querySelector('#found').textContent") == "19 of 1000 segments"


def test_in_chromium_segments_are_opened_and_sorted_by_keyboard_and_charts_have_names(open_page: Any) -> None:
    with open_page(history(41, 9)) as opened:

        def press_on(name: str) -> None:
            focused = "document.activeElement.textContent.trim()"
            for _ in range(20):
                opened.press("Tab")
                if opened.evaluate(focused) == name:
                    break
            assert opened.evaluate(focused) == name
            opened.press("Enter")

        assert opened.evaluate(VISIBLE) == 41
        press_on("Now")
        assert opened.evaluate("document.querySelector('[aria-sort]').ariaSort") == "descending"
        largest = opened.evaluate(COLUMN.format(0))[0]
        press_on(largest)
        assert opened.evaluate("document.activeElement.ariaExpanded") == "true"
        assert opened.evaluate(VISIBLE) == 44
        assert {"All channels by night", "email by night", "Segments by their change"} <= set(
            opened.read_out("group")
        )
        assert sum(name.startswith("from ") for name in opened.read_out("image")) >= 41


CHART_TEXTS = """
[...document.querySelectorAll("figure svg")].filter(chart => chart.getBoundingClientRect().width).map(
    chart => [...chart.querySelectorAll("text")].map(text => {
        const {left, right, top, bottom} = text.getBoundingClientRect();
        return [text.textContent.trim(), left, right, top, bottom];
    })
)
"""


@pytest.mark.parametrize("width", [390, 1300])
def test_in_chromium_nothing_is_wider_than_the_screen_and_the_text_of_charts_is_readable(
    open_page: Any, width: int
) -> None:
    with open_page(history(2, 400), days=400) as opened:
        opened.resize(width, 900)
        root = "document.documentElement"
        assert opened.evaluate(f"{root}.clientWidth") <= width
        assert opened.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        charts = opened.evaluate(CHART_TEXTS)
        assert len(charts) == 7  # all segments, shares, three channels, two segments
        for texts in charts:
            assert min(bottom - top for *_, top, bottom in texts) >= 11
            for one, (name, left, right, top, bottom) in enumerate(texts):
                assert not [
                    (name, other)
                    for other, *at in texts[one + 1 :]
                    if left < at[1] and at[0] < right and top < at[3] and at[2] < bottom
                ]
            assert {name[-4:] for name, *_ in texts if name[:3].isalpha()} == {"2025", "2026"}
        sparks = "[...document.querySelectorAll('td svg')].map(spark => spark.width.baseVal.value)"
        assert 150 < max(opened.evaluate(sparks)) <= 180
