"""Distinguish our tasks from foreign tasks, which people created in a project that we created."""

from __future__ import annotations

from backend.images.pool import Pool
from backend.store.project_store import ProjectStore


def adopt_tasks(pool: Pool, store: ProjectStore) -> None:
    """Count the tasks of the pool's images as ours, no matter who created them.

    Annotations of these images are used for training. The data of a task with imported labels does
    not say that Tightloop created it.
    """
    if not (unknown := store.foreign_images()):
        return
    known = {*pool.known_ids, *pool.sample.image_ids}
    adopted = [i for i in sorted(unknown) if pool.canonical(i) in known or pool.is_in_sample(i)]
    if adopted:
        store.adopt_images(adopted)


def foreign_notice(store: ProjectStore, named_from: int) -> str:
    """Return a notice if at least `named_from` foreign tasks are open, or ""."""
    n_open = store.n_foreign_open()
    if n_open < named_from:
        return ""
    return (
        f"{n_open:,} open tasks were not created by Tightloop, so it does not learn from them. "
        "Label Studio serves these tasks in random order to annotators for whom no task that "
        "Tightloop created is left. To have their images labeled for the model, add the images to "
        "the pool; otherwise, delete the tasks or move them to another project."
    )
