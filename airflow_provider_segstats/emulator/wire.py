"""The API on the wire: how requests are read and answered, and the faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from airflow_provider_segstats.core.codec import JSON, XML, codec_for
from airflow_provider_segstats.emulator.methods import LISTS, ApiError, Call, Methods
from airflow_provider_segstats.emulator.state import Entry
from airflow_provider_segstats.emulator.tasks import iso

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_segstats.emulator.faults import Fault
    from airflow_provider_segstats.emulator.state import State

TRANSPORT: Final = "segstats.transport"
"""The ASGI extension through which the server lends the connection's transport."""

_CODECS: Final = {codec.name: codec for codec in (JSON, XML)}
_HTTP_CODES: Final = range(400, 404)
_HTML: Final = "text/html; charset=utf-8"
_MAINTENANCE: Final = (
    "<html><head><title>Maintenance</title></head><body><h1>We will be back soon</h1></body></html>"
)
_NOT_FOUND: Final = (
    "<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1></body></html>"
)


class Api:
    """The API as an ASGI application: every path that is not a control route."""

    def __init__(self, state: State, base_path: str) -> None:
        self._state = state
        self._base = base_path
        self._methods = Methods(state).by_path

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

    def _read(self, request: Request, body: bytes) -> Call:
        path = request.scope["path"]
        endpoint = path[len(self._base) + 1 :] if path.startswith(f"{self._base}/") else path
        if endpoint.removesuffix("/") in self._methods:  # some are documented with a slash, others without
            endpoint = endpoint.removesuffix("/")
        call = Call(
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
            call.params = codec.loads(body, LISTS)
        except Exception:  # noqa: BLE001 - whatever keeps the body from being read is the client's mistake
            call.problem = "the body cannot be decoded"
            return call
        if (name := call.value("format")) is not None:
            if isinstance(name, str) and name in _CODECS:
                call.reply = _CODECS[name]
            else:
                call.problem = "format must be json or xml"
        return call

    def _segment_id(self, call: Call) -> int | None:
        """Return the segment a request is about, as far as can be told before it is checked."""
        if call.endpoint == "tasks/status":
            task = self._state.task(call.value("task_id"))
            return task.segment_id if task else None
        try:
            return call.number("id") if call.endpoint.startswith("segments/") else None
        except ApiError:
            return None

    def _answer(self, call: Call, entry: Entry) -> Response:
        """Process the request and return the API's reply."""
        method = self._methods.get(call.endpoint)
        if method is None:
            return Response(_NOT_FOUND, 404, {"content-type": _HTML})
        try:
            self._check(call)
            message = method(call, entry)
        except ApiError as error:
            return self._error(call, entry, error.code, error.text)
        entry.error = 0
        message = {"data": message.pop("data"), "error": 0, "error_text": "Successful operation", **message}
        return Response(call.reply.dumps(message), 200, {"content-type": call.reply.mimetype})

    def _check(self, call: Call) -> None:
        if call.method != "POST":
            raise ApiError(400, "Incorrect request: the method must be POST")
        if call.problem:
            raise ApiError(400, f"Incorrect request: {call.problem}")
        # A guess: the specification does not say what a missing or wrong token gets.
        token, _ = call.token()
        if token is None:
            raise ApiError(401, "API token required")
        if (holder := self._state.holder_of(token)) is None:
            raise ApiError(401, "Invalid API token")
        call.holder = holder

    def _error(self, call: Call, entry: Entry, code: int, text: str, status: int | None = None) -> Response:
        if status is None:
            # The codes of the documented table double as HTTP statuses; any other comes with a 200.
            status = code if code in _HTTP_CODES and not self._state.errors_as_200 else 200
        entry.error = code
        body = call.reply.dumps({"error": code, "error_text": text})
        return Response(body, status, {"content-type": call.reply.mimetype})

    def _canned(self, fault: Fault, call: Call, entry: Entry) -> Response:
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
