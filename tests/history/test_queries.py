"""The ten queries of ``docs/history.md``, against figures reckoned by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from support.observations import TABLE, at, seen
from support.paths import DOCS, code_blocks

from airflow_provider_segstats import history
from airflow_provider_segstats.history import Observation, Outcome

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

QUERIES = code_blocks(DOCS / "history.md", "sql")

COUNTED = [  # night, account, segment, name, channel, count
    ("2026-01-31", "acme", 7, "Readers", "email", 100),
    ("2026-02-01", "acme", 7, "Readers", "email", 110),
    ("2026-02-01", "acme", 8, "Buyers", "email", 1000),
    ("2026-02-01", "acme", 9, "Old", "email", 30),
    ("2026-02-02", "acme", 7, "Readers", "email", 120),
    ("2026-02-02", "acme", 8, "Buyers", "email", 900),
    ("2026-02-02", "acme", 9, "Old", "email", 30),
    ("2026-02-08", "acme", 7, "Keen readers", "email", 150),
    ("2026-02-08", "acme", 7, "Keen readers", "sms", 40),
    ("2026-02-09", "acme", 7, "Keen readers", "email", 160),
    ("2026-02-09", "acme", 7, "Keen readers", "sms", 50),
    ("2026-02-09", "other", 7, None, "email", 5),
]
MISSED = [  # and what came of it
    ("2026-02-08", "acme", 8, "failed", "timed out"),
    ("2026-02-09", "acme", 8, "failed", "timed out"),
    ("2026-02-09", "acme", 10, "not_submitted", "402"),
]

EXPECTED: list[list[tuple[Any, ...]]] = [
    [
        ("acme", 7, "email", "2026-02-08", 150),
        ("acme", 7, "email", "2026-02-09", 160),
        ("acme", 7, "sms", "2026-02-08", 40),
        ("acme", 7, "sms", "2026-02-09", 50),
        ("other", 7, "email", "2026-02-09", 5),
    ],
    [
        ("acme", "2026-02-01", 1140, 3),
        ("acme", "2026-02-02", 1050, 3),
        ("acme", "2026-02-08", 190, 1),
        ("acme", "2026-02-09", 210, 1),
        ("other", "2026-02-09", 5, 1),
    ],
    [("acme", 7, "2026-02-08", 30), ("acme", 7, "2026-02-09", 20)],
    MISSED,
    [
        ("acme", 8, "Buyers", 900, "2026-02-02"),
        ("acme", 7, "Keen readers", 210, "2026-02-09"),
        ("acme", 9, "Old", 30, "2026-02-02"),
        ("other", 7, None, 5, "2026-02-09"),
    ],
    [("acme", 7, 210, 40)],
    [("acme", 8, "2026-02-02", "2026-02-09", 2), ("acme", 10, None, "2026-02-09", 1)],
    [("acme", 9, "2026-02-02", 30)],
    [
        ("acme", 7, "email", 160, 76.2),
        ("acme", 7, "sms", 50, 23.8),
        ("acme", 8, "email", 900, 100),
        ("acme", 9, "email", 30, 100),
        ("other", 7, "email", 5, 100),
    ],
    [
        ("acme", "2026-01", 1, 100, 100),
        ("acme", "2026-02", 4, 190, 1140),
        ("other", "2026-02", 1, 5, 5),
    ],
]


def observation(counted: tuple[str, str, int, str | None, str, int]) -> Observation:
    night, account, segment_id, name, channel, count = counted
    return seen(
        date.fromisoformat(night),
        updated=f"{night}T03:00:00Z",
        source=account,
        segment_id=segment_id,
        name=name,
        channel=channel,
        subscribed_sendable=count,
    )


def outcome(night: str, account: str, segment_id: int, what: Any, reason: str | None) -> Outcome:
    run_after = at(f"{night}T02:00:00")
    day = date.fromisoformat(night)
    return Outcome(account, "nightly", f"run {night}", day, run_after, "segment", segment_id, what, reason)


def plain(value: Any) -> Any:
    """Return a value whatever a driver makes of it."""
    if isinstance(value, date):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value


def test_the_ten_queries_of_the_docs_give_what_was_reckoned_by_hand(hook: DbApiHook) -> None:
    counted = {(night, account, number, "counted", None) for night, account, number, *_ in COUNTED}
    outcomes = [outcome(*one) for one in (*counted, *MISSED)]
    history.write(hook, TABLE, list(map(observation, COUNTED)), outcomes)
    found = [[tuple(map(plain, record)) for record in hook.get_records(query)] for query in QUERIES]
    assert found == EXPECTED
