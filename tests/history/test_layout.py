"""The tables: how they are made, and what is said of those that cannot be written, before anything is."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.databases import databases
from support.observations import LONG_AGO, ROW, TABLE, seen

from airflow_provider_segstats import history
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import last_of_each_night
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.sql.hooks.sql import DbApiHook


def test_creating_a_table_that_is_there_leaves_it_as_it_is(hook: DbApiHook) -> None:
    history.write(hook, TABLE, [seen()])
    history.create(hook, TABLE)
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == [seen()]


# DuckDB has one writer, and refuses the other, which Airflow tries again.
@pytest.mark.parametrize("warehouse", databases("sqlite", "postgresql", "mariadb"), indirect=True)
def test_runs_that_create_the_table_at_once_all_succeed(warehouse: DbApiHook) -> None:
    starts = threading.Barrier(4)
    failures: list[Exception] = []

    def create() -> None:
        starts.wait(30)
        try:
            history.create(warehouse, TABLE)
        except Exception as error:  # noqa: BLE001 - whatever the driver calls it
            failures.append(error)

    runs = [threading.Thread(target=create) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert failures == []
    assert history.write(warehouse, TABLE, [seen()])["inserted"] == 1


def test_a_table_that_cannot_be_created_fails_with_the_databases_words(warehouse: DbApiHook) -> None:
    with pytest.raises(
        ConfigurationError, match=r"nowhere.segment_counters cannot be created: .*nowhere"
    ) as refused:
        history.create(warehouse, "nowhere.segment_counters")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        'a"; DROP TABLE x; --',
        "a.b.c",
        ".a",
        "a.",
        "1a",
        "Segments",
        "a-b",
        "\u00e4",
        "a" * 51,
        None,
        "a\n",
    ],
)
def test_what_is_no_name_of_a_table_is_refused(warehouse: DbApiHook, name: Any) -> None:
    for use in (
        lambda: history.create(warehouse, name),
        lambda: history.write(warehouse, name, [seen()]),
        lambda: last_of_each_night(warehouse, name, since=LONG_AGO),
    ):
        with pytest.raises(ConfigurationError, match="a table is named"):
            use()


def test_a_reserved_word_and_the_longest_name_are_tables_too(warehouse: DbApiHook) -> None:
    for name in ("select", "a" * 50):
        history.create(warehouse, name)
        assert history.write(warehouse, name, [seen()])["inserted"] == 1
        assert last_of_each_night(warehouse, name, since=LONG_AGO) == [seen()]


@pytest.mark.parametrize("warehouse", databases("postgresql", "duckdb"), indirect=True)
def test_a_table_can_be_in_a_schema(warehouse: DbApiHook) -> None:
    warehouse.run("CREATE SCHEMA marts")
    history.create(warehouse, "marts.counters")
    assert history.write(warehouse, "marts.counters", [seen()])["inserted"] == 1
    assert last_of_each_night(warehouse, "marts.counters", since=LONG_AGO) == [seen()]
    assert warehouse.get_first("SELECT count FROM marts.counters_counts WHERE counter LIKE 'sub%'") == (209,)


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_a_table_is_found_along_the_search_path(hook: DbApiHook) -> None:
    hook.run(["CREATE SCHEMA own", "ALTER ROLE postgres SET search_path TO own, public"])
    try:
        history.create(hook, TABLE)
        assert history.write(hook, TABLE, [seen()])["inserted"] == 1
        assert hook.get_first("SELECT TO_REGCLASS('own.segment_counters')") == (None,)
    finally:
        hook.run("ALTER ROLE postgres RESET search_path")


def refusal(hook: DbApiHook, table: str = TABLE) -> str:
    """Return the one line with which a load is refused."""
    with pytest.raises(ConfigurationError) as refused:
        history.write(hook, table, [seen()])
    assert "\n" not in str(refused.value)
    assert refused.value.permanent
    return str(refused.value).removeprefix("connection 'warehouse': ")


def test_a_missing_table_is_named_with_what_creates_it(warehouse: DbApiHook) -> None:
    expected = "there is no table segment_counters, or none that may be seen; create_table=True creates it"
    assert refusal(warehouse) == expected


def test_a_missing_schema_is_refused_in_one_line(warehouse: DbApiHook) -> None:
    assert refusal(warehouse, "nowhere.counters").startswith("there is no table nowhere.counters, ")


def test_a_table_beside_the_first_that_is_missing_is_named(hook: DbApiHook) -> None:
    hook.run("DROP TABLE segment_counters_names")
    assert refusal(hook).startswith("there is no table segment_counters_names, ")
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == []
    history.create(hook, TABLE)
    assert history.write(hook, TABLE, [seen()])["inserted"] == 1


def test_a_table_of_another_layout_is_refused_with_the_columns_that_it_lacks(hook: DbApiHook) -> None:
    hook.run(["DROP VIEW segment_counters_counts", "DROP TABLE segment_counters"])
    hook.run(
        "CREATE TABLE segment_counters (source VARCHAR(20), segment_id BIGINT, list_id BIGINT, day DATE)"
    )
    assert refusal(hook) == (
        "segment_counters has another layout: it has no kind, resource_id, channel, updated, night, "
        "counters; name another table"
    )


def test_a_table_without_its_key_is_refused_and_not_filled_twice(hook: DbApiHook) -> None:
    hook.run(
        [
            "DROP VIEW segment_counters_counts",
            "CREATE TABLE keyless AS SELECT * FROM segment_counters",
            "DROP TABLE segment_counters",
            "ALTER TABLE keyless RENAME TO segment_counters",
        ]
    )
    line = refusal(hook)
    key = "segment_id, source, kind, list_id, resource_id, channel, updated"
    assert line.startswith(f"segment_counters cannot be written with the key {key}: ")


ROLES = {
    "insert only": ("INSERT", "segment_counters cannot be read, which a load has to: permission denied"),
    "select only": ("SELECT", "segment_counters cannot be written with the key .*: permission denied"),
    "nothing": (None, "segment_counters cannot be read, which a load has to: permission denied"),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_a_role_that_may_not_do_all_is_told_what_it_may_not(
    hook: DbApiHook, monkeypatch: pytest.MonkeyPatch, postgres: Any, role: str
) -> None:
    grant, line = ROLES[role]
    hook.run(["DROP ROLE IF EXISTS loader", "CREATE ROLE loader LOGIN"])
    try:
        if grant:
            hook.run(f"GRANT {grant} ON ALL TABLES IN SCHEMA public TO loader")
        fields = {**postgres.connection, "login": "loader"}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
        with pytest.raises(ConfigurationError, match=line):
            history.write(history.database("warehouse"), TABLE, [seen()])
    finally:
        hook.run(["DROP OWNED BY loader", "DROP ROLE loader"])
    assert last_of_each_night(hook, TABLE, since=LONG_AGO) == []


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
def test_a_role_that_may_read_and_add_and_change_needs_no_more(
    hook: DbApiHook, monkeypatch: pytest.MonkeyPatch, postgres: Any
) -> None:
    hook.run(["DROP ROLE IF EXISTS loader", "CREATE ROLE loader LOGIN"])
    try:
        hook.run("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO loader")
        hook.run("REVOKE UPDATE ON segment_counters FROM loader")  # where rows are only ever added
        fields = {**postgres.connection, "login": "loader"}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
        theirs = history.database("warehouse")
        history.create(theirs, TABLE)
        assert history.write(theirs, TABLE, [seen()])["inserted"] == 1
    finally:
        hook.run(["DROP OWNED BY loader", "DROP ROLE loader"])


def test_the_database_itself_tells_a_counter(hook: DbApiHook) -> None:
    history.write(hook, TABLE, [seen()])
    [(night, counters)] = hook.get_records("SELECT night, counters FROM segment_counters")
    assert str(night) == "2026-02-03"
    counters = json.loads(counters) if isinstance(counters, str) else counters
    assert counters == {"subscribed_sendable": 209, "unconfirmed_sendable": 0}


def test_an_unknown_kind_of_database_is_not_supported_and_said_so_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    class OracleHook(SqliteHook):
        conn_type = "oracle"
        dialect_name = "oracle"

    monkeypatch.setenv(
        "AIRFLOW_CONN_ORACLE", json.dumps({"conn_type": "oracle", "host": str(tmp_path / "db")})
    )
    hook = OracleHook("oracle")
    line = "connection 'oracle': a history in a database of the kind 'oracle' is not supported; postgresql, "
    for use in (
        lambda: history.create(hook, TABLE),
        lambda: history.write(hook, TABLE, [seen()]),
        lambda: history.latest(hook, TABLE),
    ):
        with pytest.raises(ConfigurationError) as refused:
            use()
        assert str(refused.value).startswith(line)
        assert refused.value.permanent
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("warehouse", databases("sqlite", "duckdb"), indirect=True)
def test_the_load_operator_makes_the_tables_and_fills_them(
    warehouse: DbApiHook, connect: Callable[..., None]
) -> None:
    connect("http://segstats.example")  # whose account and zone are asked for; nobody is called
    rows = [{**ROW, "source": "acme"}]
    night = {"rows": rows, "dag_id": "d", "run_id": "r", "run_after": "2026-02-03T02:00:00+00:00"}
    load = SegmentCountersToSqlOperator(
        task_id="load", rows=night, sql_conn_id="warehouse", create_table=True, table=TABLE
    )
    assert load.execute({})["inserted"] == 1
    assert load.execute({})["already_there"] == 1
    assert last_of_each_night(warehouse, TABLE, since=LONG_AGO) == [seen(source="acme")]
    assert [outcome.outcome for outcome in history.nights(warehouse, TABLE, since=LONG_AGO)] == ["counted"]
