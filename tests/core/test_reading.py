"""What is read rather than recounted: requests and answers in literal bytes, lists to their end, faults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from airflow_provider_segstats.core import api, flows, policy
from airflow_provider_segstats.core.api import Call, Reply
from airflow_provider_segstats.core.errors import (
    ApiError,
    CertificateError,
    ConfigurationError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    RedirectError,
    ReplyError,
    SegStatsError,
)
from airflow_provider_segstats.core.flows import Pause, Reload, World
from airflow_provider_segstats.core.model import (
    Channel,
    Counted,
    Database,
    DatabaseDetails,
    Group,
    ListedDatabase,
    ListedSegment,
    Page,
    Resource,
    ResourceDetails,
    Segment,
    SegmentDetails,
)
from airflow_provider_segstats.core.settings import Settings

FORMATS = ("json", "xml")
TOKEN = "abcdefghijklmnqrstuvwxyz"
EMAIL = Channel("email", {"subscribed_sendable": 120, "unconfirmed_sendable": 14})
TASK_ID = "55a345c8-3d79-47ef-b03e-b84ce8e0c126"

ENDPOINTS: dict[str, tuple[Callable[[Settings], Call[Any]], Any]] = {
    "segments/list": (
        lambda of: api.list_segments(of, 7, ui_tags=["weekly"], groups=["north"], groups_id=[1]),
        Page({7: ListedSegment(7, "Readers", ("weekly",), (Group(1, "north"),))}, 7, 1),
    ),
    "databases/list": (api.list_databases, Page({1: ListedDatabase(1, "Customers")}, 1, 1)),
    "segments/get": (lambda of: api.get_segment(of, 7), SegmentDetails(7, "Readers", 120, (1,))),
    "segments/get_counters": (
        lambda of: api.get_counters(of, Segment(7, 24, 1)),
        Counted((EMAIL,), "example.com"),
    ),
    "databases/get": (
        lambda of: api.get_database(of, 1),
        DatabaseDetails(1, "Customers", 5, "All of them"),
    ),
    "resources/get": (
        lambda of: api.get_resource(of, 24),
        ResourceDetails(24, "Shop", ("email",), (1,), "https://shop.example", "t.shop.example"),
    ),
    "databases/refresh_counters": (lambda of: api.refresh_counters(of, Database(1, 24)), TASK_ID),
    "resources/refresh_counters": (lambda of: api.refresh_counters(of, Resource(24, 1)), TASK_ID),
}
READS = [endpoint for endpoint in ENDPOINTS if "refresh" not in endpoint]
SLASHED = {"segments/list", "databases/list", "segments/get", "databases/get"}

Sample = Callable[[str], bytes]
in_both_formats = pytest.mark.parametrize("format", FORMATS)
of_each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)
of_each_read = pytest.mark.parametrize("endpoint", READS)


def settings(format: str = "json", token: str = TOKEN) -> Settings:
    return Settings.from_fields(host="example.com", password=token, extra={"format": format})


def reply(body: bytes | str, status: int = 200, **headers: str) -> Reply:
    body = body.encode() if isinstance(body, str) else body
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def answer(endpoint: str, format: str, sample: Sample) -> Reply:
    name = "refresh_counters" if "refresh" in endpoint else endpoint.replace("/", "_")
    return reply(sample(f"{name}.response.{format}"))


class TestEndpoints:
    @of_each_endpoint
    @in_both_formats
    def test_the_request_is_the_samples_to_the_byte(self, endpoint: str, format: str, sample: Sample) -> None:
        make_call, _ = ENDPOINTS[endpoint]
        request = make_call(settings(format)).request
        name = endpoint.replace("/", "_")
        assert request.body == sample(f"{name}.request.{format}").strip()
        slash = "/" if endpoint in SLASHED else ""
        assert request.url == f"https://example.com/api/v1.1/{endpoint}{slash}"

    @of_each_endpoint
    @in_both_formats
    def test_the_samples_answer_is_read(self, endpoint: str, format: str, sample: Sample) -> None:
        make_call, result = ENDPOINTS[endpoint]
        assert make_call(settings(format)).read(answer(endpoint, format, sample)) == result

    @of_each_endpoint
    def test_an_error_names_the_endpoint_and_never_the_token(self, endpoint: str) -> None:
        make_call, _ = ENDPOINTS[endpoint]
        with pytest.raises(ApiError) as caught:
            make_call(settings()).read(reply(f'{{"error": 403, "error_text": "not for {TOKEN}"}}'))
        assert str(caught.value) == f"{endpoint}: API error 403: not for ***"

    @in_both_formats
    def test_an_empty_list_is_a_page_of_nothing(self, format: str, sample: Sample) -> None:
        call = api.list_segments(settings(format))
        assert call.read(reply(sample(f"empty_list.response.{format}"))) == Page({}, 0, 0)

    @pytest.mark.parametrize(
        "body",
        [
            '{"data": null, "error": 0}',
            '{"error": 0}',
            "<xml><error>0</error></xml>",
            "<xml><data/><error>0</error></xml>",
        ],
    )
    def test_a_list_may_be_absent(self, body: str) -> None:
        assert api.list_segments(settings()).read(reply(body)) == Page({}, None, None)

    @pytest.mark.parametrize(
        "body",
        [
            '{"data": [{"id": 7, "name": "R", "Groups": [{"Id": 1, "Name": "n"}, {"Id": 2, "Name": "s"}]}]}',
            '{"data": [{"id": 7, "name": "R", "groups": [{"id": 1, "name": "n"}, {"id": 2, "name": "s"}]}]}',
            "<xml><data><groups><id>1</id><name>n</name></groups><groups><id>2</id><name>s</name></groups>{}",
            "<xml><data><Groups><Id>1</Id><Name>n</Name></Groups><Groups><Id>2</Id><Name>s</Name></Groups>{}",
        ],
    )
    def test_groups_are_read_in_every_spelling(self, body: str) -> None:
        body = body.replace("{}", "<id>7</id><name>R</name></data></xml>")
        page = api.list_segments(settings()).read(reply(body))
        assert page.things == {7: ListedSegment(7, "R", (), (Group(1, "n"), Group(2, "s")))}

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            ("007", "007"),
            ("true", "true"),
            ("Gäste &amp; &quot;Freunde&quot; №", 'Gäste & "Freunde" №'),
            ("", ""),
            ("two\nlines\tand a tab", "two lines and a tab"),
            ("x" * 5000, "x" * 1000),
        ],
    )
    def test_a_name_is_whatever_people_typed(self, written: str, name: str) -> None:
        body = f"<xml><data><id>7</id><name>{written}</name></data></xml>"
        assert api.list_segments(settings()).read(reply(body)).things[7].name == name
        assert api.get_segment(settings(), 7).read(reply(body)).name == name

    @pytest.mark.parametrize(
        ("rules", "list_ids"),
        [
            ("", ()),
            ("<segment/>", ()),
            ("<segment><list_id>3</list_id></segment>", (3,)),
            ("<segment><list_id>3</list_id></segment><segment><list_id>1</list_id></segment>", (3, 1)),
            ("<segment><list_id>3</list_id></segment><segment><list_id>3</list_id></segment>", (3,)),
            ("<segment><list_id>0</list_id></segment><segment><condition>AND</condition></segment>", ()),
        ],
    )
    def test_a_segments_databases_are_those_of_its_rules(self, rules: str, list_ids: tuple[int, ...]) -> None:
        body = f"<xml><data><id>7</id><name>R</name>{rules}</data></xml>"
        assert api.get_segment(settings(), 7).read(reply(body)).list_ids == list_ids

    @pytest.mark.parametrize(
        ("endpoint", "body", "line"),
        [
            ("segments/list", '{"data": [7]}', "the answer's list holds something that is no object"),
            ("segments/list", '{"data": {"id": 7}}', "the answer's data is not a list"),
            ("segments/list", '{"data": [{"name": "R"}]}', "the answer says success and has no id"),
            ("segments/list", '{"data": [{"id": "x"}]}', "the answer's id is not a whole number"),
            ("segments/get", '{"data": []}', "the answer's data is not an object"),
            ("segments/get", '{"data": {}}', "the answer says success and has no id"),
            ("segments/get", '{"data": {"id": 7, "segment": {}}}', "the answer's segment is not a list"),
            ("segments/get_counters", '{"data": [1]}', "a channel of the result is not an object"),
            ("databases/get", "{}", "the answer says success and has no id"),
            ("resources/get", '{"data": {"id": 24, "dbs_ids": 1}}', "the answer's dbs_ids is not a list"),
            ("databases/refresh_counters", '{"data": {}}', "the answer says success and has no task_id"),
        ],
    )
    def test_an_answer_that_makes_no_sense_says_why(self, endpoint: str, body: str, line: str) -> None:
        make_call, _ = ENDPOINTS[endpoint]
        with pytest.raises(ReplyError) as caught:
            make_call(settings()).read(reply(body))
        assert str(caught.value) == f"{endpoint}: {line}"

    def test_counters_as_last_counted_are_marked_as_such(self) -> None:
        assert Counted((EMAIL,), "acme").rows(Segment(7, 24, 1)) == [
            {
                "source": "acme",
                "segment_id": 7,
                "list_id": 1,
                "resource_id": 24,
                "channel": "email",
                "subscribed_sendable": 120,
                "unconfirmed_sendable": 14,
                "updated": None,
                "recounted": False,
            }
        ]

    @pytest.mark.parametrize(
        ("what", "clash"),
        [
            (Segment(7, 24, extra_params={"db_id": 1}), "db_id"),
            (Database(1, 24, {"id": 1, "token": "x"}), "id, token"),
            (Resource(24, 1, {"list_id": 2}), "list_id"),
        ],
    )
    def test_extra_params_may_not_replace_what_has_an_argument(self, what: Any, clash: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^extra_params may not set {clash}$"):
            api.refresh_counters(settings(), what)

    def test_extra_params_go_beside_the_others(self) -> None:
        feedback = {"feedback": {"type": "JSON", "url": "https://example.org"}}
        body = api.refresh_counters(settings(), Database(1, 24, feedback)).request.body
        assert b'"feedback":{"type":"JSON","url":"https://example.org"}' in body


class Drive:
    """Drives a flow by hand: replies are read, errors thrown, and a reload gives another token."""

    def __init__(self) -> None:
        self.world = World(now=lambda: 0.0, chance=lambda: 0.0, log=logging.getLogger("reading"))
        self.calls: list[Call[Any]] = []
        self.pauses: list[float] = []
        self.reloads = 0

    def run(self, flow: flows.Flow[Any], outcomes: Iterable[Any]) -> Any:
        script = iter(outcomes)
        outcome: Any = None
        try:
            while True:
                error = isinstance(outcome, SegStatsError)
                step = flow.throw(outcome) if error else flow.send(outcome)
                outcome = self._do(step, script)
        except StopIteration as end:
            return end.value

    def _do(self, step: flows.Step, script: Any) -> Any:
        if isinstance(step, Pause):
            self.pauses.append(step.seconds)
            return None
        if isinstance(step, Reload):
            self.reloads += 1
            return settings(token="rotated")
        self.calls.append(step.call)
        outcome = next(script)
        if isinstance(outcome, Page | SegStatsError):
            return outcome
        try:
            return step.call.read(outcome)
        except SegStatsError as error:
            return error


@pytest.fixture
def drive() -> Drive:
    return Drive()


HTML = "<html><h1>We will be back</h1></html>"
TRIED_AGAIN: dict[str, Callable[[], Any]] = {
    "connection refused": lambda: NotSentError("could not connect: Connection refused"),
    "connection reset": lambda: NoAnswerError("no whole answer: Connection reset by peer"),
    "truncated answer": lambda: NoAnswerError("no whole answer: the connection was closed"),
    "HTTP 503": lambda: reply(HTML, 503),
    "HTTP 500": lambda: reply(HTML, 500),
    "HTTP 429 with Retry-After": lambda: reply(HTML, 429, retry_after="17"),
    "HTML at HTTP 200": lambda: reply(HTML, content_type="text/html"),
    "broken JSON": lambda: reply('{"data": ['),
    "broken XML": lambda: reply("<xml><data>"),
    "API error 440": lambda: reply('{"error": 440, "error_text": "Busy"}'),
}
FINAL: dict[str, tuple[Callable[[], Any], type[SegStatsError]]] = {
    "API error 403": (lambda: reply('{"error": 403, "error_text": "No access"}'), ApiError),
    "API error 402": (lambda: reply("<xml><error>402</error></xml>"), ApiError),
    "HTTP 404 without an API body": (lambda: reply(HTML, 404), HttpStatusError),
    "redirect": (lambda: reply("", 302, location="https://elsewhere.example/"), RedirectError),
    "certificate": (lambda: CertificateError("the server's certificate is not trusted"), CertificateError),
}


class TestFaults:
    """Every read meets what the looks at a task meet."""

    @pytest.mark.parametrize("fault", TRIED_AGAIN)
    @of_each_read
    @in_both_formats
    def test_what_may_pass_is_tried_again(
        self, drive: Drive, endpoint: str, format: str, fault: str, sample: Sample
    ) -> None:
        make_call, result = ENDPOINTS[endpoint]
        flow = flows.read(settings(format), make_call, drive.world)
        broken = TRIED_AGAIN[fault]
        found = drive.run(flow, [broken(), broken(), answer(endpoint, format, sample)])
        assert found == result
        assert drive.pauses == ([17, 17] if "Retry-After" in fault else [1, 2])

    @pytest.mark.parametrize("fault", TRIED_AGAIN)
    @of_each_read
    def test_what_does_not_pass_ends_after_five_tries(self, drive: Drive, endpoint: str, fault: str) -> None:
        make_call, _ = ENDPOINTS[endpoint]
        with pytest.raises(SegStatsError) as caught:
            drive.run(
                flows.read(settings(), make_call, drive.world), [TRIED_AGAIN[fault]() for _ in range(9)]
            )
        assert (len(drive.calls), caught.value.permanent) == (5, False)

    @pytest.mark.parametrize("fault", FINAL)
    @of_each_read
    def test_what_is_permanent_is_not_tried_again(self, drive: Drive, endpoint: str, fault: str) -> None:
        make_call, _ = ENDPOINTS[endpoint]
        broken, error = FINAL[fault]
        with pytest.raises(error) as caught:
            drive.run(flows.read(settings(), make_call, drive.world), [broken()])
        assert caught.value.permanent

    @of_each_read
    @in_both_formats
    def test_a_rotated_token_is_read_anew_once(
        self, drive: Drive, endpoint: str, format: str, sample: Sample
    ) -> None:
        make_call, result = ENDPOINTS[endpoint]
        refused = reply('{"error": 401, "error_text": "Invalid API token"}')
        flow = flows.read(settings(format), make_call, drive.world)
        assert drive.run(flow, [refused, answer(endpoint, format, sample)]) == result
        assert b"rotated" in drive.calls[-1].request.body
        with pytest.raises(ApiError, match="API error 401"):
            drive.run(flows.read(settings(), make_call, drive.world), [refused, refused])
        assert (drive.reloads, drive.pauses) == (2, [])


class Server:
    """A list on a server, in either reading of next_from_id; ``change`` alters it before each page."""

    def __init__(
        self,
        ids: Iterable[int],
        next_from_id: str = "last",
        change: Callable[[set[int], int], Any] | None = None,
    ) -> None:
        self.ids, self.asked = set(ids), 0
        self._beyond = next_from_id == "beyond"
        self._change = change

    def page(self, from_id: int | None, limit: int = api.PAGE) -> Page[ListedSegment]:
        self.asked += 1
        if self._change:
            self._change(self.ids, self.asked)
        page = [number for number in sorted(self.ids) if number >= (from_id or 0)][:limit]
        following = (page[-1] + 1 if self._beyond else page[-1]) if page else from_id
        named = {number: ListedSegment(number, f"as of page {self.asked}") for number in page}
        return Page(named, following, len(self.ids))

    def read(self, drive: Drive) -> list[ListedSegment]:
        asked: list[int | None] = []

        def make_call(of: Settings, from_id: int | None) -> Call[Page[ListedSegment]]:
            asked.append(from_id)
            return api.list_segments(of, from_id)

        pages = iter(lambda: self.page(asked[-1]), None)
        found: list[ListedSegment] = drive.run(flows.read_list(settings(), make_call, drive.world), pages)
        return found


in_both_readings = pytest.mark.parametrize("next_from_id", ["last", "beyond"])


class TestLists:
    @pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 1999, 2000, 25_000])
    @in_both_readings
    def test_a_list_of_any_length_is_read_whole_and_in_order(
        self, drive: Drive, next_from_id: str, count: int
    ) -> None:
        server = Server(range(7, 7 + count), next_from_id)
        assert [segment.segment_id for segment in server.read(drive)] == list(range(7, 7 + count))
        assert server.asked <= count // 999 + 2

    @in_both_readings
    def test_ids_may_have_gaps_of_any_size(self, drive: Drive, next_from_id: str) -> None:
        ids = [3**power for power in range(2, 30)]
        assert [segment.segment_id for segment in Server(ids, next_from_id).read(drive)] == ids

    @in_both_readings
    def test_what_stays_is_read_once_while_the_list_changes(self, drive: Drive, next_from_id: str) -> None:
        def change(ids: set[int], page: int) -> None:
            if page > 1:
                ids -= {page * 1000 - 1000, page * 1000 - 1001, 5}  # around where the last page ended
                ids |= {page * 1000 - 500 + 100_000 * (page == 2)}
            ids.add(0 if page == 3 else 1)

        server = Server(range(1, 4001), next_from_id, change)
        found = [segment.segment_id for segment in server.read(drive)]
        assert len(found) == len(set(found))
        stayed = set(range(1, 4001)) & server.ids
        assert stayed <= set(found)
        assert 101_500 in found

    def test_a_segment_renamed_meanwhile_has_the_name_it_was_first_read_with(self, drive: Drive) -> None:
        found = {segment.segment_id: segment.name for segment in Server(range(1, 1501)).read(drive)}
        assert (found[1000], found[1001]) == ("as of page 1", "as of page 2")

    def test_a_page_without_next_from_id_is_gone_on_from_its_last(self, drive: Drive) -> None:
        first = Page({7: ListedSegment(7, "R"), 9: ListedSegment(9, "S")}, None, None)
        drive.run(flows.read_list(settings(), api.list_segments, drive.world), [first, Page({}, None, None)])
        assert b'"from_id":9' in drive.calls[1].request.body

    def test_a_server_that_repeats_its_page_is_not_taken_for_a_list_at_its_end(self, drive: Drive) -> None:
        page = Page({number: ListedSegment(number, "R") for number in range(1, 1001)}, 1000, 3000)
        with pytest.raises(ReplyError, match="the list does not go on after 1000 of 3000") as caught:
            drive.run(flows.read_list(settings(), api.list_segments, drive.world), [page, page])
        assert not caught.value.permanent

    @pytest.mark.parametrize("total", [None, 0, 2])
    def test_a_server_that_starts_over_at_the_end_has_ended(self, drive: Drive, total: int | None) -> None:
        page = Page({7: ListedSegment(7, "R"), 9: ListedSegment(9, "S")}, 10, total)
        found = drive.run(flows.read_list(settings(), api.list_segments, drive.world), [page, page])
        assert [segment.segment_id for segment in found] == [7, 9]

    def test_a_list_without_end_ends_in_an_error(self, drive: Drive) -> None:
        pages = (Page({number: ListedSegment(number, "R")}, number, None) for number in range(1, 10_000))
        with pytest.raises(ReplyError, match="the list does not end: after 1000 pages"):
            drive.run(flows.read_list(settings(), api.list_segments, drive.world), pages)
        assert len(drive.calls) == policy.MOST_PAGES

    def test_a_page_that_fails_is_read_again_and_the_list_goes_on(self, drive: Drive) -> None:
        server = Server(range(1, 2501))
        first, second = server.page(None), server.page(1000)
        outcomes = [
            first,
            reply(HTML, 503),
            reply('{"error": 401}'),
            second,
            NoAnswerError("no whole answer: Connection reset by peer"),
            server.page(1999),
            server.page(2500),
        ]
        found = drive.run(flows.read_list(settings(), api.list_segments, drive.world), outcomes)
        assert len(found) == 2500
        assert (drive.pauses, drive.reloads) == ([1, 1], 1)
        assert all(b"rotated" in call.request.body for call in drive.calls[3:])

    def test_a_list_is_not_half_a_list_when_a_page_cannot_be_had(self, drive: Drive) -> None:
        first = Server(range(1, 2501)).page(None)
        outcomes = [first, *(reply(HTML, 503) for _ in range(9))]
        with pytest.raises(HttpStatusError):
            drive.run(flows.read_list(settings(), api.list_segments, drive.world), outcomes)
