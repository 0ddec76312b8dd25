"""Metrics through Airflow's own interface, and spans in Airflow's own traces; docs/metrics.md has them all.

Both cost nothing where Airflow's options leave them off. Nothing here fails a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import trace

from airflow_provider_segstats.boundary.versions import stats

METRICS = {
    "submits": "recounts that the server accepted",
    "submit_failures": "requests to start a recount that failed, by `kind` of error",
    "looks": "looks at a recount that were answered",
    "look_failures": "looks that failed, by `kind` of error",
    "waits": "waits for a recount that ended, by `outcome`: `done`, or the kind of error",
    "wait_seconds": "how long each took, from the submit or the first look",
    "in_flight": "submits and waits under way in one process, for one connection",
    "gate_closed_seconds": "how long a server is not asked, since it is away or asked for that",
    "poller_lag_seconds": "how late the waits of a triggerer or batch go on that were due",
    "rows_loaded": "observations that a load added to the history",
    "findings": "what checks found, by `what` it is",
}
"""Each metric, without ``segstats.`` before it, and what it tells."""

_tracer = trace.get_tracer("airflow_provider_segstats")


@cache
def _stats() -> Any:
    return stats()  # not imported with a DAG file


class AirflowMeter:
    """A :class:`~airflow_provider_segstats.core.meter.Meter` that hands on to Airflow."""

    def count(self, name: str, number: int = 1, **tags: str) -> None:
        """Count so many more."""
        _stats().incr(_named(name), number, tags=tags)

    def gauge(self, name: str, value: float) -> None:
        """Say how much there is now."""
        _stats().gauge(_named(name), value)

    def seconds(self, name: str, value: float, **tags: str) -> None:
        """Say how long something took; Airflow's interface takes milliseconds."""
        _stats().timing(_named(name), 1000 * value, tags=tags)

    def event(self, name: str, **attributes: str | int) -> None:
        """Add an event to the span of the wait that is under way."""
        trace.get_current_span().add_event(name, attributes)


METER = AirflowMeter()


@contextmanager
def span(name: str, **attributes: str | int | None) -> Iterator[None]:
    """Have what the block does stand in Airflow's trace; what it raises is marked there, too."""
    known = {key: value for key, value in attributes.items() if value is not None}
    with _tracer.start_as_current_span(f"segstats.{name}", attributes=known):
        yield


def _named(name: str) -> str:
    return f"segstats.{name}"
