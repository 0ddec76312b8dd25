"""How both transports connect: what fails before anything is sent, several addresses, TLS."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import answers
from support.transports import (
    BODY,
    OK,
    RESET,
    TOKEN,
    WAYS,
    closed_port,
    failure,
    hangs_up,
    proxied,
    resets,
    send,
    settings,
    waits,
)

from airflow_provider_segstats.core.errors import CertificateError, ConfigurationError, NotSentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.servers import Server

    from airflow_provider_segstats.core.settings import Settings

# Of what fails before anything is sent; PLACE stands for host and port.
NOT_SENT = "could not connect to PLACE: the connection was closed"
NOT_SENT_RESET = "could not connect to PLACE: Connection reset by peer"
NOT_CONNECTED = "no connection to PLACE within 0.3 s"


def never_sent(way: str, of: Settings, where: str) -> str:
    """Return the text of the error that sending ends in, with PLACE for the place it should name."""
    kind, line = failure(way, of)
    assert kind is NotSentError
    return line.replace(where, "PLACE")


def place(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


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
        "could not connect to PLACE: TLS failed (wrong version number); is its schema http?",
        id="speaks no TLS",
    ),
    pytest.param(
        after_hello(b"\x15\x03\x01\x00\x02\x02\x46"),
        "could not connect to PLACE: TLS failed (tlsv1 alert protocol version)",
        id="has no common version",
    ),
]


@pytest.mark.parametrize("way", WAYS)
class TestNeverSent:
    def test_a_refused_connection(self, way: str) -> None:
        where = f"127.0.0.1:{closed_port()}"
        line = "could not connect to PLACE: Connection refused"
        assert never_sent(way, settings(f"http://{where}"), where) == line

    def test_an_address_of_ipv6_is_named_as_a_url_has_it(self, way: str) -> None:
        of = settings(f"http://[::1]:{closed_port()}")
        assert failure(way, of)[1].startswith(f"could not connect to {of.base_url.split('/')[2]}: ")

    def test_an_unknown_host_name(self, way: str) -> None:
        with pytest.raises(socket.gaierror) as resolved:
            socket.getaddrinfo("nowhere.invalid", 80)
        line = f"could not connect to PLACE: {resolved.value.strerror}"
        for scheme, port in (("http", 80), ("https", 443)):
            of = settings(f"{scheme}://nowhere.invalid")
            assert never_sent(way, of, f"nowhere.invalid:{port}") == line

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_connection_that_does_not_come_about(self, way: str, full_port: int, scheme: str) -> None:
        where = f"127.0.0.1:{full_port}"
        assert never_sent(way, settings(f"{scheme}://{where}", timeout=0.3), where) == NOT_CONNECTED

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_several_dead_addresses(
        self, way: str, full_port: int, resolve: Callable[..., None], scheme: str
    ) -> None:
        resolve(lambda: [(f"127.0.0.{last}", full_port) for last in (1, 2, 3)])
        of = settings(f"{scheme}://three.invalid:1", timeout=0.3)
        assert never_sent(way, of, "three.invalid:1") == NOT_CONNECTED

    def test_a_dead_address_and_one_that_refuses(
        self, way: str, full_port: int, resolve: Callable[..., None]
    ) -> None:
        port = closed_port()
        resolve(lambda: [("127.0.0.1", port), ("127.0.0.1", full_port)])
        of = settings("http://two.invalid", timeout=0.3)
        assert never_sent(way, of, "two.invalid:80") == NOT_CONNECTED

    def test_after_an_address_that_is_dead_the_next_one_is_tried(
        self, way: str, full_port: int, serve: Callable[..., Server], resolve: Callable[..., None]
    ) -> None:
        server = serve(answers(OK))
        resolve(lambda: [("127.0.0.1", full_port), ("127.0.0.1", server.port)])
        assert send(way, settings("http://two.invalid", timeout=60))[0].body == BODY

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
        of = settings("http://slow.invalid", timeout=0.3)
        assert never_sent(way, of, "slow.invalid:80") == NOT_CONNECTED
        assert server.requests == []

    @pytest.mark.parametrize(("behave", "line"), TLS_FAILURES)
    def test_a_server_that_does_not_finish_the_handshake(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        line: str,
    ) -> None:
        server = serve(behave)
        of = settings(f"https://{place(server)}", timeout=0.3 if line is NOT_CONNECTED else 60)
        assert never_sent(way, of, place(server)) == line

    @pytest.mark.parametrize(("behave", "line"), TLS_FAILURES)
    def test_a_server_that_does_not_finish_the_handshake_behind_a_proxy(
        self,
        way: str,
        serve: Callable[..., Server],
        behave: Callable[[socket.socket, Server], None],
        line: str,
    ) -> None:
        def tunnel(connection: socket.socket, server: Server) -> None:
            server.read(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            behave(connection, server)

        proxy = serve(tunnel)
        of = proxied(proxy.url, "https", timeout=0.3 if line is NOT_CONNECTED else 60)
        assert never_sent(way, of, f"nowhere.invalid:443 by way of the proxy {place(proxy)}") == line
        assert len(proxy.requests) == 1

    @pytest.mark.parametrize(
        ("behave", "line"),
        [
            pytest.param(hangs_up, NOT_SENT, id="closes"),
            pytest.param(resets, NOT_SENT_RESET, id="resets"),
            pytest.param(waits, NOT_CONNECTED, id="takes too long"),
            pytest.param(
                answers(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
                "could not connect to PLACE: the proxy speaks no HTTP",
                id="speaks no HTTP",
            ),
            # The status and not "the connection was closed", which would send the reader to the wrong place.
            *(
                pytest.param(
                    answers(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status),
                    f"could not connect to PLACE: the proxy answered HTTP {status}",
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
        line: str,
    ) -> None:
        proxy = serve(behave)
        of = proxied(proxy.url, "https", timeout=0.3 if line is NOT_CONNECTED else 60)
        assert never_sent(way, of, f"nowhere.invalid:443 by way of the proxy {place(proxy)}") == line
        [request] = proxy.requests
        assert request.startswith(b"CONNECT nowhere.invalid:443 HTTP/1.")
        assert TOKEN.encode() not in request

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_refuses_connections(self, way: str, scheme: str) -> None:
        proxy, port = f"127.0.0.1:{closed_port()}", {"http": 80, "https": 443}[scheme]
        of = proxied(f"http://{proxy}", scheme)
        line = "could not connect to PLACE: Connection refused"
        assert never_sent(way, of, f"nowhere.invalid:{port} by way of the proxy {proxy}") == line

    @pytest.mark.parametrize(
        "name", ["*.invalid", "a_b%.invalid", "b\u00fccher.invalid", "a|b.invalid", "<a>.invalid"]
    )
    def test_a_host_that_nobody_finds_is_an_error_of_the_package(self, way: str, name: str) -> None:
        with pytest.raises((NotSentError, ConfigurationError)):
            send(way, settings(f"http://{name}:1"))


# --- TLS


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
