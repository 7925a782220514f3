"""Measure choosing among millions of images: seconds, and peak anonymous memory.

    python -m scripts.research.bench_choice --images 5000000 --folder /tmp/choice

The embeddings are in the loop's own store, which is made once: images of many clusters, in random
order. Each figure is measured in a process of its own, first cold (the files are not in the page
cache) and then warm. Anonymous memory leaves out the pages of files, which the system can drop at
any time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np

from backend.asking.acquisition import margin
from backend.asking.query import SETS, Candidates, select
from backend.base.arrays import RowView
from backend.base.command_line import CommandParser, run
from backend.base.strategy_names import ResolvedName
from backend.network.head import Head
from backend.store.place import LocalPlace
from backend.store.row_store import SHARD_ROWS, RowStore, StoredRows
from scripts.research.measurement import MB, Figure, announce, print_table
from scripts.research.peak_memory import in_process

WIDTH, CENTERS, N_CLASSES = 512, 2000, 10
BATCH, N_ASKED = 100, 1000  # so typical images come from 500 clusters, the most that there are
MEMORY = "3,072 MB"
TARGETS: dict[ResolvedName, str] = {"typiclust": "600 s", "uncertain_clusters": "60 s"}

Seconds = tuple[float, float]  # that passed, and of CPU time


@dataclass(frozen=True)
class Plan:
    """Which pool to measure."""

    folder: Path
    n_images: int

    @property
    def store(self) -> RowStore[np.float16]:
        """The embeddings: N_ASKED queried images, then the candidates."""
        return RowStore(LocalPlace(self.files), np.float16, WIDTH)

    @property
    def files(self) -> Path:
        """The folder of the store."""
        return self.folder / f"embeddings-{self.n_images}"

    def embeddings(self) -> StoredRows[np.float16]:
        """Open the embeddings of all images, which are not read yet."""
        stored = self.store.open()
        assert stored is not None
        return stored


class Numbers(Sequence[str]):
    """Ids of images, made when they are used, so that the ids do not count as memory."""

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        found = self._numbers[at]
        return str(found) if isinstance(found, int) else [str(number) for number in found]

    def __len__(self) -> int:
        return len(self._numbers)


def main() -> int:
    """Print the table for one pool."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="for a file of 1 kB per image")
    arguments = parser.parse_args()
    plan = Plan(arguments.folder, arguments.images)
    make_embeddings(plan)
    print_table(choice_figures(plan))
    return 0


def make_embeddings(plan: Plan) -> None:
    """Write the embeddings shard by shard, unless they are there."""
    if plan.store.open() is not None:
        return
    announce(f"making embeddings of {plan.n_images:,} images")
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CENTERS, WIDTH), np.float32)
    total = N_ASKED + plan.n_images
    shards = []
    for first in range(0, total, SHARD_ROWS):
        numbers = range(first, min(first + SHARD_ROWS, total))
        rows = rng.standard_normal((len(numbers), WIDTH), np.float32)
        rows += centers[rng.integers(CENTERS, size=len(numbers))]
        ids = [image_id(number) for number in numbers]
        shards.append(plan.store.write(ids, rows.astype(np.float16)))
    plan.store.publish(shards)


def image_id(number: int) -> str:
    """Return the id of an image."""
    return f"{number:09d}"


def choice_figures(plan: Plan) -> list[Figure]:
    """Measure the speed of the disk, every strategy that chooses sets, and a head's re-ranking."""
    announce("reading the files")
    mb_per_s = read_rate(plan.files)
    size_mb = sum(path.stat().st_size for path in plan.files.iterdir()) / MB
    figures = [
        Figure(f"choosing {BATCH} of {plan.n_images:,} images", f"{size_mb:,.0f} MB"),
        Figure("  … reading the files, cold", f"{mb_per_s:,.0f} MB/s"),
    ]
    for strategy in SETS:
        target = f"{TARGETS.get(strategy, 'measured')}, {MEMORY}"
        figures.append(measure(f"  … {strategy}", partial(choose, strategy), plan, target))
    figures.append(measure("  … a head's new order", rank, plan, f"15 s warm, {MEMORY}"))
    return [*figures, measure("  … the row of one task", look_up, plan, "measured")]


def measure(name: str, work: Callable[[Plan], Seconds], plan: Plan, target: str) -> Figure:
    """Measure work cold and then warm."""
    announce(f"measuring{name.replace('…', '')}")
    drop_from_cache(plan.files)
    (cold_s, _), cold_mb = in_process(work, plan)
    read_rate(plan.files, is_cold=False)
    (warm_s, cpu_s), warm_mb = in_process(work, plan)
    times = f"cold {cold_s:.3g} s, warm {warm_s:.3g} s ({cpu_s:.3g} s of CPU)"
    return Figure(name, f"{times}, {max(cold_mb, warm_mb):,.0f} MB", target)


def read_rate(folder: Path, *, is_cold: bool = True) -> float:
    """Read all files, so that they are in the page cache; return the MB per second."""
    if is_cold:
        drop_from_cache(folder)
    began, n_bytes = time.monotonic(), 0
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while block := file.read(16 * MB):
                n_bytes += len(block)
    return n_bytes / MB / (time.monotonic() - began)


def drop_from_cache(folder: Path) -> None:
    """Drop the files' pages from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def choose(strategy: ResolvedName, plan: Plan) -> Seconds:
    """Choose a batch."""
    whole = plan.embeddings()
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(N_CLASSES), plan.n_images).astype(np.float32)
    # The loop's candidates are also rows of a larger file, without those of the queried images.
    own = RowView(whole, np.arange(N_ASKED, len(whole)))
    candidates = Candidates(Numbers(plan.n_images), probs, own, whole[np.arange(N_ASKED)])
    return timed(partial(select, strategy, candidates, BATCH, rng))


def rank(plan: Plan) -> Seconds:
    """Score all images with a head, and compute their margins."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((N_CLASSES, WIDTH)) / 16).astype(np.float32)
    head = Head(weight, np.zeros(N_CLASSES, np.float32))
    return timed(lambda: margin(head.probs(plan.embeddings())))


def look_up(plan: Plan) -> Seconds:
    """Find one image by its id, and read its row."""

    def read(number: int) -> None:
        stored = plan.embeddings()
        assert stored[stored.find([image_id(number)])].shape == (1, WIDTH)

    read(0)  # the first call imports libraries
    return timed(partial(read, plan.n_images // 2))


def timed(work: Callable[[], object]) -> Seconds:
    """Run work; return the seconds that it took, and its CPU time."""
    began, cpu_began = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - began, time.process_time() - cpu_began


if __name__ == "__main__":
    run(main)
