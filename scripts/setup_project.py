"""Set up the project in Label Studio: its tasks, ML backend and webhook, and the first training.

    python -m scripts.setup_project
    python -m scripts.setup_project --label-config my.xml

Label Studio, Redis and the backend must be up. Running it again changes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.errors import LabelConfigError, ModelFolderError, TightloopError
from backend.base.labeling import NewTask, match_classes
from backend.base.progress import Progress
from backend.base.settings import Settings, load_settings
from backend.images.pool import Pool, open_pool, seed_labels
from backend.labelstudio import task_data
from backend.labelstudio.client import TITLE_LENGTH, create_project, find_project, label_now_url
from backend.labelstudio.label_config import (
    is_our_label_config,
    label_config_xml,
    parse_label_config,
)
from backend.labelstudio.project import IMPORT_CHUNK
from backend.labelstudio.project_setup import ProjectSetup
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches, ordering
from backend.rounds.loop import open_loop
from backend.store import registry
from backend.store.project_store import ProjectStore
from backend.store.registry import ProjectRecord
from backend.store.weights import find_weights
from scripts.progress import progress_bar

FELL_BACK = " (digits: CIFAR-10 could not be had)"
FELL_BACK_SHORT = " (digits)"
WAIT_FOR_ANOTHER_S = 600.0
SEED_HINT = "labeled by the data set: no guess"
INSTRUCTIONS = """\
Press <b>Label All Tasks</b>: it brings the images that the model is least sure of first, and \
keeps each for you while you have it open. A click on a row of the table, or a link to a task, \
does neither.<br><br>
Every choice shows its key. <b>Ctrl+Enter</b> submits.<br><br>
{guess}Skip what you cannot tell: that is better than a wrong answer.
"""
GUESS = """\
What is chosen already is the model's guess, on images that it finds hard. Look first; then \
submit it, or choose another. Its own key would take it away.<br><br>
"""


def main() -> int:
    """Set the project up; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--label-config", type=Path, metavar="FILE", help="label with this label config from now on"
    )
    parser.add_argument("--json", action="store_true", help="its id and address, for programs")
    arguments = parser.parse_args()
    path: Path | None = arguments.label_config
    try:
        settings = load_settings()
        label_config = None if path is None else read_label_config(path)
        with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            project_id = set_up(settings, label_config=label_config)
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        url = label_now_url(settings.browser_url, project_id)
        print(json.dumps({"project_id": project_id, "project_url": url}, indent=2))
    return 0


def read_label_config(path: Path) -> str:
    """A file's text; LabelConfigError where it cannot be had."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelConfigError(f"the label config {path} cannot be read: {error}") from None


def set_up(settings: Settings, *, label_config: str | None = None) -> int:
    """Make the project and all that belongs to it, or find it; its id comes back. A label config
    given here is somebody's own, and takes the place of what is there.
    """
    settings.require("label_studio_api_key", "webhook_secret", "backend_password")
    # Two at once would make two projects.
    with registry.hold(settings.model_dir, "push", WAIT_FOR_ANOTHER_S):
        project, is_new, pool = open_project(settings, label_config)
        changes = [
            is_new,
            project.configure(is_blind=settings.blind),
            show_or_hide_hints(settings, project),
            import_seed_labels(settings, project, pool),
            push_first_batch(settings, project),
            connect(settings, project),
            project.add_order_tab(),
            explain(settings, project),
            start_first_training(settings, project),
        ]
    print(f"  {label_now_url(settings.browser_url, project.project_id)} -> Label All Tasks")
    if not any(changes):
        print("everything was there already: nothing changed")
    return project.project_id


def open_project(
    settings: Settings, label_config: str | None = None
) -> tuple[ProjectSetup, bool, Pool]:
    """The project, whether it is new or changed, and its pool; what was chosen is recorded."""
    project_id = find_project(
        *_label_studio(settings), titles=_titles(settings), project_id=_recorded_id(settings)
    )
    is_new = project_id is None
    record = None if project_id is None else read_own_record(settings, project_id)
    with progress_bar() as progress:
        pool, pool_notice = open_chosen_pool(settings, record, progress)
        weights, weights_notice = choose_weights(settings, record, progress)
    print(f"pool      {pool.name}: {len(pool.image_ids):,} images of {len(pool.classes)} classes")
    print(f"weights   {weights}")
    for notice in filter(None, (pool_notice, weights_notice)):
        print(f"NOTE      {notice}")
    if label_config is not None:
        check_label_config(label_config, pool.classes)
    if project_id is None:
        project_id = create_project(
            *_label_studio(settings),
            title=_titles(settings)[1 if pool_notice else 0],
            label_config=label_config
            or label_config_xml(pool.classes, has_hint=settings.shows_hints),
        )
        read_own_record(settings, project_id)  # a foreign folder may be in the new project's place
    project = ProjectSetup(*_label_studio(settings), project_id)
    is_changed = label_config is not None and replace_label_config(project, label_config)
    match_classes(project.label_config().choices, pool.classes)
    chosen = ProjectRecord(
        project_id=project_id,
        title=project.title() if record is None else record.title,
        label_studio_url=settings.label_studio_url,
        project_created_at=project.created_at(),
        pool=pool.name,
        weights=weights,
        seed=_seed(settings, record),
        classes=pool.classes,
        pool_notice=pool_notice,
        weights_notice=weights_notice,
    )
    if chosen != record:
        registry.write_record(_root(settings, project_id), chosen)
    print(f'project   "{chosen.title}" (id {project_id}) {"made" if is_new else "found"}')
    return project, is_changed or chosen != record, pool


def check_label_config(xml: str, pool_classes: Sequence[str]) -> None:
    """LabelConfigError unless it asks for the pool's classes of the image that our tasks carry."""
    config = parse_label_config(xml)
    match_classes(config.choices, pool_classes)
    if config.image_key != "image":
        raise LabelConfigError(
            f'the label config\'s Image has value="${config.image_key}", but the tasks carry their '
            'image as "image": write value="$image"'
        )


def replace_label_config(project: ProjectSetup, xml: str) -> bool:
    """Label with somebody's own label config from now on.

    LabelConfigError where it renames what answers and predictions carry: Label Studio would take
    it, and they would be lost to us.
    """
    now, wanted = project.label_config(), parse_label_config(xml)
    if (now.from_name, now.to_name) != (wanted.from_name, wanted.to_name):
        raise LabelConfigError(
            f'the label config must have name="{now.from_name}" in its Choices and '
            f'name="{now.to_name}" in its Image, as the answers so far have'
        )
    if set(now.choices) != set(wanted.choices):
        raise LabelConfigError(
            "the label config must spell its choices as the answers so far do: "
            f"{', '.join(now.choices)}"
        )
    return project.change_label_config(xml)


def show_or_hide_hints(settings: Settings, project: ProjectSetup) -> bool:
    """Have our own label config follow HINTS and BLIND; about somebody's own say what to do."""
    if settings.blind and settings.hints:
        print("NOTE      HINTS is left out: with BLIND people see no guess")
    xml = project.label_config_xml()
    if is_our_label_config(xml):
        choices = parse_label_config(xml).choices
        return project.change_label_config(label_config_xml(choices, has_hint=settings.shows_hints))
    if settings.shows_hints and "$hint" not in xml:
        print(
            "NOTE      HINTS: the label config is not one of ours and stays as it is: put "
            '<Header value="$hint"/> into it'
        )
    if settings.blind and "$hint" in xml:
        print("NOTE      BLIND: the label config is not one of ours and shows $hint: take it out")
    return False


def explain(settings: Settings, project: ProjectSetup) -> bool:
    """Tell people in Label Studio how to label, and how it stands."""
    with_guess, without = INSTRUCTIONS.format(guess=GUESS), INSTRUCTIONS.format(guess="")
    has_instructed = project.instruct(
        without if settings.blind else with_guess, earlier={with_guess, without}
    )
    version = registry.current(_root(settings, project.project_id))
    has_described = project.set_description(ordering.description(version))
    return has_instructed or has_described


def read_own_record(settings: Settings, project_id: int) -> ProjectRecord | None:
    """What an earlier set-up recorded; ModelFolderError if it was for another Label Studio."""
    root = _root(settings, project_id)
    record = registry.read_record(root)
    if record is None:
        return None
    project = ProjectSetup(*_label_studio(settings), project_id)
    if record.project_created_at != project.created_at():
        raise ModelFolderError(
            f"{root} belongs to another Label Studio's project {project_id} "
            f'("{record.title}", made {record.project_created_at}): '
            "move it away, or set MODEL_DIR, and try again"
        )
    return record


def open_chosen_pool(
    settings: Settings, record: ProjectRecord | None, progress: Progress
) -> tuple[Pool, str]:
    """The pool and its notice; what `auto` once chose sticks."""
    seed = _seed(settings, record)
    chosen = record if settings.pool == "auto" else None
    pool = open_pool(
        chosen.pool if chosen else settings.pool,
        settings.data_dir,
        seed=seed,
        max_pixels=settings.max_image_pixels,
        progress=progress,
    )
    return pool, chosen.pool_notice if chosen else pool.notice


def choose_weights(
    settings: Settings, record: ProjectRecord | None, progress: Progress
) -> tuple[str, str]:
    """The name of the pre-trained weights and their notice; what `auto` once chose sticks."""
    if record is not None and settings.weights == "auto":
        return record.weights, record.weights_notice
    found = find_weights(settings.weights, settings.data_dir, progress=progress)
    return found.name, found.notice


def import_seed_labels(settings: Settings, project: ProjectSetup, pool: Pool) -> bool:
    """Import SEED_LABELS images with the data set's own labels, less those that are in a task."""
    root = _root(settings, project.project_id)
    # The ranker knows the project by now: it must not ask these images meanwhile.
    with registry.hold(root, "push"):
        seed = _seed(settings, registry.read_record(root))
        labels = seed_labels(pool, settings.seed_labels, seed)
        there = project.image_ids() if labels else set()
        choices = match_classes(project.label_config().choices, pool.classes)
        spelling = dict(zip(pool.classes, choices, strict=True))
        hint = None if settings.blind else SEED_HINT
        new_tasks = [
            NewTask(
                image_id=image_id,
                data=task_data.write_seed(pool.data_uri(image_id), image_id, hint),
                label=spelling[label],
            )
            for image_id, label in labels.items()
            if image_id not in there
        ]
        with progress_bar() as progress:
            for start in range(0, len(new_tasks), IMPORT_CHUNK):
                progress("importing seed labels", start, len(new_tasks))
                project.import_tasks(new_tasks[start : start + IMPORT_CHUNK])
            progress("importing seed labels", len(new_tasks), len(new_tasks))
    print(f"seeds     {len(labels)} labels of the data set, {len(new_tasks)} of them new")
    return bool(new_tasks)


def push_first_batch(settings: Settings, project: ProjectSetup) -> bool:
    """Ask the first images at once, so that nobody waits for the first training: at random, or
    typical ones where the strategy is about those.
    """
    if registry.last_round(_root(settings, project.project_id)):
        return False  # the ranker's business since then
    with progress_bar() as progress:
        loop = open_loop(settings, project.project_id, project, progress=progress)
        pushed = batches.top_up(loop, progress=progress)
    print(f"tasks     {project.counts().open} open, {pushed} of them new")
    return bool(pushed)


def connect(settings: Settings, project: ProjectSetup) -> bool:
    """Connect webhook and ML backend, both with their secrets."""
    changed_webhook = project.connect_webhook(
        f"{settings.backend_url}/webhook", settings.webhook_secret.get_secret_value()
    )
    changed_backend = project.connect_backend(
        settings.backend_url, settings.backend_user, settings.backend_password.get_secret_value()
    )
    print(f"backend   {settings.backend_url} is connected, and told of every annotation")
    return changed_webhook or changed_backend


def start_first_training(settings: Settings, project: ProjectSetup) -> bool:
    """Ask for the first training, unless there was one or nothing is labeled yet."""
    project_id = project.project_id
    if registry.last_round(_root(settings, project_id)) or not project.counts().annotations:
        return False
    store = ProjectStore(_root(settings, project_id))
    is_new = not store.facts().train_asked_at
    if is_new:
        store.record(train_asked_at=time.time())
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    is_enqueued = queue.enqueue_retrain(project_id)
    print(f"training  {'enqueued' if is_enqueued else 'waits or runs already'}")
    return is_new


def _titles(settings: Settings) -> tuple[str, str]:
    """The project's title, and the one it gets where POOL=auto fell back on the digits."""
    title = settings.project_title
    suffix = FELL_BACK if len(title + FELL_BACK) <= TITLE_LENGTH else FELL_BACK_SHORT
    return title, title[: TITLE_LENGTH - len(suffix)] + suffix


def _recorded_id(settings: Settings) -> int | None:
    """The project of this title that was recorded last."""
    for project_id in reversed(registry.known_projects(settings.model_dir)):
        record = registry.read_record(_root(settings, project_id))
        if record is not None and record.title in _titles(settings):
            return project_id
    return None


def _label_studio(settings: Settings) -> tuple[str, str]:
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


def _root(settings: Settings, project_id: int) -> Path:
    return registry.project_root(settings.model_dir, project_id)


def _seed(settings: Settings, record: ProjectRecord | None) -> int:
    # It draws the held-out splits: a new one would put labeled images among them.
    return settings.seed if record is None else record.seed


if __name__ == "__main__":
    run(main)
