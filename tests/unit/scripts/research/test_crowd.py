"""Check by hand which annotations the simulated annotators give."""

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
    """Annotators 1 (never careful) to 4 (always careful), 5 (accepts guesses), 6 (random)."""
    annotations = {f"i{n}": ("cat", "dog", "dog") for n in range(n_images)}
    return Crowd(
        annotations, CLASSES, size, np.random.default_rng(0), has_unreliable=has_unreliable
    )


def test_a_careless_annotator_gives_the_rarest_label_and_a_careful_one_the_majoritys() -> None:
    annotators = crowd(n_images=4)
    assert annotators.annotate(1, "i0", None) == "cat"
    assert annotators.annotate(4, "i1", None) == "dog"


def test_no_real_annotation_is_used_twice_while_others_are_left() -> None:
    annotators = crowd()
    given = [annotators.annotate(person, "i0", None) for person in (4, 3, 2)]
    assert sorted(given) == ["cat", "dog", "dog"]
    assert annotators.annotate(4, "i0", None) == "dog"  # from the start again


def test_accepting_guesses_and_choosing_at_random_use_up_no_real_annotation() -> None:
    annotators = crowd()
    assert annotators.annotate(annotators.guess_accepter, "i0", "frog") == "frog"
    chosen = Counter(
        annotators.annotate(annotators.random_annotator, "i0", None) for _ in range(300)
    )
    assert set(chosen) == set(CLASSES)
    assert min(chosen.values()) > 60
    assert annotators.used == {}


def test_without_a_guess_the_guess_accepter_is_careful() -> None:
    annotators = crowd()
    assert annotators.annotate(annotators.guess_accepter, "i0", None) == "dog"


def test_without_unreliable_annotators_the_last_one_is_the_most_careful() -> None:
    annotators = crowd(has_unreliable=False)
    assert [annotators.care(person) for person in (1, 6)] == [0.0, 1.0]
    assert annotators.annotate(6, "i0", "frog") == "dog"


def test_an_annotator_is_picked_at_most_once_per_image() -> None:
    annotators = crowd()
    assert {annotators.pick({1, 2, 3, 4, 6}) for _ in range(10)} == {5}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


def test_an_image_without_annotations_is_named(tmp_path: Path, pool: Pool) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("image,annotator_1\ntrain/x.png,1\n")
    with pytest.raises(SettingsError, match="has no annotation of"):
        real_annotations(str(path), pool, pool.image_ids)
