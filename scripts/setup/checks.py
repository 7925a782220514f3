"""Check the settings of a project before a service starts or anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.base.classes import fold, is_same
from backend.base.errors import LabelConfigError, PoolError, SettingsError, WeightsError
from backend.base.progress import Progress
from backend.base.project_settings import ProjectSettings, ValidatedBy, ValidationName
from backend.base.settings import Settings
from backend.images.known_validation import can_hold_out
from backend.images.listing import Listing, summarize
from backend.images.sources import Source, find_source
from backend.images.validation_sample import KNOWN, Validation
from backend.labelstudio.label_config import parse_label_config
from backend.store.project_record import ProjectRecord
from scripts.setup.label_config import check_label_config, read_label_config
from scripts.setup.projects import find_record, recorded_projects
from scripts.setup.request import Request

VALIDATION_LABELS: int = ProjectSettings.model_fields["validation_labels"].default
DATA_SETS = ("auto", "cifar10", "digits")  # downloaded, or part of a library
MIN_IMAGES = 10
NAMED_MAX = 5
COMMAND = "`python -m scripts.setup_project --change`"
# Settings that can never change, each with the reason.
FIXED = {
    "seed": "it determined the validation images",
    "validation": "other images would have to be held out, and some are already labeled",
    "validation_labels": "it determined the validation images",
}


@dataclass(frozen=True)
class Plan:
    """The settings with which a project is set up: each given value, or else the recorded value."""

    title: str
    record: ProjectRecord | None  # from an earlier set-up
    pool: str
    weights: str
    seed: int
    seed_labels: int | None  # None = an earlier release did not record it: import no labels
    classes: tuple[str, ...]  # () = the classes of the pool
    # None = an earlier release set the project up; the pool shows whether images were held out
    validation: ValidatedBy | None
    validation_labels: int  # how many labels annotators give if VALIDATION=people
    label_config: str | None = None  # the XML of the user's own label config
    offered: frozenset[str] = frozenset()  # the image ids of a pool that replaces the recorded one
    notes: tuple[str, ...] = ()

    @property
    def has_new_pool(self) -> bool:
        """Return whether the project will get its images from a different pool."""
        return self.record is not None and self.pool != self.record.pool

    @property
    def first_validation(self) -> Validation:
        """Return how to hold out images if the pool has never been listed.

        In a project that an earlier release set up, some images may already be labeled. A sample
        can be drawn only once these images are known.
        """
        is_earlier = self.record is not None and self.record.validation is None
        if self.validation != "people" or is_earlier:
            return KNOWN
        return Validation("people", self.validation_labels)

    @property
    def has_new_classes(self) -> bool:
        """Return whether annotators will choose from different classes."""
        return self.record is not None and not is_same(self.classes, self.record.classes)


def make_plan(request: Request, progress: Progress = lambda *_: None) -> Plan:
    """Check a request, and return the plan for setting up the project.

    Raises a TightloopError that explains what is wrong and what to do. Contacts neither Label
    Studio nor Redis, and lists the images only if the project is new or gets a different pool.
    """
    record = find_record(request.settings.model_dir, request.title)
    if record is None:
        return _plan_new(request, progress)
    return _plan_recorded(request, record, progress)


def choose_classes(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the given classes, or else the pool's known classes, in the pool's spelling.

    Raises SettingsError if the given classes lack a class that the pool has.
    """
    spelling = {fold(name): name for name in known}
    chosen = tuple(spelling.get(fold(name), name) for name in given)
    if chosen and (lacking := [name for name in known if name not in chosen]):
        raise SettingsError(
            f"the classes {', '.join(given)} lack {_name_some(lacking)}, which the images are "
            "labeled with: add what is missing to CLASSES or LABEL_CONFIG"
        )
    return chosen or tuple(known)


def _plan_new(request: Request, progress: Progress) -> Plan:
    settings = request.settings
    title = request.title or settings.project_title
    others = recorded_projects(settings.model_dir)
    if not request.may_create or (others and "pool" not in request.given):
        raise SettingsError(
            f'no project is called "{title}" (known: {_name_some([o.title for o in others])}): '
            "correct the title, or give the images of a new project with POOL or --pool"
        )
    xml, classes = _read_classes(request)
    _check_weights(settings.weights)
    pool = request.value("pool") or "auto"
    asked: ValidationName = request.value("validation") or "auto"
    validation: ValidatedBy = "known" if asked == "auto" else asked
    notes: tuple[str, ...] = ()
    if pool not in DATA_SETS:
        listing = _list(pool, settings, progress)
        classes = choose_classes(classes, listing.classes)
        if not classes:
            raise SettingsError(
                f"POOL={pool}: no class is known (only two or more folders train/<class>/, or "
                "labels in a list, define classes): set the classes that annotators choose from "
                "with CLASSES=cat,dog,unsure or LABEL_CONFIG=my.xml"
            )
        if xml is not None:
            check_label_config(xml, classes)
        validation = _choose_validation(pool, asked, listing)
        notes = _notes_on_seeds(
            settings.seed_labels, listing, is_given="seed_labels" in request.given
        )
    return Plan(
        title=title,
        record=None,
        pool=pool,
        weights=settings.weights,
        seed=settings.seed,
        seed_labels=settings.seed_labels,
        classes=classes,
        validation=validation,
        validation_labels=request.value("validation_labels") or VALIDATION_LABELS,
        label_config=xml,
        notes=notes,
    )


def _plan_recorded(request: Request, record: ProjectRecord, progress: Progress) -> Plan:
    xml, classes = _read_classes(request)
    pool, weights = request.value("pool"), request.value("weights")
    seed, seed_labels = request.value("seed"), request.value("seed_labels")
    validation, n_labels = request.value("validation"), request.value("validation_labels")
    plan = Plan(
        title=record.title,
        record=record,
        pool=record.pool if pool in (None, "auto") else _name_of(pool, request.settings),
        weights=record.weights if weights in (None, "auto") else weights,
        seed=record.seed if seed is None else seed,
        seed_labels=record.seed_labels if seed_labels is None else seed_labels,
        # The columns of all saved probabilities are in the recorded order.
        classes=classes
        if classes and not _were_given(classes, record, may_change=request.may_change)
        else record.classes,
        validation=record.validation if validation in (None, "auto") else validation,
        validation_labels=n_labels or record.validation_labels or VALIDATION_LABELS,
        label_config=xml,
    )
    _check_contradictions(plan, record, may_change=request.may_change)
    if plan.weights != record.weights:
        _check_weights(plan.weights)
    if plan.has_new_pool and plan.pool not in DATA_SETS:
        listing = _list(plan.pool, request.settings, progress)
        choose_classes(plan.classes, listing.classes)
        return replace(plan, offered=frozenset(image.image_id for image in listing.images))
    if record.pool not in DATA_SETS:
        _name_of(record.pool, request.settings)  # raises PoolError if its folder or file is gone
    return plan


def _were_given(classes: Sequence[str], record: ProjectRecord, *, may_change: bool) -> bool:
    """Return whether these are the recorded classes, the current ones, or those recorded first.

    New classes go last in the record. With `may_change`, fewer classes count as a change.
    """
    earlier = () if may_change else record.classes[: len(classes)]
    known = (record.classes, record.class_list.current, earlier)
    return any(is_same(classes, names) for names in known)


def _check_contradictions(plan: Plan, record: ProjectRecord, *, may_change: bool) -> None:
    """Raise SettingsError if the plan differs from the record in a setting that may not change."""
    pairs: dict[str, tuple[object, object]] = {
        "pool": (plan.pool, record.pool),
        "weights": (plan.weights, record.weights),
        "seed": (plan.seed, record.seed),
    }
    if record.seed_labels is not None:
        pairs["seed_labels"] = (plan.seed_labels, record.seed_labels)
    if record.validation is not None:
        pairs["validation"] = (plan.validation, record.validation)
    if record.validation_labels is not None:
        pairs["validation_labels"] = (plan.validation_labels, record.validation_labels)
    if plan.has_new_classes:
        pairs["classes"] = (",".join(plan.classes), ",".join(record.classes))
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    fixed = {name: FIXED[name] for name in changed if name in FIXED}
    if not changed or (may_change and not fixed):
        return
    lines = [
        f"{name.upper()}={given} contradicts {name.upper()}={kept}, with which the project "
        f'"{record.title}" was set up'
        for name, (given, kept) in changed.items()
    ]
    lines += [f"{name.upper()} can never change: {reason}" for name, reason in fixed.items()]
    ways = "to continue, leave out these settings; for another project, set a new PROJECT_TITLE"
    if not fixed:
        ways += f"; to change this project, run {COMMAND} with these values while the stack runs"
    raise SettingsError("\n".join([*lines, ways]))


def _read_classes(request: Request) -> tuple[str | None, tuple[str, ...]]:
    """Return the user's own label config (or None) and the given classes (or ())."""
    path: Path | None = request.value("label_config")
    classes: tuple[str, ...] = request.value("classes") or ()
    if path is None:
        return None, classes
    xml = read_label_config(path)
    choices = parse_label_config(xml).choices
    check_label_config(xml, choices)
    if classes and not is_same(classes, choices):
        raise LabelConfigError(
            f"the choices of the label config {path} ({', '.join(choices)}) differ from "
            f"CLASSES={','.join(classes)}: leave out CLASSES, or make the two agree"
        )
    return xml, classes or choices


def _check_weights(weights: str) -> None:
    if weights not in ("auto", "imagenet", "none") and not Path(weights).is_file():
        raise WeightsError(
            f"WEIGHTS={weights}: no such file; allowed are auto, imagenet, none or the path of a "
            "ResNet-18 state_dict"
        )


def _source(pool: str, settings: Settings) -> Source:
    return find_source(pool, image_hosts=settings.image_hosts)


def _name_of(pool: str, settings: Settings) -> str:
    """Return the name under which a pool is recorded; raise PoolError if there is no such pool."""
    return pool if pool in DATA_SETS else _source(pool, settings).name


def _list(pool: str, settings: Settings, progress: Progress) -> Listing:
    """List the images of a source. Raises PoolError if there are too few for training."""
    listing = _source(pool, settings).list(progress)
    if (n_images := len(listing.images)) < MIN_IMAGES:
        left_out = summarize(listing.left_out, n_images)
        raise PoolError(
            f"POOL={pool} contains {n_images} images: training needs at least {MIN_IMAGES}"
            + (f" ({left_out})" if left_out else "")
        )
    return listing


def _choose_validation(pool: str, asked: ValidationName, listing: Listing) -> ValidatedBy:
    """Return where the validation labels come from.

    Raises SettingsError if VALIDATION=known is impossible.
    """
    if asked != "people" and can_hold_out(listing):
        return "known"
    if asked == "known":
        raise SettingsError(
            f"VALIDATION=known: POOL={pool} has no known labels to hold out, because some images "
            "have no label or because the labels are too few: set VALIDATION=people (annotators "
            "label a random sample), or name validation images in a list (column split)"
        )
    return "people"


def _notes_on_seeds(count: int, listing: Listing, *, is_given: bool) -> tuple[str, ...]:
    """Return a note if SEED_LABELS is larger than the number of known labels."""
    held_out = ("validation", "test")
    n_known = sum(bool(i.label) and i.split not in held_out for i in listing.images)
    if count <= n_known or not (n_known or is_given):
        return ()
    return (
        f"SEED_LABELS={count}, but only {n_known} images have known labels: all that are not held "
        "out for validation are used",
    )


def _name_some(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED_MAX], *(["…"] if len(names) > NAMED_MAX else [])]) or "none"
