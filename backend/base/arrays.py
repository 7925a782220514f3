"""Define the array types that the core uses, with their shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Probs = NDArray[np.float32]  # (images, classes), each row sums to 1
Scores = NDArray[np.float32]  # (images,)
Labels = NDArray[np.int64]  # (images,), class positions
Embeddings = NDArray[np.float16] | NDArray[np.float32]  # (images, width): penultimate activations
