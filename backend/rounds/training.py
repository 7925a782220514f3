"""Train a candidate for the next model version.

A full candidate is a fine-tuned network. A head is a new last layer on the body of the version in
service; it is fitted by logistic regression on that body's cached embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.base.arrays import Probs
from backend.base.errors import BrokenVersionError, NoModelError, TooFewLabelsError
from backend.base.progress import Progress
from backend.base.row_blocks import part
from backend.network.head import Head, fit_head
from backend.network.resnet_layout import HEAD_TENSORS
from backend.rounds.body_embeddings import BodyEmbeddings, PoolEmbeddings
from backend.rounds.embeddings import embeddings_of, start_body
from backend.rounds.fine_tuning import fine_tune
from backend.rounds.loop import LabeledImages, Loop, timed
from backend.rounds.start import find_start
from backend.store.tensor_file import State, body_key

log = logging.getLogger(__name__)

HEAD_WEIGHT, HEAD_BIAS = HEAD_TENSORS


@dataclass(frozen=True)
class Candidate:
    """A model that may become a version. Its probabilities are not calibrated yet."""

    version: str
    start: str  # what its body was trained from: an adapted body's name, or "pretrained"
    state: State
    body_key: str
    validation: Probs  # of the images in `held_out`, also of those without a label so far
    test: Probs
    score_pool: Callable[[], Probs]  # takes minutes for a new body, whose embeddings it keeps
    seconds: dict[str, float]  # how long each phase took


def train_candidate(loop: Loop, labels: LabeledImages, progress: Progress) -> Candidate:
    """Train the whole network; with TRAIN=head, fit a head on the body that it would start from."""
    _check(labels)
    version = f"r{loop.registry.last_round() + 1:04d}"
    if loop.settings.train != "head":
        return _fine_tune(loop, labels, version, progress)
    seconds: dict[str, float] = {}
    with timed(seconds, "reading embeddings"):
        start, state, embeddings = start_body(loop, progress)
    with timed(seconds, "training"):
        head = _fit(loop, labels, embeddings, None)
    key = body_key(state)
    return _with_head(loop, version, start.name, state, key, head, embeddings, seconds)


def train_head(loop: Loop, labels: LabeledImages, progress: Progress) -> Candidate:
    """Fit a head on the body in service.

    The caller must hold the head lock from reading the labels until the candidate is saved: with
    TRAIN=head, the trainer and the ranker both fit heads, and the later head must use the newer
    labels.
    """
    _check(labels)
    current = loop.registry.current()
    if current is None:
        raise NoModelError(
            "no version yet: a head can be fitted only on the body of a trained version"
        )
    seconds: dict[str, float] = {}
    with timed(seconds, "reading embeddings"):
        key, embeddings = embeddings_of(loop, current, progress)
    with timed(seconds, "training"):
        head = _fit(loop, labels, embeddings, _start(loop, current.version))
    version = loop.registry.next_head(current.body)
    return _with_head(loop, version, current.start, {}, key, head, embeddings, seconds)


def _check(labels: LabeledImages) -> None:
    n_classes = len(np.unique(labels.classes))
    if n_classes < 2:
        raise TooFewLabelsError(
            f"{len(labels.image_ids)} labels of {n_classes} class(es): training starts "
            "when at least two classes are labeled"
        )


def _fine_tune(loop: Loop, labels: LabeledImages, version: str, progress: Progress) -> Candidate:
    seconds: dict[str, float] = {}
    start = find_start(loop, progress)
    with timed(seconds, "training"):
        tensors = fine_tune(loop, labels, start, version, progress)
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    head, key = Head.of(state), body_key(state)
    body = BodyEmbeddings(loop, key, loop.view, loop.own_embeddings, lambda: state)
    with timed(seconds, "evaluating"):
        validation, test = map(head.probs, body.of_held_out(progress))

    def score_pool() -> Probs:
        embeddings = body.of(loop.pool.known_ids, "scoring the pool", progress)
        return head.probs(part(embeddings, slice(len(loop.pool.image_ids))))

    return Candidate(version, start.name, state, key, validation, test, score_pool, seconds)


def _fit(loop: Loop, labels: LabeledImages, embeddings: PoolEmbeddings, start: Head | None) -> Head:
    rows = embeddings.pool[loop.pool.positions(labels.image_ids)]
    return fit_head(rows, labels.classes, len(loop.pool.classes), start, labels.weights)


def _start(loop: Loop, version: str) -> Head | None:
    """Return a version's last layer as a starting point, so that the fit converges sooner."""
    try:
        state = loop.registry.load_own_state(version)
    except BrokenVersionError as error:
        log.warning("fitting a head from scratch: %s", error)
        return None
    return Head(state[HEAD_WEIGHT], state[HEAD_BIAS])


def _with_head(
    loop: Loop,
    version: str,
    start: str,
    body: State,
    key: str,
    head: Head,
    embeddings: PoolEmbeddings,
    seconds: dict[str, float],
) -> Candidate:
    return Candidate(
        version,
        start,
        body | {HEAD_WEIGHT: head.weight, HEAD_BIAS: head.bias},
        key,
        head.probs(embeddings.validation),
        head.probs(embeddings.test),
        lambda: head.probs(part(embeddings.pool, slice(len(loop.pool.image_ids)))),
        seconds,
    )
