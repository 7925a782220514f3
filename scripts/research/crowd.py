"""Simulate annotators who reuse the annotations that real people gave to each image.

The data does not record who made which annotation, so the annotators are invented by a rule. All
random numbers come from a seed. Each annotator has a level of care; the levels are evenly spaced
from 0 to 1. The level is the probability that an annotator chooses the class that most real people
chose; otherwise, the annotator chooses the class that the fewest of these people chose. No real
annotation is used twice while others are left. By default, the last two annotators are unreliable:
the second-to-last always accepts the model's guess, and the last one annotates at random.
"""

from __future__ import annotations

import csv
import lzma
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from backend.base.errors import SettingsError
from backend.images.pool import Pool


@dataclass
class Crowd:
    """`size` annotators, numbered from 1, and the real annotations that they have used."""

    real: Mapping[str, Sequence[str]]  # the real annotations, by image id
    classes: Sequence[str]
    size: int
    rng: np.random.Generator
    has_unreliable: bool = True  # whether the last two annotators are unreliable
    used: dict[str, list[str]] = field(default_factory=dict)

    @property
    def guess_accepter(self) -> int:
        """The annotator who always accepts the model's guess, or 0 if there is none."""
        return self.size - 1 if self.has_unreliable else 0

    @property
    def random_annotator(self) -> int:
        """The annotator who annotates at random, or 0 if there is none."""
        return self.size if self.has_unreliable else 0

    def care(self, annotator: int) -> float:
        """Return how likely a reliable annotator is to choose the majority's class."""
        return (annotator - 1) / max(1, self.size - (3 if self.has_unreliable else 1))

    def pick(self, excluded: set[int | None]) -> int:
        """Return a random annotator who is not in `excluded`."""
        return int(self.rng.choice([p for p in range(1, self.size + 1) if p not in excluded]))

    def annotate(self, annotator: int, image_id: str, guess: str | None) -> str:
        """Return the class that an annotator chooses.

        `guess` is the model's guess that the annotator sees, or None if no guess is displayed.
        """
        if annotator == self.random_annotator:
            return str(self.rng.choice(self.classes))
        if annotator == self.guess_accepter and guess is not None:
            return guess
        used = self.used.setdefault(image_id, [])
        left = Counter(self.real[image_id]) - Counter(used) or Counter(self.real[image_id])
        ranked = [label for label, _ in left.most_common()]
        is_careful = annotator == self.guess_accepter or self.rng.random() < self.care(annotator)
        label = ranked[0] if is_careful else ranked[-1]
        used.append(label)
        return label


def real_annotations(file: str, pool: Pool, image_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the real annotations of some images of a pool.

    Raises SettingsError if the file does not exist or lacks an image.
    """
    if not Path(file).is_file():
        raise SettingsError(f"--annotators {file}: no such file")
    by_key = _read(file)
    if pool.source is None:
        keys = [i.partition("~")[0].rpartition("-")[2] for i in image_ids]
    else:
        index = pool.source.index
        keys = [entry.location for entry in index.entries(index.rows(image_ids))]
    missing = [key for key in keys if key not in by_key]
    if missing:
        raise SettingsError(
            f"--annotators {file} has no annotation of {missing[0]}, which is in the pool"
        )
    return {i: by_key[key] for i, key in zip(image_ids, keys, strict=True)}


@cache
def _read(file: str) -> dict[str, tuple[str, ...]]:
    """Return the real annotations, keyed by both the image's path and the image's number."""
    with lzma.open(file, "rt") if file.endswith(".xz") else Path(file).open() as lines:
        by_path = {
            line["image"]: tuple(v for k, v in line.items() if k.startswith("annotator_"))
            for line in csv.DictReader(lines)
        }
    return by_path | {Path(path).stem: classes for path, classes in by_path.items()}
