"""Measure what the loop costs: ratios within one run where there is a bare counterpart, seconds
where not.

    python -m scripts.bench

Prints a table and writes var/bench.json. POOL, WEIGHTS and IMAGE_SIZE are those of the settings.
The circle is measured on a whole stack of its own in var/bench, which is removed afterwards.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from backend import pool_scores, registry, resnet
from backend.command import CommandParser, run
from backend.errors import LabelStudioError, TightloopError
from backend.inference import load_model, predict_probs
from backend.labelstudio import (
    SECRET_HEADER,
    LabelingProject,
    label_config_xml,
    prediction_result,
)
from backend.query import Candidates, resolve, select
from backend.settings import Settings, load_settings
from backend.strategy_names import STRATEGIES
from scripts.bench_attack import measure_attacks
from scripts.bench_backend import (
    CLASSES,
    POOL_IMAGES,
    PROJECT,
    USER,
    Backend,
    running_backend,
    tree_mb,
)
from scripts.bench_dashboard import (
    PAGES,
    fill_project,
    first_view,
    open_pages,
    share_of_a_core,
)
from scripts.bench_model import measure_model
from scripts.own_stack import own_stack

ROOT = Path(__file__).resolve().parents[1]
WEBHOOKS_PER_S = 50
CONNECTIONS = 20
TASKS = 100
SEEDS = 1980
LAST_LABELS = 20
WIDTH, ASKED, BATCH = 512, 2_000, 100
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    target: str = "measured"


def main() -> int:
    """Measure everything; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="leave out the circle on a whole stack"
    )
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        figures = [*model_figures(settings), *choice_figures(), *backend_figures(settings)]
        if not arguments.quick:
            figures += circle_figures()
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    width = max(len(figure.name) for figure in figures)
    print(f"\n{device}, {os.cpu_count()} cores")
    for figure in figures:
        print(f"{figure.name:<{width}}  {figure.value:<40}  {figure.target}")
    report = {"device": device, "figures": [vars(figure) for figure in figures]}
    (ROOT / "var").mkdir(exist_ok=True)
    (ROOT / "var/bench.json").write_text(json.dumps(report, indent=2))
    return 0


def model_figures(settings: Settings) -> list[Figure]:
    """What feeding the model costs."""
    _say("measuring what feeding the model costs")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratios = measure_model(settings.image_size, device)
    return [
        Figure("scoring the pool, over bare forward", f"{ratios['scoring']:.2f}", ">= 0.9"),
        Figure("training steps, over a bare loop", f"{ratios['training']:.2f}", ">= 0.9"),
    ]


def choice_figures() -> list[Figure]:
    """What choosing a batch costs beside the scoring, on random embeddings around 50 centres."""
    _say("measuring what choosing a batch costs")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, WIDTH))
    of = rng.integers(50, size=POOL_IMAGES + ASKED)
    embeddings = (centres[of] + rng.normal(size=(len(of), WIDTH))).astype(np.float16)
    candidates = Candidates(
        image_ids=[f"i{n}" for n in range(POOL_IMAGES)],
        probs=rng.dirichlet(np.ones(10), POOL_IMAGES).astype(np.float32),
        embeddings=embeddings[:POOL_IMAGES],
        asked=embeddings[POOL_IMAGES:],
    )
    figures = []
    for strategy in STRATEGIES:
        began = time.perf_counter()
        resolved = resolve(strategy, n_asked=ASKED, n_classes=10)
        select(resolved, candidates, BATCH, np.random.default_rng(0))
        took_s = time.perf_counter() - began
        name = f"choosing {BATCH} of {POOL_IMAGES:,}, {ASKED:,} asked: {strategy}"
        figures.append(Figure(name, f"{took_s:.2f} s", "<= 5 s"))
    return figures


def backend_figures(settings: Settings) -> list[Figure]:
    """The backend as it is served, with a real Redis: webhooks, predictions, memory."""
    _say("measuring the backend")
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as b,
    ):
        root = registry.project_root(Path(folder), PROJECT)
        fill_project(root, registry.read_meta(root, "r0001"))
        n_bytes, first_view_s = first_view(b.url)
        at_rest = b.memory_mb()
        paced = _webhooks(b, pause_s=CONNECTIONS / WEBHOOKS_PER_S, seconds=20)
        idle = share_of_a_core(b.process.pid, seconds=20)
        with open_pages(b.url):
            watched = share_of_a_core(b.process.pid, seconds=20)
            paced_watched = _webhooks(b, pause_s=CONNECTIONS / WEBHOOKS_PER_S, seconds=20)
        flat_out = _webhooks(b, pause_s=0.0, seconds=5)
        bare = _bare_images_per_s(settings.image_size)
        by_id = _predict_images_per_s(b, [{"image_id": f"i{n}"} for n in range(TASKS)])
        by_uri = _predict_images_per_s(b, [_noise_row(n) for n in range(TASKS)])
        _say("measuring webhooks beside idle connections")
        attacked = measure_attacks(b, _predict_body([_noise_row(n) for n in range(TASKS)]))
    webhook = f"webhook, {WEBHOOKS_PER_S}/s on {CONNECTIONS} connections"
    seconds = "no Chromium here" if first_view_s is None else f"{first_view_s:.2f} s"
    return [
        Figure("dashboard, first view", f"{n_bytes / 1000:.0f} kB, {seconds}", "<= 300 kB, 1 s"),
        Figure(
            f"{PAGES} open dashboards, of a core",
            f"{watched - idle:.1%} ({idle:.1%} without)",
            "<= 5 %",
        ),
        Figure(webhook, _percentiles(paced), "p99 <= 20 ms"),
        Figure(f"… with {PAGES} open dashboards", _percentiles(paced_watched), "unchanged"),
        Figure("webhooks at saturation", f"{len(flat_out) / 5:.0f}/s"),
        Figure(f"/predict, {TASKS} pool tasks, over bare forward", f"{by_id / bare:.2f}", ">= 0.8"),
        Figure(f"/predict, {TASKS} data: URIs, over bare forward", f"{by_uri / bare:.2f}"),
        Figure("backend memory at rest", f"{at_rest:.0f} MB", "<= 1,000 MB"),
        *(
            Figure(f"webhooks, {WEBHOOKS_PER_S}/s, {name}", str(webhooks), "p99 <= 100 ms, 0 lost")
            for name, webhooks in attacked.items()
        ),
    ]


def _percentiles(seconds: list[float]) -> str:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def circle_figures() -> list[Figure]:
    """On a whole stack: from the last annotation to the next batch, and what a training takes."""
    settings = {
        "SEED_LABELS": str(SEEDS),
        "RETRAIN_AFTER": str(LAST_LABELS),
        "RETRAIN_WAIT": "3600",
    }
    with own_stack("bench", **settings) as (_, stack):
        return _measure_circle(stack)


def _measure_circle(stack: Mapping[str, Any]) -> list[Figure]:
    project_id = stack["project_id"]
    project = LabelingProject(stack["label_studio_url"], stack["api_key"], project_id)
    config = project.label_config()
    root = registry.project_root(Path(stack["model_dir"]), project_id)
    _say("waiting for the first version")
    while project.model_version() != "r0001":
        time.sleep(1)

    open_tasks = project.open_tasks()[:LAST_LABELS]
    http = httpx.Client(
        base_url=stack["label_studio_url"], headers={"Authorization": f"Token {stack['api_key']}"}
    )

    def answer(number: int) -> None:
        label = config.choices[number % len(config.choices)]
        http.post(
            f"/api/tasks/{open_tasks[number].task_id}/annotations/",
            json={"result": prediction_result(config, label)},
            timeout=60,
        ).raise_for_status()

    # Let the ranker end what the first version gave it to do.
    time.sleep(5)
    n_open = project.counts().open
    answer(0)
    began = time.perf_counter()
    while project.model_version() != "r0001h01":
        if time.perf_counter() - began > PATIENCE_S:
            raise LabelStudioError("no head's order came: see var/bench/log/ranker.log")
        time.sleep(0.05)
    head_s = time.perf_counter() - began
    head = registry.read_meta(root, "r0001h01")
    kept = pool_scores.load_pool_probs(root, head.version)
    for number in range(1, LAST_LABELS):
        answer(number)
    began = time.perf_counter()
    _say("waiting for the second")
    peak_mb = 0.0
    served_s = None
    while project.model_version() != "r0002":
        current = registry.current(root)
        if served_s is None and current is not None and current.version == "r0002":
            served_s = time.perf_counter() - began
        peak_mb = max(peak_mb, tree_mb(stack["pids"]["trainer"]))
        time.sleep(0.2)
    total_s = time.perf_counter() - began
    meta = registry.read_meta(root, "r0002")
    parts = ", ".join(f"{phase} {s:.1f}" for phase, s in meta.seconds.items())
    return [
        Figure(
            f"an annotation -> a head's order of {n_open} open tasks, {head.labels:,} labels",
            f"{head_s:.1f} s",
            "<= 3 s",
        ),
        Figure(
            f"  of it refit and re-ranking of {len(kept[0]) if kept else 0:,} images",
            f"{sum(head.seconds.values()):.2f} s",
            "<= 1 s",
        ),
        Figure(
            f"last annotation -> new order, {meta.labels} labels",
            f"{total_s:.1f} s (served after {served_s or total_s:.1f} s)",
        ),
        Figure("  of it, seconds", parts),
        Figure(
            "  pool, start",
            f"{Path(meta.pool).name}, {Path(meta.weights).name}, {meta.image_size} px",
        ),
        Figure("trainer and its job, peak memory", f"{peak_mb:.0f} MB", "<= 3,000 MB"),
    ]


def _webhooks(backend: Backend, *, pause_s: float, seconds: float) -> list[float]:
    """Seconds per answer of all connections together; each sends one every `pause_s`."""
    body = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": PROJECT},
        "task": {"data": "x" * 4000},
    }
    taken: list[float] = []

    def send(first_at: float) -> None:
        with httpx.Client(headers={SECRET_HEADER: backend.password}) as client:
            client.post(f"{backend.url}/webhook", json=body)  # connects
            next_at = first_at
            while next_at < end:
                time.sleep(max(0.0, next_at - time.perf_counter()))
                began = time.perf_counter()
                client.post(f"{backend.url}/webhook", json=body).raise_for_status()
                taken.append(time.perf_counter() - began)
                next_at = next_at + pause_s if pause_s else time.perf_counter()

    start = time.perf_counter() + 1
    end = start + seconds
    threads = [
        threading.Thread(target=send, args=(start + n * pause_s / CONNECTIONS,))
        for n in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _predict_body(rows: list[dict[str, str]]) -> dict[str, object]:
    return {
        "tasks": [{"id": n, "data": row} for n, row in enumerate(rows)],
        "project": f"{PROJECT}.1",
        "label_config": label_config_xml(CLASSES),
    }


def _predict_images_per_s(backend: Backend, rows: list[dict[str, str]]) -> float:
    body = _predict_body(rows)
    best = float("inf")
    with httpx.Client(auth=(USER, backend.password), timeout=120) as client:
        for _ in range(4):
            began = time.perf_counter()
            client.post(f"{backend.url}/predict", json=body).raise_for_status()
            best = min(best, time.perf_counter() - began)
    return len(rows) / best


def _bare_images_per_s(image_size: int) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(resnet.build(10, None, seed=0).state_dict(), 10, device)
    images = np.random.default_rng(0).integers(
        0, 256, (TASKS, image_size, image_size, 3), dtype=np.uint8
    )
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        predict_probs(model, images, image_size=image_size, device=device)
        best = min(best, time.perf_counter() - began)
    return TASKS / best


def _noise_row(seed: int) -> dict[str, str]:
    png = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png, "PNG")
    return {"image": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
