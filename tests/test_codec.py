"""The two wire formats, from literal bytes to plain values and back."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.codec import JSON, XML, codec_for
from airflow_provider_segstats.errors import ConfigurationError, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.codec import Codec

METACHARACTERS = "t<&>\"'\\/]]>{}%s\u00e9\u2116\U0001f511"
XML_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n"), max_size=20)


@pytest.mark.parametrize(
    ("codec", "message", "body"),
    [
        (JSON, {"token": "t", "id": 7}, b'{"token":"t","id":7}'),
        (JSON, {"a": [], "b": None, "c": True}, b'{"a":[],"b":null,"c":true}'),
        (
            JSON,
            {"token": METACHARACTERS},
            b'{"token":"t<&>\\"\'\\\\/]]>{}%s\xc3\xa9\xe2\x84\x96\xf0\x9f\x94\x91"}',
        ),
        (XML, {"token": "t", "id": 7}, b"<xml><token>t</token><id>7</id></xml>"),
        (XML, {"a": {"b": [1, 2]}}, b"<xml><a><b>1</b><b>2</b></a></xml>"),
        (XML, {"a": "", "b": None, "c": []}, b"<xml><a></a><b></b><c></c></xml>"),
        (XML, {"a": True, "b": False}, b"<xml><a>true</a><b>false</b></xml>"),
        (
            XML,
            {"token": METACHARACTERS},
            b"<xml><token>t&lt;&amp;&gt;\"'\\/]]&gt;{}%s\xc3\xa9\xe2\x84\x96\xf0\x9f\x94\x91</token></xml>",
        ),
    ],
)
def test_a_message_is_written_as_these_bytes(codec: Codec, message: dict[str, Any], body: bytes) -> None:
    assert codec.dumps(message) == body


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (JSON, {"a": float("nan")}),
        (JSON, {"a": object()}),
        (JSON, {"a": "\ud800"}),
        (XML, {"a": "\x00"}),
        (XML, {"a": "\x1b"}),
        (XML, {"a": "\ud800"}),
        (XML, {"a": "\uffff"}),
        (XML, {"a": {"b": ["\x07"]}}),
        (XML, {"a": object()}),
        (XML, {"a b": 1}),
        (XML, {"a><b": 1}),
        (XML, {"": 1}),
        (XML, {"@a": 1}),
        (XML, {"#text": 1}),
        (XML, {1: 1}),
        (XML, {"a": float("nan")}),
    ],
)
def test_what_a_format_cannot_carry_is_refused_without_quoting_the_value(
    codec: Codec, message: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        codec.dumps(message)


@given(value=XML_TEXT)
def test_any_text_reaches_an_xml_server_as_it_was(value: str) -> None:
    # Read by another parser than ours; a carriage return aside, XML keeps all of it.
    assert (ET.fromstring(XML.dumps({"token": value}))[0].text or "") == value  # noqa: S314


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<xml><a>1</a></xml>", {"a": "1"}),
        (b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>\n<xml>\n<a>1</a>\n</xml>\n', {"a": "1"}),
        (b'<?xml version="1.0" encoding="windows-1251"?><xml><a>\xef</a></xml>', {"a": "\u043f"}),
        (b"<xml><a/></xml>", {"a": None}),
        (b"<xml><a></a></xml>", {"a": None}),
        (b"<xml/>", {}),
        (b"<xml></xml>", {}),
        (b"<xml><a>&lt;&amp;&#x2116;<![CDATA[<x>]]></a></xml>", {"a": "<&\u2116<x>"}),
        (b"<xml><channels>x</channels></xml>", {"channels": ["x"]}),
        (b"<xml><result/></xml>", {"result": [None]}),
        (b"<xml><other>1</other><other>2</other></xml>", {"other": ["1", "2"]}),
    ],
)
def test_xml_is_read_as_text_with_lists_where_the_api_has_lists(body: bytes, message: dict[str, Any]) -> None:
    assert XML.loads(body) == message


@pytest.mark.parametrize(
    ("codec", "body", "line"),
    [
        (JSON, b"", "the answer is not JSON"),
        (JSON, b"<html>", "the answer is not JSON"),
        (JSON, b'{"error": 0', "the answer is not JSON"),
        (JSON, b'\xff\xfe"', "the answer is not JSON"),
        (JSON, b"[" * 100_000, "the answer is not JSON"),
        (JSON, b"[]", "the answer is not a JSON object"),
        (JSON, b"null", "the answer is not a JSON object"),
        (XML, b"", "the answer is not XML"),
        (XML, b"<xml>", "the answer is not XML"),
        (XML, b"<xml></xml><xml></xml>", "the answer is not XML"),
        (XML, b"<xml>\x00</xml>", "the answer is not XML"),
        (XML, b'<?xml version="1.0" encoding="klingon"?><xml/>', "the answer is not XML"),
        (XML, b"<xml><a>&nowhere;</a></xml>", "the answer is not XML"),
        (XML, b"<html></html>", "the answer is XML without the root <xml>"),
        (XML, b"<xml>text</xml>", "the answer's root <xml> holds no elements"),
        (XML, b'<!DOCTYPE xml [<!ENTITY a "b">]><xml>&a;</xml>', "the answer is XML with a DOCTYPE"),
    ],
)
def test_what_is_no_message_is_a_reply_error_that_says_so(codec: Codec, body: bytes, line: str) -> None:
    with pytest.raises(ReplyError) as caught:
        codec.loads(body)
    assert str(caught.value) == line
    assert not caught.value.permanent


def test_a_document_type_is_refused_in_every_encoding() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE xml [<!ENTITY a "bbbb">]><xml><a>&a;</a></xml>'
    with pytest.raises(ReplyError):
        XML.loads(text.encode("utf-16"))


def test_deeply_nested_xml_is_a_reply_error_or_a_message() -> None:
    body = b"<xml>" + b"<a>" * 20_000 + b"</a>" * 20_000 + b"</xml>"
    with contextlib.suppress(ReplyError):
        assert isinstance(XML.loads(body), dict)


@pytest.mark.parametrize("codec", [JSON, XML])
@given(body=st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_reply_error(codec: Codec, body: bytes) -> None:
    with contextlib.suppress(ReplyError):
        assert isinstance(codec.loads(body), dict)


@pytest.mark.parametrize(
    ("content_type", "body", "name"),
    [
        ("application/json", b"<xml/>", "json"),
        ("application/json; charset=utf-8", b"<xml/>", "json"),
        ("Application/JSON", b"<xml/>", "json"),
        ("application/problem+json", b"<xml/>", "json"),
        ("application/xml", b"{}", "xml"),
        ("text/xml;charset=utf-8", b"{}", "xml"),
        ("text/html", b"{}", "json"),
        ("text/html", b"<html>", "xml"),
        ("text/plain", b" \r\n\t<xml/>", "xml"),
        (None, b"\xef\xbb\xbf<xml/>", "xml"),
        (None, b"{}", "json"),
        ("", b"", "json"),
    ],
)
def test_the_codec_follows_the_content_type_and_then_the_first_byte(
    content_type: str | None, body: bytes, name: str
) -> None:
    assert codec_for(content_type, body).name == name


@pytest.mark.parametrize("name", ["refresh_counters.request", "tasks_status.request"])
def test_the_specifications_requests_hold_the_same_in_both_formats(
    name: str, sample: Callable[[str], bytes]
) -> None:
    from_json = JSON.loads(sample(f"{name}.json"))
    assert {key: str(value) for key, value in from_json.items()} == XML.loads(sample(f"{name}.xml"))
