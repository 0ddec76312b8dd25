"""A reply's head as servers write it, made plain for http.client, which stops at what it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http.client import RemoteDisconnected
from typing import BinaryIO

from airflow_provider_segstats.core.transport import LONGEST_LINE, unreadable

_MOST_LINES = 100  # as http.client takes them
_STATUS_LINE = re.compile(rb"HTTP/\d+(?:\.\d+)?[ \t]+([1-9]\d\d)(?!\d).*")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = (b"content-length", b"transfer-encoding")


def plain_head(file: BinaryIO) -> bytes:
    """Read the head of a final reply, and return what matters of it.

    Interim replies are passed over, and so are lines that are no headers. Raises a :class:`NoAnswerError`
    where it is no head of HTTP, or does not tell where the body ends.
    """
    status, lines = b"1", []
    while status[:1] == b"1" and status != b"101":  # after 101 no other comes
        status, *lines = _lines(file)
    headers = list(_headers(lines))
    plain = [header for header in headers if header[0] not in _FRAMING]
    written = [b"%b: %b" % header for header in [*plain, *_framing(headers)]]
    return b"\r\n".join([b"HTTP/1.1 " + status, *written, b"", b""])


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read one head and yield its status and the lines after; empty ones before it are none of it."""
    begun = False
    for _ in range(_MOST_LINES):
        line = file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            if len(line) < LONGEST_LINE:
                raise RemoteDisconnected("amid the head")
            break
        line = line.rstrip(b"\r\n")
        if begun and not line:
            return
        if begun:
            yield line
        elif line:
            begun = True
            if not (status := _STATUS_LINE.fullmatch(line)):
                raise unreadable("it is not HTTP")
            yield status[1]
    raise unreadable("its head is too long")


def _headers(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    # A line that begins with a blank goes on with the one before, an old custom.
    for line in re.split(rb"\n(?![ \t])", b"\n".join(lines)):
        name, colon, value = line.replace(b"\n", b"").partition(b":")
        name = name.rstrip(b" \t").lower()
        if colon and _NAME.fullmatch(name):
            yield name, re.sub(rb"[\0\r]", b" ", value).strip(b" \t")


def _framing(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the one header, if any, that tells where the body ends."""
    lengths, codings = (
        {item.strip().lower() for name, value in headers if name == framing for item in value.split(b",")}
        for framing in _FRAMING
    )
    codings -= {b"", b"identity"}  # which are none
    if not all(length.isdigit() and len(length) < 19 for length in lengths):
        raise unreadable("its Content-Length is no number")
    if codings - {b"chunked"}:
        raise unreadable("it has a Transfer-Encoding that nobody asked for")
    if len(lengths) > 1:
        raise unreadable("it has several Content-Lengths")
    if lengths and codings:
        raise unreadable("it is chunked and has a Content-Length")
    yield from ((_FRAMING[0], length) for length in lengths)
    yield from ((_FRAMING[1], coding) for coding in codings)
