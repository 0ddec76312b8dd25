"""The connection's extras in one list: what the form shows, what the settings read and what holds if not set.

Airflow imports this in every process that it starts, so it imports nothing.
"""

from __future__ import annotations

from typing import Any

STANDARD: dict[str, Any] = {
    "hidden-fields": ["login", "extra"],
    "relabeling": {"host": "Host or URL", "password": "API token"},
    "placeholders": {
        "host": "example.com, or https://example.com:8443/prefix",
        "schema": "https",
        "password": "the platform's API token",
    },
}
"""What becomes of the fields that every connection has, as Airflow's ``ui-field-behaviour`` has it."""

EXTRAS: dict[str, dict[str, Any]] = {
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
    "success_statuses": {
        "label": "Success statuses",
        "description": "Comma-separated statuses that end a task well. The API documents both, the second "
        "in its older pages.",
        "schema": {"type": ["string", "null"], "default": "completed, success"},
    },
    "failure_statuses": {
        "label": "Failure statuses",
        "description": "Comma-separated statuses that end a task in failure. A guess: the API documents "
        "none.",
        "schema": {
            "type": ["string", "null"],
            "default": "failed, error, canceled, cancelled, stopped, aborted",
        },
    },
    "refused_statuses": {
        "label": "Refused statuses",
        "description": "Comma-separated HTTP statuses that mean a submit was not accepted, so that it may be "
        "repeated; [] for none.",
        "schema": {"type": ["string", "null"], "default": "429, 503"},
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
    "time_zone": {
        "label": "Time zone",
        "description": "Which date a night has, as the zone's IANA name, such as Europe/Berlin.",
        "schema": {"type": ["string", "null"], "default": "UTC"},
    },
    "segment_url": {
        "label": "Segment URL",
        "description": "Where people look at a segment, for links: a URL with {segment_id}, {resource_id} or "
        "{db_id} in it.",
        "schema": {"type": ["string", "null"]},
    },
}
"""Each extra by name, as Airflow's ``conn-fields`` have it. ``default`` is as a form would give it; an extra
without one may be left unset."""
