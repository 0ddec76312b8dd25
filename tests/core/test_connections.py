"""Which connection a request takes: a submit a fresh one, a look a kept one, but no dead or old one."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

import pytest
from support.servers import Server, answers
from support.transports import (
    BODY,
    CLOSED,
    OK,
    WAYS,
    after_one_answer,
    failure,
    hangs_up,
    resets,
    send,
    settings,
    transport_for,
)

from airflow_provider_segstats.core import api
from airflow_provider_segstats.core.errors import NoAnswerError
from airflow_provider_segstats.core.model import Segment
from airflow_provider_segstats.core.transport import aio
from airflow_provider_segstats.core.transport.sync import SyncTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_segstats.core.api import Reply, Request
    from airflow_provider_segstats.core.settings import Settings

UNAVAILABLE = b"HTTP/1.1 503 Drained\r\nContent-Length: 0\r\n\r\n"


def send_all(way: str, of: Settings, requests: list[Request]) -> list[Reply]:
    """Send requests one after the other over one transport."""
    if way == "sync":
        return list(map(SyncTransport(of).send, requests))

    async def send_them() -> list[Reply]:
        async with transport_for(of) as transport:
            return [await transport.send(request) for request in requests]

    return asyncio.run(send_them())


def look(of: Settings) -> Request:
    return api.task_status(of, "task_1").request


def submit(of: Settings) -> Request:
    return api.refresh_counters(of, Segment(7, 24)).request


@pytest.mark.parametrize("way", WAYS)
class TestSubmits:
    @pytest.mark.parametrize("behave", [hangs_up, resets])
    def test_a_submit_never_takes_a_connection_that_the_server_may_have_closed(
        self, way: str, serve: Callable[..., Server], behave: Callable[[socket.socket, Server], None]
    ) -> None:
        server = serve(after_one_answer(behave))
        of = settings(server.url)
        replies = send_all(way, of, [look(of), submit(of), submit(of), submit(of)])
        assert [reply.body for reply in replies] == [BODY] * 4
        assert sum(b"segments/refresh_counters" in request for request in server.requests) == 3

    def test_a_submit_that_a_fresh_connection_fails_is_not_repeated(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        server = serve(hangs_up)
        of = settings(server.url)
        with pytest.raises(NoAnswerError):
            send_all(way, of, [submit(of)])
        assert len(server.requests) == 1

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_the_connections_of_submits_resume_their_tls_session(
        self, way: str, serve: Callable[..., Server], certificates: dict[str, Path], version: ssl.TLSVersion
    ) -> None:
        resumed = []

        def behave(connection: socket.socket, server: Server) -> None:
            assert isinstance(connection, ssl.SSLSocket)
            resumed.append(connection.session_reused)
            answers(OK)(connection, server)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates["good"])
        context.maximum_version = version
        of = settings(serve(behave, context).url, verify=str(certificates["good"]))
        send_all(way, of, [submit(of)] * 3)
        assert resumed == [False, True, True]


@pytest.mark.parametrize("behave", [hangs_up, resets])
@pytest.mark.parametrize("way", WAYS)
class TestDeadConnections:
    def test_a_look_on_a_dead_connection_is_made_again_at_once(
        self, way: str, serve: Callable[..., Server], behave: Callable[[socket.socket, Server], None]
    ) -> None:
        of = settings(serve(after_one_answer(behave)).url)
        assert [reply.body for reply in send(way, of, times=3)] == [BODY] * 3

    def test_a_look_that_a_fresh_connection_fails_too_is_a_failure(
        self, way: str, serve: Callable[..., Server], behave: Callable[[socket.socket, Server], None]
    ) -> None:
        connections = []

        def dies(connection: socket.socket, server: Server) -> None:
            connections.append(connection)
            (after_one_answer(behave) if len(connections) == 1 else hangs_up)(connection, server)

        assert failure(way, settings(serve(dies).url), times=2) == CLOSED
        assert len(connections) == 2


def test_the_looks_of_an_event_loop_share_a_connection(serve: Callable[..., Server]) -> None:
    connections = []

    def behave(connection: socket.socket, server: Server) -> None:
        connections.append(connection)
        answers(OK, OK, OK)(connection, server)

    send("async", settings(serve(behave).url), times=3)
    assert len(connections) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_kept_connection_that_the_server_has_closed_is_replaced(
    way: str, serve: Callable[..., Server]
) -> None:
    server = serve(answers(OK))
    assert [reply.status for reply in send(way, settings(server.url), times=2, pause=0.1)] == [200, 200]
    assert len(server.requests) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("limit", "first"), [("USE_AFTER_FAILURE", UNAVAILABLE), ("LONGEST_USE", OK.replace(b"200", b"202"))]
)
def test_looks_leave_a_server_that_is_drained_and_one_that_is_long_in_use(
    way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, limit: str, first: bytes
) -> None:
    monkeypatch.setattr(aio, limit, 0.1)
    connections = []

    def behave(connection: socket.socket, server: Server) -> None:
        """Answer over the first connection as a server does whose name stands for another one by now."""
        connections.append(connection)
        answer = first if len(connections) == 1 else OK
        while server.read(connection):
            connection.sendall(answer)

    of = settings(serve(behave).url)
    statuses = []

    async def look_until_another_answers() -> None:
        async with transport_for(of) as transport:
            deadline = time.monotonic() + 30
            while 200 not in statuses and time.monotonic() < deadline:
                statuses.append((await transport.send(look(of))).status)
                await asyncio.sleep(0.02)

    if way == "async":
        asyncio.run(look_until_another_answers())
    else:
        statuses += [reply.status for reply in send_all(way, of, [look(of), look(of)])]
    assert statuses[-1] == 200
    assert statuses[0] != 200
