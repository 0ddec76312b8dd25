"""The one error of the emulator's own."""

from __future__ import annotations


class RefusedError(ValueError):
    """A fault, a seed or a setting that makes no sense; the text says why."""
