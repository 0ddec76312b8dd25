"""The table that counters become history in: how it is made, written and read. Its database is any hook's.

One row is one observation: what the platform counted for a segment's channel at one instant. Rows are
only ever added. The key says which observation it is, so that adding one again changes nothing:

=============  ============================================================================================
source         the platform's account (the segstats connection's ``account``)
segment_id     the segment
list_id        the database that was counted; 0 where the API names none
resource_id    the resource that was counted; 0 where the API names none
channel        ``email``, ``sms``, …
updated        when the platform counted, in UTC
=============  ============================================================================================

Beside the key stand ``day`` (the UTC date of ``updated``, computed by the database) and ``counters``, a
JSON object. JSON, since counters are an open set: a new one needs no new column, an observation stays
one row (and so is there whole or not at all), and PostgreSQL and SQLite (3.38) both read one with
``counters ->> 'subscribed_sendable'``. 0 and not NULL for a missing id: NULLs are never equal, so they
would let an observation in twice, and would fall out of every join of one day with another.

Times are ``TIMESTAMPTZ`` in PostgreSQL and text of one width (``2026-02-03T03:00:01.500000Z``) in
SQLite, where they sort and compare as they should; both keep microseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import ROW_LABELS, Row
from airflow_provider_segstats.tasks.arguments import is_template

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

DEFAULT_TABLE = "segment_counters"

# The segment leads: to choose by source alone is to choose nearly all, and SQLite would take this index for
# it rather than the one by day.
_KEY = "segment_id, source, list_id, resource_id, channel, updated"
_COLUMNS = f"{_KEY}, counters"
# 700 parameters: every build of SQLite takes 999, and psycopg gets slower a row with many more.
_ROWS_A_STATEMENT = 100

# COLLATE "C" sorts text as SQLite and Python do, whatever the database's locale.
_CREATE = {
    "postgresql": f"""
        CREATE TABLE {{schema}}"{{name}}" (
            source TEXT COLLATE "C" NOT NULL,
            segment_id BIGINT NOT NULL,
            list_id BIGINT NOT NULL,
            resource_id BIGINT NOT NULL,
            channel TEXT COLLATE "C" NOT NULL,
            updated TIMESTAMPTZ NOT NULL,
            day DATE GENERATED ALWAYS AS (CAST(updated AT TIME ZONE 'UTC' AS DATE)) STORED,
            counters JSONB NOT NULL,
            PRIMARY KEY ({_KEY})
        );
        CREATE INDEX "{{name}}_day" ON {{schema}}"{{name}}" (day)
    """,
    "sqlite": f"""
        CREATE TABLE {{schema}}"{{name}}" (
            source TEXT NOT NULL,
            segment_id INTEGER NOT NULL,
            list_id INTEGER NOT NULL,
            resource_id INTEGER NOT NULL,
            channel TEXT NOT NULL,
            updated TEXT NOT NULL,
            day TEXT GENERATED ALWAYS AS (substr(updated, 1, 10)) STORED,
            counters TEXT NOT NULL,
            PRIMARY KEY ({_KEY})
        );
        CREATE INDEX {{schema}}"{{name}}_day" ON "{{name}}" (day)
    """,
}

# Not [A-Z]: quoted, a capital would be kept, and a query that does not quote would not find the table.
# 59 characters: PostgreSQL takes 63, and the index's name is longer by 4.
_NAME = r"[a-z_][a-z0-9_]{0,58}"
_TABLE = re.compile(rf"(?:({_NAME})\.)?({_NAME})")
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d):?(\d\d))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the platform counted for one channel of a segment at one instant.

    ``list_id`` and ``resource_id`` are None where the API names none; ``updated`` is in UTC.
    """

    source: str
    segment_id: int
    list_id: int | None
    resource_id: int | None
    channel: str
    updated: datetime
    counters: Mapping[str, int | None]


def observed(row: Row, source: str) -> Observation | None:
    """Return a row (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`) as an observation.

    Its account is its own ``source``, else the one given.

    None when ``updated`` is empty: what was counted at no known instant is no observation, and with an
    instant made up here each retry would add another. A row without ``segment_id``, or with an
    ``updated`` that cannot be read, raises :class:`ConfigurationError`.
    """
    if row.get("segment_id") is None:
        raise ConfigurationError(
            "a row has no segment_id, which the API's result does not carry: give segment_id to the sensor "
            f"or operator that the rows come from; the row is {dict(row)!r}"
        )
    if row.get("channel") is None:
        raise ConfigurationError(f"a row has no channel; the row is {dict(row)!r}")
    if not row.get("updated"):
        return None
    return Observation(
        source=row.get("source") or source,
        segment_id=required_id("segment_id", row["segment_id"]),
        list_id=_optional_id(row, "list_id"),
        resource_id=_optional_id(row, "resource_id"),
        channel=str(row["channel"]),
        updated=instant(row["updated"]),
        counters={name: value for name, value in row.items() if name not in ROW_LABELS},
    )


def instant(text: str) -> datetime:
    """Return the API's ``updated`` as a datetime in UTC, to the microsecond.

    The fraction may have any number of digits, or none; without an offset the time is UTC.
    """
    found = _INSTANT.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if found is None:
            raise ValueError  # noqa: TRY301 - told below, as a day or an hour that does not exist
        day, time, fraction, hours, minutes = found.groups()
        microseconds = (fraction or "")[:6].ljust(6, "0")
        offset = f"{hours}:{minutes}" if hours else "+00:00"
        return datetime.fromisoformat(f"{day}T{time}.{microseconds}{offset}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"updated must be a time such as 2026-02-03T03:00:01.5Z, not {text!r}"
        ) from None


def database(conn_id: str) -> DbApiHook:
    """Return the hook of an Airflow connection to a database."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        hook = BaseHook.get_hook(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError("there is no such connection to a database", connection=conn_id) from None
    if not isinstance(hook, DbApiHook):
        raise ConfigurationError("this connection is none to a SQL database", connection=conn_id)
    return hook


def check_table(table: Any) -> None:
    """Refuse a literal that names no table; a template is left for later."""
    if not is_template(table):
        _parts(table)


def create(hook: DbApiHook, table: str) -> None:
    """Create the table and its index where there is none of that name; a table that is there stays as it is.

    For PostgreSQL and SQLite; elsewhere create it as this module describes it.
    """
    schema, name = _parts(table)
    if _exists(hook, table):
        return
    if (ddl := _CREATE.get(hook.dialect_name)) is None:
        raise ConfigurationError(
            f"cannot create {table} in a database of the kind {hook.dialect_name!r}: create it beforehand"
        )
    statements = ddl.format(schema=f'"{schema}".' if schema else "", name=name).split(";")
    try:
        with closing(_connect(hook)) as connection, closing(connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()
    except Exception:
        if not _exists(hook, table):  # when it does, another run was faster
            raise


def write(hook: DbApiHook, table: str, observations: Iterable[Observation]) -> dict[str, int]:
    """Add the observations that are not there yet, all or none, and return how many of each.

    One transaction, in which ``observations`` is read as it goes: memory does not grow with it. What was
    written first stays; the table's key decides, also between two writers at once. (Should those bring the
    same observations in different orders, the database may end one of them as a deadlock: it has written
    nothing and can try again.) Returns ``{"inserted": …, "already_there": …}``. The database must know
    ``INSERT … ON CONFLICT … DO NOTHING``.
    """
    mark = hook.placeholder
    values = f"({', '.join([mark] * 7)})"
    head = f"INSERT INTO {_quoted(table)} ({_COLUMNS}) VALUES "  # noqa: S608 - checked and quoted
    tail = f" ON CONFLICT ({_KEY}) DO NOTHING"
    total = inserted = 0
    pending = iter(observations)
    with closing(_connect(hook)) as connection, closing(connection.cursor()) as cursor:
        while batch := [_record(observation) for observation in islice(pending, _ROWS_A_STATEMENT)]:
            statement = head + ", ".join([values] * len(batch)) + tail
            cursor.execute(statement, [value for record in batch for value in record])
            inserted += cursor.rowcount
            total += len(batch)
        connection.commit()
    return {"inserted": inserted, "already_there": total - inserted}


def last_of_each_day(
    hook: DbApiHook,
    table: str,
    *,
    since: date,
    until: date | None = None,
    source: str | None = None,
    segment_ids: Collection[int] | None = None,
) -> list[Observation]:
    """Return the last observation of each day for each source, segment, list, resource and channel.

    Days are UTC's, from ``since`` to ``until``, both included. Ordered by source, segment, list, resource,
    channel and time.
    """
    mark = hook.placeholder
    where, parameters = [f"day >= {mark}"], [since.isoformat()]
    if until is not None:
        where.append(f"day <= {mark}")
        parameters.append(until.isoformat())
    if source is not None:
        where.append(f"source = {mark}")
        parameters.append(source)
    if segment_ids is not None:
        # Written out, since databases limit the number of parameters.
        ids = ", ".join(str(required_id("segment_id", segment_id)) for segment_id in segment_ids)
        where.append(f"segment_id IN ({ids or 'NULL'})")
    # The day leads the partition, so that SQLite goes by the index on it.
    query = f"""
        SELECT {_COLUMNS} FROM (
            SELECT {_COLUMNS}, ROW_NUMBER() OVER (
                PARTITION BY day, segment_id, source, list_id, resource_id, channel ORDER BY updated DESC
            ) AS nth
            FROM {_quoted(table)} WHERE {" AND ".join(where)}
        ) AS counted
        WHERE nth = 1
        ORDER BY source, segment_id, list_id, resource_id, channel, updated
    """  # noqa: S608 - checked and quoted
    with closing(_connect(hook)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(query, parameters)
        return [_observation(record) for record in cursor]


def _connect(hook: DbApiHook) -> Any:
    connection = hook.get_conn()
    if hook.supports_autocommit:
        hook.set_autocommit(connection, autocommit=False)  # whatever the Airflow connection says
    return connection


def _parts(table: Any) -> tuple[str | None, str]:
    """Return schema (or None) and name. Nothing else gets into a statement's text unchecked."""
    found = _TABLE.fullmatch(table) if isinstance(table, str) else None
    if found is None:
        raise ConfigurationError(
            "a table is named in small letters, digits and underscores, with up to 59 characters, as name "
            f"or schema.name; not {table!r}"
        )
    return found[1], found[2]


def _quoted(table: str) -> str:
    schema, name = _parts(table)
    return f'"{schema}"."{name}"' if schema else f'"{name}"'


def _exists(hook: DbApiHook, table: str) -> bool:
    with closing(_connect(hook)) as connection, closing(connection.cursor()) as cursor:
        try:
            cursor.execute(f"SELECT 1 FROM {_quoted(table)} WHERE 1 = 0")  # noqa: S608 - checked and quoted
        except Exception:  # noqa: BLE001 - each driver has its own; what else is wrong, the next statement tells
            return False
        return True


def _optional_id(row: Row, name: str) -> int | None:
    value = row.get(name)
    return required_id(name, value) if value else None


def _record(observation: Observation) -> tuple[int, str, int, int, str, str, str]:
    """Return the values of ``_COLUMNS``. Text for times and JSON: what all drivers pass on as it is."""
    return (
        observation.segment_id,
        observation.source,
        observation.list_id or 0,
        observation.resource_id or 0,
        observation.channel,
        f"{observation.updated.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='microseconds')}Z",
        json.dumps(observation.counters),
    )


def _observation(record: Any) -> Observation:
    segment_id, source, list_id, resource_id, channel, updated, counters = record
    return Observation(
        source=source,
        segment_id=segment_id,
        list_id=list_id or None,
        resource_id=resource_id or None,
        channel=channel,
        updated=updated.astimezone(timezone.utc) if isinstance(updated, datetime) else instant(updated),
        counters=json.loads(counters) if isinstance(counters, str) else counters,
    )
