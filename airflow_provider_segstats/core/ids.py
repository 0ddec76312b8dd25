"""Ids as users have them: numbers of any library, or text."""

from __future__ import annotations

import re
from numbers import Number
from typing import Any

from airflow_provider_segstats.core.defaults import AUTO, DatabaseId
from airflow_provider_segstats.core.errors import ConfigurationError

_WHOLE = re.compile(r"\s*0*([0-9]{1,19})(\.0+)?\s*", re.ASCII)
# What there is where nothing is, in Python, NumPy and pandas, also once a template has made it text.
_NOTHING = frozenset({"", "None", "nan", "NaN", "NaT", "<NA>"})


def as_id(name: str, value: Any, *, optional: bool = False) -> int | None:
    """Return a whole number above 0 as an int, whichever library's it is, also from text.

    A column with gaps has floats, so 7.0 and "7.0" are 7. An ``optional`` one may be nothing: None, NaN, NaT,
    pandas.NA. Raises :class:`ConfigurationError` for anything else.
    """
    number = _whole_number(value)
    if number is not None and 0 < number < 2**63:
        return number
    if optional and number is None and str(value) in _NOTHING:
        return None
    raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}")


def required_id(name: str, value: Any) -> int:
    """Return as :func:`as_id` does an id that has to be there."""
    number = as_id(name, value)
    assert number is not None  # noqa: S101 - as_id refuses None unless it is optional
    return number


def as_database_id(name: str, value: Any) -> DatabaseId:
    """Return a database's id as :func:`as_id` does, or None, or that it is to be looked up: ``auto``."""
    if isinstance(value, str) and value.strip() == AUTO:
        return AUTO
    return as_id(name, value, optional=True)


def _whole_number(value: Any) -> int | None:
    if type(value) is int or value is None:  # as nearly all are, of 100,000 segments at each resume of a task
        return value
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value)
        return int(found[1]) if found else None
    if not _is_number(value):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):  # complex, NaN, infinite
        return None
    return number if number == value else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)  # NumPy's and Decimal are, too
