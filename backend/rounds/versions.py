"""Make a model version from labels: train, measure, compare with the one in service, keep.

A full version fine-tunes the whole network. A head is a new last layer on the body of the version
in service: it costs a logistic regression over embeddings that are kept from that body's scoring.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import (
    BrokenVersionError,
    LabelStudioError,
    ModelFolderError,
    NoModelError,
    PoolError,
    TooFewLabelsError,
    TrainingError,
)
from backend.base.progress import Progress
from backend.images.pool import Pool
from backend.measures.calibration import expected_calibration_error, fit_temperature, rescale
from backend.measures.evaluation import evaluate
from backend.measures.gate import Verdict, judge
from backend.network import resnet
from backend.network.head import Head, fit_head
from backend.network.inference import Images, Outputs, load_model, predict
from backend.network.resnet_layout import HEAD_TENSORS
from backend.network.training import train
from backend.rounds.loop import LabeledImages, Loop, timed
from backend.store import pool_scores, pruning, tensor_file
from backend.store.locks import lock
from backend.store.pool_scores import PoolEmbeddings
from backend.store.version_meta import Calibration, Meta, body_of, round_of
from backend.store.version_weights import State, body_key
from backend.store.weights import find_weights

log = logging.getLogger(__name__)

HEAD_WEIGHT, HEAD_BIAS = HEAD_TENSORS


@dataclass(frozen=True)
class Candidate:
    """A model that may become a version; probabilities are as it gives them, not yet calibrated."""

    version: str
    state: State
    body_key: str
    validation: Probs
    test: Probs
    # Minutes for a new body, so only once it is worth it; embeddings where they are new, too.
    score_pool: Callable[[], tuple[Probs, PoolEmbeddings | None]]


def train_version(
    loop: Loop, labels: LabeledImages, names: Sequence[str], progress: Progress
) -> Meta:
    """A full version: fine-tuned, or with TRAIN=head the pre-trained body with a fitted head."""
    _check(loop, labels)
    version = f"r{loop.registry.last_round() + 1:04d}"
    seconds: dict[str, float] = {}
    if loop.train == "head":
        candidate = _on_pretrained(loop, labels, version, progress, seconds)
    else:
        candidate = _fine_tuned(loop, labels, version, progress, seconds)
    meta = _keep(loop, labels, names, candidate, seconds)
    assert meta is not None, "only a head can be superseded"
    return meta


def fit_head_version(
    loop: Loop, labels: LabeledImages, names: Sequence[str], progress: Progress
) -> Meta | None:
    """A head on the body in service; None where another body came into service meanwhile.

    Hold the head lock around it and the reading of labels: with TRAIN=head trainer and ranker both
    fit heads, and the later one must know more.
    """
    _check(loop, labels)
    current = loop.registry.current()
    if current is None:
        raise NoModelError("no version yet that a head could be fitted on")
    seconds: dict[str, float] = {}
    with timed(seconds, "reading embeddings"):
        key, embeddings = embeddings_of(loop, current, progress)
    with timed(seconds, "training"):
        head = _fit(loop, labels, embeddings, _start(loop, current))
    version = loop.registry.next_head(current.body)
    return _keep(loop, labels, names, _with_head(version, {}, key, head, embeddings), seconds)


def pool_probs(loop: Loop, meta: Meta, progress: Progress) -> Probs:
    """What a version thinks of the whole pool, (images, classes); kept beside it once computed.

    NoModelError naming the version where its probabilities are no numbers.
    """
    kept = pool_scores.load_pool_probs(loop.root, meta.version)
    if kept is not None and kept[0] == loop.pool.image_ids:
        probs = kept[1]
    else:
        raw = _recall(loop, meta, loop.pool.images, "scoring the pool", progress)
        probs = rescale(raw, meta.temperature)
        pool_scores.save_pool_probs(loop.root, meta.version, loop.pool.image_ids, probs)
    return probs


def embeddings_of(loop: Loop, meta: Meta, progress: Progress) -> tuple[str, PoolEmbeddings]:
    """What a version's body makes of all images, kept once computed, and the body's key."""
    kept = _kept_embeddings(loop, meta.body_key, meta.image_size) if meta.body_key else None
    if kept is not None:
        return meta.body_key, kept
    state = loop.registry.load_state(meta.body)
    key = body_key(state)
    kept = _kept_embeddings(loop, key, meta.image_size)
    if kept is None:
        kept = _embed(loop, _tensors(state), meta.image_size, progress)
        pool_scores.save_embeddings(
            loop.own_embeddings, key, meta.image_size, loop.pool.image_ids, kept
        )
    return key, kept


def pretrained_body(loop: Loop, progress: Progress) -> tuple[State, PoolEmbeddings]:
    """The pre-trained weights as a whole network, and its embeddings, which all projects share."""
    tensors, state, key = _pretrained(loop, progress)
    size = loop.recipe.image_size
    kept = _kept_embeddings(loop, key, size)
    if kept is None:
        kept = _embed(loop, tensors, size, progress)
        pool_scores.save_embeddings(loop.shared_embeddings, key, size, loop.pool.image_ids, kept)
    return state, kept


def pretrained_embeddings(loop: Loop, image_ids: Sequence[str], progress: Progress) -> Embeddings:
    """What the pre-trained body makes of some images of the pool, (images, width)."""
    tensors, _, key = _pretrained(loop, progress)
    size = loop.recipe.image_size
    rows = loop.pool.positions(image_ids)
    if (kept := _kept_embeddings(loop, key, size)) is not None:
        return kept.pool[rows]
    return _score(loop, tensors, size, loop.pool.images[rows], "embedding", progress).embeddings


def has_pretrained_body(loop: Loop) -> bool:
    """Whether there are embeddings worth anything before the first training."""
    return loop.weights != "none"


def _pretrained(loop: Loop, progress: Progress) -> tuple[Mapping[str, Tensor], State, str]:
    """The pre-trained weights with a head of this pool's classes, as arrays too, and their key."""
    start = find_weights(loop.weights, loop.data_dir, progress=progress).state
    tensors = resnet.build(len(loop.pool.classes), start, seed=loop.seed).state_dict()
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    return tensors, state, body_key(state)


def _check(loop: Loop, labels: LabeledImages) -> None:
    n_classes = len(np.unique(labels.classes))
    if n_classes < 2:
        raise TooFewLabelsError(
            f"{len(labels.image_ids)} labels of {n_classes} class(es): training starts "
            "when at least two classes are labeled"
        )
    if not len(loop.pool.validation.labels):
        raise PoolError("the pool is too small for a validation split: add images")


def _fine_tuned(
    loop: Loop,
    labels: LabeledImages,
    version: str,
    progress: Progress,
    seconds: dict[str, float],
) -> Candidate:
    with timed(seconds, "training"):
        tensors = train(
            loop.pool.images[loop.pool.positions(labels.image_ids)],
            labels.classes,
            weights=labels.weights,
            n_classes=len(loop.pool.classes),
            start=find_weights(loop.weights, loop.data_dir, progress=progress).state,
            recipe=loop.recipe,
            may_flip=loop.pool.may_flip,
            seed=loop.seed,
            device=loop.device,
            on_step=lambda done, total: progress("training", done, total),
        )
    size = loop.recipe.image_size
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    key = body_key(state)
    with timed(seconds, "evaluating"):
        validation = _score(
            loop, tensors, size, loop.pool.validation.images, "validating", progress
        )
        test = _score(loop, tensors, size, loop.pool.test.images, "testing", progress)

    def score_pool() -> tuple[Probs, PoolEmbeddings]:
        pool = _score(loop, tensors, size, loop.pool.images, "scoring the pool", progress)
        kept = PoolEmbeddings(pool.embeddings, validation.embeddings, test.embeddings)
        return pool.probs, kept

    return Candidate(version, state, key, validation.probs, test.probs, score_pool)


def _on_pretrained(
    loop: Loop,
    labels: LabeledImages,
    version: str,
    progress: Progress,
    seconds: dict[str, float],
) -> Candidate:
    with timed(seconds, "reading embeddings"):
        state, embeddings = pretrained_body(loop, progress)
    with timed(seconds, "training"):
        head = _fit(loop, labels, embeddings, None)
    return _with_head(version, state, body_key(state), head, embeddings)


def _with_head(
    version: str, body: State, key: str, head: Head, embeddings: PoolEmbeddings
) -> Candidate:
    return Candidate(
        version,
        body | {HEAD_WEIGHT: head.weight, HEAD_BIAS: head.bias},
        key,
        head.probs(embeddings.validation),
        head.probs(embeddings.test),
        lambda: (head.probs(embeddings.pool), None),
    )


def _start(loop: Loop, current: Meta) -> Head | None:
    """The last layer in service, which is only where the fit begins."""
    try:
        state = loop.registry.load_own_state(current.version)
    except BrokenVersionError as error:
        log.warning("fitting a head from nothing: %s", error)
        return None
    return Head(state[HEAD_WEIGHT], state[HEAD_BIAS])


def _fit(loop: Loop, labels: LabeledImages, embeddings: PoolEmbeddings, start: Head | None) -> Head:
    rows = embeddings.pool[loop.pool.positions(labels.image_ids)]
    return fit_head(rows, labels.classes, len(loop.pool.classes), start, labels.weights)


def _keep(
    loop: Loop,
    labels: LabeledImages,
    names: Sequence[str],
    candidate: Candidate,
    seconds: dict[str, float],
) -> Meta | None:
    """Save a candidate, and promote it unless it is worse; None for a head that came too late."""
    version = candidate.version
    if not (np.isfinite(candidate.validation).all() and np.isfinite(candidate.test).all()):
        raise TrainingError(
            f"the probabilities of {version} hold NaN, so it was not kept: check that the weights "
            "it started from (WEIGHTS) are sound, then press Start Training"
        )
    # Weights that no image of this size reaches may be NaN while probabilities are sound.
    if name := tensor_file.find_not_finite(candidate.state):
        raise TrainingError(
            f"training diverged: {name} of {version} holds NaN, so it was not kept: set a larger "
            "IMAGE_SIZE, or press Start Training"
        )
    truth = loop.pool.validation.labels
    temperature = fit_temperature(candidate.validation, truth)
    held_out = rescale(candidate.validation, temperature)
    tested = rescale(candidate.test, temperature)
    validation = evaluate(held_out, truth)
    current = loop.registry.current()
    verdict = _judge(loop, version, current, held_out)
    probs, embeddings = None, None
    if verdict.refused is None:
        with timed(seconds, "scoring the pool"):
            raw, embeddings = candidate.score_pool()
            probs = rescale(raw, temperature)
    # A head may have been promoted during a training, and a training during a head's fit.
    with lock(loop.root, "promote"):
        now = loop.registry.current()
        is_head = body_of(version) != version
        if is_head and (now is None or now.body != body_of(version)):
            log.info("%s came too late: another body is in service", version)
            return None
        if now != current and verdict.refused is None:
            current = now
            verdict = _judge(loop, version, now, held_out)
        per_class = Counter(map(int, labels.classes))
        meta = loop.registry.save(
            candidate.state,
            Meta(
                version=version,
                round=round_of(version),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                parent=current.version if current else None,
                classes=tuple(names),
                image_size=current.image_size if is_head and current else loop.recipe.image_size,
                pool=loop.pool.name,
                weights=loop.weights,
                strategy=loop.strategy,
                labels=len(labels.image_ids),
                labels_per_class={name: per_class[i] for i, name in enumerate(names)},
                labels_fingerprint=labels.fingerprint,
                left_out=labels.left_out,
                validation=validation,
                test=evaluate(tested, loop.pool.test.labels) if len(tested) else None,
                refused=verdict.refused,
                gate=verdict.gate,
                calibration=Calibration(
                    temperature=temperature,
                    error_before=expected_calibration_error(candidate.validation, truth),
                    error_after=expected_calibration_error(held_out, truth),
                    test_error_after=(
                        expected_calibration_error(tested, loop.pool.test.labels)
                        if len(tested)
                        else None
                    ),
                ),
                seconds=seconds,
                torch=torch.__version__,
                device=str(loop.device),
                body_key=candidate.body_key,
            ),
        )
        pool_scores.save_validation_probs(loop.root, version, truth, held_out)
        if probs is not None and verdict.refused is None:
            # Before it is promoted: whoever reads `current` finds the pool's scores beside it.
            pool_scores.save_pool_probs(loop.root, version, loop.pool.image_ids, probs)
            if embeddings is not None:
                pool_scores.save_embeddings(
                    loop.own_embeddings,
                    candidate.body_key,
                    meta.image_size,
                    loop.pool.image_ids,
                    embeddings,
                )
            loop.registry.promote(version)
        _prune(loop)
    log.info(
        "%s: %d labels, %.1f %%%s",
        version,
        meta.labels,
        100 * validation.accuracy,
        f", not promoted: {meta.refused}" if meta.refused else "",
    )
    return meta


def _prune(loop: Loop) -> None:
    """Delete what is long superseded; what is in the way puts that off and costs no training."""
    root = loop.root
    announced_at = pruning.read_announcement(root)
    named = loop.project.model_versions
    try:
        found = pruning.prune(root, loop.keep_versions, named, announced_at, datetime.now(UTC))
        if found != announced_at:
            pruning.write_announcement(root, found)
    except (LabelStudioError, ModelFolderError) as error:
        log.warning("pruning old versions waits for the next one: %s", error)


def _judge(loop: Loop, version: str, current: Meta | None, probs: Probs) -> Verdict:
    """Judge a candidate's validation probabilities by those of the version in service.

    A head is also compared with its body's own version: many small steps down are a long way.
    """
    references = [] if current is None else [current]
    if current is not None and body_of(version) == current.body != current.version:
        references.append(loop.registry.read_meta(current.body))
    labels = loop.pool.validation.labels
    right = {meta.version: _kept_or_recalled(loop, meta) == labels for meta in references}
    verdict = judge(probs.argmax(axis=1) == labels, right)
    if verdict.gate is not None and verdict.gate.note:
        log.warning("%s", verdict.gate.note)
    return verdict


def _kept_or_recalled(loop: Loop, meta: Meta) -> Labels:
    """Return a version's favourite class for each validation image."""
    validation = loop.pool.validation
    probs = pool_scores.load_validation_probs(loop.root, meta.version, validation.labels)
    if probs is None:  # it was made for another split, or before these were kept
        phase = "validating the version in service"
        probs = _recall(loop, meta, validation.images, phase, lambda *_: None)
    return probs.argmax(axis=1)


def _kept_embeddings(loop: Loop, key: str, image_size: int) -> PoolEmbeddings | None:
    for folder in (loop.own_embeddings, loop.shared_embeddings):
        kept = pool_scores.load_embeddings(folder, key, image_size, loop.pool.image_ids)
        if kept is not None and _is_of(kept, loop.pool):
            return kept
    return None


def _is_of(kept: PoolEmbeddings, pool: Pool) -> bool:
    """Whether embeddings have a row for each of the pool's images, as wide as our network's."""
    width = resnet.shapes()[HEAD_WEIGHT][1]
    lengths = (len(pool.image_ids), len(pool.validation.labels), len(pool.test.labels))
    return all(
        rows.shape == (length, width)
        for rows, length in zip(vars(kept).values(), lengths, strict=True)
    )


def _embed(
    loop: Loop, state: Mapping[str, Tensor], image_size: int, progress: Progress
) -> PoolEmbeddings:
    splits = (loop.pool.images, loop.pool.validation.images, loop.pool.test.images)
    phase = "embedding the pool"
    embeddings = [
        _score(loop, state, image_size, images, phase, progress).embeddings for images in splits
    ]
    if not all(np.isfinite(rows).all() for rows in embeddings):
        raise TrainingError(
            "the embeddings of the pool hold NaN or infinite numbers: put another version in "
            "service, or check that WEIGHTS are sound"
        )
    return PoolEmbeddings(*embeddings)


def _recall(loop: Loop, meta: Meta, images: Images, phase: str, progress: Progress) -> Probs:
    """What a version that is on disk makes of images; NoModelError where that is no numbers."""
    state = _tensors(loop.registry.load_state(meta.version))
    probs = _score(loop, state, meta.image_size, images, phase, progress).probs
    if not np.isfinite(probs).all():
        raise pool_scores.nan_error(meta.version)
    return probs


def _score(
    loop: Loop,
    state: Mapping[str, Tensor],
    image_size: int,
    images: Images,
    phase: str,
    progress: Progress,
) -> Outputs:
    return predict(
        load_model(state, len(loop.pool.classes), loop.device),
        images,
        image_size=image_size,
        device=loop.device,
        on_batch=lambda done, total: progress(phase, done, total),
    )


def _tensors(state: State) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}
