"""Both transports over real sockets: the same reply, or the same error in the same words."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import socket
import ssl
import struct
import sys
import threading
import time
import tracemalloc
import zlib
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import Server, answers, make_certificate

from airflow_provider_segstats.core import api, client, flows
from airflow_provider_segstats.core.api import Reply
from airflow_provider_segstats.core.errors import (
    ApiError,
    CertificateError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    RedirectError,
    SegStatsError,
)
from airflow_provider_segstats.core.model import ListedDatabase
from airflow_provider_segstats.core.poller import shared_poller
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import MAX_BODY, aio, sync, turn
from airflow_provider_segstats.core.transport.aio import AsyncTransport, open_transport
from airflow_provider_segstats.core.transport.sync import SyncTransport
from airflow_provider_segstats.emulator import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from airflow_provider_segstats.emulator import Emulator

WAYS = ("sync", "async")
TOKEN = "s3cret-t0ken"
PASSWORD = "pr0xy-passw0rd"
BODY = b'{"data":[],"error":0}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n" + BODY


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as running:
        yield lambda behave, tls=None: running.enter_context(Server(behave, tls))


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
    """Send the same request so many times over one transport."""
    request = api.list_databases(of).request
    if way == "sync":
        transport = SyncTransport(of)
        try:
            return [(time.sleep(pause), transport.send(request))[1] for _ in range(times)]
        finally:
            transport.close()

    async def send_all() -> list[Reply]:
        async with transport_for(of) as shared:
            return [(await asyncio.sleep(pause), await shared.send(request))[1] for _ in range(times)]

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
        assert body == b'{"limit":1,"format":"json"}'

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
            (b"identity", BODY),
        ],
        ids=["gzip", "x-gzip", "deflate", "identity"],
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

    def test_one_connection_serves_several_requests(self, way: str, serve: Callable[..., Server]) -> None:
        connections = []

        def behave(connection: socket.socket, server: Server) -> None:
            connections.append(connection)
            answers(OK, OK, OK)(connection, server)

        send(way, settings(serve(behave).url), times=3)
        assert len(connections) == 1

    def test_a_kept_connection_that_the_server_has_closed_is_replaced(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        server = serve(answers(OK))
        assert [reply.status for reply in send(way, settings(server.url), times=2, pause=0.1)] == [200, 200]
        assert len(server.requests) == 2


# --- errors

RESET = struct.pack("ii", 1, 0)


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


LATE = (NoAnswerError, "no whole answer within 0.3 s")
CLOSED = (NoAnswerError, "no whole answer: the connection was closed")
RESET_BY_PEER = (NoAnswerError, "no whole answer: Connection reset by peer")
TOO_LARGE = (NoAnswerError, "the answer is larger than 0 MiB")
NOT_UNPACKED = (NoAnswerError, "no whole answer: it cannot be unpacked")
NOT_ASKED_FOR = (NoAnswerError, "no whole answer: it is packed in a way that nobody asked for")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
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
            pytest.param(answers(b"SSH-2.0-OpenSSH_9.6\r\n"), CLOSED, id="speaks no HTTP"),
            pytest.param(
                answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), CLOSED, id="sends a broken chunk"
            ),
            pytest.param(
                answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"),
                CLOSED,
                id="sends a chunk of negative length",
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
        assert failure(way, settings(server.url, timeout=0.3 if error is LATE else 5)) == error
        assert not server.said_all  # the client did not wait for the end of it
        assert len(server.requests) == 1  # nor try again

    @pytest.mark.parametrize(("behave", "error"), [(hangs_up, CLOSED), (resets, RESET_BY_PEER)])
    def test_a_request_over_a_kept_connection_is_not_repeated_either(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        error: tuple[type[SegStatsError], str],
    ) -> None:
        server = serve(after_one_answer(behave))
        assert failure(way, settings(server.url), times=2) == error
        assert len(server.requests) == 2

    def test_a_client_that_waits_no_longer_hangs_up(self, way: str, serve: Callable[..., Server]) -> None:
        hung_up = threading.Event()

        def behave(connection: socket.socket, server: Server) -> None:
            try:
                trickles(HEAD + b"\r\n", [b" "] * 200)(connection, server)
            except OSError:
                hung_up.set()

        assert failure(way, settings(serve(behave).url, timeout=0.3)) == LATE
        assert hung_up.wait(5)

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
        assert failure(way, settings(emulator.url, timeout=0.3 if error is LATE else 5)) == error
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


# --- never sent

NOT_SENT = (NotSentError, "could not connect: the connection was closed")
NOT_SENT_RESET = (NotSentError, "could not connect: Connection reset by peer")
NOT_CONNECTED = (NotSentError, "no connection within 0.3 s")
GetAddrInfo = list[tuple[Any, ...]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], list[tuple[str, int]]]], None]:
    """Give a function that makes each name resolve to what another function returns."""

    def set_resolver(addresses: Callable[[], list[tuple[str, int]]]) -> None:
        def getaddrinfo(*_: object, **__: object) -> GetAddrInfo:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses()]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return set_resolver


@pytest.fixture
def full_port() -> Iterator[int]:
    """Give a port that no more connections can be made to: its backlog is full, and packets get lost."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("0.0.0.0", 0))  # noqa: S104 - all of 127.0.0.0/8
        listener.listen(0)
        for _ in range(3):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        yield listener.getsockname()[1]


def after_hello(answer: bytes, behave: Callable[[socket.socket, Server], None] | None = None) -> Any:
    """Read the client's part of a TLS handshake, answer with these bytes, and behave so or hang up."""

    def shake(connection: socket.socket, server: Server) -> None:
        connection.settimeout(5)
        connection.recv(65536)
        connection.sendall(answer)
        if behave:
            behave(connection, server)

    return shake


def sits(_: socket.socket, server: Server) -> None:
    server.over.wait()


def lingers(connection: socket.socket, _: Server) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


TLS_FAILURES = [
    pytest.param(after_hello(b""), NOT_SENT, id="closes"),
    pytest.param(after_hello(b"", lingers), NOT_SENT_RESET, id="resets"),
    pytest.param(after_hello(b"", sits), NOT_CONNECTED, id="takes too long"),
    pytest.param(after_hello(b"\x16\x03\x03\x00\x7a\x02"), NOT_SENT, id="stops halfway"),
    pytest.param(
        after_hello(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        (NotSentError, "could not connect: TLS failed (wrong version number)"),
        id="speaks no TLS",
    ),
    pytest.param(
        after_hello(b"\x15\x03\x01\x00\x02\x02\x46"),
        (NotSentError, "could not connect: TLS failed (tlsv1 alert protocol version)"),
        id="has no common version",
    ),
]


@pytest.mark.parametrize("way", WAYS)
class TestNeverSent:
    def test_a_refused_connection(self, way: str) -> None:
        of = settings(f"http://127.0.0.1:{closed_port()}")
        assert failure(way, of) == (NotSentError, "could not connect: Connection refused")

    def test_an_unknown_host_name(self, way: str) -> None:
        with pytest.raises(socket.gaierror) as resolved:
            socket.getaddrinfo("nowhere.invalid", 80)
        line = f"could not connect: {resolved.value.strerror}"
        assert failure(way, settings("http://nowhere.invalid")) == (NotSentError, line)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_connection_that_does_not_come_about(self, way: str, full_port: int, scheme: str) -> None:
        of = settings(f"{scheme}://127.0.0.1:{full_port}", timeout=0.3)
        assert failure(way, of) == NOT_CONNECTED

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_several_dead_addresses(
        self, way: str, full_port: int, resolve: Callable[..., None], scheme: str
    ) -> None:
        resolve(lambda: [(f"127.0.0.{last}", full_port) for last in (1, 2, 3)])
        assert failure(way, settings(f"{scheme}://three.invalid", timeout=0.3)) == NOT_CONNECTED

    def test_a_dead_address_and_one_that_refuses(
        self, way: str, full_port: int, resolve: Callable[..., None]
    ) -> None:
        port = closed_port()
        resolve(lambda: [("127.0.0.1", port), ("127.0.0.1", full_port)])
        assert failure(way, settings("http://two.invalid", timeout=0.3)) == NOT_CONNECTED

    def test_after_an_address_that_refuses_the_next_one_is_tried(
        self, way: str, serve: Callable[..., Server], resolve: Callable[..., None]
    ) -> None:
        dead, server = closed_port(), serve(answers(OK))
        resolve(lambda: [("127.0.0.1", dead), ("127.0.0.1", server.port)])
        assert send(way, settings("http://two.invalid"))[0].body == BODY
        assert len(server.requests) == 1

    def test_a_connection_that_comes_about_too_late_carries_nothing(
        self, way: str, serve: Callable[..., Server], resolve: Callable[..., None]
    ) -> None:
        server = serve(answers(OK))

        def slowly() -> list[tuple[str, int]]:
            time.sleep(0.6)
            return [("127.0.0.1", server.port)]

        resolve(slowly)
        assert failure(way, settings("http://slow.invalid", timeout=0.3)) == NOT_CONNECTED
        for thread in threading.enumerate():
            if thread.name == "segstats-request":
                thread.join(5)
        assert server.requests == []

    @pytest.mark.parametrize(("behave", "error"), TLS_FAILURES)
    def test_a_server_that_does_not_finish_the_handshake(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        error: tuple[type[SegStatsError], str],
    ) -> None:
        url = serve(behave).url.replace("http:", "https:")
        assert failure(way, settings(url, timeout=0.3 if error is NOT_CONNECTED else 5)) == error

    @pytest.mark.parametrize(("behave", "error"), TLS_FAILURES)
    def test_a_server_that_does_not_finish_the_handshake_behind_a_proxy(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        error: tuple[type[SegStatsError], str],
    ) -> None:
        def tunnel(connection: socket.socket, server: Server) -> None:
            server.read(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            behave(connection, server)

        proxy = serve(tunnel)
        of = proxied(proxy.url, "https", timeout=0.3 if error is NOT_CONNECTED else 5)
        assert failure(way, of) == error
        assert len(proxy.requests) == 1

    @pytest.mark.parametrize(
        ("behave", "error"),
        [
            pytest.param(hangs_up, NOT_SENT, id="closes"),
            pytest.param(resets, NOT_SENT_RESET, id="resets"),
            pytest.param(waits, NOT_CONNECTED, id="takes too long"),
            pytest.param(answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), NOT_SENT, id="speaks no HTTP"),
            # The status and not "the connection was closed", which would send the reader to the wrong place.
            *(
                pytest.param(
                    answers(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status),
                    (NotSentError, f"could not connect: the proxy answered HTTP {status}"),
                    id=f"answers {status}",
                )
                for status in (302, 403, 407, 502, 503)
            ),
        ],
    )
    def test_a_proxy_that_gives_no_tunnel(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        error: tuple[type[SegStatsError], str],
    ) -> None:
        proxy = serve(behave)
        of = proxied(proxy.url, "https", timeout=0.3 if error is NOT_CONNECTED else 5)
        assert failure(way, of) == error
        [request] = proxy.requests
        assert request.startswith(b"CONNECT nowhere.invalid:443 HTTP/1.")
        assert TOKEN.encode() not in request

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_refuses_connections(self, way: str, scheme: str) -> None:
        of = proxied(f"http://127.0.0.1:{closed_port()}", scheme)
        assert failure(way, of) == (NotSentError, "could not connect: Connection refused")

    @pytest.mark.parametrize(
        "name", ["*.invalid", "a_b%.invalid", "b\u00fccher.invalid", "a|b.invalid", "<a>.invalid"]
    )
    def test_a_host_that_nobody_finds_is_an_error_of_the_package(self, way: str, name: str) -> None:
        with pytest.raises((NotSentError, ConfigurationError)):
            send(way, settings(f"http://{name}:1"))


# --- TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(folder, "good", address="127.0.0.1", days=10),
        "elsewhere": make_certificate(folder, "elsewhere", address="10.0.0.1", days=10),
        "expired": make_certificate(folder, "expired", address="127.0.0.1", days=-1),
    }


@pytest.fixture
def serve_tls(serve: Callable[..., Server], certificates: dict[str, Path]) -> Callable[..., Server]:
    def make(name: str, behave: Callable[[socket.socket, Server], None] | None = None) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates[name])
        return serve(behave or answers(OK), context)

    return make


@pytest.mark.parametrize("way", WAYS)
class TestTls:
    def test_a_self_signed_certificate_is_not_trusted(
        self, way: str, serve_tls: Callable[[str], Server]
    ) -> None:
        server = serve_tls("good")
        line = "the server's certificate is not trusted: TLS failed (self-signed certificate)"
        assert failure(way, settings(server.url)) == (CertificateError, line)
        assert server.requests == []

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("elsewhere", "ip address mismatch, certificate is not valid for '127.0.0.1'."),
            ("expired", "certificate has expired"),
        ],
    )
    def test_a_certificate_of_another_host_or_day_is_not_trusted(
        self, way: str, serve_tls: Callable[[str], Server], certificates: dict[str, Path], name: str, why: str
    ) -> None:
        of = settings(serve_tls(name).url, verify=str(certificates[name]))
        kind, line = failure(way, of)
        assert (kind, line.lower()) == (
            CertificateError,
            f"the server's certificate is not trusted: tls failed ({why})",
        )

    def test_a_ca_file_of_the_connection_is_trusted(
        self, way: str, serve_tls: Callable[[str], Server], certificates: dict[str, Path]
    ) -> None:
        of = settings(serve_tls("good").url, verify=str(certificates["good"]))
        assert send(way, of)[0].body == BODY

    def test_ca_variables_of_the_environment_do_not_count(
        self,
        way: str,
        serve_tls: Callable[[str], Server],
        certificates: dict[str, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(name, str(certificates["good"]))
        assert failure(way, settings(serve_tls("good").url))[0] is CertificateError

    def test_without_verification_any_certificate_will_do_and_nothing_warns(
        self, way: str, serve_tls: Callable[[str], Server]
    ) -> None:
        assert send(way, settings(serve_tls("expired").url, verify=False))[0].body == BODY

    def test_a_missing_ca_file_is_a_configuration_error(self, way: str, tmp_path: Path) -> None:
        of = settings("https://127.0.0.1", verify=str(tmp_path / "none.pem"))
        line = "extra verify names a CA file that does not exist on this machine"
        assert failure(way, of) == (ConfigurationError, line)

    def test_a_ca_file_that_holds_no_certificate_is_a_configuration_error(
        self, way: str, serve_tls: Callable[[str], Server], tmp_path: Path
    ) -> None:
        file = tmp_path / "ca.pem"
        file.write_text("no certificate\n")
        assert failure(way, settings(serve_tls("good").url, verify=str(file)))[0] is ConfigurationError


# --- proxies


def with_password(url: str) -> str:
    return url.replace("://", f"://me:{PASSWORD}@")


def proxied(url: str, scheme: str = "http", **extra: Any) -> Settings:
    return settings(f"{scheme}://nowhere.invalid", proxy=with_password(url), **extra)


def tunnels_to(target: Server) -> Callable[[socket.socket, Server], None]:
    """Answer CONNECT and pass bytes on to the target, whatever was asked for."""

    def tunnel(connection: socket.socket, server: Server) -> None:
        server.read(connection)
        with socket.create_connection(("127.0.0.1", target.port)) as onward:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for one in (connection, onward):
                one.settimeout(0.01)
            while not server.over.is_set():
                for here, there in ((connection, onward), (onward, connection)):
                    with suppress(TimeoutError):
                        data = here.recv(65536)
                        if not data:
                            return
                        there.sendall(data)

    return tunnel


@pytest.mark.parametrize("way", WAYS)
class TestProxies:
    def test_a_proxy_gets_its_credentials_and_the_whole_url(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        proxy = serve(answers(OK))
        assert send(way, proxied(proxy.url))[0].body == BODY
        request = proxy.requests[0]
        assert request.startswith(b"POST http://nowhere.invalid/api/v1.1/databases/list/ HTTP/1.1\r\n")
        credentials = base64.b64encode(f"me:{PASSWORD}".encode())
        assert b"proxy-authorization: basic " + credentials.lower() in request.lower()

    def test_a_tunnel_carries_the_request_to_a_trusted_server(
        self,
        way: str,
        serve: Callable[..., Server],
        serve_tls: Callable[[str], Server],
        certificates: dict[str, Path],
    ) -> None:
        target = serve_tls("good")
        proxy = serve(tunnels_to(target))
        of = settings(target.url, proxy=with_password(proxy.url), verify=str(certificates["good"]))
        assert send(way, of)[0].body == BODY
        assert TOKEN.encode() not in proxy.requests[0]
        assert TOKEN.encode() in target.requests[0]

    def test_a_proxy_is_spoken_to_in_tls_where_its_url_says_so(
        self, way: str, serve_tls: Callable[..., Server], certificates: dict[str, Path]
    ) -> None:
        proxy = serve_tls("good")
        of = proxied(proxy.url, verify=str(certificates["good"]))
        assert send(way, of)[0].body == BODY
        assert failure(way, proxied(proxy.url))[0] is CertificateError

    def test_a_tunnel_through_a_proxys_tls_works_where_python_has_tls_in_tls(
        self, way: str, serve_tls: Callable[..., Server], certificates: dict[str, Path]
    ) -> None:
        target = serve_tls("good")
        proxy = serve_tls("good", tunnels_to(target))
        of = settings(target.url, proxy=with_password(proxy.url), verify=str(certificates["good"]))
        if way == "async" and sys.version_info < (3, 11):
            assert failure(way, of)[0] is NotSentError
        else:
            assert send(way, of)[0].body == BODY

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxys_credentials_are_decoded(
        self, way: str, serve: Callable[..., Server], scheme: str
    ) -> None:
        proxy = serve(answers(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"))
        url = proxy.url.replace("://", f"://m%20e:{PASSWORD}%3A%40%C3%A9@")
        with suppress(NotSentError):
            send(way, settings(f"{scheme}://nowhere.invalid", proxy=url))
        credentials = base64.b64encode(f"m e:{PASSWORD}:@\u00e9".encode("latin-1"))
        assert b"proxy-authorization: basic " + credentials.lower() in proxy.requests[0].lower()

    def test_a_proxy_of_the_environment_is_used(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve(answers(OK, OK))
        for url in (proxy.url, proxy.url.removeprefix("http://")):
            monkeypatch.setenv("http_proxy", url)
            assert send(way, settings("http://nowhere.invalid"))[0].body == BODY

    @pytest.mark.parametrize(
        "url",
        [
            f"socks5://me:{PASSWORD}@127.0.0.1:1",
            f"socks5h://me:{PASSWORD}@127.0.0.1:1",
            f"ftp://me:{PASSWORD}@127.0.0.1:1",
            f"me:{PASSWORD}@127.0.0.1:one",
            f"http://me:{PASSWORD}@",
            f"http://me:{PASSWORD}@no where:1",
            f"http://me:{PASSWORD}\u2116@127.0.0.1:1",
            f"http://m%3Ae:{PASSWORD}@127.0.0.1:1",
        ],
    )
    def test_a_proxy_of_the_environment_that_cannot_be_used_is_a_configuration_error(
        self, way: str, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv("https_proxy", url)
        line = (
            "the environment's https_proxy is not a URL such as http://user:password@proxy:3128; set the "
            "connection's extra proxy, or no_proxy"
        )
        assert failure(way, settings("https://nowhere.invalid")) == (ConfigurationError, line)

    @pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "example.com,127.0.0.1"])
    def test_a_host_of_no_proxy_is_reached_directly(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, no_proxy: str
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("no_proxy", no_proxy)
        assert send(way, settings(serve(answers(OK)).url))[0].body == BODY

    def test_the_connections_proxy_outranks_the_environments(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("no_proxy", "*")
        assert send(way, proxied(serve(answers(OK)).url))[0].body == BODY


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


# --- the drivers over them


def drive(way: str, flow: flows.Flow[Any], of: Settings, reload: Callable[[], Settings]) -> Any:
    if way == "sync":
        return client.run(flow, of, reload=reload, pause=lambda _: None)

    loads = iter([lambda: of])

    async def load() -> Settings:
        return next(loads, reload)()

    async def drive_it() -> Any:
        async with shared_poller("here", load) as poller:
            return await poller.run(lambda _: flow)

    return asyncio.run(drive_it())


@pytest.mark.parametrize("way", WAYS)
class TestDrivers:
    def test_a_call_over_the_wire_gives_its_typed_result(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url, emulator.token)
        page = drive(way, flows.one_call(api.list_databases(of)), of, lambda: of)
        assert page.things == {1: ListedDatabase(1, "Customers")}

    def test_errors_of_reply_and_transport_name_their_endpoint(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url, token="wrong")
        emulator.add_fault(Fault("reset"))
        for kind in (NoAnswerError, ApiError):
            with pytest.raises(kind) as caught:
                drive(way, flows.one_call(api.list_databases(of)), of, lambda: of)
            assert caught.value.endpoint == "databases/list"

    def test_after_a_reload_the_new_settings_server_is_asked(
        self, way: str, make_emulator: Callable[..., Emulator]
    ) -> None:
        old, new = (settings(make_emulator(TOKEN).url) for _ in range(2))

        def flow() -> flows.Flow[Settings]:
            yield flows.Send(api.list_databases(old))
            of = yield flows.Reload()
            yield flows.Pause(0.0, failures=0)
            yield flows.Send(api.list_databases(of))
            return of

        assert drive(way, flow(), old, lambda: new) is new

    def test_a_reload_that_fails_is_thrown_into_the_flow(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url)

        def gone() -> Settings:
            raise ConfigurationError("gone")

        def flow() -> flows.Flow[str]:
            try:
                yield flows.Reload()
            except ConfigurationError as error:
                return str(error)
            return "nothing"

        assert drive(way, flow(), of, gone) == "gone"


def test_turns_space_the_requests_to_one_server_evenly() -> None:
    of = settings("http://turns.invalid", requests_per_second=4)
    same = settings("http://turns.invalid", token="other", requests_per_second=4)
    other = settings("http://other.invalid", requests_per_second=4)
    assert [turn(of, 100.0), turn(same, 100.0), turn(of, 100.0)] == [0, 0.25, 0.5]
    assert turn(other, 100.0) == 0
    assert turn(of, 100.5) == 0.25
    assert turn(of, 200.0) == 0


def test_without_a_limit_every_turn_is_now() -> None:
    of = settings("http://turns.invalid")
    assert [turn(of, 100.0) for _ in range(3)] == [0, 0, 0]


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
        stack.callback(over_requests.close)

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


@given(raw=RAW_REPLIES)
@hypothesis.settings(max_examples=hypothesis.settings.default.max_examples // 3)
def test_any_bytes_of_a_server_are_a_reply_or_an_error_of_the_package(
    exchange: Callable[[bytes], list[Reply | SegStatsError]], raw: bytes
) -> None:
    for outcome in exchange(raw):
        if isinstance(outcome, SegStatsError):
            assert type(outcome) is NoAnswerError  # the request was sent, whatever came back
        else:
            assert (type(outcome.status), type(outcome.body)) == (int, bytes)
            with suppress(SegStatsError):
                api.list_databases(settings("http://a")).read(outcome)
