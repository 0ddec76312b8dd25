"""The table of history: on SQLite and on PostgreSQL, what is written is there once and is read back."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import Observation, instant, last_of_each_night, observed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.sql.hooks.sql import DbApiHook

TABLE = "segment_counters"
LONG_AGO = date(2000, 1, 1)
ROW = {
    "segment_id": 7,
    "list_id": 1,
    "resource_id": 27,
    "channel": "email",
    "subscribed_sendable": 209,
    "unconfirmed_sendable": 0,
    "updated": "2026-02-03T03:00:01.5Z",
}


@pytest.fixture
def hook(warehouse: DbApiHook) -> DbApiHook:
    """Give the database with the table in it."""
    history.create(warehouse, TABLE)
    return warehouse


def seen(**changes: Any) -> Observation:
    observation = observed({**ROW, **changes}, "acme")
    assert observation is not None
    return observation


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def written(hook: DbApiHook, *observations: Observation) -> tuple[int, int]:
    counts = history.write(hook, TABLE, observations)
    return counts["inserted"], counts["already_there"]


def count(hook: DbApiHook) -> int:
    number: int = hook.get_first("SELECT COUNT(*) FROM segment_counters")[0]
    return number


# A row as an observation


def test_a_row_becomes_an_observation_with_every_counter() -> None:
    assert observed({**ROW, "hardbounced": 3, "invalid": None}, "acme") == Observation(
        source="acme",
        segment_id=7,
        list_id=1,
        resource_id=27,
        channel="email",
        updated=at("2026-02-03T03:00:01.500000"),
        counters={"subscribed_sendable": 209, "unconfirmed_sendable": 0, "hardbounced": 3, "invalid": None},
        night=date(2026, 2, 3),
    )


def test_a_row_that_knows_its_account_is_stored_under_it() -> None:
    assert seen(source="its own").source == "its own"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Readers", "Readers"),
        ("x" * 300, "x" * 255),
        ("a\nb\x00c", "a b c"),
        ("", None),
        (None, None),
        (7, "7"),
    ],
)
def test_whatever_a_name_is_no_counter_is_lost_to_it(name: Any, kept: str | None) -> None:
    assert seen(name=name).name == kept


def test_a_row_without_segment_id_is_refused_and_the_error_says_where_to_give_it() -> None:
    with pytest.raises(ConfigurationError, match=r"a row has no segment_id, .* give it to the sensor"):
        observed({**ROW, "segment_id": None}, "acme")


@pytest.mark.parametrize(
    "changes", [{"segment_id": 0}, {"list_id": -1}, {"resource_id": "x"}, {"channel": None}]
)
def test_a_row_whose_key_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    [name] = changes
    with pytest.raises(ConfigurationError, match=name):
        observed({**ROW, **changes}, "acme")


@pytest.mark.parametrize("updated", ["", None])
def test_a_row_that_was_counted_at_no_known_instant_is_no_observation(updated: Any) -> None:
    assert observed({**ROW, "updated": updated}, "acme") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-03T03:00:01Z", "2026-02-03T03:00:01"),
        ("2026-02-03T03:00:01", "2026-02-03T03:00:01"),
        (" 2026-02-03 03:00:01 ", "2026-02-03T03:00:01"),
        ("2026-02-03T03:00:01.5Z", "2026-02-03T03:00:01.500000"),
        ("2026-02-03T03:00:01.583Z", "2026-02-03T03:00:01.583000"),
        ("2026-02-03T03:00:01.123456789Z", "2026-02-03T03:00:01.123456"),
        ("2026-02-03T03:00:01+00:00", "2026-02-03T03:00:01"),
        ("2026-02-03T00:30:00+03:00", "2026-02-02T21:30:00"),
        ("2026-02-03T00:30:00-0330", "2026-02-03T04:00:00"),
        ("2026-02-03T03:30:01+03", "2026-02-03T00:30:01"),
        ("2026-02-03 03:30:01.25 +0300 MSK", "2026-02-03T00:30:01.250000"),
        ("2026-02-03T03:00:01,5 UTC", "2026-02-03T03:00:01.500000"),
        ("2026-02-03T03:00", "2026-02-03T03:00:00"),
        ("2026-02-03", "2026-02-03T00:00:00"),
        ("1770087601", "2026-02-03T03:00:01"),
        (1770087601, "2026-02-03T03:00:01"),
        (1770087601.25, "2026-02-03T03:00:01.250000"),
        ("1770087601583", "2026-02-03T03:00:01.583000"),
        ("1770087601583123", "2026-02-03T03:00:01.583123"),
        ("1770087601583123456", "2026-02-03T03:00:01.583123"),
    ],
)
def test_an_instant_is_utc_however_it_is_spelled(text: str, expected: str) -> None:
    assert instant(text) == at(expected)
    assert instant(text).tzinfo is timezone.utc


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T02:30:17+02:30:17",
        "1970-01-01T00:00:00Z",
        "0",
        0,
        "",
        None,
    ],
)
def test_a_servers_zero_is_never_counted(text: Any) -> None:
    assert instant(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "20260203",
        "2026-02-30T00:00:00Z",
        "2026-02-03T25:00:00Z",
        "03.02.2026 3:00",
        "2026-02-03T03:00:01 Europe/Riga",
        "\u0662026-02-03T03:00:01Z",
        17700,
    ],
)
def test_what_is_no_instant_is_refused_and_named(text: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        instant(text)
    assert repr(text) in str(refused.value)


# Writing


def test_an_observation_is_read_back_as_it_was_written(hook: DbApiHook) -> None:
    observations = [
        seen(),
        seen(channel="sms", hardbounced=2**53 + 1, invalid=None),
        seen(channel="\u201equoted\u201c \U0001f4e8 ' \" %s ? ; --"),
        seen(segment_id=2**63 - 1, list_id=None, resource_id=None),
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


@pytest.mark.parametrize(
    "other", [{"segment_id": 8}, {"list_id": 2}, {"resource_id": 1}, {"channel": "Email"}]
)
def test_each_part_of_the_key_tells_observations_apart(hook: DbApiHook, other: dict[str, Any]) -> None:
    assert written(hook, seen(), seen(**other)) == (2, 0)


def test_two_accounts_have_their_own_observations(hook: DbApiHook) -> None:
    theirs = observed(ROW, "other")
    assert theirs is not None
    assert written(hook, seen(), theirs) == (2, 0)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO, source="other") == [theirs]


def test_sums_are_of_each_objects_last_observations_in_each_night(hook: DbApiHook) -> None:
    written(
        hook,
        seen(subscribed_sendable=1, updated="2026-02-03T03:00:00Z"),
        seen(subscribed_sendable=2, updated="2026-02-03T04:00:00Z"),  # counted again
        seen(subscribed_sendable=10, channel="sms"),
        seen(subscribed_sendable=100, list_id=2),
        seen(subscribed_sendable=4, updated="2026-02-04T03:00:00Z"),
        seen(subscribed_sendable=1000, segment_id=8),
        seen(subscribed_sendable=9, updated="2026-02-01T03:00:00Z"),  # too long ago
    )

    assert history.sums(hook, TABLE, since=date(2026, 2, 2), kind="segment", ids=[7]) == {
        ("acme", "segment", 7): {date(2026, 2, 3): 112, date(2026, 2, 4): 4}
    }


def test_what_was_written_first_stays(hook: DbApiHook) -> None:
    written(hook, seen(subscribed_sendable=1))
    written(hook, seen(subscribed_sendable=2))
    [kept] = last_of_each_night(hook, TABLE, since=LONG_AGO)
    assert kept.counters["subscribed_sendable"] == 1


def many(number: int) -> Iterator[Observation]:
    """Give so many observations, of a minute each."""
    for minute in range(number):
        updated = at("2026-02-03T03:00:00") + timedelta(minutes=minute)
        yield Observation("acme", 7, 1, 27, "email", updated, {"subscribed_sendable": minute}, updated.date())


def test_more_rows_than_one_statement_takes_are_all_written(hook: DbApiHook) -> None:
    assert written(hook, *many(2500)) == (2500, 0)
    assert written(hook, *many(2600)) == (100, 2500)


def test_a_failure_halfway_writes_nothing(hook: DbApiHook) -> None:
    def broken() -> Iterator[Observation]:
        yield from many(2500)
        raise RuntimeError("the rows ended early")

    with pytest.raises(RuntimeError, match="ended early"):
        history.write(hook, TABLE, broken())
    assert count(hook) == 0
    assert written(hook, *many(1)) == (1, 0)


def test_two_writers_at_once_write_each_observation_once(hook: DbApiHook) -> None:
    both_run = threading.Barrier(2)
    counts: list[dict[str, int]] = []

    def write() -> None:
        def after_the_other_has_begun() -> Iterator[Observation]:
            both_run.wait(30)
            yield from many(3000)

        counts.append(history.write(hook, TABLE, after_the_other_has_begun()))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sum(of["inserted"] for of in counts) == sum(of["already_there"] for of in counts) == 3000
    assert count(hook) == 3000


# The table


def test_creating_a_table_that_is_there_leaves_it_as_it_is(hook: DbApiHook) -> None:
    written(hook, seen())
    history.create(hook, TABLE)
    assert count(hook) == 1


def test_runs_that_create_the_table_at_once_all_succeed(warehouse: DbApiHook) -> None:
    starts = threading.Barrier(4)
    failures: list[Exception] = []

    def create() -> None:
        starts.wait(30)
        try:
            history.create(warehouse, TABLE)
        except Exception as error:  # noqa: BLE001 - whatever the driver calls it
            failures.append(error)

    runs = [threading.Thread(target=create) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert failures == []
    assert written(warehouse, seen()) == (1, 0)


def test_a_table_that_cannot_be_created_fails_with_the_databases_words(warehouse: DbApiHook) -> None:
    with pytest.raises(Exception, match="nowhere"):
        history.create(warehouse, "nowhere.segment_counters")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        'a"; DROP TABLE x; --',
        "a.b.c",
        ".a",
        "a.",
        "1a",
        "Segments",
        "a-b",
        "\u00e4",
        "a" * 51,
        None,
        "a\n",
    ],
)
def test_what_is_no_name_of_a_table_is_refused(warehouse: DbApiHook, name: Any) -> None:
    for use in (
        lambda: history.create(warehouse, name),
        lambda: history.write(warehouse, name, [seen()]),
        lambda: last_of_each_night(warehouse, name, since=LONG_AGO),
    ):
        with pytest.raises(ConfigurationError, match="a table is named"):
            use()


def test_a_reserved_word_and_the_longest_name_are_tables_too(warehouse: DbApiHook) -> None:
    for name in ("select", "a" * 50):
        history.create(warehouse, name)
        assert history.write(warehouse, name, [seen()])["inserted"] == 1
        assert last_of_each_night(warehouse, name, since=LONG_AGO) == [seen()]


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_a_table_can_be_in_a_schema(warehouse: DbApiHook) -> None:
    warehouse.run("CREATE SCHEMA marts")
    history.create(warehouse, "marts.counters")
    assert history.write(warehouse, "marts.counters", [seen()])["inserted"] == 1
    assert last_of_each_night(warehouse, "marts.counters", since=LONG_AGO) == [seen()]
    assert warehouse.get_first("SELECT to_regclass('marts.counters_night') IS NOT NULL") == (True,)


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_a_table_of_someone_elses_without_the_key_is_refused_not_filled_twice(warehouse: DbApiHook) -> None:
    warehouse.run(
        "CREATE TABLE segment_counters (source TEXT, segment_id BIGINT, list_id BIGINT, resource_id BIGINT,"
        " channel TEXT, updated TIMESTAMPTZ, counters JSONB)"
    )
    with pytest.raises(Exception, match="another layout: it has no kind, night"):
        written(warehouse, seen())


def test_the_database_itself_tells_a_counter(hook: DbApiHook) -> None:
    written(hook, seen())
    [row] = hook.get_records("SELECT night, counters ->> 'subscribed_sendable' FROM segment_counters")
    assert [str(value) for value in row] == ["2026-02-03", "209"]


# Reading


def test_of_each_day_the_last_observation_is_read(hook: DbApiHook) -> None:
    times = [
        "2026-02-03T03:00:00Z",
        "2026-02-03T09:00:00Z",
        "2026-02-03T09:00:00.000001Z",
        "2026-02-04T00:00:00Z",
    ]
    written(hook, *[seen(updated=text, subscribed_sendable=i) for i, text in enumerate(times)])
    read = last_of_each_night(hook, TABLE, since=LONG_AGO)
    assert [observation.counters["subscribed_sendable"] for observation in read] == [2, 3]


def test_each_key_has_its_own_last_observation(hook: DbApiHook) -> None:
    early, late = "2026-02-03T03:00:00Z", "2026-02-03T09:00:00Z"
    kept = [
        seen(list_id=None, updated=early),
        seen(updated=early, channel="a"),
        seen(updated=late),
        seen(updated=late, resource_id=28),
        seen(updated=early, segment_id=8),
    ]
    written(hook, seen(updated=early), *kept)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == kept


def test_since_and_until_are_included(hook: DbApiHook) -> None:
    written(hook, *[seen(updated=f"2026-02-0{day}T12:00:00Z") for day in range(1, 6)])
    read = last_of_each_night(hook, TABLE, since=date(2026, 2, 2), until=date(2026, 2, 4))
    assert [observation.updated.day for observation in read] == [2, 3, 4]


@pytest.mark.parametrize(("chosen", "expected"), [([7, 9], [7, 9]), (["8"], [8]), ([], []), ([1], [])])
def test_segments_can_be_chosen(hook: DbApiHook, chosen: list[int], expected: list[int]) -> None:
    written(hook, *[seen(segment_id=segment_id) for segment_id in (7, 8, 9)])
    read = last_of_each_night(hook, TABLE, since=LONG_AGO, segment_ids=chosen)
    assert [observation.segment_id for observation in read] == expected


def test_more_segments_can_be_chosen_than_a_database_takes_parameters(hook: DbApiHook) -> None:
    written(hook, seen())
    assert last_of_each_night(hook, TABLE, since=LONG_AGO, segment_ids=range(1, 70_000)) == [seen()]


def test_text_is_ordered_as_python_orders_it(hook: DbApiHook) -> None:
    channels = ["Zulu", "alpha", "\u00e9mail", "zulu"]
    written(hook, *[seen(channel=channel) for channel in reversed(channels)])
    read = last_of_each_night(hook, TABLE, since=LONG_AGO)
    assert [observation.channel for observation in read] == sorted(channels)


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_the_order_does_not_hang_on_the_databases_locale(hook: DbApiHook) -> None:
    # Said of the columns, since this PostgreSQL has no other locale to be led astray by.
    columns = hook.get_records(
        "SELECT column_name, collation_name FROM information_schema.columns"
        " WHERE table_name = 'segment_counters' AND data_type = 'text' ORDER BY column_name"
    )
    assert columns == [("channel", "C"), ("kind", "C"), ("source", "C")]


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_days_are_found_by_an_index(hook: DbApiHook) -> None:
    plan = hook.get_records(
        "EXPLAIN QUERY PLAN SELECT * FROM segment_counters WHERE night >= '2026-02-06' AND source = 'acme'"
    )
    assert f"{TABLE}_night" in str(plan)
