"""Offer query strategies that only simulations use, to find out whether they are worth keeping."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from backend.asking import query
from backend.asking.acquisition import least_confidence, margin
from backend.asking.directions import Directions, unit_directions
from backend.asking.diversity import uncertain_clusters
from backend.asking.query import SetStrategy
from backend.base.arrays import EmbeddingRows, Positions, Probs, Scores
from backend.base.strategy_names import ResolvedName, StrategyName

# The greedy methods compare all candidates with each other, so they see only a random part.
CANDIDATES = 3000
PURITY = 0.95  # of the balls of ProbCover, as in the paper
PSEUDO_CLASSES = 10
RADII = np.linspace(0.1, 1.4, 27, dtype=np.float32)

# Until this many images per class have been queried, typical images are; then the other strategy.
SWITCHING: dict[str, tuple[int, str]] = {
    "auto_5": (5, "uncertain_clusters"),
    "auto_10": (10, "uncertain_clusters"),
    "auto_40": (40, "uncertain_clusters"),
    "auto_least_confident": (query.TYPICAL_PER_CLASS, "least_confident_clusters"),
}


def uncertainty_herding(
    probs: Probs,
    embeddings: EmbeddingRows,
    asked: EmbeddingRows,
    count: int,
    rng: np.random.Generator,
) -> Positions:
    """Choose images that cover the uncertain ones best (Bae et al., 2024, "Uncertainty Herding").

    Greedily maximizes the sum over images of uncertainty times similarity to the nearest image that
    is queried or chosen. The radius of the similarity is the smallest distance between two queried
    images, so it shrinks as labels come in. Without a model, all images are equally uncertain.
    """
    rows = _draw(len(embeddings), count, rng)
    own, theirs = unit_directions(embeddings[rows], asked[:])
    uncertainty = margin(probs[rows]) if probs.shape[1] else np.ones(len(rows), np.float32)
    radius = _smallest_distance(theirs)
    similarity = np.exp(-_square_distances(own, own) / radius**2)
    covered = np.zeros(len(rows), np.float32)
    if len(theirs):
        covered = np.exp(-_square_distances(own, theirs) / radius**2).max(axis=1)
    return rows[_herd(similarity, covered, uncertainty, count)]


def prob_cover(
    embeddings: EmbeddingRows, asked: EmbeddingRows, count: int, rng: np.random.Generator
) -> Positions:
    """Choose, one by one, the image with the most neighbors that no chosen image covers.

    In ProbCover (Yehuda et al., 2022), images are neighbors within a radius. The radius is the
    largest at which 95 % of the neighborhoods lie in one cluster. Once everything is covered, the
    rest is random.
    """
    rows = _draw(len(embeddings), count, rng)
    own, theirs = unit_directions(embeddings[rows], asked[:])
    square = _square_distances(own, own)
    radius = _pure_radius(own, square, rng)
    is_near = square <= radius**2
    if len(theirs):
        is_near[:, (_square_distances(own, theirs) <= radius**2).any(axis=1)] = False
    degree = is_near.sum(axis=1)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        degree[chosen] = -1
        best = int(degree.argmax())
        if degree[best] == 0:
            break
        chosen.append(best)
        newly = np.flatnonzero(is_near[best])
        degree -= is_near[:, newly].sum(axis=1)
        is_near[:, newly] = False
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    order = np.concatenate([np.array(chosen, np.int64), rng.permutation(rest)])
    return rows[order[:count]]


TRIALS: dict[str, SetStrategy] = {
    "uncertainty_herding": uncertainty_herding,
    "prob_cover": lambda _, embeddings, asked, count, rng: prob_cover(
        embeddings, asked, count, rng
    ),
    "least_confident_clusters": lambda probs, embeddings, asked, count, rng: uncertain_clusters(
        least_confidence(probs), embeddings, asked, count, rng
    ),
}
TRIAL_ARMS = ("uncertainty_herding", "prob_cover", *SWITCHING)


def use_trials() -> None:
    """Let the loop of this process use the trial strategies."""
    query.SETS.update(cast(dict[ResolvedName, SetStrategy], TRIALS))
    free = cast(frozenset[ResolvedName], frozenset({"uncertainty_herding", "prob_cover"}))
    query.NEED_NO_MODEL |= free


def current_strategy(name: str, *, n_asked: int, n_classes: int) -> StrategyName:
    """Return the strategy that an arm uses now; only arms that switch have another name."""
    if name in SWITCHING:
        per_class, later = SWITCHING[name]
        name = "typiclust" if n_asked < per_class * n_classes else later
    return cast(StrategyName, name)


def _draw(n_images: int, count: int, rng: np.random.Generator) -> Positions:
    n_drawn = min(n_images, max(CANDIDATES, count))
    return np.sort(rng.permutation(n_images)[:n_drawn])


def _herd(
    similarity: NDArray[np.float32], covered: Scores, uncertainty: Scores, count: int
) -> list[int]:
    """Return the rows that, one by one, add most to the covered uncertainty."""
    chosen: list[int] = []
    for _ in range(min(count, len(similarity))):
        gain = np.maximum(similarity - covered, 0) @ uncertainty
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        covered = np.maximum(covered, similarity[best])
    return chosen


def _square_distances(one: Directions, other: Directions) -> NDArray[np.float32]:
    square = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.maximum(square, 0)


def _smallest_distance(directions: Directions) -> float:
    """Return the smallest distance between two different directions, or 1 if there are none."""
    square = _square_distances(directions, directions)
    apart = square[square > 1e-4]
    return float(np.sqrt(apart.min())) if apart.size else 1.0


def _pure_radius(own: Directions, square: NDArray[np.float32], rng: np.random.Generator) -> float:
    """Return the largest radius at which PURITY of the neighborhoods lie within one cluster."""
    from sklearn.cluster import KMeans

    n_clusters = min(PSEUDO_CLASSES, len(own))
    labels = KMeans(n_clusters, n_init=1, random_state=int(rng.integers(2**31))).fit_predict(own)
    to_others = np.where(labels[:, None] == labels, np.inf, square).min(axis=1)
    pure = [radius for radius in RADII if (to_others > radius**2).mean() >= PURITY]
    return float(max(pure, default=RADII[0]))
