"""Measure what the loop costs: ratios within one run where there is a bare counterpart, seconds
where not.

    python -m scripts.research.bench

Prints a table and writes var/bench.json. POOL, WEIGHTS and IMAGE_SIZE are those of the settings.
The circle is measured on a whole stack of its own in var/bench, which is removed afterwards.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from backend.asking.query import Candidates, resolve, select
from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.settings import Settings, load_settings
from backend.base.strategy_names import STRATEGIES
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.network import resnet
from backend.network.inference import load_model, predict_probs
from backend.store.project_record import project_root
from backend.store.registry import Registry
from scripts.research.bench_attack import honest_webhook, measure_attacks
from scripts.research.bench_circle import circle_figures
from scripts.research.bench_dashboard import (
    PAGES,
    fill_project,
    first_view,
    open_pages,
    share_of_a_core,
)
from scripts.research.bench_model import measure_model
from scripts.research.bench_refit import OPEN, SIZES, measure_refits
from scripts.research.figure import Figure, say
from scripts.research.temporary_backend import (
    CLASSES,
    POOL_IMAGES,
    PROJECT,
    USER,
    Backend,
    running_backend,
)

ROOT = Path(__file__).resolve().parents[2]
WEBHOOKS_PER_S = 50
CONNECTIONS = 20
TASKS = 100
WIDTH, ASKED, BATCH = 512, 2_000, 100


def main() -> int:
    """Measure everything; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out heads at many answers, and the circle on a whole stack",
    )
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        figures = [*model_figures(settings), *choice_figures(), *backend_figures(settings)]
        if not arguments.quick:
            figures += [*refit_figures(), *circle_figures()]
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
    say("measuring what feeding the model costs")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratios = measure_model(settings.image_size, device)
    return [
        Figure("scoring the pool, over bare forward", f"{ratios['scoring']:.2f}", ">= 0.9"),
        Figure("training steps, over a bare loop", f"{ratios['training']:.2f}", ">= 0.9"),
    ]


def choice_figures() -> list[Figure]:
    """What choosing a batch costs beside the scoring, on random embeddings around 50 centres."""
    say("measuring what choosing a batch costs")
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
    say("measuring the backend")
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as b,
    ):
        root = project_root(Path(folder), PROJECT)
        fill_project(root, Registry(root).read_meta("r0001"))
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
        say("measuring webhooks beside idle connections")
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


def refit_figures() -> list[Figure]:
    """What one answer costs between two trainings, at few answers and at many."""
    say("measuring what an answer costs between two trainings")
    found = [measure_refits(size) for size in SIZES]

    def row(what: str, figure: str, digits: str, unit: str, target: str = "measured") -> Figure:
        values = " / ".join(format(getattr(refit, figure), digits) for refit in found)
        return Figure(what, f"{values} {unit}", target)

    sizes = " / ".join(f"{size:,}" for size in SIZES)
    return [
        row(f"a head at {sizes} answers: reading changes", "reading_s", ".3f", "s", "flat"),
        row("  … consensus", "consensus_s", ".2f", "s"),
        row("  … fit, with reading embeddings and scoring the pool", "fit_s", ".2f", "s"),
        row("  … the rest: keeping, promoting, ordering", "rest_s", ".2f", "s", "flat"),
        row("  … written to database and small files", "written_kb", ",.0f", "kB", "flat"),
        row("  … written of its tensors but the pool's scores", "tensors_kb", ",.0f", "kB", "flat"),
        row("  … written of the pool's scores", "scores_kb", ",.0f", "kB"),
        row(f"  … read of Label Studio, {OPEN} open tasks", "read_kb", ",.0f", "kB", "flat"),
        row("  … of it changed tasks", "tasks_read", ".0f", "", "flat"),
    ]


def _webhooks(backend: Backend, *, pause_s: float, seconds: float) -> list[float]:
    """Seconds per answer of all connections together; each sends one every `pause_s`."""
    taken: list[float] = []
    numbers = itertools.count()

    def send(first_at: float) -> None:
        with httpx.Client(headers={SECRET_HEADER: backend.password}) as client:
            client.get(f"{backend.url}/health")  # connects
            next_at = first_at
            while next_at < end:
                time.sleep(max(0.0, next_at - time.perf_counter()))
                body = honest_webhook(f"paced {next(numbers)}")
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


if __name__ == "__main__":
    run(main)
