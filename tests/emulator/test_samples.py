"""The emulator answers in the documented bytes: the same files that the readers are tested against."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.raw_client import JSON, XML, Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.emulator import Emulator

TOKEN = "abcdefghijklmnqrstuvwxyz"
SEED = {
    "segments": [
        {"id": 7, "name": "Readers", "ui_tags": ["weekly"], "groups": [1], "databases": [1], "size": 500}
    ],
    "groups": [{"id": 1, "name": "north"}],
    "databases": [{"id": 1, "name": "Customers", "suppress_id": 5, "description": "All of them"}],
    "resources": [
        {
            "id": 24,
            "name": "Shop",
            "channels": ["email"],
            "databases": [1],
            "url": "https://shop.example",
            "trk_domain": "t.shop.example",
        }
    ],
}
COUNTED = ("segments/get", "segments/get_counters")
"""Whose numbers the emulator makes up."""

UUID = rb"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"


@pytest.mark.parametrize(
    "method",
    [
        "segments/list/",
        "databases/list/",
        "segments/get/",
        "segments/get_counters",
        "databases/get/",
        "resources/get",
        "databases/refresh_counters",
        "resources/refresh_counters",
    ],
)
@pytest.mark.parametrize(("format", "headers"), [("json", JSON), ("xml", XML)])
def test_a_documented_request_is_answered_in_the_documented_bytes(
    make_emulator: Callable[..., Emulator],
    sample: Callable[[str], bytes],
    method: str,
    format: str,
    headers: dict[str, str],
) -> None:
    client = Client(make_emulator(TOKEN, seed=SEED, seconds=0.0).port)
    name = method.strip("/").replace("/", "_")
    reply = client.send("POST", f"/api/v1.1/{method}", sample(f"{name}.request.{format}").strip(), headers)
    body = reply.body
    if "refresh" in method:
        expected = b"".join(sample(f"refresh_counters.response.{format}").splitlines()).replace(b": ", b":")
        expected, body = (re.sub(UUID, b"UUID", text) for text in (expected, body))
    else:
        expected = sample(f"{name}.response.{format}").strip()
    if method.strip("/") in COUNTED:
        expected, body = (re.sub(rb"(?<=[>:])\d\d+", b"N", text) for text in (expected, body))
    assert body == expected


@pytest.mark.parametrize(("format", "headers"), [("json", JSON), ("xml", XML)])
def test_an_empty_list_is_answered_in_the_documented_bytes(
    make_emulator: Callable[..., Emulator],
    sample: Callable[[str], bytes],
    format: str,
    headers: dict[str, str],
) -> None:
    client = Client(make_emulator(TOKEN, seed={}).port)
    body = sample(f"databases_list.request.{format}").strip()
    reply = client.send("POST", "/api/v1.1/segments/list/", body, headers)
    assert reply.body == sample(f"empty_list.response.{format}").strip()
