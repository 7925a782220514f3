"""Choose a diverse set of images to query, from their embeddings.

`embeddings` has one row for each image that may be queried. Each function returns the positions of
`count` rows (at least one), or of all rows if there are fewer, in the order in which to query them.
`asked` contains the embeddings of the images that have already been queried.

Importing scikit-learn takes a second, so only the functions that use scikit-learn import it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Embeddings, Probs, Scores

Positions = NDArray[np.int64]
Directions = NDArray[np.float32]  # centered embeddings, scaled to unit length

# Distances between directions, 0..2. Among 20,000 CIFAR-10 images, no two were closer than 0.18,
# and one in twenty had a neighbor within 0.48.
COPY = 0.1
ALIKE = 0.5

CLUSTERS_MAX = 500
NEIGHBORS = 20
CLUSTER_MIN = 5  # smaller clusters are outliers
CANDIDATES_PER_IMAGE = 10
CANDIDATES_MAX = 4000
BLOCK = 1000  # rows compared at a time, to limit memory


def typiclust(
    embeddings: Embeddings, asked: Embeddings, count: int, rng: np.random.Generator
) -> Positions:
    """Choose the most typical image from each of the largest clusters with no queried image.

    In TypiClust (Hacohen et al., 2022), the number of clusters is the number of images queried so
    far plus `count`, and an image is typical if its neighbors are close. The strategy needs no
    labels and works best when few images are labeled.
    """
    from sklearn.cluster import MiniBatchKMeans

    directions = np.concatenate(unit_directions(embeddings, asked))
    n_clusters = min(len(asked) + count, CLUSTERS_MAX, len(directions))
    found = MiniBatchKMeans(
        n_clusters, batch_size=4096, max_iter=10, n_init=1, random_state=int(rng.integers(2**31))
    ).fit(directions)
    clusters = found.labels_.astype(np.int64)
    own, theirs = clusters[: len(embeddings)], clusters[len(embeddings) :]
    n_asked = np.bincount(theirs, minlength=n_clusters)
    size = np.bincount(clusters, minlength=n_clusters)
    queues: dict[int, list[int]] = {}
    chosen: list[int] = []
    alive = np.flatnonzero(np.bincount(own, minlength=n_clusters))
    while len(chosen) < min(count, len(embeddings)):
        # Clusters with the fewest queried images come first, then the largest; outliers come last.
        order = np.lexsort((-size[alive], n_asked[alive], size[alive] < CLUSTER_MIN))
        cluster = int(alive[order[0]])
        if cluster not in queues:
            members = np.flatnonzero(own == cluster)
            by_typicality = np.argsort(-_typicality(directions[members]), kind="stable")
            queues[cluster] = members[by_typicality[::-1]].tolist()
        chosen.append(queues[cluster].pop())
        n_asked[cluster] += 1
        if not queues[cluster]:
            alive = alive[alive != cluster]
    return np.array(chosen, dtype=np.int64)


def k_center(embeddings: Embeddings, asked: Embeddings, count: int) -> Positions:
    """Choose, one by one, the image farthest from all images already queried or chosen.

    This is the greedy core-set method of Sener & Savarese (2018), which covers the whole pool,
    including its outliers.
    """
    own, theirs = unit_directions(embeddings, asked)
    square = (own**2).sum(axis=1)
    distance = _distance_to_nearest(own, theirs)
    chosen: list[int] = []
    for _ in range(min(count, len(own))):
        # If no image has been queried yet, start with the most central image.
        best = int(distance.argmax()) if np.isfinite(distance).any() else _most_central(embeddings)
        chosen.append(best)
        apart = np.maximum(square + square[best] - 2 * (own @ own[best]), 0)
        distance = np.minimum(distance, np.sqrt(apart))
        distance[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)


def badge(probs: Probs, embeddings: Embeddings, count: int, rng: np.random.Generator) -> Positions:
    """Choose images by k-means++ over the last layer's gradients for the model's own predictions.

    In BADGE (Ash et al., 2020), a gradient is long if the model is unsure, and images that would
    teach the same thing have gradients in the same direction. A gradient is the outer product of
    (probabilities - prediction) and the embedding, so distances are computed from the two factors.
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


def uncertain_clusters(
    uncertainty: Scores,
    embeddings: Embeddings,
    asked: Embeddings,
    count: int,
    rng: np.random.Generator,
) -> Positions:
    """Choose the most uncertain image from each of `count` clusters of the most uncertain images.

    The method follows Zhdanov (2019), "Diverse mini-batch active learning", with ten candidates for
    each image to choose. Near-duplicates of a queried or more uncertain image come last, because
    their labels will already be known. If every image is chosen, the most uncertain images come
    first.
    """
    if count >= len(embeddings):
        return np.argsort(-uncertainty, kind="stable")
    own, theirs = unit_directions(embeddings, asked)
    by_uncertainty = np.argsort(-uncertainty, kind="stable")
    wanted = max(min(CANDIDATES_PER_IMAGE * count, CANDIDATES_MAX), count)
    candidates = _without_copies(own, theirs, by_uncertainty, wanted)
    chosen = candidates
    if len(candidates) > count:
        from sklearn.cluster import KMeans

        found = KMeans(count, n_init=1, max_iter=30, random_state=int(rng.integers(2**31))).fit(
            own[candidates]
        )
        # The candidates are sorted, so the first one in each cluster is the most uncertain.
        _, firsts = np.unique(found.labels_, return_index=True)
        chosen = candidates[np.sort(firsts)]
    rest = by_uncertainty[~np.isin(by_uncertainty, chosen)]
    is_copy = ~np.isin(rest, candidates)
    rest = np.concatenate([rest[~is_copy], rest[is_copy]])
    return np.concatenate([chosen, rest])[:count]


def interleave(embeddings: Embeddings, order: Positions) -> Positions:
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

    directions, _ = unit_directions(embeddings[order], embeddings[:0])
    groups = AgglomerativeClustering(
        n_clusters=None, distance_threshold=ALIKE, linkage="average"
    ).fit_predict(directions)
    turn = np.zeros(len(order), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn, kind="stable")]


def unit_directions(embeddings: Embeddings, asked: Embeddings) -> tuple[Directions, Directions]:
    """Center both arrays on the mean of `embeddings`, and scale each row to length 1."""
    center = embeddings.mean(axis=0, dtype=np.float32)
    centered = np.concatenate([embeddings, asked]).astype(np.float32) - center
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    # Rounding leaves tiny differences between identical embeddings, which are not real directions.
    directions = np.where(length > 1e-4, centered / np.maximum(length, 1e-4), np.float32(0))
    return directions[: len(embeddings)], directions[len(embeddings) :]


def _typicality(directions: Directions) -> Scores:
    """Return the inverse of each cluster member's mean distance to its nearest neighbors."""
    n_neighbors = min(NEIGHBORS, len(directions) - 1)
    if n_neighbors == 0:
        return np.zeros(1, np.float32)
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(directions)
    distances, _ = nearest.kneighbors()  # an image is not its own neighbor
    return np.float32(1) / (distances.mean(axis=1) + np.float32(1e-5))


def _without_copies(
    own: Directions, theirs: Directions, order: Positions, wanted: int
) -> Positions:
    """Return `wanted` rows in `order`, skipping near-duplicates of earlier rows and of `theirs`."""
    from sklearn.metrics import pairwise_distances

    kept: Positions = np.empty(0, np.int64)
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        is_copy = np.tril(pairwise_distances(own[block]) < COPY, -1).any(axis=1)
        is_copy |= _distance_to_nearest(own[block], np.concatenate([theirs, own[kept]])) < COPY
        kept = np.concatenate([kept, block[~is_copy]])
        if len(kept) >= wanted:
            break
    return kept[:wanted]


def _distance_to_nearest(directions: Directions, others: Directions) -> NDArray[np.float32]:
    """Return each row's distance to the nearest row of `others`, or infinity if there is none."""
    if not len(others):
        return np.full(len(directions), np.inf, np.float32)
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(directions, others)[1]


def _most_central(embeddings: Embeddings) -> int:
    away = embeddings.astype(np.float32) - embeddings.mean(axis=0, dtype=np.float32)
    return int((away**2).sum(axis=1).argmin())


def _draw(distance: NDArray[np.floating], chosen: list[int], rng: np.random.Generator) -> int:
    """Draw a position with probability proportional to its distance (uniformly if all are zero)."""
    total = distance.sum(dtype=np.float64)
    if total > 0:
        return int(rng.choice(len(distance), p=distance.astype(np.float64) / total))
    return int(rng.choice(np.setdiff1d(np.arange(len(distance)), chosen)))
