"""The Airflow hook: an Airflow connection in, the API's calls out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk import log as airflow_log
from airflow.sdk.log import mask_secret

from airflow_provider_segstats.boundary import forms, lookups
from airflow_provider_segstats.boundary.metrics import METER
from airflow_provider_segstats.boundary.versions import BEFORE_3_2
from airflow_provider_segstats.core import api, flows
from airflow_provider_segstats.core.defaults import DEFAULT_CONN_ID, DEFAULT_TIMEOUT, OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import (
    ApiError,
    ConfigurationError,
    HttpStatusError,
    RedirectError,
    ReplyError,
    SegStatsError,
)
from airflow_provider_segstats.core.flows import Flow, Pause, Submitted, World
from airflow_provider_segstats.core.ids import as_database_id, required_id
from airflow_provider_segstats.core.model import (
    DatabaseDetails,
    ListedDatabase,
    ListedSegment,
    ResourceDetails,
    Row,
    Segment,
    SegmentDetails,
    TaskStatus,
)
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.core.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_segstats.core.api import Call
    from airflow_provider_segstats.core.defaults import Format
    from airflow_provider_segstats.core.poller import Poller

T = TypeVar("T")


class SegStatsHook(BaseHook):
    """Talks to the segments API (v1.1) of a marketing platform through an Airflow connection.

    The connection's type is ``segstats``; ``format`` ("json" or "xml") overrides the connection's.
    Every method raises :class:`~airflow_provider_segstats.core.errors.SegStatsError` or one below it, whose
    text is one line with the connection's id and the endpoint and without the token.

    .. code-block:: python

        @task
        def counters(segment_id: int) -> list[dict]:
            hook = SegStatsHook()
            task_id = hook.refresh_counters(segment_id, resource_id=24)
            return hook.wait_for_task(task_id).rows(segment_id)

    On an event loop the same goes by flows:
    ``await hook.run_async(lambda settings, world: flows.read_list(settings, api.list_segments, world))``.
    """

    conn_name_attr = "segstats_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "segstats"
    hook_name = "Segment statistics"
    if BEFORE_3_2:
        get_connection_form_widgets = staticmethod(forms.widgets)
        get_ui_field_behaviour = staticmethod(forms.behaviour)

    _poller_module: ClassVar[Any] = None

    def __init__(self, segstats_conn_id: str = default_conn_name, format: Format | None = None) -> None:  # noqa: A002 - the API's word
        super().__init__()
        if format not in {None, "json", "xml"}:
            raise ConfigurationError(f"format can be 'json' or 'xml', not {format!r}")
        self.segstats_conn_id = segstats_conn_id
        self.format = format

    def get_conn(self) -> Settings:
        """Return the connection as checked settings; there is no session to hand out."""
        settings = self._settings(self.connection())
        for secret in _secrets(settings):
            mask_secret(secret)
        return settings

    def connection(self) -> Connection | None:
        """Return the Airflow connection, None where there is none."""
        return lookups.connection(self.segstats_conn_id)

    def refresh_counters(
        self,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        extra_params: Mapping[str, Any] | None = None,
        on_ambiguous_submit: OnAmbiguousSubmit = "fail",
    ) -> str:
        """Start a recount and return the remote task's id (``POST segments/refresh_counters``).

        A dynamic segment needs ``db_id``, its database's id; ``auto`` takes the one that its own rules name.
        Tried again only where the server cannot have accepted it; an answer lost on the way raises
        ``AmbiguousSubmitError`` unless ``on_ambiguous_submit="resubmit"``.
        """
        wanted = _segment(segment_id, resource_id, db_id, extra_params)

        def flow(settings: Settings, world: World) -> Flow[Submitted]:
            segment = yield from flows.with_database(settings, wanted, world)
            return (yield from flows.submit(settings, segment, on_ambiguous_submit, world))

        return self.run(flow).task_id

    def task_status(self, task_id: str) -> TaskStatus:
        """Look at a task once (``POST tasks/status``)."""
        return self.run(lambda settings, _: flows.one_call(api.task_status(settings, task_id)))

    def wait_for_task(
        self, task_id: str, *, timeout: float = DEFAULT_TIMEOUT, poke_interval: float | None = None
    ) -> TaskStatus:
        """Look at a task until it is done, for ``timeout`` seconds (six hours) at most.

        Failed looks are tried again as the sensor does. Raises ``TaskFailedError`` when the recount
        failed and ``WaitTimeoutError`` when it took too long.
        """
        plan = plan_from(time.time(), timeout=timeout, poke_interval=poke_interval)
        return self.run(lambda settings, world: flows.wait(settings, task_id, plan, world))

    def list_segments(
        self, *, ui_tags: Sequence[str] = (), groups: Sequence[str] = (), groups_id: Sequence[int] = ()
    ) -> list[ListedSegment]:
        """Return the segments that the token sees, or those with these marks (``POST segments/list/``).

        Read in pages of 1,000, each segment once, in the server's order. Whether several tags, or groups,
        mean any or all of them is for the server to say: no page of the API's does.
        """
        make_call = partial(api.list_segments, ui_tags=ui_tags, groups=groups, groups_id=groups_id)
        return self.run(lambda settings, world: flows.read_list(settings, make_call, world))

    def list_databases(self) -> list[ListedDatabase]:
        """Return the databases that the token sees (``POST databases/list/``), read in pages of 1,000."""
        return self.run(lambda settings, world: flows.read_list(settings, api.list_databases, world))

    def get_segment(self, segment_id: int | str) -> SegmentDetails:
        """Return a segment's name, size and databases (``POST segments/get/``).

        ``list_ids`` are the databases that its rules name, one of which a recount needs as ``db_id``; a
        static segment has none.
        """
        number = required_id("segment_id", segment_id)
        return self._read(lambda settings: api.get_segment(settings, number))

    def get_counters(
        self,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> list[Row]:
        """Return a segment's counters as last counted, as rows (``POST segments/get_counters``).

        Nothing is recounted, and the API does not say when they were counted: ``updated`` is None, and the
        rows are marked ``"recounted": False``.
        """
        segment = _segment(segment_id, resource_id, db_id, extra_params)
        return self.run(lambda settings, world: flows.last_counted(settings, segment, world))

    def get_database(self, database_id: int | str) -> DatabaseDetails:
        """Return a database's name and description (``POST databases/get/``)."""
        number = required_id("database_id", database_id)
        return self._read(lambda settings: api.get_database(settings, number))

    def get_resource(self, resource_id: int | str) -> ResourceDetails:
        """Return a resource's name, its channels and its databases (``POST resources/get``)."""
        number = required_id("resource_id", resource_id)
        return self._read(lambda settings: api.get_resource(settings, number))

    def _read(self, make_call: Callable[[Settings], Call[T]]) -> T:
        return self.run(lambda settings, world: flows.read(settings, make_call, world))

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one segment (``POST segments/list/``) and tell how it went: what to do, or what is seen.

        A token without the right to list passes: recounts by id need no such right.
        """
        try:
            page = self.run(lambda settings, _: flows.one_call(api.list_segments(settings, limit=1)))
        except SegStatsError as error:
            return _told(error)
        seen = len(page.things) if page.total_count is None else page.total_count
        return True, f"The API answered and took the token, which sees {seen} segments"

    def run(
        self,
        make_flow: Callable[[Settings, World], Flow[T]],
        pause: Callable[[Pause], None] = lambda step: time.sleep(step.seconds),
    ) -> T:
        """Drive the flow that ``make_flow`` gives for the connection's settings; return its result."""
        from airflow_provider_segstats.core import client

        try:
            settings = self.get_conn()
            flow = make_flow(settings, self.world())
            return client.run(flow, settings, reload=self.get_conn, pause=pause)
        except SegStatsError as error:
            error.connection = self.segstats_conn_id
            raise error from None  # its line has the cause: a task's log is to show no library's frames

    async def run_async(self, make_flow: Callable[[Settings, World], Flow[T]]) -> T:
        """Drive a flow as :meth:`run` does, on the running event loop and its shared poller."""
        try:
            poller = await self.shared_poller()
            return await poller.run(lambda settings: make_flow(settings, self.world()))
        except SegStatsError as error:
            error.connection = self.segstats_conn_id
            raise error from None  # as above

    async def shared_poller(self) -> Poller:
        """Return the running event loop's poller for this connection; ``async with`` it to keep it open."""
        if SegStatsHook._poller_module is None:  # its imports would block the event loop for a second
            module = await asyncio.to_thread(import_module, "airflow_provider_segstats.core.poller")
            SegStatsHook._poller_module = module
        key = (self.segstats_conn_id, self.format)
        poller: Poller = SegStatsHook._poller_module.shared_poller(key, self._load_async, METER)
        return poller

    def world(self) -> World:
        """Return what a flow may ask of the outside here."""
        return World(now=time.time, chance=random.random, log=self.log, meter=METER)

    async def _load_async(self) -> Settings:
        settings = self._settings(await lookups.connection_async(self.segstats_conn_id))
        # From 3.3 on; on 3.2 Airflow has masked the token itself, when it read the connection.
        if amask_secret := getattr(airflow_log, "amask_secret", None):
            for secret in _secrets(settings):
                await amask_secret(secret)
        return settings

    def _settings(self, connection: Connection | None) -> Settings:
        if connection is None:
            raise ConfigurationError(
                "there is no such connection; create it with the type 'segstats'",
                connection=self.segstats_conn_id,
            )
        try:
            settings = Settings.from_fields(
                host=connection.host,
                port=connection.port,
                schema=connection.schema,
                password=connection.password,
                # The raw text: its parsed forms may block the triggerer's event loop.
                extra=connection.extra,
                format=self.format,
            )
        except ConfigurationError as error:
            error.connection = self.segstats_conn_id
            raise
        if not settings.verify:
            self.log.warning("Connection '%s' does not verify the server", self.segstats_conn_id)
        if settings.sends_token_in_clear:
            self.log.warning("Connection '%s' sends its token over http: use https", self.segstats_conn_id)
        return settings


def _segment(
    segment_id: int | str,
    resource_id: int | str,
    db_id: int | str | None,
    extra_params: Mapping[str, Any] | None,
) -> Segment:
    return Segment(
        required_id("segment_id", segment_id),
        required_id("resource_id", resource_id),
        as_database_id("db_id", db_id),
        dict(extra_params or {}),
    )


def _told(error: SegStatsError) -> tuple[bool, str]:
    """Return what a test of the connection that met an error means to who reads it."""
    match error:
        case ApiError(code=403):
            return True, (
                "The API answered and took the token, which has no right to list segments; counting them by "
                f"their ids may need none ({error.message})"
            )
        case _ if error.unauthorized:
            return False, f"{error}; is the API token in the connection's password?"
        case RedirectError() | HttpStatusError(http_status=429 | 503):
            return False, str(error)
        case ReplyError():
            return False, f"{error}; is this the API? See the connection's host, port and base_path"
    return False, str(error)


def _secrets(settings: Settings) -> Iterator[str]:
    from airflow_provider_segstats.core.transport.proxies import proxy_for

    yield settings.token
    if password := urlsplit(proxy_for(settings) or "").password:
        yield password
