"""Write model cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.classes import ClassList
from backend.measures.evaluation import Evaluation
from backend.results.exported_model import ExportedModel, read_model
from backend.results.model_card import model_card
from backend.store.project_record import ProjectRecord
from backend.store.registry import Registry
from backend.store.version_meta import Calibration
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record, save

CAT, DOG, OWL = "cat", "dog", "owl"
CALIBRATION = Calibration(
    temperature=1.5, error_before=0.1, error_after=0.02, test_error_after=0.03
)


def card(
    root: Path, project: ProjectRecord | None = None, has_onnx: bool = True, **changes: object
) -> str:
    project = project or record().model_copy(update={"classes": (CAT, DOG, OWL)})
    per_class = {CAT: 4, DOG: 6, OWL: 5}
    fields: dict[str, object] = {"classes": (CAT, DOG, OWL), "labels_per_class": per_class}
    saved = save(root, meta(**(fields | changes)))  # type: ignore[arg-type]
    model = read_model(Registry(root), saved.version, project.class_list)
    return model_card(model, project, has_onnx=has_onnx)


def test_a_card_gives_the_accuracy_with_its_interval(tmp_path: Path) -> None:
    text = card(tmp_path, test=Evaluation(accuracy=0.75, log_loss=0.5, images=400))
    assert "50.0% right (95 % interval: 47.8% to 52.2%) on 2,000 images; log loss 0.700" in text
    assert "- Test: 75.0% right (95 % interval: 70.5% to 79.0%) on 400 images" in text
    assert "labeled by the data set" in text


@pytest.mark.parametrize("start", ["", "pretrained"])
def test_a_card_names_the_pretrained_weights(tmp_path: Path, start: str) -> None:
    text = card(tmp_path, weights="imagenet", start=start)
    assert "- Training started from: torchvision's ImageNet weights\n" in text


def test_a_card_describes_the_adapted_body_that_training_started_from(tmp_path: Path) -> None:
    save_body(tmp_path)
    text = card(tmp_path, weights="imagenet", start="a0001")
    assert (
        "- Training started from: torchvision's ImageNet weights, adapted for 30 minutes to 6,000 "
        "images from `digits`, without labels (a0001)\n"
    ) in text


def test_a_card_names_an_adapted_body_that_is_missing(tmp_path: Path) -> None:
    text = card(tmp_path, weights="imagenet", start="a0001")
    assert "torchvision's ImageNet weights, adapted without labels (a0001)\n" in text


def test_a_card_says_what_is_not_known(tmp_path: Path) -> None:
    text = card(tmp_path, validation=Evaluation(accuracy=1, log_loss=0, images=12))
    assert "never trained on): too few validation images to tell (12)" in text
    assert "- Test: not measured, because there are no such images" in text
    assert "The probabilities are not calibrated" in text
    assert "temperature" not in text.partition("## Limits")[0]


def test_a_card_describes_the_calibration(tmp_path: Path) -> None:
    text = card(tmp_path, calibration=CALIBRATION)
    assert "calibrated with a temperature of 1.500" in text
    assert "0.020 (before: 0.100)" in text
    assert "the gap is 0.030" in text
    assert "probs = (model(image[None]) / 1.5).softmax(1)\n" in text


def test_a_card_counts_the_labels_of_the_current_classes(tmp_path: Path) -> None:
    renamed = record().model_copy(
        update={
            "classes": (CAT, DOG, OWL, "hound"),
            "removed_classes": (DOG, OWL),
            "renamed_classes": ((DOG, "hound"),),
            "validation_labels": 100,
        }
    )
    text = card(tmp_path, renamed)
    assert "2 classes: cat, hound." in text
    assert "- cat: 4 labels\n- hound: 6 labels\n" in text
    assert "removed from the project after training: owl" in text
    assert "labeled by annotators" in text


def test_a_card_names_classes_that_the_model_does_not_know(tmp_path: Path) -> None:
    later = record().model_copy(update={"classes": (CAT, DOG, OWL, "ant")})
    assert "which the model never predicts: ant." in card(tmp_path, later)


def test_a_card_adds_up_the_outputs_of_merged_classes(tmp_path: Path) -> None:
    merged = record().model_copy(
        update={
            "classes": (CAT, DOG, OWL),
            "removed_classes": (OWL,),
            "renamed_classes": ((OWL, CAT),),
        }
    )
    assert "probs = probs @ torch.eye(2)[[0, 1, 0]]\n" in card(tmp_path, merged)


@pytest.mark.parametrize("has_onnx", [True, False])
def test_a_card_explains_onnx_only_if_the_folder_has_it(tmp_path: Path, has_onnx: bool) -> None:
    assert ("onnx" in card(tmp_path, has_onnx=has_onnx)) == has_onnx


def test_a_card_says_how_the_images_were_chosen(tmp_path: Path) -> None:
    assert "chosen by the query strategy `margin`, so they are not a random" in card(tmp_path)
    assert "They were chosen at random." in card(tmp_path, version="r0002", strategy="random")


def test_a_card_says_where_a_head_comes_from(tmp_path: Path) -> None:
    save(tmp_path, meta(classes=(CAT, DOG, OWL)))
    text = card(tmp_path, version="r0001h02")
    assert "- Version: r0001h02 (a new last layer on the body of r0001), created on" in text
    assert text.startswith("# T: r0001h02\n")


def test_the_names_of_classes_are_those_of_the_label_config() -> None:
    model = ExportedModel(meta(), {}, ("Cat", "Dog"), (0, 1), (), ())
    spelled = ClassList(("cat", "dog"), ("Cat", "Dog"))
    project = record().model_copy(update={"classes": spelled.choices})
    assert "- Cat: 4 labels\n- Dog: 6 labels" in model_card(model, project, has_onnx=False)
