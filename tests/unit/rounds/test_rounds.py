"""Run the real loop over digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from backend.base.errors import TooFewLabelsError
from backend.base.labeling import NewTask, TaskReading
from backend.images.known_labels import true_labels
from backend.rounds import batches, observe, rounds
from backend.rounds.annotation_use import count_outcomes
from backend.rounds.loop import Loop
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import ask_and_annotate, quiet, read_and_refit, refit, seed, train


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
    assert first.validation is not None
    assert last.validation is not None
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


def test_outcomes_show_which_annotations_the_newest_version_or_head_has_learned(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    batches.top_up(loop)
    unknown, *others = [t.task_id for t in project.tasks() if t.is_open]
    project.answer(unknown, "unicorn")
    train(loop)
    assert count_outcomes(loop.root) == {"learned": 40, "unknown class": 1}
    for task_id in others[:2]:
        project.answer(task_id, loop.pool.classes[0])
    observe.read_changes(project, loop.store)
    assert count_outcomes(loop.root) == {"learned": 40, "unknown class": 1, "new": 2}
    assert rounds.refit_head(loop) is not None
    assert count_outcomes(loop.root) == {"learned": 42, "unknown class": 1}


def test_annotations_that_are_too_few_to_train_on_are_not_learned(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project, 0)
    batches.top_up(loop)
    one, another = [t.task_id for t in project.tasks() if t.is_open][:2]
    project.answer(one, loop.pool.classes[0])
    project.answer(another, "unicorn")
    with pytest.raises(TooFewLabelsError):
        train(loop)
    assert count_outcomes(loop.root) == {"new": 1, "unknown class": 1}


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


def test_a_validation_label_trains_nothing_and_its_annotator_is_reported(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)
    held_out = [t.task_id for t in project.open_tasks() if sampled.pool.is_in_sample(t.image_id)]
    for task_id in held_out:
        project.answer(task_id, "0", annotator=7)
    assert rounds.train_round(sampled, is_forced=False, progress=quiet) is None
    assert read_and_refit(sampled) is None
    [row] = sampled.store.annotators()
    assert (row.annotator, row.answers) == (7, len(held_out))
    assert len(held_out) == 2
