"""The tables that counters become history in: how they are made, written and read, in the database of a hook.

One row of the table, ``segment_counters`` unless named otherwise, is one observation: what the platform
counted for one channel of a segment (or of a database, or a resource) at one instant. Rows are only ever
added. The key says which observation it is, so that adding one again changes nothing:

=============  ============================================================================================
source         the platform's account (the segstats connection's ``account``)
kind           what was counted: ``segment``, ``database`` or ``resource``
segment_id     the segment; 0 for what is none
list_id        the database that was counted; 0 where the API names none
resource_id    the resource that was counted; 0 where the API names none
channel        ``email``, ``sms``, …
updated        when the platform counted, in UTC
=============  ============================================================================================

Beside the key stand ``night`` and ``counters``, a JSON object: counters are an open set, so a new one needs
no new column, and an observation stays one row, there whole or not at all. 0 and not NULL for a missing id:
NULLs are never equal, so they would let an observation in twice, and would fall out of every join of one
night with another.

``night`` is the date of the run that counted, in the time zone of its connection: a run that begins before
midnight and ends after it is one night, and no change of clocks makes two of one.

Beside the table stand three more and a view, of its name and

===========  ==============================================================================================
``_nights``  what became of each object in each run: ``counted``, ``failed`` and why, ``not_submitted``
``_latest``  one row an object: its latest counters by channel, and how they changed
``_names``   what each object was called, from which night to which
``_counts``  the view: one number a row, of the last observation in each night
===========  ==============================================================================================

A load writes them together, in one transaction where the database has such.
"""

from airflow_provider_segstats.core.model import NOTABLE, Kind
from airflow_provider_segstats.history.connections import database, transaction
from airflow_provider_segstats.history.intake import Intake, as_nights, night_of
from airflow_provider_segstats.history.layout import create
from airflow_provider_segstats.history.observations import (
    KINDS,
    Observation,
    Outcome,
    instant,
    observed,
)
from airflow_provider_segstats.history.read import (
    Latest,
    last_nights,
    last_of_each_night,
    latest,
    names,
    nights,
    outcomes_of,
    runs,
    sums,
)
from airflow_provider_segstats.history.tables import DEFAULT_TABLE, check_table
from airflow_provider_segstats.history.write import forget, write

__all__ = [
    "DEFAULT_TABLE",
    "KINDS",
    "NOTABLE",
    "Intake",
    "Kind",
    "Latest",
    "Observation",
    "Outcome",
    "as_nights",
    "check_table",
    "create",
    "database",
    "forget",
    "instant",
    "last_nights",
    "last_of_each_night",
    "latest",
    "names",
    "night_of",
    "nights",
    "observed",
    "outcomes_of",
    "runs",
    "sums",
    "transaction",
    "write",
]
