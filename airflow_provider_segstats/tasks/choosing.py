"""Which segments a task is for: its list, what its selections choose, and their databases looked up.

Resolved once, when the task starts; where Airflow has a store (3.3), all tries of a task's life have the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segstats.core import flows, policy
from airflow_provider_segstats.core.defaults import AUTO
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError, error_from_dict
from airflow_provider_segstats.core.flows import Flow, World
from airflow_provider_segstats.core.model import Segment, Selection
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.batch import outcomes_of
from airflow_provider_segstats.tasks.store import PAGE_SIZE, Life, Store, chunks

HEAD = "segstats_chosen"


@dataclass(frozen=True)
class Chosen:
    """The segments of a task, and why some of them cannot be recounted, by id."""

    segments: Sequence[Segment]
    refused: Mapping[int, SegStatsError] = field(default_factory=dict)


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
    plain = [one for one in wanted if isinstance(one, Segment) and one.db_id != AUTO]
    if len(plain) == len(wanted):
        return Chosen(plain)
    if store is not None and (kept := _kept(store, life, resumed=resumed)) is not None:
        return kept
    chosen = _look_up(hook, _select(hook, wanted))
    if store is not None:
        _keep(store, life, chosen)
    return chosen


def _select(hook: SegStatsHook, wanted: Collection[Segment | Selection]) -> list[Segment]:
    """Return the segments in the order of the list, each once. What stands there by its id goes by that."""
    by_id = {one.segment_id for one in wanted if isinstance(one, Segment)}
    chosen: dict[int, Segment] = {}
    for one in wanted:
        if isinstance(one, Segment):
            chosen[one.segment_id] = one
            continue
        for segment in _selected(hook, one):
            if segment.segment_id not in by_id:
                chosen.setdefault(segment.segment_id, segment)
    return [*chosen.values()]


def _selected(hook: SegStatsHook, selection: Selection) -> list[Segment]:
    listed = hook.list_segments(
        ui_tags=selection.ui_tags, groups=selection.groups, groups_id=selection.groups_id
    )
    found = [
        Segment(one.segment_id, selection.resource_id, selection.db_id, selection.extra_params, one.name)
        for one in listed
        if one.segment_id not in selection.exclude
    ]
    if not found and not selection.allow_empty:
        raise ConfigurationError(
            f"no segment has {selection}, or none is left that is not excluded; allow_empty makes that right",
            connection=hook.segstats_conn_id,
        )
    hook.log.info("%d segments have %s: %s", len(found), selection, [one.segment_id for one in found])
    return found


def _look_up(hook: SegStatsHook, segments: list[Segment]) -> Chosen:
    """Return the segments with the databases that their own rules name, where that is asked for."""

    def one(segment: Segment) -> Callable[[Settings, World], Flow[Segment]]:
        return lambda settings, world: flows.with_database(settings, segment, world)

    sought = [segment for segment in segments if segment.db_id == AUTO]
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


def _kept(store: Store, life: Life, *, resumed: bool) -> Chosen | None:
    head = store.get(HEAD)
    # A clear of another task amid a deferral changes nothing for this try.
    if not (isinstance(head, dict) and (resumed or head.get("life") == _told(life))):
        return None
    pages: Iterator[list[Any]] = (store.get(f"{HEAD}_{page}") for page in range(head["pages"]))
    kept = [(Segment(*fields), refused) for page in pages for *fields, refused in page]
    return Chosen(
        [segment for segment, _ in kept],
        {segment.segment_id: error_from_dict(refused) for segment, refused in kept if refused},
    )


def _keep(store: Store, life: Life, chosen: Chosen) -> None:
    pages = [*chunks(_entries(chosen), PAGE_SIZE)]
    for number, page in enumerate(pages):
        store.set(f"{HEAD}_{number}", page)
    store.set(HEAD, {"life": _told(life), "pages": len(pages)})


def _entries(chosen: Chosen) -> Iterable[list[Any]]:
    for one in chosen.segments:
        refused = chosen.refused.get(one.segment_id)
        fields = [one.segment_id, one.resource_id, one.db_id, dict(one.extra_params), one.name]
        yield [*fields, refused and refused.to_dict()]


def _told(life: Life) -> list[int]:
    return [life.max_tries, life.clear_number]
