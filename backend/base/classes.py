"""Keep track of a project's classes, which people may add, rename and remove in Label Studio.

A class keeps its column in class probabilities forever, and a new class gets the next column.
Therefore, probabilities with k columns always belong to the first k classes, regardless of when
they were saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Labels, Probs

Key = TypeVar("Key")
REMOVED = -1


def fold(name: str) -> str:
    """Return the form in which class names are compared: case and outer spaces are ignored."""
    return name.strip().casefold()


def is_same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two lists name the same classes, ignoring order, case and outer spaces."""
    return sorted(map(fold, one)) == sorted(map(fold, other))


def append_new(columns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns, followed by the names that are not among them."""
    found = {fold(name): name for name in columns}
    for name in names:
        found.setdefault(fold(name), name)
    return (*columns, *[*found.values()][len(columns) :])


@dataclass(frozen=True)
class ClassList:
    """All classes that a project has ever had, and the classes from which annotators choose now."""

    columns: tuple[str, ...]  # every class, in the order of the columns of probabilities
    choices: tuple[str, ...]  # the choices of the label config
    renamed: tuple[tuple[str, str], ...] = ()  # former name and new name of each renamed class

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the name of every column; a current class is spelled as in the label config."""
        return tuple(self._spelling.get(fold(name), name) for name in self.columns)

    @cached_property
    def current(self) -> tuple[str, ...]:
        """Return the names of the current classes, in the order of their columns."""
        return tuple(
            name for name, target in zip(self.names, self._targets, strict=True) if target == name
        )

    @cached_property
    def targets(self) -> Labels:
        """Return the column to which each column's probability is added now, or REMOVED."""
        place = {name: column for column, name in enumerate(self.names)}
        return np.array(
            [REMOVED if name is None else place[name] for name in self._targets], np.int64
        )

    def spell(self, label: str) -> str | None:
        """Return the current class to which a label refers, spelled as in the label config.

        Returns None if the label refers to none of the current classes.
        """
        key, passed = fold(label), set[str]()
        while key not in self._place or key not in self._spelling:
            passed.add(key)
            key = self._new_name.get(key, "")
            if not key or key in passed:
                return None
        return self._spelling[key]

    def position(self, label: str) -> int | None:
        """Return the column of the current class to which a label refers, or None."""
        name = self.spell(label)
        return None if name is None else self._place[fold(name)]

    def was_known(self, label: str) -> bool:
        """Return whether a label was ever one of the classes."""
        return fold(label) in self._place

    def align(self, probs: Probs) -> Probs:
        """Return probabilities with one column for each class, regardless of their age.

        Columns that did not exist yet are 0. The probability of a renamed class counts for its new
        name. The probability of a removed class is dropped, and the others are normalized. If no
        probability remains in a row, all current classes become equally likely. A row of NaN stays
        NaN.
        """
        n_known, n_columns = probs.shape[1], len(self.columns)
        targets = self.targets[:n_known]
        if n_known == n_columns and np.array_equal(targets, np.arange(n_columns)):
            return probs
        aligned = np.zeros((len(probs), n_columns), np.float32)
        for column in np.flatnonzero(targets != REMOVED):
            aligned[:, targets[column]] += probs[:, column]
        if n_known > n_columns or (targets == REMOVED).any():
            total = aligned.sum(axis=1, keepdims=True)
            is_current = self.targets == np.arange(n_columns)
            aligned[total[:, 0] == 0] = is_current / max(1, is_current.sum())
            aligned /= np.where(total == 0, 1, total)
        aligned[np.isnan(probs).any(axis=1)] = np.nan
        return aligned

    def align_rows(self, rows: Mapping[Key, NDArray[np.float32]]) -> dict[Key, NDArray[np.float32]]:
        """Align single rows of probabilities, which all have the same number of columns."""
        if not rows:
            return {}
        return dict(zip(rows, self.align(np.stack([*rows.values()])), strict=True))

    @cached_property
    def _targets(self) -> tuple[str | None, ...]:
        return tuple(map(self.spell, self.columns))

    @cached_property
    def _spelling(self) -> dict[str, str]:
        return {fold(choice): choice for choice in reversed(self.choices)}

    @cached_property
    def _place(self) -> dict[str, int]:
        return {fold(name): column for column, name in reversed([*enumerate(self.columns)])}

    @cached_property
    def _new_name(self) -> dict[str, str]:
        return {fold(former): fold(new) for former, new in self.renamed}
