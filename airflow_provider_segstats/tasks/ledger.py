"""What a task that refreshes many segments knows of each, kept so that nothing is lost or done twice.

Every change is an entry: a JSON list of its name, the segment's id and what it says. Entries are applied in
memory and appended to ``task_state_store`` (Airflow 3.3), page by page, since a value there is to stay
under 64 KB. A later try, or the next worker after a deferral, reads the pages and knows the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_segstats.core.errors import SegStatsError, TaskFailedError, error_from_dict
from airflow_provider_segstats.core.model import Row
from airflow_provider_segstats.tasks.submission import Life

PAGE_SIZE = 60_000
"""Bytes of JSON in a page at most; only a single row larger than that makes a larger one."""

Entry = list[Any]


class Store(Protocol):
    """What is used of ``context["task_state_store"]``."""

    def get(self, key: str) -> Any:
        """Return a value, or None."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""


@dataclass(slots=True)
class Recount:
    """One segment's recount: how far it came. Its methods are the changes that a ledger keeps.

    ``in_doubt`` means that it was to be submitted and nothing is known of it since. ``rows`` are there once
    it is done, ``error`` once it went wrong in this try, or for good in an earlier one. ``forgotten``: the
    server no longer knew an earlier task of it.
    """

    in_doubt: bool = False
    task_id: str | None = None
    since: float | None = None
    rows: list[Row] | None = None
    error: SegStatsError | None = None
    forgotten: bool = False
    parts: list[Row] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come in this try."""
        return self.rows is not None or self.error is not None

    def intend(self) -> None:
        """Note that it is about to be submitted."""
        self.in_doubt = True

    def withdraw(self) -> None:
        """Note that it was not submitted after all."""
        self.in_doubt = False

    def submit(self, task_id: str, since: float) -> None:
        """Note that it was submitted, and when (seconds since the epoch)."""
        self.task_id, self.since, self.in_doubt = task_id, since, False

    def again(self, forgotten: bool) -> None:
        """Have it submitted afresh: its task failed, or the server has forgotten it."""
        self.task_id, self.forgotten = None, forgotten

    def part(self, rows: list[Row], at: int) -> None:
        """Take some of its rows, which are too many for one entry: those from number ``at`` on.

        Were there more already, then whoever wrote them did not live to write the last.
        """
        self.parts[at:] = rows

    def finish(self, rows: list[Row], at: int) -> None:
        """Take its rows, or the last of them, from number ``at`` on: it is done."""
        self.rows, self.parts = [*self.parts[:at], *rows], []

    def fail(self, error: dict[str, Any]) -> None:
        """Note what went wrong."""
        self.error, self.in_doubt = error_from_dict(error), False

    def retry(self) -> None:
        """Forget what went wrong, unless it cannot get better: a new try begins."""
        if self.error and not self.error.permanent:
            if isinstance(self.error, TaskFailedError):  # it would only fail again: another is to be started
                self.task_id = None
            self.error = None


_CHANGES = {"intend", "withdraw", "submit", "again", "part", "finish", "fail"}


class Ledger:
    """The recounts of a task's segments, in the order of its list; and why submitting stopped, if it did."""

    def __init__(self, segment_ids: Iterable[int], store: Store | None, life: Life) -> None:
        self.recounts = {segment_id: Recount() for segment_id in segment_ids}
        self.stopped: SegStatsError | None = None
        self.submits = 0
        self._store = store
        self._life = {"max_tries": life.max_tries, "clear_number": life.clear_number}
        self._page = 0
        self._entries: list[Entry] = []
        self._size = 0
        self._read()

    def record(self, entries: Iterable[Entry]) -> None:
        """Apply changes of recounts, ``[name, segment_id, …]``, and keep them."""
        unwritten = False
        for entry in entries:
            self._apply(entry)
            size = _size(entry)
            if self._entries and self._size + size > PAGE_SIZE:
                self._write()
                self._page, self._entries, self._size = self._page + 1, [], 0
            self._entries.append(entry)
            self._size += size
            unwritten = True
        if unwritten:
            self._write()

    def begin_try(self) -> None:
        """Start over with what went wrong in an earlier try, but for what cannot get better."""
        self.record([["try", None]])

    def stop(self, error: SegStatsError) -> None:
        """Submit no more in this try, for this reason."""
        self.record([["stop", None, error.to_dict()]])

    @property
    def fresh(self) -> list[int]:
        """The segments still to be submitted."""
        return [
            segment_id
            for segment_id, recount in self.recounts.items()
            if not (recount.in_doubt or recount.task_id or recount.ended)
        ]

    @property
    def in_doubt(self) -> list[int]:
        """The segments that were to be submitted and of which nothing is known."""
        return [segment_id for segment_id, recount in self.recounts.items() if recount.in_doubt]

    @property
    def open(self) -> dict[int, str]:
        """The task ids of the recounts under way, by segment."""
        return {
            segment_id: recount.task_id
            for segment_id, recount in self.recounts.items()
            if recount.task_id and not recount.ended
        }

    @property
    def errors(self) -> dict[int, SegStatsError]:
        """What went wrong, by segment."""
        return {segment_id: recount.error for segment_id, recount in self.recounts.items() if recount.error}

    @property
    def rows(self) -> list[Row]:
        """The rows of all segments that are done, in the order of the list."""
        return [row for recount in self.recounts.values() for row in recount.rows or ()]

    def _apply(self, entry: Entry) -> None:
        name, segment_id, *said = entry
        if name == "try":
            self.stopped = None
            for recount in self.recounts.values():
                recount.retry()
        elif name == "stop":
            self.stopped = error_from_dict(*said)
        elif name in _CHANGES:
            self.submits += name == "submit"
            # The list may have changed between two tries.
            if segment_id in self.recounts:
                getattr(self.recounts[segment_id], name)(*said)

    def _read(self) -> None:
        """Read what an earlier try, or an earlier worker of this one, has written."""
        while (entries := self._entries_of(self._page)) is not None:
            for entry in entries:
                self._apply(entry)
            self._page, self._entries, self._size = self._page + 1, entries, sum(map(_size, entries))
        self._page = max(0, self._page - 1)

    def _entries_of(self, page: int) -> list[Entry] | None:
        """Return a page's entries; None past the last, and for a page from before a clear."""
        value = self._store.get(_key(page)) if self._store else None
        if not isinstance(value, dict) or {name: value.get(name) for name in self._life} != self._life:
            return None
        return list(value["entries"])

    def _write(self) -> None:
        if self._store:
            self._store.set(_key(self._page), {**self._life, "entries": self._entries})


def rows_entries(segment_id: int, rows: list[Row]) -> Iterator[Entry]:
    """Yield the change that ends a recount, with parts before it where the rows do not fit into a page."""
    at = size = 0
    for number, row in enumerate(rows):
        if number > at and size + _size(row) > PAGE_SIZE // 2:
            yield ["part", segment_id, rows[at:number], at]
            at, size = number, 0
        size += _size(row)
    yield ["finish", segment_id, rows[at:], at]


def _key(page: int) -> str:
    return f"segstats_recounts_{page}"


def _size(value: Any) -> int:
    """Return the bytes that a value takes in a list."""
    return len(json.dumps(value)) + len(", ")
