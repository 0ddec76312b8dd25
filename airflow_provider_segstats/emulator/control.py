"""The control routes, under ``/_emulator/`` and apart from the API's: JSON, POST, and no token.

- GET, DELETE ``journal``: every request in order of arrival; forget them
- GET ``tasks``: every submission ever accepted
- POST ``tasks/{id}``: change a task's fate, ``{"outcome": ..., "name": ..., "text": ...}``
- GET, POST, DELETE ``faults``: the faults still armed; add one or a list; disarm all
- GET, POST ``clock``: any of ``{"now": ISO time, "advance": seconds, "frozen": bool}``
- GET, POST ``settings``: any of `Emulator.configure`, ``{"token": ..., "seconds": ...}``; the token is never
  shown
- POST ``seed``: what there is from now on, see `platform`; answered with how much of each kind

What cannot be done is answered with HTTP 400 and ``{"error": text}``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Mount, Route

from airflow_provider_segstats.emulator.errors import RefusedError
from airflow_provider_segstats.emulator.faults import Fault
from airflow_provider_segstats.emulator.platform import KINDS, Platform
from airflow_provider_segstats.emulator.state import Entry
from airflow_provider_segstats.emulator.tasks import iso

if TYPE_CHECKING:
    from starlette.requests import Request

    from airflow_provider_segstats.emulator.state import State
    from airflow_provider_segstats.emulator.tasks import Submission

PREFIX = "/_emulator"
_SHOWN = ("seconds", "errors_as_200", "next_from_id")


class Control:
    """The control routes of one state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> Mount:
        """Return the routes, to be mounted beside the API."""
        return Mount(
            PREFIX,
            routes=[
                Route("/journal", self._journal, methods=["GET", "DELETE"]),
                Route("/tasks", self._tasks),
                Route("/tasks/{task_id}", self._task, methods=["POST"]),
                Route("/faults", self._faults, methods=["GET", "POST", "DELETE"]),
                Route("/clock", self._clock, methods=["GET", "POST"]),
                Route("/seed", self._seed, methods=["POST"]),
                Route("/settings", self._settings, methods=["GET", "POST"]),
            ],
        )

    async def _journal(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._state.clear_journal()
        return _json([_entry(entry) for entry in self._state.journal()])

    async def _tasks(self, _: Request) -> Response:
        return _json([_task(task) for task in self._state.tasks()])

    async def _task(self, request: Request) -> Response:
        change = {"outcome": None} | await _fields(request, "outcome", "name", "text")
        try:
            return _json(_task(self._state.set_outcome(request.path_params["task_id"], **change)))
        except KeyError:
            return _json({"error": "there is no such task"}, 404)

    async def _faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._state.clear_faults()
        elif request.method == "POST":
            message = await _body(request)
            # All or none: each is checked before the first is armed.
            faults = message if isinstance(message, list) else [message]
            self._state.add_faults([Fault.from_json(fault) for fault in faults])
        return _json(
            [
                armed.fault.to_json() | {"seen": armed.seen, "used": armed.used}
                for armed in self._state.faults()
            ]
        )

    async def _clock(self, request: Request) -> Response:
        if request.method == "POST":
            self._state.set_clock(**await _fields(request, "now", "advance", "frozen"))
        return _json({"now": iso(self._state.now()), "frozen": self._state.frozen})

    async def _settings(self, request: Request) -> Response:
        if request.method == "POST":
            self._state.configure(**await _fields(request, "token", *_SHOWN))
        return _json({name: getattr(self._state, name) for name in _SHOWN})

    async def _seed(self, request: Request) -> Response:
        platform = self._state.platform = Platform(await _body(request))
        return _json({name: len(getattr(platform, name)) for name in KINDS})


async def refused(_: Request, error: Exception) -> Response:
    """Answer a control request that makes no sense."""
    return _json({"error": str(error)}, 400)


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise RefusedError("the body must be JSON") from None


async def _fields(request: Request, *names: str) -> dict[str, Any]:
    message = await _body(request)
    if not isinstance(message, dict) or not message:
        raise RefusedError(f"the body must be a JSON object with any of {', '.join(names)}")
    if unknown := message.keys() - set(names):
        raise RefusedError(f"unknown field {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return message


def _entry(entry: Entry) -> dict[str, Any]:
    # Not asdict: it copies deeply, and a journal is long.
    return {name: getattr(entry, name) for name in Entry.__slots__}


def _task(task: Submission) -> dict[str, Any]:
    return asdict(task) | {"at": iso(task.at)}


def _json(message: object, status: int = 200) -> Response:
    # ASCII: a journal may hold what some client sent and UTF-8 cannot carry.
    return Response(json.dumps(message), status, media_type="application/json")
