"""Test the list of likely label errors on tables that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.people.consensus import ClassAnnotation, Consensus, Row, find_consensus
from backend.people.label_errors import LikelyError, likely_errors

NAMES = ("cat", "dog", "frog")
CAT, DOG, FROG = range(3)


def annotate(image_id: str, *labels: int) -> list[ClassAnnotation]:
    """One annotation per person, numbered from 1, in that order."""
    return [
        ClassAnnotation(image_id, person, label, f"2026-01-01T00:00:{person:02d}Z")
        for person, label in enumerate(labels, 1)
    ]


def probs(cat: float, dog: float, frog: float) -> Row:
    return np.array([cat, dog, frog], np.float32)


def consensus(**by_image: tuple[int, float]) -> Consensus:
    """A consensus with this label and quality for each image."""
    given = [
        annotation
        for image_id in by_image
        for annotation in annotate(image_id, by_image[image_id][0])
    ]
    found = find_consensus(given, {})
    return replace(found, quality=np.array([by_image[i][1] for i in found.image_ids], np.float32))


def only_error(given: list[ClassAnnotation], row: Row | None) -> LikelyError:
    """The only error listed for an image whose consensus is cat."""
    image_id = given[0].image_id
    by_image = {} if row is None else {image_id: row}
    [error] = likely_errors(given, by_image, consensus(**{image_id: (CAT, 0.25)}), NAMES)
    return error


def test_the_worst_label_comes_first_and_ties_are_ordered_by_image() -> None:
    quality = {"b": 0.3, "a": 0.5, "d": 0.1, "c": 0.3}
    given = [annotation for image_id in quality for annotation in annotate(image_id, CAT)]
    found = likely_errors(
        given,
        {image_id: probs(0.1, 0.8, 0.1) for image_id in quality},
        consensus(**{image_id: (CAT, q) for image_id, q in quality.items()}),
        NAMES,
    )
    assert [error.image_id for error in found] == ["d", "b", "c", "a"]
    assert [error.quality for error in found] == pytest.approx([0.1, 0.3, 0.3, 0.5])


def test_the_quality_of_a_single_annotation_is_its_probability_by_the_model() -> None:
    given = annotate("a", CAT) + annotate("b", DOG)
    rows = {"a": probs(0.05, 0.92, 0.03), "b": probs(0.6, 0.3, 0.1)}
    first, second = likely_errors(given, rows, find_consensus(given, rows), NAMES)
    assert first.image_id == "a"
    assert first.quality == pytest.approx(0.05)
    assert (first.label, first.suggested) == ("cat", "dog")
    assert first.reason == (
        "one annotator chose cat; the model, not trained on this annotation, predicts dog (92 %)"
    )
    assert (second.image_id, second.suggested) == ("b", "cat")
    assert second.quality == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("labels", "row", "reason"),
    [
        (
            (CAT, CAT, DOG),
            probs(0.05, 0.92, 0.03),
            "2 of 3 annotators chose cat (the other: dog); the model predicts dog (92 %)",
        ),
        (
            (CAT, CAT, DOG),
            probs(0.7, 0.2, 0.1),
            "2 of 3 annotators chose cat (the other: dog); the model predicts cat (70 %)",
        ),
        (
            (CAT, CAT),
            probs(0.1, 0.2, 0.7),
            "both annotators chose cat; the model predicts frog (70 %)",
        ),
        (
            (CAT, CAT, CAT),
            probs(0.1, 0.2, 0.7),
            "all 3 annotators chose cat; the model predicts frog (70 %)",
        ),
        ((CAT, FROG, DOG, DOG), None, "1 of 4 annotators chose cat (the others: 2 dog, 1 frog)"),
        ((CAT, DOG, DOG), None, "1 of 3 annotators chose cat (the others: 2 dog)"),
    ],
)
def test_the_reason_counts_annotators_and_names_the_models_prediction(
    labels: tuple[int, ...], row: Row | None, reason: str
) -> None:
    assert only_error(annotate("a", *labels), row).reason == reason


@pytest.mark.parametrize(
    ("labels", "row", "suggested"),
    [
        ((CAT, CAT), probs(0.1, 0.8, 0.1), "dog"),  # the model alone
        ((CAT, CAT, FROG), probs(0.1, 0.8, 0.1), "frog"),  # 1.1 against 0.8
        ((CAT, DOG, FROG), probs(0.1, 0.3, 0.6), "frog"),  # 1.6 against 1.3
        ((CAT, DOG, FROG), None, "dog"),  # a tie: the first class
    ],
)
def test_the_suggested_label_has_the_most_support_with_the_model_as_one_annotator(
    labels: tuple[int, ...], row: Row | None, suggested: str
) -> None:
    assert only_error(annotate("a", *labels), row).suggested == suggested


def test_an_uncontradicted_label_is_not_listed_however_low_its_quality() -> None:
    given = annotate("sure", CAT, CAT) + annotate("alone", CAT)
    rows = {"sure": probs(0.4, 0.3, 0.3)}
    found = likely_errors(given, rows, consensus(alone=(CAT, 0.1), sure=(CAT, 0.1)), NAMES)
    assert found == []


def test_images_settled_by_a_ground_truth_or_the_data_set_are_not_listed() -> None:
    given = [
        *annotate("settled", CAT, DOG),
        ClassAnnotation("settled", 3, CAT, "2026-01-02T00:00:00Z", is_ground_truth=True),
        ClassAnnotation("seed", None, CAT, "2026-01-01T00:00:00Z"),
        *annotate("open", CAT),
    ]
    rows = {i: probs(0.1, 0.8, 0.1) for i in ("settled", "seed", "open")}
    found = likely_errors(given, rows, find_consensus(given, rows), NAMES)
    assert [error.image_id for error in found] == ["open"]


def test_only_the_last_annotation_of_a_person_counts() -> None:
    given = [*annotate("a", DOG, CAT), ClassAnnotation("a", 1, CAT, "2026-01-02T00:00:00Z")]
    error = only_error(given[::-1], probs(0.1, 0.8, 0.1))
    assert error.reason == "both annotators chose cat; the model predicts dog (80 %)"
