"""The cases of the fault table: what goes wrong, how every kind of task ends, and why.

``test_parity`` plays them by hand through the pure flows, ``test_fault_table`` on real Airflow, with the DAGs
that ``tests/dags/single_runs/faults.py`` makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from support.paths import SAMPLES

from airflow_provider_segstats.core.fields import EXTRAS
from airflow_provider_segstats.emulator import Fault

FORMATS = ("json", "xml")
SENSOR = ("sensor_poke", "sensor_reschedule", "sensor_deferrable")
WAITING_OPERATOR = ("operator_poke", "operator_deferrable")
WAITS = (*SENSOR, *WAITING_OPERATOR)
OPERATOR = ("operator_submit", *WAITING_OPERATOR)
"""The kinds of task: who, and in which mode; ``submit`` is an operator that does not wait."""

STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"
RETRIES = 1  # of every task of the table

PERMANENT, SENSOR_TIMEOUT = "AirflowFailException", "AirflowSensorTimeout"
TASK_TIMEOUT, SKIP = "AirflowTaskTimeout", "AirflowSkipException"
FINAL = frozenset({PERMANENT, SENSOR_TIMEOUT, SKIP})
"""What ends a task although it has a retry left: Airflow's rule, which the real runs show."""


@dataclass(frozen=True)
class End:
    """How a task ends: as a success, or with an exception of that name.

    ``says`` is the line of the last error on the way, after connection and endpoint; ``TASK`` stands for
    the remote task's id. ``rows`` is how many came out, None when the task returned none. ``submits``
    is how many recounts the server accepted; a sensor's was started for it.
    """

    outcome: str = "success"
    says: str = ""
    rows: int | None = None
    submits: int = 1
    tries: int = 1

    @property
    def state(self) -> str:
        """The task's state at the end."""
        return {"success": "success", SKIP: "skipped"}.get(self.outcome, "failed")

    def softened(self) -> End:
        """Return the end of a sensor with soft_fail: permanent errors and timeouts skip."""
        if self.outcome in {PERMANENT, SENSOR_TIMEOUT, TASK_TIMEOUT}:
            return replace(self, outcome=SKIP, tries=1)
        return self


@dataclass(frozen=True)
class Case:
    """Something that goes wrong, and the end of each kind of task that meets it.

    ``faults`` are the emulator's, without a segment; one with ``sample`` is a literal reply.
    ``arguments`` are the task's. ``sample`` is how the look that gets through is answered; None leaves
    that to the emulator. ``runs_first`` puts a look that finds the recount running before the faults.
    """

    name: str
    why: str
    ends: Mapping[str, End]
    faults: tuple[Mapping[str, Any], ...] = ()
    sample: str | None = "tasks_status.response"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    connection: str = "segstats_default"
    runs_first: bool = True

    @property
    def task_name(self) -> str:
        """The name as a part of a task's id."""
        return "".join(char if char.isalnum() else "_" for char in self.name)


def fails(ways: tuple[str, ...], outcome: str, says: str, submits: int = 1) -> dict[str, End]:
    """Return the same end for several kinds of task, each with one retry that meets the same again."""
    tries = 1 if outcome in FINAL else 1 + RETRIES
    return dict.fromkeys(ways, End(outcome, says, submits=submits, tries=tries))


def delivers(rows: int = 3, **more: Any) -> dict[str, End]:
    """Return the end of a wait that gets through."""
    return dict.fromkeys(WAITS, End(rows=rows, **more))


TOKEN = "<&>\"'\\]]>{}%s;\u00e9\u2116Xq7Zt0kenK9vW2pL"
"""The connection's; servers echo it."""

POLLED = {"endpoint": STATUS}
FOR_EVER = {"times": None}
NO_ANSWER = "without an answer of the API"
REDIRECTED = "HTTP 302 points to https://elsewhere.example/?token=***; set the connection's host to it"
REDIRECT = {
    "kind": "redirect",
    "location": f"https://elsewhere.example/?token={quote(TOKEN)}",
    **FOR_EVER,
}
STUCK = {"kind": "task", "outcome": "stuck", **FOR_EVER}
FAILED = {"kind": "task", "outcome": "failed", "text": f"No list for {TOKEN}"}
HAS_FAILED = "the recount ended as 'failed' (progress 100): No list for ***"
FORGOTTEN = {"kind": "task", "outcome": "forgotten"}


WARMING = "last status 'warming_up', progress None"


def late(limit: str, seen: str = "last status 'running', progress 50") -> str:
    """Return the line of a wait that took too long."""
    return (
        f"the recount was not done within {limit} s); it was {seen}, and goes on at the server as task TASK"
    )


WAITED = (
    Case("no fault", "the sample of the API's documentation", delivers()),
    Case("no entries", "no rows", delivers(0), sample="empty_result"),
    Case(
        "status `success`",
        "the name that older servers have for `completed`",
        delivers(),
        ({"kind": "task", "outcome": "completed", "name": "success"},),
        sample=None,
    ),
    Case("several entries", "a row for each channel of each entry", delivers(), sample="several_entries"),
    Case(
        "a status nobody knows",
        "still running",
        delivers(),
        ({**POLLED, "kind": "reply", "sample": "running"},),
    ),
    Case(
        "completed with an entry in progress",
        "still running",
        delivers(),
        ({**POLLED, "kind": "reply", "sample": "in_progress"},),
    ),
    Case(
        "slow answer",
        "a request may take 30 s",
        delivers(),
        ({**POLLED, "kind": "delay", "seconds": 0.1},),
        sample=None,
    ),
    Case("HTTP 503", "tried again", delivers(), ({**POLLED, "kind": "http"},)),
    Case(
        "HTTP 429 with Retry-After",
        "tried again when the server allows it",
        delivers(),
        ({**POLLED, "kind": "http", "status": 429, "retry_after": "1"},),
    ),
    Case("connection reset", "tried again", delivers(), ({**POLLED, "kind": "reset"},)),
    Case("truncated answer", "tried again", delivers(), ({**POLLED, "kind": "truncate"},)),
    Case("HTML at HTTP 200", "tried again", delivers(), ({**POLLED, "kind": "html"},)),
    Case("API error 440", "tried again", delivers(), ({**POLLED, "kind": "api_error", "code": 440},)),
    Case(
        "API error 401, once",
        "the connection is read again, its token may have been rotated",
        delivers(),
        ({**POLLED, "kind": "api_error", "code": 401},),
    ),
    Case(
        "API error 401, always",
        "permanent once the connection was read again",
        fails(WAITS, PERMANENT, "API error 401: Emulated error"),
        ({**POLLED, "kind": "api_error", "code": 401, **FOR_EVER},),
    ),
    Case(
        "API error 403",
        "permanent, as the codes 400 to 403 are; a token in the server's text is hidden",
        fails(WAITS, PERMANENT, "API error 403: No access for ***"),
        ({**POLLED, "kind": "api_error", "code": 403, "text": f"No access for {TOKEN}", **FOR_EVER},),
    ),
    Case(
        "HTTP 404 without an API body",
        "permanent, as every HTTP 4xx but 429 is",
        fails(WAITS, PERMANENT, f"HTTP 404 {NO_ANSWER}"),
        ({**POLLED, "kind": "http", "status": 404, **FOR_EVER},),
    ),
    Case(
        "redirect",
        "permanent: it is not followed, since that could carry the token elsewhere",
        fails(WAITS, PERMANENT, REDIRECTED),
        ({**POLLED, **REDIRECT},),
    ),
    Case(
        "server away for too long",
        "`max_poll_failures` (2 here) in a row end the try; the operator's retry goes on with its recount",
        fails(WAITS, "HttpStatusError", f"HTTP 503 {NO_ANSWER}"),
        ({**POLLED, "kind": "http", **FOR_EVER},),
        arguments={"max_poll_failures": 2},
    ),
    Case(
        "task id unknown to the server",
        "tried again (up to `max_poll_failures`, 1 here); the operator's retry submits afresh",
        {
            **fails(SENSOR, "ApiError", "API error 404: Task not found"),
            **fails(WAITING_OPERATOR, "ApiError", "API error 404: Task not found", submits=2),
        },
        ({**FORGOTTEN, **FOR_EVER},),
        sample=None,
        arguments={"max_poll_failures": 1},
    ),
    Case(
        "recount failed",
        "the operator's retry submits afresh; the sensor cannot, so it is permanent there",
        {
            **fails(SENSOR, PERMANENT, HAS_FAILED),
            **fails(WAITING_OPERATOR, "TaskFailedError", HAS_FAILED, submits=2),
        },
        ({**FAILED, **FOR_EVER},),
        sample=None,
    ),
    Case(
        "`timeout`",
        "final, as every sensor's timeout is",
        fails(WAITS, SENSOR_TIMEOUT, late("timeout (4")),
        (STUCK,),
        sample=None,
        runs_first=False,
        arguments={"timeout": 4, "poke_interval": 10},
    ),
    Case(
        "`execution_timeout`",
        "left to Airflow's retries; in reschedule mode Airflow counts the running time only, and `timeout` "
        "(20 s here) comes first",
        {
            **fails(WAITS, TASK_TIMEOUT, late("execution_timeout (4")),
            **fails(("sensor_reschedule",), SENSOR_TIMEOUT, late("timeout (20")),
        },
        (STUCK,),
        sample=None,
        runs_first=False,
        arguments={"timeout": 20, "execution_timeout": 4, "poke_interval": 10},
    ),
)
"""While waiting, in a sensor or an operator."""


def _softened(case: Case) -> Case:
    ends = {way: case.ends[way].softened() for way in SENSOR}
    return replace(case, ends=ends, arguments={**case.arguments, "soft_fail": True})


SOFTENED = tuple(
    replace(_softened(case), why=why)
    for case in WAITED
    for name, why in (
        ("API error 403", "permanent: skipped"),
        ("server away for too long", "worth a retry: not skipped"),
        ("recount failed", "permanent: skipped"),
        ("`timeout`", "skipped"),
        ("`execution_timeout`", "skipped, without a retry"),
    )
    if case.name == name
)
"""While waiting, in a sensor with ``soft_fail=True``."""


HANGING = (
    Case(
        "`execution_timeout` while the server does not answer",
        "the same line where Airflow's own alarm comes first; without a retry here. In reschedule mode no "
        "look went before",
        {
            **dict.fromkeys(WAITS, End(TASK_TIMEOUT, late("execution_timeout (4", WARMING))),
            "sensor_reschedule": End(TASK_TIMEOUT, late("execution_timeout (4", "never seen")),
        },
        ({**POLLED, "kind": "hang", **FOR_EVER},),
        arguments={"execution_timeout": 4, "retries": 0},
        connection="segstats_impatient",
    ),
)
"""While waiting, in requests that take their whole time."""


COMBINED = (
    Case(
        "`execution_timeout`",
        "it defers, so the limit counts while deferred, too",
        {"sensor_deferrable": End(TASK_TIMEOUT, late("execution_timeout (4"), tries=2)},
        (STUCK,),
        sample=None,
        runs_first=False,
        arguments={"mode": "reschedule", "execution_timeout": 4, "poke_interval": 10},
    ),
)
"""While waiting, in a sensor with both ``deferrable=True`` and ``mode="reschedule"``."""


RETRIED = (
    Case(
        "server away",
        "the retry goes on with the recount",
        {way: End("success", f"HTTP 503 {NO_ANSWER}", 3, 1, 2) for way in WAITING_OPERATOR},
        ({**POLLED, "kind": "http"},),
        arguments={"max_poll_failures": 1},
    ),
    Case(
        "`execution_timeout`",
        "the retry goes on with the recount",
        {way: End("success", late("execution_timeout (4", WARMING), 3, 1, 2) for way in WAITING_OPERATOR},
        ({**POLLED, "kind": "reply", "sample": "running"},),
        arguments={"execution_timeout": 4, "poke_interval": 10},
    ),
    Case(
        "recount failed",
        "the retry submits afresh",
        {way: End("success", HAS_FAILED, 3, 2, 2) for way in WAITING_OPERATOR},
        (FAILED,),
        sample=None,
    ),
    Case(
        "task id unknown to the server",
        "the retry submits afresh: there is nothing to go on with",
        {way: End("success", "API error 404: Task not found", 3, 2, 2) for way in WAITING_OPERATOR},
        (FORGOTTEN,),
        sample=None,
        arguments={"max_poll_failures": 1},
    ),
)
"""In the first try of a waiting operator only."""


def submits(outcome: str = "success", says: str = "", submits: int = 1) -> dict[str, End]:
    """Return the ends of a submit, which are the same however the operator waits afterwards."""
    if outcome != "success":
        return fails(OPERATOR, outcome, says, submits)
    return {way: End(submits=submits, rows=3 if way in WAITING_OPERATOR else None) for way in OPERATOR}


def ambiguous(what: str, accepted: int) -> dict[str, End]:
    """Return the ends of a submit that may have been accepted."""
    line = (
        f"the recount may or may not have been accepted ({what}); check the platform, then clear the task, "
        "or set on_ambiguous_submit='resubmit'"
    )
    return submits(PERMANENT, line, accepted)


ASKED = {"endpoint": SUBMIT}
SUBMITTED = (
    Case("HTTP 503", "not accepted: tried again", submits(), ({**ASKED, "kind": "http"},)),
    Case(
        "HTTP 429 with Retry-After",
        "not accepted: tried again when the server allows it",
        submits(),
        ({**ASKED, "kind": "http", "status": 429, "retry_after": "1"},),
    ),
    Case(
        "API error 429 with Retry-After",
        "a refusal in the API's own form: tried again when the server allows it",
        submits(),
        ({**ASKED, "kind": "api_error", "code": 429, "status": 429, "retry_after": "1"},),
    ),
    Case(
        "API error 503 at HTTP 200",
        "a refusal, too: tried again",
        submits(),
        ({**ASKED, "kind": "api_error", "code": 503},),
    ),
    Case(
        "HTTP 429 with another API error",
        "a refusal, too: tried again",
        submits(),
        ({**ASKED, "kind": "api_error", "code": 1015, "status": 429},),
    ),
    Case(
        "HTTP 503 with API error 403",
        "the body outranks the HTTP status: permanent",
        submits(PERMANENT, "API error 403: Emulated error", 0),
        ({**ASKED, "kind": "api_error", "code": 403, "status": 503, **FOR_EVER},),
    ),
    Case(
        "connection reset",
        "may hide an accepted recount: permanent",
        ambiguous("no whole answer: Connection reset by peer", 0),
        ({**ASKED, "kind": "reset", **FOR_EVER},),
    ),
    Case(
        "answer lost",
        "cannot be told from the row above: permanent",
        ambiguous("no whole answer: Connection reset by peer", 1),
        ({**ASKED, "kind": "lost_answer", **FOR_EVER},),
    ),
    Case(
        "answer lost, `on_ambiguous_submit='resubmit'`",
        "submitted again as asked, and so counted twice",
        submits(submits=2),
        ({**ASKED, "kind": "lost_answer"},),
        arguments={"on_ambiguous_submit": "resubmit"},
    ),
    Case(
        "truncated answer",
        "the task's id did not arrive: permanent",
        ambiguous("no whole answer: the connection was closed", 1),
        ({**ASKED, "kind": "truncate", **FOR_EVER},),
    ),
    Case(
        "HTML at HTTP 200",
        "may hide an accepted recount: permanent",
        ambiguous("the answer is XML without the root <xml>", 0),
        ({**ASKED, "kind": "html", **FOR_EVER},),
    ),
    Case(
        "HTTP 500",
        "may hide an accepted recount: permanent",
        ambiguous(f"HTTP 500 {NO_ANSWER}", 0),
        ({**ASKED, "kind": "http", "status": 500, **FOR_EVER},),
    ),
    Case(
        "API error 440",
        "permanent, as every error of the API is here",
        submits(PERMANENT, "API error 440: Emulated error", 0),
        ({**ASKED, "kind": "api_error", "code": 440, **FOR_EVER},),
    ),
    Case(
        "API error 402",
        "permanent",
        submits(PERMANENT, "API error 402: Tariff limit of ***", 0),
        ({**ASKED, "kind": "api_error", "code": 402, "text": f"Tariff limit of {TOKEN}", **FOR_EVER},),
    ),
    Case("redirect", "permanent", submits(PERMANENT, REDIRECTED, 0), ({**ASKED, **REDIRECT},)),
)
"""While submitting."""

_TRIED = (*SENSOR, "operator_submit")
UNKNOWN_EXTRA = f"unknown extra formt; known are {', '.join(EXTRAS)}"
REFUSED = (
    "a look is tried again (up to `max_poll_failures`, 1 here), a submit 5 times; then Airflow's retries "
    "apply (none here)"
)
CONNECTIONS = tuple(
    Case(
        name,
        why,
        dict.fromkeys(_TRIED, End(outcome, says, submits=0)),
        connection=f"segstats_{connection}",
        **more,
    )
    for connection, name, why, outcome, says, more in (
        (
            "missing",
            "no such connection",
            "permanent",
            PERMANENT,
            "there is no such connection; create it with the type 'segstats'",
            {},
        ),
        (
            "unknown_extra",
            "unknown extra",
            "permanent",
            PERMANENT,
            UNKNOWN_EXTRA,
            {},
        ),
        (
            "no_ca_file",
            "missing CA file",
            "permanent",
            PERMANENT,
            "extra verify names a CA file that does not exist on this machine",
            {},
        ),
        (
            "bad_certificate",
            "certificate that cannot be trusted",
            "permanent; the request was not sent",
            PERMANENT,
            "the server's certificate is not trusted: TLS failed (self-signed certificate)",
            {},
        ),
        ("wrong_token", "wrong token", "permanent", PERMANENT, "API error 401: Invalid API token", {}),
        ("wrong_path", "wrong base path", "permanent", PERMANENT, f"HTTP 404 {NO_ANSWER}", {}),
        (
            "refused",
            "nobody listens",
            REFUSED,
            "NotSentError",
            "could not connect to 127.0.0.1:PORT: Connection refused",
            {"arguments": {"max_poll_failures": 1, "retries": 0}},
        ),
    )
)
"""Before the server can answer as it should."""

LOCAL = frozenset({"segstats_missing", "segstats_unknown_extra", "segstats_no_ca_file"})
"""Connections whose error names no endpoint: none was asked."""

SECTIONS = {
    "waited": WAITED,
    "softened": SOFTENED,
    "hanging": HANGING,
    "combined": COMBINED,
    "retried": RETRIED,
    "submitted": SUBMITTED,
    "connections": CONNECTIONS,
}
CELLS = [
    (section, case, way, wire)
    for section, cases in SECTIONS.items()
    for case in cases
    for way in case.ends
    for wire in FORMATS
]
"""Every cell of the table; each has a segment of its own, so that none uses up another's faults."""
_SEGMENTS = {(section, case.name, way, wire): n for n, (section, case, way, wire) in enumerate(CELLS, 1000)}


def segment_of(section: str, case: Case, way: str, wire: str) -> int:
    """Return the segment of a cell."""
    return _SEGMENTS[section, case.name, way, wire]


def task_id_of(section: str, case: Case, wire: str) -> str:
    """Return the id of a cell's task; its DAG is named after its way."""
    return f"{section}.{case.task_name}.{wire}"


def faults_of(case: Case, way: str, wire: str, segment: int) -> Iterator[Fault]:
    """Yield what the emulator is to do to a cell's segment.

    A first look finds the recount running, so that in deferrable mode it is the trigger that meets the
    fault. In reschedule mode, which comes back after 30 s at the soonest, the first look meets it.
    """
    runs_first = case.runs_first and way not in {"sensor_reschedule", "operator_submit"}
    early = [{**POLLED, "kind": "reply", "sample": "running"}] if runs_first else []
    late = [{**POLLED, "kind": "reply", "sample": case.sample, **FOR_EVER}] if case.sample else []
    for fault in (*early, *case.faults, *late):
        values = dict(fault)
        if name := values.pop("sample", None):
            values |= {
                "body": (SAMPLES / f"{name}.{wire}").read_bytes(),
                "content_type": f"application/{wire}",
            }
        yield Fault(segment_id=segment, **values)


@dataclass(frozen=True)
class Caught:
    """An error that a task of a user's own catches by its name, and what it finds in it.

    ``call`` is what the task asks of the hook: ``submit``, ``look`` or ``wait``. ``details`` are the
    attributes beside connection, endpoint and permanence.
    """

    kind: str
    call: str
    permanent: bool
    fault: Mapping[str, Any] | None = None
    connection: str = "segstats_default"
    details: Mapping[str, Any] = field(default_factory=dict)


CAUGHT = (
    Caught("ConfigurationError", "look", permanent=True, connection="segstats_unknown_extra"),
    Caught("NotSentError", "look", permanent=False, connection="segstats_refused"),
    Caught("NoAnswerError", "look", False, {**POLLED, "kind": "reset"}),
    Caught("CertificateError", "look", permanent=True, connection="segstats_bad_certificate"),
    Caught("ReplyError", "look", False, {**POLLED, "kind": "html"}, details={"http_status": 200}),
    Caught("RedirectError", "look", True, {**POLLED, **REDIRECT}, details={"http_status": 302}),
    Caught(
        "HttpStatusError",
        "look",
        False,
        {**POLLED, "kind": "http", "retry_after": "7"},
        details={"http_status": 503, "retry_after": 7.0},
    ),
    Caught(
        "ApiError",
        "submit",
        True,
        {**ASKED, "kind": "api_error", "code": 402, "text": "Tariff limit"},
        details={"http_status": 200, "code": 402, "text": "Tariff limit"},
    ),
    Caught("AmbiguousSubmitError", "submit", True, {**ASKED, "kind": "lost_answer"}),
    Caught(
        "TaskFailedError",
        "wait",
        False,
        FAILED,
        details={"task_id": "TASK", "status": "failed", "progress": 100, "text": "No list for ***"},
    ),
    Caught(
        "WaitTimeoutError",
        "wait",
        False,
        {"kind": "task", "outcome": "stuck"},
        details={"task_id": "TASK", "status": "running", "progress": 50},
    ),
)
FIRST_CAUGHT = 9000  # their segments
