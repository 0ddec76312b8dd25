"""What a task knows of its recounts, one or many, kept so that nothing is lost or done twice.

Kept in ``task_state_store`` (Airflow 3.3), where each access is a request and a value is to stay under 64 KB:

- ``segstats_recounts``, the head: what is being sent, and so is in doubt until it is said what came of it;
  what became known of late; and how many of the following pages there are. It is small, for it is written
  before any request leaves.
- ``segstats_recounts_open_N``: older entries on what is under way at the server. They begin anew from time to
  time, so that the next worker after a deferral has no more to read than what is open.
- ``segstats_recounts_ended_N``: rows and errors. Read once: at the end, or by the next try.
- ``segstats_recounts_queue_N``: what was still to be submitted when this try was deferred first.

Pages are written before the head that counts them. So wherever a kill comes, the head tells of one moment
for all of them, and what has been sent since is among what it has in doubt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from airflow_provider_segstats.core.errors import SegStatsError, TaskFailedError, error_from_dict
from airflow_provider_segstats.core.flows import Submitted
from airflow_provider_segstats.core.model import Row
from airflow_provider_segstats.core.progress import Counts
from airflow_provider_segstats.tasks.store import PAGE_SIZE, Life, MemoryStore, Store, chunks, size_of

HEAD = "segstats_recounts"
OPEN, ENDED, QUEUE = f"{HEAD}_open", f"{HEAD}_ended", f"{HEAD}_queue"

HEAD_SIZE = 8_000
"""Bytes of entries in the head at most: they are written with it time and again, so then they make a page."""

QUEUE_PAGE = 2_500
"""Ids in a page of the queue: they have up to 19 digits."""


@dataclass(frozen=True, slots=True)
class Recount:
    """One under way: its task's id, since when (seconds since the epoch), and the server that knows it."""

    task_id: str
    since: float
    base_url: str


@dataclass(slots=True)
class Ended:
    """What became of recounts, by id: rows, or an error.

    ``resumable`` are those still under way whose wait failed in a way that can get better; ``repeated`` those
    submitted again although they may have been accepted; ``forgotten`` those of which the server did not know
    a task any more.
    """

    rows: dict[int, list[Row]] = field(default_factory=dict)
    errors: dict[int, SegStatsError] = field(default_factory=dict)
    resumable: dict[int, Recount] = field(default_factory=dict)
    repeated: set[int] = field(default_factory=set)
    forgotten: set[int] = field(default_factory=set)


class Ledger:
    """The recounts of a task's list of ids: to be submitted, in doubt, open at the server, or ended.

    Changes are made in memory; :meth:`write` keeps them. A new try takes up what an earlier one knew of those
    in the list, and forgets what can get better; ``resumed`` goes on with the same try after a deferral.
    ``store`` is None on an Airflow without.
    """

    def __init__(self, ids: Iterable[int], store: Store | None, life: Life, *, resumed: bool = False) -> None:
        self.in_doubt: dict[int, None] = {}  # a set in the order of sending
        self.open: dict[int, Recount] = {}
        self.stopped: SegStatsError | None = None  # why no more is submitted in this try
        self.submits = 0
        self.failed = 0  # in this try
        self.ended_before = 0  # this try began
        self.forgotten: set[int] = set()
        self._store: Store = MemoryStore() if store is None else store
        self._life = [life.max_tries, life.clear_number]
        self._absent: dict[int, Recount] = {}  # open, and not in the list any more
        self._base_urls: list[str] = []
        self._entries: list[list[Any]] = []
        self._length = 0  # of the entries since they began anew, in the head and in pages
        self._pages = [0, 0]  # the first of them, and the next
        self._ended: list[list[Any]] = []  # to be written
        self._ended_pages = 0
        self._queue: deque[int] = deque()
        self._returned: deque[int] = deque()  # from the queue, and to be submitted all the same
        self._queued = 0  # the queue's length as written
        self._beyond = 0  # how many of these are on pages not read yet
        self._written = self._values()
        head = self._store.get(HEAD)
        # A clear of another task amid a deferral changes nothing for this try.
        if not (isinstance(head, dict) and (resumed or head.get("life") == self._life)):
            head = None
        if head:
            self._read(head)
        ids = list(ids)
        if not resumed:
            self._begin_try(ids)
        elif head:
            self._go_on(head)
        else:
            lost = "what this task had written down of its recounts is gone from Airflow's task_state_store"
            self.stopped = SegStatsError(lost, permanent=True)
        self._listed = frozenset(ids)
        self._absent = {id_: self.open.pop(id_) for id_ in [*self.open] if id_ not in self._listed}

    # --- what there is to do

    @property
    def fresh(self) -> int:
        """How many are still to be submitted in this try."""
        return 0 if self.stopped else len(self._returned) + len(self._queue) + self._beyond

    @property
    def waiting(self) -> int:
        """How many are not submitted, whether they will be in this try or not."""
        return len(self._returned) + len(self._queue) + self._beyond + len(self.in_doubt)

    def counts(self, since: float) -> Counts:
        """Return how many have ended, in the try that began at ``since``."""
        total = len(self._listed)
        done = total - self.waiting - len(self.open) - self.failed
        return Counts(total, since, done, self.failed, self.ended_before)

    def take(self, number: int) -> list[int]:
        """Return the next to submit, so many at most. They are in doubt until it is said what came of it."""
        taken: list[int] = []
        while len(taken) < number and self.fresh:
            if not (self._returned or self._queue):
                self._load()
            if (id_ := (self._returned or self._queue).popleft()) in self._listed:
                taken.append(id_)
        self.in_doubt.update(dict.fromkeys(taken))
        return taken

    # --- what became of it

    def submitted(self, id_: int, submitted: Submitted, since: float) -> None:
        """Say that one was accepted, and when."""
        del self.in_doubt[id_]
        self.submits += 1
        self._open(id_, Recount(submitted.task_id, since, submitted.base_url))
        if submitted.repeated:
            self._ended.append(["repeated", id_])

    def withdraw(self, id_: int) -> None:
        """Say that one was not accepted: it is to be submitted still."""
        del self.in_doubt[id_]
        self._put_back(id_)

    def repeat(self, id_: int) -> None:
        """Have one submitted again that may have been accepted."""
        self._ended.append(["repeated", id_])
        self.withdraw(id_)

    def renew(self, id_: int, *, forgotten: bool) -> None:
        """Have one submitted afresh: its task failed, or the server has forgotten it."""
        self._close(id_)
        self._put_back(id_)
        if forgotten:
            self._ended.append(["forgotten", id_])

    def finish(self, id_: int, rows: list[Row]) -> None:
        """Say that one is done."""
        self._ended += [["rows", id_, chunk] for chunk in [*chunks(rows, PAGE_SIZE // 2)] or [[]]]
        self._close(id_)  # last: an alarm of Airflow's may ring before

    def fail(self, id_: int, error: SegStatsError, *, repeated: bool = False) -> None:
        """Say what went wrong; ``repeated`` as in :class:`Ended`."""
        recount = self.open.get(id_)
        self._ended.append(["fail", id_, error.to_dict(), self._line(recount) if recount else None])
        if repeated:
            self._ended.append(["repeated", id_])
        self.failed += id_ in self._listed
        self.in_doubt.pop(id_, None)
        self._close(id_)

    def stop(self, error: SegStatsError) -> None:
        """Say why no more is submitted in this try, unless that is said already."""
        self.stopped = self.stopped or error

    def ended(self) -> Ended:
        """Read what became of all that have ended, also of those not in the list any more."""
        pages = (self._store.get(f"{ENDED}_{page}") for page in range(self._ended_pages))
        ended = Ended()
        for name, id_, *said in chain(chain.from_iterable(pages), self._ended):
            if name == "rows":
                ended.rows.setdefault(id_, []).extend(said[0])
            elif name == "fail" and id_ not in ended.rows:  # else the alarm rang
                ended.errors[id_] = error = error_from_dict(said[0])
                if said[1] and not (error.permanent or isinstance(error, TaskFailedError)):
                    ended.resumable[id_] = self._recount(*said[1])
            elif name == "repeated":
                ended.repeated.add(id_)
            elif name == "forgotten":
                ended.forgotten.add(id_)
            elif name == "try":
                ended.errors = {key: lasting for key, lasting in ended.errors.items() if lasting.permanent}
                ended.resumable = {}
        return ended

    # --- keeping it

    def write(self) -> None:
        """Keep all changes."""
        # Each in one step, for the alarm.
        self._ended_pages, self._ended = self._write_pages(ENDED, self._ended_pages, self._ended), []
        if size_of(self._entries) > HEAD_SIZE:
            first, number = self._pages
            self._pages, self._entries = [first, self._write_pages(OPEN, number, self._entries)], []
        if (head := self._values()) != self._written:
            self._store.set(HEAD, head)
            self._written = head

    def set_aside(self) -> None:
        """Keep all that a worker has to know who goes on with this try after a deferral."""
        if self.fresh and (self._returned or not self._queued):
            while self._beyond:
                self._load()
            ids = [*self._returned, *self._queue]
            for page, at in enumerate(range(0, len(ids), QUEUE_PAGE)):
                self._store.set(f"{QUEUE}_{page}", ids[at : at + QUEUE_PAGE])
            self._queue, self._returned, self._queued = deque(ids), deque(), len(ids)
        if self._length > 2 * len(self.open):
            self._begin_entries()
        self.write()

    def _values(self) -> dict[str, Any]:
        return {
            "life": self._life,
            "in_doubt": [*self.in_doubt],
            "entries": [*self._entries],
            "open": self._pages,
            "ended": self._ended_pages,
            "queue": [self._queued, len(self._queue) + self._beyond] if self._queued else [0, 0],
            "submits": self.submits,
            "failed": [self.failed, self.ended_before],
            "base_urls": [*self._base_urls],
            "stopped": self.stopped and self.stopped.to_dict(),
        }

    def _read(self, head: dict[str, Any]) -> None:
        self._written, self._life = head, head["life"]
        self.in_doubt = dict.fromkeys(head["in_doubt"])
        self._base_urls, self.submits = [*head["base_urls"]], head["submits"]
        self.failed, self.ended_before = head.get("failed", (0, 0))  # older releases kept none
        self._pages, self._ended_pages = head["open"], head["ended"]
        pages = [self._store.get(f"{OPEN}_{page}") for page in range(*self._pages)]
        self._entries = [*head["entries"]]
        for id_, *said in chain(*pages, self._entries):
            self._length += 1
            if said:
                self.open[id_] = self._recount(*said)
            else:
                self.open.pop(id_, None)

    def _go_on(self, head: dict[str, Any]) -> None:
        self.stopped = error_from_dict(head["stopped"]) if head["stopped"] else None
        self._queued, left = head["queue"]
        taken = self._queued - left
        self._beyond = self._queued - taken // QUEUE_PAGE * QUEUE_PAGE
        if self._beyond:
            self._load()
            for _ in range(taken % QUEUE_PAGE):
                self._queue.popleft()

    def _begin_try(self, ids: list[int]) -> None:
        ended = self.ended()
        if ended.errors:
            self._ended.append(["try", None])
        self.forgotten = ended.forgotten
        self.open |= ended.resumable
        known = {id_ for id_, error in ended.errors.items() if error.permanent}
        known |= ended.rows.keys() | self.open.keys() | self.in_doubt.keys()
        self._queue = deque(id_ for id_ in ids if id_ not in known)
        self.failed = len({id_ for id_, error in ended.errors.items() if error.permanent} & set(ids))
        self.ended_before = len(known & set(ids)) - len(self.open) - len(self.in_doubt)
        self._begin_entries()

    def _begin_entries(self) -> None:
        """Begin the entries anew, with what is open."""
        self._pages = [self._pages[1], self._pages[1]]
        under_way = chain(self.open.items(), self._absent.items())
        self._entries = [[id_, *self._line(recount)] for id_, recount in under_way]
        self._length = len(self._entries)

    def _open(self, id_: int, recount: Recount) -> None:
        self.open[id_] = recount
        self._enter([id_, *self._line(recount)])

    def _close(self, id_: int) -> None:
        if self.open.pop(id_, None):
            self._enter([id_])

    def _enter(self, entry: list[Any]) -> None:
        self._entries.append(entry)
        self._length += 1

    def _line(self, recount: Recount) -> list[Any]:
        if recount.base_url not in self._base_urls:
            self._base_urls.append(recount.base_url)
        return [recount.task_id, recount.since, self._base_urls.index(recount.base_url)]

    def _recount(self, task_id: str, since: float, base_url: int) -> Recount:
        return Recount(task_id, since, self._base_urls[base_url])

    def _put_back(self, id_: int) -> None:
        (self._returned if self._queued else self._queue).appendleft(id_)

    def _load(self) -> None:
        """Read the next page of the queue."""
        page = self._store.get(f"{QUEUE}_{(self._queued - self._beyond) // QUEUE_PAGE}")
        self._queue.extend(page)
        self._beyond -= len(page)

    def _write_pages(self, name: str, number: int, entries: list[Any]) -> int:
        """Write entries as pages from a number on, and return the next number."""
        for page in chunks(entries, PAGE_SIZE):
            self._store.set(f"{name}_{number}", page)
            number += 1
        return number
