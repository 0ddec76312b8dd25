"""Checks of operator arguments: literals when a DAG is parsed, all others before any request."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from numbers import Number
from typing import TYPE_CHECKING, Any, get_args

from airflow.sdk import BaseOperator

from airflow_provider_segstats.core.defaults import Format, OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import as_id, required_id

if TYPE_CHECKING:
    from airflow_provider_segstats.core.model import Row, Segment

_LONGEST = 10**9  # seconds; what is added to dates must not lead out of them


class ChecksArguments(BaseOperator):
    """An operator that refuses literal arguments when it is constructed, but not while Airflow unmaps it.

    What is raised there ends a mapped task's try outside of our hands, and is tried again with the same
    arguments: then ``execute`` is to refuse them, which ends them as any other permanent error.
    """

    _refused: ConfigurationError | None = None

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Let what is checked within be refused now, or by :meth:`refuse_arguments` once it is executed."""
        try:
            yield
        except ConfigurationError as error:
            if not getattr(self, "_BaseOperator__from_mapped", False):
                raise
            self._refused = error

    def refuse_arguments(self) -> None:
        """Raise what was wrong with an argument of a mapped task."""
        if self._refused:
            raise self._refused


def is_template(value: Any) -> bool:
    """Tell text that Airflow has yet to render."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def check_id(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse a literal that is no id; templates and other tasks' outputs are left for :func:`as_id`."""
    if is_template(value):
        return
    if value is None or isinstance(value, Number | str):
        as_id(name, value, optional=optional)


def check_params(value: Any) -> None:
    """Refuse extra body parameters that are no mapping of names; a template is left for later."""
    if is_template(value):
        return
    if value is None or isinstance(value, str | list | tuple | Mapping):
        as_params(value)


def as_params(value: Any) -> dict[str, Any]:
    """Return rendered extra body parameters as a dict; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError("extra_params must be a mapping of parameter names to values")
    return dict(value)


def check_ids(name: str, value: Any, *, may_be_empty: bool = False) -> None:
    """Refuse a literal that is no list of ids; templates and other tasks' outputs are left for later."""
    if isinstance(value, list | tuple | set) and not any(is_template(item) for item in value):
        as_ids(name, value, may_be_empty=may_be_empty)


def as_ids(name: str, value: Any, *, may_be_empty: bool = False) -> list[int] | None:
    """Return a rendered list of ids, also from JSON, or None for None."""
    value = from_json(name, value)
    if value is None:
        return None
    ids = [required_id(name, item) for item in _items(name, value)]
    if not ids and not may_be_empty:  # of what to check it says nothing
        raise ConfigurationError(f"{name} must be a list with at least one id, or None")
    return ids


def check_number(name: str, value: Any, most: float = math.inf) -> None:
    """Refuse a literal that is no number from 0 to ``most``; a template is left for :func:`as_number`."""
    if isinstance(value, int | float | str) and not is_template(value):
        as_number(name, value, most)


def as_number(name: str, value: Any, most: float = math.inf) -> float:
    """Return a rendered number from 0 to ``most``, also from text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most:
        bounds = "of at least 0" if most == math.inf else f"from 0 to {most}"
        raise ConfigurationError(f"{name} must be a number {bounds}, not {value!r}")
    return number


def as_mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """Return a rendered mapping, also from JSON; None is an empty one."""
    value = from_json(name, value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} must be a mapping, not {value!r:.100}")
    return value


def as_rows(value: Any) -> list[Row]:
    """Return the rows in what tasks hand on, whichever way they do.

    A list of rows; the outputs of a mapped task, a list of such lists (None for an instance without one);
    a dict that has them under ``rows``; or any of these as JSON, as a template with ``| tojson`` gives it.
    """
    value = from_json("rows", value)
    if isinstance(value, Mapping):
        value = value.get("rows")
    rows: list[Row] = []
    for item in _items("rows", value):
        rows += [dict(item)] if isinstance(item, Mapping) else _items("rows", () if item is None else item)
    if not all(isinstance(row, Mapping) for row in rows):
        raise ConfigurationError("a row must be a mapping of columns to values")
    return rows


def from_json(name: str, value: Any) -> Any:
    """Return what JSON text means; what is no text, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigurationError(
            f"{name} is text that is no JSON: end its template with '| tojson', or hand on a task's output"
        ) from None


def _items(name: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name} must be a list, not {value!r:.100}")
    return value


_SEGMENT_KEYS = {"segment_id", "resource_id", "db_id", "extra_params"}


NO_SEGMENTS = "segments is empty, so nothing would be counted; with allow_empty=True that is a success"


def check_segments(value: Any, *, may_be_empty: bool = False) -> None:
    """Refuse literal segments that cannot be meant; what is no literal is left for :func:`as_segments`."""
    if not _is_literal(value):
        return
    known = [entry for entry in value if _is_literal(entry)] if isinstance(value, list | tuple) else value
    entries = _segment_entries(known)
    if not entries and len(known) == len(value) and not may_be_empty:
        raise ConfigurationError(NO_SEGMENTS)
    for entry in entries:
        segment_id = entry["segment_id"]
        check_id("segment_id", segment_id)
        check_id(f"resource_id of segment {segment_id}", entry["resource_id"])
        check_id(f"db_id of segment {segment_id}", entry.get("db_id"), optional=True)
        check_params(entry.get("extra_params"))
    _refuse_twice([entry["segment_id"] for entry in entries])


def as_segments(value: Any, *, may_be_empty: bool = False) -> list[Segment]:
    """Return a rendered list of segments, also from JSON text; each may stand in it once."""
    from airflow_provider_segstats.core.model import Segment

    segments = [
        Segment(
            segment_id := required_id("segment_id", entry["segment_id"]),
            required_id(f"resource_id of segment {segment_id}", entry["resource_id"]),
            as_id(f"db_id of segment {segment_id}", entry.get("db_id"), optional=True),
            as_params(entry.get("extra_params")),
        )
        for entry in _segment_entries(value)
    ]
    if not segments and not may_be_empty:
        raise ConfigurationError(NO_SEGMENTS)
    _refuse_twice([segment.segment_id for segment in segments])
    return segments


def _is_literal(value: Any) -> bool:
    """Whether it is neither a template nor another task's output."""
    plain = value is None or isinstance(value, Number | str | list | tuple | Mapping)
    return plain and not is_template(value)


def _segment_entries(value: Any) -> list[Mapping[str, Any]]:
    entries = list(_items("segments", from_json("segments", value)))
    for entry in entries:
        if not isinstance(entry, Mapping) or not {"segment_id", "resource_id"} <= entry.keys():
            raise ConfigurationError(f"a segment needs segment_id and resource_id: {entry!r:.200}")
        if unknown := entry.keys() - _SEGMENT_KEYS:
            raise ConfigurationError(
                f"unknown {', '.join(sorted(map(str, unknown)))} in segment {entry!r:.200}"
            )
    return entries


def _refuse_twice(segment_ids: list[Any]) -> None:
    twice = [segment_id for segment_id, count in Counter(map(str, segment_ids)).items() if count > 1]
    if twice:
        raise ConfigurationError(f"segments that stand in the list twice: {', '.join(twice[:10])}")


def check_format(value: Any) -> None:
    """Refuse a wire format that does not exist; None means the connection's."""
    if value is not None and value not in get_args(Format):
        raise ConfigurationError(f"format can be 'json' or 'xml', not {value!r}")


def check_on_ambiguous_submit(value: Any) -> None:
    """Refuse what is no way to treat a submit whose answer was lost."""
    if value not in get_args(OnAmbiguousSubmit):
        raise ConfigurationError(f"on_ambiguous_submit can be 'fail' or 'resubmit', not {value!r}")


def check_count(name: str, value: Any) -> int:
    """Return a whole number above 0, or refuse what is none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}")
    return value


def seconds(name: str, value: timedelta | float) -> float:
    """Return a duration (a timedelta or seconds, above 0) as seconds."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= _LONGEST:
        raise ConfigurationError(f"{name} must be a timedelta or a number of seconds above 0, not {value!r}")
    return float(number)
