"""Define the self-supervised methods that trial_adaptation compares, with lightly's losses.

Each method is as in its paper, with two exceptions: the sizes fit a ResNet-18 and small images,
and losses are divided by a constant so that the same learning rates suit all methods.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.loss.emp_ssl_loss import invariance_loss, tcr_loss
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from lightly.models.utils import update_momentum
from torch import Tensor, nn

WIDTH = 512  # of a ResNet-18's embeddings
TEMPERATURE = 0.2
QUEUE = 4096  # embeddings
TEACHER_MOMENTUM = 0.99
FROZEN = 0.1  # share of the time

MakeBody = Callable[[], nn.Module]


@dataclass(frozen=True)
class Crops:
    """Random crops of each image in a batch."""

    count: int
    side: int  # in pixels, after resizing
    areas: tuple[float, float]  # the smallest and the largest share of the image's area


class Method(ABC):
    """A self-supervised method: a body, what is trained with it, and a loss."""

    batch_size = 256
    lr = 0.06  # for all methods, as in lightly's benchmarks on CIFAR-10
    crops: tuple[Crops, ...] = (Crops(2, 64, (0.25, 1.0)),)
    student: nn.Module  # the body, then the projection head
    teacher: nn.Module | None = None  # a moving average of the student
    slows_teacher = True
    frozen: nn.Module | None = None  # a part of the student that is not trained at first

    def __init__(self, make_body: MakeBody) -> None:
        self.student = self.project(make_body())
        self.trained = nn.ModuleList([self.student])  # everything that the loss trains

    @abstractmethod
    def project(self, body: nn.Module) -> nn.Sequential:
        """Put this method's projection head on a body."""

    @abstractmethod
    def loss(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch: for each of `crops`, all views as draw_views orders them."""

    def before_update(self, progress: float) -> None:
        """Keep what is frozen at first as it is."""
        if self.frozen is not None and progress < FROZEN:
            for weight in self.frozen.parameters():
                if weight.grad is not None:
                    weight.grad.zero_()

    def after_update(self, progress: float) -> None:
        """Let the teacher follow the student, and in BYOL and DINO more and more slowly."""
        if self.teacher is not None:
            speed = (math.cos(math.pi * progress) + 1) / 2 if self.slows_teacher else 1.0
            momentum = 1 - (1 - TEACHER_MOMENTUM) * speed
            update_momentum(self.student, self.teacher, momentum)

    def bodies(self) -> dict[str, nn.Module]:
        """Return the bodies that the method has made."""
        found = {"student": self.student.get_submodule("0")}
        if self.teacher is not None:
            found["teacher"] = self.teacher.get_submodule("0")
        return found

    def add_teacher(self, make_body: MakeBody) -> nn.Module:
        """Return a copy of the student that no gradient reaches."""
        teacher = self.project(make_body())
        teacher.load_state_dict(self.student.state_dict())
        return teacher.requires_grad_(False)


class SimCLR(Method):
    """Chen et al., 2020 (arXiv:2002.05709)."""

    def __init__(self, make_body: MakeBody) -> None:
        super().__init__(make_body)
        self.criterion = NTXentLoss(TEMPERATURE)

    def project(self, body: nn.Module) -> nn.Sequential:
        return nn.Sequential(body, SimCLRProjectionHead(WIDTH))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        return self.criterion(*in_bfloat16(self.student, views[0]).chunk(2))


class MoCo(Method):
    """He et al., 2020 (arXiv:1911.05722), with the head of version 2."""

    slows_teacher = False

    def __init__(self, make_body: MakeBody) -> None:
        super().__init__(make_body)
        self.teacher = self.add_teacher(make_body)
        self.criterion = NTXentLoss(TEMPERATURE, memory_bank_size=(QUEUE, 128))

    def project(self, body: nn.Module) -> nn.Sequential:
        return nn.Sequential(body, MoCoProjectionHead(WIDTH))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        first, second = views[0].chunk(2)
        assert self.teacher is not None
        with torch.no_grad():
            keys = in_bfloat16(self.teacher, second)
        return self.criterion(in_bfloat16(self.student, first), keys)


class BYOL(Method):
    """Grill et al., 2020 (arXiv:2006.07733)."""

    def __init__(self, make_body: MakeBody) -> None:
        super().__init__(make_body)
        self.teacher = self.add_teacher(make_body)
        self.predictor = BYOLPredictionHead()
        self.trained.append(self.predictor)
        self.criterion = NegativeCosineSimilarity()

    def project(self, body: nn.Module) -> nn.Sequential:
        return nn.Sequential(body, BYOLProjectionHead(WIDTH))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            first, second = in_bfloat16(self.teacher, views[0]).chunk(2)
        predicted = in_bfloat16(self.predictor, in_bfloat16(self.student, views[0]))
        return self.criterion(predicted, torch.cat([second, first]))


class VICReg(Method):
    """Bardes et al., 2022 (arXiv:2105.04906)."""

    def __init__(self, make_body: MakeBody) -> None:
        super().__init__(make_body)
        self.criterion = VICRegLoss()

    def project(self, body: nn.Module) -> nn.Sequential:
        return nn.Sequential(body, BarlowTwinsProjectionHead(WIDTH, 2048, 2048))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        return self.criterion(*in_bfloat16(self.student, views[0]).chunk(2)) / 25


class EMPSSL(Method):
    """Tong et al., 2023 (arXiv:2304.03977): few passes, many small crops of each image."""

    batch_size = 100
    crops = (Crops(20, 32, (0.25, 0.25)),)

    def project(self, body: nn.Module) -> nn.Sequential:
        return nn.Sequential(body, BYOLProjectionHead(WIDTH, 2048, 256))

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        crops = in_bfloat16(self.student, views[0]).chunk(self.crops[0].count)
        projected = nn.functional.normalize(torch.stack(crops), dim=-1)
        # The paper maximizes the coding rate. EMPSSLLoss of lightly 1.6.0 minimizes it.
        return invariance_loss(projected) - tcr_loss(projected, eps=0.2) / 200


class DINO(Method):
    """Caron et al., 2021 (arXiv:2104.14294): the teacher sees large crops only."""

    crops = (Crops(2, 64, (0.4, 1.0)), Crops(6, 32, (0.1, 0.4)))

    def __init__(self, make_body: MakeBody) -> None:
        super().__init__(make_body)
        self.teacher = self.add_teacher(make_body)
        self.frozen = self.student.get_submodule("1.last_layer")
        self.criterion = DINOLoss(output_dim=4096, teacher_temp=0.04)

    def project(self, body: nn.Module) -> nn.Sequential:
        with warnings.catch_warnings():  # lightly uses torch's old weight_norm
            warnings.simplefilter("ignore", FutureWarning)
            head = DINOProjectionHead(WIDTH, 2048, 256, 4096, batch_norm=True)
        return nn.Sequential(body, head)

    def loss(self, views: Sequence[Tensor]) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            taught = in_bfloat16(self.teacher, views[0]).chunk(self.crops[0].count)
        outputs = [
            output
            for of_one_size, crops in zip(views, self.crops, strict=True)
            for output in in_bfloat16(self.student, of_one_size).chunk(crops.count)
        ]
        return self.criterion(taught, outputs)


def in_bfloat16(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return a network's outputs. It runs in bfloat16, but losses are computed in float32."""
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return network(inputs).float()


METHODS: dict[str, type[Method]] = {
    "moco": MoCo,
    "simclr": SimCLR,
    "vicreg": VICReg,
    "byol": BYOL,
    "emp_ssl": EMPSSL,
    "dino": DINO,
}
