"""Sending over both transports, to servers that do badly: what the tests of the transports share."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats.core import api
from airflow_provider_segstats.core.errors import NoAnswerError, SegStatsError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport.aio import AsyncTransport, open_transport
from airflow_provider_segstats.core.transport.sync import SyncTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from support.servers import Server

    from airflow_provider_segstats.core.api import Reply

WAYS = ("sync", "async")
"""A look from a worker, and one from an event loop, which leaves what it cannot read to a worker."""

TOKEN = "s3cret-t0ken"
PASSWORD = "pr0xy-passw0rd"
BODY = b'{"data":[],"error":0}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n" + BODY
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RESET = struct.pack("ii", 1, 0)
CLOSED = (NoAnswerError, "no whole answer: the connection was closed")
RESET_BY_PEER = (NoAnswerError, "no whole answer: Connection reset by peer")


def settings(url: str, token: str = TOKEN, **extra: Any) -> Settings:
    return Settings.from_fields(host=url, password=token, extra={"timeout": 5, **extra})


@asynccontextmanager
async def transport_for(of: Settings) -> AsyncIterator[AsyncTransport]:
    transport = await open_transport(of, connections=4)
    try:
        yield transport
    finally:
        await transport.close()


def send(way: str, of: Settings, times: int = 1, pause: float = 0.0) -> list[Reply]:
    """Send the same look so many times over one transport."""
    request = api.list_databases(of).request
    over_requests = SyncTransport(of)
    if way == "sync":
        return [over_requests.send(request) for _ in range(times)]

    async def send_all() -> list[Reply]:
        async with transport_for(of) as shared:
            replies = []
            for _ in range(times):
                await asyncio.sleep(pause)
                try:
                    replies.append(await shared.send(request))
                except NoAnswerError as error:
                    if not error.odd:
                        raise
                    replies.append(await asyncio.to_thread(over_requests.send, request))
            return replies

    return asyncio.run(send_all())


def failure(way: str, of: Settings, times: int = 1) -> tuple[type[SegStatsError], str]:
    """Return the class and the text of the error that sending ends in; no secret is in it."""
    with pytest.raises(SegStatsError) as caught:
        send(way, of, times)
    error = caught.value
    for secret in (TOKEN, PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode()):
        assert secret not in f"{error} {error!r} {error.to_dict()}"
    return type(error), str(error)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def resets(connection: socket.socket, server: Server) -> None:
    server.read(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def waits(connection: socket.socket, server: Server) -> None:
    server.read(connection)
    server.over.wait()


def hangs_up(connection: socket.socket, server: Server) -> None:
    server.read(connection)


def after_one_answer(
    behave: Callable[[socket.socket, Server], None],
) -> Callable[[socket.socket, Server], None]:
    """Answer the first request of a connection, and behave as told at the second."""

    def answer(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        connection.sendall(OK)
        behave(connection, server)

    return answer


def with_password(url: str) -> str:
    """Return a proxy's URL with a user and a password in it."""
    return url.replace("://", f"://me:{PASSWORD}@")


def proxied(url: str, scheme: str = "http", **extra: Any) -> Settings:
    """Return settings for a server that can only be reached by this proxy."""
    return settings(f"{scheme}://nowhere.invalid", proxy=with_password(url), **extra)
