"""Query the next batch: choose its images and create their tasks."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from backend.asking.query import resolve, select
from backend.base.arrays import Probs, Scores
from backend.base.image_ids import task_id_of_image
from backend.base.labeling import ACCEPTANCE, VALIDATION, Asked, NewTask, Prediction
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName, StrategyName
from backend.labelstudio import task_data
from backend.rounds.decide import batch_is_due, batch_size
from backend.rounds.finish import choose_acceptance_images
from backend.rounds.foreign_tasks import adopt_tasks
from backend.rounds.loop import Loop, push_lock
from backend.rounds.measuring import measure_again
from backend.rounds.observe import count_at_work, read_changes, read_everything_changed
from backend.rounds.ordering import (
    likeliest,
    make_prediction,
    record_open_images,
    show_open,
    switch,
    without_guess,
)
from backend.rounds.scoring import find_candidates
from backend.rounds.second_opinions import reopen_all, reopen_doubtful
from backend.rounds.task_images import show_images
from backend.rounds.tasks_without_guess import record_random, task_without_guess
from backend.rounds.validation import (
    adopt_answers,
    ask_sample_again,
    choose_sample_images,
    open_for_two,
    with_validation,
)
from backend.store.version_meta import UNTRAINED, Meta

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Images to query, most informative first, with the model's probabilities for them."""

    image_ids: tuple[str, ...]
    confidences: Scores  # (images,), the lowest is queried first
    strategy: ResolvedName
    version: Meta | None
    probs: Probs | None  # (images, classes), or None without a model
    # Images that another strategy chose because a class has no label yet, with that strategy.
    chosen_by: Mapping[str, ResolvedName] = field(default_factory=dict)

    @property
    def version_name(self) -> str:
        """Return the name under which the batch's predictions are imported."""
        return self.version.version if self.version else UNTRAINED


def top_up(
    loop: Loop, *, is_new_version: bool = False, progress: Progress = lambda *_: None
) -> int:
    """Query the next batch if one is due, and request second opinions according to OVERLAP.

    Returns the number of new tasks.
    """
    # A round ends once its batch has been queried.
    rounds_done = loop.registry.last_round() - is_new_version
    overlap = loop.overlap
    with push_lock(loop):
        read_everything_changed(loop.project, loop.store)
        adopt_tasks(loop.pool, loop.store)
        found: dict[str, float] = {}
        if loop.validation_labels:
            found["sample_asked_again"] = loop.store.facts().revision
            if loop.is_attached:
                adopt_answers(loop)
            ask_sample_again(loop)
        pushed = 0
        n_at_work = count_at_work(loop.store, is_attached=loop.is_attached)
        size = batch_size(loop.settings, n_at_work)
        if overlap in ("2", "3"):
            found["looked_for_again"] = loop.store.facts().revision
            reopen_all(loop, int(overlap), size)
        accepted = choose_acceptance_images(loop, size)
        is_due = batch_is_due(
            loop.settings, size, loop.store.n_open(), rounds_done, is_new_version=is_new_version
        )
        if is_due or accepted:
            n_again = 0
            if overlap == "auto" and is_due and not accepted:
                n_again = reopen_doubtful(loop, size, progress)
            n_others = max(0, size - n_again - len(accepted)) if is_due else 0
            pushed = query(loop, n_others, progress, accepted)
            found["exhausted_at"] = 0.0 if pushed or n_again else time.time()
        loop.store.record_success("top_up", **found)
    measure_again(with_validation(loop), progress)
    return pushed


def query(
    loop: Loop,
    count: int,
    progress: Progress = lambda *_: None,
    accepted: Sequence[str] = (),
) -> int:
    """Query `count` images, including validation images, and the images `accepted` of the
    acceptance sample; return how many were queried.

    The caller must hold the push lock and must have read the latest changes.
    """
    sample = choose_sample_images(loop, count)
    batch = choose_batch(loop, count - len(sample), loop.strategy, progress)
    if lacking := count - len(sample) - len(batch.image_ids):
        # Few other images are left, so one in five new tasks would never complete the sample.
        sample = choose_sample_images(loop, len(sample) + lacking, is_rest=True)
    version = loop.registry.current()
    without_guess = record_random(accepted, ACCEPTANCE, version)
    return push(loop, batch, [*without_guess, *record_random(sample, VALIDATION, version)])


def choose_batch(
    loop: Loop, count: int, strategy: StrategyName, progress: Progress = lambda *_: None
) -> Batch:
    """Choose the `count` most informative images that have no task yet.

    While a class that joined the project later has no label, half of the images are typical ones,
    because a model is not uncertain about a class that it does not know. The caller must hold the
    push lock and must have read the latest changes. Before the first version exists, strategies
    that need a model choose at random.
    """
    tasks = loop.store.tasks()
    if not loop.is_attached:
        _delete_copies(loop)
    of_sample = {task.task_id for task in loop.store.validation_tasks()}
    asked = {loop.pool.canonical(t.image_id) for t in tasks if t.task_id not in of_sample}
    excluded = asked | loop.gone_images() | loop.reserved_images()
    rows = [row for row, image_id in enumerate(loop.pool.image_ids) if image_id not in excluded]
    version = loop.registry.current()
    resolved = resolve(strategy, n_asked=len(asked), n_classes=len(loop.classes.current))
    if resolved == "typiclust" or version is None or not lacks_labels(loop):
        return _choose(loop, version, resolved, rows, asked, count, progress)
    typical = _choose(loop, version, "typiclust", rows, asked, count // 2, progress)
    chosen = set(typical.image_ids)
    rest = [row for row in rows if loop.pool.image_ids[row] not in chosen]
    others = _choose(loop, version, resolved, rest, asked, count - len(chosen), progress)
    return _join(typical, others)


def lacks_labels(loop: Loop) -> bool:
    """Return whether a class that joined after the first version has no label yet.

    Classes that existed from the start are ignored: some, such as "unsure", may never be used.
    """
    n_first = min((len(meta.classes) for meta in loop.registry.versions()[0]), default=0)
    labeled = {loop.classes.spell(label) for label in loop.store.label_counts()}
    return not labeled.issuperset(set(loop.classes.current) & set(loop.names[n_first:]))


def _choose(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    count: int,
    progress: Progress,
) -> Batch:
    """Choose `count` images among these rows of the pool with one strategy."""
    candidates = find_candidates(loop, version, strategy, rows, asked, progress)
    query = select(strategy, candidates, count, np.random.default_rng([loop.seed, len(asked)]))
    probs = None
    if candidates.probs is not None:
        chosen = set(query.image_ids)
        row_of = {i: row for row, i in enumerate(candidates.image_ids) if i in chosen}
        probs = candidates.probs[[row_of[image_id] for image_id in query.image_ids]]
    return Batch(query.image_ids, query.confidences, query.strategy, version, probs)


def _join(typical: Batch, others: Batch) -> Batch:
    """Join two batches of one version in the order of their confidences."""
    assert typical.probs is not None
    assert others.probs is not None
    confidences = np.concatenate([typical.confidences, others.confidences])
    order = np.argsort(confidences, kind="stable")
    image_ids = (*typical.image_ids, *others.image_ids)
    return Batch(
        tuple(image_ids[i] for i in order),
        confidences[order],
        others.strategy,
        others.version,
        np.concatenate([typical.probs, others.probs])[order],
        dict.fromkeys(typical.image_ids, typical.strategy),
    )


def push(loop: Loop, batch: Batch, of_sample: Sequence[Asked] = ()) -> int:
    """Create tasks for a batch, and for sampled images that are labeled without a guess; return how
    many were created.

    The tasks of an attached project already exist, so predictions are added to them instead. As for
    `choose_batch`, the caller must hold the push lock.
    """
    asked = [_asked(batch, row) for row in range(len(batch.image_ids))]
    if not asked and not of_sample:
        if n_waiting := loop.pool.n_waiting:
            log.info("every decoded image has been queried; %d are not decoded yet", n_waiting)
        else:
            log.info("the pool is exhausted: every image has been queried")
        return 0
    began, ordered_by = time.time(), loop.store.facts().ordered_by
    if loop.is_attached:
        pushed = _predict_tasks(loop, batch, asked, of_sample)
    else:
        pushed = _create_tasks(loop, batch, asked, of_sample)
    read_changes(loop.project, loop.store)
    open_for_two(loop, [a.image_id for a in of_sample if a.strategy == VALIDATION])
    if batch.version is not None or loop.is_attached:
        switch(loop, batch.version_name)
    if loop.is_attached and ordered_by in ("", batch.version_name):  # otherwise, a refresh is due
        loop.store.record(ordered_by=batch.version_name)
    elif batch.version is None and loop.store.n_foreign_open():
        loop.store.record(ordered_by="")  # a refresh puts the new tasks before foreign ones
    _show_batch(loop, batch, [of_image.image_id for of_image in of_sample], began)
    by = batch.version.version if batch.version else "no model yet"
    if asked:
        log.info("queried %d images by %s (%s)", len(asked), batch.strategy, by)
    if of_sample:
        log.info("queried %d random images, to be labeled without a guess", len(of_sample))
    return pushed


def _asked(batch: Batch, row: int) -> Asked:
    """Return a record of how an image is queried."""
    version = batch.version
    return Asked(
        image_id=batch.image_ids[row],
        round=version.round if version else 0,
        strategy=batch.chosen_by.get(batch.image_ids[row], batch.strategy),
        version=version.version if version else "",
        confidence=float(batch.confidences[row]),
        probs=() if batch.probs is None else tuple(map(float, batch.probs[row])),
    )


def _create_tasks(
    loop: Loop, batch: Batch, asked: Sequence[Asked], of_sample: Sequence[Asked]
) -> int:
    """Create the tasks of a batch and of sampled images; return their number."""
    image_ids = [of_image.image_id for of_image in (*asked, *of_sample)]
    shown = show_images(loop.pool, loop.project, image_ids, loop.settings)
    new_tasks = [
        _new_task(loop, batch, row, of_image, shown[of_image.image_id])
        for row, of_image in enumerate(asked)
    ]
    new_tasks += [
        task_without_guess(loop, of_image, shown[of_image.image_id]) for of_image in of_sample
    ]
    loop.store.record_asked([*asked, *of_sample])  # before annotators can see the tasks
    return loop.project.import_tasks(new_tasks)


def _predict_tasks(
    loop: Loop, batch: Batch, asked: Sequence[Asked], of_sample: Sequence[Asked]
) -> int:
    """Add predictions to an attached project's tasks for these images, so that Label Studio serves
    these tasks first; return their number.
    """
    # If this process dies before the last step, the next refresh adds what is missing.
    loop.store.record(ordered_by="")
    loop.store.record_asked([*asked, *of_sample])
    predictions = {
        task_id_of_image(of_image.image_id): _prediction(loop, batch, row)
        for row, of_image in enumerate(asked)
    }
    no_guess = without_guess(batch.version_name)
    predictions |= {task_id_of_image(of_image.image_id): no_guess for of_image in of_sample}
    return loop.project.import_predictions(predictions)


def _prediction(loop: Loop, batch: Batch, row: int) -> Prediction:
    """Return the prediction for one image of a batch; without a model, it shows no guess."""
    if batch.probs is None:
        score = float(batch.confidences[row])
        return replace(without_guess(batch.version_name), score=score)
    return make_prediction(batch.probs[row], batch.confidences[row], loop.names, batch.version_name)


def _new_task(loop: Loop, batch: Batch, row: int, asked: Asked, shown: str) -> NewTask:
    """Return the task for one image, with the model's prediction if a model exists."""
    hint, prediction = "asked before there was a model: no guess", None
    if batch.probs is not None:
        probs = batch.probs[row]
        guesses = (f"{name} {100 * p:.0f} %" for name, p in likeliest(probs, loop.names))
        hint = f"{asked.version} guessed when it asked: {', '.join(guesses)}"
        prediction = _prediction(loop, batch, row)
    data = task_data.write_asked(shown, asked, None if loop.settings.blind else hint)
    return NewTask(asked.image_id, data, prediction)


def _show_batch(loop: Loop, batch: Batch, sample: Sequence[str], began: float) -> None:
    """Add new tasks to the recorded open images."""
    still_open = {
        task.image_id for task in loop.store.tasks() if task.is_open or task.awaits_second_opinion
    }
    images = [image for image in loop.store.open_images() if image.image_id in still_open]
    images += [show_open(loop, image_id, None, 0.0) for image_id in sample]
    for row, image_id in enumerate(batch.image_ids):
        probs = None if batch.probs is None else batch.probs[row]
        images.append(show_open(loop, image_id, probs, batch.confidences[row]))
    record_open_images(loop, began, images)


def _delete_copies(loop: Loop) -> None:
    """Delete open tasks for images that have an earlier or an annotated task.

    Such copies exist if a push was killed while Label Studio was still storing its tasks, and
    another push read the tasks before Label Studio had stored them all. They also exist if a person
    exported tasks from the project and imported them again.
    """
    if copies := loop.store.copies():
        log.warning("deleting %d open copies of other tasks", len(copies))
        loop.project.delete_tasks(copies)
        loop.store.forget_tasks(copies, time.time())
