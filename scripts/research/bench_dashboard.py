"""What the dashboard costs: a running backend in; the first view, and what open pages take, out.

Pages are asked for as a browser does: every two seconds, with what was last seen of them.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from backend.network.resnet_layout import HEAD_TENSORS
from backend.store.open_image import OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.version_meta import Meta

PAGES = 20
EVERY_S = 2.0
VERSIONS = 30
OPEN_IMAGES = 40
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def fill_project(root: Path, first: Meta) -> None:
    """A project that has been at work for a while: versions, and open images with pictures."""
    state = Registry(root).load_state(first.version)
    last_layer = {name: state[name] for name in HEAD_TENSORS}
    for number in range(1, VERSIONS + 1):
        version = {"version": f"{first.version}h{number:02d}", "labels": 100 + 20 * number}
        Registry(root).save(last_layer, first.model_copy(update=version))
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
    """Bytes of the page and all it needs, and seconds until a Chromium, if any, has them."""
    paths = ("/dashboard", "/static/dashboard.css", "/static/dashboard.js", "/dashboard/curve.svg")
    with httpx.Client(base_url=url) as client:
        n_bytes = sum(len(client.get(path).raise_for_status().content) for path in paths)
    return n_bytes, _seconds_in_chromium(f"{url}/dashboard")


def share_of_a_core(pid: int, seconds: float) -> float:
    """What a process and its children take of one core, over a while."""
    process = psutil.Process(pid)
    tree = [process, *process.children(recursive=True)]
    before, began = _cpu_s(tree), time.perf_counter()
    time.sleep(seconds)
    return (_cpu_s(tree) - before) / (time.perf_counter() - began)


@contextmanager
def open_pages(url: str) -> Iterator[None]:
    """PAGES of them, evenly spread in time."""
    closed = threading.Event()
    pages = [
        threading.Thread(target=_keep_open, args=(url, number * EVERY_S / PAGES, closed))
        for number in range(PAGES)
    ]
    for page in pages:
        page.start()
    time.sleep(2 * EVERY_S)  # the first views are over
    try:
        yield
    finally:
        closed.set()
        for page in pages:
            page.join()


def _keep_open(url: str, after_s: float, closed: threading.Event) -> None:
    seen: dict[str, str] = {}
    closed.wait(after_s)
    with httpx.Client(base_url=url, timeout=30) as client:
        while not closed.is_set():
            answer = client.get("/dashboard", headers=seen)
            if answer.status_code == 200:
                seen = {"If-None-Match": answer.headers["ETag"]}
            closed.wait(EVERY_S)


def _seconds_in_chromium(url: str) -> float | None:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        seconds = []
        for _ in range(5):
            page = browser.new_page()  # with a cache of its own
            page.goto(url, wait_until="load")
            script = "performance.getEntriesByType('navigation')[0].loadEventEnd"
            seconds.append(page.evaluate(script) / 1000)
            page.close()
        browser.close()
    return float(sorted(seconds)[2])


def _cpu_s(tree: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree)
