"""Connections and Variables as Airflow has them: there, absent, denied, or out of reach for now.

Airflow's own look-ups say "not found" whatever went wrong, also while its API server or a secrets backend is
away. So what is not found is asked for once more, of all that they ask, and of the supervisor itself instead
of by way of the backend that hides its answers; and what is out of reach is asked for again with patience.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseHook, Variable
from asgiref.sync import sync_to_async

from airflow_provider_segstats.boundary.versions import AirflowNotFoundException, AirflowRuntimeError
from airflow_provider_segstats.core.errors import AwayError, ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from airflow.sdk.execution_time.comms import ErrorResponse

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds. Airflow itself ends a task that could not send a heartbeat for about that long; its own client
gives up on one request within half a minute."""


def connection(conn_id: str) -> Connection | None:
    """Return a connection, None where there is none.

    Raises :class:`ConfigurationError` where Airflow denies it or the environment's cannot be read, and
    :class:`AwayError` where its API server or a secrets backend has been away for :data:`PATIENCE`.
    """

    def read() -> Connection | None:
        with _denied_as_ours("connection", conn_id), suppress(AirflowNotFoundException):
            return BaseHook.get_connection(conn_id)
        kept: Connection | None = _kept_elsewhere("connection", conn_id)
        return kept or _connection(conn_id, _ask(_get_connection(conn_id)))

    return patiently(read)


async def connection_async(conn_id: str) -> Connection | None:
    """Return a connection as :func:`connection` does, without blocking a triggerer's event loop."""

    async def read() -> Connection | None:
        with _denied_as_ours("connection", conn_id), suppress(AirflowNotFoundException):
            return await BaseHook.aget_connection(conn_id)
        kept: Connection | None = await sync_to_async(_kept_elsewhere)("connection", conn_id)
        return kept or _connection(conn_id, await _ask_async(_get_connection(conn_id)))

    return await _patiently_async(read)


def variable(name: str) -> str | None:
    """Return a Variable's text, None where there is no such Variable.

    Raises what :func:`connection` does. Takes two minutes where Airflow's API server is away, so it is for
    tasks, not for the top level of a DAG file.
    """

    def read() -> str | None:
        with _denied_as_ours("Variable", name), suppress(AirflowRuntimeError):
            text: str = Variable.get(name)
            return text
        kept: str | None = _kept_elsewhere("Variable", name)
        if kept is not None:
            return kept
        found = _told("Variable", name, _ask(_get_variable(name)))
        return None if found is None else found.value

    return patiently(read)


def patiently(call: Callable[[], T]) -> T:
    """Return what a call does; it is repeated for :data:`PATIENCE` while it raises :class:`AwayError`."""
    pauses = _pauses()
    while True:
        try:
            return call()
        except AwayError:
            if (pause := next(pauses, None)) is None:
                raise
        time.sleep(pause)


async def _patiently_async(call: Callable[[], Awaitable[T]]) -> T:
    pauses = _pauses()
    while True:
        try:
            return await call()
        except AwayError:
            if (pause := next(pauses, None)) is None:
                raise
        await asyncio.sleep(pause)


def _pauses() -> Iterator[float]:
    deadline = time.monotonic() + PATIENCE
    pause = 0.5
    while time.monotonic() < deadline:
        yield pause
        pause = min(2 * pause, 5.0)


def status_of(refusal: ErrorResponse) -> int | None:
    """Return the HTTP status of the API server's that the supervisor tells of, None where none came."""
    status = (refusal.detail or {}).get("status_code")
    return status if isinstance(status, int) else None


def _get_connection(conn_id: str) -> Any:
    from airflow.sdk.execution_time.comms import GetConnection

    return GetConnection(conn_id=conn_id)


def _get_variable(name: str) -> Any:
    from airflow.sdk.execution_time.comms import GetVariable

    return GetVariable(key=name)


def _kept_elsewhere(kind: str, name: str) -> Any:
    """Return what a secrets backend or the environment has, None where none of them has it."""
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    for backend in ensure_secrets_backend_loaded():
        whose = type(backend).__name__
        if whose == "ExecutionAPISecretsBackend":
            continue  # the supervisor is asked itself
        try:
            kept = getattr(backend, f"get_{kind.lower()}")(name)
        except Exception as error:  # noqa: BLE001 - a backend raises what it likes; its text may hold secrets
            what = type(error).__name__
            if whose == "EnvironmentVariablesBackend":
                raise ConfigurationError(
                    f"the environment's {kind} '{name}' cannot be read ({what})"
                ) from None
            raise AwayError(
                f"the secrets backend {whose} failed ({what}) when asked for {kind} '{name}'"
            ) from None
        if kept is not None:
            return kept
    return None


def _supervisor() -> Any:
    """Return the channel to the supervisor; None outside of what Airflow supervises."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    return getattr(runner, "SUPERVISOR_COMMS", None)


def _ask(question: Any) -> Any:
    """Return the supervisor's answer or what kept it from one; None where there is no supervisor."""
    if (supervisor := _supervisor()) is None:
        return None
    try:
        return supervisor.send(question)
    except AirflowRuntimeError as refusal:
        return refusal.error
    except Exception as error:  # noqa: BLE001 - whatever it was, it does not say that nothing is there
        return error


async def _ask_async(question: Any) -> Any:
    supervisor = _supervisor()
    if not hasattr(supervisor, "asend"):  # as in dag.test(), which runs triggers without a triggerer
        return _ask(question)
    try:
        return await supervisor.asend(question)
    except AirflowRuntimeError as refusal:
        return refusal.error
    except Exception as error:  # noqa: BLE001 - as above
        return error


def _told(what: str, name: str, answer: Any) -> Any:
    """Return what was found, None where there is none; raise where it is denied or out of reach."""
    from airflow.sdk.execution_time.comms import ConnectionResult, ErrorResponse, VariableResult

    if answer is None:  # nobody else to ask: Airflow's own word counts
        return None
    if isinstance(answer, ConnectionResult | VariableResult):
        return answer
    if isinstance(answer, ErrorResponse):
        if answer.error.value in {"CONNECTION_NOT_FOUND", "VARIABLE_NOT_FOUND"}:
            return None
        if status_of(answer) in {401, 403}:
            raise _denied(what, name)
    raise AwayError(f"Airflow's own API server could not be asked for {what} '{name}'; is it running?")


def _connection(conn_id: str, answer: Any) -> Connection | None:
    from airflow.sdk import Connection

    found = _told("connection", conn_id, answer)
    if found is None:
        return None
    return Connection(
        conn_id=found.conn_id,
        conn_type=found.conn_type,
        host=found.host,
        schema=found.schema_,
        login=found.login,
        password=found.password,
        port=found.port,
        extra=found.extra,
    )


@contextmanager
def _denied_as_ours(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except PermissionError:  # Airflow's AirflowSecretsBackendAccessDenied
        raise _denied(what, name) from None


def _denied(what: str, name: str) -> ConfigurationError:
    return ConfigurationError(f"Airflow denies this task the {what} '{name}'; is it another team's?")
