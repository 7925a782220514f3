"""Ask for validation labels of digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from backend.base.labeling import VALIDATION, NewTask, Prediction
from backend.base.strategy_names import StrategyName
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.rounds import batches, observe, ordering
from backend.rounds.loop import Loop
from backend.rounds.validation import (
    ask_sample_again,
    choose_sample_images,
    open_for_two,
    read_sample,
    with_validation,
)
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import seed, team_of, train, with_settings


def of_sample(project: OracleProject) -> dict[int, NewTask]:
    return {i: t for i, t in project.by_task.items() if t.data.get("asked_by") == VALIDATION}


def sample_ids(project: OracleProject) -> list[str]:
    return [task.image_id for task in of_sample(project).values()]


def ask_next(loop: Loop, project: OracleProject, count: int = 10) -> int:
    """Query another batch, even if enough tasks are open."""
    observe.read_changes(project, loop.store)
    return batches.query(loop, count)


def look(loop: Loop) -> None:
    """Let the ranker look at the project when no batch is due."""
    batches.top_up(with_settings(loop, batch_size=1))


def answer_all(loop: Loop, project: OracleProject, *annotators: int) -> None:
    """Give all tasks the label 0 by each of these annotators."""
    for task in project.open_tasks():
        for annotator in annotators:
            project.answer(task.task_id, "0", annotator=annotator)
    observe.read_changes(loop.project, loop.store)


# One of five new tasks


def test_one_in_five_new_tasks_is_from_the_sample_in_its_order(
    sampled: Loop, project: OracleProject
) -> None:
    for n_batches in (1, 2):
        assert ask_next(sampled, project) == 10
        assert sample_ids(project) == list(sampled.pool.sample.image_ids[: 2 * n_batches])
    others = {task.image_id for task in project.by_task.values()} - {*sample_ids(project)}
    assert others <= {*sampled.pool.image_ids}
    assert len(others) == 16


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_small_batches_also_ask_one_in_five(
    batch: int, sampled: Loop, project: OracleProject
) -> None:
    for _ in range(20 // batch):
        assert ask_next(sampled, project, batch) == batch
    assert len(sample_ids(project)) == len(project.by_task) // 5


def test_seeds_do_not_count_as_asked(sampled: Loop, project: OracleProject) -> None:
    seed(sampled, project, 25)
    ask_next(sampled, project)
    assert len(sample_ids(project)) == 2


def test_a_project_with_many_earlier_tasks_still_asks_one_in_five(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(replace(sampled, validation_labels=0), project, 50)
    assert sample_ids(project) == []
    ask_next(sampled, project)
    assert len(sample_ids(project)) == 2


def test_validation_tasks_do_not_change_which_other_images_are_asked(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project, 10)  # two of them for validation
    other = replace(
        sampled,
        validation_labels=0,
        root=sampled.root.with_name("p2"),
        project=OracleProject(sampled.pool.classes),
    )
    batches.query(other, 8)
    chosen = [batches.choose_batch(loop, 8, "random").image_ids for loop in (sampled, other)]
    assert chosen[0] == chosen[1]


def test_pending_images_count_until_enough_images_are_labeled(
    sampled: Loop, project: OracleProject
) -> None:
    sampled = replace(sampled, validation_labels=3)
    for expected in (2, 3, 3):
        ask_next(sampled, project)
        assert len(sample_ids(project)) == expected
    answer_all(sampled, project, 1)
    ask_next(sampled, project)
    assert len(sample_ids(project)) == 3


def test_an_undecided_image_is_replaced_from_the_reserve(
    sampled: Loop, project: OracleProject
) -> None:
    sampled = replace(sampled, validation_labels=1)
    ask_next(sampled, project)
    [task_id] = of_sample(project)
    for annotator in (1, 2):
        project.answer(task_id, None, annotator=annotator, was_skipped=True)
    ask_next(sampled, project)
    assert sample_ids(project) == list(sampled.pool.sample.image_ids[:2])
    progress = read_sample(sampled).progress
    assert (progress.labeled, progress.undecided, progress.pending) == (0, 1, 1)


def test_the_sample_can_be_exhausted(sampled: Loop, project: OracleProject) -> None:
    pool = replace(sampled.pool, sample=sampled.pool.sample.select({}))
    assert ask_next(replace(sampled, pool=pool), project) == 10
    assert sample_ids(project) == []


def test_the_sample_is_completed_once_no_other_image_is_left(
    sampled: Loop, project: OracleProject
) -> None:
    """Of 10 tasks, 2 would be a fifth; the pool has 3 images, so the sample provides 7."""
    pool = sampled.pool
    few = replace(pool, image_ids=pool.image_ids[:3], images=pool.images[:3])
    assert ask_next(replace(sampled, pool=few), project) == 10
    assert sample_ids(project) == list(pool.sample.image_ids[:7])


def test_an_image_that_was_queried_for_training_is_not_asked_for_a_validation_label(
    sampled: Loop, project: OracleProject
) -> None:
    first, second, third, *_ = sampled.pool.sample.image_ids
    project.import_tasks([NewTask(first, {"asked_by": "random"})])
    ask_next(sampled, project)
    assert sample_ids(project) == [second, third]


def test_known_validation_labels_are_not_asked_for(loop: Loop, project: OracleProject) -> None:
    assert ask_next(loop, project) == 10
    assert sample_ids(project) == []
    assert choose_sample_images(loop, 10) == []
    assert with_validation(loop) is loop


# What annotators see


def test_a_validation_task_shows_no_guess_and_comes_first_also_after_a_new_order(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)  # asks a batch by r0001
    asked_by_r0001 = of_sample(project)
    assert len(asked_by_r0001) == 2
    for task_id, task in asked_by_r0001.items():
        assert project.predictions[task_id] == {"r0001": Prediction(None, None, 0.0, "r0001")}
        assert task.data["hint"] == ""
        assert task.data["asked_version"] == "r0001"
        assert not {"asked_probs", "asked_confidence", "asked_margin"} & task.data.keys()
    first, second, third, *_ = sampled.store.open_images()
    assert {first.image_id, second.image_id} == {*sample_ids(project)}
    assert (first.guesses, first.confidence) == ((), 0.0)
    assert len(third.guesses) == 3

    project.answer(min(set(project.by_task) - set(asked_by_r0001)), "1")  # a new label
    train(sampled, is_forced=True)
    for task_id in asked_by_r0001:
        prediction = project.predictions[task_id]["r0002"]
        assert prediction == Prediction(None, None, 0.0, "r0002")
    assert sampled.store.open_images()[0].guesses == ()


def test_a_task_that_one_of_two_skipped_is_still_ordered_for_the_other(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)
    waiting, undecided = of_sample(project)
    others = iter(set(project.by_task) - set(of_sample(project)))
    project.answer(next(others), "0", annotator=2)
    project.answer(waiting, None, annotator=1, was_skipped=True)
    for annotator in (1, 2):
        project.answer(undecided, None, annotator=annotator, was_skipped=True)
    observe.read_changes(project, sampled.store)
    project.delete_predictions("r0001")
    ordering.order_open_tasks(sampled)
    assert project.predictions[waiting].keys() == {"r0001"}
    assert not project.predictions[undecided]


def test_a_task_opened_for_two_is_ordered_only_while_a_second_annotator_is_active(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)
    opened, _ = of_sample(project)
    project.reopen(opened, 2)
    project.answer(opened, "4", annotator=1)
    observe.read_changes(project, sampled.store)
    project.delete_predictions("r0001")
    ordering.order_open_tasks(sampled)
    assert read_sample(sampled).outcomes[opened].label == "4"
    assert not project.predictions[opened]

    project.answer(min(set(project.by_task) - set(of_sample(project))), "0", annotator=2)
    observe.read_changes(project, sampled.store)
    ordering.order_open_tasks(sampled)
    assert read_sample(sampled).outcomes[opened].state == "pending"
    assert project.predictions[opened].keys() == {"r0001"}


@pytest.mark.parametrize("strategy", ["margin", "typiclust", "uncertain_clusters", "random"])
def test_a_project_may_have_only_validation_tasks_open(
    strategy: StrategyName, sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(with_settings(sampled, strategy=strategy))
    for task_id in project.by_task.keys() - of_sample(project).keys():
        project.answer(task_id, "0")
    project.delete_predictions("r0001")
    assert ordering.order_open_tasks(with_settings(sampled, strategy=strategy)) == 2
    assert [image.guesses for image in sampled.store.open_images()] == [(), ()]
    assert ask_next(with_settings(sampled, strategy=strategy), project, 1) == 1


def test_without_a_model_a_validation_task_has_no_prediction(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project)
    [*tasks] = of_sample(project)
    assert [project.predictions[task_id] for task_id in tasks] == [{}, {}]
    assert all(image.guesses == () for image in sampled.store.open_images())


def test_blind_tasks_have_no_hint(sampled: Loop, project: OracleProject) -> None:
    ask_next(with_settings(sampled, blind=True), project)
    assert all("hint" not in task.data for task in project.by_task.values())


# Who is asked


def test_two_active_annotators_are_both_asked_and_a_third_if_they_differ(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project)
    answer_all(sampled, project, 1, 2, 3)
    before = of_sample(project)
    ask_next(sampled, project)
    same, different = of_sample(project).keys() - before.keys()
    for task_id, labels in ((same, ("4", "4")), (different, ("4", "5"))):
        project.answer(task_id, labels[0], annotator=1)
        assert task_id in {t.task_id for t in project.open_tasks() if t.awaits_second_opinion}
        project.answer(task_id, labels[1], annotator=2)
    look(sampled)
    assert [t.task_id for t in project.open_tasks() if t.awaits_second_opinion] == [different]
    outcomes = read_sample(sampled).outcomes
    assert (outcomes[same].label, outcomes[different].state) == ("4", "pending")
    project.answer(different, "5", annotator=3)
    look(sampled)
    assert read_sample(sampled).outcomes[different].label == "5"


def test_a_lone_annotator_is_asked_once_more_after_a_skip(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project)
    task_id, other = of_sample(project)
    project.answer(other, "3")
    project.answer(task_id, None, was_skipped=True)
    look(sampled)
    assert project.answers[task_id] == []
    assert task_id in {task.task_id for task in project.open_tasks()}
    assert [skip.annotator for skip in sampled.store.deleted_skips()] == [1]
    project.answer(task_id, None, was_skipped=True)
    look(sampled)
    assert len(project.answers[task_id]) == 1
    assert read_sample(sampled).outcomes[task_id].state == "undecided"
    assert len(sampled.store.deleted_skips()) == 1


def test_a_skip_that_was_answered_in_the_meantime_is_not_deleted(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project)
    task_id, other = of_sample(project)
    project.answer(other, "3")
    project.answer(task_id, None, was_skipped=True)
    observe.read_changes(project, sampled.store)
    answered = replace(project.answers[task_id][0], label="4", was_skipped=False)
    project.answers[task_id] = [answered]
    ask_sample_again(sampled)
    assert project.answers[task_id] == [answered]
    assert sampled.store.deleted_skips() == []


def test_an_image_that_is_asked_once_more_gets_the_order_of_the_version_in_service(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)
    [task_id, *_] = of_sample(project)
    project.answer(task_id, None, was_skipped=True)
    project.delete_predictions("r0001")
    look(sampled)
    assert project.predictions[task_id]["r0001"].label is None


def test_a_lone_annotators_tasks_are_not_opened_for_two(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project)
    answer_all(sampled, project, 1)
    ask_next(sampled, project)
    open_for_two(sampled, sample_ids(project))
    assert not project.asked_again


# With which labels versions are validated


def test_versions_are_validated_on_the_decided_images_in_the_order_of_the_sample(
    sampled: Loop, project: OracleProject, loop: Loop
) -> None:
    truth = true_labels(loop.pool)
    ask_next(sampled, project, 20)
    first, second, third, fourth = of_sample(project)
    for task_id in (fourth, first):
        project.answer(task_id, truth[project.by_task[task_id].image_id])
    project.answer(second, None, was_skipped=True)
    observe.read_changes(project, sampled.store)
    validation = with_validation(sampled).pool.validation
    ids = [project.by_task[i].image_id for i in (first, fourth)]
    assert validation.image_ids == tuple(ids)
    assert [sampled.pool.classes[label] for label in validation.labels] == [truth[i] for i in ids]
    rows = [loop.pool.image_ids.index(image_id) for image_id in ids]
    assert np.array_equal(validation.images[:], loop.pool.images[np.array(rows)])
    assert read_sample(sampled).outcomes[third].state == "pending"


def test_an_annotator_may_correct_a_validation_label(sampled: Loop, project: OracleProject) -> None:
    ask_next(sampled, project, 5)
    [task_id] = of_sample(project)
    project.answer(task_id, "1")
    observe.read_changes(project, sampled.store)
    assert with_validation(sampled).pool.validation.labels.tolist() == [1]
    project.change(task_id, "7")
    observe.read_changes(project, sampled.store)
    assert with_validation(sampled).pool.validation.labels.tolist() == [7]


def test_a_label_counts_for_the_copy_that_took_the_images_place(
    sampled: Loop, project: OracleProject
) -> None:
    ask_next(sampled, project, 5)
    [(task_id, task)] = of_sample(project).items()
    project.answer(task_id, "1")
    observe.read_changes(project, sampled.store)
    copy_id, *_ = sampled.pool.sample.image_ids[1:]

    class PoolWithCopy(Pool):
        def canonical(self, image_id: str) -> str:
            return copy_id if image_id == task.image_id else image_id

    pool = PoolWithCopy(**{f.name: getattr(sampled.pool, f.name) for f in fields(Pool)})
    with_copy = replace(sampled, pool=pool)
    assert with_validation(with_copy).pool.validation.image_ids == (copy_id,)
    assert copy_id not in choose_sample_images(with_copy, 50)


# Attached projects, whose tasks are never reopened unless OVERLAP is set


def test_images_of_the_sample_that_were_annotated_without_being_asked_count(
    attached: Loop,
) -> None:
    project = team_of(attached)
    *_, labeled, skipped = attached.pool.sample.image_ids
    project.answer(int(labeled[3:]), "7")
    project.answer(int(skipped[3:]), None, was_skipped=True)
    batches.top_up(attached)
    reading = read_sample(attached)
    assert reading.labels == {labeled: "7"}
    assert (reading.progress.labeled, reading.progress.undecided) == (1, 1)
    assert with_validation(attached).pool.validation.image_ids == (labeled,)


def test_two_annotators_who_disagree_leave_the_teams_task_closed(attached: Loop) -> None:
    project = team_of(attached)
    batches.top_up(attached)  # two validation images
    first, second = (task.task_id for task in attached.store.validation_tasks())
    project.answer(first, "7", annotator=1)
    project.answer(first, "8", annotator=2)
    project.answer(second, None, annotator=1, was_skipped=True)
    for task_id in {*project.predicted("r0000")} - {first, second}:
        project.answer(task_id, "3", annotator=1)
    batches.top_up(attached)  # would raise if it reopened a task or deleted a skip
    assert read_sample(attached).outcomes[first].state == "undecided"
    assert read_sample(attached).outcomes[second].state == "undecided"


def test_new_validation_tasks_of_a_team_are_not_opened_for_two_people_at_work(
    attached: Loop,
) -> None:
    project = team_of(attached)
    batches.top_up(attached)
    for place, task_id in enumerate(project.predicted("r0000")):
        project.answer(task_id, "7", annotator=1 + place % 2)
    assert read_sample(attached).n_active == 0  # not read yet
    assert batches.top_up(attached) == 10  # would raise if it reopened a task
    assert read_sample(attached).n_active == 2
    assert len(read_sample(attached).tasks) == 4
    assert read_sample(attached).progress.labeled == 2
