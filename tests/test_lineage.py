"""Lineage: what the operators tell OpenLineage, in its client's types. On real Airflow: ``test_nights``."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from airflow.providers.common.compat.openlineage.utils.utils import translate_airflow_asset
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import DatasetFacet, InputDatasetFacet, OutputDatasetFacet
from openlineage.client.naming import dataset as naming
from openlineage.client.serde import Serde
from openlineage.client.uuid import generate_new_uuid

from airflow_provider_segstats import history
from airflow_provider_segstats.assets import name_of, segments_asset
from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.checks import SegmentCountersCheckOperator
from airflow_provider_segstats.lineage import MOST
from airflow_provider_segstats.operators import RefreshSegmentOperator, RefreshSegmentsOperator
from airflow_provider_segstats.sensors import TaskStatusSensor
from airflow_provider_segstats.transfers import SegmentCountersToSqlOperator, SegmentReportOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from local_airflow.postgres import Postgres

NOW = datetime.now(tz=timezone.utc)
META = """p@ss:w/rd?#[]&=<'"%40>{}\\ é"""
SECRETS = [f"{what}{META}" for what in ("token", "database", "proxy")]


def row(segment_id: int, count: int = 100) -> dict[str, Any]:
    labels = {"segment_id": segment_id, "list_id": 1, "resource_id": 24, "channel": "email"}
    return {**labels, "subscribed_sendable": count, "updated": NOW.isoformat()}


@pytest.fixture(autouse=True)
def _connection(connect: Callable[..., None]) -> None:
    connect(
        "https://example.com:8443/x",
        token=SECRETS[0],
        account="acme",
        proxy=f"http://me:{quote(SECRETS[2], safe='')}@proxy:3128",
    )


def refresh() -> RefreshSegmentsOperator:
    segments = [{"segment_id": segment_id, "resource_id": 24} for segment_id in (7, 9)]
    return RefreshSegmentsOperator(task_id="refresh", segments=segments)


def load(rows: list[dict[str, Any]]) -> SegmentCountersToSqlOperator:
    task = SegmentCountersToSqlOperator(task_id="load", rows=rows, sql_conn_id="warehouse", create_table=True)
    task.execute({})
    return task


def check(**kwargs: Any) -> SegmentCountersCheckOperator:
    task = SegmentCountersCheckOperator(task_id="check", sql_conn_id="warehouse", **kwargs)
    with suppress(AirflowFailException):  # how it ends with findings
        task.execute({"ti": SimpleNamespace(xcom_push=lambda **_: None)})
    return task


def report(folder: Path) -> SegmentReportOperator:
    task = SegmentReportOperator(task_id="report", sql_conn_id="warehouse", folder=folder.as_uri())
    task.execute({"dag_run": SimpleNamespace(run_after=NOW)})
    return task


def told(task: Any) -> OperatorLineage[Any, Any]:
    """Return what Airflow's OpenLineage provider is told of a task that ended."""
    lineage: OperatorLineage[Any, Any] = task.get_openlineage_facets_on_complete(None)
    assert type(lineage) is OperatorLineage
    return lineage


def names(datasets: Iterable[Any]) -> list[tuple[str, str]]:
    return [(dataset.namespace, dataset.name) for dataset in datasets]


def event(lineage: OperatorLineage[Any, Any]) -> str:
    """Return the JSON of an event as Airflow's provider makes it, but for its redactor of secrets."""
    return Serde.to_json(
        RunEvent(
            eventType=RunState.COMPLETE,
            eventTime=NOW.isoformat(),
            run=Run(runId=str(generate_new_uuid())),
            job=Job(namespace="tests", name="task"),
            inputs=lineage.inputs,
            outputs=lineage.outputs,
            producer="https://example.com",
        )
    )


# Names


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("file:///var/reports/a b.html", naming.LocalFileSystem("/var/reports/a b.html")),
        ("/var/reports/a.html", naming.LocalFileSystem("/var/reports/a.html")),
        ("file://nas/reports/a.html", naming.RemoteFileSystem("nas", "/reports/a.html")),
        ("s3://bucket/reports/a.html", naming.S3("bucket", "reports/a.html")),
        ("s3://aws_default@bucket/reports/a.html", naming.S3("bucket", "reports/a.html")),
        ("gs://bucket/a.html", naming.GCS("bucket", "a.html")),
        ("gcs://google@bucket/a.html", naming.GCS("bucket", "a.html")),
    ],
)
def test_a_file_has_the_name_that_openlineage_gives_it(url: str, known: naming.DatasetNaming) -> None:
    assert name_of(url) == (known.get_namespace(), known.get_name())


@pytest.mark.parametrize(("segment_id", "name"), [(None, "segments"), (7, "segments/7")])
def test_airflow_converts_the_assets_to_what_the_operators_name(segment_id: int | None, name: str) -> None:
    converted = translate_airflow_asset(segments_asset("prod eu", segment_id), None)
    assert names([converted]) == [("segstats://prod%20eu", name)]


@pytest.mark.parametrize("warehouse", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["segment_counters", "reports.segment_counters", '"user"'])
def test_a_table_in_postgresql_is_the_dataset_of_airflows_sql_operators(
    warehouse: DbApiHook, table: str
) -> None:
    warehouse.run("CREATE SCHEMA IF NOT EXISTS reports")
    name = table.strip('"')
    for one in ("segment_counters", "reports.segment_counters", name):
        history.create(warehouse, one)
    theirs = SQLExecuteQueryOperator(task_id="theirs", sql=f"TRUNCATE {table}", conn_id="warehouse")
    ours = SegmentCountersToSqlOperator(task_id="ours", rows=[], sql_conn_id="warehouse", table=name)
    [known] = theirs.get_openlineage_facets_on_start().outputs
    [output] = told(ours).outputs
    assert names([output]) == names([known])
    assert output.facets == known.facets
    types = ["text", "text", "int8", "int8", "int8", "text", "timestamptz", "date", "jsonb"]
    ids = ["segment_id", "list_id", "resource_id"]
    columns = ["source", "kind", *ids, "channel", "updated", "night", "counters"]
    fields = [(field.name, field.type) for field in output.facets["schema"].fields]
    assert fields == list(zip(columns, types, strict=True))


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_table_in_sqlite_is_named_by_the_connection() -> None:
    assert names(told(load([row(7)])).outputs) == [("sqlite://warehouse", "segment_counters")]


# What each operator tells


ALL, SEVEN, NINE = (("segstats://segstats_default", f"segments{one}") for one in ("", "/7", "/9"))


def test_a_refresh_writes_its_segment_and_the_sensor_reads_it() -> None:
    refreshed = told(RefreshSegmentOperator(task_id="refresh", segment_id="7", resource_id=24))
    assert (names(refreshed.inputs), names(refreshed.outputs)) == ([], [ALL, SEVEN])
    waited = told(TaskStatusSensor(task_id="wait", refresh_task_id="x", segment_id="7"))
    assert (names(waited.inputs), names(waited.outputs)) == ([ALL, SEVEN], [])
    unlabelled = told(TaskStatusSensor(task_id="wait", refresh_task_id="x"))
    assert names(unlabelled.inputs) == [ALL]


def test_segments_say_which_platform_they_are_on() -> None:
    source = told(refresh()).outputs[0].facets["dataSource"]
    assert (source.name, source.uri) == ("acme", "https://example.com:8443/x/api/v1.1")


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_the_pipeline_is_connected_from_the_segments_over_the_table_to_the_reports_files(
    tmp_path: Path,
) -> None:
    refreshed, loaded, checked, reported = map(
        told, (refresh(), load([row(7), row(9), row(9)]), check(), report(tmp_path))
    )
    assert names(refreshed.outputs) == names(loaded.inputs) == [ALL, SEVEN, NINE]
    assert names(loaded.outputs) == names(checked.inputs) == names(reported.inputs)
    assert names(reported.outputs) == [
        ("file", f"{tmp_path}/segments-{NOW:%Y%m%dT%H%M%SZ}.{kind}") for kind in ("csv", "parquet", "html")
    ]
    assert refreshed.inputs == checked.outputs == []


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_load_tells_how_many_rows_it_inserted() -> None:
    load([row(7)])
    [table] = told(load([row(7), row(9)])).outputs
    assert table.outputFacets["outputStatistics"].rowCount == 1


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_a_check_tells_which_kinds_of_findings_there_were() -> None:
    load([row(7)])
    [table] = told(check(segment_ids=[7, 8])).inputs
    outcomes = {one.assertion: one.success for one in table.inputFacets["dataQualityAssertions"].assertions}
    assert outcomes == {
        "missing": False,
        **dict.fromkeys(("stale", "vanished", "fell", "declined", "rose"), True),
    }


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_what_failed_before_it_knew_tells_what_it_was_about() -> None:
    kwargs: dict[str, Any] = {"sql_conn_id": "warehouse"}
    loaded = told(SegmentCountersToSqlOperator(task_id="load", rows=[], **kwargs))
    checked = told(SegmentCountersCheckOperator(task_id="check", **kwargs))
    reported = told(SegmentReportOperator(task_id="report", folder="/nowhere", **kwargs))
    assert names(loaded.inputs) == [ALL]
    assert names(loaded.outputs) == names(checked.inputs) == names(reported.inputs)
    assert (loaded.outputs[0].outputFacets, checked.inputs[0].inputFacets) == ({}, {})
    assert (loaded.outputs[0].facets, reported.outputs) == ({}, [])


def test_of_thousands_of_segments_the_first_hundred_are_named_beside_the_whole() -> None:
    segments = [{"segment_id": one, "resource_id": 24} for one in range(1, 5001)]
    outputs = names(told(RefreshSegmentsOperator(task_id="refresh", segments=segments)).outputs)
    assert len(outputs) == MOST + 1
    assert (outputs[0], outputs[-1][1]) == (ALL, f"segments/{MOST}")


# Events


@pytest.fixture
def pipeline(postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Give what all operators tell, over connections that have passwords."""
    fields = {**postgres.connection, "password": SECRETS[1]}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    one = RefreshSegmentOperator(task_id="one", segment_id=7, resource_id=24)
    wait = TaskStatusSensor(task_id="wait", refresh_task_id="x", segment_id=7)
    rest = (refresh(), load([row(7), row(9)]), check(segment_ids=[8]), report(tmp_path))
    return [told(task) for task in (one, wait, *rest)]


def test_datasets_and_facets_are_of_the_clients_types_and_make_events(pipeline: list[Any]) -> None:
    sides = {
        "inputs": (InputDataset, "inputFacets", InputDatasetFacet),
        "outputs": (OutputDataset, "outputFacets", OutputDatasetFacet),
    }
    seen = set()
    for lineage in pipeline:
        written = json.loads(event(lineage))
        for side, (kind, of_side, facet_kind) in sides.items():
            datasets = getattr(lineage, side)
            for dataset, as_json in zip(datasets, written.get(side, []), strict=True):
                assert type(dataset) is kind
                assert (dataset.namespace, dataset.name) == (as_json["namespace"], as_json["name"])
                assert all(isinstance(facet, DatasetFacet) for facet in dataset.facets.values())
                assert all(isinstance(facet, facet_kind) for facet in getattr(dataset, of_side).values())
                for name, facet in (as_json.get("facets", {}) | as_json.get(of_side, {})).items():
                    assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
                    seen.add(name)
    assert seen == {"dataSource", "schema", "outputStatistics", "dataQualityAssertions"}


def test_no_event_holds_a_secret(pipeline: list[Any]) -> None:
    events = "\n".join(map(event, pipeline))
    assert "example.com" in events
    for secret in SECRETS:
        for spelling in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret)):
            assert json.dumps(spelling)[1:-1] not in events
            assert json.dumps(spelling, ensure_ascii=False)[1:-1] not in events


# Without the provider

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        # Airflow reads what the provider says of itself, as long as it finds the distribution.
        if name.startswith(("openlineage", "airflow.providers.openlineage.")) and "_info" not in name:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import json
from airflow.sdk import Asset
from airflow_provider_segstats import assets, checks, notifications, operators, sensors, transfers, triggers

row = {"segment_id": 7, "list_id": 1, "resource_id": 24, "channel": "email", "subscribed_sendable": 5}
row["updated"] = "2026-02-03T03:00:00Z"
table = {"sql_conn_id": "warehouse", "create_table": True}
load = transfers.SegmentCountersToSqlOperator(task_id="load", rows=[row], **table)
uri = Asset("segstats://segstats_default/segments/007").uri
imported = [name for name in sys.modules if "lineage" in name and "airflow." not in name]
print(json.dumps([load.execute({}), uri, imported]))
"""


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("warehouse")
def test_without_the_provider_all_else_works_and_nobody_looks_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, uri, imported = json.loads(done.stdout.splitlines()[-1])
    assert loaded["inserted"] == 1
    assert uri == "segstats://segstats_default/segments/7"
    assert imported == []
