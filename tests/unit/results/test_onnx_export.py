"""Write versions as ONNX graphs, and compare their probabilities with the network's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from backend.base.arrays import Probs
from backend.base.classes import ClassList
from backend.measures.calibration import rescale
from backend.network.inference import load_model, normalizer, resize
from backend.results.exported_model import ExportedModel
from backend.results.onnx_export import example_images, find_difference, write_onnx
from tests.unit.results.exported_models import CLASSES, UNCHANGED, exported, framed, network_state

# owl was removed, and ant was renamed to cat.
CHANGED = ClassList(CLASSES, ("cat", "dog"), (("ant", "cat"),))
# Height and width of twenty images each; none is so tall that Pillow resizes its height first.
SIZES = (
    *((64, 64), (32, 32), (1, 1), (48, 90), (90, 60)),
    *((129, 255), (30, 300), (375, 500), (500, 333), (256, 256)),
)
only_whole = pytest.mark.parametrize("written", ["whole"], indirect=True)


@dataclass(frozen=True)
class Written:
    """An exported model and its graph."""

    model: ExportedModel
    classes: ClassList
    path: Path

    def probs(self, images: NDArray[np.uint8]) -> Probs:
        return onnxruntime.InferenceSession(self.path).run(None, {"images": images})[0]


@pytest.fixture(scope="module", params=["whole", "middle"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Export a version that sees whole images, and one of an earlier release with other classes."""
    folder = tmp_path_factory.mktemp("onnx")
    classes = UNCHANGED if request.param == "whole" else CHANGED
    model = exported(folder, classes, image_size=64, framing=request.param)
    write_onnx(model, folder / "model.onnx")
    return Written(model, classes, folder / "model.onnx")


def fp32_probs(model: ExportedModel, classes: ClassList, images: NDArray[np.uint8]) -> Probs:
    """Return what Tightloop computes for the current classes, but in fp32."""
    meta = model.meta
    state = {name: torch.from_numpy(array) for name, array in network_state().items()}
    pixels = torch.from_numpy(framed(images, meta.view)).permute(0, 3, 1, 2)
    normalized = resize(normalizer(torch.device("cpu"))(pixels), meta.image_size)
    raw = load_model(state, len(CLASSES), "cpu")(normalized).softmax(dim=1).numpy()
    probs = classes.align(rescale(raw, meta.temperature))
    return probs[:, [classes.names.index(name) for name in model.classes]]


def test_the_probabilities_of_200_images_are_those_of_the_network(written: Written) -> None:
    session = onnxruntime.InferenceSession(written.path)
    n_images = n_clear = 0
    favourites = set()
    for images in example_images(SIZES, 20):
        found = session.run(None, {"images": images})[0]
        expected = fp32_probs(written.model, written.classes, images)
        assert np.abs(found - expected).max() <= 1e-3
        top_two = np.partition(expected, -2, axis=1)[:, -2:]
        is_clear = top_two[:, 1] - top_two[:, 0] > 1e-3
        assert (found.argmax(axis=1) == expected.argmax(axis=1))[is_clear].all()
        n_images, n_clear = n_images + len(images), n_clear + int(is_clear.sum())
        favourites |= {*expected.argmax(axis=1).tolist()}
    assert n_images == 200
    assert n_clear >= 180
    assert len(favourites) >= 2  # otherwise, the comparison would be trivial


def test_the_graph_describes_itself(written: Written) -> None:
    session = onnxruntime.InferenceSession(written.path)
    [images], [probs] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["n", "height", "width", 3]
    assert (probs.name, probs.shape[1]) == ("probabilities", len(written.model.classes))
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["version"] == "r0001"
    assert json.loads(facts["classes"]) == [*written.model.classes]


@only_whole
def test_an_image_has_the_same_probabilities_in_a_batch_and_alone(written: Written) -> None:
    [images] = example_images(((70, 50),), 3)
    together = written.probs(images)
    alone = np.concatenate([written.probs(images[[row]]) for row in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


@only_whole
def test_the_graph_contains_no_path_of_this_machine(written: Written) -> None:
    content = written.path.read_bytes()
    assert b"site-packages" not in content
    assert str(Path.home()).encode() not in content


@only_whole
def test_writing_again_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    write_onnx(written.model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == written.path.read_bytes()


@only_whole
def test_a_graph_with_other_weights_is_found(written: Written, tmp_path: Path) -> None:
    assert find_difference(written.model, written.path) == ""
    graph = onnx.load(written.path)
    [head] = [w for w in graph.graph.initializer if w.name.endswith("fc.weight")]
    changed = onnx.numpy_helper.to_array(head) * np.float32(1.01)
    head.CopyFrom(onnx.numpy_helper.from_array(changed, head.name))
    onnx.save(graph, tmp_path / "changed.onnx")
    difference = find_difference(written.model, tmp_path / "changed.onnx")
    assert difference.startswith("its probabilities for images of 32 x 32 px differ by 0.0")
