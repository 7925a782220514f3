"""Majority vote over a table that can be checked by hand."""

from __future__ import annotations

from backend.consensus import Answer, majority_vote


def answer(image_id: str, annotator: int, label: str, at: int) -> Answer:
    return Answer(image_id, annotator, label, f"2026-01-01T00:00:{at:02d}Z")


def test_the_label_that_most_people_gave_wins() -> None:
    answers = [answer("a", 1, "cat", 1), answer("a", 2, "dog", 2), answer("a", 3, "dog", 3)]
    assert majority_vote(answers) == {"a": "dog"}


def test_a_tie_goes_to_the_label_that_was_given_first_whatever_the_order_of_the_rows() -> None:
    answers = [answer("a", 2, "dog", 2), answer("a", 1, "cat", 1)]
    assert majority_vote(answers) == {"a": "cat"}


def test_two_answers_of_one_person_are_one_the_later() -> None:
    answers = [answer("a", 1, "cat", 1), answer("a", 1, "dog", 3), answer("a", 2, "dog", 2)]
    assert majority_vote(answers) == {"a": "dog"}


def test_a_changed_answer_counts_as_given_when_it_was_changed() -> None:
    answers = [answer("a", 1, "cat", 1), answer("a", 2, "dog", 2), answer("a", 1, "frog", 3)]
    assert majority_vote(answers) == {"a": "dog"}


def test_images_do_not_mix_and_none_give_none() -> None:
    assert majority_vote([answer("a", 1, "cat", 1), answer("b", 1, "dog", 2)]) == {
        "a": "cat",
        "b": "dog",
    }
    assert majority_vote([]) == {}
