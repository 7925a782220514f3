"""Adapt the body to the pool: train on unlabeled images, then choose the new body as the start.

Only images that annotators may be asked about are used, never validation or test images.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import torch

from backend.base.arrays import Images
from backend.base.errors import AdaptationError, ModelFolderError, TrainingError
from backend.base.progress import Progress
from backend.network.adaptation import Adaptation, AdaptationRecipe
from backend.rounds.adaptation_run import LOOK_EVERY_S, SAVE_EVERY_S, Run
from backend.rounds.adapting_on_cluster import find_cluster_reader, train_on_cluster
from backend.rounds.adapting_rule import share_done
from backend.rounds.body_comparison import compare_bodies
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.start import StartBody, find_start
from backend.rounds.validation import with_validation
from backend.store.adaptation_checkpoint import delete_checkpoint, load_checkpoint
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED, BodyMeta, body_order
from backend.store.files import lock
from backend.store.project_record import check_attached

log = logging.getLogger(__name__)

KILLS_ALLOWED = 3


def adapt_body(
    loop: Loop,
    may_go_on: Callable[[], bool],
    progress: Progress = lambda *_: None,
    clock: Callable[[], float] = time.monotonic,
) -> BodyMeta | None:
    """Adapt the body, and make it the start unless it is worse or a person has chosen the start.

    Calls `may_go_on` every few seconds. If it returns False, saves the unfinished adaptation, so
    that the next call resumes it, and returns None. Raises TrainingError if the training diverges.
    """
    if (unrecorded := _find_unrecorded(loop)) is not None:
        _record(loop, unrecorded)
        return unrecorded
    _count_kills(loop)
    try:
        run = _resume(loop, progress)
        if not _train(loop, run, may_go_on, progress, clock):
            return None
        meta = _finish(loop, run, progress)
    except (TrainingError, AdaptationError):
        delete_checkpoint(loop.root)  # the next attempt starts over
        raise
    except torch.OutOfMemoryError:
        raise AdaptationError(
            f"{loop.device} has too little memory: end other programs that use it, choose a "
            "smaller IMAGE_SIZE, or set ADAPT=off"
        ) from None
    finally:
        loop.store.record(adapt_kills=0)
    _record(loop, meta)
    log.info("%s", describe(meta))
    return meta


def askable_images(loop: Loop) -> tuple[tuple[str, ...], Images]:
    """Return the images that annotators may be asked to label and train on; none is copied."""
    pool = loop.pool
    gone = pool.removed_ids | loop.gone_images()
    if gone.isdisjoint(pool.image_ids):
        return pool.image_ids, pool.images
    image_ids = tuple(image_id for image_id in pool.image_ids if image_id not in gone)
    return image_ids, pool.images_of(image_ids)


def describe(meta: BodyMeta) -> str:
    """Return a sentence for the log about a new body."""
    effect = "could not be compared with its start"
    if (compared := meta.comparison) is not None:
        effect = (
            f"a head on {compared.labels:,} labels reaches {compared.accuracy_after:.1%} instead "
            f"of {compared.accuracy_before:.1%}"
        )
    refusal = f"; not used: {meta.refused}" if meta.refused else ""
    return (
        f"{meta.name}: adapted to {meta.n_images:,} images in {meta.seconds / 60:.1f} minutes "
        f"({meta.passes:.1f} passes); {effect}{refusal}"
    )


def _find_unrecorded(loop: Loop) -> BodyMeta | None:
    """Return the last body if the process was killed after saving it, but before recording it."""
    sound, facts = Bodies(loop.root).all()[0], loop.store.facts()
    if not sound:
        return None
    recorded = facts.adapted_body
    is_new = body_order(sound[-1].name) > body_order(recorded) if recorded else not facts.adapted_at
    return sound[-1] if is_new else None


def _count_kills(loop: Loop) -> None:
    """Raise AdaptationError if the process was killed again and again before saving anything.

    Otherwise, a machine with too little memory would try forever.
    """
    n_kills = loop.store.facts().adapt_kills
    if n_kills >= KILLS_ALLOWED:
        loop.store.record(adapt_kills=0)
        raise AdaptationError(
            f"the trainer was killed {n_kills} times while it adapted the body, perhaps because "
            "memory was full: give it more memory, or set ADAPT=off"
        )
    loop.store.record(adapt_kills=n_kills + 1)


def _resume(loop: Loop, progress: Progress) -> Run:
    """Return the adaptation that was interrupted, or a new one.

    A pool that has changed a little since does not make the work so far useless.
    """
    start = find_start(loop, progress)
    image_ids, images = askable_images(loop)
    recipe = AdaptationRecipe(image_size=loop.recipe.image_size)
    view = loop.view
    made_of = (loop.weights, start.name, recipe, view, loop.pool.name, loop.pool.may_flip)
    fingerprint = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]

    def begin() -> Adaptation:
        return Adaptation(
            images,
            start.tensors,
            recipe=recipe,
            may_flip=loop.pool.may_flip,
            seed=loop.seed,
            device=loop.device,
        )

    new = Run(begin(), start, image_ids, fingerprint, time.time(), len(loop.pool.queryable_ids))
    if (kept := load_checkpoint(loop.root, fingerprint)) is None:
        return new
    state, meta = kept
    try:
        new.adaptation.load_state_dict({n: torch.from_numpy(array) for n, array in state.items()})
    except (AdaptationError, ValueError) as error:  # for example, the pool has become tiny
        log.warning("adapting the body starts over: %s", error)
        return replace(new, adaptation=begin())
    steps, passes = new.adaptation.steps_done, new.adaptation.passes_done
    if share_done(loop.settings.adapt, meta.spent_s, passes) >= 1 and not meta.is_complete:
        log.warning("adapting the body starts over, because ADAPT is now shorter")
        return replace(new, adaptation=begin())
    log.info("resuming after %d steps (%.0f s)", steps, meta.spent_s)
    return replace(
        new,
        began_at=meta.began_at,
        spent_s=meta.spent_s,
        pool_images=meta.pool_images or new.pool_images,
        is_resumed=True,
        is_complete=meta.is_complete,
    )


def _train(
    loop: Loop,
    run: Run,
    may_go_on: Callable[[], bool],
    progress: Progress,
    clock: Callable[[], float],
) -> bool:
    """Train until the time is over; return False if the training was interrupted before that."""
    if run.is_complete:
        return True
    if loop.settings.scale == "ray" and (reader := find_cluster_reader(loop)) is not None:
        return train_on_cluster(loop, run, reader, may_go_on, progress)
    setting = loop.settings.adapt
    before = looked_at = saved_at = clock()
    run.record_progress(loop)
    done = share_done(setting, run.spent_s, run.adaptation.passes_done)
    while done < 1:
        run.adaptation.step(done)
        now = clock()
        run.spent_s, before = run.spent_s + now - before, now
        done = share_done(setting, run.spent_s, run.adaptation.passes_done)
        run.report(loop, progress)
        if done >= 1 or now - looked_at < LOOK_EVERY_S:
            continue
        looked_at = now
        run.record_progress(loop)
        if not may_go_on():
            run.save(loop)
            return False
        if now - saved_at >= SAVE_EVERY_S:
            saved_at = now
            if run.save(loop):
                run.record_saved(loop)
    run.is_complete = True
    run.save(loop)  # so that a kill from now on loses nothing
    run.record_progress(loop)
    return True


def _finish(loop: Loop, run: Run, progress: Progress) -> BodyMeta:
    """Save the new body, with its comparison with the body that it was made from."""
    progress("comparing the bodies", 0, 0)
    tensors = run.adaptation.finish()
    bodies = Bodies(loop.root)
    body = StartBody(bodies.next_name(), tensors)
    labels = read_labels(loop, loop.store.annotations()).labels
    measured = with_validation(loop) if loop.validation_labels else loop
    comparison, refused = compare_bodies(measured, labels, run.start, body, progress)
    recipe = AdaptationRecipe(image_size=loop.recipe.image_size)
    meta = BodyMeta(
        name=body.name,
        created_at=datetime.now(UTC),
        made_from=loop.weights if run.start.name == PRETRAINED else run.start.name,
        pool=loop.pool.name,
        image_size=loop.view.image_size,
        framing=loop.view.framing,
        n_images=len(run.image_ids),
        pool_images=run.pool_images,
        images_fingerprint=hashlib.sha256("\n".join(run.image_ids).encode()).hexdigest()[:16],
        steps=run.adaptation.steps_done,
        batch_size=min(recipe.batch_size, len(run.image_ids)),
        passes=run.adaptation.passes_done,
        seconds=round(run.spent_s, 1),
        torch=torch.__version__,
        device=str(loop.device),
        comparison=comparison,
        refused=refused,
    )
    with lock(loop.root, "promote"):
        check_attached(loop.root)
        return bodies.save({name: tensor.numpy() for name, tensor in tensors.items()}, meta)


def _record(loop: Loop, meta: BodyMeta) -> None:
    """Make a saved body the start, and record that the adaptation is done."""
    bodies, changed = Bodies(loop.root), {}
    with lock(loop.root, "promote"):
        if (chosen := _chosen_by_person(bodies)) is not None:
            log.info("the start is still %s, because a person chose it", chosen)
        elif meta.is_accepted:
            at = bodies.set_start(meta.name, by="loop").chosen_at
            changed = {"start_changed_at": at.timestamp()} if at else {}
    loop.store.record_success(
        "adapt",
        adapted_at=meta.created_at.timestamp(),
        adapted_images=meta.pool_images or len(loop.pool.queryable_ids),
        adapted_body=meta.name,
        adapt_failures=0,
        adapt_error="",
        **changed,
    )
    delete_checkpoint(loop.root)


def _chosen_by_person(bodies: Bodies) -> str | None:
    """Return the start if a person chose it, even if its files are damaged, or None."""
    try:
        start = bodies.start()
    except ModelFolderError:  # the choice itself cannot be read
        return None
    return start.name if start.chosen_by == "person" else None
