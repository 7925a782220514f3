"""Measure the cost of a large pool: the time until the first batch, and the memory used.

The pool is a bucket of photographs that are generated as they are read. Each stage runs in its
own process, as set-up, the trainer and their jobs do. Memory means anonymous memory: the decoded
images are a mapped file, which does not count, because the system can drop its pages at any time.

    python -m scripts.research.bench_pool --images 200000 --width 320 --height 240

Decoding stops after --decode-for seconds. The remaining images are then recorded as decoded,
with black squares as their pixels, so that all later stages see the whole pool. The speed of
scoring is measured on --scored images.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backend.asking.query import Candidates, resolve, select
from backend.base.arrays import Images
from backend.base.command_line import CommandParser, run
from backend.base.progress import Progress
from backend.base.strategy_names import STRATEGIES
from backend.images import pool as pools
from backend.images.index_file import update_index
from backend.images.pixels import stamp
from backend.images.pool import Pool, open_pool, quiet
from backend.images.source_images import FIRST
from backend.images.sources import find_source
from backend.network import inference, resnet
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from scripts.research.generated_bucket import bucket_url, register
from scripts.research.measurement import Figure, announce
from scripts.research.peak_memory import in_process

POOLS = ((200_000, 320, 240), (20_000, 4000, 3000))  # images, width, height
CLASSES = ("animal", "vehicle")
IMAGE_SIZE = 64
TINY = 8  # the image size at which the whole pool is scored, to see how large the results are
SET_UP_S = 15.0  # how long set-up decodes
BATCH, N_ASKED = 100, 1000
MEMORY_TARGET, FIRST_TARGET = "<= 3,072 MB", "<= 60 s"


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    source: str
    n_images: int
    folder: Path
    decode_s: float
    n_scored: int

    @property
    def index(self) -> Path:
        """The path of the project's index."""
        return self.folder / "project" / "pool.parquet"

    def open(self, *, budget_s: float = 0.0, progress: Progress = quiet) -> Pool:
        """Open the listed pool, as jobs do."""
        return open_pool(
            self.source,
            self.folder,
            seed=0,
            index=self.index,
            classes=CLASSES,
            image_size=IMAGE_SIZE,
            rescan=False,
            budget_s=budget_s,
            progress=progress,
        )


def main() -> int:
    """Print the rows for one pool."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=POOLS[0][0])
    parser.add_argument("--width", type=int, default=POOLS[0][1])
    parser.add_argument("--height", type=int, default=POOLS[0][2])
    parser.add_argument("--decode-for", type=float, default=60.0, help="seconds")
    parser.add_argument("--scored", type=int, default=10_000, help="images")
    arguments = parser.parse_args()
    size = arguments.width, arguments.height
    print("| figure | measured | target |\n|---|---|---|")
    for figure in pool_figures(arguments.images, size, arguments.decode_for, arguments.scored):
        print(f"| {figure.name} | {figure.value} | {figure.target} |", flush=True)
    return 0


def large_pool_figures() -> list[Figure]:
    """Measure the pools in POOLS."""
    return [
        figure
        for n_images, *size in POOLS
        for figure in pool_figures(n_images, (size[0], size[1]), decode_s=30, n_scored=5_000)
    ]


def pool_figures(
    n_images: int, size: tuple[int, int], decode_s: float, n_scored: int
) -> Iterator[Figure]:
    """Measure one pool in a temporary folder, and yield each row as soon as it is measured."""
    announce(f"measuring a pool of {n_images:,} images of {size[0]} x {size[1]}")
    with tempfile.TemporaryDirectory(prefix="tightloop-") as folder:
        source = bucket_url(n_images, *size)
        plan = Plan(source, n_images, Path(folder), decode_s, min(n_scored, n_images))
        yield Figure(f"a pool of {n_images:,} images of {size[0]} x {size[1]}", "", "")
        yield from set_up_figures(plan)
        yield from decoding_figures(plan)
        yield from opening_figures(plan)
        yield from scoring_figures(plan)


def set_up_figures(plan: Plan) -> list[Figure]:
    """List a new pool and decode its first images in one process, as set-up does."""
    laps, peak_mb = in_process(_set_up, plan, register)
    return [
        Figure("  … listed and indexed", f"{laps['listed']:.1f} s"),
        Figure(f"  … first {FIRST} images decoded", f"{laps['first']:.1f} s", FIRST_TARGET),
        Figure("  … memory of set-up", f"{peak_mb:,.0f} MB", MEMORY_TARGET),
    ]


def decoding_figures(plan: Plan) -> list[Figure]:
    """List the pool again and decode more images, in processes like the trainer's jobs."""
    (n_decoded, took_s), peak_mb = in_process(_decode, plan, register)
    _, recording_mb = in_process(_record_all, plan, register)
    speed = f"{n_decoded / took_s:.0f} images/s ({n_decoded:,} of {plan.n_images:,} decoded)"
    return [
        Figure("  … decoding", speed),
        Figure("  … memory of listing again and decoding", f"{peak_mb:,.0f} MB", MEMORY_TARGET),
        Figure("  … memory of recording all images", f"{recording_mb:,.0f} MB", MEMORY_TARGET),
    ]


def opening_figures(plan: Plan) -> list[Figure]:
    """Open the whole pool, then list its unchanged source again."""
    opened_s, opened_mb = in_process(_open, plan, register)
    listed_s, listed_mb = in_process(_list_again, plan, register)
    return [
        Figure("  … opening the decoded pool", f"{opened_s:.1f} s"),
        Figure("  … memory of opening", f"{opened_mb:,.0f} MB", MEMORY_TARGET),
        Figure("  … listing again, nothing new", f"{listed_s:.1f} s"),
        Figure("  … memory of listing again", f"{listed_mb:,.0f} MB", MEMORY_TARGET),
    ]


def scoring_figures(plan: Plan) -> list[Figure]:
    """Score the pool with random weights, and choose a batch with each strategy."""
    per_s, peak_mb = in_process(_score_some, plan, register)
    _, whole_mb = in_process(_score_all, plan, register)
    times, choosing_mb = in_process(_choose, plan, register)
    speed = f"{per_s:.0f} images/s ({plan.n_scored:,} of {plan.n_images:,} scored)"
    slowest = max(times, key=lambda name: times[name])
    return [
        Figure(f"  … scoring at {IMAGE_SIZE} px", speed),
        Figure(f"  … memory of scoring at {IMAGE_SIZE} px", f"{peak_mb:,.0f} MB", MEMORY_TARGET),
        Figure(f"  … memory of scoring all at {TINY} px", f"{whole_mb:,.0f} MB", MEMORY_TARGET),
        Figure(f"  … choosing {BATCH}, slowest: {slowest}", f"{times[slowest]:.1f} s"),
        Figure("  … memory of choosing", f"{choosing_mb:,.0f} MB", MEMORY_TARGET),
    ]


def _set_up(plan: Plan) -> dict[str, float]:
    """Return the seconds until the pool is listed, and until its first images are decoded."""
    began = time.monotonic()
    laps: dict[str, float] = {}

    def progress(_: str, done: int, __: int) -> None:
        if done >= min(FIRST, plan.n_images):
            laps.setdefault("first", time.monotonic() - began)

    source = find_source(plan.source, image_hosts=())
    update_index(source, plan.index, plan.folder, 0, quiet)
    laps["listed"] = time.monotonic() - began
    plan.open(budget_s=SET_UP_S, progress=progress)
    return laps


def _decode(plan: Plan) -> tuple[int, float]:
    """List the pool again and decode more images; return their number and the seconds this took."""
    before = plan.open()
    source = find_source(plan.source, image_hosts=())
    update_index(source, plan.index, plan.folder, 0, quiet)
    began = time.monotonic()
    pool, _ = pools.rescan(before, 0, must_list=False, budget_s=plan.decode_s)
    return len(pool.image_ids) - len(before.image_ids), time.monotonic() - began


def _record_all(plan: Plan) -> None:
    """Record all remaining images as decoded, with black squares as their pixels."""
    pool = plan.open()
    images = pool.source
    assert images is not None
    known = set(pool.image_ids)
    with (images.store.folder / "rows.txt").open("a") as rows:
        for entry in images.index.entries(np.arange(len(images.index))):
            if entry.image_id not in known:  # the image's id replaces the hash of its content
                of_original = stamp(entry.size, entry.modified)
                rows.write(f"{entry.image_id} {of_original} {entry.image_id}\n")
    with (images.store.folder / "pixels.bin").open("r+b") as pixels:
        pixels.truncate(plan.n_images * IMAGE_SIZE * IMAGE_SIZE * 3)  # sparse: takes no space
    images.store.refresh()
    whole, _ = pools.rescan(pool, 0, must_list=False, budget_s=math.inf)
    assert len(whole.image_ids) == plan.n_images


def _open(plan: Plan) -> float:
    """Open the pool and look up all images; return how many seconds this took."""
    began = time.monotonic()
    pool = plan.open()
    pool.positions(pool.known_ids)
    return time.monotonic() - began


def _list_again(plan: Plan) -> float:
    """List the pool again; return how many seconds this took."""
    pool = plan.open()
    began = time.monotonic()
    pools.rescan(pool, 0, must_list=True, budget_s=0)
    return time.monotonic() - began


def _score_some(plan: Plan) -> float:
    """Score some images; return the images per second."""
    pool = plan.open()
    images = pool.images_of(pool.image_ids[: plan.n_scored])
    began = time.monotonic()
    _score(images, IMAGE_SIZE)
    return len(images) / (time.monotonic() - began)


def _score_all(plan: Plan) -> None:
    _score(plan.open().images, TINY)


def _score(images: Images, image_size: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = resnet.build(len(CLASSES), None, seed=0).state_dict()
    model = inference.load_model(state, len(CLASSES), device)
    inference.predict(model, images, image_size=image_size, device=device)


def _choose(plan: Plan) -> dict[str, float]:
    """Choose a batch with each strategy from random embeddings; return the seconds by strategy."""
    image_ids = plan.open().image_ids
    rng = np.random.default_rng(0)
    width = resnet18(len(CLASSES))[HEAD_TENSORS[0]].shape[1]
    embeddings = np.empty((len(image_ids), width), np.float16)
    for first in range(0, len(image_ids), N_ASKED):
        part = embeddings[first : first + N_ASKED]
        part[:] = rng.standard_normal(part.shape, np.float32)
    probs = rng.dirichlet(np.ones(len(CLASSES)), len(image_ids)).astype(np.float32)
    asked = embeddings[:N_ASKED].copy()
    candidates = Candidates(image_ids, probs, embeddings, asked)
    times: dict[str, float] = {}
    for strategy in STRATEGIES:
        began = time.monotonic()
        resolved = resolve(strategy, n_asked=N_ASKED, n_classes=len(CLASSES))
        select(resolved, candidates, BATCH, np.random.default_rng(0))
        times[strategy] = time.monotonic() - began
    return times


if __name__ == "__main__":
    run(main)
