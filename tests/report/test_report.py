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
from airflow_provider_segstats.history import Observation
from airflow_provider_segstats.report import write_report
from airflow_provider_segstats.report.figures import Figures, Segment, figures_of
from airflow_provider_segstats.report.files import as_csv, as_parquet, table
from airflow_provider_segstats.report.page import age, messages, page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TONIGHT = datetime(2026, 11, 24, 3, 0, tzinfo=timezone.utc)
NOW = TONIGHT + timedelta(minutes=10)


def seen(
    nights_ago: float, count: int | None, channel: str = "email", segment_id: int = 7, **changes: Any
) -> Observation:
    fields: dict[str, Any] = {"source": "acme", "list_id": 1, "resource_id": 24, **changes}
    updated = TONIGHT - timedelta(days=nights_ago)
    return Observation(
        segment_id=segment_id,
        channel=channel,
        updated=updated,
        night=updated.date(),
        counters={"subscribed_sendable": count},
        **fields,
    )


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


def only(figures: Figures) -> Segment:
    [segment] = figures.segments
    return segment


# Figures


def test_a_trend_has_a_count_for_each_day_up_to_the_last_one() -> None:
    figures = figures_of([seen(2, 10), seen(1, 11), seen(0, 12)], now=NOW)
    assert [day.day for day in figures.days] == [22, 23, 24]
    assert list(figures.total.counted) == [10, 11, 12]


def test_of_several_counts_of_a_day_the_last_is_taken() -> None:
    figures = figures_of([seen(0, 12), seen(0.1, 5), seen(1, 11), seen(0.05, 6)], now=NOW)
    assert list(figures.total.counted) == [11, 12]


def test_the_days_are_limited_to_the_newest() -> None:
    figures = figures_of([seen(ago, ago) for ago in range(50)], now=NOW, days=30)
    assert (len(figures.days), figures.total.counted[0]) == (30, 29)


def test_a_weeks_change_is_against_the_count_seven_nights_before() -> None:
    figures = figures_of([seen(8, 1), seen(7, 100), seen(6, 3), seen(0, 125)], now=NOW)
    assert (figures.total.change, figures.total.growth) == (25, 0.25)


def test_a_week_before_without_a_count_is_the_count_before_it() -> None:
    figures = figures_of([seen(9, 100), seen(6, 1), seen(0, 125)], now=NOW)
    assert figures.total.change == 25


def test_growth_from_nothing_has_no_per_cent() -> None:
    figures = figures_of([seen(7, 0), seen(0, 5)], now=NOW)
    assert (figures.total.change, figures.total.growth) == (5, None)


def test_a_history_of_less_than_eight_days_has_no_weeks_change_and_says_so() -> None:
    figures = figures_of([seen(6, 1), seen(0, 2)], now=NOW)
    assert figures.total.change is None
    assert ("note", "A week's change needs 8 days of history; there are 7.") in messages(figures)


def test_a_night_without_a_count_is_a_gap_in_a_trend_and_no_fall_in_a_sum() -> None:
    night = [seen(ago, 10, segment_id=7) for ago in (2, 1, 0)] + [
        seen(ago, 5, segment_id=8) for ago in (2, 0)
    ]
    figures = figures_of(night, now=NOW)
    assert [list(segment.trend.counted) for segment in figures.segments] == [[10, 10, 10], [5, None, 5]]
    assert list(figures.total.counted) == [15, 15, 15]


def test_a_night_in_which_nothing_was_counted_is_a_gap_in_the_sum_too() -> None:
    figures = figures_of([seen(2, 10), seen(0, 12)], now=NOW)
    assert list(figures.total.counted) == [10, None, 12]


def test_a_gap_of_more_than_seven_nights_is_not_bridged() -> None:
    nights = [seen(ago, 10, segment_id=7) for ago in range(12)] + [
        seen(11, 5, segment_id=8),
        seen(0, 5, segment_id=8),
    ]
    figures = figures_of(nights, now=NOW)
    assert list(figures.total.counted) == [*[15] * 8, *[10] * 3, 15]


def test_a_segment_without_a_count_tonight_is_missing_and_has_no_change() -> None:
    nights = [seen(ago, 10, segment_id=segment_id) for ago in (8, 7, 1) for segment_id in (7, 8)]
    figures = figures_of([*nights, seen(0, 11, segment_id=7)], now=NOW)
    assert [(segment.state, segment.trend.change) for segment in figures.segments] == [
        ("counted", 1),
        ("missing", None),
    ]
    assert (figures.total.now, figures.total.change) == (21, 1)
    assert messages(figures)[0] == ("warning", "Not counted in the last night: segment 8.")


def test_a_segment_missing_for_more_than_seven_nights_leaves_the_sum_with_a_note() -> None:
    figures = figures_of([seen(8, 5, segment_id=8), seen(0, 10)], now=NOW)
    assert [segment.state for segment in figures.segments] == ["counted", "gone"]
    assert figures.total.now == 10
    assert ("note", "Not counted for over 7 nights, and so not in the totals: segment 8.") in messages(
        figures
    )


def test_a_night_that_passes_midnight_is_one_night() -> None:
    midnight = TONIGHT - timedelta(hours=3)
    late = replace(seen(0, 5, segment_id=8), updated=midnight - timedelta(minutes=1))
    figures = figures_of([seen(1, 10), replace(seen(0, 11), updated=midnight), late], now=NOW)
    assert [segment.state for segment in figures.segments] == ["counted", "counted"]
    assert figures.total.now == 16


def test_when_nothing_was_counted_for_36_hours_all_is_missing() -> None:
    figures = figures_of([seen(1, 10), seen(8, 9)], now=NOW + timedelta(hours=12))
    assert (only(figures).state, figures.total.change) == ("missing", None)
    assert messages(figures)[0] == (
        "warning",
        "Nothing was counted in the last night: the newest count is 1 d 12 h old.",
    )


def test_a_source_that_is_counted_at_another_hour_is_not_missing() -> None:
    figures = figures_of([seen(0, 1), seen(0.6, 2, source="other")], now=NOW)
    assert [segment.state for segment in figures.segments] == ["counted", "counted"]


def test_equal_ids_of_two_sources_are_two_segments_and_told_apart() -> None:
    figures = figures_of(
        [seen(0, 1), seen(0, 2, source="other"), seen(2, 2, "other", 8, source="other")], now=NOW
    )
    assert [(segment.source, segment.segment_id) for segment in figures.segments] == [
        ("acme", 7),
        ("other", 7),
        ("other", 8),
    ]
    assert messages(figures)[0][1] == "Not counted in the last night: segment 8 of other."


def test_a_channel_that_is_no_longer_there_has_vanished_and_is_not_bridged() -> None:
    nights = [seen(ago, 10) for ago in range(3)] + [seen(2, 4, "sms"), seen(1, 4, "sms")]
    figures = figures_of(nights, now=NOW)
    assert list(figures.channels["sms"].known) == [4, 4, None]
    assert (figures.total.now, figures.channels["sms"].now) == (10, None)
    assert [(line.last.channel, line.state) for line in only(figures).lines] == [
        ("email", "counted"),
        ("sms", "vanished"),
    ]
    assert messages(figures)[0] == ("warning", "The channel sms has vanished from segment 7.")


def test_a_new_channel_and_a_new_segment_are_noted() -> None:
    nights = [seen(ago, 10) for ago in range(9)]
    figures = figures_of(
        [*nights, seen(0, 4, "sms"), seen(1, 1, segment_id=8), seen(0, 1, segment_id=8)], now=NOW
    )
    assert messages(figures) == [
        ("fine", "Every segment was counted in the last night."),
        ("note", "New in the last week: segment 8."),
        ("note", "The channel sms is new in segment 7."),
    ]


def test_a_channel_without_a_number_keeps_its_last_one_and_is_missing() -> None:
    nights = [seen(1, 4, "sms"), seen(0, None, "sms"), seen(1, 10), seen(0, 10)]
    figures = figures_of(nights, now=NOW)
    [_, sms] = only(figures).lines
    assert (sms.state, sms.trend.now, list(sms.trend.counted)) == ("missing", 4, [4, None])


def test_a_channel_that_never_had_a_number_counts_as_nothing() -> None:
    figures = figures_of([seen(0, None, "sms"), seen(0, 10)], now=NOW)
    assert (figures.channels["sms"].now, figures.total.now) == (None, 10)


def test_lists_of_a_segment_are_lines_of_their_own_and_add_up() -> None:
    figures = figures_of([seen(0, 10, list_id=1), seen(0, 5, list_id=2), seen(0, 1, list_id=None)], now=NOW)
    segment = only(figures)
    assert [(line.last.list_id, line.trend.now) for line in segment.lines] == [(1, 10), (2, 5), (None, 1)]
    assert (segment.several_lists, segment.trend.now) == (True, 16)


def test_segments_that_failed_and_were_never_counted_are_named() -> None:
    figures = figures_of([seen(0, 10)], now=NOW, failed=[9, 7])
    assert ("warning", "Failed, and never counted before: 9.") in messages(figures)


def test_what_a_wrong_clock_dated_into_the_future_is_left_out() -> None:
    figures = figures_of([seen(0, 10), seen(-400, 99)], now=NOW)
    assert list(figures.total.counted) == [10]


def test_movers_are_those_with_the_largest_changes_first() -> None:
    nights = [seen(7, 100, segment_id=segment_id) for segment_id in range(1, 6)]
    counts = {1: 100, 2: 130, 3: 60, 4: 110, 5: 90}
    figures = figures_of([*nights, *(seen(0, count, segment_id=of) for of, count in counts.items())], now=NOW)
    up, down = figures.movers(10)
    assert [segment.segment_id for segment in up] == [2, 4]
    assert [segment.segment_id for segment in down] == [3, 5]


def test_many_missing_segments_are_counted_not_all_named() -> None:
    nights = [seen(1, 1, segment_id=of) for of in range(1, 101)]
    [(_, text), *_] = messages(figures_of([*nights, seen(0, 1, segment_id=1)], now=NOW))
    assert text.endswith("20, 21 and 79 more.")


@pytest.mark.parametrize(
    ("observations", "counter", "message"),
    [
        ([], "subscribed_sendable", "there is nothing to report: the history has no observations yet"),
        ([seen(0, 1)], "all", "no observation has the counter 'all'; there are subscribed_sendable"),
    ],
)
def test_a_report_of_nothing_is_refused(observations: list[Observation], counter: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        figures_of(observations, now=NOW, counter=counter)
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
    return table(figures_of([seen(7, 8, CHANNEL), seen(0, 10, CHANNEL), big], now=NOW))


def test_the_csv_has_each_channels_last_figures(columns: Any) -> None:
    assert list(csv.DictReader(io.StringIO(as_csv(columns).decode()))) == [
        {
            "source": "acme",
            "segment_id": "7",
            "list_id": "1",
            "resource_id": "24",
            "channel": "'=1+1",
            "updated": "2026-11-24T03:00:00+00:00",
            "subscribed_sendable": "10",
            "unconfirmed": "",
            "week_before": "8",
            "change": "2",
            "growth": "0.25",
            "share": "0.5",
            "age_hours": "0.17",
            "state": "counted",
        },
        {
            "source": "acme",
            "segment_id": "7",
            "list_id": "1",
            "resource_id": "24",
            "channel": "sms",
            "updated": "2026-11-24T03:00:00+00:00",
            "subscribed_sendable": "10",
            "unconfirmed": "9999999999999999999",
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
        "segment_id": "int64",
        "list_id": "int64",
        "resource_id": "int64",
        "channel": "string",
        "updated": "timestamp[us, tz=UTC]",
        "subscribed_sendable": "int64",
        "unconfirmed": "decimal128(20, 0)",
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
    places = write_report(history(1), folder, "night", now=NOW)
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
        write_report(history(3), tmp_path / name, "night", now=NOW)
    for kind in ("csv", "html", "parquet"):
        assert (tmp_path / "one" / f"night.{kind}").read_bytes() == (
            tmp_path / "two" / f"night.{kind}"
        ).read_bytes()


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
from airflow_provider_segstats.report import write_report
try:
    write_report([], None, "night", now=None)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a report needs matplotlib: pip install 'airflow-provider-segstats[report]'\n"


def test_neither_library_is_imported_before_a_report_is_written() -> None:
    code = """
import sys, airflow_provider_segstats.report.page, airflow_provider_segstats.report.files
print({"matplotlib", "pyarrow", "jinja2"} & set(sys.modules))
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
    assert len(page(figures_of(history(1000), now=NOW), {}).encode()) < 3_000_000


@pytest.mark.parametrize(("segments", "rows"), [(3000, 6000), (3001, 3001), (6001, 6000)])
def test_the_table_is_bounded_and_says_what_it_leaves_to_the_files(segments: int, rows: int) -> None:
    text = page(figures_of(history(segments, 1, ["email"]), now=NOW), {})
    table = text[text.index('<table id="segments">') :]
    assert table[: table.index("</table>")].count("<tr>") == rows + 1
    assert ("in the files only" in text) == (rows < 2 * segments)


def test_channels_beyond_the_eighth_share_a_colour() -> None:
    figures = figures_of([seen(0, 100 - at, f"channel{at}") for at in range(30)], now=NOW)
    [bar] = re.findall(r'<p class="bar" aria-hidden="true">(.*?)</p>', page(figures, {}))
    sizes = re.findall(r'<i class="c(\d)" style="flex:(\d+)"></i>', bar)
    assert sizes == [*((str(at), str(101 - at)) for at in range(1, 9)), ("9", str(sum(range(71, 93))))]


def test_the_ids_of_a_page_are_unique() -> None:
    ids = [
        attrs["id"]
        for _, attrs in Reader(page(figures_of(history(12), now=NOW), {})).elements
        if "id" in attrs
    ]
    assert len(ids) == len(set(ids)) > 12


@pytest.mark.parametrize("segments", [1, 3, 40])
def test_every_chart_has_a_text_in_its_place(segments: int) -> None:
    elements = Reader(page(figures_of(history(segments), now=NOW), {})).elements
    charts = [attrs for tag, attrs in elements if tag == "svg" and "viewbox" in attrs]
    sparks = [attrs for tag, attrs in elements if tag == "svg" and "viewbox" not in attrs]
    assert {chart["aria-hidden"] for chart in charts} == {"true"}
    assert len([tag for tag, _ in elements if tag == "figcaption"]) == len(charts) >= 5
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
        write_report(observations, folder, "night", now=NOW, **options)
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
        assert "1,250 -7 (-0.6%) in 7 days" in text
        assert "email 80.0% sms 20.0%" in text
        assert "Every segment was counted in the last night." in text
        rows = opened.evaluate(
            """[...document.querySelectorAll("#segments tbody tr")].map(
                row => [...row.cells].map(cell => cell.innerText.replace("\N{MINUS SIGN}", "-"))
            )"""
        )
        assert rows == [
            ["7", "all", "", "1,250", "-7", "-0.6%", "", "10 min"],
            ["", "email", "", "1,000", "-7", "-0.7%", "80.0%", "10 min"],
            ["", "sms", "", "250", "±0", "±0.0%", "20.0%", "10 min"],
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


def test_in_chromium_a_thousand_segments_can_be_sorted_found_and_opened(open_page: Any) -> None:
    with open_page(history(1000)) as opened:
        assert opened.complaints == []
        assert opened.evaluate("document.querySelectorAll('#segments tbody').length") == 1000
        visible = (
            "[...document.querySelectorAll('#segments tbody tr')].filter(row => row.offsetHeight).length"
        )
        assert opened.evaluate(visible) == 1000
        opened.evaluate("document.querySelector('#segments tbody').click()")
        assert opened.evaluate(visible) == 1003
        opened.evaluate("document.querySelector('#open').click()")
        assert opened.evaluate(visible) == 4000
        opened.evaluate("document.querySelectorAll('#segments thead button')[1].click()")
        counts = [int(text.replace(",", "")) for text in opened.evaluate(COLUMN.format(3))]
        assert counts == sorted(counts, reverse=True)
        opened.evaluate(
            "const field = document.querySelector('#find input'); field.value = '77';"
            "field.dispatchEvent(new Event('input'))"
        )
        found = opened.evaluate(COLUMN.format(0))
        assert sorted(map(int, found)) == sorted(number for number in range(1, 1001) if "77" in str(number))


def test_in_chromium_a_phone_scrolls_the_table_not_the_page(open_page: Any) -> None:
    with open_page(history(3), days=30) as opened:
        opened.resize(400, 800)
        root = "document.documentElement"
        assert opened.evaluate(f"{root}.scrollWidth <= {root}.clientWidth && {root}.clientWidth <= 400")
