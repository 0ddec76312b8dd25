"""What scripts/bench does once its environment stands: part after part, then the targets and the chart."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.stage import BenchError, Outcome, Panel, Target
from local_airflow.stack import StackError

NAMED = (
    "apache-airflow",
    "apache-airflow-providers-http",
    "apache-airflow-providers-dbt-cloud",
    "apache-airflow-providers-airbyte",
    "aiohttp",
)
OURS = "tab:green"
ALONE = {  # parts without peers, which print as they go
    "sql": "a history of observations, loaded and read back",
    "alarms": "what the check rings for, and what it misses",
    "ui": "the page in Airflow's UI at full size",
}


def main(parts: Mapping[str, str], *, smoke: bool, rounds: int | None, chart: Path | None) -> int:
    """Run the parts, by their modules' names; print tables, then the targets; return the exit status."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores,", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in NAMED), flush=True)
    # What Airflow writes when it is imported goes here, too.
    folder = Path(tempfile.mkdtemp(prefix="segstats-bench-"))
    os.environ["AIRFLOW_HOME"] = str(folder / "home")
    outcomes: list[Outcome] = []
    for part, name in parts.items():
        began = time.monotonic()
        module = importlib.import_module(f"benchmarks.{name}")
        if part in ALONE:
            print(f"\n## {part}: {ALONE[part]}\n", flush=True)
            module.main(*([1] if smoke else []))
            continue
        try:
            outcomes.append(module.measure(folder / part, smoke=smoke, rounds=rounds))
        except (BenchError, StackError) as error:
            print(f"\n{part} failed: {error}\n(files: {folder})", file=sys.stderr)
            return 1
        show(outcomes[-1])
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    targets = [target for outcome in outcomes for target in outcome.targets]
    if targets:
        print(f"\n## Targets: {sum(target.met for target in targets)} of {len(targets)} met\n")
        print(table([["target", "measured", "asked for", ""], *map(row, targets)]), end="")
    if chart:
        draw([outcome.panel for outcome in outcomes if outcome.panel], chart)
        print(f"\nChart: {chart}")
    shutil.rmtree(folder)
    return 0


def show(outcome: Outcome) -> None:
    """Print a part's tables."""
    print(f"\n## {outcome.title}\n")
    print(*map(table, outcome.tables), outcome.note, sep="\n")


def row(target: Target) -> list[str]:
    """Return a target's row."""
    limit = f"{'≥' if target.at_least else '≤'} {target.limit:g} {target.unit}".rstrip()
    measured = f"{target.measured:,.3g} {target.unit}".rstrip()
    return [target.what, measured, limit, "met" if target.met else "NOT MET"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as a Markdown table with aligned columns."""
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )


def draw(panels: Sequence[Panel], file: Path) -> None:
    """Write the chart, two panels a row."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    across = min(2, len(panels))
    down = -(-len(panels) // across)
    size = (6.5 * across, 3.4 * down)
    figure, grid = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_title(panel.title)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.bars:
            colours = [OURS if name in panel.ours else "tab:gray" for name in panel.bars]
            bars = axes.barh(list(panel.bars), list(panel.bars.values()), color=colours)
            axes.bar_label(bars, labels=[_short(value) for value in panel.bars.values()], padding=3)
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.margins(x=0.2)
            axes.set_xlabel(f"{panel.unit} (log)")
        for name, points in panel.lines.items():
            colour = OURS if name in panel.ours else None
            axes.plot(list(points), list(points.values()), marker="o", label=name, color=colour)
        if panel.lines:
            axes.set(xlabel=panel.across, ylabel=panel.unit, xlim=0, ylim=0)
            axes.legend(frameon=False)
            axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
