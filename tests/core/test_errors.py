"""The tree of errors: what is permanent, what an error says, and its way through a trigger's event."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from support.fault_cases import CAUGHT
from support.paths import DOCS

from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.core import errors
from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    AwayError,
    CertificateError,
    ConfigurationError,
    ExecutionTimeoutError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    PartialFailureError,
    RedirectError,
    ReplyError,
    SegStatsError,
    TaskError,
    TaskFailedError,
    TransportError,
    UnreadableRowError,
    WaitTimeoutError,
    error_from_dict,
)

# (kind, details, permanent): every class there is, and every code that matters.
TABLE: list[tuple[type[SegStatsError], dict[str, Any], bool]] = [
    (SegStatsError, {}, False),
    (ConfigurationError, {}, True),
    (UnreadableRowError, {}, True),
    (AwayError, {}, False),
    (TransportError, {}, False),
    (NotSentError, {}, False),
    (NoAnswerError, {}, False),
    (CertificateError, {}, True),
    (ReplyError, {}, False),
    (RedirectError, {"http_status": 302}, True),
    (HttpStatusError, {}, False),
    (HttpStatusError, {"http_status": 400}, True),
    (HttpStatusError, {"http_status": 401}, True),
    (HttpStatusError, {"http_status": 404}, True),
    (HttpStatusError, {"http_status": 499}, True),
    (HttpStatusError, {"http_status": 429}, False),
    (HttpStatusError, {"http_status": 500}, False),
    (HttpStatusError, {"http_status": 503}, False),
    (ApiError, {}, False),
    (ApiError, {"code": 399}, False),
    (ApiError, {"code": 400}, True),
    (ApiError, {"code": 401}, True),
    (ApiError, {"code": 402}, True),
    (ApiError, {"code": 403}, True),
    (ApiError, {"code": 404}, False),
    (ApiError, {"code": 440}, False),
    (ApiError, {"code": -400}, False),
    (ApiError, {"code": 440, "permanent": True}, True),
    (ApiError, {"code": 400, "permanent": False}, False),
    (AmbiguousSubmitError, {}, True),
    (PartialFailureError, {}, False),
    (PartialFailureError, {"permanent": True}, True),
    (TaskError, {}, False),
    (TaskFailedError, {}, False),
    (WaitTimeoutError, {}, False),
    (ExecutionTimeoutError, {}, False),
]
EVERY_DETAIL: dict[str, Any] = {
    "connection": "c",
    "endpoint": "tasks/status",
    "http_status": 503,
    "code": 440,
    "text": 'No "<list>" \u2116',
    "retry_after": 1.5,
    "task_id": "task_1",
    "status": "running",
    "progress": 0,
}


def every_class(base: type[SegStatsError] = SegStatsError) -> set[type[SegStatsError]]:
    return {base}.union(*(every_class(kind) for kind in base.__subclasses__()))


def test_the_table_holds_every_class_of_the_package() -> None:
    assert {kind for kind, _, _ in TABLE} == every_class()


@pytest.mark.parametrize(("kind", "details", "permanent"), TABLE)
def test_what_is_permanent(kind: type[SegStatsError], details: dict[str, Any], permanent: bool) -> None:
    assert kind("x", **details).permanent is permanent


@pytest.mark.parametrize(
    ("details", "unauthorized"),
    [
        ({"code": 401}, True),
        ({"code": 401, "http_status": 200}, True),
        ({"http_status": 401}, True),
        ({"http_status": 401, "code": 403}, False),
        ({"code": 403}, False),
        ({"http_status": 403}, False),
        ({}, False),
    ],
)
def test_an_error_is_unauthorized_by_the_apis_code_first(details: dict[str, Any], unauthorized: bool) -> None:
    assert SegStatsError("x", **details).unauthorized is unauthorized


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ({}, "oops"),
        ({"connection": "c"}, "connection 'c': oops"),
        ({"endpoint": "tasks/status"}, "tasks/status: oops"),
        ({"connection": "c", "endpoint": "tasks/status"}, "connection 'c', tasks/status: oops"),
    ],
)
def test_an_error_names_connection_and_endpoint(details: dict[str, Any], line: str) -> None:
    assert str(SegStatsError("oops", **details)) == line


def same(one: SegStatsError, other: SegStatsError) -> bool:
    return (type(one), str(one), one.message, vars(one) | {"permanent": one.permanent}) == (
        type(other),
        str(other),
        other.message,
        vars(other) | {"permanent": other.permanent},
    )


@pytest.mark.parametrize("more", [{}, EVERY_DETAIL])
@pytest.mark.parametrize(("kind", "details"), [(kind, details) for kind, details, _ in TABLE])
def test_an_error_comes_back_from_json_as_it_was(
    kind: type[SegStatsError], details: dict[str, Any], more: dict[str, Any]
) -> None:
    error = kind("oops", **{**more, **details})
    back = error_from_dict(json.loads(json.dumps(error.to_dict())))
    if kind is TaskError:  # a branch, never raised itself
        kind = SegStatsError
    assert type(back) is kind
    assert (str(back), back.permanent) == (str(error), error.permanent)
    assert back.to_dict() == {**error.to_dict(), "kind": kind.__name__}
    for name in EVERY_DETAIL:
        assert getattr(back, name) == getattr(error, name)


def test_an_error_made_permanent_later_stays_so_in_json() -> None:
    error = ApiError("oops", code=440)
    error.permanent = True
    assert error_from_dict(error.to_dict()).permanent


def test_a_partial_failure_comes_back_from_json_with_what_became_of_each_segment() -> None:
    causes = {7: ApiError("no", code=403), 8: TaskFailedError("failed", task_id="t8", progress=100)}
    error = PartialFailureError("3 of 9", errors=causes, not_submitted=[9], permanent=True)
    back = error_from_dict(json.loads(json.dumps(error.to_dict())))
    assert isinstance(back, PartialFailureError)
    assert back.not_submitted == [9]
    assert back.errors.keys() == causes.keys()
    assert all(same(back.errors[segment_id], causes[segment_id]) for segment_id in causes)


def test_a_partial_failure_of_a_release_that_told_less_is_read_all_the_same() -> None:
    back = error_from_dict({"kind": "PartialFailureError", "message": "3 of 9"})
    assert isinstance(back, PartialFailureError)
    assert (back.errors, back.not_submitted) == ({}, [])


@pytest.mark.parametrize("kind", sorted(every_class(), key=lambda kind: kind.__name__))
def test_an_error_survives_pickling(kind: type[SegStatsError]) -> None:
    error = kind("oops", **EVERY_DETAIL)
    error.permanent = not error.permanent
    assert same(pickle.loads(pickle.dumps(error)), error)  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "OfTomorrowError", "message": "oops"},
        {"kind": None, "message": None},
        {"kind": "Exception", "message": "oops"},
        {"kind": "Any", "message": "oops"},
        {"kind": "__class__", "message": "oops"},
        {"kind": ["ApiError"], "message": "oops"},
    ],
)
def test_a_kind_nobody_knows_is_still_an_error(data: dict[str, Any]) -> None:
    back = error_from_dict(data)
    assert type(back) is SegStatsError
    assert str(back)


def test_a_kind_of_a_newer_release_stays_permanent_and_loses_what_is_unknown() -> None:
    back = error_from_dict(
        {"kind": "OfTomorrowError", "message": "oops", "permanent": True, "code": 5, "moon_phase": "full"}
    )
    assert (type(back), back.permanent, back.code) == (SegStatsError, True, 5)
    assert not hasattr(back, "moon_phase")


def test_an_event_of_this_release_is_this_json() -> None:
    error = ApiError("API error 440: odd", code=440, text="odd", http_status=200, endpoint="tasks/status")
    assert error.to_dict() == {
        "kind": "ApiError",
        "message": "API error 440: odd",
        "endpoint": "tasks/status",
        "http_status": 200,
        "code": 440,
        "text": "odd",
        "permanent": False,
    }


def test_a_configuration_error_is_a_value_error_for_the_one_who_writes_a_dag() -> None:
    assert issubclass(ConfigurationError, ValueError)


# The tree at the top of errors.py: class, letter, and when it is raised.
TREE = {
    name: (letter, when)
    for name, letter, when in re.findall(r"(?m)^[ │├└─]*(\w+Error) +([Pp]?) +(.+)$", errors.__doc__ or "")
}


def test_the_tree_at_the_top_of_the_file_names_every_class() -> None:
    assert ["SegStatsError", *TREE] == [kind.__name__ for kind in in_order()]


@pytest.mark.parametrize("kind", sorted(every_class() - {SegStatsError}, key=lambda kind: kind.__name__))
def test_the_tree_at_the_top_of_the_file_tells_what_is_permanent(kind: type[SegStatsError]) -> None:
    seen = {kind("x", **details).permanent for of, details, _ in TABLE if of is kind}
    assert TREE[kind.__name__][0] == {(True,): "P", (False,): "", (False, True): "p"}[tuple(sorted(seen))]


def in_order(base: type[SegStatsError] = SegStatsError) -> list[type[SegStatsError]]:
    """Return the classes as they are defined, each after its base."""
    return [base, *(kind for below in base.__subclasses__() for kind in in_order(below))]


CARRIES = {caught.kind: ", ".join(f"`{name}`" for name in caught.details) for caught in CAUGHT} | {
    "SegStatsError": "`connection`, `endpoint`, `permanent`, as all below",
    "TaskError": "`task_id`, `status`, `progress`, as all below",
    "PartialFailureError": "`errors` (by segment), `not_submitted`",
}
CARRIES |= {"ExecutionTimeoutError": CARRIES["WaitTimeoutError"]}


def test_a_task_of_ones_own_can_meet_every_kind_but_those_of_operators_history_and_airflow() -> None:
    # tests/whole_airflow/test_fault_table.py has such tasks.
    met = {kind for caught in CAUGHT for kind in getattr(errors, caught.kind).__mro__}
    assert every_class() - met == {
        AwayError,
        ExecutionTimeoutError,
        PartialFailureError,
        UnreadableRowError,
    }


PAGE = DOCS / "errors.md"
PERMANENT = {"P": "yes", "p": "it depends", "": "no"}
INTRODUCTION = """\
# Errors

Everything this package raises stands in `airflow_provider_segstats.errors`, indented here below its base.
`str(error)` is one line with connection and endpoint, and never the token; what is known stands in
attributes, `None` where it does not apply. A task of your own that uses `SegStatsHook` can catch each by
its name. An operator or sensor that gives up raises what the fourth column says, its line the same.

`AirflowFailException` and `AirflowSensorTimeout` are final. After any other exception Airflow's retries
apply. A sensor with `soft_fail` skips where it would fail for good, and on both timeouts.

| error | when | permanent | an operator or sensor raises | attributes |
|---|---|---|---|---|
"""


def raised(kind: type[SegStatsError]) -> str:
    """Return what an operator or sensor raises for each permanence that the class can have."""

    def names(*, in_sensor: bool) -> str:
        found = dict.fromkeys(
            type(airflow_error(kind("x", **details), failed_task_is_permanent=in_sensor)).__name__
            for of, details, _ in TABLE
            if of is kind
        )
        return " or ".join("itself" if name == kind.__name__ else f"`{name}`" for name in found)

    operator, sensor = names(in_sensor=False), names(in_sensor=True)
    return operator if operator == sensor else f"{operator}, the sensor {sensor}"


def page() -> str:
    rows = []
    for kind in in_order():
        letter, when = TREE.get(kind.__name__, ("", "any of those below"))
        depth = len(kind.__mro__) - len(SegStatsError.__mro__) - (kind is ConfigurationError)
        cells = [
            "&emsp;" * depth + f"`{kind.__name__}`",
            when.replace("``", "`"),
            PERMANENT[letter],
            raised(kind),
            CARRIES.get(kind.__name__, ""),
        ]
        rows.append(f"| {' | '.join(cells)} |\n")
    return INTRODUCTION + "".join(rows)


def test_the_docs_show_every_error(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-docs"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()
