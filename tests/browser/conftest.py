"""A whole Airflow with the page in it, at a URL with a path, and Chromium to look at it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from local_airflow.stack import AirflowStack
from playwright.sync_api import expect
from support import chromium
from support.airflow_runs import connection
from support.page_server import USERS, observations, outcomes
from support.paths import DAGS, TESTS

from airflow_provider_segstats import history
from airflow_provider_segstats.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext, Page

TOKEN = "br0wser-t0ken"
LONG = 6000.0  # seconds that a recount takes which is to be seen under way
PATIENCE = 60_000  # milliseconds: a busy machine may be slow in anything
PICTURES = TESTS.parent / "docs" / "pictures"


expect.set_options(timeout=PATIENCE)


@dataclass
class Site:
    """Airflow, and the runs in it: one that is under way, one that is over, one without segments."""

    airflow: AirflowStack
    under_way: str
    over: str
    something_else: str


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """Have pytest-playwright start this machine's Chromium; it downloads none."""
    return {"executable_path": chromium.browser(), "args": ["--no-sandbox"]}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give the site, its runs where they are to be."""
    folder = tmp_path_factory.mktemp("browser")
    warehouse = {"conn_type": "sqlite", "host": str(folder / "history.db")}
    extra = {"account": "shop", "segment_url": "https://platform.example/segments/{segment_id}"}
    with ExitStack() as running:
        patch = running.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("AIRFLOW_CONN_SEGSTATS_HISTORY", json.dumps(warehouse))
        tonight = datetime.now(tz=timezone.utc).date()  # the report looks back from today
        hook = history.database("segstats_history")
        history.create(hook, history.DEFAULT_TABLE)
        history.write(hook, history.DEFAULT_TABLE, observations(tonight), outcomes(tonight))
        slow = running.enter_context(Emulator(TOKEN, seconds=LONG))
        quick = running.enter_context(Emulator(TOKEN, seconds=2.0))
        env = {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(slow.url, TOKEN, **extra),
            "AIRFLOW_CONN_SEGSTATS_QUICK": connection(quick.url, TOKEN, **extra),
            "AIRFLOW_CONN_SEGSTATS_HISTORY": json.dumps(warehouse),
            "AIRFLOW_VAR_SEGSTATS_REPORT_PATH": str(folder / "reports"),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "REPORTS": str(folder / "reports"),
            "PYTHONPATH": str(TESTS),
        }
        airflow = running.enter_context(
            AirflowStack(folder / "airflow", DAGS / "browser", env, path="/af", users=USERS)
        )
        under_way = airflow.trigger("under_way")
        over, something_else = airflow.trigger("over"), airflow.trigger("something_else")
        of = ("under_way", under_way)
        airflow.until(lambda: airflow.xcom(*of, "refresh", key="segstats_progress"), "progress of refresh")
        requests.post(
            f"{slow.url}/_emulator/clock", json={"advance": 0.4 * LONG}, timeout=60
        ).raise_for_status()
        if airflow.wait("over", over) != "success":
            logs = [line for task in airflow.task_instances("over", over) for line in airflow.log(task)]
            pytest.fail("\n".join(logs))
        airflow.until(
            lambda: _percent(airflow.xcom(*of, "refresh", key="segstats_progress")) >= 40,
            "refresh's progress of 40 %",
        )
        yield Site(airflow, under_way, over, something_else)


def _percent(progress: dict[str, Any]) -> int:
    return min(percent for _, percent in progress["segments"])


@pytest.fixture
def open_page(site: Site, new_context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """Give a function that opens a path of Airflow's in a window of its own, as a user that is logged in."""

    def open_(path: str, user: str | None = "viewer", **options: Any) -> Page:
        context = new_context(**{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **options})
        if user:
            token = {"name": "_token", "value": site.airflow.token(user), "url": site.airflow.url}
            context.add_cookies([token])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{site.airflow.url}{path}")
        return page

    return open_


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Give a function that keeps what is seen in the docs, when they are to be updated."""

    def take(page: Page, name: str) -> None:
        if request.config.getoption("--update-docs"):
            page.screenshot(path=PICTURES / f"{name}.png")

    return take


@pytest.fixture
def barriers() -> Callable[[Page], list[str]]:
    """Give a function that returns what axe finds serious on our part of a page."""

    def find(page: Page) -> list[str]:
        found = Axe().run(page, context="[data-segstats]").response["violations"]
        return [
            f"{one['id']}: {node['html'][:200]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]

    return find
