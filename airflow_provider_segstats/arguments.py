"""Checks of operator arguments: literals when a DAG is parsed, templates before any request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, get_args

from airflow_provider_segstats.codec import Format
from airflow_provider_segstats.errors import ConfigurationError

_LONGEST = 10**9  # seconds; what is added to dates must not lead out of them


def check_id(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse a literal that is no id; templates and other tasks' outputs are left for :func:`as_id`."""
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return
    if value is None or isinstance(value, int | float | str):
        as_id(name, value, optional=optional)


def as_id(name: str, value: Any, *, optional: bool = False) -> int | None:
    """Return a rendered value as an id: a whole number above 0, also as text."""
    if optional and (value is None or value in ("", "None")):
        return None
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 2**63):
        raise ConfigurationError(f"{name} must be a whole number above 0, not {value!r}")
    return int(text)


def required_id(name: str, value: Any) -> int:
    """Return a rendered value as an id that has to be there."""
    number = as_id(name, value)
    assert number is not None  # noqa: S101 - as_id refuses None unless it is optional
    return number


def check_params(value: Any) -> None:
    """Refuse extra body parameters that are no mapping of names; a template is left for later."""
    if isinstance(value, str) and ("{{" in value or "{%" in value):
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


def check_format(value: Any) -> None:
    """Refuse a wire format that does not exist; None means the connection's."""
    if value is not None and value not in get_args(Format):
        raise ConfigurationError(f"format can be 'json' or 'xml', not {value!r}")


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
