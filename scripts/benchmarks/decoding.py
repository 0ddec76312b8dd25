"""The part "decode" of scripts/bench: what reading a reply costs, and how long any reply may block the loop.

Run as a program it is the client that is measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.polls import fired
from benchmarks.server import status_body
from benchmarks.stage import TOKEN, Outcome, Target, become_client, spread, stage, write_result

BODIES = {"running": (False, 0), "completed": (True, 1), "1,000 entries": (True, 1000)}
LAG_EVERY = 0.001


def measure(folder: Path, *, smoke: bool, rounds: int | None) -> Outcome:
    """Decode in turn with ours and with the bare libraries, then meet replies of all shapes."""
    from airflow_provider_segstats.core.poller import LARGE_BODY
    from airflow_provider_segstats.core.transport import MAX_BODY

    rounds = rounds or (1 if smoke else 5)
    bodies = folder / "bodies"
    bodies.mkdir(parents=True, exist_ok=True)
    # The largest that are read on the event loop, and the largest that are read at all.
    for name, size in (("largest-on-the-loop", LARGE_BODY), ("largest", MAX_BODY))[: 1 if smoke else 2]:
        for shape, text in shapes(size - 1024).items():
            (bodies / f"file-{shape}.{name}").write_bytes(text)
    with stage(folder, bodies=bodies) as on:
        found = on.run("decoding", str(bodies), str(rounds), "1" if smoke else "40")
    decoding = [["reply", "format", "ours, µs: median (range)", "the bare library, µs", "ratio"]]
    for what, (ours, bare) in found["costs"].items():
        wire_format, body = what.split(" ", 1)
        ratio = statistics.median(ours) / statistics.median(bare)
        decoding.append([body, wire_format, spread(ours, ",.1f"), spread(bare, ",.1f"), f"{ratio:.1f}"])
    blocks = [["reply met by a trigger", "of", "its event", "loop blocked, ms: median (range)", "after, s"]]
    for name, (lags, seconds, event) in found["blocks"].items():
        length = _size((bodies / f"file-{name}").stat().st_size)
        after = f"{statistics.median(seconds):.2f}"
        blocks.append([name.split(".")[0], length, event, spread(lags, ",.1f"), after])
    worst = max(statistics.median(lags) for lags, _, _ in found["blocks"].values())
    return Outcome(
        f"decode: reading a reply, {rounds} rounds",
        [decoding, blocks],
        "The bare libraries are json.loads and xmltodict.parse; ours gives checked dataclasses. Blocked is "
        f"the most that a sleeper of {1e3 * LAG_EVERY:g} ms overslept, on the CPU itself, while "
        "a real trigger met one reply of that shape.",
        [Target(f"the loop blocked by any reply of up to {_size(MAX_BODY)}", worst, 20, "ms")],
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def shapes(size: int) -> dict[str, bytes]:
    """Return bodies of about that size, some of them what no API sends."""

    def filled(before: bytes, part: bytes, after: bytes) -> bytes:
        return before + part * ((size - len(before) - len(after)) // len(part)) + after

    def around(opening: bytes, middle: bytes, closing: bytes) -> bytes:
        depth = (size - len(middle)) // (len(opening) + len(closing))
        return opening * depth + middle + closing * depth

    def entries(wire_format: str) -> bytes:
        one, two = (status_body(wire_format, done=True, entries=count) for count in (1, 2))
        return status_body(wire_format, done=True, entries=size // (len(two) - len(one)) - 1)

    ok = b'{"error":0,"data":{"status":"completed","progress":100,"result":[],"x":'
    xml_ok = b"<xml><error>0</error><data><status>completed</status><progress>100</progress>"
    return {
        "json-entries": entries("json"),
        "json-one-string": filled(ok + b'"', b"a", b'"}}'),
        "json-escapes": filled(ok + b'"', b"\\u00e9", b'"}}'),
        "json-numbers": filled(ok + b"[", b"1,", b"1]}}"),
        "json-one-number": filled(ok, b"7", b"}}"),
        "json-empty-objects": filled(ok + b"[", b"{},", b"0]}}"),
        "json-deep": around(b"[", b"", b"]"),
        "json-deep-objects": around(b'{"a":', b"0", b"}"),
        "json-truncated": entries("json")[: -size // 3],
        "json-blank": filled(b"", b" ", b""),
        "html": filled(b"<!DOCTYPE html><html><body>", b"<p>502</p>", b"</body></html>"),
        "xml-entries": entries("xml"),
        "xml-one-text": filled(xml_ok + b"<x>", b"a", b"</x></data></xml>"),
        "xml-empty-elements": filled(xml_ok, b"<x/>", b"</data></xml>"),
        "xml-attributes": filled(xml_ok, b'<x a="1" b="2"/>', b"</data></xml>"),
        "xml-references": filled(xml_ok + b"<x>", b"&#65;", b"</x></data></xml>"),
        "xml-deep": around(b"<a>", b"", b"</a>"),
        "xml-comments": filled(xml_ok, b"<!---->", b"</data></xml>"),
        "xml-late-doctype": filled(b"", b" ", b"<!DOCTYPE xml><xml/>"),
    }


def costs(rounds: int, times: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the microseconds of ours and of the bare library, round by round."""
    import xmltodict

    from airflow_provider_segstats.core import api
    from airflow_provider_segstats.core.defaults import Format
    from airflow_provider_segstats.core.settings import Settings

    formats: list[Format] = ["json", "xml"]
    bare: dict[str, Callable[[bytes], Any]] = {"json": json.loads, "xml": xmltodict.parse}
    found: dict[str, tuple[list[float], list[float]]] = {}
    for round_ in range(rounds + 1):
        for wire_format in formats:
            call = api.task_status(
                Settings.from_fields(host="localhost", password=TOKEN, format=wire_format), "t"
            )
            headers = {"content-type": f"application/{wire_format}"}
            for name, (done, entries) in BODIES.items():
                body = status_body(wire_format, done=done, entries=entries)
                reply = api.Reply(200, headers, body)
                count = times if entries > 1 else times * 100
                ours = _microseconds(partial(call.read, reply), count)
                library = _microseconds(partial(bare[wire_format], body), count)
                if round_:
                    kept = found.setdefault(f"{wire_format} {name}", ([], []))
                    kept[0].append(ours)
                    kept[1].append(library)
    return found


def _microseconds(action: Callable[[], Any], times: int) -> float:
    gc.collect()
    began = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - began) / times * 1e6


async def block(task_id: str, wire_format: Any) -> tuple[float, float, str]:
    """Return the loop's longest block (ms) while a trigger meets a reply, the seconds, its event."""
    from airflow_provider_segstats.triggers import TaskStatusTrigger

    # One failed look ends it: what is told of the reply is then in the event.
    plan = {"started": time.time(), "deadline": time.time() + 600, "max_poll_failures": 1}
    trigger = TaskStatusTrigger(
        segstats_conn_id="segstats_default", format=wire_format, task_id=task_id, segment_id=7, plan=plan
    )
    waiting = asyncio.ensure_future(fired(trigger))
    longest, began = 0.0, time.monotonic()
    while not waiting.done():
        now, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(LAG_EVERY)
        # Not what other processes took of the core meanwhile.
        longest = max(longest, min(time.perf_counter() - now - LAG_EVERY, time.process_time() - cpu))
    event: Any = waiting.result().payload
    if "error" in event:
        told = event["error"]["kind"]
    elif event["rows"] is None:
        told = "left to a worker"
    else:
        told = f"{len(event['rows']):,} rows"
    return 1e3 * longest, time.monotonic() - began, told


def main(out: str, bodies: str, rounds: int, times: int) -> None:
    """Measure both; a small reply goes before the blocks, so that all is imported."""
    become_client()
    found: dict[str, Any] = {"costs": costs(rounds, times), "blocks": {}}
    for round_ in range(rounds + 1):
        for path in sorted(Path(bodies).iterdir()):
            name = path.name.removeprefix("file-")
            wire_format = "json" if name.startswith("json") else "xml"
            gc.collect()
            lag, seconds, event = asyncio.run(block(path.name if round_ else "looks-1-warm", wire_format))
            if round_:
                lags, times_taken, _ = found["blocks"].setdefault(name, ([], [], event))
                lags.append(lag)
                times_taken.append(seconds)
    write_result(out, found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
