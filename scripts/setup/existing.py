"""Describe an existing Label Studio project, and what attaching Tightloop to it would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backend.base.classes import ClassList
from backend.base.labeling import Annotation, LabelConfig
from backend.base.settings import Settings
from backend.labelstudio.client import UNCERTAINTY_SAMPLING
from backend.measures.evaluation import MIN_IMAGES
from backend.store.project_record import FormerSettings

CLASSES_SHOWN = 8
REASONS_SHOWN = 3
WIDTH = 12  # of the first column
# The reasons why an annotation has no usable label.
SKIPPED = "skipped"
EMPTY = "without a choice"
OTHER = "made with another control"
UNKNOWN = "with a class that the label config lacks"


@dataclass(frozen=True)
class Labels:
    """The number of labels of each class, and the number of annotations that are left out."""

    by_class: Mapping[str, int]  # tasks, in the order of the label config
    left_out: Mapping[str, int]  # annotations, by reason
    n_tasks: int = 0  # tasks with at least one usable annotation
    n_people: int = 0  # annotators who made the usable annotations


@dataclass(frozen=True)
class ExistingProject:
    """What set-up has read from a project before it attaches Tightloop."""

    project_id: int
    title: str
    n_tasks: int
    n_open: int
    config: LabelConfig
    former: FormerSettings
    labels: Labels
    images: Mapping[str, int]  # tasks, by the place of their images
    left_out: Mapping[str, int] = field(default_factory=dict)  # tasks, by reason
    n_sampled: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict)  # of the sampled images, by reason
    other_backends: Sequence[str] = ()
    annotations_per_task: int = 1
    n_validation: int = 0  # images that annotators label without a guess


def count_labels(annotations: Iterable[Sequence[Annotation]], classes: ClassList) -> Labels:
    """Count the labels of tasks; each item holds the annotations of one task.

    A task that several people labeled counts for the class of its first annotation.
    """
    left_out: Counter[str] = Counter()
    by_class: Counter[str] = Counter()
    people: set[int | None] = set()
    for of_task in annotations:
        usable = []
        for annotation in of_task:
            name = None if annotation.label is None else classes.spell(annotation.label)
            if annotation.was_skipped or name is None:
                left_out[_why_unusable(annotation)] += 1
            else:
                usable.append(name)
                people.add(annotation.annotator)
        by_class.update(usable[:1])
    found = {name: by_class[name] for name in classes.current}
    return Labels(found, dict(left_out.most_common()), sum(found.values()), len(people))


def _why_unusable(annotation: Annotation) -> str:
    if annotation.was_skipped:
        return SKIPPED
    if annotation.is_of_other_control:
        return OTHER
    if annotation.label is None:
        return EMPTY
    return UNKNOWN


def describe(found: ExistingProject, settings: Settings) -> list[str]:
    """Return the lines of the plan. They fit on one screen."""
    untouched = ["annotations, label config, instructions, tabs, and predictions of other models"]
    if settings.overlap_in(is_attached=True) == "1":
        untouched.insert(0, "tasks")
    return [
        f'"{found.title}" (project {found.project_id}): {found.n_tasks:,} tasks, '
        f"{found.n_open:,} without an annotation",
        "Tightloop will read",
        *_rows(_read_rows(found)),
        *_section("It will leave out", _rows(_left_out_rows(found))),
        "It will set in Label Studio",
        *_rows(_switched_rows(found, settings)),
        "It will not touch",
        f"  {', '.join(untouched)}",
        "Annotators will notice",
        *(f"  {line}" for line in _noticed(found, settings)),
        f"To undo everything: python -m scripts.setup_project --detach {found.project_id}",
    ]


def _read_rows(found: ExistingProject) -> list[tuple[str, str]]:
    labels = found.labels
    people = f"{labels.n_people} {'person' if labels.n_people == 1 else 'people'}"
    classes = ", ".join(f"{name} {count:,}" for name, count in _first(labels.by_class))
    more = len(labels.by_class) - CLASSES_SHOWN
    return [
        (
            "labels",
            f"{labels.n_tasks:,} tasks labeled by {people}"
            if labels.n_tasks
            else "none yet: the first tasks are chosen without a model",
        ),
        ("classes", f"{classes}{f' and {more} more' if more > 0 else ''}"),
        (
            "images",
            ", ".join(f"{count:,} {place}" for place, count in found.images.items())
            + "; each is fetched once",
        ),
    ]


def _left_out_rows(found: ExistingProject) -> list[tuple[str, str]]:
    rows = []
    if found.left_out:
        rows.append(("tasks", _name_reasons(found.left_out)))
    if n_unreadable := sum(found.unreadable.values()):
        about = round(sum(found.images.values()) * n_unreadable / found.n_sampled)
        rows.append(
            (
                "images",
                f"{n_unreadable} of {found.n_sampled} sampled images cannot be read, so about "
                f"{max(about, n_unreadable):,} in total ({_name_reasons(found.unreadable)})",
            )
        )
    if left_out := found.labels.left_out:
        counts = (f"{count:,} {reason}" for reason, count in left_out.items())
        rows.append(("annotations", ", ".join(counts)))
    return rows


def _switched_rows(found: ExistingProject, settings: Settings) -> list[tuple[str, str]]:
    former = found.former
    is_same = former.sampling == UNCERTAINTY_SAMPLING
    now = "as now" if is_same else f"now: {former.sampling or 'not set'}"
    rows = [("order", f"{UNCERTAINTY_SAMPLING} ({now})")]
    shows, now_shows = not settings.blind, former.show_collab_predictions
    if shows != now_shows:
        rows.append(
            (
                "predictions",
                f"{_shown(shows)} (now: {_shown(now_shows)})",
            )
        )
    if former.model_version:
        rows.append(("version", f'tl{found.project_id}-r… (now: "{former.model_version}")'))
    beside = ", ".join(f'"{title}"' for title in found.other_backends)
    rows.append(
        (
            "ML backend",
            f"{settings.backend_url}, and a webhook that reports annotations"
            + (f"; still connected: {beside}" if beside else ""),
        )
    )
    if not former.description:
        rows.append(("description", "states how good the model is (now: empty)"))
    return rows


def _noticed(found: ExistingProject, settings: Settings) -> list[str]:
    guess = "" if settings.blind else "; the model's guess is already selected"
    lines = [
        f'"Label All Tasks" serves the most informative images first{guess}',
        _describe_validation(found.n_validation),
    ]
    if found.annotations_per_task > 1:
        lines.append(
            "tasks that already have an annotation still come first, because this project asks for "
            f"{found.annotations_per_task} annotations per task"
        )
    if settings.overlap_in(is_attached=True) != "1":
        lines.append(
            f"OVERLAP={settings.overlap}: some tasks are reopened for another annotator, which "
            "raises the number of annotations that they need"
        )
    return lines


def _describe_validation(n_images: int) -> str:
    """Return how many images show no guess, and whether they are enough to measure the model."""
    if not n_images:
        return "nothing measures the model, because too few images have no annotation"
    images = f"{n_images:,} randomly chosen image{'s show' if n_images > 1 else ' shows'} no guess"
    if n_images >= MIN_IMAGES:
        return f"{images}: their labels measure the model"
    return f"{images}: too few to measure the model, which takes {MIN_IMAGES}"


def _shown(is_shown: bool) -> str:
    return "shown to annotators" if is_shown else "hidden"


def _first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return list(counts.items())[:CLASSES_SHOWN]


def _name_reasons(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    shown = [f"{count:,}: {reason}" for reason, count in ordered[:REASONS_SHOWN]]
    if rest := sum(count for _, count in ordered[REASONS_SHOWN:]):
        shown.append(f"{rest:,}: other reasons")
    return "; ".join(shown)


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {name:<{WIDTH}}{text}" for name, text in rows]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *lines] if lines else []
