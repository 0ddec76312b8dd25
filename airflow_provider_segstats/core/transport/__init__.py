"""Carrying one request to the server and its reply back: requests for sync, aiohttp for async.

Both do the same: one POST, redirects not followed, TLS verified against the same certificates, the
same proxy, one limit on the whole exchange's time and on the body's size, the same errors. No error
quotes a library's message, since those hold URLs with a proxy's password in them.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from airflow_provider_segstats.core.errors import (
    CertificateError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    TransportError,
)
from airflow_provider_segstats.core.settings import Settings, usable_proxy

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a reply's body, unpacked: some 2,000 to 20,000 result entries. A longer one is not read."""


def body_too_large() -> NoAnswerError:
    """Return the error for a body over :data:`MAX_BODY`."""
    return NoAnswerError(f"the answer is larger than {MAX_BODY // 2**20} MiB")


def unpacked(body: bytes, encoding: str | None) -> bytes:
    """Return a body without its Content-Encoding.

    The request asks for none. The libraries' own unpacking knows different encodings on each machine, and
    not every version of it has a bound.
    """
    if encoding is None or encoding.lower() in {"", "identity"}:
        return body
    if encoding.lower() not in {"gzip", "x-gzip", "deflate"}:
        raise NoAnswerError("no whole answer: it is packed in a way that nobody asked for")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # takes both
    try:
        plain = unpacker.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise NoAnswerError("no whole answer: it cannot be unpacked") from None
    if len(plain) > MAX_BODY:
        raise body_too_large()
    if not unpacker.eof:
        raise NoAnswerError("no whole answer: it cannot be unpacked")
    return plain


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return what to verify servers with: the connection's CA file or certifi's, no variable's."""
    if not settings.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if settings.verify is True:
        return ssl.create_default_context(cafile=certifi.where())
    if not Path(settings.verify).is_file():
        raise ConfigurationError("extra verify names a CA file that does not exist on this machine")
    try:
        return ssl.create_default_context(cafile=settings.verify)
    except OSError:
        raise ConfigurationError("extra verify names a file without a CA certificate") from None


def proxy_for(settings: Settings) -> str | None:
    """Return the proxy's URL: the connection's, else the environment's (``HTTPS_PROXY``, ``NO_PROXY``)."""
    if settings.proxy:
        return settings.proxy
    url = urlsplit(settings.base_url)
    proxy = None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)
    if not proxy:
        return None
    if "://" not in proxy:  # as others read these variables
        proxy = f"http://{proxy}"
    if not usable_proxy(proxy):
        raise ConfigurationError(
            f"the environment's {url.scheme}_proxy is not a URL such as http://user:password@proxy:3128; set "
            "the connection's extra proxy, or no_proxy"
        )
    return proxy


def turn(settings: Settings, now: float) -> float:
    """Return the seconds until this process may send its next request, and take that turn.

    Keeps ``requests_per_second`` by spacing the requests to one server evenly; ``now`` is monotonic.
    """
    if settings.requests_per_second is None:
        return 0.0
    at = max(now, _next_turn.get(settings.base_url, now))
    _next_turn[settings.base_url] = at + 1 / settings.requests_per_second
    return at - now


def until_turn(settings: Settings, now: float) -> float:
    """Return the seconds until this process may send its next request, and leave the turn to others."""
    if settings.requests_per_second is None:
        return 0.0
    return max(0.0, _next_turn.get(settings.base_url, now) - now)


_next_turn: dict[str, float] = {}


def unusable_url() -> ConfigurationError:
    """Return the error for a host that no client can turn into an address."""
    return ConfigurationError("the connection's host is not a name that can be looked up")


def failed(error: Exception, settings: Settings, *, sent: bool) -> TransportError:
    """Return what an exchange means that ended in a library's error.

    ``sent``: whether any of the request may have left, for which a connection must stand, with TLS and a
    proxy's tunnel. The transports know it as a fact; the libraries' errors do not tell.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return CertificateError(f"the server's certificate is not trusted: {_phrase(causes)}")
    late = any(isinstance(cause, TimeoutError | asyncio.TimeoutError) for cause in causes)
    why = f" within {settings.timeout:g} s" if late else f": {_phrase(causes)}"
    if sent:
        return NoAnswerError(f"no whole answer{why}")
    return NotSentError(f"{'no connection' if late else 'could not connect'}{why}")


def _phrase(causes: list[BaseException]) -> str:
    """Return what went wrong in the operating system's words, without addresses or URLs."""
    for cause in causes:
        # aiohttp's own TLS errors are SSLErrors, too, without a reason: that is in their cause.
        why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
        mere_end = isinstance(cause, ssl.SSLEOFError)
        if isinstance(cause, ssl.SSLError) and isinstance(why, str) and not mere_end:
            return f"TLS failed ({why.replace('_', ' ').lower()})"
    for cause in causes:
        if isinstance(cause, ssl.SSLError):  # an OSError, with OpenSSL's numbers
            continue
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return "the connection was closed"


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
