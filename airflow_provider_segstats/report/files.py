"""The report's figures as a table: CSV for spreadsheets, Parquet for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.report.figures import ratio

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_segstats.report.figures import Figures

Table = Mapping[str, Sequence[Any]]
"""Columns by name, of one length."""

_TEXT, _IDS, _SHARES = (
    ("source", "kind", "name", "channel", "state"),
    ("segment_id", "list_id", "resource_id"),
    ("growth", "share"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(figures: Figures) -> Table:
    """Return a row for each channel of each list of each segment, then of databases and resources.

    ``updated``, ``night`` and the counters are those of the last observation; what is too old to stand in the
    report's sums has no counts. ``night_change`` and ``change``, since the night before and since a week
    before (when it was ``week_before``), have no value where one of the two nights has no count; ``growth``
    is the week's change as a share and ``share`` the channel's part of its segment, both 1.0 for the whole.
    So the columns of the segments' rows add up to the report's totals. ``state`` is ``counted``, ``waiting``
    (not due), ``unlisted``, ``missing``, ``vanished`` or ``gone``
    (:data:`~airflow_provider_segstats.report.figures.State`).
    """
    lines = [(of, line) for of in (*figures.segments, *figures.others) for line in of.lines]
    weeks = [line.trend.week for _, line in lines]
    last = [line.last for _, line in lines]
    names = dict.fromkeys(name for observation in last for name in observation.counters)
    counters = {
        name: [line.last.counters.get(name) if line.stands else None for _, line in lines] for name in names
    }
    counters[figures.counter] = [line.trend.now for _, line in lines]
    return {
        "source": [observation.source for observation in last],
        "kind": [observation.kind for observation in last],
        "segment_id": [observation.segment_id or None for observation in last],
        "name": [of.name for of, _ in lines],
        "list_id": [observation.list_id for observation in last],
        "resource_id": [observation.resource_id for observation in last],
        "channel": [observation.channel for observation in last],
        "updated": [observation.updated for observation in last],
        **counters,
        # Last, so that a counter of such a name does not hide them.
        "night": [observation.night for observation in last],
        "night_change": [line.trend.night and line.trend.night.by for _, line in lines],
        "week_before": [week and week.since for week in weeks],
        "change": [week and week.by for week in weeks],
        "growth": [_rounded(week.growth if week else None, 6) for week in weeks],
        "share": [_rounded(ratio(line.trend.now, of.trend.now), 6) for of, line in lines],
        "age_hours": [
            _rounded(figures.age(observation.updated).total_seconds() / 3600, 2) for observation in last
        ],
        "state": [line.state for _, line in lines],
    }


def as_csv(columns: Table) -> bytes:
    """Return UTF-8 text with a header. None is an empty field, times are ISO 8601.

    Text that a spreadsheet would take for a formula has an apostrophe in front of it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (list(columns), *zip(*columns.values(), strict=True)):
        writer.writerow(map(_cell, row))
    return text.getvalue().encode()


def as_parquet(columns: Table) -> bytes:
    """Return the same with types: ids and counts are int64, ``night`` a date, ``updated`` a time in UTC."""
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.table({name: _array(name, values) for name, values in columns.items()}), file)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    types = {"night": pa.date32(), "updated": pa.timestamp("us", "UTC"), "age_hours": pa.float64()}
    types |= (
        dict.fromkeys(_TEXT, pa.string())
        | dict.fromkeys(_IDS, pa.int64())
        | dict.fromkeys(_SHARES, pa.float64())
    )
    if name in types:
        return pa.array(values, types[name])
    if any(value is not None and abs(value) >= 2**63 for value in values):  # the API's numbers have 19 digits
        return pa.array([None if value is None else Decimal(value) for value in values], pa.decimal128(20))
    return pa.array(values, pa.int64())


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
