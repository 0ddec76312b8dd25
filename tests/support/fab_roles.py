"""Asks every route of the page as each role of the FAB auth manager, in the process of an API server's app.

Run as a program in an environment with that auth manager; prints what came of it as JSON, behind MARK.
"""

from __future__ import annotations

import json
import sys

MARK = "what FAB's roles may: "
ROLES = ("Public", "Viewer", "User", "Op", "Admin")


def main(database: str) -> None:
    """Print ``{user: {"status": {route: status}, "plugins": status, "runs": [dag_id, …]}}``."""
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from fastapi.testclient import TestClient
    from support.airflow_rows import Rows

    rows = Rows(database)
    for dag_id in ("mine", "theirs"):
        rows.add_dag(dag_id)
        progress = {"account": "shop", "total": 1, "done": 0, "segments": [[7, 40]]}
        rows.add_run(dag_id, "r", {"refresh": ("deferred", {"segstats_progress": progress})})
    routes = {
        "api/segments": {},
        "api/segment": {"account": "shop", "id": "7"},
        "api/running": {},
        "api/nights": {},
        "api/run": {"dag_id": "theirs", "run_id": "r"},
        "report/report.html": {},
    }
    app, manager = create_app(apps="core"), get_auth_manager()
    with TestClient(app) as client, manager.flask_app.app_context():
        security = manager.security_manager
        one_dag = security.add_role("OneDag")
        for resource in ("DAG:mine", "DAG Runs", "Task Instances"):
            security.add_permission_to_role(one_dag, security.create_permission("can_read", resource))
        found = {}
        for role in (*(security.find_role(name) for name in ROLES), one_dag):
            name = role.name
            user = security.add_user(name, name, name, f"{name}@example.com", role, password=name)
            session = {"Authorization": f"Bearer {manager.generate_jwt(user)}"}
            found[name] = {
                "status": {
                    route: client.get(f"/segstats/{route}", params=parameters, headers=session).status_code
                    for route, parameters in routes.items()
                },
                "plugins": client.get("/api/v2/plugins", headers=session).status_code,
                "runs": sorted(
                    task["dag_id"]
                    for task in client.get("/segstats/api/running", headers=session).json().get("tasks", ())
                ),
            }
        found["nobody"] = {
            "status": {
                route: client.get(f"/segstats/{route}", params=parameters).status_code
                for route, parameters in routes.items()
            }
        }
    sys.stdout.write(MARK + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
