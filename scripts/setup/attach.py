"""Attach Tightloop to an existing Label Studio project: read it, print the plan, and ask."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from backend.base.classes import append_new
from backend.base.errors import ModelFolderError, SettingsError, TightloopError
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.images.pool import Pool, open_pool
from backend.images.validation_sample import Validation
from backend.labelstudio.attached_setup import AttachedSetup
from backend.labelstudio.client import find_projects, label_now_url
from backend.labelstudio.project_connection import address_of
from backend.labelstudio.task_source import TaskSource
from backend.rounds.accuracy import describe_project
from backend.rounds.gone_project import gone_notice
from backend.rounds.observe import read_changes
from backend.rounds.validation_reading import project_progress
from backend.store import project_db
from backend.store.files import lock
from backend.store.project_record import (
    POOL_INDEX,
    ProjectRecord,
    check_attached,
    is_half_detached,
    project_root,
    read_former,
    read_record,
    write_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.weights import find_weights
from scripts.console.progress_bars import progress_bar
from scripts.setup.consent import Consent, has_consent
from scripts.setup.detach import put_back
from scripts.setup.existing import ExistingProject, describe
from scripts.setup.opening import DECODE_FOR_S, OpenedProject
from scripts.setup.steps import SetupSteps
from scripts.setup.survey import Survey

NAMED_MAX = 10


def attach(settings: Settings, named: str, consent: Consent) -> int:
    """Attach to the project with this id or title, unless the user declines; return its id.

    If Tightloop is already attached, connect it again, and let it order the tasks.
    """
    settings.require("label_studio_api_key", "webhook_secret", "backend_password")
    project_id = find_existing(settings, named)
    record = read_record(project_root(settings.model_dir, project_id))
    if record is None:
        Attaching(settings, project_id).run(consent)
        return project_id
    if not record.is_attached:
        raise SettingsError(
            f'Tightloop itself created the project "{record.title}" (id {project_id}), so there is '
            "nothing to attach. To update the project, run `python -m scripts.setup_project`"
        )
    if consent == "dry run":
        print(
            f'Tightloop is already attached to "{record.title}" (id {project_id}). Without '
            "--dry-run, this command repairs the connection, and lets Tightloop order the tasks"
        )
    else:
        switch_on(settings, record)
        print(f'project   "{record.title}" (id {project_id}) is attached')
    return project_id


def refresh(settings: Settings, record: ProjectRecord) -> None:
    """Repair the webhook and the ML backend connection, and complete an interrupted attaching.

    The order of the tasks is left alone, because the team may have changed it on purpose. If the
    project is gone from Label Studio, print what to do.
    """
    root = project_root(settings.model_dir, record.project_id)
    check_attached(root)
    if gone := gone_notice(settings, record):
        print(f"NOTE      {gone}")
        return
    if not ProjectStore(root).facts().has_ordered:
        switch_on(settings, record)
    else:
        with lock(root, "attach"):
            check_attached(root)
            _open(settings, record.project_id).connect(address_of(settings))
    name = f'"{record.title}" (id {record.project_id})'
    print(f"project   {name} is connected to {settings.backend_url}")


def switch_on(settings: Settings, record: ProjectRecord) -> None:
    """Connect the webhook and the ML backend, and let predictions order the project's tasks.

    Raises DetachedError if another process has detached the project in the meantime.
    """
    root = project_root(settings.model_dir, record.project_id)
    with lock(root, "attach"):
        check_attached(root)
        _connect(settings, record)


def _connect(settings: Settings, record: ProjectRecord) -> None:
    """Change the project in Label Studio. The caller must hold the attach lock."""
    project = _open(settings, record.project_id)
    project.connect(address_of(settings))
    project.configure(is_blind=settings.blind)
    store = ProjectStore(project_root(settings.model_dir, record.project_id))
    # The next version that has predictions may replace the team's model version.
    store.record(has_ordered=False, ordered_by="", order_problem="")


def find_existing(settings: Settings, named: str) -> int:
    """Return the id of the project with this id or title.

    Raises SettingsError if there is none, or if several projects have this title.
    """
    url = settings.label_studio_url
    titles = find_projects(url, settings.label_studio_api_key.get_secret_value())
    if named.isdecimal() and int(named) in titles:
        return int(named)
    found = [project_id for project_id, title in titles.items() if title == named]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(map(str, sorted(found)))
        raise SettingsError(f'several projects are called "{named}": choose one of the ids {ids}')
    known = [f'{i} ("{title}")' for i, title in sorted(titles.items())]
    more = f" and {len(known) - NAMED_MAX} more" if len(known) > NAMED_MAX else ""
    raise SettingsError(
        f'Label Studio at {url} has no project with the id or title "{named}". The user of '
        f"LABEL_STUDIO_API_KEY can see {', '.join(known[:NAMED_MAX]) or 'no project'}{more}"
    )


class Attaching:
    """Attaches Tightloop to one project."""

    def __init__(self, settings: Settings, project_id: int) -> None:
        self.settings = settings
        self.project_id = project_id
        self.root = project_root(settings.model_dir, project_id)
        self.project = _open(settings, project_id)

    def run(self, consent: Consent) -> None:
        """Read the project, print the plan, and carry it out if the user agrees."""
        earlier = self._read_earlier()
        if self.project.is_held_by_another(address_of(self.settings)):
            raise SettingsError(
                f"another Tightloop is attached to project {self.project_id}: its webhook is "
                "listed under Settings > Webhooks. Detach the other Tightloop first, or delete its "
                "webhook if the other Tightloop no longer exists"
            )
        former = self.project.former_settings()
        if earlier is not None and earlier.attached and is_half_detached(self.root):
            former = earlier.attached  # Label Studio may still have our settings
        with tempfile.TemporaryDirectory(prefix="tightloop-") as folder:
            renamed = earlier.renamed_classes if earlier else ()
            survey = Survey(self.settings, self.project, ProjectStore(Path(folder)), renamed)
            with progress_bar() as progress:
                found = survey.read(former, progress)
            print("\n".join(describe(found, self.settings)))
            if not has_consent(consent, "Attach Tightloop to this project?"):
                return
            with lock(self.root, "attach"):
                self._attach(Path(folder), found, earlier)

    def _attach(self, folder: Path, found: ExistingProject, earlier: ProjectRecord | None) -> None:
        """Carry out the plan. The caller must hold the attach lock."""
        if read_record(self.root) is not None or read_former(self.root) != earlier:
            raise SettingsError(
                "another process has attached or detached this project in the meantime, so nothing "
                "was changed: try again"
            )
        pool, record = self._prepare(folder, found, earlier)
        store = ProjectStore(self.root)
        if found.labels.n_tasks and not store.facts().train_asked_at:
            # Record this first, so that a training run that starts at once serves this request.
            store.record(train_asked_at=time.time())
        store.record(has_ordered=False)  # also if it was attached before: see `refresh`
        write_record(self.root, record)
        self._switch_on(pool, record)

    def _read_earlier(self) -> ProjectRecord | None:
        """Return the record of the project if it was attached before and then detached.

        Raises ModelFolderError if the folder belongs to a project of another Label Studio.
        """
        earlier = read_former(self.root)
        if earlier is not None and earlier.project_created_at != self.project.created_at():
            raise ModelFolderError(
                f"{self.root} belongs to project {self.project_id} of another Label Studio "
                f'("{earlier.title}", created {earlier.project_created_at}): '
                "move that folder elsewhere or set MODEL_DIR, then try again"
            )
        return earlier

    def _prepare(
        self, folder: Path, found: ExistingProject, earlier: ProjectRecord | None
    ) -> tuple[Pool, ProjectRecord]:
        """Fetch the weights and the first images; change nothing in Label Studio.

        A project that was attached before keeps its classes, seed and validation sample, to which
        its versions refer.
        """
        settings, root = self.settings, self.root
        is_known = (root / project_db.FILE).exists()
        if not is_known:
            project_db.copy(folder, root)
        with progress_bar() as progress:
            # Read everything if tasks may have been deleted since the project was detached.
            read_changes(self.project, ProjectStore(root), is_full=is_known, progress=progress)
            weights = find_weights(settings.weights, settings.data_dir, progress=progress)
            seed = earlier.seed if earlier else settings.seed
            pool = self._open_pool(found.config.choices, seed, progress)
        fields = {
            "title": found.title,
            "label_studio_url": settings.label_studio_url,
            "weights": weights.name,
            "weights_notice": weights.notice,
            "image_size": pool.image_size,
            "validation_images": pool.n_held_out,
            "attached": found.former,
        }
        if earlier is not None:
            return pool, earlier.model_copy(update=fields)
        return pool, ProjectRecord(
            project_id=self.project_id,
            project_created_at=self.project.created_at(),
            pool=pool.name,
            seed=seed,
            seed_labels=0,
            classes=append_new((), found.config.choices),
            validation="people",
            validation_labels=settings.validation_labels,
            label_config="own",
            strategy=settings.strategy,
            **fields,
        )

    def _open_pool(self, classes: Sequence[str], seed: int, progress: Progress) -> Pool:
        """List the images, and fetch the first ones; annotated images never validate a version."""
        settings = self.settings
        annotated = frozenset(ProjectStore(self.root).annotated_images())
        source = TaskSource(settings, self.project_id)
        return open_pool(
            source.name,
            settings.data_dir,
            seed=seed,
            validation=Validation("people", settings.validation_labels, annotated),
            classes=classes,
            image_size=settings.image_size,
            index=self.root / POOL_INDEX,
            source=source,
            budget_s=DECODE_FOR_S,
            max_pixels=settings.max_image_pixels,
            progress=progress,
        )

    def _switch_on(self, pool: Pool, record: ProjectRecord) -> None:
        """Change Label Studio, query the first tasks, and request the first training run.

        If Label Studio refuses a change, undo all changes.
        """
        opened = OpenedProject(self.project, self.root, record, pool, has_changed=True)
        steps = SetupSteps(self.settings, opened)
        steps.print_cost()  # before any training run slows the measurement down
        try:
            _connect(self.settings, record)
        except TightloopError:
            put_back(self.settings, record)
            print("Label Studio refused a change, so the project's former settings were restored")
            raise
        print(f"backend   {self.settings.backend_url} is connected and receives every annotation")
        steps.push_first_batch()
        version = Registry(self.root).current()
        self.project.set_description(
            describe_project(version, project_progress(self.settings, self.root))
        )
        steps.start_first_training()
        print(f"  {label_now_url(self.settings.browser_url, self.project_id)} -> Label All Tasks")


def _open(settings: Settings, project_id: int) -> AttachedSetup:
    token = settings.label_studio_api_key.get_secret_value()
    return AttachedSetup(settings.label_studio_url, token, project_id)
