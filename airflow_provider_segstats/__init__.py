"""Airflow provider for the segments API: recount a segment's subscription counters, wait, hand them on."""

__version__ = "0.1.0"
