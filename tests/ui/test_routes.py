"""The page's routes, in this process: none is without a check of who asks."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi.routing import APIRoute
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from airflow_provider_segstats.ui.app import app


def test_every_route_but_the_static_files_checks_who_asks() -> None:
    unchecked = [
        route.path
        for route in app.routes
        if not isinstance(route, APIRoute) or not any(map(_checks, route.dependant.dependencies))
    ]

    assert unchecked == ["/static"]
    [static] = [route for route in app.routes if isinstance(route, Mount)]
    assert isinstance(static.app, StaticFiles)


def test_no_route_changes_anything() -> None:
    assert {method for route in app.routes if isinstance(route, APIRoute) for method in route.methods} == {
        "GET"
    }


def _checks(dependency: Any) -> bool:
    check = requires_access_dag("GET")
    return getattr(dependency.call, "__qualname__", None) == check.__qualname__
