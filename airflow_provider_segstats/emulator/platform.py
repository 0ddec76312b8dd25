"""What there is on the platform: segments, databases, resources, and who may see which.

From a seed, a JSON object of lists, each of objects with an ``id`` and a ``name``::

    {"segments": [{"id": 7, "name": "Readers", "ui_tags": ["weekly"], "groups": [1], "databases": [3],
                   "static": false, "resources": [24], "size": 12000, "growth": 0.1,
                   "weekly": [1, 1, 1, 1, 1, 0.6, 0.5]}],
     "groups": [{"id": 1, "name": "north"}],
     "databases": [{"id": 3, "name": "Customers", "size": 90000, "description": ""}],
     "resources": [{"id": 24, "name": "Shop", "channels": ["email", "push"], "databases": [3]}],
     "tokens": [{"token": "narrow", "may_list": false, "segments": [7], "databases": [3]}]}

Without a seed every id there is can be counted, and one database is listed.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from airflow_provider_segstats.emulator.errors import RefusedError
from airflow_provider_segstats.emulator.numbers import CHANNELS, counters, further_counters

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
_LARGEST: Final = 10**12
N = TypeVar("N", bound="Named")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Anything with an id and a name."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment(Named):
    """A segment: dynamic, with rules on its `databases`, or `static`, of which each may be counted.

    Counted for its `resources` only, or for any if it names none. `size`, `growth` and `weekly` are those of
    `numbers.counters`.
    """

    ui_tags: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    resources: tuple[int, ...] = ()
    databases: tuple[int, ...] = ()
    static: bool = False
    size: float | int | None = None
    growth: float | int | None = None
    weekly: tuple[float | int, ...] = ()

    def __post_init__(self) -> None:
        if not self.static and not self.databases:
            raise RefusedError("a dynamic segment needs databases")
        if len(self.weekly) not in (0, 7) or not all(0 <= factor < math.inf for factor in self.weekly):
            raise RefusedError("weekly must be seven factors, Monday's first")
        if not 0 <= (self.size or 0) < _LARGEST or not -1 < (self.growth or 0) < _LARGEST:
            raise RefusedError("size must not be negative, and growth more than -1")

    @property
    def list_id(self) -> int:
        """The database whose profiles are counted unless the request names one."""
        return self.databases[0] if self.databases else self.id % 9 + 1

    def counted(self, resource_id: int, channel: str, day: int) -> dict[str, int]:
        """Return a channel's counters on a day."""
        return counters(
            self.id, resource_id, channel, day, size=self.size, growth=self.growth, weekly=self.weekly
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Database(Named):
    """A database of profiles; `size` is made up where not given."""

    size: float | int | None = None
    suppress_id: int = 0
    description: str = ""
    ui_tags: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= (self.size or 0) < _LARGEST:
            raise RefusedError("size must not be negative")

    @property
    def list_id(self) -> int:
        """Its own id."""
        return self.id

    def counted(self, resource_id: int, channel: str, day: int) -> dict[str, int]:
        """Return a channel's counters on a day."""
        return further_counters(counters(f"database {self.id}", resource_id, channel, day, size=self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Named):
    """What people subscribe to: its `channels`, and the `databases` that have subscribers; any if none."""

    channels: tuple[str, ...] = CHANNELS
    databases: tuple[int, ...] = ()
    url: str = ""
    trk_domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Someone who asks: the segments and databases that it may see (None: all), and whether it may list."""

    token: str = field(repr=False)
    may_list: bool = True
    segments: tuple[int, ...] | None = None
    databases: tuple[int, ...] | None = None

    def sees(self, thing: Named) -> bool:
        """Return whether it may see a segment or a database; resources are everyone's."""
        ids = {Segment: self.segments, Database: self.databases}.get(type(thing))
        return ids is None or thing.id in ids


class Platform:
    """The objects there are, by id. What a seed leaves out is unknown; without a seed nothing is."""

    def __init__(self, seed: Mapping[str, Any] | None = None) -> None:
        self._open = seed is None
        if seed is None:
            seed = {"databases": [{"id": 1, "name": "Customers"}]}
        if not isinstance(seed, dict) or not set(KINDS) >= seed.keys():
            raise RefusedError(f"seed: must be a JSON object with any of {', '.join(KINDS)}")
        self.segments = _by_id(_read(seed, "segments", Segment))
        self.groups = _by_id(_read(seed, "groups", Named))
        self.databases = _by_id(_read(seed, "databases", Database))
        self.resources = _by_id(_read(seed, "resources", Resource))
        self.tokens = {token.token: token for token in _read(seed, "tokens", Token)}
        for holder in (*self.segments.values(), *self.databases.values(), *self.resources.values()):
            for name in ("groups", "databases", "resources"):
                if unknown := set(getattr(holder, name, ())) - getattr(self, name).keys():
                    raise RefusedError(f"seed: {holder.name!r} is of {name} that are not there: {unknown}")

    def segment(self, segment_id: int) -> Segment | None:
        """Return a segment; without a seed any is there, static."""
        found = self.segments.get(segment_id)
        return made_up_segment(segment_id) if found is None and self._open else found

    def database(self, database_id: int) -> Database | None:
        """Return a database; without a seed any is there."""
        found = self.databases.get(database_id)
        return made_up_database(database_id) if found is None and self._open else found

    def resource(self, resource_id: int) -> Resource | None:
        """Return a resource; without a seed any is there, with three channels."""
        found = self.resources.get(resource_id)
        return made_up_resource(resource_id) if found is None and self._open else found


def made_up_segment(segment_id: int) -> Segment:
    """Return the segment that has this id where no seed says what it is."""
    return Segment(id=segment_id, name=f"Segment {segment_id}", static=True)


def made_up_database(database_id: int) -> Database:
    """Return the database that has this id where no seed says what it is."""
    return Database(id=database_id, name=f"Database {database_id}")


def made_up_resource(resource_id: int) -> Resource:
    """Return the resource that has this id where no seed says what it is."""
    return Resource(id=resource_id, name=f"Resource {resource_id}")


def read_seed(file: str | Path) -> dict[str, Any]:
    """Return the seed in a JSON file; raises `RefusedError` if there is none."""
    try:
        seed: dict[str, Any] = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise RefusedError(f"seed: {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RefusedError(f"seed: {file} is not JSON") from None
    return seed


KINDS: Final = ("segments", "groups", "databases", "resources", "tokens")


def _read(seed: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    """Return the seed's objects of one kind; the error for one that makes no sense says which it is."""
    items = seed.get(name, [])
    if not isinstance(items, list):
        raise RefusedError(f"seed: {name} must be a list")
    hints = get_type_hints(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING}  # type: ignore[arg-type] # a dataclass
    found = []
    for number, item in enumerate(items, 1):
        where = f"seed: number {number} of the {name}"
        if not isinstance(item, dict) or not hints.keys() >= item.keys() >= needed:
            raise RefusedError(
                f"{where} must be an object with {' and '.join(sorted(needed))}, of {', '.join(hints)}"
            )
        try:
            found.append(kind(**{field: _value(field, value, hints[field]) for field, value in item.items()}))
        except RefusedError as error:
            raise RefusedError(f"{where}: {error}") from None
    return found


def _value(name: str, value: Any, hint: Any) -> Any:
    """Return a field's value, a list as a tuple; refuse one that is not of its type."""
    for option in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if get_origin(option) is tuple:
            if isinstance(value, list):
                return tuple(_value(name, item, get_args(option)[0]) for item in value)
        elif isinstance(value, option) and isinstance(value, bool) is (option is bool):
            return value
    raise RefusedError(f"{name} cannot be {value!r}")


def _by_id(things: list[N]) -> dict[int, N]:
    """Return things by their ids, in the ids' order."""
    found = {thing.id: thing for thing in sorted(things, key=attrgetter("id"))}
    if len(found) < len(things) or any(thing_id < 1 for thing_id in found):
        raise RefusedError(
            f"seed: the ids of the {type(things[0]).__name__.lower()}s must be above 0, no two alike"
        )
    return found


ANY: Final = Platform()
"""The platform of an emulator without a seed."""
