"""Both transports over real sockets: the same reply, or the same error in the same words."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import gzip
import ipaddress
import os
import socket
import ssl
import struct
import threading
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_segstats import api, client, flows
from airflow_provider_segstats.api import Reply
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.errors import (
    ApiError,
    CertificateError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    SegStatsError,
)
from airflow_provider_segstats.poller import shared_poller
from airflow_provider_segstats.settings import Settings
from airflow_provider_segstats.transport import aio, sync, turn
from airflow_provider_segstats.transport.aio import AsyncTransport, open_transport
from airflow_provider_segstats.transport.sync import SyncTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

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


class Server:
    """Hands each connection, with its first request read, to a function in a thread of its own."""

    def __init__(
        self, behave: Callable[[socket.socket, Server], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self._behave = behave
        self._tls = tls
        self.requests: list[bytes] = []
        self.said_all = False
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.01)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def read(self, connection: socket.socket) -> bytes:
        """Return one more request, head and body; nothing when the client has gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._receive(connection)
            if not chunk:
                return b""
            data += chunk
        head = data.partition(b"\r\n\r\n")[0].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        while len(data) < len(head) + 4 + length and (chunk := self._receive(connection)):
            data += chunk
        self.requests.append(data)
        return data

    def _receive(self, connection: socket.socket) -> bytes:
        while not self.over.is_set():
            with suppress(TimeoutError):
                return connection.recv(65536)
        return b""

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.over.is_set():
            with suppress(TimeoutError):
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.01)
        # A client that leaves early, or that does not trust us, is what some tests are about.
        with connection, suppress(OSError):
            if self._tls:
                connection.settimeout(5)
                with self._tls.wrap_socket(connection, server_side=True) as wrapped:
                    wrapped.settimeout(0.01)
                    self._behave(wrapped, self)
            else:
                self._behave(connection, self)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as running:
        yield lambda behave, tls=None: running.enter_context(Server(behave, tls))


def answers(*replies: bytes) -> Callable[[socket.socket, Server], None]:
    """Answer the requests of a connection with these bytes, then close it."""

    def behave(connection: socket.socket, server: Server) -> None:
        for reply in replies:
            if server.read(connection):
                connection.sendall(reply)

    return behave


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


def send(way: str, of: Settings, times: int = 1) -> list[Reply]:
    """Send the same request so many times over one transport."""
    request = api.list_databases(of).request
    if way == "sync":
        transport = SyncTransport(of)
        try:
            return [transport.send(request) for _ in range(times)]
        finally:
            transport.close()

    async def send_all() -> list[Reply]:
        async with transport_for(of) as shared:
            return [await shared.send(request) for _ in range(times)]

    return asyncio.run(send_all())


def failure(way: str, of: Settings) -> tuple[type[SegStatsError], str]:
    """Return the class and the text of the error that sending ends in; no secret is in it."""
    with pytest.raises(SegStatsError) as caught:
        send(way, of)
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
        assert lines[0] == b"POST /prefix/api/v1.1/databases/list HTTP/1.1"
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

    def test_a_compressed_body_arrives_plain(self, way: str, serve: Callable[..., Server]) -> None:
        packed = gzip.compress(BODY)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        assert send(way, settings(serve(answers(head + packed)).url))[0].body == BODY

    def test_a_body_without_a_length_ends_with_the_connection(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        assert send(way, settings(serve(answers(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)).url))[0].body == BODY

    def test_a_chunked_body_arrives_whole(self, way: str, serve: Callable[..., Server]) -> None:
        reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n10\r\n"
        server = serve(answers(reply + BODY[5:] + b"\r\n0\r\n\r\n"))
        assert send(way, settings(server.url))[0].body == BODY

    def test_an_interim_reply_is_passed_over(self, way: str, serve: Callable[..., Server]) -> None:
        server = serve(answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK))
        assert send(way, settings(server.url))[0].body == BODY

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


# --- errors

RESET = struct.pack("ii", 1, 0)


def resets(connection: socket.socket, server: Server) -> None:
    server.read(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def waits(connection: socket.socket, server: Server) -> None:
    server.read(connection)
    server.over.wait()


LATE = (NoAnswerError, "no whole answer within 0.3 s")
CLOSED = (NoAnswerError, "no whole answer: the connection was closed")
TOO_LARGE = (NoAnswerError, "the answer is larger than 0 MiB")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MANY = [b" "] * 40  # of 50 ms each: two seconds, where a third of one is allowed
NO_GZIP = HEAD + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\nnotgz!"


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
                resets,
                (NoAnswerError, "no whole answer: Connection reset by peer"),
                id="resets the connection",
            ),
            pytest.param(answers(b""), CLOSED, id="closes without an answer"),
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
            pytest.param(answers(NO_GZIP), CLOSED, id="sends broken gzip"),
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
            HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(b" " * 5_000_000),
        ],
        ids=["of known length", "of unknown length", "compressed"],
    )
    def test_a_body_that_is_too_large_is_not_read(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, reply: bytes
    ) -> None:
        for module in ("", ".sync", ".aio"):
            monkeypatch.setattr(f"airflow_provider_segstats.transport{module}.MAX_BODY", 1000)
        assert failure(way, settings(serve(answers(reply)).url)) == TOO_LARGE

    def test_a_refused_connection_was_never_sent(self, way: str) -> None:
        of = settings(f"http://127.0.0.1:{closed_port()}")
        assert failure(way, of) == (NotSentError, "could not connect: Connection refused")

    def test_an_unknown_host_name_was_never_sent(self, way: str) -> None:
        with pytest.raises(socket.gaierror) as resolved:
            socket.getaddrinfo("nowhere.invalid", 80)
        line = f"could not connect: {resolved.value.strerror}"
        assert failure(way, settings("http://nowhere.invalid")) == (NotSentError, line)

    @pytest.mark.parametrize(
        "name", ["*.invalid", "a_b%.invalid", "b\u00fccher.invalid", "a|b.invalid", "<a>.invalid"]
    )
    def test_a_host_that_nobody_finds_is_an_error_of_the_package(self, way: str, name: str) -> None:
        with pytest.raises((NotSentError, ConfigurationError)):
            send(way, settings(f"http://{name}:1"))


# --- TLS


def make_certificate(folder: Path, name: str, *, address: str, days: int) -> Path:
    """Write a self-signed certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.timezone.utc)
    names = [x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return file


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(folder, "good", address="127.0.0.1", days=10),
        "elsewhere": make_certificate(folder, "elsewhere", address="10.0.0.1", days=10),
        "expired": make_certificate(folder, "expired", address="127.0.0.1", days=-1),
    }


@pytest.fixture
def serve_tls(serve: Callable[..., Server], certificates: dict[str, Path]) -> Callable[[str], Server]:
    def make(name: str) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates[name])
        return serve(answers(OK), context)

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

    def test_a_server_that_speaks_no_tls_was_never_sent_the_request(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        def plain(connection: socket.socket, _: Server) -> None:
            connection.settimeout(5)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        of = settings(serve(plain).url.replace("http:", "https:"))
        assert failure(way, of) == (NotSentError, "could not connect: TLS failed (wrong version number)")

    def test_a_server_that_closes_during_the_handshake_may_have_been_sent_the_request(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        def closes(connection: socket.socket, _: Server) -> None:
            connection.settimeout(5)
            connection.recv(65536)

        of = settings(serve(closes).url.replace("http:", "https:"))
        # requests cannot tell that from a connection that ends after the request.
        assert failure(way, of)[0] is {"sync": NoAnswerError, "async": NotSentError}[way]

    def test_a_handshake_that_takes_too_long_may_have_been_sent_the_request(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        def sits(_: socket.socket, server: Server) -> None:
            server.over.wait()

        of = settings(serve(sits).url.replace("http:", "https:"), timeout=0.3)
        assert failure(way, of)[0] is {"sync": NoAnswerError, "async": NotSentError}[way]


# --- proxies


def proxied(url: str, scheme: str = "http", **extra: Any) -> Settings:
    return settings(f"{scheme}://nowhere.invalid", proxy=url.replace("://", f"://me:{PASSWORD}@"), **extra)


@pytest.mark.parametrize("way", WAYS)
class TestProxies:
    def test_a_proxy_gets_its_credentials_and_the_whole_url(
        self, way: str, serve: Callable[..., Server]
    ) -> None:
        proxy = serve(answers(OK))
        assert send(way, proxied(proxy.url))[0].body == BODY
        request = proxy.requests[0]
        assert request.startswith(b"POST http://nowhere.invalid/api/v1.1/databases/list HTTP/1.1\r\n")
        credentials = base64.b64encode(f"me:{PASSWORD}".encode())
        assert b"proxy-authorization: basic " + credentials.lower() in request.lower()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_refuses_connections_was_never_sent(self, way: str, scheme: str) -> None:
        of = proxied(f"http://127.0.0.1:{closed_port()}", scheme)
        assert failure(way, of) == (NotSentError, "could not connect: Connection refused")

    @pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway", b"403 No"])
    def test_a_proxy_that_refuses_the_tunnel_was_never_sent(
        self, way: str, serve: Callable[..., Server], status: bytes
    ) -> None:
        proxy = serve(answers(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"))
        # The status and not "the connection was closed", which would send the reader to the wrong place.
        line = f"could not connect: the proxy answered HTTP {int(status[:3])}"
        assert failure(way, proxied(proxy.url, "https")) == (NotSentError, line)
        assert proxy.requests[0].startswith(b"CONNECT nowhere.invalid:443 HTTP/1.")
        assert TOKEN.encode() not in proxy.requests[0]

    def test_a_tunnel_carries_the_request_to_a_trusted_server(
        self,
        way: str,
        serve: Callable[..., Server],
        serve_tls: Callable[[str], Server],
        certificates: dict[str, Path],
    ) -> None:
        target = serve_tls("good")

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

        proxy = serve(tunnel)
        of = settings(
            target.url, proxy=f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}", verify=str(certificates["good"])
        )
        assert send(way, of)[0].body == BODY
        assert TOKEN.encode() not in proxy.requests[0]
        assert TOKEN.encode() in target.requests[0]

    def test_a_proxy_of_the_environment_is_used(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve(answers(OK))
        monkeypatch.setenv("http_proxy", proxy.url)
        assert send(way, settings("http://nowhere.invalid"))[0].body == BODY

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
        assert drive(way, flows.one_call(api.list_databases(of)), of, lambda: of) is None

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


def test_a_body_of_16_mib_is_what_both_transports_read() -> None:
    assert sync.MAX_BODY == aio.MAX_BODY == 16 * 1024 * 1024
