"""Open pages in a real browser on a real stack, and keep a picture of each at the end."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scripts.research.accounts import PASSWORD, invite_link
from scripts.research.bench_backend import CHROMIUM
from tests.integration.conftest import (
    ROOT,
    CreateTables,
    Stack,
    create_tables,
    pytest_runtest_makereport,
    running_stack,
)
from tests.patience import PATIENCE_S

__all__ = ["create_tables", "pytest_runtest_makereport"]

PICTURES = ROOT / "var/browser"
LAPTOP = {"width": 1366, "height": 768}
PATIENCE_MS = 1000 * PATIENCE_S

NewPage = Callable[..., Page]


@pytest.fixture(scope="package")
def team(create_tables: CreateTables) -> Iterator[Stack]:
    """A stack with batches small enough to label by hand and trainings long enough to watch."""
    with running_stack(
        create_tables,
        PROJECT_TITLE="Seen in a browser",
        SEED_LABELS="100",
        RETRAIN_WAIT="3600",
        WEIGHTS=os.environ.get("TEST_WEIGHTS", "none"),
        IMAGE_SIZE="64",
        HINTS="true",
        LABEL_STUDIO_TASK_LOCK_TTL="60",
    ) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium; without one these tests are skipped, or fail in CI."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        reason = "no Chromium here: `make chromium` installs it"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    # Root may not use Chromium's sandbox, and containers give little shared memory.
    options = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield launched
        finally:
            launched.close()


@pytest.fixture
def new_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[NewPage]:
    """Return a function that opens pages, each with its own cookies; keep a picture of each."""
    pages: list[Page] = []

    def make(**options: object) -> Page:
        context = browser.new_context(**{"viewport": LAPTOP, **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        pages.append(page)
        return page

    yield make
    for number, page in enumerate(pages):
        _keep_picture(page, f"{request.node.name}-{number}")
        page.context.close()


def _keep_picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    file = PICTURES / f"{re.sub(r'[^A-Za-z0-9-]+', '-', name)}.png"
    page.screenshot(path=file, full_page=True)


def login_of_the_lead(stack: Stack) -> dict[str, dict[str, str]]:
    """Return the browser options for logging in to the dashboard."""
    info = stack.info
    return {
        "http_credentials": {
            "username": info["dashboard_username"],
            "password": info["dashboard_password"],
        }
    }


def sign_up(page: Page, stack: Stack, email: str) -> None:
    """Follow the invite link and create an account, which also logs in."""
    url, token = stack.info["label_studio_url"], stack.info["api_key"]
    page.goto(urljoin(url, invite_link(url, token)))
    page.fill("input[name=email]", email)
    page.fill("input[name=password]", PASSWORD)
    page.get_by_role("button", name="Create Account").click()
    page.wait_for_url(lambda there: "/user/signup" not in there)
