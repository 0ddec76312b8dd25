"""Reading the history: the last of each night, chosen and in order."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from support.observations import LONG_AGO, TABLE, seen

from airflow_provider_segstats import history
from airflow_provider_segstats.history import Observation, last_of_each_night

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


def write(hook: DbApiHook, *observations: Observation) -> None:
    history.write(hook, TABLE, observations)


def test_of_each_night_the_last_observation_is_read(hook: DbApiHook) -> None:
    times = [
        "2026-02-03T03:00:00Z",
        "2026-02-03T09:00:00Z",
        "2026-02-03T09:00:00.000001Z",
        "2026-02-04T00:00:00Z",
    ]
    write(hook, *[seen(updated=text, subscribed_sendable=i) for i, text in enumerate(times)])
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
    write(hook, seen(updated=early), *kept)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == kept


def test_since_and_until_are_included(hook: DbApiHook) -> None:
    write(hook, *[seen(updated=f"2026-02-0{day}T12:00:00Z") for day in range(1, 6)])
    read = last_of_each_night(hook, TABLE, since=date(2026, 2, 2), until=date(2026, 2, 4))
    assert [observation.updated.day for observation in read] == [2, 3, 4]


def test_sums_are_of_each_objects_last_observations_in_each_night(hook: DbApiHook) -> None:
    write(
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


@pytest.mark.parametrize(("chosen", "expected"), [([7, 9], [7, 9]), (["8"], [8]), ([], []), ([1], [])])
def test_segments_can_be_chosen(hook: DbApiHook, chosen: list[int], expected: list[int]) -> None:
    write(hook, *[seen(segment_id=segment_id) for segment_id in (7, 8, 9)])
    read = last_of_each_night(hook, TABLE, since=LONG_AGO, segment_ids=chosen)
    assert [observation.segment_id for observation in read] == expected


def test_more_segments_can_be_chosen_than_a_database_takes_parameters(hook: DbApiHook) -> None:
    write(hook, seen())
    assert last_of_each_night(hook, TABLE, since=LONG_AGO, segment_ids=range(1, 70_000)) == [seen()]


def test_text_is_ordered_as_python_orders_it(hook: DbApiHook) -> None:
    channels = ["Zulu", "alpha", "\u00e9mail", "zulu"]
    write(hook, *[seen(channel=channel) for channel in reversed(channels)])
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
def test_nights_are_found_by_an_index(hook: DbApiHook) -> None:
    plan = hook.get_records(
        "EXPLAIN QUERY PLAN SELECT * FROM segment_counters WHERE night >= '2026-02-06' AND source = 'acme'"
    )
    assert f"{TABLE}_night" in str(plan)
