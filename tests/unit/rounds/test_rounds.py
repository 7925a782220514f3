"""Run the real loop over digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from backend.base.arrays import Probs
from backend.base.errors import LabelStudioError, NoModelError, TooFewLabelsError, TrainingError
from backend.base.labeling import NewTask, Prediction, TaskReading
from backend.base.settings import Settings
from backend.base.strategy_names import STRATEGIES, StrategyName
from backend.images.pool import Pool, open_pool, seed_labels, true_labels
from backend.measures.calibration import expected_calibration_error
from backend.measures.evaluation import Evaluation
from backend.measures.gate import Gate
from backend.network import resnet
from backend.network.head import Head, fit_head
from backend.network.training import Recipe
from backend.rounds import (
    batches,
    description,
    observe,
    ordering,
    promotion,
    rounds,
    scoring,
    training,
)
from backend.rounds.loop import Loop
from backend.store import model_outputs, pruning
from backend.store.files import lock
from backend.store.project_record import project_root
from backend.store.project_rows import OPEN_IMAGES_KEPT, OpenImage
from backend.store.registry import Promotions
from backend.store.version_meta import Meta
from scripts.research.oracle import OracleProject
from tests.unit.store.test_registry import meta
from tests.unit.store.test_registry import save as save_version

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
        settings=Settings.model_construct(
            data_dir=tmp_path, overlap="1", batch_size=10, keep_versions=0
        ),
        root=project_root(tmp_path, 1),
        project=project,
        pool=pool,
        weights="none",
        recipe=FAST,
        seed=0,
        device=torch.device("cpu"),
    )


def with_settings(loop: Loop, **changes: object) -> Loop:
    return replace(loop, settings=loop.settings.model_copy(update=changes))


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


def train(loop: Loop, *, is_forced: bool = False) -> Meta:
    meta = rounds.train_round(loop, is_forced=is_forced, progress=quiet)
    assert meta is not None
    return meta


def test_a_round_asks_the_images_its_new_version_is_least_sure_of(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    image_ids, probs = kept
    seeds = {task.image_id for task in project.by_task.values() if task.label is not None}
    confidence = {i: row.max() for i, row in zip(image_ids, probs, strict=True) if i not in seeds}
    assert asked(project, "r0001") == sorted(confidence, key=lambda i: confidence[i])[:10]
    assert project.model_version() == "r0001"


def test_every_pushed_task_holds_how_it_was_asked_and_its_prediction(
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


def test_the_hint_is_the_asking_versions_prediction_in_the_label_configs_spelling(
    loop: Loop,
) -> None:
    pool = replace(loop.pool, classes=tuple("abcdefghij"))
    project = OracleProject(tuple("JABCDEFGHI"))
    probs = np.array([[0.05, 0.41, 0.02, 0.33, 0.02, 0.1, 0.02, 0.02, 0.02, 0.01]], np.float32)
    batch = batches.Batch(pool.image_ids[:1], probs.max(1), "margin", meta(3), probs)
    batches.push(replace(loop, pool=pool, project=project), batch)
    [task] = project.by_task.values()
    assert task.data["hint"] == "r0003 guessed when it asked: B 41 %, D 33 %, F 10 %"


def test_blind_leaves_out_everything_that_reveals_the_prediction(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(with_settings(loop, blind=True))
    task = next(t for t in project.by_task.values() if t.label is None)
    readable = {"asked_confidence", "asked_margin", "asked_entropy", "hint"}
    assert readable.isdisjoint(task.data)
    assert len(task.data["asked_probs"]) == 10


def test_the_first_batch_is_asked_at_random_without_a_model(
    loop: Loop, project: OracleProject
) -> None:
    assert batches.top_up(loop) == 10
    task = next(iter(project.by_task.values()))
    assert (task.data["asked_by"], task.prediction) == ("random", None)
    assert task.data["hint"] == "asked before there was a model: no guess"
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


def test_shuffling_hidden_labels_changes_nothing(loop: Loop, project: OracleProject) -> None:
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


def test_the_same_labels_are_not_trained_twice_unless_forced(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    assert rounds.train_round(loop, is_forced=False, progress=quiet) is None
    assert train(loop, is_forced=True).version == "r0002"


def test_an_edited_or_deleted_annotation_is_trained_again(
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


def test_unusable_annotations_are_left_out_and_counted(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    batches.top_up(loop)
    skipped, empty, unknown, foreign = [t.task_id for t in project.tasks() if t.is_open][:4]
    project.answer(skipped, None, was_skipped=True)
    project.answer(empty, None)
    project.answer(unknown, "unicorn")
    project.by_task[foreign] = replace(project.by_task[foreign], image_id="foreign")
    project.answer(foreign, loop.pool.classes[0])
    meta = train(loop)
    assert meta.labels == 40
    assert meta.left_out == {"skipped": 1, "empty": 1, "unknown class": 1, "not of the pool": 1}


def test_a_single_class_is_refused_with_a_message(loop: Loop, project: OracleProject) -> None:
    truth = true_labels(loop.pool)
    ones = [i for i, label in truth.items() if label == loop.pool.classes[1]][:5]
    project.import_tasks([NewTask(i, {}, label=loop.pool.classes[1]) for i in ones])
    with pytest.raises(TooFewLabelsError, match="5 labels of 1 class"):
        rounds.train_round(loop, is_forced=True, progress=quiet)
    assert loop.registry.versions() == ([], {})
    # The annotations were read: the clock finds none that it missed.
    assert loop.store.counts().annotations == 5
    assert loop.store.new_annotations() == (0, None)


def test_open_tasks_get_the_new_versions_order_and_keep_the_previous_predictions(
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


def test_predictions_two_versions_back_are_deleted_after_the_task_lock_time(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for number in range(3):
        train(loop, is_forced=True)
        # Each was promoted an hour after the one before it, the last one now.
        path = loop.root / "current"
        promotions = loop.registry.promotions()
        at = datetime.now(UTC) - timedelta(hours=2 - number)
        aged = [promotions[0].model_copy(update={"promoted_at": at}), *promotions[1:]]
        path.write_text(Promotions(promotions=aged).model_dump_json())
    assert project.model_versions() == ["r0002", "r0003"]


def test_predictions_of_fast_rounds_are_kept_for_the_task_lock_time(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for _ in range(3):
        train(loop, is_forced=True)
    assert project.model_versions() == ["r0001", "r0002", "r0003"]


def test_the_description_names_the_version_in_service_and_the_button() -> None:
    assert description.describe_project(None) == (
        "Tightloop, round 0: no model yet. Press Label All Tasks."
    )
    evaluation = Evaluation(accuracy=0.712, log_loss=0.9, images=2000)
    assert description.describe_project(meta(7, labels=640, validation=evaluation)) == (
        "Tightloop, round 7: r0007 in service, 71.2% right on 2,000 validation images, trained on "
        "640 labels. Press Label All Tasks."
    )


def test_rolling_back_restores_the_older_versions_order_and_updates_the_description(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    train(loop, is_forced=True)
    loop.registry.promote("r0001")
    assert project.description.startswith("Tightloop, round 2: r0002 in service")
    ordering.refresh_predictions(loop)
    assert project.model_version() == "r0001"
    assert project.description.startswith("Tightloop, round 1: r0001 in service")


def test_two_hundred_labels_flipped_by_one_person_are_refused_and_promoted_by_hand(
    loop: Loop, project: OracleProject
) -> None:
    able = with_settings(replace(loop, recipe=replace(FAST, min_steps=80)), batch_size=200)
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
    n_lost = poisoned.gate.regressions - poisoned.gate.improvements
    assert n_lost == round(lost * before.validation.images)
    assert poisoned.refused is not None
    assert f"significantly worse than {before.version}" in poisoned.refused
    current = loop.registry.current()
    assert current is not None
    assert (current.version, project.model_version()) == (before.version, before.version)
    assert loop.registry.promote(poisoned.version).version == poisoned.version


def test_a_version_without_kept_validation_probabilities_is_still_compared(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    first = train(loop)
    (loop.root / first.version / "validation.safetensors").unlink()
    second = train(loop, is_forced=True)
    assert second.gate is not None
    # The same labels and seed make the same weights: nothing regresses, nothing improves.
    assert second.gate == Gate(first.version, 1.0, 0, 0)


def test_a_validation_split_too_small_for_the_gate_promotes_and_says_so(
    loop: Loop, project: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = loop.pool.validation
    few = replace(held_out, images=held_out.images[:30], labels=held_out.labels[:30])
    small = replace(
        loop,
        pool=replace(loop.pool, validation=few),
        recipe=replace(FAST, min_steps=80),
    )
    small = with_settings(small, batch_size=200)
    seed(small, project)
    train(small)
    project.answer_open_tasks(dict.fromkeys(loop.pool.image_ids, loop.pool.classes[0]))
    meta = train(small)
    assert meta.gate is not None
    assert meta.gate.note.startswith("30 validation images are too few")
    assert meta.gate.note in caplog.text
    assert meta.refused is None
    assert project.model_version() == meta.version


def test_probabilities_are_calibrated_and_the_calibration_error_is_recorded(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    assert meta.calibration is not None
    assert meta.calibration.temperature == meta.temperature != 1.0
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    (loop.root / meta.version / "pool.safetensors").unlink()
    np.testing.assert_allclose(scoring.pool_probs(loop, meta, quiet), kept[1], atol=1e-6)
    labels = loop.pool.validation.labels
    held_out = model_outputs.load_validation_probs(loop.root, meta.version, labels)
    assert held_out is not None
    error = expected_calibration_error(held_out, labels)
    assert error == pytest.approx(meta.calibration.error_after)


def test_after_the_last_round_no_more_images_are_asked(loop: Loop, project: OracleProject) -> None:
    truth = true_labels(loop.pool)
    two_rounds = with_settings(loop, rounds=2)
    seed(loop, project)
    train(two_rounds)
    for expected_open in (10, 0):
        project.answer_open_tasks(truth)
        assert batches.top_up(with_settings(two_rounds, rounds=1)) == 0
        meta = train(two_rounds)
        assert project.counts().open == expected_open
    assert (meta.version, meta.labels) == ("r0003", 60)  # the final training, on all labels
    assert batches.top_up(two_rounds) == 0


def test_an_almost_exhausted_pool_asks_the_remaining_images_and_then_none(
    loop: Loop, project: OracleProject
) -> None:
    small = replace(
        loop,
        pool=replace(loop.pool, image_ids=loop.pool.image_ids[:15], images=loop.pool.images[:15]),
    )
    assert [batches.top_up(small)] == [10]
    project.answer_open_tasks(true_labels(loop.pool))
    assert batches.top_up(small) == 5
    project.answer_open_tasks(true_labels(loop.pool))
    assert batches.top_up(small) == 0


def test_a_task_pushed_twice_by_a_killed_push_is_deduplicated(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(loop)
    twin = next(iter(project.by_task.values()))
    project.import_tasks([twin])
    batches.top_up(with_settings(loop, batch_size=12))
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))


# Heads


def ask_and_annotate(loop: Loop, project: OracleProject, count: int = 10) -> None:
    """Ask and annotate one more batch."""
    batches.top_up(with_settings(loop, batch_size=project.counts().open + count))
    project.answer_open_tasks(true_labels(loop.pool))


def read_and_refit(loop: Loop) -> Meta | None:
    """Read the annotations, then fit a head, as the ranker does."""
    observe.read_changes(loop.project, loop.store)
    return rounds.refit_head(loop)


def refit(loop: Loop) -> Meta:
    meta = read_and_refit(loop)
    assert meta is not None
    return meta


def test_a_head_is_a_version_of_its_body_with_its_own_metrics_and_no_round(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    body = train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    assert (head.version, head.body, head.round, head.parent) == ("r0001h01", "r0001", 1, "r0001")
    assert head.labels == body.labels + project.counts().annotations - 40
    assert head.gate is not None
    assert head.gate.against == "r0001"
    assert head.calibration is not None
    assert head.sha256 != body.sha256
    assert loop.registry.last_round() == 1
    whole, own = (loop.registry.load_state(v) for v in ("r0001", "r0001h01"))
    changed = {name for name in whole if not np.array_equal(whole[name], own[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert (loop.root / "r0001h01/model.safetensors").stat().st_size < 30_000


def test_a_head_predicts_the_pool_as_its_whole_network_would(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    if head.refused:
        loop.registry.promote(head.version)
    from_embeddings = scoring.pool_probs(loop, head, quiet)
    (loop.root / head.version / "pool.safetensors").unlink(missing_ok=True)
    np.testing.assert_allclose(scoring.pool_probs(loop, head, quiet), from_embeddings, atol=0.02)


def test_a_head_orders_the_open_tasks_at_once(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    for task in project.open_tasks()[:5]:
        project.answer(task.task_id, true_labels(loop.pool)[task.image_id])
    head = refit(loop)
    assert head.refused is None
    assert project.model_version() == "r0001h01"
    probs = scoring.pool_probs(loop, head, quiet)
    for task in project.open_tasks():
        own = probs[loop.pool.positions([task.image_id])[0]].max()
        shown = project.predictions[task.task_id]["r0001h01"].score
        assert shown == pytest.approx(own, abs=1e-6)


def test_no_head_is_fitted_without_a_version_or_without_new_labels(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    assert read_and_refit(loop) is None
    train(loop)
    assert read_and_refit(loop) is None
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0001h01"
    assert read_and_refit(loop) is None


def test_a_head_reads_only_changed_tasks_from_label_studio(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    moments: list[datetime | None] = []
    read_all = project.read_tasks

    def read_changed(changed_after: datetime | None = None) -> Iterator[TaskReading]:
        moments.append(changed_after)
        assert changed_after is not None
        for found in read_all():
            updated = [datetime.fromisoformat(row.updated_at) for row in found.annotations]
            if any(moment > changed_after for moment in updated):
                yield found

    def read_none() -> None:
        pytest.fail("all annotations are asked for")

    monkeypatch.setattr(project, "read_tasks", read_changed)
    monkeypatch.setattr(project, "annotations", read_none)
    monkeypatch.setattr(observe, "CLOCK_SKEW", timedelta(0))
    head = refit(loop)
    assert head.labels == project.counts().annotations
    assert len(moments) == 1


def test_the_next_full_version_supersedes_the_heads_and_is_compared_with_the_last_one(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    assert head.refused is None
    ask_and_annotate(loop, project)
    full = train(loop)
    assert (full.version, full.parent) == ("r0002", "r0001h01")
    assert full.gate is not None
    assert full.gate.against == "r0001h01"
    loop.registry.promote("r0002")
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0002h01"


def test_a_training_learns_labels_that_only_a_head_has_learned(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    assert train(loop).labels_fingerprint == head.labels_fingerprint


def test_a_head_is_discarded_if_another_body_was_promoted_during_its_fit(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    train(loop)
    second = train(loop, is_forced=True)
    loop.registry.promote("r0001")
    ask_and_annotate(loop, project)

    def slow_fit(*arguments: Any) -> Head:
        loop.registry.promote(second.version)
        return fit_head(*arguments)

    monkeypatch.setattr(training, "fit_head", slow_fit)
    assert read_and_refit(loop) is None
    current = loop.registry.current()
    assert current is not None
    assert current.version == second.version
    assert not (loop.root / "r0001h01").exists()


def test_a_head_from_poisoned_annotations_is_refused_and_the_order_stays(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project, 100)
    sound = replace(loop, recipe=replace(FAST, min_steps=80))
    train(sound)
    batches.top_up(with_settings(sound, batch_size=120))
    project.answer_open_tasks(dict.fromkeys(loop.pool.image_ids, loop.pool.classes[0]))
    head = refit(sound)
    assert head.refused is not None
    assert "significantly worse than r0001" in head.refused
    assert project.model_version() == "r0001"


def test_the_gate_stops_repeated_small_regressions(loop: Loop) -> None:
    labels = loop.pool.validation.labels

    def wrong_on(count: int) -> Probs:
        predicted = labels.copy()
        predicted[:count] = (predicted[:count] + 1) % 10
        return np.eye(10, dtype=np.float32)[predicted]

    for version, n_wrong in (("r0001", 0), ("r0001h01", 5)):
        save_version(loop.root, meta(version=version, classes=loop.pool.classes))
        model_outputs.save_validation_probs(loop.root, version, labels, wrong_on(n_wrong))
        loop.registry.promote(version)
    current = loop.registry.current()
    # Five regressions are chance (p = 0.031), ten are not (p = 0.001).
    verdict = promotion._judge(loop, "r0001h02", current, wrong_on(10))
    assert verdict.refused is not None
    assert verdict.refused.startswith("significantly worse than r0001 on validation")
    assert verdict.gate is not None
    assert (verdict.gate.against, verdict.gate.regressions) == ("r0001", 10)
    assert promotion._judge(loop, "r0002", current, wrong_on(10)).refused is None


def test_a_version_without_kept_embeddings_embeds_the_pool_once_for_its_heads(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    meta_file = loop.root / "r0001/meta.json"
    old = loop.registry.read_meta("r0001").model_copy(update={"body_key": ""})
    meta_file.write_text(old.model_dump_json())
    for path in (loop.root / "embeddings").glob("*"):
        path.unlink()
    ask_and_annotate(loop, project)
    first = refit(loop)
    assert first.body_key
    [kept] = (loop.root / "embeddings").glob("*")
    made_at = kept.stat().st_mtime_ns
    ask_and_annotate(loop, project)
    refit(loop)
    assert kept.stat().st_mtime_ns == made_at


def test_a_damaged_head_in_service_is_replaced_by_one_fitted_from_scratch(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    assert refit(loop).refused is None
    (loop.root / "r0001h01/model.safetensors").write_bytes(b"damaged")
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0001h02"


def test_long_superseded_heads_and_embeddings_of_old_bodies_are_deleted(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    truth = true_labels(loop.pool)
    for _ in range(pruning.HEADS_KEPT + 4):
        batches.top_up(with_settings(loop, batch_size=1))
        project.answer(project.open_tasks()[0].task_id, truth[project.open_tasks()[0].image_id])
        refit(loop)
    names = {meta.version for meta in loop.registry.versions()[0]}
    assert "r0001" in names
    assert f"r0001h{pruning.HEADS_KEPT + 4:02d}" in names
    assert pruning.HEADS_KEPT <= len(names - {"r0001"}) <= pruning.HEADS_KEPT + 2
    for _ in range(2):
        train(loop, is_forced=True)
    assert len(list((loop.root / "embeddings").glob("*"))) <= 2


class LeavesOnce(OracleProject):
    """Fail the first request for the model versions."""

    asked = 0

    def model_versions(self) -> list[str]:
        self.asked += 1
        if self.asked == 1:
            raise LabelStudioError("Label Studio cannot be reached")
        return super().model_versions()


def test_old_weights_are_deleted_after_a_training_or_later_if_label_studio_is_unreachable(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    project = LeavesOnce(loop.pool.classes)
    own = with_settings(replace(loop, project=project), keep_versions=1)
    for number in (1, 2):
        save_version(loop.root, meta(number, refused="worse"))
    pruning.write_announcement(loop.root, datetime.now(UTC) - timedelta(days=2))
    seed(own, project)
    assert train(own).version == "r0003"
    assert (loop.root / "r0001/model.safetensors").exists()
    assert "postponed pruning old versions" in caplog.text
    assert train(own, is_forced=True).version == "r0004"
    sound, broken = loop.registry.versions()
    assert [found.version for found in sound if found.pruned_at] == ["r0001", "r0002"]
    assert broken == {}


def test_an_existing_folder_gets_an_announcement_and_keeps_all_versions_for_a_day(
    loop: Loop, project: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    own = with_settings(loop, keep_versions=1)
    for number in (1, 2):
        save_version(loop.root, meta(number, refused="worse"))
    seed(own, project)
    train(own)
    assert "the weights of 2 of 3 full versions will be deleted after" in caplog.text
    assert pruning.read_announcement(loop.root) is not None
    assert not any(found.pruned_at for found in loop.registry.versions()[0])


def test_lost_embeddings_are_computed_again(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    kept = {path: path.read_bytes() for path in (loop.root / "embeddings").glob("*")}
    assert kept
    for path in kept:
        path.unlink()
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0001h01"
    assert {p: p.read_bytes() for p in (loop.root / "embeddings").glob("*")} == kept


def test_with_train_head_the_body_is_never_trained(loop: Loop, project: OracleProject) -> None:
    only_heads = with_settings(loop, train="head")
    seed(only_heads, project)
    first = train(only_heads)
    project.answer_open_tasks(true_labels(loop.pool))
    second = train(only_heads)
    assert (first.version, second.version) == ("r0001", "r0001h01")
    assert second.labels == 50
    assert rounds.train_round(only_heads, is_forced=False, progress=quiet) is None
    assert first.body_key == second.body_key
    whole, own = (loop.registry.load_state(m.version) for m in (first, second))
    assert np.array_equal(whole["layer4.1.conv2.weight"], own["layer4.1.conv2.weight"])


# Strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_the_loop_and_the_queue_shows_its_order(
    loop: Loop, project: OracleProject, strategy: StrategyName
) -> None:
    own = with_settings(loop, strategy=strategy, train="head")
    seed(own, project, 210)  # beyond the early phase of auto
    meta = train(own)
    by_score = sorted(project.open_tasks(), key=lambda t: shown(project, t.task_id, meta).score)
    expected = "uncertain_clusters" if strategy == "auto" else strategy
    assert {project.by_task[t.task_id].data["asked_by"] for t in by_score} == {expected}
    scores = [shown(project, task.task_id, meta).score for task in by_score]
    assert len(scores) == 10
    assert 0 <= scores[0] <= scores[-1] <= 1
    assert [t.image_id for t in by_score] == asked(project, meta.version)
    project.answer_open_tasks(true_labels(loop.pool))
    train(own)
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neither_the_test_split_nor_hidden_labels_influence_a_choice(
    loop: Loop, tmp_path: Path, strategy: StrategyName
) -> None:
    truth = true_labels(loop.pool)
    labels_file = loop.pool.folder / "train_labels.npy"
    kept = labels_file.read_bytes()
    asked_images = []
    for is_changed in (False, True):
        test = loop.pool.test
        if is_changed:
            test = replace(test, images=255 - test.images, labels=test.labels[::-1].copy())
            np.save(labels_file, np.random.default_rng(1).permutation(np.load(labels_file)))
        project = OracleProject(loop.pool.classes)
        own = replace(
            loop,
            root=tmp_path / str(is_changed) / "p1",
            project=project,
            pool=replace(loop.pool, test=test),
        )
        data_dir = tmp_path / str(is_changed)
        own = with_settings(own, data_dir=data_dir, train="head", strategy=strategy)
        try:
            batches.top_up(with_settings(own, batch_size=205))
            project.answer_open_tasks(truth)
            train(own)
        finally:
            labels_file.write_bytes(kept)
        asked_images.append([task.image_id for task in project.by_task.values()])
    assert len(asked_images[0]) == 215
    assert asked_images[0] == asked_images[1]


def shown(project: OracleProject, task_id: int, meta: Meta) -> Prediction:
    return project.predictions[task_id][meta.version]


def test_with_pretrained_weights_and_no_labels_typical_images_come_first(
    loop: Loop, project: OracleProject, tmp_path: Path
) -> None:
    weights = tmp_path / "pretrained.pth"
    torch.save(resnet.build(5, None, seed=3).state_dict(), weights)
    own = with_settings(replace(loop, weights=str(weights)), strategy="auto")
    assert batches.top_up(own) == 10
    assert {task.data["asked_by"] for task in project.by_task.values()} == {"typiclust"}
    assert list((tmp_path / "embeddings").glob("*"))


def test_without_pretrained_weights_the_first_batch_is_random(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(with_settings(loop, strategy="auto"))
    assert {task.data["asked_by"] for task in project.by_task.values()} == {"random"}


def test_probabilities_with_nan_are_named_with_their_version(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    probs = scoring.pool_probs(loop, meta, quiet).copy()
    probs[3, 2] = np.nan
    model_outputs.save_pool_probs(loop.root, meta.version, loop.pool.image_ids, probs)
    with pytest.raises(NoModelError, match="r0001 hold NaN"):
        batches.choose_batch(loop, 5, "margin")


def test_a_candidate_with_nan_probabilities_is_named_and_not_kept(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    nothing = Head(np.full((10, 512), np.nan, np.float32), np.zeros(10, np.float32))
    monkeypatch.setattr(training, "fit_head", lambda *_: nothing)
    with pytest.raises(TrainingError, match="r0001h01 hold NaN"):
        read_and_refit(loop)
    assert loop.registry.last_round() == 1
    assert not (loop.root / "r0001h01").exists()


# Several annotators


def test_diverged_weights_behind_finite_probabilities_are_not_kept(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    fine_tuned = training._fine_tune

    def diverged(*arguments: Any) -> training.Candidate:
        made = fine_tuned(*arguments)
        weights = made.state["layer4.0.conv1.weight"].copy()
        weights[0, 0, 0, 0] = np.nan  # no image of this size reaches it
        return replace(made, state={**made.state, "layer4.0.conv1.weight": weights})

    monkeypatch.setattr(training, "_fine_tune", diverged)
    with pytest.raises(TrainingError, match=r"layer4\.0\.conv1\.weight of r0001 holds NaN"):
        train(loop)
    assert loop.registry.versions() == ([], {})
    monkeypatch.undo()
    assert train(loop).version == "r0001"  # the next try succeeds


def annotate_as(project: OracleProject, person: int, labels: Mapping[str, str]) -> int:
    """Annotate the tasks that Label Studio would serve this annotator; return their number."""
    served = [
        task
        for task in project.open_tasks()
        if person not in {a.annotator for a in project.answers.get(task.task_id, ())}
    ]
    for task in served:
        project.answer(task.task_id, labels[task.image_id], annotator=person)
    return len(served)


def test_with_overlap_2_two_annotators_get_each_image_except_seeds(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="2")
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    assert annotate_as(project, 1, truth) == 10
    assert annotate_as(project, 2, truth) == 0  # to Label Studio they are finished
    batches.top_up(loop)  # opens the ten again, and asks ten new ones
    assert annotate_as(project, 1, truth) == 10
    batches.top_up(loop)
    assert annotate_as(project, 2, truth) == 30  # with the last batch of ten
    people = [{a.annotator for a in given} for given in project.answers.values()]
    assert people.count({None}) == 40
    assert people.count({1, 2}) == 20
    assert people.count({2}) == 10


def test_a_second_opinion_shows_the_prediction_from_before_the_first_annotation(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="2", train="full")
    truth = true_labels(loop.pool)
    seed(loop, project)
    first = train(loop)
    thought = dict(zip(loop.pool.image_ids, scoring.pool_probs(loop, first, quiet), strict=True))
    annotate_as(project, 1, truth)
    newer = train(loop)
    again = [task for task in project.open_tasks() if task.awaits_second_opinion]
    assert again
    for task in again:
        prediction = project.predictions[task.task_id][newer.version]
        assert prediction.score == 0.0
        assert prediction.probability == pytest.approx(max(thought[task.image_id]))
        assert prediction.label == loop.pool.classes[int(np.argmax(thought[task.image_id]))]


def test_overlap_auto_replaces_new_images_by_second_opinions_on_disagreements(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="auto")
    truth = true_labels(loop.pool)
    wrong = {i: loop.pool.classes[(loop.pool.classes.index(c) + 1) % 10] for i, c in truth.items()}
    seed(loop, project, 100)
    train(loop)
    for task in project.open_tasks()[:5]:
        project.answer(task.task_id, truth[task.image_id], annotator=1)
    for task in project.open_tasks():
        project.answer(task.task_id, wrong[task.image_id], annotator=2)
    before = len(project.by_task)
    pushed = batches.top_up(loop)
    again = [task for task in project.open_tasks() if task.awaits_second_opinion]
    assert pushed + len(again) == 10
    assert 1 <= len(again) <= 5
    assert len(project.by_task) == before + pushed


def test_overlap_auto_asks_no_second_opinions_of_a_single_annotator(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="auto")
    seed(loop, project)
    train(loop)
    annotate_as(project, 1, dict.fromkeys(loop.pool.image_ids, loop.pool.classes[0]))
    assert batches.top_up(loop) == 10
    assert not [task for task in project.open_tasks() if task.awaits_second_opinion]


def test_second_opinions_waiting_for_an_absent_annotator_do_not_hold_back_new_images(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="2")
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    annotate_as(project, 1, truth)
    project.answer(1, truth[project.by_task[1].image_id], annotator=2)  # and no others
    for _ in range(4):
        assert batches.top_up(loop) == 10
        assert annotate_as(project, 1, truth) == 10


def test_the_number_of_open_second_opinions_is_bounded(loop: Loop, project: OracleProject) -> None:
    loop = with_settings(loop, overlap="2")
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    for _ in range(4):
        annotate_as(project, 1, truth)
        batches.top_up(loop)
    again = [task.task_id for task in project.open_tasks() if task.awaits_second_opinion]
    assert again == sorted(i for i, given in project.answers.items() if given[0].annotator)[:20]


def test_a_task_that_label_studio_cannot_serve_again_takes_no_place(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, overlap="2")
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    annotate_as(project, 1, truth)
    batches.top_up(loop)
    again = [task for task in project.open_tasks() if task.awaits_second_opinion]
    for task in again:  # through the Data Manager
        project.answer(task.task_id, truth[task.image_id], annotator=1)
    project.asked_again |= {task.task_id for task in again}
    for _ in range(3):
        annotate_as(project, 1, truth)
        batches.top_up(loop)
    assert len([task for task in project.open_tasks() if task.awaits_second_opinion]) == 10 + 20


def ask_more(loop: Loop, count: int) -> None:
    """Ask more images than are due, as scripts.sync does."""
    with lock(loop.root, "push"):
        observe.read_everything_changed(loop.project, loop.store)
        batches.push(loop, batches.choose_batch(loop, count, "least_confidence"))


def kept_open(loop: Loop) -> list[OpenImage]:
    assert loop.store.facts().open_read_at > 0
    return loop.store.open_images()


def test_open_images_are_recorded_in_query_order_with_a_picture_and_three_predictions(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    images = kept_open(loop)
    assert [image.image_id for image in images] == asked(project, "r0001")
    confidences = [image.confidence for image in images]
    assert confidences == sorted(confidences)
    for image in images:
        assert len(image.guesses) == 3
        assert image.guesses[0][1] == pytest.approx(image.confidence, abs=1e-6)
        assert image.guesses[0][1] >= image.guesses[1][1] >= image.guesses[2][1]
        assert image.picture.startswith("data:image/png;base64,")


def test_a_first_batch_without_a_model_is_recorded_without_predictions(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(loop)
    images = kept_open(loop)
    assert len(images) == len(project.by_task) == 10
    assert {image.guesses for image in images} == {()}


def test_a_new_batch_joins_the_open_images_and_annotated_ones_leave_with_the_next_ordering(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    first = {image.image_id for image in kept_open(loop)}
    ask_more(loop, 5)
    images = kept_open(loop)
    assert len(images) == 15
    assert first < {image.image_id for image in images}
    assert [i.confidence for i in images] == sorted(i.confidence for i in images)
    annotated = next(t for t, task in project.by_task.items() if task.label is None)
    project.answer(annotated, loop.pool.classes[0])
    ordering.refresh_predictions(loop)
    left = {image.image_id for image in kept_open(loop)}
    assert left == {image.image_id for image in images} - {project.by_task[annotated].image_id}


def test_the_number_of_recorded_open_images_is_bounded(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(with_settings(loop, batch_size=60))
    assert len(kept_open(loop)) == OPEN_IMAGES_KEPT == 48


def test_annotated_images_do_not_crowd_out_new_open_images(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    for _ in range(6):  # 60 in all, between two orders: more than are kept
        for task_id, task in project.by_task.items():
            if task.label is None:
                project.answer(task_id, loop.pool.classes[0])
        ask_more(loop, 10)
    waiting = {task.image_id for task in project.open_tasks()}
    assert {image.image_id for image in kept_open(loop)} == waiting
    assert len(waiting) == 10


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "of another network"])
def test_damaged_scores_and_embeddings_are_computed_again(
    loop: Loop, project: OracleProject, is_empty: bool
) -> None:
    seed(loop, project)
    meta = train(loop)
    probs = scoring.pool_probs(loop, meta, quiet)
    key, kept = scoring.embeddings_of(loop, meta, quiet)
    [path] = (loop.root / "embeddings").iterdir()
    narrow = {name: rows[:, :7] for name, rows in vars(kept).items()}
    content = b"" if is_empty else safetensors.numpy.save(narrow)
    for damaged in (loop.root / "r0001/pool.safetensors", path):
        damaged.write_bytes(content)
    np.testing.assert_allclose(scoring.pool_probs(loop, meta, quiet), probs, atol=0.01)
    again, made = scoring.embeddings_of(loop, meta, quiet)
    assert (again, made.pool.shape) == (key, kept.pool.shape)
    assert path.stat().st_size > 1000 * len(loop.pool.image_ids)
