"""What the emulator knows: clock, settings, tasks, faults, journal. No sockets; the time is passed in."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_segstats.emulator.errors import RefusedError
from airflow_provider_segstats.emulator.faults import Armed, Fault, Faults
from airflow_provider_segstats.emulator.platform import Platform, Token, read_seed
from airflow_provider_segstats.emulator.tasks import OUTCOMES, Change, Submission, duration, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NEXT_FROM_ID: Final = ("last", "beyond")
"""Where a page's next_from_id may point: at the last id it has, as in one sample, or beyond it."""

JOURNAL_LIMIT: Final = 200_000
_NO_FAULT: Final = Fault("task", outcome="completed")
_COLUMNS: Final = tuple(field.name for field in fields(Submission))
_values: Final = attrgetter(*_COLUMNS[:-1])  # the last are the changes, as JSON
_SCHEMA: Final = f"""
create table if not exists submission ({", ".join(_COLUMNS)}, primary key (seq));
create table if not exists clock (id integer primary key, drift real, frozen real);
"""


class Clock:
    """The emulated time: the real one, shifted or frozen."""

    def __init__(self, real: Callable[[], float] = time.time) -> None:
        self._real = real
        self.drift = 0.0
        self.frozen: float | None = None

    def now(self) -> float:
        """Return the emulated Unix time."""
        return self._real() + self.drift if self.frozen is None else self.frozen

    def set(self, now: float) -> None:
        """Make it `now`; a clock that runs goes on from there, one that is frozen stays there."""
        if self.frozen is None:
            self.drift = now - self._real()
        else:
            self.frozen = now

    def freeze(self, frozen: bool) -> None:
        """Stop the clock where it is, or let it go on from there."""
        now = self.now()
        self.frozen = now if frozen else None
        self.set(now)


@dataclass(slots=True)
class Entry:
    """One request of the journal, in order of arrival.

    `at` is the emulated time; `format` the reply's; `status` the HTTP status sent, None if no answer was (or
    has been so far); `error` the API's code in the reply; `accepted` whether a task was created; `token_in`
    where the token came, "body" or "header". The token itself is never kept.
    """

    seq: int
    at: str
    endpoint: str
    content_type: str | None
    format: str | None = None
    status: int | None = None
    error: int | None = None
    task_id: str | None = None
    segment_id: int | None = None
    fault: str | None = None
    accepted: bool = False
    token_in: str | None = None


class State:
    """Everything behind the API, safe to use from several threads.

    With a `file` (an SQLite database, made if it is missing) the accepted submissions and the clock outlive
    the process, even one that is killed; settings, faults and the journal do not. Raises sqlite3.Error if the
    file is no such database, or if another emulator still holds it after `patience` seconds.
    """

    def __init__(
        self,
        token: str,
        *,
        seconds: float = 5.0,
        errors_as_200: bool = False,
        next_from_id: str = "last",
        seed: Mapping[str, Any] | str | Path | None = None,
        file: str | Path | None = None,
        patience: float = 5.0,
        real_time: Callable[[], float] = time.time,
    ) -> None:
        self.token = token
        self.seconds = seconds
        self.errors_as_200 = errors_as_200
        self.next_from_id = next_from_id
        self.configure(token=token, seconds=seconds, next_from_id=next_from_id)
        self.load_seed(seed)
        self._clock = Clock(real_time)
        self._faults = Faults()
        self._journal: deque[Entry] = deque(maxlen=JOURNAL_LIMIT)
        self._entries = 0
        self._lock = threading.RLock()
        # One path for both: without a file the database is in memory. Every statement commits by itself.
        self._database = sqlite3.connect(
            file or ":memory:", timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            self._tasks = self._load()
        except sqlite3.Error:
            self._database.close()
            raise

    def _load(self) -> dict[str, Submission]:
        # Exclusive: a second emulator on the same file would not see the first one's tasks. In WAL mode a
        # commit outlives the process without waiting for the disk; only a power cut could lose it.
        self._database.execute("pragma locking_mode = exclusive")
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")
        self._database.executescript(_SCHEMA)
        for drift, frozen in self._database.execute("select drift, frozen from clock"):
            self._clock.drift, self._clock.frozen = drift, frozen
        columns = [column[0] for column in self._database.execute("select * from submission").description]
        if columns != list(_COLUMNS):
            raise sqlite3.DatabaseError("it was written by another version of the emulator")
        tasks = {}
        for *values, changes in self._database.execute("select * from submission order by seq"):
            task = Submission(*values)
            tasks[task.task_id] = replace(task, changes=tuple(Change(**one) for one in json.loads(changes)))
        return tasks

    def close(self) -> None:
        """Release the file; what was read from it can still be asked for."""
        self._database.close()

    # Settings and clock

    def configure(
        self,
        *,
        token: str | None = None,
        seconds: float | None = None,
        errors_as_200: bool | None = None,
        next_from_id: str | None = None,
    ) -> None:
        """Change the token, the seconds that tasks accepted from now on take, and how the API answers."""
        if token is not None and (not isinstance(token, str) or not token):
            raise RefusedError("token must be a text that is not empty")
        if seconds is not None and not (_is_number(seconds) and 0 <= seconds < math.inf):
            raise RefusedError("seconds must be a number, not negative")
        if errors_as_200 is not None and not isinstance(errors_as_200, bool):
            raise RefusedError("errors_as_200 must be true or false")
        if next_from_id not in (None, *NEXT_FROM_ID):
            raise RefusedError(f"next_from_id must be {' or '.join(NEXT_FROM_ID)}")
        self.token = self.token if token is None else token
        self.seconds = self.seconds if seconds is None else seconds
        self.errors_as_200 = self.errors_as_200 if errors_as_200 is None else errors_as_200
        self.next_from_id = next_from_id or self.next_from_id

    def load_seed(self, seed: Mapping[str, Any] | str | Path | None) -> None:
        """Put what a seed says, itself or the name of its file, in place of all that was there.

        None: every id is that of something, as without a seed.
        """
        self.platform = Platform(read_seed(seed) if isinstance(seed, str | Path) else seed)

    def holder_of(self, token: str | None) -> Token | None:
        """Return whose token this is, None if nobody's; the emulator's own may do everything."""
        if token is None:
            return None
        return Token(token=token) if token == self.token else self.platform.tokens.get(token)

    def now(self) -> float:
        """Return the emulated Unix time."""
        return self._clock.now()

    @property
    def frozen(self) -> bool:
        """Whether the clock stands still."""
        return self._clock.frozen is not None

    def set_clock(
        self,
        now: datetime | str | None = None,
        *,
        advance: float | None = None,
        frozen: bool | None = None,
    ) -> None:
        """Freeze the clock or let it run, then set it to `now` (UTC if it names no zone), then move it on."""
        if frozen is not None and not isinstance(frozen, bool):
            raise RefusedError("frozen must be true or false")
        if advance is not None and not _is_number(advance):
            raise RefusedError("advance must be a number of seconds")
        with self._lock:
            moment = (self.now() if now is None else _timestamp(now)) + (advance or 0.0)
            if not 0 <= moment < 2**37:  # up to the year 6325: what a datetime and the API's format can hold
                raise RefusedError("the clock cannot be set that far")
            if frozen is not None:
                self._clock.freeze(frozen)
            if now is not None or advance is not None:
                self._clock.set(moment)
            self._database.execute(
                "insert or replace into clock values (1, ?, ?)", (self._clock.drift, self._clock.frozen)
            )

    # Tasks

    def accept(
        self, endpoint: str, segment_id: int | None, resource_id: int, db_id: int | None
    ) -> Submission:
        """Return a new task, stored by then, with what ``task`` and ``counters`` faults have for it."""
        with self._lock:
            fate, changes = self._faults.take_for_task(endpoint, segment_id)
            fate = fate or _NO_FAULT
            task_id = str(uuid.uuid4())
            task = Submission(
                seq=len(self._tasks) + 1,
                task_id=task_id,
                segment_id=segment_id,
                resource_id=resource_id,
                db_id=db_id,
                at=self.now(),
                seconds=duration(task_id, self.seconds),
                outcome=fate.outcome or "completed",
                name=fate.name,
                text=fate.text,
                changes=changes,
            )
            self._store(task)
            return task

    def task(self, task_id: object) -> Submission | None:
        """Return the task of that id, None if there never was one or it is forgotten."""
        task = self._tasks.get(task_id) if isinstance(task_id, str) else None
        return None if task is None or task.outcome == "forgotten" else task

    def last_done(self, segment_id: int, resource_id: int, db_id: int | None) -> Submission | None:
        """Return the latest task of a segment that has counted by now, None if none has."""
        key = (segment_id, resource_id, db_id)
        done = (
            task
            for task in reversed(self.tasks())
            if (task.segment_id, task.resource_id, task.db_id) == key
            and report(task, self.now(), self.platform).get("result")
        )
        return next(done, None)

    def tasks(self) -> list[Submission]:
        """Return every submission ever accepted, oldest first, forgotten ones too."""
        with self._lock:
            return list(self._tasks.values())

    def set_outcome(
        self, task_id: str, outcome: str, *, name: str | None = None, text: str | None = None
    ) -> Submission:
        """Change a task's fate; raises KeyError if there is no such task."""
        if not isinstance(outcome, str) or outcome not in OUTCOMES:
            raise RefusedError(f"unknown outcome {outcome!r}; there are {', '.join(OUTCOMES)}")
        if not isinstance(name, str | None) or not isinstance(text, str | None):
            raise RefusedError("name and text must be text")
        with self._lock:
            task = replace(self._tasks[task_id], outcome=outcome, name=name, text=text)
            self._store(task)
            return task

    def _store(self, task: Submission) -> None:
        values = [*_values(task), json.dumps([asdict(change) for change in task.changes])]
        marks = ", ".join("?" * len(values))
        self._database.execute(f"insert or replace into submission values ({marks})", values)  # noqa: S608 - marks
        self._tasks[task.task_id] = task

    # Faults

    def add_faults(self, faults: Iterable[Fault]) -> None:
        """Arm faults, after those already there."""
        with self._lock:
            self._faults.armed.extend(Armed(fault, since=self.now()) for fault in faults)

    def faults(self) -> list[Armed]:
        """Return the faults that are not used up."""
        with self._lock:
            return [replace(armed) for armed in self._faults.armed]

    def clear_faults(self) -> None:
        """Disarm every fault; tasks keep the fates they have."""
        with self._lock:
            self._faults.armed.clear()

    def take_fault(self, endpoint: str, segment_id: int | None) -> Fault | None:
        """Return the fault this request suffers, if any."""
        with self._lock:
            return self._faults.take(endpoint, segment_id)

    # Journal

    def record(self, entry_of: Callable[[int], Entry]) -> Entry:
        """Return a new journal entry with the next number; the caller completes it as it proceeds."""
        with self._lock:
            self._entries += 1
            entry = entry_of(self._entries)
            self._journal.append(entry)
            return entry

    def journal(self) -> list[Entry]:
        """Return copies of the last 200,000 requests' entries, in order of arrival."""
        with self._lock:
            return [replace(entry) for entry in self._journal]

    def clear_journal(self) -> None:
        """Forget the entries; their numbers go on."""
        with self._lock:
            self._journal.clear()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _timestamp(now: datetime | str) -> float:
    try:
        # Python 3.10 does not read the Z.
        moment = now if isinstance(now, datetime) else datetime.fromisoformat(now.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise RefusedError(f"now must be an ISO 8601 time, not {now!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
