"""The loop, told top to bottom: train a round, put it in service, ask what it is least sure of.

`LabelingProject` stands for Label Studio; a simulation puts an oracle in its place.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backend import registry
from backend.acquisition import ACQUISITIONS, Labels, Probs
from backend.calibration import expected_calibration_error, fit_temperature, rescale
from backend.consensus import Answer, majority_vote
from backend.device import find_device
from backend.errors import PoolError, SettingsError, TooFewLabelsError
from backend.gate import MIN_IMAGES, SIGNIFICANCE, compare
from backend.inference import Images, load_model, predict_probs
from backend.labelstudio import (
    Annotation,
    LabelConfig,
    NewTask,
    Prediction,
    ProjectCounts,
    Task,
    match_classes,
    what_was_answered,
)
from backend.pool import Pool, open_pool
from backend.query import batch_is_due, confidence, select
from backend.settings import Settings
from backend.training import Recipe, evaluate, train
from backend.weights import find_weights

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # phase, done, total


class LabelingProject(Protocol):
    """Where people label; `backend.labelstudio.LabelingProject` is the real one."""

    def label_config(self) -> LabelConfig: ...
    def counts(self) -> ProjectCounts: ...
    def tasks(self) -> list[Task]: ...
    def annotations(self, changed_after: datetime | None = None) -> dict[int, list[Annotation]]: ...
    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int: ...
    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int: ...
    def model_version(self) -> str: ...
    def switch_model_version(self, version: str) -> None: ...
    def model_versions(self) -> list[str]: ...
    def delete_predictions(self, version: str) -> None: ...
    def delete_tasks(self, task_ids: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Loop:
    """One project, and all that its rounds need."""

    root: Path  # its folder of model versions
    project: LabelingProject
    pool: Pool
    weights: str  # which pre-trained weights every training starts from
    data_dir: Path  # where those are cached
    recipe: Recipe
    strategy: str
    batch_size: int
    rounds: int
    is_blind: bool
    task_lock_s: int
    seed: int
    device: torch.device


@dataclass(frozen=True)
class LabeledImages:
    """What people said, ready to train on: rows of the pool with their classes."""

    image_ids: tuple[str, ...]
    classes: np.ndarray[Any, np.dtype[np.int64]]  # (images,), positions in the pool's classes
    left_out: dict[str, int]
    fingerprint: str


def open_loop(settings: Settings, project_id: int, project: LabelingProject) -> Loop:
    """Everything the rounds of a project need, with what its set-up chose."""
    root = registry.project_root(settings.model_dir, project_id)
    record = registry.read_record(root)
    if record is None:
        raise SettingsError(
            f"project {project_id} is not set up in {settings.model_dir}: "
            "run `python -m scripts.setup_project`"
        )
    return Loop(
        root=root,
        project=project,
        pool=open_pool(record.pool, settings.data_dir, seed=record.seed),
        weights=record.weights,
        data_dir=settings.data_dir,
        recipe=Recipe(image_size=settings.image_size),
        strategy=settings.strategy,
        batch_size=settings.batch_size,
        rounds=settings.rounds,
        is_blind=settings.blind,
        task_lock_s=settings.task_lock_s,
        seed=record.seed,
        device=find_device(settings.device),
    )


def read_labels(
    annotations: Mapping[int, Sequence[Annotation]], names: Sequence[str], pool: Pool
) -> LabeledImages:
    """One label per image by majority; what cannot be used is left out and counted.

    `names` are the project's spellings of the pool's classes, in the pool's order.
    """
    class_of = {name: position for position, name in enumerate(names)}
    in_pool = set(pool.image_ids)
    left_out: Counter[str] = Counter()
    answers = []
    for annotation in (a for of_task in annotations.values() for a in of_task):
        if annotation.was_skipped:
            left_out["skipped"] += 1
        elif annotation.label is None:
            left_out["empty"] += 1
        elif annotation.label not in class_of:
            left_out["unknown class"] += 1
        elif annotation.image_id not in in_pool:
            left_out["not of the pool"] += 1
        else:
            answers.append(
                Answer(
                    annotation.image_id,
                    annotation.annotator,
                    annotation.label,
                    annotation.updated_at,
                )
            )
    labels = sorted(majority_vote(answers).items())
    return LabeledImages(
        image_ids=tuple(image_id for image_id, _ in labels),
        classes=np.array([class_of[label] for _, label in labels], dtype=np.int64),
        left_out=dict(left_out),
        fingerprint=hashlib.sha256(repr(labels).encode()).hexdigest(),
    )


def train_round(loop: Loop, *, is_forced: bool, progress: Progress) -> registry.Meta | None:
    """One turn: read, train, measure, keep, promote, re-order the open tasks, ask the next images.

    The new version's metadata comes back, or None where the labels are those of the last version
    and nobody asked for a training. Raises TooFewLabelsError while there is nothing to train on.
    """
    seconds: dict[str, float] = {}
    progress("reading annotations", 0, 0)
    with _timed(seconds, "reading annotations"):
        annotations = loop.project.annotations()
        names = match_classes(loop.project.label_config().choices, loop.pool.classes)
        labels = read_labels(annotations, names, loop.pool)
    meta = None
    if is_forced or not _is_trained_already(loop.root, labels.fingerprint):
        try:
            meta = _train_version(loop, labels, names, progress, seconds)
        except TooFewLabelsError:
            # Read all the same: the clock would take these for annotations that no webhook told.
            registry.write_seen(loop.root, what_was_answered(annotations))
            raise
    progress("re-ordering open tasks", 0, 0)
    refresh_predictions(loop, progress)
    top_up(loop, is_new_version=meta is not None)
    registry.write_seen(loop.root, what_was_answered(annotations))
    return meta


def top_up(loop: Loop, *, is_new_version: bool = False) -> int:
    """Ask the next batch if one is due; the number of new tasks comes back."""
    # A round is done when it has asked its own batch.
    rounds_done = registry.last_round(loop.root) - is_new_version
    with registry.hold(loop.root, "push"):
        if not batch_is_due(
            loop.project.counts().open,
            loop.batch_size,
            rounds_done,
            loop.rounds,
            is_new_version=is_new_version,
        ):
            return 0
        batch = choose_batch(loop, loop.batch_size, loop.strategy)
        return push(loop, batch)


@dataclass(frozen=True)
class Batch:
    """Images about to be asked, most informative first, and what the model thinks of them."""

    image_ids: tuple[str, ...]
    confidences: np.ndarray[Any, np.dtype[np.float32]]  # (images,), low = ask first
    strategy: str
    version: registry.Meta | None
    probs: Probs | None  # (images, classes), None without a model


def choose_batch(
    loop: Loop, count: int, strategy: str, progress: Progress = lambda *_: None
) -> Batch:
    """The `count` most informative of the images in no task yet; hold the push lock around it.

    The first batch, before there is a version, is chosen at random.
    """
    tasks = loop.project.tasks()
    _delete_twins(loop.project, tasks)
    asked = {task.image_id for task in tasks}
    rows = [row for row, i in enumerate(loop.pool.image_ids) if i not in asked]
    candidates = [loop.pool.image_ids[row] for row in rows]
    version = registry.current(loop.root)
    probs = None if version is None else pool_probs(loop, version.version, progress)[rows]
    if version is None:
        strategy = "random"
    rng = np.random.default_rng([loop.seed, len(asked)])
    query = select(strategy, candidates, probs, count, rng)
    chosen = None
    if probs is not None:
        row_of = {image_id: row for row, image_id in enumerate(candidates)}
        chosen = probs[[row_of[image_id] for image_id in query.image_ids]]
    return Batch(query.image_ids, query.confidences, strategy, version, chosen)


def push(loop: Loop, batch: Batch) -> int:
    """Make tasks of a batch, predictions attached; hold the push lock as in `choose_batch`."""
    if not batch.image_ids:
        log.info("the pool is exhausted: every image has been asked")
        return 0
    names = match_classes(loop.project.label_config().choices, loop.pool.classes)
    new_tasks = [
        NewTask(
            image_id=image_id,
            data={
                "image": loop.pool.data_uri(image_id),
                "image_id": image_id,
                **_asked(batch, row, is_blind=loop.is_blind),
            },
            prediction=(
                None
                if batch.probs is None or batch.version is None
                else _prediction(
                    batch.probs[row], batch.confidences[row], names, batch.version.version
                )
            ),
            label=None,
        )
        for row, image_id in enumerate(batch.image_ids)
    ]
    pushed = loop.project.import_tasks(new_tasks)
    if batch.version is not None:
        _switch(loop.project, batch.version.version)
    log.info(
        "asked %d images by %s (%s)",
        pushed,
        batch.strategy,
        batch.version.version if batch.version else "no model yet",
    )
    return pushed


def refresh_predictions(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Give every open task the prediction of the version in service, then switch the order to it.

    Tasks that have it already are left alone, so that a call that died half-way can be repeated.
    """
    with registry.hold(loop.root, "push"):
        version = registry.current(loop.root)
        if version is None:
            return 0
        in_pool = set(loop.pool.image_ids)
        open_tasks = [t for t in loop.project.tasks() if t.is_open and t.image_id in in_pool]
        if not open_tasks:
            return 0  # Label Studio refuses a version without predictions; the next push switches
        names = match_classes(loop.project.label_config().choices, loop.pool.classes)
        rows = loop.pool.positions([task.image_id for task in open_tasks])
        probs = pool_probs(loop, version.version, progress)[rows]
        rng = np.random.default_rng([loop.seed, version.round])
        confidences = confidence(loop.strategy, len(open_tasks), probs, rng)
        refreshed = loop.project.import_predictions(
            {
                task.task_id: _prediction(probs[i], confidences[i], names, version.version)
                for i, task in enumerate(open_tasks)
                if version.version not in task.versions
            }
        )
        _switch(loop.project, version.version)
        _delete_old_predictions(loop, datetime.now(UTC))
    log.info("%d open tasks re-ordered by %s", len(open_tasks), version.version)
    return refreshed


def pool_probs(loop: Loop, version: str, progress: Progress) -> Probs:
    """What a version thinks of the whole pool, (images, classes); kept beside it once computed."""
    kept = registry.load_pool_probs(loop.root, version)
    if kept is not None and kept[0] == loop.pool.image_ids:
        return kept[1]
    meta = registry.read_meta(loop.root, version)
    raw = _score_pool(loop, _load_state(loop, version), meta.image_size, progress)
    probs = rescale(raw, meta.temperature)
    registry.save_pool_probs(loop.root, version, loop.pool.image_ids, probs)
    return probs


def _load_state(loop: Loop, version: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in registry.load_state(loop.root, version).items()}


def _train_version(
    loop: Loop,
    labels: LabeledImages,
    names: Sequence[str],
    progress: Progress,
    seconds: dict[str, float],
) -> registry.Meta:
    per_class: Counter[int] = Counter(map(int, labels.classes))
    if len(per_class) < 2:
        raise TooFewLabelsError(
            f"{len(labels.image_ids)} labels of {len(per_class)} class(es): training starts "
            "when at least two classes are labeled"
        )
    number = registry.last_round(loop.root) + 1
    with _timed(seconds, "training"):
        state = train(
            loop.pool.images[loop.pool.positions(labels.image_ids)],
            labels.classes,
            n_classes=len(loop.pool.classes),
            start=find_weights(loop.weights, loop.data_dir).state,
            recipe=loop.recipe,
            may_flip=loop.pool.may_flip,
            seed=loop.seed,
            device=loop.device,
            on_step=lambda done, total: progress("training", done, total),
        )
    labels_held_out = loop.pool.validation.labels
    if not len(labels_held_out):
        raise PoolError("the pool is too small for a validation split: add images")
    current = registry.current(loop.root)
    with _timed(seconds, "evaluating"):
        image_size = loop.recipe.image_size
        raw = _score(loop, state, loop.pool.validation.images, image_size, "validating", progress)
        temperature = fit_temperature(raw, labels_held_out)
        held_out = rescale(raw, temperature)
        tested = rescale(
            _score(loop, state, loop.pool.test.images, image_size, "testing", progress), temperature
        )
        gate = None if current is None else _compare(loop, current, held_out, progress)
    validation = _measured(held_out, labels_held_out)
    refused = _reason_to_refuse(gate, validation, current)
    probs = None
    if refused is None:
        with _timed(seconds, "scoring the pool"):
            probs = rescale(_score_pool(loop, state, image_size, progress), temperature)
    meta = registry.save(
        loop.root,
        {name: tensor.numpy() for name, tensor in state.items()},
        registry.Meta(
            version=f"r{number:04d}",
            round=number,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            parent=current.version if current else None,
            classes=tuple(names),
            image_size=loop.recipe.image_size,
            pool=loop.pool.name,
            weights=loop.weights,
            strategy=loop.strategy,
            labels=len(labels.image_ids),
            labels_per_class={name: per_class[i] for i, name in enumerate(names)},
            labels_fingerprint=labels.fingerprint,
            left_out=labels.left_out,
            validation=validation,
            test=_measured(tested, loop.pool.test.labels) if len(tested) else None,
            refused=refused,
            gate=gate,
            calibration=registry.Calibration(
                temperature=temperature,
                error_before=expected_calibration_error(raw, labels_held_out),
                error_after=expected_calibration_error(held_out, labels_held_out),
                test_error_after=(
                    expected_calibration_error(tested, loop.pool.test.labels)
                    if len(tested)
                    else None
                ),
            ),
            seconds=seconds,
            torch=torch.__version__,
            device=str(loop.device),
        ),
    )
    registry.save_validation_probs(loop.root, meta.version, labels_held_out, held_out)
    if probs is not None:
        # Kept before it is promoted: whoever reads `current` finds the pool's scores beside it.
        registry.save_pool_probs(loop.root, meta.version, loop.pool.image_ids, probs)
        registry.promote(loop.root, meta.version)
    log.info(
        "round %d: %d labels, %.1f %% (%s%s)",
        number,
        meta.labels,
        100 * validation.accuracy,
        meta.version,
        f", not promoted: {refused}" if refused else "",
    )
    return meta


def _score_pool(
    loop: Loop, state: Mapping[str, Tensor], image_size: int, progress: Progress
) -> Probs:
    return _score(loop, state, loop.pool.images, image_size, "scoring the pool", progress)


def _score(
    loop: Loop,
    state: Mapping[str, Tensor],
    images: Images,
    image_size: int,
    phase: str,
    progress: Progress,
) -> Probs:
    """Probabilities as the model gives them, before its temperature."""
    return predict_probs(
        load_model(state, len(loop.pool.classes), loop.device),
        images,
        image_size=image_size,
        device=loop.device,
        on_batch=lambda done, total: progress(phase, done, total),
    )


def _measured(probs: Probs, labels: Labels) -> registry.Measured:
    return registry.Measured(**asdict(evaluate(probs, labels)))


def _compare(loop: Loop, current: registry.Meta, probs: Probs, progress: Progress) -> registry.Gate:
    """A candidate's validation probabilities against those of the version in service."""
    labels = loop.pool.validation.labels
    before = registry.load_validation_probs(loop.root, current.version, labels)
    if before is None:  # it was made for another split, or before these were kept
        before = _score(
            loop,
            _load_state(loop, current.version),
            loop.pool.validation.images,
            current.image_size,
            "validating the version in service",
            progress,
        )
    found = compare(probs.argmax(axis=1) == labels, before.argmax(axis=1) == labels)
    note = ""
    if len(labels) < MIN_IMAGES:
        note = (
            f"{len(labels)} validation images are too few to compare versions: promoted unchecked"
        )
        log.warning("%s", note)
    return registry.Gate(against=current.version, note=note, **asdict(found))


def _reason_to_refuse(
    gate: registry.Gate | None, validation: registry.Measured, current: registry.Meta | None
) -> str | None:
    if gate is None or current is None or gate.note or gate.p_value >= SIGNIFICANCE:
        return None
    return (
        f"significantly worse than {gate.against} on validation: {validation.accuracy:.1%} against "
        f"{current.validation.accuracy:.1%}; {gate.fell} images fell, {gate.rose} rose "
        f"(p = {gate.p_value:.2g})"
    )


def _is_trained_already(root: Path, fingerprint: str) -> bool:
    sound, _ = registry.versions(root)
    return bool(sound) and sound[-1].labels_fingerprint == fingerprint


def _prediction(
    probs: np.ndarray[Any, np.dtype[np.float32]],
    confidence: np.float32,
    names: Sequence[str],
    version: str,
) -> Prediction:
    favourite = int(probs.argmax())
    return Prediction(
        label=names[favourite],
        probability=float(probs[favourite]),
        score=float(confidence),
        model_version=version,
    )


def _asked(batch: Batch, row: int, *, is_blind: bool) -> dict[str, Any]:
    """How an image was asked, fixed at that moment; `is_blind` leaves out what would hint at the
    answer.
    """
    asked: dict[str, Any] = {
        "asked_round": batch.version.round if batch.version else 0,
        "asked_by": batch.strategy,
        "asked_version": batch.version.version if batch.version else "",
    }
    if batch.probs is None:
        return asked
    probs = batch.probs[row : row + 1]
    asked["asked_probs"] = [round(float(p), 5) for p in probs[0]]
    if not is_blind:
        asked["asked_confidence"] = round(float(batch.confidences[row]), 5)
        asked["asked_margin"] = round(float(ACQUISITIONS["margin"](probs)[0]), 5)
        asked["asked_entropy"] = round(float(ACQUISITIONS["entropy"](probs)[0]), 5)
    return asked


def _delete_twins(project: LabelingProject, tasks: Sequence[Task]) -> None:
    """Delete open tasks whose image an earlier task asks already.

    There are none, unless a push was killed while Label Studio was still storing its tasks and
    another push read the tasks before they were there.
    """
    first_of: dict[str, int] = {}
    twins = []
    for task in sorted(tasks, key=lambda t: (t.is_open, t.task_id)):
        if not task.image_id:  # somebody's own task
            continue
        if first_of.setdefault(task.image_id, task.task_id) != task.task_id and task.is_open:
            twins.append(task.task_id)
    if twins:
        log.warning("deleting %d open tasks that ask an image a second time", len(twins))
        project.delete_tasks(twins)


def _switch(project: LabelingProject, version: str) -> None:
    if project.model_version() != version:
        project.switch_model_version(version)


def _delete_old_predictions(loop: Loop, now: datetime) -> None:
    """Delete predictions of versions at least two back, once no open browser tab can still name
    them.

    A submit names the prediction that it was shown, and a task lock lives `task_lock_s`.
    """
    history = registry.promotions(loop.root)
    keep = {p.version for p in history[:2]}
    still_open = now - timedelta(seconds=loop.task_lock_s)
    # A version was superseded when the one after it (before it in the list) was promoted.
    keep |= {old.version for new, old in pairwise(history) if new.promoted_at > still_open}
    for version in loop.project.model_versions():
        if registry.VERSION_NAME.fullmatch(version) and version not in keep:
            loop.project.delete_predictions(version)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - begin, 2)
