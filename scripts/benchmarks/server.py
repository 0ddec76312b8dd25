"""The server that scripts/bench polls: HTTP/1.1 keep-alive over TLS, never what limits.

What a task answers stands in its id:

- ``looks-N-SERIAL`` is done at its N-th look.
- ``until-SECONDS-SERIAL`` is done from that time on, in seconds since the epoch.
- ``wave-SECONDS-SERIAL`` is done so long after a request to ``/wave``.
- ``file-NAME`` answers with that file of the folder ``--bodies``.

Run as a program it prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import re
import ssl
import time
from collections import Counter
from pathlib import Path

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TASK = re.compile(rb"task_id\W+((?:looks|until|wave|file)-[\w.-]+)")
_JSON, _XML = b"application/json", b"application/xml"
_NOT_FOUND = b"404 Not Found"
_CHANNELS = ("email", "push", "sms")
_COUNTERS = {"subscribed_sendable": 209, "unconfirmed_sendable": 0}
_ENTRY = {
    "channels": [{"channel": name, "status": _COUNTERS} for name in _CHANNELS],
    "in_progress": False,
    "list_id": 1,
    "refresh_task_id": "",
    "resource_id": 27,
    "updated": "2024-04-20T09:30:01.583Z",
}


def status_body(wire_format: str, *, done: bool, entries: int = 1) -> bytes:
    """Return the answer of ``tasks/status`` as the API writes it."""
    status, progress = ("completed", 100) if done else ("running", 40)
    entries = entries if done else 0
    if wire_format == "xml":
        counters = "".join(f"<{name}>{value}</{name}>" for name, value in _COUNTERS.items())
        channels = "".join(
            f"<channels><channel>{name}</channel><status>{counters}</status></channels>" for name in _CHANNELS
        )
        entry = (
            f"<result>{channels}<in_progress>false</in_progress><list_id>1</list_id><refresh_task_id>"
            "</refresh_task_id><resource_id>27</resource_id><updated>2024-04-20T09:30:01.583Z</updated></result>"
        )
        return (
            f"<xml><data><status>{status}</status><progress>{progress}</progress>{entry * entries}</data>"
            "<error>0</error><error_text>Successful operation</error_text></xml>"
        ).encode()
    data = {"status": status, "progress": progress, "result": [_ENTRY] * entries}
    return json.dumps({"data": data, "error": 0, "error_text": "Successful operation"}).encode()


_STATUS = {
    (kind, done): status_body(name, done=done)
    for kind, name in ((_JSON, "json"), (_XML, "xml"))
    for done in (False, True)
}
_DBT = {done: json.dumps({"data": {"status": 10 if done else 3}}).encode() for done in (False, True)}
_AIRBYTE = {
    done: json.dumps(
        {
            "jobId": 1,
            "connectionId": "c",
            "jobType": "sync",
            "startTime": "2024-04-20T09:30:01Z",
            "status": "succeeded" if done else "running",
        }
    ).encode()
    for done in (False, True)
}


class Tasks:
    """What the server answers, when it last said that a task was not done, and to how many at once."""

    def __init__(self, *, seconds: float, bodies: Path | None) -> None:
        self._seconds = seconds  # that a submitted task takes
        self._bodies = bodies
        self._serial = itertools.count()
        self._looks: Counter[str] = Counter()
        self.connected = self.most_connected = 0
        self.last_pending: dict[str, float] = {}
        self.wave = math.inf  # when it came

    def answer(self, path: str, head: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
        """Return status, content type and body."""
        kind, status = _XML if b"application/xml" in head else _JSON, b"200 OK"
        if path.endswith("/tasks/status"):
            task_id = _task_id(body)
            if task_id.startswith("file-") and self._bodies:
                text = (self._bodies / task_id).read_bytes()
            else:
                text = _STATUS[kind, self._is_done(task_id)]
        elif path == "/http":  # for a client to whom 404 means "not yet"
            done = self._is_done(_task_id(body))
            status, text = b"200 OK" if done else _NOT_FOUND, _STATUS[kind, done]
        elif match := re.search(r"/(runs|jobs)/(\d+)/?$", path):
            done = self._is_done(f"looks-{int(match[2]) % 10_000}-{match[2]}")
            text = (_DBT if match[1] == "runs" else _AIRBYTE)[done]
        elif path.endswith("/segments/refresh_counters"):
            task_id = f"until-{time.time() + self._seconds}-{next(self._serial)}"
            text = json.dumps({"error": 0, "data": {"task_id": task_id}}).encode()
        elif path == "/stats":
            stats = {"most_connected": self.most_connected, "last_pending": self.last_pending}
            text = json.dumps({**stats, "wave": self.wave}).encode()
        elif path == "/wave":
            self.wave = time.time()
            text = b"{}"
        else:
            status, text = _NOT_FOUND, b"{}"
        return status, kind, text

    def _is_done(self, task_id: str) -> bool:
        behaviour, number, _ = task_id.split("-", 2)
        if behaviour == "looks":
            self._looks[task_id] += 1
            return self._looks[task_id] >= int(number)
        done = time.time() >= float(number) + (self.wave if behaviour == "wave" else 0.0)
        if not done:
            self.last_pending[task_id] = time.time()
        return done


def _task_id(body: bytes) -> str:
    match = _TASK.search(body)
    return match[1].decode() if match else "looks-1-none"


class Connection(asyncio.Protocol):
    """One client's connection: a request, its answer, the next."""

    def __init__(self, tasks: Tasks, delay: float) -> None:
        self._tasks = tasks
        self._delay = delay
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._tasks.connected += 1
        self._tasks.most_connected = max(self._tasks.most_connected, self._tasks.connected)
        self._transport = transport  # type: ignore[assignment]  # a stream's is what TCP gives

    def connection_lost(self, _: Exception | None) -> None:
        """Count one less."""
        self._tasks.connected -= 1

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            body, self._received = self._received[end + 4 : whole], self._received[whole:]
            path = head.split(b" ", 2)[1].decode()
            if self._delay and path not in {"/stats", "/wave"}:
                asyncio.get_running_loop().call_later(self._delay, self._reply, path, head, body)
            else:
                self._reply(path, head, body)

    def _reply(self, path: str, head: bytes, body: bytes) -> None:
        status, kind, text = self._tasks.answer(path, head, body)
        if self._transport and not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (status, kind, len(text), text)
            )


async def serve(options: argparse.Namespace) -> None:
    """Serve until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    tasks = Tasks(seconds=options.seconds, bodies=options.bodies)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(tasks, options.delay), "127.0.0.1", 0, ssl=context, backlog=4096
    )
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", required=True, help="PEM file with the key in it")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--seconds", type=float, default=0.0, help="that a submitted task takes")
    parser.add_argument("--bodies", type=Path, help="folder of the answers to file-NAME")
    parser.add_argument("--core", type=int, help="the only core to run on")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
