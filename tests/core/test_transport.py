"""Both transports over real sockets: the same reply, or the same error in the same words."""

from __future__ import annotations

import asyncio
import gzip
import threading
import tracemalloc
import zlib
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import Server, answers
from support.transports import (
    BODY,
    CLOSED,
    HEAD,
    OK,
    RESET_BY_PEER,
    TOKEN,
    WAYS,
    failure,
    hangs_up,
    resets,
    send,
    settings,
    transport_for,
    waits,
)

from airflow_provider_segstats.core import api
from airflow_provider_segstats.core.api import Reply
from airflow_provider_segstats.core.errors import NoAnswerError, RedirectError, SegStatsError
from airflow_provider_segstats.core.transport import MAX_BODY, aio, sync
from airflow_provider_segstats.core.transport.aio import open_transport
from airflow_provider_segstats.core.transport.sync import SyncTransport
from airflow_provider_segstats.emulator import Fault

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_provider_segstats.emulator import Emulator


def trickles(head: bytes, pieces: list[bytes]) -> Callable[[socket.socket, Server], None]:
    """Answer with a head and then, every 50 ms, one of the pieces."""

    def behave(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        connection.sendall(head)
        for piece in pieces:
            if server.over.wait(0.05):
                return
            connection.sendall(piece)
        server.said_all = True

    return behave


# --- replies


@pytest.mark.parametrize("way", WAYS)
class TestReplies:
    def test_a_reply_is_status_lower_case_headers_and_body(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        [reply] = send(way, settings(serve(answers(OK)).url))
        assert (reply.status, reply.body) == (200, BODY)
        assert reply.headers["content-type"] == "application/json"

    def test_the_request_arrives_as_it_was_made(self, way: str, serve: Callable[..., Server]) -> None:
        server = serve(answers(OK))
        send(way, settings(server.url + "/prefix", token_in="header"))
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /prefix/api/v1.1/databases/list/ HTTP/1.1"
        names = {
            line.partition(b":")[0].strip().lower(): line.partition(b":")[2].strip() for line in lines[1:]
        }
        assert names[b"content-type"] == names[b"accept"] == b"application/json"
        assert names[b"authorization"] == b"Bearer " + TOKEN.encode()
        assert names[b"user-agent"].startswith(b"airflow-provider-segstats/")
        assert names[b"content-length"] == str(len(body)).encode()
        assert b"transfer-encoding" not in names
        assert body == b'{"limit":1000,"format":"json"}'

    def test_a_netrc_does_not_replace_the_token(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server = serve(answers(OK))
        send(way, settings(server.url, token_in="header"))
        assert f"authorization: bearer {TOKEN}".encode() in server.requests[0].lower()

    @pytest.mark.parametrize("status", [b"301", b"302", b"303", b"307", b"308"])
    def test_a_redirect_is_a_reply_and_is_not_followed(
        self, way: str, serve: Callable[..., Server], status: bytes
    ) -> None:
        target = serve(answers(OK))
        location = b"Location: " + target.url.encode() + b"/\r\n"
        server = serve(
            answers(b"HTTP/1.1 " + status + b" Moved\r\n" + location + b"Content-Length: 0\r\n\r\n")
        )
        [reply] = send(way, settings(server.url))
        assert (reply.status, reply.headers["location"]) == (int(status), target.url + "/")
        assert (len(server.requests), target.requests) == (1, [])

    @pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
    def test_an_http_error_is_a_reply_too(self, way: str, emulator: Emulator, status: int) -> None:
        emulator.add_fault(Fault("http", status=status, retry_after="7", body="oops"))
        [reply] = send(way, settings(emulator.url))
        assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, b"oops", "7")

    def test_an_html_page_is_a_reply(self, way: str, emulator: Emulator) -> None:
        emulator.add_fault(Fault("html", body="<html>\u2116</html>"))
        [reply] = send(way, settings(emulator.url))
        assert reply.body == "<html>\u2116</html>".encode()

    def test_a_slow_reply_within_the_timeout_arrives(self, way: str, emulator: Emulator) -> None:
        emulator.add_fault(Fault("delay", seconds=0.2))
        assert send(way, settings(emulator.url, emulator.token))[0].status == 200

    def test_no_packed_body_is_asked_for(self, way: str, serve: Callable[..., Server]) -> None:
        server = serve(answers(OK))
        send(way, settings(server.url))
        assert server.requests[0].lower().count(b"accept-encoding:") == 1
        assert b"\r\naccept-encoding: identity\r\n" in server.requests[0].lower()

    @pytest.mark.parametrize(
        ("encoding", "packed"),
        [
            (b"gzip", gzip.compress(BODY)),
            (b"X-GZIP", gzip.compress(BODY)),
            (b"deflate", zlib.compress(BODY)),
            (b"UTF-8, gzip", gzip.compress(BODY)),
            *((name, BODY) for name in (b"identity", b"UTF-8", b"none", b"binary", b"8bit", b"json", b"")),
        ],
        ids=lambda value: value.decode() if len(value) < 12 else "",
    )
    def test_a_packed_body_arrives_plain(
        self, way: str, serve: Callable[..., Server], encoding: bytes, packed: bytes
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
        server = serve(answers(head % (encoding, len(packed)) + packed))
        assert send(way, settings(server.url))[0].body == BODY

    def test_a_body_without_a_length_ends_with_the_connection(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        assert send(way, settings(serve(answers(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)).url))[0].body == BODY

    def test_a_chunked_body_arrives_whole(self, way: str, serve: Callable[..., Server]) -> None:
        reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n10\r\n"
        server = serve(answers(reply + BODY[5:] + b"\r\n0\r\n\r\n"))
        assert send(way, settings(server.url))[0].body == BODY

    @pytest.mark.parametrize(
        "interim",
        [
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
            b"HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
        ],
    )
    def test_interim_replies_are_passed_over(
        self, way: str, serve: Callable[..., Server], interim: bytes
    ) -> None:
        [reply] = send(way, settings(serve(answers(interim + OK)).url))
        assert (reply.status, reply.body) == (200, BODY)

    def test_of_a_header_that_comes_twice_the_last_counts(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        head = b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
        assert send(way, settings(serve(answers(head)).url))[0].headers["retry-after"] == "2"

    def test_a_long_header_is_taken(self, way: str, serve: Callable[..., Server]) -> None:
        header = b"\r\nX-Policy: " + b"a" * 60_000 + b"\r\n"
        server = serve(answers(OK.replace(b"\r\n", header, 1)))
        assert len(send(way, settings(server.url))[0].headers["x-policy"]) == 60_000

    @pytest.mark.parametrize(
        ("location", "text"),
        [
            (b"http://\xff\xfe", "http://\udcff\udcfe"),
            ("http://\u00e9\u2116".encode(), "http://\u00e9\u2116"),
            (b"http://[", "http://["),
            (b"http://a:99999999", "http://a:99999999"),
            (b"", ""),
        ],
        ids=["of bytes", "beyond ASCII", "of half an address", "of a large port", "of nothing"],
    )
    def test_a_redirect_to_nonsense_is_a_reply_too(
        self, way: str, serve: Callable[..., Server], location: bytes, text: str
    ) -> None:
        head = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location
        of = settings(serve(answers(head)).url)
        [reply] = send(way, of)
        assert reply.headers["location"] == text
        with pytest.raises(RedirectError):
            api.list_databases(of).read(reply)

    def test_a_cookie_is_not_kept(self, way: str, serve: Callable[..., Server]) -> None:
        server = serve(answers(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n", 1), OK))
        assert [reply.status for reply in send(way, settings(server.url), times=2)] == [200, 200]
        assert [b"cookie:" in request.lower() for request in server.requests] == [False, False]


# --- errors

LATE = (NoAnswerError, "no whole answer within 1 s")
TOO_LARGE = (NoAnswerError, "the answer is larger than 0 MiB")
NOT_UNPACKED = (NoAnswerError, "no whole answer: it cannot be unpacked")
NOT_ASKED_FOR = (NoAnswerError, "no whole answer: it is packed in a way that nobody asked for")
MANY = [b" "] * 40  # of 50 ms each: two seconds, where a third of one is allowed


def packed(encoding: bytes, body: bytes) -> bytes:
    return HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (encoding, len(body), body)


@pytest.mark.parametrize("way", WAYS)
class TestErrors:
    @pytest.mark.parametrize(
        ("behave", "error"),
        [
            pytest.param(waits, LATE, id="answers after the timeout"),
            pytest.param(
                trickles(HEAD + b"Content-Length: 40\r\n\r\n", MANY),
                LATE,
                id="trickles its body of known length",
            ),
            pytest.param(
                trickles(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", [b"1\r\n \r\n"] * 40 + [b"0\r\n\r\n"]),
                LATE,
                id="trickles its chunked body",
            ),
            pytest.param(
                trickles(HEAD + b"Connection: close\r\n\r\n", MANY), LATE, id="trickles its body to the end"
            ),
            pytest.param(
                trickles(b"HTTP/1.1 200 OK\r\n", [b"X-A: b\r\n"] * 40 + [b"Content-Length: 0\r\n\r\n"]),
                LATE,
                id="trickles its headers",
            ),
            pytest.param(
                trickles(b"", [b"HTTP/1.1 102 Processing\r\n\r\n"] * 40),
                LATE,
                id="trickles interim replies",
            ),
            pytest.param(resets, RESET_BY_PEER, id="resets the connection"),
            pytest.param(hangs_up, CLOSED, id="closes without an answer"),
            pytest.param(answers(b"HTTP/1.1 100 Continue\r\n\r\n"), CLOSED, id="goes no further than 100"),
            pytest.param(answers(HEAD + b"Content-Length: 99\r\n\r\n" + BODY), CLOSED, id="stops halfway"),
            pytest.param(
                answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\n99\r\n" + BODY),
                CLOSED,
                id="stops in a chunk",
            ),
            pytest.param(answers(packed(b"gzip", b"notgz!")), NOT_UNPACKED, id="sends broken gzip"),
            pytest.param(
                answers(packed(b"gzip", gzip.compress(BODY)[:-9])), NOT_UNPACKED, id="sends half of a gzip"
            ),
            pytest.param(answers(packed(b"br", BODY)), NOT_ASKED_FOR, id="packs with brotli"),
            pytest.param(answers(packed(b"gzip, gzip", BODY)), NOT_ASKED_FOR, id="packs twice"),
        ],
    )
    def test_a_request_without_a_whole_answer_may_have_been_processed(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        error: tuple[type[SegStatsError], str],
    ) -> None:
        server = serve(behave)
        assert failure(way, settings(server.url, timeout=1 if error is LATE else 60)) == error
        assert not server.said_all  # the client did not wait for the end of it
        assert len(server.requests) == 1  # nor try again

    def test_a_client_that_waits_no_longer_hangs_up(self, way: str, serve: Callable[..., Server]) -> None:
        hung_up = threading.Event()

        def behave(connection: socket.socket, server: Server) -> None:
            try:
                trickles(HEAD + b"\r\n", [b" "] * 200)(connection, server)
            except OSError:
                hung_up.set()

        assert failure(way, settings(serve(behave).url, timeout=1)) == LATE
        assert hung_up.wait(60)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Fault("reset"), (NoAnswerError, "no whole answer: Connection reset by peer")),
            (Fault("lost_answer"), (NoAnswerError, "no whole answer: Connection reset by peer")),
            (Fault("truncate"), CLOSED),
            (Fault("hang"), LATE),
            (Fault("delay", seconds=3), LATE),
        ],
        ids=lambda value: getattr(value, "kind", ""),
    )
    def test_the_emulators_faults_end_in_the_same_errors(
        self, way: str, emulator: Emulator, fault: Fault, error: tuple[type[SegStatsError], str]
    ) -> None:
        emulator.add_fault(fault)
        assert failure(way, settings(emulator.url, timeout=1 if error is LATE else 60)) == error
        assert [entry.fault for entry in emulator.journal()] == [fault.kind]  # sent once, not repeated

    @pytest.mark.parametrize(
        "reply",
        [
            HEAD + b"Content-Length: 5000\r\n\r\n" + b" " * 5000,
            HEAD + b"Connection: close\r\n\r\n" + b" " * 5000,
            packed(b"gzip", gzip.compress(b" " * 1001)),
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000,
        ],
        ids=["of known length", "of unknown length", "packed", "of a redirect"],
    )
    def test_a_body_that_is_too_large_is_not_read(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, reply: bytes
    ) -> None:
        for module in ("", ".sync", ".aio"):
            monkeypatch.setattr(f"airflow_provider_segstats.core.transport{module}.MAX_BODY", 1000)
        assert failure(way, settings(serve(answers(reply)).url)) == TOO_LARGE

    @pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
    def test_a_bomb_takes_no_more_memory_than_the_largest_body(
        self, way: str, serve: Callable[..., Server], encoding: bytes
    ) -> None:
        bomb = zlib.compressobj(wbits=31 if encoding == b"gzip" else 15)
        body = b"".join([bomb.compress(bytes(2**20)) for _ in range(32)]) + bomb.flush()
        of = settings(serve(answers(packed(encoding, body))).url)
        tracemalloc.start()
        try:
            assert failure(way, of) == (NoAnswerError, "the answer is larger than 4 MiB")
            assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BODY
        finally:
            tracemalloc.stop()


def test_an_interrupted_exchange_leaves_the_session_usable(serve: Callable[..., Server]) -> None:
    seen = threading.Event()

    def behave(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        if len(server.requests) == 1:
            seen.set()
            server.over.wait()
        else:
            connection.sendall(OK)

    of = settings(serve(behave).url)
    request = api.list_databases(of).request

    async def use() -> Reply:
        async with transport_for(of) as transport:
            first = asyncio.create_task(transport.send(request))
            await asyncio.to_thread(seen.wait)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
            return await transport.send(request)

    assert asyncio.run(use()).body == BODY


def test_a_body_of_4_mib_is_what_both_transports_read() -> None:
    assert sync.MAX_BODY == aio.MAX_BODY == MAX_BODY == 4 * 1024 * 1024


# --- whatever comes

PIECES = st.sampled_from(
    [
        b"HTTP/1.1 ",
        b"HTTP/1.0 200 OK",
        b"200",
        b"302 Found",
        b"100 Continue",
        b"103",
        b"999999999999",
        b" ",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b": ",
        b"\r\nContent-Length: ",
        b"\r\nContent-Type: application/json",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nTransfer-Encoding: identity",
        b"\r\nContent-Length: 21",
        b"\r\nX-Odd : 1",
        b"\r\nno colon",
        b"\r\n goes on",
        b"\r\nContent-Encoding: gzip",
        b"\r\nLocation: http://[",
        b"\r\nRetry-After: ",
        b"\r\nConnection: close",
        b"\r\nSet-Cookie: ",
        b"\r\nUpgrade: h2c",
        b"-1",
        b"0",
        b"5",
        b"ffffffffffffffffffff",
        b"9" * 5000,
        b"\x00",
        b"\xff\xfe",
        b"{}",
        gzip.compress(b"{}"),
    ]
) | st.binary(max_size=5)
RAW_REPLIES = st.builds(
    lambda start, pieces: start + b"".join(pieces),
    st.sampled_from([b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\n", OK, OK[:-21], HEAD]),
    st.lists(PIECES, max_size=12),
)


@pytest.fixture(scope="module")
def exchange() -> Iterator[Callable[[bytes], list[Reply | SegStatsError]]]:
    """Give a function that takes a server's bytes and returns what each of the transports makes of them."""
    now: list[bytes] = []

    def behave(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        connection.sendall(now[-1])

    with ExitStack() as stack:
        server = stack.enter_context(Server(behave))
        of = settings(server.url)
        request = api.list_databases(of).request
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        over_requests = SyncTransport(of)

        over_aiohttp = loop.run_until_complete(open_transport(of, connections=4))

        def of_both(raw: bytes) -> list[Reply | SegStatsError]:
            now.append(raw)
            outcomes: list[Reply | SegStatsError] = []
            for call in (
                lambda: over_requests.send(request),
                lambda: loop.run_until_complete(over_aiohttp.send(request)),
            ):
                try:
                    outcomes.append(call())
                except SegStatsError as error:
                    outcomes.append(error)
            return outcomes

        yield of_both
        loop.run_until_complete(over_aiohttp.close())


def seen(outcome: Reply | SegStatsError) -> object:
    """Return what the rest of the package sees of an outcome."""
    if isinstance(outcome, SegStatsError):
        return str(outcome)
    headers = {name: outcome.headers.get(name) for name in ("content-type", "location", "retry-after")}
    return outcome.status, outcome.body, headers


@given(raw=RAW_REPLIES)
@hypothesis.settings(max_examples=hypothesis.settings.default.max_examples // 3)
def test_any_bytes_of_a_server_are_a_reply_or_an_error_of_the_package(
    exchange: Callable[[bytes], list[Reply | SegStatsError]], raw: bytes
) -> None:
    over_requests, over_aiohttp = exchange(raw)
    # What only one of them reads is left to that.
    left = isinstance(over_aiohttp, NoAnswerError) and over_aiohttp.odd
    assert left or seen(over_aiohttp) == seen(over_requests)
    for outcome in (over_requests, over_aiohttp):
        if isinstance(outcome, SegStatsError):
            assert isinstance(outcome, NoAnswerError)  # the request was sent, whatever came back
        else:
            assert (type(outcome.status), type(outcome.body)) == (int, bytes)
            with suppress(SegStatsError):
                api.list_databases(settings("http://a")).read(outcome)
