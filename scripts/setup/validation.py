"""Hold out validation images during set-up, and find out where their labels come from."""

from __future__ import annotations

from pathlib import Path

from backend.base.errors import SettingsError
from backend.base.project_settings import ValidatedBy
from backend.images.index import Index
from backend.images.pool import Pool, hold_out_sample
from backend.labelstudio.project_setup import ProjectSetup
from backend.store.files import lock
from backend.store.project_record import POOL_INDEX
from backend.store.project_store import ProjectStore
from scripts.setup.checks import Plan

WAIT_FOR_PUSH_S = 600.0
HELD_OUT = {
    "known": "images with known labels are held out",
    "people": "no images with known labels are held out",
}


def draw_missing_sample(plan: Plan, pool: Pool, project: ProjectSetup, root: Path) -> Pool:
    """Draw the validation sample of a project that an earlier release set up without validation.

    Images that have ever been queried stay in the pool. Raises SettingsError if VALIDATION
    contradicts the images that are held out.
    """
    record = plan.record
    if record is None or record.validation is not None or plan.has_new_pool:
        return pool
    found = pool.validated_by if pool.n_held_out else "people"
    if plan.validation not in (None, found):
        raise SettingsError(
            f'VALIDATION={plan.validation} contradicts the project "{plan.title}", in which '
            f"{HELD_OUT[found]}: leave out VALIDATION, or set a different PROJECT_TITLE to "
            "create a new project"
        )
    if pool.n_held_out:
        return pool
    with lock(root, "push", WAIT_FOR_PUSH_S):
        queried = project.image_ids() | ProjectStore(root).queried_images()
        return hold_out_sample(pool, plan.seed, plan.validation_labels, queried)


def validated_by(plan: Plan, pool: Pool, root: Path) -> ValidatedBy | None:
    """Return where the validation labels come from, or None if nothing is held out."""
    if pool.source is None:
        return plan.validation
    index = Index.read(root / POOL_INDEX)
    if index is None or not (index.splits == "validation").any():
        return None
    return "people" if index.sample else "known"


def describe_validation(pool: Pool, n_labels: int) -> str:
    """Describe in a few words which images are held out for validation."""
    count = pool.n_held_out
    if not count:
        return "none: too few images are left to hold out"
    if pool.validated_by == "known":
        return f"{count:,} images with known labels"
    return f"{n_labels:,} images that annotators label ({count:,} held out)"
