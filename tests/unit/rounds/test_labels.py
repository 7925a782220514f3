"""Labels from annotations that can be checked by hand; out-of-sample probabilities on digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.images.digest import digest
from backend.images.known_labels import true_labels
from backend.images.pool import open_pool
from backend.images.splits import Split
from backend.network import resnet
from backend.rounds import batches, scoring
from backend.rounds.annotators import annotator_figures
from backend.rounds.labels import LabelReading, read_labels
from backend.rounds.loop import Loop
from scripts.research.oracle import OracleProject
from tests.unit.images.image_folders import save_image
from tests.unit.rounds.conftest import (
    BOTH,
    NAMES,
    PEOPLE,
    PERHAPS_DOG,
    SURELY_CAT,
    annotation,
    ask,
    by_task,
    figures,
    quiet,
    read,
    seed,
    train,
    with_settings,
)


def labels_of(reading: LabelReading) -> dict[str, tuple[str, float]]:
    """Return the label and its quality by image."""
    labels, quality = reading.labels, map(float, reading.consensus.quality)
    rows = zip(labels.image_ids, labels.classes, quality, strict=True)
    return {image_id: (NAMES[label], round(share, 4)) for image_id, label, share in rows}


# The labels to learn from


def test_unusable_annotations_are_left_out_and_counted_by_reason(animals: Loop) -> None:
    reading = read(
        animals,
        annotation("a", "Cat"),
        annotation("b", None, was_skipped=True),
        *[annotation(i, None) for i in "cd"],
        *[annotation(i, "unicorn") for i in "cde"],
        *[annotation(i, "Dog") for i in "wxyz"],
    )
    assert reading.labels.left_out == {
        "skipped": 1, "empty": 2, "unknown class": 3, "not of the pool": 4,
    }  # fmt: skip
    assert labels_of(reading) == {"a": ("Cat", 1.0)}


def test_without_model_probabilities_the_majority_is_the_label_and_its_share_the_quality(
    animals: Loop,
) -> None:
    reading = read(
        animals,
        *[annotation("a", label, by) for by, label in ((1, "Cat"), (2, "Dog"), (3, "Dog"))],
        annotation("b", "Frog", 2),
    )
    assert reading.probs == {}
    assert labels_of(reading) == {"a": ("Dog", 0.6667), "b": ("Frog", 1.0)}


def test_a_class_that_joined_later_has_the_probability_0_and_more_classes_are_ignored(
    animals: Loop,
) -> None:
    ask(animals, "a", (0.3, 0.7))
    ask(animals, "b", (0.1, 0.2, 0.3, 0.4))
    ask(animals, "c", PERHAPS_DOG)
    reading = read(animals, annotation("a", "Cat"), annotation("b", "Dog"), annotation("c", "Dog"))
    assert reading.probs.keys() == {"a", "c"}
    assert reading.probs["a"].tolist() == pytest.approx([0.3, 0.7, 0])
    assert labels_of(reading) == {"a": ("Cat", 0.3), "b": ("Dog", 1.0), "c": ("Dog", 0.6)}


def test_the_quality_of_a_single_annotation_is_the_models_probability(
    animals: Loop,
) -> None:
    ask(animals, "ab", SURELY_CAT)
    reading = read(animals, annotation("a", "Cat", 1), annotation("b", "Dog", 2))
    assert labels_of(reading) == {"a": ("Cat", 0.9), "b": ("Dog", 0.08)}
    assert reading.consensus.annotators == {1: None, 2: None}


def test_the_annotations_of_a_single_annotator_are_the_labels_and_do_not_rate_the_annotator(
    animals: Loop,
) -> None:
    ask(animals, "bc", PERHAPS_DOG)
    given = [annotation("a", "Cat"), annotation("b", "Dog"), annotation("c", "Frog")]
    reading = read(animals, *given)
    assert labels_of(reading) == {"a": ("Cat", 1.0), "b": ("Dog", 0.6), "c": ("Frog", 0.1)}
    ada = figures(animals, *given)["Ada"]
    assert (ada.answers, ada.agreement, ada.quality, ada.quality_low) == (3, None, None, None)


def test_a_contested_label_weighs_less_once_twenty_images_have_several_annotations(
    loop: Loop,
) -> None:
    contested, *others = loop.pool.image_ids[:20]
    ask(loop, others, tuple(0.91 if label == "1" else 0.01 for label in loop.pool.classes))
    ask(loop, [contested], tuple(0.1 for _ in loop.pool.classes))
    one, two = (replace(annotation("a", "1", by), image_id=contested) for by in (1, 2))
    given = [one, two, replace(one, label="2", annotator=3)]
    weights = []
    for n_others in (18, 19):
        agreed = [replace(a, image_id=i) for i in others[:n_others] for a in (one, two)]
        labels = read_labels(loop, {1: [*given, *agreed]}).labels
        by_image = dict(zip(labels.image_ids, map(float, labels.weights), strict=True))
        weights.append((by_image[contested], by_image[others[0]]))
    assert weights[0] == (1.0, 1.0)
    assert weights[1][0] < 0.8 < 0.95 < weights[1][1]


@pytest.mark.parametrize("never", NAMES)
def test_a_class_that_no_annotator_chose_is_never_a_label(animals: Loop, never: str) -> None:
    probs = [0.05, 0.05, 0.05]
    probs[NAMES.index(never)] = 0.9  # not even if the model is sure of it
    ask(animals, "abc", tuple(probs))
    one, other = (name for name in NAMES if name != never)
    both = [(1, one, "ab"), (2, one, "a"), (2, other, "c"), (3, other, "c")]
    given = [annotation(i, name, by) for by, name, ids in both for i in ids]
    assert {i: label for i, (label, _) in labels_of(read(animals, *given)).items()} == {
        "a": one, "b": one, "c": other,
    }  # fmt: skip


def test_a_single_class_that_all_annotators_chose_is_the_label(animals: Loop) -> None:
    ask(animals, "abc", SURELY_CAT)
    given = [annotation(i, "Dog", by) for i in "abc" for by in (1, 2)]
    found = labels_of(read(animals, *given))
    assert {label for label, _ in found.values()} == {"Dog"}


def test_an_edited_annotation_changes_the_label_and_the_fingerprint(animals: Loop) -> None:
    others = [annotation("b", "Dog"), annotation("c", "Frog")]
    before = read(animals, annotation("a", "Cat", at=1), *others)
    same = read(animals, annotation("a", "Cat", at=9), *others)
    edited = read(animals, annotation("a", "Dog", at=9), *others)
    assert labels_of(edited)["a"] == ("Dog", 1.0)
    assert before.labels.fingerprint == same.labels.fingerprint != edited.labels.fingerprint


@pytest.mark.parametrize("is_swapped", [False, True])
def test_the_later_of_two_annotations_by_one_annotator_counts(
    animals: Loop, is_swapped: bool
) -> None:
    rows = [annotation("a", "Cat", at=1), annotation("a", "Dog", at=2)]
    reading = read(animals, *(rows[::-1] if is_swapped else rows))
    assert labels_of(reading) == {"a": ("Dog", 1.0)}
    assert figures(animals, *rows)["Ada"].agreement is None  # no other annotator


def test_the_later_of_contradictory_ground_truths_wins_and_the_image_is_counted(
    animals: Loop,
) -> None:
    reading = read(
        animals,
        annotation("a", "Frog", 2, at=2, is_ground_truth=True),
        annotation("a", "Cat", 1, at=1, is_ground_truth=True),
        *[annotation("a", "Dog", by, at=3) for by in (3, 4, 5)],
        *[annotation("b", "Cat", by, at=1, is_ground_truth=True) for by in (1, 2)],
    )
    assert labels_of(reading) == {"a": ("Frog", 1.0), "b": ("Cat", 1.0)}
    assert reading.labels.left_out == {"contradicted ground truth": 1}


def test_one_image_may_have_fifty_annotations(animals: Loop) -> None:
    given = [annotation("a", "Cat" if by <= 30 else "Dog", by, at=by) for by in range(1, 51)]
    assert labels_of(read(animals, *given)) == {"a": ("Cat", 0.6)}
    ask(animals, "a", PERHAPS_DOG)
    reading = read(animals, *given)
    assert list(reading.labels.classes) == [0]
    assert reading.consensus.quality.tolist() == pytest.approx([0.3])  # the model's probability
    rows = annotator_figures(by_task(tuple(given)), reading, NAMES, PEOPLE)
    assert sorted(row.agreement or 0 for row in rows) == [0.0] * 20 + [1.0] * 30
    assert all(row.quality is None for row in rows)  # one image rates no annotator


def test_the_label_is_one_of_the_annotations_even_if_the_model_believes_neither(
    animals: Loop,
) -> None:
    neither = (0.0, 0.0, 1.0)
    ask(animals, animals.pool.image_ids, neither)
    given = [annotation(i, n, by) for i in animals.pool.image_ids for by, n in BOTH]
    assert {label for label, _ in labels_of(read(animals, *given)).values()} <= {"Cat", "Dog"}


def test_the_same_annotations_always_give_the_same_consensus(animals: Loop) -> None:
    tied, *others = animals.pool.image_ids
    ask(animals, tied, (0.4, 0.4, 0.2))
    ask(animals, others, (0.1, 0.1, 0.8))
    given = [annotation(tied, name, by) for by, name in BOTH]
    for image_id in others:
        given += [annotation(image_id, "Frog", by) for by in (1, 2)]
    found = {tuple(read(animals, *given).consensus.annotators.items()) for _ in range(10)}
    assert len(found) == 1
    assert None not in dict(*found).values()


def test_no_annotations_give_no_labels_and_no_annotator_figures(animals: Loop) -> None:
    reading = read(animals)
    assert (reading.labels.image_ids, reading.labels.left_out) == ((), {})
    assert annotator_figures({1: []}, reading, NAMES, PEOPLE) == []


# Out-of-sample probabilities


def test_an_image_keeps_the_probabilities_it_was_asked_with_when_other_versions_are_promoted(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    first = train(loop)
    then = scoring.pool_probs(loop, first, quiet)
    in_tasks = {t.image_id: t.data["asked_probs"] for t in project.by_task.values() if not t.label}
    project.answer_open_tasks(true_labels(loop.pool))
    second = train(loop)
    assert loop.registry.current() == second
    probs = read_labels(loop, project.annotations(), quiet).probs
    is_open = {task.image_id for task in project.open_tasks()}
    assert probs.keys() == in_tasks.keys() | is_open
    now = scoring.pool_probs(loop, second, quiet)
    for image_id, in_task in in_tasks.items():
        [row] = loop.pool.positions([image_id])
        np.testing.assert_array_equal(probs[image_id], then[row])
        np.testing.assert_allclose(in_task, then[row], atol=1e-5)
        assert np.abs(probs[image_id] - now[row]).max() > 0.01


@pytest.fixture
def blind(loop: Loop, project: OracleProject, tmp_path: Path) -> Loop:
    """Pre-trained weights, 20 seed labels and 40 images that were asked without a model."""
    weights = tmp_path / "pretrained.pth"
    torch.save(resnet.build(5, None, seed=3).state_dict(), weights)
    own = with_settings(replace(loop, weights=str(weights)), batch_size=40)
    seed(own, project, 20)
    assert batches.top_up(own) == 40
    project.answer_open_tasks(true_labels(loop.pool))
    return own


def probs_of(loop: Loop) -> dict[str, list[float]]:
    found = read_labels(loop, loop.project.annotations(), quiet).probs
    return {image_id: row.tolist() for image_id, row in found.items()}


def test_an_image_queried_without_a_model_gets_out_of_sample_probabilities(
    blind: Loop, project: OracleProject
) -> None:
    before = probs_of(blind)
    assert before.keys() == {t.image_id for t in project.by_task.values() if not t.label}
    task_id, given = next(
        (i, a[0]) for i, a in project.answers.items() if a[0].annotator is not None
    )
    project.change(task_id, next(c for c in blind.pool.classes if c != given.label))
    blind.store.record_fold_probs([], [])
    after = probs_of(blind)
    assert after[given.image_id] == before[given.image_id]
    # The models of the other four folds know the label.
    assert sum(after[i] != before[i] for i in before) >= 40 / 2


def test_probabilities_an_image_was_asked_with_take_precedence_over_fold_probabilities(
    blind: Loop, project: OracleProject
) -> None:
    [task_id, *_] = (i for i, a in project.answers.items() if a[0].annotator is not None)
    image_id, sure = project.by_task[task_id].image_id, (0.91, *[0.01] * 9)
    assert probs_of(blind)[image_id] != pytest.approx(sure)
    ask(blind, [image_id], sure)
    assert probs_of(blind)[image_id] == pytest.approx(sure)


def test_fold_probabilities_are_recorded_and_read_without_a_model(
    blind: Loop, project: OracleProject
) -> None:
    annotations = project.annotations()
    assert read_labels(blind, annotations).probs == {}
    found = probs_of(blind)
    Path(blind.weights).unlink()
    kept = read_labels(blind, annotations)
    assert {i: row.tolist() for i, row in kept.probs.items()} == found
    assert probs_of(blind) == found


def test_without_pretrained_weights_images_queried_without_a_model_have_no_probabilities(
    blind: Loop,
) -> None:
    assert probs_of(replace(blind, weights="none")) == {}


def test_too_few_classes_for_the_folds_give_no_probabilities(
    blind: Loop, project: OracleProject
) -> None:
    project.answers.clear()
    only = blind.pool.classes[0]
    project.answer_open_tasks(dict.fromkeys(blind.pool.image_ids, only))
    assert probs_of(blind) == {}


def test_recorded_fold_probabilities_are_0_for_a_class_that_joined_later(animals: Loop) -> None:
    animals.store.record_fold_probs(["a"], [np.array([0.4, 0.6], np.float32)])
    reading = read(animals, annotation("a", "Cat"))
    assert reading.probs["a"].tolist() == pytest.approx([0.4, 0.6, 0])


def test_an_annotation_of_a_copy_counts_for_the_first_image(animals: Loop, tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "copy.png")):
        save_image(tmp_path / f"photos/{name}", (9, 9, number % 2))  # the copy equals a.png
    pool = open_pool(
        str(tmp_path / "photos"), tmp_path, seed=0, classes=animals.pool.classes, image_size=16
    )
    loop = replace(animals, pool=pool)
    first, copy, unknown = digest("a.png"), digest("copy.png"), digest("c.png")
    given = [
        replace(annotation("a", label, at=at), image_id=image_id)
        for image_id, label, at in ((copy, "Dog", 1), (unknown, "Cat", 1))
    ]
    reading = read(loop, *given)
    assert reading.labels.image_ids == (first,)
    assert list(reading.labels.classes) == [1]
    assert reading.labels.left_out == {"not of the pool": 1}


def test_annotations_of_the_validation_sample_enter_no_label_and_are_no_waste(
    animals: Loop,
) -> None:
    pool = animals.pool
    sampled = replace(
        animals,
        pool=replace(
            pool,
            image_ids=pool.image_ids[:-2],
            images=pool.images[:-2],
            sample=Split(pool.image_ids[-2:], pool.images[-2:]),  # t and u
        ),
    )
    given = [annotation("a", "Dog"), annotation("t", "Cat"), annotation("u", None)]
    given.append(annotation("u", None, 2, was_skipped=True))
    reading = read(sampled, *given)
    assert labels_of(reading) == {"a": ("Dog", 1.0)}
    assert reading.labels.left_out == {}
    assert read(animals, *given).labels.left_out == {"empty": 1, "skipped": 1}
