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

from airflow_provider_segstats.core.defaults import Format, OnAmbiguousSubmit, OnTariffLimit
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import as_database_id, as_id, required_id

if TYPE_CHECKING:
    from airflow_provider_segstats.core.model import Row, Segment, Selection

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


def check_database_id(name: str, value: Any) -> None:
    """Refuse a literal that is no database's id, nor ``auto`` in its place; the rest is left for later."""
    if not is_template(value) and isinstance(value, Number | str):
        as_database_id(name, value)


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


_SEGMENT_KEYS = {"segment_id", "resource_id", "db_id", "extra_params", "name"}
_MARKS = ("ui_tags", "groups", "groups_id")
_SELECTION_KEYS = {*_MARKS, "exclude", "resource_id", "db_id", "extra_params", "allow_empty"}


NO_SEGMENTS = "segments is empty, so nothing would be counted; with allow_empty=True that is a success"


def check_segments(value: Any, *, allow_empty: bool = False) -> None:
    """Refuse literal segments that cannot be meant; what is no literal is left for :func:`as_segments`."""
    if isinstance(value, list | tuple):
        known = [entry for entry in value if _is_literal(entry)]
        as_segments(known, allow_empty=allow_empty or len(known) < len(value))
    elif _is_literal(value):
        as_segments(value, allow_empty=allow_empty)


def as_segments(value: Any, *, allow_empty: bool = False) -> list[Segment | Selection]:
    """Return what is to be recounted: a rendered list of segments and selections, or one selection.

    Also from JSON text. Each segment may stand in it once. ``allow_empty`` also holds for the selections that
    do not say it themselves.
    """
    from airflow_provider_segstats.core.model import Segment

    entries = listed_in("segments", value)
    for entry in entries:
        _check_entry(entry)
    if not entries and not allow_empty:
        raise ConfigurationError(NO_SEGMENTS)
    wanted = [_segment(one) if _is_segment(one) else _selection(one, allow_empty) for one in entries]
    _refuse_twice([one.segment_id for one in wanted if isinstance(one, Segment)])
    return wanted


def listed_in(name: str, value: Any) -> list[Any]:
    """Return the entries of a list, also from JSON text, or a selection that is all there is."""
    value = from_json(name, value)
    if isinstance(value, Mapping) and not _is_segment(value):
        return [value]
    return list(_items(name, value))


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, Mapping) or "resource_id" not in entry or not _says_which(entry):
        raise ConfigurationError(
            "a segment needs segment_id and resource_id, a selection resource_id and any of "
            f"{', '.join(_MARKS)}: {entry!r:.200}"
        )
    if unknown := entry.keys() - (_SEGMENT_KEYS if _is_segment(entry) else _SELECTION_KEYS):
        raise ConfigurationError(
            f"unknown {', '.join(sorted(map(str, unknown)))} in {_which(entry)}: {entry!r:.200}"
        )


def _says_which(entry: Mapping[str, Any]) -> bool:
    return _is_segment(entry) or any(entry.get(mark) for mark in _MARKS)


def _segment(entry: Mapping[str, Any]) -> Segment:
    from airflow_provider_segstats.core.model import Segment

    segment_id = required_id("segment_id", entry["segment_id"])
    return Segment(
        segment_id,
        required_id(f"resource_id of segment {segment_id}", entry["resource_id"]),
        as_database_id(f"db_id of segment {segment_id}", entry.get("db_id")),
        as_params(entry.get("extra_params")),
        _name(entry.get("name")),
    )


def _selection(entry: Mapping[str, Any], allow_empty: Any) -> Selection:
    from airflow_provider_segstats.core.model import Selection

    which = _which(entry)
    allow_empty = entry.get("allow_empty", allow_empty)
    if not isinstance(allow_empty, bool):
        raise ConfigurationError(f"allow_empty of {which} must be true or false")
    return Selection(
        required_id(f"resource_id of {which}", entry["resource_id"]),
        ui_tags=_texts(f"ui_tags of {which}", entry.get("ui_tags")),
        groups=_texts(f"groups of {which}", entry.get("groups")),
        groups_id=tuple(as_ids(f"groups_id of {which}", entry.get("groups_id"), may_be_empty=True) or ()),
        exclude=frozenset(as_ids(f"exclude of {which}", entry.get("exclude"), may_be_empty=True) or ()),
        db_id=as_database_id(f"db_id of {which}", entry.get("db_id")),
        extra_params=as_params(entry.get("extra_params")),
        allow_empty=allow_empty,
    )


def _is_segment(entry: Mapping[str, Any]) -> bool:
    return "segment_id" in entry


def _which(entry: Mapping[str, Any]) -> str:
    return f"segment {entry['segment_id']}" if _is_segment(entry) else "a selection"


def _name(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"a segment's name must be text, not {value!r:.100}")
    return value or None


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = () if value is None else tuple(_items(name, value))
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigurationError(f"{name} must be a list of texts that are not empty, not {value!r:.100}")
    return texts


def _is_literal(value: Any) -> bool:
    """Whether neither it nor anything in it is a template or another task's output."""
    if isinstance(value, list | tuple | Mapping):
        return all(map(_is_literal, value.values() if isinstance(value, Mapping) else value))
    return value is None or (isinstance(value, Number | str) and not is_template(value))


def _refuse_twice(segment_ids: list[int]) -> None:
    twice = [str(segment_id) for segment_id, count in Counter(segment_ids).items() if count > 1]
    if twice:
        raise ConfigurationError(f"segments that stand in the list twice: {', '.join(twice[:10])}")


def check_format(value: Any) -> None:
    """Refuse a wire format that does not exist; None means the connection's."""
    if value is not None and value not in get_args(Format):
        raise ConfigurationError(f"format can be 'json' or 'xml', not {value!r}")


def check_kind(value: Any) -> None:
    """Refuse what cannot be recounted."""
    from airflow_provider_segstats.core.model import ID_LABEL

    if value not in ID_LABEL:
        raise ConfigurationError(f"kind can be {', '.join(ID_LABEL)}, not {value!r}")


def check_on_ambiguous_submit(value: Any) -> None:
    """Refuse what is no way to treat a submit whose answer was lost."""
    if value not in get_args(OnAmbiguousSubmit):
        raise ConfigurationError(f"on_ambiguous_submit can be 'fail' or 'resubmit', not {value!r}")


def check_on_tariff_limit(value: Any) -> None:
    """Refuse what is no way to go on when the tariff allows no more recounts."""
    if value not in get_args(OnTariffLimit):
        raise ConfigurationError(f"on_tariff_limit can be 'fail' or 'read', not {value!r}")


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
