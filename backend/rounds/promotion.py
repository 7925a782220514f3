"""Save a candidate as a version, and promote it unless it is worse than the version in service."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import torch

from backend.base.arrays import Probs
from backend.base.errors import (
    BrokenVersionError,
    LabelStudioError,
    ModelFolderError,
    TrainingError,
)
from backend.measures.calibration import expected_calibration_error, fit_temperature, rescale
from backend.measures.evaluation import MIN_IMAGES, evaluate
from backend.measures.gate import Verdict, judge
from backend.rounds.accuracy import describe_measured
from backend.rounds.cross_validation import estimate_accuracy
from backend.rounds.loop import LabeledImages, Loop, timed
from backend.rounds.measuring import read_progress, sample_labels
from backend.rounds.scoring import validation_probs
from backend.rounds.training import Candidate
from backend.store import model_outputs, pruning, tensor_file
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.files import lock
from backend.store.model_outputs import SampleProbs
from backend.store.version_meta import Calibration, Meta, body_of, round_of

log = logging.getLogger(__name__)


def keep(loop: Loop, labels: LabeledImages, candidate: Candidate) -> Meta | None:
    """Save a candidate, and promote it unless the gate refuses it.

    If another body was promoted while a head was being fitted, discards the head and returns None.
    """
    _check_finite(candidate)
    validation = _labeled(loop, candidate.validation)
    temperature = _fit_temperature(loop, validation)
    before = loop.registry.current()
    earlier = before.cross_validation if before else None
    estimate = estimate_accuracy(loop, labels, earlier, lambda *_: None)
    body = body_of(candidate.version)
    pool_probs: Probs | None = None
    while True:
        current = loop.registry.current()
        if body != candidate.version and (current is None or current.body != body):
            promoted = current.version if current else "no version"
            log.info(
                "discarded %s because %s was promoted during the fit", candidate.version, promoted
            )
            return None
        verdict = _judge(loop, candidate.version, current, validation)
        if verdict.refused is None and pool_probs is None:
            # This takes minutes, during which another version may be promoted.
            with timed(candidate.seconds, "scoring the pool"):
                pool_probs = rescale(candidate.score_pool(), temperature)
        with lock(loop.root, "promote"):
            if loop.registry.current() != current:
                continue  # compare with the version that has just been promoted
            meta = _meta(loop, labels, candidate, temperature, current, verdict)
            meta = meta.model_copy(update={"cross_validation": estimate})
            meta = loop.registry.save(candidate.state, meta)
            held_out_probs = rescale(candidate.validation, temperature)
            _save_scores(loop, meta, held_out_probs, None if meta.refused else pool_probs)
            if meta.refused is None:
                loop.registry.promote(meta.version)
            _prune(loop)
        refusal = f", not promoted: {meta.refused}" if meta.refused else ""
        accuracy = describe_measured(meta.validation, read_progress(loop))
        log.info("%s: %d labels, %s%s", meta.version, meta.labels, accuracy, refusal)
        return meta


def _check_finite(candidate: Candidate) -> None:
    version = candidate.version
    if not (np.isfinite(candidate.validation).all() and np.isfinite(candidate.test).all()):
        raise TrainingError(
            f"the probabilities of {version} contain NaN, so it was not saved: check the weights "
            "in WEIGHTS, then press Start Training"
        )
    # Some weights are not used for images of this size, and may be NaN although all probabilities
    # are finite.
    if name := tensor_file.find_not_finite(candidate.state):
        raise TrainingError(
            f"training diverged: {name} of {version} contains NaN, so it was not saved: set a "
            "larger IMAGE_SIZE, or press Start Training"
        )


def _fit_temperature(loop: Loop, probs: Probs) -> float:
    """Return the temperature that makes the validation labels most likely.

    Returns 1.0 if annotators have given too few labels for a reliable fit.
    """
    labels = loop.pool.validation.labels
    if loop.validation_labels and len(labels) < MIN_IMAGES:
        return 1.0
    return fit_temperature(probs, labels)


def _labeled(loop: Loop, held_out: Probs) -> Probs:
    """Return the rows of the held-out images whose labels are known by now."""
    pool = loop.pool
    if not pool.sample.image_ids:
        return held_out
    row_of = {image_id: row for row, image_id in enumerate(pool.sample.image_ids)}
    return held_out[[row_of[image_id] for image_id in pool.validation.image_ids]]


def _judge(loop: Loop, version: str, current: Meta | None, probs: Probs) -> Verdict:
    """Compare a candidate with the version in service on the validation images.

    A head is also compared with the full version of its body, because small losses add up.
    """
    references = [] if current is None else [current]
    if current is not None and body_of(version) == current.body != current.version:
        references.append(loop.registry.read_meta(current.body))
    labels, n_wanted = loop.pool.validation.labels, loop.validation_labels or None
    if not len(labels) and n_wanted is None:
        return Verdict(None, None)
    right = {m.version: validation_probs(loop, m).argmax(axis=1) == labels for m in references}
    probs = loop.classes.align(probs)
    verdict = judge(probs.argmax(axis=1) == labels, right, n_wanted)
    if verdict.gate is not None and verdict.gate.note:
        # If annotators label the validation images, a project always begins without labels.
        log.log(logging.WARNING if n_wanted is None else logging.INFO, "%s", verdict.gate.note)
    return verdict


def _meta(
    loop: Loop,
    labels: LabeledImages,
    candidate: Candidate,
    temperature: float,
    parent: Meta | None,
    verdict: Verdict,
) -> Meta:
    version = candidate.version
    validated, tested = loop.pool.validation.labels, loop.pool.test.labels
    raw = _labeled(loop, candidate.validation)
    validation = loop.classes.align(rescale(raw, temperature))
    test = loop.classes.align(rescale(candidate.test, temperature))
    view = parent.view if body_of(version) != version and parent else loop.view
    per_class = Counter(map(int, labels.classes))
    return Meta(
        version=version,
        round=round_of(version),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=parent.version if parent else None,
        classes=loop.names,
        image_size=view.image_size,
        framing=view.framing,
        pool=loop.pool.name,
        weights=_weights(loop, candidate.start),
        strategy=loop.strategy,
        labels=len(labels.image_ids),
        labels_per_class={
            name: per_class[i] for i, name in enumerate(loop.names) if name in loop.classes.current
        },
        labels_fingerprint=labels.fingerprint,
        left_out=labels.left_out,
        validation=evaluate(validation, validated) if len(validated) else None,
        test=evaluate(test, tested) if len(tested) else None,
        refused=verdict.refused,
        gate=verdict.gate,
        calibration=Calibration(
            temperature=temperature,
            error_before=expected_calibration_error(raw, validated),
            error_after=expected_calibration_error(validation, validated),
            test_error_after=expected_calibration_error(test, tested) if len(test) else None,
        )
        if len(validated) >= (MIN_IMAGES if loop.validation_labels else 1)
        else None,
        seconds=candidate.seconds,
        torch=torch.__version__,
        device=str(loop.device),
        body_key=candidate.body_key,
        start=candidate.start,
    )


def _weights(loop: Loop, start: str) -> str:
    """Return the pre-trained weights that a version comes from.

    If WEIGHTS was changed after the body was adapted, these are not the project's weights.
    """
    if start in ("", PRETRAINED):
        return loop.weights
    try:
        return Bodies(loop.root).pretrained_weights(start)
    except BrokenVersionError as error:
        log.warning("cannot tell which weights %s was made from: %s", start, error)
        return loop.weights


def _save_scores(
    loop: Loop,
    meta: Meta,
    held_out_probs: Probs,
    pool_probs: Probs | None,
) -> None:
    """Cache a version's scores before its promotion, because readers of `current` expect them."""
    root, pool = loop.root, loop.pool
    if pool.sample.image_ids:
        sample = SampleProbs(
            pool.sample.image_ids, held_out_probs, sample_labels(pool, pool.sample.image_ids)
        )
        model_outputs.save_sample_probs(root, meta.version, sample)
    elif len(pool.validation.labels):
        labels = pool.validation.labels
        model_outputs.save_validation_probs(root, meta.version, labels, held_out_probs)
    if pool_probs is not None:
        model_outputs.save_pool_probs(root, meta.version, pool.image_ids, pool_probs)


def _prune(loop: Loop) -> None:
    """Delete the weights of old versions; if this fails, the next round tries again."""
    now = datetime.now(UTC)
    try:
        versions = loop.project.model_versions
        pruning.prune(loop.root, loop.own_embeddings, loop.settings.keep_versions, versions, now)
    except (LabelStudioError, ModelFolderError) as error:
        log.warning("postponed pruning old versions: %s", error)
