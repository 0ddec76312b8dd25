"""Assets: which URIs there are, and what a night's event says."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.sdk import Asset
from support.airflow_runs import DAGS, run_dags

from airflow_provider_segstats.assets import MOST, night_extra, sanitize_uri, segments_alias, segments_asset


def row(count: int | None, segment_id: int = 7, channel: str = "email", **changes: Any) -> dict[str, Any]:
    labels = {"segment_id": segment_id, "list_id": 1, "resource_id": 24, "channel": channel}
    return {**labels, "subscribed": count, "updated": "2026-02-03T03:00:01.5Z", **changes}


def night(*rows: dict[str, Any], failed: tuple[int, ...] = ()) -> dict[str, Any]:
    ok = sorted({row["segment_id"] for row in rows})
    return {"ok": ok, "failed": list(failed), "rows": list(rows)}


# URIs


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("segstats://prod/segments", "segstats://prod/segments"),
        ("SEGSTATS://Prod/segments/", "segstats://Prod/segments"),
        ("segstats://prod/segments/7", "segstats://prod/segments/7"),
        ("segstats://prod/segments/007/", "segstats://prod/segments/7"),
        ("segstats://a%2Fb.c_d-e/segments", "segstats://a%2Fb.c_d-e/segments"),
    ],
)
def test_airflow_takes_the_uri_in_its_one_spelling(written: str, uri: str) -> None:
    assert Asset(written).uri == uri


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("segstats://user@prod/segments", "holds no credentials"),
        ("segstats://prod/segments?token=x", "has no query"),
        ("segstats://prod", "not 'segstats://prod/'"),
        ("segstats:///segments", "segstats://<connection id>/segments or"),
        ("segstats://prod/segments/x", "not 'segstats://prod/segments/x'"),
        ("segstats://prod/segments/0", "not 'segstats://prod/segments/0'"),
        ("segstats://prod/segments/7/email", "not 'segstats://prod/segments/7/email'"),
        ("segstats://prod:8080/segments", "not 'segstats://prod:8080/segments'"),
    ],
)
def test_a_uri_that_names_no_segments_is_refused_with_its_reason(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^a segstats:// URI") as refused:
        Asset(uri)
    assert message in str(refused.value)


def test_credentials_are_not_shown_in_the_error() -> None:
    with pytest.raises(ValueError, match="credentials") as refused:
        sanitize_uri(urlsplit("segstats://user:s3cret@prod/segments"))
    assert "s3cret" not in str(refused.value)


def test_the_assets_of_a_connection_are_named_as_their_uris() -> None:
    assert segments_asset() == Asset("segstats://segstats_default/segments")
    assert segments_asset("prod eu", 7) == Asset("segstats://prod%20eu/segments/7")
    assert segments_alias("prod").name == "segstats://prod/segments/*"


# What an event says


def test_the_first_night_is_told_without_changes() -> None:
    extra = night_extra(
        night(row(5), row(3, 8), row(2, 8, "sms", updated="2026-02-03T03:00:04Z"), failed=(9,))
    )
    assert extra == {
        "segments": {"ok": 2, "failed": 1},
        "failed": [9],
        "names": {},
        "rows": 3,
        "counters": {"email": {"subscribed": 8}, "sms": {"subscribed": 2}},
        "updated": {"oldest": "2026-02-03T03:00:01.500000+00:00", "newest": "2026-02-03T03:00:04+00:00"},
    }


def test_what_failed_is_named_where_its_name_is_known() -> None:
    extra = night_extra({**night(row(5), failed=(8, 9)), "names": {"9": "Readers"}})
    assert (extra["failed"], extra["names"]) == ([8, 9], {"9": "Readers"})


def test_counters_that_were_read_without_a_recount_are_no_part_of_the_night() -> None:
    extra = night_extra(night(row(5), {**row(3, 8, updated=None), "recounted": False}))
    assert (extra["rows"], extra["counters"]) == (1, {"email": {"subscribed": 5}})


def test_changes_are_of_what_both_nights_counted_so_that_a_failure_is_no_fall() -> None:
    before = night(row(100), row(50, 8), row(9, channel="sms"))
    extra = night_extra(night(row(103), row(1, 9), row(9, channel="sms"), failed=(8,)), before)
    assert extra["counters"] == {"email": {"subscribed": 104}, "sms": {"subscribed": 9}}
    assert extra["changes"] == {"email": {"subscribed": 3}, "sms": {"subscribed": 0}}


def test_a_channel_that_a_counted_segment_no_longer_has_is_told_as_vanished() -> None:
    before = night(row(100), row(9, channel="sms"), row(50, 8), row(5, 8, "sms"))
    assert night_extra(night(row(100), failed=(8,)), before)["vanished"] == 1


def test_segments_that_left_the_list_are_dropped_and_no_change() -> None:
    before = {**night(row(100), row(50, 8), failed=(9,)), "not_submitted": [10]}
    tonight = {**night(row(103)), "failed": {"9": "timed out"}}
    extra = night_extra(tonight, before)
    assert (extra["dropped"], extra["vanished"]) == (2, 0)  # 8 and 10
    assert extra["changes"] == {"email": {"subscribed": 3}}
    assert (extra["segments"], extra["failed"]) == ({"ok": 1, "failed": 1}, [9])


def test_counters_without_a_number_or_a_time_are_left_out() -> None:
    extra = night_extra(night(row(None, updated=""), row(4, 8, updated="soon")), night(row(1), row(None, 8)))
    assert (extra["counters"], extra["changes"]) == ({"email": {"subscribed": 4}}, {})
    assert extra["updated"] is None


def test_an_event_does_not_grow_with_the_segments_or_the_channels() -> None:
    rows = [row(at, segment_id, f"channel{at}") for segment_id in range(1, 501) for at in range(30)]
    extra = night_extra(night(*rows, failed=tuple(range(1000, 2000))), night(*rows))
    assert (len(extra["failed"]), len(extra["counters"]), len(extra["changes"])) == (MOST, MOST, MOST)
    assert next(iter(extra["counters"])) == "channel29"
    assert len(json.dumps(extra)) < 3000


# In Airflow


@pytest.fixture(scope="module")
def extras() -> Any:
    results = run_dags(DAGS / "nights.py", {}, 120, "first_night", "second_night", "third_night", "reader")
    return results["reader"]["read"]["xcom"]["return_value"]


def test_a_night_is_compared_with_the_one_before(extras: Any) -> None:
    of_all, _, _ = extras
    assert "changes" not in of_all[0]
    assert of_all[1]["segments"] == {"ok": 2, "failed": 1}
    assert of_all[1]["changes"] == {"email": {"subscribed": 3}}


def test_a_night_that_is_published_again_is_not_compared_with_itself(extras: Any) -> None:
    of_all, _, _ = extras
    assert [extra["changes"]["email"]["subscribed"] for extra in of_all[2:]] == [7, 17]


def test_each_segment_has_an_event_when_asked_for(extras: Any) -> None:
    _, of_each, of_seven = extras
    updated = dict.fromkeys(("oldest", "newest"), "2026-02-03T03:00:01+00:00")
    seven = {"counters": {"email": {"subscribed": 103}}, "updated": updated}
    assert of_seven == [seven]
    assert of_each == [seven, {"counters": {"email": {"subscribed": 1}}, "updated": updated}]
