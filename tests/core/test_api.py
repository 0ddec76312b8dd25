"""The protocol: the bytes each call writes and what each reply means."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import worst_bodies
from support.paths import SAMPLES

from airflow_provider_segstats.core import api, policy
from airflow_provider_segstats.core.api import Reply
from airflow_provider_segstats.core.codec import JSON, XML
from airflow_provider_segstats.core.errors import (
    ApiError,
    ConfigurationError,
    HttpStatusError,
    RedirectError,
    ReplyError,
    SegStatsError,
)
from airflow_provider_segstats.core.model import Channel, Entry, Segment, TaskStatus
from airflow_provider_segstats.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMATS = ("json", "xml")
TOKEN = "abcdefghijklmnqrstuvwxyz"
# Hostile to JSON, XML, URLs, headers and format strings alike, and not ASCII.
HOSTILE = "t<&>\"'\\/]]>{}%s\u00e9\u2116\U0001f511"
UUID = "55a345c8-3d79-47ef-b03e-b84ce8e0c126"
SUBMIT, STATUS = "segments/refresh_counters", "tasks/status"
MIMETYPES = {"json": "application/json", "xml": "application/xml"}


def settings(format: str = "json", token: str = TOKEN, **extra: Any) -> Settings:
    return Settings.from_fields(
        host="example.com", password=token, extra={"account": "a", **extra, "format": format}
    )


def reply(
    body: bytes | str | dict[str, Any],
    status: int = 200,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    if isinstance(body, dict):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    return Reply(
        status, {**({"content-type": content_type} if content_type else {}), **(headers or {})}, body
    )


def submit(answer: Reply, token: str = TOKEN) -> str:
    return api.refresh_counters(settings(token=token), Segment(7, 24)).read(answer)


def look(answer: Reply, token: str = TOKEN) -> TaskStatus:
    return api.task_status(settings(token=token), "x").read(answer)


def completed(*entries: object) -> dict[str, Any]:
    return {"data": {"status": "completed", "progress": 100, "result": list(entries)}, "error": 0}


def entry(channels: object = (), **fields: Any) -> dict[str, Any]:
    standard = {"in_progress": False, "list_id": 1, "resource_id": 27, "updated": "u"}
    return {"channels": channels, **standard, **fields}


class TestRequests:
    @pytest.mark.parametrize(
        ("format", "segment", "body"),
        [
            (
                "json",
                Segment(7, 24, 1),
                b'{"token":"abcdefghijklmnqrstuvwxyz","db_id":1,"resource_id":24,"id":7,"format":"json"}',
            ),
            (
                "json",
                Segment(7, 24),
                b'{"token":"abcdefghijklmnqrstuvwxyz","resource_id":24,"id":7,"format":"json"}',
            ),
            (
                "json",
                Segment(7, 24, extra_params={"list_id": 3, "deep": {"a": [True, None]}}),
                (
                    b'{"token":"abcdefghijklmnqrstuvwxyz","resource_id":24,"id":7,"format":"json",'
                    b'"list_id":3,"deep":{"a":[true,null]}}'
                ),
            ),
            (
                "xml",
                Segment(7, 24, 1),
                (
                    b"<xml><token>abcdefghijklmnqrstuvwxyz</token><db_id>1</db_id><resource_id>24</resource_id>"
                    b"<id>7</id><format>xml</format></xml>"
                ),
            ),
            (
                "xml",
                Segment(7, 24),
                (
                    b"<xml><token>abcdefghijklmnqrstuvwxyz</token><resource_id>24</resource_id>"
                    b"<id>7</id><format>xml</format></xml>"
                ),
            ),
            (
                "xml",
                Segment(7, 24, extra_params={"list_id": 3, "deep": {"a": [True, None]}}),
                (
                    b"<xml><token>abcdefghijklmnqrstuvwxyz</token><resource_id>24</resource_id><id>7</id>"
                    b"<format>xml</format><list_id>3</list_id><deep><a>true</a><a></a></deep></xml>"
                ),
            ),
        ],
    )
    def test_a_submit_is_these_bytes(self, format: str, segment: Segment, body: bytes) -> None:
        call = api.refresh_counters(settings(format), segment)
        assert call.endpoint == SUBMIT
        assert call.request.url == "https://example.com/api/v1.1/segments/refresh_counters"
        assert call.request.body == body
        assert call.request.headers["Content-Type"] == call.request.headers["Accept"] == MIMETYPES[format]
        assert "Authorization" not in call.request.headers

    @pytest.mark.parametrize(
        ("format", "body"),
        [
            ("json", b'{"token":"abcdefghijklmnqrstuvwxyz","task_id":"%s"}' % UUID.encode()),
            (
                "xml",
                b"<xml><token>abcdefghijklmnqrstuvwxyz</token><task_id>%s</task_id></xml>" % UUID.encode(),
            ),
        ],
    )
    def test_a_look_is_these_bytes_without_the_undocumented_format(self, format: str, body: bytes) -> None:
        request = api.task_status(settings(format), UUID).request
        assert request.url == "https://example.com/api/v1.1/tasks/status"
        assert request.body == body
        assert request.headers["Content-Type"] == MIMETYPES[format]

    @pytest.mark.parametrize(
        ("format", "body"),
        [
            ("json", b'{"token":"abcdefghijklmnqrstuvwxyz","limit":1,"format":"json"}'),
            (
                "xml",
                b"<xml><token>abcdefghijklmnqrstuvwxyz</token><limit>1</limit><format>xml</format></xml>",
            ),
        ],
    )
    def test_a_list_of_databases_is_these_bytes(self, format: str, body: bytes) -> None:
        request = api.list_databases(settings(format), limit=1).request
        assert request.url == "https://example.com/api/v1.1/databases/list/"
        assert request.body == body

    @pytest.mark.parametrize(
        ("format", "body"),
        [
            ("json", b'{"resource_id":24,"id":7,"format":"json"}'),
            ("xml", b"<xml><resource_id>24</resource_id><id>7</id><format>xml</format></xml>"),
        ],
    )
    def test_a_token_in_the_header_is_not_in_the_body(self, format: str, body: bytes) -> None:
        request = api.refresh_counters(settings(format, token_in="header"), Segment(7, 24)).request
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert request.body == body

    @pytest.mark.parametrize(
        ("format", "body"),
        [
            (
                "json",
                b'{"token":"t<&>\\"\'\\\\/]]>{}%s\xc3\xa9\xe2\x84\x96\xf0\x9f\x94\x91","task_id":"<&>\\""}',
            ),
            (
                "xml",
                (
                    b"<xml><token>t&lt;&amp;&gt;\"'\\/]]&gt;{}%s\xc3\xa9\xe2\x84\x96\xf0\x9f\x94\x91</token>"
                    b'<task_id>&lt;&amp;&gt;"</task_id></xml>'
                ),
            ),
        ],
    )
    def test_metacharacters_of_a_token_and_a_task_id_are_escaped(self, format: str, body: bytes) -> None:
        assert api.task_status(settings(format, HOSTILE), '<&>"').request.body == body

    @pytest.mark.parametrize("format", FORMATS)
    def test_the_token_is_never_in_the_url(self, format: str) -> None:
        for call in (
            api.refresh_counters(settings(format), Segment(7, 24)),
            api.task_status(settings(format), UUID),
            api.list_databases(settings(format)),
        ):
            assert TOKEN not in call.request.url

    @pytest.mark.parametrize("name", ["token", "id", "resource_id", "db_id", "format"])
    def test_extra_params_may_not_replace_what_has_an_argument_of_its_own(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^extra_params may not set {name}$"):
            api.refresh_counters(settings(), Segment(7, 24, extra_params={name: 1, "list_id": 3}))

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda of: api.refresh_counters(of, Segment(7, 24, 1)), "refresh_counters.request"),
            (
                lambda of: api.task_status(of, "930bfdb0-a5a8-4207-a77d-6b989bdea326"),
                "tasks_status.request",
            ),
        ],
    )
    def test_requests_hold_what_the_specifications_samples_hold(
        self, call: Any, name: str, sample: Callable[[str], bytes]
    ) -> None:
        assert json.loads(call(settings("json")).request.body) == json.loads(sample(f"{name}.json"))
        written, wanted = XML.loads(call(settings("xml")).request.body), XML.loads(sample(f"{name}.xml"))
        # The sample shows the default; whoever wants XML back says so.
        assert written == wanted | ({"format": "xml"} if "format" in wanted else {})


class TestTaskId:
    @pytest.mark.parametrize("format", FORMATS)
    def test_the_specifications_sample_gives_its_task_id(
        self,
        format: str,
        sample: Callable[[str], bytes],
    ) -> None:
        assert submit(reply(sample(f"refresh_counters.response.{format}"))) == UUID

    @pytest.mark.parametrize(
        "task_id", [f"task_{UUID}", "007", "true", "a b", "<&>\"'\\", "\u2116\U0001f511"]
    )
    @pytest.mark.parametrize("format", FORMATS)
    def test_a_task_id_is_opaque_and_survives_both_formats_both_ways(self, format: str, task_id: str) -> None:
        body = {
            "json": json.dumps({"data": {"task_id": task_id}, "error": 0}),
            "xml": f"<xml><data><task_id>{escape(task_id)}</task_id></data><error>0</error></xml>",
        }[format]
        assert submit(reply(body)) == task_id
        codec = {"json": JSON, "xml": XML}[format]
        assert codec.loads(api.task_status(settings(format), task_id).request.body)["task_id"] == task_id

    def test_a_number_for_a_task_id_becomes_text(self) -> None:
        assert submit(reply('{"data": {"task_id": 12345678901234567890123}}')) == "12345678901234567890123"

    @pytest.mark.parametrize(
        "body",
        [
            "{}",
            '{"error": 0, "error_text": "Successful operation"}',
            '{"data": null, "error": 0}',
            '{"data": {}, "error": 0}',
            '{"data": {"task_id": null}}',
            '{"data": {"task_id": ""}}',
            '{"data": {"task_id": "  "}}',
            "<xml><data/><error>0</error></xml>",
            "<xml><data><task_id/></data><error>0</error></xml>",
            "<xml/>",
        ],
    )
    def test_success_without_a_task_id_is_an_error(self, body: str) -> None:
        with pytest.raises(ReplyError, match=r"^segments/refresh_counters: .* no task_id$"):
            submit(reply(body))

    @pytest.mark.parametrize(
        "body",
        [
            '{"data": [], "error": 0}',
            '{"data": "x"}',
            '{"data": {"task_id": ["a"]}}',
            '{"data": {"task_id": {"a": 1}}}',
            '{"data": {"task_id": "a\\u0000b"}}',
            '{"data": {"task_id": "a\\nb"}}',
            '{"data": {"task_id": "\\ud800"}}',
            '{"data": {"task_id": "%s"}}' % ("a" * 1001),
            "<xml><data><task_id>a</task_id><task_id>b</task_id></data></xml>",
        ],
    )
    def test_a_task_id_that_nothing_could_store_is_an_error(self, body: str) -> None:
        with pytest.raises(ReplyError):
            submit(reply(body))


ROW = {"source": "a", "segment_id": 7, "list_id": 1, "resource_id": 27}
SAMPLE_ROWS = [
    {
        "source": "a",
        "segment_id": 7,
        "list_id": 1,
        "resource_id": 27,
        "channel": channel,
        "subscribed_sendable": sendable,
        "unconfirmed_sendable": 0,
        "updated": "2024-04-20T09:30:01.583Z",
    }
    for channel, sendable in (("email", 209), ("push", 0), ("sms", 0))
]


class TestStatus:
    @pytest.mark.parametrize(
        ("name", "status", "progress", "in_progress", "rows"),
        [
            ("tasks_status.response", "completed", 100, [False], SAMPLE_ROWS),
            (
                "several_entries",
                "Completed",
                100,
                [False, False],
                [
                    {
                        **ROW,
                        "channel": "007",
                        "unconfirmed_sendable": 0,
                        "subscribed_sendable": 5,
                        "hardbounced": 9007199254740993,
                        "updated": "2024-04-20T09:30:01Z",
                    },
                    {
                        **ROW,
                        "channel": "true",
                        "subscribed_sendable": 6,
                        "updated": "2024-04-20T09:30:01Z",
                    },
                    {
                        **ROW,
                        "list_id": 2,
                        "channel": "carrier_pigeon",
                        "updated": "2024-04-20T09:30:01.583123Z",
                    },
                ],
            ),
            (
                "lone_elements",
                "completed",
                100,
                [False],
                [{**ROW, "list_id": 3, "channel": "email", "all": 1, "updated": "2024-04-20T09:30:01Z"}],
            ),
            ("empty_result", "completed", 100, [], []),
            ("in_progress", "completed", 100, [True], []),
            ("running", "warming_up", None, [], []),
        ],
    )
    @pytest.mark.parametrize("format", FORMATS)
    def test_a_sample_gives_the_same_in_both_formats(  # noqa: PLR0917 - the columns of the table
        self,
        sample: Callable[[str], bytes],
        format: str,
        name: str,
        status: str,
        progress: int | None,
        in_progress: list[bool],
        rows: list[dict[str, Any]],
    ) -> None:
        seen = look(reply(sample(f"{name}.{format}"), content_type=MIMETYPES[format]))
        assert (seen.status, seen.progress) == (status, progress)
        assert [entry.in_progress for entry in seen.entries] == in_progress
        assert seen.rows(7) == rows

    @pytest.mark.parametrize("format", FORMATS)
    def test_an_older_servers_success_brings_the_rows_of_completed(
        self, sample: Callable[[str], bytes], format: str
    ) -> None:
        body = sample(f"tasks_status.response.{format}").replace(b"completed", b"success")
        seen = look(reply(body, content_type=MIMETYPES[format]))
        assert (seen.status, seen.rows(7)) == ("success", SAMPLE_ROWS)

    def test_the_connection_says_which_statuses_bring_rows(self, sample: Callable[[str], bytes]) -> None:
        body = sample("tasks_status.response.json")
        read = api.task_status(settings(success_statuses="counted"), "x").read
        assert read(reply(body)).entries == ()
        assert read(reply(body.replace(b"completed", b"Counted"))).rows(7) == SAMPLE_ROWS

    def test_the_columns_of_a_row_stand_in_the_documented_order(self, sample: Callable[[str], bytes]) -> None:
        row = look(reply(sample("tasks_status.response.json"))).rows(7)[0]
        counters = ["subscribed_sendable", "unconfirmed_sendable"]
        labels = ["source", "segment_id", "list_id", "resource_id", "channel"]
        assert list(row) == [*labels, *counters, "updated"]

    def test_rows_of_an_account_that_is_not_known_have_no_source(self) -> None:
        entries = (Entry((Channel("email", {"all": 1}),), False, 1, 2, "u"),)
        assert "source" not in TaskStatus("completed", 100, entries).rows(7)[0]

    def test_short_answers_that_look_alike_are_each_accounts_own(self) -> None:
        answer = reply(completed(entry([{"channel": "email", "status": {}}])))
        assert len(answer.body) < 300
        accounts = ("one", "two")
        calls = [api.task_status(settings(account=account), "x") for account in accounts]
        assert [call.read(answer).rows(7)[0]["source"] for call in calls] == list(accounts)

    def test_rows_without_a_segment_id_say_none(self, sample: Callable[[str], bytes]) -> None:
        rows = look(reply(sample("tasks_status.response.xml"))).rows(None)
        assert [row["segment_id"] for row in rows] == [None, None, None]

    @pytest.mark.parametrize(
        "value", [[], None, {}, "later", 5, [1], {"some": "thing"}, [{"channels": "x"}]], ids=repr
    )
    def test_a_running_tasks_result_may_be_anything(self, value: object) -> None:
        assert look(reply({"data": {"status": "running", "result": value}})).entries == ()

    def test_a_lone_entry_that_is_no_list_counts_as_one(self) -> None:
        body = completed()
        body["data"]["result"] = entry([{"channel": "email", "status": {"all": 1}}])
        assert [row["channel"] for row in look(reply(body)).rows(None)] == ["email"]

    def test_empty_and_absent_numbers_are_none(self) -> None:
        channels = [{"channel": "email", "status": {"all": None, "invalid": ""}}]
        body = completed(entry(channels, list_id=None, resource_id="", updated=None))
        assert look(reply(body)).rows(None) == [
            {
                "source": "a",
                "segment_id": None,
                "list_id": None,
                "resource_id": None,
                "channel": "email",
                "all": None,
                "invalid": None,
                "updated": "",
            }
        ]

    @pytest.mark.parametrize(
        ("value", "number"),
        [(209, 209), ("209", 209), (" 209 ", 209), (209.0, 209), ("209.00", 209), ("-1", -1), ("+1", 1)],
        ids=repr,
    )
    def test_a_counter_is_an_int_however_it_is_written(self, value: object, number: int) -> None:
        body = completed(entry([{"channel": "email", "status": {"all": value}}]))
        counter = look(reply(body)).rows(None)[0]["all"]
        assert counter == number
        assert type(counter) is int

    @pytest.mark.parametrize(
        "value", ["many", "1.5", 1.5, True, [], {}, "1e3", 10**19, "1" * 20, "\u0661", "1_000"], ids=repr
    )
    def test_a_counter_that_is_no_whole_number_is_an_error(self, value: object) -> None:
        body = completed(entry([{"channel": "email", "status": {"all": value}}]))
        with pytest.raises(ReplyError, match=r"^tasks/status: the answer's counter is not a whole number$"):
            look(reply(body))

    @pytest.mark.parametrize("progress", ["half", [], {}, True, 1.5, 10**30], ids=repr)
    def test_an_odd_progress_does_not_matter(self, progress: object) -> None:
        body = completed()
        body["data"]["progress"] = progress
        assert look(reply(body)).progress is None

    @pytest.mark.parametrize(
        ("value", "truth"), [(True, True), ("true", True), ("TRUE", True), (False, False), (None, False)]
    )
    def test_in_progress_is_read_as_the_field_it_is(self, value: object, truth: bool) -> None:
        assert look(reply(completed(entry(in_progress=value)))).entries[0].in_progress is truth

    @pytest.mark.parametrize(
        ("result", "line"),
        [
            ("text", "the answer's result is not a list"),
            (["text"], "the result is not a list of counters"),
            ([{"imported": 5}], "the result is not a list of counters"),
            ({"imported": 5}, "the result is not a list of counters"),
            ([entry("email")], "the answer's channels is not a list"),
            ([entry(["email"])], "a channel of the result is not an object"),
            ([entry([{"channel": "email", "status": 5}])], "the answer's status is not an object"),
            ([entry([{"channel": {}, "status": {}}])], "the answer's channel is not text"),
            ([entry([{"channel": "a\x00b", "status": {}}])], "the answer's channel holds control characters"),
            ([entry([{"channel": "a", "status": {"\x1b": 1}}])], "a counter's name holds control characters"),
            (
                [entry([{"channel": "a" * 1001, "status": {}}])],
                "the answer's channel is longer than 1000 characters",
            ),
            (
                [entry([{"channel": "a", "status": {"a" * 1001: 1}}])],
                "a counter's name is longer than 1000 characters",
            ),
            *(
                (
                    [entry([{"channel": "a", "status": {"all": 1, label: 1}}])],
                    f"a counter of the result is named like a column of the rows: {label}",
                )
                for label in ("updated", "source", "kind", "name", "recounted")
            ),
            ([entry(in_progress="maybe")], "the answer's in_progress is neither true nor false"),
            ([entry(list_id="one")], "the answer's list_id is not a whole number"),
        ],
    )
    def test_a_finished_result_that_is_no_counters_is_an_error(self, result: object, line: str) -> None:
        body = completed()
        body["data"]["result"] = result
        with pytest.raises(ReplyError) as caught:
            look(reply(body))
        assert str(caught.value) == f"tasks/status: {line}"

    @pytest.mark.parametrize("data", [None, {}, {"status": None}, {"status": ""}])
    def test_an_answer_without_a_status_is_an_error(self, data: object) -> None:
        with pytest.raises(ReplyError, match=r"^tasks/status: the answer has no status$"):
            look(reply({"data": data, "error": 0}))

    @pytest.mark.parametrize(
        "body",
        [
            {
                "data": {"status": "failed", "error_text": "No such list\n7"},
                "error_text": "Successful operation",
            },
            {"data": {"status": "failed"}, "error": 0, "error_text": "No such list 7"},
        ],
    )
    def test_what_the_server_says_of_a_failed_task_is_kept_as_one_line(self, body: dict[str, Any]) -> None:
        assert look(reply(body)).text == "No such list 7"


class TestErrors:
    @pytest.mark.parametrize("format", FORMATS)
    def test_an_api_error_has_code_and_text(self, format: str, sample: Callable[[str], bytes]) -> None:
        with pytest.raises(ApiError) as caught:
            submit(reply(sample(f"api_error.{format}")))
        error = caught.value
        assert (error.code, error.text, error.endpoint) == (440, 'Segment \u2116 7 is "locked" <now>', SUBMIT)
        assert str(error) == f"{SUBMIT}: API error 440: {error.text}"

    @pytest.mark.parametrize("status", [200, 400, 403, 404, 429, 500, 503])
    @pytest.mark.parametrize("code", [-1, 400, 401, 402, 403, 404, 440, 503, 99999])
    def test_an_api_error_outranks_the_http_status(self, code: int, status: int) -> None:
        with pytest.raises(ApiError) as caught:
            look(reply({"error": code, "error_text": "Why"}, status))
        assert (caught.value.code, caught.value.http_status) == (code, status)
        assert caught.value.permanent is (code in {400, 401, 402, 403})

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ('{"error": "440"}', "no text given"),
            ('{"error": 440, "error_text": null}', "no text given"),
            ('{"error": 440, "error_text": ["a"]}', "no text given"),
            ('{"error": 440.0, "error_text": "a\\r\\n\\tb\\u0000"}', "a b"),
            ("<xml><error>440</error></xml>", "no text given"),
            ("<xml><error>440</error><error_text/></xml>", "no text given"),
            (json.dumps({"error": 440, "error_text": "x" * 301}), "x" * 300 + "\u2026"),
        ],
    )
    def test_the_text_of_an_error_is_one_short_line(self, body: str, text: str) -> None:
        with pytest.raises(ApiError) as caught:
            look(reply(body))
        assert str(caught.value) == f"tasks/status: API error 440: {text}"

    @pytest.mark.parametrize(
        "error", ["", ', "error": null', ', "error": 0', ', "error": "0"', ', "error": ""']
    )
    def test_an_absent_or_empty_error_is_none(self, error: str) -> None:
        assert submit(reply(f'{{"data": {{"task_id": "a"}}{error}}}')) == "a"

    def test_an_error_that_is_no_number_is_no_success(self) -> None:
        with pytest.raises(ReplyError):
            submit(reply('{"data": {"task_id": "a"}, "error": "yes"}'))

    @pytest.mark.parametrize(
        ("status", "permanent"),
        [(400, True), (401, True), (404, True), (429, False), (500, False), (503, False)],
    )
    @pytest.mark.parametrize(
        "body", ["", "<html>no</html>", "<!DOCTYPE html><html/>", "oops", "[]", '{"error": 0']
    )
    def test_an_http_error_without_an_api_body_is_one(self, body: str, status: int, permanent: bool) -> None:
        with pytest.raises(HttpStatusError) as caught:
            look(reply(body, status, "text/html"))
        assert str(caught.value) == f"tasks/status: HTTP {status} without an answer of the API"
        assert (caught.value.http_status, caught.value.permanent) == (status, permanent)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 499, 500, 503])
    @pytest.mark.parametrize(
        "body",
        [
            "{}",
            '{"message": "Forbidden"}',
            '{"error": 0, "data": {"task_id": "a", "status": "completed"}}',
            '{"error": "0", "data": {"task_id": "a", "status": "completed"}}',
            '{"error": null, "data": {"task_id": "a", "status": "completed"}}',
            "<xml><message>Forbidden</message></xml>",
            "<xml><data><task_id>a</task_id><status>completed</status></data><error>0</error></xml>",
            "<xml><data><task_id>a</task_id><status>completed</status></data><error/></xml>",
        ],
    )
    def test_an_http_error_whose_body_names_no_error_is_no_success(self, body: str, status: int) -> None:
        for read, endpoint in ((submit, SUBMIT), (look, STATUS)):
            with pytest.raises(HttpStatusError) as caught:
                read(reply(body, status))
            assert str(caught.value) == f"{endpoint}: HTTP {status} without an API error"

    @pytest.mark.parametrize("content_type", ["text/html", "application/json", "application/xml", None])
    @pytest.mark.parametrize("status", [200, 201, 204])
    def test_html_at_a_success_status_is_a_reply_error(self, content_type: str | None, status: int) -> None:
        with pytest.raises(ReplyError) as caught:
            look(reply("<html><body>Back soon</body></html>", status, content_type))
        assert type(caught.value) is ReplyError
        assert not caught.value.permanent

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
    def test_a_redirect_is_permanent_and_names_its_target(self, status: int) -> None:
        with pytest.raises(RedirectError) as caught:
            look(
                reply(
                    '{"data": {"status": "completed"}}', status, headers={"location": "https://x.example/api"}
                )
            )
        assert str(caught.value) == (
            f"tasks/status: HTTP {status} points to https://x.example/api; set the connection's host to it"
        )
        assert caught.value.permanent

    def test_a_redirect_without_a_target_says_so(self) -> None:
        with pytest.raises(RedirectError, match="points to an unnamed place"):
            look(reply("", 302))

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "120"}, 120),
            ({"retry-after": " 0 "}, 0),
            ({"retry-after": "9" * 400}, 999999999),
            ({"retry-after": "1.5"}, None),
            ({"retry-after": "-1"}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": ""}, None),
            ({"retry-after": "\u0661"}, None),
            (
                {"retry-after": "Sat, 20 Apr 2024 09:31:30 GMT", "date": "Sat, 20 Apr 2024 09:30:00 GMT"},
                90,
            ),
            ({"retry-after": "Sat, 20 Apr 2024 09:29:00 GMT", "date": "Sat, 20 Apr 2024 09:30:00 GMT"}, 0),
            ({"retry-after": "Sat, 20 Apr 2024 09:31:30 GMT"}, None),
            ({"retry-after": "Sat, 20 Apr 2024 09:31:30 GMT", "date": "today"}, None),
            (
                {"retry-after": "Sat, 20 Apr 2024 09:31:30 -0000", "date": "Sat, 20 Apr 2024 09:30:00 GMT"},
                None,
            ),
            (
                {
                    "retry-after": "Sat, 20 Apr 2024 09:31:30 +99999999999999999",
                    "date": "Sat, 20 Apr 2024 09:30:00 GMT",
                },
                None,
            ),
            ({"retry-after": "Sat, 99 Apr 2024 09:31:30 GMT", "date": "Sat, 20 Apr 2024 09:30:00 GMT"}, None),
        ],
    )
    def test_retry_after_is_read_as_seconds_or_against_the_replys_own_date(
        self, status: int, headers: dict[str, str], seconds: float | None
    ) -> None:
        with pytest.raises(HttpStatusError) as caught:
            look(reply("", status, headers=headers))
        assert caught.value.retry_after == seconds

    def test_an_api_error_carries_retry_after_too(self) -> None:
        with pytest.raises(ApiError) as caught:
            look(reply({"error": 440}, 429, headers={"retry-after": "7"}))
        assert (caught.value.http_status, caught.value.retry_after) == (429, 7)


class TestSecrets:
    @pytest.mark.parametrize("token_in", ["body", "header"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_no_value_on_the_way_shows_the_token(self, format: str, token_in: str) -> None:
        of = settings(format, token_in=token_in)
        for call in (
            api.refresh_counters(of, Segment(7, 24)),
            api.task_status(of, "x"),
            api.list_databases(of),
        ):
            for value in (of, call, call.request):
                assert TOKEN not in repr(value)
                assert TOKEN not in str(value)

    @pytest.mark.parametrize(
        "answer",
        [
            reply({"error": 401, "error_text": "Bad token {T}"}),
            reply({"error": 401, "error_text": "{T}{T}" + "x" * 290 + "{T}"}),
            reply({"error": 440, "error_text": "x" * 290 + "{T}"}),
            reply("", 302, headers={"location": "https://x.example/?token={T}"}),
            reply("{T}", 500, "text/html"),
            reply("{T}"),
            reply('{"data": {"status": ["{T}"]}}'),
            reply({"data": {"status": "completed", "result": "{T}"}}),
            reply({"data": {"status": "completed", "result": [{"channels": "{T}"}]}}),
            reply(completed(entry([{"channel": "a", "status": {"{T}": "x"}}]))),
        ],
    )
    @pytest.mark.parametrize("token", [TOKEN, HOSTILE, "{T}"])
    def test_an_error_never_shows_a_token_that_the_server_echoes(self, answer: Reply, token: str) -> None:
        def put(text: str, *, escaped: bool) -> str:
            return text.replace("{T}", json.dumps(token)[1:-1] if escaped else token)

        echo = Reply(
            answer.status,
            {name: put(value, escaped=False) for name, value in answer.headers.items()},
            put(answer.body.decode(), escaped=True).encode(),
        )
        with pytest.raises(SegStatsError) as caught:
            look(echo, token)
        error = caught.value
        shown = f"{error} {error!r} {error.to_dict()} {error.text}"
        assert token not in shown
        assert token[:15] not in shown  # nor what a cut leaves of it

    @pytest.mark.parametrize(
        "encode",
        [
            html.escape,
            lambda token: escape(token, {"'": "&apos;", '"': "&quot;"}),
            lambda token: "".join(f"&#{ord(char)};" if char == "<" else char for char in token),
            lambda token: quote(token, safe=""),
            quote,
            lambda token: quote(token).lower(),
            quote_plus,
            lambda token: json.dumps(token)[1:-1],
            lambda token: json.dumps(token, ensure_ascii=False)[1:-1],
            lambda token: repr(token)[1:-1],
        ],
    )
    @pytest.mark.parametrize("token", [HOSTILE, "two words/t0ken+%3C"])
    def test_a_token_that_the_server_echoes_encoded_is_hidden(
        self, token: str, encode: Callable[[str], str]
    ) -> None:
        target = f"https://x.example/?a=b&token={encode(token)}&c=d"
        headers = {"location": target}
        for answer, line in (
            (
                reply({"error": 440, "error_text": f"No {encode(token)}!"}),
                "API error 440: No ***!",
            ),
            (
                reply("", 302, headers=headers),
                "HTTP 302 points to https://x.example/?a=b&token=***&c=d; set the connection's host to it",
            ),
        ):
            with pytest.raises(SegStatsError) as caught:
                look(answer, token)
            assert caught.value.message == line

    @pytest.mark.parametrize("name", ["completed", "success"])
    def test_a_token_that_is_part_of_the_end_does_not_hide_it(self, name: str) -> None:
        call = api.task_status(settings(token="e"), "task_1")
        body = f'{{"error": 0, "data": {{"status": "{name}", "result": []}}}}'
        assert call.read(reply(body)).status == name

    def test_a_token_echoed_as_a_failed_tasks_reason_is_hidden(self) -> None:
        body = {"data": {"status": "failed", "error_text": f"Token {TOKEN} expired"}}
        assert look(reply(body)).text == "Token *** expired"


NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(
    lambda name: (
        name not in {"segment_id", "list_id", "resource_id", "channel", "updated", "result", "channels"}
    )
)
PLAIN = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
COUNTERS = st.dictionaries(NAMES, st.integers(-(10**18), 10**18), max_size=3)
CHANNELS = st.lists(st.tuples(PLAIN, COUNTERS), max_size=3)
ENTRIES = st.lists(st.tuples(CHANNELS, st.booleans(), st.none() | st.integers(1, 2**62), PLAIN), max_size=3)


def _xml_entry(channels: list[Any], in_progress: bool, list_id: int | None, updated: str) -> str:
    shown = "".join(
        f"<channels><channel>{escape(name)}</channel><status>"
        + "".join(f"<{counter}>{number}</{counter}>" for counter, number in counters.items())
        + "</status></channels>"
        for name, counters in channels
    )
    flag, number = ("true" if in_progress else "false"), "" if list_id is None else list_id
    return (
        f"<result>{shown or '<channels/>'}<in_progress>{flag}</in_progress><list_id>{number}</list_id>"
        f"<resource_id>27</resource_id><updated>{escape(updated)}</updated></result>"
    )


# Values of every type in every place, whole replies as the API has them, and bytes without any sense.
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
ODD_CHANNEL = st.fixed_dictionaries({}, optional={"channel": JSON_VALUES, "status": JSON_VALUES})
ODD_ENTRY = st.fixed_dictionaries(
    {"channels": st.lists(ODD_CHANNEL, max_size=2) | JSON_VALUES},
    optional=dict.fromkeys(("in_progress", "list_id", "resource_id", "updated"), JSON_VALUES),
)
ODD_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {"status": st.just("completed") | JSON_VALUES, "task_id": JSON_VALUES},
            optional={"progress": JSON_VALUES, "result": st.lists(ODD_ENTRY, max_size=2) | JSON_VALUES},
        )
        | JSON_VALUES,
        "error": st.just(0) | JSON_VALUES,
        "error_text": JSON_VALUES,
    },
)
WORDS = st.sampled_from(
    [
        "Sat,",
        "20",
        "Apr",
        "2024",
        "09:31:30",
        "9:3",
        "GMT",
        "-0000",
        "+9999",
        "20-Apr-24",
        ",",
        ":",
        "-",
        "\u0661",
    ]
)
DATES = st.lists(WORDS | st.integers().map(str), max_size=8).map(" ".join)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["application/json", "text/xml; charset=utf-16", "text/html"])
        | st.text(max_size=20),
        "retry-after": st.integers().map(str) | DATES | st.text(max_size=20),
        "date": st.just("Sat, 20 Apr 2024 09:30:00 GMT") | DATES | st.text(max_size=20),
        "location": st.text(max_size=20),
    },
)

# Bytes that nearly are a message: of the API's own, bent here and there or in another encoding; or of the
# pieces that messages are made of.
MESSAGES = st.sampled_from([path.read_bytes() for path in sorted(SAMPLES.glob("*.response.*"))])
PIECES = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"null",
            b"true",
            b"-",
            b"1e999",
            b"NaN",
            b"\\ud800",
            b"\\u00",
        ),
        *(
            b'"data":{"status":"completed","result":',
            b'"task_id":"a"',
            b'"error":440',
            b'"channels":[',
            b"9" * 50,
        ),
        *(
            b"<xml>",
            b"</xml>",
            b"<data>",
            b"</data>",
            b"<status>completed</status>",
            b"<result>",
            b"</result>",
        ),
        *(
            b"<channels>",
            b"</channels>",
            b"<error>",
            b"</error>",
            b"<task_id/>",
            b"<a b='c'>",
            b"<",
            b">",
            b"/>",
        ),
        *(
            b"<![CDATA[",
            b"]]>",
            b"<!--",
            b"-->",
            b"<?a",
            b"?>",
            b"<!DOCTYPE xml [",
            b"<!ENTITY a 'b'>",
            b"]>",
        ),
        *(
            b"&a;",
            b"&lt;",
            b"&#0;",
            b"&#x110000;",
            b"&",
            b"\x00",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\xf0\x9f",
            b" ",
        ),
        *(
            b'<?xml version="1.0" encoding="%b"?>' % name
            for name in (b"utf-16", b"koi8-r", b"utf-7", b"klingon")
        ),
    ]
) | st.binary(max_size=3)
CUTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 30), PIECES), min_size=1, max_size=4)


@st.composite
def bent_messages(draw: st.DrawFn) -> bytes:
    body = draw(MESSAGES)
    for at, length, piece in draw(CUTS):
        body = body[:at] + piece + body[at + length :]
    return body


BENT = (
    bent_messages()
    | st.lists(PIECES, max_size=20).map(b"".join)
    | st.builds(
        lambda body, encoding: body.decode().encode(encoding, errors="replace"),
        MESSAGES,
        st.sampled_from(
            ["utf-16", "utf-16-be", "utf-32", "utf-7", "koi8-r", "cp037", "utf-8-sig", "shift-jis"]
        ),
    )
)


CALLS: tuple[api.Call[Any], ...] = (
    api.refresh_counters(settings(), Segment(7, 24)),
    api.task_status(settings(), "x"),
    api.list_segments(settings()),
    api.list_databases(settings()),
    api.get_segment(settings(), 7),
    api.get_counters(settings(), Segment(7, 24)),
    api.get_database(settings(), 1),
    api.get_resource(settings(), 24),
)


def outcome(call: api.Call[Any], answer: Reply) -> Any:
    try:
        return call.read(answer)
    except SegStatsError as error:
        return error


def check_every_reader(answer: Reply) -> None:
    """See that a reader gives what its type says, fit for any database, or an error of the package."""
    for call in CALLS:
        result = outcome(call, answer)
        if isinstance(result, SegStatsError):
            assert "\n" not in str(result)
            assert (result.endpoint, result.http_status) == (call.endpoint, answer.status)
            json.dumps(result.to_dict(), allow_nan=False).encode()
        elif isinstance(result, TaskStatus):
            text = json.dumps(result.rows(1), ensure_ascii=False, allow_nan=False)
            assert "\x00" not in text
            text.encode()
        elif call.endpoint == SUBMIT:
            assert isinstance(result, str)
            assert result.encode()


class TestHostileReplies:
    @given(entries=ENTRIES)
    def test_the_same_counters_give_equal_rows_in_json_and_xml(self, entries: list[Any]) -> None:
        as_json = completed(
            *(
                entry(
                    [{"channel": name, "status": counters} for name, counters in channels],
                    in_progress=in_progress,
                    list_id=list_id,
                    updated=updated,
                )
                for channels, in_progress, list_id, updated in entries
            )
        )
        as_xml = (
            "<xml><data><status>completed</status><progress>100</progress>"
            + ("".join(_xml_entry(*of) for of in entries) or "<result/>")
            + "</data><error>0</error></xml>"
        )
        from_json, from_xml = look(reply(as_json)), look(reply(as_xml))
        assert from_json == from_xml
        assert [list(row) for row in from_json.rows(7)] == [list(row) for row in from_xml.rows(7)]

    @given(
        body=st.binary(max_size=300), status=st.sampled_from([200, 204, 302, 400, 429, 503]), headers=HEADERS
    )
    def test_arbitrary_bytes(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        check_every_reader(Reply(status, headers, body))

    @given(body=BENT, status=st.sampled_from([200, 200, 200, 302, 429]), headers=HEADERS)
    def test_what_is_nearly_a_message(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        check_every_reader(Reply(status, headers, body))

    @given(headers=HEADERS, jitter=st.floats(0, 1))
    def test_hostile_headers(self, headers: dict[str, str], jitter: float) -> None:
        with pytest.raises(HttpStatusError) as caught:
            look(Reply(503, headers, b""))
        # Whatever it says, five minutes is the longest that is waited for.
        assert 0.5 <= policy.backoff(1, jitter, caught.value.retry_after) <= 300

    def test_the_worst_bodies_stay_within_limits_of_memory_and_time(self) -> None:
        run = subprocess.run([sys.executable, worst_bodies.__file__], capture_output=True, check=False)
        assert run.returncode == 0, run.stderr.decode()
        kinds = [json.loads(line)["kind"] for line in run.stdout.splitlines()]
        assert kinds == list(worst_bodies.BODIES)

    @given(message=ODD_MESSAGE, status=st.sampled_from([200, 500]))
    def test_json_values_of_wrong_types(self, message: dict[str, Any], status: int) -> None:
        check_every_reader(reply(message, status))

    @given(message=ODD_MESSAGE)
    def test_xml_values_of_wrong_types(self, message: dict[str, Any]) -> None:
        with suppress(ConfigurationError):  # what XML cannot hold, no server can send
            check_every_reader(reply(XML.dumps(message)))

    @pytest.mark.parametrize("name", ["tasks_status.response", "several_entries"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_every_truncation_of_a_sample_is_an_error(
        self,
        sample: Callable[[str], bytes],
        name: str,
        format: str,
    ) -> None:
        body = sample(f"{name}.{format}").rstrip()
        call = api.task_status(settings(), "x")
        for length in range(len(body)):
            with pytest.raises(ReplyError):
                call.read(reply(body[:length], content_type=MIMETYPES[format]))

    def test_a_long_number_is_refused_at_once(self) -> None:
        # int() of so many digits would be a ValueError of Python's own.
        check_every_reader(reply('{"error": ' + "9" * 10_000 + "}"))
        check_every_reader(reply("<xml><error>" + "9" * 10_000 + "</error></xml>"))
        check_every_reader(reply('{"error": 1e999}'))
