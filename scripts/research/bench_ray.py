"""Measure embedding on a Ray cluster of this machine, against the same work without Ray.

    python -m scripts.research.bench_ray --images 50000

Run it in .venv-ray, as `make bench-ray` does.
The images are generated, so that reading them costs as little as reading a cached pool; the start
of the cluster is left out of the rates and reported by itself. Each rate is that of the images
between the first and the last report, and all threads are those of the workers: one each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from backend.base.command_line import CommandParser, run
from backend.network import resnet
from backend.network.inference import load_network, predict
from backend.store.place import LocalPlace
from backend.store.row_store import SHARD_ROWS, RowStore
from backend.store.tensor_file import State
from scripts.research.measurement import MB, Figure, announce, print_table

WIDTH, SIDE_PX = 512, 32
MARK = "rate"


@dataclass(frozen=True)
class GeneratedReader:
    """Makes an image from its number."""

    def check(self) -> None:
        """There is always an image."""

    def read(self, location: str) -> NDArray[np.uint8]:
        """Return an image; see `ImageReader.read`."""
        return np.full((SIDE_PX, SIDE_PX, 3), int(location) % 256, np.uint8)


@dataclass(frozen=True)
class Timing:
    """How long some images took."""

    first_report_s: float  # from the call to the first report
    total_s: float
    rate: float  # images per second after the first report
    peak_mb: float  # of the driver and of its largest worker, without what they share


def main() -> int:
    """Print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--most", type=int, default=1_000_000, help="images, for the last rows")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--alone", type=int, default=0, help="embed here, and print the rate")
    arguments = parser.parse_args()
    size = arguments.image_size
    if arguments.alone:
        print(MARK, embed_here(arguments.alone, size))
        return 0
    print_table(figures(arguments.images, arguments.most, size))
    return 0


def figures(n_images: int, most: int, size: int) -> list[Figure]:
    """Measure one and two processes with and without Ray, and then more and more images."""
    announce("one process without Ray")
    [alone] = rates_here(1, n_images, size)
    announce("one worker")
    one = on_cluster(1, n_images, size)
    announce("two processes without Ray")
    both = sum(rates_here(2, n_images // 2, size))
    announce("two workers")
    two = on_cluster(2, n_images, size)
    found = [
        Figure(f"embedding {n_images:,} images at {size} px, one process", f"{alone:,.0f}/s"),
        Figure("  … one Ray worker", f"{one.rate:,.0f}/s, {one.rate / alone:.2f}", ">= 0.9"),
        Figure("  … two processes together", f"{both:,.0f}/s"),
        Figure("  … two Ray workers", f"{two.rate:,.0f}/s, {two.rate / both:.2f}", ">= 0.9"),
        Figure("  … until the first report", f"{two.first_report_s:.0f} s"),
    ]
    count = n_images
    while count <= most:
        announce(f"{count:,} images")
        timing = on_cluster(2, count, size)
        per_image = f"{1e6 / timing.rate:,.0f} µs per image"
        value = f"{per_image}, {timing.total_s:,.0f} s, {timing.peak_mb:,.0f} MB"
        found.append(Figure(f"  … {count:,} images, two workers", value, "linear, flat"))
        count = count * 4 if count * 4 <= most or count == most else most
    return found


def on_cluster(n_workers: int, n_images: int, size: int) -> Timing:
    """Embed images on a new cluster of nodes with one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(n_workers):
            cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(Path.cwd())})
        return _embed(cluster.address, n_images, size)
    finally:
        cluster.shutdown()


def _embed(address: str, n_images: int, size: int) -> Timing:
    from backend.scale.embedding import embed  # imports Ray

    reports: list[tuple[float, int]] = []
    peak = [0.0]

    def report(done: int) -> None:
        reports.append((time.monotonic(), done))
        peak[0] = max(peak[0], _memory_mb())

    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(LocalPlace(Path(folder)), np.float16, WIDTH)
        locations = {f"{number:09d}": str(number) for number in range(n_images)}
        began = time.monotonic()
        shards, _ = embed(
            address, "cpu", store, network(), GeneratedReader(), size, locations, report
        )
        store.publish(shards)
        total_s = time.monotonic() - began
    (first_at, first), (last_at, last) = reports[0], reports[-1]
    rate = (last - first) / (last_at - first_at)
    return Timing(first_at - began, total_s, rate, peak[0])


def _memory_mb() -> float:
    """Return the memory of this process, and of the largest worker, that belongs to them alone."""
    workers = [p for p in psutil.process_iter(["name"]) if "MapWorker" in (p.info["name"] or "")]
    used = [process.memory_full_info().uss / MB for process in [psutil.Process(), *workers]]
    return used[0] + max(used[1:], default=0.0)


def rates_here(n_processes: int, n_images: int, size: int) -> list[float]:
    """Return the rates of some processes that embed images at the same time, one thread each."""
    command = [sys.executable, "-m", "scripts.research.bench_ray", "--alone", str(n_images)]
    command += ["--image-size", str(size)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n_processes)
    ]
    outputs = [process.communicate()[0].split() for process in running]
    return [float(output[output.index(MARK) + 1]) for output in outputs]


def embed_here(n_images: int, size: int) -> float:
    """Embed images as the loop does without Ray; return the images per second."""
    torch.set_num_threads(1)
    model, reader = load_network(network(), "cpu"), GeneratedReader()
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(LocalPlace(Path(folder)), np.float16, WIDTH)
        began, shards = time.monotonic(), []
        for first in range(0, n_images, SHARD_ROWS):
            numbers = range(first, min(first + SHARD_ROWS, n_images))
            images = np.stack([reader.read(str(number)) for number in numbers])
            rows = predict(model, images, image_size=size, device="cpu").embeddings
            shards.append(store.write([f"{number:09d}" for number in numbers], rows))
        store.publish(shards)
        return n_images / (time.monotonic() - began)


def network() -> State:
    """Return a network with random weights."""
    state = resnet.build(10, None, seed=0).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


if __name__ == "__main__":
    run(main)
