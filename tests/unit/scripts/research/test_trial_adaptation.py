"""The methods that trial_adaptation compares, their views, and its table."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from backend.network import resnet
from scripts.research.adaptation_methods import EMPSSL, METHODS, Crops
from scripts.research.adaptation_probe import Result, summarize
from scripts.research.trial_adaptation import adapt, draw_batches, draw_views


def make_body() -> nn.Module:
    body = resnet.build(1, None, seed=0)
    body.fc = nn.Identity()
    return body


def test_every_image_is_drawn_once_before_any_is_drawn_again() -> None:
    batches = list(islice(draw_batches(6, 4, seed=0), 3))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    drawn = np.concatenate(batches)
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6))


def test_views_of_an_image_are_a_batch_apart() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    views = draw_views(
        images, Crops(3, 4, (0.25, 1.0)), may_flip=True, rng=torch.Generator().manual_seed(0)
    )
    assert views.shape == (6, 3, 4, 4)
    is_bright = views.mean(dim=(1, 2, 3)) > 0
    assert is_bright.tolist() == [False, True] * 3


@pytest.mark.parametrize("name", METHODS)
def test_each_method_changes_its_body_and_only_then_its_teacher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS[name], "batch_size", 4)
    times = iter([0.0, 0.5, 2.0])  # began, one step, over
    monkeypatch.setattr("time.process_time", lambda: next(times))
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    method = METHODS[name](make_body)
    start = make_body().state_dict()["layer4.1.conv2.weight"]
    assert adapt(method, images, seconds=1.0, lr=0.1, may_flip=True, seed=0) == 1
    moved = {
        of: float((body.state_dict()["layer4.1.conv2.weight"] - start).norm())
        for of, body in method.bodies().items()
    }
    assert moved["student"] > 0
    assert moved.get("teacher", 0.0) < 0.02 * moved["student"]


def test_emp_ssl_prefers_projections_that_differ_between_images() -> None:
    method = EMPSSL(make_body)
    method.crops = (Crops(2, 32, (0.25, 0.25)),)
    alike, different = torch.ones(8, 4), torch.eye(4).repeat(2, 1)
    method.student = nn.Identity()
    assert method.loss([different]) < method.loss([alike])


def test_the_table_has_the_mean_and_the_sd_over_draws_of_each_body() -> None:
    accuracy = {"student": {"100": [50.0, 52.0]}, "teacher": {"100": [49.0, 49.0]}}
    table = summarize([Result("moco", 0.06, 10, 480, 2.56, "test", accuracy)])
    assert table.splitlines()[2:] == [
        "| moco, student | 0.06 | 10 | 480 | 2.6 | 51.0 ± 1.4 |",
        "| moco, teacher | 0.06 | 10 | 480 | 2.6 | 49.0 ± 0.0 |",
    ]
