"""The async path, over aiohttp."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from typing import Any

import aiohttp

from airflow_provider_segstats.core.api import Reply, Request
from airflow_provider_segstats.core.errors import NotSentError, SegStatsError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import (
    MAX_BODY,
    body_too_large,
    failed,
    proxy_for,
    tls_context,
    unpacked,
    unusable_url,
)

_LONGEST_LINE = 64 * 1024  # of a reply's head, as http.client takes them


async def open_transport(settings: Settings, connections: int) -> AsyncTransport:
    """Return a transport for the running event loop, with so many sockets at most."""
    # Reading the certificates takes tens of milliseconds, which an event loop does not have.
    context = await asyncio.to_thread(tls_context, settings)
    return AsyncTransport(settings, context, connections)


class _Connector(aiohttp.TCPConnector):
    """Knows for whom a connection stands, with TLS and a proxy's tunnel: from then on a server may act."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connected: set[asyncio.Task[Any] | None] = set()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        connection = await super().connect(*arguments, **options)
        self.connected.add(asyncio.current_task())
        return connection


class AsyncTransport:
    """One pooled session to one server, for one event loop."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, connections: int) -> None:
        self._settings = settings
        self._proxy = proxy_for(settings)
        self._loop = asyncio.get_running_loop()
        self._connector = _Connector(limit=connections, ssl=context)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # see `_end_late`
            auto_decompress=False,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        # In the order of their deadlines, since all have the same time.
        self._under_way: dict[asyncio.Task[Any] | None, float] = {}
        self._late: set[asyncio.Task[Any] | None] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._retired = False

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._watch:
            self._watch.cancel()
        await self._session.close()

    async def retire(self) -> None:
        """Close once no request is under way any more; none is to be sent from now on."""
        self._retired = True
        if not self._under_way:
            await self.close()

    async def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        task = asyncio.current_task()
        self._under_way[task] = self._loop.time() + self._settings.timeout
        if self._watch is None:
            self._watch_over()
        try:
            return await self._exchange(request)
        except asyncio.CancelledError:
            if task not in self._late or _is_cancelled_besides(task):
                raise
            raise self._translated(TimeoutError(), task) from None
        except Exception as error:
            raise self._translated(error, task) from error
        finally:
            del self._under_way[task]
            self._late.discard(task)
            self._connector.connected.discard(task)
            if self._retired and not self._under_way:
                await self.close()

    def _watch_over(self) -> None:
        grain = min(1.0, self._settings.timeout / 10)
        self._watch = self._loop.call_later(grain, self._end_late, context=contextvars.Context())

    def _end_late(self) -> None:
        """End the requests whose time is up. aiohttp's own limit costs each a fifteenth of its CPU."""
        now = self._loop.time()
        for task, deadline in self._under_way.items():
            if deadline > now:
                break
            if task and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watch = None
        if self._under_way:
            self._watch_over()

    async def _exchange(self, request: Request) -> Reply:
        async with self._session.post(
            request.url,
            data=request.body,
            headers=request.headers,
            proxy=self._proxy,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise body_too_large()
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, headers, unpacked(bytes(body), headers.get("content-encoding")))

    def _translated(self, error: Exception, task: asyncio.Task[Any] | None) -> SegStatsError:
        match error:
            case SegStatsError():
                return error
            case aiohttp.InvalidURL():
                return unusable_url()
            case aiohttp.ClientHttpProxyError():
                return NotSentError(f"could not connect: the proxy answered HTTP {error.status}")
        return failed(error, self._settings, sent=task in self._connector.connected)


def _is_cancelled_besides(task: asyncio.Task[Any] | None) -> bool:
    """Take back the watch's cancellation, and tell if there is another; Python 3.10 cannot."""
    uncancel = getattr(task, "uncancel", None)
    return uncancel is not None and uncancel() > 0
