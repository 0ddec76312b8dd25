"""Small servers that do badly on the wire, and certificates for them."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self


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


def answers(*replies: bytes) -> Callable[[socket.socket, Server], None]:
    """Answer the requests of a connection with these bytes, then close it."""

    def behave(connection: socket.socket, server: Server) -> None:
        for reply in replies:
            if server.read(connection):
                connection.sendall(reply)

    return behave


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
