"""The async path, over aiohttp."""

from __future__ import annotations

import asyncio
import ssl

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


async def open_transport(settings: Settings, connections: int) -> AsyncTransport:
    """Return a transport for the running event loop, with so many sockets at most."""
    # Reading the certificates takes tens of milliseconds, which an event loop does not have.
    context = await asyncio.to_thread(_tls, settings) if settings.verify else False
    return AsyncTransport(settings, context, connections)


def _tls(settings: Settings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file(settings))


class AsyncTransport:
    """One pooled session to one server, for one event loop."""

    def __init__(self, settings: Settings, context: ssl.SSLContext | bool, connections: int) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A little less to connect, so that it is not by chance which of the two limits speaks.
            timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=0.95 * settings.timeout),
        )
        self._proxy = proxy_for(settings)
        self._in_flight = 0
        self._retired = False

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._session.close()

    async def retire(self) -> None:
        """Close once no request is under way any more; none is to be sent from now on."""
        self._retired = True
        if not self._in_flight:
            await self.close()

    async def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        self._in_flight += 1
        try:
            return await self._exchange(request)
        except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError, OSError) as error:
            raise self._translated(error) from error
        finally:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                await self.close()

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
            return Reply(response.status, response.headers, bytes(body))

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
