"""Test the teacher and the queue of the contrast between images."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.network.contrast import Contrast
from backend.network.team import ALONE

CPU = torch.device("cpu")


def contrast(queued_batches: int = 2, teacher_momentum: float = 0.75) -> Contrast:
    return Contrast(
        None,
        queued_batches=queued_batches,
        batch_size=4,
        projection_width=8,
        temperature=0.2,
        teacher_momentum=teacher_momentum,
        momentum=0.9,
        weight_decay=0.0,
        seed=0,
        device=CPU,
        team=ALONE,
    )


def noise(seed: int) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_queue_keeps_the_latest_batches_and_overwrites_the_oldest() -> None:
    pair = contrast()
    queues = []
    for step in range(3):
        pair.learn(noise(step), noise(step), lr=0.0)
        queues.append(pair.state_dict()["queue"])
    assert queues[0][1].eq(0).all()  # only the first batch is there
    assert torch.equal(queues[1][0], queues[0][0])
    assert torch.equal(queues[2][1], queues[1][1])
    assert not torch.equal(queues[2][0], queues[1][0])
    torch.testing.assert_close(queues[2].norm(dim=2), torch.ones(2, 4))


def test_empty_places_in_the_queue_are_no_negatives() -> None:
    long, none = contrast(queued_batches=50), contrast(queued_batches=0)
    for one in (long, none):
        one.learn(noise(0), noise(1), lr=0.1)
    weights = (one.state_dict()["student.conv1.weight"] for one in (long, none))
    assert torch.equal(*weights)


def test_the_teacher_moves_a_quarter_of_the_way_to_the_student() -> None:
    pair = contrast(teacher_momentum=0.75)
    start = pair.teacher.get_parameter("conv1.weight").clone()
    pair.learn(noise(0), noise(1), lr=0.1)
    student = pair.student.get_parameter("conv1.weight").detach()
    teacher = pair.teacher.get_parameter("conv1.weight")
    assert not torch.equal(student, start)
    torch.testing.assert_close(teacher, 0.75 * start + 0.25 * student)
