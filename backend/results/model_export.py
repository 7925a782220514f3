"""Export a version as a folder that works without Tightloop.

model.safetensors   the whole network, for torchvision's resnet18
classes.json        the names of the classes
inference.json      how to prepare an image, and how to read the network's outputs
metrics.json        how good the version is
predict.py          predicts images with torch, torchvision and safetensors
model.onnx          everything from the pixels to the probabilities
README.md           the model card
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.base.errors import ModelFolderError
from backend.base.progress import Progress
from backend.images.framing import MIDDLE_PX
from backend.measures.evaluation import Evaluation
from backend.measures.interval import interval_of
from backend.network.inference import IMAGENET_MEAN, IMAGENET_STD
from backend.results.exported_model import ExportedModel, read_model
from backend.results.model_card import model_card
from backend.results.onnx_export import find_difference, is_available, write_onnx
from backend.results.output import new_folder
from backend.store import tensor_file
from backend.store.project_record import read_record
from backend.store.registry import Registry

ONNX = "model.onnx"
TEMPLATES = Path(__file__).parent / "templates"


def export_model(
    root: Path, version: str | None, folder: Path | None, *, is_forced: bool, progress: Progress
) -> tuple[Path, str]:
    """Export a version (by default, the version in service) of the project in `root`.

    The folder is named after the version unless `folder` is given. Returns the folder, and why
    model.onnx was left out, or "". Raises NoModelError, BrokenVersionError or ExportError.
    """
    record = read_record(root)
    if record is None:
        raise ModelFolderError(f"{root} contains no project: run `python -m scripts.setup_project`")
    model = read_model(Registry(root), version, record.class_list)
    folder = folder or Path(model.meta.version)
    with new_folder(folder, is_forced=is_forced) as draft:
        notice = _write_onnx(model, draft / ONNX, progress)
        _write_json(draft / "classes.json", model.classes)
        weights = draft / tensor_file.WEIGHTS_FILE
        tensor_file.write_tensors(weights, model.state)
        weights.chmod((draft / "classes.json").stat().st_mode)  # others may read exported files
        _write_json(draft / "inference.json", _inference(model))
        _write_json(draft / "metrics.json", _metrics(model))
        script = TEMPLATES / f"predict_{model.meta.framing}.txt"
        (draft / "predict.py").write_bytes(script.read_bytes())
        card = model_card(model, record, has_onnx=not notice)
        (draft / "README.md").write_text(card, encoding="utf-8")
    return folder, notice


def _write_onnx(model: ExportedModel, path: Path, progress: Progress) -> str:
    """Write and check model.onnx; return why it was left out, or ""."""
    if not is_available():
        return (
            f"{ONNX} was left out, because onnx, onnxruntime and onnxscript are not all installed: "
            "`make install` installs them"
        )
    progress(f"writing {ONNX}", 0, 0)
    write_onnx(model, path)
    if difference := find_difference(model, path):
        path.unlink()
        return f"{ONNX} was left out: {difference}; please report this"
    return ""


def _inference(model: ExportedModel) -> dict[str, Any]:
    meta = model.meta
    return {
        "framing": meta.framing,
        **({"middle_px": MIDDLE_PX} if meta.framing == "middle" else {}),
        "image_size": meta.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "temperature": meta.temperature,
        "class_of_output": model.class_of_output,
    }


def _metrics(model: ExportedModel) -> dict[str, Any]:
    meta = model.meta
    return {
        "version": meta.version,
        "labels": meta.labels,
        "labels_per_class": meta.labels_per_class,
        "validation": _measured(meta.validation),
        "test": _measured(meta.test),
        "cross_validation": _measured(meta.cross_validation),
        "calibration": meta.calibration and meta.calibration.model_dump(),
    }


def _measured(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    interval = interval_of(evaluation.accuracy, evaluation.images)
    return asdict(evaluation) | {"accuracy_interval_95": interval}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
