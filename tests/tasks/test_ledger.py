"""The ledger: what a worker reads is what was known, whenever the one before it ended."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    NoAnswerError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.flows import Submitted
from airflow_provider_segstats.tasks.ledger import HEAD, HEAD_SIZE, PAGE_SIZE, Ledger, Recount
from airflow_provider_segstats.tasks.store import Life

if TYPE_CHECKING:
    from collections.abc import Iterable

LIFE = Life(max_tries=2, clear_number=1)
SEGMENTS = [7, 8, 9]
LIMIT = 64 * 1024  # what Airflow's store takes without a warning, as it measures
HERE, THERE = "https://here.example/api/v1.1", "https://there.example/api/v1.1"


class DiedError(Exception):
    """Stands for a kill: whatever was to come did not happen."""


class Store:
    """Keeps what it is given as JSON, as Airflow's does; dies at a set if told to."""

    def __init__(self, sets: int | None = None) -> None:
        self.values: dict[str, str] = {}
        self.sets_left = sets
        self.gets = 0

    def get(self, key: str) -> Any:
        self.gets += 1
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

    @property
    def head(self) -> dict[str, Any]:
        return json.loads(self.values[HEAD])  # type: ignore[no-any-return]


def retried(store: Store | None, life: Life = LIFE, segments: Iterable[int] = SEGMENTS) -> Ledger:
    """Return the ledger of a new try."""
    return Ledger(segments, store, life)


def resumed(store: Store | None, life: Life = LIFE, segments: Iterable[int] = SEGMENTS) -> Ledger:
    """Return the ledger of a try that goes on after a deferral."""
    return Ledger(segments, store, life, resumed=True)


def fresh(ledger: Ledger) -> list[int]:
    """Return what is still to be submitted, in order; it is in doubt afterwards."""
    return ledger.take(ledger.fresh)


def state(ledger: Ledger) -> dict[str, Any]:
    """Return all that can be known of a ledger, which is of no use afterwards."""
    ended = ledger.ended()
    in_doubt = list(ledger.in_doubt)
    return {
        "fresh": fresh(ledger),
        "in_doubt": in_doubt,
        "open": ledger.open,
        "stopped": ledger.stopped and ledger.stopped.to_dict(),
        "submits": ledger.submits,
        "rows": ended.rows,
        "errors": {segment_id: error.to_dict() for segment_id, error in ended.errors.items()},
        "repeated": ended.repeated,
        "forgotten": ended.forgotten,
    }


def submit(ledger: Ledger, *segment_ids: int, base_url: str = HERE, repeated: bool = False) -> None:
    """Have segments accepted, the next that there are."""
    assert ledger.take(len(segment_ids)) == list(segment_ids)
    for segment_id in segment_ids:
        ledger.submitted(segment_id, Submitted(f"task_{segment_id}", base_url, repeated), 1000.5)


def row(channel: str = "email", size: int = 0) -> dict[str, Any]:
    return {"segment_id": 7, "channel": channel, "subscribed_sendable": 12, "updated": "x" * size}


ERRORS: list[SegStatsError] = [
    ApiError("API error 440", code=440, permanent=True),
    AmbiguousSubmitError("lost"),
    TaskFailedError("failed", status="failed"),
    WaitTimeoutError("not done"),
    NoAnswerError("№" * 2000),  # six bytes each, as JSON
]
ROWS = st.lists(st.builds(row, st.sampled_from(["email", "push", "№"]), st.integers(0, 20_000)), max_size=6)
ERROR = st.sampled_from(ERRORS)
MANY = list(range(1, 13))
# What a worker may do, in any order; each is about the so-manieth segment that it can be about.
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("submitted"), st.integers(0, 3), st.booleans(), st.sampled_from([HERE, THERE])),
        st.tuples(st.sampled_from(["withdraw", "repeat"]), st.integers(0, 3)),
        st.tuples(st.just("doubt"), st.integers(0, 3), ERROR),
        st.tuples(st.just("fail"), st.integers(0, 3), ERROR),
        st.tuples(st.just("finish"), st.integers(0, 3), ROWS),
        st.tuples(st.just("renew"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("stop"), ERROR),
    ),
    max_size=25,
)


def change(ledger: Ledger, name: str, number: Any, *said: Any) -> None:
    """Make a change, if there is a segment that it can be about."""
    if name == "take":
        ledger.take(number)
        return
    if name == "stop":
        ledger.stop(number)
        return
    of = [*(ledger.in_doubt if name in {"submitted", "withdraw", "repeat", "doubt"} else ledger.open)]
    if number >= len(of):
        return
    segment_id = of[number]
    if name == "submitted":
        repeated, base_url = said
        ledger.submitted(segment_id, Submitted(f"task {segment_id}", base_url, repeated), 1000.5)
    elif name in {"doubt", "fail"}:
        ledger.fail(segment_id, said[0])
    elif name == "finish":
        ledger.finish(segment_id, said[0])
    elif name == "renew":
        ledger.renew(segment_id, forgotten=said[0])
    else:
        getattr(ledger, name)(segment_id)


def made(changes: Iterable[tuple[Any, ...]], store: Store | None = None) -> Ledger:
    ledger = retried(store, segments=MANY)
    for one in changes:
        change(ledger, *one)
    return ledger


@given(CHANGES, CHANGES)
def test_a_worker_after_a_deferral_knows_what_was_known(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    store = Store()
    ledger = made(before, store)
    ledger.set_aside()
    assert state(resumed(store, segments=MANY)) == state(made(before))
    assert all(size < LIMIT for size in store.sizes)
    # And one that writes on where another ended, and is deferred again.
    ledger = resumed(store, segments=MANY)
    alone = made(before)
    for one in after:
        change(ledger, *one)
        change(alone, *one)
    ledger.set_aside()
    assert state(resumed(store, segments=MANY)) == state(alone)


@given(CHANGES)
def test_the_next_try_knows_all_but_what_can_get_better(
    changes: list[tuple[Any, ...]],
) -> None:
    store = Store()
    made(changes, store).write()
    ledger, before = retried(store, segments=MANY), state(made(changes))
    ended = ledger.ended()
    assert list(ledger.in_doubt) == before["in_doubt"]
    assert (ended.rows, ended.repeated, ledger.forgotten) == (
        before["rows"],
        before["repeated"],
        before["forgotten"],
    )
    assert {number: error.to_dict() for number, error in ended.errors.items()} == {
        number: told for number, told in before["errors"].items() if told.get("permanent")
    }
    assert before["open"].items() <= ledger.open.items()
    assert ledger.stopped is None
    known = [*ended.rows, *ended.errors, *ledger.in_doubt, *ledger.open, *fresh(ledger)]
    assert sorted(known) == MANY


class Server:
    """Accepts submits; a worker sends them as the batch does, and may be killed at any write."""

    def __init__(self) -> None:
        self.accepted: Counter[int] = Counter()

    def night(self, ledger: Ledger) -> None:
        while leaving := ledger.take(3):
            ledger.write()
            self.accepted.update(leaving)
            for segment_id in leaving:
                task_id = f"task {segment_id}, {self.accepted[segment_id]}"
                ledger.submitted(segment_id, Submitted(task_id, HERE), 1000.5)
            if len(ledger.open) > 4:
                ledger.set_aside()
                for segment_id in [*ledger.open][:2]:
                    ledger.finish(segment_id, [row(size=20_000)] * 4)
        ledger.write()


@given(st.integers(0, 60), st.integers(0, 60))
def test_wherever_a_kill_comes_no_id_is_lost_and_what_was_sent_is_in_doubt(first: int, second: int) -> None:
    server, store = Server(), Store()
    doubts: Counter[int] = Counter()
    for sets in (first, second, None):
        store.sets_left = sets
        try:
            ledger = retried(store, segments=MANY)
            doubts.update(ledger.in_doubt.keys())
            for segment_id in [*ledger.in_doubt]:
                ledger.repeat(segment_id)
            ledger.write()
            server.night(ledger)
        except DiedError:
            pass
    ledger = retried(store, segments=MANY)
    ended = ledger.ended()
    assert sorted([*ended.rows, *ledger.open]) == MANY
    assert all(len(rows) == 4 for rows in ended.rows.values())
    assert server.accepted == Counter(MANY) + (server.accepted - Counter(MANY))
    again = {segment_id for segment_id, times in server.accepted.items() if times > 1}
    assert again <= doubts.keys()
    assert ended.repeated == doubts.keys()


def test_a_night_of_deferrals_reads_no_more_at_its_end_than_at_its_beginning() -> None:
    store, segments = Store(), range(1, 10_001)
    ledger = retried(store, segments=segments)
    reads = []
    while ledger.fresh or ledger.open:
        for segment_id in ledger.take(200 - len(ledger.open)):
            ledger.submitted(segment_id, Submitted(f"{segment_id:036}", HERE), 1000.5)
        ledger.set_aside()
        before = store.gets
        ledger = resumed(store, segments=segments)
        reads.append(store.gets - before)
        for segment_id in [*ledger.open][:100]:
            ledger.finish(segment_id, [row()] * 3)
    assert len(reads) > 90
    assert max(reads) <= 8
    assert all(size < LIMIT for size in store.sizes)
    ended = ledger.ended()
    assert list(ended.rows) == list(segments)
    assert ledger.submits == 10_000


def test_before_requests_leave_only_little_is_written() -> None:
    store, segments = Store(), range(1, 2001)
    ledger = retried(store, segments=segments)
    largest = 0
    while leaving := ledger.take(8):
        ledger.write()
        largest = max(largest, len(store.values[HEAD]))
        for segment_id in leaving:
            ledger.submitted(segment_id, Submitted(f"{segment_id:036}", HERE), 1000.5)
    assert largest < HEAD_SIZE + 1000


def test_a_huge_segment_is_kept_in_pages_that_airflow_stores() -> None:
    store = Store()
    rows = [row(f"channel {number}", 100) for number in range(10_000)]
    ledger = retried(store)
    submit(ledger, 7)
    ledger.finish(7, rows)
    ledger.write()
    assert all(size < LIMIT for size in store.sizes)
    assert retried(store).ended().rows == {7: rows}


def test_a_single_row_larger_than_a_page_has_one_to_itself() -> None:
    store = Store()
    rows = [row("before"), row("large", PAGE_SIZE + 1), row("after")]
    ledger = retried(store)
    submit(ledger, 7)
    ledger.finish(7, rows)
    ledger.write()
    assert sorted(size > PAGE_SIZE for size in store.sizes) == [False] * (len(store.sizes) - 1) + [True]
    assert retried(store).ended().rows == {7: rows}


@pytest.mark.parametrize("cleared", [Life(1, 1), Life(3, 1), Life(2, 0), Life(2, 2)])
def test_after_a_clear_nothing_is_known_also_of_pages_that_are_not_written_anew(cleared: Life) -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7, 8)
    ledger.finish(7, [row("old", 50_000)] * 3)
    ledger.write()
    assert state(retried(store, cleared)) == state(retried(None))
    ledger = retried(store, cleared)
    submit(ledger, 7)
    ledger.finish(7, [row("new")])
    ledger.write()
    ledger = retried(store, cleared)
    assert (ledger.ended().rows, ledger.open, ledger.submits) == ({7: [row("new")]}, {}, 1)


def test_a_clear_of_another_task_amid_a_deferral_does_not_make_this_try_submit_afresh() -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7)
    ledger.set_aside()
    ledger = resumed(store, Life(2, 2))
    assert (list(ledger.open), fresh(ledger)) == ([7], [8, 9])


def test_where_all_is_gone_after_a_deferral_nothing_is_submitted_and_the_reason_said() -> None:
    ledger = resumed(Store())
    assert fresh(ledger) == []
    assert ledger.stopped
    assert str(ledger.stopped).endswith("is gone from Airflow's task_state_store")


def test_the_list_may_change_between_two_tries() -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7, 8)
    ledger.finish(8, [row("b")])
    ledger.write()
    ledger = retried(store, segments=[10, 8])
    assert (ledger.open, ledger.ended().rows) == ({}, {8: [row("b")]})
    submit(ledger, 10)
    ledger.set_aside()
    assert list(resumed(store, segments=[10, 8]).open) == [10]
    back = retried(store, segments=[10, 7, 8, 9])
    assert (fresh(back), sorted(back.open)) == ([9], [7, 10])


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
def test_a_new_try_starts_over_with_what_can_get_better(error: SegStatsError, after: str) -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7)
    ledger.fail(7, error)
    ledger.stop(NoAnswerError("the server is away"))
    ledger.write()
    for _ in range(2):  # also one that ended before it did anything
        ledger = retried(store)
        ledger.write()
        assert ledger.stopped is None
        assert (7 in ledger.ended().errors) == (after == "failed")
        assert (7 in ledger.open) == (after == "open")
    assert (7 in fresh(ledger)) == (after == "fresh")


def test_an_alarm_amid_a_change_loses_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def ring(*_: object) -> None:
        raise DiedError

    store = Store()
    ledger = retried(store)
    submit(ledger, 7)
    with monkeypatch.context() as alarm:
        alarm.setattr(ledger, "_close", ring)
        with pytest.raises(DiedError):
            ledger.finish(7, [row()])
    ledger.fail(7, WaitTimeoutError("not done"))  # as the batch gives up
    ledger.write()
    ledger = retried(store)
    ended = ledger.ended()
    assert (ended.rows, ended.errors, ledger.open) == ({7: [row()]}, {}, {})


def test_each_task_keeps_the_server_that_knows_it() -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7)
    submit(ledger, 8, base_url=THERE)
    submit(ledger, 9)
    ledger.fail(9, NoAnswerError("away"))
    ledger.write()
    servers = {segment_id: recount.base_url for segment_id, recount in retried(store).open.items()}
    assert servers == {7: HERE, 8: THERE, 9: HERE}


def test_what_a_later_release_tells_of_an_end_is_left_out() -> None:
    store = Store()
    ledger = retried(store)
    submit(ledger, 7)
    ledger._ended.append(["of_tomorrow", 7, {"x": 1}])
    ledger.write()
    assert list(retried(store).open) == [7]


@pytest.mark.parametrize("value", ["text", 5, [], {}, {"max_tries": 2}, {"life": [2, 2]}])
def test_a_value_that_no_ledger_wrote_is_nothing(value: Any) -> None:
    store = Store()
    store.set(HEAD, value)
    assert state(retried(store)) == state(retried(None))


def test_nothing_is_written_where_nothing_changed() -> None:
    store = Store()
    ledger = retried(store)
    ledger.write()
    assert store.values == {}
    submit(ledger, 7)
    ledger.write()
    store.sets_left = 0
    ledger.write()


def test_what_is_stored_is_this_json() -> None:
    # What one release stored, the next has to read: tests/upgrades has more of it.
    store = Store()
    ledger = retried(store)
    submit(ledger, 7, repeated=True)
    ledger.finish(7, [{"channel": "email"}])
    ledger.take(1)
    ledger.set_aside()
    assert {key: json.loads(value) for key, value in store.values.items()} == {
        "segstats_recounts": {
            "life": [2, 1],
            "in_doubt": [8],
            "entries": [],
            "open": [0, 0],
            "ended": 1,
            "queue": [1, 1],
            "submits": 1,
            "failed": [0, 0],
            "base_urls": [HERE],
            "stopped": None,
        },
        "segstats_recounts_ended_0": [["repeated", 7], ["rows", 7, [{"channel": "email"}]]],
        "segstats_recounts_queue_0": [9],
    }
    submit(ledger, 9)
    ledger.write()
    assert store.head["entries"] == [[9, "task_9", 1000.5, 0]]
    assert ledger.open == {9: Recount("task_9", 1000.5, HERE)}
