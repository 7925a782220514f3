"""Define the array types that the core uses, with their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Number_co = TypeVar("Number_co", bound=np.generic, covariant=True)

Probs = NDArray[np.float32]  # (images, classes), each row sums to 1
Scores = NDArray[np.float32]  # (images,)
Labels = NDArray[np.int64]  # (images,), class positions
Positions = NDArray[np.int64]  # of rows
Embeddings = NDArray[np.float16] | NDArray[np.float32]  # (images, width): penultimate activations


class Rows(Protocol[Number_co]):
    """One row per image, as an array or in files that are read in pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of rows, then the shape of a row."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[Number_co]]: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[Number_co]: ...


Images = Rows[np.uint8]  # (images, height, width, 3), all of the same size
EmbeddingRows = Rows[np.floating[Any]]  # (images, width), like Embeddings but perhaps in files


class RowView(Generic[Number_co]):
    """A selection of rows, in any order. Rows are copied only when they are used."""

    def __init__(self, whole: Rows[Number_co], rows: NDArray[np.int64]) -> None:
        self._whole, self._rows = whole, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of rows, then the shape of a row."""
        return (len(self._rows), *self._whole.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[NDArray[Number_co]]:
        return (self._whole[self._rows[row : row + 1]][0] for row in range(len(self)))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Number_co]:
        return self._whole[self._rows[rows]]
