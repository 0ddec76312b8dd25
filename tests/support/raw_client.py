"""Talks to an emulator in literal bytes: nothing here goes through the package's codec."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

TOKEN = "abcdefghijklmnqrstuvwxyz"
REFRESH = "/api/v1.1/segments/refresh_counters"
STATUS = "/api/v1.1/tasks/status"
JSON = {"Content-Type": "application/json"}
XML = {"Content-Type": "application/xml"}


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def post(self, path: str, message: object, headers: dict[str, str] = JSON) -> Reply:
        return self.send("POST", path, json.dumps(message).encode(), headers)

    def refresh(self, segment_id: int = 7, **more: Any) -> Reply:
        return self.post(REFRESH, {"token": TOKEN, "id": segment_id, "resource_id": 24, **more})

    def submit(self, segment_id: int = 7, **more: Any) -> str:
        return str(self.refresh(segment_id, **more).json["data"]["task_id"])

    def status(self, task_id: str) -> Reply:
        return self.post(STATUS, {"token": TOKEN, "task_id": task_id})

    def data(self, task_id: str) -> Any:
        return self.status(task_id).json["data"]

    def control(self, method: str, route: str, message: object = None) -> Reply:
        body = b"" if message is None else json.dumps(message).encode()
        return self.send(method, f"/_emulator/{route}", body)
