"""A whole Airflow on this machine for as long as a `with` block lasts; for the demo and for tests.

with AirflowStack(home, dags_folder, {"AIRFLOW_CONN_X": "…"}) as airflow:
    run_id = airflow.trigger("my_dag")
    assert airflow.wait("my_dag", run_id) == "success"
    value = airflow.xcom("my_dag", run_id, "my_task")
"""

from __future__ import annotations

import base64
import configparser
import json
import os
import secrets
import socket
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from local_airflow.leash import Leashed
from local_airflow.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from typing_extensions import Self

# --skip-serve-logs: all share one disk, and two of a kind would fight over the log server's port.
COMPONENTS = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
USER = "admin"
PATIENCE = 300.0  # seconds in which nothing comes of it; a busy machine may be slow in anything
FINISHED = ("success", "failed")
STEPS = 3  # of the start


class StackError(Exception):
    """Airflow, or a DAG on it, did not do what it should; the message is fit to show."""


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class AirflowStack:
    """Airflow's four components as processes on PostgreSQL and LocalExecutor, and its REST API.

    Not on SQLite: with one writer at a time the API server's threads wait for each other until they fail.

    ``home`` becomes AIRFLOW_HOME and is expected to be new. ``env`` is for connections and variables,
    ``config`` for settings besides or instead of those below, as ``{section: {option: value}}``.
    ``path`` (``/airflow``) is where below the host it is served, ``only`` are the components to start, all
    four unless given; ``users`` are roles by name, of those who may log in with :attr:`password` besides
    :data:`USER`.
    With ``restart_after`` a component that ends is started again that many seconds later; without it its
    end is an error. ``told`` is told what the start is at, in :data:`STEPS` steps.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        path: str = "",
        only: Collection[str] = tuple(COMPONENTS),
        users: Mapping[str, str] | None = None,
        triggerers: int = 1,
        restart_after: float | None = None,
        config: Mapping[str, Mapping[str, object]] | None = None,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.home = home.resolve()
        self.password = secrets.token_urlsafe(12)
        self._port = port or free_port()
        self.url = f"http://127.0.0.1:{self._port}{path}"
        self._dags_folder = dags_folder.resolve()
        self._config = config or {}
        self._restart_after = restart_after
        self._told = told
        self._roles = {USER: "admin", **(users or {})}
        self.components = [*only, *(f"triggerer-{number}" for number in range(2, triggerers + 1))]
        self._env = {
            **{name: value for name, value in os.environ.items() if "AIRFLOW_" not in name},
            # A proxy has no business between processes of one machine.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "AIRFLOW_HOME": str(self.home),
            **(env or {}),
        }
        self._running: dict[str, Leashed] = {}
        self._api = requests.Session()
        self._api.trust_env = False  # neither proxies nor a .netrc

    def __enter__(self) -> Self:
        """Start everything; return when the API answers."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.stop()

    def _start(self) -> None:
        self.home.mkdir(mode=0o700, parents=True)  # it holds secrets
        self._told("its database is made")
        self.postgres = Postgres(self.home / "postgres.log", restart_after=self._restart_after)
        self._write_config()
        migration = self._launch("db-migrate", "db", "migrate")
        try:
            self.until(lambda: migration.status is not None, "Airflow's database", sign=migration.written)
        finally:
            migration.stop()
        if migration.status:
            raise StackError(f"Airflow's database could not be made:\n{migration.tail()}")
        self._told("its parts are started")
        for name in self.components:
            kind = name if name in COMPONENTS else name.rpartition("-")[0]
            self._running[name] = self._launch(
                name, kind, *COMPONENTS[kind], restart_after=self._restart_after
            )
        self._told("its API server gets ready")
        self.until(self._answers, "Airflow's API server", sign=self._running["api-server"].written)
        self._api.headers["Authorization"] = f"Bearer {self.token()}"

    def _write_config(self) -> None:
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys(self._roles, self.password)))
        settings: dict[str, dict[str, object]] = {
            "core": {
                "dags_folder": self._dags_folder,
                "load_examples": False,
                "executor": "LocalExecutor",
                "parallelism": 4,  # a worker takes 150 MB
                "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "execution_api_server_url": f"{self.url}/execution/",
                "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in self._roles.items()),
                "simple_auth_manager_passwords_file": passwords,
            },
            "database": {
                "sql_alchemy_conn": self.postgres.url("psycopg2"),
                "sql_alchemy_conn_async": self.postgres.url("asyncpg"),
            },
            "api": {
                "host": "127.0.0.1",
                "port": self._port,
                "base_url": self.url,
                "secret_key": secrets.token_hex(32),
            },
            "api_auth": {"jwt_secret": secrets.token_hex(64)},
            "logging": {"base_log_folder": self.home / "logs"},
            "usage_data_collection": {"enabled": False},
        }
        for section, options in self._config.items():
            settings.setdefault(section, {}).update(options)
        parser = configparser.RawConfigParser()
        # Airflow interpolates what it reads.
        parser.read_dict(
            {
                section: {option: str(value).replace("%", "%%") for option, value in options.items()}
                for section, options in settings.items()
            }
        )
        with (self.home / "airflow.cfg").open("w") as file:
            parser.write(file)

    def _launch(self, name: str, *arguments: str, restart_after: float | None = None) -> Leashed:
        command = [sys.executable, "-m", "airflow", *arguments]
        log = self.home / f"{name}.log"
        return Leashed(command, env=self._env, log=log, restart_after=restart_after)

    def kill(self, component: str) -> None:
        """Crash a component: kill -9 for it and all that it started."""
        self._running[component].kill()

    def stop(self) -> None:
        """Stop all that runs."""
        for process in self._running.values():
            process.let_go()
        for process in self._running.values():
            process.wait()
        self._running.clear()
        if hasattr(self, "postgres"):
            self.postgres.stop()

    def check(self) -> None:
        """Raise if a component has ended by itself."""
        for name, process in self._running.items():
            if process.status is not None:
                raise StackError(f"Airflow's {name} ended; the end of {process.log}:\n{process.tail()}")

    def until(
        self, holds: Callable[[], object], what: str, *, sign: Callable[[], object] = lambda: None
    ) -> None:
        """Return when the condition holds; raise when a component died, or patience is at its end.

        Patience begins anew whenever ``sign`` returns something else: it has come further.
        """
        seen, since = sign(), time.monotonic()
        while not holds():
            self.check()
            if (now := sign()) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() > since + PATIENCE:
                raise StackError(f"{what}: nothing came of it for {PATIENCE:.0f} s; logs: {self.home}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        # The tasks' API is built at its first request, which takes longer than a task has patience for.
        try:
            return self._api.get(f"{self.url}/execution/health", timeout=60).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def token(self, user: str = USER) -> str:
        """Log a user in; return the token, which a browser has in its cookie ``_token``."""
        login = {"username": user, "password": self.password}
        reply = self._api.post(f"{self.url}/auth/token", json=login, timeout=60)
        reply.raise_for_status()
        return str(reply.json()["access_token"])

    def request(self, method: str, *path: str, **arguments: Any) -> Any:
        """Return what the REST API answers, None for 404; the path in parts, since run ids need quoting."""
        url = "/".join([self.url, "api/v2", *(quote(part, safe="") for part in path)])
        reply = self._api.request(method, url, timeout=120, **arguments)
        if reply.status_code == requests.codes.not_found:
            return None
        if not reply.ok:
            raise StackError(f"{method} {url}: {reply.status_code} {reply.text[:500]}")
        return reply.json()

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run, unpause the DAG and return the run's id; waits for the DAG to be found.

        Unpaused, a DAG with a schedule runs what is due besides, and that first.
        """
        self.unpause(dag_id)
        body = {"logical_date": datetime.now(tz=timezone.utc).isoformat(), "conf": conf or {}}
        return str(self.request("POST", "dags", dag_id, "dagRuns", json=body)["dag_run_id"])

    def _knows(self, dag_id: str) -> bool:
        if self.request("GET", "dags", dag_id):
            return True
        for error in self.request("GET", "importErrors")["import_errors"]:
            raise StackError(f"{error['filename']} cannot be imported:\n{error['stack_trace']}")
        return False

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run a DAG; waits for the DAG to be found."""
        self.until(lambda: self._knows(dag_id), f"the DAG {dag_id}")
        self.request("PATCH", "dags", dag_id, json={"is_paused": False})

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return a DAG's runs, oldest first."""
        found: list[dict[str, Any]] = self.request(
            "GET", "dags", dag_id, "dagRuns", params={"order_by": "id"}
        )["dag_runs"]
        return found

    def state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state."""
        return str(self.request("GET", "dags", dag_id, "dagRuns", run_id)["state"])

    def wait(self, dag_id: str, run_id: str) -> str:
        """Return the state in which a run finished, success or failed; raise when its tasks stand still."""

        def states() -> list[object]:
            return [task["state"] for task in self.task_instances(dag_id, run_id)]

        self.until(lambda: self.state(dag_id, run_id) in FINISHED, f"the end of {dag_id}", sign=states)
        return self.state(dag_id, run_id)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances as the REST API has them."""
        found: list[dict[str, Any]] = self.request("GET", "dags", dag_id, "dagRuns", run_id, "taskInstances")[
            "task_instances"
        ]
        return found

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return what a task pushed, None if it pushed nothing."""
        path = ("dags", dag_id, "dagRuns", run_id, "taskInstances", task_id, "xcomEntries", key)
        params = {"map_index": map_index, "deserialize": False, "stringify": False}
        entry = self.request("GET", *path, params=params)
        return entry and entry["value"]

    def logged(self, instance: Mapping[str, Any], text: str) -> list[str]:
        """Return the messages with this text in them, once there are any: logs lag behind states."""
        found: list[str] = []

        def come() -> bool:
            found[:] = [message for message in self.log(instance) if text in message]
            return bool(found)

        self.until(come, f"{text!r} in the log of {instance['task_id']}", sign=lambda: self.log(instance))
        return found

    def log(self, instance: Mapping[str, Any]) -> list[str]:
        """Return the messages that a task instance's latest attempt has logged so far."""
        run = ("dags", instance["dag_id"], "dagRuns", instance["dag_run_id"])
        reply = self.request(
            "GET",
            *run,
            "taskInstances",
            instance["task_id"],
            "logs",
            str(instance["try_number"]),
            params={"map_index": instance["map_index"], "full_content": True},
            headers={"Accept": "application/json"},
        )
        return [text for line in (reply or {}).get("content", ()) for text in _texts(line)]


def _texts(line: str | dict[str, Any]) -> Iterator[str]:
    """Yield a log line's message, and the errors it carries apart from it, outermost last."""
    if isinstance(line, str):
        yield line
    elif not line["event"].startswith("::"):  # the UI's folding marks
        yield line["event"]
        for error in reversed(line.get("error_detail") or ()):
            yield f"{error['exc_type']}: {error['exc_value']}"
