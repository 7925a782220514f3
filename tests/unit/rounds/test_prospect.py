"""Find out what the model could label, on hand-made confidences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.base.errors import NoModelError
from backend.rounds.loop import Loop
from backend.rounds.prospect import Prospect, look_ahead
from tests.unit.rounds.conftest import quiet

N_IMAGES, N_VALIDATION = 2000, 500
# Half of the images are surely cats; the others could be anything.
PROSPECT = Prospect(
    version="r0003",
    image_ids=tuple(f"i{n}" for n in range(N_IMAGES)),
    labels=("cat",) * N_IMAGES,
    confidences=np.repeat(np.array([0.99, 0.4], np.float32), N_IMAGES // 2),
    validation=np.repeat(np.array([0.99, 0.4], np.float32), N_VALIDATION // 2),
    is_right=np.repeat([True, False], N_VALIDATION // 2),
    try_number=1,
    may_validate_more=True,
)


def test_the_sure_half_can_be_labeled_and_its_images_are_fixed() -> None:
    plan = PROSPECT.plan(0.05)
    assert plan is not None
    assert (plan.n_above, plan.share) == (1000, 0.025)
    images = PROSPECT.images(plan)
    assert len(images) == 1000
    assert (images[0].image_id, images[0].label) == ("i0", "cat")
    assert images[0].confidence == pytest.approx(0.99)


def test_later_tries_have_half_the_share_and_larger_samples() -> None:
    first, second = PROSPECT.plan(0.05), replace(PROSPECT, try_number=2).plan(0.05)
    assert first is not None
    assert second is not None
    assert second.share == first.share / 2
    assert second.n_sample > first.n_sample


def test_the_outlook_tells_what_each_share_of_errors_would_allow() -> None:
    found = PROSPECT.outlook()
    assert [outlook.max_error for outlook in found] == [0.02, 0.05, 0.1]
    assert found[2].model_labels > found[1].model_labels > 500
    assert found[2].sample < found[1].sample
    unsure = replace(PROSPECT, is_right=np.zeros(N_VALIDATION, dtype=bool))
    assert [outlook.model_labels for outlook in unsure.outlook()] == [0, 0, 0]


def test_the_advice_names_the_smallest_share_that_is_possible() -> None:
    smallest = next(p for p in range(1, 50) if PROSPECT.plan(p / 100)) / 100
    assert PROSPECT.advice(0.001) == (
        "r0003 cannot label enough of the 2,000 remaining images with at most 0.1 % wrong: use "
        f"--max-error {smallest:.2f} or more, or wait until the model has learned from more "
        "labels; more validation labels also help, because they show how good it is"
    )


def test_no_one_is_told_to_give_validation_labels_if_these_are_known() -> None:
    known = replace(PROSPECT, may_validate_more=False)
    assert known.advice(0.001).endswith("wait until the model has learned from more labels")


def test_the_advice_for_a_model_that_is_never_right_names_no_share() -> None:
    unsure = replace(PROSPECT, is_right=np.zeros(N_VALIDATION, dtype=bool))
    assert "at most 2 % wrong: wait until the model has learned" in unsure.advice(0.02)


def test_the_advice_without_validation_labels_or_images_says_so() -> None:
    none = np.zeros(0, np.float32)
    unmeasured = replace(PROSPECT, validation=none, is_right=none.astype(bool))
    assert "label more validation images" in unmeasured.advice(0.02)
    complete = replace(PROSPECT, image_ids=(), labels=(), confidences=none)
    assert complete.advice(0.02).startswith("no image is left that the model could label")
    assert complete.plan(0.02) is None


def test_without_a_version_there_is_nothing_to_look_ahead_with(loop: Loop) -> None:
    with pytest.raises(NoModelError, match="no model yet"):
        look_ahead(loop, quiet)
