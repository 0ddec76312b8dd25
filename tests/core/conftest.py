"""Servers for the tests of the transports, and an environment that names no proxy."""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.servers import Server, answers, make_certificate
from support.transports import OK

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as running:
        yield lambda behave, tls=None: running.enter_context(Server(behave, tls))


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
