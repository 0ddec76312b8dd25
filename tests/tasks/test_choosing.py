"""Segments chosen by what marks them, databases looked up, names: against the emulator, try by try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.paths import DOCS, code_blocks
from support.tries import Store, Try

from airflow_provider_segstats.boundary.versions import AirflowFailException
from airflow_provider_segstats.core import policy
from airflow_provider_segstats.core.errors import ConfigurationError, HttpStatusError
from airflow_provider_segstats.core.model import Segment, Selection
from airflow_provider_segstats.emulator import Emulator, Fault
from airflow_provider_segstats.hooks import SegStatsHook
from airflow_provider_segstats.tasks.segments import as_segments, check_segments

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = ("worker", "deferrable")
SEED: dict[str, Any] = {
    "segments": [
        {"id": 7, "name": "Readers", "ui_tags": ["weekly"], "databases": [3]},
        {"id": 8, "name": "Buyers", "ui_tags": ["weekly"], "groups": [1], "databases": [4]},
        {"id": 9, "name": "Fair", "ui_tags": ["weekly"], "static": True},
        {"id": 10, "name": "Both", "databases": [3, 4]},
    ],
    "groups": [{"id": 1, "name": "north"}],
    "databases": [{"id": 3, "name": "Customers"}, {"id": 4, "name": "Guests"}],
    "resources": [{"id": 24, "name": "Shop", "channels": ["email"]}],
}
WEEKLY = {"ui_tags": ["weekly"], "resource_id": 24, "db_id": "auto"}


@pytest.fixture
def emulator(
    make_emulator: Callable[..., Emulator], connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Emulator:
    monkeypatch.setattr(policy, "SHORTEST_DEFERRAL", 0.05)  # no worker needs time to leave here
    monkeypatch.setattr(policy, "LONGEST_BACKOFF", 0.05)  # nor a server of ours to recover
    emulator = make_emulator(seed=SEED, seconds=0.0)
    connect(emulator.url)
    return emulator


def accepted(emulator: Emulator) -> list[tuple[int | None, int | None]]:
    return sorted((task.segment_id, task.db_id) for task in emulator.tasks())


def named(rows: list[dict[str, Any]]) -> list[tuple[int, str | None]]:
    return [(row["segment_id"], row.get("name")) for row in rows]


def asked(emulator: Emulator, endpoint: str) -> int:
    return sum(entry.endpoint == endpoint for entry in emulator.journal())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", ["json", "xml"])
def test_a_selection_refreshes_what_has_the_tag_with_names_and_databases(
    emulator: Emulator, format: str, mode: str
) -> None:
    attempt = Try(Store(), segments=WEEKLY, format=format, deferrable=mode == "deferrable")
    assert named(attempt.run()) == [(7, "Readers"), (8, "Buyers"), (9, "Fair")]
    assert accepted(emulator) == [(7, 3), (8, 4), (9, None)]
    assert asked(emulator, "segments/get") == 3
    assert attempt.summary["ok"] == [7, 8, 9]


def test_lists_and_selections_mix_and_what_stands_by_its_id_goes_by_its_entry(emulator: Emulator) -> None:
    wanted = [
        {"segment_id": 8, "resource_id": 24, "db_id": 4, "name": "Our buyers"},
        {**WEEKLY, "exclude": [9]},
        {"groups": ["north"], "resource_id": 24, "db_id": 4},
        {"segment_id": 10, "resource_id": 24, "db_id": 3},
    ]
    rows = Try(Store(), segments=wanted).run()
    assert named(rows) == [(8, "Our buyers"), (7, "Readers"), (10, None)]
    assert accepted(emulator) == [(7, 3), (8, 4), (10, 3)]


def test_what_was_chosen_is_kept_for_the_retries(emulator: Emulator) -> None:
    store = Store()
    emulator.add_fault(Fault("task", outcome="failed", segment_id=8))
    with pytest.raises(Exception, match="1 of 3 segments were not counted"):
        Try(store, segments=WEEKLY).run()
    emulator.load_seed(
        SEED | {"segments": [SEED["segments"][1], SEED["segments"][3] | {"ui_tags": ["weekly"]}]}
    )
    emulator.clear_journal()
    rows = Try(store, 2, segments=WEEKLY).run()
    assert named(rows) == [(7, "Readers"), (8, "Buyers"), (9, "Fair")]
    assert (asked(emulator, "segments/list"), asked(emulator, "segments/get")) == (0, 0)
    assert accepted(emulator) == [(7, 3), (8, 4), (8, 4), (9, None)]


def test_a_cleared_task_chooses_anew(emulator: Emulator) -> None:
    store = Store()
    Try(store, segments=WEEKLY).run()
    emulator.load_seed(SEED | {"segments": SEED["segments"][:1]})
    cleared = Try(store, segments=WEEKLY)
    cleared.context["dag_run"].clear_number = 1
    assert named(cleared.run()) == [(7, "Readers")]


def test_many_chosen_segments_are_kept_in_pages_that_airflow_takes(emulator: Emulator) -> None:
    many = [{"id": i, "name": f"N {i} " + "x" * 900, "ui_tags": ["t"], "static": True} for i in range(1, 121)]
    emulator.load_seed(SEED | {"segments": many})
    store = Store()
    attempt = Try(store, segments={"ui_tags": ["t"], "resource_id": 24}, deferrable=True)
    assert len(attempt.run()) == 120
    assert store.largest < 64_000


@pytest.mark.parametrize(
    "selection",
    [
        {"ui_tags": ["none"], "resource_id": 24},
        {"groups": ["north"], "exclude": [8], "resource_id": 24},
    ],
)
def test_an_empty_selection_is_an_error_unless_asked_otherwise(
    emulator: Emulator, selection: dict[str, Any]
) -> None:
    with pytest.raises(AirflowFailException, match="or none is left that is not excluded"):
        Try(Store(), segments=selection).run()
    assert Try(Store(), segments={**selection, "allow_empty": True}).run() == []
    assert emulator.tasks() == []


def test_a_segment_whose_rules_name_several_databases_fails_alone(emulator: Emulator) -> None:
    wanted = [{"segment_id": number, "resource_id": 24, "db_id": "auto"} for number in (7, 10, 11)]
    attempt = Try(Store(), segments=wanted)
    with pytest.raises(AirflowFailException, match="2 of 3 segments were not counted"):
        attempt.run()
    assert attempt.summary["ok"] == [7]
    assert "name several databases: 3, 4; set db_id to one" in attempt.summary["failed"]["10"]
    assert "API error 400: Incorrect request: there is no segment 11" in attempt.summary["failed"]["11"]
    assert accepted(emulator) == [(7, 3)]


def test_a_database_that_cannot_be_looked_up_now_is_looked_up_by_a_retry(emulator: Emulator) -> None:
    emulator.add_fault(Fault("http", endpoint="segments/get", times=policy.MAX_READ_FAILURES))
    store = Store()
    with pytest.raises(HttpStatusError):
        Try(store, segments=[{"segment_id": 7, "resource_id": 24, "db_id": "auto"}]).run()
    assert emulator.tasks() == []
    Try(store, 2, segments=[{"segment_id": 7, "resource_id": 24, "db_id": "auto"}]).run()
    assert accepted(emulator) == [(7, 3)]


@pytest.mark.parametrize(("segment_id", "db_id"), [(7, 3), (9, None)])
def test_one_segments_database_is_looked_up(emulator: Emulator, segment_id: int, db_id: int | None) -> None:
    Try(Store(), segment_id=segment_id, resource_id=24, db_id="auto", wait_for_completion=True).run()
    SegStatsHook().refresh_counters(segment_id, 24, "auto")
    assert accepted(emulator) == [(segment_id, db_id)] * 2
    assert SegStatsHook().get_counters(segment_id, 24, "auto")[0]["list_id"] == db_id


def test_one_segment_of_several_databases_is_refused_naming_them(emulator: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="segment 10 name several databases: 3, 4"):
        Try(Store(), segment_id=10, resource_id=24, db_id="auto").run()
    assert emulator.tasks() == []


def test_a_submit_refused_for_want_of_a_database_says_how_to_set_it(emulator: Emulator) -> None:
    with pytest.raises(AirflowFailException) as caught:
        Try(Store(), segment_id=7, resource_id=24).run()
    assert str(caught.value).endswith(
        "API error 400: Incorrect request: db_id is required for a dynamic segment; "
        "a dynamic segment needs the id of its database: db_id='auto' looks it up"
    )
    assert emulator.tasks() == []


def test_a_selection_is_read_with_all_that_it_may_say() -> None:
    selection = {
        "ui_tags": ["weekly"],
        "groups": ["north"],
        "groups_id": ["1"],
        "resource_id": "24",
        "exclude": [9, "10"],
        "db_id": 3,
        "extra_params": {"a": 1},
        "allow_empty": True,
    }
    check_segments(selection)
    expected = Selection(24, ("weekly",), ("north",), (1,), frozenset({9, 10}), 3, {"a": 1}, allow_empty=True)
    assert as_segments(selection) == [expected]
    assert as_segments('[{"segment_id": 7, "resource_id": 24, "db_id": "auto", "name": "R"}]') == [
        Segment(7, 24, "auto", name="R")
    ]


@pytest.mark.parametrize(
    ("selection", "line"),
    [
        ({"ui_tags": ["weekly"]}, "a segment needs segment_id and resource_id, a selection resource_id"),
        ({"ui_tags": [], "resource_id": 24}, "a segment needs segment_id and resource_id, a selection"),
        ({"ui_tags": "weekly", "resource_id": 24}, "ui_tags of a selection must be a list"),
        ({"ui_tags": [""], "resource_id": 24}, "ui_tags of a selection must be a list of texts"),
        ({"groups_id": ["north"], "resource_id": 24}, "groups_id of a selection must be a whole number"),
        ({**WEEKLY, "exclude": 9}, "exclude of a selection must be a list"),
        ({**WEEKLY, "db_id": "car"}, "db_id of a selection must be a whole number above 0"),
        ({**WEEKLY, "allow_empty": "yes"}, "allow_empty of a selection must be true or false"),
        ({**WEEKLY, "tags": []}, "unknown tags in a selection: {"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused_at_once_and_when_rendered(
    selection: Any, line: str
) -> None:
    for check in (check_segments, as_segments):
        with pytest.raises(ConfigurationError) as caught:
            check(selection)
        assert str(caught.value).startswith(line)


def test_a_selection_with_templates_is_left_for_later() -> None:
    check_segments([{"ui_tags": ["{{ x }}"], "resource_id": "{{ y }}", "exclude": "{{ z }}"}])


def test_what_the_docs_say_of_lists_and_selections_is_taken() -> None:
    mixed, alone = (as_segments(block) for block in code_blocks(DOCS / "segments.md", "json"))
    assert mixed == [Segment(7, 24), Segment(8, 24, "auto", name="Buyers")]
    assert alone == [Selection(24, ("weekly",), exclude=frozenset({9}), db_id="auto")]
