"""The API on the wire: what the specification says of requests and replies, and the faults.

Where the specification is silent the answers are guesses; each says so.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from airflow_provider_segstats.core.codec import JSON, XML, codec_for
from airflow_provider_segstats.emulator.state import Entry
from airflow_provider_segstats.emulator.tasks import iso, report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from airflow_provider_segstats.core.codec import Codec
    from airflow_provider_segstats.emulator.faults import Fault
    from airflow_provider_segstats.emulator.state import State

TRANSPORT: Final = "segstats.transport"
"""The ASGI extension through which the server lends the connection's transport."""

_CODECS: Final = {codec.name: codec for codec in (JSON, XML)}
_DATABASES: Final[tuple[dict[str, Any], ...]] = ({"id": 1, "name": "Customers"},)
_HTTP_CODES: Final = range(400, 404)
_HTML: Final = "text/html; charset=utf-8"
_MAINTENANCE: Final = (
    "<html><head><title>Maintenance</title></head><body><h1>We will be back soon</h1></body></html>"
)
_NOT_FOUND: Final = (
    "<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1></body></html>"
)


class _ApiError(Exception):
    """An error the API answers with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class _Call:
    """A request as far as it could be read; `problem` is what kept it from being read to the end."""

    method: str
    endpoint: str
    reply: Codec
    from_text: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    authorization: str = ""
    problem: str | None = None

    def value(self, name: str) -> Any:
        """Return the parameter, None if it is missing, null or empty."""
        value = self.params.get(name)
        return None if value == "" else value

    def number(self, name: str, *, least: int = 1) -> int | None:
        """Return the parameter as an int (XML has only text), or refuse it with the API's error 400."""
        value = self.value(name)
        if self.from_text and isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:20])
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise _ApiError(400, f"Incorrect request: {name} must be a positive integer")
        return value

    def required(self, name: str) -> int:
        """Return the parameter as an int, or refuse its absence, too."""
        if (value := self.number(name)) is None:
            raise _ApiError(400, f"Incorrect request: {name} is required")
        return value

    def token(self) -> tuple[str | None, str | None]:
        """Return the token and where it came; the body's counts if there are two."""
        if isinstance(token := self.value("token"), str):
            return token, "body"
        scheme, _, token = self.authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip(), "header"
        return None, None


class Api:
    """The API as an ASGI application: every path that is not a control route."""

    def __init__(self, state: State, base_path: str) -> None:
        self._state = state
        self._base = base_path
        self._methods: Mapping[str, Callable[[_Call, Entry], dict[str, Any]]] = {
            "segments/refresh_counters": self._refresh_counters,
            "tasks/status": self._task_status,
            "databases/list": self._list_databases,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it suffer its fault."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        call = self._read(request, body)
        segment_id = self._segment_id(call)
        entry = self._state.record(
            lambda seq: Entry(
                seq,
                iso(self._state.now()),
                call.endpoint,
                request.headers.get("content-type"),
                format=call.reply.name,
                segment_id=segment_id,
                token_in=call.token()[1],
            )
        )
        fault = self._state.take_fault(call.endpoint, segment_id)
        kind = entry.fault = fault.kind if fault else None
        if kind == "lost_answer":
            self._answer(call, entry)
        if kind in ("reset", "lost_answer"):
            await _reset(scope, receive)
            return
        if kind == "hang":
            await _until_gone(receive)
            return
        if fault is None or kind in ("delay", "truncate"):
            if fault and fault.seconds:
                await asyncio.sleep(fault.seconds)
            response = self._answer(call, entry)
        else:
            response = self._canned(fault, call, entry)
        entry.status = response.status_code
        if kind == "truncate":
            await _send_half(response, scope, receive, send)
        else:
            await response(scope, receive, send)

    def _read(self, request: Request, body: bytes) -> _Call:
        path = request.scope["path"]
        endpoint = path[len(self._base) + 1 :] if path.startswith(f"{self._base}/") else path
        call = _Call(
            request.method, endpoint[:200], JSON, authorization=request.headers.get("authorization", "")
        )
        if endpoint not in self._methods or call.method != "POST":
            return call
        content_type = request.headers.get("content-type")
        try:
            codec = codec_for(content_type, body)
            if endpoint == "tasks/status":
                # It takes no documented `format`, and the specification's XML example gets XML back.
                call.reply = codec
            call.from_text = codec is XML
            call.params = codec.loads(body)
        except Exception:  # noqa: BLE001 - whatever keeps the body from being read is the client's mistake
            call.problem = "the body cannot be decoded"
            return call
        if (name := call.value("format")) is not None:
            if isinstance(name, str) and name in _CODECS:
                call.reply = _CODECS[name]
            else:
                call.problem = "format must be json or xml"
        return call

    def _segment_id(self, call: _Call) -> int | None:
        """Return the segment a request is about, as far as can be told before it is checked."""
        if call.endpoint == "tasks/status":
            task = self._state.task(call.value("task_id"))
            return task.segment_id if task else None
        try:
            return call.number("id")
        except _ApiError:
            return None

    def _answer(self, call: _Call, entry: Entry) -> Response:
        """Process the request and return the API's reply."""
        method = self._methods.get(call.endpoint)
        if method is None:
            return Response(_NOT_FOUND, 404, {"content-type": _HTML})
        try:
            self._check(call)
            message = method(call, entry)
        except _ApiError as error:
            return self._error(call, entry, error.code, error.text)
        entry.error = 0
        message |= {"error": 0, "error_text": "Successful operation"}
        return Response(call.reply.dumps(message), 200, {"content-type": call.reply.mimetype})

    def _check(self, call: _Call) -> None:
        if call.method != "POST":
            raise _ApiError(400, "Incorrect request: the method must be POST")
        if call.problem:
            raise _ApiError(400, f"Incorrect request: {call.problem}")
        # A guess: the specification does not say what a missing or wrong token gets.
        token, _ = call.token()
        if token is None:
            raise _ApiError(401, "API token required")
        if token != self._state.token:
            raise _ApiError(401, "Invalid API token")

    def _error(self, call: _Call, entry: Entry, code: int, text: str, status: int | None = None) -> Response:
        if status is None:
            # The codes of the documented table double as HTTP statuses; any other comes with a 200.
            status = code if code in _HTTP_CODES and not self._state.errors_as_200 else 200
        entry.error = code
        body = call.reply.dumps({"error": code, "error_text": text})
        return Response(body, status, {"content-type": call.reply.mimetype})

    def _refresh_counters(self, call: _Call, entry: Entry) -> dict[str, Any]:
        segment_id, resource_id = call.required("id"), call.required("resource_id")
        # Newer servers call the database list_id.
        db_id = call.number("db_id") or call.number("list_id")
        task = self._state.accept(segment_id, resource_id, db_id)
        entry.task_id, entry.accepted = task.task_id, True
        named = (task.outcome, task.name) != ("completed", None)
        if entry.fault is None and (named or task.changes):
            entry.fault = "task" if named else "counters"
        return {"data": {"task_id": task.task_id}}

    def _task_status(self, call: _Call, entry: Entry) -> dict[str, Any]:
        task_id = call.value("task_id")
        if not isinstance(task_id, str):
            raise _ApiError(400, "Incorrect request: task_id is required")
        entry.task_id = task_id[:200]
        task = self._state.task(task_id)
        if task is None:
            raise _ApiError(404, "Task not found")  # a guess: the specification does not say
        return {"data": report(task, self._state.now())}

    def _list_databases(self, call: _Call, _: Entry) -> dict[str, Any]:
        first, limit = call.number("from_id", least=0) or 0, call.number("limit")
        databases = [database for database in _DATABASES if database["id"] >= first][:limit]
        # As in the API's sample, the next id is the last one returned: an inclusive reader never ends.
        last = databases[-1]["id"] if databases else first
        return {"data": databases, "next_from_id": last, "total_count": len(_DATABASES)}

    def _canned(self, fault: Fault, call: _Call, entry: Entry) -> Response:
        """Return the reply of a fault that keeps the request from being processed."""
        status = fault.http_status
        match fault.kind:
            case "api_error":
                response = self._error(call, entry, fault.code or 0, fault.text or "Emulated error", status)
            case "redirect":
                response = Response(b"", status, {"location": fault.location or ""})
            case "reply":
                response = _literal(fault, status, "application/json", "")
            case "http":
                response = _literal(fault, status, _HTML, f"<html><body><h1>{status}</h1></body></html>")
            case _:
                response = _literal(fault, status, _HTML, _MAINTENANCE)
        if fault.retry_after is not None:
            response.headers["retry-after"] = fault.retry_after
        return response


def _literal(fault: Fault, status: int, content_type: str, body: str) -> Response:
    if fault.content_type is not None:
        content_type = fault.content_type
    # HTTP knows no body for these.
    content = b"" if status in (204, 304) else body if fault.body is None else fault.body
    return Response(content, status, {"content-type": content_type} if content_type else {})


async def _until_gone(receive: Receive) -> None:
    """Wait until the connection is closed."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reset(scope: Scope, receive: Receive) -> None:
    """Abort the connection with an RST: what a client sees when a server or a middlebox dies."""
    transport: asyncio.Transport = scope["extensions"][TRANSPORT]
    # Without lingering, closing discards what is unsent and sends an RST in place of a FIN.
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
    await _until_gone(receive)


async def _send_half(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Announce the whole body, send half of it and close the connection."""
    half = bytes(response.body[: len(response.body) // 2])
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": half, "more_body": True})
    scope["extensions"][TRANSPORT].close()
    await _until_gone(receive)
