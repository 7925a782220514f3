"""Order open tasks by the version in service, and record them for the dashboard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backend.images.known_labels import true_labels
from backend.rounds import batches, observe, ordering, scoring
from backend.rounds.loop import Loop
from backend.store.files import lock
from backend.store.project_rows import OPEN_IMAGES_KEPT, OpenImage
from backend.store.registry import Promotions
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import asked, quiet, refit, seed, train, with_settings


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
