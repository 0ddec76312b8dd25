"""Proxies, from a connection or from the environment, over both transports."""

from __future__ import annotations

import base64
import socket
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from support.servers import Server, answers
from support.transports import (
    BODY,
    OK,
    PASSWORD,
    TOKEN,
    WAYS,
    closed_port,
    failure,
    hangs_up,
    proxied,
    send,
    settings,
    with_password,
)

from airflow_provider_segstats.core.errors import (
    CertificateError,
    ConfigurationError,
    NotSentError,
    SegStatsError,
)
from airflow_provider_segstats.core.transport.proxies import goes_direct
from airflow_provider_segstats.core.transport.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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

    @pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h", "SOCKS5"])
    @pytest.mark.parametrize("variable", ["https_proxy", "all_proxy"])
    def test_a_socks_proxy_is_refused_by_name(
        self, way: str, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
    ) -> None:
        monkeypatch.setenv(variable, f"{scheme}://me:{PASSWORD}@127.0.0.1:1")
        line = (
            f"the environment's {variable} names a SOCKS proxy, and only those of HTTP are spoken to; "
            "set the connection's extra proxy, or no_proxy"
        )
        assert failure(way, settings("https://nowhere.invalid")) == (ConfigurationError, line)

    @pytest.mark.parametrize("variable", ["all_proxy", "ALL_PROXY"])
    def test_a_proxy_for_all_is_used_where_the_scheme_has_none(
        self, way: str, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, serve(answers(OK)).url)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
        assert send(way, settings("http://nowhere.invalid"))[0].body == BODY
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
        assert failure(way, settings("http://nowhere.invalid"))[0] is NotSentError

    @pytest.mark.parametrize(
        "no_proxy", ["127.0.0.1", "*", "example.com,127.0.0.1", "127.0.0.0/8,10.0.0.0/8", "::1 127.0.0.1"]
    )
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

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("behave", [hangs_up, answers(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")])
    def test_a_password_of_the_environment_is_nowhere_in_the_chain_of_an_error(
        self,
        way: str,
        serve: Callable[..., Server],
        monkeypatch: pytest.MonkeyPatch,
        behave: Callable[[socket.socket, Server], None],
        scheme: str,
    ) -> None:
        monkeypatch.setenv(f"{scheme}_proxy", with_password(serve(behave).url))
        of = settings(f"{scheme}://nowhere.invalid")
        if scheme == "http" and behave is not hangs_up:
            assert send(way, of)[0].status == 407
            return
        with pytest.raises(SegStatsError) as caught:
            send(way, of)
        error = caught.value
        assert (error.__cause__, error.__context__) == (None, None)
        assert PASSWORD not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("", "", "a.example 10.0.0.1 [::1]"),
        ("*", "a.example 10.0.0.1 [::1]", ""),
        ("a.example", "a.example A.Example. b.a.example a.example:8080", "ba.example example a.example.org"),
        (".a.example", "a.example b.a.example", "ba.example"),
        ("*.a.example", "a.example b.a.example c.b.a.example", "ba.example"),
        ("a.example.", "a.example a.example.", "example"),
        ("*svc*", "my-svc.local svc", "a.example"),
        ("a.example:8080", "a.example:8080 b.a.example:8080", "a.example"),
        ("a.example:443", "a.example", "a.example:8443"),
        ("localhost", "localhost a.localhost", "127.0.0.1 [::1]"),
        (" a.example , b.example", "a.example b.example", "c.example"),
        ("a.example b.example", "a.example b.example", "c.example"),
        (",,", "", "a.example"),
        ("127.0.0.0/8,10.0.0.0/8", "127.0.0.1 10.1.2.3 [::ffff:10.1.2.3]", "128.0.0.1 10.example [::1]"),
        ("10.1.2.3/8", "10.200.0.1", "11.0.0.1"),  # with bits beyond its mask, as people write it
        ("10.1.2.3", "10.1.2.3 10.1.2.3:8080", "10.1.2.30 1.10.1.2.3.example"),
        ("10.1.2.3:8080", "10.1.2.3:8080", "10.1.2.3"),
        ("10.*,192.168.*", "10.1.2.3 192.168.0.1", "11.0.0.1"),
        ("10.0.0.0/255.0.0.0", "10.1.2.3", "11.0.0.1"),
        ("::1", "[::1] [0:0::1]:8080", "[::2] 127.0.0.1"),
        ("[::1]", "[::1] [::1]:8080", "[::2]"),
        ("[::1]:8080", "[::1]:8080", "[::1]"),
        ("fd00::/8,[fe80::]/10", "[fd12::1] [fe80::1]", "[2001:db8::1]"),
        ("2001:DB8::/32", "[2001:db8::1]", "[2001:db9::1]"),
        ("not/a/range,10.0.0.0/99,fd00::/200,:", "", "10.0.0.1 [fd00::1] range"),
    ],
)
def test_no_proxy_is_read_as_clusters_write_it(no_proxy: str, direct: str, proxied: str) -> None:
    def hosts_that_go_directly(hosts: str) -> list[str]:
        urls = [urlsplit(f"https://{host}") for host in hosts.split()]
        return [url.netloc for url in urls if goes_direct(url.hostname or "", url.port or 443, no_proxy)]

    assert hosts_that_go_directly(direct) == direct.split()
    assert hosts_that_go_directly(proxied) == []


@pytest.mark.parametrize(
    ("url", "proxy", "speaks_tls"),
    [
        ("http://localhost:1", None, False),
        ("http://localhost:1", "http://proxy:3128", False),
        ("http://localhost:1", "https://proxy:3128", True),
        ("https://api.example", None, True),
    ],
)
def test_authorities_are_read_where_tls_is_spoken(url: str, proxy: str | None, speaks_tls: bool) -> None:
    context = tls_context(settings(url, **({"proxy": proxy} if proxy else {})))
    assert bool(context.cert_store_stats()["x509_ca"]) == speaks_tls
