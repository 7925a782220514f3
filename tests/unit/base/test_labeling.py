"""What annotations say, and classes that match a label config."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.base.errors import LabelConfigError
from backend.base.labeling import Annotation, match_classes


def test_classes_match_in_any_case_and_order_and_keep_the_spelling_of_the_label_config() -> None:
    assert match_classes(("Dog", " CAT "), ("cat", "dog")) == (" CAT ", "Dog")


@pytest.mark.parametrize(
    "choices", [("cat",), ("cat", "dog", "frog"), ("cat", "frog"), ("cat", "Cat")]
)
def test_classes_that_do_not_match_are_refused_naming_both_lists(
    choices: tuple[str, ...],
) -> None:
    with pytest.raises(LabelConfigError) as refused:
        match_classes(choices, ("cat", "dog"))
    assert f"({', '.join(choices)})" in str(refused.value)
    assert "(cat, dog)" in str(refused.value)


def test_skipped_and_empty_annotations_differ() -> None:
    def annotation(number: int, label: str | None, *, was_skipped: bool = False) -> Annotation:
        return Annotation(number, 1, "i", 1, label, was_skipped, "2026-01-01T00:00:00Z")

    annotations = [annotation(7, "cat"), annotation(8, None), annotation(9, None, was_skipped=True)]
    assert {a.annotation_id: a.digest for a in annotations} == {
        7: "cat",
        8: "(empty)",
        9: "(skipped)",
    }


def test_making_an_annotation_ground_truth_is_a_change() -> None:
    plain = Annotation(7, 1, "i", 1, "cat", was_skipped=False, updated_at="2026-01-01T00:00:00Z")
    starred = replace(plain, is_ground_truth=True)
    assert plain.digest != starred.digest
