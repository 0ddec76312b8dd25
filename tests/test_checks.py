"""The operator that checks the history, and what a notifier is given when its table cannot be had."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import BaseNotifier

from airflow_provider_segstats import history
from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import Observation, Outcome
from airflow_provider_segstats.notifications import SegStatsNotifier, as_table
from airflow_provider_segstats.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.sql.hooks.sql import DbApiHook

NOW = datetime.now(tz=timezone.utc)
# As the check has it: after a night that has just ended, whatever the time of the day.
NIGHTS = [NOW - timedelta(days=ago, minutes=1) for ago in range(29, -1, -1)]
*EARLIER, TONIGHT = NIGHTS


@pytest.fixture(autouse=True)
def _account(connect: Callable[..., None]) -> None:
    connect("http://127.0.0.1:9", account="acme")


def seen(updated: datetime, count: int, segment_id: int = 7, source: str = "acme") -> Observation:
    counters = {"subscribed_sendable": count}
    return Observation(source, segment_id, 1, 24, "email", updated, counters, updated.date())


def fallen() -> list[Observation]:
    """Return a segment that had 1,000 and has 400 tonight."""
    return [*(seen(night, 1000) for night in EARLIER), seen(TONIGHT, 400)]


class Checked:
    """What a check left in XCom, and the line that it failed with, if it did."""

    def __init__(self, **kwargs: Any) -> None:
        self.failure = ""
        ti = SimpleNamespace(xcom_push=lambda key, value: setattr(self, key, value))
        self.findings: list[dict[str, Any]] = []
        try:
            SegmentCountersCheckOperator(task_id="check", sql_conn_id="warehouse", **kwargs).execute(
                {"ti": ti}
            )
        except AirflowFailException as failure:
            self.failure = str(failure)


def given(hook: DbApiHook, *observations: Observation) -> None:
    history.create(hook, "segment_counters")
    history.write(hook, "segment_counters", observations)


def test_counters_that_hold_pass_and_leave_an_empty_list(warehouse: DbApiHook) -> None:
    given(warehouse, *(seen(night, 1000) for night in NIGHTS))
    checked = Checked()
    assert (checked.failure, checked.findings) == ("", [])


def test_a_fall_fails_with_a_line_and_leaves_the_finding(warehouse: DbApiHook) -> None:
    given(warehouse, *fallen())
    checked = Checked()
    line = "segment 7, email: subscribed_sendable fell by 60% to 400 (expected 700 to 2,000)"
    assert checked.failure == f"1 finding in segment_counters: {line}"
    assert [(of["what"], of["before"], of["after"]) for of in checked.findings] == [("fell", 1000, 400)]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": "0.6"},
        {"max_drop": 0.6},
        {"min_change": "600"},
        {"by_segment": {7: {"max_drop": 0.6}}},
        {"by_segment": '{"7": {"max_drop": 0.6}}'},
        {"by_counter": {"subscribed_sendable": {"max_drop": "0.6"}}},
    ],
)
def test_the_limits_decide_also_as_a_template_renders_them(
    warehouse: DbApiHook, limits: dict[str, Any]
) -> None:
    given(warehouse, *fallen())
    assert Checked(**limits).failure == ""


def test_a_rise_fails_by_a_limit_of_its_own(warehouse: DbApiHook) -> None:
    given(warehouse, *(seen(night, 1000) for night in EARLIER), seen(TONIGHT, 1900))
    assert Checked().failure == ""
    assert "rose by 90% to 1,900 (expected 700 to 1,500)" in Checked(max_rise=0.5).failure


def test_a_loss_over_weeks_fails_by_a_limit_of_its_own(warehouse: DbApiHook) -> None:
    given(warehouse, *(seen(night, 1000 - 20 * max(0, at - 20)) for at, night in enumerate(NIGHTS)))
    assert "has lost 18% to 820" in Checked().failure
    assert Checked(max_loss=0.3).failure == ""


def test_what_was_found_long_ago_is_found_until_it_is_acknowledged(warehouse: DbApiHook) -> None:
    dead = NOW - timedelta(days=400)
    given(warehouse, *(seen(night, 1000) for night in NIGHTS), seen(dead, 1000, 8))
    assert Checked().failure.endswith(f": segment 8 was last counted at {dead:%Y-%m-%d %H:%M} UTC")
    assert Checked(acknowledged=[8]).failure == ""
    assert Checked(acknowledged="[8]").failure == ""
    assert Checked(segment_ids=[7]).failure == ""


def test_the_reason_of_a_failed_recount_is_told(warehouse: DbApiHook) -> None:
    history.create(warehouse, "segment_counters")
    outcomes = [
        Outcome("acme", "nightly", "1", TONIGHT.date(), TONIGHT, "segment", 7, "counted"),
        Outcome("acme", "nightly", "1", TONIGHT.date(), TONIGHT, "segment", 8, "failed", "no such segment"),
    ]
    history.write(warehouse, "segment_counters", [seen(night, 1000) for night in NIGHTS], outcomes)
    assert Checked().failure.endswith(": segment 8 was not counted: no such segment")


def test_many_findings_are_named_up_to_five_and_all_left(warehouse: DbApiHook) -> None:
    given(
        warehouse,
        *(seen(night, 1000) for night in NIGHTS),
        *(seen(night, 1000, segment_id) for segment_id in range(11, 19) for night in EARLIER),
    )
    checked = Checked()
    assert checked.failure.startswith("8 findings in segment_counters: segment 11 was last counted")
    assert checked.failure.count("was last counted") == 5
    assert checked.failure.endswith("; and 3 more")
    assert [of["id"] for of in checked.findings] == list(range(11, 19))


@pytest.mark.parametrize("segment_ids", [[7, 9], "[7, 9]", {7, "9"}])
def test_an_expected_segment_that_was_never_counted_fails_and_others_are_left_alone(
    warehouse: DbApiHook, segment_ids: Any
) -> None:
    given(warehouse, *(seen(night, 1000) for night in NIGHTS), *(seen(night, 1000, 8) for night in EARLIER))
    assert Checked(segment_ids=segment_ids).failure.endswith(": segment 9 was not counted")


def test_an_empty_history_fails(warehouse: DbApiHook) -> None:
    given(warehouse, seen(TONIGHT, 100, source="other"))
    assert Checked().failure == "1 finding in segment_counters: the account was not counted"


def test_a_night_of_the_future_is_left_alone(warehouse: DbApiHook) -> None:
    given(warehouse, *fallen(), seen(NOW + timedelta(days=400), 5000))
    assert "fell by 60% to 400" in Checked().failure


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop": 1.1},
        {"max_drop": -0.1},
        {"max_drop": "half"},
        {"max_drop": True},
        {"max_rise": "nan"},
        {"max_loss": 2},
        {"min_change": -1},
        {"by_counter": {"subscribed": 0.5}},
        {"by_segment": {"seven": {}}},
        {"acknowledged": [0]},
        {"segment_ids": []},
        {"segment_ids": [0]},
        {"table": "no table"},
    ],
)
def test_a_literal_that_cannot_be_is_refused_when_the_dag_is_parsed(wrong: dict[str, Any]) -> None:
    told = {"by_counter": "subscribed"}.get(next(iter(wrong)), next(iter(wrong)))
    with pytest.raises(ConfigurationError, match=told):
        SegmentCountersCheckOperator(task_id="check", sql_conn_id="warehouse", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop": "{{ 2 }}"},
        {"segment_ids": "{{ [] }}"},
        {"segment_ids": ["{{ 7 }}"]},
        {"by_segment": {"{{ 7 }}": {"max_drop": "{{ 2 }}"}}},
    ],
)
def test_a_template_is_checked_once_it_is_rendered(warehouse: DbApiHook, wrong: dict[str, Any]) -> None:
    given(warehouse)
    SegmentCountersCheckOperator(task_id="check", sql_conn_id="warehouse", **wrong)
    assert next(iter(wrong)) in Checked(**wrong).failure


class Kept(BaseNotifier):
    """Keeps what it would send."""

    template_fields = ("text",)
    sent: list[str] = []  # noqa: RUF012 - shared with the copies that are sent

    def __init__(self) -> None:
        super().__init__()
        self.text = "<{{ segstats_table }}>"

    def notify(self, _: Any) -> None:
        self.sent.append(self.text)


notify = SegStatsNotifier(Kept())  # one for all, as a DAG's default_args share it


def sent(xcom_pull: Callable[..., Any]) -> str:
    notify({"ti": SimpleNamespace(task_id="check", map_index=-1, xcom_pull=xcom_pull)})
    return Kept.sent[-1]


def test_a_notification_goes_out_without_its_table_and_says_why() -> None:
    def away(**_: Any) -> Any:
        raise ConnectionError("the API server is away")

    assert sent(away) == "<The table cannot be had: the API server is away>"


def test_a_task_that_returned_nothing_has_an_empty_table() -> None:
    assert sent(lambda **_: None) == "<>"


@pytest.mark.parametrize("returned", [7, "e3b0c442", {"inserted": 3}, [7], True])
def test_a_task_that_returned_no_rows_has_an_empty_table(returned: Any) -> None:
    assert sent(lambda key, **_: {"return_value": returned}.get(key)) == "<>"


ROW = {
    "segment_id": 7,
    "list_id": 1,
    "resource_id": 24,
    "channel": "email",
    "updated": "2026-02-03T03:00:01.5Z",
}
FOUND = Finding(
    "fell", "acme", "segment", 7, None, "email", "subscribed_sendable", 1000, 400, 700, 2000
).as_row()


def test_findings_come_before_what_the_task_returned() -> None:
    text = sent(lambda key, **_: {"findings": [FOUND], "return_value": [ROW]}[key])
    assert (
        text == "<what  of         channel  count  expected\nfell  segment 7  email    400    700 to 2,000>"
    )


def test_a_table_of_rows_has_the_checked_counter_first_and_the_minute() -> None:
    rows = [
        {**ROW, "all": 12_345, "subscribed_sendable": 1000, "name": "Readers"},
        {**ROW, "channel": "two\nlines", "subscribed_sendable": None, "segment_id": 8},
    ]
    assert as_table(rows, 9).splitlines() == [
        "of           channel    subscribed_sendable  all     updated",
        "Readers (7)  email      1,000                12,345  2026-02-03 03:00",
        "segment 8    two lines                               2026-02-03 03:00",
    ]


def test_a_table_names_the_counter_where_it_is_another_and_the_reason_where_there_is_one() -> None:
    other = {**FOUND, "counter": "all"}
    late = Finding("stale", "acme", "segment", 8, "Readers", before=50, reason="HTTP 404").as_row()
    assert [line.split()[3:] for line in as_table([other, FOUND], 9).splitlines()][1:] == [
        ["email", "all", "400", "700", "to", "2,000"],
        ["email", "subscribed_sendable", "400", "700", "to", "2,000"],
    ]
    assert as_table([late], 9).splitlines()[1].split() == ["stale", "Readers", "(8)", "50", "HTTP", "404"]


def test_a_table_is_never_wider_than_80_nor_longer_than_4000_characters() -> None:
    long = {**ROW, "channel": "x" * 200, "name": "y" * 200, **{f"counter_{at}": at for at in range(30)}}
    text = as_table([long] * 500, 500)
    assert max(map(len, text.splitlines())) <= 80
    assert 3500 < len(text) <= 4000
    shown = len(text.splitlines()) - 2
    assert text.endswith(f"… and {500 - shown} more")


def test_a_table_ends_after_max_rows() -> None:
    assert as_table([ROW] * 3, 2).splitlines()[-1] == "… and 1 more"
    assert len(as_table([ROW] * 2, 2).splitlines()) == 3
