"""What the databases differ in: types, and how each adds what is not there, replaces what is, and reads JSON.

PostgreSQL, SQLite, DuckDB and MariaDB are run by the tests; MySQL is told what MariaDB is. What Snowflake,
BigQuery and Redshift would be told is checked by a parser that knows them, and was never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from airflow_provider_segstats.core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

Type = Literal["text", "word", "run", "id", "count", "instant", "date", "json", "line"]
"""What a column holds: text of a key, one of a few words, an Airflow id, an id, a number, …, any text."""


@dataclass(frozen=True)
class Dialect:
    """A kind of database. SQL in braces is filled in by ``tables`` and ``write``.

    ``counters`` joins an observation ``o`` with its counters, whose ``counter`` and ``count`` are as said.
    ``columns`` asks for a table's columns, and gives none where there is no such table.
    """

    name: str
    types: Mapping[Type, str]
    columns: str
    counters: str
    counter: str
    count: str
    conflicts: Literal["on conflict", "on duplicate key", "none"] = "on conflict"
    """How a key that is taken is met; ``none``: keys are no more than notes, so it is looked for."""
    values: Mapping[Type, str] = field(default_factory=dict)
    """How a value is written where the column's type does not tell the database."""
    time: str = "%Y-%m-%d %H:%M:%S.%f"
    quote: str = '"'
    indexes: bool = True
    begin: str | None = None
    """Where transactions are a cursor's own and no connection's: what begins one."""
    begin_definitions: str | None = None
    """Where definitions would each be committed by themselves: what has them be one transaction."""
    counted_in_result: bool = False
    """Whether how many rows were inserted is what the statement returns, as a row."""

    def quoted(self, schema: str | None, name: str) -> str:
        """Return a table's name for a statement."""
        return ".".join(f"{self.quote}{part}{self.quote}" for part in (schema, name) if part)


def dialect_of(hook: DbApiHook) -> Dialect:
    """Return what a hook's database speaks, or raise :class:`ConfigurationError`."""
    kind = _BY_CONNECTION.get(hook.conn_type) or hook.dialect_name
    if kind not in DIALECTS:
        raise ConfigurationError(
            f"a history in a database of the kind {kind!r} is not supported; {', '.join(DIALECTS)} are",
            connection=hook.get_conn_id(),
        )
    return DIALECTS[kind]


_BY_CONNECTION = {"duckdb": "duckdb", "gcpbigquery": "bigquery", "redshift": "redshift", "mariadb": "mysql"}

_IN_SCHEMA = """
    SELECT column_name FROM information_schema.columns
    WHERE table_name = '{name}' AND table_schema = COALESCE({schema}, CURRENT_SCHEMA())
"""

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "postgresql",
            types={
                # COLLATE "C" sorts text as SQLite and Python do, whatever the database's locale.
                "text": 'TEXT COLLATE "C"',
                "word": 'TEXT COLLATE "C"',
                "run": 'TEXT COLLATE "C"',
                "id": "BIGINT",
                "count": "BIGINT",
                "instant": "TIMESTAMPTZ",
                "date": "DATE",
                "json": "JSONB",
                "line": "TEXT",
            },
            # Not information_schema, which does not look along search_path.
            columns="""
                SELECT attname FROM pg_attribute
                WHERE attrelid = TO_REGCLASS('{table}') AND attnum > 0 AND NOT attisdropped
            """,
            counters="CROSS JOIN LATERAL jsonb_each_text(o.counters) AS c (counter, count)",
            counter="c.counter",
            count="CAST(c.count AS BIGINT)",
            time="%Y-%m-%d %H:%M:%S.%f+00",
        ),
        Dialect(
            "sqlite",
            begin_definitions="BEGIN IMMEDIATE",
            types={
                "text": "TEXT",
                "word": "TEXT",
                "run": "TEXT",
                "id": "INTEGER",
                "count": "INTEGER",
                "instant": "TEXT",
                "date": "TEXT",
                "json": "TEXT",
                "line": "TEXT",
            },
            columns="""
                SELECT c.name FROM pragma_database_list AS d
                CROSS JOIN pragma_table_info('{name}', d.name) AS c  -- CROSS: in this order
                WHERE d.name = COALESCE({schema}, 'main')
            """,
            counters="CROSS JOIN json_each(o.counters) AS c",
            counter="c.key",
            count="c.value",
            time="%Y-%m-%dT%H:%M:%S.%fZ",  # of one width, so that they sort and compare as they should
        ),
        Dialect(
            "duckdb",
            types={
                "text": "VARCHAR",
                "word": "VARCHAR",
                "run": "VARCHAR",
                "id": "BIGINT",
                "count": "BIGINT",
                "instant": "TIMESTAMP",
                "date": "DATE",
                "json": "JSON",
                "line": "VARCHAR",
            },
            columns=_IN_SCHEMA,
            counters="CROSS JOIN LATERAL json_each(o.counters) AS c",
            counter="c.key",
            count="TRY_CAST(c.value AS BIGINT)",
            indexes=False,  # it has statistics of each block of rows
            begin="BEGIN TRANSACTION",
            counted_in_result=True,
        ),
        Dialect(
            "mysql",
            types={
                # As long as a key of several may be; compared byte by byte, as elsewhere.
                "text": "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                "word": "VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin",
                "run": "VARCHAR(250) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                "id": "BIGINT",
                "count": "BIGINT",
                "instant": "DATETIME(6)",
                "date": "DATE",
                "json": "JSON",
                "line": "TEXT CHARACTER SET utf8mb4",
            },
            columns="""
                SELECT column_name FROM information_schema.columns
                WHERE table_name = '{name}' AND table_schema = COALESCE({schema}, DATABASE())
            """,
            counters=(
                "CROSS JOIN JSON_TABLE(JSON_KEYS(o.counters), '$[*]'"
                " COLUMNS (counter VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS c"
            ),
            counter="c.counter",
            count=(
                "CAST(NULLIF(JSON_UNQUOTE(JSON_EXTRACT(o.counters,"
                " CONCAT('$.', JSON_QUOTE(c.counter)))), 'null') AS SIGNED)"
            ),
            conflicts="on duplicate key",
            quote="`",
        ),
        Dialect(
            "snowflake",
            types={
                "text": "VARCHAR",
                "word": "VARCHAR",
                "run": "VARCHAR",
                "id": "BIGINT",
                "count": "BIGINT",
                "instant": "TIMESTAMP_NTZ",
                "date": "DATE",
                "json": "VARIANT",
                "line": "VARCHAR",
            },
            columns="""
                SELECT LOWER(column_name) FROM information_schema.columns
                WHERE LOWER(table_name) = '{name}'
                AND LOWER(table_schema) = COALESCE({schema}, LOWER(CURRENT_SCHEMA()))
            """,
            counters="CROSS JOIN LATERAL FLATTEN(INPUT => o.counters) AS c",
            counter="c.key",
            count="CAST(c.value AS BIGINT)",
            conflicts="none",
            values={"json": "PARSE_JSON({})"},
            quote="",  # quoted, small letters would be kept, and a query that does not quote not find them
            indexes=False,
        ),
        Dialect(
            "bigquery",
            types={
                "text": "STRING",
                "word": "STRING",
                "run": "STRING",
                "id": "INT64",
                "count": "INT64",
                "instant": "TIMESTAMP",
                "date": "DATE",
                "json": "JSON",
                "line": "STRING",
            },
            columns="SELECT column_name FROM {dataset}INFORMATION_SCHEMA.COLUMNS WHERE table_name = '{name}'",
            counters="CROSS JOIN UNNEST(JSON_KEYS(o.counters, 1)) AS counter",
            counter="counter",
            count="LAX_INT64(o.counters[counter])",
            conflicts="none",
            values={"json": "PARSE_JSON({})"},
            quote="`",
            indexes=False,
        ),
        Dialect(
            "redshift",
            types={
                "text": "VARCHAR(1020)",  # bytes
                "word": "VARCHAR(16)",
                "run": "VARCHAR(250)",
                "id": "BIGINT",
                "count": "BIGINT",
                "instant": "TIMESTAMP",
                "date": "DATE",
                "json": "SUPER",
                "line": "VARCHAR(65535)",
            },
            columns=_IN_SCHEMA,
            counters=", UNPIVOT o.counters AS count AT counter",
            counter="CAST(counter AS VARCHAR)",
            count="CAST(count AS BIGINT)",
            conflicts="none",
            values={"json": "JSON_PARSE({})"},
            indexes=False,
        ),
    )
}
"""By SQLAlchemy's names."""
