"""The loop, told top to bottom: train a round, put it in service, ask what it is least sure of.

`LabelingProject` stands for Label Studio; a simulation puts an oracle in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backend import registry
from backend.acquisition import ACQUISITIONS, Probs
from backend.errors import TooFewLabelsError
from backend.labels import annotator_figures, read_labels
from backend.labelstudio import (
    CLOCK_SKEW,
    OUR_DESCRIPTION,
    Annotation,
    NewTask,
    Prediction,
    Task,
    kept_annotations,
    match_classes,
    what_was_answered,
)
from backend.learning_curve import outlook, outlook_sentence
from backend.loop import LabelingProject, Loop
from backend.progress import Progress
from backend.query import (
    Candidates,
    Query,
    batch_is_due,
    needs_embeddings,
    needs_model,
    rank,
    resolve,
    select,
)
from backend.second_opinions import (
    Answered,
    active_annotators,
    find_answered,
    most_doubtful,
    too_few,
    was_answered_twice,
)
from backend.status import NO_MODEL, in_service
from backend.strategy_names import ResolvedName, StrategyName
from backend.version_meta import VERSION_NAME, Meta
from backend.versions import (
    embeddings_of,
    fit_head_version,
    has_pretrained_body,
    pool_probs,
    pretrained_body,
    train_version,
)

log = logging.getLogger(__name__)

GUESSES_SHOWN = 3


def train_round(loop: Loop, *, is_forced: bool, progress: Progress) -> Meta | None:
    """One turn: read, train, measure, keep, promote, re-order the open tasks, ask the next images.

    The new version's metadata comes back, or None where there is none: the labels are those of the
    last version and nobody asked for a training. With TRAIN=head only the first version is a full
    one. Raises TooFewLabelsError while there is nothing to train on.
    """
    current = registry.current(loop.root)
    body = current.body if current is not None and loop.train == "head" else None
    meta = None
    with registry.hold(loop.root, "head") if body else nullcontext():
        progress("reading annotations", 0, 0)
        began = datetime.now(UTC)
        annotations = loop.project.annotations()
        registry.write_answers(loop.root, began, annotations)
        names = match_classes(loop.project.label_config().choices, loop.pool.classes)
        reading = read_labels(loop, annotations, names, progress)
        labels = reading.labels
        people = loop.project.people()
        registry.write_annotators(loop.root, annotator_figures(annotations, reading, names, people))
        if is_forced or not _is_learned(loop.root, labels.fingerprint, body):
            try:
                make = fit_head_version if body else train_version
                meta = make(loop, labels, names, progress)
            except TooFewLabelsError:
                registry.write_seen(loop.root, what_was_answered(annotations))
                raise
    if meta is not None and (ahead := outlook(registry.versions(loop.root)[0])) is not None:
        log.info("%s", outlook_sentence(ahead))
    progress("re-ordering open tasks", 0, 0)
    refresh_predictions(loop, progress)
    top_up(loop, is_new_version=meta is not None, progress=progress)
    registry.write_seen(loop.root, what_was_answered(annotations))
    return meta


def refit_head(loop: Loop, progress: Progress = lambda *_: None) -> Meta | None:
    """The short turn between two rounds: a new head from all labels so far, and a new order.

    None before the first version, where no label is new, and where a training was faster.
    """
    current = registry.current(loop.root)
    if current is None:
        return None
    with registry.hold(loop.root, "head"):
        names = match_classes(loop.project.label_config().choices, loop.pool.classes)
        labels = read_labels(loop, _changed_annotations(loop), names).labels
        if _is_learned(loop.root, labels.fingerprint, current.body):
            return None
        meta = fit_head_version(loop, labels, names, progress)
    refresh_predictions(loop, progress)
    return meta


def top_up(
    loop: Loop, *, is_new_version: bool = False, progress: Progress = lambda *_: None
) -> int:
    """Ask the next batch if one is due, part of it as second opinions where OVERLAP wants that; the
    number of new tasks comes back.
    """
    # A round is done when it has asked its own batch.
    rounds_done = registry.last_round(loop.root) - is_new_version
    with registry.hold(loop.root, "push"):
        if loop.overlap in ("2", "3"):
            _ask_everything_again(loop, int(loop.overlap))
        if not batch_is_due(
            loop.project.counts().open,
            loop.batch_size,
            rounds_done,
            loop.rounds,
            is_new_version=is_new_version,
        ):
            return 0
        tasks = loop.project.tasks()
        n_again = _ask_doubtful_again(loop, tasks, progress) if loop.overlap == "auto" else 0
        batch = choose_batch(loop, loop.batch_size - n_again, loop.strategy, progress, tasks)
        return push(loop, batch)


def _ask_everything_again(loop: Loop, n_answers: int) -> None:
    """Open answered tasks to other people, the oldest first and so many that nobody has to wait."""
    waiting = [task for task in loop.project.open_tasks() if task.is_again]
    annotations = _changed_annotations(loop)
    n_free = 2 * loop.batch_size - _n_servable(waiting, annotations)
    if n_free <= 0:
        return
    answered = _answered(loop, annotations, waiting)
    if has_pretrained_body(loop):
        # The version in service has learned the first answer: wait for an opinion that has not.
        names = match_classes(loop.project.label_config().choices, loop.pool.classes)
        probs = read_labels(loop, annotations, names).probs
        answered = [task for task in answered if task.image_id in probs]
    _ask_again(loop, too_few(answered, n_answers)[:n_free])


def _answered(
    loop: Loop, annotations: Mapping[int, Sequence[Annotation]], waiting: Sequence[Task]
) -> list[Answered]:
    there = {task.task_id for task in waiting}
    found = find_answered(annotations, set(loop.pool.image_ids))
    return [task for task in found if task.task_id not in there]


def _n_servable(waiting: Sequence[Task], annotations: Mapping[int, Sequence[Annotation]]) -> int:
    return sum(not was_answered_twice(annotations.get(task.task_id, ())) for task in waiting)


def _ask_doubtful_again(loop: Loop, tasks: Sequence[Task], progress: Progress) -> int:
    """Open answered tasks to other people where that is worth more than new images; how many."""
    version = registry.current(loop.root)
    waiting = [task for task in tasks if task.is_again]
    annotations = _changed_annotations(loop)
    n_free = loop.batch_size - _n_servable(waiting, annotations)
    active = active_annotators(annotations)
    answered = _answered(loop, annotations, waiting)
    if version is None or n_free <= 0 or len(active) < 2 or not answered:
        return 0
    names = match_classes(loop.project.label_config().choices, loop.pool.classes)
    reading = read_labels(loop, annotations, names)
    asked = {task.image_id for task in tasks}
    rows = [row for row, i in enumerate(loop.pool.image_ids) if i not in asked]
    new_probs = pool_probs(loop, version, progress)[rows]
    chosen = most_doubtful(answered, reading.answers, reading.probs, new_probs, active, n_free)
    _ask_again(loop, chosen)
    return len(chosen)


def _ask_again(loop: Loop, chosen: Sequence[Answered]) -> None:
    if not chosen:
        return
    for task in chosen:
        loop.project.ask_again(task.task_id, task.n_people + 1)
    _refresh(loop)  # people get only tasks with a prediction of the version in service
    log.info("asked %d images again, for a second opinion", len(chosen))


@dataclass(frozen=True)
class Batch:
    """Images about to be asked, most informative first, and what the model thinks of them."""

    image_ids: tuple[str, ...]
    confidences: np.ndarray[Any, np.dtype[np.float32]]  # (images,), low = ask first
    strategy: ResolvedName
    version: Meta | None
    probs: Probs | None  # (images, classes), None without a model


def choose_batch(
    loop: Loop,
    count: int,
    strategy: StrategyName,
    progress: Progress = lambda *_: None,
    tasks: Sequence[Task] | None = None,
) -> Batch:
    """The `count` most informative of the images in no task yet; hold the push lock around it.

    Before there is a version, strategies that need its probabilities choose at random. `tasks` are
    the project's, where they have just been read.
    """
    tasks = loop.project.tasks() if tasks is None else tasks
    _delete_twins(loop.project, tasks)
    asked = {task.image_id for task in tasks}
    rows = [row for row, i in enumerate(loop.pool.image_ids) if i not in asked]
    version = registry.current(loop.root)
    resolved = resolve(strategy, n_asked=len(asked), n_classes=len(loop.pool.classes))
    candidates = _candidates(loop, version, resolved, rows, asked, progress)
    rng = np.random.default_rng([loop.seed, len(asked)])
    query = select(resolved, candidates, count, rng)
    return _batch(query, candidates, version)


def _candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: set[str],
    progress: Progress,
) -> Candidates:
    """What is known of the pool's images in `rows`, as far as the strategy needs it."""
    embeddings = None
    if needs_embeddings(strategy):
        if version is not None:
            embeddings = embeddings_of(loop, version, progress)[1].pool
        elif has_pretrained_body(loop) and not needs_model(strategy):
            embeddings = pretrained_body(loop, progress)[1].pool
    of_asked = [row for row, i in enumerate(loop.pool.image_ids) if i in asked]
    return Candidates(
        image_ids=[loop.pool.image_ids[row] for row in rows],
        probs=None if version is None else pool_probs(loop, version, progress)[rows],
        embeddings=None if embeddings is None else embeddings[rows],
        asked=None if embeddings is None else embeddings[of_asked],
    )


def _batch(query: Query, candidates: Candidates, version: Meta | None) -> Batch:
    probs = None
    if candidates.probs is not None:
        row_of = {image_id: row for row, image_id in enumerate(candidates.image_ids)}
        probs = candidates.probs[[row_of[image_id] for image_id in query.image_ids]]
    return Batch(query.image_ids, query.confidences, query.strategy, version, probs)


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
                **_asked(batch, row, names, is_blind=loop.is_blind),
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
    began = datetime.now(UTC)
    pushed = loop.project.import_tasks(new_tasks)
    if batch.version is not None:
        _switch(loop.project, batch.version.version)
    still_open = {task.image_id for task in loop.project.open_tasks()}
    known = registry.read_open_images(loop.root)
    before = [i for i in (known.images if known else ()) if i.image_id in still_open]
    asked = [
        _open_image(
            loop,
            image_id,
            None if batch.probs is None else batch.probs[row],
            batch.confidences[row],
            names,
        )
        for row, image_id in enumerate(batch.image_ids[: registry.OPEN_IMAGES_KEPT])
    ]
    _note_open(loop, began, [*before, *asked])
    log.info(
        "asked %d images by %s (%s)",
        pushed,
        batch.strategy,
        batch.version.version if batch.version else "no model yet",
    )
    return pushed


def refresh_predictions(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Give every open task the prediction of the version in service, then switch the order to it,
    and the project's description.

    Tasks that have it already are left alone, so that a call that died half-way can be repeated.
    """
    with registry.hold(loop.root, "push"):
        refreshed = _refresh(loop, progress)
        loop.project.describe(description(registry.current(loop.root)))
        return refreshed


def _refresh(loop: Loop, progress: Progress = lambda *_: None) -> int:
    version = registry.current(loop.root)
    if version is None:
        return 0
    in_pool = set(loop.pool.image_ids)
    began = datetime.now(UTC)
    open_tasks = [task for task in loop.project.open_tasks() if task.image_id in in_pool]
    if not open_tasks:
        _note_open(loop, began, [])
        return 0  # Label Studio refuses a version without predictions; the next push switches
    names = match_classes(loop.project.label_config().choices, loop.pool.classes)
    rows = loop.pool.positions([task.image_id for task in open_tasks])
    # Which images were asked says how far the project is; reading them all would take seconds.
    n_asked = loop.project.counts().tasks
    strategy = resolve(loop.strategy, n_asked=n_asked, n_classes=len(loop.pool.classes))
    candidates = _candidates(loop, version, strategy, rows.tolist(), set(), progress)
    rng = np.random.default_rng([loop.seed, version.round])
    confidences = rank(strategy, candidates, rng)
    probs = candidates.probs
    assert probs is not None, "there is a version"
    from_folds = registry.read_fold_probs(loop.root)
    for i, task in enumerate(open_tasks):
        if task.is_again:
            confidences[i] = 0.0  # first: its turn has come by another measure
            # This version has learned the first person's answer: the second shall not see it.
            unbiased = task.asked_probs or from_folds.get(task.image_id, ())
            if len(unbiased) == probs.shape[1]:
                probs[i] = unbiased
    refreshed = loop.project.import_predictions(
        {
            task.task_id: _prediction(probs[i], confidences[i], names, version.version)
            for i, task in enumerate(open_tasks)
            if version.version not in task.versions
        }
    )
    _switch(loop.project, version.version)
    first = np.argsort(confidences, kind="stable")[: registry.OPEN_IMAGES_KEPT]
    shown = [
        _open_image(
            loop,
            open_tasks[i].image_id,
            probs[i],
            confidences[i],
            names,
            is_again=open_tasks[i].is_again,
        )
        for i in first
    ]
    _note_open(loop, began, shown)
    _delete_old_predictions(loop, datetime.now(UTC))
    log.info("%d open tasks re-ordered by %s", len(open_tasks), version.version)
    return refreshed


def _note_open(loop: Loop, read_at: datetime, images: Sequence[registry.OpenImage]) -> None:
    """Keep what is open in the order of asking, for people to see without asking Label Studio."""
    newest = {image.image_id: image for image in images}.values()
    registry.write_open_images(loop.root, read_at, sorted(newest, key=lambda i: i.confidence))


def _open_image(
    loop: Loop,
    image_id: str,
    probs: np.ndarray[Any, np.dtype[np.float32]] | None,
    confidence: np.float32,
    names: Sequence[str],
    *,
    is_again: bool = False,
) -> registry.OpenImage:
    guesses: list[tuple[str, float]] = []
    if probs is not None:
        likeliest = np.argsort(-probs, kind="stable")[:GUESSES_SHOWN]
        guesses = [(names[row], float(probs[row])) for row in likeliest]
    return registry.OpenImage(
        image_id=image_id,
        confidence=float(confidence),
        guesses=tuple(guesses),
        is_again=is_again,
        picture=loop.pool.thumbnail(image_id),
    )


def description(version: Meta | None) -> str:
    """Which version is in service, for people who look at the project in Label Studio."""
    round_, model = 0, NO_MODEL
    if version is not None:
        round_ = version.round
        model = in_service(version.version, version.validation, version.labels)
    return f"{OUR_DESCRIPTION} {round_}: {model}. Press Label All Tasks."


def _changed_annotations(loop: Loop) -> dict[int, list[Annotation]]:
    """All annotations, of which only those are asked for that changed since the last reading.

    A deleted task just vanishes: the next training, which reads all, takes note of it.
    """
    began = datetime.now(UTC)
    kept = registry.read_answers(loop.root)
    known = None if kept is None else kept_annotations(kept[1])
    if kept is None or known is None:
        annotations = loop.project.annotations()
    else:
        annotations = known | loop.project.annotations(changed_after=kept[0] - CLOCK_SKEW)
    registry.write_answers(loop.root, began, annotations)
    return annotations


def _is_learned(root: Path, fingerprint: str, body: str | None) -> bool:
    """Whether the last full version, or the last one on `body`, was made of these very labels."""
    sound, _ = registry.versions(root)
    made = [meta for meta in sound if (meta.body == body if body else not meta.is_head)]
    return bool(made) and made[-1].labels_fingerprint == fingerprint


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


def _asked(batch: Batch, row: int, names: Sequence[str], *, is_blind: bool) -> dict[str, Any]:
    """How an image was asked, fixed at that moment; `is_blind` leaves out what would hint at the
    answer.
    """
    asked: dict[str, Any] = {
        "asked_round": batch.version.round if batch.version else 0,
        "asked_by": batch.strategy,
        "asked_version": batch.version.version if batch.version else "",
    }
    if not is_blind:
        asked["hint"] = _hint(batch, row, names)
    if batch.probs is None:
        return asked
    probs = batch.probs[row : row + 1]
    asked["asked_probs"] = [round(float(p), 5) for p in probs[0]]
    if not is_blind:
        asked["asked_confidence"] = round(float(probs.max()), 5)
        asked["asked_margin"] = round(float(ACQUISITIONS["margin"](probs)[0]), 5)
        asked["asked_entropy"] = round(float(ACQUISITIONS["entropy"](probs)[0]), 5)
    return asked


def _hint(batch: Batch, row: int, names: Sequence[str]) -> str:
    """What the version that asks an image thinks of it, as the labeling view may show it."""
    if batch.probs is None or batch.version is None:
        return "asked before there was a model: no guess"
    likely = np.argsort(-batch.probs[row], kind="stable")[:GUESSES_SHOWN]
    guesses = ", ".join(f"{names[i]} {100 * batch.probs[row, i]:.0f} %" for i in likely)
    return f"{batch.version.version} guessed when it asked: {guesses}"


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
        if VERSION_NAME.fullmatch(version) and version not in keep:
            loop.project.delete_predictions(version)
