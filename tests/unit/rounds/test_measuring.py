"""Measure versions again on the labels that annotators have given by now."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from backend.base.arrays import Labels
from backend.base.errors import DetachedError, ModelFolderError
from backend.images.known_labels import true_labels
from backend.images.splits import Split
from backend.measures.evaluation import Evaluation
from backend.rounds import accuracy, batches, measuring, observe, promotion, rounds, training
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.measuring import measure_again
from backend.rounds.validation import read_sample
from backend.store import model_outputs
from backend.store.model_outputs import UNLABELED, SampleProbs
from backend.store.project_record import begin_detaching, write_record
from backend.store.version_meta import Meta
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import quiet, seed, with_sample
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CATS = np.tile(np.array([0.9, 0.1], np.float32), (4, 1))


@pytest.fixture
def people(loop: Loop) -> Loop:
    """Return a loop whose annotators label a, b, c and d, of which none is labeled yet."""
    pool = replace(loop.pool, classes=("cat", "dog"))
    sample = Split(("a", "b", "c", "d"), loop.pool.images[:4])
    own = replace(loop, pool=pool, project=OracleProject(pool.classes), choices=pool.classes)
    return with_sample(own, sample, {})


def labeled(loop: Loop, **labels: int) -> Loop:
    return with_sample(loop, loop.pool.sample, labels)


def keep_version(loop: Loop, **changes: Any) -> Meta:
    """Keep a version that takes every image for a cat."""
    saved = save_version(loop.root, meta(**{"validation": None, **changes}))
    unlabeled = np.full(4, UNLABELED)
    sample = SampleProbs(loop.pool.sample.image_ids, CATS, unlabeled)
    model_outputs.save_sample_probs(loop.root, saved.version, sample)
    return saved


def validation(loop: Loop, version: str = "r0001") -> tuple[float, int] | None:
    found = loop.registry.read_meta(version).validation
    return (found.accuracy, found.images) if found else None


def test_every_new_validation_label_counts_for_all_versions(people: Loop) -> None:
    keep_version(people)
    keep_version(people, number=2, refused="worse")
    measure_again(people)
    assert validation(people) is None
    measure_again(labeled(people, b=0, d=1))
    assert validation(people) == validation(people, "r0002") == (1 / 2, 2)
    measure_again(labeled(people, a=0, b=0, d=1))
    assert validation(people) == validation(people, "r0002") == (2 / 3, 3)


def test_a_changed_or_withdrawn_label_is_followed(people: Loop) -> None:
    keep_version(people)
    measure_again(labeled(people, a=0, b=0))
    measure_again(labeled(people, a=0, b=1))
    assert validation(people) == (1 / 2, 2)
    measure_again(people)
    assert validation(people) is None


def test_only_the_accuracy_on_validation_images_changes(people: Loop) -> None:
    saved = keep_version(people, test=Evaluation(accuracy=0.5, log_loss=1.0, images=60))
    measure_again(labeled(people, a=0))
    found = people.registry.read_meta("r0001")
    assert found.model_copy(update={"validation": None}) == saved


def test_versions_that_were_measured_on_the_same_labels_are_not_written_again(
    people: Loop,
) -> None:
    keep_version(people)
    measure_again(labeled(people, a=0))
    folder = people.root / "r0001"
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    measure_again(labeled(people, a=0))
    assert {path.stat().st_mtime for path in folder.iterdir()} == {0}


def test_a_pruned_version_is_still_measured(people: Loop) -> None:
    keep_version(people)
    people.registry.mark_pruned("r0001", NOON)
    measure_again(labeled(people, a=0))
    assert validation(people) == (1.0, 1)


def test_the_description_in_label_studio_follows(people: Loop) -> None:
    keep_version(people)
    people.registry.promote("r0001")
    measure_again(labeled(people, a=0, b=0))
    assert isinstance(people.project, OracleProject)
    # Nothing was read from Label Studio, so that no label counts as progress.
    described = "accuracy not known yet: 0 of 40 validation images labeled"
    assert described in people.project.description


def test_the_description_stays_after_the_project_was_detached(people: Loop) -> None:
    keep_version(people)
    people.registry.promote("r0001")
    write_record(people.root, record(7))
    begin_detaching(people.root)
    with pytest.raises(DetachedError, match="detached from project"):
        measure_again(labeled(people, a=0, b=0))
    assert isinstance(people.project, OracleProject)
    assert people.project.description == ""


def test_a_version_is_measured_again_after_its_labels_could_not_be_saved(
    people: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelFolderError("the disk is full")

    keep_version(people)
    with monkeypatch.context() as full:
        full.setattr(model_outputs, "save_sample_probs", fail)
        with pytest.raises(ModelFolderError):
            measure_again(labeled(people, a=1))
    measure_again(labeled(people, a=1))
    kept = model_outputs.load_sample_probs(people.root, "r0001")
    assert kept is not None
    assert kept.labels.tolist() == [1, -1, -1, -1]
    assert validation(people) == (0.0, 1)


def test_known_labels_are_never_measured_again(loop: Loop) -> None:
    saved = save_version(loop.root, meta())
    measure_again(loop)
    assert loop.registry.read_meta("r0001") == saved


# With a trained version


def train(loop: Loop, truth: Labels) -> Meta:
    """Train on the first 100 images of the pool."""
    image_ids = loop.pool.image_ids[:100]
    labels = LabeledImages(image_ids, truth, np.ones(100, np.float32), {}, "f")
    made = promotion.keep(loop, labels, training.train_candidate(loop, labels, quiet))
    assert made is not None
    return made


def test_images_that_joined_the_sample_later_are_scored_by_earlier_versions(loop: Loop) -> None:
    known = loop.pool.validation
    sample = Split(known.image_ids[:40], known.images[:40])
    label_of = dict(zip(known.image_ids, known.labels.tolist(), strict=True))
    early = with_sample(loop, Split(sample.image_ids[:30], sample.images[:30]), {})
    train(early, np.arange(100) % 10)
    whole = with_sample(loop, sample, {i: label_of[i] for i in sample.image_ids})
    measure_again(whole)
    kept = model_outputs.load_sample_probs(loop.root, "r0001")
    assert kept is not None
    assert kept.image_ids == sample.image_ids
    n_right = int((kept.probs.argmax(axis=1) == known.labels[:40]).sum())
    assert validation(loop) == (n_right / 40, 40)


def test_a_version_without_outputs_for_the_sample_is_scored_unless_its_weights_are_pruned(
    loop: Loop,
) -> None:
    known = loop.pool.validation
    sample = Split(known.image_ids[:4], known.images[:4])
    train(with_sample(loop, sample, {}), np.arange(100) % 10)
    path = loop.root / "r0001" / "sample.safetensors"
    path.unlink()
    now = with_sample(loop, sample, {sample.image_ids[0]: 3})
    measure_again(now)
    found = validation(loop)
    assert found is not None
    assert found[1] == 1
    path.unlink()
    loop.registry.mark_pruned("r0001", NOON)
    measure_again(with_sample(loop, sample, {}))
    assert validation(loop) == found


def test_a_version_with_damaged_weights_does_not_stop_the_others(
    people: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    keep_version(people)
    keep_version(people, number=2)
    for name, content in (("sample.safetensors", b"lost"), ("model.safetensors", None)):
        path = people.root / "r0001" / name
        path.write_bytes(content or path.read_bytes()[:-1] + b"?")
    measure_again(labeled(people, a=0))
    assert "r0001 was not measured again: r0001/model.safetensors" in caplog.text
    assert validation(people, "r0002") == (1.0, 1)


def test_labels_of_the_sample_are_found_by_image(people: Loop) -> None:
    pool = labeled(people, c=1, a=0).pool
    assert measuring.sample_labels(pool, ("d", "c", "b", "a")).tolist() == [-1, 1, -1, 0]


# In the rounds of a project


def test_all_versions_are_compared_on_the_labels_that_annotators_have_given_by_now(
    sampled: Loop, project: OracleProject, loop: Loop
) -> None:
    truth = true_labels(loop.pool)
    seed(sampled, project, 40)
    first = rounds.train_round(sampled, is_forced=False, progress=quiet)
    for _ in range(2):
        project.answer_open_tasks(truth)
        observe.read_changes(project, sampled.store)
        batches.query(sampled, 10)
    project.answer_open_tasks(truth)
    second = rounds.train_round(sampled, is_forced=False, progress=quiet)
    assert first is not None
    assert second is not None
    assert second.gate is not None
    n_labeled = len(read_sample(sampled).labels)
    assert n_labeled == 6  # one in five of three batches of ten
    assert second.gate.note == "not judged yet (6 of 30 validation images labeled)"
    for version in (first, second):
        measured = sampled.registry.read_meta(version.version).validation
        assert measured is not None
        assert measured.images == 6
    points = accuracy.learning_curve(sampled.registry.versions()[0])
    assert [point.images for point in points] == [6, 6]
    assert "6 of 30 validation images labeled" in project.description


def test_labels_that_are_read_when_no_version_is_due_also_count(
    sampled: Loop, project: OracleProject, loop: Loop
) -> None:
    seed(sampled, project, 40)
    rounds.train_round(sampled, is_forced=False, progress=quiet)
    assert validation(sampled) is None
    project.answer_open_tasks(true_labels(loop.pool))
    batches.top_up(sampled)
    found = validation(sampled)
    assert found is not None
    assert found[1] == 2
