"""Train one network in several processes, each of which sees a part of every batch.

The batch and the learning rate are those of one process, so a team of any size takes the same
steps, except that batch normalization sees only a part of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

MIN_PART = 32  # images; with fewer, the statistics of batch normalization are too noisy


@dataclass(frozen=True)
class Team:
    """The processes that train together. If there are several, torch.distributed connects them."""

    rank: int = 0  # of this process
    size: int = 1

    def part(self, batch_size: int) -> slice:
        """Return which images of a batch this process sees."""
        return self._part(self.rank, batch_size)

    def importance(self, batch_size: int) -> float:
        """Return how much the mean loss of this process's part counts in the mean of all parts.

        It differs from 1 if the parts are not of equal size.
        """
        part = self.part(batch_size)
        return (part.stop - part.start) * self.size / batch_size

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model that averages its gradients over the team after each backward pass."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def gather(self, rows: Tensor, batch_size: int) -> Tensor:
        """Return the rows of all images in a batch, (images, width), from those of each part."""
        if self.size == 1:
            return rows
        parts = [self._part(rank, batch_size) for rank in range(self.size)]
        longest = max(part.stop - part.start for part in parts)
        padded = F.pad(rows, (0, 0, 0, longest - len(rows)))
        found = [torch.empty_like(padded) for _ in parts]
        torch.distributed.all_gather(found, padded)
        return torch.cat([f[: p.stop - p.start] for f, p in zip(found, parts, strict=True)])

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor of floats by its mean over the team."""
        if self.size == 1:
            return
        for tensor in tensors:
            if tensor.is_floating_point():
                torch.distributed.all_reduce(tensor)
                tensor.div_(self.size)

    def agree(self, number: float) -> float:
        """Return the number that the first process gives, in all of them."""
        if self.size == 1:
            return number
        given = torch.tensor(number, dtype=torch.float64)
        torch.distributed.broadcast(given, 0)
        return float(given)

    def _part(self, rank: int, batch_size: int) -> slice:
        return slice(rank * batch_size // self.size, (rank + 1) * batch_size // self.size)


ALONE = Team()
