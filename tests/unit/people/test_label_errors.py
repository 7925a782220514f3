"""Likely label errors over tables that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.people.consensus import Answer, Consensus, Row, find_consensus
from backend.people.label_errors import LikelyError, likely_errors

NAMES = ("cat", "dog", "frog")
CAT, DOG, FROG = range(3)


def answers(image_id: str, *labels: int) -> list[Answer]:
    """One answer per person, numbered from 1, in that order."""
    return [
        Answer(image_id, person, label, f"2026-01-01T00:00:{person:02d}Z")
        for person, label in enumerate(labels, 1)
    ]


def probs(cat: float, dog: float, frog: float) -> Row:
    return np.array([cat, dog, frog], np.float32)


def consensus(**by_image: tuple[int, float]) -> Consensus:
    """Label and quality by image."""
    given = [answer for image_id in by_image for answer in answers(image_id, by_image[image_id][0])]
    found = find_consensus(given, {})
    return replace(found, quality=np.array([by_image[i][1] for i in found.image_ids], np.float32))


def only_error(given: list[Answer], row: Row | None) -> LikelyError:
    """What is said of an image whose consensus is a cat."""
    image_id = given[0].image_id
    by_image = {} if row is None else {image_id: row}
    [error] = likely_errors(given, by_image, consensus(**{image_id: (CAT, 0.25)}), NAMES)
    return error


def test_the_worst_label_comes_first_and_equals_are_told_apart_by_image() -> None:
    quality = {"b": 0.3, "a": 0.5, "d": 0.1, "c": 0.3}
    given = [answer for image_id in quality for answer in answers(image_id, CAT)]
    found = likely_errors(
        given,
        {image_id: probs(0.1, 0.8, 0.1) for image_id in quality},
        consensus(**{image_id: (CAT, q) for image_id, q in quality.items()}),
        NAMES,
    )
    assert [error.image_id for error in found] == ["d", "b", "c", "a"]
    assert [error.quality for error in found] == pytest.approx([0.1, 0.3, 0.3, 0.5])


def test_a_single_answer_is_as_good_as_the_model_thinks_that_did_not_see_it() -> None:
    given = answers("a", CAT) + answers("b", DOG)
    rows = {"a": probs(0.05, 0.92, 0.03), "b": probs(0.6, 0.3, 0.1)}
    first, second = likely_errors(given, rows, find_consensus(given, rows), NAMES)
    assert first.image_id == "a"
    assert first.quality == pytest.approx(0.05)
    assert (first.label, first.suggested) == ("cat", "dog")
    assert first.reason == (
        "one person says cat; the model, which never saw that answer, says dog (92 %)"
    )
    assert (second.image_id, second.suggested) == ("b", "cat")
    assert second.quality == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("labels", "row", "reason"),
    [
        (
            (CAT, CAT, DOG),
            probs(0.05, 0.92, 0.03),
            "2 of 3 people say cat, 1 dog; the model says dog (92 %)",
        ),
        (
            (CAT, CAT, DOG),
            probs(0.7, 0.2, 0.1),
            "2 of 3 people say cat, 1 dog; the model says cat (70 %)",
        ),
        ((CAT, CAT), probs(0.1, 0.2, 0.7), "both people say cat; the model says frog (70 %)"),
        ((CAT, CAT, CAT), probs(0.1, 0.2, 0.7), "all 3 people say cat; the model says frog (70 %)"),
        ((CAT, FROG, DOG, DOG), None, "1 of 4 people says cat, 2 dog, 1 frog"),
    ],
)
def test_the_reason_counts_people_and_names_the_models_guess(
    labels: tuple[int, ...], row: Row | None, reason: str
) -> None:
    assert only_error(answers("a", *labels), row).reason == reason


@pytest.mark.parametrize(
    ("labels", "row", "suggested"),
    [
        ((CAT, CAT), probs(0.1, 0.8, 0.1), "dog"),  # the model alone
        ((CAT, CAT, FROG), probs(0.1, 0.8, 0.1), "frog"),  # 1.1 against 0.8
        ((CAT, DOG, FROG), probs(0.1, 0.3, 0.6), "frog"),  # 1.6 against 1.3
        ((CAT, DOG, FROG), None, "dog"),  # equals: the first class
    ],
)
def test_the_suggested_label_has_most_people_with_the_model_as_one_of_them(
    labels: tuple[int, ...], row: Row | None, suggested: str
) -> None:
    assert only_error(answers("a", *labels), row).suggested == suggested


def test_a_label_that_nobody_contradicts_is_no_error_however_low_its_quality() -> None:
    given = answers("sure", CAT, CAT) + answers("alone", CAT)
    rows = {"sure": probs(0.4, 0.3, 0.3)}
    found = likely_errors(given, rows, consensus(alone=(CAT, 0.1), sure=(CAT, 0.1)), NAMES)
    assert found == []


def test_what_a_ground_truth_or_the_data_set_has_settled_is_never_listed() -> None:
    given = [
        *answers("settled", CAT, DOG),
        Answer("settled", 3, CAT, "2026-01-02T00:00:00Z", is_ground_truth=True),
        Answer("seed", None, CAT, "2026-01-01T00:00:00Z"),
        *answers("open", CAT),
    ]
    rows = {i: probs(0.1, 0.8, 0.1) for i in ("settled", "seed", "open")}
    found = likely_errors(given, rows, find_consensus(given, rows), NAMES)
    assert [error.image_id for error in found] == ["open"]


def test_a_person_who_answered_twice_counts_once_as_they_said_last() -> None:
    given = [*answers("a", DOG, CAT), Answer("a", 1, CAT, "2026-01-02T00:00:00Z")]
    error = only_error(given[::-1], probs(0.1, 0.8, 0.1))
    assert error.reason == "both people say cat; the model says dog (80 %)"
