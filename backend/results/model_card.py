"""Write the model card: what an exported version is, how good it is, and how to use it."""

from __future__ import annotations

from backend.measures.evaluation import MIN_IMAGES, Evaluation, too_few
from backend.measures.interval import interval_of
from backend.network.inference import IMAGENET_MEAN, IMAGENET_STD
from backend.results.exported_model import ExportedModel
from backend.rounds.accuracy import estimate_sentence
from backend.store.body_meta import BODY_NAME
from backend.store.project_record import ProjectRecord
from backend.store.version_meta import Meta


def model_card(model: ExportedModel, record: ProjectRecord, *, has_onnx: bool) -> str:
    """Return the model card in Markdown.

    The card does not contain the time of the export, so the same version gives the same card.
    """
    sections = [
        _summary(model, record),
        _data(model, record),
        _accuracy(model.meta, record),
        _limits(model, has_onnx=has_onnx),
        _usage(model, has_onnx=has_onnx),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(model: ExportedModel, record: ProjectRecord) -> str:
    meta = model.meta
    origin = f"a new last layer on the body of {meta.body}" if meta.is_head else "fully trained"
    return f"""# {record.title}: {meta.version}

This model sorts images into {len(model.classes)} classes: {", ".join(model.classes)}.

- Network: torchvision's ResNet-18 in fp32 with {len(model.class_of_output)} outputs
- Version: {meta.version} ({origin}), created on {meta.created_at[:10]} by Tightloop
- Training started from: {_start(model)}
- License: not specified; it depends on your images and on the pre-trained weights"""


def _start(model: ExportedModel) -> str:
    weights = _pretrained(model.meta.weights)
    if not BODY_NAME.fullmatch(model.meta.start):
        return weights
    if model.start is None:
        return f"{weights}, adapted without labels ({model.meta.start})"
    minutes = round(model.start.seconds / 60)
    return (
        f"{weights}, adapted for {minutes} minutes to {model.start.n_images:,} images from "
        f"`{model.start.pool}`, without labels ({model.start.name})"
    )


def _pretrained(weights: str) -> str:
    known = {"imagenet": "torchvision's ImageNet weights", "none": "no pre-trained weights"}
    return known.get(weights, weights)


def _data(model: ExportedModel, record: ProjectRecord) -> str:
    meta = model.meta
    lines = [
        "## Data and labels",
        "",
        f"The model was trained on {meta.labels:,} labeled images from `{meta.pool}`. "
        f"{_selection(meta.strategy)}",
        "",
        *(f"- {name}: {count:,} labels" for name, count in _label_counts(model, record).items()),
    ]
    if record.seed_labels:
        lines += ["", "Labels that came with the data set are included."]
    return "\n".join(lines)


def _selection(strategy: str) -> str:
    if strategy == "random":
        return "They were chosen at random."
    return (
        f"The images to annotate were chosen by the query strategy `{strategy}`, so they are not a "
        "random sample."
    )


def _label_counts(model: ExportedModel, record: ProjectRecord) -> dict[str, int]:
    """Return the number of labels of each exported class, by its current name."""
    counts = dict.fromkeys(model.classes, 0)
    for name, count in model.meta.labels_per_class.items():
        spelled = record.class_list.spell(name)
        if spelled in counts:
            counts[spelled] += count
    return counts


def _accuracy(meta: Meta, record: ProjectRecord) -> str:
    labeled_by = "annotators" if record.validation_labels else "the data set"
    lines = [
        "## Accuracy and calibration",
        "",
        f"- Validation (labeled by {labeled_by}, never trained on): {_describe(meta.validation)}",
        f"- Test: {_describe(meta.test)}",
    ]
    if meta.cross_validation is not None:
        lines.append(f"- Estimate: {estimate_sentence(meta.cross_validation)}")
    lines += ["", _calibration(meta)]
    return "\n".join(lines)


def _describe(evaluation: Evaluation | None) -> str:
    if evaluation is None or not evaluation.images:
        return "not measured, because there are no such images"
    if evaluation.images < MIN_IMAGES:
        return too_few(evaluation.images)
    low, high = interval_of(evaluation.accuracy, evaluation.images)
    return (
        f"{evaluation.accuracy:.1%} right (95 % interval: {low:.1%} to {high:.1%}) on "
        f"{evaluation.images:,} images; log loss {evaluation.log_loss:.3f}"
    )


def _calibration(meta: Meta) -> str:
    if meta.calibration is None:
        return (
            "The probabilities are not calibrated, because there were too few validation labels: "
            "they are probably too high."
        )
    found = meta.calibration
    tested = (
        f" On test images, to which the temperature was not fitted, the gap is "
        f"{found.test_error_after:.3f}."
        if found.test_error_after is not None
        else ""
    )
    return (
        f"The probabilities are calibrated with a temperature of {found.temperature:.3f}, fitted "
        f"to the validation images. There, the mean gap between confidence and accuracy is "
        f"{found.error_after:.3f} (before: {found.error_before:.3f}).{tested}"
    )


def _limits(model: ExportedModel, *, has_onnx: bool) -> str:
    lines = [
        "## Limits",
        "",
        "- The model gives every image one of the classes, even if the image shows none of them.",
        "- The figures hold for images like those in the pool. Measure again on other images.",
        "- Tightloop itself computes in bfloat16, so the probabilities that it shows differ "
        "slightly from this model's, usually by less than 0.01.",
    ]
    if model.meta.framing == "middle":
        lines.append("- The model sees only the middle square of each image.")
    if has_onnx:
        lines.append(
            "- `model.onnx` takes decoded images. Tightloop and `predict.py` decode large JPEG "
            "files at a fraction of their size, which changes the probabilities by about 0.01."
        )
    if model.removed:
        lines.append(
            f"- Classes that were removed from the project after training: "
            f"{', '.join(model.removed)}. Their outputs were dropped."
        )
    if model.unknown:
        lines.append(
            f"- Classes that joined the project later, which the model never predicts: "
            f"{', '.join(model.unknown)}."
        )
    return "\n".join(lines)


def _usage(model: ExportedModel, *, has_onnx: bool) -> str:
    meta = model.meta
    size = (meta.image_size, meta.image_size)
    merge = (
        f"\nprobs = probs @ torch.eye({len(model.classes)})[{[*model.class_of_output]}]"
        if model.is_merged
        else ""
    )
    text = f"""## How to use it

`predict.py` needs torch, torchvision and safetensors, and prepares images as Tightloop does. It
prints one line of JSON for each image. In Python, import its function `predict`.

```
python predict.py photo.jpg
```

The network alone, for square images, with the numbers from `inference.json`; `probs` has the
order of `classes.json`:

```python
import safetensors.torch, torch, torchvision
from PIL import Image
from torchvision.transforms import functional as F

model = torchvision.models.resnet18(num_classes={len(model.class_of_output)}).eval()
model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
image = Image.open("square.png").convert("RGB").resize({size}, Image.Resampling.BILINEAR)
image = F.normalize(F.to_tensor(image), {[*IMAGENET_MEAN]}, {[*IMAGENET_STD]})
probs = (model(image[None]) / {meta.temperature!r}).softmax(1){merge}
```"""
    return text + _ONNX_USAGE if has_onnx else text


_ONNX_USAGE = """

`model.onnx` needs only onnxruntime, in any language. It contains the resizing, the normalization
and the calibration. Its input `images` is a uint8 tensor (n, height, width, 3) of upright RGB
images of any size, and its output `probabilities` is a float tensor (n, classes) in the order of
`classes.json`. Put transparent images on a white background first.

```python
import numpy, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
image = numpy.asarray(Image.open("square.png").convert("RGB"))
probs = session.run(None, {"images": image[None]})[0]
```"""
