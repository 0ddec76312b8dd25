"""The two wire formats, from literal bytes to plain values and back."""

from __future__ import annotations

import contextlib
import encodings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segstats.core.codec import JSON, MAX_MARKS, XML, codec_for
from airflow_provider_segstats.core.errors import ConfigurationError, ReplyError
from airflow_provider_segstats.core.transport import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.core.codec import Codec

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
def test_xml_is_read_as_text_with_lists_where_the_reader_has_lists(
    body: bytes, message: dict[str, Any]
) -> None:
    assert XML.loads(body, lists=("result", "channels")) == message


def test_an_element_is_a_list_for_one_reader_and_an_object_for_another() -> None:
    body = b"<xml><data><id>7</id></data></xml>"
    assert XML.loads(body, lists=("data",)) == {"data": [{"id": "7"}]}
    assert XML.loads(body) == {"data": {"id": "7"}}


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


def test_a_document_type_is_refused_in_every_encoding_that_can_be_read() -> None:
    refused = 0
    for encoding in sorted({*encodings.aliases.aliases.values(), "utf-16-le", "utf-16-be", "utf-8-sig"}):
        prolog = f'<?xml version="1.0" encoding="{encoding.replace("_", "-")}"?>'
        doctype = '<!DOCTYPE xml [<!ENTITY a "b">]>'
        try:
            plain = f"{prolog}<xml><a>b</a></xml>".encode(encoding)
            hostile = f"{prolog}{doctype}<xml><a>&a;</a></xml>".encode(encoding)
        except (LookupError, UnicodeError):  # no encoding of text
            continue
        line = "the answer is XML with a DOCTYPE"
        try:
            assert XML.loads(plain) == {"a": "b"}
        except ReplyError:
            line = "the answer is not XML|the answer is XML with a DOCTYPE"
        else:
            refused += 1
        with pytest.raises(ReplyError, match=f"^({line})$"):
            XML.loads(hostile)
    assert refused > 30


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype xml><xml/>",
        b"<! DOCTYPE xml><xml/>",
        b"<xml/><!DOCTYPE xml>",
        b"<xml><!DOCTYPE xml></xml>",
        b"<!DOCTYPE",
        b"<!ENTITY a 'b'><xml/>",
        b"\xef\xbb\xbf<!DOCTYPE xml><xml/>",
        '<!DOCTYPE xml SYSTEM "file:///etc/passwd"><xml/>'.encode("utf-16"),
        # EBCDIC, whose letters are others: not even its declaration can be read.
        '<?xml version="1.0" encoding="cp037"?><!DOCTYPE xml><xml/>'.encode("cp037"),
        b'<?xml version="1.0" encoding="cp037"?>' + "<!DOCTYPE xml><xml/>".encode("cp037"),
        b'<?xml version="1.0" encoding="utf-7"?>+ADw-!DOCTYPE xml><xml/>',
    ],
)
def test_what_is_like_a_document_type_is_an_error_too(body: bytes) -> None:
    with pytest.raises(ReplyError):
        XML.loads(body)


@pytest.mark.parametrize(
    ("codec", "head", "unit", "tail"),
    [
        (JSON, b'{"a":[0', b",0", b"]}"),
        (JSON, b'{"a":[0', b",[]", b"]}"),
        (JSON, b'{"a":[0', b",{}", b"]}"),
        (JSON, b'{"a":0', b',"a":0', b"}"),
        (XML, b"<xml>", b"<a/>", b"</xml>"),
        (XML, b"<xml>", b"<!---->", b"</xml>"),
        (XML, b"<xml>", b'<a b=""/>', b"</xml>"),
    ],
)
def test_a_body_of_too_many_values_is_refused_unread(
    codec: Codec, head: bytes, unit: bytes, tail: bytes
) -> None:
    def marks(part: bytes) -> int:
        return sum(map(part.count, (b",", b"[", b"{", b"<", b"=")))

    times = (MAX_MARKS - marks(head + tail)) // marks(unit)
    assert isinstance(codec.loads(head + unit * times + tail), dict)
    with pytest.raises(ReplyError, match=r"^the answer holds too many values$"):
        codec.loads(head + unit * (times + 1) + tail)


@pytest.mark.parametrize("codec", [JSON, XML])
def test_the_largest_body_of_the_apis_own_messages_is_read(
    codec: Codec, sample: Callable[[str], bytes]
) -> None:
    lists = ("result", "channels")
    message = codec.loads(sample(f"tasks_status.response.{codec.name}"), lists)
    [entry] = message["data"]["result"]
    message["data"]["result"] = [entry] * (MAX_BODY // len(codec.dumps(entry)))
    body = codec.dumps(message)
    assert 0.95 * MAX_BODY < len(body) < 1.01 * MAX_BODY
    assert codec.loads(body, lists) == message


@pytest.mark.parametrize("codec", [JSON, XML])
@given(depth=st.integers(1, 20_000), closed=st.booleans(), data=st.data())
@hypothesis.settings(max_examples=hypothesis.settings.default.max_examples // 10)
def test_deeply_nested_bodies_are_a_message_or_a_reply_error(
    codec: Codec, depth: int, closed: bool, data: st.DataObject
) -> None:
    units = {
        "json": [("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")],
        "xml": [("<a>", "</a>"), ("<result>", "</result>"), ('<a b="c">', "</a>"), ("<a>x<b/>", "</a>")],
    }
    start, end = data.draw(st.sampled_from(units[codec.name]))
    head, tail = {"json": ('{"a":', "}"), "xml": ("<xml>", "</xml>")}[codec.name]
    inner = "0" if codec is JSON else ""
    body = head + start * depth + (inner + end * depth + tail if closed else "")
    with contextlib.suppress(ReplyError):
        assert isinstance(codec.loads(body.encode()), dict)


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
