"""The hook against the emulator: from an Airflow connection to typed results and one-line errors."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
import traceback
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk._shared.secrets_masker import redact
from support.servers import Server, answers, make_certificate

from airflow_provider_segstats.core import api, flows
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    ConfigurationError,
    NoAnswerError,
    NotSentError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.model import (
    DatabaseDetails,
    Group,
    ListedDatabase,
    ListedSegment,
    ResourceDetails,
    Segment,
)
from airflow_provider_segstats.core.policy import plan_from
from airflow_provider_segstats.emulator import Fault
from airflow_provider_segstats.hooks import SegStatsHook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_segstats.core.model import TaskStatus
    from airflow_provider_segstats.core.settings import Settings
    from airflow_provider_segstats.emulator import Emulator

FORMATS: tuple[Any, ...] = ("json", "xml")
WAYS = ("sync", "async")
SUBMIT, STATUS = "segments/refresh_counters", "tasks/status"
HOSTILE = "t<&>\"'\\/]]>{}%s\u00e9\u2116\U0001f511"


def wait(way: str, hook: SegStatsHook, task_id: str, *, timeout: float = 30) -> TaskStatus:
    if way == "sync":
        return hook.wait_for_task(task_id, timeout=timeout, poke_interval=0.02)
    plan = plan_from(time.time(), timeout=timeout, poke_interval=0.02)
    return asyncio.run(hook.run_async(lambda settings, world: flows.wait(settings, task_id, plan, world)))


def submit(way: str) -> str:
    hook = SegStatsHook()
    if way == "sync":
        return hook.refresh_counters(7, 24)
    submitted = hook.run_async(lambda settings, world: flows.submit(settings, Segment(7, 24), "fail", world))
    return asyncio.run(submitted).task_id


@pytest.fixture
def connected(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    connect(emulator.url)
    return emulator


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_recount_is_started_awaited_and_read(
    connected: Emulator,
    connect: Callable[..., None],
    format: Any,
    way: str,
) -> None:
    connect(connected.url, format=format, account="acme")
    connected.configure(seconds=0.1)
    hook = SegStatsHook()
    task_id = hook.refresh_counters(7, 24, 1)
    status = wait(way, hook, task_id)
    assert (status.status, status.progress) == ("completed", 100)
    rows = status.rows(7)
    assert [(row["segment_id"], row["resource_id"], row["list_id"]) for row in rows] == [(7, 24, 1)] * len(
        rows
    )
    assert [(row["source"], row["channel"]) for row in rows] == [
        ("acme", channel) for channel in ("email", "push", "sms")
    ]
    assert {entry.format for entry in connected.journal()} == {format}


@pytest.mark.parametrize("name", ["completed", "success"])
@pytest.mark.parametrize("outcome", ["completed", "empty", "entries", "odd"])
def test_json_and_xml_give_equal_rows(connected: Emulator, outcome: str, name: str) -> None:
    connected.add_fault(Fault("task", outcome=outcome, name=name))
    task_id = SegStatsHook().refresh_counters(7, 24, 1)
    as_json, as_xml = (SegStatsHook(format=name).task_status(task_id) for name in FORMATS)
    assert as_json == as_xml
    assert as_json.status == name
    assert [list(row) for row in as_json.rows(7)] == [list(row) for row in as_xml.rows(7)]
    assert bool(as_json.rows(7)) is (outcome != "empty")


def test_the_hooks_format_overrides_the_connections(
    connected: Emulator, connect: Callable[..., None]
) -> None:
    connect(connected.url, format="json")
    SegStatsHook(format="xml").refresh_counters(7, 24)
    assert [entry.content_type for entry in connected.journal()] == ["application/xml"]


@pytest.mark.parametrize("format", ["yaml", "", 1])
def test_another_format_is_refused_at_once(format: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^format can be 'json' or 'xml', not "):
        SegStatsHook(format=format)


@pytest.mark.parametrize("token_in", ["body", "header"])
def test_the_token_goes_where_the_connection_says(
    connected: Emulator, connect: Callable[..., None], token_in: str
) -> None:
    connect(connected.url, token_in=token_in)
    SegStatsHook().refresh_counters(7, 24)
    assert [entry.token_in for entry in connected.journal()] == [token_in]


@pytest.mark.parametrize("format", FORMATS)
def test_a_token_of_any_characters_works(
    connected: Emulator,
    connect: Callable[..., None],
    format: Any,
) -> None:
    connected.configure(token=HOSTILE)
    connect(connected.url, HOSTILE, format=format)
    assert SegStatsHook().task_status(SegStatsHook().refresh_counters(7, 24)).status == "completed"


@pytest.mark.usefixtures("connected")
def test_extra_params_reach_the_server() -> None:
    task_id = SegStatsHook().refresh_counters(7, 24, extra_params={"list_id": 3})
    assert [row["list_id"] for row in SegStatsHook().task_status(task_id).rows(7)] == [3, 3, 3]


MISSING = "connection 'nowhere': there is no such connection; create it with the type 'segstats'"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (
            "application/json; charset=windows-1251",
            '{"error": 440, "error_text": "\u041d\u0435\u0442"}'.encode("windows-1251"),
        ),
        (
            "application/xml; charset=windows-1251",
            "<xml><error>440</error><error_text>\u041d\u0435\u0442</error_text></xml>".encode("windows-1251"),
        ),
        (
            "application/json",
            (
                '\n<?xml version="1.0" encoding="utf-16"?>'
                "<xml><error>440</error><error_text>\u041d\u0435\u0442</error_text></xml>"
            ).encode(),
        ),
    ],
)
def test_an_api_error_in_another_charset_is_no_lost_answer(
    connected: Emulator, way: str, content_type: str, body: bytes
) -> None:
    connected.add_fault(Fault("reply", endpoint=SUBMIT, body=body, content_type=content_type))
    with pytest.raises(ApiError, match="API error 440: \u041d\u0435\u0442"):
        submit(way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("json", '{"error_text": "\u0414\u0430", "data": {"task_id": "t"}}'),
        ("xml", "<xml><error_text>\u0414\u0430</error_text><data><task_id>t</task_id></data></xml>"),
    ],
)
def test_the_id_of_a_submit_survives_another_charset(
    connected: Emulator, way: str, format: str, text: str
) -> None:
    kind = f"application/{format}; charset=windows-1251"
    body = text.encode("windows-1251")
    connected.add_fault(Fault("reply", endpoint=SUBMIT, body=body, content_type=kind))
    assert submit(way) == "t"


@pytest.mark.parametrize("format", FORMATS)
def test_ids_of_a_query_or_as_text_go_to_the_wire_as_whole_numbers(connected: Emulator, format: Any) -> None:
    hook = SegStatsHook(format=format)
    ids: tuple[Any, ...] = (Decimal(7), 24.0, "1.0")
    [row, *_] = hook.task_status(hook.refresh_counters(*ids)).rows(7)
    assert (row["list_id"], row["resource_id"]) == (1, 24)
    assert connected.journal()[0].segment_id == 7


def test_an_id_that_is_none_is_refused_before_any_request(connected: Emulator) -> None:
    with pytest.raises(ConfigurationError, match=r"^resource_id must be a whole number above 0, not 'x'$"):
        SegStatsHook().refresh_counters(7, "x")
    assert connected.journal() == []


class TestTestConnection:
    """Told apart: name not found, refused, TLS, not this API, token refused, no right to list, fine."""

    WHERE = "connection 'segstats_default', segments/list"

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_good_connection_is_told_how_many_segments_it_sees_and_starts_nothing(
        self, connected: Emulator, format: Any
    ) -> None:
        connected.load_seed({"segments": [{"id": i, "name": "", "static": True} for i in range(1, 1501)]})
        assert SegStatsHook(format=format).test_connection() == (
            True,
            "The API answered and took the token, which sees 1500 segments",
        )
        assert [(entry.endpoint, entry.accepted) for entry in connected.journal()] == [
            ("segments/list", False)
        ]

    def test_a_token_without_the_right_to_list_passes_and_is_told_so(
        self, connected: Emulator, connect: Callable[..., None]
    ) -> None:
        connected.load_seed({"tokens": [{"token": "mute", "may_list": False}]})
        connect(connected.url, "mute")
        fine, line = SegStatsHook().test_connection()
        assert fine
        assert "has no right to list segments" in line
        assert line.endswith("(API error 403: No access)")

    def test_a_bad_token(self, connected: Emulator, connect: Callable[..., None]) -> None:
        connect(connected.url, "wr0ng")
        assert SegStatsHook().test_connection() == (
            False,
            f"{self.WHERE}: API error 401: Invalid API token; is the API token in the connection's password?",
        )

    def test_a_server_that_is_not_there(self, connect: Callable[..., None]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        connect(f"http://127.0.0.1:{port}")
        fine, line = SegStatsHook().test_connection()
        assert not fine
        assert line.startswith(f"{self.WHERE}: could not connect to 127.0.0.1:{port}")
        assert line.endswith(": Connection refused")

    def test_a_name_that_is_not_found(self, connect: Callable[..., None]) -> None:
        connect("https://segments.invalid")
        fine, line = SegStatsHook().test_connection()
        assert not fine
        assert line.startswith(f"{self.WHERE}: could not connect")
        assert line.endswith((": Name or service not known", ": Temporary failure in name resolution"))

    def test_a_server_without_tls(self, connected: Emulator, connect: Callable[..., None]) -> None:
        connect(connected.url.replace("http://", "https://"))
        fine, line = SegStatsHook().test_connection()
        assert not fine
        assert ": TLS failed (" in line

    def test_a_certificate_that_cannot_be_trusted(self, connect: Callable[..., None], tmp_path: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(make_certificate(tmp_path, "own", address="127.0.0.1", days=9))
        with Server(answers(b"never read"), context) as server:
            connect(server.url)
            fine, line = SegStatsHook().test_connection()
        assert not fine
        assert "the server's certificate is not trusted: TLS failed (self-signed certificate)" in line

    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            (Fault("http", status=404), "HTTP 404 without an answer of the API"),
            (Fault("html"), "the answer is XML without the root <xml>"),
            (Fault("reply", body=b'{"hello": "world"'), "the answer is not JSON"),
        ],
    )
    def test_a_server_that_is_not_this_api(self, connected: Emulator, fault: Fault, line: str) -> None:
        connected.add_fault(fault)
        assert SegStatsHook().test_connection() == (
            False,
            f"{self.WHERE}: {line}; is this the API? See the connection's host, port and base_path",
        )

    def test_a_server_that_points_elsewhere(self, connected: Emulator) -> None:
        connected.add_fault(Fault("redirect", location="https://elsewhere.example/"))
        assert SegStatsHook().test_connection() == (
            False,
            f"{self.WHERE}: HTTP 302 points to https://elsewhere.example/; set the connection's host to it",
        )

    def test_a_missing_connection(self) -> None:
        assert SegStatsHook("nowhere").test_connection() == (False, MISSING)

    def test_a_connection_that_cannot_be_used(self, connect: Callable[..., None]) -> None:
        connect("example.com", timeout="soon")
        assert SegStatsHook().test_connection() == (
            False,
            "connection 'segstats_default': extra timeout must be a number above 0",
        )


class Rotating(SegStatsHook):
    """Sees the connection as it was first, as a wait does that began before a token was rotated."""

    def __init__(self, rotate: Callable[[], None], format: Any = None) -> None:
        super().__init__(format=format)
        self.loads = 0
        self._rotate = rotate

    def _settings(self, connection: Any) -> Any:
        self.loads += 1
        self._rotate()
        return super()._settings(connection)


SEED = {
    "segments": [
        {"id": 8, "name": "Buyers", "ui_tags": ["shop", "weekly"], "groups": [1, 2], "databases": [3, 4]},
        {"id": 9, "name": 'G\u00e4ste "&" \u2116', "static": True},
    ],
    "groups": [{"id": 1, "name": "north"}, {"id": 2, "name": "south"}],
    "databases": [{"id": 3, "name": "Customers"}, {"id": 4, "name": "Guests", "suppress_id": 5}],
    "resources": [{"id": 24, "name": "Shop", "channels": ["email", "viber"], "databases": [3, 4]}],
}
READS: dict[str, tuple[Callable[[SegStatsHook], Any], Any]] = {
    "list_segments": (
        lambda hook: hook.list_segments(),
        [
            ListedSegment(8, "Buyers", ("shop", "weekly"), (Group(1, "north"), Group(2, "south"))),
            ListedSegment(9, 'G\u00e4ste "&" \u2116'),
        ],
    ),
    "list_databases": (
        lambda hook: hook.list_databases(),
        [ListedDatabase(3, "Customers"), ListedDatabase(4, "Guests")],
    ),
    "get_database": (lambda hook: hook.get_database("4"), DatabaseDetails(4, "Guests", 5, "")),
    "get_resource": (
        lambda hook: hook.get_resource(24),
        ResourceDetails(24, "Shop", ("email", "viber"), (3, 4), "", ""),
    ),
}
CHOICES: list[tuple[dict[str, Any], list[int]]] = [
    ({"ui_tags": ["weekly"]}, [8]),
    ({"groups": ["south", "none"]}, [8]),
    ({"groups_id": [1]}, [8]),
    ({"ui_tags": ["none"]}, []),
]


@pytest.fixture
def seeded(make_emulator: Callable[..., Emulator], connect: Callable[..., None]) -> Emulator:
    emulator = make_emulator(seed=SEED, seconds=0.0)
    connect(emulator.url, account="acme")
    return emulator


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("format", FORMATS)
class TestReading:
    @pytest.mark.parametrize("name", READS)
    def test_what_there_is_is_read(self, format: Any, name: str) -> None:
        read, expected = READS[name]
        assert read(SegStatsHook(format=format)) == expected

    @pytest.mark.parametrize(("asked", "ids"), CHOICES)
    def test_segments_are_chosen_by_tag_and_group(
        self, format: Any, asked: dict[str, Any], ids: list[int]
    ) -> None:
        found = SegStatsHook(format=format).list_segments(**asked)
        assert [segment.segment_id for segment in found] == ids

    def test_a_segment_has_its_name_its_size_and_its_databases(self, format: Any) -> None:
        buyers, guests = (SegStatsHook(format=format).get_segment(number) for number in (8, "9"))
        assert (buyers.segment_id, buyers.name, buyers.list_ids) == (8, "Buyers", (3, 4))
        assert buyers.count
        assert (guests.name, guests.list_ids) == ('G\u00e4ste "&" \u2116', ())

    def test_counters_are_those_of_the_last_recount_and_marked(self, format: Any) -> None:
        hook = SegStatsHook(format=format)
        recounted = hook.wait_for_task(hook.refresh_counters(8, 24, 3)).rows(8)
        read = hook.get_counters(8, 24, 3)
        assert [row["channel"] for row in read] == ["email", "viber"]
        assert read == [{**row, "updated": None, "recounted": False} for row in recounted]

    def test_lists_are_read_on_an_event_loop_too(self, format: Any) -> None:
        hook = SegStatsHook(format=format)

        async def read() -> list[Any]:
            return await asyncio.gather(
                hook.run_async(lambda settings, world: flows.read_list(settings, api.list_segments, world)),
                hook.run_async(
                    lambda settings, world: flows.read(settings, lambda of: api.get_resource(of, 24), world)
                ),
            )

        assert asyncio.run(read()) == [READS["list_segments"][1], READS["get_resource"][1]]

    def test_what_is_not_there_is_the_apis_error(self, format: Any) -> None:
        with pytest.raises(ApiError, match=r"^connection 'segstats_default', segments/get: API error 400: "):
            SegStatsHook(format=format).get_segment(7)


@pytest.mark.parametrize(
    ("count", "next_from_id", "format", "way"),
    [
        *product([0, 1, 1000, 1001], ["last", "beyond"], FORMATS, WAYS),
        (25_000, "last", "json", "async"),
        (25_000, "beyond", "xml", "sync"),
    ],
)
def test_a_list_of_any_length_comes_over_the_wire(
    seeded: Emulator, format: Any, next_from_id: str, count: int, way: str
) -> None:
    seeded.configure(next_from_id=next_from_id)
    seeded.load_seed(
        {"segments": [{"id": 7 * i, "name": f"N {i}", "static": True} for i in range(1, count + 1)]}
    )
    hook = SegStatsHook(format=format)
    if way == "sync":
        found = hook.list_segments()
    else:
        found = asyncio.run(
            hook.run_async(lambda settings, world: flows.read_list(settings, api.list_segments, world))
        )
    assert found == [ListedSegment(7 * i, f"N {i}") for i in range(1, count + 1)]


@pytest.mark.parametrize("next_from_id", ["last", "beyond"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_list_that_changes_while_it_is_read_has_what_stays_once(
    seeded: Emulator, format: Any, next_from_id: str
) -> None:
    ids = set(range(1, 3501))

    def load() -> None:
        seeded.load_seed({"segments": [{"id": i, "name": "", "static": True} for i in sorted(ids)]})

    def change_between_pages(settings: Settings, from_id: int | None) -> api.Call[Any]:
        if from_id is not None and from_id < 3000:
            ids.difference_update({from_id - 1, from_id, from_id + 1, 1})
            ids.add(5000 + from_id)
            load()
        return api.list_segments(settings, from_id)

    load()
    seeded.configure(next_from_id=next_from_id)
    found = SegStatsHook(format=format).run(
        lambda settings, world: flows.read_list(settings, change_between_pages, world)
    )
    seen = [segment.segment_id for segment in found]
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert ids & set(range(1, 3501)) <= set(seen) <= ids | set(range(1, 3501))
    assert max(seen) > 5000


@pytest.mark.parametrize("fault", ["http", "reset", "lost_answer", "truncate", "html"])
def test_a_page_that_fails_once_is_asked_for_again(seeded: Emulator, fault: str) -> None:
    seeded.add_fault(Fault(fault, skip=1))
    assert SegStatsHook().list_segments() == READS["list_segments"][1]
    assert [entry.fault for entry in seeded.journal()] == [None, fault, None]


class TestErrors:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_missing_connection_is_named(self, way: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            wait(way, SegStatsHook("nowhere"), "task_1")
        assert str(caught.value) == (MISSING)
        assert caught.value.permanent

    def test_a_submits_error_names_connection_and_endpoint(self, connected: Emulator) -> None:
        connected.add_fault(Fault("api_error", code=402, text="Tariff limit reached"))
        with pytest.raises(ApiError) as caught:
            SegStatsHook().refresh_counters(7, 24)
        line = "connection 'segstats_default', segments/refresh_counters: API error 402: Tariff limit reached"
        assert str(caught.value) == line

    @pytest.mark.parametrize("way", WAYS)
    def test_a_waits_error_names_connection_and_endpoint(self, connected: Emulator, way: str) -> None:
        connected.add_fault(Fault("api_error", endpoint=STATUS, code=403, text="No access"))
        with pytest.raises(ApiError) as caught:
            wait(way, SegStatsHook(), "task_1")
        assert str(caught.value) == "connection 'segstats_default', tasks/status: API error 403: No access"
        assert caught.value.task_id == "task_1"

    def test_parameters_that_cannot_be_sent_are_refused_before_any_request(self, connected: Emulator) -> None:
        for params in ({"token": "x"}, {"a b": 1}):
            with pytest.raises(ConfigurationError, match=r"^connection 'segstats_default'"):
                SegStatsHook(format="xml").refresh_counters(7, 24, extra_params=params)
        assert connected.journal() == []

    def test_a_lost_answer_is_ambiguous_and_not_repeated(self, connected: Emulator) -> None:
        connected.add_fault(Fault("lost_answer", endpoint=SUBMIT))
        with pytest.raises(AmbiguousSubmitError):
            SegStatsHook().refresh_counters(7, 24)
        assert [entry.accepted for entry in connected.journal()] == [True]

    def test_a_lost_answer_is_repeated_when_asked(self, connected: Emulator) -> None:
        connected.add_fault(Fault("lost_answer", endpoint=SUBMIT))
        assert SegStatsHook().refresh_counters(7, 24, on_ambiguous_submit="resubmit")
        assert [entry.accepted for entry in connected.journal()] == [True, True]

    def test_a_look_that_fails_is_not_repeated(self, connected: Emulator) -> None:
        connected.add_fault(Fault("reset", endpoint=STATUS))
        with pytest.raises(NoAnswerError):
            SegStatsHook().task_status("task_1")
        assert len(connected.journal()) == 1

    @pytest.mark.parametrize("way", WAYS)
    def test_a_failed_task_tells_why(self, connected: Emulator, way: str) -> None:
        connected.add_fault(Fault("task", outcome="failed", text="No such list"))
        hook = SegStatsHook()
        task_id = hook.refresh_counters(7, 24)
        with pytest.raises(TaskFailedError) as caught:
            wait(way, hook, task_id)
        error = caught.value
        assert (error.task_id, error.status, error.text) == (task_id, "failed", "No such list")
        assert str(error).startswith(
            "connection 'segstats_default', tasks/status: the recount ended as 'failed' (progress "
        )

    @pytest.mark.parametrize("way", WAYS)
    def test_a_task_that_takes_too_long_is_told_with_its_last_status(
        self, connected: Emulator, way: str
    ) -> None:
        connected.add_fault(Fault("task", outcome="stuck"))
        hook = SegStatsHook()
        task_id = hook.refresh_counters(7, 24)
        with pytest.raises(WaitTimeoutError) as caught:
            wait(way, hook, task_id, timeout=0.1)
        assert (caught.value.task_id, caught.value.status, caught.value.progress) == (task_id, "running", 50)

    @pytest.mark.parametrize("way", WAYS)
    def test_a_failed_look_between_is_overcome(self, connected: Emulator, way: str) -> None:
        hook = SegStatsHook()
        task_id = hook.refresh_counters(7, 24)
        connected.add_fault(Fault("http", endpoint=STATUS, status=503))
        assert wait(way, hook, task_id).status == "completed"
        assert [entry.status for entry in connected.journal()] == [200, 503, 200]

    @pytest.mark.parametrize("way", WAYS)
    def test_a_token_rotated_during_the_wait_is_read_from_the_connection(
        self, connected: Emulator, connect: Callable[..., None], way: str
    ) -> None:
        connect(connected.url, "old")
        connected.configure(token="old")
        task_id = SegStatsHook().refresh_counters(7, 24)
        connected.configure(token="new")
        hook = Rotating(lambda: connect(connected.url, "new"))
        assert wait(way, hook, task_id).status == "completed"
        assert hook.loads == 2
        assert [entry.error for entry in connected.journal()] == [0, 401, 0]

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_token_rotated_before_a_submit_is_read_from_the_connection(
        self, connected: Emulator, connect: Callable[..., None], format: Any
    ) -> None:
        connect(connected.url, "old")
        connected.configure(token="new")
        hook = Rotating(lambda: connect(connected.url, "new"), format)
        assert hook.refresh_counters(7, 24)
        assert [(entry.error, entry.accepted) for entry in connected.journal()] == [(401, False), (0, True)]

    @pytest.mark.parametrize("way", WAYS)
    def test_a_token_that_stays_wrong_is_permanent_after_one_reading(
        self, connected: Emulator, connect: Callable[..., None], way: str
    ) -> None:
        connect(connected.url, "wr0ng")
        with pytest.raises(ApiError) as caught:
            wait(way, SegStatsHook(), "task_1")
        assert caught.value.permanent
        assert len(connected.journal()) == 2

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_mesh_that_says_503_of_what_was_accepted_is_not_asked_twice(
        self, connected: Emulator, connect: Callable[..., None], format: Any
    ) -> None:
        connect(connected.url, format=format, refused_statuses=[])
        connected.add_fault(Fault("http", endpoint=SUBMIT, status=503))
        with pytest.raises(AmbiguousSubmitError, match="HTTP 503 without an answer of the API"):
            SegStatsHook().refresh_counters(7, 24)
        assert len(connected.journal()) == 1

    @pytest.mark.parametrize("way", WAYS)
    def test_the_password_of_the_environments_proxy_is_masked_in_logs(
        self, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        password = f"pr0xy-0f-{way}"
        monkeypatch.setenv("https_proxy", f"http://me:{password}@127.0.0.1:1")
        connect("https://nowhere.invalid")
        with pytest.raises(NotSentError):
            submit(way)
        assert redact(f"by {password}") == "by ***"

    def test_a_refused_connection_names_where(self, connect: Callable[..., None]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        connect(f"http://127.0.0.1:{port}")
        with pytest.raises(NotSentError) as caught:
            SegStatsHook().task_status("task_1")
        line = "connection 'segstats_default', tasks/status: "
        line += f"could not connect to 127.0.0.1:{port}: Connection refused"
        assert str(caught.value) == line

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "html"}], ids=str)
    def test_the_log_of_a_task_of_ones_own_shows_no_librarys_frames(
        self, connected: Emulator, way: str, fault: Any
    ) -> None:
        connected.add_fault(Fault(endpoint=SUBMIT, times=None, **fault))
        with pytest.raises(SegStatsError) as caught:
            submit(way)
        error = caught.value
        assert error.__cause__ is None
        assert error.__suppress_context__
        shown = "".join(traceback.format_exception(error))
        assert not any(f"/{library}/" in shown for library in ("requests", "urllib3", "aiohttp"))

    @pytest.mark.parametrize("way", WAYS)
    def test_no_error_holds_the_token_that_the_server_echoes(
        self, connected: Emulator, connect: Callable[..., None], way: str
    ) -> None:
        connect(connected.url, "s3cret-t0ken")
        for code in (403, 403):
            connected.add_fault(Fault("api_error", code=code, text="No access for s3cret-t0ken"))
        with pytest.raises(SegStatsError) as caught:
            wait(way, SegStatsHook(), "task_1")
        assert "s3cret" not in f"{caught.value} {caught.value!r} {json.dumps(caught.value.to_dict())}"


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_without_extra_of_any_kind_is_read_in_both_ways(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    fields = {
        "conn_type": "segstats",
        "host": "127.0.0.1",
        "port": emulator.port,
        "schema": "http",
        "password": emulator.token,
    }
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(fields))
    hook = SegStatsHook("shop")
    assert wait(way, hook, hook.refresh_counters(7, 24)).status == "completed"


def test_what_airflow_reads_off_the_class() -> None:
    assert SegStatsHook.conn_name_attr == "segstats_conn_id"
    assert SegStatsHook.default_conn_name == SegStatsHook().segstats_conn_id == "segstats_default"
    assert SegStatsHook.conn_type == "segstats"
