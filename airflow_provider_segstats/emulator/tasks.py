"""What becomes of a task: a pure function of its stored submission and of the time.

Nothing here is ever updated while a task runs, so a server that was killed goes on where it would have been.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

OUTCOMES: Final = {
    "completed": "counters of one list, as in the specification; ends with the status `name` (default "
    "completed), as do the other outcomes that complete",
    "failed": "ends with the status `name` (default failed) and `text` as its error_text",
    "stuck": "runs at progress 50 for ever",
    "empty": "completes with no result entries",
    "entries": "completes with two result entries, of different lists",
    "in_progress": "completes, but its entry stays in_progress for as long again",
    "odd": "completes with channels and counters that nobody announced",
    "unknown_status": "has the status `name` (default warming_up) where it would be running",
    "forgotten": "the server no longer knows the task",
}
"""Every fate a task can have, and what it means."""

QUEUED_SHARE: Final = 0.2
_DAY: Final = 86_400
_CHANNEL_SHARES: Final = {"email": 1.0, "push": 0.35, "sms": 0.55}
_ODD_CHANNEL_SHARES: Final = {**_CHANNEL_SHARES, "carrier_pigeon": 0.01, "007": 0.02}


@dataclass(frozen=True, slots=True)
class Change:
    """What a ``counters`` fault does to one task's counters; see `Fault`.

    Of one `channel` and one `counter`, None for all. `frozen_at` is the Unix time of which they are.
    """

    channel: str | None = None
    counter: str | None = None
    factor: float = 1.0
    rename: str | None = None
    vanish: bool = False
    frozen_at: float | None = None

    def apply(self, status: dict[str, int], counted: Callable[[int], dict[str, int]]) -> dict[str, int]:
        """Return a channel's counters as changed; `counted` tells what they are on another day."""
        concerned = status.keys() if self.counter is None else {self.counter} & status.keys()
        if self.vanish:
            return {name: value for name, value in status.items() if name not in concerned}
        if self.frozen_at is not None:
            return status | {
                name: value
                for name, value in counted(int(self.frozen_at // _DAY)).items()
                if name in concerned
            }
        if self.rename is not None:
            return {self.rename if name in concerned else name: value for name, value in status.items()}
        return status | {name: round(status[name] * self.factor) for name in concerned}


@dataclass(frozen=True, slots=True)
class Submission:
    """An accepted call of segments/refresh_counters: all that is stored about a task.

    `at` is the emulated time of acceptance as a Unix timestamp; `seconds` is how long this task takes.
    """

    seq: int
    task_id: str
    segment_id: int
    resource_id: int
    db_id: int | None
    at: float
    seconds: float
    outcome: str = "completed"
    name: str | None = None
    text: str | None = None
    changes: tuple[Change, ...] = ()


def iso(timestamp: float) -> str:
    """Return the time as the API writes it: UTC, milliseconds, a trailing Z."""
    moment = datetime.fromtimestamp(timestamp, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def duration(task_id: str, seconds: float) -> float:
    """How long this task takes: `seconds` give or take a tenth, always the same for one id."""
    return seconds * (0.9 + 0.2 * _chance(task_id))


def report(task: Submission, now: float) -> dict[str, Any]:
    """Return the `data` of a tasks/status reply about `task` at the emulated time `now`."""
    elapsed = now - task.at
    queued = QUEUED_SHARE * task.seconds
    if elapsed < queued:
        return {"status": "queued", "progress": 0}
    if task.outcome == "stuck":
        return {"status": "running", "progress": 50}
    if elapsed < task.seconds:
        status = (task.name or "warming_up") if task.outcome == "unknown_status" else "running"
        done = int(100 * (elapsed - queued) / (task.seconds - queued))
        return {"status": status, "progress": min(max(done, 1), 99)}
    if task.outcome == "failed":
        # Progress 100 is no success: a client that takes it for one is to fail here, not in production.
        # The API documents neither the status nor where its reason would be: both are guesses.
        text = task.text or "The segment could not be counted"
        return {"status": task.name or "failed", "progress": 100, "error_text": text}
    name = None if task.outcome == "unknown_status" else task.name
    return {"status": name or "completed", "progress": 100, "result": _result(task, now)}


def counters(segment_id: int, resource_id: int, channel: str, day: int) -> dict[str, int]:
    """Return the counters of a channel on a day (days since 1970): stable, yet changing every night.

    A size of the segment's own, a growth or decline over years, waves of weeks and months that each channel
    goes through by itself, a ripple over the week and a little noise.
    """
    key = f"{segment_id}/{resource_id}"
    share = _ODD_CHANNEL_SHARES.get(channel, 0.1) * (0.8 + 0.4 * _chance(key, channel, "share"))
    size = 10 ** (2.5 + 3 * _chance(key, "size")) * share
    years = day / 365.25 - 54  # since about the start of 2024
    growth = math.exp(math.tanh(years / 10) * (_chance(key, "growth") - 0.3))
    waves = 1 + 0.06 * math.sin(math.tau * (day / (25 + 90 * _chance(key, "period")) + _chance(key, "phase")))
    waves *= 1 + 0.04 * math.sin(math.tau * (day / (20 + 40 * _chance(key, channel)) + _chance(channel, key)))
    ripple = 1 + 0.01 * math.sin(math.tau * (day / 7 + _chance(key, channel, "week")))
    noise = 1 + 0.01 * (_chance(key, channel, day) - 0.5)
    subscribed = size * growth * waves * ripple * noise
    unconfirmed = subscribed * 0.05 * (_chance(key, channel, "unconfirmed") + 0.2 * _chance(key, day))
    return {"subscribed_sendable": round(subscribed), "unconfirmed_sendable": round(unconfirmed)}


def _chance(*key: object) -> float:
    """Return a number in [0, 1) that looks random and is always the same for the same key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _result(task: Submission, now: float) -> list[dict[str, Any]]:
    if task.outcome == "empty":
        return []
    updated = task.at + task.seconds
    in_progress = False
    if task.outcome == "in_progress":
        recounted = updated + task.seconds
        in_progress = now < recounted
        updated = updated if in_progress else recounted
    list_id = task.db_id or task.segment_id % 9 + 1
    entry = _entry(task, list_id, updated, in_progress=in_progress)
    if task.outcome == "entries":
        return [entry, _entry(task, list_id + 1, updated)]
    return [entry]


def _entry(task: Submission, list_id: int, updated: float, *, in_progress: bool = False) -> dict[str, Any]:
    # While the recount goes on the counts are still those of the night before.
    day = int(updated // _DAY) - in_progress
    channels = _ODD_CHANNEL_SHARES if task.outcome == "odd" else _CHANNEL_SHARES
    statuses = {channel: _status(task, channel, day) for channel in channels}
    return {
        "channels": [
            {"channel": channel, "status": status} for channel, status in statuses.items() if status
        ],
        "in_progress": in_progress,
        "list_id": list_id,
        "refresh_task_id": "",
        "resource_id": task.resource_id,
        "updated": iso(updated),
    }


def _status(task: Submission, channel: str, day: int) -> dict[str, int]:
    """Return a channel's counters, none if all of them vanished."""

    def counted(day: int) -> dict[str, int]:
        odd = {"hardbounced": 3} if task.outcome == "odd" else {}
        return counters(task.segment_id, task.resource_id, channel, day) | odd

    status = counted(day)
    for change in task.changes:
        if change.channel in (None, channel):
            status = change.apply(status, counted)
    return status
