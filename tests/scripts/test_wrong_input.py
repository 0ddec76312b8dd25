"""Scripts that are given what cannot be: a line that says so, at once, and no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from environment import bootstrap
from support.paths import ROOT

NOWHERE = "/nowhere/at/all"


def refused(script: str, *arguments: str) -> str:
    """Return the line that it refuses them with."""
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("demo", ["--nope"], "unrecognized arguments: --nope"),
        ("demo", ["--port", "99999"], "invalid port value: '99999'"),
        ("demo", ["--folder", "README.md"], "its files cannot go into README.md (File exists); see --folder"),
        ("bench", ["--nope"], "unrecognized arguments: --nope"),
        ("bench", ["speed"], "unknown part speed"),
        ("bench", ["--rounds", "0"], "--rounds is 1 or more, not 0"),
        ("bench", ["--chart", f"{NOWHERE}/bench.png"], f"there is no folder for {NOWHERE}/bench.png"),
        ("test", ["--nope"], "unrecognized arguments: --nope"),
        ("test", ["tests/nowhere.py"], "file or directory not found: tests/nowhere.py"),
        ("test", ["--cluster", "--rounds", "0"], "argument --rounds: 1 or more, not 0"),
        ("test", ["--cluster", "--segments", "5"], "argument --segments: 14 or more, not 5"),
        ("test", ["--cluster", "--table", f"{NOWHERE}/x.md"], f"there is no folder for {NOWHERE}/x.md"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_line(script: str, arguments: list[str], line: str) -> None:
    assert line in refused(script, *arguments)


def test_a_port_that_is_taken_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("demo", "--port", str(port), "--folder", str(tmp_path / "demo"))
    assert f"port {port} cannot be had (Address already in use)" in said


BROKEN = (
    "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by 'NewConnectionError("
    "\"HTTPSConnection(host='index.example', port=443): Failed to establish a new connection: "
    "[Errno 111] Connection refused\")': /simple/hatchling/"
)
NOTHING = "ERROR: No matching distribution found for hatchling>=1.27"


def test_where_pip_reached_no_index_a_line_says_which() -> None:
    said = bootstrap._without_index([BROKEN, NOTHING])
    assert said
    assert said.startswith("pip could not reach the package index at index.example:443.")


@pytest.mark.parametrize("lines", [[NOTHING], [BROKEN, "ERROR: No space left on device"]])
def test_other_failures_of_pips_are_shown_in_its_own_words(lines: list[str]) -> None:
    assert bootstrap._without_index(lines) is None
