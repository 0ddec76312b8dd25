"""What the API's messages mean, as frozen values; no I/O and no format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

from airflow_provider_segstats.core.defaults import DatabaseId

T = TypeVar("T")

Row = dict[str, Any]
"""One channel of one result entry: see :meth:`TaskStatus.rows`."""

Kind = Literal["segment", "database", "resource"]
"""What can be recounted. Ids are of their kind: segment 7 and database 7 are two."""

ID_LABEL: Mapping[Kind, str] = {"segment": "segment_id", "database": "list_id", "resource": "resource_id"}
"""The label of a row that has the own id of what it is of."""


def titled(kind: str, id_: int, name: str | None) -> str:
    """Return what a segment, a database or a resource is called: ``segment 7``, ``Readers (7)``."""
    if name is None:
        return f"{kind} {id_}"
    return f"{name} ({id_})" if kind == "segment" else f"{kind} {name} ({id_})"


class Recountable:
    """What can be recounted, each kind by an endpoint of its own.

    ``extra_params`` are further body parameters, for servers newer than the specification; ``name`` is what
    people call it, where that is known.
    """

    kind: ClassVar[Kind]
    extra_params: Mapping[str, Any]
    name: str | None

    @property
    def id(self) -> int:
        """Its own id."""
        own: int = getattr(self, f"{self.kind}_id")
        return own

    @property
    def endpoint(self) -> str:
        """Where its recount is started."""
        return f"{self.kind}s/refresh_counters"

    def __str__(self) -> str:
        return titled(self.kind, self.id, self.name)

    def label(self, rows: Iterable[Row], name: str | None = None) -> list[Row]:
        """Return its rows with its id; its name, where that is known; and its kind, unless ``segment``."""
        labels = {"kind": None if self.kind == "segment" else self.kind, "name": name or self.name}
        known = {label: value for label, value in labels.items() if value}
        return [{**known, **row, ID_LABEL[self.kind]: self.id} for row in rows]


@dataclass(frozen=True)
class Segment(Recountable):
    """A segment to recount, as ``segments/refresh_counters`` names it.

    ``db_id`` is needed for dynamic segments only; ``auto`` has to be looked up first
    (:func:`flows.with_database`).
    """

    kind: ClassVar[Kind] = "segment"
    segment_id: int
    resource_id: int
    db_id: DatabaseId = None
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Selection:
    """Segments to recount that are chosen by what marks them, but for those that ``exclude`` names.

    The rest is as in :class:`Segment`, for each of them. To choose none is an error without
    ``allow_empty``.
    """

    resource_id: int
    ui_tags: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    groups_id: tuple[int, ...] = ()
    exclude: frozenset[int] = frozenset()
    db_id: DatabaseId = None
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    allow_empty: bool = False

    def __str__(self) -> str:
        marks = {"ui_tags": self.ui_tags, "groups": self.groups, "groups_id": self.groups_id}
        return ", ".join(f"{name} {list(values)}" for name, values in marks.items() if values)


@dataclass(frozen=True)
class Database(Recountable):
    """A whole database to recount for one resource, as ``databases/refresh_counters`` names it."""

    kind: ClassVar[Kind] = "database"
    database_id: int
    resource_id: int
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Resource(Recountable):
    """A resource to recount in one database, as ``resources/refresh_counters`` names it."""

    kind: ClassVar[Kind] = "resource"
    resource_id: int
    list_id: int
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


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
        rows = []
        for entry in self.entries:
            ids = {"segment_id": segment_id, "list_id": entry.list_id, "resource_id": entry.resource_id}
            rows += [_row(self.source, ids, channel, entry.updated) for channel in entry.channels]
        return rows


@dataclass(frozen=True)
class Counted:
    """A segment's counters as ``segments/get_counters`` has them: as last counted, whenever that was."""

    channels: tuple[Channel, ...]
    source: str = ""

    def rows(self, segment: Segment) -> list[Row]:
        """Return the counters as :meth:`TaskStatus.rows` does, marked ``"recounted": False``.

        ``list_id`` is the segment's ``db_id``, and ``updated`` None: the API does not say when it was.
        """
        ids = {
            "segment_id": segment.segment_id,
            "list_id": segment.db_id,
            "resource_id": segment.resource_id,
        }
        return [_row(self.source, ids, channel, None) | {"recounted": False} for channel in self.channels]


def _row(source: str, ids: Mapping[str, Any], channel: Channel, updated: str | None) -> Row:
    labels = {"source": source} if source else {}
    return {**labels, **ids, "channel": channel.name, **channel.counters, "updated": updated}


@dataclass(frozen=True)
class Group:
    """A group of objects, by which lists and a token's rights go."""

    group_id: int
    name: str


@dataclass(frozen=True)
class ListedSegment:
    """A segment as a list has it."""

    segment_id: int
    name: str
    ui_tags: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class ListedDatabase:
    """A database as a list has it."""

    database_id: int
    name: str
    ui_tags: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list: its things by their ids, the id to go on from, how many there are in all."""

    things: Mapping[int, T]
    next_from_id: int | None
    total_count: int | None


@dataclass(frozen=True)
class SegmentDetails:
    """A segment on its own.

    ``list_ids`` are the databases that its rules name, one of which a recount needs as ``db_id``; a static
    segment has none. ``count`` is how many profiles it had, None where the server does not say.
    """

    segment_id: int
    name: str
    count: int | None
    list_ids: tuple[int, ...]


@dataclass(frozen=True)
class DatabaseDetails:
    """A database on its own."""

    database_id: int
    name: str
    suppress_id: int | None
    description: str


@dataclass(frozen=True)
class ResourceDetails:
    """A resource on its own: the channels and the databases that it has."""

    resource_id: int
    name: str
    channels: tuple[str, ...]
    database_ids: tuple[int, ...]
    url: str
    trk_domain: str


NOTABLE = "subscribed_sendable"
"""The counter that matters most: whom a message would reach."""

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
