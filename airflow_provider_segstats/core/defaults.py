"""What users may choose from, and what holds unless they do. Every DAG file pays for what this imports."""

from __future__ import annotations

from typing import Final, Literal

Format = Literal["json", "xml"]
OnAmbiguousSubmit = Literal["fail", "resubmit"]

OnTariffLimit = Literal["fail", "read"]

AUTO: Final = "auto"
"""In place of a database's id: the one that the segment's own rules name."""
DatabaseId = int | Literal["auto"] | None

DEFAULT_CONN_ID = "segstats_default"

DEFAULT_TIMEOUT = 6 * 3600.0
"""How long a wait may take unless ``timeout`` says otherwise."""

DEFAULT_IN_FLIGHT = 1_000
"""Recounts of one task that are open at the server at most, unless ``max_in_flight`` says otherwise.

A deferral costs Airflow as much CPU as some hundred looks, and half of these are between two of them.
"""

MAX_POLL_FAILURES = 20
"""Polls that may fail in a row: with the pauses between them a server may be away for 7 to 14 minutes."""
