"""Consensus over tables that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.people.consensus import MIN_SHARED, Answer, Row, active_lab, find_consensus

CAT, DOG, FROG = 0, 1, 2


def answer(
    image_id: str, annotator: int | None, label: int, at: int = 0, *, is_truth: bool = False
) -> Answer:
    return Answer(image_id, annotator, label, f"2026-01-01T00:00:{at:02d}Z", is_truth)


def row(*probs: float) -> Row:
    return np.array(probs, np.float32)


def labels_of(answers: list[Answer], probs: dict[str, Row] | None = None) -> dict[str, int]:
    found = find_consensus(answers, probs or {})
    return dict(zip(found.image_ids, found.labels.tolist(), strict=True))


def qualities_of(answers: list[Answer], probs: dict[str, Row] | None = None) -> dict[str, float]:
    found = find_consensus(answers, probs or {})
    return dict(zip(found.image_ids, found.quality.tolist(), strict=True))


def crowd(
    n_images: int, skills: dict[int, float], seed: int = 0
) -> tuple[list[Answer], dict[str, Row], dict[str, int]]:
    """People who are right so often, a model that is right two times of three, and the truth."""
    rng = np.random.default_rng(seed)
    truth = {f"i{n:03d}": int(rng.integers(3)) for n in range(n_images)}
    answers, probs = [], {}
    for image_id, right in truth.items():
        wrong = [label for label in (CAT, DOG, FROG) if label != right]
        for person, skill in skills.items():
            said = right if rng.random() < skill else int(rng.choice(wrong))
            answers.append(answer(image_id, person, said))
        guess = right if rng.random() < 2 / 3 else int(rng.choice(wrong))
        probs[image_id] = np.where(np.arange(3) == guess, 0.7, 0.15).astype(np.float32)
    return answers, probs, truth


def test_without_a_model_the_label_that_most_people_gave_wins_and_its_share_is_its_quality() -> (
    None
):
    answers = [answer("a", 1, CAT, 1), answer("a", 2, DOG, 2), answer("a", 3, DOG, 3)]
    assert labels_of(answers) == {"a": DOG}
    assert qualities_of(answers)["a"] == pytest.approx(2 / 3)


def test_without_a_model_a_tie_goes_to_the_label_that_was_given_first() -> None:
    answers = [answer("a", 2, DOG, 2), answer("a", 1, CAT, 1)]
    assert labels_of(answers) == {"a": CAT}


def test_the_model_breaks_a_tie() -> None:
    answers, probs, _ = crowd(30, {1: 0.9, 2: 0.9, 3: 0.9})
    answers += [answer("tie", 1, CAT, 1), answer("tie", 2, DOG, 2)]
    assert labels_of(answers, {**probs, "tie": row(0.1, 0.8, 0.1)})["tie"] == DOG
    assert labels_of(answers, {**probs, "tie": row(0.8, 0.1, 0.1)})["tie"] == CAT


def test_two_answers_of_one_person_are_one_the_later() -> None:
    answers = [answer("a", 1, CAT, 1), answer("a", 1, DOG, 3), answer("a", 2, DOG, 2)]
    assert labels_of(answers) == {"a": DOG}
    assert qualities_of(answers)["a"] == 1.0


def test_a_changed_answer_counts_as_given_when_it_was_changed() -> None:
    answers = [answer("a", 1, CAT, 1), answer("a", 2, DOG, 2), answer("a", 1, FROG, 3)]
    assert labels_of(answers) == {"a": DOG}


def test_images_do_not_mix_and_none_give_none() -> None:
    assert labels_of([answer("a", 1, CAT), answer("b", 1, DOG)]) == {"a": CAT, "b": DOG}
    assert labels_of([]) == {}


def test_a_label_is_always_one_that_somebody_gave_however_sure_the_model_is() -> None:
    answers, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    answers.append(answer("odd", 1, CAT))
    assert labels_of(answers, {**probs, "odd": row(0.0, 0.0, 1.0)})["odd"] == CAT
    assert labels_of([answer("a", 1, CAT)], {"a": row(0.0, 0.0, 1.0)}) == {"a": CAT}


def test_of_two_people_who_disagree_the_more_reliable_one_is_mostly_believed() -> None:
    answers, probs, truth = crowd(300, {1: 0.6, 2: 0.95})
    majority = labels_of(answers)
    crowdlab = labels_of(answers, probs)
    wrong_by_majority = sum(majority[i] != label for i, label in truth.items())
    wrong_by_crowdlab = sum(crowdlab[i] != label for i, label in truth.items())
    assert wrong_by_crowdlab < 0.5 * wrong_by_majority


def test_people_are_ranked_by_how_often_they_are_right() -> None:
    answers, probs, _ = crowd(300, {1: 0.34, 2: 0.7, 3: 0.97, 4: 0.85})
    quality = find_consensus(answers, probs).annotators
    assert sorted(quality, key=lambda person: quality[person] or 0) == [1, 2, 4, 3]


def test_a_person_whose_images_nobody_else_answered_has_an_unknown_quality() -> None:
    answers, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    answers.append(answer("alone", 7, CAT))
    found = find_consensus(answers, {**probs, "alone": row(0.8, 0.1, 0.1)})
    assert found.annotators[7] is None
    assert found.annotators[1] is not None


def test_with_one_annotator_labels_are_as_likely_as_the_model_finds_them_and_weigh_the_same() -> (
    None
):
    answers = [answer("a", 1, CAT), answer("b", 1, DOG)]
    found = find_consensus(answers, {"a": row(0.9, 0.1, 0.0), "b": row(0.7, 0.2, 0.1)})
    assert found.quality.tolist() == pytest.approx([0.9, 0.2])
    assert found.weights.tolist() == [1.0, 1.0]
    assert found.annotators == {1: None}


def test_labels_weigh_by_quality_once_enough_images_have_several_answers() -> None:
    few, probs, _ = crowd(MIN_SHARED - 1, {1: 0.9, 2: 0.7})
    assert set(find_consensus(few, probs).weights.tolist()) == {1.0}
    enough, probs, _ = crowd(MIN_SHARED, {1: 0.9, 2: 0.7})
    found = find_consensus(enough, probs)
    assert found.weights.tolist() == found.quality.tolist()
    assert found.quality.min() < 0.9


def test_a_ground_truth_wins_over_everybody() -> None:
    answers = [answer("a", person, DOG, person) for person in range(1, 9)]
    answers.append(answer("a", 9, CAT, 0, is_truth=True))
    assert labels_of(answers) == {"a": CAT}
    assert qualities_of(answers)["a"] == 1.0


def test_of_two_ground_truths_the_later_wins_and_the_contradiction_is_told() -> None:
    answers = [answer("a", 1, CAT, 1, is_truth=True), answer("a", 2, DOG, 2, is_truth=True)]
    answers += [answer("b", 1, CAT, 1, is_truth=True), answer("b", 2, CAT, 2, is_truth=True)]
    found = find_consensus(answers, {})
    assert found.labels.tolist() == [DOG, CAT]
    assert found.conflicts == ("a",)


def test_the_data_sets_label_stands_until_a_ground_truth_contradicts_it_and_is_nobodys() -> None:
    seed = answer("a", None, CAT, 1)
    assert labels_of([seed, answer("a", 1, DOG, 2)]) == {"a": CAT}
    assert labels_of([seed, answer("a", 1, DOG, 2, is_truth=True)]) == {"a": DOG}
    assert find_consensus([seed], {}).annotators == {}
    assert find_consensus([seed, answer("a", 1, DOG, 2, is_truth=True)], {}).conflicts == ()


def test_fifty_answers_to_one_image_are_one_label() -> None:
    answers, probs, _ = crowd(30, {1: 0.9, 2: 0.9})
    answers += [answer("popular", person, DOG if person % 5 else CAT) for person in range(1, 51)]
    found = labels_of(answers, {**probs, "popular": row(0.6, 0.2, 0.2)})
    assert found["popular"] == DOG
    assert len(found) == 31


def test_a_class_that_nobody_ever_chose_does_no_harm() -> None:
    answers = [answer(f"i{n}", person, n % 2) for n in range(30) for person in (1, 2)]
    probs = {f"i{n}": row(0.4, 0.3, 0.3) for n in range(30)}
    assert labels_of(answers, probs) == {f"i{n}": n % 2 for n in range(30)}


def test_a_model_that_is_no_better_than_chance_does_not_overrule_people_who_agree() -> None:
    answers = [answer(f"i{n}", person, n % 3) for n in range(30) for person in (1, 2, 3)]
    wrong = {f"i{n}": np.roll(row(0.98, 0.01, 0.01), n % 3 + 1) for n in range(30)}
    assert labels_of(answers, wrong) == {f"i{n}": n % 3 for n in range(30)}


def test_images_are_asked_again_where_people_and_model_disagree() -> None:
    answers = [answer("agreed", 1, CAT), answer("doubted", 1, DOG)]
    again, new = active_lab(
        answers,
        {"agreed": row(0.9, 0.05, 0.05), "doubted": row(0.9, 0.05, 0.05)},
        np.array([[0.9, 0.05, 0.05], [0.34, 0.33, 0.33]], np.float32),
    )
    assert again["doubted"] < again["agreed"]
    assert new[1] < new[0]
    # A second answer to what is agreed on helps less than a first one to the same image.
    assert again["agreed"] > new[0]


def test_without_any_answer_the_new_images_alone_are_scored() -> None:
    again, new = active_lab([], {}, np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    assert again == {}
    assert new[0] < new[1]
