"""What the emulator says there is, on the wire and in literal bytes: seeds, rights, lists, refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.paths import DOCS, code_blocks
from support.raw_client import REFRESH, TOKEN, XML, Client

from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.emulator.numbers import counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

API = "/api/v1.1"
SATURDAY = "2024-04-20T12:00:00Z"
DAY = 19_833
SEED: dict[str, Any] = {
    "segments": [
        {"id": 9, "name": "Gäste & Freunde", "static": True, "groups": [2]},
        {"id": 7, "name": "Readers", "ui_tags": ["weekly"], "groups": [1], "databases": [3], "size": 12_000},
        {"id": 8, "name": "Buyers", "ui_tags": ["weekly", "shop"], "groups": [1, 2], "databases": [3, 4]},
    ],
    "groups": [{"id": 1, "name": "north"}, {"id": 2, "name": "south"}],
    "databases": [{"id": 3, "name": "Customers", "suppress_id": 5}, {"id": 4, "name": "Guests"}],
    "resources": [
        {
            "id": 24,
            "name": "Shop",
            "channels": ["email", "viber"],
            "databases": [3],
            "url": "https://shop.example",
        },
        {"id": 27, "name": "Blog"},
    ],
    "tokens": [
        {"token": "narrow", "segments": [7], "databases": [3]},
        {"token": "mute", "may_list": False},
    ],
}


@pytest.fixture
def emulator(make_emulator: Callable[..., Emulator]) -> Emulator:
    emulator = make_emulator(TOKEN, seed=SEED, seconds=0.0)
    emulator.set_clock(SATURDAY, frozen=True)
    return emulator


@pytest.fixture
def client(emulator: Emulator) -> Client:
    return Client(emulator.port)


def ask(client: Client, method: str, token: str = TOKEN, **params: Any) -> Any:
    return client.post(f"{API}/{method}", {"token": token, **params}).json


def ids(reply: Any) -> list[int]:
    return [item["id"] for item in reply["data"]]


class TestLists:
    def test_segments_are_listed_in_json_as_documented(self, client: Client) -> None:
        reply = client.post(f"{API}/segments/list/", {"token": TOKEN, "limit": 1})
        assert reply.body == (
            b'{"data":[{"id":7,"name":"Readers","ui_tags":["weekly"],"Groups":[{"Id":1,"Name":"north"}]}],'
            b'"error":0,"error_text":"Successful operation","next_from_id":7,"total_count":3}'
        )

    def test_segments_are_listed_in_xml_as_documented(self, client: Client) -> None:
        body = f"<xml><token>{TOKEN}</token><from_id>8</from_id><format>xml</format></xml>".encode()
        reply = client.send("POST", f"{API}/segments/list/", body, XML)
        assert reply.body.decode() == (
            "<xml><data><groups><id>1</id><name>north</name></groups><groups><id>2</id><name>south</name>"
            "</groups><id>8</id><name>Buyers</name><ui_tags>weekly</ui_tags><ui_tags>shop</ui_tags></data>"
            "<data><groups><id>2</id><name>south</name></groups><id>9</id><name>Gäste &amp; Freunde</name>"
            "<ui_tags></ui_tags></data><error>0</error><error_text>Successful operation</error_text>"
            "<next_from_id>9</next_from_id><total_count>3</total_count></xml>"
        )

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({}, [7, 8, 9]),
            ({"ui_tags": ["weekly"]}, [7, 8]),
            ({"ui_tags": ["shop", "none"]}, [8]),
            ({"groups": ["south"]}, [8, 9]),
            ({"groups_id": [1]}, [7, 8]),
            ({"ui_tags": ["weekly"], "groups": ["south"]}, [8]),
            ({"ui_tags": ["none"]}, []),
            ({"from_id": 8}, [8, 9]),
            ({"from_id": 8, "limit": 1}, [8]),
            ({"from_id": 10}, []),
        ],
    )
    def test_list_is_of_what_was_asked_for(
        self, client: Client, asked: dict[str, Any], expected: list[int]
    ) -> None:
        assert ids(ask(client, "segments/list/", **asked)) == expected

    def test_tag_may_be_asked_for_in_xml(self, client: Client) -> None:
        body = f"<xml><token>{TOKEN}</token><ui_tags>shop</ui_tags></xml>".encode()
        assert ids(client.send("POST", f"{API}/segments/list/", body, XML).json) == [8]

    def test_a_page_holds_a_thousand_at_most(self, client: Client, emulator: Emulator) -> None:
        emulator.load_seed({"segments": [{"id": i, "name": str(i), "static": True} for i in range(1, 1002)]})
        reply = ask(client, "segments/list/", limit=5000)
        assert (ids(reply), reply["next_from_id"]) == (list(range(1, 1001)), 1000)
        assert reply["total_count"] == 1001

    def test_next_from_id_points_to_the_last_id_or_beyond(self, client: Client) -> None:
        client.control("POST", "settings", {"next_from_id": "beyond"})
        assert ask(client, "segments/list/")["next_from_id"] == 10
        assert ask(client, "segments/list/", from_id=10)["next_from_id"] == 10
        client.control("POST", "settings", {"next_from_id": "last"})
        assert ask(client, "segments/list/")["next_from_id"] == 9

    def test_databases_are_listed_like_segments(self, client: Client) -> None:
        assert ids(ask(client, "databases/list/")) == [3, 4]


class TestObjects:
    def test_dynamic_segment_names_its_databases(self, client: Client) -> None:
        data = ask(client, "segments/get/", id=8)["data"]
        assert (data["id"], data["name"]) == (8, "Buyers")
        assert [rule["list_id"] for rule in data["segment"]] == [3, 4]
        assert data["count"] > 0

    def test_static_segment_has_no_rules(self, client: Client) -> None:
        assert ask(client, "segments/get/", id=9)["data"]["segment"] == []

    def test_database_and_resource_are_as_documented(self, client: Client) -> None:
        assert ask(client, "databases/get/", id=3)["data"] == {
            "id": 3,
            "name": "Customers",
            "suppress_id": 5,
            "description": "",
        }
        assert ask(client, "resources/get", id=24)["data"] == {
            "id": 24,
            "name": "Shop",
            "channels": ["email", "viber"],
            "dbs_ids": [3],
            "url": "https://shop.example",
            "trk_domain": "",
        }

    def test_resource_decides_which_channels_are_counted(self, client: Client) -> None:
        for resource_id, channels in ((24, ["email", "viber"]), (27, ["email", "push", "sms"])):
            task_id = client.submit(7, resource_id=resource_id, db_id=3)
            [entry] = client.data(task_id)["result"]
            assert [channel["channel"] for channel in entry["channels"]] == channels

    def test_size_growth_and_week_are_the_seeds(self, emulator: Emulator, client: Client) -> None:
        week = [1, 1, 1, 1, 1, 0.5, 0]
        seed = {"id": 7, "name": "Readers", "databases": [3], "size": 10_000, "growth": 1.0, "weekly": week}
        emulator.load_seed(SEED | {"segments": [seed]})

        def email(day: int) -> int:
            emulator.set_clock(SATURDAY, advance=day * 86_400.0)
            [entry] = client.data(client.submit(7, resource_id=24, db_id=3))["result"]
            return int(entry["channels"][0]["status"]["subscribed_sendable"])

        assert email(1) == 0  # a Sunday
        assert 0.4 < email(0) / email(-1) < 0.6
        assert 1.6 < email(363) / email(-1) < 2.4  # a year later, a Friday, too
        assert 7_000 < email(-1) / 2**0.3 < 13_000

    def test_counters_without_a_recount_are_those_of_the_last(
        self, emulator: Emulator, client: Client
    ) -> None:
        asked = {"id": 7, "resource_id": 24, "list_id": 3}
        before = ask(client, "segments/get_counters", **asked)["data"]
        assert before[0]["status"] == counters(7, 24, "email", DAY - 1, size=12_000)
        emulator.add_fault(Fault("counters", factor=0.1))
        [entry] = client.data(client.submit(7, resource_id=24, db_id=3))["result"]
        emulator.set_clock(advance=86_400 * 3)
        assert ask(client, "segments/get_counters", **asked)["data"] == entry["channels"]

    def test_databases_and_resources_are_recounted_with_more_counters(self, client: Client) -> None:
        asked = {"databases": {"id": 3, "resource_id": 24}, "resources": {"id": 24, "list_id": 3}}
        counted = []
        for kind, params in asked.items():
            task_id = ask(client, f"{kind}/refresh_counters", **params)["data"]["task_id"]
            [entry] = client.data(task_id)["result"]
            assert (entry["list_id"], entry["resource_id"]) == (3, 24)
            counted.append(entry["channels"])
        status = counted[0][0]["status"]
        assert list(status) == [
            "all",
            "subscribed",
            "unconfirmed",
            "unsubscribed",
            "complained",
            "hardbounced",
            "suspended",
            "invalid",
            "subscribed_sendable",
            "unconfirmed_sendable",
        ]
        assert status["all"] == sum(value for name, value in status.items() if name in list(status)[1:8])
        assert counted[0] == counted[1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "params", "text"),
        [
            ("segments/refresh_counters", {"id": 6, "resource_id": 24}, "there is no segment 6"),
            ("segments/refresh_counters", {"id": 7, "resource_id": 2}, "there is no resource 2"),
            ("segments/refresh_counters", {"id": 7, "resource_id": 24}, "db_id is required"),
            ("segments/refresh_counters", {"id": 7, "resource_id": 24, "db_id": 4}, "not of database 4"),
            ("segments/get_counters", {"id": 8, "resource_id": 24}, "db_id is required"),
            ("segments/get/", {"id": 6}, "there is no segment 6"),
            ("segments/get/", {}, "id is required"),
            ("segments/list/", {"ui_tags": "weekly"}, "ui_tags must be a list"),
            ("databases/get/", {"id": 6}, "there is no database 6"),
            ("resources/get", {"id": 6}, "there is no resource 6"),
            ("databases/refresh_counters", {"id": 4, "resource_id": 24}, "not of database 4"),
            ("resources/refresh_counters", {"id": 24}, "list_id is required"),
        ],
    )
    def test_what_is_not_there_is_an_incorrect_request(
        self, emulator: Emulator, client: Client, method: str, params: dict[str, Any], text: str
    ) -> None:
        reply = client.post(f"{API}/{method}", {"token": TOKEN, **params})
        assert (reply.status, reply.json["error"]) == (400, 400)
        assert text in reply.json["error_text"]
        assert emulator.tasks() == []

    def test_segment_is_counted_for_its_resources_only(self, emulator: Emulator, client: Client) -> None:
        emulator.load_seed(SEED | {"segments": [{"id": 7, "name": "R", "static": True, "resources": [27]}]})
        assert client.refresh(7).json["error"] == 400
        assert client.refresh(7, resource_id=27).json["error"] == 0

    def test_static_segment_needs_no_database(self, client: Client) -> None:
        assert client.refresh(9).json["error"] == 0

    def test_token_sees_and_counts_what_it_may(self, client: Client) -> None:
        assert ids(ask(client, "segments/list/", "narrow")) == [7]
        assert ids(ask(client, "databases/list/", "narrow")) == [3]
        assert ask(client, "segments/get/", "narrow", id=7)["error"] == 0
        assert ask(client, "segments/get/", "narrow", id=8) == {
            "error": 403,
            "error_text": "No access to segment 8",
        }
        assert ask(client, "segments/refresh_counters", "narrow", id=8, resource_id=24)["error"] == 403
        assert ask(client, "databases/get/", "narrow", id=4)["error"] == 403

    def test_token_without_the_right_to_list_may_count(self, client: Client) -> None:
        assert ask(client, "segments/list/", "mute")["error"] == 403
        assert ask(client, "databases/list/", "mute")["error"] == 403
        assert ask(client, "segments/refresh_counters", "mute", id=9, resource_id=24)["error"] == 0

    def test_token_that_nobody_has_is_refused(self, client: Client) -> None:
        assert ask(client, "segments/list/", "other")["error"] == 401


class TestSeeds:
    def test_seed_comes_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "seed.json"
        file.write_text(json.dumps(SEED))
        with Emulator(TOKEN, seed=file) as emulator:
            assert ids(ask(Client(emulator.port), "segments/list/")) == [7, 8, 9]

    def test_seed_is_replaced_while_it_runs(self, client: Client) -> None:
        seed = {"segments": [{"id": 7, "name": "Renamed", "static": True}]}
        assert client.control("POST", "seed", seed).json == {
            "segments": 1,
            "groups": 0,
            "databases": 0,
            "resources": 0,
            "tokens": 0,
        }
        assert ask(client, "segments/list/")["data"][0]["name"] == "Renamed"

    def test_task_ends_although_its_segment_is_gone(self, emulator: Emulator, client: Client) -> None:
        task_id = client.submit(7, db_id=3)
        emulator.load_seed({})
        assert client.data(task_id)["status"] == "completed"

    def test_without_a_seed_every_id_is_that_of_something(
        self, make_emulator: Callable[..., Emulator]
    ) -> None:
        client = Client(make_emulator(TOKEN).port)
        assert client.refresh(4711).json["error"] == 0
        assert ids(ask(client, "segments/list/")) == []
        assert ask(client, "segments/get/", id=4711)["data"]["name"] == "Segment 4711"
        assert ask(client, "databases/get/", id=1)["data"]["name"] == "Customers"
        assert ask(client, "resources/get", id=24)["data"]["channels"] == ["email", "push", "sms"]

    def test_seed_of_the_docs_is_one(self) -> None:
        [block] = code_blocks(DOCS / "emulator.md", "json")
        with Emulator(TOKEN, seed=json.loads(block)) as emulator:
            client = Client(emulator.port)
            assert ids(ask(client, "segments/list/")) == [7, 8]
            assert client.refresh(7, db_id=3).json["error"] == 0
            assert client.post(REFRESH, {"token": "narrow", "id": 8, "resource_id": 24}).status == 403

    @pytest.mark.parametrize(
        ("seed", "text"),
        [
            ([], "must be a JSON object"),
            ("seed.json", "must be a JSON object"),
            ({"segment": []}, "any of segments, groups, databases, resources, tokens"),
            ({"segments": {}}, "segments must be a list"),
            ({"segments": [{"id": 7}]}, "number 1 of the segments must be an object with id and name"),
            ({"segments": [{"id": 7, "name": "R", "tags": []}]}, "number 1 of the segments must be"),
            ({"segments": [{"id": "7", "name": "R"}]}, "id cannot be '7'"),
            ({"segments": [{"id": True, "name": "R"}]}, "id cannot be True"),
            ({"segments": [{"id": 7, "name": "R", "ui_tags": [1]}]}, "ui_tags cannot be 1"),
            ({"segments": [{"id": 7, "name": "R"}]}, "a dynamic segment needs databases"),
            ({"segments": [{"id": 7, "name": "R", "databases": [3]}]}, "are not there: {3}"),
            ({"segments": [{"id": 7, "name": "R", "static": True, "weekly": [1]}]}, "seven factors"),
            ({"segments": [{"id": 7, "name": "R", "static": True, "size": -1}]}, "size must not be"),
            ({"databases": [{"id": 0, "name": "R"}]}, "must be above 0"),
            ({"databases": [{"id": 3, "name": "R"}, {"id": 3, "name": "S"}]}, "no two alike"),
            ({"databases": [{"id": 3, "name": "R", "size": float("nan")}]}, "size must not be"),
        ],
    )
    def test_seed_that_makes_no_sense_is_refused_and_changes_nothing(
        self, client: Client, seed: Any, text: str
    ) -> None:
        reply = client.control("POST", "seed", seed)
        assert reply.status == 400
        assert text in reply.json["error"]
        assert ids(ask(client, "segments/list/")) == [7, 8, 9]

    def test_seed_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text("{")
        for name, text in (("none.json", "No such file or directory"), ("broken.json", "is not JSON")):
            with pytest.raises(ValueError, match=text):
                Emulator(TOKEN, seed=tmp_path / name)
