"""Simulated people: whose answers they give, checked by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import SettingsError
from backend.images.pool import Pool, open_pool
from scripts.research.crowd import Crowd, real_annotations

CLASSES = ("cat", "dog", "frog")


def crowd(size: int = 6, *, has_unreliable: bool = True, n_images: int = 1) -> Crowd:
    """People 1 (never careful) to 4 (always careful), 5 clicks through, 6 answers at random."""
    answers = {f"i{n}": ("cat", "dog", "dog") for n in range(n_images)}
    return Crowd(answers, CLASSES, size, np.random.default_rng(0), has_unreliable=has_unreliable)


def test_the_careless_give_the_rarest_answer_and_the_careful_the_majoritys() -> None:
    people = crowd(n_images=4)
    assert people.annotate(1, "i0", None) == "cat"
    assert people.annotate(4, "i1", None) == "dog"


def test_no_real_answer_is_given_twice_while_others_are_left() -> None:
    people = crowd()
    given = [people.annotate(person, "i0", None) for person in (4, 3, 2)]
    assert sorted(given) == ["cat", "dog", "dog"]
    assert people.annotate(4, "i0", None) == "dog"  # from the start again


def test_one_takes_the_guess_and_one_answers_at_random_and_neither_uses_up_a_real_answer() -> None:
    people = crowd()
    assert people.annotate(people.guess_accepter, "i0", "frog") == "frog"
    said = Counter(people.annotate(people.random_annotator, "i0", None) for _ in range(300))
    assert set(said) == set(CLASSES)
    assert min(said.values()) > 60
    assert people.used == {}


def test_without_a_guess_whoever_takes_guesses_is_careful() -> None:
    people = crowd()
    assert people.annotate(people.guess_accepter, "i0", None) == "dog"


def test_without_odd_people_the_last_one_is_the_most_careful() -> None:
    people = crowd(has_unreliable=False)
    assert [people.care(person) for person in (1, 6)] == [0.0, 1.0]
    assert people.annotate(6, "i0", "frog") == "dog"


def test_nobody_is_picked_who_has_answered() -> None:
    people = crowd()
    assert {people.pick({1, 2, 3, 4, 6}) for _ in range(10)} == {5}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


def test_an_image_without_answers_is_named(tmp_path: Path, pool: Pool) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("image,annotator_1\ntrain/x.png,1\n")
    with pytest.raises(SettingsError, match="has no annotation of"):
        real_annotations(str(path), pool)
