"""The tables: their names, columns and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history.dialects import Type
from airflow_provider_segstats.tasks.arguments import is_template

DEFAULT_TABLE = "segment_counters"

# Not [A-Z]: quoted, a capital would be kept, and a query that does not quote would not find the table.
# 50 characters: PostgreSQL takes 63, and the longest of the names beside it is longer by 13.
_NAME = r"[a-z_][a-z0-9_]{0,49}"
_TABLE = re.compile(rf"(?:({_NAME})\.)?({_NAME})")


@dataclass(frozen=True)
class Table:
    """One of the tables: what its name ends in, its columns in order, and its key."""

    suffix: str
    columns: Mapping[str, Type]
    key: Sequence[str]
    index: Sequence[str] = ()

    def key_of(self, record: Sequence[Any]) -> tuple[Any, ...]:
        """Return a record's key, in the key's order."""
        columns = list(self.columns)
        return tuple(record[columns.index(column)] for column in self.key)

    @property
    def rest(self) -> list[str]:
        """The columns beside the key."""
        return [column for column in self.columns if column not in self.key]


OBSERVATIONS = Table(
    "",
    {
        "source": "text",
        "kind": "word",
        "segment_id": "id",
        "list_id": "id",
        "resource_id": "id",
        "channel": "text",
        "updated": "instant",
        "night": "date",
        "counters": "json",
    },
    # The segment leads: to choose by source alone is to choose nearly all, and SQLite would take this index
    # for it rather than the one by night.
    key=("segment_id", "source", "kind", "list_id", "resource_id", "channel", "updated"),
    index=("night", "segment_id"),
)
NIGHTS = Table(
    "_nights",
    {
        "source": "text",
        "dag_id": "run",
        "run_id": "run",
        "night": "date",
        "run_after": "instant",
        "kind": "word",
        "id": "id",
        "outcome": "word",
        "reason": "line",
    },
    key=("source", "dag_id", "run_id", "kind", "id"),
    index=("night", "id"),
)
NAMES = Table(
    "_names",
    {
        "source": "text",
        "kind": "word",
        "id": "id",
        "name": "text",
        "first_seen": "date",
        "last_seen": "date",
    },
    key=("source", "kind", "id", "name"),
)
LATEST = Table(
    "_latest",
    {
        "source": "text",
        "kind": "word",
        "id": "id",
        "night": "date",
        "updated": "instant",
        "total": "count",
        "night_change": "count",
        "week_change": "count",
        "channels": "json",
    },
    key=("source", "kind", "id"),
)
TABLES = (OBSERVATIONS, NIGHTS, NAMES, LATEST)
COUNTS = "_counts"
"""What the view's name ends in."""

NULLABLE = {"reason", "total", "night_change", "week_change"}


def check_table(table: Any) -> None:
    """Refuse a literal that names no table; templates and other tasks' outputs are left for later."""
    if isinstance(table, str) and not is_template(table):
        parts(table)


def parts(table: Any) -> tuple[str | None, str]:
    """Return schema (or None) and name. Nothing else gets into a statement's text unchecked."""
    found = _TABLE.fullmatch(table) if isinstance(table, str) else None
    if found is None:
        raise ConfigurationError(
            "a table is named in small letters, digits and underscores, with up to 50 characters, as name "
            f"or schema.name; not {table!r}"
        )
    return found[1], found[2]
