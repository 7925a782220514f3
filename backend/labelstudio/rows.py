"""Convert tasks, annotations and predictions between Label Studio's JSON and our data classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from backend.base.errors import LabelConfigError
from backend.base.image_ids import image_id_of_task
from backend.base.labeling import (
    DELETED,
    IMPORTED_S,
    IMPOSSIBLE_S,
    Annotation,
    LabelConfig,
    NewTask,
    Prediction,
    Task,
    TaskReading,
)
from backend.images.data_uri import is_data_uri
from backend.images.digest import digest
from backend.labelstudio import task_data

# The columns of a task that each kind of reading requests.
STATE_COLUMNS = "id,total_annotations,cancelled_annotations,is_labeled"
TASK_COLUMNS = f"{STATE_COLUMNS},data"
_OF_ANNOTATIONS = "result,completed_by,updated_at,was_cancelled,ground_truth,lead_time"
ANNOTATION_COLUMNS = f"{TASK_COLUMNS},annotations,{_OF_ANNOTATIONS}"
# Longer addresses and data: URIs, which contain whole images, are kept as digests.
ADDRESS_LENGTH = 2000
DIGEST = "digest:"
# Label Studio's averages overflow for lead times above the square root of the largest float, about
# 1e154, so a lead time far below that causes no error.
LONGEST_S = 1e100


def prediction_result(
    config: LabelConfig, label: str, probability: float | None = None
) -> list[dict[str, Any]]:
    """Return the `result` of an annotation or prediction that chooses `label`."""
    if label not in config.choices:  # Label Studio would silently drop the label
        raise LabelConfigError(
            f"{label!r} is not among the label config's choices ({', '.join(config.choices)})"
        )
    region: dict[str, Any] = {
        "from_name": config.from_name,
        "to_name": config.to_name,
        "type": "choices",
        "value": {"choices": [label]},
    }
    return [region if probability is None else {**region, "score": probability}]


def write_task(config: LabelConfig, task: NewTask) -> dict[str, Any]:
    """Return a task in the form that an import expects, with its prediction and labels."""
    row: dict[str, Any] = {"data": dict(task.data)}
    if task.prediction is not None:
        row["predictions"] = [write_prediction(config, task.prediction)]
    # By default, imported annotations are ground truth, which is missing from Label Studio's counts
    # of annotations.
    annotations: list[dict[str, Any]] = []
    if task.label is not None:  # must come first; see `seed_id_of`
        result = prediction_result(config, task.label)
        annotations.append({"result": result, "ground_truth": False})
    for annotator, label in task.labels_by.items():
        result = prediction_result(config, label)
        imported = {"completed_by": annotator, "lead_time": IMPORTED_S}
        annotations.append({"result": result, "ground_truth": False, **imported})
    if annotations:
        row["annotations"] = annotations
    return row


def write_prediction(config: LabelConfig, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as an import expects it; without a label, it shows no guess."""
    label = prediction.label
    return {
        "result": [] if label is None else prediction_result(config, label, prediction.probability),
        "score": prediction.score,
        "model_version": prediction.model_version,
    }


def read_task(task: Mapping[str, Any], image_id: str) -> Task:
    """Read the state of a task requested with STATE_COLUMNS."""
    return Task(
        task_id=task["id"],
        image_id=image_id,
        is_open=not (task["total_annotations"] or task["cancelled_annotations"]),
        awaits_second_opinion=bool(task["total_annotations"]) and not task["is_labeled"],
    )


def read_own_task(task: Mapping[str, Any], config: LabelConfig) -> TaskReading:
    """Read one of our tasks requested with ANNOTATION_COLUMNS, and how it was queried."""
    image_id = task_data.read_image_id(task["data"])
    return TaskReading(
        task=read_task(task, image_id),
        updated_at=task["updated_at"],
        annotations=tuple(read_annotations(task, image_id, config, seed_id=seed_id_of(task))),
        asked=(asked := task_data.read_asked(task["data"])),
        is_unmarked=asked is None and not (image_id and task_data.is_seed(task["data"])),
    )


def read_attached_task(task: Mapping[str, Any], config: LabelConfig) -> TaskReading:
    """Read a task of an attached project. Its data is used only for the image's address."""
    image_id = image_id_of_task(task["id"])
    return TaskReading(
        task=read_task(task, image_id),
        updated_at=task["updated_at"],
        annotations=tuple(read_annotations(task, image_id, config)),
        asked=None,
        address=kept_address(image_of(task["data"], config)),
    )


def image_of(data: object, config: LabelConfig) -> object:
    """Return what a task's data contains under the label config's image key, or None."""
    return data.get(config.image_key) if isinstance(data, Mapping) else None


def kept_address(value: object) -> str:
    """Return an image's address in the form in which it is kept.

    Returns a digest if the address is too long, not printable or a data: URI, and "" if the value
    is not an address.
    """
    if not isinstance(value, str) or not value.strip():
        return ""
    is_kept = len(value) <= ADDRESS_LENGTH and value.isprintable()
    if is_kept and not is_data_uri(value):
        return value
    return DIGEST + digest(ascii(value))


def seed_id_of(task: Mapping[str, Any]) -> int | None:
    """Return the id of the annotation that was imported together with one of our tasks, or None.

    People made all other annotations.
    """
    is_seed = task_data.is_seed(task["data"])
    return min((a["id"] for a in task["annotations"]), default=None) if is_seed else None


def read_annotations(
    task: Mapping[str, Any], image_id: str, config: LabelConfig, *, seed_id: int | None = None
) -> list[Annotation]:
    """Read the annotations of a task requested with ANNOTATION_COLUMNS, oldest first.

    The label of the annotation `seed_id` comes from the data set.
    """
    return [
        _read_annotation(
            annotation, task["id"], image_id, config, is_seed=annotation["id"] == seed_id
        )
        # Label Studio returns them in no particular order.
        for annotation in sorted(task["annotations"], key=itemgetter("id"))
    ]


def _read_annotation(
    annotation: Mapping[str, Any],
    task_id: int,
    image_id: str,
    config: LabelConfig,
    *,
    is_seed: bool,
) -> Annotation:
    result = annotation["result"]
    regions = [r for r in result if isinstance(r, Mapping)] if isinstance(result, list) else []
    ours = [region for region in regions if region.get("from_name") == config.from_name]
    was_skipped = bool(annotation["was_cancelled"])
    return Annotation(
        annotation_id=annotation["id"],
        task_id=task_id,
        image_id=image_id,
        annotator=None if is_seed else annotation["completed_by"] or DELETED,
        label=None if was_skipped else _read_label(ours),
        was_skipped=was_skipped,
        updated_at=annotation["updated_at"],
        is_ground_truth=bool(annotation["ground_truth"]),
        accepted_guess=_accepted_guess(regions),
        seconds=_seconds(annotation.get("lead_time")),
        is_of_other_control=bool(regions) and not ours and not was_skipped,
    )


def _seconds(lead_time: float | None) -> float | None:
    """Return how long an annotator took, or IMPOSSIBLE_S if nobody can have taken that long."""
    is_possible = lead_time is None or abs(lead_time) < LONGEST_S
    return lead_time if is_possible else IMPOSSIBLE_S


def _accepted_guess(regions: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether an annotation repeats the displayed prediction unchanged."""
    return bool(regions) and all(region.get("origin") == "prediction" for region in regions)


def _read_label(regions: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the single choice among an annotation's regions, or None."""
    for region in regions:
        match region:
            case {"type": "choices", "value": {"choices": [choice]}}:
                return str(choice)
    return None
