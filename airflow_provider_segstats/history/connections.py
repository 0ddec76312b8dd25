"""Airflow's connections to databases: the hook of one, transactions, and records by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.boundary import lookups
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history.dialects import dialect_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

_AT_A_TIME = 5000

# The packages that have a type of connection; for all others it is in the package's name.
_PACKAGES = {
    "gcpbigquery": "apache-airflow-providers-google",
    "mssql": "apache-airflow-providers-microsoft-mssql",
    "redshift": "apache-airflow-providers-amazon",
}


def database(conn_id: str) -> DbApiHook:
    """Return the hook of an Airflow connection to a database.

    Raises :class:`ConfigurationError`, which names the package that is missing, if one is, and what
    :func:`lookups.connection` raises.
    """
    from airflow_provider_segstats.boundary.versions import AirflowException

    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError:
        raise ConfigurationError(
            "a history needs the extra sql: pip install 'airflow-provider-segstats[sql]'"
        ) from None
    connection = lookups.connection(conn_id)
    if connection is None:
        raise ConfigurationError("there is no such connection to a database", connection=conn_id)
    kind = connection.conn_type or ""
    package = _PACKAGES.get(kind, f"apache-airflow-providers-{kind.replace('_', '-')}")
    try:
        hook = connection.get_hook()
    except (AirflowException, ImportError):  # no provider; one that lacks its driver
        line = f"nothing usable is installed for the type {kind!r}: pip install {package}"
        raise ConfigurationError(line, connection=conn_id) from None
    if not isinstance(hook, DbApiHook):
        raise ConfigurationError("this connection is none to a SQL database", connection=conn_id)
    return hook


@contextmanager
def transaction(hook: DbApiHook) -> Iterator[Any]:
    """Give a cursor, and commit what was done with it; nothing of it stays when that raises."""
    dialect = dialect_of(hook)
    with closing(hook.get_conn()) as connection:
        if hook.supports_autocommit:
            hook.set_autocommit(connection, autocommit=False)  # whatever the Airflow connection says
        with closing(connection.cursor()) as cursor:
            if dialect.begin:
                cursor.execute(dialect.begin)
            yield cursor
            if dialect.begin:
                cursor.execute("COMMIT")
            else:
                connection.commit()


def records(cursor: Any) -> Iterator[tuple[Any, ...]]:
    """Yield what was asked for, by position, whatever kind of cursor the Airflow connection asks for.

    Not by iterating: DuckDB's cursor is no iterator.
    """
    while found := cursor.fetchmany(_AT_A_TIME):
        for record in found:
            yield tuple(record.values() if isinstance(record, Mapping) else record)
