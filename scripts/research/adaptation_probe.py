"""Measure how well heads on a body's embeddings classify images that are not in the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from backend.base.arrays import Embeddings, Images
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.network import batch_norm
from backend.network.head import fit_head
from backend.network.inference import load_model, normalizer, on_device, predict, resize

CPU = torch.device("cpu")
REFIT_IMAGES = 5_000
BATCH = 256

Accuracies = dict[str, list[float]]  # number of labels -> one accuracy in % per draw


@dataclass(frozen=True)
class Result:
    """What a method cost, and the accuracy of heads on the bodies that it made."""

    method: str
    lr: float
    minutes: float  # of CPU time
    steps: int
    passes: float  # over the pool
    split: str
    accuracy: dict[str, Accuracies]  # by body


class Probe:
    """The labels and the held-out images by which all bodies are measured."""

    def __init__(self, pool: Pool, split: str, counts: Sequence[int], draws: int) -> None:
        self._pool, self._counts = pool, counts
        self._held_out = pool.test if split == "test" else pool.validation
        known = true_labels(pool)
        rngs = [np.random.default_rng(draw) for draw in range(draws + 1)]
        drawn = [rng.permutation(len(pool.image_ids)) for rng in rngs]
        self._draws = [rows[: max(counts)] for rows in drawn[:draws]]
        self._refit_rows = drawn[draws][:REFIT_IMAGES]
        self._rows = np.unique(np.concatenate(self._draws))
        names = [known[pool.image_ids[row]] for row in self._rows]
        self._labels = np.array([pool.classes.index(name) for name in names])

    def measure(self, body: nn.Module, *, refit: bool = False) -> Accuracies:
        """Return the accuracies of heads; refit the body's batch-norm statistics if asked to."""
        if refit:
            batch_norm.refit(body, self._plain_batches())
        labeled = self._embed(body, self._pool.images[self._rows])
        unseen = self._embed(body, self._held_out.images[:])
        found: Accuracies = {str(count): [] for count in self._counts}
        for count in self._counts:
            for drawn in self._draws:
                at = np.searchsorted(self._rows, drawn[:count])
                head = fit_head(labeled[at], self._labels[at], len(self._pool.classes))
                is_right = head.probs(unseen).argmax(axis=1) == self._held_out.labels
                found[str(count)].append(100 * float(is_right.mean()))
        return found

    def _plain_batches(self) -> Iterator[Tensor]:
        normalize = normalizer(CPU)
        for first in range(0, len(self._refit_rows), BATCH):
            rows = self._refit_rows[first : first + BATCH]
            batch = normalize(on_device(self._pool.images[rows], CPU))
            resized = resize(batch, self._pool.image_size)
            yield resized.contiguous(memory_format=torch.channels_last)

    def _embed(self, body: nn.Module, images: Images) -> Embeddings:
        width = body.get_parameter("layer4.1.conv2.weight").shape[0]
        head = {"fc.weight": torch.zeros(1, width), "fc.bias": torch.zeros(1)}
        model = load_model(body.state_dict() | head, 1, CPU)
        return predict(model, images, image_size=self._pool.image_size, device=CPU).embeddings


def summarize(results: Sequence[Result]) -> str:
    """Return a Markdown table of mean accuracies ± SDs over draws, with a row for each body."""
    counts = list(next(iter(results[0].accuracy.values())))
    titles = ["method", "highest lr", "CPU minutes", "steps", "passes over the pool"]
    titles += [f"{int(count):,} labels" for count in counts]
    rows = [titles, ["---"] * len(titles)]
    for result in results:
        for body, accuracy in result.accuracy.items():
            rows.append(
                [
                    f"{result.method}, {body}" if body else result.method,
                    f"{result.lr:g}",
                    f"{result.minutes:g}",
                    str(result.steps),
                    f"{result.passes:.1f}",
                    *(_spread(accuracy[count]) for count in counts),
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(values: Sequence[float]) -> str:
    sd = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{sd}"
