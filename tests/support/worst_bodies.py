"""Read the worst bodies that the limits let pass, within limits of memory and CPU time that the system keeps.

In a process of its own, for the limits' sake, and for the sake of an interpreter that might crash. Prints
one line of JSON for each body: its kind, what became of it, the CPU seconds and the MiB that it took.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_segstats.core import api
from airflow_provider_segstats.core.codec import MAX_MARKS, XML
from airflow_provider_segstats.core.errors import SegStatsError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.core.transport import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = 256 * 2**20
CPU_SECONDS = 120

# kind: (head, unit, tail, unit's end); the unit is repeated as often as the limits allow, and so is its end,
# after all units. "@" is the unit's number.
STATUS = '{"data":{"status":"completed","result":'
XML_STATUS = "<xml><data><status>completed</status>"
KEY = "\N{KEY}"
BODIES = {
    "json open arrays": ("", "[", ""),
    "json open objects": ("", '{"":', ""),
    "json arrays in arrays": ('{"a":', "[", "}", "]"),
    "json nested": ('{"a":[0', "," + "[" * 900 + "]" * 900, "]}"),
    "json empty arrays": ('{"a":[0', ",[]", "]}"),
    "json empty objects": ('{"a":[0', ",{}", "]}"),
    "json objects": ('{"a":[0', ',{"":0}', "]}"),
    "json keys": ('{"":0', ',"@":0', "}"),
    "json floats": ('{"a":[0', ",1e1", "]}"),
    "json strings": ('{"a":[0', ',"ab"', "]}"),
    "json giant text": (f'{{"data":{{"status":"{KEY}', "x", '"}}'),
    "json giant error text": (f'{{"error":440,"error_text":"{KEY}', " x", '"}'),
    "json giant integer": ('{"a":', "9", "}"),
    "json giant fraction": ('{"a":0.', "9", "}"),
    "json large integers": ('{"a":[0', "," + "9" * 4300, "]}"),
    "json long floats": ('{"a":[0', ",2." + "2" * 760 + "e-300", "]}"),
    "json empty entries": (f'{STATUS}[{{"channels":[]}}', ',{"channels":[]}', "]}}"),
    "json empty channels": (f'{STATUS}[{{"channels":[{{}}', ",{}", "]}]}}"),
    "json counters": (f'{STATUS}[{{"channels":[{{"status":{{"":0', ',"@":0', "}}]}]}}"),
    "xml open elements": ("<xml>", "<a>", ""),
    "xml open elements of many names": ("<xml>", "<a@>", ""),
    "xml elements in elements": ("<xml>", "<a>", "</xml>", "</a>"),
    "xml elements of many names": ("<xml>", "<a@/>", "</xml>"),
    "xml attributes": ("<xml><a", ' a@=""', "/></xml>"),
    "xml giant attribute": ('<xml><a b="', "&lt;", '"/></xml>'),
    "xml giant text": (f"<xml><data><status>{KEY}", "x", "</status></data></xml>"),
    "xml lines": ("<xml><a>x", "\n", "x</a></xml>"),
    "xml references": ("<xml><a>", "&#9;", "</a></xml>"),
    "xml comments": ("<xml>", "<!---->", "</xml>"),
    "xml giant comment": ("<xml><!--", "x", "--></xml>"),
    "xml unfinished comment": ("<xml><!--", "x", ""),
    "xml sections": ("<xml><a>", "<![CDATA[x]]>", "</a></xml>"),
    "xml instructions": ("<xml>", "<?a?>", "</xml>"),
    "xml giant name": ("<", "x", "/>"),
    "xml empty entries": (XML_STATUS, "<result><channels/></result>", "</data></xml>"),
    "xml counters": (
        f"{XML_STATUS}<result><channels><status>",
        "<a@>0</a@>",
        "</status></channels></result></data></xml>",
    ),
}


def body(kind: str) -> bytes:
    """Return the largest body of a kind that is not refused unread."""
    head, unit, tail, *ends = (part.encode() for part in BODIES[kind])
    end = b"".join(ends)

    def marks(part: bytes) -> int:
        return sum(map(part.count, (b"<", b"=") if kind.startswith("xml") else (b"[", b"{", b",")))

    times = (MAX_BODY - len(head + tail)) // (len(unit + end) + 5 * unit.count(b"@"))
    if marks(unit):
        times = min(times, (MAX_MARKS - marks(head + tail)) // marks(unit + end))
    if b"@" in unit:
        return head + b"".join(unit.replace(b"@", b"%x" % number) for number in range(times)) + tail
    return head + unit * times + end * times + tail


def read_all() -> Iterator[dict[str, str | float]]:
    """Read each of the bodies as a reply of ``tasks/status``."""
    call = api.task_status(Settings.from_fields(host="example.com", password="token", extra={}), "x")
    for kind in BODIES:
        reply = api.Reply(200, {"content-type": f"application/{kind[:4].strip()}"}, body(kind))
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is counted anew
        before, started = peak(), time.process_time()
        try:
            outcome = type(call.read(reply)).__name__
        except SegStatsError as error:
            outcome = str(error)
        seconds = round(time.process_time() - started, 2)
        yield {"kind": kind, "outcome": outcome, "seconds": seconds, "mib": round(peak() - before)}


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return status("VmHWM") / 2**20


def status(name: str) -> int:
    """Return a number of bytes that the system knows of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


if __name__ == "__main__":
    XML.loads(b"<xml/>")  # what it imports does not count
    allowed = status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    for line in read_all():
        sys.stdout.write(json.dumps(line) + "\n")
