"""scripts/bench runs from end to end. What it measures so small says nothing, and is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

BENCH = ROOT / "scripts" / "bench"


def bench(*arguments: str) -> str:
    """Return what it prints; it must end by itself, and well."""
    done = subprocess.run(
        [sys.executable, str(BENCH), *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.scripts
def test_a_smoke_run_prints_every_part_and_the_targets_and_draws_the_chart(tmp_path: Path) -> None:
    parts = ("poll", "wait", "import", "decode", "schedule", "sql")
    chart = tmp_path / "bench.png"
    printed = bench("--smoke", "--chart", str(chart), *parts)
    headings = [line.removeprefix("## ").split(":")[0] for line in printed.splitlines() if line[:3] == "## "]
    assert headings == [*parts, "Targets"]
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.scripts
def test_a_smoke_run_takes_segments_through_a_whole_airflow() -> None:
    printed = bench("--smoke", "airflow")
    assert "| RefreshSegmentsOperator " in printed
