"""Convert tasks, annotations and predictions between Label Studio's JSON and our data classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.base.errors import LabelConfigError
from backend.base.labeling import (
    DELETED,
    Annotation,
    LabelConfig,
    NewTask,
    Prediction,
    Task,
    TaskReading,
)
from backend.labelstudio import task_data

# The columns of a task that each kind of reading requests.
TASK_COLUMNS = "id,data,total_annotations,cancelled_annotations,is_labeled"
OPEN_TASK_COLUMNS = f"{TASK_COLUMNS},predictions_model_versions"
_OF_ANNOTATIONS = "result,completed_by,updated_at,was_cancelled,ground_truth,lead_time"
ANNOTATION_COLUMNS = f"{TASK_COLUMNS},annotations,{_OF_ANNOTATIONS}"


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
    """Return a task in the form that an import expects, with its prediction or label."""
    row: dict[str, Any] = {"data": dict(task.data)}
    if task.prediction is not None:
        row["predictions"] = [write_prediction(config, task.prediction)]
    if task.label is not None:
        # By default, imported annotations are ground truth, which is missing from Label Studio's
        # counts of annotations.
        result = prediction_result(config, task.label)
        row["annotations"] = [{"result": result, "ground_truth": False}]
    return row


def write_prediction(config: LabelConfig, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as an import expects it; without a label, it shows no guess."""
    label = prediction.label
    return {
        "result": [] if label is None else prediction_result(config, label, prediction.probability),
        "score": prediction.score,
        "model_version": prediction.model_version,
    }


def read_task(task: Mapping[str, Any]) -> Task:
    """Read a task requested with TASK_COLUMNS."""
    return Task(
        task_id=task["id"],
        image_id=task_data.read_image_id(task["data"]),
        is_open=not (task["total_annotations"] or task["cancelled_annotations"]),
        awaits_second_opinion=bool(task["total_annotations"]) and not task["is_labeled"],
    )


def read_versions(task: Mapping[str, Any]) -> frozenset[str]:
    """Read the model versions of the predictions of a task requested with OPEN_TASK_COLUMNS."""
    versions = task["predictions_model_versions"] or ""
    return frozenset(name for part in versions.split(",") if (name := part.strip()))


def read_task_reading(task: Mapping[str, Any]) -> TaskReading:
    """Read a task requested with ANNOTATION_COLUMNS: its annotations and how it was queried."""
    return TaskReading(
        task=read_task(task),
        updated_at=task["updated_at"],
        annotations=tuple(read_annotations(task)),
        asked=task_data.read_asked(task["data"]),
    )


def read_annotations(task: Mapping[str, Any]) -> list[Annotation]:
    """Read the annotations of a task requested with ANNOTATION_COLUMNS."""
    annotations = task["annotations"]
    # A seed task's first annotation was imported together with the task; people made the others.
    is_seed = task_data.is_seed(task["data"])
    seed_id = min((a["id"] for a in annotations), default=None) if is_seed else None
    return [
        Annotation(
            annotation_id=annotation["id"],
            task_id=task["id"],
            image_id=task_data.read_image_id(task["data"]),
            annotator=(
                None if annotation["id"] == seed_id else annotation["completed_by"] or DELETED
            ),
            label=None if annotation["was_cancelled"] else _read_label(annotation["result"]),
            was_skipped=bool(annotation["was_cancelled"]),
            updated_at=annotation["updated_at"],
            is_ground_truth=bool(annotation["ground_truth"]),
            accepted_guess=_accepted_guess(annotation["result"]),
            seconds=annotation["lead_time"],
        )
        for annotation in annotations
    ]


def _accepted_guess(result: Any) -> bool:
    """Return whether an annotation repeats the displayed prediction unchanged."""
    regions = [r for r in result if isinstance(r, Mapping)] if isinstance(result, list) else []
    return bool(regions) and all(region.get("origin") == "prediction" for region in regions)


def _read_label(result: Any) -> str | None:
    """Return the single choice in an annotation's result, which may be any JSON, or None."""
    for region in result if isinstance(result, list) else ():
        match region:
            case {"type": "choices", "value": {"choices": [choice]}}:
                return str(choice)
    return None
