"""The part "import" of scripts/bench: what a DAG file pays for importing us, and for importing the peers."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.stage import CLIENT_CORE, Outcome, Panel, Target, spread

HEAVY = ("requests", "aiohttp", "xmltodict")
OURS = "our operators and sensors"
IMPORTS = {
    OURS: "import airflow_provider_segstats.operators, airflow_provider_segstats.sensors",
    "http sensor": "import airflow.providers.http.sensors.http",
    "dbt-cloud operators": "import airflow.providers.dbt.cloud.operators.dbt",
    "airbyte operators": "import airflow.providers.airbyte.operators.airbyte",
}
_PROGRAM = """
import json, os, sys, time
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator
os.sched_setaffinity(0, {%d})
before, began = set(sys.modules), time.process_time()
%s
cost = time.process_time() - began
new = set(sys.modules) - before
print(json.dumps({"ms": 1e3 * cost, "modules": len(new), "heavy": sorted(new & set(%r))}))
"""


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:
    """Import each in fresh processes, in turn; the first of each fills the caches."""
    rounds = rounds or (1 if smoke else 9)
    costs: dict[str, list[float]] = {what: [] for what in IMPORTS}
    seen: dict[str, dict[str, list[str]]] = {}
    env = {**os.environ, "AIRFLOW_HOME": str(folder)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # without its cache, Python compiles us each time
    for round_ in range(1 if smoke else 0, rounds + 1):
        for what, statement in IMPORTS.items():
            program = _PROGRAM % (CLIENT_CORE, statement, HEAVY)
            done = subprocess.run(
                [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
            )
            seen[what] = json.loads(done.stdout.splitlines()[-1])
            if round_:
                costs[what].append(float(seen[what]["ms"]))  # type: ignore[arg-type]
    rows = [["import", "CPU ms: median (range)", "x ours", "modules", "of them heavy"]]
    medians = {what: statistics.median(values) for what, values in costs.items()}
    for what, values in costs.items():
        heavy = ", ".join(seen[what]["heavy"]) or "none"
        ratio = f"{medians[what] / medians[OURS]:.0f}"
        rows.append([what, spread(values, ".1f"), ratio, str(seen[what]["modules"]), heavy])
    return Outcome(
        f"import: what a DAG file pays on top of airflow.sdk, {rounds} rounds",
        [rows],
        "Each in a process of its own after 'from airflow.sdk import DAG, BaseOperator, BaseSensorOperator', "
        f"with the bytecode cached. Heavy are {', '.join(HEAVY)}.",
        [
            Target("importing operators and sensors: CPU", medians[OURS], 5, "ms"),
            Target(f"… of {', '.join(HEAVY)} loaded", len(seen[OURS]["heavy"]), 0, "modules"),
        ],
        Panel("What importing costs a DAG file", "CPU ms", (OURS,), bars=medians),
    )
