"""Set up a project in Label Studio, step by step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from backend.base.errors import ModelFolderError
from backend.base.labeling import NewTask, match_classes
from backend.base.settings import Settings
from backend.images.pool import Pool, open_pool, seed_labels
from backend.labelstudio import task_data
from backend.labelstudio.client import TITLE_LENGTH, create_project, find_project, label_now_url
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import IMPORT_CHUNK
from backend.labelstudio.project_setup import ProjectSetup
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches
from backend.rounds.accuracy import describe_project
from backend.rounds.loop import open_loop
from backend.store.files import lock
from backend.store.project_record import (
    ProjectRecord,
    known_projects,
    project_root,
    read_record,
    write_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.weights import find_weights
from scripts.console.progress_bars import progress_bar
from scripts.setup.label_config import (
    check_label_config,
    replace_label_config,
    show_or_hide_hints,
    update_review_label_config,
)

FELL_BACK = " (digits: CIFAR-10 could not be had)"
FELL_BACK_SHORT = " (digits)"
WAIT_FOR_ANOTHER_S = 600.0
SEED_HINT = "labeled by the data set: no guess"
INSTRUCTIONS = """\
Press <b>Label All Tasks</b>: it opens the images that the model is least sure of first, and \
reserves each for you while you have it open. Clicking a row of the table, or a link to a task, \
does neither.<br><br>
Every choice shows its key. <b>Ctrl+Enter</b> submits.<br><br>
{guess}If you cannot tell what an image shows, skip it: that is better than a wrong label.
"""
GUESS = """\
The choice that is already selected is the model's guess, on an image that it finds hard. Look \
first, then submit it or choose another. Pressing the key of the guess deselects it.<br><br>
"""
# Projects that still have these former texts get the current ones.
FORMER_INSTRUCTIONS = """\
Press <b>Label All Tasks</b>: it brings the images that the model is least sure of first, and \
keeps each for you while you have it open. A click on a row of the table, or a link to a task, \
does neither.<br><br>
Every choice shows its key. <b>Ctrl+Enter</b> submits.<br><br>
{guess}Skip what you cannot tell: that is better than a wrong answer.
"""
FORMER_GUESS = """\
What is chosen already is the model's guess, on images that it finds hard. Look first; then \
submit it, or choose another. Its own key would take it away.<br><br>
"""


def set_up(settings: Settings, *, label_config: str | None = None) -> int:
    """Find or create the project, add whatever is missing, and return the project's id.

    If the user gives a label config, it replaces the project's.
    """
    settings.require("label_studio_api_key", "webhook_secret", "backend_password")
    steps = SetupSteps(settings)
    # Without the lock, two set-ups at the same time would create two projects.
    with lock(settings.model_dir, "push", WAIT_FOR_ANOTHER_S):
        is_changed = steps.open(label_config)
        project = steps.project
        changes = [
            is_changed,
            project.configure(is_blind=settings.blind),
            show_or_hide_hints(settings, project),
            update_review_label_config(settings, steps.root),
            steps.import_seed_labels(),
            steps.push_first_batch(),
            steps.connect(),
            project.add_order_tab(),
            steps.explain(),
            steps.start_first_training(),
        ]
    print(f"  {label_now_url(settings.browser_url, project.project_id)} -> Label All Tasks")
    if not any(changes):
        print("everything already exists: nothing changed")
    return project.project_id


class SetupSteps:
    """The steps of set-up. Each can be repeated, and returns whether it changed anything."""

    project: ProjectSetup
    root: Path
    record: ProjectRecord
    pool: Pool

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.label_studio = (
            settings.label_studio_url,
            settings.label_studio_api_key.get_secret_value(),
        )

    def open(self, label_config: str | None = None) -> bool:
        """Find or create the project, and record its pool and weights."""
        settings = self.settings
        project_id = find_project(
            *self.label_studio, titles=self._titles(), project_id=self._recorded_id()
        )
        is_new = project_id is None
        earlier = None if project_id is None else self._read_record(project_id)
        chosen = self._choose_pool_and_weights(earlier)
        if label_config is not None:
            check_label_config(label_config, self.pool.classes)
        if project_id is None:
            project_id = create_project(
                *self.label_studio,
                title=self._titles()[1 if chosen["pool_notice"] else 0],
                label_config=label_config
                or label_config_xml(self.pool.classes, has_hint=settings.shows_hints),
            )
            self._read_record(project_id)  # raises if its folder belongs to another Label Studio
        self.project = project = ProjectSetup(*self.label_studio, project_id)
        self.root = project_root(settings.model_dir, project_id)
        is_changed = label_config is not None and replace_label_config(project, label_config)
        match_classes(project.label_config().choices, self.pool.classes)
        self.record = ProjectRecord(
            project_id=project_id,
            title=project.title() if earlier is None else earlier.title,
            label_studio_url=settings.label_studio_url,
            project_created_at=project.created_at(),
            classes=self.pool.classes,
            **chosen,
        )
        if self.record != earlier:
            write_record(self.root, self.record)
        print(
            f'project   "{self.record.title}" (id {project_id}) {"created" if is_new else "found"}'
        )
        return is_changed or self.record != earlier

    def import_seed_labels(self) -> bool:
        """Import SEED_LABELS images with the data set's labels, except images already in a task."""
        # The ranker can already see the project, and must not ask these images meanwhile.
        with lock(self.root, "push"):
            labels = seed_labels(self.pool, self.settings.seed_labels, self.record.seed)
            known = self.project.image_ids() if labels else set()
            choices = match_classes(self.project.label_config().choices, self.pool.classes)
            spelling = dict(zip(self.pool.classes, choices, strict=True))
            hint = None if self.settings.blind else SEED_HINT
            new_tasks = [
                NewTask(
                    image_id=image_id,
                    data=task_data.write_seed(self.pool.data_uri(image_id), image_id, hint),
                    label=spelling[label],
                )
                for image_id, label in labels.items()
                if image_id not in known
            ]
            with progress_bar() as progress:
                for start in range(0, len(new_tasks), IMPORT_CHUNK):
                    progress("importing seed labels", start, len(new_tasks))
                    self.project.import_tasks(new_tasks[start : start + IMPORT_CHUNK])
                progress("importing seed labels", len(new_tasks), len(new_tasks))
        print(f"seeds     {len(labels)} labels from the data set, {len(new_tasks)} of them new")
        return bool(new_tasks)

    def push_first_batch(self) -> bool:
        """Ask for the first images now, so that nobody waits for the first training run.

        The images are random, or typical ones if the strategy looks for typical images.
        """
        if Registry(self.root).last_round():
            return False  # after the first round, the ranker asks
        with progress_bar() as progress:
            project_id = self.project.project_id
            loop = open_loop(self.settings, project_id, self.project, progress=progress)
            pushed = batches.top_up(loop, progress=progress)
        print(f"tasks     {self.project.counts().open} open, {pushed} of them new")
        return bool(pushed)

    def connect(self) -> bool:
        """Connect the webhook and the ML backend, each with its secret."""
        url, user = self.settings.backend_url, self.settings.backend_user
        changed_webhook = self.project.connect_webhook(
            f"{url}/webhook", self.settings.webhook_secret.get_secret_value()
        )
        changed_backend = self.project.connect_backend(
            url, user, self.settings.backend_password.get_secret_value()
        )
        print(f"backend   {url} is connected and receives every annotation")
        return changed_webhook or changed_backend

    def explain(self) -> bool:
        """Write the instructions for annotators and the project's description."""
        ours = {
            text.format(guess=part)
            for text, guess in ((INSTRUCTIONS, GUESS), (FORMER_INSTRUCTIONS, FORMER_GUESS))
            for part in (guess, "")
        }
        has_instructed = self.project.instruct(
            INSTRUCTIONS.format(guess="" if self.settings.blind else GUESS), earlier=ours
        )
        version = Registry(self.root).current()
        has_described = self.project.set_description(describe_project(version))
        return has_instructed or has_described

    def start_first_training(self) -> bool:
        """Request the first training run, unless one has run or nothing is labeled yet."""
        if Registry(self.root).last_round() or not self.project.counts().annotations:
            return False
        store = ProjectStore(self.root)
        is_new = not store.facts().train_asked_at
        if is_new:
            store.record(train_asked_at=time.time())
        queue = TrainingQueue(self.settings.redis_url.get_secret_value())
        is_enqueued = queue.enqueue("retrain", self.project.project_id)
        print(f"training  {'queued' if is_enqueued else 'already queued or running'}")
        return is_new

    def _titles(self) -> tuple[str, str]:
        """Return the project's title, and the title to use if POOL=auto fell back to the digits."""
        title = self.settings.project_title
        suffix = FELL_BACK if len(title + FELL_BACK) <= TITLE_LENGTH else FELL_BACK_SHORT
        return title, title[: TITLE_LENGTH - len(suffix)] + suffix

    def _recorded_id(self) -> int | None:
        """Return the id of the latest recorded project with this title."""
        folder = self.settings.model_dir
        for project_id in reversed(known_projects(folder)):
            record = read_record(project_root(folder, project_id))
            if record is not None and record.title in self._titles():
                return project_id
        return None

    def _read_record(self, project_id: int) -> ProjectRecord | None:
        """Read what an earlier set-up recorded.

        Raises ModelFolderError if that set-up was for another Label Studio.
        """
        root = project_root(self.settings.model_dir, project_id)
        record = read_record(root)
        if record is None:
            return None
        if record.project_created_at != ProjectSetup(*self.label_studio, project_id).created_at():
            raise ModelFolderError(
                f"{root} belongs to project {project_id} of another Label Studio "
                f'("{record.title}", created {record.project_created_at}): '
                "move that folder elsewhere or set MODEL_DIR, then try again"
            )
        return record

    def _choose_pool_and_weights(self, earlier: ProjectRecord | None) -> dict[str, Any]:
        """Open the pool and return the fields to record; earlier choices of `auto` are kept."""
        settings = self.settings
        # The seed draws the held-out splits: another seed would move labeled images into them.
        seed = settings.seed if earlier is None else earlier.seed
        kept = earlier if settings.pool == "auto" else None
        with progress_bar() as progress:
            self.pool = open_pool(
                kept.pool if kept else settings.pool,
                settings.data_dir,
                seed=seed,
                max_pixels=settings.max_image_pixels,
                progress=progress,
            )
            if earlier is not None and settings.weights == "auto":
                weights, weights_notice = earlier.weights, earlier.weights_notice
            else:
                found = find_weights(settings.weights, settings.data_dir, progress=progress)
                weights, weights_notice = found.name, found.notice
        pool = self.pool
        pool_notice = kept.pool_notice if kept else pool.notice
        print(f"pool      {pool.name}: {len(pool.image_ids):,} images, {len(pool.classes)} classes")
        print(f"weights   {weights}")
        for notice in filter(None, (pool_notice, weights_notice)):
            print(f"NOTE      {notice}")
        return {
            "pool": pool.name,
            "weights": weights,
            "seed": seed,
            "pool_notice": pool_notice,
            "weights_notice": weights_notice,
        }
