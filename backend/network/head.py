"""Fit the network's last layer, which is a linear classifier of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from backend.base.arrays import EmbeddingRows, Embeddings, Labels, Probs, Scores
from backend.base.errors import TooFewLabelsError
from backend.base.row_blocks import blocks
from backend.network.resnet_layout import HEAD_TENSORS

# How much the labels weigh relative to the penalty on large weights, for embeddings scaled to a
# mean square length of 1. On CIFAR-10, 1 to 3 is best for a fine-tuned body and 3 to 10 for a
# pre-trained one, but the difference in accuracy is less than half a point.
INVERSE_PENALTY = 3.0
FOLDS = 5
TOLERANCE = 1e-4
MAX_STEPS = 200


@dataclass(frozen=True)
class Head:
    """A network's last layer: logits = embeddings @ weight.T + bias."""

    weight: NDArray[np.float32]  # (classes, width)
    bias: NDArray[np.float32]  # (classes,)

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """Return the last layer of a network's tensors."""
        return cls(*(state[name] for name in HEAD_TENSORS))

    def probs(self, embeddings: EmbeddingRows) -> Probs:
        """Return class probabilities, one row per embedding; read the embeddings in blocks."""
        probs = np.empty((len(embeddings), len(self.bias)), np.float32)
        for block in blocks(embeddings):
            logits = embeddings[block].astype(np.float32) @ self.weight.T + self.bias
            probs[block] = softmax(logits, axis=1)
        return probs


def fit_head(
    embeddings: Embeddings,
    labels: Labels,
    n_classes: int,
    start: Head | None = None,
    weights: Scores | None = None,
    *,
    shrinks_shares: bool = True,
) -> Head:
    """Fit a multinomial logistic regression.

    The problem has a single optimum, so `start`, which may have fewer classes, only saves time.
    `weights` determine how much each label counts; only their ratios matter. The labels are also
    weighted so that their classes have the shares of `shrink_shares`; `shrinks_shares=False` is for
    measuring the difference. A class without labels gets the probability that it would have with
    one more labeled image (Laplace's rule of succession). Raises TooFewLabelsError if fewer than
    two classes have labels.
    """
    seen = np.unique(labels)
    if len(seen) < 2:
        raise TooFewLabelsError(
            f"{len(labels)} labels of {len(seen)} class(es): a head needs labels of at least two "
            "classes"
        )
    from sklearn.linear_model import LogisticRegression  # a slow import

    # This scaling makes the penalty equally strong for every body and saves solver steps.
    center = embeddings.mean(axis=0, dtype=np.float32)
    centered = embeddings.astype(np.float32) - center
    scale = float(np.sqrt((centered**2).sum(axis=1).mean())) or 1.0
    model = LogisticRegression(
        C=INVERSE_PENALTY, tol=TOLERANCE, max_iter=MAX_STEPS, warm_start=True
    )
    if start is not None and len(seen) > 2 and seen[-1] < len(start.bias):
        model.classes_ = seen
        model.coef_ = start.weight[seen] * scale
        model.intercept_ = start.bias[seen] + start.weight[seen] @ center
    importance = np.ones(len(labels)) if weights is None else weights / weights.mean()
    if shrinks_shares:
        counts = np.bincount(labels)[seen]
        ratios = shrink_shares(counts) * len(labels) / counts
        importance = importance * ratios[np.searchsorted(seen, labels)]
    model.fit(centered / scale, labels, importance)
    if len(seen) == 2:  # the model's only row compares the second class with the first
        coef = np.vstack([-model.coef_, model.coef_]) / 2
        intercept = np.array([-0.5, 0.5]) * model.intercept_
    else:
        coef, intercept = model.coef_, model.intercept_
    weight = np.zeros((n_classes, embeddings.shape[1]), np.float32)
    weight[seen] = coef / scale
    typical = logsumexp(centered / scale @ coef.T + intercept, axis=1).mean()
    bias = np.full(n_classes, typical - np.log(len(labels) + 1), np.float32)
    bias[seen] = intercept - weight[seen] @ center
    return Head(weight, bias)


def shrink_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the classes' shares, moved towards equal shares as far as chance explains the counts.

    This is the James-Stein estimate of Hausser and Strimmer (2009, JMLR 10). Without it, a head
    that has few labels prefers the classes that happen to have more of them. Shares that chance
    cannot explain stay almost as they are.
    """
    n_labels, equal = counts.sum(), 1 / len(counts)
    shares = counts / n_labels
    distance = ((shares - equal) ** 2).sum()
    by_chance = (1 - (shares**2).sum()) / max(n_labels - 1, 1)
    moved = min(1.0, by_chance / distance) if distance > 0 else 1.0
    return moved * equal + (1 - moved) * shares


def cross_validated_probs(
    embeddings: Embeddings, labels: Labels, n_classes: int, rng: np.random.Generator
) -> Probs:
    """Return class probabilities from heads that have not seen the label of the same row.

    Each fifth of the labels is predicted by a head that is fitted to the other four. Raises
    TooFewLabelsError if any of these heads would have labels of fewer than two classes.
    """
    probs = np.empty((len(labels), n_classes), np.float32)
    for fold in np.array_split(rng.permutation(len(labels)), FOLDS):
        others = np.setdiff1d(np.arange(len(labels)), fold)
        head = fit_head(embeddings[others], labels[others], n_classes)
        probs[fold] = head.probs(embeddings[fold])
    return probs
