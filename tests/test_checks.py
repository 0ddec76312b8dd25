"""The operator that checks the history, and what a notifier is given when its table cannot be had."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_segstats import history
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import Observation
from airflow_provider_segstats.notifications import SegStatsNotifier, as_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.sql.hooks.sql import DbApiHook

NOW = datetime.now(tz=timezone.utc)
TONIGHT, LAST_NIGHT = NOW - timedelta(minutes=1), NOW - timedelta(days=1)


@pytest.fixture(autouse=True)
def _account(connect: Callable[..., None]) -> None:
    connect("http://127.0.0.1:9", account="acme")


def seen(updated: datetime, subscribed: int, segment_id: int = 7, source: str = "acme") -> Observation:
    return Observation(
        source, segment_id, 1, 24, "email", updated, {"subscribed": subscribed}, updated.date()
    )


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
    given(warehouse, seen(LAST_NIGHT, 100), seen(TONIGHT, 99))
    checked = Checked()
    assert (checked.failure, checked.findings) == ("", [])


def test_a_drop_fails_with_a_line_and_leaves_the_finding(warehouse: DbApiHook) -> None:
    given(warehouse, seen(LAST_NIGHT, 100), seen(TONIGHT, 40))
    checked = Checked()
    line = "segment 7, list 1, email: subscribed fell by 60% (100 to 40)"
    assert checked.failure == f"1 finding in segment_counters: {line}"
    assert [(of["kind"], of["before"], of["after"]) for of in checked.findings] == [("fell", 100, 40)]


@pytest.mark.parametrize("limits", [{"max_drop": "0.6"}, {"max_drop": 0.6}, {"min_count": "101"}])
def test_the_thresholds_decide_also_as_a_template_renders_them(
    warehouse: DbApiHook, limits: dict[str, Any]
) -> None:
    given(warehouse, seen(LAST_NIGHT, 100), seen(TONIGHT, 40))
    assert Checked(**limits).failure == ""


def test_a_segment_counted_too_long_ago_fails(warehouse: DbApiHook) -> None:
    given(warehouse, seen(LAST_NIGHT, 100))
    assert "segment 7 was last counted at" in Checked().failure
    assert Checked(max_age_hours="25").failure == ""


def test_many_findings_are_named_up_to_five_and_all_left(warehouse: DbApiHook) -> None:
    given(warehouse, *[seen(LAST_NIGHT, 100, segment_id) for segment_id in range(1, 9)])
    checked = Checked()
    assert checked.failure.startswith("8 findings in segment_counters: segment 1 was last counted")
    assert checked.failure.count("was last counted") == 5
    assert checked.failure.endswith("; and 3 more")
    assert [of["segment_id"] for of in checked.findings] == list(range(1, 9))


@pytest.mark.parametrize("segment_ids", [[7, 9], "[7, 9]", {7, "9"}])
def test_an_expected_segment_that_was_never_counted_fails_and_others_are_left_alone(
    warehouse: DbApiHook, segment_ids: Any
) -> None:
    given(warehouse, seen(TONIGHT, 100), seen(LAST_NIGHT, 100, 8))
    assert Checked(segment_ids=segment_ids).failure.endswith(": segment 9 was not counted")


def test_an_empty_history_fails(warehouse: DbApiHook) -> None:
    given(warehouse, seen(TONIGHT, 100, source="other"), seen(NOW - timedelta(days=9), 100))
    assert Checked().failure == "1 finding in segment_counters: no segment was counted"


def test_days_back_is_how_far_an_earlier_day_is_looked_for(warehouse: DbApiHook) -> None:
    given(warehouse, seen(NOW - timedelta(days=9), 100), seen(TONIGHT, 40))
    assert Checked().failure == ""
    assert "fell by 60%" in Checked(days_back=9).failure


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop": 1.1},
        {"max_drop": -0.1},
        {"max_drop": "half"},
        {"max_drop": True},
        {"min_count": "nan"},
        {"max_age_hours": -1},
        {"max_age_hours": 10**9},
        {"segment_ids": []},
        {"segment_ids": [0]},
        {"days_back": 0},
        {"table": "no table"},
    ],
)
def test_a_literal_that_cannot_be_is_refused_when_the_dag_is_parsed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SegmentCountersCheckOperator(task_id="check", sql_conn_id="warehouse", **wrong)


@pytest.mark.parametrize(
    "wrong", [{"max_drop": "{{ 2 }}"}, {"segment_ids": "{{ [] }}"}, {"segment_ids": ["{{ 7 }}"]}]
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


def test_findings_come_before_what_the_task_returned() -> None:
    assert sent(lambda key, **_: {"findings": [{"a": 1}], "return_value": [{"b": 2}]}[key]) == "<a\n1>"


def test_a_table_has_a_column_for_each_name_and_a_line_for_each_row() -> None:
    rows = [{"a": 1, "channel": "two\nlines"}, {"a": None, "channel": "sms", "new": 0}]
    assert as_table(rows, 9) == "a  channel    new\n1  two lines\n   sms        0"
