"""What Airflow loads of the page: an entry in the navigation, a tab at a DAG run, and the app behind both.

Every process of Airflow imports this, so it imports nothing of ours; only the API server builds the app.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from airflow_provider_segstats import __version__

URL_PREFIX = "/segstats"


def _static(name: str, purpose: str = "page") -> str:
    """Return the URL of a static file, under the path that Airflow is served at.

    Static files are cached by their address, so the version is in it. ``purpose`` keeps two entries'
    addresses apart: Airflow's page runs a module once, and would find nothing the second time.
    """
    prefix = urlsplit(conf.get("api", "base_url", fallback="/")).path.rstrip("/")
    return f"{prefix}{URL_PREFIX}/static/{name}?v={__version__}&for={purpose}"


class SegStatsPlugin(AirflowPlugin):
    """The page "Segments"."""

    name = "segstats"
    fastapi_apps: list[dict[str, Any]] = []  # noqa: RUF012 - Airflow's own are declared so
    react_apps: list[dict[str, Any]] = [  # noqa: RUF012
        {
            "name": "Segments",  # by this name Airflow's page finds our component
            "destination": destination,
            "url_route": route,
            "category": "browse",
            "bundle_url": _static("segments.js", destination),
            "icon": _static("icon.svg"),
            "icon_dark_mode": _static("icon-dark.svg"),
        }
        for destination, route in (("nav", "segments"), ("dag_run", "segments_of_run"))
    ]

    @classmethod
    def on_load(cls, *_: Any, **__: Any) -> None:
        """Build the app, in the API server."""
        if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server" and not cls.fastapi_apps:
            from airflow_provider_segstats.ui.app import app

            cls.fastapi_apps.append({"app": app, "url_prefix": URL_PREFIX, "name": cls.name})
