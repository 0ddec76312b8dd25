"""Assets: a night's counters, as what other DAGs are scheduled by.

``segstats://<connection id>/segments`` stands for all segments that are counted by a connection,
``segstats://<connection id>/segments/<segment id>`` for one of them. Airflow takes both through
:func:`sanitize_uri`, and for lineage through :func:`to_openlineage`, by the provider's info.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias

from airflow_provider_segstats.boundary.versions import newest
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.model import NOTABLE, ROW_LABELS, Row
from airflow_provider_segstats.history import instant

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.sdk import Context
    from openlineage.client.event_v2 import Dataset

MOST = 20
"""How many segments, channels and counters an event's extra names at most."""

MOST_NIGHTS = 60
"""How many events a run that none triggered looks at."""

_CONNECTION = re.compile(r"(?:[\w.~-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_PATH = re.compile(r"/segments(?:/0*([1-9][0-9]{0,18}))?")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Return the URI in its one spelling, or raise ValueError for what names no segments.

    Airflow has dropped a password and a fragment by then, and slashes at the end.
    """
    if "@" in uri.netloc:
        raise ValueError("a segstats:// URI holds no credentials: they are the Airflow connection's")
    if uri.query:
        raise ValueError("a segstats:// URI has no query: segstats://<connection id>/segments/<segment id>")
    found = _PATH.fullmatch(uri.path)
    if not _CONNECTION.fullmatch(uri.netloc) or found is None:
        raise ValueError(
            "a segstats:// URI is segstats://<connection id>/segments or "
            f"segstats://<connection id>/segments/<segment id>, not {uri.geturl()!r}"
        )
    return uri._replace(path=f"/segments/{found[1]}" if found[1] else "/segments")


def to_openlineage(asset: Asset, _: Any) -> Dataset:
    """Return the asset as OpenLineage's dataset, by the name that the operators' lineage has for it."""
    from openlineage.client.event_v2 import Dataset

    return Dataset(*name_of(asset.uri))


def name_of(url: str) -> tuple[str, str]:
    """Return the namespace and the name that OpenLineage has for a URL, or an absolute path.

    An Airflow connection's id in a file's URL (``s3://aws@bucket/…``) is no part of either.
    """
    scheme, _, rest = url.rpartition("://")
    authority, _, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if scheme in {"", "file"}:
        return (f"file://{host}" if host else "file"), f"/{path}"
    return f"{'gs' if scheme == 'gcs' else scheme}://{host}", path


def segments_asset(segstats_conn_id: str = "segstats_default", segment_id: int | None = None) -> Asset:
    """Return the asset of all of a connection's segments, or of one of them."""
    one = "" if segment_id is None else f"/{segment_id}"
    return Asset(f"segstats://{quote(segstats_conn_id, safe='')}/segments{one}")


def segments_alias(segstats_conn_id: str = "segstats_default") -> AssetAlias:
    """Return the alias that each segment's own event is published through: a task's outlet needs it."""
    return AssetAlias(f"segstats://{quote(segstats_conn_id, safe='')}/segments/*")


def publish_night(
    context: Context,
    night: Mapping[str, Any],
    *,
    segstats_conn_id: str = "segstats_default",
    events_for_each: bool = False,
) -> None:
    """Describe a night in the event of :func:`segments_asset`, which must be the task's outlet and inlet.

    ``night`` is what the task returns (:mod:`~airflow_provider_segstats.history.intake`): segment ids as
    ``ok``, ``failed`` and ``not_submitted``, and the ``rows``.
    :func:`night_extra` says what stands in the event; the night before is what the task returned when last
    published from another run. With ``events_for_each`` each segment that is ok has an event of its own
    besides, with its counters, through :func:`segments_alias`, which must be an outlet then.
    """
    asset = segments_asset(segstats_conn_id)
    described = night_extra(night, _night_before(context, asset))
    context["outlet_events"][asset].extra = described
    if "changes" in described:
        changes = [f"{name} {by[NOTABLE]:+,}" for name, by in described["changes"].items() if NOTABLE in by]
        log.info(
            "Since the night before: %s; %d channels vanished, %d segments left the list",
            ", ".join(changes) or "nothing that both nights counted",
            described["vanished"],
            described["dropped"],
        )
    if not events_for_each:
        return
    by_segment: dict[int, list[Row]] = defaultdict(list)
    for row in night["rows"]:
        by_segment[row["segment_id"]].append(row)
    events = context["outlet_events"][segments_alias(segstats_conn_id)]
    for segment_id in night["ok"]:
        rows = by_segment[segment_id]
        name = {"name": rows[0]["name"]} if rows and rows[0].get("name") else {}
        extra: dict[str, Any] = {**name, "counters": _by_channel(_counts(rows)), "updated": _updated(rows)}
        events.add(segments_asset(segstats_conn_id, segment_id), extra)


def nights_of(context: Context, asset: Asset, known: Collection[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the nights that triggered the run, the oldest first; where none did, those that are not known.

    ``known`` are DAGs and runs. The asset has to be an inlet of the task. A night that triggered the run and
    whose rows are gone raises :class:`ConfigurationError`; of the others, what is gone is left out.
    """
    events = sorted(context["triggering_asset_events"].get(asset, ()), key=lambda event: event.timestamp)
    if events:
        nights = [night_of(context, event) for event in events]
        if None in nights:
            gone = events[nights.index(None)].source_run_id
            raise ConfigurationError(f"the counters of the run {gone} are gone: clear its task gather")
    else:  # by hand, say after a pause, in which events pass a DAG by
        last = reversed([*newest(context["inlet_events"][asset], MOST_NIGHTS)])
        missed = [event for event in last if (event.source_dag_id, event.source_run_id) not in known]
        nights = [night_of(context, event) for event in missed]
    return [night for night in nights if night is not None]


def night_of(context: Context, event: Any) -> dict[str, Any] | None:
    """Return what the task behind an asset event returned, None if it is gone or no task was."""
    if not event.source_dag_id:
        return None
    night: dict[str, Any] | None = context["ti"].xcom_pull(
        dag_id=event.source_dag_id, run_id=event.source_run_id, task_ids=event.source_task_id
    )
    return night


def night_extra(night: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an event's extra, of a bounded size whatever the number of segments.

    ============  =========================================================================================
    ``segments``  how many: ``{"ok": 39, "failed": 1}``, the latter with those not submitted
    ``failed``    the latter's ids, the first 20
    ``names``     what those are called, by id, where that is known: ``{"7": "Readers"}``
    ``rows``      how many
    ``counters``  ``{"email": {"subscribed_sendable": 21419}}``: sums over segments, the 20 largest channels
    ``updated``   ``{"oldest": "2026-02-03T03:00:01+00:00", "newest": …}``
    ``changes``   since the night before, as ``counters``, of what both nights counted: a segment that failed
                  is no fall
    ``vanished``  how many channels of tonight's segments were there the night before and are not now
    ``dropped``   how many segments left the list since the night before
    ============  =========================================================================================

    The last three only with a night before.
    """
    rows = [row for row in night["rows"] if row.get("recounted") is not False]
    counters = _by_channel(_counts(rows))
    failed = _failed(night)
    names = night.get("names") or {}
    extra = {
        "segments": {"ok": len(night["ok"]), "failed": len(failed)},
        "failed": failed[:MOST],
        "names": {str(one): names[str(one)] for one in failed[:MOST] if str(one) in names},
        "rows": len(rows),
        "counters": counters,
        "updated": _updated(rows),
    }
    if before is not None:
        then, now = _keyed(before["rows"]), _keyed(rows)
        ok = set(night["ok"])
        extra["changes"] = _by_channel(count for count in _changes(now, then) if count[0] in counters)
        extra["vanished"] = sum(segment_id in ok for segment_id, *_ in then.keys() - now.keys())
        extra["dropped"] = len({*before["ok"], *_failed(before)} - {*ok, *failed})
    return extra


def _failed(night: Mapping[str, Any]) -> list[int]:
    """Return the ids of what was not counted. They are text where reasons stand beside them."""
    return [*map(int, night["failed"]), *night.get("not_submitted", ())]


def _night_before(context: Context, asset: Asset) -> dict[str, Any] | None:
    events = newest(context["inlet_events"][asset], 10)
    run_id = context["dag_run"].run_id  # whose own events are there after a clear
    event = next((event for event in events if event.source_run_id != run_id), None)
    return night_of(context, event) if event else None


def _keyed(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    return {
        tuple(row[label] for label in ("segment_id", "list_id", "resource_id", "channel")): row
        for row in rows
    }


def _counts(rows: Iterable[Row]) -> Iterator[tuple[str, str, int]]:
    """Yield channel, counter and count."""
    for row in rows:
        for name, count in row.items():
            if name not in ROW_LABELS and count is not None:
                yield row["channel"], name, count


def _changes(
    now: Mapping[tuple[Any, ...], Row], then: Mapping[tuple[Any, ...], Row]
) -> Iterator[tuple[str, str, int]]:
    """Yield channel, counter and change of what is in both."""
    for key in now.keys() & then.keys():
        for channel, name, count in _counts([now[key]]):
            if (before := then[key].get(name)) is not None:
                yield channel, name, count - before


def _by_channel(counts: Iterable[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Return sums by channel and counter, the largest channels first."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for channel, name, count in counts:
        sums[channel][name] += count
    channels = sorted(sums, key=lambda channel: (-max(sums[channel].values()), channel))
    return {channel: dict(islice(sorted(sums[channel].items()), MOST)) for channel in channels[:MOST]}


def _updated(rows: Iterable[Row]) -> dict[str, str] | None:
    """Return the ends of the time in which the rows were counted, None when no row tells."""
    times = []
    for text in {row["updated"] for row in rows}:
        # A time that cannot be read matters to whoever stores the rows.
        with suppress(ConfigurationError):
            if time := instant(text):
                times.append(time)
    return {"oldest": min(times).isoformat(), "newest": max(times).isoformat()} if times else None
