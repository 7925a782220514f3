"""Report how accurate the versions are."""

from __future__ import annotations

from backend.measures.evaluation import Evaluation
from backend.people.validation_labels import ValidationProgress
from backend.rounds import accuracy
from tests.unit.store.test_registry import meta


def test_the_description_names_the_version_in_service_and_the_button() -> None:
    assert accuracy.describe_project(None) == (
        "Tightloop, round 0: no model yet. Press Label All Tasks."
    )
    evaluation = Evaluation(accuracy=0.712, log_loss=0.9, images=2000)
    assert accuracy.describe_project(meta(7, labels=640, validation=evaluation)) == (
        "Tightloop, round 7: r0007 in service, 71.2% right on 2,000 validation images, trained on "
        "640 labels. Press Label All Tasks."
    )


def described(images: int, progress: ValidationProgress) -> str:
    """Describe a version that got 3 of 4 validation images right."""
    measured = Evaluation(accuracy=0.75, log_loss=0.9, images=images) if images else None
    return accuracy.describe_measured(measured, progress)


def test_an_accuracy_from_annotators_labels_shows_how_few_they_are() -> None:
    assert described(120, ValidationProgress(120, 200, 0, 3)) == (
        "75.0% right (66.6% to 81.9%) on 120 validation images labeled by annotators"
    )
    assert described(120, ValidationProgress(120, 200, 3, 0)) == (
        "75.0% right (66.6% to 81.9%) on 120 validation images labeled by annotators, "
        "3 of 123 undecided"
    )


def test_an_accuracy_from_fewer_than_thirty_labels_is_not_shown() -> None:
    assert described(0, ValidationProgress(0, 200, 0, 2)) == (
        "accuracy not known yet: 0 of 200 validation images labeled"
    )
    assert described(28, ValidationProgress(29, 1000, 1, 2)) == (
        "accuracy not known yet: 29 of 1,000 validation images labeled, 1 of 30 undecided"
    )
    assert described(6, ValidationProgress(6, 6, 0, 0)) == (
        "accuracy unknown: 6 of 6 validation images labeled, but at least 30 are needed"
    )


def test_an_estimate_names_its_bias() -> None:
    estimate = Evaluation(accuracy=0.634, log_loss=1.0, images=140)
    assert accuracy.estimate_sentence(estimate) == (
        "63% (cross-validated on 140 training labels, which are not a random sample: biased)"
    )
