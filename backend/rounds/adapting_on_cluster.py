"""Adapt the body on a Ray cluster, whose workers read the images themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from backend.base.progress import Progress
from backend.images.image_reader import ImageReader, find_locations, find_reader
from backend.network.adaptation import AdaptationRecipe
from backend.rounds.adaptation_run import LOOK_EVERY_S, SAVE_EVERY_S, Run
from backend.rounds.adapting_rule import share_done
from backend.rounds.cluster import forget_other_runs
from backend.rounds.loop import Loop


def find_cluster_reader(loop: Loop) -> ImageReader | None:
    """Return what reads the pool's images on the cluster, or None if only this process can."""
    return find_reader(loop.pool, loop.view, loop.settings.image_hosts)


def train_on_cluster(
    loop: Loop, run: Run, reader: ImageReader, may_go_on: Callable[[], bool], progress: Progress
) -> bool:
    """Train until the time is over; return False if the training was interrupted before that.

    While it goes on, its checkpoints are kept by the cluster. Raises ScaleError.
    """
    from backend.scale.adapting import adapt  # imports Ray

    settings = loop.settings
    looked_at = saved_at = time.monotonic()
    wants_more = True

    def look(spent_s: float, passes: float) -> bool:
        nonlocal looked_at, saved_at, wants_more
        now = time.monotonic()
        if spent_s:
            run.spent_s = spent_s
            run.report(loop, progress, passes)
        if now - looked_at >= LOOK_EVERY_S:
            looked_at = now
            run.record_progress(loop, passes or None)
            wants_more = wants_more and may_go_on()
        if spent_s and now - saved_at >= SAVE_EVERY_S:
            saved_at = now
            run.record_saved(loop)
        return wants_more

    run.record_progress(loop)
    name = f"adapting-{run.fingerprint}"
    forget_other_runs(loop.cluster_place, "adapting-", name)
    adapted = adapt(
        reader,
        [at for at in find_locations(loop.pool, run.image_ids) if at is not None],
        start=run.start.tensors,
        resumed=run.adaptation.state_dict() if run.is_resumed else None,
        spent_s=run.spent_s,
        share_done=partial(share_done, settings.adapt),
        recipe=AdaptationRecipe(image_size=loop.recipe.image_size),
        may_flip=loop.pool.may_flip,
        seed=loop.seed,
        device=settings.device,
        address=settings.ray_address,
        place=loop.cluster_place,
        name=name,
        may_go_on=look,
    )
    run.adaptation.load_state_dict(adapted.state)
    run.spent_s, run.is_complete = adapted.spent_s, adapted.is_complete
    run.save(loop)
    run.record_progress(loop)
    return run.is_complete
