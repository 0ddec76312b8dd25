"""What the page's app answers, from a real API server to real requests."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.page_server import HOSTILE, NAMES, NIGHTLY, OTHER, REASON, TONIGHT, counts, run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.page_server import Server

ROUTES = {
    "api/segments": {},
    "api/segment": {"account": "shop", "id": 7},
    "api/running": {},
    "api/nights": {},
    "api/run": {"dag_id": NIGHTLY, "run_id": "waiting"},
    "report/2026-03-31.html": {},
}
PROGRESS = {
    "account": "shop",
    "total": 5,
    "done": 2,
    "failed": 1,
    "under_way": 2,
    "since": "2026-03-31T03:00:00+00:00",
    "at": "2026-03-31T03:04:00+00:00",
    "segments": [[7, 40], [70, None]],
}
FELL = {
    "what": "fell",
    "source": "shop",
    "kind": "segment",
    "id": 7,
    "name": None,
    "channel": "sms",
    "counter": "subscribed_sendable",
    "before": 700,
    "after": 350,
    "low": 600,
    "high": None,
    "updated": None,
    "reason": None,
}
SUMMARY = {"ok": [7], "failed": {"9": "no such list"}, "not_submitted": [10], "submits": 3, "resubmitted": 0}


@pytest.fixture(scope="session", autouse=True)
def runs(server: Server) -> None:
    """Put runs into Airflow: one that waits, one that ended, and one of a DAG that nobody here may read."""
    server.rows.add_run(NIGHTLY, "waiting", {"refresh": ("deferred", {"segstats_progress": PROGRESS})})
    ended: dict[str, Any] = {
        "refresh": ("success", {"summary": SUMMARY}),
        "check": ("failed", {"findings": [FELL, {**FELL, "id": 8}]}),
    }
    server.rows.add_run(NIGHTLY, run_id(TONIGHT), ended, seconds=61.5)
    server.rows.add_run(NIGHTLY, "of_something_else", {"refresh": ("success", {"return_value": 1})})
    # Airflow knows no DAG of this name, so nobody may read it.
    server.rows.add_run(OTHER, "waiting", {"refresh": ("deferred", {"segstats_progress": PROGRESS})})


@pytest.fixture
def elsewhere(server: Server) -> Iterator[Any]:
    """Give a function that says where the history is; put back when the test ends."""
    yield server.point_at
    server.point_at()


def rows(server: Server, **parameters: Any) -> list[dict[str, Any]]:
    reply = server.get("api/segments", **parameters)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["rows"]
    return found


def ids(server: Server, **parameters: Any) -> list[int]:
    return [row["id"] for row in rows(server, **parameters)]


# Who may


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("user", "status"),
    [(None, 401), ("broken", 403), ("viewer", 200), ("user", 200), ("op", 200), ("admin", 200)],
)
@pytest.mark.parametrize("by", ["cookie", "header"])
def test_nobody_is_in_without_a_session_and_every_role_may_look(
    server: Server, route: str, user: str | None, status: int, by: str
) -> None:
    assert server.get(route, user, by=by, **ROUTES[route]).status_code == status


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_changed_through_the_page(server: Server, route: str, method: str) -> None:
    assert server.get(route, "admin", method=method).status_code == 405


@pytest.mark.parametrize("route", ["docs", "redoc", "openapi.json"])
def test_the_app_does_not_describe_itself(server: Server, route: str) -> None:
    assert server.get(route, "admin").status_code == 404


def test_the_static_files_are_open_and_nothing_else_of_the_folder_is(server: Server) -> None:
    assert server.get("static/segments.js", None).status_code == 200
    for path in ("static/", "static/..%2fapp.py", "static/%2e%2e/app.py"):
        assert server.get(path, None).status_code == 404


# The list


def test_the_list_has_each_segment_with_its_counters_changes_and_state(server: Server) -> None:
    [gold] = rows(server, search="7", limit=1)

    email, sms = counts(7, "email", 0), counts(7, "sms", 0)
    assert {name: gold[name] for name in gold if name not in {"trend", "updated"}} == {
        "source": "shop",
        "kind": "segment",
        "id": 7,
        "name": "Gold customers",
        "total": email + sms,
        "change": 2,
        "week_change": 14,
        "state": "running",
        "reason": None,
        "progress": 40,
        "channels": {"email": email, "sms": sms},
    }
    assert gold["updated"].startswith("2026-03-31T03:05:00")


def test_a_trend_has_the_last_thirty_nights_and_the_one_before(server: Server) -> None:
    [gold] = rows(server, search="gold customers")

    assert gold["trend"] == [counts(7, "email", ago) + counts(7, "sms", ago) for ago in range(30, -1, -1)]


def test_a_segment_that_failed_shows_why_and_its_last_counters(server: Server) -> None:
    [failed] = rows(server, state="failed")

    assert (failed["id"], failed["state"]) == (9, "failed")
    assert failed["reason"] == REASON
    assert failed["total"] == counts(9, "email", 3) + counts(9, "sms", 3)
    assert failed["trend"][-4:] == [failed["total"], None, None, None]


def test_a_segment_that_left_the_list_is_missing_and_one_not_submitted_says_so(server: Server) -> None:
    assert {row["id"]: row["state"] for row in rows(server, sort="id", order="asc")} == {
        7: "running",
        8: "counted",
        9: "failed",
        10: "not_submitted",
        11: "missing",
        70: "running",
        500: "counted",
    }


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("gold", [70, 7, 8]),
        ("GOLD, LAPSED", [70]),
        ("ørsted", [9]),
        ("7", [7, 70]),  # what is called just so comes first
        ("70", [70]),
        ("nothing like it", []),
        ("%", []),
        ("'; DROP TABLE segment_counters; --", []),
    ],
)
def test_a_search_finds_ids_and_names_wherever_it_stands_in_them(
    server: Server, search: str, found: list[int]
) -> None:
    assert ids(server, search=search) == found


@pytest.mark.parametrize(
    ("sort", "order", "found"),
    [
        ("total", "desc", [70, 9, 8, 7, 500, 11, 10]),
        ("total", "asc", [11, 500, 7, 8, 9, 70, 10]),  # what has no value comes last, whatever the order
        ("id", "asc", [7, 8, 9, 10, 11, 70, 500]),
        ("name", "asc", [8, 7, 70, 9, 500, 11, 10]),
        ("channel:sms", "desc", [70, 9, 8, 7, 500, 11, 10]),
        ("updated", "asc", [11, 9, 500, 7, 8, 70, 10]),
    ],
)
def test_the_list_is_sorted_by_any_column(server: Server, sort: str, order: str, found: list[int]) -> None:
    assert ids(server, sort=sort, order=order) == found


def test_the_list_is_paged_by_the_server(server: Server) -> None:
    pages = [
        server.get("api/segments", sort="id", order="asc", offset=offset, limit=4).json()
        for offset in (0, 4, 8)
    ]

    assert [[row["id"] for row in page["rows"]] for page in pages] == [[7, 8, 9, 10], [11, 70, 500], []]
    assert {page["total"] for page in pages} == {7}


def test_the_list_is_cut_by_account(server: Server) -> None:
    assert ids(server, account="club") == [500]
    assert server.get("api/segments").json()["accounts"] == ["club", "shop"]


@pytest.mark.parametrize(
    "parameters",
    [{"sort": "password"}, {"order": "up"}, {"offset": -1}, {"limit": 0}, {"limit": 201}, {"limit": "all"}],
)
def test_what_no_page_asks_for_is_refused(server: Server, parameters: dict[str, Any]) -> None:
    assert server.get("api/segments", **parameters).status_code == 422


def test_a_name_is_text_whatever_stands_in_it(server: Server) -> None:
    reply = server.get("api/segments", search="script")

    assert [row["name"] for row in reply.json()["rows"]] == [HOSTILE]
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


# One segment


def test_one_segment_has_its_nights_by_channel(server: Server) -> None:
    found = server.get("api/segment", account="shop", id=7, days=10).json()

    nights = [str(TONIGHT - timedelta(days=ago)) for ago in range(10, -1, -1)]
    assert found["nights"] == nights
    assert found["channels"] == {
        channel: [counts(7, channel, ago) for ago in range(10, -1, -1)] for channel in ("email", "sms")
    }
    assert found["outcomes"][0] == {
        "night": str(TONIGHT),
        "outcome": "counted",
        "reason": None,
        "dag_id": NIGHTLY,
        "run_id": run_id(TONIGHT),
    }
    assert len(found["outcomes"]) == 11


def test_one_segment_has_what_the_last_check_found_and_its_place_on_the_platform(server: Server) -> None:
    found = server.get("api/segment", account="shop", id=7).json()

    assert found["findings"] == [
        "segment 7, sms: subscribed_sendable fell by 50% to 350 (expected 600 or more)"
    ]
    assert found["url"] == "https://platform.example/s/7"
    assert server.get("api/segment", account="club", id=500).json()["url"] is None


def test_a_segment_that_failed_has_nights_without_counts(server: Server) -> None:
    found = server.get("api/segment", account="shop", id=9, days=5).json()

    assert found["channels"]["email"][-4:] == [counts(9, "email", 3), None, None, None]
    assert [night["outcome"] for night in found["outcomes"]] == ["failed"] * 3 + ["counted"] * 3


def test_a_year_is_what_can_be_asked_for(server: Server) -> None:
    assert len(server.get("api/segment", account="shop", id=7, days=365).json()["nights"]) == 366
    assert server.get("api/segment", account="shop", id=7, days=367).status_code == 422


def test_a_run_of_a_dag_that_the_caller_may_not_read_is_not_named(server: Server) -> None:
    found = server.get("api/segment", account="club", id=500, days=1).json()

    assert [(night["outcome"], night["dag_id"], night["run_id"]) for night in found["outcomes"]] == [
        ("counted", None, None),
        ("counted", None, None),
    ]
    assert OTHER not in "".join(server.get(route, **ROUTES[route]).text for route in ROUTES)


def test_a_segment_that_nobody_counted_is_not_found(server: Server) -> None:
    reply = server.get("api/segment", account="shop", id=4711)

    assert (reply.status_code, reply.json()) == (404, {"detail": "There is no such segment in the history."})


# What runs, and the last night


def test_what_runs_now_is_as_of_the_last_progress_written(server: Server) -> None:
    [task] = server.get("api/running").json()["tasks"]

    assert task == {
        "dag_id": NIGHTLY,
        "run_id": "waiting",
        "task_id": "refresh",
        "map_index": -1,
        "state": "deferred",
        "progress": PROGRESS,
    }


def test_the_last_night_says_what_became_of_all_and_why_each_failed(server: Server) -> None:
    [night] = server.get("api/nights").json()["nights"]

    assert night == {
        "source": "shop",
        "dag_id": NIGHTLY,
        "run_id": run_id(TONIGHT),
        "night": str(TONIGHT),
        "counted": 3,
        "failed": [
            {
                "source": "shop",
                "kind": "segment",
                "id": 9,
                "name": NAMES[9],
                "reason": REASON,
            }
        ],
        "not_submitted": [
            {"source": "shop", "kind": "segment", "id": 10, "name": None, "reason": "not submitted"}
        ],
        "seconds": 61.5,
        "submits": 3,
    }


def test_a_run_has_its_tasks_that_count_segments(server: Server) -> None:
    [waiting] = server.get("api/run", dag_id=NIGHTLY, run_id="waiting").json()["tasks"]
    [ended] = server.get("api/run", dag_id=NIGHTLY, run_id=run_id(TONIGHT)).json()["tasks"]

    assert (waiting["progress"], waiting["summary"]) == (PROGRESS, None)
    assert (ended["progress"], ended["summary"]) == (None, SUMMARY)


def test_progress_of_a_task_that_is_over_is_not_shown(server: Server) -> None:
    done = {"refresh": ("success", {"segstats_progress": PROGRESS})}
    server.rows.add_run(NIGHTLY, "over", done, seconds=1)

    [task] = server.get("api/run", dag_id=NIGHTLY, run_id="over").json()["tasks"]

    assert (task["state"], task["progress"]) == ("success", None)


@pytest.mark.parametrize("name", ["of_something_else", "no_such_run"])
def test_a_run_without_segments_has_no_tasks(server: Server, name: str) -> None:
    assert server.get("api/run", dag_id=NIGHTLY, run_id=name).json() == {"tasks": []}


# What cannot be answered

SENTENCES = {
    "no connection": ({"conn_id": "nowhere"}, "No history is set up"),
    "no table": ({"table": "nothing_here"}, "The history has no tables yet"),
    "database away": ({"conn_id": "away"}, "The history's database does not answer."),
}


@pytest.mark.parametrize("case", SENTENCES)
@pytest.mark.parametrize("route", ["api/segments", "api/segment", "api/nights"])
def test_what_cannot_be_read_is_one_sentence_without_host_or_sql(
    server: Server, elsewhere: Callable[..., None], case: str, route: str
) -> None:
    where, sentence = SENTENCES[case]
    elsewhere(**where)

    reply = server.get(route, **ROUTES[route])

    assert reply.status_code == 503
    assert reply.json()["detail"].startswith(sentence)
    for secret in ("127.0.0.1", "hidden.example", "s3cret", "SELECT", "psycopg", "Traceback", "nothing_here"):
        assert secret not in reply.text


def test_what_runs_is_known_without_a_history(server: Server, elsewhere: Callable[..., None]) -> None:
    elsewhere(conn_id="nowhere")

    assert len(server.get("api/running").json()["tasks"]) == 1


# Reports


def test_a_report_is_served_in_a_sandbox_of_its_own(server: Server) -> None:
    reply = server.get("report/2026-03-31.html")

    assert reply.text == "<p>a report</p>"
    assert reply.headers["Content-Security-Policy"] == "sandbox allow-scripts"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["nothing.html", "..%2fsecret.html", "%2e%2e/secret.html", "secret.txt", ".html"]
)
def test_only_reports_of_the_folder_are_served(server: Server, name: str) -> None:
    assert server.get(f"report/{name}").status_code == 404


def test_no_answer_tells_a_token_or_a_connection(server: Server) -> None:
    told = json.dumps([server.get(route, **parameters).text for route, parameters in ROUTES.items()])

    for secret in (server.token("viewer"), str(server.airflow.postgres.folder), server.airflow.password):
        assert secret not in told
