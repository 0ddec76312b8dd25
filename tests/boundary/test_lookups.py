"""Connections and Variables while Airflow's API server is there, away, or denies them.

The supervisor is played over a real socket in Airflow's own protocol; its answers are those that Airflow's
supervisor gives for what the API server, or nobody, answers it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import requests
from airflow.sdk import configuration
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    CommsDecoder,
    ConnectionResult,
    ErrorResponse,
    VariableResult,
    _RequestFrame,
    _ResponseFrame,
)
from airflow.secrets import BaseSecretsBackend
from support.servers import Server

from airflow_provider_segstats.boundary import lookups
from airflow_provider_segstats.core.errors import AwayError, ConfigurationError, SegStatsError
from airflow_provider_segstats.hooks import SegStatsHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.sdk import Connection

    from airflow_provider_segstats.emulator import Emulator

WAYS = ("sync", "async")


def away(status: int | None = None) -> ErrorResponse:
    """Return what the supervisor says when nobody answers it, or something that is no answer."""
    return ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status, "message": "x"})


def absent(kind: str) -> ErrorResponse:
    return ErrorResponse(error=ErrorType[f"{kind}_NOT_FOUND"], detail={"key": "shop"})


def denied(status: int) -> ErrorResponse:
    return ErrorResponse(error=ErrorType.PERMISSION_DENIED, detail={"key": "shop", "status_code": status})


class Supervisor:
    """Answers with a script; its last answer again and again."""

    def __init__(self, connection: socket.socket) -> None:
        self.script: list[ErrorResponse | ConnectionResult | VariableResult] = []
        self.asked: list[dict[str, Any]] = []
        self._connection = connection
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        stream = self._connection.makefile("rb")
        while length := stream.read(4):
            request = msgspec.msgpack.decode(stream.read(int.from_bytes(length, "big")), type=_RequestFrame)
            self._connection.sendall(_ResponseFrame(request.id, *self._answer(request.body)).as_bytes())

    def _answer(self, question: dict[str, Any] | None) -> tuple[Any, Any]:
        if (question or {}).get("type") == "MaskSecret":
            return None, None
        self.asked.append(question or {})
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        body = answer.model_dump(by_alias=True)
        is_error = isinstance(answer, ErrorResponse) and answer.error is ErrorType.API_SERVER_ERROR
        return (None, body) if is_error else (body, None)


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    ours, its = socket.socketpair()
    with ours, its:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", CommsDecoder(socket=ours), raising=False)
        yield Supervisor(its)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "PATIENCE", 0.1)


def look_up(way: str, name: str = "shop") -> Connection | None:
    return lookups.connection(name) if way == "sync" else asyncio.run(lookups.connection_async(name))


def shop(**fields: Any) -> ConnectionResult:
    unset = dict.fromkeys(("schema", "login", "port"))
    return ConnectionResult(conn_id="shop", conn_type="segstats", **{**unset, **fields})


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_is_there_is_asked_for_once(supervisor: Supervisor, way: str) -> None:
    supervisor.script = [shop(host="example.com", password="t0ken", extra='{"format": "xml"}')]
    found = look_up(way)
    assert found
    assert (found.host, found.password, found.extra) == ("example.com", "t0ken", '{"format": "xml"}')
    assert len(supervisor.asked) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [None, 500, 503])
def test_a_connection_is_read_once_the_api_server_is_back(
    supervisor: Supervisor, way: str, status: int | None
) -> None:
    found = shop(
        host="example.com", schema="https", login="l", password="t0ken", port=8443, extra='{"format": "xml"}'
    )
    supervisor.script = [away(status)] * 3 + [found]
    read = look_up(way)
    assert read
    assert (read.host, read.schema, read.port) == ("example.com", "https", 8443)
    assert (read.login, read.password, read.extra) == ("l", "t0ken", '{"format": "xml"}')


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_is_absent_only_where_the_supervisor_says_so(supervisor: Supervisor, way: str) -> None:
    supervisor.script = [away(), away(), absent("CONNECTION")]
    assert look_up(way) is None
    assert supervisor.asked[-1] == {"conn_id": "shop", "type": "GetConnection"}


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("way", WAYS)
def test_an_api_server_that_stays_away_is_worth_a_retry(supervisor: Supervisor, way: str) -> None:
    supervisor.script = [away()]
    with pytest.raises(AwayError) as caught:
        look_up(way)
    assert not caught.value.permanent
    assert str(caught.value) == (
        "Airflow's own API server could not be asked for connection 'shop'; is it running?"
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [401, 403])
def test_a_denied_connection_is_permanent_and_named(supervisor: Supervisor, way: str, status: int) -> None:
    supervisor.script = [denied(status)]
    with pytest.raises(ConfigurationError, match=r"^Airflow denies this task the connection 'shop'"):
        look_up(way)
    # As releases without a word of its own for it do.
    supervisor.script = [away(status)]
    with pytest.raises(ConfigurationError, match=r"^Airflow denies this task the connection 'shop'"):
        look_up(way)


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_from_the_environment_needs_no_api_server(
    supervisor: Supervisor, connect: Callable[..., None], way: str
) -> None:
    supervisor.script = [away()]
    connect("example.com")
    found = look_up(way, "segstats_default")
    assert found
    assert found.host == "example.com"


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_is_absent_where_there_is_no_supervisor_to_ask(way: str) -> None:
    assert look_up(way) is None


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_reads_its_connection_with_patience(
    supervisor: Supervisor, emulator: Emulator, way: str
) -> None:
    supervisor.script = [away(), away(), shop(host=emulator.url, password=emulator.token, extra="{}")]
    hook = SegStatsHook("shop")
    if way == "sync":
        assert hook.refresh_counters(7, 24)
    else:
        from airflow_provider_segstats.core import api, flows

        def look(settings: Any, _: Any) -> Any:
            return flows.one_call(api.list_databases(settings))

        asyncio.run(hook.run_async(look))
    assert len(emulator.journal()) == 1


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    ("answer", "permanent", "line"),
    [
        (away(), False, "connection 'shop': Airflow's own API server could not be asked"),
        (absent("CONNECTION"), True, "connection 'shop': there is no such connection"),
        (denied(403), True, "connection 'shop': Airflow denies this task the connection"),
    ],
)
def test_a_hooks_errors_tell_absent_denied_and_away_apart(
    supervisor: Supervisor, answer: ErrorResponse, permanent: bool, line: str
) -> None:
    supervisor.script = [answer]
    with pytest.raises(SegStatsError) as caught:
        SegStatsHook("shop").task_status("task_1")
    assert caught.value.permanent is permanent
    assert str(caught.value).startswith(line)


class Vault(BaseSecretsBackend):
    """A secrets backend of the user's own: what a server has, by name."""

    url = ""

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        return self.get_variable(conn_id, team_name)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:  # noqa: ARG002 - Airflow's
        answer = requests.get(f"{self.url}/{key}", timeout=60)
        answer.raise_for_status()
        return answer.text or None


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Give the answers of a vault, which is away while there are none; its last again and again."""
    answers: list[bytes] = []

    def behave(connection: socket.socket, _: Server) -> None:
        if answers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            connection.sendall(answer)

    with Server(behave) as server:
        monkeypatch.setattr(Vault, "url", server.url)
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", f"{__name__}.Vault")
        # Airflow keeps a backend for as long as the process lives.
        monkeypatch.setattr(configuration, "_secrets_backend_cache", {}, raising=False)
        yield answers


AWAY = b"HTTP/1.1 503 Sealed\r\nContent-Length: 0\r\n\r\n"
NOTHING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def holds(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_is_read_once_the_secrets_backend_that_has_it_is_back(
    supervisor: Supervisor, vault: list[bytes], way: str
) -> None:
    supervisor.script = [absent("CONNECTION")]
    vault += [AWAY] * 3 + [holds(b'{"conn_type": "segstats", "host": "example.com"}')]
    found = look_up(way)
    assert found
    assert found.host == "example.com"


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("way", WAYS)
def test_a_secrets_backend_that_stays_away_is_worth_a_retry_and_named(
    supervisor: Supervisor, vault: list[bytes], way: str
) -> None:
    supervisor.script = [absent("CONNECTION")]
    vault += [AWAY]
    with pytest.raises(AwayError) as caught:
        look_up(way)
    assert not caught.value.permanent
    assert str(caught.value) == (
        "the secrets backend Vault failed (HTTPError) when asked for connection 'shop'"
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_neither_secrets_backend_nor_airflow_has_is_absent(
    supervisor: Supervisor, vault: list[bytes], way: str
) -> None:
    supervisor.script = [absent("CONNECTION")]
    vault += [NOTHING]
    assert look_up(way) is None


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_in_the_environment_that_cannot_be_read_is_not_called_absent(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    supervisor.script = [absent("CONNECTION")]
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", '{"conn_type": "segstats", "password": "t0ken"')
    with pytest.raises(ConfigurationError) as caught:
        look_up(way)
    assert str(caught.value) == "the environment's connection 'shop' cannot be read (JSONDecodeError)"


class TestVariables:
    @pytest.mark.usefixtures("hurry")
    def test_a_secrets_backend_that_is_away_is_not_taken_for_no_variable(
        self, supervisor: Supervisor, vault: list[bytes]
    ) -> None:
        supervisor.script = [absent("VARIABLE")]
        vault += [AWAY]
        with pytest.raises(AwayError, match=r"Vault failed .* for Variable 'shop'"):
            lookups.variable("shop")
        vault[:] = [AWAY, holds(b"green")]
        assert lookups.variable("shop") == "green"

    def test_a_variable_that_is_there_is_read(self, supervisor: Supervisor) -> None:
        supervisor.script = [VariableResult(key="shop", value='[{"segment_id": 7}]')]
        assert json.loads(lookups.variable("shop") or "") == [{"segment_id": 7}]

    def test_a_variable_is_read_once_the_api_server_is_back(self, supervisor: Supervisor) -> None:
        supervisor.script = [*[away(503)] * 3, VariableResult(key="shop", value="7")]
        assert lookups.variable("shop") == "7"

    def test_a_variable_is_absent_only_where_the_supervisor_says_so(self, supervisor: Supervisor) -> None:
        supervisor.script = [away(), away(), absent("VARIABLE")]
        assert lookups.variable("shop") is None

    def test_a_denied_variable_is_permanent_and_named(self, supervisor: Supervisor) -> None:
        supervisor.script = [denied(403)]
        with pytest.raises(ConfigurationError, match=r"^Airflow denies this task the Variable 'shop'"):
            lookups.variable("shop")

    @pytest.mark.usefixtures("hurry")
    def test_a_variable_that_stays_out_of_reach_is_worth_a_retry(self, supervisor: Supervisor) -> None:
        supervisor.script = [away()]
        with pytest.raises(AwayError, match="asked for Variable 'shop'"):
            lookups.variable("shop")

    def test_a_variable_from_the_environment_needs_no_api_server(
        self, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        supervisor.script = [away()]
        monkeypatch.setenv("AIRFLOW_VAR_SHOP", "7")
        assert lookups.variable("shop") == "7"
