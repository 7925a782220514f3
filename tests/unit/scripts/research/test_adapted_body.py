"""Adapt one body to a simulation's pool: which images it sees, and how it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.base.arrays import Images
from backend.base.errors import SettingsError
from backend.images.pool import Pool
from backend.store.weights import find_weights
from scripts.research import adapted_body
from scripts.research.adapted_body import adapt_body, check_same_pool, find_body
from scripts.research.simulation import Plan, claim, pool_of

CPU = torch.device("cpu")
PLAN = Plan(
    pool="digits", weights="none", image_size=16, train="head", seed_labels=0, rounds=0, batch=0,
    pool_fraction=0.3, duplicates=1, annotators="", people=5, budgets=(10, 20), adapt=1.0,
)  # fmt: skip


class SlowAdaptation:
    """An adaptation whose steps take ten seconds on the stand-in clock, and whose body is empty."""

    seen: list[Images] = []  # noqa: RUF012
    now = 0.0
    dies_after = 1000  # steps

    def __init__(self, images: Images, *_: object, **__: object) -> None:
        self.seen.append(images)
        self.steps_done = 0
        self.progress: list[float] = []

    @property
    def passes_done(self) -> float:
        return self.steps_done / 2

    def step(self, progress: float) -> None:
        if self.steps_done == type(self).dies_after:
            raise KeyboardInterrupt
        self.progress.append(progress)
        self.steps_done += 1
        type(self).now += 10

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps_done": torch.tensor(self.steps_done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps_done = int(state["steps_done"])

    def finish(self) -> dict[str, Tensor]:
        return {"conv1.weight": torch.full((1,), float(self.steps_done))}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[SlowAdaptation]:
    class Fresh(SlowAdaptation):
        seen: list[Images] = []  # noqa: RUF012

    monkeypatch.setattr(adapted_body, "Adaptation", Fresh)
    monkeypatch.setattr(adapted_body, "_clock", lambda _: Fresh.now)
    return Fresh


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return pool_of(PLAN, tmp_path_factory.mktemp("data"))[0]


def adapt(folder: Path, pool: Pool, minutes: float = 1.0) -> tuple[Path, adapted_body.AdaptedBody]:
    plan = replace(PLAN, adapt=minutes)
    return adapt_body(plan, pool, folder, folder / "data", CPU, lambda *_: None)


def test_it_takes_the_given_minutes_and_is_done_once(
    tmp_path: Path, pool: Pool, slow: type[SlowAdaptation]
) -> None:
    _, body = adapt(tmp_path, pool)
    assert (body.steps, body.seconds, body.passes) == (6, 60, 3)
    assert adapt(tmp_path, pool)[1] == body
    assert len(slow.seen) == 1
    assert "one body for all seeds" in body.describe()


def test_validation_and_test_images_are_never_used(
    tmp_path: Path, pool: Pool, slow: type[SlowAdaptation]
) -> None:
    adapt(tmp_path, pool)
    (seen,) = slow.seen
    assert len(seen) == len(pool.image_ids)
    shown = {image.tobytes() for image in seen}
    for split in (pool.validation, pool.test):
        held_out = {image.tobytes() for image in split.images}
        assert len(held_out) > 100
        assert not held_out & shown


def test_killed_it_goes_on_from_the_last_minute(
    tmp_path: Path, pool: Pool, slow: type[SlowAdaptation]
) -> None:
    slow.dies_after = 8  # after 80 s; the last checkpoint was after 60 s
    with pytest.raises(KeyboardInterrupt):
        adapt(tmp_path, pool, minutes=2)
    slow.dies_after = 1000
    before = slow.now
    _, body = adapt(tmp_path, pool, minutes=2)
    assert slow.now - before == 60
    assert (body.steps, body.seconds) == (12, 120)


def test_the_body_can_be_read_as_weights(tmp_path: Path, pool: Pool) -> None:
    path, body = adapt(tmp_path, pool, minutes=1e-4)  # a single step
    assert body.steps == 1
    state = find_weights(str(path), tmp_path).state
    assert state is not None
    assert np.isfinite(state["conv1.weight"].numpy()).all()


@pytest.mark.usefixtures("slow")
def test_another_simulation_may_use_the_body_only_for_the_same_pool(
    tmp_path: Path, pool: Pool
) -> None:
    with pytest.raises(SettingsError, match="is not the folder of a simulation"):
        check_same_pool(PLAN, tmp_path)
    claim(tmp_path, PLAN)
    with pytest.raises(SettingsError, match="contains no adapted body"):
        find_body(tmp_path)
    adapt(tmp_path, pool)
    check_same_pool(replace(PLAN, annotators="a.csv", budgets=(5,)), tmp_path)
    with pytest.raises(SettingsError, match="adapted with another duplicates"):
        check_same_pool(replace(PLAN, duplicates=3), tmp_path)
