"""Carrying one request to the server and its reply back: requests for sync, aiohttp for async.

Both do the same: one POST, redirects not followed, TLS verified against the same certificates, the
same proxy, one limit on the whole exchange's time and on the body's size, the same errors. No error
quotes a library's message, since those hold URLs with a proxy's password in them.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from airflow_provider_segstats.errors import (
    CertificateError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    TransportError,
)
from airflow_provider_segstats.settings import Settings

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a reply's body, decompressed: some 30,000 result entries. A longer one is not read."""


def body_too_large() -> NoAnswerError:
    """Return the error for a body over :data:`MAX_BODY`."""
    return NoAnswerError(f"the answer is larger than {MAX_BODY // 2**20} MiB")


def timed_out(settings: Settings) -> NoAnswerError:
    """Return the error for a request that was sent and not answered in time."""
    return NoAnswerError(f"no whole answer within {settings.timeout:g} s")


def ca_file(settings: Settings) -> str:
    """Return the CA file to verify against; requests and aiohttp would each take another by default."""
    if not isinstance(settings.verify, str):
        return certifi.where()
    if not Path(settings.verify).is_file():
        raise ConfigurationError("extra verify names a CA file that does not exist on this machine")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(settings.verify)
    except OSError:
        raise ConfigurationError("extra verify names a file without a CA certificate") from None
    return settings.verify


def proxy_for(settings: Settings) -> str | None:
    """Return the proxy's URL: the connection's, else the environment's (``HTTPS_PROXY``, ``NO_PROXY``)."""
    if settings.proxy:
        return settings.proxy
    url = urlsplit(settings.base_url)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


def turn(settings: Settings, now: float) -> float:
    """Return the seconds until this process may send its next request, and take that turn.

    Keeps ``requests_per_second`` by spacing the requests to one server evenly; ``now`` is monotonic.
    """
    if settings.requests_per_second is None:
        return 0.0
    at = max(now, _next_turn.get(settings.base_url, now))
    _next_turn[settings.base_url] = at + 1 / settings.requests_per_second
    return at - now


_next_turn: dict[str, float] = {}


def unusable_url() -> ConfigurationError:
    """Return the error for a host that no client can turn into an address."""
    return ConfigurationError("the connection's host is not a name that can be looked up")


def phrase(error: BaseException) -> str:
    """Return what went wrong in the operating system's words, without addresses or URLs."""
    for cause in _causes(error):
        # aiohttp's own TLS errors are SSLErrors, too, without a reason: that is in their cause.
        why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
        if isinstance(cause, ssl.SSLError) and isinstance(why, str):
            return f"TLS failed ({why.replace('_', ' ').lower()})"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return "the connection was closed"


def unconnected_or_unanswered(error: Exception, *, never_connected: bool) -> TransportError:
    """Return what a failed exchange means, where the library's exception says no more.

    Two sides that cannot agree on TLS do so before any request is sent. A connection that ends amid TLS
    proves nothing: that can happen after the request, too.
    """
    tls = [cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    if any(isinstance(failure, ssl.SSLCertVerificationError) for failure in tls):
        return CertificateError(f"the server's certificate is not trusted: {phrase(error)}")
    reasons = [getattr(failure, "reason", None) or "" for failure in tls]
    refused = any(word in reason for reason in reasons for word in ("VERSION", "HANDSHAKE", "PROTOCOL"))
    if never_connected or refused:
        return NotSentError(f"could not connect: {phrase(error)}")
    return NoAnswerError(f"no whole answer: {phrase(error)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what lies behind it; urllib3 hides causes in ``reason`` and ``args``."""
    seen: list[BaseException] = []
    rest: list[object] = [error]
    while rest:
        cause = rest.pop()
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            yield cause
            rest += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
