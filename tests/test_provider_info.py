"""What Airflow learns of the provider: valid by its own schemas, shown by its UI, and cheap to import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, metadata, version
from pathlib import Path
from typing import Any

import airflow
import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.sdk import BaseNotifier
from jsonschema import Draft7Validator

from airflow_provider_segstats import __version__
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.get_provider_info import get_provider_info
from airflow_provider_segstats.hooks import SegStatsHook

INFO = get_provider_info()
[CONNECTION_TYPE] = INFO["connection-types"]
FIELDS = CONNECTION_TYPE["conn-fields"]
MODULES = [
    module
    for kind in ("hooks", "operators", "sensors", "triggers")
    for group in INFO[kind]
    for module in group["python-modules"]
] + [group["python-module"] for group in INFO["transfers"]]


def schema(name: str) -> Any:
    [folder] = airflow.__path__[:1]
    return json.loads((Path(folder) / name).read_text())


def test_the_info_is_valid_by_airflows_schema_of_installed_providers() -> None:
    Draft7Validator(schema("provider_info.schema.json")).validate(INFO)


def test_the_connection_type_is_valid_by_airflows_schema_of_provider_files() -> None:
    types = schema("provider.yaml.schema.json")["properties"]["connection-types"]
    Draft7Validator(types).validate(INFO["connection-types"])


def test_the_info_is_plain_json() -> None:
    assert json.loads(json.dumps(INFO)) == INFO


def test_names_and_versions_are_those_of_the_distribution() -> None:
    assert metadata(INFO["package-name"])["Name"] == INFO["package-name"] == "airflow-provider-segstats"
    assert version(INFO["package-name"]) == __version__


def test_the_entry_point_gives_the_info() -> None:
    [point] = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.value.startswith("airflow_provider_segstats")
    ]
    assert point.load()() == INFO


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_is_named_imports(module: str) -> None:
    assert import_module(module).__doc__


@pytest.mark.parametrize("path", INFO["notifications"])
def test_every_notifier_that_is_named_is_one(path: str) -> None:
    module, name = path.rsplit(".", 1)
    assert issubclass(getattr(import_module(module), name), BaseNotifier)


def test_the_hook_class_is_the_connection_types() -> None:
    module, name = CONNECTION_TYPE["hook-class-name"].rsplit(".", 1)
    hook = getattr(import_module(module), name)
    assert hook is SegStatsHook
    assert (hook.conn_type, hook.hook_name) == (
        CONNECTION_TYPE["connection-type"],
        CONNECTION_TYPE["hook-name"],
    )


def test_the_form_of_the_ui_shows_the_type_with_its_fields() -> None:
    [meta] = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "segstats"]
    assert meta.hook_name == "Segment statistics"
    assert set(meta.extra_fields or {}) == set(FIELDS)
    assert meta.standard_fields is not None
    password = meta.standard_fields.password
    assert password is not None
    assert password.title == "API token"


@pytest.mark.parametrize("choose", ["default", "nothing", "null"])
def test_a_form_saved_untouched_means_the_defaults(choose: str) -> None:
    defaults = {name: field["schema"].get("default") for name, field in FIELDS.items()}
    extra = {"default": defaults, "nothing": {}, "null": dict.fromkeys(FIELDS)}[choose]
    fields: dict[str, Any] = {"host": "example.com", "password": "t"}
    assert Settings.from_fields(**fields, extra=json.dumps(extra)) == Settings.from_fields(**fields)


@pytest.mark.parametrize("name", ["format", "token_in"])
def test_the_choices_of_the_form_are_those_the_settings_take(name: str) -> None:
    for choice in FIELDS[name]["schema"]["enum"]:
        of = Settings.from_fields(host="example.com", password="t", extra={name: choice})
        assert getattr(of, name) == choice


def test_a_proxys_password_is_not_shown_by_the_form() -> None:
    assert FIELDS["proxy"]["schema"]["format"] == "password"


IMPORTS = """
import sys
{first}
before = set(sys.modules)
import {modules}
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def newly_imported(modules: str, first: str = "") -> set[str]:
    """Return what importing the modules in a fresh process adds to what is there already."""
    code = IMPORTS.format(modules=modules, first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_a_dag_file_pays_for_no_http_xml_or_sql_library() -> None:
    package = "airflow_provider_segstats"
    modules = ("operators", "sensors", "transfers", "checks", "notifications")
    added = newly_imported(
        ", ".join(f"{package}.{name}" for name in modules),
        "from airflow.sdk import DAG, BaseHook, BaseNotifier, BaseOperator, BaseSensorOperator",
    )
    assert f"{package}.operators" in added
    heavy = {"requests", "aiohttp", "xmltodict", "urllib3", "certifi", "starlette", "uvicorn", "ssl"}
    heavy |= {"sqlalchemy", "sqlparse", "airflow.providers.common.sql"}
    assert added & heavy == set()
    assert (
        added & {f"{package}.{name}" for name in ("core.client", "core.transport", "triggers", "emulator")}
        == set()
    )


def test_the_providers_info_imports_no_more_than_the_list_of_fields() -> None:
    added = newly_imported("airflow_provider_segstats.get_provider_info")
    package = "airflow_provider_segstats"
    ours = {f"{package}{name}" for name in ("", ".core", ".core.fields", ".get_provider_info")}
    assert {name for name in added if name.partition(".")[0] not in sys.stdlib_module_names} == ours
