"""The emulator over real sockets, against literal bytes: nothing here goes through the package's codec."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.paths import ROOT
from support.raw_client import JSON, REFRESH, STATUS, TOKEN, XML, Client

from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.emulator.numbers import counters
from airflow_provider_segstats.emulator.tasks import Submission, report

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = "2024-04-20T12:00:00Z"
DATABASES = "/api/v1.1/databases/list/"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
REFRESH_XML = (
    b"<xml>\n<token>abcdefghijklmnqrstuvwxyz</token>\n<db_id>1</db_id>\n<resource_id>24</resource_id>\n"
    b"<id>7</id>\n<format>%b</format>\n</xml>"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(TOKEN, seconds=10.0) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    """Give a server with the clock frozen at noon, no faults and an empty journal."""
    server.clear_faults()
    server.clear_journal()
    server.configure(token=TOKEN, seconds=10.0, errors_as_200=False)
    server.set_clock(NOON, frozen=True)
    return server


@pytest.fixture
def client(emulator: Emulator) -> Client:
    return Client(emulator.port)


class TestWire:
    def test_json_submission_is_answered_as_in_the_specification(self, client: Client) -> None:
        body = (
            b'{\n"token": "abcdefghijklmnqrstuvwxyz",\n"db_id": 1,\n"resource_id": 24,\n'
            b'"id": 7,\n"format": "json"\n}'
        )
        reply = client.send("POST", REFRESH, body, JSON)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        pattern = rf'{{"data":{{"task_id":"{UUID}"}},"error":0,"error_text":"Successful operation"}}'
        assert re.fullmatch(pattern.encode(), reply.body)

    def test_xml_submission_is_answered_as_in_the_specification(self, client: Client) -> None:
        reply = client.send("POST", REFRESH, REFRESH_XML % b"xml", XML)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/xml")
        pattern = (
            rf"<xml><data><task_id>{UUID}</task_id></data><error>0</error>"
            r"<error_text>Successful operation</error_text></xml>"
        )
        assert re.fullmatch(pattern.encode(), reply.body)

    def test_xml_submission_that_asks_for_json_gets_json(self, client: Client) -> None:
        assert client.send("POST", REFRESH, REFRESH_XML % b"json", XML).json["error"] == 0

    def test_submission_without_format_gets_json_even_from_xml(self, client: Client) -> None:
        body = b"<xml><token>abcdefghijklmnqrstuvwxyz</token><id>7</id><resource_id>24</resource_id></xml>"
        assert client.send("POST", REFRESH, body, XML).json["error"] == 0

    def test_completed_task_is_reported_in_both_formats_as_in_the_specification(
        self, emulator: Emulator, client: Client
    ) -> None:
        task_id = client.submit(7, resource_id=27, db_id=1)
        [task] = [task for task in emulator.tasks() if task.task_id == task_id]
        emulator.set_clock(advance=20)
        body = f"<xml>\n<task_id>{task_id}</task_id>\n<token>{TOKEN}</token>\n</xml>".encode()
        xml = client.send("POST", STATUS, body, XML)
        day = 19833  # 2024-04-20
        numbers = {channel: counters(7, 27, channel, day) for channel in ("email", "push", "sms")}
        updated = client.data(task_id)["result"][0]["updated"]
        assert re.fullmatch(r"2024-04-20T12:00:\d\d\.\d{3}Z", updated)
        assert 9 <= task.seconds <= 11
        assert client.status(task_id).json == {
            "data": {
                "status": "completed",
                "progress": 100,
                "result": [
                    {
                        "channels": [{"channel": name, "status": numbers[name]} for name in numbers],
                        "in_progress": False,
                        "list_id": 1,
                        "refresh_task_id": "",
                        "resource_id": 27,
                        "updated": updated,
                    }
                ],
            },
            "error": 0,
            "error_text": "Successful operation",
        }
        channels = "".join(
            f"<channels><channel>{name}</channel><status>"
            f"<subscribed_sendable>{values['subscribed_sendable']}</subscribed_sendable>"
            f"<unconfirmed_sendable>{values['unconfirmed_sendable']}</unconfirmed_sendable>"
            "</status></channels>"
            for name, values in numbers.items()
        )
        assert xml.headers["content-type"] == "application/xml"
        assert xml.body.decode() == (
            "<xml><data><status>completed</status><progress>100</progress>"
            f"<result>{channels}<in_progress>false</in_progress><list_id>1</list_id>"
            "<refresh_task_id></refresh_task_id><resource_id>27</resource_id>"
            f"<updated>{updated}</updated></result></data>"
            "<error>0</error><error_text>Successful operation</error_text></xml>"
        )

    def test_format_decides_the_reply_to_a_poll_where_it_is_given(self, client: Client) -> None:
        reply = client.post(STATUS, {"token": TOKEN, "task_id": client.submit(), "format": "xml"})
        assert reply.body.startswith(b"<xml><data><status>queued</status>")

    def test_token_may_come_in_the_header(self, emulator: Emulator, client: Client) -> None:
        client.post(REFRESH, {"id": 7, "resource_id": 24}, JSON | {"Authorization": f"Bearer {TOKEN}"})
        client.refresh()
        assert [(entry.token_in, entry.accepted) for entry in emulator.journal()] == [
            ("header", True),
            ("body", True),
        ]

    def test_databases_are_listed_for_a_connection_test(self, client: Client) -> None:
        assert client.post(DATABASES, {"token": TOKEN}).json == {
            "data": [{"id": 1, "name": "Customers", "ui_tags": [], "Groups": []}],
            "next_from_id": 1,
            "total_count": 1,
            "error": 0,
            "error_text": "Successful operation",
        }

    @pytest.mark.parametrize(
        ("message", "code", "text"),
        [
            ({"id": 7, "resource_id": 24}, 401, "API token required"),
            ({"token": "wrong", "id": 7, "resource_id": 24}, 401, "Invalid API token"),
            ({"token": TOKEN, "resource_id": 24}, 400, "Incorrect request: id is required"),
            ({"token": TOKEN, "id": 7}, 400, "Incorrect request: resource_id is required"),
            ({"token": TOKEN, "id": "7", "resource_id": 24}, 400, "id must be a positive integer"),
            ({"token": TOKEN, "id": True, "resource_id": 24}, 400, "id must be a positive integer"),
            ({"token": TOKEN, "id": 0, "resource_id": 24}, 400, "id must be a positive integer"),
            ({"token": TOKEN, "id": 2**64, "resource_id": 24}, 400, "id must be a positive integer"),
            (
                {"token": TOKEN, "id": 7, "resource_id": 24, "format": "yaml"},
                400,
                "format must be json or xml",
            ),
            ([], 400, "the body cannot be decoded"),
        ],
    )
    def test_bad_submission_is_answered_with_the_code_as_http_status(
        self, emulator: Emulator, client: Client, message: Any, code: int, text: str
    ) -> None:
        before = len(emulator.tasks())
        reply = client.post(REFRESH, message)
        assert (reply.status, reply.json["error"]) == (code, code)
        assert text in reply.json["error_text"]
        assert len(emulator.tasks()) == before

    def test_bad_xml_submission_is_answered_in_the_asked_format(self, client: Client) -> None:
        reply = client.send("POST", REFRESH, (REFRESH_XML % b"xml").replace(b"<id>7</id>", b""), XML)
        assert reply.status == 400
        assert reply.body == (
            b"<xml><error>400</error><error_text>Incorrect request: id is required</error_text></xml>"
        )

    def test_xml_id_that_is_no_number_is_refused(self, client: Client) -> None:
        body = (REFRESH_XML % b"json").replace(b"<id>7</id>", b"<id>seven</id>")
        assert client.send("POST", REFRESH, body, XML).json["error"] == 400

    @pytest.mark.parametrize("body", [b"", b"{", b"<xml", b"\xff\xfe", b"[" * 100_000])
    def test_body_that_cannot_be_decoded_is_an_incorrect_request(self, client: Client, body: bytes) -> None:
        assert client.send("POST", REFRESH, body, JSON).json["error"] == 400

    def test_get_is_an_incorrect_request(self, client: Client) -> None:
        reply = client.send("GET", REFRESH)
        assert (reply.status, reply.json["error"]) == (400, 400)

    @pytest.mark.parametrize("path", [REFRESH, DATABASES, REFRESH + "/", DATABASES.rstrip("/")])
    def test_a_method_answers_with_and_without_a_slash_at_its_end(self, client: Client, path: str) -> None:
        assert client.post(path, {"token": TOKEN, "id": 7, "resource_id": 24}).json["error"] == 0

    @pytest.mark.parametrize("path", ["/", "/api/v1.1/segments", REFRESH + "//", "/v1.1/tasks/status"])
    def test_unknown_path_gets_an_html_page(self, client: Client, path: str) -> None:
        reply = client.post(path, {"token": TOKEN})
        assert reply.status == 404
        assert reply.headers["content-type"].startswith("text/html")

    def test_unknown_task_is_an_api_error_with_http_200(self, client: Client) -> None:
        reply = client.status("no-such-task")
        assert (reply.status, reply.json) == (200, {"error": 404, "error_text": "Task not found"})

    def test_poll_without_a_task_id_is_an_incorrect_request(self, client: Client) -> None:
        assert client.post(STATUS, {"token": TOKEN}).status == 400

    def test_errors_come_with_http_200_where_asked(self, emulator: Emulator, client: Client) -> None:
        emulator.configure(errors_as_200=True)
        reply = client.post(REFRESH, {"id": 7})
        assert (reply.status, reply.json["error"]) == (200, 401)

    def test_connection_is_kept_alive(self, emulator: Emulator) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=60)
        connection.connect()
        local = connection.sock.getsockname()
        for _ in range(3):
            connection.request("POST", DATABASES, json.dumps({"token": TOKEN}), JSON)
            connection.getresponse().read()
            assert connection.sock.getsockname() == local
        connection.close()


class TestTasks:
    def test_task_is_queued_then_runs_then_completes(self, emulator: Emulator, client: Client) -> None:
        task_id = client.submit()
        seen = []
        for _ in range(7):
            seen.append(client.data(task_id))
            emulator.set_clock(advance=1.9)
        assert seen[0] == {"status": "queued", "progress": 0}
        running = [data["progress"] for data in seen if data["status"] == "running"]
        assert running == sorted(set(running))
        assert 0 < running[0] < running[-1] < 100
        assert all("result" not in data for data in seen if data["status"] != "completed")
        assert (seen[-1]["status"], seen[-1]["progress"]) == ("completed", 100)

    def test_completed_task_says_the_same_whenever_it_is_asked(
        self, emulator: Emulator, client: Client
    ) -> None:
        task_id = client.submit()
        emulator.set_clock(advance=20)
        first = client.data(task_id)
        emulator.set_clock(advance=86_400 * 30)
        assert client.data(task_id) == first

    @pytest.mark.parametrize(
        ("outcome", "then", "later"),
        [
            ("completed", "completed", "completed"),
            ("failed", "failed", "failed"),
            ("stuck", "running", "running"),
            ("empty", "completed", "completed"),
            ("unknown_status", "completed", "completed"),
        ],
    )
    def test_fate_given_by_a_fault_decides_how_the_task_ends(
        self, emulator: Emulator, client: Client, outcome: str, then: str, later: str
    ) -> None:
        emulator.add_fault(Fault("task", outcome=outcome))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        assert client.data(task_id)["status"] == then
        emulator.set_clock(advance=86_400)
        assert client.data(task_id)["status"] == later
        assert client.submit() != task_id
        assert emulator.tasks()[-1].outcome == "completed"

    def test_failed_task_names_its_status_and_reason(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("task", outcome="failed", name="aborted", text="out of memory"))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        assert client.data(task_id) == {"status": "aborted", "progress": 100, "error_text": "out of memory"}

    @pytest.mark.parametrize("outcome", ["completed", "empty", "entries", "in_progress", "odd"])
    def test_tasks_that_complete_may_do_so_under_another_name(
        self, emulator: Emulator, client: Client, outcome: str
    ) -> None:
        emulator.add_fault(Fault("task", outcome=outcome, name="success"))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        data = client.data(task_id)
        assert (data["status"], data["progress"]) == ("success", 100)
        assert "result" in data

    def test_status_nobody_knows_stands_for_running(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("task", outcome="unknown_status"))
        task_id = client.submit()
        emulator.set_clock(advance=5)
        assert client.data(task_id)["status"] == "warming_up"

    def test_empty_result_is_an_empty_list_or_element(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("task", outcome="empty"))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        assert client.data(task_id)["result"] == []
        xml = client.post(STATUS, {"token": TOKEN, "task_id": task_id, "format": "xml"})
        assert b"<progress>100</progress><result></result></data>" in xml.body

    def test_several_entries_are_of_different_lists(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("task", outcome="entries"))
        task_id = client.submit(db_id=3)
        emulator.set_clock(advance=12)
        assert [entry["list_id"] for entry in client.data(task_id)["result"]] == [3, 4]
        xml = client.post(STATUS, {"token": TOKEN, "task_id": task_id, "format": "xml"})
        assert xml.body.count(b"<result>") == 2

    def test_entry_in_progress_settles_after_as_long_again(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("task", outcome="in_progress"))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        [stale] = client.data(task_id)["result"]
        emulator.set_clock(advance=12)
        [fresh] = client.data(task_id)["result"]
        assert (stale["in_progress"], fresh["in_progress"]) == (True, False)
        assert stale["channels"] != fresh["channels"]
        assert stale["updated"] < fresh["updated"]

    def test_odd_result_has_channels_and_counters_nobody_announced(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("task", outcome="odd"))
        task_id = client.submit()
        emulator.set_clock(advance=12)
        channels = {c["channel"]: c["status"] for c in client.data(task_id)["result"][0]["channels"]}
        assert {"carrier_pigeon", "007"} < channels.keys()
        assert channels["007"]["hardbounced"] == 3

    def test_forgotten_task_is_unknown_but_still_listed(self, emulator: Emulator, client: Client) -> None:
        task_id = client.submit()
        emulator.set_outcome(task_id, "forgotten")
        assert client.status(task_id).json["error"] == 404
        assert task_id in [task.task_id for task in emulator.tasks()]

    def test_report_depends_on_the_submission_and_the_time_only(self) -> None:
        task = Submission(1, "t", 7, 24, None, at=1_000.0, seconds=10.0)
        times = [1_000.0, 1_005.0, 1_010.0, 1_005.0, 1_000.0]
        assert [report(task, now)["status"] for now in times] == [
            "queued",
            "running",
            "completed",
            "running",
            "queued",
        ]


class TestCounters:
    def test_counters_are_the_same_for_the_same_night(self) -> None:
        assert counters(7, 24, "email", 19_833) == counters(7, 24, "email", 19_833)

    def test_counters_change_a_little_between_nights(self) -> None:
        nights = [counters(7, 24, "email", day)["subscribed_sendable"] for day in range(19_833, 19_933)]
        changes = [abs(after - before) / before for before, after in pairwise(nights)]
        assert sum(change > 0 for change in changes) > 90
        assert max(changes) < 0.06

    def test_counters_are_never_negative(self) -> None:
        values = [
            value
            for segment in range(1, 60)
            for day in (0, 19_833, 60_000, 1_500_000)
            for value in counters(segment, 24, "push", day).values()
        ]
        assert all(isinstance(value, int) and value >= 0 for value in values)

    def test_segments_differ(self) -> None:
        assert (
            len({counters(segment, 24, "email", 19_833)["subscribed_sendable"] for segment in range(50)}) > 45
        )

    def test_served_counters_change_from_night_to_night(self, emulator: Emulator, client: Client) -> None:
        nights = []
        for _ in range(2):
            task_id = client.submit()
            emulator.set_clock(advance=86_400)
            nights.append(client.data(task_id)["result"][0]["channels"])
        assert nights[0] != nights[1]


class TestChangedCounters:
    """What ``counters`` faults do, against the numbers of a task that none of them met."""

    DAY = 19_833  # 2024-04-20, at noon of which the clock stands

    def night(self, emulator: Emulator, client: Client, segment_id: int = 7) -> dict[str, dict[str, int]]:
        """Count a segment now and return its counters by channel."""
        task_id = client.submit(segment_id)
        emulator.set_clock(advance=20)
        [entry] = client.data(task_id)["result"]
        return {channel["channel"]: channel["status"] for channel in entry["channels"]}

    def usual(self, day: int = DAY, segment_id: int = 7) -> dict[str, dict[str, int]]:
        return {channel: counters(segment_id, 24, channel, day) for channel in ("email", "push", "sms")}

    def test_counters_fall_and_rise_by_a_factor_for_one_night(
        self, emulator: Emulator, client: Client
    ) -> None:
        for factor in (0.1, 3):
            client.control("POST", "faults", {"kind": "counters", "segment_id": 7, "factor": factor})
            assert self.night(emulator, client, 8) == self.usual(segment_id=8)
            assert self.night(emulator, client) == {
                channel: {name: round(value * factor) for name, value in status.items()}
                for channel, status in self.usual().items()
            }
            assert self.night(emulator, client) == self.usual()

    def test_only_the_named_channel_and_counter_change(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("counters", channel="push", counter="subscribed_sendable", factor=0))
        expected = self.usual()
        expected["push"]["subscribed_sendable"] = 0
        assert self.night(emulator, client) == expected

    def test_a_channel_or_a_counter_vanishes(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("counters", channel="push", change="vanish"))
        emulator.add_fault(Fault("counters", counter="unconfirmed_sendable", change="vanish"))
        assert self.night(emulator, client) == {
            channel: {"subscribed_sendable": status["subscribed_sendable"]}
            for channel, status in self.usual().items()
            if channel != "push"
        }

    def test_counters_freeze_as_they_were_when_the_fault_was_added(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("counters", segment_id=7, channel="sms", change="freeze", times=None))
        for day in (self.DAY + 1, self.DAY + 2):
            emulator.set_clock(advance=86_400)
            assert self.night(emulator, client) == self.usual(day) | {"sms": self.usual()["sms"]}

    def test_a_counter_is_renamed_where_it_stands(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("counters", counter="subscribed_sendable", rename="sendable"))
        night = self.night(emulator, client)
        assert [list(status) for status in night.values()] == [["sendable", "unconfirmed_sendable"]] * 3
        assert night["email"]["sendable"] == self.usual()["email"]["subscribed_sendable"]

    def test_changes_add_up_and_each_counts_its_own_times(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("counters", factor=0.5, times=2))
        emulator.add_fault(Fault("counters", factor=0.5, skip=1))
        usual = self.usual()["email"]["subscribed_sendable"]
        nights = [self.night(emulator, client)["email"]["subscribed_sendable"] for _ in range(3)]
        assert nights == [round(usual / 2), round(round(usual / 2) / 2), usual]

    def test_what_a_task_counted_stays_counted(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("counters", factor=0.1, times=None))
        task_id = client.submit()
        emulator.set_clock(advance=20)
        before = client.data(task_id)
        emulator.clear_faults()
        assert client.data(task_id) == before
        assert emulator.journal()[0].fault == "counters"
        assert client.control("GET", "tasks").json[-1]["changes"][0]["factor"] == 0.1


class TestFaults:
    def test_http_fault_answers_with_its_status_and_retry_after(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("http", status=429, retry_after="7"))
        reply = client.refresh()
        assert (reply.status, reply.headers["retry-after"]) == (429, "7")
        assert reply.body.startswith(b"<html>")
        assert client.refresh().status == 200

    def test_api_error_is_answered_in_the_asked_format(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("api_error", code=440, text="Busy", times=None))
        assert client.refresh().json == {"error": 440, "error_text": "Busy"}
        assert client.refresh(format="xml").body == (
            b"<xml><error>440</error><error_text>Busy</error_text></xml>"
        )
        assert [(entry.status, entry.error) for entry in emulator.journal()] == [(200, 440)] * 2

    def test_reset_aborts_before_anything_is_accepted(self, emulator: Emulator, client: Client) -> None:
        before = len(emulator.tasks())
        emulator.add_fault(Fault("reset"))
        with pytest.raises(ConnectionResetError):
            client.refresh()
        assert len(emulator.tasks()) == before
        [entry] = emulator.journal()
        assert (entry.status, entry.fault, entry.accepted) == (None, "reset", False)

    def test_lost_answer_aborts_after_the_task_was_accepted(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("lost_answer"))
        with pytest.raises(ConnectionResetError):
            client.refresh()
        [entry] = emulator.journal()
        assert (entry.status, entry.fault, entry.accepted) == (None, "lost_answer", True)
        assert entry.task_id == emulator.tasks()[-1].task_id

    def test_truncated_reply_announces_more_than_it_sends(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("truncate"))
        with pytest.raises(http.client.IncompleteRead) as caught:
            client.refresh()
        assert caught.value.partial.startswith(b'{"data":{"task_id":"')
        assert emulator.journal()[0].accepted

    def test_html_page_comes_with_http_200(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("html"))
        reply = client.refresh()
        assert (reply.status, reply.body[:6]) == (200, b"<html>")
        assert not emulator.journal()[0].accepted

    def test_delayed_request_is_processed(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("delay", seconds=0.2))
        started = time.monotonic()
        assert client.refresh().status == 200
        assert time.monotonic() - started >= 0.2

    def test_delayed_request_is_processed_even_if_the_client_left(self, emulator: Emulator) -> None:
        emulator.add_fault(Fault("delay", seconds=1.0))
        connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=0.05)
        connection.request("POST", REFRESH, json.dumps({"token": TOKEN, "id": 7, "resource_id": 24}), JSON)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        deadline = time.monotonic() + 60
        while not emulator.journal()[0].accepted:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_hanging_request_is_never_answered(self, emulator: Emulator) -> None:
        emulator.add_fault(Fault("hang"))
        connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=0.2)
        connection.request("POST", REFRESH, json.dumps({"token": TOKEN, "id": 7, "resource_id": 24}), JSON)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        [entry] = emulator.journal()
        assert (entry.status, entry.accepted) == (None, False)

    def test_redirect_names_its_target(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("redirect", location="https://elsewhere.example/"))
        reply = client.refresh()
        assert (reply.status, reply.headers["location"]) == (302, "https://elsewhere.example/")

    def test_literal_reply_may_be_any_bytes(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("reply", body=b"\xff\x00{", content_type=""))
        reply = client.refresh()
        assert (reply.status, reply.headers["content-type"], reply.body) == (200, None, b"\xff\x00{")

    def test_fault_lets_its_first_matches_pass_and_ends_after_its_times(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("http", status=500, skip=1, times=2))
        assert [client.refresh().status for _ in range(5)] == [200, 500, 500, 200, 200]
        assert emulator.faults() == []

    def test_fault_without_end_goes_on(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("http", times=None))
        assert {client.refresh().status for _ in range(5)} == {503}
        emulator.clear_faults()
        assert client.refresh().status == 200

    def test_fault_of_a_segment_finds_the_polls_of_its_tasks(
        self, emulator: Emulator, client: Client
    ) -> None:
        seven, eight = client.submit(7), client.submit(8)
        emulator.add_fault(Fault("http", endpoint="tasks/status", segment_id=8, times=None))
        assert [client.status(seven).status, client.status(eight).status] == [200, 503]
        assert client.refresh(8).status == 200

    def test_fault_may_be_a_matter_of_chance(self, emulator: Emulator, client: Client) -> None:
        emulator.add_fault(Fault("http", probability=0.5, times=None))
        assert {client.refresh().status for _ in range(30)} == {200, 503}

    def test_fate_of_a_task_and_loss_of_its_answer_may_coincide(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("task", outcome="stuck"))
        emulator.add_fault(Fault("lost_answer"))
        with pytest.raises(ConnectionResetError):
            client.refresh()
        assert emulator.tasks()[-1].outcome == "stuck"

    def test_fate_is_not_spent_on_a_submission_that_is_refused(
        self, emulator: Emulator, client: Client
    ) -> None:
        emulator.add_fault(Fault("task", outcome="stuck"))
        assert client.refresh(token="wrong").status == 401
        client.refresh()
        assert emulator.tasks()[-1].outcome == "stuck"
        assert emulator.journal()[-1].fault == "task"

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ({"kind": "earthquake"}, "unknown kind 'earthquake'"),
            ({"kind": "http", "colour": "red"}, "unknown field colour"),
            ({"kind": "reset", "status": 500}, "reset takes no status"),
            ({"kind": "delay"}, "delay needs seconds"),
            ({"kind": "http", "times": "often"}, "times must be int | None"),
            ({"kind": "http", "times": True}, "times must be int | None"),
            ({"kind": "http", "times": 0}, "times must be at least 1"),
            ({"kind": "http", "probability": 2}, "probability lies between 0 and 1"),
            ({"kind": "http", "status": 99}, "between 200 and 599"),
            ({"kind": "task", "outcome": "glory"}, "unknown outcome 'glory'"),
            (
                {"kind": "task", "outcome": "stuck", "endpoint": "tasks/status"},
                "resources/refresh_counters only",
            ),
            ({"kind": "http", "endpoint": "nowhere"}, "unknown endpoint 'nowhere'"),
            ({"kind": "counters"}, "counters needs one of factor, change, rename"),
            ({"kind": "counters", "factor": 2, "change": "vanish"}, "one of factor, change, rename"),
            ({"kind": "counters", "change": "explode"}, "unknown change 'explode'"),
            ({"kind": "counters", "rename": "sendable"}, "rename needs the counter"),
            ({"kind": "counters", "factor": -1}, "factor must be between 0 and"),
            ({"kind": "counters", "factor": 2, "endpoint": "tasks/status"}, "refresh_counters only"),
            ({"kind": "task", "outcome": "empty", "factor": 2}, "task takes no factor"),
            ({"kind": "reply", "body_base64": "!"}, "not base64"),
            ({"times": 1}, "kind is missing"),
            ("reset", "must be a JSON object"),
        ],
    )
    def test_fault_that_makes_no_sense_is_refused(
        self, emulator: Emulator, client: Client, message: Any, text: str
    ) -> None:
        reply = client.control("POST", "faults", [{"kind": "reset"}, message])
        assert reply.status == 400
        assert text in reply.json["error"]
        assert emulator.faults() == []


class TestJournal:
    def test_journal_tells_every_request_in_order_and_never_the_token(self, client: Client) -> None:
        task_id = client.submit(7)
        client.send(
            "POST", STATUS, f"<xml><token>{TOKEN}</token><task_id>{task_id}</task_id></xml>".encode(), XML
        )
        client.refresh(8, id=None)
        client.send("GET", f"/nowhere?token={TOKEN}")
        reply = client.control("GET", "journal")
        assert TOKEN.encode() not in reply.body
        first = reply.json[0]["seq"]
        assert [entry.pop("seq") - first for entry in reply.json] == [0, 1, 2, 3]
        common = {"at": "2024-04-20T12:00:00.000Z", "fault": None}
        assert [{k: v for k, v in entry.items() if k != "seq"} for entry in reply.json] == [
            common
            | {
                "endpoint": "segments/refresh_counters",
                "content_type": "application/json",
                "format": "json",
                "status": 200,
                "error": 0,
                "task_id": task_id,
                "segment_id": 7,
                "accepted": True,
                "token_in": "body",
            },
            common
            | {
                "endpoint": "tasks/status",
                "content_type": "application/xml",
                "format": "xml",
                "status": 200,
                "error": 0,
                "task_id": task_id,
                "segment_id": 7,
                "accepted": False,
                "token_in": "body",
            },
            common
            | {
                "endpoint": "segments/refresh_counters",
                "content_type": "application/json",
                "format": "json",
                "status": 400,
                "error": 400,
                "task_id": None,
                "segment_id": None,
                "accepted": False,
                "token_in": "body",
            },
            common
            | {
                "endpoint": "/nowhere",
                "content_type": None,
                "format": "json",
                "status": 404,
                "error": None,
                "task_id": None,
                "segment_id": None,
                "accepted": False,
                "token_in": None,
            },
        ]

    def test_cleared_journal_is_empty_but_keeps_counting(self, emulator: Emulator, client: Client) -> None:
        client.refresh()
        [entry] = emulator.journal()
        assert client.control("DELETE", "journal").json == []
        client.refresh()
        assert emulator.journal()[0].seq == entry.seq + 1


class TestControl:
    def test_faults_are_added_listed_and_cleared(self, client: Client) -> None:
        faults: list[dict[str, Any]] = [
            {"kind": "http", "status": 429, "times": 2},
            {"kind": "reply", "body_base64": "/wA=", "times": None},
        ]
        listed = [fault | {"seen": 0, "used": 0} for fault in faults]
        assert client.control("POST", "faults", faults).json == listed
        assert client.refresh().status == 429
        assert client.control("GET", "faults").json[0] == listed[0] | {"seen": 1, "used": 1}
        assert client.control("DELETE", "faults").json == []

    def test_tasks_are_listed(self, client: Client) -> None:
        task_id = client.submit(7, db_id=3)
        task = client.control("GET", "tasks").json[-1]
        assert 9 <= task.pop("seconds") <= 11
        assert task.pop("seq") > 0
        assert task == {
            "task_id": task_id,
            "segment_id": 7,
            "resource_id": 24,
            "db_id": 3,
            "at": "2024-04-20T12:00:00.000Z",
            "outcome": "completed",
            "name": None,
            "text": None,
            "changes": [],
        }

    def test_fate_of_a_task_may_be_changed(self, emulator: Emulator, client: Client) -> None:
        task_id = client.submit()
        emulator.set_clock(advance=12)
        assert client.control("POST", f"tasks/{task_id}", {"outcome": "failed"}).status == 200
        assert client.data(task_id)["status"] == "failed"
        assert client.control("POST", f"tasks/{task_id}", {"outcome": "glory"}).status == 400
        assert client.control("POST", f"tasks/{task_id}", {"text": "why"}).status == 400
        assert client.control("POST", f"tasks/{task_id}", {"outcome": ["failed"]}).status == 400
        assert client.control("POST", "tasks/none", {"outcome": "failed"}).status == 404

    def test_clock_is_set_advanced_and_frozen(self, client: Client) -> None:
        change = {"now": "2030-01-01T02:00:00+02:00", "advance": 1.5, "frozen": True}
        expected = {"now": "2030-01-01T00:00:01.500Z", "frozen": True}
        assert client.control("POST", "clock", change).json == expected
        assert client.control("GET", "clock").json == expected

    def test_clock_that_runs_goes_on_from_where_it_was_set(self, emulator: Emulator, client: Client) -> None:
        client.control("POST", "clock", {"frozen": False, "now": "2030-01-01T00:00:00Z"})
        first = emulator.now()
        time.sleep(0.01)
        assert first < emulator.now()
        assert first.isoformat().startswith("2030-01-01T00:00:0")

    @pytest.mark.parametrize(
        "change",
        [{"now": "noon"}, {"now": 5}, {"advance": "1"}, {"advance": 1e300}, {"frozen": 1}, {"x": 1}, []],
    )
    def test_clock_refuses_what_is_no_time(self, emulator: Emulator, client: Client, change: Any) -> None:
        before = emulator.now()
        assert client.control("POST", "clock", change).status == 400
        assert emulator.now() == before

    def test_token_is_rotated_and_never_shown(self, client: Client) -> None:
        reply = client.control("POST", "settings", {"token": "rotated", "seconds": 3})
        assert reply.json == {"seconds": 3, "errors_as_200": False, "next_from_id": "last"}
        assert client.refresh().status == 401
        assert client.refresh(token="rotated").status == 200

    @pytest.mark.parametrize(
        "change",
        [{"token": ""}, {"seconds": -1}, {"seconds": "5"}, {"errors_as_200": 1}, {"next_from_id": 1}],
    )
    def test_settings_that_make_no_sense_are_refused(self, client: Client, change: Any) -> None:
        assert client.control("POST", "settings", change).status == 400
        assert client.refresh().status == 200

    def test_control_body_that_is_no_json_is_refused(self, client: Client) -> None:
        assert client.send("POST", "/_emulator/clock", b"{").status == 400


class TestServer:
    def test_restarted_emulator_keeps_its_port_and_its_tasks(self) -> None:
        with Emulator(TOKEN) as emulator:
            client, url = Client(emulator.port), emulator.url
            task_id = client.submit()
            emulator.stop()
            with pytest.raises(ConnectionRefusedError):
                client.status(task_id)
            emulator.start()
            assert emulator.url == url
            assert client.status(task_id).json["error"] == 0

    def test_stop_does_not_wait_for_requests_that_hang(self) -> None:
        with Emulator(TOKEN) as emulator:
            emulator.add_fault(Fault("hang"))
            emulator.add_fault(Fault("delay", seconds=60))
            threads = [threading.Thread(target=self._lost, args=(emulator.port,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            while len(emulator.journal()) < 2:
                time.sleep(0.01)
            started = time.monotonic()
        assert time.monotonic() - started < 30
        for thread in threads:
            thread.join()

    @staticmethod
    def _lost(port: int) -> None:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            Client(port).refresh()

    def test_base_path_may_be_another(self) -> None:
        with Emulator(TOKEN, base_path="crm/api/") as emulator:
            client = Client(emulator.port)
            assert client.post("/crm/api/databases/list/", {"token": TOKEN}).status == 200
            assert client.post(DATABASES, {"token": TOKEN}).status == 404

    def test_state_file_serves_one_emulator_at_a_time(self, tmp_path: Path) -> None:
        file = tmp_path / "state.db"
        code = f"""if True:
            from airflow_provider_segstats.emulator.state import State
            State("t", file={str(file)!r}, patience=0)
        """
        with Emulator(TOKEN, state=file) as emulator:
            Client(emulator.port).submit()
            result = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
            )
        assert "database is locked" in result.stderr


class Process:
    """The command line in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_segstats.emulator", "--port", "0", *arguments],
            env=os.environ | {"SEGSTATS_EMULATOR_TOKEN": TOKEN},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.ready = self.process.stdout.readline()
        match = re.fullmatch(r"segstats emulator: http://127\.0\.0\.1:(\d+)/api/v1\.1\n", self.ready)
        assert match, self.ready
        self.client = Client(int(match[1]))

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


class TestCommandLine:
    def test_tasks_and_clock_outlive_a_kill(self, tmp_path: Path) -> None:
        arguments = ("--state", str(tmp_path / "state.db"), "--seconds", "10")
        before = Process(*arguments)
        before.client.control("POST", "clock", {"now": NOON, "frozen": True})
        before.client.control("POST", "faults", {"kind": "task", "outcome": "failed"})
        before.client.control("POST", "faults", {"kind": "counters", "segment_id": 8, "factor": 0})
        task_id = before.client.submit(7)
        other = before.client.submit(8)
        tasks = before.client.control("GET", "tasks").json
        before.end(signal.SIGKILL)

        after = Process(*arguments)
        assert after.client.control("GET", "tasks").json == tasks
        assert after.client.control("GET", "clock").json == {
            "now": "2024-04-20T12:00:00.000Z",
            "frozen": True,
        }
        after.client.control("POST", "clock", {"advance": 12})
        assert after.client.data(task_id)["status"] == "failed"
        [entry] = after.client.data(other)["result"]
        assert {value for c in entry["channels"] for value in c["status"].values()} == {0}
        after.client.submit(9)
        assert [task["seq"] for task in after.client.control("GET", "tasks").json] == [1, 2, 3]
        after.end(signal.SIGKILL)

    def test_faults_to_begin_with_come_as_arguments(self) -> None:
        fault = '{"kind": "counters", "segment_id": 7, "factor": 0.1, "times": null}'
        server = Process("--fault", fault, "--fault", '{"kind": "http"}')
        armed = server.client.control("GET", "faults").json
        assert [(one["kind"], one["seen"]) for one in armed] == [("counters", 0), ("http", 0)]
        server.end(signal.SIGTERM)

    def test_state_file_of_another_version_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "state.db") as database:
            database.execute("create table submission (seq, task_id, primary key (seq))")
        with pytest.raises(sqlite3.DatabaseError, match="another version of the emulator"):
            Emulator(TOKEN, state=tmp_path / "state.db")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_server_ends_promptly_and_quietly_on_a_signal(self, number: signal.Signals) -> None:
        server = Process()
        connection = socket.create_connection(("127.0.0.1", server.client.port))
        server.client.refresh()
        started = time.monotonic()
        code, errors = server.end(number)
        connection.close()
        assert time.monotonic() - started < 30
        assert (code, errors) == (0, "")

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "a token is needed"),
            (["--token", "t", "--seconds", "-1"], "seconds must be a number, not negative"),
            (["--token", "t", "--fault", '{"kind": "counters"}'], "counters needs one of factor, change"),
            (["--token", "t", "--fault", "counters"], "argument --fault: "),
            (["--token", "t", "--state", __file__], "the state file cannot be used"),
            (["--token", "t", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:"),
        ],
    )
    def test_mistake_is_refused_in_one_plain_line(self, arguments: list[str], text: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "SEGSTATS_EMULATOR_TOKEN"}
        result = subprocess.run(
            [sys.executable, "-m", "airflow_provider_segstats.emulator", "--port", "0", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 2
        assert text in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
