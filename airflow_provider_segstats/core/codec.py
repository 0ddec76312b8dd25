"""The two wire formats: bytes to plain dicts and back. What the fields mean is ``api``'s business.

In XML every leaf is text (or None when empty), and the root is ``<xml>``, as in the specification's samples.
A list is its elements, with nothing around them, so whoever reads says which are lists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from airflow_provider_segstats.core.defaults import Format
from airflow_provider_segstats.core.errors import ConfigurationError, ReplyError

# What XML 1.0 cannot carry, not even escaped, and the carriage return, which would arrive as a line feed.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XML_NAME = re.compile(r"[A-Za-z_][\w.-]*")
# In UTF-8 and its like, and in UTF-16; an XML parser knows no other encoding.
_DOCTYPE = re.compile(b"<\0?!\0?D\0?O\0?C\0?T\0?Y\0?P\0?E")

MAX_MARKS = 300_000
"""Brackets and commas of a body, or ``<`` and ``=`` in XML: what bounds the values it holds, and so the time
and memory to read it. The API's own messages have one in a dozen bytes or more."""


class Codec(Protocol):
    """Turns a message (a dict) into a body and a body into a message."""

    name: Format
    mimetype: str

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        """Return the body; :class:`ConfigurationError` when the format cannot carry a value."""

    def loads(self, body: bytes, lists: Collection[str] = ()) -> dict[str, Any]:
        """Return the message; :class:`ReplyError` when the body is not one.

        ``lists`` names the elements that are lists' items in XML, where one alone would look like an object.
        """


class _Json:
    name: Format = "json"
    mimetype = "application/json"

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        try:
            return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as error:  # ValueError covers lone surrogates too
            raise ConfigurationError("a parameter cannot be written as JSON") from error

    def loads(self, body: bytes, lists: Collection[str] = ()) -> dict[str, Any]:  # noqa: ARG002 - JSON tells
        _check_marks(body, b"[", b"{", b",")
        try:
            message = json.loads(body)
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

    def loads(self, body: bytes, lists: Collection[str] = ()) -> dict[str, Any]:
        from xml.parsers.expat import ExpatError

        import xmltodict

        # No message of the API has a DOCTYPE, and nothing good comes in one.
        if _DOCTYPE.search(body):
            raise ReplyError("the answer is XML with a DOCTYPE")
        _check_marks(body, b"<", b"=")
        try:
            document = xmltodict.parse(body, force_list=tuple(lists))
        except (ExpatError, ValueError, LookupError) as error:  # LookupError: its encoding
            raise ReplyError("the answer is not XML") from error
        if "xml" not in document:
            raise ReplyError("the answer is XML without the root <xml>")
        message = document["xml"] or {}
        if not isinstance(message, dict):
            raise ReplyError("the answer's root <xml> holds no elements")
        return message


def _check_marks(body: bytes, *marks: bytes) -> None:
    """Refuse a body before it is read if it may hold too many values."""
    if sum(map(body.count, marks)) > MAX_MARKS:
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


def codec_for(content_type: str | None, body: bytes) -> Codec:
    """Return the codec a body asks for: by its Content-Type, else by its first byte.

    A type that is neither JSON's nor XML's (``text/html`` from a sloppy proxy, none at all) tells
    nothing, so the first byte decides.
    """
    mimetype = (content_type or "").split(";")[0].strip().lower()
    for codec in (JSON, XML):
        if mimetype.endswith((f"/{codec.name}", f"+{codec.name}")):
            return codec
    return XML if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" else JSON
