"""The app behind the page: GET only, and every route but the static files says who may.

``def`` routes, since databases are asked, which would block the server's event loop. An answer holds counters,
names and runs: no host, no connection's detail, no SQL. What cannot be answered is one sentence, with 503.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from airflow_provider_segstats.ui import answers, places, runs
from airflow_provider_segstats.ui.snapshot import Cache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")

log = logging.getLogger(__name__)
_cache = Cache()

# May read task instances of some DAG, which FAB's and Airflow's simple manager both know. It asks for one DAG
# where a route has a parameter ``dag_id``; elsewhere rows of runs are filtered by the caller's DAGs.
MAY_SEE = [Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))]

Order = Literal["asc", "desc"]
Kind = Literal["segment", "database", "resource"]


@asynccontextmanager
async def _warm(_: FastAPI) -> AsyncIterator[None]:
    """Import what the first answer needs, which takes seconds, before anybody waits for it."""
    await run_in_threadpool(places.warm)
    yield


app = FastAPI(title="segstats", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_warm)
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")


def _asked(question: Callable[[history.DbApiHook, str], T]) -> T:
    """Return what the history says, or 503 with the one sentence that a reader of the page can use."""
    place = places.of_history()
    try:
        return question(place.hook(), place.table)
    except Exception as error:
        log.exception("The history could not be read")  # the log says what the answer must not
        raise HTTPException(503, places.problem(place, error)) from None
