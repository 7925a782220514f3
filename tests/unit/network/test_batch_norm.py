"""Test the statistics of batch normalization on numbers that can be checked by hand."""

from __future__ import annotations

import torch
from torch import nn

from backend.network import batch_norm


def test_the_statistics_become_the_averages_over_the_batches() -> None:
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(norm).eval()
    norm.running_mean, norm.num_batches_tracked = torch.tensor([100.0]), torch.tensor(9)
    batches = [torch.tensor(values).view(-1, 1, 1, 1) for values in ([0.0, 2.0], [4.0, 8.0])]
    batch_norm.refit(model, batches)
    assert norm.running_mean.item() == 3.5  # of 1 and 6
    assert norm.running_var is not None
    assert norm.running_var.item() == 5.0  # of 2 and 8
    assert norm.momentum == 0.1
    assert not norm.training
