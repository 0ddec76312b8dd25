"""Metrics and spans: what docs/metrics.md names is what the code sends, through Airflow's own interfaces."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.observability import stats
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.paths import TESTS

from airflow_provider_segstats.boundary import metrics
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.triggers import TaskStatusTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_segstats.emulator import Emulator

STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"
PAGE = (TESTS.parent / "docs" / "metrics.md").read_text()


class Kept:
    """An Airflow metrics backend that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, float, dict[str, str]]] = []

    def incr(self, stat: str, count: int = 1, *_: Any, tags: Any = None, **__: Any) -> None:
        self.sent.append(("counter", stat, count, tags or {}))

    def gauge(self, stat: str, value: float, *_: Any, tags: Any = None, **__: Any) -> None:
        self.sent.append(("gauge", stat, value, tags or {}))

    def timing(self, stat: str, dt: Any, *_: Any, tags: Any = None, **__: Any) -> None:
        self.sent.append(("timer", stat, dt, tags or {}))

    def of(self, name: str) -> list[tuple[str, float, dict[str, str]]]:
        return [(kind, value, tags) for kind, stat, value, tags in self.sent if stat == f"segstats.{name}"]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Give a backend that Airflow's interface sends to."""
    backend = Kept()
    stats.initialize(factory=lambda: backend, export_legacy_names=True)
    yield backend
    from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger

    stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Give what keeps the spans that end."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(metrics, "_tracer", provider.get_tracer("test"))
    return exporter


def wait(task_id: str, **bounds: Any) -> dict[str, Any]:
    """Return the event of a trigger that waits for a task."""
    plan = plan_from(time.time(), timeout=30, poke_interval=0.05, **bounds)
    trigger = TaskStatusTrigger(
        segstats_conn_id="segstats_default", format=None, task_id=task_id, segment_id=7, plan=asdict(plan)
    )

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    [found] = asyncio.run(events())
    return dict(found)


def test_the_page_has_every_metric_with_what_it_tells() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| \w+ \| (.*) \|$", PAGE, re.MULTILINE))

    assert table == metrics.METRICS


def test_a_recount_is_measured_from_its_submit_to_its_end(
    kept: Kept, emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)

    assert "rows" in wait(SegStatsHook().refresh_counters(7, 24))

    assert kept.of("submits") == [("counter", 1, {})]
    assert kept.of("looks") == [("counter", 1, {})]
    assert kept.of("waits") == [("counter", 1, {"outcome": "done"})]
    [(kind, value, tags)] = kept.of("wait_seconds")
    assert (kind, tags) == ("timer", {"outcome": "done"})
    assert 0 < value < 30_000  # milliseconds
    assert [value for _, value, _ in kept.of("in_flight")] == [1, 0]


def test_failures_are_counted_by_kind(kept: Kept, emulator: Emulator, connect: Callable[..., None]) -> None:
    connect(emulator.url)
    task_id = SegStatsHook().refresh_counters(7, 24)
    emulator.add_fault(Fault("http", endpoint=STATUS, status=500, times=2))
    emulator.add_fault(Fault("http", endpoint=SUBMIT, status=503, times=None))

    wait(task_id)
    with pytest.raises(SegStatsError):
        SegStatsHook().refresh_counters(7, 24)

    assert {tags["kind"] for _, _, tags in kept.of("look_failures")} == {"HttpStatusError"}
    assert len(kept.of("look_failures")) == 2
    assert {tags["kind"] for _, _, tags in kept.of("submit_failures")} == {"HttpStatusError"}


def test_whatever_is_sent_stands_on_the_page(
    kept: Kept, emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)
    emulator.add_fault(Fault("http", endpoint=STATUS, status=503, times=3))
    wait(SegStatsHook().refresh_counters(7, 24))

    kinds = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    sent = {(stat.removeprefix("segstats."), kind) for kind, stat, _, _ in kept.sent}
    assert sent <= set(kinds.items())
    assert {"gate_closed_seconds", "poller_lag_seconds", "in_flight"} <= {name for name, _ in sent}


def test_a_wait_is_a_span_with_its_changes_of_status_as_events(
    spans: InMemorySpanExporter, emulator: Emulator, connect: Callable[..., None]
) -> None:
    connect(emulator.url)
    emulator.configure(seconds=0.3)

    wait(SegStatsHook().refresh_counters(7, 24))

    [span] = spans.get_finished_spans()
    assert span.name == "segstats.wait"
    assert [event.name for event in span.events][-1] == "completed"
    assert len(span.events) >= 2
