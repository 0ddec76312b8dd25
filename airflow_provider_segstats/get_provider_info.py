"""What Airflow learns of this provider. Imported by every Airflow process, so it imports nothing."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as Airflow's ``provider_info`` schema has it."""
    integration = "Segment statistics"
    package = "airflow_provider_segstats"
    return {
        "package-name": "airflow-provider-segstats",
        "name": integration,
        "description": "Recount segments' subscription counters, wait, and hand the counters on.",
        "integrations": [{"integration-name": integration, "tags": ["service"]}],
        "hooks": [{"integration-name": integration, "python-modules": [f"{package}.hooks"]}],
        "operators": [
            {"integration-name": integration, "python-modules": [f"{package}.operators", f"{package}.checks"]}
        ],
        "sensors": [{"integration-name": integration, "python-modules": [f"{package}.sensors"]}],
        "triggers": [{"integration-name": integration, "python-modules": [f"{package}.triggers"]}],
        "transfers": [
            {
                "source-integration-name": integration,
                "target-integration-name": "Common SQL",
                "python-module": f"{package}.transfers",
            }
        ],
        "notifications": [f"{package}.notifications.SegStatsNotifier"],
        "asset-uris": [
            {
                "schemes": ["segstats"],
                "handler": f"{package}.assets.sanitize_uri",
                "to_openlineage_converter": f"{package}.assets.to_openlineage",
            }
        ],
        "connection-types": [
            {
                "connection-type": "segstats",
                "hook-class-name": f"{package}.hooks.SegStatsHook",
                "hook-name": integration,
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "extra"],
                    "relabeling": {"host": "Host or URL", "password": "API token"},
                    "placeholders": {
                        "host": "example.com, or https://example.com:8443/prefix",
                        "schema": "https",
                        "password": "the platform's API token",
                    },
                },
                "conn-fields": _conn_fields(),
            }
        ],
    }


def _conn_fields() -> dict[str, Any]:
    return {
        "format": {
            "label": "Wire format",
            "description": "The encoding of requests and answers; operators can choose another.",
            "schema": {"type": ["string", "null"], "enum": ["json", "xml"], "default": "json"},
        },
        "base_path": {
            "label": "Base path",
            "description": "The API's path on the host.",
            "schema": {"type": ["string", "null"], "default": "/api/v1.1"},
        },
        "token_in": {
            "label": "Token in",
            "description": "Where the token goes: the body (all servers) or an Authorization header.",
            "schema": {"type": ["string", "null"], "enum": ["body", "header"], "default": "body"},
        },
        "verify": {
            "label": "Verify TLS",
            "description": "true, false, or the path of a CA file.",
            "schema": {"type": ["string", "null"], "default": "true"},
        },
        "timeout": {
            "label": "Request timeout (s)",
            "description": "Seconds that one request may take as a whole.",
            "schema": {"type": ["number", "null"], "default": 30},
        },
        "proxy": {
            "label": "Proxy",
            "description": "URL of an HTTP proxy; the environment's HTTPS_PROXY unless set.",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
        "failure_statuses": {
            "label": "Failure statuses",
            "description": "Comma-separated statuses that end a task in failure. A guess: the API "
            "documents none.",
            "schema": {
                "type": ["string", "null"],
                "default": "failed, error, canceled, cancelled, stopped, aborted",
            },
        },
        "unknown_task_codes": {
            "label": "Unknown-task codes",
            "description": "Comma-separated API errors that mean a task id is not known any more. A guess.",
            "schema": {"type": ["string", "null"], "default": "404"},
        },
        "requests_per_second": {
            "label": "Requests per second",
            "description": "At most this many from one process to the server; no limit unless set.",
            "schema": {"type": ["number", "null"]},
        },
        "account": {
            "label": "Account label",
            "description": "A stable name for reports; the host unless set.",
            "schema": {"type": ["string", "null"]},
        },
    }
