"""Import labels that were made elsewhere into a project in Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from backend.base.labeling import VALIDATION, NewTask
from backend.base.progress import Progress
from backend.images.pool import rescan
from backend.labelstudio import task_data
from backend.results.import_file import ImportedLabel
from backend.results.import_plan import ImportPlan, KnownTasks, NewLabels, plan_import
from backend.rounds.foreign_tasks import adopt_tasks
from backend.rounds.loop import Loop, push_lock
from backend.rounds.observe import read_changes, read_everything_changed
from backend.rounds.task_images import show_images
from backend.rounds.tasks_without_guess import record_random, task_without_guess

TASKS_AT_ONCE = 250
HINT = "imported: no guess"


def decode_named(loop: Loop, labels: Sequence[ImportedLabel], progress: Progress) -> Loop:
    """Decode the images in the file that have no task yet, and return the loop with them."""
    known = KnownTasks(loop)
    needed = [label.image_id for label in labels if known.task_of(label.image_id) is None]
    if loop.is_attached or not needed:
        return loop
    pool, _ = rescan(
        loop.pool, loop.seed, must_list=False, budget_s=0.0, needed=needed, progress=progress
    )
    return replace(loop, pool=pool)


def import_labels(
    loop: Loop,
    labels: Sequence[ImportedLabel],
    accounts: Mapping[str, int],
    progress: Progress,
) -> int:
    """Import the labels that the project lacks; return their number.

    If the import was interrupted, call this function again to resume it. `accounts` maps emails in
    lower case to annotators.
    """
    plan = plan_import(loop, labels, accounts)
    n_created = create_tasks(loop, plan.new_tasks, progress)
    read_everything_changed(loop.project, loop.store)
    adopt_tasks(loop.pool, loop.store)
    # While tasks were created, the ranker may have queried some of the images.
    plan = plan_import(loop, labels, accounts)
    n_annotated = annotate_tasks(loop, plan, progress)
    read_changes(loop.project, loop.store)
    return n_created + n_annotated


def create_tasks(loop: Loop, new: Mapping[str, NewLabels], progress: Progress) -> int:
    """Create tasks with their labels, except for images that already have a task.

    Returns the number of labels in the new tasks. The tasks are created in chunks, so that the
    ranker never waits for long.
    """
    image_ids, n_labels = [*new], 0
    for start in range(0, len(image_ids), TASKS_AT_ONCE):
        progress("creating tasks", start, len(image_ids))
        chunk = image_ids[start : start + TASKS_AT_ONCE]
        with push_lock(loop):
            read_everything_changed(loop.project, loop.store)
            adopt_tasks(loop.pool, loop.store)
            known = KnownTasks(loop)
            lacking = {i: new[i] for i in chunk if known.task_of(i) is None}
            loop.project.import_tasks([*_tasks(loop, lacking)])
        n_labels += sum(map(len, lacking.values()))
    progress("creating tasks", len(image_ids), len(image_ids))
    return n_labels


def _tasks(loop: Loop, new: Mapping[str, NewLabels]) -> Iterator[NewTask]:
    """Yield the new tasks.

    The task of a validation image states that the image is queried without a guess, so its label is
    used for validation.
    """
    shown = show_images(loop.pool, loop.project, [*new], loop.settings)
    held_out = [image_id for image_id in new if loop.pool.is_in_sample(image_id)]
    of_sample = {
        asked.image_id: task_without_guess(loop, asked, shown[asked.image_id])
        for asked in record_random(held_out, VALIDATION, loop.registry.current())
    }
    hint = None if loop.settings.blind else HINT
    for image_id, labels in new.items():
        is_seed = labels.of_data_set is not None
        write = task_data.write_seed if is_seed else task_data.write_imported
        task = of_sample.get(image_id) or NewTask(image_id, write(shown[image_id], image_id, hint))
        yield replace(task, label=labels.of_data_set, labels_by=labels.by)


def annotate_tasks(loop: Loop, plan: ImportPlan, progress: Progress) -> int:
    """Annotate existing tasks, each in its annotator's name; return how many still existed."""
    n_annotated, n_planned = 0, len(plan.annotations)
    for number, (task_id, annotator, label) in enumerate(plan.annotations):
        progress("annotating tasks", number, n_planned)
        n_annotated += loop.project.annotate(task_id, label, annotator)
    progress("annotating tasks", n_planned, n_planned)
    return n_annotated
