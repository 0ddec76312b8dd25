"""Which segments a task is for: its list, what its selections choose, and their databases looked up.

Resolved once, when the task starts; where Airflow has a store (3.3), all tries of a task's life have the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segstats.core import flows, policy
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.core.flows import Flow, World
from airflow_provider_segstats.core.model import Segment, Selection
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.batch import outcomes_of
from airflow_provider_segstats.tasks.ledger import PAGE_SIZE, chunks
from airflow_provider_segstats.tasks.store import Life, Store

HEAD = "segstats_chosen"


@dataclass(frozen=True)
class Chosen:
    """The segments of a task, and why some of them cannot be recounted, by id."""

    segments: list[Segment]
    refused: dict[int, SegStatsError] = field(default_factory=dict)


def choose(
    hook: SegStatsHook,
    wanted: Collection[Segment | Selection],
    store: Store | None,
    life: Life,
    *,
    resumed: bool = False,
) -> Chosen:
    """Return the segments that are wanted: from the store, if an earlier phase of the task kept them there.

    Raises :class:`ConfigurationError` for a selection that chooses none, and what a request raises that any
    other would meet, too.
    """
    plain = [segment for segment in wanted if isinstance(segment, Segment) and not segment.look_up]
    if len(plain) == len(wanted):
        return Chosen(plain)
    if store is not None and (kept := _kept(store, life, resumed=resumed)) is not None:
        return Chosen(kept)
    chosen = _look_up(hook, _select(hook, wanted))
    if store is not None:
        _keep(store, life, chosen.segments)
    return chosen


def _select(hook: SegStatsHook, wanted: Iterable[Segment | Selection]) -> list[Segment]:
    """Return the segments in the order of the list. What stands there by its id goes by that entry."""
    chosen = {segment.segment_id: segment for segment in wanted if isinstance(segment, Segment)}
    for selection in wanted:
        if not isinstance(selection, Selection):
            continue
        found = [
            Segment(
                listed.segment_id,
                selection.resource_id,
                selection.db_id,
                selection.extra_params,
                name=listed.name,
                look_up=selection.look_up,
            )
            for listed in hook.list_segments(
                ui_tags=selection.ui_tags, groups=selection.groups, groups_id=selection.groups_id
            )
            if listed.segment_id not in selection.exclude
        ]
        if not found and not selection.may_be_empty:
            raise ConfigurationError(
                f"no segment has {selection}, or none is left that is not excluded; may_be_empty allows that",
                connection=hook.segstats_conn_id,
            )
        shown = ", ".join(str(segment.segment_id) for segment in found[: policy.MOST_SHOWN])
        more = ", …" if len(found) > policy.MOST_SHOWN else ""
        hook.log.info("Chosen by %s: %d segments (%s%s)", selection, len(found), shown, more)
        for segment in found:
            chosen.setdefault(segment.segment_id, segment)
    return [*chosen.values()]


def _look_up(hook: SegStatsHook, segments: list[Segment]) -> Chosen:
    """Return the segments with the databases that their own rules name, where that is asked for."""

    def one(segment: Segment) -> Callable[[Settings, World], Flow[Segment]]:
        return lambda settings, world: flows.with_database(settings, segment, world)

    sought = [segment for segment in segments if segment.look_up]
    found: dict[int, Segment] = {}
    refused: dict[int, SegStatsError] = {}
    for segment, outcome in zip(sought, outcomes_of(hook, [one(each) for each in sought]), strict=True):
        if isinstance(outcome, Segment):
            found[segment.segment_id] = outcome
        elif policy.concerns_one(outcome):
            refused[segment.segment_id] = outcome
        else:
            raise outcome
    return Chosen([found.get(segment.segment_id, segment) for segment in segments], refused)


def _kept(store: Store, life: Life, *, resumed: bool) -> list[Segment] | None:
    head = store.get(HEAD)
    # A clear of another task amid a deferral changes nothing for this try.
    if not (isinstance(head, dict) and (resumed or head.get("life") == _told(life))):
        return None
    pages: Iterable[list[Any]] = (store.get(f"{HEAD}_{page}") for page in range(head["pages"]))
    return [Segment(*entry) for page in pages for entry in page]


def _keep(store: Store, life: Life, segments: Iterable[Segment]) -> None:
    entries = [
        [one.segment_id, one.resource_id, one.db_id, dict(one.extra_params), one.name] for one in segments
    ]
    pages = [*chunks(entries, PAGE_SIZE)]
    for number, page in enumerate(pages):
        store.set(f"{HEAD}_{number}", page)
    store.set(HEAD, {"life": _told(life), "pages": len(pages)})


def _told(life: Life) -> list[int]:
    return [life.max_tries, life.clear_number]
