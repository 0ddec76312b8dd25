"""What users write of the segments that they want: entries by id, selections by what marks them, or both.

Literals are checked when a DAG is parsed, all others before any request; docs/segments.md says what there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import as_database_id, required_id
from airflow_provider_segstats.tasks.arguments import as_ids, as_params, from_json, is_template, items

if TYPE_CHECKING:
    from airflow_provider_segstats.core.model import Segment, Selection

_SEGMENT_KEYS = {"segment_id", "resource_id", "db_id", "extra_params", "name"}
_MARKS = ("ui_tags", "groups", "groups_id")
_SELECTION_KEYS = {*_MARKS, "exclude", "resource_id", "db_id", "extra_params", "allow_empty"}


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
        raise ConfigurationError(
            "segments is empty, so nothing would be counted; with allow_empty=True that is a success"
        )
    wanted = [_segment(one) if _is_segment(one) else _selection(one, allow_empty) for one in entries]
    _refuse_twice([one.segment_id for one in wanted if isinstance(one, Segment)])
    return wanted


def listed_in(name: str, value: Any) -> list[Any]:
    """Return the entries of a list, also from JSON text, or a selection that is all there is."""
    value = from_json(name, value)
    if isinstance(value, Mapping) and not _is_segment(value):
        return [value]
    return list(items(name, value))


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
    texts = () if value is None else tuple(items(name, value))
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
