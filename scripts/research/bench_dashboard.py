"""Measure what the dashboard costs: its first view, and pages that stay open."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event

import httpx

from backend.network.resnet_layout import HEAD_TENSORS
from backend.store.project_rows import OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.research.background import in_background
from scripts.research.random_project import FIRST

PAGES = 20
EVERY_S = 2.0  # a page asks, as its script does
VERSIONS = 30
OPEN_IMAGES = 40
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def fill_project(root: Path) -> None:
    """Fill a project as after some use: with versions, and open images with pictures."""
    registry = Registry(root)
    first = registry.read_meta(FIRST)
    state = registry.load_state(FIRST)
    last_layer = {name: state[name] for name in HEAD_TENSORS}
    for number in range(1, VERSIONS + 1):
        version = {"version": f"{FIRST}h{number:02d}", "labels": 100 + 20 * number}
        registry.save(last_layer, first.model_copy(update=version))
    images = [
        OpenImage(
            image_id=f"i{number}",
            confidence=0.2,
            guesses=((first.classes[0], 0.2), (first.classes[1], 0.19), (first.classes[2], 0.18)),
            is_again=False,
            picture="data:image/png;base64," + "A" * 3500,  # as large as a photo of 32 px
        )
        for number in range(OPEN_IMAGES)
    ]
    ProjectStore(root).record_open_images(time.time(), images)


def first_view(url: str) -> tuple[int, float | None]:
    """Return the bytes of the page with all it needs, and the seconds until Chromium shows it.

    The seconds are None if Chromium is not installed.
    """
    paths = ("/dashboard", "/static/dashboard.css", "/static/dashboard.js", "/dashboard/curve.svg")
    with httpx.Client(base_url=url) as client:
        n_bytes = sum(len(client.get(path).raise_for_status().content) for path in paths)
    return n_bytes, _seconds_in_chromium(f"{url}/dashboard")


@contextmanager
def open_pages(url: str) -> Iterator[None]:
    """Keep PAGES pages open; their requests are uniformly spaced and carry the last ETag."""

    def keep_open(over: Event, number: int) -> None:
        seen: dict[str, str] = {}
        over.wait(number * EVERY_S / PAGES)
        with httpx.Client(base_url=url, timeout=30) as client:
            while not over.is_set():
                response = client.get("/dashboard", headers=seen)
                if response.status_code == 200:
                    seen = {"If-None-Match": response.headers["ETag"]}
                over.wait(EVERY_S)

    with in_background(keep_open, PAGES):
        time.sleep(2 * EVERY_S)  # the first views are over
        yield


def _seconds_in_chromium(url: str) -> float | None:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        return None
    from playwright.sync_api import sync_playwright

    script = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        seconds: list[float] = []
        for _ in range(5):
            with browser.new_page() as page:  # with an empty cache
                page.goto(url, wait_until="load")
                seconds.append(page.evaluate(script) / 1000)
        browser.close()
    return median(seconds)
