"""What has moved or come since Airflow 3.1, the oldest that is supported. All else imports it from here."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

BEFORE_3_2 = False

try:
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralTimeout,
    )
except ImportError:
    BEFORE_3_2 = True
    from airflow.configuration import conf
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]  # known where they are now
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowRescheduleException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferralTimeout,
    )

__all__ = [
    "BEFORE_3_2",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowRescheduleException",
    "AirflowRuntimeError",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "TaskDeferralTimeout",
    "conf",
    "newest",
    "stats",
]


def stats() -> Any:
    """Return Airflow's interface for metrics."""
    try:
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # before 3.2
        from airflow.stats import Stats
    return Stats


def newest(events: Any, most: int) -> Any:
    """Return the newest of an inlet's asset events, the newest first, so many at most."""
    if hasattr(events, "ascending"):
        return events.ascending(False).limit(most)
    return reversed([*events][-most:])  # before 3.2 there is no asking for less than all
