"""Carrying one request to the server and its reply back: requests for sync, aiohttp for async.

Both do the same: one POST, redirects not followed, TLS verified against the same certificates, the
same proxy, one limit on the whole exchange's time and on the body's size, the same errors. No error
quotes a library's message, since those hold URLs with a proxy's password in them.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from urllib.parse import SplitResult, urlsplit

from airflow_provider_segstats.core.errors import (
    CertificateError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    TransportError,
)
from airflow_provider_segstats.core.settings import Settings

MAX_BODY = 4 * 1024 * 1024
"""Bytes of a reply's body, unpacked: some 2,000 to 20,000 result entries. A longer one is not read."""

LONGEST_LINE = 64 * 1024
"""Bytes of a line of a reply's head."""

PORTS = {"http": 80, "https": 443}
_PACKINGS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
"""What Content-Encoding can mean (IANA's list has some that no server of HTTP/1.1 would use besides)."""
_OF_PLAIN_HTTP = {"wrong version number", "unknown protocol", "record layer failure"}
"""What the versions of OpenSSL make of a server that speaks no TLS."""


class Exchange:
    """A request on its way: what the HTTP libraries have no place for.

    ``sent``: whether any of it may have left, for which a connection must stand, with TLS and a proxy's
    tunnel. The transports know that as a fact; the libraries' errors do not tell. ``ended``: whether the
    server has closed its side.
    """

    def __init__(self, settings: Settings) -> None:
        self.deadline = time.monotonic() + settings.timeout
        self.sent = self.ended = False

    @property
    def left(self) -> float:
        """The seconds that are left to it; raises TimeoutError when none are."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


under_way: ContextVar[Exchange] = ContextVar("under_way")
"""The exchange of the running thread or task."""


def body_too_large() -> NoAnswerError:
    """Return the error for a body over :data:`MAX_BODY`."""
    return NoAnswerError(f"the answer is larger than {MAX_BODY // 2**20} MiB")


def unpacked(body: bytes, encoding: str | None) -> bytes:
    """Return a body without its Content-Encoding.

    The request asks for none. The libraries' own unpacking knows different encodings on each machine, and
    not every version of it has a bound. What is no packing, such as UTF-8, says nothing.
    """
    packings = [name for item in (encoding or "").split(",") if (name := item.strip().lower()) in _PACKINGS]
    if not packings:
        return body
    if packings[0] not in {"gzip", "x-gzip", "deflate"} or len(packings) > 1:
        raise NoAnswerError("no whole answer: it is packed in a way that nobody asked for")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # takes all three
    try:
        plain = unpacker.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise NoAnswerError("no whole answer: it cannot be unpacked") from None
    if len(plain) > MAX_BODY:
        raise body_too_large()
    if not unpacker.eof:
        raise NoAnswerError("no whole answer: it cannot be unpacked")
    return plain


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


def unreadable(why: str) -> NoAnswerError:
    """Return the error for an answer that does not follow the rules of HTTP."""
    return NoAnswerError(f"no whole answer: {why}")


def place(settings: Settings, proxy: str | None) -> str:
    """Return where requests go, as a person would say it."""
    target, by = urlsplit(settings.base_url), urlsplit(proxy or "")
    where = _host_and_port(target)
    return f"{where} by way of the proxy {_host_and_port(by)}" if proxy else where


def _host_and_port(url: SplitResult) -> str:
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or PORTS[url.scheme]}"


def no_tunnel(where: str, why: str) -> NotSentError:
    """Return the error for a proxy that does not connect to the server at a :func:`place`."""
    return NotSentError(f"could not connect to {where}: the proxy {why}")


def failed(error: Exception, timeout: float, where: str, *, sent: bool) -> TransportError:
    """Return what an exchange means that ended in a library's error, for the server at a :func:`place`."""
    behind = list(causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in behind):
        return CertificateError(f"the server's certificate is not trusted: {_phrase(behind)}")
    late = any(isinstance(cause, TimeoutError | asyncio.TimeoutError) for cause in behind)
    why = f" within {timeout:g} s" if late else f": {_phrase(behind)}"
    if sent:
        return NoAnswerError(f"no whole answer{why}")
    return NotSentError(f"{'no connection' if late else 'could not connect'} to {where}{why}")


def _phrase(causes: list[BaseException]) -> str:
    """Return what went wrong in the operating system's words, without addresses or URLs."""
    for cause in causes:
        # aiohttp's own TLS errors are SSLErrors, too, without a reason: that is in their cause.
        why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
        mere_end = isinstance(cause, ssl.SSLEOFError)
        if isinstance(cause, ssl.SSLError) and isinstance(why, str) and not mere_end:
            why = why.replace("_", " ").lower()
            return f"TLS failed ({why}){'; is its schema http?' if why in _OF_PLAIN_HTTP else ''}"
    for cause in causes:
        if isinstance(cause, ssl.SSLError):  # an OSError, with OpenSSL's numbers
            continue
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return "the connection was closed"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what lies behind it; urllib3 hides causes in ``reason`` and ``args``."""
    seen: list[BaseException] = []
    rest: list[object] = [error]
    while rest:
        cause = rest.pop()
        if isinstance(cause, BaseException) and not any(cause is other for other in seen):
            seen.append(cause)
            yield cause
            rest += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
