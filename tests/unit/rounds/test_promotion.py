"""Save candidates as versions, and promote, refuse and prune them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from backend.base.arrays import Labels, Probs
from backend.base.errors import LabelStudioError, TrainingError
from backend.images.known_labels import true_labels
from backend.images.splits import LabeledSplit, Split
from backend.measures.calibration import expected_calibration_error
from backend.measures.gate import Gate
from backend.network.head import Head, fit_head
from backend.rounds import accuracy, batches, observe, promotion, rounds, scoring, training
from backend.rounds.labels import read_labels
from backend.rounds.loop import LabeledImages, Loop
from backend.store import model_outputs, pruning
from backend.store.version_meta import Meta
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import (
    FAST,
    ask_and_annotate,
    quiet,
    read_and_refit,
    refit,
    seed,
    train,
    with_sample,
    with_settings,
)
from tests.unit.store.test_registry import meta, state_of
from tests.unit.store.test_registry import save as save_version


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
    assert before.validation is not None
    assert poisoned.validation is not None
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
    few = LabeledSplit(held_out.image_ids[:30], held_out.images[:30], held_out.labels[:30])
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


def test_without_validation_images_versions_are_trained_and_promoted_unjudged(
    loop: Loop, project: OracleProject
) -> None:
    held_out = loop.pool.validation
    none = LabeledSplit((), held_out.images[:0], held_out.labels[:0])
    unjudged = replace(loop, pool=replace(loop.pool, validation=none))
    seed(unjudged, project)
    train(unjudged)
    project.answer_open_tasks(true_labels(loop.pool))
    full = train(unjudged)
    head = rounds.refit_head(unjudged)
    assert (full.validation, full.gate, full.calibration, full.refused) == (None, None, None, None)
    assert unjudged.registry.current() == (head or full)
    assert "accuracy unknown: no validation images" in project.description
    curve = accuracy.learning_curve(unjudged.registry.versions()[0])
    assert [point.accuracy for point in curve] == [None] * len(curve)
    assert accuracy.outlook(unjudged.registry.versions()[0]) is None


def test_probabilities_are_calibrated_and_the_calibration_error_is_recorded(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    assert meta.calibration is not None
    assert meta.calibration.temperature == meta.temperature != 1.0
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    saved = kept[:]
    shutil.rmtree(loop.root / meta.version / "pool")
    shutil.rmtree(loop.root / "embeddings")
    np.testing.assert_allclose(scoring.pool_probs(loop, meta, quiet), saved, atol=1e-6)
    labels = loop.pool.validation.labels
    held_out = model_outputs.load_validation_probs(loop.root, meta.version, labels)
    assert held_out is not None
    error = expected_calibration_error(held_out, labels)
    assert error == pytest.approx(meta.calibration.error_after)


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


def test_a_candidate_with_nan_probabilities_is_named_and_not_kept(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    nothing = Head(np.full((10, 512), np.nan, np.float32), np.zeros(10, np.float32))
    monkeypatch.setattr(training, "fit_head", lambda *_: nothing)
    with pytest.raises(TrainingError, match="r0001h01 contain NaN"):
        read_and_refit(loop)
    assert loop.registry.last_round() == 1
    assert not (loop.root / "r0001h01").exists()


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
    with pytest.raises(TrainingError, match=r"layer4\.0\.conv1\.weight of r0001 contains NaN"):
        train(loop)
    assert loop.registry.versions() == ([], {})
    monkeypatch.undo()
    assert train(loop).version == "r0001"  # the next try succeeds


# With validation labels that annotators give one by one

CAT_OR_DOG = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)  # what a version says


def keep_candidate(loop: Loop, version: str, predicted: Labels) -> Meta:
    """Keep a candidate that predicts these classes for the sample."""
    labels = LabeledImages(("a", "b"), np.array([0, 1]), np.ones(2, np.float32), {}, version)
    state = state_of(meta(version=version))
    test = np.zeros((len(loop.pool.test.labels), 2), np.float32)
    candidate = training.Candidate(
        version,
        "pretrained",
        state,
        "",
        CAT_OR_DOG[predicted],
        test,
        lambda: CAT_OR_DOG[[0, 0]],
        {},
    )
    kept = promotion.keep(loop, labels, candidate)
    assert kept is not None
    return kept


def animals(loop: Loop, n_labeled: int) -> Loop:
    """Return a loop whose annotators have labeled the first images of 40, all of them cats."""
    pool = replace(
        loop.pool,
        classes=("cat", "dog"),
        image_ids=("a", "b"),
        images=loop.pool.images[:2],
        test=loop.pool.test.select({}),
    )
    project = OracleProject(pool.classes)
    own = replace(loop, pool=pool, choices=pool.classes, project=project)
    sample = Split(tuple(f"val-{n}" for n in range(40)), loop.pool.images[:40])
    return with_sample(own, sample, {f"val-{n}": 0 for n in range(n_labeled)})


CATS, DOGS = np.zeros(40, np.int64), np.ones(40, np.int64)


def test_with_fewer_than_thirty_labels_of_annotators_a_version_is_promoted_unjudged(
    loop: Loop,
) -> None:
    few = animals(loop, 29)
    keep_candidate(few, "r0001", CATS)
    worse = keep_candidate(few, "r0002", DOGS)
    assert worse.refused is None
    assert worse.gate is not None
    assert worse.gate.note == "not judged yet (29 of 40 validation images labeled)"
    assert worse.validation is not None
    assert (worse.validation.accuracy, worse.validation.images) == (0.0, 29)
    assert few.registry.current() == worse


def test_thirty_labels_of_annotators_are_enough_to_refuse_a_much_worse_version(
    loop: Loop,
) -> None:
    keep_candidate(animals(loop, 0), "r0001", CATS)  # labels are compared with what it said then
    worse = keep_candidate(animals(loop, 30), "r0002", DOGS)
    assert worse.refused is not None
    assert "0.0% against 100.0%; 30 regressions, 0 improvements" in worse.refused


def test_confidence_is_calibrated_from_thirty_labels_of_annotators_on(loop: Loop) -> None:
    few = keep_candidate(animals(loop, 29), "r0001", CATS)
    assert (few.temperature, few.calibration) == (1.0, None)
    scores = model_outputs.load_pool_probs(loop.root, "r0001")
    assert scores is not None
    assert np.allclose(scores[:], CAT_OR_DOG[[0, 0]])
    enough = keep_candidate(animals(loop, 30), "r0002", CATS)
    assert enough.temperature < 1.0  # it was right every time, but only 90 % sure
    assert enough.calibration is not None


def test_what_a_version_says_about_the_whole_sample_is_kept_with_the_labels_so_far(
    loop: Loop,
) -> None:
    kept = keep_candidate(animals(loop, 3), "r0001", CATS)
    sample = model_outputs.load_sample_probs(loop.root, kept.version)
    assert sample is not None
    assert len(sample.image_ids) == 40
    assert sample.labels.tolist() == [0] * 3 + [-1] * 37
    assert model_outputs.load_validation(loop.root, kept.version) is None


def test_heads_and_full_versions_are_measured_on_the_images_that_annotators_labeled(
    loop: Loop, project: OracleProject
) -> None:
    known = loop.pool.validation
    sample = Split(known.image_ids[:50], known.images[:50])
    labels = dict(zip(known.image_ids[:35], known.labels[:35].tolist(), strict=True))
    people = with_sample(loop, sample, labels)
    seed(people, project, 100)
    observe.read_changes(project, people.store)
    reading = read_labels(people, people.store.annotations()).labels
    full = promotion.keep(people, reading, training.train_candidate(people, reading, quiet))
    head = promotion.keep(people, reading, training.train_head(people, reading, quiet))
    for version in (full, head):
        assert version is not None
        assert version.validation is not None
        assert version.validation.images == 35
        kept = model_outputs.load_sample_probs(loop.root, version.version)
        assert kept is not None
        n_right = int((kept.probs[:35].argmax(axis=1) == known.labels[:35]).sum())
        assert version.validation.accuracy == n_right / 35
