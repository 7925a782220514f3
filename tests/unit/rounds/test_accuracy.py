"""Report how accurate the versions are."""

from __future__ import annotations

from backend.measures.evaluation import Evaluation
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
