"""Refit the statistics of batch normalization to the images that a network will see."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def refit(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running means and variances by their averages over `batches`.

    The batches should be of equal size and in random order: while the statistics are collected,
    each batch is normalized by its own (Izmailov et al. 2018, arXiv:1803.05407).
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    was_training = model.training
    model.train()
    for batch in batches:
        with torch.autocast(batch.device.type, torch.bfloat16):
            model(batch)
    model.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
