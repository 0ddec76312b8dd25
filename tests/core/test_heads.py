"""Answers that bend the rules of HTTP: harmless ones are read, others refused for what is wrong with them.

An event loop leaves them to a worker, so that a wait comes to the same end in every mode.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.servers import Server, answers
from support.transports import BODY, CLOSED, HEAD, WAYS, failure, send, settings, transport_for

from airflow_provider_segstats.core import api
from airflow_provider_segstats.core.errors import NoAnswerError
from airflow_provider_segstats.core.model import Segment

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

LENGTH = b"Content-Length: 21\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"15\r\n" + BODY + b"\r\n0\r\n\r\n"

HARMLESS = {
    "twice the same Content-Length": HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of the same Content-Length": HEAD + b"Content-Length: 21, 21\r\n\r\n" + BODY,
    "a Content-Length after a blank": HEAD + b"Content-Length : 21\r\n\r\n" + BODY,
    "Transfer-Encoding identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "Transfer-Encoding identity and a Content-Length": HEAD
    + LENGTH
    + b"Transfer-Encoding: identity\r\n\r\n"
    + BODY,
    "Transfer-Encoding of nothing": HEAD + LENGTH + b"Transfer-Encoding:\r\n\r\n" + BODY,
    "Transfer-Encoding chunked, identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "Transfer-Encoding chunked, twice": HEAD + CHUNKED + CHUNKED + b"\r\n" + CHUNKS,
    "a blank before the colon": HEAD + b"X-Odd : 1\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": HEAD + b"nonsense\r\n" + LENGTH + b"\r\n" + BODY,
    "no name": HEAD + b": 1\r\n" + LENGTH + b"\r\n" + BODY,
    "a name of two words": HEAD + b"X Odd: 1\r\n" + LENGTH + b"\r\n" + BODY,
    "a name beyond ASCII": HEAD + b"X-\xc3\xa9: 1\r\n" + LENGTH + b"\r\n" + BODY,
    "a mail's first line": HEAD + b"From me\r\n" + LENGTH + b"\r\n" + BODY,
    "a value with a zero": HEAD + b"X-Odd: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a value with a carriage return": HEAD + b"X-Odd: a\rContent-Length: 5\r\n" + LENGTH + b"\r\n" + BODY,
    "a value over two lines": HEAD + b"X-Odd: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
    "a first line that goes on": HEAD.replace(b"OK\r\n", b"OK\r\n X: 1\r\n") + LENGTH + b"\r\n" + BODY,
    "ends of lines of Unix": HEAD.replace(b"\r", b"") + b"Content-Length: 21\n\n" + BODY,
    "an empty line before": b"\r\n" + HEAD + LENGTH + b"\r\n" + BODY,
    "two blanks in the status line": HEAD.replace(b" 200", b"  200") + LENGTH + b"\r\n" + BODY,
    "HTTP/2 without a dot": HEAD.replace(b"HTTP/1.1", b"HTTP/2") + LENGTH + b"\r\n" + BODY,
    "HTTP/1.2": HEAD.replace(b"HTTP/1.1", b"HTTP/1.2") + LENGTH + b"\r\n" + BODY,
    "more than was announced": HEAD + LENGTH + b"\r\n" + BODY + b"garbage",
    "an odd interim reply": b"HTTP/1.1 103 Hints\r\nX-Odd : 1\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY,
    "an odd trailer": HEAD + CHUNKED + b"\r\n15\r\n" + BODY + b"\r\n0\r\nX Odd\r\n\r\n",
}

NO_NUMBER = "its Content-Length is no number"
NO_HTTP = "it is not HTTP"
BROKEN = "it breaks the rules of HTTP"
NOT_ASKED_FOR = "it has a Transfer-Encoding that nobody asked for"
TOO_LONG = "its head is too long"
REFUSED = {
    "two Content-Lengths": (
        HEAD + LENGTH + b"Content-Length: 20\r\n\r\n" + BODY,
        "it has several Content-Lengths",
    ),
    "a list of Content-Lengths": (
        HEAD + b"Content-Length: 21, 20\r\n\r\n" + BODY,
        "it has several Content-Lengths",
    ),
    "Content-Length and chunked": (
        HEAD + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
        "it is chunked and has a Content-Length",
    ),
    **{
        f"a Content-Length of {value!r}": (HEAD + b"Content-Length: %b\r\n\r\n" % value + BODY, NO_NUMBER)
        for value in (b"", b"+21", b"-1", b"2_1", b"21.0", b"21;", b"0x15", b"many", b"9" * 40)
    },
    **{
        f"Transfer-Encoding {coding.decode()}": (
            HEAD + b"Transfer-Encoding: %b\r\n\r\n" % coding + CHUNKS,
            NOT_ASKED_FOR,
        )
        for coding in (b"gzip", b"gzip, chunked", b"xchunked", b"chunked;q=1")
    },
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", NO_HTTP),
    "no head": (b"<html>\r\n\r\n</html>", NO_HTTP),
    "small letters": (HEAD.lower() + LENGTH + b"\r\n" + BODY, NO_HTTP),
    "a status of two digits": (HEAD.replace(b"200", b"20") + LENGTH + b"\r\n" + BODY, NO_HTTP),
    "a status of four digits": (HEAD.replace(b"200", b"2000") + LENGTH + b"\r\n" + BODY, NO_HTTP),
    "a status below 100": (HEAD.replace(b"200", b"099") + LENGTH + b"\r\n" + BODY, NO_HTTP),
    "two hundred headers": (HEAD + b"X: 1\r\n" * 200 + LENGTH + b"\r\n" + BODY, TOO_LONG),
    "a header of 70 KB": (HEAD + b"X: " + b"a" * 70_000 + b"\r\n" + LENGTH + b"\r\n" + BODY, TOO_LONG),
    "a chunk of no length": (HEAD + CHUNKED + b"\r\nzz\r\n", BROKEN),
    "a chunk of more than its length": (HEAD + CHUNKED + b"\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n", BROKEN),
}


@pytest.mark.parametrize("way", WAYS)
class TestOddAnswers:
    @pytest.mark.parametrize("raw", HARMLESS.values(), ids=HARMLESS)
    def test_a_harmless_oddity_is_read(self, way: str, serve: Callable[..., Server], raw: bytes) -> None:
        [reply] = send(way, settings(serve(stays_after(raw)).url))
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, BODY, "application/json")

    @pytest.mark.parametrize(("raw", "why"), REFUSED.values(), ids=REFUSED)
    def test_what_contradicts_itself_or_is_no_http_is_refused_for_that(
        self, way: str, serve: Callable[..., Server], raw: bytes, why: str
    ) -> None:
        of = settings(serve(answers(raw)).url)
        assert failure(way, of) == (NoAnswerError, f"no whole answer: {why}")

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"HTTP/1.1 20",
            b"HTTP/1.1 200 OK\r\nContent-Len",
            HEAD,
            HEAD + CHUNKED + b"\r\n99\r\n" + BODY,
            HEAD + CHUNKED + b"\r\n15\r\n" + BODY + b"\r\n",
            HEAD + CHUNKED + b"\r\n15\r\n" + BODY + b"\r\n0\r\n",
            HEAD + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",  # as urllib3 has it
        ],
    )
    def test_what_stops_on_the_way_is_a_closed_connection(
        self, way: str, serve: Callable[..., Server], raw: bytes
    ) -> None:
        assert failure(way, settings(serve(answers(raw)).url)) == CLOSED

    def test_a_content_type_over_two_lines_is_put_together(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json;\r\n charset=utf-8\r\n" + LENGTH
        [reply] = send(way, settings(serve(answers(head + b"\r\n" + BODY)).url))
        assert reply.headers["content-type"] == "application/json; charset=utf-8"

    def test_a_body_that_breaks_the_rules_later_on_is_refused_for_that(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        def behave(connection: socket.socket, server: Server) -> None:
            server.read(connection)
            connection.sendall(HEAD + CHUNKED + b"\r\n5\r\n" + BODY[:5] + b"\r\n")
            if not server.over.wait(0.1):
                connection.sendall(b"zz\r\n")

        of = settings(serve(behave).url, timeout=3)
        assert failure(way, of) == (NoAnswerError, f"no whole answer: {BROKEN}")


def stays_after(raw: bytes) -> Callable[[socket.socket, Server], None]:
    """Answer with these bytes, and close only when the client does, but where only that ends a body."""

    def behave(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        connection.sendall(raw)
        if b"Content-Length" in raw or b"chunked" in raw:
            server.read(connection)

    return behave


def test_a_submit_of_many_is_read_as_that_of_one_is(serve: Callable[..., Server]) -> None:
    raw = HEAD + b"X-Odd : 1\r\n" + LENGTH + b"\r\n" + BODY
    of = settings(serve(answers(raw)).url)

    async def on_a_loop(call: api.Call[object]) -> bytes:
        async with transport_for(of) as transport:
            return (await transport.send(call.request)).body

    with pytest.raises(NoAnswerError) as caught:
        asyncio.run(on_a_loop(api.list_databases(of)))
    assert caught.value.odd
    assert asyncio.run(on_a_loop(api.refresh_counters(of, Segment(7, 24)))) == BODY
