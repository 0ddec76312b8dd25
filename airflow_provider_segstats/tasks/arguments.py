"""Checks of operator arguments: literals when a DAG is parsed, all others before any request."""

from __future__ import annotations

import json
import math
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
    from airflow_provider_segstats.core.model import Row

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
    ids = [required_id(name, item) for item in items(name, value)]
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
    for item in items("rows", value):
        rows += [dict(item)] if isinstance(item, Mapping) else items("rows", () if item is None else item)
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


def items(name: str, value: Any) -> Iterable[Any]:
    """Return what is in a list, or refuse what is none."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name} must be a list, not {value!r:.100}")
    return value


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
