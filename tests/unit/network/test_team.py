"""Train in a team of two processes, connected by the real torch.distributed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn

from backend.network import resnet
from backend.network.adaptation import Adaptation, AdaptationRecipe
from backend.network.team import ALONE, Team
from backend.network.training import Recipe, Training, batches

CPU = torch.device("cpu")
RECIPE = Recipe(image_size=16, batch_size=64, min_steps=4, epochs=1)


def test_the_parts_of_a_batch_are_all_of_it_and_count_by_their_size() -> None:
    team = [Team(rank, 3) for rank in range(3)]
    assert [row for member in team for row in range(10)[member.part(10)]] == [*range(10)]
    # Parts of 3, 3 and 4 images: the mean of the three means counts each image equally.
    assert [member.importance(10) for member in team] == pytest.approx([0.9, 0.9, 1.2])
    assert ALONE.importance(10) == 1


def run_team(folder: Path, function: Any) -> list[Any]:
    """Call a function of this module in two processes, and return both results."""
    multiprocessing.spawn(_member, (folder, function), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _member(rank: int, folder: Path, function: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    torch.save(function(Team(rank, 2)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def exchange(team: Team) -> dict[str, Any]:
    own = torch.tensor([[float(team.rank)], [10.0 + team.rank]])
    uneven = own[: 1 + team.rank]  # the parts of a batch of three
    counted, mean = torch.tensor([team.rank]), torch.tensor([1.0 + 2 * team.rank])
    team.average([counted, mean])
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    wrapped = team.wrap(model)  # which must live until the gradients are averaged
    wrapped(own).sum().backward()
    return {
        "gathered": team.gather(own, 4),
        "uneven": team.gather(uneven, 3),
        "counted": counted,
        "mean": mean,
        "agreed": team.agree(0.25 + team.rank),
        "gradient": model.weight.grad,
    }


def test_a_team_gathers_averages_and_agrees(tmp_path: Path) -> None:
    first, second = run_team(tmp_path, exchange)
    for member in (first, second):
        assert member["gathered"].tolist() == [[0], [10], [1], [11]]
        assert member["uneven"].tolist() == [[0], [1], [11]]
        assert member["mean"].tolist() == [2]
        assert member["agreed"] == 0.25
        assert member["gradient"].item() == 11  # the mean of 0 + 10 and 1 + 11
    assert [first["counted"].item(), second["counted"].item()] == [0, 1]  # numbers stay


def colors(n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Alternate red, green and blue images with some noise; their classes are 0, 1 and 2."""
    labels = np.arange(n) % 3
    images = np.random.default_rng(0).integers(0, 60, (n, 16, 16, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 150
    return images, labels


def make_training(team: Team) -> Training:
    return Training(
        *colors(128),
        n_classes=3,
        start=None,
        recipe=RECIPE,
        may_flip=True,
        seed=0,
        device=CPU,
        team=team,
    )


def train_two_steps(team: Team) -> resnet.State:
    training = make_training(team)
    for _ in range(2):
        training.step()
    return training.finish() | {"steps": torch.tensor(training.steps)}


def test_both_processes_end_with_the_same_weights_in_as_many_steps_as_one(tmp_path: Path) -> None:
    first, second = run_team(tmp_path, train_two_steps)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["steps"] == make_training(ALONE).steps == 4


def test_the_parts_of_a_training_batch_are_the_batch_of_one_process() -> None:
    images, labels = colors(100)

    def feed(team: Team) -> Iterator[tuple[torch.Tensor, ...]]:
        return batches(images, labels, recipe=RECIPE, may_flip=True, seed=0, device=CPU, team=team)

    for alone, *parts in zip(feed(ALONE), feed(Team(0, 2)), feed(Team(1, 2)), strict=True):
        for whole, of_team in zip(alone, zip(*parts, strict=True), strict=True):
            assert len(whole) == 64
            assert torch.equal(whole, torch.cat(of_team))


def adapt_two_steps(team: Team) -> resnet.State:
    recipe = AdaptationRecipe(image_size=16, batch_size=64, queue_size=64)
    images, _ = colors(128)
    adaptation = Adaptation(
        images, None, recipe=recipe, may_flip=True, seed=0, device=CPU, team=team
    )
    for _ in range(2):
        adaptation.step(0.5)
    return adaptation.state_dict()


def test_a_team_adapts_one_body_with_one_queue(tmp_path: Path) -> None:
    first, second = run_team(tmp_path, adapt_two_steps)
    weights = [name for name in first if not name.split(".")[-1].startswith(("running", "num_"))]
    assert "queue" in weights
    assert all(torch.equal(first[name], second[name]) for name in weights)
    assert first["queue"].shape == (1, 64, 128)
    lengths = first["queue"].norm(dim=2)
    assert torch.allclose(lengths, torch.ones(1, 64))  # the keys of both processes
    assert math.isfinite(first["student.conv1.weight"].sum())


def test_an_interrupted_training_ends_with_the_same_weights() -> None:
    whole = make_training(ALONE)
    while whole.steps_done < whole.steps:
        whole.step()
    first = make_training(ALONE)
    first.step()
    first.step()
    second = make_training(ALONE)
    second.load_state_dict(first.state_dict())
    while second.steps_done < second.steps:
        second.step()
    expected, resumed = whole.finish(), second.finish()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
