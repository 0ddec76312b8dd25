"""Where the tests find files."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DOCS = ROOT / "docs"
SAMPLES = TESTS / "samples"
"""The specification's messages, byte for byte, and more of their kind."""

DAGS = TESTS / "dags"
