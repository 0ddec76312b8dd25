"""Operators: start recounts, and wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_segstats import links
from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.versions import AirflowTaskTimeout, conf
from airflow_provider_segstats.core.defaults import (
    AUTO,
    DEFAULT_CONN_ID,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT,
    MAX_POLL_FAILURES,
    OnAmbiguousSubmit,
    OnTariffLimit,
)
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError, TaskFailedError
from airflow_provider_segstats.core.ids import as_database_id, required_id
from airflow_provider_segstats.tasks.arguments import (
    ChecksArguments,
    as_params,
    check_count,
    check_database_id,
    check_format,
    check_id,
    check_on_ambiguous_submit,
    check_on_tariff_limit,
    check_params,
    seconds,
)
from airflow_provider_segstats.tasks.segments import as_segments, check_segments
from airflow_provider_segstats.tasks.store import life_of, store_of
from airflow_provider_segstats.tasks.waiting import WaitsForTask

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_provider_segstats.core.defaults import Format
    from airflow_provider_segstats.core.model import Database, Recountable, Resource, Row, Segment, Selection
    from airflow_provider_segstats.lineage import Lineage
    from airflow_provider_segstats.tasks.batch import Batch


class RefreshOperator(WaitsForTask):
    """Starts one recount and, when asked, waits for it: what the operators below have in common.

    Pushes the remote task's id to XCom under the key ``task_id``, before any wait. Returns that id, or,
    with ``wait_for_completion``, the counters as rows
    (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`). A retry goes on with the recount that an
    earlier try started (Airflow 3.3), unless that failed; a cleared task starts a new one. The API has
    no cancel: a killed task's recount goes on at the server. Not for use on its own.

    :param extra_params: further body parameters for newer servers, such as ``{"list_id": 3}`` (templated)
    :param format: ``json`` or ``xml``; the connection's unless given
    :param segstats_conn_id: the Airflow connection (templated)
    :param wait_for_completion: wait for the recount and return its counters
    :param deferrable: wait in the triggerer, without a worker slot
    :param on_ambiguous_submit: what to do when the server may have accepted a submit whose answer was
        lost: ``fail`` without retries, or ``resubmit``, which may count twice
    :param poke_interval: seconds between looks; by default they grow from 3 to 60 s with the time waited
    :param timeout: seconds (or timedelta) the wait may take, 6 hours by default; counts anew in a retry
    :param max_poll_failures: looks that may fail in a row before the try fails
    """

    ui_color = "#dff0e4"
    reschedule = False
    on_tariff_limit: OnTariffLimit = "fail"

    def __init__(
        self,
        *,
        extra_params: Mapping[str, Any] | None = None,
        format: Format | None = None,  # noqa: A002 - the API's word
        segstats_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        on_ambiguous_submit: OnAmbiguousSubmit = "fail",
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        max_poll_failures: int = MAX_POLL_FAILURES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.extra_params = extra_params
        self.format = format
        self.segstats_conn_id = segstats_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.on_ambiguous_submit = on_ambiguous_submit
        with self.checking():
            check_params(extra_params)
            check_format(format)
            check_on_ambiguous_submit(on_ambiguous_submit)
            self.poke_interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
            self.max_poll_failures = check_count("max_poll_failures", max_poll_failures)

    def wanted(self) -> Recountable:
        """Return what the rendered arguments ask to recount."""
        raise NotImplementedError

    def batch(self, context: Context) -> Batch:
        """Return what goes on in this try."""
        return _batch(self, context, [self.wanted()])

    def name(self) -> str | None:
        """Ask the API for the name of what is recounted; None where there is no need to know it."""
        raise NotImplementedError

    def execute(self, context: Context) -> str | list[Row]:
        """Start the recount (or go on with an earlier try's) and return its id, or wait for its rows."""
        links.show(self, context)
        _warn_without_store(self, context)
        try:
            self.refuse_arguments()
            batch = self.batch(context)
            [thing] = batch.things.values()
            batch.check()
            batch.take_up()
            try:
                recount = batch.start()
            except SegStatsError as error:
                if (rows := batch.read_instead([thing.id], error).get(thing.id)) is None:
                    raise
                return rows
        except SegStatsError as error:
            self.give_up(context, error)
        context["ti"].xcom_push(key="task_id", value=recount.task_id)
        if not self.wait_for_completion:
            return recount.task_id
        segment_id = thing.id if thing.kind == "segment" else None
        return self.wait(context, recount.task_id, segment_id, recount.base_url)

    def labelled(self, rows: list[Row]) -> list[Row]:
        """Return the rows with their kind, and with the name, where the token may know it."""
        name = None
        try:
            name = self.name()
        except SegStatsError as error:
            self.log.warning("The rows have no name: %s", error)
        return self.wanted().label(rows, name)

    def give_up(self, context: Context, error: SegStatsError) -> NoReturn:
        """Raise for Airflow; write down first that the recount failed, so that a retry starts a new one."""
        from airflow_provider_segstats.tasks.ledger import Ledger

        if isinstance(error, TaskFailedError) and (store := store_of(context)):
            number = self.wanted().id
            ledger = Ledger([number], store, life_of(context), resumed=True)
            ledger.fail(number, error)
            ledger.write()
        super().give_up(context, error)


class RefreshSegmentOperator(RefreshOperator):
    """Starts the recount of a segment's subscription counters and, when asked, waits for it.

    What it pushes and returns, how it retries, and its other parameters: :class:`RefreshOperator`.

    API page: "Update statistics on segment", ``POST segments/refresh_counters``.

    :param segment_id: the segment, a whole number (templated)
    :param resource_id: its resource, a whole number (templated)
    :param db_id: its database, needed for dynamic segments only; ``auto`` looks up the one that the segment's
        own rules name (templated)
    :param on_tariff_limit: what to do where the account's tariff allows no more recounts (API error 402):
        ``fail``, or, with ``wait_for_completion``, ``read`` what was last counted, in rows that are marked
        ``"recounted": False`` and never get into the history
    """

    template_fields: Sequence[str] = (
        "segment_id",
        "resource_id",
        "db_id",
        "extra_params",
        "segstats_conn_id",
    )

    def __init__(
        self,
        *,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        on_tariff_limit: OnTariffLimit = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.segment_id = segment_id
        self.resource_id = resource_id
        self.db_id = db_id
        self.on_tariff_limit = on_tariff_limit
        with self.checking():
            check_id("segment_id", segment_id)
            check_id("resource_id", resource_id)
            check_database_id("db_id", db_id)
            check_on_tariff_limit(on_tariff_limit)
            if on_tariff_limit == "read" and not self.wait_for_completion:
                raise ConfigurationError(
                    "on_tariff_limit='read' returns rows, which takes wait_for_completion=True"
                )

    def wanted(self) -> Segment:
        """Return what the rendered arguments ask to recount."""
        return _segment(self.segment_id, self.resource_id, self.db_id, self.extra_params)

    def batch(self, context: Context) -> Batch:
        """Return what goes on in this try, with the segment's database looked up."""
        return _batch_of_segments(self, context, [self.wanted()])

    def name(self) -> str | None:
        """Ask for the segment's name where its database was asked for, too."""
        segment = self.wanted()
        return self.hook.get_segment(segment.id).name if segment.db_id == AUTO else None

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that the segment was recounted; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.lineage import of_recount

        return of_recount(self.hook, [required_id("segment_id", self.segment_id)])


class RefreshDatabaseOperator(RefreshOperator):
    """Starts the recount of a whole database for a resource and, when asked, waits for it.

    Its rows have ``"kind": "database"``, the database's id as ``list_id``, its name where the token may know
    it, and more counters than a segment's. Past the tariff limit it fails: the API has no way to read what
    was last counted. What it pushes and returns, how it retries, and its other parameters:
    :class:`RefreshOperator`.

    API page: ``POST databases/refresh_counters``.

    :param database_id: the database, a whole number (templated)
    :param resource_id: the resource, a whole number (templated)
    """

    template_fields: Sequence[str] = ("database_id", "resource_id", "extra_params", "segstats_conn_id")

    def __init__(self, *, database_id: int | str, resource_id: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.database_id = database_id
        self.resource_id = resource_id
        with self.checking():
            check_id("database_id", database_id)
            check_id("resource_id", resource_id)

    def wanted(self) -> Database:
        """Return what the rendered arguments ask to recount."""
        from airflow_provider_segstats.core.model import Database

        return Database(
            required_id("database_id", self.database_id),
            required_id("resource_id", self.resource_id),
            as_params(self.extra_params),
        )

    def name(self) -> str:
        """Ask for the database's name."""
        return self.hook.get_database(self.database_id).name


class RefreshResourceOperator(RefreshOperator):
    """Starts the recount of a resource in a database and, when asked, waits for it.

    Its rows have ``"kind": "resource"``, the resource's name where the token may know it, and more counters
    than a segment's. Past the tariff limit it fails: the API has no way to read what was last counted. What
    it pushes and returns, how it retries, and its other parameters: :class:`RefreshOperator`.

    API page: ``POST resources/refresh_counters``.

    :param resource_id: the resource, a whole number (templated)
    :param list_id: the database, a whole number (templated)
    """

    template_fields: Sequence[str] = ("resource_id", "list_id", "extra_params", "segstats_conn_id")

    def __init__(self, *, resource_id: int | str, list_id: int | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resource_id = resource_id
        self.list_id = list_id
        with self.checking():
            check_id("resource_id", resource_id)
            check_id("list_id", list_id)

    def wanted(self) -> Resource:
        """Return what the rendered arguments ask to recount."""
        from airflow_provider_segstats.core.model import Resource

        return Resource(
            required_id("resource_id", self.resource_id),
            required_id("list_id", self.list_id),
            as_params(self.extra_params),
        )

    def name(self) -> str:
        """Ask for the resource's name."""
        return self.hook.get_resource(self.resource_id).name


class GetSegmentCountersOperator(ChecksArguments):
    """Returns a segment's counters as last counted, as rows; nothing is recounted.

    The API does not say when that was: ``updated`` is None, and the rows are marked ``"recounted": False``,
    which keeps them out of the history.

    API page: ``POST segments/get_counters``.

    :param segment_id: the segment, a whole number (templated)
    :param resource_id: its resource, a whole number (templated)
    :param db_id: its database, as in :class:`RefreshSegmentOperator` (templated)
    :param extra_params: further body parameters for newer servers (templated)
    :param format: ``json`` or ``xml``; the connection's unless given
    :param segstats_conn_id: the Airflow connection (templated)
    """

    template_fields: Sequence[str] = RefreshSegmentOperator.template_fields
    ui_color = "#dff0e4"

    def __init__(
        self,
        *,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        extra_params: Mapping[str, Any] | None = None,
        format: Format | None = None,  # noqa: A002 - the API's word
        segstats_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.segment_id = segment_id
        self.resource_id = resource_id
        self.db_id = db_id
        self.extra_params = extra_params
        self.format = format
        self.segstats_conn_id = segstats_conn_id
        with self.checking():
            check_id("segment_id", segment_id)
            check_id("resource_id", resource_id)
            check_database_id("db_id", db_id)
            check_params(extra_params)
            check_format(format)

    def execute(self, context: Context) -> list[Row]:  # noqa: ARG002 - Airflow's signature
        """Read the counters and return their rows."""
        from airflow_provider_segstats.hooks import SegStatsHook

        try:
            self.refuse_arguments()
            return SegStatsHook(self.segstats_conn_id, self.format).get_counters(
                self.segment_id, self.resource_id, self.db_id, as_params(self.extra_params)
            )
        except SegStatsError as error:
            raise airflow_error(error) from None


class RefreshSegmentsOperator(WaitsForTask):
    """Recounts many segments' subscription counters in one task instance and returns all their rows.

    At most ``max_in_flight`` recounts are open at the server: when half of those are done, more are
    submitted. Deferred, the task comes back to a worker for that, so 1,000 segments make a few deferrals.
    Rows (:meth:`~airflow_provider_segstats.core.model.TaskStatus.rows`) come in the order of the list; three
    channels of a segment take some 600 bytes of XCom, so 1,000 segments 0.6 MB: for more than
    that let Airflow keep XComs in object storage.

    What is known of each segment is kept in ``task_state_store`` (Airflow 3.3) as it comes, so a retry
    repeats only what did not finish; a cleared task starts afresh. Where some segments fail, the others'
    rows are pushed all the same, and the error says which failed and why; when the API says that the tariff
    limit is reached (402), or refuses the token, no more are submitted. The XCom ``summary`` has
    ``{"ok", "failed", "not_submitted", "names", "submits", "resubmitted"}``: ids, for ``failed`` lines by
    id, what those that were not counted are called, how many recounts were accepted, and how many segments
    were submitted again although they may have been accepted. Without 3.3's store the task waits on the
    worker, and a retry starts all over. The API has no cancel.

    API pages: "Update statistics on segment" and "Checking the task status".

    Selections are resolved once, when the task starts, and all its tries have the same (docs/segments.md).
    Names, as the platform's lists or the entries have them, stand in the rows as ``name``.

    :param segments: a list of segments ``{"segment_id", "resource_id"}``, with ``db_id`` (an id or ``auto``,
        as in RefreshSegmentOperator), ``name`` and ``extra_params`` where wanted; and of selections
        ``{"ui_tags": ["weekly"], "resource_id": 24}`` by any of ``ui_tags``, ``groups`` and ``groups_id``,
        with ``exclude`` (a list of ids), ``db_id``, ``extra_params`` and ``allow_empty`` where wanted. Or
        one selection, another task's output, or a template that renders to JSON or a list (templated)
    :param allow_empty: return no rows where the list or a selection is empty, which otherwise is an error: it
        mostly means that whatever was to fill it went wrong
    :param max_in_flight: recounts open at the server at most, 1,000 by default
    :param format: ``json`` or ``xml``; the connection's unless given
    :param segstats_conn_id: the Airflow connection (templated)
    :param deferrable: wait in the triggerer, without a worker slot
    :param on_ambiguous_submit: what to do with a segment whose submit may have been accepted and whose
        answer was lost: ``fail`` it without retries, or ``resubmit`` it, which may count it twice
    :param poke_interval: seconds between looks at a task; by default they grow from 3 to 60 s
    :param timeout: seconds (or timedelta) for all segments together, 6 hours by default; counts anew in
        a retry
    :param max_poll_failures: looks at a task that may fail in a row before its segment fails
    :param on_tariff_limit: what to do where the account's tariff allows no more recounts (API error 402):
        ``fail``, or ``read`` what was last counted of the segments left, in rows that are marked
        ``"recounted": False`` and never get into the history; they stay in the summary's ``not_submitted``
    """

    template_fields: Sequence[str] = ("segments", "segstats_conn_id")
    ui_color = "#dff0e4"
    reschedule = False
    _running: Batch | None = None

    def __init__(
        self,
        *,
        segments: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str,
        allow_empty: bool = False,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        format: Format | None = None,  # noqa: A002 - the API's word
        segstats_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        on_ambiguous_submit: OnAmbiguousSubmit = "fail",
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        max_poll_failures: int = MAX_POLL_FAILURES,
        on_tariff_limit: OnTariffLimit = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.segments = segments
        self.allow_empty = allow_empty
        self.format = format
        self.segstats_conn_id = segstats_conn_id
        self.deferrable = deferrable
        self.on_ambiguous_submit = on_ambiguous_submit
        self.on_tariff_limit = on_tariff_limit
        with self.checking():
            check_segments(segments, allow_empty=allow_empty)
            check_format(format)
            check_on_ambiguous_submit(on_ambiguous_submit)
            check_on_tariff_limit(on_tariff_limit)
            self.max_in_flight = check_count("max_in_flight", max_in_flight)
            self.poke_interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
            self.timeout = seconds("timeout", timeout)
            self.max_poll_failures = check_count("max_poll_failures", max_poll_failures)

    def execute(self, context: Context) -> list[Row]:
        """Submit, wait, and return all rows; go on with what an earlier try did."""
        links.show(self, context)
        _warn_without_store(self, context)

        def begin(batch: Batch) -> None:
            batch.check()
            batch.take_up()

        return self._go_on(context, begin)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[Row]:
        """Take what the trigger brought; submit and wait for more, or return all rows."""
        return self._go_on(context, lambda batch: batch.record(event["outcomes"]), resumed=True)

    def overdue(self, context: Context) -> list[Row]:
        """Look at what is open once more, here, since no triggerer told of it when the time ended."""
        self.deferrable = False
        return self.execute_complete(context, {"outcomes": []})

    def on_kill(self) -> None:
        """Submit no more; recounts under way go on at the server, since the API has no cancel."""
        if self._running:
            self._running.ending = True

    def get_openlineage_facets_on_complete(self, _: Any) -> Lineage:
        """Return that the segments were recounted; Airflow's OpenLineage provider asks, also on failure."""
        from airflow_provider_segstats.core.model import Segment
        from airflow_provider_segstats.lineage import of_recount

        if self._running:
            return of_recount(self.hook, self._running.things)
        listed = as_segments(self.segments, allow_empty=True)
        return of_recount(self.hook, [one.id for one in listed if isinstance(one, Segment)])

    def _go_on(self, context: Context, begin: Callable[[Batch], None], *, resumed: bool = False) -> list[Row]:
        """Begin this phase of the task, and go on to its end or to the next deferral."""
        try:
            self.refuse_arguments()
            wanted = as_segments(self.segments, allow_empty=self.allow_empty)
            self._running = batch = _batch_of_segments(self, context, wanted, resumed=resumed)
            try:
                begin(batch)
                self._refresh(context, batch)
            except AirflowTaskTimeout:  # Airflow's own alarm, where it comes before our deadline
                batch.give_up()
            return self._finish(context, batch)
        except SegStatsError as error:
            self.give_up(context, error)

    def _refresh(self, context: Context, batch: Batch) -> None:
        """Submit and wait in turn until nothing is under way, or defer until there is more to do."""
        from airflow_provider_segstats.triggers import TaskStatusesTrigger

        ledger = batch.ledger
        while True:
            batch.submit(self.max_in_flight)
            if not ledger.open:
                return
            batch.tell()
            leave_open = min(len(ledger.open) - 1, self.max_in_flight // 2) if ledger.fresh else 0
            # What is known has to be kept somewhere while no worker runs.
            if self.deferrable and store_of(context) is not None:
                ledger.set_aside()
                arguments = {
                    "tasks": batch.tasks,
                    "leave_open": leave_open,
                    "counts": asdict(batch.counts),
                }
                self.defer_to(TaskStatusesTrigger, arguments, batch.plan)
            batch.wait(leave_open)

    def _finish(self, context: Context, batch: Batch) -> list[Row]:
        from airflow_provider_segstats.core import policy

        ledger, ended = batch.ledger, batch.ledger.ended()
        counted = [number for number in batch.things if number in ended.rows]
        errors = {number: ended.errors[number] for number in batch.things if number in ended.errors}
        known = ended.rows.keys() | ended.errors.keys()
        not_submitted = [number for number in batch.things if number not in known]
        read = batch.read_instead(not_submitted, ledger.stopped)
        found = {**ended.rows, **read}
        rows = [row for number, thing in batch.things.items() for row in thing.label(found.get(number, ()))]
        names = {number: batch.things[number].name for number in (*errors, *not_submitted)}
        summary = {
            "ok": counted,
            "failed": {str(number): str(error) for number, error in errors.items()},
            "not_submitted": not_submitted,
            "names": {str(number): name for number, name in names.items() if name},
            "submits": ledger.submits,
            "resubmitted": len(ended.repeated),
        }
        context["ti"].xcom_push(key="summary", value=summary)
        self.log.info(
            "%d segments counted, %d failed, %d not submitted after %.0f s; "
            "%d submits, %d resubmitted, %d rows",
            len(counted),
            len(errors),
            len(not_submitted),
            time.time() - batch.plan.started,
            ledger.submits,
            len(ended.repeated),
            len(rows),
        )
        left = [number for number in not_submitted if number not in read]
        if errors or left:
            # Airflow pushes no return value of a task that fails; what there is, is worth having.
            context["ti"].xcom_push(key="return_value", value=rows)
            stopped = ledger.stopped or (SegStatsError("the task was told to end") if batch.ending else None)
            raise policy.unfinished(batch.things, errors, left, stopped)
        return rows


def _segment(segment_id: Any, resource_id: Any, db_id: Any, extra_params: Any) -> Segment:
    from airflow_provider_segstats.core.model import Segment

    return Segment(
        required_id("segment_id", segment_id),
        required_id("resource_id", resource_id),
        as_database_id("db_id", db_id),
        as_params(extra_params),
    )


def _batch(
    task: RefreshOperator | RefreshSegmentsOperator,
    context: Context,
    things: Iterable[Recountable],
    refused: Mapping[int, SegStatsError] | None = None,
    *,
    resumed: bool = False,
) -> Batch:
    from airflow_provider_segstats.tasks.batch import Batch
    from airflow_provider_segstats.tasks.ledger import Ledger

    by_id, refused = {thing.id: thing for thing in things}, refused or {}
    ids = [number for number in by_id if number not in refused]
    ledger = Ledger(ids, store_of(context), life_of(context), resumed=resumed)
    if not resumed:
        for number, error in refused.items():
            ledger.fail(number, error)
    plan, write = task.plan(context), progress.by_worker(context["ti"])
    return Batch(task.hook, by_id, ledger, task.on_ambiguous_submit, task.on_tariff_limit, plan, write)


def _batch_of_segments(
    task: RefreshOperator | RefreshSegmentsOperator,
    context: Context,
    wanted: Collection[Segment | Selection],
    *,
    resumed: bool = False,
) -> Batch:
    from airflow_provider_segstats.tasks.choosing import choose

    chosen = choose(task.hook, wanted, store_of(context), life_of(context), resumed=resumed)
    return _batch(task, context, chosen.segments, chosen.refused, resumed=resumed)


def _warn_without_store(task: BaseOperator, context: Context) -> None:
    if store_of(context) is None and context["ti"].try_number > 1:
        task.log.warning(
            "This Airflow has no task_state_store (it came with 3.3), so this try cannot know "
            "whether an earlier one submitted: segments may be counted twice"
        )
