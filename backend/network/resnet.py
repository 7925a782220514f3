"""Build a ResNet-18 from pre-trained weights.

The network is torchvision's, tensor by tensor. Importing torchvision would take longer than
importing torch, and every process that predicts would pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # a state_dict


class ResNet18(nn.Module):
    """The network of He et al. (2015), arXiv:1512.03385, with torchvision's names.

    The weights are drawn in torchvision's order, so that a seed gives the same weights.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Block(64, 64), Block(64, 64))
        self.layer2 = nn.Sequential(Block(64, 128, stride=2), Block(128, 128))
        self.layer3 = nn.Sequential(Block(128, 256, stride=2), Block(256, 256))
        self.layer4 = nn.Sequential(Block(256, 512, stride=2), Block(512, 512))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return one row of logits per normalized image."""
        first = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        last = self.layer4(self.layer3(self.layer2(self.layer1(first))))
        return self.fc(self.avgpool(last).flatten(1))


class Block(nn.Module):
    """Two convolutions, whose output is added to their input."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        downsample = None
        if stride != 1:
            downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = downsample  # created first, but listed last, as in torchvision

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, which may have more channels and a smaller size."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def build(n_classes: int, start: Mapping[str, Tensor] | None, *, seed: int) -> nn.Module:
    """Build a ResNet-18 from the tensors in `start` that fit; `seed` determines the others."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed CUDA
        model = ResNet18(n_classes)
    own = model.state_dict()
    fitting = {k: v for k, v in (start or {}).items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(own | fitting)
    return model
