"""The async path, over aiohttp: for looks, of which thousands go at once over a few kept connections."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp

from airflow_provider_segstats.core.api import Reply, Request
from airflow_provider_segstats.core.errors import NoAnswerError, SegStatsError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import (
    LONGEST_LINE,
    MAX_BODY,
    Exchange,
    body_too_large,
    failed,
    no_tunnel,
    place,
    under_way,
    unpacked,
    unreadable,
    unusable_url,
)
from airflow_provider_segstats.core.transport.proxies import proxy_for
from airflow_provider_segstats.core.transport.sync import SyncTransport
from airflow_provider_segstats.core.transport.tls import tls_context

LONGEST_USE = 300.0
"""Seconds that a connection is used at most: the host's name may stand for another address by then."""

USE_AFTER_FAILURE = 10.0
"""Seconds that it is used after it brought a failure of the server: for a few more looks at most."""


async def open_transport(settings: Settings, connections: int) -> AsyncTransport:
    """Return a transport for the running event loop, with so many sockets at most."""
    # Reading the certificates takes tens of milliseconds, which an event loop does not have.
    context = await asyncio.to_thread(tls_context, settings)
    return AsyncTransport(settings, context, connections)


class _Look(Exchange):
    """A look under way: over which connection, whether that had been ``kept``, and whether it may not be."""

    connection: asyncio.Transport | None = None
    kept = anew = False
    late = unread = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._task = asyncio.current_task()

    def end(self) -> None:
        """End it, since its time is up."""
        self.late = True
        # Where it cannot read a body, aiohttp hangs up and says so to nobody.
        self.unread = self.connection is not None and self.connection.is_closing()
        assert self._task is not None  # noqa: S101 - a look is made in a task
        self._task.cancel()

    def was_cancelled(self) -> bool:
        """Whether somebody else ended it; Python 3.10 cannot tell where both did."""
        uncancel = getattr(self._task, "uncancel", None)
        return not self.late or (uncancel is not None and uncancel() > 0)


class _Connector(aiohttp.TCPConnector):
    """Knows until when each connection may be used, and tells a look when it has one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._use_until: WeakKeyDictionary[asyncio.Transport, float] = WeakKeyDictionary()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        """Return a connection that stands, with TLS and a proxy's tunnel: from then on a server may act."""
        look = under_way.get()
        assert isinstance(look, _Look)  # noqa: S101 - who else would come here
        while True:
            connection = await super().connect(*arguments, **options)
            transport: asyncio.Transport = connection.transport  # type: ignore[assignment]  # it was just opened
            now = time.monotonic()
            use_until = self._use_until.get(transport)
            if use_until is None:
                self._use_until[transport] = now + LONGEST_USE
            elif look.anew or use_until < now:
                connection.close()
                continue
            look.connection, look.kept, look.sent = transport, use_until is not None, True
            return connection

    def give_up_soon(self, look: _Look) -> None:
        """Use a look's connection for a few more at most."""
        soon = time.monotonic() + USE_AFTER_FAILURE
        assert look.connection is not None  # noqa: S101 - it brought an answer
        self._use_until[look.connection] = min(soon, self._use_until[look.connection])


class AsyncTransport:
    """One pooled session to one server, for one event loop."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, connections: int) -> None:
        self._settings = settings
        self._proxy = proxy_for(settings)
        self._connector = _Connector(limit=connections, ssl=context)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # see `_end_late`
            auto_decompress=False,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )
        self._over_requests = SyncTransport(settings, context)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="segstats-submit")
        self._looks: dict[_Look, None] = {}  # in the order of their deadlines, since all have the same time
        self._watch: asyncio.TimerHandle | None = None
        self._under_way = 0
        self._retired = False

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._watch:
            self._watch.cancel()
        self._threads.shutdown(wait=False)  # a submit on the wire may end
        await self._session.close()

    async def retire(self) -> None:
        """Close once no request is under way any more; none is to be sent from now on."""
        self._retired = True
        if not self._under_way:
            await self.close()

    async def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one.

        A look whose kept connection turns out to be dead is made again at once. What may not be made twice
        goes over requests, on a thread: each on a fresh connection, to a reader of whatever servers write.
        """
        self._under_way += 1
        try:
            if request.once:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._over_requests.send, request)
            return await self._look(request)
        finally:
            self._under_way -= 1
            if self._retired and not self._under_way:
                await self.close()

    async def _look(self, request: Request) -> Reply:
        look = _Look(self._settings)
        under_way.set(look)
        self._looks[look] = None
        self._watch = self._watch or self._watch_over()
        try:
            while True:
                try:
                    return await self._exchange(request, look)
                except asyncio.CancelledError:
                    if look.was_cancelled():
                        raise
                    failure = _odd() if look.unread else self._translated(TimeoutError(), look)
                    break
                except Exception as error:  # noqa: BLE001 - whatever a library raises for what a server sends
                    failure = self._translated(error, look)
                    if not (look.kept and isinstance(error, aiohttp.ClientConnectionError)):
                        break
                look.anew, look.sent = True, False
        finally:
            del self._looks[look]
        raise failure  # here, for a library's error in the chain may quote a proxy's password

    def _watch_over(self) -> asyncio.TimerHandle:
        grain = min(1.0, self._settings.timeout / 10)
        return asyncio.get_running_loop().call_later(grain, self._end_late, context=contextvars.Context())

    def _end_late(self) -> None:
        """End the looks whose time is up: a timer for each, as aiohttp has it, costs a twelfth of its CPU."""
        now = time.monotonic()
        for look in self._looks:
            if look.deadline > now:
                break
            if not look.late:
                look.end()
        self._watch = self._watch_over() if self._looks else None

    async def _exchange(self, request: Request, look: _Look) -> Reply:
        async with self._session.post(
            request.url,
            data=request.body,
            headers=request.headers,
            proxy=self._proxy,
            allow_redirects=False,
        ) as response:
            if response.status >= 500:
                self._connector.give_up_soon(look)
            headers = {name.lower(): value for name, value in response.headers.items()}
            # aiohttp takes any status, and a body in a coding that it does not know for a plain one.
            if response.status < 100 or headers.get("transfer-encoding", "chunked").lower() != "chunked":
                raise _odd()
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise body_too_large()
            return Reply(response.status, headers, unpacked(bytes(body), headers.get("content-encoding")))

    def _translated(self, error: Exception, look: _Look) -> SegStatsError:
        where = place(self._settings, self._proxy)
        match error:
            case SegStatsError():
                return error
            case aiohttp.InvalidURL():
                return unusable_url()
            case aiohttp.ClientHttpProxyError():
                return no_tunnel(where, f"answered HTTP {error.status}")
            case aiohttp.ClientResponseError():
                return _odd() if look.sent else no_tunnel(where, "speaks no HTTP")
        return failed(error, self._settings.timeout, where, sent=look.sent)


def _odd() -> NoAnswerError:
    """Return the error for an answer that the other client may read."""
    error = unreadable("it breaks the rules of HTTP")
    error.odd = True
    return error
