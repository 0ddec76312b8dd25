"""Lineage: what the operators read and write, as OpenLineage knows it. From segments to a table to a report.

Of use to Airflow's OpenLineage provider only: nothing but the methods that it calls imports this module.
Names are made of connections' ids, hosts, tables and paths, never of what may hold a password.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, TypeAlias, TypeVar, get_args
from urllib.parse import quote

from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import SQLParser
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    datasource_dataset,
    output_statistics_output_dataset,
)

from airflow_provider_segstats import history
from airflow_provider_segstats.assets import name_of, segments_asset
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.report.findings import Finding, What

Lineage: TypeAlias = OperatorLineage[Any, Any]
D = TypeVar("D", InputDataset, OutputDataset)

MOST = 100
"""How many segments a task names at most, beside the one dataset for all of its connection's."""


def of_recount(hook: SegStatsHook, segment_ids: Iterable[int]) -> Lineage:
    """Return the lineage of a task that had segments recounted."""
    return Lineage(outputs=_segments(OutputDataset, hook, segment_ids))


def of_wait(hook: SegStatsHook, segment_ids: Iterable[int]) -> Lineage:
    """Return the lineage of a task that waited for what another had started."""
    return Lineage(inputs=_segments(InputDataset, hook, segment_ids))


def of_load(
    hook: SegStatsHook, segment_ids: Iterable[int], sql_conn_id: str, table: str, inserted: int | None
) -> Lineage:
    """Return the lineage of a task that put counters into the table; None: it did not get that far."""
    output = _table(OutputDataset, sql_conn_id, table)
    if inserted is not None:
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=inserted)
        output.outputFacets = {"outputStatistics": statistics}
    return Lineage(inputs=_segments(InputDataset, hook, segment_ids), outputs=[output])


def of_check(sql_conn_id: str, table: str, findings: Collection[Finding] | None) -> Lineage:
    """Return the lineage of a task that checked the table; None: it did not get that far."""
    input_ = _table(InputDataset, sql_conn_id, table)
    if findings is not None:
        found = {finding.what for finding in findings}
        assertions = [
            data_quality_assertions_dataset.Assertion(assertion=what, success=what not in found)
            for what in get_args(What)
        ]
        facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions=assertions)
        input_.inputFacets = {"dataQualityAssertions": facet}
    return Lineage(inputs=[input_])


def of_report(sql_conn_id: str, table: str, places: Iterable[str]) -> Lineage:
    """Return the lineage of a task that made files of the table."""
    outputs = [OutputDataset(*name_of(place)) for place in places]
    return Lineage(inputs=[_table(InputDataset, sql_conn_id, table)], outputs=outputs)


def _segments(kind: type[D], hook: SegStatsHook, segment_ids: Iterable[int]) -> list[D]:
    settings = hook.get_conn()
    source = datasource_dataset.DatasourceDatasetFacet(name=settings.account, uri=settings.base_url)
    assets = (segments_asset(hook.segstats_conn_id, one) for one in (None, *islice(segment_ids, MOST)))
    return [kind(*name_of(asset.uri), facets={"dataSource": source}) for asset in assets]


def _table(kind: type[D], sql_conn_id: str, table: str) -> D:
    hook = history.database(sql_conn_id)
    connection = hook.get_connection(sql_conn_id)
    info = hook.get_openlineage_database_info(connection)
    if info is None:  # a kind of database that OpenLineage has no names for, such as SQLite
        return kind(f"{connection.conn_type}://{quote(sql_conn_id, safe='')}", table)
    # As Airflow's own SQL operators have it, so that theirs and ours are one dataset.
    schema, _, name = table.rpartition(".")
    schema = schema or hook.get_openlineage_default_schema() or ""
    parser = SQLParser(hook.get_openlineage_database_dialect(connection), schema)
    query = f'SELECT * FROM "{schema}"."{name}"'  # noqa: S608 - parsed, not run
    [found] = parser.generate_openlineage_metadata_from_sql(query, hook, info).inputs
    return kind(found.namespace, found.name, facets=found.facets)
