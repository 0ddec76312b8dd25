"""Airflow's ``task_state_store`` (3.3), with patience for an API server that is being restarted.

Airflow's own client gives up within half a minute. After a submit that would lose an id that is known: the
retry could only take it for a lost answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_segstats.lookups import AwayError, patiently, status_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.tasks.submission import Life

T = TypeVar("T")


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
    def ask() -> T:
        try:
            return call()
        except AirflowRuntimeError as error:
            status = status_of(error.error)
            if status is not None and status < 500:  # final; 404 says that this try is not the current one
                raise
            raise AwayError(
                "Airflow's own API server could not be asked to keep what is known of this task; "
                "is it running?"
            ) from error

    return patiently(ask)
