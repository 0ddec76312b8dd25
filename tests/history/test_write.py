"""A load: what is written is there once, whole or not at all, and what stands beside it is right."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import date, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from support.databases import databases
from support.observations import LONG_AGO, TABLE, at, seen

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import Observation, Outcome, last_of_each_night

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.sql.hooks.sql import DbApiHook


def written(hook: DbApiHook, *observations: Observation) -> tuple[int, int]:
    counts = history.write(hook, TABLE, observations)
    return counts["inserted"], counts["already_there"]


def asked(hook: DbApiHook, query: str) -> list[tuple[Any, ...]]:
    """Return what the database says, dates and times as text."""
    return [
        tuple(str(value) if isinstance(value, date) else value for value in record)
        for record in hook.get_records(query)
    ]


def count(hook: DbApiHook, table: str = TABLE) -> int:
    [(number,)] = asked(hook, f"SELECT COUNT(*) FROM {table}")  # noqa: S608
    return int(number)


def test_an_observation_is_read_back_as_it_was_written(hook: DbApiHook) -> None:
    observations = [
        seen(),
        seen(channel="sms", hardbounced=2**53 + 1, invalid=None, **{'q"u\\o te': 1}),
        seen(channel="\u201equoted\u201c \U0001f4e8 ' \" %s ? ; --"),
        seen(segment_id=2**63 - 1, list_id=None, resource_id=None, all=2**63 - 1),
    ]
    assert written(hook, *observations) == (4, 0)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == observations


def test_writing_again_adds_nothing(hook: DbApiHook) -> None:
    observations = [seen(), seen(channel="sms"), seen(list_id=None, resource_id=None)]
    assert written(hook, *observations) == (3, 0)
    assert written(hook, *observations) == (0, 3)
    assert written(hook, *observations, seen(channel="push")) == (1, 3)
    assert count(hook) == 4


def test_one_observation_twice_in_the_same_rows_is_there_once(hook: DbApiHook) -> None:
    assert written(hook, seen(), seen(list_id=None), seen(), seen(list_id=None)) == (2, 2)


def test_equal_instants_are_one_observation_however_they_are_spelled(hook: DbApiHook) -> None:
    spellings = ["2026-02-03T03:00:01.5Z", "2026-02-03T03:00:01.500", "2026-02-03 05:00:01.5000009+02:00"]
    assert written(hook, *[seen(updated=text) for text in spellings]) == (1, 2)


def test_a_time_of_another_zone_is_stored_as_the_same_instant(hook: DbApiHook) -> None:
    elsewhere = at("2026-02-03T03:00:01.500000").astimezone(timezone(timedelta(hours=-5)))
    assert written(hook, seen(), replace(seen(), updated=elsewhere)) == (1, 1)


def test_a_newer_updated_adds_an_observation_and_both_stay(hook: DbApiHook) -> None:
    written(hook, seen())
    assert written(hook, seen(updated="2026-02-03T03:00:01.500001Z", subscribed_sendable=210)) == (1, 0)
    assert count(hook) == 2


def test_each_part_of_the_key_tells_observations_apart(hook: DbApiHook) -> None:
    others = [{"segment_id": 8}, {"list_id": 2}, {"resource_id": 1}, {"channel": "Email"}, {"source": "ACME"}]
    assert written(hook, seen(), *(seen(**other) for other in others)) == (6, 0)


def test_segment_7_database_7_and_resource_7_are_three(hook: DbApiHook) -> None:
    database = seen(kind="database", segment_id=None, list_id=7, resource_id=None)
    resource = seen(kind="resource", segment_id=None, list_id=None, resource_id=7)
    assert written(hook, seen(), database, resource) == (3, 0)
    for kind, expected in (("segment", seen()), ("database", database), ("resource", resource)):
        assert last_of_each_night(hook, TABLE, since=LONG_AGO, kind=kind) == [expected]
        assert expected.id == 7


def test_two_accounts_have_their_own_observations(hook: DbApiHook) -> None:
    theirs = seen(source="other")
    assert written(hook, seen(), theirs) == (2, 0)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO, source="other") == [theirs]


def test_what_was_written_first_stays(hook: DbApiHook) -> None:
    written(hook, seen(subscribed_sendable=1))
    written(hook, seen(subscribed_sendable=2))
    [kept] = last_of_each_night(hook, TABLE, since=LONG_AGO)
    assert kept.counters["subscribed_sendable"] == 1


UNSTORABLE: list[dict[str, Any]] = [
    {"channel": "a\x00b"},
    {"channel": "a\ud800"},
    {"channel": "a" * 256},
    {"source": "a\x00b"},
    {"name": "a\x00b"},
    {"counters": {"a\x00b": 1}},
    {"counters": {"all": 2**63}},
]


def test_what_not_every_database_takes_is_refused_by_each_alike(hook: DbApiHook) -> None:
    for changes in UNSTORABLE:
        with pytest.raises(ConfigurationError, match=r"control characters|at most 255|below 2\^63"):
            written(hook, seen(channel="push"), replace(seen(), **changes))
    assert count(hook) == 0


def many(number: int) -> Iterator[Observation]:
    """Give so many observations, of a minute each."""
    for minute in range(number):
        updated = at("2026-02-03T03:00:00") + timedelta(minutes=minute)
        counters = {"subscribed_sendable": minute}
        yield Observation("acme", 7, 1, 27, "email", updated, counters, updated.date())


def test_more_rows_than_one_statement_takes_are_all_written(hook: DbApiHook) -> None:
    assert written(hook, *many(2500)) == (2500, 0)
    assert written(hook, *many(2600)) == (100, 2500)


def test_a_failure_halfway_writes_nothing(hook: DbApiHook) -> None:
    def broken() -> Iterator[Observation]:
        yield from many(2500)
        raise RuntimeError("the rows ended early")

    with pytest.raises(RuntimeError, match="ended early"):
        history.write(hook, TABLE, broken())
    assert [count(hook, f"{TABLE}{beside}") for beside in ("", "_latest", "_names", "_nights")] == [0] * 4
    assert written(hook, *many(1)) == (1, 0)


# DuckDB has one writer, and ends the other, which Airflow tries again.
@pytest.mark.parametrize("warehouse", databases("sqlite", "postgresql", "mariadb"), indirect=True)
def test_two_writers_at_once_in_opposite_orders_write_each_observation_once(hook: DbApiHook) -> None:
    both_run = threading.Barrier(2)
    counts: list[dict[str, int]] = []

    def write(observations: list[Observation]) -> None:
        def after_the_other_has_begun() -> Iterator[Observation]:
            both_run.wait(60)
            yield from observations

        counts.append(history.write(hook, TABLE, after_the_other_has_begun()))

    forwards = list(many(3000))
    writers = [threading.Thread(target=write, args=(rows,)) for rows in (forwards, forwards[::-1])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert sum(of["inserted"] for of in counts) == sum(of["already_there"] for of in counts) == 3000
    assert count(hook) == 3000


# What stands beside the observations. Expected values are reckoned by hand.

FEBRUARY = date(2026, 2, 10)


def night_of(ago: int, segment_id: int = 7, channel: str = "email", **changes: Any) -> Observation:
    """Return what was counted so many nights before 10 February."""
    night = FEBRUARY - timedelta(days=ago)
    return seen(night, updated=f"{night}T03:00:00Z", segment_id=segment_id, channel=channel, **changes)


LATEST = "SELECT id, night, total, night_change, week_change FROM segment_counters_latest ORDER BY id"


def test_the_latest_sums_channels_and_changes_over_what_both_nights_counted(hook: DbApiHook) -> None:
    written(
        hook,
        night_of(7, subscribed_sendable=90),
        night_of(7, channel="viber", subscribed_sendable=1000),  # gone since: no fall of the week
        night_of(1, subscribed_sendable=95),
        night_of(0, subscribed_sendable=100),
        night_of(0, channel="sms", subscribed_sendable=20),  # new: no rise
    )
    assert asked(hook, LATEST) == [(7, "2026-02-10", 120, 5, 10)]
    [latest] = history.latest(hook, TABLE)
    assert latest.channels == {
        "email": {"subscribed_sendable": 100, "unconfirmed_sendable": 0},
        "sms": {"subscribed_sendable": 20, "unconfirmed_sendable": 0},
    }
    assert (latest.source, latest.updated) == ("acme", at("2026-02-10T03:00:00"))


def test_a_channel_of_two_lists_is_summed_in_the_latest(hook: DbApiHook) -> None:
    written(hook, night_of(0, subscribed_sendable=1), night_of(0, list_id=2, subscribed_sendable=2))
    [latest] = history.latest(hook, TABLE)
    assert (latest.total, latest.channels["email"]["subscribed_sendable"]) == (3, 3)


def test_an_older_updated_never_replaces_a_newer_one_in_the_latest(hook: DbApiHook) -> None:
    written(hook, night_of(0, subscribed_sendable=100))
    written(hook, night_of(20, subscribed_sendable=1))
    assert asked(hook, LATEST) == [(7, "2026-02-10", 100, None, None)]
    earlier = replace(night_of(0, subscribed_sendable=99), updated=at("2026-02-10T02:00:00"))
    written(hook, earlier)
    assert asked(hook, LATEST) == [(7, "2026-02-10", 100, None, None)]


def test_a_night_that_is_brought_in_later_is_what_the_latest_changes_from(hook: DbApiHook) -> None:
    written(hook, night_of(0, subscribed_sendable=100))
    written(hook, night_of(7, subscribed_sendable=40))
    assert asked(hook, LATEST) == [(7, "2026-02-10", 100, 60, 60)]


def test_each_object_has_its_own_latest_night(hook: DbApiHook) -> None:
    written(hook, night_of(3, 8, subscribed_sendable=8), night_of(0, 7, subscribed_sendable=7))
    assert asked(hook, LATEST) == [(7, "2026-02-10", 7, None, None), (8, "2026-02-07", 8, None, None)]


def test_an_object_without_the_notable_counter_has_no_total(hook: DbApiHook) -> None:
    written(hook, replace(night_of(0), counters={"all": 5}))
    assert asked(hook, LATEST) == [(7, "2026-02-10", None, None, None)]


def test_a_sum_that_no_column_takes_is_none(hook: DbApiHook) -> None:
    written(
        hook, *(night_of(0, channel=channel, subscribed_sendable=2**63 - 1) for channel in ("email", "sms"))
    )
    assert asked(hook, LATEST) == [(7, "2026-02-10", None, None, None)]


def test_the_view_has_one_number_a_row_of_the_last_of_each_night(hook: DbApiHook) -> None:
    early, late = (
        seen(FEBRUARY, updated=f"2026-02-10T0{hour}:00:00Z", **counts)
        for hour, counts in (
            (3, {"subscribed_sendable": 1}),
            (4, {"subscribed_sendable": 2, "hard bounced": 2**53 + 1, "invalid": None}),
        )
    )
    written(hook, early, late)
    found = asked(
        hook,
        "SELECT source, kind, segment_id, list_id, resource_id, channel, night, counter, count"
        " FROM segment_counters_counts ORDER BY counter",
    )
    key = ("acme", "segment", 7, 1, 27, "email", "2026-02-10")
    assert found == [
        (*key, "hard bounced", 2**53 + 1),
        (*key, "subscribed_sendable", 2),
        (*key, "unconfirmed_sendable", 0),
    ]


def test_names_are_kept_with_the_first_and_the_last_night_of_each(hook: DbApiHook) -> None:
    written(hook, night_of(3, name="Readers"), night_of(2, name="Readers"))
    written(hook, night_of(1, name="Every \u201ereader\u201c"), night_of(0, 8))
    written(hook, night_of(5, name="Readers"))  # brought in later
    assert asked(
        hook, "SELECT id, name, first_seen, last_seen FROM segment_counters_names ORDER BY first_seen"
    ) == [
        (7, "Readers", "2026-02-05", "2026-02-08"),
        (7, "Every \u201ereader\u201c", "2026-02-09", "2026-02-09"),
    ]
    assert history.names(hook, TABLE) == {("acme", "segment", 7): "Every \u201ereader\u201c"}


def outcome(segment_id: int, what: Any, reason: str | None = None, run_id: str = "r1") -> Outcome:
    return Outcome(
        "acme", "d", run_id, FEBRUARY, at("2026-02-10T02:00:00"), "segment", segment_id, what, reason
    )


def test_missing_failed_and_removed_are_told_apart_by_the_table_of_nights(hook: DbApiHook) -> None:
    outcomes = [outcome(7, "counted"), outcome(8, "failed", "timed\nout"), outcome(9, "not_submitted", "402")]
    history.write(hook, TABLE, [], outcomes)
    expected = [outcomes[0], replace(outcomes[1], reason="timed out"), outcomes[2]]
    assert history.nights(hook, TABLE, since=FEBRUARY) == expected
    assert history.nights(hook, TABLE, since=FEBRUARY + timedelta(days=1)) == []
    assert history.runs(hook, TABLE, since=FEBRUARY) == {("d", "r1")}


def test_a_run_that_is_loaded_again_says_what_became_of_it_last(hook: DbApiHook) -> None:
    history.write(hook, TABLE, [], [outcome(7, "failed", "timed out"), outcome(7, "failed", "x", "r2")])
    history.write(hook, TABLE, [], [outcome(7, "counted")])
    assert asked(hook, "SELECT run_id, outcome, reason FROM segment_counters_nights ORDER BY run_id") == [
        ("r1", "counted", None),
        ("r2", "failed", "x"),
    ]


def test_a_segment_or_an_account_is_forgotten_by_one_call(hook: DbApiHook) -> None:
    others = [night_of(0, 8), seen(kind="database", segment_id=None, list_id=7), seen(source="other")]
    history.write(
        hook,
        TABLE,
        [night_of(0, name="N"), night_of(1), *others],
        [outcome(7, "counted"), outcome(8, "counted")],
    )
    assert history.forget(hook, TABLE, source="acme", id=7) == 2
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == [others[0], others[2]]
    assert [of.id for of in history.nights(hook, TABLE, since=LONG_AGO)] == [8]
    assert [(of.source, of.id) for of in history.latest(hook, TABLE)] == [("acme", 8), ("other", 7)]
    assert history.names(hook, TABLE) == {}
    assert history.forget(hook, TABLE, source="acme") == 2
    assert count(hook) == count(hook, f"{TABLE}_latest") == 1


@pytest.mark.parametrize("cursor", ["dictcursor", "namedtuplecursor"])
def test_rows_are_read_by_position_whatever_cursor_the_connection_asks_for(
    monkeypatch: pytest.MonkeyPatch, postgres: Any, cursor: str
) -> None:
    fields = {**postgres.connection, "extra": {"cursor": cursor}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    theirs = history.database("warehouse")
    history.create(theirs, TABLE)
    history.write(theirs, TABLE, [seen(name="N")], [outcome(7, "counted")])
    assert last_of_each_night(theirs, TABLE, since=LONG_AGO) == [replace(seen(), name=None)]
    assert history.latest(theirs, TABLE)[0].total == 209
    assert history.nights(theirs, TABLE, since=LONG_AGO) == [outcome(7, "counted")]
    assert history.names(theirs, TABLE) == {("acme", "segment", 7): "N"}
    assert history.forget(theirs, TABLE, source="acme") == 1
