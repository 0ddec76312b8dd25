"""What Snowflake, BigQuery and Redshift would be told, as a parser reads it that knows them. None is run."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_segstats.history.dialects import DIALECTS
from airflow_provider_segstats.history.statements import Statements
from airflow_provider_segstats.history.tables import COUNTS, LATEST, OBSERVATIONS, TABLES

NEVER_RUN = ("snowflake", "bigquery", "redshift")
SUFFIXES = [*(table.suffix for table in TABLES), COUNTS]


def statements(name: str) -> Statements:
    return Statements(DIALECTS[name], "marts.segment_counters", "%s")


def parsed(name: str, statement: str) -> exp.Expression:
    """Return a statement as its database's parser reads it, with a value for each parameter."""
    known = {"mysql": "mysql", "postgresql": "postgres"}.get(name, name)
    tree = sqlglot.parse_one(
        statement.replace("%s", "'1'"), dialect=known, error_level=sqlglot.ErrorLevel.RAISE
    )
    assert not isinstance(tree, exp.Command), "read as text only"
    return tree


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_has_a_type_for_every_column(name: str) -> None:
    dialect = DIALECTS[name]
    assert {type_ for table in TABLES for type_ in table.columns.values()} <= set(dialect.types)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_the_tables_and_the_view_are_defined(name: str) -> None:
    trees = [parsed(name, statement) for statement in statements(name).definitions(SUFFIXES)]
    tables = [tree.find(exp.Table) for tree in trees]
    assert [(tree.kind, table.db, table.name) for tree, table in zip(trees, tables, strict=True)] == [
        *(("TABLE", "marts", f"segment_counters{table.suffix}") for table in TABLES),
        ("VIEW", "marts", "segment_counters_counts"),
    ]
    for tree, table in zip(trees, TABLES, strict=False):
        assert [column.name for column in tree.find_all(exp.ColumnDef)] == list(table.columns)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_the_view_of_counts_has_the_documented_columns(name: str) -> None:
    *_, view = statements(name).definitions([COUNTS])
    tree = parsed(name, view).expression
    assert [column.alias_or_name for column in tree.expressions] == [
        *("source", "kind", "segment_id", "list_id", "resource_id", "channel"),
        *("counter", "night", "count", "updated"),
    ]


@pytest.mark.parametrize("name", NEVER_RUN)
def test_rows_are_added_where_their_keys_are_not(name: str) -> None:
    tree = parsed(name, statements(name).insertion(OBSERVATIONS, 2))
    assert isinstance(tree, exp.Insert)
    [exists] = tree.find_all(exp.Exists)
    compared = [(pair.left.sql(), pair.right.sql()) for pair in exists.find_all(exp.EQ)]
    assert sorted(compared) == sorted((f"there.{column}", f"fresh.{column}") for column in OBSERVATIONS.key)
    assert len(list(tree.find_all(exp.Union))) == 1
    assert len(list(tree.find_all(exp.Literal))) >= 2 * len(OBSERVATIONS.columns)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_the_latest_makes_room_for_what_is_not_older(name: str) -> None:
    tree = parsed(name, statements(name).removal(LATEST, 2, "updated"))
    assert isinstance(tree, exp.Delete)
    assert len(list(tree.find_all(exp.LTE))) == 2
    assert len(list(tree.find_all(exp.EQ))) == 2 * len(LATEST.key)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_columns_and_last_nights_are_asked_for(name: str) -> None:
    of = statements(name)
    assert isinstance(parsed(name, of.columns("_latest")), exp.Select)
    query = f"{of.last_of_each_night('night >= %s')} ORDER BY source, segment_id"
    assert parsed(name, query).find(exp.Window)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_a_parameter_stands_for_each_value_of_a_row(name: str) -> None:
    of = statements(name)
    assert of.insertion(OBSERVATIONS, 3).count("%s") == 3 * len(OBSERVATIONS.columns)
    assert of.removal(LATEST, 3, "updated").count("%s") == 3 * (len(LATEST.key) + 1)
