"""Airflow's ``task_state_store`` (3.3), with patience for an API server that is being restarted.

Airflow's own client gives up within half a minute. After a submit that would lose an id that is known: the
retry could only take it for a lost answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_segstats.boundary.lookups import patiently, status_of
from airflow_provider_segstats.boundary.versions import AirflowRuntimeError
from airflow_provider_segstats.core.errors import AwayError

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")

PAGE_SIZE = 60_000
"""Bytes of JSON in a value at most: beyond 64 KB Airflow warns. Only an item larger than that makes more."""

FIRST_LOOK = "segstats_first_look"


class Store(Protocol):
    """What is used of ``context["task_state_store"]``."""

    def get(self, key: str, /) -> Any:
        """Return a value, or None."""

    def set(self, key: str, value: Any, /) -> None:
        """Keep a value."""


class PatientStore:
    """The store of one task instance."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        return _patiently(lambda: self._store.get(key))

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        _patiently(lambda: self._store.set(key, value))


class MemoryStore(dict[str, Any]):
    """What stands in for the store on an Airflow without: it does not outlive the worker."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self[key] = value


@dataclass(frozen=True)
class Life:
    """A task instance's life between two clears: the same over all its retries.

    Airflow keeps a store over retries *and* over clears, but a cleared task has to submit afresh. A clear of
    a finished task resets ``ti.max_tries``, one of a running task raises ``dag_run.clear_number``.
    """

    max_tries: int
    clear_number: int


def store_of(context: Context) -> PatientStore | None:
    """Return the task's store, None on an Airflow without."""
    store = context.get("task_state_store")
    return None if store is None else PatientStore(store)


def life_of(context: Context) -> Life:
    """Return what tells the task's life between two clears from the others."""
    return Life(context["ti"].max_tries, getattr(context["dag_run"], "clear_number", None) or 0)


def first_look(context: Context, task_id: str) -> str | None:
    """Return the URL at which this try first looked at a task; None before that, or without a store."""
    store = store_of(context)
    kept: Any = store.get(FIRST_LOOK) if store else None
    return kept["base_url"] if kept and kept["of"] == [context["ti"].try_number, task_id] else None


def keep_first_look(context: Context, task_id: str, base_url: str | None) -> None:
    """Keep that URL over a reschedule, which leaves a try nothing else: Airflow clears its XComs then."""
    if store := store_of(context):
        store.set(FIRST_LOOK, {"of": [context["ti"].try_number, task_id], "base_url": base_url})


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


def chunks(items: Iterable[T], limit: int) -> Iterator[list[T]]:
    """Yield the items in lists of so many bytes of JSON at most, but for an item that alone is larger."""
    chunk: list[T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if chunk and size + more > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += more
    if chunk:
        yield chunk


def size_of(value: Any) -> int:
    """Return the bytes of JSON that a value takes in a list."""
    return len(json.dumps(value)) + len(", ")
