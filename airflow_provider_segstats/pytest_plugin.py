"""The fixture ``segstats_emulator``, for tests of DAGs: docs/emulator.md.

pytest loads this in every run of every project that shares the environment, so it imports nothing until used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_segstats.emulator import Emulator


@pytest.fixture
def segstats_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Give a running emulator of the API, to which the connection ``segstats_default`` points.

    Recounts are done at once (``configure(seconds=…)`` makes them take time), and every id is that of
    something (``load_seed`` says what there is).
    """
    from airflow_provider_segstats.emulator import Emulator

    with Emulator("segstats-emulator", seconds=0.0) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_SEGSTATS_DEFAULT", emulator.connection())
        yield emulator
