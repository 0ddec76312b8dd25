"""The form as an Airflow before 3.2 asks for it, with what stands in for WTForms there."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_segstats.boundary import forms
from airflow_provider_segstats.boundary.versions import newest
from airflow_provider_segstats.core.fields import EXTRAS
from airflow_provider_segstats.core.settings import Settings


class Field:
    def __init__(self, label: str, *, validators: list[Any], description: str, default: str | None) -> None:
        self.label, self.validators, self.description, self.default = label, validators, description, default


class StringField(Field):
    pass


class PasswordField(Field):
    pass


@pytest.fixture
def fields(monkeypatch: pytest.MonkeyPatch) -> dict[str, Field]:
    wtforms, validators = ModuleType("wtforms"), ModuleType("wtforms.validators")
    vars(wtforms).update(StringField=StringField, PasswordField=PasswordField)
    vars(validators).update(Optional=lambda: None, any_of=list)
    monkeypatch.setitem(sys.modules, "wtforms", wtforms)
    monkeypatch.setitem(sys.modules, "wtforms.validators", validators)
    return forms.widgets()


def settings(extra: dict[str, Any]) -> Settings:
    return Settings.from_fields(
        host="https://example.com", port=None, schema=None, password="t", extra=json.dumps(extra), format=None
    )


def test_it_has_every_extra_under_its_label(fields: dict[str, Field]) -> None:
    assert {name: field.label for name, field in fields.items()} == {
        name: extra["label"] for name, extra in EXTRAS.items()
    }


def test_a_proxy_which_may_hold_a_password_is_hidden(fields: dict[str, Field]) -> None:
    assert [name for name, field in fields.items() if isinstance(field, PasswordField)] == ["proxy"]


def test_choices_are_offered_where_there_are_some(fields: dict[str, Field]) -> None:
    choices = {name: field.validators[1] for name, field in fields.items() if field.validators[1:]}
    assert choices == {"format": ["json", "xml"], "token_in": ["body", "header"]}


def test_saved_as_it_is_shown_it_means_the_same_as_nothing(fields: dict[str, Field]) -> None:
    shown = {name: field.default for name, field in fields.items() if field.default is not None}
    assert all(isinstance(value, str) for value in shown.values())
    assert settings(shown) == settings({})


def test_numbers_may_come_as_text() -> None:
    assert settings({"timeout": "2.5", "requests_per_second": "0.5"}) == settings(
        {"timeout": 2.5, "requests_per_second": 0.5}
    )


def test_of_an_inlet_that_cannot_be_asked_for_less_the_newest_events_are_taken() -> None:
    assert list(newest([1, 2, 3, 4], 3)) == [4, 3, 2]
    assert list(newest([], 3)) == []
