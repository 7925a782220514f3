"""Train one network in several processes, each of which sees a part of every batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

MIN_PART = 32  # images; batch normalization needs about as many


@dataclass(frozen=True)
class Team:
    """The processes that train together. If there are several, torch.distributed connects them."""

    rank: int = 0  # of this process
    size: int = 1

    def batch_size(self, alone: int, n_images: int) -> int:
        """Return the images in a batch of the whole team; `alone` is the batch of one process.

        The batch is the same as long as each process sees MIN_PART images of it. It is a multiple
        of the team's size, and not larger than all images.
        """
        part = max(MIN_PART, math.ceil(alone / self.size)) if self.size > 1 else alone
        return min(part, n_images // self.size) * self.size

    def part(self, batch_size: int) -> slice:
        """Return which images of a batch this process sees."""
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model that averages its gradients over the team after each backward pass."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of their ranks."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

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


ALONE = Team()


def scale_lr(lr: float, batch_size: int, team_batch_size: int) -> float:
    """Return the learning rate for a larger batch, in proportion (Goyal et al., 2017).

    Source: arXiv:1706.02677. A batch that is smaller because there are few images keeps the rate.
    """
    return lr * max(1.0, team_batch_size / batch_size)
