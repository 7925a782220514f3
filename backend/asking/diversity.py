"""Choose a diverse set of images to query, from their embeddings.

`embeddings` has one row for each image that may be queried. Each function returns the positions of
`count` rows (at least one), or of all rows if there are fewer, in the order in which to query them.
`asked` contains the embeddings of the images that have already been queried.

In a large pool (`is_large`), the embeddings stay in files and are read in blocks. Each function
says what it then does differently; all other pools are read into memory.

Importing scikit-learn takes a second, so only the functions that use scikit-learn import it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.asking.clusters import Clusters, cluster_all, cluster_blocks
from backend.asking.directions import (
    DirectionRows,
    Directions,
    directions_of,
    distance_to_nearest,
    unit_directions,
)
from backend.base.arrays import EmbeddingRows, Positions, Probs, Scores
from backend.base.row_blocks import blocks, is_large, take

# Distances between directions, 0..2. Among 20,000 CIFAR-10 images, no two were closer than 0.18,
# and one in twenty had a neighbor within 0.48.
COPY = 0.1
ALIKE = 0.5

CLUSTERS_MAX = 500
CLUSTER_MIN = 5  # smaller clusters are outliers
CANDIDATES_PER_IMAGE = 10
CANDIDATES_MAX = 4000
BLOCK = 1000  # rows compared at a time, to limit memory

# Limits for large pools, in images
GREEDY_MAX = 50_000  # from which the greedy strategies choose
LANDMARKS = 500  # to which each image's distance is measured
COMPARED_MAX = 65_536  # of which near-duplicates are found


def typiclust(
    embeddings: EmbeddingRows, asked: EmbeddingRows, count: int, rng: np.random.Generator
) -> Positions:
    """Choose the most typical image from each of the largest clusters with no queried image.

    In TypiClust (Hacohen et al., 2022), the number of clusters is the number of images queried so
    far plus `count`, and an image is typical if its neighbors are close. The strategy needs no
    labels and works best when few images are labeled. In a large pool, a random sample of each
    cluster stands for the cluster: see `cluster_blocks`.
    """
    n_clusters = min(len(asked) + count, CLUSTERS_MAX, len(embeddings) + len(asked))
    if is_large(embeddings):
        clusters = cluster_blocks(embeddings, asked, n_clusters, rng)
    else:
        clusters = cluster_all(embeddings[:], asked[:], n_clusters, rng)
    chosen = _take_turns(clusters, count)
    return _fill(chosen, count, len(embeddings))


def k_center(embeddings: EmbeddingRows, asked: EmbeddingRows, count: int) -> Positions:
    """Choose, one by one, the image farthest from all images already queried or chosen.

    This is the greedy core-set method of Sener & Savarese (2018), which covers the whole pool,
    including its outliers. In a large pool, the image is chosen from the GREEDY_MAX images that are
    farthest from a few of the queried images: the others cannot be far from all queried images.
    """
    own, theirs = directions_of(embeddings, asked)
    if is_large(embeddings):
        rows = _remote(own, theirs)
        start = 0 if len(asked) else _most_central(take(embeddings, rows))
        chosen = rows[_farthest_first(own[rows], theirs, start, count)]
        return _fill(chosen, count, len(embeddings))
    start = 0 if len(asked) else _most_central(embeddings[:])
    return _farthest_first(own[:], theirs, start, count)


def badge(
    probs: Probs, embeddings: EmbeddingRows, count: int, rng: np.random.Generator
) -> Positions:
    """Choose images by k-means++ over the last layer's gradients for the model's own predictions.

    In BADGE (Ash et al., 2020), a gradient is long if the model is unsure, and images that would
    teach the same thing have gradients in the same direction. In a large pool, the images are
    chosen from GREEDY_MAX random images. The images that the model is most unsure of would be a
    worse part: on CIFAR-10, BADGE then lost its advantage over random selection.
    """
    if is_large(embeddings):
        n_compared = min(GREEDY_MAX, len(embeddings))
        rows = np.sort(rng.choice(len(embeddings), n_compared, replace=False, shuffle=False))
        chosen = rows[_spread_gradients(probs[rows], take(embeddings, rows), count, rng)]
        return _fill(chosen, count, len(embeddings))
    return _spread_gradients(probs, embeddings[:], count, rng)


def uncertain_clusters(
    uncertainty: Scores,
    embeddings: EmbeddingRows,
    asked: EmbeddingRows,
    count: int,
    rng: np.random.Generator,
) -> Positions:
    """Choose the most uncertain image from each of `count` clusters of the most uncertain images.

    The method follows Zhdanov (2019), "Diverse mini-batch active learning", with ten candidates for
    each image to choose. Near-duplicates of a queried or more uncertain image come last, because
    their labels will already be known. If every image is chosen, the most uncertain images come
    first. In a large pool, only the COMPARED_MAX most uncertain images can be candidates or
    near-duplicates.
    """
    if count >= len(embeddings):
        return _highest(uncertainty, count)
    own, theirs = directions_of(embeddings, asked)
    n_compared = COMPARED_MAX if is_large(embeddings) else len(embeddings)
    by_uncertainty = _highest(uncertainty, n_compared + count)
    compared = by_uncertainty[:n_compared]
    wanted = max(min(CANDIDATES_PER_IMAGE * count, CANDIDATES_MAX), count)
    candidates, directions = _without_copies(own, theirs, compared, wanted)
    chosen = candidates
    if len(candidates) > count:
        from sklearn.cluster import KMeans

        found = KMeans(count, n_init=1, max_iter=30, random_state=int(rng.integers(2**31))).fit(
            directions
        )
        # The candidates are sorted, so the first one in each cluster is the most uncertain.
        _, firsts = np.unique(found.labels_, return_index=True)
        chosen = candidates[np.sort(firsts)]
    rest = by_uncertainty[~np.isin(by_uncertainty, chosen)]
    is_copy = np.isin(rest, compared) & ~np.isin(rest, candidates)
    rest = np.concatenate([rest[~is_copy], rest[is_copy]])
    return np.concatenate([chosen, rest])[:count]


def interleave(embeddings: EmbeddingRows, order: Positions) -> Positions:
    """Reorder images so that similar images are far apart, but otherwise keep `order`.

    One image from each group of similar images comes first, then a second image from each, and so
    on. If there are more than BLOCK images, each block of BLOCK images is reordered separately.
    """
    if len(order) < 3:
        return order
    if len(order) > BLOCK:
        blocks = (order[first : first + BLOCK] for first in range(0, len(order), BLOCK))
        return np.concatenate([interleave(embeddings, block) for block in blocks])
    from sklearn.cluster import AgglomerativeClustering

    directions, _ = unit_directions(take(embeddings, order), embeddings[:0])
    groups = AgglomerativeClustering(
        n_clusters=None, distance_threshold=ALIKE, linkage="average"
    ).fit_predict(directions)
    turn = np.zeros(len(order), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn, kind="stable")]


def _take_turns(clusters: Clusters, count: int) -> Positions:
    """Choose the most typical images, one cluster at a time, until nothing is left to choose."""
    size, n_asked = clusters.size, clusters.n_asked.copy()
    queues: dict[int, list[int]] = {}
    chosen: list[int] = []
    alive = np.flatnonzero(size > n_asked)
    while len(chosen) < count and len(alive):
        # Clusters with the fewest queried images come first, then the largest; outliers come last.
        order = np.lexsort((-size[alive], n_asked[alive], size[alive] < CLUSTER_MIN))
        cluster = int(alive[order[0]])
        if cluster not in queues:
            queues[cluster] = clusters.by_typicality(cluster)[::-1].tolist()
        chosen.append(queues[cluster].pop())
        n_asked[cluster] += 1
        if not queues[cluster]:
            alive = alive[alive != cluster]
    return np.array(chosen, dtype=np.int64)


def _remote(own: Directions | DirectionRows, theirs: Directions) -> Positions:
    """Return the GREEDY_MAX rows that are farthest from the nearest of LANDMARKS queried images.

    The landmarks are spread evenly over the queried images, or over the pool if there are none.
    """
    known = theirs if len(theirs) else own
    spread = np.linspace(0, len(known) - 1, LANDMARKS).astype(np.int64)
    landmarks = known[np.unique(spread)]
    distances = [distance_to_nearest(own[block], landmarks) for block in blocks(own)]
    return np.sort(_highest(np.concatenate(distances), GREEDY_MAX))


def _farthest_first(own: Directions, theirs: Directions, start: int, count: int) -> Positions:
    """Choose rows far from `theirs` and from each other; begin with `start` if there are none."""
    square = (own**2).sum(axis=1)
    distance = distance_to_nearest(own, theirs)
    chosen: list[int] = []
    for _ in range(min(count, len(own))):
        best = int(distance.argmax()) if np.isfinite(distance).any() else start
        chosen.append(best)
        apart = np.maximum(square + square[best] - 2 * (own @ own[best]), 0)
        distance = np.minimum(distance, np.sqrt(apart))
        distance[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)


def _spread_gradients(
    probs: Probs, embeddings: NDArray[np.floating[Any]], count: int, rng: np.random.Generator
) -> Positions:
    """Draw rows with long gradients that differ from those already drawn.

    A gradient is the outer product of (probabilities - prediction) and the embedding, so distances
    are computed from the two factors.
    """
    errors = probs.copy()
    errors[np.arange(len(errors)), probs.argmax(axis=1)] -= 1
    inputs = embeddings.astype(np.float32)
    length = (errors**2).sum(axis=1) * (inputs**2).sum(axis=1)
    distance = length.copy()
    chosen: list[int] = []
    for _ in range(min(count, len(probs))):
        best = int(distance.argmax()) if not chosen else _draw(distance, chosen, rng)
        chosen.append(best)
        product = (errors @ errors[best]) * (inputs @ inputs[best])
        distance = np.minimum(distance, np.maximum(length + length[best] - 2 * product, 0))
        distance[chosen] = 0
    return np.array(chosen, dtype=np.int64)


def _without_copies(
    own: Directions | DirectionRows, theirs: Directions, order: Positions, wanted: int
) -> tuple[Positions, Directions]:
    """Return `wanted` rows in `order` and their directions.

    Skips near-duplicates of earlier rows and of `theirs`.
    """
    from sklearn.metrics import pairwise_distances

    kept, directions = order[:0], theirs[:0]
    for part in _growing_parts(order):
        of_part = own[part]
        for first in range(0, len(part), BLOCK):
            block, of_block = part[first : first + BLOCK], of_part[first : first + BLOCK]
            is_copy = np.tril(pairwise_distances(of_block) < COPY, -1).any(axis=1)
            is_copy |= distance_to_nearest(of_block, np.concatenate([theirs, directions])) < COPY
            kept = np.concatenate([kept, block[~is_copy]])
            directions = np.concatenate([directions, of_block[~is_copy]])
            if len(kept) >= wanted:
                return kept[:wanted], directions[:wanted]
    return kept, directions


def _growing_parts(order: Positions) -> Iterator[Positions]:
    """Yield parts of 1, 2, 4, 8 and then 16 blocks each, because every part is read separately."""
    first, size = 0, BLOCK
    while first < len(order):
        yield order[first : first + size]
        first, size = first + size, min(2 * size, 16 * BLOCK)


def _highest(scores: Scores, count: int) -> Positions:
    """Return the positions of the `count` highest scores; ties stay in their order."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, -count)[-count]
    rows = np.flatnonzero(scores >= least)
    return rows[np.argsort(-scores[rows], kind="stable")][:count]


def _fill(chosen: Positions, count: int, n_images: int) -> Positions:
    """Append images of a large pool that were never compared, if more than that are wanted."""
    if len(chosen) >= min(count, n_images):
        return chosen
    rest = np.setdiff1d(np.arange(n_images), chosen)
    return np.concatenate([chosen, rest])[:count]


def _most_central(embeddings: NDArray[np.floating[Any]]) -> int:
    away = embeddings.astype(np.float32) - embeddings.mean(axis=0, dtype=np.float32)
    return int((away**2).sum(axis=1).argmin())


def _draw(distance: NDArray[np.floating], chosen: list[int], rng: np.random.Generator) -> int:
    """Draw a position with probability proportional to its distance (uniformly if all are zero)."""
    total = distance.sum(dtype=np.float64)
    if total > 0:
        return int(rng.choice(len(distance), p=distance.astype(np.float64) / total))
    return int(rng.choice(np.setdiff1d(np.arange(len(distance)), chosen)))
