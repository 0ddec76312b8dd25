"""Airflow's ``task_state_store`` (3.3), with patience for an API server that is being restarted.

Airflow's own client gives up within some ten seconds. After a submit that would lose an id that is known:
the retry could only take it for a lost answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowRuntimeError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.tasks.submission import Life

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds. Airflow itself ends a task that could not send a heartbeat for about that long."""


class PatientStore:
    """The store of one task instance."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        return _patiently(lambda: self._store.get(key))

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        _patiently(lambda: self._store.set(key, value))

    def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        _patiently(lambda: self._store.delete(key))


def store_of(context: Context) -> PatientStore | None:
    """Return the task's store, None on an Airflow without."""
    store = context.get("task_state_store")
    return None if store is None else PatientStore(store)


def life_of(context: Context) -> Life:
    """Return what tells the task's life between two clears from the others."""
    from airflow_provider_segstats.tasks.submission import Life

    return Life(context["ti"].max_tries, getattr(context["dag_run"], "clear_number", None) or 0)


def _patiently(call: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE
    pause = 0.5
    while True:
        try:
            return call()
        except AirflowRuntimeError as error:
            status = (error.error.detail or {}).get("status_code")
            # Any other answer is final; 404 says that this try is no longer the current one.
            is_away = status is None or status >= 500
            if not is_away or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)
