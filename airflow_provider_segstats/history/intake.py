"""A night as tasks hand it on, as observations and outcomes. Pure.

A night is a mapping with its ``rows``, and what else is known of it:

``source``          the account; else that of the rows, or the one given
``dag_id``, ``run_id``, ``run_after``
                    the run that counted, the latter in ISO format; else the run given
``night``           its date; else that of ``run_after`` in the zone given
``ok``              the ids of the segments that were counted; else those of the rows
``failed``          reasons by id, or ids alone
``not_submitted``   ids
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.errors import ConfigurationError, UnreadableRowError
from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import ID_LABEL, Kind
from airflow_provider_segstats.history.observations import (
    Observation,
    Outcome,
    observed,
)
from airflow_provider_segstats.tasks.arguments import as_rows, from_json

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_UNDATED = "the platform does not say when it was counted"


@dataclass
class Intake:
    """What became of a night's rows, or of several nights'."""

    observations: list[Observation] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    undated: int = 0
    """Rows that were never counted, or at no known instant."""
    not_recounted: int = 0
    """Rows of counters that were read without a recount: no night's."""
    unreadable: list[str] = field(default_factory=list)
    """A line for each row that is none, with its segment."""
    failed: list[int] = field(default_factory=list)
    """The ids of what the last night did not count."""
    listed: list[int] = field(default_factory=list)
    """The ids of all segments that the last night was to count; empty where it does not tell."""

    def take(self, night: Mapping[str, Any], source: str, zone: ZoneInfo, run: Any = None) -> None:
        """Take in a night; ``run`` is a DAG run, or None where there is none."""
        run_after = night.get("run_after") or (run and run.run_after)
        if isinstance(run_after, str):
            run_after = datetime.fromisoformat(run_after)
        day = night_of(run_after, zone) if run_after else None
        if night.get("night"):
            day = date.fromisoformat(str(night["night"]))
        rows = as_rows(night)
        source = night.get("source") or source
        # What has no rows is of the account of those that have.
        of_others = next((row["source"] for row in rows if row.get("source")), source)
        seen = self._take_rows(rows, source, day, zone)
        dag_id = night.get("dag_id") or (run and run.dag_id)
        run_id = night.get("run_id") or (run and run.run_id)
        outcomes = dict(_told(night, seen))
        self.failed = [number for (_, number), (outcome, _) in outcomes.items() if outcome != "counted"]
        self.listed = (
            [number for kind, number in outcomes if kind == "segment"] if night.get("ok") is not None else []
        )
        if dag_id and run_id and run_after and day:
            self.outcomes += [
                Outcome(of_others, dag_id, run_id, day, run_after, kind, number, outcome, reason)
                for (kind, number), (outcome, reason) in outcomes.items()
            ]

    def _take_rows(
        self, rows: Iterable[Mapping[str, Any]], source: str, day: date | None, zone: ZoneInfo
    ) -> dict[tuple[Kind, int], str | None]:
        """Take in rows; return what they are of, and why it is not counted if none of its rows is."""
        seen: dict[tuple[Kind, int], str | None] = {}
        for row in rows:
            if row.get("recounted") is False:
                self.not_recounted += 1
                continue
            try:
                observation = observed(dict(row), source, day, zone)
            except UnreadableRowError as error:
                self.unreadable.append(error.message)
                seen.setdefault(_object(row), error.message)
                continue
            if observation is None:
                self.undated += 1
                seen.setdefault(_object(row), _UNDATED)
            else:
                self.observations.append(observation)
                seen[observation.kind, observation.id] = None
        return seen


def as_nights(value: Any, summary: Any = None) -> list[Mapping[str, Any]]:
    """Return the nights in what tasks hand on: one, a list of such, or rows in any of the ways they come.

    ``summary`` is what RefreshSegmentsOperator says of its rows beside them.
    """
    value, summary = from_json("rows", value), from_json("summary", summary)
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, str):
        nights: list[Mapping[str, Any]] = [*value]
        if nights and all(isinstance(night, Mapping) and "rows" in night for night in nights):
            return nights
        value = nights
    if summary is not None and not isinstance(summary, Mapping):
        raise ConfigurationError(f"summary must be what RefreshSegmentsOperator pushes, not {summary!r:.100}")
    return [{**(summary or {}), "rows": value}]


def night_of(run_after: datetime, zone: ZoneInfo) -> date:
    """Return the date that a run has in a zone: its night's."""
    return run_after.astimezone(zone).date()


def _object(row: Mapping[str, Any]) -> tuple[Kind, int]:
    kind: Kind = row.get("kind") or "segment"
    return kind, required_id(ID_LABEL[kind], row[ID_LABEL[kind]])


def _told(
    night: Mapping[str, Any], seen: Mapping[tuple[Kind, int], str | None]
) -> Iterator[tuple[tuple[Kind, int], tuple[Any, str | None]]]:
    """Yield each object with its outcome and the reason; what comes later counts."""
    for number in night.get("ok") or ():
        yield ("segment", int(number)), ("counted", None)
    for one, reason in seen.items():
        yield one, ("failed", reason) if reason else ("counted", None)
    failed = night.get("failed") or {}
    for number, reason in failed.items() if isinstance(failed, Mapping) else ((one, None) for one in failed):
        yield ("segment", int(number)), ("failed", reason or "no reason given")
    for number in night.get("not_submitted") or ():
        yield ("segment", int(number)), ("not_submitted", "not submitted")
