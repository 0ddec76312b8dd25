"""The ledger: what a restart reads is what was known, whenever the one before it ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    NoAnswerError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.tasks.ledger import Entry, Ledger, Recount, rows_entries
from airflow_provider_segstats.tasks.submission import Life

if TYPE_CHECKING:
    from collections.abc import Iterable

LIFE = Life(max_tries=2, clear_number=1)
SEGMENTS = [7, 8, 9]
LIMIT = 64 * 1024  # what Airflow's store takes without a warning, as it measures


class DiedError(Exception):
    """Stands for a kill: whatever was to come did not happen."""


class Store:
    """Keeps what it is given as JSON, as Airflow's does; dies at a set if told to."""

    def __init__(self, sets: int | None = None) -> None:
        self.values: dict[str, str] = {}
        self.sets_left = sets

    def get(self, key: str) -> Any:
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key: str, value: Any) -> None:
        if self.sets_left == 0:
            raise DiedError
        if self.sets_left:
            self.sets_left -= 1
        self.values[key] = json.dumps(value)

    @property
    def sizes(self) -> list[int]:
        return [len(value) for value in self.values.values()]


def state(ledger: Ledger) -> dict[str, Any]:
    """Return all that can be known of a ledger."""

    def of(recount: Recount) -> tuple[object, ...]:
        error = recount.error and recount.error.to_dict()
        return recount.in_doubt, recount.task_id, recount.since, recount.rows, error, recount.forgotten

    return {
        "recounts": {segment_id: of(recount) for segment_id, recount in ledger.recounts.items()},
        "stopped": ledger.stopped and ledger.stopped.to_dict(),
        "submits": ledger.submits,
        "fresh": ledger.fresh,
        "in_doubt": ledger.in_doubt,
        "open": ledger.open,
        "rows": ledger.rows,
    }


def read(store: Store | None, life: Life = LIFE, segments: Iterable[int] = SEGMENTS) -> Ledger:
    return Ledger(segments, store, life)


def row(channel: str = "email", size: int = 0) -> dict[str, Any]:
    return {"segment_id": 7, "channel": channel, "subscribed_sendable": 12, "updated": "x" * size}


def failed(segment_id: int, error: Any) -> Entry:
    return ["fail", segment_id, error.to_dict()]


ERRORS = [
    ApiError("API error 440", code=440, permanent=True),
    AmbiguousSubmitError("lost"),
    TaskFailedError("failed", status="failed"),
    WaitTimeoutError("not done"),
    NoAnswerError("№" * 2000),  # six bytes each, as JSON
]
ROWS = st.lists(st.builds(row, st.sampled_from(["email", "push", "№"]), st.integers(0, 20_000)), max_size=6)
IDS = st.sampled_from(SEGMENTS)
# All that may be recorded at once; rows of any size, so that pages end anywhere.
CHANGES: st.SearchStrategy[list[Entry]] = st.one_of(
    st.lists(st.tuples(st.sampled_from(["intend", "withdraw"]), IDS).map(list), max_size=3),
    st.tuples(st.just("submit"), IDS, st.text(max_size=8), st.floats(0, 1e10)).map(lambda of: [list(of)]),
    st.tuples(st.just("again"), IDS, st.booleans()).map(list).map(lambda entry: [entry]),
    st.lists(st.tuples(IDS, ROWS), max_size=3).map(
        lambda done: [entry for segment_id, rows in done for entry in rows_entries(segment_id, rows)]
    ),
    st.lists(st.tuples(IDS, st.sampled_from(ERRORS)).map(lambda of: failed(*of)), max_size=3),
    st.just([["try", None]]),
    st.just([["stop", None, ERRORS[0].to_dict()]]),
)


@given(st.lists(CHANGES, max_size=12))
def test_a_restart_after_any_change_knows_what_was_known(changes: list[list[Entry]]) -> None:
    store = Store()
    ledger, alone = read(store), read(None)
    for entries in changes:
        ledger.record(entries)
        alone.record(entries)
        assert state(read(store)) == state(ledger) == state(alone)
    # And one that goes on writing where another ended.
    store = Store()
    for entries in changes:
        read(store).record(entries)
    assert state(read(store)) == state(ledger)
    assert all(size < LIMIT for size in store.sizes)


@given(st.lists(CHANGES, max_size=8), st.integers(0, 12))
def test_a_restart_after_a_kill_knows_what_was_known_at_some_moment_before(
    changes: list[list[Entry]], sets: int
) -> None:
    store = Store(sets)
    ledger = read(store)
    kept, attempted = 0, 0  # entries
    try:
        for entries in changes:
            attempted += len(entries)
            ledger.record(entries)
            kept = attempted
    except DiedError:
        pass
    entries = [entry for recorded in changes for entry in recorded]

    def known(until: int) -> dict[str, Any]:
        ledger = read(None)
        ledger.record(entries[:until])
        return state(ledger)

    store.sets_left = None
    assert any(state(read(store)) == known(until) for until in range(kept, attempted + 1))


@pytest.mark.parametrize("sets", range(5))
def test_rows_that_were_written_in_part_are_written_again_and_stand_once(sets: int) -> None:
    rows = [row(str(number), 20_000) for number in range(10)]
    entries = [["submit", 7, "task_1", 1000.5], *rows_entries(7, rows)]
    assert len(entries) > 8
    store = Store(sets)
    with pytest.raises(DiedError):
        read(store).record(entries)
    store.sets_left = None
    ledger = read(store)
    if ledger.recounts[7].rows is None:
        assert ledger.open in ({}, {7: "task_1"})
        ledger.record(rows_entries(7, rows))
    assert read(store).rows == ledger.rows == rows


def test_rows_that_became_fewer_after_a_kill_leave_nothing_of_the_old_ones() -> None:
    store = Store(2)
    with pytest.raises(DiedError):
        read(store).record(rows_entries(7, [row("old", 29_000) for _ in range(9)]))
    store.sets_left = None
    assert len(read(store).recounts[7].parts) > 1
    read(store).record(rows_entries(7, [row("new")]))
    assert read(store).rows == [row("new")]


def test_thousands_of_small_changes_stay_in_pages_that_airflow_stores() -> None:
    store = Store()
    segments = range(1, 5001)
    ledger = read(store, segments=segments)
    for first in range(1, 5001, 50):
        group = range(first, first + 50)
        ledger.record(["intend", segment_id] for segment_id in group)
        ledger.record(["submit", segment_id, f"task_{segment_id}", 1000.5] for segment_id in group)
    assert all(size < LIMIT for size in store.sizes)
    assert all(size > LIMIT * 0.9 for size in store.sizes[:-1])  # each read and write is a request
    again = read(store, segments=segments)
    assert again.open == ledger.open == {segment_id: f"task_{segment_id}" for segment_id in segments}
    assert again.submits == 5000


def test_a_huge_segment_is_kept_in_pages_that_airflow_stores() -> None:
    store = Store()
    rows = [row(f"channel {number}", 100) for number in range(10_000)]
    read(store).record(rows_entries(7, rows))
    assert all(size < LIMIT for size in store.sizes)
    assert read(store).rows == rows


def test_a_single_row_larger_than_a_page_has_one_to_itself() -> None:
    store = Store()
    rows = [row("before"), row("large", 100_000), row("after")]
    read(store).record([["submit", 7, "task_1", 1000.5], *rows_entries(7, rows), ["intend", 8]])
    assert sorted(size > LIMIT for size in store.sizes) == [False] * (len(store.sizes) - 1) + [True]
    ledger = read(store)
    assert (ledger.rows, ledger.in_doubt) == (rows, [8])


@pytest.mark.parametrize("cleared", [Life(1, 1), Life(3, 1), Life(2, 0), Life(2, 2)])
def test_after_a_clear_nothing_is_known_also_of_pages_that_are_not_written_anew(cleared: Life) -> None:
    store = Store()
    read(store).record(
        entry
        for segment_id in SEGMENTS
        for entry in (["submit", segment_id, "old", 1000.5], *rows_entries(segment_id, [row(size=50_000)]))
    )
    assert len(store.values) == 3
    nothing = state(read(None))
    assert state(read(store, cleared)) == nothing
    read(store, cleared).record([["intend", 7]])
    ledger = read(store, cleared)
    assert (ledger.in_doubt, ledger.open, ledger.rows) == ([7], {}, [])
    # It grows into the older pages, one after the other.
    ledger.record(rows_entries(8, [row("new", 25_000) for _ in range(5)]))
    assert read(store, cleared).rows == ledger.rows == [row("new", 25_000)] * 5


def test_the_list_may_change_between_two_tries() -> None:
    store = Store()
    read(store).record([["submit", 7, "a", 1000.5], ["submit", 8, "b", 1000.5], *rows_entries(8, [row("b")])])
    ledger = read(store, segments=[10, 8])
    assert (ledger.fresh, ledger.open, ledger.rows) == ([10], {}, [row("b")])
    ledger.record([["submit", 10, "c", 1000.5], *rows_entries(7, [row("gone")])])
    assert ledger.rows == [row("b")]
    back = read(store, segments=[10, 7, 8])
    assert (back.fresh, back.open, back.rows) == ([], {10: "c"}, [row("gone"), row("b")])


def test_rows_come_in_the_order_of_the_list() -> None:
    ledger = read(None)
    for segment_id in (9, 7, 8):
        ledger.record(rows_entries(segment_id, [row(f"{segment_id} a"), row(f"{segment_id} b")]))
    channels = [one["channel"] for one in ledger.rows]
    assert channels == ["7 a", "7 b", "8 a", "8 b", "9 a", "9 b"]


def test_a_segment_without_rows_is_done() -> None:
    ledger = read(Store())
    ledger.record([["submit", 7, "a", 1000.5], *rows_entries(7, [])])
    assert ledger.recounts[7].rows == []
    assert (ledger.fresh, ledger.open) == ([8, 9], {})


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (ERRORS[0], "failed"),
        (ERRORS[1], "failed"),
        (ERRORS[2], "fresh"),  # its task would only fail again
        (ERRORS[3], "open"),
        (ERRORS[4], "open"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_new_try_starts_over_with_what_can_get_better(error: Any, after: str) -> None:
    store = Store()
    ledger = read(store)
    ledger.record([["submit", 7, "a", 1000.5], failed(7, error)])
    ledger.stop(NoAnswerError("the server is away"))
    ledger.begin_try()
    for known in (ledger, read(store)):
        assert known.stopped is None
        assert (7 in known.errors) == (after == "failed")
        assert (7 in known.fresh) == (after == "fresh")
        assert (7 in known.open) == (after == "open")


def test_what_a_later_release_records_is_left_out() -> None:
    store = Store()
    read(store).record([["submit", 7, "a", 1000.5], ["of_tomorrow", 7, {"x": 1}], ["withdraw", 8]])
    assert read(store).open == {7: "a"}


@pytest.mark.parametrize("value", ["text", 5, [], {}, {"max_tries": 2}, {"entries": [["intend", 7]]}])
def test_a_value_that_no_ledger_wrote_is_nothing(value: Any) -> None:
    store = Store()
    store.set("segstats_recounts_0", value)
    assert state(read(store)) == state(read(None))


def test_nothing_is_written_where_nothing_changed() -> None:
    store = Store()
    read(store).record([])
    assert store.values == {}


def test_a_page_is_this_json() -> None:
    # What one release stored, the next has to read: tests/upgrades has more of it.
    store = Store()
    entries = [["intend", 7], ["submit", 7, "task_1", 1000.5], *rows_entries(7, [{"channel": "email"}])]
    read(store).record(entries)
    assert store.values == {
        "segstats_recounts_0": (
            '{"max_tries": 2, "clear_number": 1, "entries": [["intend", 7], ["submit", 7, "task_1", 1000.5], '
            '["finish", 7, [{"channel": "email"}], 0]]}'
        )
    }
