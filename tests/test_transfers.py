"""Rows into the table, and the table into a report: what is taken, what refused, what a refusal leaves."""

from __future__ import annotations

import csv
import json
import re
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats import history
from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow.providers.common.sql.hooks.sql import DbApiHook

EMAIL = {
    "segment_id": 7,
    "list_id": 1,
    "resource_id": 27,
    "channel": "email",
    "subscribed_sendable": 209,
    "updated": "2026-02-03T03:00:01.5Z",
}
SMS = {**EMAIL, "channel": "sms"}
RUN_AFTER = datetime(2026, 2, 3, 4, tzinfo=timezone.utc)
DAY = date(2026, 2, 1)


@pytest.fixture(autouse=True)
def _account(connect: Callable[..., None]) -> None:
    connect("http://127.0.0.1:9", account="acme")


def load(rows: Any = None, *, run: Any = None, **kwargs: Any) -> dict[str, Any]:
    options = {"task_id": "load", "sql_conn_id": "warehouse", "create_table": True, **kwargs}
    return SegmentCountersToSqlOperator(rows=rows, **options).execute({"dag_run": run})


def loaded(inserted: int, **others: Any) -> dict[str, Any]:
    none = {"already_there": 0, "undated": 0, "unreadable": [], "failed": [], "listed": []}
    return {"inserted": inserted, **none, **others}


def channels(hook: DbApiHook) -> list[str]:
    read = history.last_of_each_night(hook, "segment_counters", since=date(2026, 1, 1), source="acme")
    return [observation.channel for observation in read]


@pytest.mark.parametrize(
    "rows",
    [
        [EMAIL, SMS],
        [[EMAIL], [SMS]],
        [[EMAIL, SMS], [], None],
        {"ok": [7], "failed": [], "rows": [EMAIL, SMS]},
        json.dumps([EMAIL, SMS]),
        json.dumps({"rows": [EMAIL, SMS]}),
        iter([EMAIL, SMS]),
    ],
    ids=["rows", "mapped", "mapped with none", "night", "json", "json night", "iterator"],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_rows_are_taken_as_tasks_hand_them_on(warehouse: DbApiHook, rows: Any) -> None:
    assert load(rows)["inserted"] == 2
    assert channels(warehouse) == ["email", "sms"]


def test_no_rows_are_fine(warehouse: DbApiHook) -> None:
    assert load([]) == loaded(0)
    assert channels(warehouse) == []


@pytest.mark.parametrize("rows", [{"ok": [7]}, "None", "[{'segment_id': 7}]", 7, [7], ["rows"], [[[EMAIL]]]])
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_what_holds_no_rows_is_refused(warehouse: DbApiHook, rows: Any) -> None:
    with pytest.raises(AirflowFailException, match="row"):
        load(rows)
    assert tables(warehouse) == []


def tables(hook: DbApiHook) -> list[Any]:
    query = {
        "sqlite": "SELECT name FROM sqlite_master",
        "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    }[hook.dialect_name]
    return list(hook.get_records(query))


def test_one_row_without_segment_id_is_refused_before_anything_is_written(warehouse: DbApiHook) -> None:
    with pytest.raises(AirflowFailException, match="a row has no segment_id") as refused:
        load([EMAIL, {**SMS, "segment_id": None}])
    assert "\n" not in str(refused.value)
    assert tables(warehouse) == []


def test_a_row_with_an_empty_updated_is_left_out_and_counted(warehouse: DbApiHook) -> None:
    assert load([EMAIL, {**SMS, "updated": ""}]) == loaded(1, undated=1)
    assert channels(warehouse) == ["email"]


def test_rows_that_cannot_be_read_are_listed_with_their_segment_and_the_rest_is_loaded(
    warehouse: DbApiHook,
) -> None:
    bad = [
        {**EMAIL, "segment_id": 8, "updated": "yesterday"},
        {**EMAIL, "segment_id": 9, "channel": "a\x00b"},
        {**EMAIL, "segment_id": 10, "subscribed_sendable": 2**63},
    ]
    good = [{**SMS, "updated": text} for text in ("2026-02-03", "2026-02-03T03:30+03", "1770087601")]
    found = load([*bad, EMAIL, *good, {**SMS, "updated": "0001-01-01T00:00:00Z"}])
    lines = [
        "segment 8, 'email': updated must be a time such as 2026-02-03T03:00:01.5Z, not 'yesterday'",
        "segment 9, 'a\\x00b': channel holds control characters: 'a\\x00b'",
        f"segment 10, 'email': subscribed_sendable must be a whole number below 2^63, not {2**63}",
    ]
    assert found == loaded(4, undated=1, unreadable=lines, failed=[8, 9, 10])
    times = warehouse.get_records(
        "SELECT updated FROM segment_counters WHERE channel = 'sms' ORDER BY updated"
    )
    assert [str(time).replace("T", " ")[:19] for (time,) in times] == [
        *("2026-02-03 00:00:00", "2026-02-03 00:30:00", "2026-02-03 03:00:01")
    ]


def test_rows_of_a_forgotten_connection_are_stored_under_the_account_that_they_bring(
    warehouse: DbApiHook,
) -> None:
    load([EMAIL, {**SMS, "source": "theirs"}])
    stored = warehouse.get_records("SELECT source, channel FROM segment_counters ORDER BY source")
    assert [tuple(row) for row in stored] == [("acme", "email"), ("theirs", "sms")]


def test_counters_that_were_read_without_a_recount_are_no_nights(warehouse: DbApiHook) -> None:
    assert load([EMAIL, {**SMS, "recounted": False}]) == loaded(1)
    assert channels(warehouse) == ["email"]


# New York's clocks went back on 1 November 2026: 19:30 there is 23:30 UTC the day before and 0:30 UTC after.
@pytest.mark.parametrize(
    ("zone", "nights"),
    [
        ("America/New_York", ["2026-10-31", "2026-11-01", "2026-11-02"]),
        ("UTC", ["2026-10-31", "2026-11-02", "2026-11-03"]),
    ],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_each_run_is_one_night_of_the_connections_zone(
    warehouse: DbApiHook, connect: Callable[..., None], zone: str, nights: list[str]
) -> None:
    connect("http://127.0.0.1:9", account="acme", time_zone=zone)
    for run_after in ("2026-10-31T23:30:00+00:00", "2026-11-02T00:30:00+00:00", "2026-11-03T00:30:00+00:00"):
        run = SimpleNamespace(dag_id="d", run_id=run_after, run_after=datetime.fromisoformat(run_after))
        # Counted over midnight, in New York as in UTC, as a slow night may be.
        late = (run.run_after + timedelta(hours=6)).isoformat()
        load([{**EMAIL, "updated": run_after}, {**SMS, "updated": late}], run=run)
    found = warehouse.get_records(
        "SELECT night, COUNT(*) FROM segment_counters GROUP BY night ORDER BY night"
    )
    assert found == [(night, 2) for night in nights]
    assert warehouse.get_records("SELECT night FROM segment_counters_nights ORDER BY night") == [
        (night,) for night in nights
    ]


def test_what_became_of_each_segment_is_told_by_the_summary_of_the_operator(warehouse: DbApiHook) -> None:
    run = SimpleNamespace(dag_id="d", run_id="r", run_after=RUN_AFTER)
    summary = {"ok": [7], "failed": {"8": "API error 403: No access"}, "not_submitted": [9], "submits": 2}
    assert load([EMAIL, SMS], summary=summary, run=run) == loaded(2, failed=[8, 9], listed=[7, 8, 9])
    outcomes = [
        (of.id, of.outcome, of.reason) for of in history.nights(warehouse, "segment_counters", since=DAY)
    ]
    assert outcomes == [
        (7, "counted", None),
        (8, "failed", "API error 403: No access"),
        (9, "not_submitted", "not submitted"),
    ]


def test_a_run_that_is_loaded_again_tells_what_became_of_it_last(warehouse: DbApiHook) -> None:
    run = SimpleNamespace(dag_id="d", run_id="r", run_after=RUN_AFTER)
    for failed in ({"8": "timed out"}, {}):
        load([EMAIL, {**EMAIL, "segment_id": 8}], summary={"ok": [7, 8], "failed": failed}, run=run)
    outcomes = history.nights(warehouse, "segment_counters", since=DAY)
    assert [(of.id, of.outcome, of.reason) for of in outcomes] == [(7, "counted", None), (8, "counted", None)]


def test_several_nights_are_loaded_each_under_its_own_run(warehouse: DbApiHook) -> None:
    nights = [
        {
            "source": "theirs",
            "dag_id": "d",
            "run_id": f"r{day}",
            "run_after": f"2026-02-0{day}T23:00:00+00:00",
            "night": f"2026-02-0{day + 1}",  # as the zone of the run's own connection has it
            "ok": [7],
            "failed": {},
            "not_submitted": [],
            "rows": [{**EMAIL, "updated": f"2026-02-0{day}T23:00:00Z"}],
        }
        for day in (2, 3)
    ]
    load(nights)
    seen = history.last_of_each_night(warehouse, "segment_counters", since=DAY)
    outcomes = history.nights(warehouse, "segment_counters", since=DAY)
    assert [(of.source, of.night.day) for of in seen] == [("theirs", 3), ("theirs", 4)]
    assert [(of.run_id, of.night.day, of.outcome) for of in outcomes] == [
        *(("r2", 3, "counted"), ("r3", 4, "counted"))
    ]


def test_a_load_has_rows_or_an_asset() -> None:
    with pytest.raises(ConfigurationError, match="a load has either rows or an asset"):
        load()


def test_without_being_asked_no_table_is_created(warehouse: DbApiHook) -> None:
    with pytest.raises(Exception, match="segment_counters"):
        load([EMAIL], create_table=False)
    assert tables(warehouse) == []


def test_a_literal_that_is_no_table_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match="a table is named"):
        load([], table="segment counters")
    SegmentCountersToSqlOperator(task_id="load", rows=[], sql_conn_id="x", table="{{ params.table }}")


@pytest.mark.parametrize(
    ("conn_ids", "message"),
    [
        ({"sql_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection to a database"),
        ({"sql_conn_id": "segstats_default"}, "connection 'segstats_default': .* none to a SQL database"),
        ({"segstats_conn_id": "nowhere"}, "connection 'nowhere': there is no such connection"),
    ],
)
def test_a_connection_that_cannot_be_used_fails_at_once_and_is_named(
    conn_ids: dict[str, str], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        load([EMAIL], **conn_ids)


UNUSABLE = "nothing usable is installed for the type"


@pytest.mark.parametrize(
    ("kind", "missing", "line"),
    [
        (
            "snowflake",
            "",
            f"{UNUSABLE} 'snowflake': pip install apache-airflow-providers-snowflake",
        ),
        (
            "redshift",
            "",
            f"{UNUSABLE} 'redshift': pip install apache-airflow-providers-amazon",
        ),
        (
            "sqlite",
            "airflow.providers.common.sql.hooks.sql",
            "a history needs the extra sql: pip install 'airflow-provider-segstats[sql]'",
        ),
    ],
)
def test_a_missing_package_is_named_in_one_line_without_retries(
    monkeypatch: pytest.MonkeyPatch, kind: str, missing: str, line: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps({"conn_type": kind, "host": "x"}))
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AirflowFailException) as caught:
        load([EMAIL], sql_conn_id="elsewhere")
    assert str(caught.value).removeprefix("connection 'elsewhere': ") == line
    assert caught.value.__suppress_context__


# The report


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("library", ["matplotlib", "pyarrow"])
def test_a_report_without_its_libraries_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    line = f"a report needs {library}: pip install 'airflow-provider-segstats[report]'"
    with pytest.raises(AirflowFailException, match=f"^{re.escape(line)}$"):
        report(str(tmp_path))


def report(
    folder: Any, *, run_after: datetime = RUN_AFTER, events: Iterable[datetime] = (), **kwargs: Any
) -> dict[str, str]:
    task = SegmentReportOperator(task_id="report", sql_conn_id="warehouse", folder=folder, **kwargs)
    triggers = {"an asset": [SimpleNamespace(timestamp=event) for event in events]}
    run = SimpleNamespace(run_after=run_after)
    places: dict[str, str] = task.execute({"dag_run": run, "triggering_asset_events": triggers})
    return places


@pytest.fixture
def accounts(warehouse: DbApiHook) -> None:
    """Give a history of two accounts, ``acme`` with segment 7 and ``other`` with segment 8."""
    history.create(warehouse, "segment_counters")
    rows = [(EMAIL, "acme"), ({**EMAIL, "segment_id": 8}, "other")]
    history.write(warehouse, "segment_counters", [history.observed(*row) for row in rows])


def lines(places: dict[str, str]) -> list[dict[str, str]]:
    text = Path(places["csv"].removeprefix("file://")).read_text()
    return list(csv.DictReader(text.splitlines()))


def segments(places: dict[str, str]) -> list[str]:
    return [row["segment_id"] for row in lines(places)]


def html(places: dict[str, str]) -> str:
    return Path(places["html"].removeprefix("file://")).read_text()


def night(day: int, *rows: dict[str, Any], hour: int = 4, counted: timedelta = timedelta()) -> datetime:
    """Load a night of February, counted so long after its run began; return when that was."""
    run_after = datetime(2026, 2, day, hour, tzinfo=timezone.utc)
    updated = (run_after + counted).isoformat()
    run = SimpleNamespace(dag_id="d", run_id=f"{run_after}", run_after=run_after)
    load([{**row, "updated": updated} for row in rows], run=run)
    return run_after


@pytest.mark.usefixtures("accounts")
def test_a_report_has_all_accounts_or_that_of_a_connection(warehouse: DbApiHook, tmp_path: Path) -> None:
    assert segments(report(str(tmp_path / warehouse.dialect_name))) == ["7", "8"]
    assert segments(report(tmp_path.as_uri(), segstats_conn_id="segstats_default")) == ["7"]


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_report_is_named_by_its_run_and_the_same_again_in_a_retry(tmp_path: Path) -> None:
    folder = tmp_path / "new folder"
    places = report(f"file://{folder}", days=1)
    kinds = ("csv", "parquet", "html")
    assert places == {kind: f"file://{folder}/segments-20260203T040000Z.{kind}" for kind in kinds}
    files = {path: path.read_bytes() for path in folder.iterdir()}
    report(f"file://{folder}", days=1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_dag_that_counts_and_reports_itself_reports_its_own_night_however_late_it_ended(
    tmp_path: Path,
) -> None:
    run_after = night(3, EMAIL, hour=22, counted=timedelta(hours=7))
    places = report(str(tmp_path), run_after=run_after)
    assert [(row["night"], row["updated"]) for row in lines(places)] == [
        ("2026-02-03", "2026-02-04T05:00:00+00:00")
    ]
    assert "the check finds nothing" in html(places)


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_report_reaches_to_the_event_that_triggered_it(tmp_path: Path) -> None:
    run_after = night(3, EMAIL)
    earlier, later = run_after - timedelta(minutes=1), run_after + timedelta(minutes=1)
    assert segments(report(str(tmp_path), run_after=earlier, events=[later, earlier])) == ["7"]


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_cleared_report_is_of_its_night_and_says_what_it_leaves_out_and_the_latest_stays(
    tmp_path: Path,
) -> None:
    nights = [night(day, EMAIL, hour=23, counted=timedelta(hours=2)) for day in (3, 4, 5)]
    newest = report(str(tmp_path), run_after=nights[2])
    latest = (tmp_path / "latest.html").read_text()
    assert latest == html(newest)
    cleared = report(str(tmp_path), run_after=nights[0])
    assert [row["night"] for row in lines(cleared)] == ["2026-02-03"]
    left_out = "Later nights are left out: a segment has newer counts, up to 5 February 2026."
    assert left_out in html(cleared)
    assert left_out not in html(newest)
    assert (tmp_path / "latest.html").read_text() == latest


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_the_csv_adds_up_to_what_the_page_says_and_the_database_reckons(
    warehouse: DbApiHook, tmp_path: Path
) -> None:
    for day in range(1, 10):
        of = [{**EMAIL, "segment_id": of, "subscribed_sendable": 1000 * of + 3 * day} for of in (1, 2, 3)]
        # The third is not there a week before the last night, the second fails in it.
        run_after = night(day, *(row for row in of if (row["segment_id"], day) not in {(3, 2), (2, 9)}), SMS)
    [[tonight]] = warehouse.get_records(
        "SELECT SUM(count) FROM segment_counters_counts WHERE night = '2026-02-09'"
    )
    [[bridged]] = warehouse.get_records(
        "SELECT count FROM segment_counters_counts WHERE segment_id = 2 AND night = '2026-02-08'"
    )
    [[change, before]] = warehouse.get_records("""
        SELECT SUM(b.count - a.count), SUM(a.count) FROM segment_counters_counts AS a
        JOIN segment_counters_counts AS b USING (source, segment_id, list_id, resource_id, channel)
        WHERE a.night = '2026-02-02' AND b.night = '2026-02-09'
    """)
    places = report(str(tmp_path), run_after=run_after)
    sums = [
        sum(int(row[column] or 0) for row in lines(places))
        for column in ("subscribed_sendable", "change", "week_before")
    ]
    # 1 and 3 as they are, 2 as of the night before, the SMS of 7; the week's change is of 1 and 7.
    assert sums == [1027 + 2024 + 3027 + 209, 21, 1006 + 209]
    assert sums == [tonight + bridged, change, before]
    assert f'<p class="big">{sums[0]:,}</p><p><span class="up">+{change} ' in " ".join(
        html(places).replace("\n", " ").split()
    ).replace("> <", "><")
    assert "3,027 of 1 segment added; 2,006 of 1 segment missing." in html(places)


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_report_goes_by_the_rules_of_the_check(tmp_path: Path) -> None:
    for day in range(1, 10):
        run_after = night(day, *(EMAIL, {**EMAIL, "segment_id": 8})[: 2 if day < 9 else 1])
    rules = json.dumps({"segment_ids": [7], "max_drop": 0.2})
    listed = report(str(tmp_path), run_after=run_after, segstats_conn_id="segstats_default", rules=rules)
    assert "Not counted when due" not in html(listed)
    assert "Not counted when due: segment 8." in html(report(str(tmp_path), run_after=run_after))


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_list_of_segments_without_its_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="segment_ids are of one account"):
        report(str(tmp_path), rules={"segment_ids": [7]})


@pytest.mark.parametrize("spelled", [str, Path.as_uri], ids=["path", "URI"])
@pytest.mark.parametrize("name", ["my pr\u00fcjects", "100%25 #1?"])
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_report_goes_where_a_path_or_its_uri_points_whatever_it_is_called(
    tmp_path: Path, name: str, spelled: Callable[[Path], str]
) -> None:
    folder = tmp_path / "reports" / name
    places = report(spelled(folder))
    assert [path.name for path in folder.parent.iterdir()] == [name]
    written = {path.suffix[1:]: str(path) for path in folder.iterdir() if path.stem != "latest"}
    assert written == {kind: place.removeprefix("file://") for kind, place in places.items()}


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "folder must be an absolute path or a URL, not ''"),
        ("reports", "folder must be an absolute path or a URL, not 'reports'"),
        (None, "folder must be an absolute path or a URL, not None"),
        ("nosuch://bucket/x", "a report cannot be written to nosuch://bucket/x: .*nosuch"),
    ],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_a_folder_that_cannot_be_written_to_fails_at_once(folder: Any, message: str) -> None:
    task = SegmentReportOperator(task_id="report", sql_conn_id="warehouse", folder="{{ x }}")
    task.folder = folder  # as rendered
    with pytest.raises(AirflowFailException, match=message):
        task.execute({"dag_run": SimpleNamespace(run_after=RUN_AFTER)})


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("accounts")
def test_an_account_that_was_never_counted_fails_at_once(
    connect: Callable[..., None], tmp_path: Path
) -> None:
    connect("http://127.0.0.1:9", account="nobody")
    with pytest.raises(AirflowFailException, match="there is nothing to report"):
        report(f"{tmp_path}/reports", segstats_conn_id="segstats_default")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "arguments",
    [{"folder": "reports"}, {"rules": {"max": 1}}, {"days": 0}, {"table": "segment counters"}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_literals_that_make_no_report_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        report(**{"folder": "/reports", **arguments})
