"""What Airflow learns of this provider. Imported by every Airflow process, so it imports nothing heavy."""

from __future__ import annotations

from typing import Any

from airflow_provider_segstats.core.fields import EXTRAS, STANDARD


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
        "config": {
            "segstats": {
                "description": "Options of the DAGs that count segments every night.",
                "options": {
                    "accounts": {
                        "description": "Ids of the segstats connections to count, separated by commas. "
                        "Each has DAGs of its own.\n",
                        "version_added": "0.2.0",
                        "type": "string",
                        "example": "segstats_default, segstats_eu",
                        "default": "segstats_default",
                    },
                    "progress": {
                        "description": "Whether waiting tasks tell how far they are, in an XCom named "
                        "segstats_progress: every 30 seconds at most, and at most two writes a second "
                        "for each worker or triggerer.\n",
                        "version_added": "0.2.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                },
            }
        },
        "extra-links": [f"{package}.links.{name}" for name in ("SegmentLink", "PageLink", "ReportLink")],
        "cli": [f"{package}.cli.get_cli_commands"],
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
                "ui-field-behaviour": STANDARD,
                "conn-fields": EXTRAS,
            }
        ],
    }
