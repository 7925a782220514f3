"""Define the array types that the core uses, with their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Probs = NDArray[np.float32]  # (images, classes), each row sums to 1
Scores = NDArray[np.float32]  # (images,)
Labels = NDArray[np.int64]  # (images,), class positions
Embeddings = NDArray[np.float16] | NDArray[np.float32]  # (images, width): penultimate activations


class Images(Protocol):
    """Images of the same size, as an array or as a view of a file that is read in pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (images, height, width, 3)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[np.uint8]]: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.uint8]: ...


class ImageView:
    """A selection of rows from `Images`, in any order. Rows are copied only when they are used."""

    def __init__(self, images: Images, rows: NDArray[np.int64]) -> None:
        self._images, self._rows = images, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (images, height, width, 3)."""
        return (len(self._rows), *self._images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._images[self._rows[row : row + 1]][0] for row in range(len(self)))

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        return self._images[self._rows[rows]]
