"""The sync path, over requests: over its adapter, with no session above that knows redirects and cookies."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import suppress
from http.client import HTTPResponse
from queue import Empty, SimpleQueue
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

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

_CHUNK = 64 * 1024


class SyncTransport:
    """One pooled session to one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if not settings.verify:  # the hook says so once; urllib3 would at every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._adapter = _Adapter(tls_context(settings))
        proxy = proxy_for(settings)
        self._proxies = {"http": proxy, "https": proxy} if proxy else None

    def close(self) -> None:
        """Close the pooled connections."""
        self._adapter.close()

    def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        outcome: SimpleQueue[Reply | Exception] = SimpleQueue()
        delivery = _Delivery()

        def exchange() -> None:
            _this_thread.delivery = delivery
            try:
                outcome.put(self._exchange(request))
            except Exception as error:  # noqa: BLE001 - raised again on the caller's thread
                outcome.put(error)

        # A socket limits the time between two reads only, and nothing limits the look-up of a name. Neither
        # must hold the caller, so the exchange has a thread to itself, to be left behind.
        threading.Thread(target=exchange, name="segstats-request", daemon=True).start()
        try:
            result = outcome.get(timeout=self._settings.timeout)
        except Empty:
            result = TimeoutError()
        if isinstance(result, Exception):
            raise self._translated(result, sent=delivery.end()) from result
        return result

    def _exchange(self, request: Request) -> Reply:
        prepared = requests.Request("POST", request.url, dict(request.headers), data=request.body).prepare()
        with self._adapter.send(
            prepared,
            stream=True,
            timeout=self._settings.timeout,
            verify=self._settings.verify,
            proxies=self._proxies,
        ) as response:
            body = bytearray()
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                body += chunk
                if len(body) > MAX_BODY:
                    raise body_too_large()
            headers = {  # in UTF-8, as aiohttp takes them
                name.lower(): value.encode("latin-1").decode(errors="surrogateescape")
                for name, value in response.raw.headers.items()
            }
            encoding = headers.get("content-encoding")
            return Reply(response.status_code, headers, unpacked(bytes(body), encoding))

    def _translated(self, error: Exception, *, sent: bool) -> SegStatsError:
        if isinstance(error, SegStatsError):
            return error
        if isinstance(error, requests.exceptions.InvalidURL):
            return unusable_url()
        if answer := re.search(r"Tunnel connection failed: (\d+)", str(error)):
            return NotSentError(f"could not connect: the proxy answered HTTP {answer[1]}")
        return failed(error, self._settings, sent=sent)


class _Delivery:
    """Whether a request was sent, as a fact: it is either begun to be sent, or ended before, never both."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._socket: socket.socket | None = None

    def begin(self, connected: socket.socket) -> None:
        """Go on to send; raises when it was ended."""
        self._socket = connected
        if not self._first.acquire(blocking=False):
            raise ConnectionAbortedError

    def end(self) -> bool:
        """Let nothing be sent from now on, hang up, and return whether anything may have been."""
        sent = not self._first.acquire(blocking=False)
        if self._socket is not None:
            with suppress(OSError, AttributeError):  # closed; or TLS within TLS, which has no shutdown
                self._socket.shutdown(socket.SHUT_RDWR)
        return sent


_this_thread = threading.local()


class _Response(HTTPResponse):
    def begin(self) -> None:
        """Pass over interim replies; http.client does so with 100 only."""
        super().begin()
        while 102 <= self.status < 200:
            self.headers = None  # type: ignore[assignment] # which is how begin() knows that it has begun
            super().begin()


class _HTTPConnection(HTTPConnection):
    response_class = _Response

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Connect in full, with TLS and through a proxy, before anything of the request may be sent."""
        if self.sock is None:
            self.connect()
        _this_thread.delivery.begin(self.sock)
        super().request(*args, **kwargs)


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=1)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(
            proxy, ssl_context=self._context, proxy_ssl_context=self._context, **options
        )
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Leave it to the context; requests would not have an ``http`` request's proxy verified."""


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
