"""What servers are verified with, the same for both HTTP clients."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import certifi

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport.proxies import proxy_for


def tls_context(settings: Settings) -> Resuming:
    """Return what to verify servers with: the connection's CA file or certifi's, no variable's."""
    context = Resuming(ssl.PROTOCOL_TLS_CLIENT)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if sys.version_info >= (3, 13):  # as ssl.create_default_context has it from then on
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if settings.verify is True:
        # Reading all those certificates takes longer than a request, so not where nobody speaks TLS.
        if any(url.lower().startswith("https:") for url in (settings.base_url, proxy_for(settings) or "")):
            context.load_verify_locations(certifi.where())
        return context
    if not Path(settings.verify).is_file():
        raise ConfigurationError("extra verify names a CA file that does not exist on this machine")
    try:
        context.load_verify_locations(settings.verify)
    except OSError:
        raise ConfigurationError("extra verify names a file without a CA certificate") from None
    return context


class Resuming(ssl.SSLContext):
    """Begins a blocking connection with the session of the last one to that host, which costs much less."""

    def __init__(self, *_: Any) -> None:
        self._sessions: dict[str | None, ssl.SSLSession | None] = {}

    def wrap_socket(self, *args: Any, server_hostname: Any = None, **options: Any) -> ssl.SSLSocket:
        """Wrap it as told; requests does not ask for a session."""
        options |= {"server_hostname": server_hostname, "session": self._sessions.get(server_hostname)}
        return super().wrap_socket(*args, **options)

    def keep(self, connection: ssl.SSLSocket) -> None:
        """Keep a connection's session; a server of TLS 1.3 hands it out with its first answer."""
        self._sessions[connection.server_hostname] = connection.session
