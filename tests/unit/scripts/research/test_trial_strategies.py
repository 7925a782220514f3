"""Try query strategies that only simulations use, on images that lie on a circle."""

from __future__ import annotations

import numpy as np
import pytest

from backend.asking import query
from backend.asking.query import SETS
from backend.base.arrays import Embeddings, Probs
from backend.base.strategy_names import ResolvedName
from scripts.research.trial_strategies import (
    SWITCHING,
    TRIALS,
    current_strategy,
    prob_cover,
    uncertainty_herding,
    use_trials,
)

NO_MODEL = np.empty((8, 0), np.float32)


def at_degrees(*degrees: float) -> Embeddings:
    """Return embeddings on a circle around the origin."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# Groups of three and five images on opposite sides; their mean is not far from the origin.
POOL = at_degrees(-5, 0, 5, 170, 175, 180, 185, 190)
NONE = POOL[:0]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_herding_without_a_model_takes_the_middle_of_the_largest_group_first() -> None:
    assert uncertainty_herding(NO_MODEL, POOL, NONE, 2, rng()).tolist() == [5, 1]


def test_herding_prefers_the_group_that_the_model_is_unsure_about() -> None:
    sure, unsure = [1.0, 0.0], [0.5, 0.5]
    probs: Probs = np.array([unsure] * 3 + [sure] * 5, np.float32)
    assert uncertainty_herding(probs, POOL, NONE, 1, rng()).tolist() == [1]


def test_herding_leaves_a_group_that_was_already_queried() -> None:
    assert uncertainty_herding(NO_MODEL, POOL, at_degrees(180), 1, rng()).tolist() == [1]


def test_prob_cover_takes_an_image_that_covers_the_largest_group_and_then_the_other_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scripts.research.trial_strategies.PSEUDO_CLASSES", 2)
    first, second = prob_cover(POOL, NONE, 2, rng()).tolist()
    assert first in range(3, 8)
    assert second in range(3)
    assert prob_cover(POOL, at_degrees(180), 1, rng())[0] in range(3)


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.parametrize("count", [1, 5, 8, 20])
def test_no_image_is_chosen_twice_and_no_more_than_there_are(name: str, count: int) -> None:
    probs = np.tile(np.array([0.6, 0.4], np.float32), (8, 1))
    chosen = TRIALS[name](probs, POOL, POOL[:2], count, rng()).tolist()
    assert len(chosen) == len(set(chosen)) == min(count, 8)


def test_the_clusters_take_the_least_confident_image_and_not_the_closest_margin() -> None:
    # The second image has the closest margin, the first one the lowest top probability.
    probs: Probs = np.array([[0.40, 0.35, 0.25], [0.49, 0.48, 0.03]], np.float32)
    pair = at_degrees(0, 90)
    trial = TRIALS["least_confident_clusters"](probs, pair, NONE, 2, rng())
    assert trial.tolist() == [0, 1]
    assert SETS["uncertain_clusters"](probs, pair, NONE, 2, rng()).tolist() == [1, 0]


def test_an_arm_switches_after_its_own_number_of_images_per_class() -> None:
    found = [current_strategy("auto_5", n_asked=n, n_classes=10) for n in (49, 50)]
    assert found == ["typiclust", "uncertain_clusters"]
    assert SWITCHING["auto_least_confident"][0] == query.TYPICAL_PER_CLASS
    assert current_strategy("margin", n_asked=0, n_classes=10) == "margin"


def test_the_trials_are_known_to_the_loop_only_after_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets: dict[ResolvedName, query.SetStrategy] = {}
    monkeypatch.setattr(query, "SETS", sets)
    monkeypatch.setattr(query, "NEED_NO_MODEL", query.NEED_NO_MODEL - set(TRIALS))
    use_trials()
    assert set(sets) == set(TRIALS)
    assert not query.needs_model("prob_cover")  # type: ignore[arg-type]
    assert query.needs_model("least_confident_clusters")  # type: ignore[arg-type]
