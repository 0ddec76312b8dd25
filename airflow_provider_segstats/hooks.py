"""The Airflow hook: an Airflow connection in, the API's calls out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk import log as airflow_log
from airflow.sdk.log import mask_secret

from airflow_provider_segstats import lookups
from airflow_provider_segstats.core import api, flows
from airflow_provider_segstats.core.defaults import DEFAULT_CONN_ID, DEFAULT_TIMEOUT, OnAmbiguousSubmit
from airflow_provider_segstats.core.errors import ConfigurationError, SegStatsError
from airflow_provider_segstats.core.flows import Flow, Pause, World
from airflow_provider_segstats.core.ids import as_id, required_id
from airflow_provider_segstats.core.model import Segment, TaskStatus
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.core.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk import Connection

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
    """

    conn_name_attr = "segstats_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "segstats"
    hook_name = "Segment statistics"

    _poller_module: ClassVar[Any] = None

    def __init__(self, segstats_conn_id: str = default_conn_name, format: Format | None = None) -> None:  # noqa: A002 - the API's word
        super().__init__()
        if format not in {None, "json", "xml"}:
            raise ConfigurationError(f"format can be 'json' or 'xml', not {format!r}")
        self.segstats_conn_id = segstats_conn_id
        self.format = format

    def get_conn(self) -> Settings:
        """Return the connection as checked settings; there is no session to hand out."""
        settings = self._settings(lookups.connection(self.segstats_conn_id))
        for secret in _secrets(settings):
            mask_secret(secret)
        return settings

    def refresh_counters(
        self,
        segment_id: int | str,
        resource_id: int | str,
        db_id: int | str | None = None,
        extra_params: Mapping[str, Any] | None = None,
        on_ambiguous_submit: OnAmbiguousSubmit = "fail",
    ) -> str:
        """Start a recount and return the remote task's id (``POST segments/refresh_counters``).

        Tried again only where the server cannot have accepted it; an answer lost on the way raises
        ``AmbiguousSubmitError`` unless ``on_ambiguous_submit="resubmit"``.
        """
        segment = Segment(
            required_id("segment_id", segment_id),
            required_id("resource_id", resource_id),
            as_id("db_id", db_id, optional=True),
            dict(extra_params or {}),
        )
        return self.run(
            lambda settings, world: flows.submit(settings, segment, on_ambiguous_submit, world)
        ).task_id

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

    def test_connection(self) -> tuple[bool, str]:
        """Make one cheap read with the token (``POST databases/list``) and tell how it went."""
        try:
            self.run(lambda settings, _: flows.one_call(api.list_databases(settings)))
        except SegStatsError as error:
            return False, str(error)
        return True, "The API answered and took the token"

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
            raise

    async def run_async(self, make_flow: Callable[[Settings, World], Flow[T]]) -> T:
        """Drive a flow as :meth:`run` does, on the running event loop and its shared poller."""
        try:
            poller = await self.shared_poller()
            return await poller.run(lambda settings: make_flow(settings, self.world()))
        except SegStatsError as error:
            error.connection = self.segstats_conn_id
            raise

    async def shared_poller(self) -> Poller:
        """Return the running event loop's poller for this connection; ``async with`` it to keep it open."""
        if SegStatsHook._poller_module is None:  # its imports would block the event loop for a second
            module = await asyncio.to_thread(import_module, "airflow_provider_segstats.core.poller")
            SegStatsHook._poller_module = module
        key = (self.segstats_conn_id, self.format)
        poller: Poller = SegStatsHook._poller_module.shared_poller(key, self._load_async)
        return poller

    def world(self) -> World:
        """Return what a flow may ask of the outside here."""
        return World(now=time.time, chance=random.random, log=self.log)

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


def _secrets(settings: Settings) -> Iterator[str]:
    yield settings.token
    if settings.proxy and (password := urlsplit(settings.proxy).password):
        yield password
