"""The emulator as a server: uvicorn around the API and its control routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_segstats.emulator import control
from airflow_provider_segstats.emulator.errors import RefusedError
from airflow_provider_segstats.emulator.state import State
from airflow_provider_segstats.emulator.wire import TRANSPORT, Api

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from starlette.types import Receive, Scope, Send
    from typing_extensions import Self

    from airflow_provider_segstats.emulator.faults import Armed, Fault
    from airflow_provider_segstats.emulator.state import Entry
    from airflow_provider_segstats.emulator.tasks import Submission


class Emulator:
    """A server of the API on a port of its own, in a background thread.

    As a context manager it serves from entry to exit::

        with Emulator(token="t", seconds=1.0) as emulator:
            requests.post(emulator.url + "/api/v1.1/segments/refresh_counters", json={...})

    `seconds` is how long a task takes, give or take a tenth (the first fifth of it queued). `state` names an
    SQLite file in which submissions and clock outlive the process; the default is memory. `port` 0 takes any
    that is free. `errors_as_200` gives every API error the HTTP status 200; `next_from_id` tells whether that
    of a page is its "last" id or "beyond" it: the API's samples do both. `seed` is what there is, a mapping
    or the name of a JSON file (see `platform`); without one every id is that of something.

    Raises ValueError for settings that make no sense, sqlite3.Error for a state file that cannot be used,
    OSError for a port that is taken.

    Whoever reaches the port also reaches the control routes, which need no token: keep `host` a loopback
    address unless the network is yours alone.
    """

    def __init__(
        self,
        token: str,
        *,
        seconds: float = 5.0,
        host: str = "127.0.0.1",
        port: int = 0,
        base_path: str = "/api/v1.1",
        state: str | Path | None = None,
        errors_as_200: bool = False,
        next_from_id: str = "last",
        seed: Mapping[str, Any] | str | Path | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.base_path = "/" + base_path.strip("/") if base_path.strip("/") else ""
        if f"{self.base_path}/".startswith(f"{control.PREFIX}/"):
            raise RefusedError(f"the base path {control.PREFIX} is that of the control routes")
        self._state = State(
            token,
            seconds=seconds,
            errors_as_200=errors_as_200,
            next_from_id=next_from_id,
            seed=seed,
            file=state,
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port; the API is below `base_path`, the control routes below ``/_emulator``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def token(self) -> str:
        """The token requests must carry."""
        return self._state.token

    def connection(self, **extra: Any) -> str:
        """Return the emulator as an Airflow connection, for ``AIRFLOW_CONN_SEGSTATS_DEFAULT``."""
        fields = {"conn_type": "segstats", "host": self.url, "password": self.token}
        return json.dumps({**fields, "extra": {"base_path": self.base_path, **extra}})

    # Serving

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Serve in a background thread; returns once requests are answered.

        After `stop` the server comes back on the same port, with the tasks it had.
        """
        ready = threading.Event()
        listener = self._listen()
        self._server = self._build(ready.set)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="segstats-emulator", daemon=True
        )
        self._thread.start()
        while not ready.wait(0.05):
            if not self._thread.is_alive():
                raise RuntimeError("the emulator did not start")

    def stop(self) -> None:
        """Close every connection, as a server that is killed would; what is known stays known."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None

    def close(self) -> None:
        """Stop and release the state file; the journal and the tasks can still be read."""
        self.stop()
        self._state.close()

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve in this thread until SIGTERM or SIGINT."""
        listener = self._listen()
        self._build(on_ready).run([listener])

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family)
        self.port = listener.getsockname()[1]
        return listener

    def _build(self, on_ready: Callable[[], None]) -> _Server:
        application = Starlette(
            routes=[
                control.Control(self._state).routes(),
                Route("/{path:path}", Api(self._state, self.base_path)),
            ],
            exception_handlers={RefusedError: control.refused},
        )
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,  # longer than a client's polls are apart, as production servers have it
        )
        return _Server(config, on_ready)

    # Control, as through the routes

    def add_fault(self, fault: Fault) -> None:
        """Arm a fault, after those already there."""
        self._state.add_faults([fault])

    def faults(self) -> list[Armed]:
        """Return the faults that are not used up, with how many requests each saw and hit."""
        return self._state.faults()

    def clear_faults(self) -> None:
        """Disarm every fault; tasks keep the fates they have."""
        self._state.clear_faults()

    def journal(self) -> list[Entry]:
        """Return the last 200,000 requests in order of arrival."""
        return self._state.journal()

    def clear_journal(self) -> None:
        """Forget the requests so far; their numbers go on."""
        self._state.clear_journal()

    def tasks(self) -> list[Submission]:
        """Return every submission ever accepted, oldest first."""
        return self._state.tasks()

    def set_outcome(
        self, task_id: str, outcome: str, *, name: str | None = None, text: str | None = None
    ) -> None:
        """Change a task's fate to one of `tasks.OUTCOMES`; raises KeyError if there is no such task."""
        self._state.set_outcome(task_id, outcome, name=name, text=text)

    def now(self) -> datetime:
        """Return the emulated time, in UTC."""
        return datetime.fromtimestamp(self._state.now(), timezone.utc)

    def set_clock(
        self,
        now: datetime | str | None = None,
        *,
        advance: float | None = None,
        frozen: bool | None = None,
    ) -> None:
        """Freeze the clock or let it run, then set it to `now` (UTC if it names no zone), then move it on.

        `advance` is in seconds and may be negative.
        """
        self._state.set_clock(now, advance=advance, frozen=frozen)

    def configure(
        self,
        *,
        token: str | None = None,
        seconds: float | None = None,
        errors_as_200: bool | None = None,
        next_from_id: str | None = None,
    ) -> None:
        """Change the token, the seconds that tasks accepted from now on take, and how the API answers."""
        self._state.configure(
            token=token, seconds=seconds, errors_as_200=errors_as_200, next_from_id=next_from_id
        )

    def load_seed(self, seed: Mapping[str, Any] | str | Path | None) -> None:
        """Put what a seed says, itself or the name of its file, in place of all that was there.

        None: every id is that of something, as without a seed.
        """
        self._state.load_seed(seed)


class _Protocol(H11Protocol):
    """uvicorn's protocol, which also lends the application its transport: ASGI has no way to abort."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        application = self.app

        async def lend(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[TRANSPORT] = transport
            # Cancelled when the server stops: by then nobody is left to answer.
            with contextlib.suppress(asyncio.CancelledError):
                await application(scope, receive, send)

        self.app = lend


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and does not wait for requests that hang."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await super().shutdown(sockets)
