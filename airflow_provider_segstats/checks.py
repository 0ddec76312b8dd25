"""Checks: an alarm when the counters in the table of history look wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats import history, links
from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.metrics import METER
from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.report.baseline import NIGHTS, Limits
from airflow_provider_segstats.report.findings import RULES, Finding, check_rules, find, rules_of
from airflow_provider_segstats.report.past import read
from airflow_provider_segstats.tasks.arguments import ChecksArguments

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_segstats.lineage import Lineage

XCOM_KEY = "findings"
_NAMED = 5  # findings in the error's line
_DEFAULTS = Limits()


class SegmentCountersCheckOperator(ChecksArguments):
    """Fails when counters in the table of history look wrong. Run it after they were loaded.

    The account's newest night is held against the eight weeks before it, by what each segment does of itself:
    in its week, in its noise, and in how often it is counted. docs/check.md says what is found, and how often
    it is wrong. A finding comes back each night until it is the new normal; a segment that is not counted any
    more, until it is acknowledged or no longer in ``segment_ids``.

    With findings the task fails without retries, in one line that names the first of them. All stand in
    XCom under ``findings``, also none (an empty list): dicts of ``what`` (``missing``, ``stale``,
    ``vanished``, ``fell``, ``declined`` or ``rose``), ``source``, ``kind``, ``id``, ``name``, ``channel``,
    ``counter``, ``before``, ``after``, ``low``, ``high``, ``updated`` and ``reason``, with None for what does
    not apply.

    :param sql_conn_id: the Airflow connection of the database (templated)
    :param table: the table, as ``name`` or ``schema.name`` (templated)
    :param segstats_conn_id: the Airflow connection whose ``account`` is checked (templated)
    :param segment_ids: the night's list, each of which must have been counted; by default the segments that
        the history has (templated)
    :param max_drop: the share that a counter may be below what is expected, from 0 to 1 (templated)
    :param max_rise: the share that it may be above, 1 for twice as much (templated)
    :param max_loss: the share that it may lose over weeks, from 0 to 1 (templated)
    :param min_change: how many people make a difference at all (templated)
    :param by_counter: other limits for some counters, by these four names: ``{"all": {"max_drop": 0.5}}``;
        those that it names are checked beside ``subscribed_sendable`` (templated)
    :param by_segment: other limits for some segments, by their ids; these outdo the counter's (templated)
    :param acknowledged: ids of segments that are known not to be counted (templated)
    """

    template_fields: Sequence[str] = (
        "sql_conn_id",
        "table",
        "segstats_conn_id",
        "segment_ids",
        "max_drop",
        "max_rise",
        "max_loss",
        "min_change",
        "by_counter",
        "by_segment",
        "acknowledged",
    )
    ui_color = "#f6e3d5"
    operator_extra_links = (links.PageLink(),)

    def __init__(
        self,
        *,
        sql_conn_id: str,
        table: str = history.DEFAULT_TABLE,
        segstats_conn_id: str = SegStatsHook.default_conn_name,
        segment_ids: Collection[int] | str | None = None,
        max_drop: float | str = _DEFAULTS.max_drop,
        max_rise: float | str = _DEFAULTS.max_rise,
        max_loss: float | str = _DEFAULTS.max_loss,
        min_change: float | str = _DEFAULTS.min_change,
        by_counter: Mapping[str, Any] | str | None = None,
        by_segment: Mapping[Any, Any] | str | None = None,
        acknowledged: Collection[int] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.segstats_conn_id = segstats_conn_id
        self.segment_ids = segment_ids
        self.max_drop = max_drop
        self.max_rise = max_rise
        self.max_loss = max_loss
        self.min_change = min_change
        self.by_counter = by_counter
        self.by_segment = by_segment
        self.acknowledged = acknowledged
        self._findings: list[Finding] | None = None  # until they are known
        with self.checking():
            history.check_table(table)
            check_rules(self._rules())

    def execute(self, context: Context) -> None:
        """Fail with what looks wrong, if anything does."""
        links.show(self, context)
        try:
            self.refuse_arguments()
            findings = self._findings = self._find()
        except SegStatsError as error:
            raise airflow_error(error) from None
        context["ti"].xcom_push(key=XCOM_KEY, value=[finding.as_row() for finding in findings])
        for finding in findings:
            METER.count("findings", what=finding.what)
        if findings:
            named = "; ".join(str(finding) for finding in findings[:_NAMED])
            more = f"; and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
            what = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
            raise AirflowFailException(f"{what} in {self.table}: {named}{more}")

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return how the table did in the check; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_check

        return of_check(self.sql_conn_id, self.table, self._findings)

    def _rules(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RULES}

    def _find(self) -> list[Finding]:
        rules = rules_of(self._rules())
        hook = history.database(self.sql_conn_id)
        source = SegStatsHook(self.segstats_conn_id).get_conn().account
        now = datetime.now(tz=timezone.utc)
        past = read(hook, self.table, source=source, now=now, days=NIGHTS)
        findings = rules.open(find(past, rules, source))
        self.log.info("%s: %d observations, %d findings", self.table, len(past.observations), len(findings))
        return findings
