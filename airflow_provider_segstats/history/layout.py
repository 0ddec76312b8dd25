"""Making the tables, and a look at them before the first write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history.connections import records, transaction
from airflow_provider_segstats.history.statements import Statements
from airflow_provider_segstats.history.tables import COUNTS, TABLES

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

# What no retry changes, though drivers say it as an OperationalError, as they do a lost connection.
_PERMANENT = re.compile(
    "denied|permission|not authorized|privilege|read-?only|unknown database|on conflict clause", re.IGNORECASE
)


def create(hook: DbApiHook, table: str) -> None:
    """Create what is missing of the table, those beside it and the view; what is there stays as it is.

    Where all is there, it needs no right to create anything.
    """
    statements = Statements.of(hook, table)
    if not (missing := _missing(hook, statements)):
        return
    try:
        with transaction(hook) as cursor:
            if statements.dialect.begin_definitions:
                cursor.execute(statements.dialect.begin_definitions)
            for statement in statements.definitions(missing):
                cursor.execute(statement)
    except Exception as error:  # noqa: BLE001 - each driver has its own
        if not _missing(hook, statements):  # another run was faster
            return
        raise _refused(hook, f"{table} cannot be created", error) from None


def check(hook: DbApiHook, cursor: Any, statements: Statements) -> None:
    """Raise :class:`ConfigurationError` with one clear line for what would keep a load from being written."""
    for of in TABLES:
        name = f"{statements.table}{of.suffix}"
        if not (there := _columns(cursor, statements, of.suffix)):
            raise ConfigurationError(
                f"there is no table {name}, or none that may be seen; create_table=True creates it",
                connection=hook.get_conn_id(),
            )
        if lacks := [column for column in of.columns if column not in there]:
            raise ConfigurationError(
                f"{name} has another layout: it has no {', '.join(lacks)}; name another table",
                connection=hook.get_conn_id(),
            )
        # Statements that do nothing, but for being refused where those to come would be.
        columns, quoted, key = ", ".join(of.columns), statements.name(of.suffix), ", ".join(of.key)
        none = statements.select(of.suffix, of.columns, "1 = 0")
        insertion = f"INSERT INTO {quoted} ({columns}) {none}"
        if statements.dialect.conflicts == "on conflict":
            insertion += f" ON CONFLICT ({key}) DO NOTHING"
        for statement, what in (
            (none, "read, which a load has to"),
            (insertion, f"written with the key {key}"),
        ):
            try:
                cursor.execute(statement)
            except Exception as error:  # noqa: BLE001 - each driver has its own
                raise _refused(hook, f"{name} cannot be {what}", error) from None
        if statements.dialect.name == "mysql" and set(of.key) not in _keys_in_mysql(cursor, quoted):
            raise ConfigurationError(
                f"{name} cannot be written with the key {key}: it has no such key",
                connection=hook.get_conn_id(),
            )


def _keys_in_mysql(cursor: Any, quoted: str) -> list[set[str]]:
    """Return the columns of each key. Without its key no statement would be refused, and rows be doubled."""
    cursor.execute(f"SHOW INDEX FROM {quoted} WHERE Non_unique = 0")
    names = [column[0].lower() for column in cursor.description]
    keys: dict[str, set[str]] = {}
    for record in records(cursor):
        keys.setdefault(record[names.index("key_name")], set()).add(record[names.index("column_name")])
    return list(keys.values())


def _refused(hook: DbApiHook, what: str, error: Exception) -> Exception:
    """Return the one line for what a database refuses; an error that is worth a retry as it is."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by PEP 249, whatever the driver
    line = " ".join(str(error).split("\n")[0].split())
    if "OperationalError" in kinds and not _PERMANENT.search(line):
        return error
    return ConfigurationError(f"{what}: {line}", connection=hook.get_conn_id())


def _missing(hook: DbApiHook, statements: Statements) -> list[str]:
    """Return what the names end in of the tables, and the view, that are not there."""
    with transaction(hook) as cursor:
        suffixes = [*(of.suffix for of in TABLES), COUNTS]
        return [suffix for suffix in suffixes if not _columns(cursor, statements, suffix)]


def _columns(cursor: Any, statements: Statements, suffix: str) -> set[str]:
    cursor.execute(statements.columns(suffix))
    return {column for (column,) in records(cursor)}
