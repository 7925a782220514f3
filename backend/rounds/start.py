"""Find what training starts from: the body adapted to the pool, or the pre-trained weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from backend.base.errors import ModelFolderError
from backend.base.progress import Progress
from backend.network import resnet
from backend.rounds.loop import Loop
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.place import Place
from backend.store.tensor_file import State
from backend.store.weights import find_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartBody:
    """The weights that training starts from."""

    name: str  # an adapted body's name, or PRETRAINED
    tensors: resnet.State | None  # None if there are no pre-trained weights

    def network(self, loop: Loop) -> State:
        """Return a full network with these weights, and a new last layer for the pool's classes."""
        whole = resnet.build(len(loop.pool.classes), self.tensors, seed=loop.seed).state_dict()
        return {name: tensor.numpy() for name, tensor in whole.items()}

    def embeddings_folder(self, loop: Loop) -> Place:
        """Return the folder for this body's embeddings: all projects share the pre-trained body."""
        return loop.shared_embeddings if self.name == PRETRAINED else loop.own_embeddings


def find_start(loop: Loop, progress: Progress) -> StartBody:
    """Return what the next training run starts from.

    If the adapted body cannot be used, returns the pre-trained weights and logs the reason.
    """
    name = Bodies(loop.root).usable_start().name
    if name == PRETRAINED:
        return pretrained(loop, progress)
    try:
        return adapted(loop, name)
    except ModelFolderError as error:  # damaged since it was checked
        log.error("%s; training starts from the pre-trained weights", error)
        return pretrained(loop, progress)


def pretrained(loop: Loop, progress: Progress) -> StartBody:
    """Return the weights that WEIGHTS names."""
    weights = find_weights(loop.weights, loop.settings.data_dir, progress=progress)
    return StartBody(PRETRAINED, weights.state)


def adapted(loop: Loop, name: str) -> StartBody:
    """Return an adapted body. Raises ModelFolderError if it is unknown, broken or pruned."""
    state = Bodies(loop.root).load_state(name)
    return StartBody(name, {key: torch.from_numpy(array) for key, array in state.items()})
