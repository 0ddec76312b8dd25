"""A whole Airflow: tasks cleared, killed and retried in every state; and secrets, which show nowhere.

One Airflow for all of it, since its start takes half a minute. Everything happens at once, in DAG runs and
segments apart from each other.
"""

from __future__ import annotations

import base64
import html
import json
import os
import runpy
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from support.airflow_runs import connection
from support.leaks import database, files, leaks
from support.paths import DAGS
from support.servers import Server
from support.smtp_server import MailServer

from airflow_provider_segstats.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

from local_airflow.stack import FINISHED, PATIENCE, AirflowStack

pytestmark = pytest.mark.airflow

LIVES = DAGS / "lives"
SECRETIVE = runpy.run_path(str(LIVES / "secretive.py"))
STATUS, SUBMIT = "tasks/status", "segments/refresh_counters"

HOSTILE = "<&>\"'\\]]>{}%s;\u00e9\u2116"
TOKEN = f"{HOSTILE}Xq7Zt0kenK9vW2pL"
BAD_TOKEN = f"{HOSTILE}Bq8Yb4dt0kenM3sR"
PASSWORD = "p@ss:w/rd#%<&>Pq5Cpr0xyT6hJ9n"
# What the search must find: texts of their own, let through in these encodings.
ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "json": json.dumps,
    "xml": html.escape,
    "url": quote,
    "repr": repr,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64b": lambda text: base64.b64encode(b"a" + text.encode()).decode(),
    "base64c": lambda text: base64.b64encode(b"ab" + text.encode()).decode(),
}
CANARIES = {name: f"{HOSTILE}{name}Cq3Wcan4ryD8fG1k" for name in ENCODINGS}
SECRETS = {"token": TOKEN, "bad token": BAD_TOKEN, "password": PASSWORD}
CONFIG = {
    "core": {"parallelism": 8},
    # Airflow would mask what the hook tells it to; this is about what the package lets through to it.
    "logging": {"min_length_masked_secret": 1000},
    "scheduler": {"task_instance_heartbeat_sec": 1},  # in which a worker learns that its task was cleared
}


class Task:
    """One task instance, which goes through a life of its own."""

    def __init__(self, whole: Whole, dag_id: str, segment: int, task_id: str = "refresh") -> None:
        self._whole = whole
        self._dag_id = dag_id
        self.segment = segment
        self._task_id = task_id
        self.run_id = ""

    @property
    def now(self) -> dict[str, Any]:
        """The task instance as the REST API has it."""
        return self._whole.instances.get((self._dag_id, self.run_id, self._task_id), {"state": None})

    @property
    def end(self) -> tuple[str, int]:
        return self.now["state"], self.now["try_number"]

    @property
    def submits(self) -> int:
        """How many recounts of the segment the server accepted."""
        return len(self._whole.remote(self.segment))

    @property
    def requests(self) -> int:
        """How many requests to recount the segment reached the server."""
        return self._whole.requests(SUBMIT, self.segment)

    def start(self, **conf: int) -> None:
        self.run_id = self._whole.airflow.trigger(self._dag_id, {"segment": self.segment, **conf})

    def is_waiting(self, tries: int = 1) -> bool:
        """Whether this try waits on a worker and has looked."""
        looks = self._whole.requests(STATUS, self.segment)
        return self.end == ("running", tries) and looks >= tries if self.now["state"] else False

    def has_ended(self, tries: int) -> bool:
        return bool(self.now["state"]) and self.end in {("success", tries), ("failed", tries)}

    def has_its_run_ended(self) -> bool:
        return self._whole.airflow.state(self._dag_id, self.run_id) in FINISHED

    def clear(self) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": self.run_id,
            "task_ids": [self._task_id],
            "only_failed": False,
        }
        self._whole.airflow.request("POST", "dags", self._dag_id, "clearTaskInstances", json=body)

    def kill(self) -> None:
        """Kill the task's process, as a machine out of memory would."""
        os.kill(self.now["pid"], signal.SIGKILL)

    def complete(self) -> None:
        """Let the recount be done."""
        [task_id, *_] = self._whole.remote(self.segment)
        self._whole.emulator.set_outcome(task_id, "completed")


class Whole:
    """The run: each life is a generator that yields what has to come about before it goes on."""

    def __init__(
        self, airflow: AirflowStack, emulator: Emulator, elsewhere: Server, mails: list[EmailMessage]
    ) -> None:
        self.airflow = airflow
        self.emulator = emulator
        self.elsewhere = elsewhere
        self.mails = mails
        self.instances: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.tasks: dict[str, Task] = {}
        self.places: set[str] = set()
        self.triggers: set[bytes] = set()
        self.shown: set[tuple[str, str]] = set()

    def remote(self, segment: int) -> list[str]:
        return [task.task_id for task in self.emulator.tasks() if task.segment_id == segment]

    def requests(self, endpoint: str, segment: int) -> int:
        return sum(
            (entry.endpoint, entry.segment_id) == (endpoint, segment) for entry in self.emulator.journal()
        )

    @property
    def secretive_tasks(self) -> dict[str, dict[str, Any]]:
        """The task instances with secrets in their errors, by id."""
        return {key[2]: task for key, task in self.instances.items() if key[0] == "secretive"}

    def last_error(self, task_id: str) -> str:
        """Return the line of the error that ended a task."""
        return self.airflow.logged(self.secretive_tasks[task_id], "connection '")[-1]

    def task(self, name: str, dag_id: str, task_id: str = "refresh") -> Task:
        self.tasks[name] = task = Task(self, dag_id, 100 + len(self.tasks), task_id)
        return task

    def faulty(self, task: Task, kind: str, endpoint: str | None = STATUS, **more: Any) -> None:
        where = {} if endpoint is None else {"endpoint": endpoint}
        self.emulator.add_fault(Fault(kind, segment_id=task.segment, **where, **more))

    def stuck(self, task: Task) -> None:
        self.faulty(task, "task", None, outcome="stuck")

    def lives(self) -> Iterator[Iterator[Callable[[], object]]]:
        yield self.cleared_while_running()
        yield self.cleared_while_deferred()
        yield self.cleared_while_up_for_retry()
        yield self.cleared_after("success")
        yield self.cleared_after("failed")
        yield self.retried_alone()
        yield self.retried_on_the_worker()
        yield self.retried_deferred()
        yield self.killed_amid_the_submit()
        yield self.moved()
        yield self.secretive()
        yield self.late()

    def cleared_while_running(self) -> Iterator[Callable[[], object]]:
        task, sibling = self.task("running", "siblings"), self.task("sibling", "siblings", "sibling")
        self.stuck(task)
        self.stuck(sibling)
        task.start(sibling=sibling.segment)
        sibling.run_id = task.run_id
        yield lambda: task.is_waiting() and sibling.is_waiting()
        task.clear()
        self.faulty(sibling, "http", status=500)  # its own: a 503 would count for all who wait there
        yield lambda: task.has_ended(2) and sibling.has_ended(2)

    def cleared_while_deferred(self) -> Iterator[Callable[[], object]]:
        task = self.task("deferred", "deferrable")
        self.stuck(task)
        task.start()
        yield lambda: task.now["state"] == "deferred"
        task.clear()
        yield lambda: task.has_ended(2)

    def cleared_while_up_for_retry(self) -> Iterator[Callable[[], object]]:
        task = self.task("up for retry", "patient")
        self.faulty(task, "http", status=500)  # its own: a 503 would count for all who wait there
        task.start()
        yield lambda: task.now["state"] == "up_for_retry"
        task.clear()
        yield lambda: task.has_ended(2)

    def cleared_after(self, end: str) -> Iterator[Callable[[], object]]:
        task = self.task(end, "poke")
        if end == "failed":
            self.faulty(task, "api_error", code=403)
        task.start()
        # Not the task alone: a run that is just being ended would not take notice of the clear.
        yield task.has_its_run_ended
        task.clear()
        yield lambda: task.has_ended(2)

    def retried_alone(self) -> Iterator[Callable[[], object]]:
        task = self.task("retried: submit", "submit")
        task.start()
        yield lambda: task.has_ended(2)

    def retried_on_the_worker(self) -> Iterator[Callable[[], object]]:
        task = self.task("retried: poke", "poke")
        self.stuck(task)
        task.start()
        yield task.is_waiting
        task.kill()
        yield lambda: task.is_waiting(2)
        task.complete()
        yield lambda: task.has_ended(2)

    def retried_deferred(self) -> Iterator[Callable[[], object]]:
        task = self.task("retried: deferrable", "deferrable")
        self.faulty(task, "reply", body='{"data": {"status": "running"}, "error": 0}')
        self.faulty(task, "http", status=500)  # its own: a 503 would count for all who wait there
        task.start()
        yield lambda: task.has_ended(2)

    def killed_amid_the_submit(self) -> Iterator[Callable[[], object]]:
        task = self.task("killed amid the submit", "poke")
        self.faulty(task, "hang", SUBMIT)
        task.start()
        yield lambda: task.requests and task.now["state"] == "running"
        task.kill()
        yield lambda: task.has_ended(2)

    def moved(self) -> Iterator[Callable[[], object]]:
        task = self.task("moved", "moving")
        self.stuck(task)
        fields = {"connection_id": "moving", "conn_type": "segstats", "password": TOKEN}
        self.airflow.request("POST", "connections", json={**fields, "host": self.emulator.url})
        task.start()
        yield lambda: task.now["state"] == "up_for_reschedule"
        self.airflow.request("PATCH", "connections", "moving", json={**fields, "host": self.elsewhere.url})
        yield lambda: task.has_ended(1)

    def secretive(self) -> Iterator[Callable[[], object]]:
        shown = {name: encode(CANARIES[name]) for name, encode in ENCODINGS.items()}
        run_id = self.airflow.trigger("secretive", {"canaries": shown})
        yield lambda: self.airflow.state("secretive", run_id) in FINISHED

    def late(self) -> Iterator[Callable[[], object]]:
        self.airflow.trigger("late")
        yield lambda: self.mails

    def run(self) -> None:
        lives = {life: next(life) for life in self.lives()}
        states: dict[tuple[str, str, str], Any] = {}
        since = time.monotonic()
        while lives and time.monotonic() < since + PATIENCE:  # who stands still fails a test of its own
            self.airflow.check()
            found = self.airflow.request(
                "GET", "dags", "~", "dagRuns", "~", "taskInstances", params={"limit": 100}
            )["task_instances"]
            self.instances = {(task["dag_id"], task["dag_run_id"], task["task_id"]): task for task in found}
            if states != (states := {key: task["state"] for key, task in self.instances.items()}):
                since = time.monotonic()
            self.search()
            for life, holds in list(lives.items()):
                if holds():
                    try:
                        lives[life] = next(life)
                    except StopIteration:
                        del lives[life]
            time.sleep(1)

    def search(self) -> None:
        """Search the database as it is now: triggers and what they fired are in it for a moment only."""
        found = list(database(self.airflow.home))
        self.places |= {place for place, _ in found}
        self.triggers |= {data for place, data in found if place == "trigger.kwargs" and b"max_poll" in data}
        self.shown |= leaks(found, SECRETS)


def echoing(status: bytes, *, after: int = 0) -> Callable[[socket.socket, Server], None]:
    """Answer with the whole request, under an HTTP status; so many times before, that the task runs."""
    running = b'{"data": {"status": "running"}, "error": 0}'

    def behave(connection: socket.socket, server: Server) -> None:
        request = server.read(connection)
        line, body = (status, request) if len(server.requests) > after else (b"200 OK", running)
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (line, len(body), body))

    return behave


def secretive_faults(elsewhere: str) -> Iterator[Fault]:
    """Yield faults whose answers hold the token, raw and as a server may encode it."""
    text = f"{TOKEN}, {html.escape(TOKEN)}, {quote(TOKEN)}, {json.dumps(TOKEN)}"
    later: dict[str, Any] = {"endpoint": STATUS, "skip": 1, "times": None}
    refused = SECRETIVE["REFUSED"]
    yield Fault("api_error", endpoint=SUBMIT, segment_id=refused, code=402, text=text, times=None)
    location = f"{elsewhere}/?token={quote(TOKEN)}"
    for mode in (0, 1):
        of = {name: segment + mode for name, segment in SECRETIVE["ECHOES"].items()}
        yield Fault("task", segment_id=of["echo"], outcome="stuck")
        yield Fault("api_error", segment_id=of["echo"], code=403, text=text, **later)
        yield Fault("task", segment_id=of["redirect"], outcome="stuck")
        yield Fault("redirect", segment_id=of["redirect"], location=location, **later)
        yield Fault("task", segment_id=of["failed"], outcome="failed", text=text)
        # A status that nobody knows: such a task goes on for ever.
        yield Fault("task", segment_id=of["status"], outcome="failed", name=f"lost {TOKEN}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    home = tmp_path_factory.mktemp("whole") / "airflow"
    with ExitStack() as stack:

        def proxy(behave: Callable[[socket.socket, Server], None] | None) -> str:
            port = stack.enter_context(Server(behave)).port if behave else closed.getsockname()[1]
            return f"http://me:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"

        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        emulator = stack.enter_context(Emulator(TOKEN, seconds=0.0))
        elsewhere = stack.enter_context(Server(echoing(b"200 OK")))
        for fault in secretive_faults(elsewhere.url):
            emulator.add_fault(fault)
        strict = stack.enter_context(Emulator("another", seconds=0.0))
        strict.add_fault(Fault("api_error", code=401, text=f"no such token: {BAD_TOKEN}", times=None))
        far = "http://nowhere.invalid"
        connections = {
            "DEFAULT": connection(emulator.url, TOKEN),
            "ANSWERS_407": connection(far, TOKEN, proxy=proxy(echoing(b"407 Who are you"))),
            "ANSWERS_407_LATER": connection(far, TOKEN, proxy=proxy(echoing(b"407 Who are you", after=1))),
            "ANSWERS_502": connection("https://nowhere.invalid", TOKEN, proxy=proxy(echoing(b"502 No"))),
            "REFUSES": connection(far, TOKEN, proxy=proxy(None)),
            "BAD_TOKEN": connection(strict.url, BAD_TOKEN),
            "NO_CA_FILE": connection("https://127.0.0.1", TOKEN, verify="/nowhere/ca.pem"),
        }
        env = {f"AIRFLOW_CONN_SEGSTATS_{name}": value for name, value in connections.items()}
        mail_server = stack.enter_context(MailServer())
        env["AIRFLOW_CONN_SMTP_DEFAULT"] = mail_server.connection
        with AirflowStack(home, LIVES, env, config=CONFIG) as airflow:
            whole = Whole(airflow, emulator, elsewhere, mail_server.mails)
            whole.run()
            yield whole


@pytest.mark.parametrize("state", ["running", "deferred", "up for retry", "success", "failed"])
def test_a_cleared_task_submits_afresh_whatever_its_state_was(whole: Whole, state: str) -> None:
    task = whole.tasks[state]
    assert (task.end, task.submits) == (("success", 2), 2)


def test_clearing_a_running_task_makes_its_siblings_retries_submit_afresh(whole: Whole) -> None:
    task = whole.tasks["sibling"]
    assert (task.end, task.submits) == (("success", 2), 2)


@pytest.mark.parametrize("kind", ["submit", "poke", "deferrable"])
def test_a_retry_goes_on_with_the_recount_that_the_first_try_submitted(whole: Whole, kind: str) -> None:
    task = whole.tasks[f"retried: {kind}"]
    assert (task.end, task.submits) == (("success", 2), 1)


def test_a_retry_after_a_kill_amid_the_submit_does_not_know_and_says_so(whole: Whole) -> None:
    task = whole.tasks["killed amid the submit"]
    assert (task.end, task.requests) == (("failed", 2), 1)
    line = "segments/refresh_counters: an earlier try may or may not have submitted the recount"
    assert whole.airflow.logged(task.now, line)


@pytest.mark.since("3.3", "a task's store")
def test_a_rescheduled_sensor_asks_no_other_server_than_at_its_first_look(whole: Whole) -> None:
    task = whole.tasks["moved"]
    assert task.end == ("failed", 1)
    here, there = whole.emulator.url, whole.elsewhere.url
    line = f"the task was started at {here}/api/v1.1, and the connection leads to {there}/api/v1.1 now"
    assert whole.airflow.logged(task.now, line)
    assert whole.elsewhere.requests == []


def test_no_secret_shows_in_the_database_at_any_time(whole: Whole) -> None:
    assert whole.shown == {("token", "connection.password")}  # where it belongs, encrypted


def test_no_secret_shows_in_a_log_or_any_other_file(whole: Whole) -> None:
    assert leaks(files(whole.airflow.home), SECRETS) == set()


def test_the_search_went_through_all_that_airflow_keeps_of_a_task(whole: Whole) -> None:
    assert whole.places >= {
        "dag_run.conf",
        "rendered_task_instance_fields.rendered_fields",
        "task_instance.next_kwargs",
        "task_state_store.value",
        "xcom.value",
    }
    assert whole.triggers  # decrypted
    paths = [Path(path) for path, _ in files(whole.airflow.home)]
    logs = {path.parts[0] for path in paths if path.suffix == ".log"}
    assert logs >= {"logs", *(f"{name}.log" for name in whole.airflow.components)}


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_search_finds_a_secret_that_a_task_lets_through(whole: Whole, name: str) -> None:
    home = whole.airflow.home
    places = {place for _, place in leaks([*database(home), *files(home)], {name: CANARIES[name]})}
    assert places >= {"dag_run.conf", "rendered_task_instance_fields.rendered_fields", "xcom.value"}
    assert [place for place in places if "task_id=show" in place]


def test_the_errors_came_about_in_which_the_secrets_were(whole: Whole) -> None:
    hidden = '***, ***, ***, "***"'
    echoes = {
        "echo": f"API error 403: {hidden}",
        "redirect": f"HTTP 302 points to {whole.elsewhere.url}/?token=***",
        "failed": f"the recount ended as 'failed' (progress 100): {hidden}",
        "status": "it was last status 'lost ***', progress 100",
        "submit": f"API error 402: {hidden}",
    }
    proxies = {
        "answers_407_poke": "HTTP 407 without an answer of the API",
        "answers_407_reschedule": "HTTP 407 without an answer of the API",
        "answers_407_later_deferrable": "HTTP 407 without an answer of the API",
        "answers_502_poke": "the proxy answered HTTP 502",
        "answers_502_deferrable": "the proxy answered HTTP 502",
        "refuses_poke": ": Connection refused",
    }
    expected = {
        **{f"{name}_{mode}": line for name, line in echoes.items() for mode in ("poke", "deferrable")},
        **proxies,
        "bad_token_poke": "API error 401: no such token: ***",
        "bad_token_reschedule": "API error 401: no such token: ***",
        "no_ca_file_poke": "extra verify names a CA file that does not exist on this machine",
    }
    assert whole.secretive_tasks.keys() == {*expected, "show"}
    for task_id, line in expected.items():
        assert line in whole.last_error(task_id)


def test_a_redirect_is_not_followed(whole: Whole) -> None:
    assert whole.elsewhere.requests == []


@pytest.mark.parametrize("task_id", ["answers_407_poke", "answers_407_later_deferrable"])
def test_a_token_sent_over_http_beyond_this_machine_is_warned_of(whole: Whole, task_id: str) -> None:
    line = "sends its token over http: use https"
    assert whole.airflow.logged(whole.secretive_tasks[task_id], line)


def test_a_deadline_alert_is_mailed_from_the_triggerer_and_says_that_it_has_no_table(whole: Whole) -> None:
    [mail] = whole.mails
    assert (mail["To"], mail["Subject"]) == ("team@example.com", "late is late")
    html = mail.get_body(("html",)).get_content()
    assert html.strip() == "<pre>There is no table: this is about a run, not a task.</pre>"
