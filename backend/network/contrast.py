"""Train a network without labels, by telling the views of each image from those of all others."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.base.errors import AdaptationError, TrainingError
from backend.network import resnet
from backend.network.stepping import autocast, make_momenta
from backend.network.team import Team


class Contrast:
    """A student, and a teacher that follows it (MoCo v2, Chen et al. 2020, arXiv:2003.04297).

    The student's projection of one view of an image should be closer to the teacher's projection of
    the other view than to those of the other images in the batch and in a queue of recent batches.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor] | None,
        *,
        queued_batches: int,
        batch_size: int,
        projection_width: int,
        temperature: float,
        teacher_momentum: float,
        momentum: float,
        weight_decay: float,
        seed: int,
        device: torch.device,
        team: Team,
    ) -> None:
        self.student = _build_student(start, projection_width, seed)
        self.student.to(memory_format=torch.channels_last).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.steps_done = 0
        self._temperature, self._teacher_momentum = temperature, teacher_momentum
        self._queue = torch.zeros(queued_batches, batch_size, projection_width, device=device)
        self._weights = dict(self.student.named_parameters())
        self._optimizer = torch.optim.SGD(
            self._weights.values(),
            lr=0.0,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=True,
            fused=True,
        )
        self._momenta = make_momenta(self.student, self._optimizer)
        self._team, self._learner = team, team.wrap(self.student)
        self._batch_size = batch_size
        self._loss = torch.zeros((), device=device)

    def learn(self, first: Tensor, second: Tensor, lr: float) -> None:
        """Update the student once from two views of each image, and then the teacher.

        In a team, each process gets its part of the views; the others' are in the batch as well.
        Does not wait for the device: `check` says later whether the loss was finite.
        """
        with torch.no_grad(), autocast(second):
            own_keys = F.normalize(self.teacher(second).float())
            keys = self._team.gather(own_keys, self._batch_size)
        with autocast(first):
            projected = self._learner(first)
        queued = self._queue[: self.steps_done].flatten(0, 1)
        similarities = F.normalize(projected.float()) @ torch.cat([keys, queued]).T
        own = torch.arange(len(keys), device=keys.device)[self._team.part(len(keys))]
        loss = F.cross_entropy(similarities / self._temperature, own)
        loss = loss * self._team.importance(len(keys))
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._follow()
        if len(self._queue):
            self._queue[self.steps_done % len(self._queue)] = keys
        self.steps_done += 1
        self._loss = loss.detach()

    def check(self) -> None:
        """Raise TrainingError if the last loss or any weight is not finite."""
        values = [self._loss, *self._weights.values()]
        if not all(value.isfinite().all() for value in values):
            raise TrainingError(
                "adapting the body diverged: the loss is NaN or infinite; "
                "check the weights that it started from (WEIGHTS)"
            )

    def body(self) -> nn.Module:
        """Return a copy of the student without its projection."""
        body = copy.deepcopy(self.student)
        body.fc = nn.Identity()
        return body

    def state_dict(self) -> resnet.State:
        """Return contiguous copies on the CPU of all that the next steps depend on."""
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self._state().items()
        }
        return copies | {"steps_done": torch.tensor(self.steps_done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned. Raises AdaptationError if it does not fit.

        The queue becomes as long as the saved one, so that a pool whose size has changed since does
        not end the training.
        """
        queue = state.get("queue")
        if queue is not None and queue.shape[1:] == self._queue.shape[1:]:
            self._queue = self._queue.new_zeros(queue.shape)
        own = self._state() | {"steps_done": torch.tensor(0)}
        if {name: (t.shape, t.dtype) for name, t in own.items()} != {
            name: (t.shape, t.dtype) for name, t in state.items()
        }:
            raise AdaptationError(
                "the saved state belongs to another adaptation: start again from the first step"
            )
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(state[name])
        self.steps_done = int(state["steps_done"])

    @torch.no_grad()
    def _follow(self) -> None:
        for followed, weight in zip(self._weights.values(), self.teacher.parameters(), strict=True):
            weight.lerp_(followed, 1 - self._teacher_momentum)

    def _state(self) -> resnet.State:
        parts: dict[str, Mapping[str, Tensor]] = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "momentum": self._momenta,
        }
        named = {f"{part}.{name}": t for part, of in parts.items() for name, t in of.items()}
        return named | {"queue": self._queue}


def _build_student(start: Mapping[str, Tensor] | None, width: int, seed: int) -> nn.Module:
    student = resnet.build(1, start, seed=seed)
    embedding_width = student.get_submodule("fc").get_parameter("weight").shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        student.fc = nn.Sequential(
            OrderedDict(
                hidden=nn.Linear(embedding_width, embedding_width),
                relu=nn.ReLU(),
                out=nn.Linear(embedding_width, width),
            )
        )
    return student
