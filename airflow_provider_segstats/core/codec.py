"""The two wire formats: bytes to plain dicts and back. What the fields mean is ``api``'s business.

In XML every leaf is text (or None when empty), and the root is ``<xml>``, as in the specification's samples.
A list is its elements, with nothing around them, so whoever reads says which are lists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from airflow_provider_segstats.core.defaults import Format
from airflow_provider_segstats.core.errors import ConfigurationError, ReplyError

# What XML 1.0 cannot carry, not even escaped, and the carriage return, which would arrive as a line feed.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XML_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_CHARSET = re.compile(r"""\bcharset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE | re.ASCII)
_PROLOG = re.compile(rb"""<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']""")
# Encodings to Python, but of no text that a server sends; some take very long.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw_unicode_escape", "unicode_escape"})
# What may stand before a message: byte order marks and blanks, in UTF-16 and UTF-32 with zeros between them.
_BEFORE = b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"

MAX_MARKS = 300_000
"""Brackets and commas of a body, or ``<`` and ``=`` in XML: what bounds the values it holds, and so the time
and memory to read it. The API's own messages have one in a dozen bytes or more."""


class Codec(Protocol):
    """Turns a message (a dict) into a body and a body into a message."""

    name: Format
    mimetype: str

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        """Return the body; :class:`ConfigurationError` when the format cannot carry a value."""

    def loads(self, body: bytes, lists: Collection[str] = (), charset: str = "utf-8") -> dict[str, Any]:
        """Return the message; :class:`ReplyError` when the body is not one.

        ``lists`` names the elements that are lists' items in XML, where one alone would look like an object.
        ``charset`` is what the body is said to be in.
        """


class _Json:
    name: Format = "json"
    mimetype = "application/json"

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        try:
            return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as error:  # ValueError covers lone surrogates too
            raise ConfigurationError("a parameter cannot be written as JSON") from error

    def loads(
        self,
        body: bytes,
        lists: Collection[str] = (),  # noqa: ARG002 - JSON tells them
        charset: str = "utf-8",
    ) -> dict[str, Any]:
        return _first_message(body, charset, self._read, "the answer is not JSON")

    def _read(self, text: str) -> dict[str, Any]:
        _check_marks(text, "[", "{", ",")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReplyError("the answer is not JSON") from error
        if not isinstance(message, dict):
            raise ReplyError("the answer is not a JSON object")
        return message


class _Xml:
    name: Format = "xml"
    mimetype = "application/xml"

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        import xmltodict

        # The samples have no prolog and no self-closing elements.
        text: str = xmltodict.unparse(
            {"xml": _xml_value(message)}, full_document=False, short_empty_elements=False
        )
        return text.encode()

    def loads(self, body: bytes, lists: Collection[str] = (), charset: str = "utf-8") -> dict[str, Any]:
        return _first_message(body, charset, partial(self._read, tuple(lists)), "the answer is not XML")

    def _read(self, lists: tuple[str, ...], text: str) -> dict[str, Any]:
        from xml.parsers.expat import ExpatError

        import xmltodict

        # No message of the API has a DOCTYPE, and nothing good comes in one.
        if "<!DOCTYPE" in text:
            raise ReplyError("the answer is XML with a DOCTYPE")
        _check_marks(text, "<", "=")
        try:
            document = xmltodict.parse(text, force_list=lists)  # as text: its encoding does not count
        except (ExpatError, ValueError) as error:
            raise ReplyError("the answer is not XML") from error
        if "xml" not in document:
            raise ReplyError("the answer is XML without the root <xml>")
        message = document["xml"] or {}
        if not isinstance(message, dict):
            raise ReplyError("the answer's root <xml> holds no elements")
        return message


def _first_message(
    body: bytes, charset: str, read: Callable[[str], dict[str, Any]], otherwise: str
) -> dict[str, Any]:
    """Return the message of the first text that the body may be and that is one."""
    first: ReplyError | None = None
    for text in _texts(body, charset):
        try:
            return read(text)
        except ReplyError as error:
            first = first or error
    raise first or ReplyError(otherwise)


def _texts(body: bytes, charset: str) -> Iterator[str]:
    """Yield the texts that a body may be, the likeliest first, each without what readers refuse at its start.

    Bytes that can be read as UTF-8 are hardly ever anything else, so that goes first, whatever was declared
    (or UTF-16 or UTF-32, where a mark or zeros show it), then the declared charset and the prolog's.
    """
    prolog = _PROLOG.search(body, 0, 200)
    declared = [charset, prolog[1].decode()] if prolog else [charset]
    names = [json.detect_encoding(body), *declared]
    for name in dict.fromkeys(name.lower().replace("-", "_") for name in names):
        if name not in _NO_CHARSETS:
            with suppress(LookupError, ValueError):  # no charset; not the body's
                yield body.decode(name, "surrogatepass").lstrip("\ufeff \t\r\n")


def _check_marks(text: str, *marks: str) -> None:
    """Refuse a body before it is read if it may hold too many values."""
    if sum(map(text.count, marks)) > MAX_MARKS:
        raise ReplyError("the answer holds too many values")


def _xml_value(value: Any) -> Any:
    """Return ``value`` as xmltodict writes it faithfully; refuse what XML cannot hold."""
    if isinstance(value, Mapping):
        for name in value:
            if not (isinstance(name, str) and _XML_NAME.fullmatch(name)):
                raise ConfigurationError(f"the parameter name {name!r} cannot be an XML element")
        return {name: _xml_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_xml_value(item) for item in value] or None  # an empty array is an empty element
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        if _NOT_XML.search(value):
            raise ConfigurationError("a parameter or the token holds a character that XML cannot carry")
        return value
    raise ConfigurationError(f"a parameter of type {type(value).__name__} cannot be written as XML")


JSON: Codec = _Json()
XML: Codec = _Xml()
CODECS: dict[Format, Codec] = {"json": JSON, "xml": XML}


def read_message(content_type: str | None, body: bytes, lists: Collection[str] = ()) -> dict[str, Any]:
    """Return the message of a body, in whichever format and charset it is; :class:`ReplyError` if in none.

    What its Content-Type says goes first; where that does not hold, the body speaks for itself.
    """
    declared = _CHARSET.search(content_type or "")
    charset = declared[1] if declared else "utf-8"
    codec = codec_for(content_type, body)
    try:
        return codec.loads(body, lists, charset)
    except ReplyError:
        if (other := _codec_by_start(body)) is not codec:
            with suppress(ReplyError):
                return other.loads(body, lists, charset)
        raise


def codec_for(content_type: str | None, body: bytes) -> Codec:
    """Return the codec a body asks for: by its Content-Type, else by its first byte.

    A type that is neither JSON's nor XML's (``text/html`` from a sloppy proxy, none at all) tells
    nothing, so the first byte decides.
    """
    mimetype = (content_type or "").split(";")[0].strip().lower()
    for codec in (JSON, XML):
        if mimetype.endswith((f"/{codec.name}", f"+{codec.name}")):
            return codec
    return _codec_by_start(body)


def _codec_by_start(body: bytes) -> Codec:
    return XML if body.lstrip(_BEFORE)[:1] == b"<" else JSON
