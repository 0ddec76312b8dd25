"""Where the tests find files."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DOCS = ROOT / "docs"
SAMPLES = TESTS / "samples"
"""The specification's messages, byte for byte, and more of their kind."""

DAGS = TESTS / "dags"


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the code of a Markdown page's blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
