"""The fault table of ``docs/faults.md``: every fault in every mode and format, on real Airflow.

``scripts/test tests/whole_airflow/test_fault_table.py --update-docs`` writes it anew.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from support.airflow_runs import DAGS, connection, new_home, run_dags
from support.fault_cases import (
    CAUGHT,
    CELLS,
    FIRST_CAUGHT,
    FORMATS,
    LOCAL,
    OPERATOR,
    SECTIONS,
    SENSOR,
    SKIP,
    STATUS,
    SUBMIT,
    SUBMITTED,
    TOKEN,
    WAITED,
    WAITS,
    Case,
    Caught,
    End,
    faults_of,
    segment_of,
    task_id_of,
)
from support.leaks import database, files, leaks
from support.paths import DOCS
from support.servers import Server, answers, make_certificate

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = DOCS / "faults.md"
BAD_TOKEN = TOKEN.replace("Xq7Z", "Bq8Y")
PROCESSES = (  # whose DAGs take about as long
    ("sensor_poke", "operator_poke"),
    ("sensor_deferrable", "operator_deferrable"),
    ("sensor_reschedule", "operator_submit", "own_tasks", "mapped"),
)
LINE = re.compile(
    r"connection '(?P<connection>\w+)'(, (?P<endpoint>tasks/status|segments/refresh_counters))?: (?P<says>.*)"
)
TASK = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")


INTRODUCTION = """\
# Fault by fault

What a task shows when the server or the network does badly, as the test suite sees it on real Airflow
(`tests/whole_airflow/test_fault_table.py` writes this page). A cell is how the task ended and, in brackets,
after how many tries: it had one retry, which met the same fault again. Every cell was seen with JSON and with
XML; the outcome, the rows and the error's text were the same.

`AirflowFailException` and `AirflowSensorTimeout` end a task without retries; the package's own errors
(`HttpStatusError`, `ApiError`, …) and `AirflowTaskTimeout` leave Airflow its retries. `submits` counts the
recounts that the server accepted, where a sensor's is the one it waits for. The error's text stands below
its reason, without the connection and the endpoint that it begins with."""
TITLES = {
    "waited": (
        "## While waiting",
        "",
        "`TaskStatusSensor`, and `RefreshSegmentOperator` with `wait_for_completion`. In reschedule mode the",
        "first look met the fault; in the others one that found the recount running went before, so that in",
        "deferrable mode the trigger met it.",
    ),
    "softened": ("## While waiting, with `soft_fail=True`",),
    "hanging": ("## While waiting, with a request's `timeout` of 1 s",),
    "combined": ('## While waiting, with `deferrable=True` and `mode="reschedule"`',),
    "retried": ("## In the first try only", "", "`RefreshSegmentOperator` with `wait_for_completion`."),
    "submitted": ("## While submitting", "", "`RefreshSegmentOperator`."),
    "connections": ("## With a connection that cannot work",),
}


class Table:
    """What became of the tasks, by cell."""

    def __init__(
        self,
        tasks: dict[str, dict[str, Any]],
        submits: Counter[int],
        homes: Sequence[Path],
        untrusted: Server,
    ) -> None:
        self.homes = homes
        self.untrusted = untrusted
        self._tasks = tasks
        self._submits = submits

    def task(self, section: str, case: Case, way: str, wire: str) -> dict[str, Any]:
        """Return a cell's task as ``run_dags`` tells it."""
        found: dict[str, Any] = self._tasks[way][task_id_of(section, case, wire)]
        return found

    def end(self, section: str, case: Case, way: str, wire: str) -> End:
        """Return how a cell's task ended."""
        task = self.task(section, case, way, wire)
        value = task["xcom"].get("return_value")
        kind, line, _ = task["errors"][-1] if task["errors"] else ("", "", "")
        return End(
            outcome={"success": "success", "skipped": SKIP}.get(task["state"], kind),
            says=PORT.sub("PORT", TASK.sub("TASK", LINE.fullmatch(line)["says"])) if line else "",
            rows=len(value) if isinstance(value, list) else None,
            submits=self._submits[segment_of(section, case, way, wire)],
            tries=task["tries"],
        )

    def mapped(self, task: str) -> list[Any]:
        """Return what the task instances of a mapped task returned."""
        return [self._tasks["mapped"][f"{task}[{index}]"]["xcom"]["return_value"] for index in (0, 1)]

    def own_task(self, case: Caught) -> dict[str, Any]:
        """Return what a task of a user's own found in the error that it caught."""
        found = self._tasks["own_tasks"][case.kind]["xcom"]["return_value"]
        return {
            name: TASK.sub("TASK", value) if isinstance(value, str) else value
            for name, value in found.items()
        }

    def page(self) -> str:
        """Return the tables as they stand in the docs: JSON's cells, XML's being the same."""
        return "\n".join([INTRODUCTION, *(line for section in SECTIONS for line in self._table(section))])

    def _table(self, section: str) -> Iterator[str]:
        cases = SECTIONS[section]
        ways = cases[0].ends
        yield from ("", *TITLES[section], "")
        heads = ["fault", *(way.replace("_", ", ") for way in ways), "submits", "rows", "why"]
        yield f"| {' | '.join(heads)} |"
        yield "|---" * len(heads) + "|"
        for case in cases:
            ends = {way: self.end(section, case, way, "json") for way in ways}
            says = dict.fromkeys(
                case.ends[way].says.replace("TASK", "…").replace("PORT", "…") for way in ways
            )
            cells = [
                case.name,
                *(f"{end.outcome} ({end.tries})" for end in ends.values()),
                _by_who({way: end.submits for way, end in ends.items()}),
                _by_who({way: end.rows for way, end in ends.items() if end.rows is not None}),
                "<br>".join([case.why, *(f"`{line}`" for line in says if line)]),
            ]
            yield f"| {' | '.join(cells)} |"


def _by_who(numbers: dict[str, int | None]) -> str:
    """Return the number, or those of sensor and operator where they differ."""
    if len(set(numbers.values())) <= 1:
        return "".join(map(str, {*numbers.values()}))
    by_who = {way.partition("_")[0]: number for way, number in numbers.items()}
    return ", ".join(f"{who} {number}" for who, number in by_who.items())


def start_recounts(emulator: Emulator) -> dict[int, str]:
    """Start the recounts that are only waited for; return their ids by segment."""
    started = {}
    with requests.Session() as session:
        session.trust_env = False
        segments = [segment_of(*cell) for cell in CELLS if cell[0] != "connections" and cell[2] in SENSOR]
        segments += [FIRST_CAUGHT + n for n, case in enumerate(CAUGHT) if case.call != "submit"]
        for segment in segments:
            body = {"token": TOKEN, "id": segment, "resource_id": 24}
            reply = session.post(f"{emulator.url}/api/v1.1/{SUBMIT}", json=body, timeout=30)
            started[segment] = reply.json()["data"]["task_id"]
    return started


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(TOKEN, seconds=0.0))
        for section, case, way, wire in CELLS:
            for fault in faults_of(case, way, wire, segment_of(section, case, way, wire)):
                emulator.add_fault(fault)
        for segment, caught in enumerate(CAUGHT, FIRST_CAUGHT):
            if caught.fault:
                emulator.add_fault(Fault(segment_id=segment, **caught.fault))
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        certificate = make_certificate(tmp_path_factory.mktemp("tls"), "self", address="127.0.0.1", days=1)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        untrusted = stack.enter_context(Server(answers(), tls))
        connections = {
            "DEFAULT": connection(emulator.url, TOKEN),
            "UNKNOWN_EXTRA": connection(emulator.url, TOKEN, formt="json"),
            "NO_CA_FILE": connection("https://127.0.0.1", TOKEN, verify="/nowhere/ca.pem"),
            "BAD_CERTIFICATE": connection(untrusted.url, TOKEN),
            "WRONG_TOKEN": connection(emulator.url, BAD_TOKEN),
            "WRONG_PATH": connection(emulator.url, TOKEN, base_path="/nowhere"),
            "IMPATIENT": connection(emulator.url, TOKEN, timeout=1),
            "REFUSED": connection(f"http://127.0.0.1:{closed.getsockname()[1]}", TOKEN),
        }
        segments = [*(segment_of(*cell) for cell in CELLS), *range(FIRST_CAUGHT, FIRST_CAUGHT + len(CAUGHT))]
        env = {
            **{f"AIRFLOW_CONN_SEGSTATS_{name}": value for name, value in connections.items()},
            "AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET": "1000",  # that Airflow masks none
            "AIRFLOW_VAR_REMOTE_TASKS": json.dumps(
                {**dict.fromkeys(segments, "a-task"), **start_recounts(emulator)}
            ),
        }
        homes = [new_home() for _ in PROCESSES]

        def run(dag_ids: tuple[str, ...], home: Path) -> dict[str, Any]:
            return run_dags(DAGS / "faults.py", env, 600, *dag_ids, home=home)

        with ThreadPoolExecutor() as pool:
            runs = pool.map(run, PROCESSES, homes)
        tasks = {dag_id: found for run in runs for dag_id, found in run.items()}
        yield Table(tasks, Counter(task.segment_id for task in emulator.tasks()), homes, untrusted)


CASES = [
    pytest.param(section, case, id=f"{section}: {case.name}")
    for section, cases in SECTIONS.items()
    for case in cases
]


@pytest.mark.parametrize(("section", "case"), CASES)
def test_every_mode_and_format_ends_as_the_table_says(table: Table, section: str, case: Case) -> None:
    cells = list(product(case.ends, FORMATS))
    # What a skipped task would say is in its log only.
    expected = {way: replace(end, says="") if end.outcome == SKIP else end for way, end in case.ends.items()}
    assert {cell: table.end(section, case, *cell) for cell in cells} == {
        (way, wire): expected[way] for way, wire in cells
    }


@pytest.mark.parametrize(("section", "case"), CASES)
def test_every_mode_and_format_gives_equal_rows(table: Table, section: str, case: Case) -> None:
    rows = {
        json.dumps([{**row, "segment_id": None} for row in value], sort_keys=True)
        for way, wire in product(case.ends, FORMATS)
        if isinstance(value := table.task(section, case, way, wire)["xcom"].get("return_value"), list)
    }
    assert len(rows) <= 1 or case.sample is None  # without a sample each recount has counters of its own


@pytest.mark.parametrize(("section", "case"), CASES)
def test_every_error_names_its_connection_and_endpoint_and_drags_no_other_along(
    table: Table, section: str, case: Case
) -> None:
    for way, wire in product(case.ends, FORMATS):
        for _, text, chained in table.task(section, case, way, wire)["errors"]:
            submits = section == "submitted" or way == "operator_submit"
            endpoint = None if case.connection in LOCAL else SUBMIT if submits else STATUS
            line = LINE.fullmatch(text)
            assert (line["connection"], line["endpoint"]) == (case.connection, endpoint)
            assert chained == ""


@pytest.mark.parametrize("case", WAITED, ids=lambda case: case.name)
def test_the_errors_of_every_mode_and_format_carry_the_same_details(table: Table, case: Case) -> None:
    # Not how the task was last seen: in reschedule mode no look went before the fault.
    names = ("kind", "code", "text", "http_status", "permanent")
    details = [
        {name: told.get(name) for name in names}
        for way, wire in product(case.ends, FORMATS)
        if (told := table.task("waited", case, way, wire)["details"])
    ]
    assert details == details[:1] * len(details)


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("way", WAITS)
def test_the_rows_of_the_documentations_sample_are_these(table: Table, way: str, wire: str) -> None:
    [case] = [case for case in WAITED if case.name == "no fault"]
    segment = segment_of("waited", case, way, wire)
    assert table.task("waited", case, way, wire)["xcom"]["return_value"] == [
        {
            "segment_id": segment,
            "list_id": 1,
            "resource_id": 27,
            "channel": channel,
            "subscribed_sendable": subscribed,
            "unconfirmed_sendable": 0,
            "updated": "2024-04-20T09:30:01.583Z",
            "source": "127.0.0.1",
        }
        for channel, subscribed in (("email", 209), ("push", 0), ("sms", 0))
    ]


@pytest.mark.parametrize("way", OPERATOR)
def test_an_operator_pushes_the_recounts_id_which_a_submit_alone_returns_too(table: Table, way: str) -> None:
    [case] = [case for case in SUBMITTED if case.name == "HTTP 503"]
    xcom = table.task("submitted", case, way, "json")["xcom"]
    assert TASK.fullmatch(xcom["task_id"])
    assert (xcom["return_value"] == xcom["task_id"]) is (way == "operator_submit")


def test_a_mapped_submit_maps_on_into_the_sensor(table: Table) -> None:
    assert all(TASK.fullmatch(task_id) for task_id in table.mapped("submit"))
    assert [len(rows) for rows in table.mapped("wait")] == [3, 3]


def test_a_mapped_operator_returns_the_rows_of_each_segment(table: Table) -> None:
    segments = [{row["segment_id"] for row in rows} for rows in table.mapped("operator")]
    assert segments == [{30}, {31}]


@pytest.mark.parametrize("case", CAUGHT, ids=lambda case: case.kind)
def test_a_task_of_ones_own_catches_an_error_by_its_name_and_reads_its_attributes(
    table: Table, case: Caught
) -> None:
    told = table.own_task(case)
    endpoint = {"submit": SUBMIT, "look": STATUS, "wait": STATUS}[case.call]
    assert told.pop("message")
    assert told == {
        "kind": case.kind,
        "connection": case.connection,
        **({} if case.connection in LOCAL else {"endpoint": endpoint}),
        "permanent": case.permanent,
        **case.details,
    }


def test_no_token_shows_in_what_airflow_keeps_of_it_all(table: Table) -> None:
    for home in table.homes:
        assert leaks([*database(home), *files(home)], {"token": TOKEN, "bad token": BAD_TOKEN}) == set()


def test_a_server_whose_certificate_cannot_be_trusted_gets_no_request(table: Table) -> None:
    assert table.untrusted.requests == []


def test_only_reschedule_mode_gives_its_worker_back_between_looks(table: Table) -> None:
    rescheduled = {
        (section, case.name, way)
        for section, case, way, wire in CELLS
        if table.task(section, case, way, wire)["reschedules"]
    }
    names = {"a status nobody knows", "completed with an entry in progress"}
    names |= {"`timeout`", "`execution_timeout`"}
    assert rescheduled == {("waited", name, "sensor_reschedule") for name in names} | {
        ("softened", name, "sensor_reschedule") for name in ("`timeout`", "`execution_timeout`")
    }


def test_the_docs_show_the_table(table: Table, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-docs"):
        PAGE.write_text(table.page())
    assert PAGE.read_text() == table.page()
