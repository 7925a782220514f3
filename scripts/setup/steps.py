"""Set up a project in Label Studio, step by step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from backend.base.labeling import NewTask
from backend.base.settings import Settings
from backend.images.known_labels import seed_labels, true_labels
from backend.images.pool import Pool, rescan
from backend.labelstudio import task_data
from backend.labelstudio.client import label_now_url
from backend.labelstudio.label_config import (
    is_our_label_config,
    label_config_xml,
    parse_label_config,
)
from backend.labelstudio.project_connection import address_of
from backend.labelstudio.project_setup import ProjectSetup
from backend.network.device import find_device
from backend.network.training import Recipe
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches
from backend.rounds.accuracy import describe_project
from backend.rounds.loop import open_loop
from backend.rounds.rescan import record_pool
from backend.rounds.reviews import find_reviews
from backend.rounds.task_images import show_images
from backend.rounds.validation_reading import project_progress
from backend.store.files import lock
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.console.progress_bars import progress_bar
from scripts.setup.checks import make_plan
from scripts.setup.cost import describe_cost, measure_speed
from scripts.setup.label_config import adapt_label_config
from scripts.setup.opening import OpenedProject, Opening
from scripts.setup.request import Request

WAIT_FOR_ANOTHER_S = 600.0
SEEDS_AT_ONCE = 100
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
NO_GUESS = """\
On some images, no choice is selected: these images measure how good the model is.<br><br>
"""
# If a project still has one of these former texts, set-up replaces it with the current text.
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


def set_up(request: Request) -> int:
    """Find or create the project, add whatever is missing, and return the project's id."""
    settings = request.settings
    settings.require("label_studio_api_key", "webhook_secret", "backend_password")
    # Without the lock, two set-ups at the same time would create two projects.
    with lock(settings.model_dir, "push", WAIT_FOR_ANOTHER_S):
        with progress_bar() as progress:
            plan = make_plan(request, progress)
        opened = Opening(settings, plan).open(may_create=request.may_create)
        project, steps = opened.project, SetupSteps(settings, opened)
        steps.print_cost()  # before any training run slows the measurement down
        changes = [
            opened.has_changed,
            project.configure(is_blind=settings.blind),
            adapt_label_config(settings, project, opened.pool),
            update_review_label_config(settings, opened.root, opened.pool),
            steps.connect(),  # first, so that annotations are reported even if a later step fails
            steps.import_seed_labels(),
            steps.push_first_batch(),
            project.add_order_tab(),
            steps.explain(),
            steps.start_first_training(),
        ]
    print(f"  {label_now_url(settings.browser_url, project.project_id)} -> Label All Tasks")
    if not any(changes):
        print("everything already exists: nothing changed")
    return project.project_id


class SetupSteps:
    """The steps of set-up.

    Each step can be repeated, and most steps return whether they changed anything.
    """

    def __init__(self, settings: Settings, opened: OpenedProject) -> None:
        self.settings = settings
        self.project, self.root = opened.project, opened.root
        self.record, self.pool = opened.record, opened.pool

    def import_seed_labels(self) -> bool:
        """Import SEED_LABELS images with labels from the data set, except images that have a task.

        If fewer labels are known, import all of them.
        """
        # The ranker can already see the project, and must not query these images in the meantime.
        with lock(self.root, "push"):
            classes = self.record.offering(self.project.label_config().choices)
            known_labels = true_labels(self.pool)
            truth = {i: label for i, label in known_labels.items() if classes.spell(label)}
            count = min(self.record.seed_labels or 0, len(truth))
            labels = self._without_damaged(seed_labels(self.pool, count, self.record.seed, truth))
            known = self.project.image_ids() if labels else set()
            hint = None if self.settings.blind else SEED_HINT
            new = [image_id for image_id in labels if image_id not in known]
            with progress_bar() as progress:
                for start in range(0, len(new), SEEDS_AT_ONCE):
                    progress("importing seed labels", start, len(new))
                    chunk = new[start : start + SEEDS_AT_ONCE]
                    shown = show_images(self.pool, self.project, chunk, self.settings)
                    self.project.import_tasks(
                        [
                            NewTask(
                                image_id,
                                task_data.write_seed(shown[image_id], image_id, hint),
                                label=classes.spell(labels[image_id]),
                            )
                            for image_id in chunk
                        ]
                    )
                progress("importing seed labels", len(new), len(new))
        found = f"{len(labels)} known labels, {len(new)} of them new" if labels else "none"
        print(f"seeds     {found}")
        return bool(new)

    def _without_damaged(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Decode images, and return the labels of the images that can be decoded."""
        with progress_bar() as progress:
            self.pool, _ = rescan(
                self.pool,
                self.record.seed,
                must_list=False,
                budget_s=0,
                needed=labels,
                progress=progress,
            )
        decoded = set(self.pool.image_ids)
        return {image_id: label for image_id, label in labels.items() if image_id in decoded}

    def push_first_batch(self) -> bool:
        """Query the first images now, so that no one waits for the first training run.

        The images are random, or typical if the strategy looks for typical images.
        """
        if Registry(self.root).last_round():
            return False  # after the first round, the ranker queries images
        with progress_bar() as progress:
            project_id = self.project.project_id
            began, is_first = time.time(), not ProjectStore(self.root).facts().decoded_at
            loop = open_loop(self.settings, project_id, self.project, progress=progress)
            record_pool(loop, began, is_listed=is_first, is_larger=False)
            pushed = batches.top_up(loop, progress=progress)
        are = "come next" if self.record.is_attached else "are open"
        print(f"tasks     {loop.store.n_open()} {are}, {pushed} of them new")
        return bool(pushed)

    def print_cost(self) -> None:
        """Print how long scoring and training will take, unless a version already exists."""
        if Registry(self.root).last_round():
            return
        device = find_device(self.settings.device)
        recipe = Recipe(image_size=self.record.image_size)
        speed = measure_speed(recipe, len(self.record.classes), device)
        n_images = len(self.pool.image_ids) + self.pool.n_waiting
        print(f"cost      {describe_cost(speed, n_images, recipe, device)}")

    def connect(self) -> bool:
        """Connect the webhook and the ML backend, each with its secret."""
        with lock(self.root, "attach"):  # the clock restores a lost connection under this lock
            has_changed = self.project.connect(address_of(self.settings))
        print(f"backend   {self.settings.backend_url} is connected and receives every annotation")
        return has_changed

    def explain(self) -> bool:
        """Write the instructions for annotators and the project's description."""
        ours = {
            text.format(guess=part)
            for text, guess in ((INSTRUCTIONS, GUESS), (FORMER_INSTRUCTIONS, FORMER_GUESS))
            for part in (guess, guess + NO_GUESS, "")
        }
        has_sample = self.record.validation == "people"
        text = write_instructions(is_blind=self.settings.blind, has_sample=has_sample)
        has_instructed = self.project.instruct(text, earlier=ours)
        version = Registry(self.root).current()
        has_described = self.project.set_description(
            describe_project(version, project_progress(self.settings, self.root))
        )
        return has_instructed or has_described

    def start_first_training(self) -> bool:
        """Request the first training run, unless one has already run or nothing is labeled."""
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


def write_instructions(*, is_blind: bool, has_sample: bool) -> str:
    """Return the instructions for annotators; they explain guesses and images without a guess."""
    guess = GUESS + NO_GUESS if has_sample else GUESS
    return INSTRUCTIONS.format(guess="" if is_blind else guess)


def update_review_label_config(settings: Settings, root: Path, pool: Pool) -> bool:
    """Update the review project's label config if we generated it; return whether it changed."""
    found = find_reviews(settings, root)
    if found is None or not is_our_label_config(xml := found.label_config_xml()):
        return False
    token = settings.label_studio_api_key.get_secret_value()
    review = ProjectSetup(settings.label_studio_url, token, found.project_id)
    choices = parse_label_config(xml).choices
    return review.change_label_config(
        label_config_xml(choices, has_hint="$hint" in xml, is_large=pool.has_large_images)
    )
