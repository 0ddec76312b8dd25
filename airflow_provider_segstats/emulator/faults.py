"""Faults on demand: what is to go wrong, for which requests, how often."""

from __future__ import annotations

import base64
import binascii
import math
import random
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, get_type_hints

from airflow_provider_segstats.emulator.errors import RefusedError
from airflow_provider_segstats.emulator.tasks import OUTCOMES, Change

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_STATUSES: Final = range(200, 600)
_LARGEST_FACTOR: Final = 1_000_000
RECOUNTS: Final = tuple(f"{kind}s/refresh_counters" for kind in ("segment", "database", "resource"))
READS: Final = (
    "tasks/status",
    "segments/list",
    "segments/get",
    "segments/get_counters",
    "databases/list",
    "databases/get",
    "resources/get",
)
ENDPOINTS: Final = (*RECOUNTS, *READS)
_CHANGES: Final = ("factor", "change", "rename")


@dataclass(frozen=True, slots=True)
class _Kind:
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    status: int = 200
    meets: Literal["request", "task"] = "request"


KINDS: Final = {
    "http": _Kind(takes=("status", "retry_after", "body", "content_type"), status=503),
    "api_error": _Kind(needs=("code",), takes=("text", "status", "retry_after")),
    "reset": _Kind(),
    "lost_answer": _Kind(),
    "truncate": _Kind(),
    "html": _Kind(takes=("body",)),
    "delay": _Kind(needs=("seconds",)),
    "hang": _Kind(),
    "redirect": _Kind(needs=("location",), takes=("status",), status=302),
    "reply": _Kind(needs=("body",), takes=("status", "content_type", "retry_after")),
    "task": _Kind(needs=("outcome",), takes=("name", "text"), meets="task"),
    "counters": _Kind(takes=(*_CHANGES, "channel", "counter"), meets="task"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong, and with which requests.

    Kinds, and the parameters each takes (those without a default are needed):

    - ``http``: a reply that is not the API's: `status` (503), `retry_after`, `body`,
      `content_type` (text/html)
    - ``api_error``: the API's own error reply: `code`, `text`, `status` (200), `retry_after`
    - ``reset``: the connection is reset before the request is processed; nothing is accepted
    - ``lost_answer``: the request is processed (a task is accepted), then the connection is reset
    - ``truncate``: processed, but only half of the reply's body arrives before the connection closes
    - ``html``: an HTML page with HTTP 200, not processed: `body`
    - ``delay``: `seconds` (of real time) pass, then the request is processed
    - ``hang``: no answer until the client leaves; not processed
    - ``redirect``: `location`, `status` (302); not processed
    - ``reply``: a literal reply, not processed: `body`, `status` (200), `retry_after`,
      `content_type` (application/json; an empty text for none)
    - ``task``: the accepted task gets the fate `outcome` (see `tasks.OUTCOMES`), with `name` and `text`
    - ``counters``: the accepted task counts something else. One of: `factor` (0.1: they fall to a tenth);
      `change`, which is ``vanish`` or ``freeze`` (they stay what they were when the fault was added);
      `rename`, the `counter`'s new name. Of one `channel` and one `counter`, or of all; a channel of which
      all counters vanish is left out

    `endpoint` is a method's path or ``*``; `segment_id` also finds polls of that segment's tasks. Of the
    requests that match, the first `skip` pass, then `times` of them (None: all) suffer, each with
    `probability`. A request suffers one fault, the first added that applies. Apart from these, an accepted
    task meets the first ``task`` fault and every ``counters`` fault that applies, one after the other.

    Raises `RefusedError`, a ValueError, if a field is unknown to the kind, missing or of the wrong type.
    """

    kind: str = field(kw_only=False)
    endpoint: str = "*"
    segment_id: int | None = None
    times: int | None = 1
    skip: int = 0
    probability: float | int = 1.0
    status: int | None = None
    retry_after: str | None = None
    body: str | bytes | None = None
    content_type: str | None = None
    code: int | None = None
    text: str | None = None
    seconds: float | int | None = None
    location: str | None = None
    outcome: str | None = None
    name: str | None = None
    factor: float | int | None = None
    change: str | None = None
    rename: str | None = None
    channel: str | None = None
    counter: str | None = None

    def __post_init__(self) -> None:
        for name, hint in _HINTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, hint):
                text = hint.__name__ if isinstance(hint, type) else str(hint)
                raise RefusedError(f"fault: {name} must be {text}")
        self._check_parameters()
        self._check_names()
        self._check_numbers()

    def _check_parameters(self) -> None:
        if (kind := KINDS.get(self.kind)) is None:
            raise RefusedError(f"fault: unknown kind {self.kind!r}; there are {', '.join(KINDS)}")
        for name in _PARAMETERS:
            given = getattr(self, name) is not None
            if given and name not in kind.needs + kind.takes:
                raise RefusedError(f"fault: {self.kind} takes no {name}")
            if not given and name in kind.needs:
                raise RefusedError(f"fault: {self.kind} needs {name}")

    def _check_names(self) -> None:
        if self.endpoint not in (*ENDPOINTS, "*"):
            known = ", ".join((*ENDPOINTS, "*"))
            raise RefusedError(f"fault: unknown endpoint {self.endpoint!r}; there are {known}")
        if KINDS[self.kind].meets == "task" and self.endpoint not in (*RECOUNTS, "*"):
            raise RefusedError(f"fault: {self.kind} applies to {', '.join(RECOUNTS)} only")
        if self.outcome is not None and self.outcome not in OUTCOMES:
            raise RefusedError(f"fault: unknown outcome {self.outcome!r}; there are {', '.join(OUTCOMES)}")
        if self.kind == "counters":
            self._check_change()

    def _check_change(self) -> None:
        if sum(getattr(self, name) is not None for name in _CHANGES) != 1:
            raise RefusedError(f"fault: counters needs one of {', '.join(_CHANGES)}")
        if self.change not in (None, "vanish", "freeze"):
            raise RefusedError(f"fault: unknown change {self.change!r}; there are vanish, freeze")
        if self.rename is not None and self.counter is None:
            raise RefusedError("fault: rename needs the counter that is renamed")

    def _check_numbers(self) -> None:
        if self.times is not None and self.times < 1:
            raise RefusedError("fault: times must be at least 1, or null for ever")
        if self.skip < 0 or not 0 <= self.probability <= 1:
            raise RefusedError("fault: skip must not be negative, and probability lies between 0 and 1")
        if self.status is not None and self.status not in _STATUSES:
            raise RefusedError("fault: status must be an HTTP status between 200 and 599")
        if self.seconds is not None and not 0 <= self.seconds < math.inf:
            raise RefusedError("fault: seconds must not be negative")
        if self.factor is not None and not 0 <= self.factor <= _LARGEST_FACTOR:
            raise RefusedError(f"fault: factor must be between 0 and {_LARGEST_FACTOR}")

    @classmethod
    def from_json(cls, message: object) -> Fault:
        """Return the fault a control request describes; bytes that are no text come as `body_base64`."""
        if not isinstance(message, dict):
            raise RefusedError("fault: must be a JSON object")
        values = dict(message)
        if "body_base64" in values:
            if "body" in values:
                raise RefusedError("fault: body and body_base64 exclude each other")
            try:
                values["body"] = base64.b64decode(values.pop("body_base64"), validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise RefusedError("fault: body_base64 is not base64") from None
        if unknown := values.keys() - _HINTS.keys():
            raise RefusedError(f"fault: unknown field {', '.join(sorted(unknown))}")
        if "kind" not in values:
            raise RefusedError("fault: kind is missing")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` would read this fault from, without the fields left at their defaults."""
        message: dict[str, Any] = {
            item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default
        }
        if isinstance(self.body, bytes):
            message["body_base64"] = base64.b64encode(message.pop("body")).decode()
        return message

    @property
    def http_status(self) -> int:
        """The HTTP status of the reply: the one asked for, or the kind's own."""
        return self.status or KINDS[self.kind].status

    def matches(self, endpoint: str, segment_id: int | None) -> bool:
        """Return whether a request of this endpoint, about this segment, is meant."""
        return self.endpoint in ("*", endpoint) and self.segment_id in (None, segment_id)


_HINTS: Final[Mapping[str, Any]] = get_type_hints(Fault)
_PARAMETERS: Final = tuple(name for kind in KINDS.values() for name in kind.needs + kind.takes)


@dataclass(slots=True)
class Armed:
    """A fault that still applies: how many requests it saw, how many of them it hit, and since when it is."""

    fault: Fault
    seen: int = 0
    used: int = 0
    since: float = 0.0

    def to_change(self) -> Change:
        """Return what a ``counters`` fault does to the task that meets it."""
        return Change(
            channel=self.fault.channel,
            counter=self.fault.counter,
            factor=1.0 if self.fault.factor is None else self.fault.factor,
            rename=self.fault.rename,
            vanish=self.fault.change == "vanish",
            frozen_at=self.since if self.fault.change == "freeze" else None,
        )


class Faults:
    """The faults still to happen, in the order they were added."""

    def __init__(self) -> None:
        self.armed: list[Armed] = []
        # Seeded: the same requests in the same order suffer alike in every run.
        self._random = random.Random(0)  # noqa: S311 - nobody is to be kept from guessing

    def take(self, endpoint: str, segment_id: int | None) -> Fault | None:
        """Return the fault this request suffers, used up by one."""
        kinds = {name for name, kind in KINDS.items() if kind.meets == "request"}
        return next((armed.fault for armed in self._hits(kinds, endpoint, segment_id)), None)

    def take_for_task(self, endpoint: str, segment_id: int | None) -> tuple[Fault | None, tuple[Change, ...]]:
        """Return what an accepted task meets, used up by one each: its fate, and changes of its counters."""
        fates = self._hits({"task"}, endpoint, segment_id)
        changes = self._hits({"counters"}, endpoint, segment_id)
        return next((armed.fault for armed in fates), None), tuple(armed.to_change() for armed in changes)

    def _hits(self, kinds: Collection[str], endpoint: str, segment_id: int | None) -> Iterator[Armed]:
        for armed in list(self.armed):
            fault = armed.fault
            if fault.kind not in kinds or not fault.matches(endpoint, segment_id):
                continue
            armed.seen += 1
            if armed.seen <= fault.skip or self._random.random() >= fault.probability:
                continue
            armed.used += 1
            if armed.used == fault.times:
                self.armed.remove(armed)
            yield armed
