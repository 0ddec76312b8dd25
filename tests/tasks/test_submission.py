"""What a retry makes of what an earlier try stored."""

from __future__ import annotations

import json

import pytest

from airflow_provider_segstats.tasks.submission import Life, Submitted, Unknown, intent, recall, submitted

LIFE = Life(max_tries=2, clear_number=1)


def test_the_records_are_this_json() -> None:
    # What one release stored, the next has to read.
    assert json.dumps(intent(LIFE)) == '{"max_tries": 2, "clear_number": 1, "task_id": null}'
    stored = '{"max_tries": 2, "clear_number": 1, "task_id": "a", "resubmitted": false}'
    assert json.dumps(submitted(LIFE, "a")) == stored


@pytest.mark.parametrize(
    ("record", "earlier"),
    [
        (None, None),
        (submitted(LIFE, "task_1"), Submitted("task_1")),
        (submitted(LIFE, "task_2", resubmitted=True), Submitted("task_2", resubmitted=True)),
        ({**intent(LIFE), "task_id": "task_1"}, Submitted("task_1")),
        (intent(LIFE), Unknown()),
        (submitted(LIFE, ""), Unknown()),
        ({**intent(LIFE), "task_id": 5}, Unknown()),
        ({"max_tries": 2, "clear_number": 1}, Unknown()),
        ({**submitted(LIFE, "task_1"), "of_tomorrow": True}, Submitted("task_1")),
        # Cleared in between: a finished task's max_tries is reset, a running one's clear_number raised.
        (submitted(Life(3, 1), "task_1"), None),
        (submitted(Life(1, 1), "task_1"), None),
        (submitted(Life(2, 0), "task_1"), None),
        (submitted(Life(2, 2), "task_1"), None),
        (intent(Life(2, 2)), None),
        ({}, None),
        ("task_1", None),
        (["task_1"], None),
        (5, None),
    ],
    ids=repr,
)
def test_a_record_counts_only_in_the_life_it_was_written_in(record: object, earlier: object) -> None:
    assert recall(record, LIFE) == earlier
