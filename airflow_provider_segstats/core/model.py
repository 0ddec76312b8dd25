"""What the API's messages mean, as frozen values; no I/O and no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""One channel of one result entry: see :meth:`TaskStatus.rows`."""


@dataclass(frozen=True)
class Segment:
    """A segment to recount, as ``segments/refresh_counters`` names it.

    ``db_id`` is needed for dynamic segments only; ``extra_params`` are further body parameters, for
    servers newer than the specification.
    """

    segment_id: int
    resource_id: int
    db_id: int | None = None
    extra_params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Channel:
    """One channel's counters. Both the channels and the counters are open sets."""

    name: str
    counters: Mapping[str, int | None]


@dataclass(frozen=True)
class Entry:
    """One entry of a finished task's ``result``."""

    channels: tuple[Channel, ...]
    in_progress: bool
    list_id: int | None
    resource_id: int | None
    updated: str


@dataclass(frozen=True)
class TaskStatus:
    """What ``tasks/status`` says of a task.

    ``status`` is spelled as the server does, ``progress`` in per cent, ``text`` what the server says of
    a failure, if anything; ``source`` is the connection's account, empty where none is known.
    """

    status: str
    progress: int | None
    entries: tuple[Entry, ...]
    text: str = ""
    source: str = ""

    def rows(self, segment_id: int | None) -> list[Row]:
        """Return the counters as rows, one for each channel of each entry, in the server's order.

        A row is ``{"source", "segment_id", "list_id", "resource_id", "channel", <every counter>,
        "updated"}``: numbers are ints, ``updated`` is the API's own string (UTC). The API's result does
        not carry the segment's id, so the caller gives it (or None). No entries: an empty list.
        """
        labels = {"source": self.source} if self.source else {}
        return [
            {
                **labels,
                "segment_id": segment_id,
                "list_id": entry.list_id,
                "resource_id": entry.resource_id,
                "channel": channel.name,
                **channel.counters,
                "updated": entry.updated,
            }
            for entry in self.entries
            for channel in entry.channels
        ]


ROW_LABELS = frozenset(
    {
        *("source", "kind", "segment_id", "name", "list_id", "resource_id", "channel"),
        *("updated", "recounted"),
    }
)
"""The columns of a row that are not counters, whether or not a row has them.

A row without ``source`` is of an account not known, one without ``kind`` of a segment, one without
``recounted`` of a recount; ``name`` is the segment's.
"""
