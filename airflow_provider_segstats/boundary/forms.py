"""The connection's form for an Airflow before 3.2, which asks the hook's class for it.

Later ones read it in the provider's info. Both are made of :mod:`airflow_provider_segstats.core.fields`.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_segstats.core.fields import EXTRAS, STANDARD


def widgets() -> dict[str, Any]:
    """Return the extras' fields by name, as WTForms has them (or what Airflow puts in its place)."""
    from wtforms import PasswordField, StringField
    from wtforms.validators import Optional, any_of

    fields = {}
    for name, extra in EXTRAS.items():
        schema = extra["schema"]
        choices = [any_of(schema["enum"])] if "enum" in schema else []
        # Numbers, too: the form would let only whole ones pass, and the settings read text.
        kind = PasswordField if schema.get("format") == "password" else StringField
        default = schema.get("default")
        fields[name] = kind(
            extra["label"],
            validators=[Optional(), *choices],
            description=extra["description"],
            default=None if default is None else str(default),
        )
    return fields


def behaviour() -> dict[str, Any]:
    """Return what becomes of the fields that every connection has."""
    return {name.replace("-", "_"): value for name, value in STANDARD.items()}
