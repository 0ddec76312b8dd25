"""Arguments: literals are checked at construction, templates once they are rendered."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.ids import as_id, required_id
from airflow_provider_segstats.core.model import Segment
from airflow_provider_segstats.tasks.arguments import (
    check_format,
    check_id,
    check_params,
    seconds,
)
from airflow_provider_segstats.tasks.segments import as_segments, check_segments


class Later:
    """What another task will give."""

    def __repr__(self) -> str:
        return "later"


GOOD = [
    *[(1, 1), ("1", 1), (" 7 ", 7), ("007", 7), (2**63 - 1, 2**63 - 1), (str(2**63 - 1), 2**63 - 1)],
    # As a query or a DataFrame has them; a column with gaps has floats.
    *[(7.0, 7), ("7.0", 7), (" 7.00 ", 7), (1e15, 10**15), (Fraction(14, 2), 7)],
    *[(Decimal(7), 7), (Decimal("7.0"), 7), (Decimal("1E+2"), 100)],
    *[(np.int64(7), 7), (np.uint8(7), 7), (np.float64(7), 7), (np.float32(7), 7)],
]
BAD: list[Any] = [
    0,
    -1,
    "0",
    "-1",
    "+1",
    True,
    False,
    0.0,
    1.5,
    "1.5",
    "1.",
    ".0",
    "-1.0",
    "7x",
    "1e3",
    1e19,
    math.inf,
    7 + 0j,
    Decimal("7.5"),
    Decimal(-7),
    Decimal("Infinity"),
    Fraction(1, 2),
    np.int64(0),
    np.float64(7.5),
    "0x10",
    "1_000",
    "one",
    " ",
    "\u0661",
    "\u00b2",
    2**63,
    str(2**63),
    10**400,
    "9" * 5000,
]
NOT_EVEN_RENDERED: list[Any] = [
    "{{ x }}",
    "{% if x %}1{% endif %}",
    [1],
    {"a": 1},
    b"1",
    timedelta(1),
    Later(),
    np.bool_(True),
    np.array([7]),
]


@pytest.mark.parametrize(("value", "number"), GOOD)
def test_an_id_is_a_whole_number_above_0_also_as_text(value: Any, number: int) -> None:
    check_id("segment_id", value)
    assert as_id("segment_id", value) == required_id("segment_id", value) == number
    assert type(as_id("segment_id", value)) is int


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
def test_a_literal_that_is_no_id_is_refused_at_once_and_when_rendered(value: Any, optional: bool) -> None:
    for check in (check_id, as_id):
        with pytest.raises(ConfigurationError, match=r"^segment_id must be a whole number above 0, not "):
            check("segment_id", value, optional=optional)


@pytest.mark.parametrize("value", NOT_EVEN_RENDERED, ids=lambda value: type(value).__name__)
def test_what_is_known_later_passes_first_and_is_refused_when_rendered(value: Any) -> None:
    check_id("segment_id", value)
    for optional in (False, True):
        with pytest.raises(ConfigurationError):
            as_id("segment_id", value, optional=optional)


class PandasNA:
    """As pandas.NA is where it matters: its comparisons are neither true nor false."""

    def __repr__(self) -> str:
        return "<NA>"

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, _: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]


NOTHING: list[Any] = [
    None,
    "",
    math.nan,
    np.float64("nan"),
    np.datetime64("NaT"),
    Decimal("NaN"),
    PandasNA(),
]


@pytest.mark.parametrize("value", [*NOTHING, *map(str, NOTHING)], ids=repr)
def test_an_absent_id_is_none_where_it_is_optional_also_as_templates_give_it(value: Any) -> None:
    check_id("db_id", value, optional=True)
    assert as_id("db_id", value, optional=True) is None
    for check in (as_id, required_id):
        with pytest.raises(ConfigurationError, match=r"^db_id must be a whole number above 0, not "):
            check("db_id", value)


def test_ids_of_a_data_frame_make_segments() -> None:
    rows = [
        {"segment_id": np.int64(7), "resource_id": np.float64(24), "db_id": np.float64("nan")},
        {"segment_id": Decimal(8), "resource_id": "24.0", "db_id": 3.0},
    ]
    check_segments(rows)
    assert as_segments(rows) == [Segment(7, 24), Segment(8, 24, 3)]
    with pytest.raises(ConfigurationError, match="twice: 7"):
        as_segments([{"segment_id": value, "resource_id": 24} for value in (7, np.float64(7))])


@pytest.mark.parametrize("value", [None, "json", "xml"])
def test_the_formats_there_are(value: Any) -> None:
    check_format(value)


@pytest.mark.parametrize("value", ["", "JSON", "yaml", 1, True, [], {}], ids=repr)
def test_another_format_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^format can be 'json' or 'xml', not "):
        check_format(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), (timedelta(milliseconds=1), 0.001)],
)
def test_a_duration_is_seconds_or_a_timedelta(value: Any, number: float) -> None:
    assert seconds("timeout", value) == number
    assert type(seconds("timeout", value)) is float


@pytest.mark.parametrize(
    "value",
    [0, -1, 0.0, True, float("nan"), float("inf"), "60", "{{ x }}", None, [60], timedelta(0), timedelta(-1)],
    ids=repr,
)
def test_another_duration_is_refused_at_construction(value: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^timeout must be a timedelta or a number of seconds above"
    ):
        seconds("timeout", value)


@pytest.mark.parametrize("value", [10**400, 1e300, timedelta.max], ids=lambda value: repr(value)[:20])
def test_a_duration_that_no_date_can_take_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        seconds("timeout", value)


@pytest.mark.parametrize("value", [None, {}, {"list_id": 3}, "{{ params.extra }}"])
def test_extra_parameters_are_a_mapping_nothing_or_a_template(value: Any) -> None:
    check_params(value)


@pytest.mark.parametrize("value", ["list_id=3", [("list_id", 3)], {3: "list_id"}])
def test_other_extra_parameters_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="extra_params must be a mapping"):
        check_params(value)


def segment(segment_id: Any = 7, **more: Any) -> dict[str, Any]:
    return {"segment_id": segment_id, "resource_id": 24, **more}


@pytest.mark.parametrize(
    "value",
    [
        (segment("7", resource_id="24", db_id="3"), segment(8)),
        '[{"segment_id": "7", "resource_id": 24, "db_id": 3}, {"segment_id": 8, "resource_id": 24}]',
        iter([segment(db_id=3), segment(8, db_id=None, extra_params={})]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_segments_are_a_list_or_its_json_and_ids_may_be_text(value: Any) -> None:
    assert as_segments(value) == [Segment(7, 24, 3), Segment(8, 24)]


def test_a_segment_may_have_parameters_of_its_own() -> None:
    assert as_segments([segment(extra_params={"list_id": 3})]) == [Segment(7, 24, None, {"list_id": 3})]


@pytest.mark.parametrize("value", [[], (), "[]"])
def test_there_may_be_no_segments_where_that_is_said(value: Any) -> None:
    check_segments(value, allow_empty=True)
    assert as_segments(value, allow_empty=True) == []


BAD_SEGMENTS: list[tuple[Any, str]] = [
    (None, "segments must be a list, not None"),
    (7, "segments must be a list"),
    (segment(), "segments must be a list"),
    ("7", "segments must be a list"),
    ('{"segment_id": 7}', "segments must be a list"),
    ('{"ui_tags": ["weekly"]}', "a segment needs segment_id and resource_id, a selection resource_id"),
    ("", "segments is text that is no JSON: end its template with '| tojson'"),
    ("[{'segment_id': 7, 'resource_id': 24}]", "segments is text that is no JSON"),
    *((value, "segments is empty, so nothing would be counted") for value in ([], (), "[]")),
    ([7], "a segment needs segment_id and resource_id"),
    (["7"], "a segment needs segment_id and resource_id"),
    ([None], "a segment needs segment_id and resource_id"),
    ([{"segment_id": 7}], "a segment needs segment_id and resource_id"),
    ([{"resource_id": 24}], "a segment needs segment_id and resource_id"),
    ([segment(names="x", 小=1)], "unknown names, 小 in segment 7: {"),
    ([segment("seven")], "segment_id must be a whole number above 0, not 'seven'"),
    ([segment(None)], "segment_id must be a whole number above 0, not None"),
    ([segment(7.5)], "segment_id must be a whole number above 0, not 7.5"),
    ([segment(math.nan)], "segment_id must be a whole number above 0, not nan"),
    (
        [segment(8), segment(7, resource_id=0)],
        "resource_id of segment 7 must be a whole number above 0, not 0",
    ),
    ([segment(7, db_id=-3)], "db_id of segment 7 must be a whole number above 0, not -3"),
    ([segment(7, extra_params=[1])], "extra_params must be a mapping"),
    ([segment(7), segment(8), segment("7")], "segments that stand in the list twice: 7"),
    ([segment(7), segment(8), segment(7, resource_id=25)], "segments that stand in the list twice: 7"),
]


@pytest.mark.parametrize(("value", "line"), BAD_SEGMENTS, ids=repr)
def test_segments_that_cannot_be_meant_are_refused_at_once_and_when_rendered(value: Any, line: str) -> None:
    for check in (check_segments, as_segments):
        with pytest.raises(ConfigurationError) as caught:
            check(value)
        assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    "value",
    [
        "{{ var.json.segments | tojson }}",
        Later(),
        [Later()],
        [Later(), segment(8)],
        ["{{ segment }}", segment(8)],
        [segment("{{ x }}", resource_id=Later(), db_id="{% x %}", extra_params="{{ x }}")],
    ],
    ids=repr,
)
def test_segments_that_are_known_later_pass_first_and_are_refused_when_rendered(value: Any) -> None:
    check_segments(value)
    with pytest.raises(ConfigurationError):
        as_segments(value)


def test_the_same_segment_in_other_words_is_found_when_rendered() -> None:
    with pytest.raises(ConfigurationError, match="twice: 7"):
        as_segments([segment(" 07"), segment(7)])


def test_a_literal_beside_what_is_known_later_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="not 'seven'"):
        check_segments([Later(), segment("seven")])
