"""What becomes of a task: a pure function of its stored submission and of the time.

Nothing here is ever updated while a task runs, so a server that was killed goes on where it would have been.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_segstats.emulator.numbers import ODD_CHANNELS, chance
from airflow_provider_segstats.emulator.platform import (
    ANY,
    made_up_database,
    made_up_resource,
    made_up_segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.emulator.platform import Database, Platform, Segment

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
DAY: Final = 86_400


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

    def apply(self, status: dict[str, int], count: Callable[[int], dict[str, int]]) -> dict[str, int]:
        """Return a channel's counters as changed; `count` tells what they are on another day."""
        concerned = status.keys() if self.counter is None else {self.counter} & status.keys()
        if self.vanish:
            return {name: value for name, value in status.items() if name not in concerned}
        if self.frozen_at is not None:
            return status | {
                name: value for name, value in count(int(self.frozen_at // DAY)).items() if name in concerned
            }
        if self.rename is not None:
            return {self.rename if name in concerned else name: value for name, value in status.items()}
        return status | {name: round(status[name] * self.factor) for name in concerned}


@dataclass(frozen=True, slots=True)
class Submission:
    """An accepted recount: all that is stored about a task.

    Without a `segment_id` it is that of a whole database, for one resource. `at` is the emulated time of
    acceptance as a Unix timestamp; `seconds` is how long this task takes.
    """

    seq: int
    task_id: str
    segment_id: int | None
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
    return seconds * (0.9 + 0.2 * chance(task_id))


def report(task: Submission, now: float, platform: Platform = ANY) -> dict[str, Any]:
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
    return {"status": name or "completed", "progress": 100, "result": _result(task, now, platform)}


def counted(task: Submission, day: int, platform: Platform) -> list[dict[str, Any]]:
    """Return what a task counts on a day: channels, without those of which all counters vanished."""
    thing = _thing(task, platform)
    resource = platform.resource(task.resource_id) or made_up_resource(task.resource_id)
    odd = {"hardbounced": 3} if task.outcome == "odd" else {}

    def count(channel: str, day: int) -> dict[str, int]:
        return thing.counted(task.resource_id, channel, day) | odd

    statuses = {}
    for channel in (*resource.channels, *(ODD_CHANNELS if odd else ())):
        status = count(channel, day)
        for change in task.changes:
            if change.channel in (None, channel):
                status = change.apply(status, partial(count, channel))
        statuses[channel] = status
    return [{"channel": channel, "status": status} for channel, status in statuses.items() if status]


def _thing(task: Submission, platform: Platform) -> Segment | Database:
    """Return what a task counts; made up if the platform no longer has it."""
    if task.segment_id is not None:
        return platform.segment(task.segment_id) or made_up_segment(task.segment_id)
    database_id = task.db_id or 0
    return platform.database(database_id) or made_up_database(database_id)


def _result(task: Submission, now: float, platform: Platform) -> list[dict[str, Any]]:
    if task.outcome == "empty":
        return []
    updated = task.at + task.seconds
    in_progress = False
    if task.outcome == "in_progress":
        recounted = updated + task.seconds
        in_progress = now < recounted
        updated = updated if in_progress else recounted
    list_id = task.db_id or _thing(task, platform).list_id
    entry = {
        # While the recount goes on the counts are still those of the night before.
        "channels": counted(task, int(updated // DAY) - in_progress, platform),
        "in_progress": in_progress,
        "list_id": list_id,
        "refresh_task_id": "",
        "resource_id": task.resource_id,
        "updated": iso(updated),
    }
    return [entry, entry | {"list_id": list_id + 1}] if task.outcome == "entries" else [entry]
