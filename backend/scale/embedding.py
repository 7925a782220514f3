"""Embed images on the workers of a Ray cluster.

The workers read the images and write the embeddings themselves. Ray only carries the names of small
files, so neither the driver nor Ray's object store holds images or embeddings. If a worker or node
dies, another worker does what it left undone. If the driver dies, the next one uses what its
workers have written (see `RowStore.complete`).
"""

from __future__ import annotations

import json
import logging
import math
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext

from backend.base.errors import ScaleError, TightloopError
from backend.images.image_reader import ImageReader, read_or_reason
from backend.network.device import find_device
from backend.network.inference import BATCH_SIZE, check_finite, load_network, predict
from backend.scale.cluster import connected
from backend.scale.nodes import Workers, matching_nodes, scoring_workers
from backend.store.row_store import SHARD_ROWS, RowStore, Shard
from backend.store.tensor_file import State, from_bytes, to_bytes

log = logging.getLogger(__name__)

PARTS_PER_WORKER = 8  # so that all workers end at about the same time
WRITERS = 8  # threads of the driver that write the lists of images
NETWORK = "network.safetensors"

Report = Callable[[int], None]  # is called with the number of images that are done


@dataclass(frozen=True)
class Work:
    """What all workers need to know."""

    store: RowStore[np.float16]
    folder: str  # below the store's: contains the network, and the lists of images to embed
    reader: ImageReader
    image_size: int
    device: Literal["cpu", "cuda"]
    threads: int


def embed(
    address: str,
    device: Literal["auto", "cpu", "cuda"],
    store: RowStore[np.float16],
    network: State,
    reader: ImageReader,
    image_size: int,
    locations: Mapping[str, str],
    report: Report,
) -> tuple[list[Shard], dict[str, str]]:
    """Embed images on the cluster at `address`, and write the embeddings to `store`.

    `locations` says where `reader` finds each image. Returns the shards, which are not published
    yet, and why some images could not be read. Raises ScaleError if the cluster cannot be used.
    """
    with connected(address):
        workers = scoring_workers(matching_nodes(), device)
        log.info("embedding %d images with %d Ray workers", len(locations), workers.count)
        with _work_folder(store, network) as folder:
            parts = _write_parts(store, folder, locations, workers)
            work = Work(
                store,
                folder,
                reader,
                image_size,
                "cuda" if workers.gpus_each else "cpu",
                max(1, workers.cpus_each),
            )
            return _run(work, parts, workers, report)


def _run(
    work: Work, parts: Sequence[str], workers: Workers, report: Report
) -> tuple[list[Shard], dict[str, str]]:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    results = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    ).map_batches(
        Embedder,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers.count, len(parts))),
        num_cpus=workers.cpus_each,
        num_gpus=workers.gpus_each,
    )
    shards: list[Shard] = []
    failed: dict[str, str] = {}
    n_done = 0
    for result in results.iter_rows():
        if result["error"]:
            raise ScaleError(result["error"])
        if result["shard"]:
            shards.append(Shard.model_validate_json(result["shard"]))
        failed |= json.loads(result["failed"])
        n_done += result["n_images"]
        report(n_done)
    return shards, failed


class Embedder:
    """A worker, which keeps the network in memory."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(work.threads)
        self._work, self._error = work, ""
        try:
            work.reader.check()
            content = work.store.place.below(work.folder).read(NETWORK)
            self._network = load_network(from_bytes(content), find_device(work.device))
        except (TightloopError, OSError) as error:  # a failed constructor would be tried forever
            self._error = f"the Ray node {socket.gethostname()} cannot embed images: {error}"

    def __call__(self, batch: dict[str, NDArray[np.str_]]) -> dict[str, list[str] | list[int]]:
        """Embed the images in one list; Ray sees only the name of the list and the result."""
        [part] = batch["part"]
        shard, error, n_images = "", self._error, 0
        failed: dict[str, str] = {}
        if not error:
            try:
                found, failed, n_images = self._embed(str(part))
                shard = found.model_dump_json() if found else ""
            except TightloopError as caught:
                error = f"the Ray node {socket.gethostname()} cannot embed images: {caught}"
        return {
            "shard": [shard],
            "failed": [json.dumps(failed)],
            "error": [error],
            "n_images": [n_images],
        }

    def _embed(self, part: str) -> tuple[Shard | None, dict[str, str], int]:
        """Return the shard of the images in a list, why others cannot be read, and their number."""
        work = self._work
        table = pq.read_table(BytesIO(work.store.place.below(work.folder).read(part))).to_pydict()
        image_ids: list[str] = []
        embeddings: list[NDArray[np.float16]] = []
        failed: dict[str, str] = {}
        for found in self._read(list(zip(table["image_id"], table["location"], strict=True))):
            images = {i: pixels for i, pixels in found.items() if not isinstance(pixels, str)}
            failed |= {i: reason for i, reason in found.items() if isinstance(reason, str)}
            if images:
                pixels = np.stack([*images.values()])
                outputs = predict(
                    self._network, pixels, image_size=work.image_size, device=work.device
                )
                embeddings.append(outputs.embeddings)
                image_ids += images
        if not image_ids:
            return None, failed, len(failed)
        rows = np.concatenate(embeddings)
        check_finite(rows)
        return work.store.write(image_ids, rows), failed, len(image_ids) + len(failed)

    def _read(
        self, images: Sequence[tuple[str, str]]
    ) -> Iterator[dict[str, NDArray[np.uint8] | str]]:
        """Yield batches of images by id, or why an image cannot be read.

        The next batch is read while the network sees this one.
        """

        def read(image: tuple[str, str]) -> NDArray[np.uint8] | str:
            return read_or_reason(self._work.reader, image[1])

        batches = [images[at : at + BATCH_SIZE] for at in range(0, len(images), BATCH_SIZE)]
        with ThreadPoolExecutor(self._work.threads) as threads:
            coming = threads.map(read, batches[0])
            for number, batch in enumerate(batches):
                found = list(coming)
                if number + 1 < len(batches):
                    coming = threads.map(read, batches[number + 1])
                yield {image_id: pixels for (image_id, _), pixels in zip(batch, found, strict=True)}


@contextmanager
def _work_folder(store: RowStore[np.float16], network: State) -> Iterator[str]:
    """Write the network where all workers can read it; delete the folder afterwards."""
    folder = f"work-{uuid.uuid4().hex}"
    try:
        store.place.below(folder).write(NETWORK, to_bytes(network))
        yield folder
    finally:
        store.place.delete(folder)


def _write_parts(
    store: RowStore[np.float16], folder: str, locations: Mapping[str, str], workers: Workers
) -> list[str]:
    """Write lists of images, of which each becomes a shard, and return their names."""
    share = math.ceil(len(locations) / (workers.count * PARTS_PER_WORKER) / BATCH_SIZE) * BATCH_SIZE
    size = min(SHARD_ROWS, share)
    table = pa.table({"image_id": [*locations], "location": [*locations.values()]})
    place = store.place.below(folder)

    def write(start: int) -> str:
        name, file = f"{start:012d}.parquet", BytesIO()
        pq.write_table(table.slice(start, size), file)
        place.write(name, file.getvalue())
        return name

    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(write, range(0, len(locations), size)))
