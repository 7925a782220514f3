"""Test the consensus on tables that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.people.consensus import MIN_SHARED, ClassAnnotation, Row, active_lab, find_consensus

CAT, DOG, FROG = 0, 1, 2


def annotate(
    image_id: str, annotator: int | None, label: int, at: int = 0, *, is_truth: bool = False
) -> ClassAnnotation:
    return ClassAnnotation(image_id, annotator, label, f"2026-01-01T00:00:{at:02d}Z", is_truth)


def row(*probs: float) -> Row:
    return np.array(probs, np.float32)


def labels_of(
    annotations: list[ClassAnnotation], probs: dict[str, Row] | None = None
) -> dict[str, int]:
    found = find_consensus(annotations, probs or {})
    return dict(zip(found.image_ids, found.labels.tolist(), strict=True))


def qualities_of(
    annotations: list[ClassAnnotation], probs: dict[str, Row] | None = None
) -> dict[str, float]:
    found = find_consensus(annotations, probs or {})
    return dict(zip(found.image_ids, found.quality.tolist(), strict=True))


def crowd(
    n_images: int, skills: dict[int, float], seed: int = 0
) -> tuple[list[ClassAnnotation], dict[str, Row], dict[str, int]]:
    """Annotators of these skills, a model that is right two times out of three, and the truth."""
    rng = np.random.default_rng(seed)
    truth = {f"i{n:03d}": int(rng.integers(3)) for n in range(n_images)}
    annotations, probs = [], {}
    for image_id, right in truth.items():
        wrong = [label for label in (CAT, DOG, FROG) if label != right]
        for person, skill in skills.items():
            chosen = right if rng.random() < skill else int(rng.choice(wrong))
            annotations.append(annotate(image_id, person, chosen))
        guess = right if rng.random() < 2 / 3 else int(rng.choice(wrong))
        probs[image_id] = np.where(np.arange(3) == guess, 0.7, 0.15).astype(np.float32)
    return annotations, probs, truth


def test_without_a_model_the_most_frequent_label_wins_and_its_share_is_its_quality() -> None:
    annotations = [annotate("a", 1, CAT, 1), annotate("a", 2, DOG, 2), annotate("a", 3, DOG, 3)]
    assert labels_of(annotations) == {"a": DOG}
    assert qualities_of(annotations)["a"] == pytest.approx(2 / 3)


def test_without_a_model_a_tie_goes_to_the_earliest_label() -> None:
    annotations = [annotate("a", 2, DOG, 2), annotate("a", 1, CAT, 1)]
    assert labels_of(annotations) == {"a": CAT}


def test_the_model_breaks_a_tie() -> None:
    annotations, probs, _ = crowd(30, {1: 0.9, 2: 0.9, 3: 0.9})
    annotations += [annotate("tie", 1, CAT, 1), annotate("tie", 2, DOG, 2)]
    assert labels_of(annotations, {**probs, "tie": row(0.1, 0.8, 0.1)})["tie"] == DOG
    assert labels_of(annotations, {**probs, "tie": row(0.8, 0.1, 0.1)})["tie"] == CAT


def test_the_later_of_two_annotations_by_one_person_counts() -> None:
    annotations = [annotate("a", 1, CAT, 1), annotate("a", 1, DOG, 3), annotate("a", 2, DOG, 2)]
    assert labels_of(annotations) == {"a": DOG}
    assert qualities_of(annotations)["a"] == 1.0


def test_a_changed_annotation_counts_from_when_it_was_changed() -> None:
    annotations = [annotate("a", 1, CAT, 1), annotate("a", 2, DOG, 2), annotate("a", 1, FROG, 3)]
    assert labels_of(annotations) == {"a": DOG}


def test_each_image_has_its_own_label_and_no_annotations_give_none() -> None:
    assert labels_of([annotate("a", 1, CAT), annotate("b", 1, DOG)]) == {"a": CAT, "b": DOG}
    assert labels_of([]) == {}


def test_the_label_is_always_one_that_an_annotator_chose_however_sure_the_model_is() -> None:
    annotations, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    annotations.append(annotate("odd", 1, CAT))
    assert labels_of(annotations, {**probs, "odd": row(0.0, 0.0, 1.0)})["odd"] == CAT
    assert labels_of([annotate("a", 1, CAT)], {"a": row(0.0, 0.0, 1.0)}) == {"a": CAT}


def test_the_more_reliable_of_two_annotators_who_disagree_usually_wins() -> None:
    annotations, probs, truth = crowd(300, {1: 0.6, 2: 0.95})
    majority = labels_of(annotations)
    crowdlab = labels_of(annotations, probs)
    wrong_by_majority = sum(majority[i] != label for i, label in truth.items())
    wrong_by_crowdlab = sum(crowdlab[i] != label for i, label in truth.items())
    assert wrong_by_crowdlab < 0.5 * wrong_by_majority


def test_annotators_are_ranked_by_how_often_they_are_right() -> None:
    annotations, probs, _ = crowd(300, {1: 0.34, 2: 0.7, 3: 0.97, 4: 0.85})
    quality = find_consensus(annotations, probs).annotators
    assert sorted(quality, key=lambda person: quality[person] or 0) == [1, 2, 4, 3]


def test_an_annotator_who_shares_no_image_has_an_unknown_quality() -> None:
    annotations, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    annotations.append(annotate("alone", 7, CAT))
    found = find_consensus(annotations, {**probs, "alone": row(0.8, 0.1, 0.1)})
    assert found.annotators[7] is None
    assert found.annotators[1] is not None


def test_with_one_annotator_quality_is_the_models_probability_and_weights_are_equal() -> None:
    annotations = [annotate("a", 1, CAT), annotate("b", 1, DOG)]
    found = find_consensus(annotations, {"a": row(0.9, 0.1, 0.0), "b": row(0.7, 0.2, 0.1)})
    assert found.quality.tolist() == pytest.approx([0.9, 0.2])
    assert found.weights.tolist() == [1.0, 1.0]
    assert found.annotators == {1: None}


def test_weights_follow_quality_once_enough_images_have_several_annotations() -> None:
    few, probs, _ = crowd(MIN_SHARED - 1, {1: 0.9, 2: 0.7})
    assert set(find_consensus(few, probs).weights.tolist()) == {1.0}
    enough, probs, _ = crowd(MIN_SHARED, {1: 0.9, 2: 0.7})
    found = find_consensus(enough, probs)
    assert found.weights.tolist() == found.quality.tolist()
    assert found.quality.min() < 0.9


def test_a_ground_truth_beats_every_annotation() -> None:
    annotations = [annotate("a", person, DOG, person) for person in range(1, 9)]
    annotations.append(annotate("a", 9, CAT, 0, is_truth=True))
    assert labels_of(annotations) == {"a": CAT}
    assert qualities_of(annotations)["a"] == 1.0


def test_the_later_of_two_ground_truths_wins_and_the_contradiction_is_reported() -> None:
    annotations = [annotate("a", 1, CAT, 1, is_truth=True), annotate("a", 2, DOG, 2, is_truth=True)]
    annotations += [
        annotate("b", 1, CAT, 1, is_truth=True),
        annotate("b", 2, CAT, 2, is_truth=True),
    ]
    found = find_consensus(annotations, {})
    assert found.labels.tolist() == [DOG, CAT]
    assert found.conflicts == ("a",)


def test_the_data_sets_label_stands_until_a_ground_truth_replaces_it_and_rates_nobody() -> None:
    seed = annotate("a", None, CAT, 1)
    assert labels_of([seed, annotate("a", 1, DOG, 2)]) == {"a": CAT}
    assert labels_of([seed, annotate("a", 1, DOG, 2, is_truth=True)]) == {"a": DOG}
    assert find_consensus([seed], {}).annotators == {}
    assert find_consensus([seed, annotate("a", 1, DOG, 2, is_truth=True)], {}).conflicts == ()


def test_fifty_annotations_of_one_image_are_one_label() -> None:
    annotations, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    annotations += [
        annotate("popular", person, DOG if person % 5 else CAT) for person in range(1, 51)
    ]
    found = labels_of(annotations, {**probs, "popular": row(0.6, 0.2, 0.2)})
    assert found["popular"] == DOG
    assert len(found) == 31


def test_a_class_that_nobody_ever_chose_changes_nothing() -> None:
    annotations = [annotate(f"i{n}", person, n % 2) for n in range(30) for person in (1, 2)]
    probs = {f"i{n}": row(0.4, 0.3, 0.3) for n in range(30)}
    assert labels_of(annotations, probs) == {f"i{n}": n % 2 for n in range(30)}


def test_a_model_that_is_no_better_than_chance_does_not_overrule_people_who_agree() -> None:
    annotations = [annotate(f"i{n}", person, n % 3) for n in range(30) for person in (1, 2, 3)]
    wrong = {f"i{n}": np.roll(row(0.98, 0.01, 0.01), n % 3 + 1) for n in range(30)}
    assert labels_of(annotations, wrong) == {f"i{n}": n % 3 for n in range(30)}


def test_images_on_which_annotators_and_model_disagree_are_asked_again_first() -> None:
    annotations = [annotate("agreed", 1, CAT), annotate("doubted", 1, DOG)]
    again, new = active_lab(
        annotations,
        {"agreed": row(0.9, 0.05, 0.05), "doubted": row(0.9, 0.05, 0.05)},
        np.array([[0.9, 0.05, 0.05], [0.34, 0.33, 0.33]], np.float32),
    )
    assert again["doubted"] < again["agreed"]
    assert new[1] < new[0]
    # A second annotation of an undisputed image helps less than the first one.
    assert again["agreed"] > new[0]


def test_without_annotations_only_the_new_images_are_scored() -> None:
    again, new = active_lab([], {}, np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    assert again == {}
    assert new[0] < new[1]
