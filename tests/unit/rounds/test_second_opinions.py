"""Reopen annotated images for a second annotator."""

from __future__ import annotations

import numpy as np
import pytest

from backend.images.known_labels import true_labels
from backend.rounds import batches, scoring
from backend.rounds.loop import Loop
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import annotate_as, quiet, seed, train, with_settings


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


def test_validation_images_that_await_another_annotator_take_no_place(
    sampled: Loop, project: OracleProject
) -> None:
    loop = with_settings(sampled, overlap="2", batch_size=5)
    everything = dict.fromkeys(loop.pool.image_ids + loop.pool.sample.image_ids, "0")
    truth = everything | true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    annotate_as(project, 1, truth)
    held_out = [task for task in project.tasks() if loop.pool.is_in_sample(task.image_id)]
    for task in held_out:
        project.reopen(task.task_id, 3)
    for _ in range(4):
        batches.top_up(loop)
        annotate_as(project, 1, truth)
    waiting = [task for task in project.tasks() if task.awaits_second_opinion]
    of_pool = [task for task in waiting if not loop.pool.is_in_sample(task.image_id)]
    assert len(held_out) == 1
    assert len(of_pool) == 2 * 5
