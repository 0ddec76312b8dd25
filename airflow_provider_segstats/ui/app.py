"""The app behind the page: GET only, and every route but the static files says who may.

``def`` routes, since databases are asked, which would block the server's event loop. An answer holds
counters, names and runs: no host, no connection's detail, no SQL. What cannot be answered is one sentence,
with 503.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep  # noqa: TC002 - FastAPI reads it
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from airflow_provider_segstats.history import Kind
from airflow_provider_segstats.ui import answers, places, runs
from airflow_provider_segstats.ui.snapshot import Cache, Snapshot

log = logging.getLogger(__name__)
_cache = Cache()
_trends = answers.Trends()

# May read task instances of some DAG, which FAB's and Airflow's simple manager both know. It asks about one
# DAG where a route has a parameter ``dag_id``; elsewhere rows of runs are filtered by the caller's DAGs.
MAY_SEE = [Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))]

Order = Literal["asc", "desc"]
MOST_DAYS = 366
COLUMN = r"^(channel:.{1,255}|name|source|id|total|change|week_change|updated|state)$"


@asynccontextmanager
async def _warm(_: FastAPI) -> AsyncIterator[None]:
    """Import what the first answer needs, which takes seconds, before anybody waits for it."""
    await run_in_threadpool(places.warm)
    yield


def _say_nothing_else(response: Response) -> None:
    """Have no browser keep an answer, nor take it for anything but what it is."""
    response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


app = FastAPI(
    title="segstats",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    lifespan=_warm,
    dependencies=[Depends(_say_nothing_else)],
)
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")


@contextmanager
def _history() -> Iterator[tuple[places.History, Snapshot]]:
    """Give the history; what cannot be had of it is 503, with the one sentence that a reader can use."""
    place = places.of_history()
    try:
        yield place, _cache.get(place)
    except HTTPException:
        raise
    except Exception as error:
        log.exception("The history could not be read")  # the log says what the answer must not
        raise HTTPException(503, places.problem(place, error)) from None


def _newest(snapshot: Snapshot) -> date:
    """Return the last night in which anything was counted, which is where every trend ends."""
    return snapshot.newest or date.today()  # noqa: DTZ011 - nothing was: no trend has a point


def _dags(user: Any) -> set[str]:
    """Return the DAGs whose runs the caller may see."""
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))


@app.get("/api/segments", dependencies=MAY_SEE)
def segments(  # noqa: PLR0917 - a query's parameters, given by name
    user: GetUserDep,
    session: SessionDep,
    search: str = "",
    account: str = "",
    state: str = "",
    sort: Annotated[str, Query(pattern=COLUMN)] = "total",
    order: Order = "desc",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """Return a page of the list."""
    running = runs.segments_of(runs.running(session, _dags(user)))
    with _history() as (place, snapshot):
        found = answers.listed(
            snapshot,
            search=search,
            account=account,
            state=state,
            running=running,
            sort=sort,
            descending=order == "desc",
        )
        shown = found[offset : offset + limit]
        trends = _trends.of(shown, place, _newest(snapshot))
        channels = snapshot.channels
        return {
            "total": len(found),
            "rows": [answers.row(line, channels, trends[line.key], running) for line in shown],
            "channels": channels,
            "accounts": snapshot.accounts,
            "running": bool(running),
        }


@app.get("/api/segment", dependencies=MAY_SEE)
def segment(
    user: GetUserDep,
    session: SessionDep,
    *,
    account: str,
    id: Annotated[int, Query(ge=1)],  # noqa: A002 - what the page calls it
    kind: Kind = "segment",
    days: Annotated[int, Query(ge=1, le=MOST_DAYS)] = 90,
) -> dict[str, Any]:
    """Return one segment: its counts by channel and night, and what became of it in each night."""
    dags = _dags(user)
    with _history() as (place, snapshot):
        line = snapshot.find((account, kind, id))
        if line is None:
            raise HTTPException(404, "There is no such segment in the history.")
        until = _newest(snapshot)
        return {
            **answers.one(line, place, until - timedelta(days=days), until, dags),
            "url": places.on_platform(account, id) if kind == "segment" else None,
            "findings": runs.findings(session, dags, line.key),
        }


@app.get("/api/running", dependencies=MAY_SEE)
def running(user: GetUserDep, session: SessionDep) -> dict[str, Any]:
    """Return what runs now, as of the last progress written."""
    return {"tasks": runs.running(session, _dags(user))}


@app.get("/api/nights", dependencies=MAY_SEE)
def nights(user: GetUserDep, session: SessionDep) -> dict[str, Any]:
    """Return the last night of each DAG and account, of the DAGs that the caller may read."""
    dags = _dags(user)
    with _history() as (_, snapshot):
        last = [night for night in snapshot.nights if night.dag_id in dags]
        facts = runs.facts(session, [(night.dag_id, night.run_id) for night in last])
        return {
            "nights": [
                answers.night(night, facts.get((night.dag_id, night.run_id)), snapshot) for night in last
            ]
        }


@app.get("/api/run", dependencies=MAY_SEE)
def run(session: SessionDep, dag_id: str, run_id: str) -> dict[str, Any]:
    """Return what a run's tasks say of segments; the check above asks for this DAG."""
    return {"tasks": runs.of_run(session, dag_id, run_id)}


@app.get("/report/{name}", dependencies=MAY_SEE)
def report(name: str) -> Response:
    """Return a report, which may not do on this origin what its own could."""
    found = places.report(name)
    if found is None:
        raise HTTPException(404, "There is no such report.")
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "sandbox allow-scripts",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(found, media_type="text/html; charset=utf-8", headers=headers)
