"""Fit heads that use more than the labeled images: mirrored images and the unlabeled pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags
from scipy.special import log_softmax

from backend.base.arrays import Embeddings, Labels, Probs, Scores
from backend.measures.calibration import fit_temperature, rescale
from backend.network.head import INVERSE_PENALTY, Head, cross_validated_probs, fit_head

PLAIN = "head"
NEIGHBORS = 10
SPREAD = 0.9  # how much an image takes from its neighbors rather than from its own start
SPREAD_STEPS = 30
DISTILL_STEPS = 100


@dataclass(frozen=True, eq=False)
class Material:
    """One seed's embeddings; the first rows of the pool are labeled."""

    labels: Labels
    n_classes: int
    pool: Embeddings
    mirrored_pool: Embeddings
    held_out: Embeddings
    mirrored_held_out: Embeddings
    graph: csr_matrix | None  # the neighbor graph of the pool; only heads in WITH_POOL need it
    seed: int

    @property
    def labeled(self) -> Embeddings:
        """Return the embeddings of the labeled images."""
        return self.pool[: len(self.labels)]

    @cached_property
    def head(self) -> Head:
        """Return a plain logistic regression."""
        return fit_head(self.labeled, self.labels, self.n_classes, shrinks_shares=False)

    @cached_property
    def temperature(self) -> float:
        """Return the temperature from cross-validation of the labels."""
        rng = np.random.default_rng(self.seed)
        probs = cross_validated_probs(self.labeled, self.labels, self.n_classes, rng)
        return fit_temperature(probs, self.labels)

    @cached_property
    def pool_probs(self) -> Probs:
        """Return calibrated probabilities of the pool, in which labeled images have their label."""
        probs = rescale(self.head.probs(self.pool), self.temperature)
        probs[: len(self.labels)] = np.eye(self.n_classes)[self.labels]
        return probs


def neighbor_graph(embeddings: Embeddings, n_neighbors: int) -> csr_matrix:
    """Return the symmetric, normalized graph of the nearest neighbors by cosine.

    An edge weighs the cosine to the third power, and counts in both directions (Iscen et al.,
    2019, arXiv:1904.04717).
    """
    centered = embeddings.astype(np.float32)
    centered -= centered.mean(axis=0)
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    n_images = len(centered)
    n_neighbors = min(n_neighbors, n_images - 1)
    near, weight = [], []
    for first in range(0, n_images, 1000):
        cosine = centered[first : first + 1000] @ centered.T
        cosine[np.arange(len(cosine)), first + np.arange(len(cosine))] = -np.inf
        best = np.argpartition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors]
        near.append(best)
        weight.append(np.take_along_axis(cosine, best, axis=1).clip(0) ** 3)
    starts = np.arange(0, n_images * n_neighbors + 1, n_neighbors)
    shape = (n_images, n_images)
    edges = csr_matrix(
        (np.concatenate(weight).ravel(), np.concatenate(near).ravel(), starts), shape
    )
    edges = edges + edges.T
    scale = diags(1 / np.sqrt(np.maximum(np.asarray(edges.sum(axis=1)).ravel(), 1e-12)))
    return (scale @ edges @ scale).tocsr()


def spread(graph: csr_matrix, start: Probs) -> Probs:
    """Let each image take over from its neighbors (Zhou et al., 2003); rows sum to 1."""
    found = start.copy()
    for _ in range(SPREAD_STEPS):
        found = SPREAD * (graph @ found) + (1 - SPREAD) * start
    found = np.maximum(found, 1e-8)
    return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def distill(
    embeddings: Embeddings, targets: Probs, weights: Scores, start: Head, inverse_penalty: float
) -> Head:
    """Fit a linear head to class probabilities; `weights` say how much each row counts.

    The same objective as `fit_head`: the weights of all rows together against the penalty.
    """
    center = embeddings.mean(axis=0, dtype=np.float32)
    rows = embeddings.astype(np.float32) - center
    scale = float(np.sqrt((rows**2).sum(axis=1).mean()))
    rows /= scale
    shape = start.weight.shape

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = flat[: -shape[0]].reshape(shape).astype(np.float32), flat[-shape[0] :]
        logs = log_softmax(rows @ weight.T + bias.astype(np.float32), axis=1)
        value = -float((weights * (targets * logs).sum(axis=1)).sum())
        slope = (np.exp(logs) - targets) * weights[:, None]
        value = inverse_penalty * value + 0.5 * float((weight**2).sum())
        gradient = inverse_penalty * slope.T @ rows + weight
        return value, np.append(gradient.ravel(), inverse_penalty * slope.sum(axis=0)).astype(float)

    begin = np.append(start.weight.ravel() * scale, start.bias + start.weight @ center)
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": DISTILL_STEPS}).x
    weight = (found[: -shape[0]].reshape(shape) / scale).astype(np.float32)
    return Head(weight, (found[-shape[0] :] - weight @ center).astype(np.float32))


def share_weights(labels: Labels, n_classes: int, n_prior: float) -> Scores:
    """Return weights that move the labels' class shares towards equal shares.

    The new shares are those of the labels and `n_prior` more labels for each class.
    """
    counts = np.bincount(labels, minlength=n_classes)
    wanted = (counts + n_prior) / (counts + n_prior).sum()
    return (wanted[labels] / counts[labels]).astype(np.float32)


def mirrored_probs(material: Material) -> Probs:
    """Average the probabilities of an image and its mirror image."""
    probs = material.head.probs(material.held_out)
    return np.mean([probs, material.head.probs(material.mirrored_held_out)], axis=0)


def mirrored_embeddings(material: Material) -> Probs:
    """Average the embeddings of an image and its mirror image, everywhere."""
    rows = _average(material.labeled, material.mirrored_pool[: len(material.labels)])
    head = fit_head(rows, material.labels, material.n_classes, shrinks_shares=False)
    return head.probs(_average(material.held_out, material.mirrored_held_out))


def mirrored_labels(material: Material) -> Probs:
    """Fit a head to the labeled images and their mirror images; use only images as they are."""
    rows = np.concatenate([material.labeled, material.mirrored_pool[: len(material.labels)]])
    head = fit_head(rows, np.tile(material.labels, 2), material.n_classes, shrinks_shares=False)
    return head.probs(material.held_out)


def labels_twice(material: Material) -> Probs:
    """Fit a head to every label twice, as a control: this halves the penalty on large weights."""
    rows = np.concatenate([material.labeled, material.labeled])
    head = fit_head(rows, np.tile(material.labels, 2), material.n_classes, shrinks_shares=False)
    return head.probs(material.held_out)


def shrunk_shares(material: Material) -> Probs:
    """Fit the loop's head, whose class shares are equal as far as chance explains the counts."""
    head = fit_head(material.labeled, material.labels, material.n_classes)
    return head.probs(material.held_out)


def closer_shares(material: Material, n_prior: float) -> Probs:
    """Fit a head to weighted labels whose class shares are closer to equal shares."""
    weights = share_weights(material.labels, material.n_classes, n_prior)
    head = fit_head(
        material.labeled, material.labels, material.n_classes, weights=weights, shrinks_shares=False
    )
    return head.probs(material.held_out)


def propagated_labels(material: Material) -> Probs:
    """Distill labels that spread over the neighbor graph; clear ones count more."""
    start = np.zeros_like(material.pool_probs)
    n_labels = len(material.labels)
    start[:n_labels] = material.pool_probs[:n_labels]
    return _distill_clear(material, _spread(material, start))


def smoothed_probs(material: Material) -> Probs:
    """Distill the head's probabilities after they spread over the neighbor graph."""
    return _distill_clear(material, _spread(material, material.pool_probs))


def pseudo_labels(material: Material) -> Probs:
    """Fit a head also to its own predictions, which count by their calibrated confidence."""
    predicted = material.pool_probs.argmax(axis=1)
    targets = np.eye(material.n_classes, dtype=np.float32)[predicted]
    return _distill(material, targets, material.pool_probs.max(axis=1))


def _spread(material: Material, start: Probs) -> Probs:
    assert material.graph is not None, "only heads in WITH_POOL use the graph"
    return spread(material.graph, start)


def _distill_clear(material: Material, targets: Probs) -> Probs:
    """Distill probabilities, weighted by how far their entropy is from that of a blind guess."""
    entropy = -(targets * np.log(np.maximum(targets, 1e-12))).sum(axis=1)
    targets[: len(material.labels)] = material.pool_probs[: len(material.labels)]
    return _distill(material, targets, 1 - entropy / np.log(material.n_classes))


def _distill(material: Material, targets: Probs, confidence: Scores) -> Probs:
    """Distill; all unlabeled images together count as much as all labels."""
    n_labels = len(material.labels)
    weights = confidence * (n_labels / confidence[n_labels:].sum())
    weights[:n_labels] = 1
    head = distill(material.pool, targets, weights, material.head, INVERSE_PENALTY)
    return head.probs(material.held_out)


def _average(one: Embeddings, other: Embeddings) -> Embeddings:
    return (one.astype(np.float32) + other.astype(np.float32)) / np.float32(2)


LABELS_ALONE: dict[str, Callable[[Material], Probs]] = {
    PLAIN: lambda material: material.head.probs(material.held_out),
    "mirrored probabilities": mirrored_probs,
    "mirrored embeddings": mirrored_embeddings,
    "mirrored labels": mirrored_labels,
    "labels twice": labels_twice,
    "shrunk class shares": shrunk_shares,
    "class shares with 10 more labels each": partial(closer_shares, n_prior=10),
    "equal class shares": partial(closer_shares, n_prior=1e6),
}
WITH_POOL: dict[str, Callable[[Material], Probs]] = {
    "propagated labels": propagated_labels,
    "smoothed probabilities": smoothed_probs,
    "pseudo-labels": pseudo_labels,
}
