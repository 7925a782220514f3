"""The loop over digits with an oracle in Label Studio's place: the same code that runs the real
one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from backend import registry, rounds
from backend.calibration import expected_calibration_error
from backend.errors import TooFewLabelsError
from backend.labelstudio import NewTask, what_was_answered
from backend.pool import Pool, open_pool, seed_labels, true_labels
from backend.rounds import Loop
from backend.training import Recipe
from tests.oracle import OracleProject

FAST = Recipe(image_size=32, batch_size=16, min_steps=12, epochs=1)


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A fifth of the digits: enough to learn something in a second."""
    whole = open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)
    return replace(
        whole,
        image_ids=whole.image_ids[:250],
        images=whole.images[:250],
        test=replace(whole.test, images=whole.test.images[:60], labels=whole.test.labels[:60]),
    )


@pytest.fixture
def project(pool: Pool) -> OracleProject:
    return OracleProject(pool.classes)


@pytest.fixture
def loop(tmp_path: Path, pool: Pool, project: OracleProject) -> Loop:
    return Loop(
        root=registry.project_root(tmp_path, 1),
        project=project,
        pool=pool,
        weights="none",
        data_dir=tmp_path,
        recipe=FAST,
        strategy="least_confidence",
        batch_size=10,
        rounds=0,
        is_blind=False,
        task_lock_s=1800,
        seed=0,
        device=torch.device("cpu"),
    )


def seed(loop: Loop, project: OracleProject, count: int = 40) -> None:
    project.import_tasks(
        [
            NewTask(image_id, {"image_id": image_id}, prediction=None, label=label)
            for image_id, label in seed_labels(loop.pool, count, 0).items()
        ]
    )


def asked(project: OracleProject, version: str) -> list[str]:
    return [
        task.image_id
        for task in project.by_task.values()
        if task.data.get("asked_version") == version and task.label is None
    ]


def train(loop: Loop, *, is_forced: bool = False) -> registry.Meta:
    meta = rounds.train_round(loop, is_forced=is_forced, progress=quiet)
    assert meta is not None
    return meta


def test_a_round_asks_exactly_what_its_new_version_is_least_sure_of(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    kept = registry.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    image_ids, probs = kept
    seeds = {task.image_id for task in project.by_task.values() if task.label is not None}
    confidence = {i: row.max() for i, row in zip(image_ids, probs, strict=True) if i not in seeds}
    assert asked(project, "r0001") == sorted(confidence, key=lambda i: confidence[i])[:10]
    assert project.model_version() == "r0001"


def test_every_pushed_task_says_how_it_was_asked_and_carries_its_prediction(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    task_id, task = next((i, t) for i, t in project.by_task.items() if t.label is None)
    assert task.data["asked_by"] == "least_confidence"
    assert (task.data["asked_round"], task.data["asked_version"]) == (1, "r0001")
    probs = np.array(task.data["asked_probs"])
    assert probs.sum() == pytest.approx(1, abs=1e-3)
    prediction = project.predictions[task_id]["r0001"]
    assert prediction.label == loop.pool.classes[probs.argmax()]
    assert prediction.score == pytest.approx(probs.max(), abs=1e-4)
    assert task.data["asked_confidence"] == pytest.approx(prediction.score, abs=1e-4)
    assert task.data["image"].startswith("data:image/png;base64,")


def test_blind_leaves_out_what_would_hint_at_the_answer(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(replace(loop, is_blind=True))
    task = next(t for t in project.by_task.values() if t.label is None)
    assert {"asked_confidence", "asked_margin", "asked_entropy"}.isdisjoint(task.data)
    assert len(task.data["asked_probs"]) == 10


def test_the_first_batch_is_asked_at_random_without_a_model(
    loop: Loop, project: OracleProject
) -> None:
    assert rounds.top_up(loop) == 10
    task = next(iter(project.by_task.values()))
    assert (task.data["asked_by"], task.prediction) == ("random", None)
    assert project.model_version() == ""


def test_three_rounds_learn_and_never_ask_an_image_twice(
    loop: Loop, project: OracleProject
) -> None:
    truth = true_labels(loop.pool)
    seed(loop, project)
    first = train(loop)
    for _ in range(3):
        project.answer_open_tasks(truth)
        last = train(loop)
    assert last.version == "r0004"
    assert last.labels == 40 + 3 * 10
    assert last.parent == "r0003"
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))
    assert first.validation.images == last.validation.images


def test_hidden_labels_are_out_of_reach_shuffling_them_changes_nothing(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    weights = {}
    for name in ("as they are", "shuffled"):
        labels_file = loop.pool.folder / "train_labels.npy"
        kept = labels_file.read_bytes()
        if name == "shuffled":
            np.save(labels_file, np.random.default_rng(1).permutation(np.load(labels_file)))
        own = replace(
            loop, root=loop.root.with_name(name), project=OracleProject(loop.pool.classes)
        )
        own.project.import_tasks([t for t in project.by_task.values() if t.label is not None])
        try:
            meta = train(own)
        finally:
            labels_file.write_bytes(kept)
        weights[name] = (meta.sha256, [t.image_id for t in own.project.tasks()])
    assert weights["as they are"] == weights["shuffled"]


def test_the_same_labels_are_not_trained_twice_unless_somebody_asks(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    assert rounds.train_round(loop, is_forced=False, progress=quiet) is None
    assert train(loop, is_forced=True).version == "r0002"


def test_an_edited_and_a_deleted_answer_are_trained_again(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    first = next(iter(project.answers))
    now = project.answers[first][0].label
    project.change(first, next(c for c in loop.pool.classes if c != now))
    assert train(loop).version == "r0002"
    del project.answers[first]
    assert train(loop).labels == 39


def test_what_cannot_be_trained_on_is_left_out_and_counted(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    rounds.top_up(loop)
    skipped, empty, unknown, foreign = [t.task_id for t in project.tasks() if t.is_open][:4]
    project.answer(skipped, None, was_skipped=True)
    project.answer(empty, None)
    project.answer(unknown, "unicorn")
    project.by_task[foreign] = replace(project.by_task[foreign], image_id="somebody-elses")
    project.answer(foreign, loop.pool.classes[0])
    meta = train(loop)
    assert meta.labels == 40
    assert meta.left_out == {"skipped": 1, "empty": 1, "unknown class": 1, "not of the pool": 1}


def test_one_class_alone_is_no_training_and_says_so(loop: Loop, project: OracleProject) -> None:
    truth = true_labels(loop.pool)
    ones = [i for i, label in truth.items() if label == loop.pool.classes[1]][:5]
    project.import_tasks([NewTask(i, {}, label=loop.pool.classes[1]) for i in ones])
    with pytest.raises(TooFewLabelsError, match="5 labels of 1 class"):
        rounds.train_round(loop, is_forced=True, progress=quiet)
    assert registry.versions(loop.root) == ([], {})
    # They were read: the clock has nothing to make good.
    answers = what_was_answered(project.annotations())
    assert registry.count_changes(registry.read_seen(loop.root), answers) == 0


def test_open_tasks_get_the_new_versions_order_and_keep_the_last_ones_predictions(
    loop: Loop, project: OracleProject
) -> None:
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    open_tasks = [t.task_id for t in project.tasks() if t.is_open]
    for task_id in open_tasks[:3]:
        project.answer(task_id, truth[project.by_task[task_id].image_id])
    train(loop)
    assert project.model_version() == "r0002"
    for task_id in open_tasks[3:]:
        assert set(project.predictions[task_id]) == {"r0001", "r0002"}


def test_predictions_two_versions_back_go_once_no_open_tab_can_name_them(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for number in range(3):
        train(loop, is_forced=True)
        # Each was promoted an hour after the one before it, the last one now.
        path = loop.root / "current"
        promotions = registry.promotions(loop.root)
        at = datetime.now(UTC) - timedelta(hours=2 - number)
        aged = [promotions[0].model_copy(update={"promoted_at": at}), *promotions[1:]]
        path.write_text(registry._Current(promotions=aged).model_dump_json())
    assert project.model_versions() == ["r0002", "r0003"]


def test_predictions_of_fast_rounds_stay_for_the_task_lock_time(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for _ in range(3):
        train(loop, is_forced=True)
    assert project.model_versions() == ["r0001", "r0002", "r0003"]


def test_rolling_back_gives_open_tasks_the_older_versions_order(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    train(loop, is_forced=True)
    registry.promote(loop.root, "r0001")
    rounds.refresh_predictions(loop)
    assert project.model_version() == "r0001"


def test_two_hundred_labels_flipped_by_one_person_are_refused_and_promoted_by_hand(
    loop: Loop, project: OracleProject
) -> None:
    able = replace(loop, recipe=replace(FAST, min_steps=80), batch_size=200)
    seed(able, project)
    before = train(able)
    truth, classes = true_labels(loop.pool), loop.pool.classes
    flipped = {i: classes[(classes.index(label) + 1) % 10] for i, label in truth.items()}
    assert project.answer_open_tasks(flipped) == 200
    poisoned = train(able)
    assert poisoned.labels == 240
    assert poisoned.gate is not None
    assert poisoned.gate.against == before.version
    assert poisoned.gate.p_value < 0.001
    lost = before.validation.accuracy - poisoned.validation.accuracy
    assert poisoned.gate.fell - poisoned.gate.rose == round(lost * before.validation.images)
    assert poisoned.refused is not None
    assert f"significantly worse than {before.version}" in poisoned.refused
    current = registry.current(loop.root)
    assert current is not None
    assert (current.version, project.model_version()) == (before.version, before.version)
    assert registry.promote(loop.root, poisoned.version).version == poisoned.version


def test_a_version_made_before_its_answers_were_kept_is_compared_all_the_same(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    first = train(loop)
    (loop.root / first.version / "validation.safetensors").unlink()
    second = train(loop, is_forced=True)
    assert second.gate is not None
    # The same labels and seed make the same weights: no image falls, none rises.
    assert (second.gate.p_value, second.gate.fell, second.gate.rose) == (1.0, 0, 0)


def test_a_validation_split_too_small_for_the_gate_promotes_and_says_so(
    loop: Loop, project: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = loop.pool.validation
    few = replace(held_out, images=held_out.images[:30], labels=held_out.labels[:30])
    small = replace(
        loop,
        pool=replace(loop.pool, validation=few),
        recipe=replace(FAST, min_steps=80),
        batch_size=200,
    )
    seed(small, project)
    train(small)
    project.answer_open_tasks(dict.fromkeys(loop.pool.image_ids, loop.pool.classes[0]))
    meta = train(small)
    assert meta.gate is not None
    assert meta.gate.note.startswith("30 validation images are too few")
    assert meta.gate.note in caplog.text
    assert meta.refused is None
    assert project.model_version() == meta.version


def test_what_is_asked_and_shown_is_calibrated_and_its_error_is_kept(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    assert meta.calibration is not None
    assert meta.calibration.temperature == meta.temperature != 1.0
    kept = registry.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    (loop.root / meta.version / "pool.safetensors").unlink()
    np.testing.assert_allclose(rounds.pool_probs(loop, meta.version, quiet), kept[1], atol=1e-6)
    labels = loop.pool.validation.labels
    held_out = registry.load_validation_probs(loop.root, meta.version, labels)
    assert held_out is not None
    error = expected_calibration_error(held_out, labels)
    assert error == pytest.approx(meta.calibration.error_after)


def test_after_the_last_round_no_more_are_asked(loop: Loop, project: OracleProject) -> None:
    truth = true_labels(loop.pool)
    two_rounds = replace(loop, rounds=2)
    seed(loop, project)
    train(two_rounds)
    for expected_open in (10, 0):
        project.answer_open_tasks(truth)
        assert rounds.top_up(replace(two_rounds, rounds=1)) == 0
        meta = train(two_rounds)
        assert project.counts().open == expected_open
    assert (meta.version, meta.labels) == ("r0003", 60)  # the final training, on all labels
    assert rounds.top_up(two_rounds) == 0


def test_an_exhausted_pool_asks_what_is_left_and_then_nothing(
    loop: Loop, project: OracleProject
) -> None:
    small = replace(
        loop,
        pool=replace(loop.pool, image_ids=loop.pool.image_ids[:15], images=loop.pool.images[:15]),
    )
    assert [rounds.top_up(small)] == [10]
    project.answer_open_tasks(true_labels(loop.pool))
    assert rounds.top_up(small) == 5
    project.answer_open_tasks(true_labels(loop.pool))
    assert rounds.top_up(small) == 0


def test_a_task_pushed_by_a_dying_push_is_not_asked_twice_for_long(
    loop: Loop, project: OracleProject
) -> None:
    rounds.top_up(loop)
    twin = next(iter(project.by_task.values()))
    project.import_tasks([twin])
    rounds.top_up(replace(loop, batch_size=12))
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))
