"""What is measured, for whoever keeps such: no Airflow in here, so it is handed in."""

from __future__ import annotations

from typing import Any, Protocol


class Meter(Protocol):
    """Takes measurements, by the names that docs/metrics.md has, and what happens amid a wait."""

    def count(self, name: str, number: int = 1, **tags: str) -> Any:
        """Count so many more."""

    def gauge(self, name: str, value: float) -> Any:
        """Say how much there is now."""

    def seconds(self, name: str, value: float, **tags: str) -> Any:
        """Say how long something took."""

    def event(self, name: str, **attributes: str | int) -> Any:
        """Say what happened to what is under way."""


class _NoMeter:
    """Takes nothing."""

    def count(self, name: str, number: int = 1, **tags: str) -> None:
        """Take nothing."""

    def gauge(self, name: str, value: float) -> None:
        """Take nothing."""

    def seconds(self, name: str, value: float, **tags: str) -> None:
        """Take nothing."""

    def event(self, name: str, **attributes: str | int) -> None:
        """Take nothing."""


NO_METER: Meter = _NoMeter()
