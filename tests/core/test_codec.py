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

from airflow_provider_segstats.core.codec import JSON, MAX_MARKS, XML, codec_for, read_message
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
        # A prolog that lies, and one that names nothing.
        (b'<?xml version="1.0" encoding="utf-16"?><xml><a>\xd0\xbf</a></xml>', {"a": "\u043f"}),
        (b'<?xml version="1.0" encoding="klingon"?><xml><a>\xd0\xbf</a></xml>', {"a": "\u043f"}),
        # What stands before the prolog or the root.
        (b'\n<?xml version="1.0"?><xml><a>1</a></xml>', {"a": "1"}),
        (b' \r\n\t<?xml version="1.0" encoding="windows-1251"?><xml><a>\xef</a></xml>', {"a": "\u043f"}),
        (b'\xef\xbb\xbf\n <?xml version="1.0"?><xml><a>1</a></xml>', {"a": "1"}),
        (b'\n\xef\xbb\xbf<?xml version="1.0"?><xml><a>1</a></xml>', {"a": "1"}),
        ('\n<?xml version="1.0"?><xml><a>\u043f</a></xml>'.encode("utf-16"), {"a": "\u043f"}),
        (
            '<?xml version="1.0" encoding="utf-8"?><xml><a>\u043f</a></xml>'.encode("utf-16-be"),
            {"a": "\u043f"},
        ),
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


WORD = "\u043d\u0435\u0442"
JSON_WORD = f'{{"a":"{WORD}"}}'
XML_WORD = f'<?xml version="1.0" encoding="{{}}"?><xml><a>{WORD}</a></xml>'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        # The declared charset counts, however it is written ...
        ("application/json; charset=windows-1251", JSON_WORD.encode("windows-1251")),
        ('application/json;version=1; Charset = "KOI8-R"', JSON_WORD.encode("koi8-r")),
        ("application/xml; charset=windows-1251", XML_WORD.format("windows-1251").encode("windows-1251")),
        ("text/xml; charset='cp866'", f"<xml><a>{WORD}</a></xml>".encode("cp866")),
        ("application/xml; charset=koi8-r", XML_WORD.format("utf-8").encode("koi8-r")),
        ("application/json; charset=utf-16le", JSON_WORD.encode("utf-16-le")),
        ("application/json; charset=utf-16", JSON_WORD.encode("utf-16")),
        ("application/json; charset=utf-32", JSON_WORD.encode("utf-32")),
        # ... but where it is a lie, unknown or none at all, and UTF-8 otherwise.
        ("application/json; charset=iso-8859-1", JSON_WORD.encode()),
        ("application/json; charset=windows-1251", JSON_WORD.encode()),
        ("application/json; charset=us-ascii", JSON_WORD.encode()),
        ("application/json; charset=utf-16", JSON_WORD.encode()),
        ("application/json; charset=klingon", JSON_WORD.encode()),
        ("application/json; charset=punycode", JSON_WORD.encode()),
        ("application/json; charset=hex", JSON_WORD.encode()),
        ("application/json; charset=", JSON_WORD.encode()),
        ("application/xml; charset=iso-8859-1", XML_WORD.format("iso-8859-1").encode()),
        ("application/xml; charset=klingon", XML_WORD.format("utf-16").encode()),
        # Then what the body says itself.
        ("application/xml", XML_WORD.format("koi8-r").encode("koi8-r")),
        ("application/xml; charset=utf-8", XML_WORD.format("koi8-r").encode("koi8-r")),
        ("application/xml; charset=klingon", XML_WORD.format("koi8-r").encode("koi8-r")),
        ("application/xml; charset=utf-8", XML_WORD.format("utf-16").encode("utf-16")),
        ("application/json; charset=utf-8", JSON_WORD.encode("utf-16")),
        ("application/json", JSON_WORD.encode("utf-8-sig")),
        ("application/json", b" \n" + JSON_WORD.encode("utf-8-sig")),
        # A type that is not the body's: the first byte decides.
        ("application/json", XML_WORD.format("utf-8").encode()),
        ("application/json; charset=koi8-r", XML_WORD.format("koi8-r").encode("koi8-r")),
        ("application/json", ("\n" + XML_WORD.format("utf-8")).encode("utf-16")),
        ("application/xml", JSON_WORD.encode()),
        ("text/xml", JSON_WORD.encode("utf-8-sig")),
        (None, XML_WORD.format("utf-16").encode("utf-16")),
        (None, JSON_WORD.encode("utf-16")),
    ],
    ids=repr,
)
def test_a_message_is_read_in_whatever_charset_and_format_it_is(
    content_type: str | None, body: bytes
) -> None:
    assert read_message(content_type, body) == {"a": WORD}


@pytest.mark.parametrize(
    ("content_type", "body", "line"),
    [
        ("application/json", b"<html></html>", "the answer is not JSON"),
        ("application/json; charset=klingon", b"\xff", "the answer is not JSON"),
        ("application/xml", b"[]", "the answer is not XML"),
        ("application/xml", b"{", "the answer is not XML"),
        ("text/html", b"<html></html>", "the answer is XML without the root <xml>"),
        (None, b"\xed\xa0\x80", "the answer is not JSON"),
        ("application/json", JSON_WORD.encode("koi8-r"), "the answer is not JSON"),
    ],
    ids=repr,
)
def test_what_is_a_message_in_no_way_is_told_as_its_type_has_it(
    content_type: str | None, body: bytes, line: str
) -> None:
    with pytest.raises(ReplyError) as caught:
        read_message(content_type, body)
    assert str(caught.value) == line


@given(
    content_type=st.sampled_from([f"application/{name}; charset=" for name in ("json", "xml", "html")]),
    charset=st.sampled_from(sorted(encodings.aliases.aliases)) | st.text(max_size=8),
    body=st.binary(max_size=60) | st.sampled_from([JSON_WORD.encode(), XML_WORD.format("utf-8").encode()]),
)
def test_no_charset_makes_anything_but_a_message_or_a_reply_error(
    content_type: str, charset: str, body: bytes
) -> None:
    with contextlib.suppress(ReplyError):
        assert isinstance(read_message(content_type + charset, body), dict)


@pytest.mark.parametrize("name", ["refresh_counters.request", "tasks_status.request"])
def test_the_specifications_requests_hold_the_same_in_both_formats(
    name: str, sample: Callable[[str], bytes]
) -> None:
    from_json = JSON.loads(sample(f"{name}.json"))
    assert {key: str(value) for key, value in from_json.items()} == XML.loads(sample(f"{name}.xml"))
