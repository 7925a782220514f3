"""Describe every labeled image of a project in one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from backend.base.errors import ModelFolderError, NoModelError
from backend.base.labeling import DELETED, Asked
from backend.images.catalog import CatalogImage
from backend.labelstudio.rows import DIGEST
from backend.people.consensus import ClassAnnotation, find_consensus
from backend.results.label_sources import LabelSources
from backend.results.predicted_labels import PredictedLabel, predicted_labels
from backend.rounds.labels import read_asked_probs, sort_annotations
from backend.rounds.validation_reading import read_validation
from backend.store.model_outputs import own_embeddings, shared_embeddings
from backend.store.registry import Registry

LabeledBy = Literal["people", "ground truth", "data set", "model"]
SplitName = Literal["train", "validation", "test"]

DIGITS = 6  # of probabilities


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labeled image; the fields are the columns of every exported file."""

    image: str  # the path or URL as the pool lists it, or the image id if there is neither
    image_id: str
    split: SplitName
    label: str
    labeled_by: LabeledBy
    label_probability: float | None  # None = unknown
    annotations: int  # by people, without skips
    annotators: str  # emails, joined by ";"
    annotated_at: datetime | None  # of the latest of these annotations
    asked_round: int | None  # None = nobody was asked
    asked_version: str | None
    asked_strategy: str | None
    model_version: str | None  # the version that made the prediction
    model_label: str | None
    model_confidence: float | None
    is_removed: bool  # the pool's folder, list or bucket no longer contains the image


LABEL_COLUMNS = tuple(field.name for field in fields(LabelRow))


class LabelReading(NamedTuple):
    """The labels of a project."""

    rows: list[LabelRow]  # sorted by image id
    left_out: dict[str, int]  # how many annotations could not be used, by reason
    model_problem: str  # why there are no predictions by the version in service, or ""


@dataclass(frozen=True, slots=True)
class _Label:
    name: str
    labeled_by: LabeledBy
    probability: float | None
    given: Sequence[tuple[int, str]] = ()  # annotator and time of each annotation by a person


def read_label_rows(sources: LabelSources) -> LabelReading:
    """Return a row for each image that people, the data set or the model have labeled."""
    by_model = _labels_by_model(sources)
    labels = {i: _Label(p.label, "model", p.confidence) for i, (_, p) in by_model.items()}
    labels |= _known_labels(sources)
    labels |= _validation_labels(sources)
    consensus, left_out = _consensus_labels(sources)
    labels |= consensus
    # The prediction that became a label, or else the prediction by the version in service
    predicted, model_problem = _predictions(sources, labels)
    predicted |= {i: found for i, found in by_model.items() if labels[i].labeled_by == "model"}
    asked = _asked(sources)
    rows = []
    for image_id in sorted(labels):
        image = sources.catalog.find(image_id)
        if image is not None:
            of_image = predicted.get(image_id), asked.get(image_id)
            rows.append(_row(sources, image, labels[image_id], *of_image))
    return LabelReading(rows, left_out, model_problem)


def _labels_by_model(sources: LabelSources) -> dict[str, tuple[str, PredictedLabel]]:
    """Return a mapping from image id to version and label by the model, without removed classes."""
    found = {}
    for image_id, label in sources.finish.model_labels().items():
        name = sources.record.class_list.spell(label.label)
        if name is not None:
            prediction = PredictedLabel(name, label.confidence)
            found[sources.catalog.canonical(image_id)] = label.version, prediction
    return found


def _known_labels(sources: LabelSources) -> dict[str, _Label]:
    """Return the data set's labels of the validation and test images."""
    spelled = {
        image.image_id: sources.record.class_list.spell(image.known_label)
        for image in sources.catalog.held_out()
    }
    return {i: _Label(name, "data set", 1.0) for i, name in spelled.items() if name is not None}


def _validation_labels(sources: LabelSources) -> dict[str, _Label]:
    """Return the labels that annotators have given to validation images."""
    may_reopen = sources.settings.may_reopen(is_attached=sources.record.is_attached)
    reading = read_validation(
        sources.store, sources.record.class_list, n_wanted=0, may_reopen=may_reopen
    )
    found = {}
    for task in reading.tasks:
        label = reading.outcomes[task.task_id].label
        if label is None:
            continue
        of_people = [
            a
            for a in reading.annotations.get(task.task_id, ())
            if a.annotator is not None and a.label is not None
        ]
        is_truth = any(a.is_ground_truth for a in of_people)
        found[sources.catalog.canonical(task.image_id)] = _Label(
            label,
            "ground truth" if is_truth else "people",
            1.0 if is_truth else None,
            [(a.annotator, a.updated_at) for a in of_people if a.annotator is not None],
        )
    return found


def _consensus_labels(sources: LabelSources) -> tuple[dict[str, _Label], dict[str, int]]:
    """Return the labels that models are trained on, and the number of unusable annotations by
    reason.
    """
    store, catalog, classes = sources.store, sources.catalog, sources.record.class_list
    sorted_annotations = sort_annotations(
        catalog, store, classes, store.annotations(), is_attached=sources.record.is_attached
    )
    usable = sorted_annotations.usable
    probs = classes.align_rows(store.fold_probs(len(classes.columns)))
    probs |= read_asked_probs(catalog, store, classes)
    consensus = find_consensus(usable, probs)
    given: dict[str, list[ClassAnnotation]] = defaultdict(list)
    for annotation in usable:
        given[annotation.image_id].append(annotation)
    found = {}
    for image_id, column, quality in zip(
        consensus.image_ids, consensus.labels.tolist(), consensus.quality.tolist(), strict=True
    ):
        of_image = given[image_id]
        labeled_by = _labeled_by(of_image)
        # Without a model, the quality is only the share of annotators who chose the label.
        is_estimated = labeled_by != "people" or image_id in probs
        by_people = [(a.annotator, a.annotated_at) for a in of_image if a.annotator is not None]
        found[image_id] = _Label(
            classes.names[column], labeled_by, quality if is_estimated else None, by_people
        )
    return found, sorted_annotations.left_out


def _labeled_by(annotations: Sequence[ClassAnnotation]) -> LabeledBy:
    """Return whose annotation decides, in the order in which `find_consensus` ranks them."""
    if any(a.is_ground_truth for a in annotations):
        return "ground truth"
    return "data set" if any(a.annotator is None for a in annotations) else "people"


def _predictions(
    sources: LabelSources, labels: Mapping[str, _Label]
) -> tuple[dict[str, tuple[str, PredictedLabel]], str]:
    """Return the version in service and its prediction for each labeled image that it has scored.

    If the version is broken, returns no predictions and the reason: labels are worth exporting even
    without predictions.
    """
    try:
        meta = Registry(sources.root).current()
        if meta is None:
            return {}, ""
        store = sources.settings.store
        own = own_embeddings(sources.root, store)
        shared = shared_embeddings(sources.settings.data_dir, store)
        found = predicted_labels(
            sources.root,
            meta,
            list(labels),
            sources.record.class_list,
            (own, shared),
            sources.catalog.pool_name,
        )
    except (ModelFolderError, NoModelError) as error:
        return {}, str(error)
    return {image_id: (meta.version, prediction) for image_id, prediction in found.items()}, ""


def _asked(sources: LabelSources) -> dict[str, Asked]:
    """Return how each image, or a copy of it, was queried."""
    asked = sources.store.asked()
    copies = {sources.catalog.canonical(image_id): a for image_id, a in asked.items()}
    return copies | asked


def _row(
    sources: LabelSources,
    image: CatalogImage,
    label: _Label,
    predicted: tuple[str, PredictedLabel] | None,
    asked: Asked | None,
) -> LabelRow:
    version, prediction = predicted or (None, None)
    people = dict.fromkeys(annotator for annotator, _ in label.given)
    return LabelRow(
        image=_address(sources, image),
        image_id=image.image_id,
        split="train" if image.split == "pool" else image.split,
        label=label.name,
        labeled_by=label.labeled_by,
        label_probability=_rounded(label.probability),
        annotations=len(label.given),
        annotators=";".join(_email(sources, person) for person in people),
        annotated_at=max((_moment(at) for _, at in label.given), default=None),
        asked_round=asked.round if asked else None,
        asked_version=(asked.version or None) if asked else None,
        asked_strategy=asked.strategy if asked else None,
        model_version=version,
        model_label=prediction.label if prediction else None,
        model_confidence=_rounded(prediction.confidence) if prediction else None,
        is_removed=image.is_removed,
    )


def _address(sources: LabelSources, image: CatalogImage) -> str:
    """Return the path or URL of an image, or its id if it has neither."""
    address = image.location
    if sources.record.is_attached:  # see TaskSource
        address = address.partition(" ")[2]
        if address.startswith(DIGEST):
            return image.image_id
    return address or image.image_id


def _email(sources: LabelSources, person: int) -> str:
    if person == DELETED:
        return "deleted account"
    return sources.emails.get(person, f"person {person}")


def _moment(text: str) -> datetime:
    """Return a time from Label Studio in UTC, to the second."""
    return datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, DIGITS)
