"""What the tables hold, as values: observations, outcomes of a night; and how rows become observations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any, Literal, get_args

from airflow_provider_segstats.core.errors import ConfigurationError, UnreadableRowError
from airflow_provider_segstats.core.ids import required_id
from airflow_provider_segstats.core.model import ID_LABEL, ROW_LABELS, Kind, Row

KINDS: tuple[Kind, ...] = get_args(Kind)

_LONGEST = 255  # characters that every database takes in a key
_LARGEST = 2**63  # and numbers that fit into a column
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # some databases refuse these, so all do

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?"
    r" ?(?:[Zz]|UTC|GMT|([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?(?: [A-Z]{3,5})?)?",
    re.ASCII,
)
_SINCE_EPOCH = re.compile(r"(0|\d{9,19})(?:\.(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the platform counted for one channel of a segment, or of another kind of object, at one instant.

    ``segment_id`` is 0 for a database or a resource; ``list_id`` and ``resource_id`` are None where the API
    names none; ``updated`` is in UTC; ``night`` is the date of the run that counted. ``name`` is the
    object's, where it is known; what is read from the table has none.
    """

    source: str
    segment_id: int
    list_id: int | None
    resource_id: int | None
    channel: str
    updated: datetime
    counters: Mapping[str, int | None]
    night: date
    kind: Kind = "segment"
    name: str | None = None

    @property
    def id(self) -> int:
        """The object's own id, which its kind says where to find."""
        of_kind = {"segment": self.segment_id, "database": self.list_id, "resource": self.resource_id}
        return of_kind[self.kind] or 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an object in a night, which is a run: counted, failed for a reason, or not submitted.

    ``night`` is the run's date in its connection's zone, ``run_after`` the run's own, in UTC.
    """

    source: str
    dag_id: str
    run_id: str
    night: date
    run_after: datetime
    kind: Kind
    id: int
    outcome: Literal["counted", "failed", "not_submitted"]
    reason: str | None = None


def observed(
    row: Row, source: str, night: date | None = None, zone: tzinfo = timezone.utc
) -> Observation | None:
    """Return a row (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`) as an observation.

    Its account is its own ``source``, else the one given; ``night`` is the date of its
    ``updated`` in a zone unless given.

    None when it was never counted, or at no known instant: when ``updated`` is empty or not after 1970
    (servers write their zero so, as ``0001-01-01T00:00:00Z``). With an instant made up here each retry
    would add another. A value that cannot be read or stored raises :class:`UnreadableRowError`, which names
    the segment; a row that does not say of what it is raises :class:`ConfigurationError`.
    """
    kind = row.get("kind") or "segment"
    if kind not in KINDS:
        raise ConfigurationError(f"a row's kind can be {', '.join(KINDS)}; the row is {dict(row)!r:.300}")
    of_kind = ID_LABEL[kind]
    if row.get(of_kind) is None:
        raise ConfigurationError(
            f"a row has no {of_kind}, which the API's result need not carry: give it to the sensor "
            f"or operator that the rows come from; the row is {dict(row)!r:.300}"
        )
    if row.get("channel") is None:
        raise ConfigurationError(f"a row has no channel; the row is {dict(row)!r:.300}")
    number, channel = required_id(of_kind, row[of_kind]), str(row["channel"]).strip()
    list_id, resource_id = _optional_id(row, "list_id"), _optional_id(row, "resource_id")
    try:
        updated = instant(row.get("updated"))
        if updated is None:
            return None
        found = Observation(
            source=storable("source", row.get("source") or source),
            segment_id=number if kind == "segment" else 0,
            list_id=list_id,
            resource_id=resource_id,
            channel=storable("channel", channel),
            updated=updated,
            counters={name: value for name, value in row.items() if name not in ROW_LABELS},
            night=night or updated.astimezone(zone).date(),
            kind=kind,
            name=_name(row.get("name")),
        )
        check_counters(found.counters)
    except UnreadableRowError as error:
        raise UnreadableRowError(f"{kind} {number}, {channel[:50]!r}: {error}") from None
    return found


def instant(value: Any) -> datetime | None:
    """Return the API's ``updated`` as a datetime in UTC, to the microsecond; None: never counted.

    A date and a time in ISO 8601, the time to any fraction or left out (midnight), an offset to the hour
    or finer, or none (UTC); or seconds since 1970, or thousandths, millionths and so on of them. None for
    what is empty or not after 1970.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        found = _read(text)
    except OverflowError:
        found = None
        if text.startswith("0001-01-0"):  # with an offset that leads out of the calendar
            return None
    except ValueError:
        found = None
    if found is None:
        raise UnreadableRowError(f"updated must be a time such as 2026-02-03T03:00:01.5Z, not {value!r:.60}")
    return found if found > _EPOCH else None


def _read(text: str) -> datetime | None:
    if number := _SINCE_EPOCH.fullmatch(text):
        # Of these magnitudes are the seconds, the thousandths, … of the years from 1970 to 5138.
        whole, fraction = number[1], number[2] or ""
        scale = max(0, -(-(len(whole) - 11) // 3)) * 3
        digits = f"{whole}{fraction}".ljust(len(whole) + 6, "0")
        return _EPOCH + timedelta(microseconds=int(digits[: len(whole) + 6 - scale]))
    if (found := _INSTANT.fullmatch(text)) is None:
        return None
    day, minute, second, fraction, sign, *offset = found.groups()
    microsecond = (fraction or "")[:6].ljust(6, "0")
    moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}:{second or '00'}.{microsecond}+00:00")
    hours, minutes, seconds = (int(part or 0) for part in offset)
    ahead = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if ahead >= timedelta(days=1):
        return None
    return moment + ahead if sign == "-" else moment - ahead


def storable(what: str, text: Any) -> str:
    """Return text that is part of a key, if every database takes it; or raise :class:`UnreadableRowError`."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise UnreadableRowError(f"{what} must be text of at most {_LONGEST} characters, not {text!r:.60}")
    if _UNSTORABLE.search(text):
        raise UnreadableRowError(f"{what} holds control characters: {text!r:.60}")
    return text


def _name(value: Any) -> str | None:
    """Return what people typed as every database takes it: no counter is worth less for a long name."""
    return " ".join(_UNSTORABLE.sub(" ", str(value)).split())[:_LONGEST] if value else None


def check_counters(counters: Mapping[str, Any]) -> None:
    """Raise :class:`UnreadableRowError` for what is no counter, or none that every database takes."""
    for name, value in counters.items():
        storable("a counter's name", name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= _LARGEST:
            raise UnreadableRowError(f"{name} must be a whole number below 2^63, not {value!r:.60}")


def _optional_id(row: Row, name: str) -> int | None:
    value = row.get(name)
    return required_id(name, value) if value else None
