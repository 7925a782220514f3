"""Measure the backend as it is served, with a real Redis: webhooks, predictions, dashboards."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from timeit import repeat

import httpx
import numpy as np
from PIL import Image

from backend.labelstudio.label_config import label_config_xml
from backend.network import resnet
from backend.network.inference import load_model, predict
from backend.store.project_record import project_root
from scripts.research.background import in_background
from scripts.research.bench_dashboard import PAGES, fill_project, first_view, open_pages
from scripts.research.figure import Figure, announce, percentiles
from scripts.research.idle_connections import KINDS
from scripts.research.process_tree import core_share, memory_mb
from scripts.research.random_project import CLASSES, PROJECT
from scripts.research.temporary_backend import ROOT, USER, Backend, running_backend
from scripts.research.webhooks import PER_S, SENDERS, Webhooks, send_webhooks

TASKS = 100
IDLE_CONNECTIONS = 500
SECONDS = 20.0
SATURATED_S = 5.0
ATTACKED_S = 60.0
SETTLE_S = 3.0

Body = dict[str, object]


def backend_figures(image_size: int, device: str) -> list[Figure]:
    """Start a backend, and measure it at rest, with dashboards, with webhooks, under attack."""
    announce("measuring the backend")
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as backend,
        # One client for all: setting one up takes longer than a /predict with kept scores.
        httpx.Client(base_url=backend.url, auth=(USER, backend.password), timeout=120) as client,
    ):
        fill_project(project_root(Path(folder), PROJECT))
        n_bytes, first_view_s = first_view(backend.url)
        time.sleep(SETTLE_S)
        at_rest_mb = memory_mb(backend.process.pid)
        paced = send_webhooks(backend, SECONDS, keep_connections=True)
        idle = core_share(backend.process.pid, SECONDS)
        with open_pages(backend.url):
            watched = core_share(backend.process.pid, SECONDS)
            paced_watched = send_webhooks(backend, SECONDS, keep_connections=True)
        saturated = send_webhooks(backend, SATURATED_S, per_s=0, keep_connections=True)
        uris = _predict_body([_noise_row(n) for n in range(TASKS)])
        by_uri_s = _best_s(partial(_predict, client, uris))
        pool_tasks = _predict_body([{"image_id": f"i{n}"} for n in range(TASKS)])
        by_id_s = _best_s(partial(_predict, client, pool_tasks))
        announce("measuring webhooks beside idle connections")
        attacked = _attack(backend, client, uris)
    bare_s = _bare_s(image_size, device)
    view = "no Chromium here" if first_view_s is None else f"{first_view_s:.2f} s"
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
    """Send webhooks without an attack, under each kind, and under each during a /predict."""
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
    """Hold idle connections open, in another process."""
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
    """Return how long the bare model takes for as many images as a /predict has."""
    model = load_model(resnet.build(10, None, seed=0).state_dict(), 10, device)
    shape = (TASKS, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return _best_s(partial(predict, model, images, image_size=image_size, device=device))


def _best_s(work: Callable[[], object]) -> float:
    return min(repeat(work, number=1, repeat=4))


def _noise_row(seed: int) -> dict[str, str]:
    png = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png, "PNG")
    return {"image": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()}
