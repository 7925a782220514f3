"""Open the project: find or create it, and record its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.base.classes import append_new
from backend.base.errors import ModelFolderError, PoolError, SettingsError
from backend.base.labeling import match_classes
from backend.base.settings import Settings
from backend.images.pool import Pool, open_pool
from backend.labelstudio.client import create_project, delete_project, find_project
from backend.labelstudio.label_config import is_our_label_config, label_config_xml
from backend.labelstudio.project_setup import ProjectSetup
from backend.measures.evaluation import MIN_IMAGES
from backend.rounds.classes import SAME_VALIDATION, follow_classes, pool_class_notice
from backend.store.project_record import (
    POOL_INDEX,
    ProjectRecord,
    project_root,
    read_former,
    read_record,
    write_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.weights import find_weights
from scripts.console.progress_bars import progress_bar
from scripts.setup.checks import Plan
from scripts.setup.label_config import check_label_config, replace_label_config
from scripts.setup.projects import titles_of
from scripts.setup.validation import describe_validation, draw_missing_sample, validated_by

# The trainer decodes the rest while people label the first batch.
DECODE_FOR_S = 15.0
TOO_FEW_TO_VALIDATE = (
    f"this pool is too small for {MIN_IMAGES} validation labels, so the accuracy will not be known"
)


@dataclass(frozen=True)
class OpenedProject:
    """A recorded project that exists in Label Studio, with its images."""

    project: ProjectSetup
    root: Path
    record: ProjectRecord
    pool: Pool
    has_changed: bool


class Opening:
    """Finds or creates the project that a plan describes."""

    project: ProjectSetup
    root: Path
    pool: Pool

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.settings = settings
        self.plan = plan
        self.label_studio = (
            settings.label_studio_url,
            settings.label_studio_api_key.get_secret_value(),
        )

    def open(self, *, may_create: bool = True) -> OpenedProject:
        """Find or create the project, and record its settings."""
        plan, settings = self.plan, self.settings
        project_id = find_project(
            *self.label_studio,
            titles=titles_of(plan.title) if plan.record is None else [plan.title],
            project_id=plan.record.project_id if plan.record else None,
        )
        if project_id is None and not may_create:
            number = plan.record.project_id if plan.record else ""
            raise SettingsError(
                "it is gone from Label Studio. If it was deleted on purpose, run "
                f"`python -m scripts.setup_project --forget {number}`"
            )
        earlier = None if project_id is None else self._read_record(project_id)
        chosen = self._open_pool_and_weights()
        is_new = project_id is None
        if project_id is not None and earlier is None:
            self._check_is_ours(project_id)
        if project_id is None:
            project_id = self._create(chosen["pool_notice"])
        self.project = project = ProjectSetup(*self.label_studio, project_id)
        self.root = project_root(settings.model_dir, project_id)
        if plan.has_new_pool:
            self._check_images_are_offered()
        self.pool = draw_missing_sample(plan, self.pool, project, self.root)
        is_changed = not is_new and self._change_label_config()
        if earlier is None or plan.has_new_classes:
            match_classes(project.label_config().choices, self.pool.classes)
        else:
            is_changed |= self._follow_classes(earlier)
            earlier = self._read_record(project_id)
        self._keep_index()
        record = self._make_record(earlier, chosen)
        if record != earlier:
            write_record(self.root, record)
        print(f'project   "{record.title}" (id {project_id}) {"created" if is_new else "found"}')
        print(f"validation {describe_validation(self.pool, record.wanted_validation_labels)}")
        if 0 < record.wanted_validation_labels < MIN_IMAGES:
            print(f"NOTE      {TOO_FEW_TO_VALIDATE}")
        has_changed = is_changed or record != earlier
        return OpenedProject(project, self.root, record, self.pool, has_changed)

    def _make_record(
        self, earlier: ProjectRecord | None, chosen: Mapping[str, Any]
    ) -> ProjectRecord:
        """Return the project's record, with the pool and weights that were `chosen`."""
        plan, project = self.plan, self.project
        validation = validated_by(plan, self.pool, self.root)
        kept = None if plan.has_new_classes else earlier
        return ProjectRecord(
            project_id=project.project_id,
            title=project.title() if earlier is None else earlier.title,
            label_studio_url=self.settings.label_studio_url,
            project_created_at=project.created_at(),
            seed=plan.seed,
            seed_labels=plan.seed_labels,
            classes=self.pool.classes,
            removed_classes=kept.removed_classes if kept else (),
            renamed_classes=kept.renamed_classes if kept else (),
            validation=validation,
            validation_labels=plan.validation_labels if validation == "people" else None,
            validation_images=self._count_sample(earlier) if validation == "people" else None,
            strategy=earlier.strategy if earlier else self.settings.strategy,
            label_config="ours" if is_our_label_config(project.label_config_xml()) else "own",
            **chosen,
        )

    def _follow_classes(self, record: ProjectRecord) -> bool:
        """Offer the pool's new classes if we wrote the label config, and record its choices.

        Returns whether the label config or the recorded classes have changed.
        """
        project, source = self.project, self.pool.source
        choices = project.label_config().choices
        found = record.offering(source.index.classes if source else ()).columns
        new = found[len(record.classes) :]
        is_ours = is_our_label_config(project.label_config_xml())
        if new and is_ours:
            project.change_label_config(self._write_label_config(append_new(choices, new)))
            print(f"classes   annotators can now choose {', '.join(new)}. {SAME_VALIDATION}")
        elif notice := pool_class_notice(record, new):
            print(f"NOTE      {notice}")
        followed = follow_classes(self.root, project.label_config().choices)
        assert followed is not None, "the project is recorded"
        self.pool = replace(self.pool, classes=followed.classes)
        return followed != record

    def _count_sample(self, earlier: ProjectRecord | None) -> int:
        """Count the images that were ever in the sample: labels of removed images still count."""
        before = earlier.validation_images if earlier else None
        return max(before or 0, self.pool.n_held_out)

    def _create(self, pool_notice: str) -> int:
        """Create the project; delete it if its folder belongs to another Label Studio instance."""
        plan = self.plan
        classes = plan.classes or self.pool.classes
        xml = plan.label_config or self._write_label_config(classes)
        check_label_config(xml, self.pool.classes)
        title = titles_of(plan.title)[1] if pool_notice and plan.record is None else plan.title
        project_id = create_project(*self.label_studio, title=title, label_config=xml)
        try:
            self._read_record(project_id)
        except ModelFolderError:
            delete_project(*self.label_studio, project_id)
            raise
        return project_id

    def _change_label_config(self) -> bool:
        """Use the user's label config, or different classes; return whether anything changed.

        Raises SettingsError if the classes differ and anything is already labeled or trained.
        """
        plan, project = self.plan, self.project
        if not plan.has_new_classes:
            if plan.label_config is None:
                return False
            return replace_label_config(project, plan.label_config)
        counts = project.counts()
        if counts.annotations or counts.skipped or Registry(self.root).last_round():
            raise SettingsError(
                f'CLASSES and LABEL_CONFIG can no longer change the classes of "{plan.title}", '
                "because images are labeled: add, rename or remove classes in Label Studio under "
                "Settings > Labeling Interface, and restore the former CLASSES and LABEL_CONFIG"
            )
        return project.change_label_config(
            plan.label_config or self._write_label_config(plan.classes)
        )

    def _write_label_config(self, classes: Sequence[str]) -> str:
        return label_config_xml(
            classes, has_hint=self.settings.shows_hints, is_large=self.pool.has_large_images
        )

    def _check_is_ours(self, project_id: int) -> None:
        """Raise SettingsError if a project that is not recorded has only tasks of a team."""
        pool = self.pool
        images = pool.source.index.image_ids if pool.source else pool.queryable_ids
        tasks = ProjectSetup(*self.label_studio, project_id).tasks()
        ids = {task.image_id for task in tasks}  # "" if Tightloop did not create the task
        if ids and ids.isdisjoint(images):
            raise SettingsError(
                f'Label Studio has a project "{self.plan.title}" (id {project_id}), whose tasks '
                "Tightloop did not create. To use its tasks and annotations, run `python -m "
                f"scripts.setup_project --attach {project_id}`; otherwise, set another "
                "PROJECT_TITLE"
            )

    def _check_images_are_offered(self) -> None:
        """Raise PoolError unless the new pool contains all images that already have a task."""
        offered = self.plan.offered or frozenset(self.pool.image_ids)
        known = self.project.image_ids() - ProjectStore(self.root).foreign_images() - {""}
        if missing := sorted(known - offered):
            raise PoolError(
                f"POOL={self.plan.pool} lacks {len(missing):,} of the {len(known):,} images that "
                f'"{self.plan.title}" has already queried (for example {missing[0]}), so their '
                "annotations would be lost: set a new PROJECT_TITLE, or name the folder to which "
                "the same images were moved"
            )

    def _keep_index(self) -> None:
        """Write a new project's index; if the pool has changed, schedule an immediate rescan."""
        if self.plan.has_new_pool:
            ProjectStore(self.root).record(rescanned_at=0.0)
        path = self.root / POOL_INDEX
        if self.pool.source is not None and not path.exists():
            self.pool.source.index.write(path)

    def _read_record(self, project_id: int) -> ProjectRecord | None:
        """Read the record of an earlier set-up, even if the project was forgotten since.

        Raises ModelFolderError if the record belongs to a project in another Label Studio instance.
        """
        root = project_root(self.settings.model_dir, project_id)
        is_recorded = read_record(root) is not None
        record = read_record(root) or read_former(root)
        if record is None:
            return None
        if record.project_created_at != ProjectSetup(*self.label_studio, project_id).created_at():
            raise ModelFolderError(
                f"{root} belongs to project {project_id} of another Label Studio "
                f'("{record.title}", created {record.project_created_at}): '
                "move that folder elsewhere or set MODEL_DIR, then try again"
            )
        return None if record.is_attached and not is_recorded else record

    def _open_pool_and_weights(self) -> dict[str, Any]:
        """Open the pool; return the fields to record. A choice that `auto` made earlier is kept."""
        settings, plan, kept = self.settings, self.plan, self.plan.record
        is_kept = kept is not None and not plan.has_new_pool
        root = project_root(settings.model_dir, kept.project_id) if kept else Path()
        image_size = settings.image_size
        if image_size == "auto" and kept is not None and is_kept:
            image_size = kept.image_size
        with progress_bar() as progress:
            self.pool = pool = open_pool(
                plan.pool,
                settings.data_dir,
                seed=plan.seed,
                validation=plan.first_validation,
                classes=plan.classes,
                image_size=image_size,
                image_hosts=settings.image_hosts,
                index=root / POOL_INDEX if is_kept else None,
                rescan=not is_kept,
                budget_s=0.0 if is_kept else DECODE_FOR_S,
                max_pixels=settings.max_image_pixels,
                progress=progress,
            )
            if kept is not None and plan.weights == kept.weights:
                weights, weights_notice = kept.weights, kept.weights_notice
            else:
                found = find_weights(plan.weights, settings.data_dir, progress=progress)
                weights, weights_notice = found.name, found.notice
        pool_notice = kept.pool_notice if kept and not plan.has_new_pool else pool.notice
        n_images = len(pool.queryable_ids) + pool.n_waiting
        print(f"pool      {pool.name}: {n_images:,} images, {len(pool.classes)} classes")
        print(f"weights   {weights}")
        for notice in filter(None, (*plan.notes, pool_notice, weights_notice)):
            print(f"NOTE      {notice}")
        return {
            "pool": pool.name,
            "weights": weights,
            "image_size": pool.image_size,
            "pool_notice": pool_notice,
            "weights_notice": weights_notice,
        }
