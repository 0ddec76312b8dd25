"""A report of segments' counters: one HTML page that needs nothing else, and its figures as files.

Needs the extra ``report`` (matplotlib and pyarrow), which is imported when a report is written. From
observations to figures (``figures``, pure), from these to charts and a page (``charts``, ``page``) and
to a table (``files``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_segstats.core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_provider_segstats.history import Observation


def write_report(
    observations: Iterable[Observation],
    folder: ObjectStoragePath | Path,
    name: str,
    *,
    now: datetime,
    counter: str = "subscribed_sendable",
    days: int = 30,
    failed: Collection[int] = (),
) -> dict[str, str]:
    """Write ``name.html``, ``name.csv`` and ``name.parquet``; return their places by kind.

    The page shows each segment's and channel's trend, change in a week, share and age, for one segment or
    thousands (1.7 MB for 1,000 of three channels). The other two hold the last night's figures as a table
    (:func:`~airflow_provider_segstats.report.files.table`). Same observations, same ``now``: same files.

    :param observations: such as :func:`~airflow_provider_segstats.history.last_of_each_night` gives
    :param folder: made unless it is there
    :param name: of the files, without an ending
    :param now: the time to take ages against, with its zone
    :param counter: the counter to show; the others stand beside it
    :param days: how far the trends go back
    :param failed: ids of the segments that the last night could not count

    Raises :class:`ConfigurationError` when there is nothing to report or the extra is not installed.
    """
    if missing := [library for library in ("matplotlib", "pyarrow") if find_spec(library) is None]:
        raise ConfigurationError(
            f"a report needs {' and '.join(missing)}: pip install 'airflow-provider-segstats[report]'"
        )
    from airflow_provider_segstats.report.figures import figures_of
    from airflow_provider_segstats.report.files import as_csv, as_parquet, table
    from airflow_provider_segstats.report.page import page

    figures = figures_of(observations, now=now, counter=counter, days=days, failed=failed)
    columns = table(figures)
    files = {"csv": as_csv(columns), "parquet": as_parquet(columns)}
    # The page last: it links to the others.
    html = page(figures, {"CSV": f"{name}.csv", "Parquet": f"{name}.parquet"})
    files["html"] = html.encode()
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for kind, content in files.items():
        place = folder / f"{name}.{kind}"
        place.write_bytes(content)
        places[kind] = str(place)
    return places
