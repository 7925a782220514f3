"""Build torchvision's ResNet-18 from pre-trained weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # a state_dict


def build(n_classes: int, start: Mapping[str, Tensor] | None, *, seed: int) -> nn.Module:
    """Build a ResNet-18 from the tensors in `start` that fit; `seed` determines the others."""
    from torchvision.models import resnet18  # a slow import that most commands do not need

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed CUDA
        model = resnet18(num_classes=n_classes)
    own = model.state_dict()
    fitting = {k: v for k, v in (start or {}).items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(own | fitting)
    return model
