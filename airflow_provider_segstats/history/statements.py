"""The statements about the tables, in each dialect. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_segstats.history.dialects import Dialect, dialect_of
from airflow_provider_segstats.history.tables import COUNTS, NULLABLE, OBSERVATIONS, TABLES, Table, parts

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

# ruff: noqa: S608 - names are checked by `parts`, and values are parameters


@dataclass(frozen=True)
class Statements:
    """The statements about the tables of one name, for a dialect and its mark of a parameter."""

    dialect: Dialect
    table: str
    mark: str

    @classmethod
    def of(cls, hook: DbApiHook, table: str) -> Statements:
        """Return those for a hook's database."""
        return cls(dialect_of(hook), table, hook.placeholder)

    def name(self, suffix: str = "") -> str:
        """Return the name of the table, or of one beside it, for a statement."""
        schema, name = parts(self.table)
        return self.dialect.quoted(schema, name + suffix)

    def select(self, suffix: str, columns: Iterable[str], where: str, rest: str = "") -> str:
        """Return the query for columns of a table or of the view; ``rest`` groups or orders them."""
        return f"SELECT {', '.join(columns)} FROM {self.name(suffix)} WHERE {where} {rest}".rstrip()

    def delete(self, suffix: str, where: str) -> str:
        """Return what deletes rows of a table."""
        return f"DELETE FROM {self.name(suffix)} WHERE {where}"

    def columns(self, suffix: str) -> str:
        """Return the query for a table's columns, which gives none where there is no such table."""
        schema, name = parts(self.table)
        return self.dialect.columns.format(
            table=self.name(suffix),
            schema=f"'{schema}'" if schema else "NULL",
            dataset=f"`{schema}`." if schema else "",
            name=name + suffix,
        )

    def definitions(self, suffixes: Sequence[str]) -> Iterator[str]:
        """Yield what creates the tables, and the view, of these endings."""
        dialect = self.dialect
        schema, name = parts(self.table)
        for of in TABLES:
            if of.suffix not in suffixes:
                continue
            columns = [
                f"{column} {dialect.types[type_]}{'' if column in NULLABLE else ' NOT NULL'}"
                for column, type_ in of.columns.items()
            ]
            if dialect.conflicts != "none":
                columns.append(f"PRIMARY KEY ({', '.join(of.key)})")
            yield f"CREATE TABLE IF NOT EXISTS {self.name(of.suffix)} ({', '.join(columns)})"
            if of.index and dialect.indexes:
                # SQLite has the schema with the index's name, the others with the table's.
                of_index, of_table = (schema, None) if dialect.name == "sqlite" else (None, schema)
                index = dialect.quoted(of_index, f"{name}{of.suffix}_night")
                on = dialect.quoted(of_table, name + of.suffix)
                yield f"CREATE INDEX {index} ON {on} ({', '.join(of.index)})"
        if COUNTS in suffixes:
            yield f"CREATE VIEW {self.name(COUNTS)} AS {self._counts()}"

    def _counts(self) -> str:
        dialect = self.dialect
        return f"""
            SELECT o.source, o.kind, o.segment_id, o.list_id, o.resource_id, o.channel,
                {dialect.counter} AS counter, o.night, {dialect.count} AS count, o.updated
            FROM ({self.last_of_each_night()}) AS o {dialect.counters}
            WHERE {dialect.count} IS NOT NULL
        """

    def last_of_each_night(self, where: str = "1 = 1") -> str:
        """Return the query for the last observation of each night, of those that the condition chooses."""
        columns = ", ".join(OBSERVATIONS.columns)
        # The night leads the partition, so that SQLite goes by the index on it.
        return f"""
            SELECT {columns} FROM (
                SELECT {columns}, ROW_NUMBER() OVER (
                    PARTITION BY night, segment_id, source, kind, list_id, resource_id, channel
                    ORDER BY updated DESC
                ) AS nth
                FROM {self.name()} WHERE {where}
            ) AS counted
            WHERE nth = 1
        """

    def insertion(self, of: Table, rows: int) -> str:
        """Return what adds so many rows, but for those whose keys are there."""
        name, columns, mark, dialect = self.name(of.suffix), ", ".join(of.columns), self.mark, self.dialect
        if dialect.conflicts == "none":
            casts = {type_: f"CAST({{}} AS {of_type})" for type_, of_type in dialect.types.items()}
            forms = {**casts, **dialect.values}
            fields = (f"{forms[type_].format(mark)} AS {column}" for column, type_ in of.columns.items())
            values = ", ".join(fields)
            same = " AND ".join(f"there.{column} = fresh.{column}" for column in of.key)
            return (
                f"INSERT INTO {name} ({columns})"
                f" SELECT {columns} FROM ({' UNION ALL '.join([f'SELECT {values}'] * rows)}) AS fresh"
                f" WHERE NOT EXISTS (SELECT 1 FROM {name} AS there WHERE {same})"
            )
        values = self._values(of, rows)
        if dialect.conflicts == "on duplicate key":
            return f"INSERT IGNORE INTO {name} ({columns}) VALUES {values}"
        return f"INSERT INTO {name} ({columns}) VALUES {values} ON CONFLICT ({', '.join(of.key)}) DO NOTHING"

    def replacement(self, of: Table, rows: int, newest: str | None) -> str:
        """Return what puts so many rows where their keys are, for a database that keeps keys.

        What has a newer value in the column ``newest``, if one is named, stays.
        """
        name, columns, values = self.name(of.suffix), ", ".join(of.columns), self._values(of, rows)
        # Last, since MySQL sees what it has just set.
        changed = sorted(of.rest, key=lambda column: column == newest)
        if self.dialect.conflicts == "on duplicate key":
            new = {column: f"VALUES({column})" for column in changed}
            if newest:
                later = f"{new[newest]} >= {newest}"
                new = {column: f"IF({later}, {value}, {column})" for column, value in new.items()}
            sets = ", ".join(f"{column} = {value}" for column, value in new.items())
            return f"INSERT INTO {name} ({columns}) VALUES {values} ON DUPLICATE KEY UPDATE {sets}"
        sets = ", ".join(f"{column} = excluded.{column}" for column in changed)
        only = f" WHERE excluded.{newest} >= there.{newest}" if newest else ""
        return (
            f"INSERT INTO {name} AS there ({columns}) VALUES {values}"
            f" ON CONFLICT ({', '.join(of.key)}) DO UPDATE SET {sets}{only}"
        )

    def removal(self, of: Table, rows: int, newest: str | None) -> str:
        """Return what makes room for so many rows, for a database that keeps no keys.

        Its parameters are each row's key, and its value of the column ``newest`` where one is named.
        """
        conditions = [f"{column} = {self.mark}" for column in of.key]
        if newest:
            conditions.append(f"{newest} <= {self.mark}")
        each = " OR ".join([f"({' AND '.join(conditions)})"] * rows)
        return f"DELETE FROM {self.name(of.suffix)} WHERE {each}"

    def _values(self, of: Table, rows: int) -> str:
        return ", ".join([f"({', '.join([self.mark] * len(of.columns))})"] * rows)
