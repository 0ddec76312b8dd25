"""The fault table of ``docs/faults.md``: every fault in every mode and format, on real Airflow.

``scripts/test tests/test_fault_table.py --update-docs`` writes it anew.
"""

from __future__ import annotations

import runpy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from airflow_runs import DAGS, connection, run_dags

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[1] / "docs" / "faults.md"
DAG_FILE = DAGS / "faults.py"
CASES = runpy.run_path(str(DAG_FILE))
FORMATS, MODES, segment, task_id = (CASES[name] for name in ("FORMATS", "MODES", "segment", "task_id"))
STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"
ELSEWHERE = "https://elsewhere.example/"

POLLED: dict[str, list[dict[str, Any]]] = {
    "slow answer": [{"kind": "delay", "seconds": 1}],
    "HTTP 503, twice": [{"kind": "http", "times": 2}],
    "HTTP 429 with Retry-After, once": [{"kind": "http", "status": 429, "retry_after": "2"}],
    "connection reset, twice": [{"kind": "reset", "times": 2}],
    "truncated answer, twice": [{"kind": "truncate", "times": 2}],
    "HTML at HTTP 200, twice": [{"kind": "html", "times": 2}],
    "API error 440, twice": [{"kind": "api_error", "code": 440, "times": 2}],
    "API error 401, once": [{"kind": "api_error", "code": 401}],
    "API error 401": [{"kind": "api_error", "code": 401, "times": None}],
    "API error 403": [{"kind": "api_error", "code": 403, "times": None}],
    "HTTP 404 without an API body": [{"kind": "http", "status": 404, "times": None}],
    "redirect": [{"kind": "redirect", "location": ELSEWHERE, "times": None}],
    "server away for too long": [{"kind": "http", "times": None}],
    "remote task failed": [{"kind": "task", "outcome": "failed"}],
    "remote task stuck": [{"kind": "task", "outcome": "stuck"}],
    "status nobody knows": [{"kind": "task", "outcome": "unknown_status"}],
    "completed but still in progress": [{"kind": "task", "outcome": "in_progress"}],
}
SUBMITTED: dict[str, list[dict[str, Any]]] = {
    "HTTP 503, twice": [{"kind": "http", "times": 2}],
    "HTTP 429 with Retry-After, once": [{"kind": "http", "status": 429, "retry_after": "2"}],
    "connection reset": [{"kind": "reset", "times": None}],
    "answer lost after the recount was accepted": [{"kind": "lost_answer", "times": None}],
    "truncated answer": [{"kind": "truncate", "times": None}],
    "HTML at HTTP 200": [{"kind": "html", "times": None}],
    "HTTP 500": [{"kind": "http", "status": 500, "times": None}],
    "API error 440": [{"kind": "api_error", "code": 440, "times": None}],
    "API error 402": [{"kind": "api_error", "code": 402, "times": None}],
    "redirect": [{"kind": "redirect", "location": ELSEWHERE, "times": None}],
}


class Cell(NamedTuple):
    """What became of one task: how it ended, after how many tries, what was submitted and came out."""

    end: str
    tries: int
    submits: int
    rows: int | None

    def __str__(self) -> str:
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        return f"{self.end}; {tries}"


class Results:
    """The cells of both tables."""

    def __init__(self, by_format: dict[str, dict[str, Any]], submits: Counter[int]) -> None:
        self._by_format = by_format
        self._submits = submits

    def cell(self, kind: str, fault: str, wire: str, mode: str = "poke") -> Cell:
        task = self._by_format[wire][task_id(kind, fault, mode)]
        value = task["xcom"].get("return_value")
        return Cell(
            end=task["errors"][-1][0] if task["errors"] else task["state"],
            tries=task["tries"],
            submits=self._submits[segment(kind, fault, wire, mode)],
            rows=len(value) if isinstance(value, list) else None,
        )

    def page(self) -> str:
        """Return the tables as they stand in the docs; JSON's cells, XML's being the same."""
        lines = [
            "# Fault by fault",
            "",
            "What a task shows when the server or the network does badly, as the test suite saw it on real",
            "Airflow (`tests/test_fault_table.py` writes this page). Each task had one retry, which met the",
            "same fault; `max_poll_failures` was 3. JSON and XML give the same cells.",
            "",
            "`AirflowFailException` and `AirflowSensorTimeout` end a task without retries; the package's own",
            "errors (`HttpStatusError`, `ReplyError`, …) leave Airflow its retries.",
            "",
            "## While polling (`TaskStatusSensor`)",
            "",
            "| fault | poke | reschedule | deferrable | submits | rows |",
            "|---|---|---|---|---|---|",
        ]
        for fault in POLLED:
            cells = [self.cell("polled", fault, "json", mode) for mode in MODES]
            [submits] = {cell.submits for cell in cells}
            rows = "" if cells[0].rows is None else cells[0].rows
            ends = " | ".join(map(str, cells))
            lines.append(f"| {fault} | {ends} | {submits} | {rows} |")
        lines += [
            "",
            "The remote task that is stuck ends by `timeout`. After API error 401 the connection is read",
            "once more, since the token may have been rotated.",
            "",
            "## While submitting (`RefreshSegmentOperator`, the same in every mode)",
            "",
            "| fault | outcome | accepted by the server |",
            "|---|---|---|",
        ]
        for fault in SUBMITTED:
            cell = self.cell("submitted", fault, "json")
            lines.append(f"| {fault} | {cell} | {cell.submits} |")
        lines += [
            "",
            "A reset, a broken or a lost answer may hide an accepted recount, and are all taken for one: the",
            "task fails at once and says so, unless `on_ambiguous_submit` is `resubmit`.",
            "",
        ]
        return "\n".join(lines)


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    with Emulator("secret-of-the-table", seconds=2.0) as emulator:
        for kind, endpoint, table in (("polled", STATUS, POLLED), ("submitted", SUBMIT, SUBMITTED)):
            for fault, parameters in table.items():
                for wire in FORMATS:
                    for mode in MODES if kind == "polled" else MODES[:1]:
                        of = segment(kind, fault, wire, mode)
                        for values in parameters:
                            where = {} if values["kind"] == "task" else {"endpoint": endpoint}
                            emulator.add_fault(Fault(segment_id=of, **where, **values))
        env = {"AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token)}

        def run(wire: str) -> dict[str, Any]:
            return run_dags(DAG_FILE, env, 400, f"faults_{wire}")[f"faults_{wire}"]

        with ThreadPoolExecutor() as pool:
            by_format = dict(zip(FORMATS, pool.map(run, FORMATS), strict=True))
        yield Results(by_format, Counter(task.segment_id for task in emulator.tasks()))


def test_the_table_has_every_case_of_the_dags() -> None:
    assert (tuple(POLLED), tuple(SUBMITTED)) == (CASES["POLLED"], CASES["SUBMITTED"])


@pytest.mark.parametrize("fault", POLLED)
def test_a_fault_while_polling_ends_alike_in_every_mode_and_format(results: Results, fault: str) -> None:
    cells = {results.cell("polled", fault, wire, mode) for wire in FORMATS for mode in MODES}
    assert len(cells) == 1, cells


@pytest.mark.parametrize("fault", SUBMITTED)
def test_a_fault_while_submitting_ends_alike_in_both_formats(results: Results, fault: str) -> None:
    assert len({results.cell("submitted", fault, wire) for wire in FORMATS}) == 1


@pytest.mark.parametrize("fault", SUBMITTED)
def test_no_fault_makes_the_server_count_twice(results: Results, fault: str) -> None:
    assert {results.cell("submitted", fault, wire).submits for wire in FORMATS} <= {0, 1}


def test_the_docs_show_the_table(results: Results, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-docs"):
        DOCS.write_text(results.page())
    assert DOCS.read_text() == results.page()
