"""Rows and findings as text, for logs and for chats. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_segstats.core.model import ID_LABEL, NOTABLE, ROW_LABELS, Kind, titled

_WIDTH, _LENGTH = 80, 4000  # of what chats show whole: Slack's and Telegram's limits are just above
_CELL = 30


def as_table(rows: Sequence[Mapping[str, Any]], max_rows: int) -> str:
    """Return findings, or rows of counters, as aligned text that a chat shows whole.

    At most 80 characters wide and 4,000 long: of more counters the first stand, and of more rows it says how
    many there are.
    """
    if not rows:
        return ""
    of = _of_finding if "what" in rows[0] else _of_row
    lines = [of(row) for row in rows[:max_rows]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    if "counter" in names and {line["counter"] for line in lines} <= {"", NOTABLE}:
        names.remove("counter")
    columns = {name: [name, *(_cell(line.get(name, "")) for line in lines)] for name in names}
    shown, wide = [], -2
    for column in columns.values():
        width = max(map(len, column))
        if any(column[1:]) and wide + 2 + width <= _WIDTH:
            wide += 2 + width
            shown.append([text.ljust(width) for text in column])
    table, length = [], 0
    for line in zip(*shown, strict=True):
        table.append("  ".join(line).rstrip())
        length += len(table[-1]) + 1
        if length > _LENGTH - 30:  # with room for the last line
            table.pop()
            break
    left = len(rows) + 1 - len(table)
    return "\n".join([*table, *([f"… and {left} more"] if left else [])])


def _of_finding(row: Mapping[str, Any]) -> dict[str, str]:
    low, high = row.get("low"), row.get("high")
    expected = "" if low is None else f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    count = row.get("before") if row.get("after") is None else row["after"]
    return {
        "what": row["what"],
        "of": "" if row.get("id") is None else titled(row["kind"], row["id"], row.get("name")),
        "channel": row.get("channel") or "",
        "counter": row.get("counter") or "",
        "count": "" if count is None else f"{count:,}",
        "expected": expected,
        "reason": row.get("reason") or "",
    }


def _of_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's columns, the counter that is checked first."""
    kind: Kind = row.get("kind") or "segment"
    id_ = row.get(ID_LABEL[kind])
    counters = sorted(row.keys() - ROW_LABELS, key=lambda name: (name != NOTABLE, list(row).index(name)))
    return {
        "of": "" if id_ is None else titled(kind, id_, row.get("name")),
        "channel": str(row.get("channel", "")),
        **{name: "" if row[name] is None else f"{row[name]:,}" for name in counters},
        "updated": str(row.get("updated") or "")[:16].replace("T", " "),
    }


def _cell(text: str) -> str:
    # On one line, whatever a server may call a channel.
    line = " ".join(text.split())
    return line if len(line) <= _CELL else f"{line[: _CELL - 1]}…"
