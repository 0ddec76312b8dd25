"""Every outcome x mode x soft_fail x retries x format, by the pure decisions alone.

The same cases as in the fault table, whose real runs show that Airflow does what is assumed here: which
exceptions it retries, and what a mode does at a pause.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import pytest
from support.fault_cases import (
    FINAL,
    FORMATS,
    OPERATOR,
    RETRIES,
    SENSOR,
    SUBMIT,
    SUBMITTED,
    TOKEN,
    WAITED,
    WAITS,
    Case,
    End,
    faults_of,
)

from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.core import api, flows, policy
from airflow_provider_segstats.core.api import Call, Reply
from airflow_provider_segstats.core.codec import CODECS
from airflow_provider_segstats.core.errors import (
    NoAnswerError,
    SegStatsError,
    error_from_dict,
)
from airflow_provider_segstats.core.flows import Flow, Pause, Reload, Send, Sight, World
from airflow_provider_segstats.core.model import Database, Recountable, Resource, Row, Segment, TaskStatus
from airflow_provider_segstats.core.policy import WaitPlan, plan_from
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.emulator.faults import Armed, Fault, Faults
from airflow_provider_segstats.emulator.tasks import Submission, report

SEGMENT = 7
ALL_RETRIES = (0, 1)
ONE = Segment(SEGMENT, 24)


class Aside(Exception):  # noqa: N818 - no error: Airflow's own are not called so either
    """The flow was put aside at a pause; another one goes on from there."""

    def __init__(self, step: Pause) -> None:
        super().__init__()
        self.step = step


class Server:
    """The emulator's faults and tasks without sockets, on a clock that only pauses move."""

    def __init__(self, case: Case, way: str, wire: Any) -> None:
        self.now = 1_000_000.0
        self.world = World(now=lambda: self.now, chance=lambda: 0.5, log=logging.getLogger("parity"))
        self.settings = Settings.from_fields(host="example.com", password=TOKEN, extra={"format": wire})
        self.submits = 0
        self._codec = CODECS[wire]
        self._faults = Faults()
        self._faults.armed = [Armed(fault) for fault in faults_of(case, way, wire, SEGMENT)]

    def accept(self) -> str:
        """Start a recount, which is done at once, and return its id."""
        self.submits += 1
        fate = self._faults.take_for_task(SUBMIT, SEGMENT)[0]
        fate = fate or Fault("task", outcome="completed")
        self._task = Submission(
            *(self.submits, "TASK", SEGMENT, 24, None, self.now, 0.0),
            outcome=fate.outcome or "completed",
            name=fate.name,
            text=fate.text,
        )
        return self._task.task_id

    def send(self, call: Call[Any]) -> Any:
        """Return what the call reads in the server's answer; all recounts meet the faults of a segment's."""
        endpoint = SUBMIT if call.request.once else call.endpoint
        fault = self._faults.take(endpoint, SEGMENT)
        kind = fault.kind if fault else ""
        if kind == "reset":
            raise NoAnswerError("no whole answer: Connection reset by peer")
        if fault is None or kind in {"delay", "truncate", "lost_answer"}:
            reply = self._reply(self._answer(endpoint))
        elif kind == "api_error":
            message = {"error": fault.code, "error_text": fault.text or "Emulated error"}
            reply = self._reply(message, fault.http_status, fault.retry_after or "")
        else:
            body = fault.body if isinstance(fault.body, bytes) else b"<html><h1>We will be back</h1></html>"
            headers = {"retry-after": fault.retry_after or "", "location": fault.location or ""}
            reply = Reply(
                fault.http_status, {**headers, "content-type": fault.content_type or "text/html"}, body
            )
        if kind in {"truncate", "lost_answer"}:
            lost = {"truncate": "the connection was closed", "lost_answer": "Connection reset by peer"}
            raise NoAnswerError(f"no whole answer: {lost[kind]}")
        return call.read(reply)

    def _answer(self, endpoint: str) -> dict[str, Any]:
        if endpoint == SUBMIT:
            return {"data": {"task_id": self.accept()}}
        if self._task.outcome == "forgotten":
            return {"error": 404, "error_text": "Task not found"}
        return {"data": report(self._task, self.now)}

    def _reply(self, message: dict[str, Any], status: int = 200, retry_after: str = "") -> Reply:
        headers = {"content-type": self._codec.mimetype, "retry-after": retry_after}
        return Reply(status, headers, self._codec.dumps(message))

    def drive(self, flow: Flow[Any], pause: Callable[[Pause], None]) -> Any:
        """Drive a flow to its end, as ``client`` does."""

        def do(step: flows.Step) -> Any:
            if isinstance(step, Send):
                return self.send(step.call)
            return self.settings if isinstance(step, Reload) else pause(step)

        try:
            step = next(flow)
            while True:
                try:
                    outcome = do(step)
                except SegStatsError as error:
                    if isinstance(step, Send):
                        error.endpoint = step.call.endpoint
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            return end.value

    def sleep(self, step: Pause) -> None:
        self.now += step.seconds


def plan_of(case: Case, mode: str, now: float) -> WaitPlan:
    bounds = {"poke_interval": 0.05, **case.arguments}
    bounds.pop("on_ambiguous_submit", None)
    if mode == "reschedule":
        bounds.pop("execution_timeout", None)  # Airflow's to enforce, on the running time only
    return plan_from(now, **bounds)


def wait(server: Server, case: Case, mode: str, task_id: str) -> list[Row]:
    """Wait as a task of that mode does, and return its rows."""
    plan = plan_of(case, mode, server.now)

    def pause(step: Pause) -> None:
        if mode == "deferrable":
            raise Aside(step)
        if mode == "reschedule" and not step.failures:
            server.now += max(step.seconds, policy.SHORTEST_RESCHEDULE)
            raise Aside(step)
        server.sleep(step)

    while True:
        sight = Sight(task_id)
        try:
            flow = flows.wait(server.settings, task_id, plan, server.world, sight)
            return server.drive(flow, pause).rows(SEGMENT)  # type: ignore[no-any-return]
        except Aside as aside:
            if mode == "deferrable":
                first_look = server.now + max(aside.step.seconds, policy.SHORTEST_DEFERRAL)
                plan = replace(sight.hand_over(plan, aside.step), first_look=first_look)
                return triggered(server, plan, task_id)


def triggered(server: Server, plan: WaitPlan, task_id: str) -> list[Row]:
    """Wait as a trigger does, which has nothing but the plan, and tells its outcome as JSON."""
    stored = WaitPlan(**json.loads(json.dumps(asdict(plan))))
    flow = flows.wait(server.settings, task_id, stored, server.world)
    try:
        rows: list[Row] = json.loads(json.dumps(server.drive(flow, server.sleep).rows(SEGMENT)))
    except SegStatsError as error:
        raise error_from_dict(json.loads(json.dumps(error.to_dict()))) from None
    return rows


class Task:
    """A task of some kind on its way through Airflow."""

    def __init__(self, case: Case, way: str, wire: str, what: Recountable = ONE) -> None:
        self.case, self.what = case, what
        self.who, self.mode = way.split("_")
        self.server = Server(case, way, wire)
        self.remote = self.server.accept() if self.who == "sensor" else None

    def attempt(self) -> list[Row] | None:
        """Make one try: an operator goes on with the recount of an earlier one, unless there is none left."""
        server = self.server
        if self.remote is None or (self.who == "operator" and not self._is_worth_going_on()):
            asked = self.case.arguments.get("on_ambiguous_submit", "fail")
            flow = flows.submit(server.settings, self.what, asked, server.world)
            self.remote = server.drive(flow, server.sleep).task_id
        return None if self.mode == "submit" else wait(server, self.case, self.mode, self.remote)

    def _is_worth_going_on(self) -> bool:
        settings = self.server.settings
        seen: TaskStatus | SegStatsError
        try:
            seen = self.server.send(api.task_status(settings, self.remote or ""))
        except SegStatsError as error:
            seen = error
        return policy.reattach(seen, settings.failure_statuses, settings.unknown_task_codes) == "go on"

    def run(self, retries: int, *, soft_fail: bool) -> tuple[End, SegStatsError | None, list[Row] | None]:
        """Return the task's end, the last error on the way, and the rows; each error names its endpoint."""
        last: SegStatsError | None = None
        for tries in range(1, retries + 2):
            try:
                rows = self.attempt()
            except SegStatsError as error:
                last = error
                raised = airflow_error(
                    error, soft_fail=soft_fail, failed_task_is_permanent=self.who == "sensor"
                )
                outcome = type(raised).__name__
                if outcome in FINAL or tries > retries:
                    return End(outcome, error.message, None, self.server.submits, tries), last, None
            else:
                says = last.message if last else ""
                count = None if rows is None else len(rows)
                return End("success", says, count, self.server.submits, tries), last, rows
        raise AssertionError("unreachable")


def with_retries(end: End, way: str, retries: int) -> End:
    """Return the end with another number of retries, all of which meet the same."""
    if end.tries == 1 or retries == RETRIES:
        return end
    submits = end.submits if way in SENSOR else (end.submits - 1) * retries + 1
    return replace(end, tries=retries + 1, submits=submits)


def ends_of(case: Case, way: str, *, soft_fail: bool = False) -> dict[tuple[str, int], End]:
    """Return how the case ends in each format and with each number of retries."""
    return {
        (wire, retries): Task(case, way, wire).run(retries, soft_fail=soft_fail)[0]
        for wire, retries in product(FORMATS, ALL_RETRIES)
    }


def expected(end: End, way: str) -> dict[tuple[str, int], End]:
    return {
        (wire, retries): with_retries(end, way, retries) for wire, retries in product(FORMATS, ALL_RETRIES)
    }


def in_every(cases: tuple[Case, ...], ways: tuple[str, ...]) -> Any:
    """Parametrize a test with each case in each kind of task."""
    pairs = [pytest.param(case, way, id=f"{case.name}, {way}") for case, way in product(cases, ways)]
    return pytest.mark.parametrize(("case", "way"), pairs)


@in_every(WAITED, WAITS)
def test_a_wait_ends_as_the_table_says(case: Case, way: str) -> None:
    assert ends_of(case, way) == expected(case.ends[way], way)


@in_every(WAITED, SENSOR)
def test_soft_fail_skips_what_is_permanent_or_too_late_and_changes_nothing_else(case: Case, way: str) -> None:
    assert ends_of(case, way, soft_fail=True) == expected(case.ends[way].softened(), way)


@in_every(SUBMITTED, OPERATOR)
def test_a_submit_ends_as_the_table_says(case: Case, way: str) -> None:
    assert ends_of(case, way) == expected(case.ends[way], way)


@pytest.mark.parametrize("what", [Database(7, 24), Resource(24, 7)], ids=["database", "resource"])
@in_every(SUBMITTED, OPERATOR)
def test_a_submit_of_a_database_or_a_resource_ends_as_a_segments(
    case: Case, way: str, what: Recountable
) -> None:
    for wire in FORMATS:
        end, error, _ = Task(case, way, wire, what).run(RETRIES, soft_fail=False)
        assert end == case.ends[way]
        assert error is None or error.endpoint in {what.endpoint, "tasks/status"}


@pytest.mark.parametrize("case", WAITED, ids=lambda case: case.name)
def test_every_mode_and_format_gives_equal_rows_and_errors(case: Case) -> None:
    told = []
    for way, wire in product(WAITS, FORMATS):
        _, error, rows = Task(case, way, wire).run(0, soft_fail=False)
        details = error.to_dict() if error else {}
        if way == "sensor_reschedule":  # no look before the one that met the fault: see `faults_of`
            details |= {name: told[0][1][name] for name in ("status", "progress") if name in told[0][1]}
            if case.name == "`execution_timeout`":  # another limit, which the table explains
                details = told[0][1]
        told.append((rows, details))
    assert told == told[:1] * len(told)
