"""Measure a running backend with a real Redis: webhooks, predictions and dashboards."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event
from timeit import repeat

import httpx
import numpy as np
from PIL import Image

from backend.base.command_line import ROOT
from backend.images.data_uri import data_uri
from backend.images.task_image import png_image
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.network import resnet
from backend.network.inference import load_model, predict
from backend.network.resnet_layout import HEAD_TENSORS
from backend.store.project_record import project_root
from backend.store.project_rows import OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.research.idle_connections import KINDS
from scripts.research.measurement import (
    Figure,
    announce,
    core_share,
    in_background,
    memory_mb,
    percentiles,
)
from scripts.research.random_project import CLASSES, FIRST, PROJECT
from scripts.research.temporary_stack import USER, Backend, running_backend

TASKS = 100
IDLE_CONNECTIONS = 500
SECONDS = 20.0
SATURATED_S = 5.0
ATTACKED_S = 60.0
SETTLE_S = 3.0
VERSIONS, OPEN_IMAGES = 30, 40
PAGES, EVERY_S = (
    20,
    2.0,
)  # the number of open pages, and the time between two requests from the same page
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PER_S, SENDERS = 50, 20
LOST_AFTER_S = 1.0  # after this time, Label Studio stops waiting for a response

Body = dict[str, object]


def backend_figures(image_size: int, device: str) -> list[Figure]:
    """Start a backend, and measure it at rest, with dashboards and webhooks, and under attack."""
    announce("measuring the backend")
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as backend,
        # Reuse one client: creating a client takes longer than a /predict with stored scores.
        httpx.Client(base_url=backend.url, auth=(USER, backend.password), timeout=120) as client,
    ):
        fill_project(project_root(Path(folder), PROJECT))
        n_bytes, first_view_s = first_view(backend.url)
        time.sleep(SETTLE_S)
        at_rest_mb = memory_mb(backend.pid)
        paced = send_webhooks(backend, SECONDS, keep_connections=True)
        idle = core_share(backend.pid, SECONDS)
        with open_pages(backend.url):
            watched = core_share(backend.pid, SECONDS)
            paced_watched = send_webhooks(backend, SECONDS, keep_connections=True)
        saturated = send_webhooks(backend, SATURATED_S, per_s=0, keep_connections=True)
        uris = _predict_body([_noise_row(n) for n in range(TASKS)])
        by_uri_s = _best_s(partial(_predict, client, uris))
        pool_tasks = _predict_body([{"image_id": f"i{n}"} for n in range(TASKS)])
        by_id_s = _best_s(partial(_predict, client, pool_tasks))
        announce("measuring webhooks beside idle connections")
        attacked = _attack(backend, client, uris)
    bare_s = _bare_s(image_size, device)
    view = "Chromium is not installed" if first_view_s is None else f"{first_view_s:.2f} s"
    paced_name = f"webhook, {PER_S}/s on {SENDERS} connections"
    shares = f"{watched - idle:.1%} ({idle:.1%} without)"
    return [
        Figure("dashboard, first view", f"{n_bytes / 1000:.0f} kB, {view}", "<= 300 kB, 1 s"),
        Figure(f"{PAGES} open dashboards, of a core", shares, "<= 5 %"),
        Figure(paced_name, percentiles(paced.seconds), "p99 <= 20 ms"),
        Figure(f"… with {PAGES} open dashboards", percentiles(paced_watched.seconds), "unchanged"),
        Figure("webhooks at saturation", f"{len(saturated.seconds) / SATURATED_S:.0f}/s"),
        Figure(
            f"/predict, {TASKS} pool tasks, over bare forward", f"{bare_s / by_id_s:.2f}", ">= 0.8"
        ),
        Figure(f"/predict, {TASKS} data: URIs, over bare forward", f"{bare_s / by_uri_s:.2f}"),
        Figure("backend memory at rest", f"{at_rest_mb:.0f} MB", "<= 1,000 MB"),
        *(
            Figure(f"webhooks, {PER_S}/s, {name}", str(webhooks), "p99 <= 100 ms, 0 lost")
            for name, webhooks in attacked.items()
        ),
    ]


def _attack(backend: Backend, client: httpx.Client, body: Body) -> dict[str, Webhooks]:
    """Send webhooks without an attack, under each kind of attack, and during /predict requests."""
    found = {"alone": send_webhooks(backend, ATTACKED_S)}

    def keep_predicting(over: Event, _: int) -> None:
        while not over.is_set():
            _predict(client, body)

    for kind in KINDS:
        with _idle_connections(backend, kind):
            name = f"beside {IDLE_CONNECTIONS} connections that trickle {kind}"
            found[name] = send_webhooks(backend, ATTACKED_S)
            with in_background(keep_predicting):
                name = f"… and a /predict of {TASKS} images ({kind})"
                found[name] = send_webhooks(backend, ATTACKED_S)
    return found


@contextmanager
def _idle_connections(backend: Backend, kind: str) -> Iterator[None]:
    """Open idle connections from another process, and keep them open."""
    command = [sys.executable, "-m", "scripts.research.idle_connections", backend.url, kind]
    options = ["--count", str(IDLE_CONNECTIONS), "--seconds", str(4 * ATTACKED_S)]
    attack = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        attack.terminate()
        attack.wait(30)


def _predict_body(rows: list[dict[str, str]]) -> Body:
    return {
        "tasks": [{"id": n, "data": row} for n, row in enumerate(rows)],
        "project": f"{PROJECT}.1",
        "label_config": label_config_xml(CLASSES),
    }


def _predict(client: httpx.Client, body: Body) -> None:
    client.post("/predict", json=body).raise_for_status()


def _bare_s(image_size: int, device: str) -> float:
    """Return the seconds that the bare model takes for the images of one /predict request."""
    model = load_model(resnet.build(10, None, seed=0).state_dict(), 10, device)
    shape = (TASKS, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return _best_s(partial(predict, model, images, image_size=image_size, device=device))


def _best_s(work: Callable[[], object]) -> float:
    return min(repeat(work, number=1, repeat=4))


def _noise_row(seed: int) -> dict[str, str]:
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {"image": data_uri(png_image(Image.fromarray(noise)))}


def fill_project(root: Path) -> None:
    """Add versions and open tasks with thumbnails, as in a project that is well under way."""
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
            picture="data:image/png;base64," + "A" * 3500,  # the size of a 32 px photo
        )
        for number in range(OPEN_IMAGES)
    ]
    ProjectStore(root).record_open_images(time.time(), images)


def first_view(url: str) -> tuple[int, float | None]:
    """Return the bytes of the page and all its files, and the seconds until Chromium shows it.

    The seconds are None if Chromium is not installed.
    """
    paths = ("/dashboard", "/static/dashboard.css", "/static/dashboard.js", "/dashboard/curve.svg")
    with httpx.Client(base_url=url) as client:
        n_bytes = sum(len(client.get(path).raise_for_status().content) for path in paths)
    return n_bytes, _seconds_in_chromium(f"{url}/dashboard")


@contextmanager
def open_pages(url: str) -> Iterator[None]:
    """Simulate PAGES open pages, whose requests are spread over time and send the last ETag."""

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
        time.sleep(2 * EVERY_S)  # until every page has been loaded
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


@dataclass(frozen=True)
class Webhooks:
    """The results of one measurement of webhooks."""

    seconds: Sequence[float]
    lost: int

    def __str__(self) -> str:
        lost = f"{self.lost} of {len(self.seconds) + self.lost} lost"
        return f"{percentiles(self.seconds)}, {lost}" if self.seconds else lost


def webhook(image_id: str) -> dict[str, object]:
    """Return the body of a webhook for an annotated image, with only the fields that we read."""
    task = {"data": {"image": "x" * 4000, "image_id": image_id}}
    return {"action": "ANNOTATION_CREATED", "project": {"id": PROJECT}, "task": task}


def send_webhooks(
    backend: Backend, seconds: float, *, per_s: float = PER_S, keep_connections: bool = False
) -> Webhooks:
    """Send webhooks at a constant rate for `seconds` seconds, each for a different image.

    If `per_s` is 0, each of the SENDERS sends webhooks without a pause. Each webhook opens a
    connection, as Label Studio's webhooks do, unless `keep_connections` is set. A webhook counts as
    lost if there is no response in time or if its image was not recorded.
    """
    numbers = itertools.count()
    answered: dict[str, float] = {}
    limits = httpx.Limits(max_keepalive_connections=SENDERS if keep_connections else 0)
    headers = {SECRET_HEADER: backend.password}
    client = httpx.Client(headers=headers, timeout=LOST_AFTER_S, limits=limits)
    sent_at, start = time.time(), time.perf_counter() + 0.5

    def send(number: int) -> None:
        at = start + (number / per_s if per_s else 0)
        while at < start + seconds:
            time.sleep(max(0.0, at - time.perf_counter()))
            image_id = f"sent at {sent_at}, {next(numbers)}"
            began = time.perf_counter()
            with suppress(httpx.HTTPError):
                response = client.post(f"{backend.url}/webhook", json=webhook(image_id))
                response.raise_for_status()
                answered[image_id] = time.perf_counter() - began
            at = at + SENDERS / per_s if per_s else time.perf_counter()

    with client, ThreadPoolExecutor(SENDERS) as threads:
        list(threads.map(send, range(SENDERS)))
    recorded = backend.queue.annotated_since(PROJECT, sent_at).keys()
    counted_s = [took_s for image_id, took_s in answered.items() if image_id in recorded]
    return Webhooks(counted_s, next(numbers) - len(counted_s))
