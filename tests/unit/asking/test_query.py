"""Test which images each strategy asks, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from backend.asking.acquisition import ACQUISITIONS
from backend.asking.query import (
    SETS,
    Candidates,
    confidence,
    rank,
    resolve,
    select,
)
from backend.base.errors import NoModelError
from backend.base.settings import load_settings
from backend.base.strategy_names import STRATEGIES, ResolvedName

IDS = ("a", "b", "c", "d")
PROBS = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.5, 0.5]], dtype=np.float32)


EMBEDDINGS = np.array([[0, 0], [0, 3], [4, 0], [4, 3]], dtype=np.float16)
KNOWN = Candidates(IDS, PROBS, EMBEDDINGS, EMBEDDINGS[:0])
NO_MODEL = Candidates(IDS, None)
RESOLVED = sorted({resolve(name, n_asked=n, n_classes=2) for name in STRATEGIES for n in (0, 999)})


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_select_returns_image_ids_least_confident_first() -> None:
    query = select("least_confidence", KNOWN, 3, rng())
    assert query.image_ids == ("b", "d", "c")
    assert query.confidences == pytest.approx([0.5, 0.5, 0.6])


def test_ties_follow_the_order_of_the_ids() -> None:
    assert select("margin", KNOWN, 1, rng()).image_ids == ("b",)


@pytest.mark.parametrize("strategy", RESOLVED)
def test_every_strategy_gives_distinct_ids_and_confidences_in_ascending_order(
    strategy: ResolvedName,
) -> None:
    query = select(strategy, KNOWN, 4, rng())
    assert sorted(query.image_ids) == sorted(IDS)
    assert (np.diff(query.confidences) >= 0).all()
    assert ((query.confidences >= 0) & (query.confidences <= 1)).all()


@pytest.mark.parametrize("strategy", RESOLVED)
def test_asking_for_more_than_all_gives_all(strategy: ResolvedName) -> None:
    assert sorted(select(strategy, KNOWN, 99, rng()).image_ids) == sorted(IDS)


@pytest.mark.parametrize("strategy", RESOLVED)
def test_asking_for_none_gives_none(strategy: ResolvedName) -> None:
    assert select(strategy, KNOWN, 0, rng()).image_ids == ()


@pytest.mark.parametrize("strategy", RESOLVED)
def test_an_exhausted_pool_gives_none(strategy: ResolvedName) -> None:
    empty = Candidates((), PROBS[:0], EMBEDDINGS[:0], EMBEDDINGS)
    assert select(strategy, empty, 5, rng()).image_ids == ()


@pytest.mark.parametrize("strategy", RESOLVED)
def test_identical_images_are_each_asked_once(strategy: ResolvedName) -> None:
    same = Candidates(IDS, np.full((4, 2), 0.5, np.float32), np.ones((4, 2), np.float16), None)
    assert sorted(select(strategy, same, 3, rng()).image_ids)[0] in IDS
    assert len(set(select(strategy, same, 3, rng()).image_ids)) == 3


@pytest.mark.parametrize("strategy", RESOLVED)
def test_a_choice_can_be_repeated(strategy: ResolvedName) -> None:
    assert (
        select(strategy, KNOWN, 2, rng()).image_ids == select(strategy, KNOWN, 2, rng()).image_ids
    )


@pytest.mark.parametrize("strategy", RESOLVED)
def test_open_tasks_are_ordered_as_if_all_were_selected(
    strategy: ResolvedName,
) -> None:
    ranked = rank(strategy, KNOWN, rng())
    by_rank = [IDS[i] for i in np.argsort(ranked, kind="stable")]
    assert tuple(by_rank) == select(strategy, KNOWN, 4, rng()).image_ids


def test_every_strategy_name_can_be_selected_and_no_other() -> None:
    for name in STRATEGIES:
        assert load_settings(_env_file=None, strategy=name).strategy == name
        resolved = resolve(name, n_asked=0, n_classes=2)
        assert select(resolved, KNOWN, 2, rng()).strategy == resolved
    choosers = {"random", *ACQUISITIONS, *SETS}
    assert {*STRATEGIES, "uncertain_clusters"} == {"auto", *choosers}


def test_auto_asks_typical_images_until_twenty_per_class_were_asked() -> None:
    assert resolve("auto", n_asked=199, n_classes=10) == "typiclust"
    assert resolve("auto", n_asked=200, n_classes=10) == "uncertain_clusters"
    assert resolve("margin", n_asked=0, n_classes=10) == "margin"


def test_typical_images_need_no_model() -> None:
    cold = Candidates(IDS, None, EMBEDDINGS, None)
    assert select("typiclust", cold, 2, rng()).strategy == "typiclust"


def test_random_needs_no_model_and_repeats_with_its_seed() -> None:
    first = select("random", NO_MODEL, 2, rng())
    assert first.image_ids == select("random", NO_MODEL, 2, rng()).image_ids
    draws = {select("random", NO_MODEL, 2, np.random.default_rng(s)).image_ids for s in range(20)}
    assert len(draws) > 5


def test_the_confidence_of_random_is_the_place_in_its_order() -> None:
    assert sorted(confidence("random", 4, None, rng())) == pytest.approx([0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("strategy", [name for name in RESOLVED if name != "random"])
def test_a_strategy_without_what_it_needs_chooses_at_random_and_says_so(
    strategy: ResolvedName,
) -> None:
    query = select(strategy, NO_MODEL, 2, rng())
    assert query.strategy == "random"
    assert query.image_ids == select("random", NO_MODEL, 2, rng()).image_ids


def test_scoring_without_a_model_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(NoModelError, match="SEED_LABELS"):
        confidence("margin", 2, None, rng())


def test_probabilities_with_nan_are_an_error() -> None:
    broken = PROBS.copy()
    broken[2, 0] = np.nan
    with pytest.raises(NoModelError, match="NaN"):
        select("margin", Candidates(IDS, broken), 2, rng())
