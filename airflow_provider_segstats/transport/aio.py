"""The async path, over aiohttp: one pooled session for each event loop and connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from airflow_provider_segstats.api import Reply, Request
from airflow_provider_segstats.errors import NotSentError, SegStatsError
from airflow_provider_segstats.settings import Settings
from airflow_provider_segstats.transport import (
    MAX_BODY,
    body_too_large,
    ca_file,
    proxy_for,
    timed_out,
    unconnected_or_unanswered,
    unusable_url,
)

CONNECTIONS = 32
"""Sockets to one server at most; more requests than that wait for one."""


class AsyncTransport:
    """One pooled session to one server, for one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        context = ssl.create_default_context(cafile=ca_file(settings)) if settings.verify else False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A little less to connect, so that it is not by chance which of the two limits speaks.
            timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=0.95 * settings.timeout),
        )
        self._proxy = proxy_for(settings)

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        try:
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
                return Reply(response.status, headers, bytes(body))
        except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> SegStatsError:
        match error:
            case aiohttp.InvalidURL():
                return unusable_url()
            case aiohttp.ConnectionTimeoutError():
                return NotSentError(f"no connection within {self._settings.timeout:g} s")
            case TimeoutError() | asyncio.TimeoutError():
                return timed_out(self._settings)
            case aiohttp.ClientHttpProxyError():
                return NotSentError(f"could not connect: the proxy answered HTTP {error.status}")
        never_connected = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
            error, aiohttp.ClientConnectorSSLError
        )
        return unconnected_or_unanswered(error, never_connected=never_connected)


_shared: dict[tuple[asyncio.AbstractEventLoop, Settings], tuple[AsyncTransport, int]] = {}


@asynccontextmanager
async def shared_transport(settings: Settings) -> AsyncIterator[AsyncTransport]:
    """Give the event loop's transport for these settings; it closes when its last user leaves."""
    key = (asyncio.get_running_loop(), settings)
    transport, users = _shared.get(key) or (AsyncTransport(settings), 0)
    _shared[key] = (transport, users + 1)
    try:
        yield transport
    finally:
        transport, users = _shared[key]
        if users > 1:
            _shared[key] = (transport, users - 1)
        else:
            del _shared[key]
            await transport.close()
