"""The dashboard in a real browser: accessible, usable by keyboard, and robust."""

from __future__ import annotations

import csv
import re
from collections import Counter

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from tests.browser.conftest import NewPage, login_of_the_lead
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
FIRST_VIEW_BYTES = 300_000


@pytest.fixture(scope="module", autouse=True)
def _first_version(team: Stack) -> None:
    with Person(team) as lead:
        lead.wait_for_rest(1)


def dashboard(page: Page, stack: Stack) -> Page:
    page.goto(stack.info["dashboard_url"])
    expect(page.locator("#now .lead")).to_contain_text("in service")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious_and_nothing_overflows(
    team: Stack, new_page: NewPage, size: dict[str, int], scheme: str
) -> None:
    page = dashboard(new_page(viewport=size, color_scheme=scheme), team)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["help"]) for v in found if v["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_dark_and_narrow_screens_each_get_their_own_picture(team: Stack, new_page: NewPage) -> None:
    def picture(page: Page) -> str:
        return str(dashboard(page, team).locator("#curve img").evaluate("img => img.currentSrc"))

    seen = {
        picture(new_page(viewport=size, color_scheme=scheme))
        for size in (WIDE, NARROW)
        for scheme in ("light", "dark")
    }
    assert len(seen) == 4


def test_the_first_view_is_small_and_comes_from_our_server_only(
    team: Stack, new_page: NewPage
) -> None:
    page = new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    dashboard(page, team)
    page.wait_for_load_state("networkidle")
    assert problems == []
    assert {"dashboard.css", "dashboard.js"} <= {url.rpartition("/")[2] for url in sizes}
    assert any("curve.svg" in url for url in sizes)
    assert all(url.startswith(team.info["backend_url"]) for url in sizes)
    assert sum(sizes.values()) <= FIRST_VIEW_BYTES


def test_the_keyboard_alone_skips_to_the_content_and_starts_a_training_run(
    team: Stack, new_page: NewPage
) -> None:
    page = dashboard(new_page(**login_of_the_lead(team)), team)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Label now")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Train now")).to_be_focused()
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    expect(page.locator("#jobs")).to_contain_text("Training")
    with Person(team) as lead:
        lead.wait_for_rest(lead.status()["round"])


def test_focus_stays_while_the_page_changes(team: Stack, new_page: NewPage) -> None:
    page = dashboard(new_page(), team)
    button = page.get_by_role("button", name="Train now")
    button.focus()
    annotations = page.locator("#now dl div", has_text=re.compile("^annotations")).locator("dd")
    before = int(annotations.inner_text().replace(",", ""))
    truth = true_labels(pool_of(team))
    info = team.info
    project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])
    config = project.label_config()
    with Person(team) as annotator:
        task = annotator.next_task()
        annotator.submit(task["id"], truth[task["data"]["image_id"]], config)
    expect(annotations).to_have_text(f"{before + 1:,}")
    expect(button).to_be_focused()
    shown = page.locator("#next img").evaluate_all("all => all.map(img => img.alt)")
    assert f"Image {task['data']['image_id']}" not in shown


def test_a_button_that_fails_says_why_and_the_page_keeps_refreshing(
    team: Stack, new_page: NewPage
) -> None:
    page = dashboard(new_page(**login_of_the_lead(team)), team)
    page.on("dialog", lambda dialog: dialog.accept())
    # As if the version had been deleted while the page was open.
    button = page.get_by_role("button", name="Train now")
    button.evaluate("button => { button.form.action = '/dashboard/promote'; }")
    button.click()
    refused = page.get_by_role("alert").filter(has_text="no version")
    expect(refused).to_be_visible()
    expect(page.locator("#freshness")).to_contain_text("as of")  # the page refreshes itself
    expect(page.locator("#connection")).to_be_empty()
    expect(refused).to_be_visible()  # long enough to be read


def test_the_lead_prepares_and_downloads_the_labels(team: Stack, new_page: NewPage) -> None:
    page = dashboard(new_page(**login_of_the_lead(team)), team)
    page.get_by_role("button", name="Prepare labels.csv").click()
    link = page.get_by_role("link", name="Download labels.csv")
    expect(link).to_be_visible()
    with page.expect_download() as download:
        link.click()
    with download.value.path().open(newline="") as file:
        labels = Counter((row["labeled_by"], row["split"]) for row in csv.DictReader(file))
    assert labels["data set", "train"] == 100  # the seed labels
    expect(page.locator("#results .choices li")).to_have_count(3)


def expect_connection_alert(page: Page) -> Locator:
    alert = page.get_by_role("alert").filter(has_text="has not answered since")
    expect(alert).to_be_visible()
    expect(page.locator("#now .lead")).to_contain_text("in service")  # the last known state stays
    return alert


def test_the_page_reports_a_dead_server_and_recovers_automatically(
    team: Stack, new_page: NewPage
) -> None:
    page = dashboard(new_page(), team)
    with team.without("backend"):
        alert = expect_connection_alert(page)
    expect(alert).to_have_count(0)
    expect(page.locator("#now .lead")).to_contain_text("in service")


def test_the_page_reports_a_hanging_server_and_recovers_automatically(
    team: Stack, new_page: NewPage
) -> None:
    page = dashboard(new_page(), team)
    server = psutil.Process(team.info["pids"]["backend"])
    server.suspend()
    try:
        alert = expect_connection_alert(page)
    finally:
        server.resume()
    expect(alert).to_have_count(0)


def test_without_javascript_the_page_shows_everything_and_reloads(
    team: Stack, new_page: NewPage
) -> None:
    page = dashboard(new_page(java_script_enabled=False), team)
    expect(page.locator("#versions tbody tr").first).to_be_visible()
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
