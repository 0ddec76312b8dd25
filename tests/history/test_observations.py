"""Rows as observations, and the API's times as instants."""

from __future__ import annotations

from datetime import date, timezone
from typing import Any

import pytest
from support.observations import ROW, at, seen

from airflow_provider_segstats.core.errors import ConfigurationError, UnreadableRowError
from airflow_provider_segstats.history import Observation, instant, observed


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


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"kind": "database", "segment_id": None, "list_id": 3}, (0, 3, 27)),
        ({"kind": "resource", "segment_id": None}, (0, 1, 27)),
    ],
    ids=["database", "resource"],
)
def test_databases_and_resources_are_objects_of_their_own_kind(
    row: dict[str, Any], expected: tuple[int, ...]
) -> None:
    observation = seen(**row)
    assert (observation.segment_id, observation.list_id, observation.resource_id) == expected
    assert (observation.kind, observation.id) == (row["kind"], {"database": 3, "resource": 27}[row["kind"]])


def test_a_name_and_an_account_are_labels_and_no_counters() -> None:
    observation = seen(name="Readers", source="acme", kind="segment", recounted=True)
    assert observation.name == "Readers"
    assert set(observation.counters) == {"subscribed_sendable", "unconfirmed_sendable"}


@pytest.mark.parametrize(
    "changes",
    [
        {"channel": "a\x00b"},
        {"channel": "a" * 256},
        {"source": "a\nb"},
        {"a\x00b": 1},
        {"all": 2**63},
        {"all": 1.5},
        {"all": True},
        {"all": "many"},
        {"updated": "soon"},
    ],
    ids=repr,
)
def test_a_value_that_cannot_be_stored_costs_the_row_and_names_its_segment(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRowError, match=r"^segment 7, '"):
        seen(**changes)


def test_a_row_without_a_run_is_of_the_night_of_its_own_time() -> None:
    assert seen(updated="2026-02-03T23:30:00Z").night == date(2026, 2, 3)
    assert seen(date(2026, 2, 4), updated="2026-02-03T23:30:00Z").night == date(2026, 2, 4)
