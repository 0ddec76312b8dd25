"""A local server of the segment-statistics API, for DAGs developed offline and for tests.

From a shell, ``python -m airflow_provider_segstats.emulator --port 8080 --token TOKEN``; from Python::

    from airflow_provider_segstats.emulator import Emulator, Fault

    with Emulator(token="t", seconds=1.0) as emulator:
        emulator.add_fault(Fault("http", status=503, retry_after="2"))
        ...  # point a connection at emulator.url
        assert [entry.status for entry in emulator.journal()] == [503, 200]
"""

from airflow_provider_segstats.emulator.faults import Fault
from airflow_provider_segstats.emulator.server import Emulator

__all__ = ["Emulator", "Fault"]
