"""Keep track of a project's classes."""

from __future__ import annotations

import numpy as np
import pytest

from backend.base.classes import REMOVED, ClassList, append_new, is_same

ANIMALS = ("cat", "dog", "frog")


def aligned(classes: ClassList, *row: float) -> list[float]:
    [found] = classes.align(np.array([row], np.float32))
    return [round(float(p), 3) for p in found]


def test_new_classes_go_last_and_no_class_gets_a_second_column() -> None:
    assert append_new(("cat", "dog"), ("Dog", "emu", " CAT ", "EMU", "bee")) == (
        "cat",
        "dog",
        "emu",
        "bee",
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [(("DOG", " cat"), True), (("cat",), False), (("cat", "emu"), False), (("cat", "Cat"), False)],
)
def test_lists_are_compared_without_order_case_and_outer_spaces(
    other: tuple[str, ...], expected: bool
) -> None:
    assert is_same(("cat", "dog"), other) is expected


def test_names_are_spelled_as_in_the_label_config_whatever_the_order_of_the_choices() -> None:
    classes = ClassList(ANIMALS, ("Frog", "CAT", "Dog"))
    assert classes.names == classes.current == ("CAT", "Dog", "Frog")
    assert [classes.position(label) for label in ("cat", " dog ", "FROG", "emu")] == [0, 1, 2, None]


def test_probabilities_from_before_a_class_joined_are_0_for_this_class() -> None:
    assert aligned(ClassList(ANIMALS, ANIMALS), 0.25, 0.75) == [0.25, 0.75, 0.0]


def test_probabilities_of_the_same_classes_are_returned_as_they_are() -> None:
    probs = np.array([[0.2, 0.3, 0.5]], np.float32)
    assert ClassList(ANIMALS, ANIMALS).align(probs) is probs


def test_a_removed_class_loses_its_probability_to_the_others() -> None:
    classes = ClassList(ANIMALS, ("cat", "frog"))
    assert aligned(classes, 0.2, 0.6, 0.2) == [0.5, 0.0, 0.5]
    assert aligned(classes, 0.2, 0.8) == [1.0, 0.0, 0.0]
    assert classes.current == ("cat", "frog")
    assert (classes.spell("dog"), classes.was_known("dog"), classes.was_known("emu")) == (
        None,
        True,
        False,
    )
    assert classes.targets.tolist() == [0, REMOVED, 2]


def test_if_only_removed_classes_were_likely_all_current_classes_are_equally_likely() -> None:
    assert aligned(ClassList(ANIMALS, ("cat", "frog")), 0.0, 1.0, 0.0) == [0.5, 0.0, 0.5]


def test_a_class_that_was_removed_and_added_again_has_its_former_column() -> None:
    assert append_new(ANIMALS, ("cat", "frog", "dog")) == ANIMALS
    assert aligned(ClassList(ANIMALS, ("frog", "dog", "cat")), 0.2, 0.6, 0.2) == [0.2, 0.6, 0.2]


def test_a_renamed_class_counts_for_its_new_name() -> None:
    classes = ClassList(("cat", "dog", "Kitten"), ("Kitten", "dog"), (("cat", "kitten"),))
    assert [classes.position(label) for label in ("cat", "Cat", "dog", "kitten")] == [2, 2, 1, 2]
    assert aligned(classes, 0.6, 0.4) == [0.0, 0.4, 0.6]
    assert aligned(classes, 0.5, 0.2, 0.3) == [0.0, 0.2, 0.8]
    assert classes.current == ("dog", "Kitten")


def test_two_classes_can_be_renamed_into_one() -> None:
    classes = ClassList((*ANIMALS, "pet"), ("frog", "pet"), (("cat", "pet"), ("dog", "pet")))
    assert aligned(classes, 0.5, 0.25, 0.25) == [0.0, 0.0, 0.25, 0.75]


def test_a_class_can_be_renamed_again_and_back() -> None:
    twice = (("cat", "kitten"), ("kitten", "feline"))
    columns = ("cat", "dog", "kitten", "feline")
    assert ClassList(columns, ("feline", "dog"), twice).spell("cat") == "feline"
    back = (("cat", "kitten"), ("kitten", "cat"))
    assert ClassList(columns, ("cat", "dog"), back).spell("kitten") == "cat"
    assert ClassList(columns, ("dog", "feline"), back).spell("cat") is None


def test_a_former_name_that_is_a_choice_again_is_a_separate_class() -> None:
    classes = ClassList(("cat", "dog", "kitten"), ("kitten", "dog", "cat"), (("cat", "kitten"),))
    assert classes.spell("cat") == "cat"


def test_a_choice_that_no_job_has_recorded_yet_means_no_class() -> None:
    assert ClassList(("cat", "dog"), ANIMALS).spell("frog") is None


def test_missing_predictions_stay_missing() -> None:
    classes = ClassList(ANIMALS, ("cat", "frog"))
    assert np.isnan(classes.align(np.full((1, 2), np.nan, np.float32))).all()


def test_single_rows_are_aligned_by_key() -> None:
    classes = ClassList(ANIMALS, ("cat", "frog"))
    rows = {"img-a": np.array([0.2, 0.6, 0.2], np.float32)}
    assert classes.align_rows(rows)["img-a"].tolist() == [0.5, 0.0, 0.5]
    assert classes.align_rows({}) == {}
