"""scripts/demo from end to end, on a terminal of 80 columns, in a folder whose name a URI spells out."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.paths import ROOT
from support.terminal import on_terminal

pytestmark = pytest.mark.scripts

COLUMNS = 80
FELL = (9, "sms")


class Demo:
    """What the demo printed and left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(ROOT / "scripts" / "demo"), "--folder", str(folder)]
        status, self.printed = on_terminal(command, COLUMNS)
        assert status == 0, self.printed
        # A line that moves is erased before it is drawn again; what is left of it is what stays.
        self.drawn = re.split(r"\r\n|\r\x1b\[K", self.printed)
        self.lines = [line.rpartition("\r\x1b[K")[2] for line in self.printed.split("\r\n")]

    def linked(self, name: str) -> bytes:
        """Return what the link of that name opens."""
        [link] = [line.split()[1] for line in self.lines if line.startswith(f"{name} ")]
        assert link.startswith("file://")
        with urlopen(link) as file:  # noqa: S310 - as a terminal does when one clicks on it
            content: bytes = file.read()
        return content

    def history(self) -> dict[tuple[int, str], list[int]]:
        """Return the counts of each segment and channel in the demo's table, oldest first."""
        with closing(sqlite3.connect(self.folder / "history.db")) as database:
            rows = database.execute(
                "SELECT segment_id, channel, counters FROM segment_counters ORDER BY updated"
            ).fetchall()
        counts: dict[tuple[int, str], list[int]] = {}
        for segment_id, channel, counters in rows:
            counts.setdefault((segment_id, channel), []).append(json.loads(counters)["subscribed_sendable"])
        return counts

    def table(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Return count and change of each segment and channel as the demo showed them."""
        start = next(number for number, line in enumerate(self.lines) if line.startswith("segment "))
        channels = self.lines[start].replace("change", "").split()[1:]
        shown = {}
        for line in self.lines[start + 1 : self.lines.index("", start)]:
            number, _, counts = line.partition("(")[2].partition(")")
            segment_id, *cells = (int(cell.replace(",", "")) for cell in [number, *counts.split()])
            for channel, *count in zip(channels, cells[::2], cells[1::2], strict=True):
                shown[segment_id, channel] = (count[0], count[1])
        return shown


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo") / "my pr\u00fcjects" / ".demo")


def test_the_table_shows_each_count_and_its_change_since_the_night_before(demo: Demo) -> None:
    assert demo.table() == {
        key: (counts[-1], counts[-1] - counts[-2]) for key, counts in demo.history().items()
    }


def test_the_nights_are_of_what_the_tag_selects_and_show_names(demo: Demo) -> None:
    assert {segment_id for segment_id, _ in demo.table()} == set(range(7, 19))  # 19 has another tag
    page = demo.linked("html").decode()
    for name in ("Readers", "Loyalty club", "Fair 2025"):
        assert [line for line in demo.lines if line.startswith(f"{name} (")]
        assert name in page


def test_a_sentence_says_how_much_was_counted_and_found(demo: Demo) -> None:
    assert [line for line in demo.lines if line.endswith("12 segments counted, 36 counts, 1 finding")]


def test_the_injected_fall_is_what_the_check_found_and_the_page_says_so(demo: Demo) -> None:
    count, change = demo.table()[FELL]
    assert count < -change
    [finding] = [line for line in demo.lines if line.startswith("1 finding ")]
    assert "Loyalty club (9)" in finding
    assert "sms" in finding


def test_the_links_open_the_reports_files_which_lie_in_the_demos_folder(demo: Demo) -> None:
    assert demo.linked("html").startswith(b"<!DOCTYPE html>")
    assert demo.linked("csv").count(b"\n") == 1 + 36
    assert demo.linked("parquet").startswith(b"PAR1")
    assert demo.linked("history").startswith(b"SQLite format 3")
    assert [path.name for path in demo.folder.parent.iterdir()] == [demo.folder.name]


def test_every_line_that_moves_fits_the_terminal_and_shows_its_last_word(demo: Demo) -> None:
    moving = [line for line in demo.drawn if re.match(r" *\d+ s  ", line)]
    assert max(map(len, moving)) < COLUMNS
    assert [line for line in moving if line.endswith("\u2026") and " \u2026" not in line] == []


def test_one_clock_runs_from_the_start_to_the_end(demo: Demo) -> None:
    clock = [int(found[1]) for line in demo.drawn if (found := re.match(r" *(\d+) s  ", line))]
    assert clock == sorted(clock)


def test_a_bar_goes_over_the_nights_the_starts_steps_and_the_tasks(demo: Demo) -> None:
    bars = [
        found.groups() for line in demo.drawn if (found := re.search(r"\[[#-]+\] \d+ of (\d+) (\w+)", line))
    ]
    assert {("30", "nights"), ("4", "Airflow"), ("4", "tonight"), ("4", "report")} <= set(bars)
