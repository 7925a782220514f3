"""A crowd for simulations: three real people's answers to each image, dealt to simulated people.

Who gave which answer is not known, so people are made by a rule, all chance drawn by seed. Each
has a care in 0..1, evenly spread: with that chance it gives the answer that most of an image's real
ones say, otherwise the rarest; no real answer is given twice while others are left. Two people are
not like that, unless it is told so: the last but one always accepts the model's guess, the last one
answers at random.
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
    """`size` people, numbered from 1, and what is left of each image's real answers."""

    answers: Mapping[str, Sequence[str]]  # by image id
    classes: Sequence[str]
    size: int
    rng: np.random.Generator
    has_odd: bool = True  # the last two
    given: dict[str, list[str]] = field(default_factory=dict)

    @property
    def clicker(self) -> int:
        """Who always accepts the model's guess."""
        return self.size - 1 if self.has_odd else 0

    @property
    def chancer(self) -> int:
        """Who answers at random."""
        return self.size if self.has_odd else 0

    def care(self, person: int) -> float:
        """With which chance a person of the others gives the majority's answer."""
        return (person - 1) / max(1, self.size - (3 if self.has_odd else 1))

    def pick(self, said: set[int | None]) -> int:
        """Anybody who has not answered yet."""
        return int(self.rng.choice([p for p in range(1, self.size + 1) if p not in said]))

    def answer(self, person: int, image_id: str, guess: str | None) -> str:
        """What a person says; `guess` is what the model shows, None where it shows nothing."""
        if person == self.chancer:
            return str(self.rng.choice(self.classes))
        if person == self.clicker and guess is not None:
            return guess
        given = self.given.setdefault(image_id, [])
        left = Counter(self.answers[image_id]) - Counter(given) or Counter(self.answers[image_id])
        ranked = [label for label, _ in left.most_common()]
        is_careful = person == self.clicker or self.rng.random() < self.care(person)
        label = ranked[0] if is_careful else ranked[-1]
        given.append(label)
        return label


def real_answers(file: str, pool: Pool) -> dict[str, tuple[str, ...]]:
    """The real answers to each image of a pool; SettingsError where one has none."""
    by_key = _read(file)
    keys = pool.paths or [f"{i.partition('~')[0].rpartition('-')[2]}" for i in pool.image_ids]
    missing = [key for key in keys if key not in by_key]
    if missing:
        raise SettingsError(f"--annotators {file} holds no answer to {missing[0]} of the pool")
    return {i: by_key[key] for i, key in zip(pool.image_ids, keys, strict=True)}


@cache
def _read(file: str) -> dict[str, tuple[str, ...]]:
    """People's answers by path and by number of the image."""
    with lzma.open(file, "rt") if file.endswith(".xz") else Path(file).open() as lines:
        by_path = {
            line["image"]: tuple(v for k, v in line.items() if k.startswith("annotator_"))
            for line in csv.DictReader(lines)
        }
    return by_path | {Path(path).stem: answers for path, answers in by_path.items()}
