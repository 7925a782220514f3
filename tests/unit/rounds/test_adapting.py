"""Adapt a body: resume it, keep held-out images out of it, and choose it as the start."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.base.arrays import Images
from backend.base.errors import AdaptationError, ModelFolderError, TrainingError
from backend.network import resnet
from backend.network.resnet_layout import HEAD_TENSORS
from backend.rounds import adaptation_run, adapting, body_comparison
from backend.rounds.adapting import adapt_body, askable_images
from backend.rounds.embeddings import start_embeddings
from backend.rounds.loop import Loop
from backend.rounds.start import find_start
from backend.store import adaptation_checkpoint
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED, BodyMeta
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import quiet, seed, train, with_settings


class StandIn:
    """An adaptation whose steps take ten seconds and change nothing; a pass takes ten steps."""

    made: ClassVar[list[StandIn]] = []
    now = 0.0

    def __init__(self, images: Images, *_: Any, **__: Any) -> None:
        self.images, self.steps_done = images, 0
        self.made.append(self)

    @property
    def passes_done(self) -> float:
        return self.steps_done / 10

    def step(self, _: float) -> None:
        self.steps_done += 1
        StandIn.now += 10

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps_done": torch.tensor(self.steps_done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps_done = int(state["steps_done"])

    def finish(self) -> dict[str, Tensor]:
        whole = resnet.build(2, None, seed=9).state_dict()
        return {name: tensor for name, tensor in whole.items() if name not in HEAD_TENSORS}


def clock() -> float:
    return StandIn.now


@pytest.fixture
def adaptable(loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Return a loop with a first version and ADAPT=1, whose adaptation is a stand-in."""
    monkeypatch.setattr(adapting, "Adaptation", StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    seed(loop, project)
    train(loop)
    return with_settings(loop, adapt=1.0)


def adapt(loop: Loop, may_go_on: Callable[[], bool] = lambda: True) -> BodyMeta | None:
    return adapt_body(loop, may_go_on, quiet, clock)


def only(count: int) -> Callable[[], bool]:
    """Return a function that is true that many times."""
    numbers = itertools.count(1)
    return lambda: next(numbers) <= count


def test_the_new_body_becomes_the_start_of_the_next_training_run(adaptable: Loop) -> None:
    meta = adapt(adaptable)
    assert meta is not None
    assert (meta.name, meta.made_from, meta.steps, meta.seconds) == ("a0001", "none", 6, 60)
    assert meta.comparison is not None
    assert (meta.comparison.labels, meta.refused) == (40, None)
    assert find_start(adaptable, quiet).name == "a0001"
    facts = adaptable.store.facts()
    assert facts.start_changed_at == pytest.approx(meta.created_at.timestamp(), abs=60)
    assert (facts.adapted_images, facts.adapt_spent_s, facts.adapt_budget_s) == (250, 60, 60)
    trained = train(adaptable)  # although no label is new
    assert (trained.version, trained.start) == ("r0002", "a0001")
    assert adaptable.registry.read_meta("r0001").start == PRETRAINED


def test_a_version_names_the_weights_that_its_start_was_made_from(adaptable: Loop) -> None:
    adapt(adaptable)
    assert train(replace(adaptable, weights="imagenet")).weights == "none"


def test_with_heads_alone_a_new_start_makes_a_new_full_version(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "Adaptation", StandIn)
    heads = with_settings(loop, train="head", adapt=1.0)
    seed(heads, project)
    assert train(heads).version == "r0001"
    assert adapt(heads) is not None
    made = train(heads)
    assert (made.version, made.start) == ("r0002", "a0001")
    assert made.body_key == Bodies(heads.root).read_meta("a0001").body_key
    again = train(heads, is_forced=True)
    assert (again.version, again.start) == ("r0002h01", "a0001")
    heads.registry.promote("r0001")  # as if the gate had refused r0002
    assert train(heads, is_forced=True).version == "r0001h01"  # and not r0003


def test_an_interrupted_adaptation_resumes_with_the_time_that_is_left(adaptable: Loop) -> None:
    assert adapt(adaptable, only(2)) is None  # interrupted in the third look, 30 seconds in
    facts = adaptable.store.facts()
    assert (facts.adapt_spent_s, facts.adapt_budget_s, facts.adapted_at) == (30, 60, 0)
    began_at = facts.adapt_began_at
    meta = adapt(adaptable)
    assert meta is not None
    assert (meta.steps, meta.seconds) == (6, 60)
    assert adaptable.store.facts().adapt_began_at == began_at
    assert not (adaptable.root / adaptation_checkpoint.FILE).exists()


def test_an_adaptation_whose_time_is_over_is_not_interrupted_at_its_last_step(
    adaptable: Loop,
) -> None:
    assert adapt(adaptable, only(5)) is not None  # the sixth step is the last one
    [run] = StandIn.made
    assert run.steps_done == 6


def test_held_out_images_never_enter(sampled: Loop) -> None:
    image_ids, images = askable_images(sampled)
    held_out = {*sampled.pool.sample.image_ids, *sampled.pool.test.image_ids}
    held_out.update(sampled.pool.validation.image_ids)
    assert held_out
    assert held_out.isdisjoint(image_ids)
    assert len(images) == len(image_ids) == 210


def test_the_network_sees_exactly_the_askable_images(adaptable: Loop) -> None:
    adapt(adaptable)
    [seen] = StandIn.made
    assert seen.images is adaptable.pool.images  # not a copy
    held_out = [*adaptable.pool.validation.images, *adaptable.pool.test.images]
    of_pool = {image.tobytes() for image in seen.images}
    assert of_pool.isdisjoint(image.tobytes() for image in held_out)


def test_images_that_the_team_deleted_are_left_out(attached: Loop) -> None:
    attached.store.record(full_read_at=1.0)
    assert askable_images(attached)[0] == ()  # no task has been listed yet
    gone = replace(attached, is_attached=False)
    assert len(askable_images(gone)[0]) == 210


def test_a_full_disk_does_not_stop_it(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ModelFolderError("no space left on device")

    monkeypatch.setattr(adaptation_run, "save_checkpoint", fail)
    assert adapt(adaptable) is not None
    assert "was not saved: no space left" in caplog.text


def test_a_body_that_was_saved_but_not_recorded_is_recorded_and_not_made_twice(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adapting, "_record", lambda *_: None)  # the process is killed
        adapt(adaptable)
    assert find_start(adaptable, quiet).name == PRETRAINED
    adapt(adaptable)
    assert Bodies(adaptable.root).names() == ["a0001"]
    assert find_start(adaptable, quiet).name == "a0001"
    assert adaptable.store.facts().adapted_images == 250


def test_after_the_clock_was_set_back_a_recorded_body_is_not_taken_for_a_new_one(
    adaptable: Loop,
) -> None:
    adapt(adaptable)
    made_at = Bodies(adaptable.root).read_meta("a0001").created_at.timestamp()
    adaptable.store.record(adapted_at=made_at - 3600, adapted_images=100)  # corrected since
    again = adapt(adaptable)  # because the pool has grown
    assert again is not None
    assert again.name == "a0002"
    assert adaptable.store.facts().adapted_images == 250


def test_a_pool_that_grew_meanwhile_counts_as_large_as_it_was_at_the_beginning(
    adaptable: Loop,
) -> None:
    """Otherwise, the new images would hardly be seen, and never be adapted to."""
    small = adaptable.pool.image_ids[:100]
    pool = adaptable.pool
    begun = replace(adaptable, pool=replace(pool, image_ids=small, images=pool.images_of(small)))
    assert adapt(begun, only(2)) is None
    meta = adapt(adaptable)
    assert meta is not None
    assert (meta.steps, meta.n_images) == (6, 250)
    assert adaptable.store.facts().adapted_images == 100


def test_with_fewer_minutes_than_it_has_run_it_starts_over(adaptable: Loop) -> None:
    """The learning rate of an unfinished schedule is high, so such a body would be worse."""
    assert adapt(adaptable, only(2)) is None  # 30 seconds of 60
    meta = adapt(with_settings(adaptable, adapt=0.4))
    assert meta is not None
    assert (meta.steps, meta.seconds) == (3, 30)  # instead of no further step


def test_a_complete_adaptation_that_was_killed_before_its_comparison_is_not_repeated(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adapting, "_finish", lambda *_: 1 / 0)  # the process is killed
        with pytest.raises(ZeroDivisionError):
            adapt(adaptable)
    adaptable.store.record(adapt_kills=2)
    meta = adapt(with_settings(adaptable, adapt=0.4))
    assert meta is not None
    assert meta.steps == 6


def test_kills_during_the_comparison_are_counted(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving the complete adaptation once more must not hide them, or it would go on forever."""
    found: list[int] = []

    def die(*_: object) -> None:
        found.append(adaptable.store.facts().adapt_kills)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapting, "_finish", die)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            adapt(adaptable)
        adaptable.store.record(adapt_kills=found[-1])  # a killed process records nothing
    assert found == [1, 2, 3]
    with pytest.raises(AdaptationError, match="killed 3 times"):
        adapt(adaptable)


def test_failures_are_over_once_the_work_that_failed_has_gone_on_for_a_minute(
    adaptable: Loop,
) -> None:
    slow = with_settings(adaptable, adapt=3.0)
    assert adapt(slow, only(2)) is None
    slow.store.record_failure("adapt", 1.0, adapt_failures=2, adapt_error="a full disk")
    assert adapt(slow, only(5)) is None  # not saved yet, except by the interruption
    assert slow.store.facts().adapt_failures == 2
    assert adapt(slow, only(6)) is None
    facts = slow.store.facts()
    assert (facts.adapt_failures, facts.adapt_error, facts.failed_at) == (0, "", {})


def test_failures_still_count_while_an_attempt_that_starts_over_may_fail_again(
    adaptable: Loop,
) -> None:
    slow = with_settings(adaptable, adapt=3.0)
    slow.store.record_failure("adapt", 1.0, adapt_failures=2, adapt_error="the loss is NaN")
    slow.store.record(adapt_kills=1)
    assert adapt(slow, only(8)) is None  # after more than a minute, so it was saved
    facts = slow.store.facts()
    assert (facts.adapt_failures, facts.adapt_error, facts.adapt_kills) == (2, "the loss is NaN", 0)
    assert adapt(slow) is not None
    assert slow.store.facts().adapt_failures == 0


def test_work_that_could_not_be_saved_ends_neither_failures_nor_kills(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = with_settings(adaptable, adapt=3.0)
    assert adapt(slow, only(2)) is None
    slow.store.record_failure("adapt", 1.0, adapt_failures=2, adapt_error="a full disk")
    n_kills: list[int] = []

    def fail(*_: object) -> None:
        n_kills.append(slow.store.facts().adapt_kills)
        raise ModelFolderError("no space left on device")

    monkeypatch.setattr(adaptation_run, "save_checkpoint", fail)
    assert adapt(slow, only(12)) is None
    assert n_kills == [1, 1, 1]  # two minutes, and the interruption
    assert slow.store.facts().adapt_failures == 2


def test_too_little_memory_of_a_gpu_is_explained(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(StandIn, "step", run_out)
    with pytest.raises(AdaptationError, match=r"too little memory: .* ADAPT=off"):
        adapt(adaptable)


def test_a_start_that_a_person_chose_stays_also_while_it_is_damaged(adaptable: Loop) -> None:
    adapt(adaptable)
    Bodies(adaptable.root).set_start("a0001", by="person")
    (adaptable.root / "a0001/model.safetensors").unlink()
    adaptable.store.record(adapted_images=100)
    assert adapt(adaptable) is not None
    assert Bodies(adaptable.root).start().name == "a0001"


def test_a_start_that_a_person_chose_stays(adaptable: Loop) -> None:
    Bodies(adaptable.root).set_start(PRETRAINED, by="person")
    meta = adapt(adaptable)
    assert meta is not None
    assert find_start(adaptable, quiet).name == PRETRAINED
    assert not adaptable.store.facts().start_changed_at
    assert adaptable.store.facts().adapted_at


def test_after_three_kills_without_a_checkpoint_it_fails_with_a_reason(adaptable: Loop) -> None:
    adaptable.store.record(adapt_kills=3)
    with pytest.raises(AdaptationError, match="killed 3 times"):
        adapt(adaptable)
    assert adapt(adaptable) is not None  # the next attempt


def test_a_diverged_adaptation_starts_over(
    adaptable: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt(adaptable, only(2))

    def diverge(*_: object) -> None:
        raise TrainingError("the loss is NaN")

    monkeypatch.setattr(StandIn, "step", diverge)
    with pytest.raises(TrainingError):
        adapt(adaptable)
    assert not (adaptable.root / adaptation_checkpoint.FILE).exists()


@pytest.mark.parametrize(
    ("n_better", "n_worse", "is_refused"), [(0, 8, True), (0, 5, False), (20, 8, False)]
)
def test_a_body_on_which_heads_are_significantly_worse_is_refused(
    adaptable: Loop,
    monkeypatch: pytest.MonkeyPatch,
    n_better: int,
    n_worse: int,
    is_refused: bool,
) -> None:
    n_images = len(adaptable.pool.validation.labels)
    before = np.arange(n_images) >= n_better
    after = np.ones(n_images, bool)
    after[-n_worse:] = False
    monkeypatch.setattr(
        body_comparison,
        "_head_is_right",
        lambda _, __, body, ___: after if body.name == "a0001" else before,
    )
    meta = adapt(adaptable)
    assert meta is not None
    assert meta.comparison is not None
    assert meta.comparison.p_value is not None
    assert (meta.refused is not None) is is_refused
    assert find_start(adaptable, quiet).name == (PRETRAINED if is_refused else "a0001")
    assert adaptable.store.facts().adapted_at  # a refused body is not made again


def test_without_validation_labels_the_body_is_taken_unjudged(adaptable: Loop) -> None:
    pool = replace(adaptable.pool, validation=adaptable.pool.validation.select({}))
    meta = adapt(replace(adaptable, pool=pool))
    assert meta is not None
    assert (meta.comparison, meta.refused) == (None, None)
    assert find_start(adaptable, quiet).name == "a0001"


def test_embeddings_of_an_adapted_body_stay_in_the_projects_folder(adaptable: Loop) -> None:
    meta = adapt(adaptable)
    assert meta is not None
    start_embeddings(adaptable, adaptable.pool.image_ids[:3], quiet)
    kept = [n for n in adaptable.own_embeddings.names() if n.startswith(meta.body_key)]
    assert len(kept) == 1
    shared = adaptable.shared_embeddings.names()
    assert not [name for name in shared if name.startswith(meta.body_key)]


def test_a_damaged_start_is_replaced_by_the_pretrained_weights(
    adaptable: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    adapt(adaptable)
    (adaptable.root / "a0001/model.safetensors").write_bytes(b"damaged")
    assert find_start(adaptable, quiet).name == PRETRAINED
    assert "training starts from the pre-trained weights" in caplog.text


def test_real_steps_change_the_body(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    numbers = itertools.count()
    small = with_settings(loop, adapt=1.0)  # the clock shows ten seconds more at each look
    meta = adapt_body(small, lambda: True, quiet, lambda: 20.0 * next(numbers))
    assert meta is not None
    assert meta.steps > 0
    state = Bodies(loop.root).load_state("a0001")
    random = resnet.build(2, None, seed=loop.seed).state_dict()
    assert not np.allclose(state["conv1.weight"], random["conv1.weight"].numpy())
