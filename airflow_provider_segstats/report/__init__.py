"""A report of segments' counters: one HTML page that needs nothing else, and its figures as files.

Needs the extra ``report`` (matplotlib and pyarrow), which is imported when a report is written. From
observations to figures (``figures``, pure), from these to charts and a page (``charts``, ``page``) and
to a table (``files``).
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.history import NOTABLE

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_provider_segstats.report.findings import Rules
    from airflow_provider_segstats.report.past import Past


def write_report(
    past: Past,
    folder: ObjectStoragePath | Path,
    name: str,
    *,
    rules: Rules | None = None,
    counter: str = NOTABLE,
    days: int = 30,
) -> dict[str, str]:
    """Write ``name.html``, ``name.csv`` and ``name.parquet``; return their places by kind.

    The page shows what the check finds, and each segment's and channel's trend, change in a night and a week,
    share and age, for one segment or thousands (2 MB for 1,000 of three channels). The other two hold the
    last night's figures as a table (:func:`~airflow_provider_segstats.report.files.table`). Same past: same
    files. Beside them, ``latest.html`` is a copy of the page, unless it is of a later time.

    :param past: such as :func:`~airflow_provider_segstats.report.past.read` gives
    :param folder: made unless it is there
    :param name: of the files, without an ending
    :param rules: what to check, and how strictly
    :param counter: the counter to show; the others stand beside it
    :param days: how far the trends go back

    Raises :class:`ConfigurationError` when there is nothing to report or the extra is not installed.
    """
    if missing := [library for library in ("matplotlib", "pyarrow") if find_spec(library) is None]:
        raise ConfigurationError(
            f"a report needs {' and '.join(missing)}: pip install 'airflow-provider-segstats[report]'"
        )
    from airflow_provider_segstats.report.figures import figures_of
    from airflow_provider_segstats.report.files import as_csv, as_parquet, table
    from airflow_provider_segstats.report.page import page

    figures = figures_of(past, rules=rules, counter=counter, days=days)
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
    latest = folder / "latest.html"
    if _date_of(latest) <= figures.now:
        latest.write_bytes(files["html"])
    return places


def _date_of(page: ObjectStoragePath | Path) -> datetime:
    """Return the time that a page is of; of none, or what is none of ours, the beginning of time."""
    with suppress(FileNotFoundError):
        if found := re.search(rb'<meta name="date" content="([^"]+)">', page.read_bytes()):
            return datetime.fromisoformat(found[1].decode())
    return datetime.min.replace(tzinfo=timezone.utc)
