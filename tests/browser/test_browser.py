"""Airflow's UI as people see it: the page, a run's tab, links and logs, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from support.page_server import HOSTILE, counts

if TYPE_CHECKING:
    from browser.conftest import Site
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LIST = "/plugin/segments"
ONE = f"{LIST}?view=segment&account=shop&kind=segment&id=7"
Open = Callable[..., Any]
Take = Callable[[Any, str], None]


def tab(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/plugin/segments_of_run"


def task(dag_id: str, run_id: str, task_id: str, what: str = "") -> str:
    return f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}{what}"


def names(page: Page) -> list[str]:
    expect(page.locator("tbody tr").first).to_be_visible()
    return page.locator("tbody th").all_inner_texts()


# The page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_all_segments_in_light_and_dark(
    open_page: Open, picture: Take, barriers: Callable[[Page], list[str]], scheme: str
) -> None:
    page = open_page(LIST, color_scheme=scheme)

    assert names(page) == [
        "Gold, lapsed (70)",
        "Ørsted & søn (9)",
        f"{HOSTILE} (8)",
        "Gold customers (7)",
        "segment 500",
        "segment 11",
        "segment 10",
    ]
    expect(page.get_by_role("heading", name="Running now")).to_be_visible()
    expect(page.get_by_role("heading", name="Last night")).to_be_visible()
    assert ("dark" in (page.locator("html").get_attribute("class") or "")) == (scheme == "dark")
    picture(page, f"page-{scheme}")
    assert barriers(page) == []


def test_search_sort_and_filter_stand_in_the_url_and_survive_back(open_page: Open) -> None:
    page = open_page(LIST)
    names(page)

    page.get_by_label("Search segments by name or id").fill("gold")
    expect(page).to_have_url(re.compile("search=gold"))
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(page).to_have_url(re.compile("sort=name"))
    expect(page.locator("caption")).to_have_text("3 segments")
    page.get_by_role("link", name="Gold customers (7)").click()
    expect(page.get_by_role("heading", name="Gold customers (7)")).to_be_visible()

    page.go_back()

    expect(page.locator("caption")).to_have_text("3 segments")
    assert page.get_by_label("Search segments by name or id").input_value() == "gold"


def test_the_list_can_be_cut_by_state_and_account(open_page: Open) -> None:
    page = open_page(LIST)
    names(page)

    page.get_by_label("State").select_option("failed")
    expect(page.locator("caption")).to_have_text("1 segment")
    page.get_by_label("State").select_option("")
    page.get_by_label("Account").select_option("club")
    expect(page.locator("tbody th")).to_have_text(["segment 500"])


def test_one_segment_shows_its_trend_and_nights_and_leads_to_the_platform(
    open_page: Open, picture: Take, barriers: Callable[[Page], list[str]]
) -> None:
    page = open_page(ONE)

    expect(page.get_by_role("heading", name="Gold customers (7)")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Counts by channel"))).to_be_visible()
    link = page.get_by_role("link", name="On the platform")
    assert link.get_attribute("href") == "https://platform.example/segments/7"
    picture(page, "segment")
    assert barriers(page) == []


def test_a_name_with_markup_is_text(open_page: Open) -> None:
    page = open_page(f"{LIST}?search=script")
    alerts: list[Any] = []
    page.on("dialog", alerts.append)

    assert names(page) == [f"{HOSTILE} (8)"]
    assert page.locator("tbody script").count() == 0
    assert alerts == []


def test_numbers_are_in_the_browsers_language(open_page: Open) -> None:
    total = counts(70, "email", 0) + counts(70, "sms", 0)

    assert f"{total:,}" in open_page(f"{LIST}?search=70").locator("tbody").inner_text()
    german = open_page(f"{LIST}?search=70", locale="de-DE").locator("tbody").inner_text()
    assert f"{total:,}".replace(",", ".") in german


def test_a_narrow_window_shows_the_list_without_scrolling_sideways(open_page: Open) -> None:
    page = open_page(LIST, viewport={"width": 390, "height": 800})
    names(page)

    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    box = page.locator("[data-segstats] table").bounding_box()
    assert box
    assert box["x"] + box["width"] <= 390


def test_the_keyboard_alone_reaches_the_list(open_page: Open) -> None:
    page = open_page(LIST)
    names(page)

    page.get_by_label("Search segments by name or id").focus()
    page.keyboard.type("ørsted")
    expect(page.locator("tbody th")).to_have_text(["Ørsted & søn (9)"])
    link = page.get_by_role("link", name="Ørsted & søn (9)")
    for _ in range(30):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Ørsted & søn (9)")).to_be_visible()


@pytest.mark.parametrize("user", ["viewer", "user", "op", "admin"])
def test_every_role_has_the_page_in_its_menu(open_page: Open, user: str) -> None:
    page = open_page("/", user)

    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Segments").click()

    expect(page.get_by_role("heading", name="Segments", exact=True)).to_be_visible()


def test_nobody_is_sent_to_the_login(open_page: Open) -> None:
    page = open_page(LIST, None)

    expect(page).to_have_url(re.compile("/auth/login"))


# A run


def test_a_runs_tab_shows_how_far_its_recounts_are(
    site: Site, open_page: Open, picture: Take, barriers: Callable[[Page], list[str]]
) -> None:
    page = open_page(tab("under_way", site.under_way))

    bar = page.get_by_role("progressbar", name="Recounts of refresh")
    expect(bar).to_be_visible()
    assert bar.get_attribute("aria-valuemax") == "4"
    expect(page.get_by_text("4 under way")).to_be_visible()
    picture(page, "run")
    assert barriers(page) == []


def test_a_run_without_segments_says_so_in_its_tab(site: Site, open_page: Open) -> None:
    page = open_page(tab("something_else", site.something_else))

    expect(page.get_by_text("No task of this run counts segments")).to_be_visible()


def test_the_log_of_a_deferred_task_tells_how_far_it_is(site: Site, open_page: Open, picture: Take) -> None:
    page = open_page(task("under_way", site.under_way, "mapped", "/mapped/0"))

    expect(page.get_by_text(re.compile(r"Started the recount of segment 7: task \S+"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"Task \S+ is '\w+', 4\d %; the next look is in"))).to_be_visible()
    picture(page, "log")


@pytest.mark.parametrize("task_id", ["mapped/mapped/0", "poke"])
def test_links_are_there_while_a_task_waits(site: Site, open_page: Open, task_id: str) -> None:
    page = open_page(task("under_way", site.under_way, task_id, "/details"))

    number = 70 if task_id == "poke" else 7
    platform = page.get_by_role("link", name="Segment on the platform")
    expect(platform).to_have_attribute("href", f"https://platform.example/segments/{number}")
    expect(page.get_by_role("link", name="Segments", exact=True)).to_be_visible()


def test_a_link_leads_from_a_task_that_is_over_to_its_segment(
    site: Site, open_page: Open, picture: Take
) -> None:
    page = open_page(task("over", site.over, "one", "/details"))
    link = page.get_by_role("link", name="Segments", exact=True)
    expect(link).to_be_visible()
    picture(page, "links")

    page.goto(link.get_attribute("href") or "")

    expect(page.get_by_role("heading", name="Gold customers (7)")).to_be_visible()


def test_a_link_leads_to_the_report(site: Site, open_page: Open, picture: Take) -> None:
    page = open_page(task("over", site.over, "report", "/details"))
    link = page.get_by_role("link", name="Report", exact=True)
    expect(link).to_be_visible()

    page.goto(link.get_attribute("href") or "")

    expect(page.locator("h1")).to_be_visible()
    picture(page, "report")
    # In its sandbox it is of no origin, so that it can use nothing of Airflow's.
    assert page.evaluate("self.origin") == "null"


def test_the_last_night_says_why_a_segment_failed(open_page: Open) -> None:
    page = open_page(LIST)

    expect(page.get_by_text("Ørsted & søn (9): task 4711 failed: no such list")).to_be_visible()
