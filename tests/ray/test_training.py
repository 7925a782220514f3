"""Train and adapt on a cluster: the weights of one machine, and none lost with a node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.cluster_utils import Cluster

from backend.base.errors import TooFewLabelsError
from backend.images.framing import View
from backend.images.image_reader import find_locations, find_reader
from backend.images.known_labels import true_labels
from backend.images.pool import Pool, open_pool
from backend.network import resnet, training
from backend.network.adaptation import Adaptation, AdaptationRecipe
from backend.network.inference import load_model, predict
from backend.network.training import Recipe
from backend.scale import adapting, team_run
from backend.scale.training import train
from backend.store.place import LocalPlace
from tests.patience import wait_for
from tests.ray.conftest import add_node

RECIPE = Recipe(image_size=32, batch_size=64, min_steps=40, epochs=2)
ADAPTATION = AdaptationRecipe(image_size=32, batch_size=64, queue_size=128)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Return the digits, 1,295 images in the pool."""
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture
def single() -> Iterator[Any]:
    """A cluster of one node with one core."""
    made = Cluster()
    try:
        add_node(made)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A cluster of two nodes, of which one may be lost."""
    made = Cluster()
    try:
        add_node(made)
        add_node(made)
        yield made
    finally:
        made.shutdown()


def labels_of(pool: Pool, image_ids: tuple[str, ...]) -> np.ndarray[Any, Any]:
    known = true_labels(pool)
    return np.array([pool.classes.index(known[image_id]) for image_id in image_ids])


def train_on(
    address: str,
    pool: Pool,
    folder: Path,
    n_labels: int = 200,
    on_step: Callable[[int, int], None] = lambda *_: None,
    recipe: Recipe = RECIPE,
) -> resnet.State:
    image_ids = pool.image_ids[:n_labels]
    return train(
        pool.images_of(image_ids),
        labels_of(pool, image_ids),
        weights=np.ones(n_labels, np.float32),
        n_classes=10,
        start=None,
        recipe=recipe,
        may_flip=False,
        seed=0,
        device="cpu",
        address=address,
        place=LocalPlace(folder),
        name="r0001",
        on_step=on_step,
    )


def train_here(pool: Pool, n_labels: int = 200, recipe: Recipe = RECIPE) -> resnet.State:
    image_ids = pool.image_ids[:n_labels]
    return training.train(
        pool.images_of(image_ids),
        labels_of(pool, image_ids),
        weights=np.ones(n_labels, np.float32),
        n_classes=10,
        start=None,
        recipe=recipe,
        may_flip=False,
        seed=0,
        device="cpu",
    )


def accuracy(pool: Pool, state: resnet.State) -> float:
    probs = predict(
        load_model(state, 10, "cpu"), pool.test.images, image_size=32, device="cpu"
    ).probs
    return float((probs.argmax(axis=1) == pool.test.labels).mean())


@pytest.mark.short
def test_one_worker_trains_the_weights_of_one_machine_bit_for_bit(
    single: Any, pool: Pool, tmp_path: Path
) -> None:
    torch.set_num_threads(1)  # as many as the node's worker has
    steps: list[tuple[int, int]] = []
    state = train_on(single.address, pool, tmp_path, on_step=lambda *s: steps.append(s))
    expected = train_here(pool)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert {total for _, total in steps} <= {40}
    assert list(tmp_path.iterdir()) == []  # neither inputs nor checkpoints are left


def test_two_workers_learn_as_well_as_one_machine(cluster: Any, pool: Pool, tmp_path: Path) -> None:
    recipe = Recipe(image_size=32, batch_size=64, min_steps=120, epochs=2)
    state = train_on(cluster.address, pool, tmp_path, 400, recipe=recipe)
    expected = train_here(pool, 400, recipe)
    assert accuracy(pool, expected) > 0.85
    assert accuracy(pool, state) > accuracy(pool, expected) - 0.05


def test_a_training_goes_on_from_its_checkpoint_on_the_node_that_is_left(
    two_nodes: Any, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team_run, "SAVE_EVERY_S", 1.0)
    [other] = two_nodes.worker_nodes
    steps: list[int] = []

    def kill() -> None:
        wait_for(lambda: list(tmp_path.rglob(team_run.CHECKPOINT)), "a checkpoint")
        two_nodes.remove_node(other, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    recipe = Recipe(image_size=32, batch_size=64, min_steps=300, epochs=2)
    state = train_on(
        two_nodes.address, pool, tmp_path, on_step=lambda s, _: steps.append(s), recipe=recipe
    )
    killer.join()
    assert accuracy(pool, state) > 0.8
    assert steps[-1] > 0


def test_an_error_of_ours_in_a_worker_reaches_the_driver(
    single: Any, pool: Pool, tmp_path: Path
) -> None:
    with pytest.raises(TooFewLabelsError, match="label images of at least two classes"):
        train_on(single.address, pool, tmp_path, 1)


def by_passes(most: float, spent_s: float, passes: float) -> float:  # noqa: ARG001
    """Return the share of an adaptation that ends after a number of passes."""
    return min(1.0, passes / most)


def adapt_on(
    address: str,
    pool: Pool,
    folder: Path,
    passes: float,
    may_go_on: Callable[[float, float], bool] = lambda *_: True,
    resumed: resnet.State | None = None,
) -> adapting.Adapted:
    reader = find_reader(pool, View(32), ())
    assert reader is not None
    found = find_locations(pool, pool.image_ids)
    return adapting.adapt(
        reader,
        [location for location in found if location is not None],
        start=None,
        resumed=resumed,
        spent_s=0.0,
        share_done=partial(by_passes, passes),
        recipe=ADAPTATION,
        may_flip=False,
        seed=0,
        device="cpu",
        address=address,
        place=LocalPlace(folder),
        name="adapting",
        may_go_on=may_go_on,
    )


def test_one_worker_adapts_the_body_of_one_machine_bit_for_bit(
    single: Any, pool: Pool, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    adapted = adapt_on(single.address, pool, tmp_path, 0.5)
    here = Adaptation(pool.images, None, recipe=ADAPTATION, may_flip=False, seed=0, device="cpu")
    while here.passes_done < 0.5:
        here.step(here.passes_done / 0.5)
    expected = here.state_dict()
    assert adapted.is_complete
    assert adapted.spent_s > 0
    assert all(torch.equal(adapted.state[name], expected[name]) for name in expected)
    assert list(tmp_path.iterdir()) == []


def test_an_adaptation_stops_when_asked_and_goes_on_where_it_was(
    single: Any, pool: Pool, tmp_path: Path
) -> None:
    looks: list[float] = []

    def go_on_for_a_while(spent_s: float, passes: float) -> bool:  # noqa: ARG001
        looks.append(passes)
        return passes < 0.2

    first = adapt_on(single.address, pool, tmp_path, 1e6, go_on_for_a_while)
    assert not first.is_complete
    steps = int(first.state["steps_done"])
    assert steps > 0
    second = adapt_on(single.address, pool, tmp_path, steps * 64 / 1295 + 0.2, resumed=first.state)
    assert second.is_complete
    assert int(second.state["steps_done"]) > steps
