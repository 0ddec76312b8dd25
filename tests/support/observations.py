"""Observations for the tests of the history."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Any

from airflow_provider_segstats.history import Observation, observed

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


def seen(night: date | None = None, **changes: Any) -> Observation:
    """Return a row as an observation, with changes."""
    observation = observed({**ROW, **changes}, "acme", night)
    assert observation is not None
    return observation


def at(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
