"""scripts/test: all, or what is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.scripts

FILE, NAME = "tests/core/test_schedule.py", "test_without_progress_the_looks_grow_apart"


def scripts_test(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "test"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[f"{FILE}::{NAME}"], [FILE, "-k", NAME], ["-k", NAME]])
def test_a_test_or_a_file_or_a_name_alone_can_be_asked_for(arguments: list[str]) -> None:
    done = scripts_test(*arguments)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("option", ["cluster", "install", "scripts"])
def test_what_takes_longest_runs_only_when_asked_for(option: str) -> None:
    asked_for = scripts_test(f"--{option}", "--collect-only", "-q").stdout
    file, _, name = next(line for line in asked_for.splitlines() if "::" in line).partition("::")
    assert "no tests collected" in scripts_test("--collect-only", "-q", file, "-k", name).stdout


def test_a_name_that_no_test_has_is_a_failure() -> None:
    assert scripts_test(FILE, "-k", "no_such_name").returncode == 5
