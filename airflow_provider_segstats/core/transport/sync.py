"""The sync path, over requests: over its adapter, with no session above that knows redirects and cookies."""

from __future__ import annotations

import io
import re
import socket
import ssl
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from airflow_provider_segstats.core.api import Reply, Request
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import (
    MAX_BODY,
    Exchange,
    body_too_large,
    causes,
    failed,
    no_tunnel,
    place,
    under_way,
    unpacked,
    unreadable,
    unusable_url,
)
from airflow_provider_segstats.core.transport.heads import plain_head
from airflow_provider_segstats.core.transport.proxies import proxy_for
from airflow_provider_segstats.core.transport.tls import Resuming, tls_context

_CHUNK = 64 * 1024
_LONGEST_ATTEMPT = 2.0
"""Seconds that one of a host's addresses gets to take a connection while others are left to be tried."""


class SyncTransport:
    """Sends to one server, each request over a connection of its own.

    A kept one may be closed by the server just as a request leaves, and nobody could tell whether that was
    taken; between the looks of one wait there is little to be saved by keeping it. Threads may share this.
    """

    def __init__(self, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        if not settings.verify:  # the hook says so once; urllib3 would at every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._proxy = proxy_for(settings)
        self._adapter = _Adapter(context or tls_context(settings), self._proxy)

    def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one.

        All of it takes the connection's ``timeout`` at most, but for the time of looking up a name.
        """
        exchange = Exchange(self._settings)
        under_way.set(exchange)
        try:
            return self._exchange(request)
        except Exception as error:  # noqa: BLE001 - whatever a library raises for what a server sends
            failure = self._translated(error, sent=exchange.sent)
        finally:
            self._adapter.close()
        raise failure  # here, for a library's error in the chain may quote a proxy's password

    def _exchange(self, request: Request) -> Reply:
        headers = {**request.headers, "Connection": "close"}
        prepared = requests.Request("POST", request.url, headers, data=request.body).prepare()
        proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else None
        with self._adapter.send(
            prepared, stream=True, timeout=self._settings.timeout, proxies=proxies
        ) as response:
            body = bytearray()
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                body += chunk
                if len(body) > MAX_BODY:
                    raise body_too_large()
            if response.raw.chunked and under_way.get().ended:  # urllib3 does without the last line
                raise RemoteDisconnected("amid the body")
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
        where = place(self._settings, self._proxy)
        if answer := re.search(r"Tunnel connection failed: (\d+)", str(error)):
            return no_tunnel(where, f"answered HTTP {answer[1]}")
        if any(map(_is_nonsense, causes(error))):
            return unreadable("it breaks the rules of HTTP") if sent else no_tunnel(where, "speaks no HTTP")
        return failed(error, self._settings.timeout, where, sent=sent)


def _is_nonsense(error: BaseException) -> bool:
    """Whether an error means that a server wrote something else than HTTP, and not that it stopped."""
    if isinstance(error, urllib3.exceptions.InvalidChunkLength):
        return True
    return isinstance(error, HTTPException) and not isinstance(error, IncompleteRead | RemoteDisconnected)


class _InTime(io.RawIOBase):
    """What comes from a socket, as long as the exchange has time left."""

    def __init__(self, file: io.RawIOBase, connection: socket.socket) -> None:
        self._file = file
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        exchange = under_way.get()
        self._connection.settimeout(exchange.left)
        count = self._file.readinto(buffer)
        exchange.ended = not count
        self._connection.settimeout(exchange.left)  # behind a proxy's answer a TLS handshake follows
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._connection: Any = sock
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), sock))

    def begin(self) -> None:
        """Read the head, passing over interim ones, as servers write it: http.client knows the standard's."""
        file = self.fp
        self.fp = io.BufferedReader(io.BytesIO(plain_head(file)))
        super().begin()
        self.fp = file
        if isinstance(context := getattr(self._connection, "context", None), Resuming):
            context.keep(self._connection)


class _HTTPConnection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that takes it."""
        exchange = under_way.get()
        *others, last = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        for address in others:
            with suppress(OSError):
                return _connected(address, min(exchange.left, _LONGEST_ATTEMPT))
        return _connected(last, exchange.left)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Connect in full, with TLS and through a proxy, before anything of the request may be sent."""
        if self.sock is None:
            self.connect()
        exchange = under_way.get()
        self.timeout = exchange.left
        exchange.sent = True
        super().request(*args, **kwargs)


def _connected(address: tuple[Any, ...], timeout: float) -> socket.socket:
    """Return a socket connected to an address as getaddrinfo gives it."""
    family, kind, protocol, _, target = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(timeout)
        connection.connect(target)
        connection.settimeout(under_way.get().left)  # for the TLS handshake
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    pass


class _Adapter(HTTPAdapter):
    """Opens the connections above to one server, directly or by a proxy, with one TLS context for both."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None) -> None:
        super().__init__()
        # Room for as many threads as share this: where a pool is full, urllib3 warns into the task's log.
        self.init_poolmanager(1, 32, ssl_context=context)
        self._manager = self.poolmanager
        if proxy:
            self._manager = self.proxy_manager_for(proxy, ssl_context=context, proxy_ssl_context=context)

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Any:
        pool = self._manager.connection_from_url(request.url)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Leave it to the context."""
