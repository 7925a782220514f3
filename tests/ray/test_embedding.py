"""Embed images on a cluster of two nodes: the same numbers as here, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from backend.base.errors import ScaleError
from backend.images.framing import View
from backend.images.image_reader import find_locations, find_reader
from backend.images.pool import Pool, open_pool
from backend.network import resnet
from backend.network.inference import load_network, predict
from backend.scale.embedding import embed
from backend.store.place import LocalPlace, find_place
from backend.store.row_store import RowStore, Shard
from backend.store.tensor_file import State
from tests.patience import wait_for
from tests.ray.conftest import add_node
from tests.ray.gated_reader import GatedReader
from tests.unit.images.buckets import refuse_all

IMAGE_SIZE, WIDTH = 32, 512
FREE_PARTS = 2  # of 256 images each, which a GatedReader reads without permission


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Return the digits, 1,295 images in the pool."""
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture(scope="module")
def network() -> State:
    state = resnet.build(10, None, seed=0).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.fixture
def store(tmp_path: Path) -> RowStore[np.float16]:
    return RowStore(LocalPlace(tmp_path / "rows"), np.float16, WIDTH)


@pytest.fixture(scope="module")
def expected(pool: Pool, network: State) -> NDArray[np.float16]:
    """Return what this process computes."""
    model = load_network(network, "cpu")
    return predict(model, pool.images, image_size=IMAGE_SIZE, device="cpu").embeddings


def locations(pool: Pool) -> dict[str, str]:
    found = zip(pool.image_ids, find_locations(pool, pool.image_ids), strict=True)
    return {image_id: location for image_id, location in found if location is not None}


def embed_gated(
    address: str,
    store: RowStore[np.float16],
    pool: Pool,
    network: State,
    *,
    gate: Path | None = None,
    wanted: Mapping[str, str] | None = None,
) -> tuple[list[Shard], dict[str, str]]:
    """Embed the pool; images after the thousandth wait until the file `gate` exists."""
    reader = find_reader(pool, View(IMAGE_SIZE), ())
    assert reader is not None
    used = GatedReader(reader, gate) if gate else reader
    wanted = locations(pool) if wanted is None else wanted
    return embed(address, "cpu", store, network, used, IMAGE_SIZE, wanted, lambda _: None)


def check_equal(store: RowStore[np.float16], pool: Pool, expected: NDArray[np.float16]) -> None:
    stored = store.open()
    assert stored is not None
    rows = stored[stored.find(pool.image_ids)]
    np.testing.assert_allclose(rows.astype(np.float32), expected.astype(np.float32), atol=1e-3)
    assert len(stored) == len(pool.image_ids)  # none twice


def shards_in(store: RowStore[np.float16]) -> list[str]:
    return [name for name in store.place.names() if name.endswith(".parquet")]


@pytest.mark.short
def test_embeddings_are_those_of_one_machine_and_nothing_else_is_left(
    cluster: Any,
    store: RowStore[np.float16],
    pool: Pool,
    network: State,
    expected: NDArray[np.float16],
) -> None:
    done: list[int] = []
    reader = find_reader(pool, View(IMAGE_SIZE), ())
    assert reader is not None
    shards, failed = embed(
        cluster.address, "cpu", store, network, reader, IMAGE_SIZE, locations(pool), done.append
    )
    assert failed == {}
    assert store.open() is None  # until the shards are published
    store.publish(shards)
    check_equal(store, pool, expected)
    assert done == sorted(done)
    assert done[-1] == len(pool.image_ids)
    assert {*store.place.names()} == {*shards_in(store), "manifest.json"}


def test_a_node_killed_in_the_middle_costs_nothing_but_its_running_work(
    cluster: Any,
    store: RowStore[np.float16],
    pool: Pool,
    network: State,
    expected: NDArray[np.float16],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    killed = add_node(cluster)

    def kill() -> None:
        try:
            wait_for(lambda: len(shards_in(store)) >= FREE_PARTS, "the first shards")
            cluster.remove_node(killed, allow_graceful=False)
        finally:
            gate.touch()

    killer = threading.Thread(target=kill)
    killer.start()
    shards, failed = embed_gated(cluster.address, store, pool, network, gate=gate)
    killer.join()
    assert failed == {}
    store.publish(shards)
    check_equal(store, pool, expected)


def test_a_killed_driver_goes_on_with_what_its_workers_have_written(
    store: RowStore[np.float16],
    pool: Pool,
    network: State,
    expected: NDArray[np.float16],
    tmp_path: Path,
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.ray.gated_driver", pool.folder.parents[1], tmp_path],
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(shards_in(store)) >= FREE_PARTS, "the first shards")
        assert driver.poll() is None
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    asked: list[int] = []

    def compute(missing: list[str]) -> list[Shard]:
        asked.append(len(missing))
        found = dict(zip(missing, find_locations(pool, missing), strict=True))
        wanted = {image_id: at for image_id, at in found.items() if at is not None}
        return embed_gated("", store, pool, network, wanted=wanted)[0]

    store.complete(pool.image_ids, compute)  # type: ignore[arg-type]
    assert asked[0] <= len(pool.image_ids) - FREE_PARTS * 256
    check_equal(store, pool, expected)


def test_a_full_object_store_stops_nothing(
    store: RowStore[np.float16], pool: Pool, network: State, expected: NDArray[np.float16]
) -> None:
    made = Cluster()
    try:
        add_node(made, object_store_memory=80 << 20)
        ray.init(address=made.address, log_to_driver=False)
        full = [ray.put(np.zeros(10 << 20, np.uint8)) for _ in range(7)]
        shards, _ = embed_gated(made.address, store, pool, network)
        assert len(full) == 7
    finally:
        ray.shutdown()
        made.shutdown()
    store.publish(shards)
    check_equal(store, pool, expected)


def test_images_that_cannot_be_read_are_named_and_all_others_embedded(
    store: RowStore[np.float16], pool: Pool, network: State
) -> None:
    wanted = {**locations(pool), "lost": "digits-9999"}
    shards, failed = embed_gated("", store, pool, network, wanted=wanted)
    assert failed == {"lost": "'digits-9999'"}
    store.publish(shards)
    assert store.missing([*wanted]) == ["lost"]


def test_a_node_without_the_images_is_named(
    store: RowStore[np.float16], network: State, tmp_path: Path
) -> None:
    own = open_pool("digits", tmp_path / "data", seed=0)
    wanted = locations(own)
    own.folder.rename(tmp_path / "moved")
    with pytest.raises(ScaleError, match=r"Ray node .* cannot embed images: .*share DATA_DIR"):
        embed_gated("", store, own, network, wanted=wanted)


def test_a_bucket_that_the_workers_may_not_use_is_named(
    bucket: str, pool: Pool, network: State
) -> None:
    in_bucket = RowStore(find_place(f"s3://{bucket}/rows"), np.float16, WIDTH)
    shards, _ = embed_gated("", in_bucket, pool, network)
    in_bucket.publish(shards)
    assert in_bucket.missing(pool.image_ids) == []
    with (
        refuse_all(os.environ["AWS_ENDPOINT_URL"]),
        pytest.raises(Exception, match=rf"STORE=s3://{bucket}/rows.* access to .* was refused"),
    ):
        embed_gated("", in_bucket, pool, network)
