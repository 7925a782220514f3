"""Write a version as an ONNX graph that takes images of any size and returns probabilities.

The packages onnx, onnxruntime and onnxscript are Tightloop's extra `onnx`. Only the functions that
need these packages import them, because a version can be exported without them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from backend.base.arrays import Probs
from backend.images.framing import View, frame
from backend.network.inference import load_model, normalizer, resize
from backend.results.exported_model import ExportedModel
from backend.results.framing_module import Framing

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 20
MOST_DIFFERENT = 1e-3  # between the probabilities of the graph and of the network
# Height and width of the images that check the graph.
CHECKED_SIZES = ((32, 32), (64, 64), (1, 1), (48, 90), (200, 130), (7, 300), (375, 500), (900, 640))
CHECKED_PER_SIZE = 4


def is_available() -> bool:
    """Return whether the packages of the extra `onnx` are installed."""
    return all(find_spec(package) is not None for package in PACKAGES)


def write_onnx(model: ExportedModel, path: Path) -> None:
    """Write the graph to a file; the same version gives the same bytes."""
    import onnx

    example = torch.zeros(2, 70, 90, 3, dtype=torch.uint8)
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(("n", "height", "width"))}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        program = torch.onnx.export(
            _Pipeline(model).eval(),
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": sizes},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _remove_traces(graph)
    facts = {"version": model.meta.version, "classes": json.dumps(model.classes)}
    onnx.helper.set_model_props(graph, facts)
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def find_difference(model: ExportedModel, path: Path) -> str:
    """Compare a graph with the network and Pillow's framing; return what differs, or ""."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pipeline = _Pipeline(model).eval()
    for images in example_images(CHECKED_SIZES, CHECKED_PER_SIZE):
        probs: Probs = session.run(None, {"images": images})[0]
        expected = pipeline.probs(torch.from_numpy(_frame(images, model.meta.view))).numpy()
        most = float(np.abs(probs - expected).max())
        second, first = np.partition(expected, -2, axis=1)[:, -2:].T
        is_clear = first - second > MOST_DIFFERENT
        is_same = probs.argmax(axis=1) == expected.argmax(axis=1)
        if not most <= MOST_DIFFERENT or not is_same[is_clear].all():
            height, width = images.shape[1:3]
            return f"its probabilities for images of {width} x {height} px differ by {most:.2g}"
    return ""


def example_images(
    sizes: tuple[tuple[int, int], ...], n_per_size: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield, for each height and width, images with coarse and fine structure."""
    rng = np.random.default_rng(0)
    for height, width in sizes:
        coarse = rng.integers(0, 256, (n_per_size, 4, 4, 3), dtype=np.uint8)
        smooth = [np.asarray(Image.fromarray(one).resize((width, height))) for one in coarse]
        noise = rng.integers(-20, 21, (n_per_size, height, width, 3))
        yield (np.stack(smooth) + noise).clip(0, 255).astype(np.uint8)


class _Pipeline(nn.Module):
    """Everything from the pixels to the calibrated probabilities of the classes, in fp32."""

    def __init__(self, model: ExportedModel) -> None:
        super().__init__()
        state = {name: torch.from_numpy(array) for name, array in model.state.items()}
        self._framing = Framing(model.meta.view)
        self._network = load_model(state, len(model.class_of_output), "cpu")
        self._image_size = model.meta.image_size
        self._temperature = model.meta.temperature
        self._classes = torch.eye(len(model.classes))[list(model.class_of_output)]
        self._is_merged = model.is_merged

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (n, classes) for uint8 images (n, height, width, 3)."""
        return self.probs(self._framing(images))

    @torch.inference_mode()
    def probs(self, framed: Tensor) -> Tensor:
        """Return probabilities for framed images (n, side, side, 3)."""
        normalized = normalizer(framed.device)(framed.permute(0, 3, 1, 2))
        logits = self._network(resize(normalized, self._image_size))
        probs = (logits / self._temperature).softmax(dim=1)
        return probs @ self._classes if self._is_merged else probs


def _frame(images: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    size = (view.side_px, view.side_px)
    return np.stack([frame(Image.fromarray(image), view.framing, size) for image in images])


def _remove_traces(graph: Any) -> None:
    """Remove the exporter's notes, which contain paths on this machine."""
    main = graph.graph
    for part in (graph, main, *main.node, *main.input, *main.output, *main.value_info):
        del part.metadata_props[:]
    for part in (graph, main, *main.node):
        part.doc_string = ""
